"""ROS messages of what the simulated arm sees and knows."""

from __future__ import annotations

import array
from typing import Any

import cv2
import numpy as np
from geometry_msgs.msg import Point, Pose, Quaternion
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image

from groot_ros.embodiment.schema import Camera

JPEG_QUALITY = 90


def image_class(camera: Camera) -> type[Any]:
    """The message that the YAML says the driver sends."""
    return CompressedImage if camera.type.endswith("CompressedImage") else Image


def image_message(camera: Camera, rgb: NDArray[np.uint8]) -> Image | CompressedImage:
    """RGB pixels as the YAML says that the driver sends them: JPEG, or rgb8 or bgr8 by the first encoding listed."""
    if camera.type.endswith("CompressedImage"):
        done, jpeg = cv2.imencode(".jpg", rgb[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if not done:
            raise RuntimeError(f"{camera.topic}: OpenCV could not encode a JPEG")
        return CompressedImage(format="jpeg", data=_bytes(jpeg))
    encoding = "bgr8" if camera.encodings[0] == "bgr8" else "rgb8"
    if encoding == "bgr8":
        rgb = np.ascontiguousarray(rgb[:, :, ::-1])
    height, width, _ = rgb.shape
    return Image(height=height, width=width, encoding=encoding, step=3 * width, data=_bytes(rgb))


def _bytes(pixels: NDArray[np.uint8]) -> array.array[int]:
    """What rclpy takes without looking at every byte: an ndarray or a list here costs 50 ms and more."""
    data = array.array("B")
    data.frombytes(memoryview(pixels.data).cast("B"))
    return data


def pose_message(pose: NDArray[np.float64]) -> Pose:
    """Of position (m) and quaternion w, x, y, z [7]."""
    x, y, z, qw, qx, qy, qz = pose.tolist()
    return Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))
