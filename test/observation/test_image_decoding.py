"""Topic bytes to RGB: every encoding against a plain pixel-by-pixel reference, every refusal by name."""

from __future__ import annotations

import array
from collections.abc import Callable
from typing import Any

import cv2
import fake_messages as fake
import numpy as np
import pytest
from numpy.typing import NDArray

from groot_ros.embodiment.schema import Camera
from groot_ros.observation.compressed_size import compressed_size
from groot_ros.observation.images import decode, read_frame
from groot_ros.observation.types import Reason, Rejected

Pixels = NDArray[np.uint8]
ENCODINGS = ["rgb8", "bgr8", "rgba8", "bgra8", "mono8", "yuv422", "uyvy", "yuv422_yuy2", "yuyv"]


def camera(compressed: bool = False, **changes: Any) -> Camera:
    kind = "CompressedImage" if compressed else "Image"
    fields = {
        "topic": "/cam",
        "type": f"sensor_msgs/msg/{kind}",
        "width": fake.WIDTH,
        "height": fake.HEIGHT,
        "rate_hz": 30.0,
        "max_age_s": 0.2,
        **({} if compressed else {"encodings": ENCODINGS}),
    }
    return Camera.model_validate({**fields, **changes})


def to_rgb(message: Any, spec: Camera) -> Pixels:
    return decode(read_frame(message, "cam", spec), "cam", spec)


def refusal(message: Any, spec: Camera) -> tuple[Reason, str]:
    with pytest.raises(Rejected) as caught:
        to_rgb(message, spec)
    assert caught.value.refusal.source == "cam"
    assert caught.value.refusal.message.startswith("/cam: expected ")
    return caught.value.refusal.reason, caught.value.refusal.message


def yuv_pixel(y: int, u: int, v: int) -> list[float]:
    """ITU-R BT.601, video range; levels below black are black."""
    luma = 1.164 * max(y - 16, 0)
    rgb = (luma + 1.596 * (v - 128), luma - 0.813 * (v - 128) - 0.391 * (u - 128), luma + 2.018 * (u - 128))
    return [min(max(c, 0.0), 255.0) for c in rgb]


def naive(encoding: str, data: bytes, step: int) -> NDArray[np.float64]:
    """RGB by indexing single bytes."""
    out = np.zeros((fake.HEIGHT, fake.WIDTH, 3))
    for row in range(fake.HEIGHT):
        for column in range(fake.WIDTH):
            if encoding[0] in "yu":
                four = data[row * step + column // 2 * 4 :][:4]
                if encoding in ("yuv422", "uyvy"):
                    u, v, y = four[0], four[2], four[1 if column % 2 == 0 else 3]
                else:
                    u, v, y = four[1], four[3], four[0 if column % 2 == 0 else 2]
                out[row, column] = yuv_pixel(y, u, v)
            else:
                size = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}[encoding]
                pixel = data[row * step + column * size :][:size]
                order = {"r": (0, 1, 2), "b": (2, 1, 0), "m": (0, 0, 0)}[encoding[0]]
                out[row, column] = [pixel[i] for i in order]
    return out


@pytest.mark.parametrize("padding", [0, 1, 5])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_each_encoding_with_padded_rows(encoding: str, padding: int) -> None:
    size = {"r": 3, "b": 3, "m": 1, "y": 2, "u": 2}[encoding[0]] + ("a8" in encoding)
    step = fake.WIDTH * size + padding
    data = np.random.default_rng(7).integers(0, 256, step * fake.HEIGHT, dtype=np.uint8).tobytes()
    message = fake.image(fake.T0, fake.picture(0), encoding=encoding, step=step, data=array.array("B", data))
    rgb = to_rgb(message, camera())
    assert rgb.shape == (fake.HEIGHT, fake.WIDTH, 3) and rgb.dtype == np.uint8 and rgb.flags.c_contiguous
    tolerance = 1.0 if encoding[0] in "yu" else 0.0
    np.testing.assert_allclose(rgb.astype(float), naive(encoding, data, step), atol=tolerance)


