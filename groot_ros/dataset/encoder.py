"""One camera's pictures to H.264 while they are recorded: a bounded queue and a thread for each camera.

The file is a Matroska whose every packet is flushed, so that a killed recorder leaves a readable beginning.
"""

from __future__ import annotations

import errno
import functools
import threading
from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.image_statistics import ImageStatistics, histogram
from groot_ros.dataset.yuv import PIXELS, PictureMaker
from groot_ros.embodiment.schema import Camera
from groot_ros.observation.images import Frame

AUTO, LIBX264, NVENC = "auto", "libx264", "h264_nvenc"
CODECS = (AUTO, LIBX264, NVENC)

# Every second picture is a key frame: training reads pictures in random order. No picture refers to a later one, so
# packet k is picture k.
_GROUP = 2
_OPTIONS = {
    # The tune is for one thing: each picture comes out at once, instead of with the next one.
    LIBX264: {"preset": "ultrafast", "tune": "zerolatency", "crf": "23"},
    NVENC: {"preset": "p4", "rc": "constqp", "qp": "23", "delay": "0", "zerolatency": "1"},
}
# Each picture is a cluster, which goes to the operating system when the next one comes: kill -9 costs one picture.
_MATROSKA = {"flush_packets": "1", "cluster_time_limit": "1"}
_SMPTE170M, _LIMITED = 6, 1  # FFmpeg's numbers of the matrix and the range
_STOP_S = 10.0  # an abort waits so long for the picture that is being encoded


@dataclass(frozen=True)
class EncoderResult:
    """What a camera's encoder made.

    Attributes:
        frames: pictures in the file.
        histogram: int64 [3, 256], see ``ImageStatistics``.
        sampled: pictures counted in ``histogram``.
        peak: most pictures that ever waited.
        bytes: size of the file.
    """

    frames: int
    histogram: NDArray[np.int64]
    sampled: int
    peak: int
    bytes: int


@dataclass
class _Waiting:
    frame: Frame
    times: int = 1  # itself and its repeats


