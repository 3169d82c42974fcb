"""Any picture of a video for the price of decoding it: where each one lies in the file is looked up once.

To open a video file takes three times as long as to decode a picture of 224x224 px (0.9 and 0.3 ms on a core of an AMD
EPYC), and samples come from hundreds of files in turn. So a file is opened once, when the dataset is looked through;
from then on a worker reads the bytes of a picture, and of the key frame that it needs, and hands them to a decoder.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.video import decode_frames
from groot_ros.dataset.yuv import to_rgb

Pictures = NDArray[np.uint8]

OPEN_FILES = 64  # per reader; a file is a descriptor, nothing more
OPEN_DECODERS = 8  # per reader; videos of one encoder and size share one
_MEND = "restore it from a copy, or take the episode out with `groot-ros dataset delete-episodes`"


@dataclass(frozen=True)
class Codec:
    """What a decoder has to be told: FFmpeg's name of it, size (px) and parameter sets."""

    name: str
    width: int
    height: int
    extradata: bytes


@dataclass(frozen=True)
class VideoIndex:
    """Where the pictures of a video file are.

    Attributes:
        codec: of all pictures.
        fps: pictures per second, as the file says.
        frames: pictures.
        positions, sizes: bytes of each picture in the file, int64 [frames] and int32 [frames]; empty where pictures
            are stored in another order than they are shown, or the container does not say: such a file is opened
            whenever it is read.
        keys: the key frame that decoding a picture begins with, int32 [frames].
    """

    path: Path
    codec: Codec
    fps: float
    frames: int
    positions: NDArray[np.int64] = field(repr=False)
    sizes: NDArray[np.int32] = field(repr=False)
    keys: NDArray[np.int32] = field(repr=False)

    @property
    def is_direct(self) -> bool:
        """Pictures can be read without opening the file as a video."""
        return len(self.positions) > 0


def read_index(path: Path) -> VideoIndex:
    """Look a video file up, and check that all of it is there.

    Raises:
        DatasetError: no video, no picture, or the file is shorter than it says.
    """
    if not path.is_file():
        raise DatasetError(f"{path}: expected a video, found no such file: {_MEND}")
    try:
        with av.open(str(path)) as container:
            return _indexed(path, container)
    except (av.FFmpegError, OSError) as error:
        said = getattr(error, "strerror", None) or error
        raise DatasetError(f"{path}: expected a video file that can be read, found {said}: {_MEND}") from error


def _indexed(path: Path, container: Any) -> VideoIndex:
    if not container.streams.video or container.streams.video[0].codec_context is None:
        raise DatasetError(f"{path}: expected a video of a codec that is known here, found none: {_MEND}")
    stream = container.streams.video[0]
    context = stream.codec_context
    codec = Codec(context.name, stream.width, stream.height, bytes(context.extradata or b""))
    fps = float(stream.average_rate or 0)
    entries = list(getattr(stream, "index_entries", ()))
    if stream.frames and len(entries) == stream.frames and not context.has_b_frames:
        packets = [(entry.pos, entry.size, entry.is_keyframe) for entry in entries]
    else:
        packets = [(packet.pos, packet.size, packet.is_keyframe) for packet in container.demux(stream) if packet.size]
        if packets and "mp4" not in container.format.name:
            packets = [(None, size, key) for _, size, key in packets]
    if not packets:
        raise DatasetError(f"{path}: expected pictures, found none: {_MEND}")
    if any(position is None for position, _, _ in packets) or context.has_b_frames:
        nothing = np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.int32)
        return VideoIndex(path, codec, fps, len(packets), *nothing)
    positions = np.array([packet[0] for packet in packets], np.int64)
    sizes = np.array([packet[1] for packet in packets], np.int32)
    numbers = np.arange(len(packets), dtype=np.int32)
    keys = np.maximum.accumulate(np.where([packet[2] for packet in packets], numbers, 0)).astype(np.int32)
    end, found = int((positions + sizes).max()), path.stat().st_size
    if end > found:
        raise DatasetError(f"{path}: expected {end} bytes, found {found}, the file was cut off: {_MEND}")
    return VideoIndex(path, codec, fps, len(packets), positions, sizes, keys)


