"""From a camera's bytes to the picture that H.264 stores: yuv420p, BT.601, limited range.

A JPEG holds YUV already: it is taken as it is, without a way through RGB. Everything else means what
``observation.images.decode`` says that it means.
"""

from __future__ import annotations

from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from groot_ros.dataset.image_statistics import STRIDE
from groot_ros.embodiment.schema import Camera
from groot_ros.observation.images import Frame, check_whole, decode

MATRIX = Colorspace.ITU601  # SMPTE 170M, BT.470BG and JPEG share it
PIXELS = "yuv420p"

# Encoding of a raw image -> FFmpeg's pixel format, bytes per pixel, range of the values. Not bgr8: FFmpeg's short way
# from bgr24 is two levels too dark (measured), OpenCV's to rgb24 costs a tenth of a millisecond.
_RAW: dict[str, tuple[str, int, ColorRange]] = {
    "rgb8": ("rgb24", 3, ColorRange.JPEG),
    "rgba8": ("rgba", 4, ColorRange.JPEG),
    "bgra8": ("bgra", 4, ColorRange.JPEG),
    "mono8": ("gray", 1, ColorRange.JPEG),
    # OpenCV, and so the policy, takes these for limited range.
    "yuv422": ("uyvy422", 2, ColorRange.MPEG),
    "uyvy": ("uyvy422", 2, ColorRange.MPEG),
    "yuv422_yuy2": ("yuyv422", 2, ColorRange.MPEG),
    "yuyv": ("yuyv422", 2, ColorRange.MPEG),
}
# What the JPEG decoder returns where OpenCV reads the same colours. The rest (RGB inside, CMYK, a comment that asks
# for limited range) goes through OpenCV.
_JPEG = ("yuvj420p", "yuvj422p", "yuvj440p", "yuvj444p", "gray")
# swscale's flag "full chroma interpolation": without it all values come out one level too dark (measured).
_UNBIASED_POINT = int(Interpolation.POINT) | 0x2000  # older PyAV has no name for the flag
# A thread pool for each conversion of a small picture costs more than it gains; older PyAV has no such option.
_ONE_THREAD = {"threads": 1} if "threads" in (VideoReformatter.reformat.__doc__ or "") else {}


class PictureMaker:
    """Converts the frames of one camera; for one thread.

    Args:
        name: the camera's name in the embodiment.
    """

    def __init__(self, name: str, camera: Camera) -> None:
        self._name, self._camera = name, camera
        self._sources: dict[str, av.VideoFrame] = {}
        self._to_yuv, self._to_sample = VideoReformatter(), VideoReformatter()
        self._jpeg = _jpeg_decoder()

    def picture(self, frame: Frame) -> av.VideoFrame:
        """``frame`` as yuv420p of the camera's size, BT.601, limited range.

        Raises: Rejected (UNDECODABLE, WRONG_ENCODING, WRONG_SIZE) naming the topic.
        """
        source, values = self._source(frame)
        # Averaging 2x2 blocks is what storing colour at half the resolution means, and measured nearest to the source.
        picture = self._to_yuv.reformat(
            source,
            format=PIXELS,
            src_colorspace=MATRIX,
            dst_colorspace=MATRIX,
            src_color_range=values,
            dst_color_range=ColorRange.MPEG,
            interpolation=Interpolation.AREA,
            **_ONE_THREAD,
        )
        # A decoded JPEG says that it is a key frame, and the encoder would obey.
        picture.pict_type = 0
        return picture

    def sample(self, picture: av.VideoFrame) -> NDArray[np.uint8]:
        """``sample`` of what ``picture`` returned."""
        return sample(self._to_sample, picture)

    def _source(self, frame: Frame) -> tuple[av.VideoFrame, ColorRange]:
        if frame.encoding == "jpeg" and not frame.swapped:
            picture = self._decoded_jpeg(frame)
            if picture is not None:
                return picture, ColorRange.JPEG
        if frame.encoding not in _RAW:
            rgb = decode(frame, self._name, self._camera)
            return self._filled("rgb24", rgb.reshape(rgb.shape[0], -1)), ColorRange.JPEG
        pixels, channels, values = _RAW[frame.encoding]
        rows = frame.data.reshape(self._camera.height, frame.step)[:, : self._camera.width * channels]
        return self._filled(pixels, rows), values

    def _filled(self, pixels: str, rows: NDArray[np.uint8]) -> av.VideoFrame:
        """A picture with the bytes ``rows`` uint8 [height, bytes per row]; the next call overwrites it."""
        source = self._sources.get(pixels)
        if source is None:
            source = self._sources[pixels] = av.VideoFrame(self._camera.width, self._camera.height, pixels)
        plane = source.planes[0]
        target = np.frombuffer(plane, np.uint8)[: plane.line_size * plane.height].reshape(plane.height, plane.line_size)
        target[:, : rows.shape[1]] = rows
        return source

    def _decoded_jpeg(self, frame: Frame) -> av.VideoFrame | None:
        """The YUV in a JPEG; None where OpenCV has to look at it, which also says what is wrong with a bad one."""
        check_whole(frame, self._name, self._camera)
        try:
            pictures = self._jpeg.decode(av.Packet(frame.data.tobytes()))
        except av.FFmpegError:
            self._jpeg = _jpeg_decoder()
            return None
        if len(pictures) != 1 or pictures[0].format.name not in _JPEG:
            return None
        size = pictures[0].width, pictures[0].height
        return pictures[0] if size == (self._camera.width, self._camera.height) else None


def sample(reformatter: VideoReformatter, picture: av.VideoFrame) -> NDArray[np.uint8]:
    """Every fourth pixel of every fourth row of a picture, uint8 [H // 4, W // 4, 3] RGB (at least one pixel)."""
    width, height = (max(1, size // STRIDE) for size in (picture.width, picture.height))
    return to_rgb(reformatter, picture, width, height, _UNBIASED_POINT)


def to_rgb(
    reformatter: VideoReformatter, picture: av.VideoFrame, width: int, height: int, interpolation: int
) -> NDArray[np.uint8]:
    """Pixels of a decoded picture, uint8 [height, width, 3], RGB; a picture without tags counts as BT.601, limited."""
    full = picture.format.name.startswith("yuvj") or picture.color_range == ColorRange.JPEG
    small = reformatter.reformat(
        picture,
        width,
        height,
        "rgb24",
        src_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        interpolation=interpolation,
        **_ONE_THREAD,
    )
    rgb: NDArray[np.uint8] = np.asarray(small.to_ndarray(), np.uint8)
    return rgb


def _jpeg_decoder() -> Any:
    decoder = av.CodecContext.create("mjpeg", "r")
    decoder.thread_count = 1  # more threads hold pictures back
    return decoder
