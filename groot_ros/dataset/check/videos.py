"""Videos of one episode: what their packets say, and what the pictures show.

To decode every picture of every video takes long. Unless asked for all, a check reads all packets (count, times, sizes)
and decodes a regular sample, first and last included, and besides it what looks frozen: H.264 turns a picture that does
not change into key frames of the same size, to a byte or two. So a camera that is black or frozen for a good part of
an episode is found, and with key frames as close together as our recorder makes them one that is frozen for
``FROZEN_S``; only ``full`` finds every single black picture, and damage between the sampled ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from groot_ros.dataset.check.contents import Contents
from groot_ros.dataset.check.report import Findings
from groot_ros.dataset.check.rows import TIMESTAMP_TOLERANCE_S, EpisodeRows
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.spec import FLAG_REPEATED, FLAGS, STATE
from groot_ros.dataset.video import decode_frames

SAMPLES = 12
# Of 0..255: a picture whose brightest hundredth is darker than this shows nothing.
DARK = 24.0
# Of 0..255: a picture whose colours all spread less than this is of one colour.
FLAT = 1.0
# Pictures are compared as means of so many cells (rows, columns), or fewer of this size (px): neither noise nor the
# encoder's quality changes those much, and a robot that moves in a part of the picture does.
CELLS, CELL_PX = (12, 16), 8
# Of 0..255: two pictures are the same when no cell differs by more.
SAME = 3.0
# As long as the recorder lets a camera give the same picture (frozen_after_s of the robots' YAML).
FROZEN_S = 1.0
# The robot moves when a number of the state covers this share of its range: while the same picture came again and again
# to the bit, and while pictures only look the same (a hand that closes may be too small to see).
MOVES_EXACT, MOVES = 0.05, 0.2
# Bytes by which key frames of the same picture differ.
SAME_BYTES = 2
GRAY = np.array([0.299, 0.587, 0.114])
# The default decoder of GR00T N1.5, decord, opens none of these (spec/lerobot.md section 3).
CLOSED_CODECS = ("av1",)
_AGAIN = "restore it from a copy, or take the episode out with `groot-ros dataset delete-episodes`"


@dataclass
class Packets:
    """What a video file says without decoding: codec, size (px), times (s) in order, bytes and key frames by packet."""

    codec: str
    height: int
    width: int
    times_s: NDArray[np.float64]
    sizes: NDArray[np.int64]
    keys: NDArray[np.bool_]


@dataclass
class Seen:
    """What the decoded pictures of a video showed.

    Attributes:
        indices: which were decoded.
        dark, flat: of these, without light, and of one colour.
        same: runs (first, last) of pictures that are the same, by those decoded.
        stuck: runs of pictures that came again and again to the bit.
        error: why not all could be decoded.
    """

    indices: list[int] = field(default_factory=list)
    dark: list[int] = field(default_factory=list)
    flat: list[int] = field(default_factory=list)
    same: list[tuple[int, int]] = field(default_factory=list)
    stuck: list[tuple[int, int]] = field(default_factory=list)
    error: str | None = None


def check_video(
    contents: Contents, rows: EpisodeRows, name: str, spans: NDArray[np.float64] | None, full: bool
) -> Findings:
    """Problems of the video ``name`` of an episode; safe to call from several threads.

    Args:
        spans: [S], range of each number of the state over the dataset; None where there is no state.
        full: decode every picture.
    """
    found = Findings()
    path = contents.video_path(rows.index, name)
    if not (contents.root / path).is_file():
        return found  # reported by check_files
    try:
        packets = read_packets(contents.root / path)
    except (av.FFmpegError, OSError, ValueError, DatasetError) as error:
        _damaged(rows, path, error, found)
        return found
    good = _check_facts(contents, rows, name, path, packets, found)
    if good and len(packets.times_s):
        seen = _look(contents.root / path, packets, contents.fps, full)
        if seen.error is not None:
            # What is missing at the end of a file that was cut off is no second problem.
            found.problems = [problem for problem in found.problems if problem.code != "video_frames"]
            _damaged(rows, path, seen.error, found)
        _check_seen(rows, str(path), seen, contents.fps, spans, found)
    return found


def read_packets(path: Path) -> Packets:
    """Read every packet of a video file. Raises: av.FFmpegError, OSError, DatasetError (no video in it)."""
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise DatasetError("no video in it")
        stream = container.streams.video[0]
        context = stream.codec_context
        if context is None:
            raise DatasetError("a codec that cannot be decoded here")
        times, sizes, keys = [], [], []
        for packet in container.demux(stream):
            if not packet.size:
                continue
            times.append(float(packet.pts * packet.time_base) if packet.pts is not None else np.nan)
            sizes.append(packet.size)
            keys.append(bool(packet.is_keyframe))
        return Packets(
            context.codec.canonical_name,
            stream.height,
            stream.width,
            # Packets are in the order of decoding, which is another one where there are B-frames.
            np.sort(np.array(times)),
            np.array(sizes, dtype=np.int64),
            np.array(keys, dtype=bool),
        )


def _damaged(rows: EpisodeRows, path: Path, what: object, found: Findings) -> None:
    text = " ".join(str(what).split())[:200]
    found.add("video_damaged", path, f"expected a video that decodes, found {text}: {_AGAIN}", episode=rows.index)


def _check_facts(
    contents: Contents, rows: EpisodeRows, name: str, path: Path, packets: Packets, found: Findings
) -> bool:
    """Count, size, times and codec; whether pictures can be found by their times."""
    episode = rows.index
    length = rows.entry.length if rows.index in found.unsound else rows.count
    count = len(packets.times_s)
    # Where rows and episodes.jsonl differ, that is reported already; the video is right when it fits one of them.
    if count not in (rows.count, rows.entry.length):
        message = (
            f"expected {length} pictures, one per row, found {count}: GR00T refuses the episode; "
            "`groot-ros dataset repair --truncate` cuts it to the shortest"
        )
        found.add("video_frames", path, message, episode=episode)
    size = contents.features[name].picture_size
    if size is not None and (packets.height, packets.width) != size:
        message = (
            f"expected {size[1]}x{size[0]} px, as the feature says, found {packets.width}x{packets.height} px: {_AGAIN}"
        )
        found.add("video_size", path, message, episode=episode)
    _check_codec(contents, name, path, packets, episode, found)
    right = np.arange(count) / contents.fps
    off = np.abs(packets.times_s - right)
    # Not "greater than": a time that is missing compares as false, too.
    wrong = np.flatnonzero(~(off <= TIMESTAMP_TOLERANCE_S))
    if len(wrong):
        picture = int(wrong[0])
        message = (
            f"expected picture {picture} at {right[picture]:.6f} s (fps {contents.fps:g}), found it at "
            f"{packets.times_s[picture]:.6f} s ({len(wrong)} of {count} pictures in all): LeRobot looks pictures up by "
            f"time and would take others; {_AGAIN}"
        )
        found.add("video_times", path, message, episode=episode)
        return False
    return True


def _check_codec(contents: Contents, name: str, path: Path, packets: Packets, episode: int, found: Findings) -> None:
    feature = contents.features[name]
    said = (feature.info or feature.video_info or {}).get("video.codec")
    if packets.codec in CLOSED_CODECS:
        message = (
            f"expected h264, found {packets.codec}: decord, which GR00T N1.5 decodes with, cannot open it; encode it "
            "anew, or train with another decoder"
        )
        found.add("video_codec", path, message, episode=episode)
    elif said is not None and said != packets.codec:
        message = f"expected {said}, as the feature says, found {packets.codec}: correct the feature"
        found.add("video_codec", path, message, episode=episode)


def _look(path: Path, packets: Packets, fps: float, full: bool) -> Seen:
    """Decode all pictures, or a sample; and what may be frozen."""
    count = len(packets.times_s)
    seen = Seen()
    sample = range(count) if full else sorted({round(i) for i in np.linspace(0, count - 1, min(SAMPLES, count))})
    _view(path, sample, seen, every=full)
    for first, last in _suspects(packets, fps):
        inner = Seen()
        _view(path, sorted({first, (first + last) // 2, last}), inner)
        seen.error = seen.error or inner.error
        if inner.same == [(first, last)]:
            seen.stuck.append((first, last))
    return seen


def _suspects(packets: Packets, fps: float) -> Iterator[tuple[int, int]]:
    """Runs (first, last) of pictures whose key frames have the same size, as long as a frozen camera makes them.

    The encoder changes its quality now and then, so a single step of the size within a run is none.
    """
    keys = np.flatnonzero(packets.keys)
    if len(keys) < 3:
        return
    alike = np.abs(np.diff(packets.sizes[keys])) <= SAME_BYTES
    single = np.zeros_like(alike)
    single[1:-1] = ~alike[1:-1] & alike[:-2] & alike[2:]
    edges = np.flatnonzero(np.diff(np.concatenate([[0], (alike | single).astype(int), [0]])))
    for start, end in edges.reshape(-1, 2):
        first, last = int(keys[start]), int(keys[end])
        if _is_long(last - first + 1, len(packets.sizes), fps):
            yield first, last


def _is_long(pictures: int, of: int, fps: float) -> bool:
    return pictures >= min(FROZEN_S * fps, max(of - 2, 5))


def _view(path: Path, indices: Sequence[int], seen: Seen, every: bool = False) -> None:
    """Decode ``indices`` of a video one after the other; ``every``: they are all."""
    reference: NDArray[np.float64] | None = None
    run: list[int] = []
    position = 0
    try:
        for index, rgb in zip(indices, decode_frames(path, None if every else indices)):
            position += 1
            seen.indices.append(index)
            few = _thinned(rgb)
            if np.quantile(few @ GRAY, 0.99) < DARK:
                seen.dark.append(index)
            elif float(few.std(axis=0).max()) < FLAT:
                seen.flat.append(index)
            cells = _cells(rgb)
            # Against the first picture of the run: slow motion adds up.
            if reference is not None and np.abs(cells - reference).max() < SAME:
                run[1:] = [index]
            else:
                _end(run, seen)
                reference, run = cells, [index]
    except (DatasetError, av.FFmpegError, OSError, ValueError) as error:
        seen.error = str(error)
    _end(run, seen)
    if seen.error is None and position < len(indices):
        seen.error = f"{position} of {len(indices)} pictures that decode"


def _thinned(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Some thousand pixels [N, 3] of a picture, evenly."""
    step = max(1, min(rgb.shape[:2]) // 96)
    return rgb[::step, ::step].reshape(-1, 3)


def _cells(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean colours of the cells of a picture."""
    rows, columns = (max(1, min(cells, size // CELL_PX)) for cells, size in zip(CELLS, rgb.shape))
    return cv2.resize(rgb, (columns, rows), interpolation=cv2.INTER_AREA).astype(np.float64)


def _end(run: Sequence[int], seen: Seen) -> None:
    if len(run) > 1:
        seen.same.append((run[0], run[-1]))


def _check_seen(
    rows: EpisodeRows, where: str, seen: Seen, fps: float, spans: NDArray[np.float64] | None, found: Findings
) -> None:
    looked = len(seen.indices)
    for indices, what in ((seen.dark, "black"), (seen.flat, "of one colour")):
        if indices:
            message = (
                f"expected pictures of the scene, found {len(indices)} of {looked} that were looked at {what} (first: "
                f"{indices[0]}): look at the camera, its lens and exposure; {_AGAIN}"
            )
            found.add("camera_black", where, message, episode=rows.index)
    blank = {*seen.dark, *seen.flat}
    runs = [(first, last, MOVES_EXACT) for first, last in seen.stuck]
    runs += [(first, last, MOVES) for first, last in seen.same if _is_long(last - first + 1, rows.count, fps)]
    for first, last, share in runs:
        if blank.isdisjoint(range(first, last + 1)) and _moves(rows, first, last, spans, share):
            message = (
                f"expected pictures that change while the robot moves, found the same from {first} to {last} "
                f"({(last - first + 1) / fps:.1f} s): the camera froze, or does not see the robot; {_AGAIN}"
            )
            found.add("camera_frozen", where, message, episode=rows.index)
            return


def _moves(rows: EpisodeRows, first: int, last: int, spans: NDArray[np.float64] | None, share: float) -> bool:
    """Whether the state covers ``share`` of its range; rows that say that they repeat the one before do not count."""
    state = rows.numbers(STATE)
    if state is None or spans is None:
        return True
    flags = rows.numbers(FLAGS)
    own = np.ones(rows.count, dtype=bool) if flags is None else flags[:, 0].astype(np.int64) & FLAG_REPEATED == 0
    part = state[first : last + 1][own[first : last + 1]].astype(np.float64)
    if len(part) < 2:
        return False
    turning = spans > 0
    return bool((np.ptp(part, axis=0)[turning] > share * spans[turning]).any())
