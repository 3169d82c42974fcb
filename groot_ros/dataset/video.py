"""Video files of a dataset: from staged Matroska to MP4 without encoding again, facts, pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.image_statistics import ImageStatistics
from groot_ros.dataset.yuv import sample, to_rgb


@dataclass(frozen=True)
class VideoFacts:
    """What the packets of a video file say, without decoding one.

    Attributes:
        codec: FFmpeg's name of the decoder, such as "h264".
        fps: average rate.
        frames: packets with a picture.
        exact: picture k is at k / fps exactly.
        key_distance: most pictures from one key frame to the next.
        header: digest of the codec's parameter sets; only videos that share it can be one file.
    """

    codec: str
    pixels: str
    width: int
    height: int
    fps: Fraction
    frames: int
    exact: bool
    key_distance: int
    header: str


def remux(sources: Sequence[Path], target: Path, fps: int, limit: int | None = None) -> int:
    """Write the pictures of ``sources``, one after the other, to the MP4 ``target``, not encoded again.

    Picture k is at k / fps exactly, whatever the sources say, and the index stands at the beginning of the file.

    Args:
        limit: at most so many pictures.

    Returns: pictures written.

    Raises:
        DatasetError: a file cannot be read or written, the sources differ in codec parameters, hold pictures out of
            order, or there is no picture. ``target`` is removed then.
    """
    try:
        with _opened(target, "w", format="mp4", options={"movflags": "+faststart"}) as output:
            written = _copy(sources, output, target, fps, limit)
        if not written:
            raise DatasetError(f"{target}: expected at least one picture in {_named(sources)}, found none")
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return written


def count_frames(path: Path) -> int:
    """Pictures in a video file, by its packets; of a file that was cut off, those that are whole.

    Raises: DatasetError when it cannot be read, which is so for a recording that was cut off before its second picture.
    """
    with _opened(path) as container:
        return sum(1 for _ in _packets(container, path))


def video_facts(path: Path) -> VideoFacts:
    """Facts of a video file, by its packets.

    Raises: DatasetError when it cannot be read.
    """
    with _opened(path) as container:
        stream = _stream(container, path)
        fps = Fraction(stream.average_rate or 0)
        exact, frames, last_key, distance = fps > 0, 0, 0, 0
        for packet in _packets(container, path):
            exact = exact and packet.pts is not None and packet.pts * stream.time_base * fps == frames
            if packet.is_keyframe:
                distance, last_key = max(distance, frames - last_key), frames
            frames += 1
        context = stream.codec_context
        return VideoFacts(
            codec=context.name,
            pixels=str(context.pix_fmt),
            width=stream.width,
            height=stream.height,
            fps=fps,
            frames=frames,
            exact=exact,
            key_distance=max(distance, frames - last_key),
            header=_header(stream),
        )


def decode_frames(path: Path, indices: Iterable[int] | None = None) -> Iterator[NDArray[np.uint8]]:
    """Pictures of a video file as uint8 [H, W, 3] RGB: those of ``indices`` in that order, or all.

    Raises: DatasetError when the file cannot be read, or has no picture of an index.
    """
    with _opened(path) as container:
        stream = _stream(container, path)
        stream.codec_context.thread_count = 1
        reformatter = VideoReformatter()
        pictures = _all_pictures(container, path) if indices is None else _chosen_pictures(container, path, indices)
        for picture in pictures:
            yield to_rgb(reformatter, picture, picture.width, picture.height, Interpolation.BICUBIC)


def image_statistics(path: Path, frames: int, count: int | None = None) -> ImageStatistics:
    """Statistics of pictures 0 to ``frames`` - 1 of a video file, as the recorder counts them.

    Args:
        count: take only so many of them, evenly spaced; None: all.

    Raises: DatasetError when the file cannot be read or has fewer pictures.
    """
    statistics = ImageStatistics()
    with _opened(path) as container:
        _stream(container, path).codec_context.thread_count = 1
        reformatter = VideoReformatter()
        chosen = np.linspace(0, frames - 1, frames if count is None else min(count, frames)).round().astype(int)
        for picture in _chosen_pictures(container, path, chosen.tolist()):
            statistics.add(sample(reformatter, picture))
    return statistics


def _copy(sources: Sequence[Path], output: Any, target: Path, fps: int, limit: int | None) -> int:
    written, header, stream = 0, "", None
    for source in sources:
        with _opened(source) as container:
            template = _stream(container, source)
            if stream is None:
                header = _header(template)
                stream = output.add_stream_from_template(template)
                stream.time_base = Fraction(1, fps)
            elif _header(template) != header:
                raise DatasetError(
                    f"{source}: expected the codec parameters of {sources[0]}, found others: they cannot be one file"
                )
            last = None
            for packet in _packets(container, source):
                if limit is not None and written >= limit:
                    return written
                if last is not None and (packet.pts is None or packet.pts <= last):
                    raise DatasetError(
                        f"{source}: expected pictures in the order of their times (no B-frames), found {packet.pts} "
                        f"after {last} at picture {written}: encode it again"
                    )
                last = packet.pts
                packet.stream, packet.time_base = stream, Fraction(1, fps)
                packet.pts = packet.dts = written
                packet.duration = 1
                _mux(output, packet, target)
                written += 1
    return written


def _mux(output: Any, packet: Any, target: Path) -> None:
    try:
        output.mux(packet)
    except (av.FFmpegError, ValueError) as error:
        raise DatasetError(f"{target}: expected to write a picture, found {_said(error)}") from error


def _all_pictures(container: Any, path: Path) -> Iterator[Any]:
    try:
        yield from container.decode(video=0)
    except av.FFmpegError as error:
        raise DatasetError(f"{path}: expected pictures that decode, found {_said(error)}") from error


def _chosen_pictures(container: Any, path: Path, indices: Iterable[int]) -> Iterator[Any]:
    stream = _stream(container, path)
    if not stream.average_rate:
        raise DatasetError(f"{path}: expected a video with a frame rate, found none: write it again")
    step = 1 / (stream.average_rate * stream.time_base)  # time units from a picture to the next
    start = stream.start_time or 0
    near = 4  # decoding so many on is cheaper than to seek
    pictures, current = _all_pictures(container, path), -1
    picture: Any = None
    for index in indices:
        if index != current or picture is None:
            if not current < index <= current + near:
                container.seek(start + round(index * step), stream=stream, backward=True)
                pictures = _all_pictures(container, path)
            for picture in pictures:
                current = round((picture.pts - start) / step)
                if current >= index:
                    break
            if current != index:
                raise DatasetError(f"{path}: expected a picture {index}, found none: the file has fewer")
        yield picture


@contextmanager
def _opened(path: Path, mode: str = "r", **arguments: Any) -> Iterator[Any]:
    """A container; what FFmpeg says about it becomes a DatasetError that names the file."""
    try:
        with av.open(str(path), mode, **arguments) as container:
            yield container
    except (av.FFmpegError, OSError) as error:
        raise DatasetError(f"{path}: expected a video file that can be {_deed(mode)}, found {_said(error)}") from error


def _said(error: Exception) -> str:
    """What FFmpeg says, without its own number and the file's name."""
    return str(getattr(error, "strerror", None) or error)


def _deed(mode: str) -> str:
    return "read" if mode == "r" else "written"


def _stream(container: Any, path: Path) -> Any:
    if not container.streams.video:
        raise DatasetError(f"{path}: expected a video stream, found none")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise DatasetError(f"{path}: expected a video of a codec that is known here, found another")
    return stream


def _packets(container: Any, path: Path) -> Iterator[Any]:
    """The packets that hold a picture; the end of the stream comes as one without."""
    for packet in container.demux(_stream(container, path)):
        if packet.size:
            yield packet


def _header(stream: Any) -> str:
    context = stream.codec_context
    facts = f"{context.name} {stream.width}x{stream.height} ".encode() + bytes(context.extradata or b"")
    return hashlib.sha256(facts).hexdigest()


def _named(sources: Sequence[Path]) -> str:
    return ", ".join(str(source) for source in sources) or "no files"
