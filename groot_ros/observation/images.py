"""The one path from an image message to RGB pixels.

``read_frame`` is cheap and runs when the message arrives: it checks the header fields and keeps the bytes as they came.
``decode`` runs when an inference needs the pixels. Messages are duck typed: rclpy's and rosbags' have the same fields.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from groot_ros.embodiment.schema import Camera
from groot_ros.embodiment.vocabulary import COMPRESSIONS, IMAGE_ENCODINGS
from groot_ros.observation.types import Reason, Rejected

# Encoding -> bytes per pixel, and OpenCV's conversion to RGB (None: the bytes are RGB already).
_LAYOUTS: dict[str, tuple[int, int | None]] = {
    "rgb8": (3, None),
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, cv2.COLOR_GRAY2RGB),
    "yuv422": (2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": (2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (2, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": (2, cv2.COLOR_YUV2RGB_YUY2),
}
_NOT_8_BIT = re.compile(r"compressedDepth|(rgb|bgr|rgba|bgra|mono)16|(16|32|64)[USF]C", re.IGNORECASE)
_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND"
_PNG_BIT_DEPTH = 24  # offset in the file, in the header chunk


@dataclass(frozen=True)
class Frame:
    """An image as it arrived.

    Attributes:
        data: uint8 [N], the message's bytes; a view where the message allows it.
        encoding: one of ``IMAGE_ENCODINGS``, or of ``COMPRESSIONS``.
        step: bytes per row of a raw image; 0 for a compressed one.
        swapped: compressed from channels in RGB order by a writer that takes them for BGR.
    """

    data: NDArray[np.uint8]
    encoding: str
    step: int = 0
    swapped: bool = False


def read_frame(message: Any, name: str, camera: Camera) -> Frame:
    """Check an Image or CompressedImage message of camera ``name`` and keep its bytes undecoded.

    Raises: Rejected (MISSING_FIELD, WRONG_ENCODING, WRONG_SIZE, BAD_LAYOUT, UNDECODABLE) naming the topic.
    """
    try:
        data = as_bytes(message.data)
        if camera.type.endswith("CompressedImage"):
            return _read_compressed(data, str(message.format), name, camera)
        shape = int(message.width), int(message.height), int(message.step)
        return _read_raw(data, str(message.encoding), *shape, name, camera)
    except AttributeError as error:
        text = f"{camera.topic}: expected {camera.type}, found a message without field {error.name!r}"
        raise Rejected(Reason.MISSING_FIELD, name, f"{text}, correct cameras.{name}.type") from error
    except (TypeError, ValueError, BufferError) as error:
        text = f"{camera.topic}: expected data of bytes, found {type(message.data).__name__} ({error})"
        raise Rejected(Reason.BAD_LAYOUT, name, f"{text}, correct the publisher") from error


def decode(frame: Frame, name: str, camera: Camera) -> NDArray[np.uint8]:
    """Pixels of ``frame`` as uint8 [height, width, 3], RGB, contiguous, read-only; unpadded rgb8 is not copied.

    Raises: Rejected (UNDECODABLE, WRONG_ENCODING, WRONG_SIZE) naming the topic.
    """
    rgb: NDArray[np.uint8]
    if frame.encoding in COMPRESSIONS:
        rgb = _decode_compressed(frame, name, camera)
    else:
        channels, code = _LAYOUTS[frame.encoding]
        rows = frame.data.reshape(camera.height, frame.step)[:, : camera.width * channels]
        pixels = rows.reshape(camera.height, camera.width, channels)
        rgb = np.ascontiguousarray(pixels) if code is None else as_uint8(cv2.cvtColor(pixels, code))
    view = rgb[...]
    view.flags.writeable = False
    return view


def as_bytes(data: Any) -> NDArray[np.uint8]:
    """A message's ``data`` (array.array, bytes, memoryview, ndarray, list) as uint8 [N]; copies only a list.

    Raises: TypeError, ValueError, BufferError when it is not a sequence of bytes.
    """
    if isinstance(data, (list, tuple)):
        return np.frombuffer(bytes(data), dtype=np.uint8)
    view = memoryview(data)
    if view.itemsize != 1:
        raise TypeError(f"items of {view.itemsize} bytes")
    return np.frombuffer(view, dtype=np.uint8)


def as_uint8(array: Any) -> NDArray[np.uint8]:
    """What OpenCV returns, with the type that it has for 8-bit images."""
    return np.asarray(array, dtype=np.uint8)


def _read_raw(
    data: NDArray[np.uint8], encoding: str, width: int, height: int, step: int, name: str, camera: Camera
) -> Frame:
    topic, entry = camera.topic, f"cameras.{name}"
    if encoding not in camera.encodings:
        allowed = ", ".join(camera.encodings)
        if encoding in IMAGE_ENCODINGS:
            do = f"add {encoding} to {entry}.encodings or set the driver"
        else:
            do = f"it has no fixed meaning as 8-bit RGB: set the driver to one of {', '.join(IMAGE_ENCODINGS)}"
        text = f"{topic}: expected encoding {allowed}, found {encoding!r}, {do}"
        raise Rejected(Reason.WRONG_ENCODING, name, text)
    check_size(width, height, name, camera)
    channels, _ = _LAYOUTS[encoding]
    if channels == 2 and width % 2:
        text = f"{topic}: expected an even width for {encoding}, found {width}, correct the driver"
        raise Rejected(Reason.BAD_LAYOUT, name, text)
    if step < width * channels or data.size != step * height:
        text = (
            f"{topic}: expected step >= {width * channels} and step * height bytes of {encoding} {width}x{height}, "
            f"found step {step} and {data.size} bytes, correct the driver"
        )
        raise Rejected(Reason.BAD_LAYOUT, name, text)
    return Frame(data, encoding, step)


def _read_compressed(data: NDArray[np.uint8], form: str, name: str, camera: Camera) -> Frame:
    """``form`` is "jpeg", "png", or image_transport's "<pixels>; jpeg compressed <channels>"."""
    topic = camera.topic
    pixels, _, rest = form.lower().partition(";")
    named = rest if rest else pixels
    if _NOT_8_BIT.search(form):
        text = f"{topic}: expected 8-bit {' or '.join(camera.encodings)}, found format {form!r}, choose a colour topic"
        raise Rejected(Reason.WRONG_ENCODING, name, text)
    start = data[: len(_PNG_START)].tobytes()
    kind = "png" if start == _PNG_START else "jpeg" if start.startswith(_JPEG_START) else None
    if kind is None:
        if any(word in named for word in ("jpeg", "jpg", "png")):
            text = (
                f"{topic}: expected a JPEG or PNG file as format {form!r} says, "
                f"found {data.size} bytes beginning {start.hex(' ') or '(none)'}, correct the publisher"
            )
            raise Rejected(Reason.UNDECODABLE, name, text)
        text = (
            f"{topic}: expected format {' or '.join(camera.encodings)}, found {form!r}, "
            "set the driver or republish the topic as JPEG"
        )
        raise Rejected(Reason.WRONG_ENCODING, name, text)
    if kind not in camera.encodings:
        text = f"{topic}: expected {' or '.join(camera.encodings)}, found {kind}, add it to cameras.{name}.encodings"
        raise Rejected(Reason.WRONG_ENCODING, name, text)
    # image_transport names the channel order that it compressed; anything else is an ordinary file.
    return Frame(data, kind, swapped="compressed rgb" in rest)


