"""The numbers in test pictures survive what a recording does to them."""

import barcode
import cv2
import numpy as np
import pytest

from groot_ros.closed_loop.barcode import Scene


@pytest.mark.parametrize(("height", "width"), [(24, 32), (23, 33), (48, 64), (480, 640)])
def test_number_survives_jpeg(height: int, width: int) -> None:
    for number in (0, 1, 5, 4095, 43690, 65535):
        _, data = cv2.imencode(".jpg", barcode.draw(number, height, width), [cv2.IMWRITE_JPEG_QUALITY, 30])
        assert barcode.read(cv2.imdecode(data, cv2.IMREAD_COLOR)) == number


@pytest.mark.parametrize("level", [0, 128, 255])
def test_plain_picture_is_no_number(level: int) -> None:
    with pytest.raises(ValueError, match="expected a picture"):
        barcode.read(np.full((24, 32, 3), level, np.uint8))


@pytest.mark.parametrize(("height", "width"), [(24, 32), (96, 128)])
def test_number_in_a_scene_survives_jpeg(height: int, width: int) -> None:
    scene = Scene(height, width)
    for number in (0, 1, 5, 4095, 43690, 65535):
        picture = scene.draw(number)
        _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 30])
        assert barcode.read(cv2.imdecode(data, cv2.IMREAD_COLOR)) == number
        assert barcode.read(picture[:, :, 1]) == number
        assert picture.std() > 20