CONTAINERS: dict[str, Callable[[bytes], Any]] = {
    "array": lambda data: array.array("B", data),
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "ndarray": lambda data: np.frombuffer(data, dtype=np.uint8),
    "list": list,
}


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "png"])
@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS.keys())
def test_data_in_any_container(container: Callable[[bytes], Any], encoding: str) -> None:
    rgb = fake.picture(1)
    if encoding == "png":
        message, spec = fake.compressed(fake.T0, rgb), camera(compressed=True)
        message.data = container(message.data.tobytes())
    else:
        pixels = rgb if encoding == "rgb8" else rgb[..., ::-1]
        message, spec = fake.image(fake.T0, rgb, encoding=encoding, data=container(pixels.tobytes())), camera()
    np.testing.assert_array_equal(to_rgb(message, spec), rgb)


def test_an_unpadded_rgb8_image_is_not_copied_and_cannot_be_written() -> None:
    message = fake.image(fake.T0, fake.picture(2))
    rgb = to_rgb(message, camera())
    assert np.shares_memory(rgb, np.frombuffer(message.data, dtype=np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        rgb[0, 0, 0] = 1


@pytest.mark.parametrize("big_endian", [0, 1])
def test_byte_order_says_nothing_about_bytes(big_endian: int) -> None:
    message = fake.image(fake.T0, fake.picture(3), is_bigendian=big_endian)
    np.testing.assert_array_equal(to_rgb(message, camera()), fake.picture(3))


@pytest.mark.parametrize("type_name", ["sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"])
def test_messages_of_rosbags_give_the_same_pixels(type_name: str) -> None:
    packed = type_name.endswith("CompressedImage")
    make = fake.compressed if packed else fake.image
    message = make(fake.T0, fake.picture(4))
    rgb = to_rgb(fake.as_rosbags(message, type_name), camera(compressed=packed))
    np.testing.assert_array_equal(rgb, fake.picture(4))


@pytest.mark.parametrize("form", ["png", "PNG", "rgb8; png compressed bgr8", "bgr8; png compressed bgr8", "rgb8;png"])
def test_compressed_formats_of_an_ordinary_file(form: str) -> None:
    message = fake.compressed(fake.T0, fake.picture(5), format=form)
    np.testing.assert_array_equal(to_rgb(message, camera(compressed=True)), fake.picture(5))


@pytest.mark.parametrize("form", ["rgb8; png compressed rgb8", "bgr8; png compressed rgb8"])
def test_channels_that_image_transport_compressed_in_rgb_order(form: str) -> None:
    """image_transport hands RGB bytes to a writer that takes them for BGR, and says so in the format."""
    message = fake.compressed(fake.T0, fake.picture(5)[..., ::-1].copy(), format=form)
    np.testing.assert_array_equal(to_rgb(message, camera(compressed=True)), fake.picture(5))


@pytest.mark.parametrize("form", ["jpeg", "jpg", "rgb8; jpeg compressed bgr8", "mono8; jpeg compressed "])
@pytest.mark.parametrize("tail", [b"", b"\0\0\0\0", b"padding of a camera"])
def test_jpeg_files(form: str, tail: bytes) -> None:
    rgb = cv2.resize(fake.picture(6), (64, 48), interpolation=cv2.INTER_LINEAR)
    message = fake.compressed(fake.T0, rgb, "jpeg", format=form)
    expected = cv2.cvtColor(cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    message.data.extend(tail)
    pixels = to_rgb(message, camera(compressed=True, width=64, height=48))
    np.testing.assert_array_equal(pixels, expected)
    assert np.abs(pixels.astype(int) - rgb).mean() < 12, "the channels are in order"


def test_exif_does_not_turn_the_picture() -> None:
    rgb = np.zeros((16, 32, 3), dtype=np.uint8)
    message = fake.compressed(fake.T0, rgb, "jpeg")
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # orientation 6: a quarter turn
    data = message.data.tobytes()
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    message.data = data[:2] + segment + data[2:]
    assert to_rgb(message, camera(compressed=True, width=32, height=16)).shape == (16, 32, 3)


RAW = {
    "16 bit": ({"encoding": "16UC1"}, Reason.WRONG_ENCODING, "found '16UC1', it has no fixed meaning as 8-bit RGB"),
    "float": ({"encoding": "32FC1"}, Reason.WRONG_ENCODING, "found '32FC1'"),
    "mono16": ({"encoding": "mono16"}, Reason.WRONG_ENCODING, "found 'mono16'"),
    "bayer": ({"encoding": "bayer_rggb8"}, Reason.WRONG_ENCODING, "set the driver to one of rgb8, bgr8"),
    "no channel order": ({"encoding": "8UC3"}, Reason.WRONG_ENCODING, "found '8UC3'"),
    "empty": ({"encoding": ""}, Reason.WRONG_ENCODING, "found ''"),
    "width": ({"width": 8, "step": 24}, Reason.WRONG_SIZE, "6x4 px, found 8x4"),
    "height": ({"height": 3}, Reason.WRONG_SIZE, "6x4 px, found 6x3"),
    "short step": ({"step": 17}, Reason.BAD_LAYOUT, "found step 17 and 72 bytes"),
    "too few bytes": ({"data": bytes(71)}, Reason.BAD_LAYOUT, "found step 18 and 71 bytes"),
    "too many bytes": ({"data": bytes(73)}, Reason.BAD_LAYOUT, "found step 18 and 73 bytes"),
    "no bytes": ({"data": b""}, Reason.BAD_LAYOUT, "found step 18 and 0 bytes"),
    "no row": ({"step": 0, "data": b""}, Reason.BAD_LAYOUT, "found step 0 and 0 bytes"),
    "numbers that are no bytes": ({"data": np.zeros(72)}, Reason.BAD_LAYOUT, "found ndarray (items of 8 bytes)"),
    "numbers above 255": ({"data": [256] * 72}, Reason.BAD_LAYOUT, "expected data of bytes, found list"),
    "text": ({"data": "x" * 72}, Reason.BAD_LAYOUT, "expected data of bytes, found str"),
}


@pytest.mark.parametrize(("changes", "reason", "says"), RAW.values(), ids=RAW.keys())
def test_raw_images_that_are_refused(changes: dict[str, Any], reason: Reason, says: str) -> None:
    found, message = refusal(fake.image(fake.T0, fake.picture(0), **changes), camera())
    assert found is reason
    assert says in message


def test_an_encoding_that_the_yaml_does_not_list() -> None:
    found, message = refusal(fake.image(fake.T0, fake.picture(0), encoding="bgr8"), camera(encodings=["rgb8", "mono8"]))
    assert found is Reason.WRONG_ENCODING
    assert "expected encoding rgb8, mono8, found 'bgr8', add bgr8 to cameras.cam.encodings" in message


def test_an_odd_width_of_pairs_of_pixels() -> None:
    message = fake.image(fake.T0, fake.picture(0, width=5), encoding="yuyv", step=10, data=bytes(40))
    found, text = refusal(message, camera(width=5))
    assert found is Reason.BAD_LAYOUT and "an even width for yuyv, found 5" in text


def test_a_message_of_another_type() -> None:
    found, text = refusal(fake.compressed(fake.T0, fake.picture(0)), camera())
    assert (
        found is Reason.MISSING_FIELD
        and "expected sensor_msgs/msg/Image, found a message without field 'width'" in text
    )
    found, text = refusal(fake.image(fake.T0, fake.picture(0)), camera(compressed=True))
    assert found is Reason.MISSING_FIELD and "without field 'format'" in text


PNG = fake.compressed(fake.T0, fake.picture(0)).data.tobytes()
JPEG = fake.compressed(fake.T0, fake.picture(0), "jpeg").data.tobytes()
PNG16 = cv2.imencode(".png", np.zeros((fake.HEIGHT, fake.WIDTH, 3), np.uint16))[1].tobytes()
COMPRESSED = {
    "nothing": ({"data": b""}, Reason.UNDECODABLE, "found 0 bytes beginning (none)"),
    "garbage": ({"data": b"\x01" * 99}, Reason.UNDECODABLE, "found 99 bytes beginning 01 01"),
    "half a png": ({"data": PNG[: len(PNG) // 2]}, Reason.UNDECODABLE, "a whole PNG file, found"),
    "half a jpeg": ({"data": JPEG[:-20]}, Reason.UNDECODABLE, f"{len(JPEG) - 20} bytes without the end of the file"),
    "broken png": ({"data": PNG[:40] + b"\0" * 9 + PNG[49:]}, Reason.UNDECODABLE, "bytes that do not decode"),
    "video": ({"format": "h264", "data": b"\0\0\0\x01" * 9}, Reason.WRONG_ENCODING, "jpeg or png, found 'h264'"),
    "depth": ({"format": "16UC1; compressedDepth png"}, Reason.WRONG_ENCODING, "8-bit jpeg or png"),
    "16 bit": ({"format": "mono16; png compressed mono16"}, Reason.WRONG_ENCODING, "found format 'mono16; png"),
    "16 bit file": ({"data": PNG16}, Reason.WRONG_ENCODING, "8 bits per channel, found 16"),
    "size": ({"data": fake.compressed(0, fake.picture(0, width=8)).data}, Reason.WRONG_SIZE, "6x4 px, found 8x4"),
}


@pytest.mark.parametrize(("changes", "reason", "says"), COMPRESSED.values(), ids=COMPRESSED.keys())
def test_compressed_images_that_are_refused(changes: dict[str, Any], reason: Reason, says: str) -> None:
    found, message = refusal(fake.compressed(fake.T0, fake.picture(0), **changes), camera(compressed=True))
    assert found is reason
    assert says in message


def test_a_compression_that_the_yaml_does_not_list() -> None:
    found, text = refusal(fake.compressed(fake.T0, fake.picture(0)), camera(compressed=True, encodings=["jpeg"]))
    assert found is Reason.WRONG_ENCODING and "expected jpeg, found png" in text


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "mono8", "yuv422", "yuv422_yuy2"])
def test_the_same_pixels_as_cv_bridge(encoding: str) -> None:
    cv_bridge = pytest.importorskip("cv_bridge")
    messages = pytest.importorskip("sensor_msgs.msg")
    size = {"r": 3, "b": 3, "m": 1, "y": 2}[encoding[0]] + ("a8" in encoding)
    message = messages.Image(width=fake.WIDTH, height=fake.HEIGHT, step=fake.WIDTH * size + 3, encoding=encoding)
    message.data = array.array("B", np.random.default_rng(8).bytes(message.step * fake.HEIGHT))
    expected = cv_bridge.CvBridge().imgmsg_to_cv2(message, desired_encoding="rgb8")
    np.testing.assert_array_equal(to_rgb(message, camera()), expected)


@pytest.mark.parametrize("kind", ["jpeg", "png"])
@pytest.mark.parametrize(("width", "height"), [(6, 4), (300, 17), (1, 1)])
def test_the_size_of_a_file_is_in_its_header(kind: str, width: int, height: int) -> None:
    data = np.frombuffer(fake.compressed(0, fake.picture(0, width, height), kind).data, dtype=np.uint8)
    assert compressed_size(data, kind) == (width, height)
    for cut in range(0, min(len(data), 200), 7):  # never an exception, never another size
        assert compressed_size(data[:cut], kind) in (None, (width, height))


def test_bytes_that_are_no_file_have_no_size() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        data = random.integers(0, 256, 40, dtype=np.uint8)
        data[2] = 0
        assert compressed_size(data, "jpeg") is None