class CameraEncoder:
    """Encodes one camera's pictures of one episode in a thread of its own.

    One thread puts pictures in; the attributes may be read from any.

    Attributes:
        frames: pictures in the file so far.
        peak: most pictures that ever waited.
        error: why encoding ended, naming the topic; None while all is well. What comes later is thrown away.
    """

    def __init__(
        self,
        path: Path,
        height: int,
        width: int,
        fps: int,
        camera: Camera,
        name: str,
        *,
        codec: str = AUTO,
        depth: int = 30,
    ) -> None:
        """Start the thread, which makes the file ``path`` (.mkv).

        Args:
            height, width: size of the video (px), which is the camera's.
            name: the camera's name in the embodiment.
            codec: one of ``CODECS``; "auto" is NVENC where it works, else libx264.
            depth: most pictures that may wait.

        Raises:
            DatasetError: the size is odd or not the camera's, or ``codec`` is not available.
        """
        if (height, width) != (camera.height, camera.width) or height % 2 or width % 2:
            raise DatasetError(
                f"{camera.topic}: expected video of the camera's size, {camera.width}x{camera.height} px, and an even "
                f"width and height, found {width}x{height} px: correct cameras.{name}.width and height"
            )
        self.path, self.name, self.frames, self.peak = path, name, 0, 0
        self.error: str | None = None
        self.statistics = ImageStatistics()
        self._size, self._fps, self._depth, self._topic = (width, height), fps, depth, camera.topic
        self._codec = choose_codec(codec, height, width)
        self._camera = camera
        self._last: Frame | None = None  # what was put in last
        # Guarded by the condition. The repeats are of the picture that the thread took out last.
        self._changed = threading.Condition()
        self._queue: deque[_Waiting] = deque()
        self._repeats, self._closing, self._aborted = 0, False, False
        self._thread = threading.Thread(target=self._run, name=f"encode {name}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Pictures that wait, repeats not counted: those hold no memory."""
        return len(self._queue)

    @property
    def full(self) -> bool:
        """Another picture would have no room."""
        return len(self._queue) >= self._depth

    def put(self, frame: Frame | None) -> None:
        """Append a picture; None, or the same object again, repeats the last one. Never waits.

        Raises:
            DatasetError: the encoder is ``full`` or closed, or there is no picture to repeat.
        """
        with self._changed:
            if self.error is not None:
                return
            if self._closing:
                raise DatasetError(f"{self._topic}: expected an open encoder, found it closed: begin another episode")
            if frame is None or frame is self._last:
                self._repeat()
            else:
                self._append(frame)
            self._changed.notify()

    def end(self) -> None:
        """There are no more pictures: the thread ends after those that wait. Does not wait for it."""
        self._close_queue(aborted=False)

    def close(self, timeout_s: float) -> EncoderResult:
        """Encode what waits, and finish the file.

        Raises:
            DatasetError: encoding failed (``error``), or is not ready in time; then it is aborted.
        """
        self.end()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._fail(f"expected the last pictures within {timeout_s:g} s, found {self.waiting} waiting", "is busy")
            self.abort()
        if self.error is not None:
            raise DatasetError(self.error)
        statistics = self.statistics
        size = self.path.stat().st_size
        return EncoderResult(self.frames, statistics.histogram, statistics.frames, self.peak, size)

    def abort(self) -> None:
        """End the thread without encoding what waits; the file keeps what it has."""
        self._close_queue(aborted=True)
        self._thread.join(_STOP_S)
        if self._thread.is_alive():
            self._fail(f"expected the thread to end within {_STOP_S:g} s, found it running", "hangs")

    def _repeat(self) -> None:
        if self._queue:
            self._queue[-1].times += 1
        elif self._last is not None:
            self._repeats += 1
        else:
            raise DatasetError(f"{self._topic}: expected a picture before its repeat, found none: start with a picture")

    def _append(self, frame: Frame) -> None:
        if self.full:
            raise DatasetError(
                f"{self._topic}: expected room in the queue of the encoder, found {self._depth} pictures waiting: "
                "ask `full` before `put`"
            )
        self._queue.append(_Waiting(frame))
        self._last = frame
        self.peak = max(self.peak, len(self._queue))

    def _close_queue(self, aborted: bool) -> None:
        with self._changed:
            self._closing = True
            self._aborted |= aborted
            self._last = None  # it may be long until the episode is sealed: no picture is held until then
            if aborted:
                self._queue.clear()
            self._changed.notify()

    def _fail(self, what: str, state: str = "failed") -> None:
        """Keep the first failure, and throw away what waits."""
        with self._changed:
            if self.error is None:
                self.error = (
                    f"{self._topic}: recording of camera {self.name} to {self.path} {state} after {self.frames} "
                    f"pictures: {what}"
                )
            self._queue.clear()
            self._repeats = 0

    def _run(self) -> None:
        try:
            file = _VideoFile(self.path, *self._size, self._fps, self._codec)
            try:
                expected = self._encode(file)
            finally:
                file.close()
                self.frames = file.frames
            if self.frames != expected and not self._aborted:
                self._fail(f"expected {expected} pictures in the file, found {self.frames}")
        except Exception as error:  # whatever it is, it has to reach the recorder and not end unseen in a thread
            self._fail(_explained(error))

    def _encode(self, file: _VideoFile) -> int:
        """Until the end: pictures handed to the codec."""
        total, maker = 0, PictureMaker(self.name, self._camera)
        picture: av.VideoFrame | None = None
        counts = np.zeros((3, 256), np.int64)
        while (frame := self._next()) is not None:
            if isinstance(frame, Frame):
                picture = maker.picture(frame)
                counts = histogram(maker.sample(picture))
            file.write(picture, total)
            self.statistics.add_histogram(counts)
            self.frames = file.frames
            total += 1
        if not self._aborted:
            file.flush()
        return total

    def _next(self) -> Frame | str | None:
        """The next picture, a text for another repeat, None at the end."""
        with self._changed:
            while not self._aborted:
                if self._repeats:
                    self._repeats -= 1
                    return "repeat"
                if self._queue:
                    item = self._queue.popleft()
                    self._repeats = item.times - 1
                    return item.frame
                if self._closing:
                    return None
                self._changed.wait()
            return None


class _VideoFile:
    """A Matroska with one H.264 stream; ``frames`` counts the packets in it."""

    def __init__(self, path: Path, width: int, height: int, fps: int, codec: str) -> None:
        self.frames = 0
        self._container = av.open(str(path), "w", format="matroska", container_options=_MATROSKA)
        try:
            self._stream = self._container.add_stream(codec, rate=fps, options=_OPTIONS[codec])
            self._stream.time_base = Fraction(1, fps)
            configure(self._stream.codec_context, width, height, fps)
            self._container.start_encoding()
        except BaseException:
            self._container.close()
            raise

    def write(self, picture: Any, number: int) -> None:
        """Encode ``picture`` as the ``number``-th."""
        picture.pts, picture.time_base = number, self._stream.codec_context.time_base
        self._mux(self._stream.encode(picture))

    def flush(self) -> None:
        """Write what the codec still holds."""
        self._mux(self._stream.encode(None))

    def close(self) -> None:
        self._container.close()

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            self._container.mux(packet)
            self.frames += 1


def configure(context: Any, width: int, height: int, fps: int) -> None:
    """Set what all codecs share: size, time base 1 / fps, short groups, and tags that say BT.601, limited range."""
    context.width, context.height, context.pix_fmt = width, height, PIXELS
    context.time_base = Fraction(1, fps)
    context.framerate = Fraction(fps)
    context.gop_size, context.max_b_frames = _GROUP, 0
    context.thread_count = 1  # measured: more threads for one camera cost time and hold pictures back
    # Primaries and transfer stay untagged: a reader may convert tagged ones, and takes these pixels as they are.
    context.colorspace, context.color_range = _SMPTE170M, _LIMITED


def choose_codec(codec: str, height: int, width: int) -> str:
    """FFmpeg's name of the encoder for ``codec``, one of ``CODECS``.

    Raises: DatasetError when it is unknown, or does not work on this machine.
    """
    if codec not in CODECS:
        raise DatasetError(f"codec: expected one of {', '.join(CODECS)}, found {codec!r}")
    if codec == AUTO:
        codec = LIBX264 if problem_of(NVENC, height, width) else NVENC
    problem = problem_of(codec, height, width)
    if problem:
        raise DatasetError(
            f"codec: expected {codec} to encode {width}x{height} px on this machine, found {problem}: set codec to "
            f"{AUTO}, or install PyAV by pip, which brings its own encoders"
        )
    return codec


@functools.lru_cache(maxsize=64)
def problem_of(codec: str, height: int, width: int) -> str | None:
    """Why ``codec`` does not encode a picture of this size here, found by doing it; None when it does."""
    try:
        context = av.CodecContext.create(codec, "w")
        configure(context, width, height, 30)
        context.options = dict(_OPTIONS[codec])
        picture = av.VideoFrame(width, height, PIXELS)
        picture.pts = 0
        packets = [*context.encode(picture), *context.encode(None)]
    except (av.FFmpegError, ValueError) as error:
        return str(error)
    return None if sum(packet.size > 0 for packet in packets) == 1 else f"{len(packets)} packets for one picture"


def _explained(error: Exception) -> str:
    what = f"{type(error).__name__}: {error}"
    return f"{what}: free disk space" if getattr(error, "errno", None) == errno.ENOSPC else what
