"""The camera's pictures of one episode, and a video of them with a caption that any browser plays."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

FPS = 15
MOST_FRAMES = 450  # a reel holds no more, 150 MB: 30 s at FPS, and half as many per second beyond
LONGEST_SIDE, LEGIBLE_WIDTH = 384, 320  # px
HOLD_S = 1.0  # the last picture, with the outcome
BAR = 44  # px, a multiple of 2
INK, PAPER, MUTED = (255, 255, 255), (24, 27, 31), (170, 176, 184)
GOOD, BAD = (46, 160, 67), (214, 69, 65)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_OPTIONS = {"preset": "veryfast", "crf": "23"}


class Reel:
    """Pictures of the running episode, small and at most ``MOST_FRAMES`` of them."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Another episode begins."""
        self._stamps_ns: list[int] = []
        self._pictures: list[NDArray[np.uint8]] = []
        self._period_ns = 1_000_000_000 // FPS

    def __len__(self) -> int:
        return len(self._pictures)

    @property
    def fps(self) -> Fraction:
        """Pictures per second that are kept."""
        return Fraction(FPS * (1_000_000_000 // FPS), self._period_ns)

    def wants(self, stamp_ns: int) -> bool:
        """Whether a picture of that time would be kept: not before the next one is due, and none of the past."""
        if not self._stamps_ns:
            return True
        # Due on a grid and not since the last one, or 15 of 20 pictures per second would become 10.
        first = self._stamps_ns[0]
        return (stamp_ns - first) // self._period_ns > (self._stamps_ns[-1] - first) // self._period_ns

    def add(self, stamp_ns: int, rgb: NDArray[np.uint8]) -> None:
        """Keep a picture, uint8 [H, W, 3], made small; every second one goes when there are too many."""
        if not self.wants(stamp_ns):
            return
        self._stamps_ns.append(stamp_ns)
        self._pictures.append(_small(rgb))
        if len(self._pictures) > MOST_FRAMES:
            self._stamps_ns, self._pictures = self._stamps_ns[::2], self._pictures[::2]
            self._period_ns *= 2

    def write(self, path: Path, begin_ns: int, end_ns: int, lines: tuple[str, str], success: bool) -> bool:
        """Write what was seen from ``begin_ns`` to ``end_ns`` (ROS time) as a video; False: nothing was.

        Args:
            lines: over the picture's bar: what is done, and what became of it.

        Raises: OSError or av.FFmpegError when it cannot be written; then there is no file ``path``.
        """
        if not self._pictures:
            return False
        write_mp4(path, self._captioned(begin_ns, end_ns, lines, success), self.fps)
        return True

    def _captioned(
        self, begin_ns: int, end_ns: int, lines: tuple[str, str], success: bool
    ) -> Iterator[NDArray[np.uint8]]:
        ticks = max(0, int(Fraction(end_ns - begin_ns, 1_000_000_000) * self.fps))
        for tick in range(ticks + 1):
            passed_ns = round(tick * 1_000_000_000 / self.fps)
            yield caption(self._at(begin_ns + passed_ns), lines[0], f"{1e-9 * passed_ns:.1f} s", MUTED)
        last = caption(self._at(end_ns), lines[0], lines[1], GOOD if success else BAD)
        for _ in range(round(HOLD_S * self.fps)):
            yield last

    def _at(self, now_ns: int) -> NDArray[np.uint8]:
        """The newest picture of that time; the first one before it."""
        return self._pictures[max(0, bisect_right(self._stamps_ns, now_ns) - 1)]


def caption(rgb: NDArray[np.uint8], first: str, second: str, colour: tuple[int, int, int] = INK) -> NDArray[np.uint8]:
    """The picture, not too narrow, with a bar of two lines above it; texts that are too long are cut."""
    rgb = _legible(rgb)
    height, width, _ = rgb.shape
    made = np.empty((height + BAR, width, 3), np.uint8)
    made[:BAR], made[BAR:] = PAPER, rgb
    made[BAR - 3 : BAR] = colour
    for text, bottom, ink in ((first, 17, INK), (second, 34, INK if colour == MUTED else colour)):
        cv2.putText(made, _fitting(text, width - 12), (6, bottom), _FONT, 0.42, ink, 1, cv2.LINE_AA)
    return made


def write_mp4(path: Path, pictures: Iterator[NDArray[np.uint8]], fps: Fraction) -> None:
    """H.264, yuv420p, index first. All pictures are uint8 [H, W, 3] of one even size.

    Raises: OSError or av.FFmpegError when it cannot be written; then there is no file ``path``.
    """
    partial = path.with_suffix(".partial")
    try:
        with av.open(str(partial), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream: Any = None
            for rgb in pictures:
                if stream is None:
                    stream = container.add_stream("libx264", rate=fps, options=_OPTIONS)
                    stream.height, stream.width, stream.pix_fmt = *rgb.shape[:2], "yuv420p"
                    # No picture refers to a later one: packet k is picture k.
                    stream.codec_context.thread_count, stream.codec_context.max_b_frames = 1, 0
                container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, "rgb24")))
            if stream is not None:
                container.mux(stream.encode(None))
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def frames_of(path: Path, count: int) -> Sequence[NDArray[np.uint8]]:
    """``count`` pictures of a video, evenly spaced over all but the end card; uint8 [H, W, 3].

    Raises: OSError or av.FFmpegError.
    """
    with av.open(str(path)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        rate = container.streams.video[0].average_rate or FPS
    pictures = pictures[: max(1, len(pictures) - round(HOLD_S * rate) + 1)]
    return [pictures[at] for at in np.linspace(0, len(pictures) - 1, count).round().astype(int)]


def _small(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """At most ``LONGEST_SIDE``, of even sides; never the array that came in."""
    height, width, _ = rgb.shape
    factor = min(1.0, LONGEST_SIDE / max(height, width))
    size = (max(2, round(width * factor) // 2 * 2), max(2, round(height * factor) // 2 * 2))
    return np.array(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def _legible(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Wide enough for a caption, by a whole factor: small pixels stay sharp."""
    factor = -(-LEGIBLE_WIDTH // rgb.shape[1])
    return rgb if factor == 1 else rgb.repeat(factor, axis=0).repeat(factor, axis=1)


def _fitting(text: str, width: int) -> str:
    while text and cv2.getTextSize(text, _FONT, 0.42, 1)[0][0] > width:
        text = text[:-2].rstrip() + "." if len(text) > 2 else ""
    return text