def check_whole(frame: Frame, name: str, camera: Camera) -> None:
    """Refuse a compressed frame without the end of its file, which would decode to a picture with a grey rest.

    Raises: Rejected (UNDECODABLE) naming the topic.
    """
    data = frame.data.tobytes()
    if frame.encoding == "png":
        whole = _PNG_END in data[-12:]
    else:  # the end marker has to come after the last scan; some cameras pad behind it
        whole = data.rfind(_JPEG_END) > data.rfind(_JPEG_SCAN)
    if not whole:
        raise _undecodable(frame, "without the end of the file", name, camera)


def _undecodable(frame: Frame, what: str, name: str, camera: Camera) -> Rejected:
    text = (
        f"{camera.topic}: expected a whole {frame.encoding.upper()} file, found {frame.data.size} bytes {what}, "
        "correct the publisher"
    )
    return Rejected(Reason.UNDECODABLE, name, text)


def _decode_compressed(frame: Frame, name: str, camera: Camera) -> NDArray[np.uint8]:
    topic, data = camera.topic, frame.data
    if frame.encoding == "png" and data.size > _PNG_BIT_DEPTH and data[_PNG_BIT_DEPTH] > 8:
        text = f"{topic}: expected 8 bits per channel, found {data[_PNG_BIT_DEPTH]} in the PNG, choose a colour topic"
        raise Rejected(Reason.WRONG_ENCODING, name, text)
    check_whole(frame, name, camera)
    image = _imdecode(data)
    if image is None:
        raise _undecodable(frame, "that do not decode", name, camera)
    height, width = image.shape[:2]
    check_size(width, height, name, camera)
    # imdecode returns BGR. Of a file with swapped channels that is RGB already.
    return as_uint8(image if frame.swapped else cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def _imdecode(data: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """BGR pixels as stored (no rotation by EXIF), or None when OpenCV cannot read the file."""
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None
    return None if image is None else as_uint8(image)


def check_size(width: int, height: int, name: str, camera: Camera) -> None:
    """Refuse a picture of another size than the YAML's. Raises: Rejected (WRONG_SIZE) naming the topic."""
    if (width, height) != (camera.width, camera.height):
        text = (
            f"{camera.topic}: expected {camera.width}x{camera.height} px, found {width}x{height}, "
            f"set the driver or cameras.{name}.width and height"
        )
        raise Rejected(Reason.WRONG_SIZE, name, text)
