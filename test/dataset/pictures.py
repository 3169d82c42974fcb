"""Cameras, frames and encoders for the tests of the recorder's video."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import barcode
import numpy as np
from numpy.typing import NDArray

from groot_ros.dataset.encoder import CameraEncoder
from groot_ros.embodiment.schema import Camera
from groot_ros.observation.images import Frame

HEIGHT, WIDTH, FPS = 24, 32, 30


def camera(height: int = HEIGHT, width: int = WIDTH, topic: str = "/front/image") -> Camera:
    """A camera that accepts raw images; the encoder reads of it only size and topic."""
    return Camera(
        topic=topic, type="sensor_msgs/msg/Image", width=width, height=height, rate_hz=float(FPS), max_age_s=0.1
    )


def rgb_frame(rgb: NDArray[np.uint8]) -> Frame:
    """An rgb8 frame of a picture uint8 [H, W, 3]."""
    return Frame(rgb.reshape(-1), "rgb8", rgb.shape[1] * 3)


def numbered(number: int, height: int = HEIGHT, width: int = WIDTH) -> Frame:
    """A frame that shows ``number``."""
    return rgb_frame(barcode.draw(number, height, width))


def encoder(path: Path, height: int = HEIGHT, width: int = WIDTH, fps: int = FPS, depth: int = 30) -> CameraEncoder:
    """An open encoder with libx264, which every machine has."""
    return CameraEncoder(path, height, width, fps, camera(height, width), "front", codec="libx264", depth=depth)


def record(path: Path, numbers: Iterable[int], height: int = HEIGHT, width: int = WIDTH, fps: int = FPS) -> Path:
    """A finished staged video that shows ``numbers``."""
    recorder = encoder(path, height, width, fps, depth=1000)
    for number in numbers:
        recorder.put(numbered(number, height, width))
    recorder.close(30.0)
    return path