class FrameReader:
    """Reads pictures of any number of videos; for one thread of one process.

    Open files and decoders are few: the ones unused for longest are closed.
    """

    def __init__(self) -> None:
        self._files: OrderedDict[Path, int] = OrderedDict()
        self._decoders: OrderedDict[Codec, _Decoder] = OrderedDict()

    def read(self, index: VideoIndex, frames: Sequence[int]) -> Pictures:
        """Pictures as uint8 [n, H, W, 3] RGB, in the order asked for; ascending numbers are read fastest.

        Raises:
            DatasetError: there is no such picture, or it cannot be decoded; names file and picture.
        """
        wrong = [number for number in frames if not 0 <= number < index.frames]
        if wrong:
            raise DatasetError(f"{index.path}: expected a picture {wrong[0]}, the file has {index.frames}: {_MEND}")
        shape = (index.codec.height, index.codec.width, 3)
        pictures = np.empty((len(frames), *shape), np.uint8)
        direct = index.is_direct
        found = self._direct(index, frames) if direct else decode_frames(index.path, frames)
        for place, picture in enumerate(found):
            if picture.shape != shape:
                raise DatasetError(
                    f"{index.path}: picture {frames[place]}: expected {shape[1]}x{shape[0]} px, found "
                    f"{picture.shape[1]}x{picture.shape[0]}: {_MEND}"
                )
            pictures[place] = picture
        return pictures

    @classmethod
    def sample(cls, index: VideoIndex) -> None:
        """Decode the first and the last picture. Raises: DatasetError."""
        reader = cls()
        try:
            reader.read(index, sorted({0, index.frames - 1}))
        finally:
            reader.close()

    def close(self) -> None:
        """Close all files."""
        while self._files:
            os.close(self._files.popitem()[1])
        self._decoders.clear()

    def _direct(self, index: VideoIndex, frames: Sequence[int]) -> Any:
        decoder = self._decoders.pop(index.codec, None) or _Decoder(index.codec)
        self._decoders[index.codec] = decoder
        if len(self._decoders) > OPEN_DECODERS:
            self._decoders.popitem(last=False)
        file = self._file(index.path)
        for frame in frames:
            try:
                yield decoder.picture(index, file, frame)
            except (av.FFmpegError, OSError) as error:
                decoder.reset()
                said = getattr(error, "strerror", None) or error
                raise DatasetError(
                    f"{index.path}: picture {frame}: expected one that decodes, found {said}: {_MEND}"
                ) from error

    def _file(self, path: Path) -> int:
        descriptor = self._files.pop(path, None)
        if descriptor is None:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise DatasetError(f"{path}: expected a video, found {error.strerror}: {_MEND}") from error
        self._files[path] = descriptor
        if len(self._files) > OPEN_FILES:
            os.close(self._files.popitem(last=False)[1])
        return descriptor


class _Decoder:
    """A decoder for all videos with one header; remembers where it is, so that the next picture needs no key frame."""

    def __init__(self, codec: Codec) -> None:
        self._context = av.CodecContext.create(codec.name, "r")
        self._context.extradata = codec.extradata or None
        self._context.width, self._context.height = codec.width, codec.height
        self._context.thread_count = 1  # more threads hold pictures back, and workers are processes already
        self._context.options = {"err_detect": "explode"}  # or H.264 fills damage with what it has
        self._reformatter = VideoReformatter()
        self._path: Path | None = None
        self._next = 0
        self._shown: tuple[int, Pictures] | None = None

    def reset(self) -> None:
        """Forget what was decoded."""
        self._context.flush_buffers()
        self._path, self._shown = None, None

    def picture(self, index: VideoIndex, file: int, frame: int) -> Pictures:
        """Picture ``frame`` as uint8 [H, W, 3]. Raises: av.FFmpegError, OSError, DatasetError."""
        if self._path == index.path and self._shown is not None and self._shown[0] == frame:
            return self._shown[1]
        key = int(index.keys[frame])
        if self._path != index.path or not key <= self._next <= frame:
            self.reset()
            self._path, self._next = index.path, key
        found: Any = None
        while found is None and self._next <= frame:
            size, position = int(index.sizes[self._next]), int(index.positions[self._next])
            data = os.pread(file, size, position)
            if len(data) != size:
                raise DatasetError(f"{index.path}: expected {size} bytes at {position}, found {len(data)}: {_MEND}")
            packet = av.Packet(data)
            packet.pts = packet.dts = self._next
            packet.is_keyframe = bool(index.keys[self._next] == self._next)
            self._next += 1
            found = _chosen(self._context.decode(packet), frame)
        drained = found is None
        if drained:  # a decoder that holds pictures back gives the last ones at the end only
            found = _chosen(self._context.decode(None), frame)
        if found is None:
            raise DatasetError(f"{index.path}: picture {frame}: expected one that decodes, found none: {_MEND}")
        rgb = to_rgb(self._reformatter, found, found.width, found.height, Interpolation.BICUBIC)
        if drained:
            self.reset()
        else:
            self._shown = frame, rgb
        return rgb


def _chosen(pictures: Sequence[Any], frame: int) -> Any:
    return next((picture for picture in pictures if picture.pts == frame), None)
