"""``groot-ros benchmark recorder-hour``: whether a recorder that runs for long needs more and more memory.

Messages of the numbered robot are made in this process, in simulated time, and go the way of the node's: session,
encoders, staging, commits in their own thread. Only ROS is left out.
"""

from __future__ import annotations

import array
import ctypes
import gc
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow
from rich.console import Console

from groot_ros.closed_loop.barcode import Scene
from groot_ros.closed_loop.numbered_robot import (
    JOINT_RATE_HZ,
    JOINTS,
    KEY,
    STATE_STREAM,
    Published,
    Setting,
    picture_number,
    positions,
    write_embodiment,
)
from groot_ros.closed_loop.progress import watched
from groot_ros.closed_loop.summary import machine_name
from groot_ros.dataset.background import Committed, Committer
from groot_ros.dataset.encoder import LIBX264
from groot_ros.dataset.episode_report import EpisodeReport
from groot_ros.dataset.session import Session
from groot_ros.dataset.spec import DatasetSpec
from groot_ros.dataset.staging import EpisodeWriter
from groot_ros.dataset.writer import DatasetWriter
from groot_ros.embodiment.load import load_embodiment

SMALL = Setting(cameras=2, width=64, height=48)
START_NS = 1_800_000_000_000_000_000
LAG_NS = 5_000_000  # from stamp to arrival
TASK = "hold on for an hour"
SKIPPED = 0.2  # of the samples: the process still grows to its working size
ALLOWED_PER_HOUR = 4e6  # growth (bytes) that counts as none; a leak of one 64x48 picture in a hundred is 20 MB
_MOST_WAITING = 10  # pictures; simulated time must not run away from the encoders
_WAIT_S = 0.001
_COMMIT_S = 120.0


@dataclass(frozen=True)
class Growth:
    """Memory of a long recording.

    Attributes:
        seconds: simulated.
        wall_s: that it took.
        ticks, rows: that were simulated, and that are in the dataset.
        episodes: in the dataset.
        sample_s: simulated time from sample to sample.
        resident_bytes: memory of the process, one sample each.
        used_bytes: the same after all that is free in it was handed back to the system.
        slope_bytes_per_hour: of a straight line through ``used_bytes`` after the first fifth.
    """

    seconds: float
    wall_s: float
    ticks: int
    rows: int
    episodes: int
    sample_s: float
    resident_bytes: list[int]
    used_bytes: list[int]
    slope_bytes_per_hour: float

    @property
    def flat(self) -> bool:
        """No more growth than noise."""
        return self.slope_bytes_per_hour <= ALLOWED_PER_HOUR


def run_recorder_hour(minutes: float, episode_s: float, output: Path | None, console: Console) -> bool:
    """Record for so long in simulated time, print the memory, write it to ``output``.

    Returns: whether it was flat and every tick but those of the episodes' borders is a row.
    """
    with (
        tempfile.TemporaryDirectory(prefix="groot_ros_") as folder,
        watched(console, 60.0 * minutes) as advance,
    ):
        growth = record_simulated(Path(folder), 60.0 * minutes, episode_s, advance=advance)
    out = Console(highlight=False)
    for line in lines(growth):
        out.print(line, markup=False)
    out.print(machine_name(), markup=False)
    if output is not None:
        document = {"machine": machine_name(), "flat": growth.flat, **asdict(growth)}
        output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        out.print(f"report: {output}", markup=False)
    return growth.flat


def lines(growth: Growth) -> list[str]:
    """For people."""
    resident, used = ([size / 1e6 for size in sizes] for sizes in (growth.resident_bytes, growth.used_bytes))
    every = max(len(used) // 12, 1)
    return [
        f"{growth.seconds:.0f} simulated seconds in {growth.wall_s:.0f} s: {growth.ticks} ticks, {growth.rows} rows, "
        f"{growth.episodes} episodes",
        f"memory of the process (MB): first {resident[0]:.1f}, last {resident[-1]:.1f}, most {max(resident):.1f}",
        f"in use, every {every * growth.sample_s:.0f} s: {', '.join(f'{size:.1f}' for size in used[::every])}",
        f"in use: first {used[0]:.1f}, last {used[-1]:.1f}, most {max(used):.1f}; after the first fifth "
        f"{growth.slope_bytes_per_hour / 1e6:+.2f} MB per simulated hour: "
        f"{'flat' if growth.flat else f'NOT flat, allowed {ALLOWED_PER_HOUR / 1e6:g}'}",
    ]


def record_simulated(
    folder: Path,
    seconds: float,
    episode_s: float,
    *,
    setting: Setting = SMALL,
    sample_s: float = 60.0,
    advance: Callable[[float], None] = lambda seconds: None,
) -> Growth:
    """Record episodes of ``episode_s`` for simulated ``seconds`` into ``folder``/dataset.

    Raises: RuntimeError: an episode could not be recorded or written.
    """
    write_embodiment(setting, folder / "robot.yaml")
    recorder = _Recorder(folder)
    resident: list[int] = []
    used: list[int] = []
    begin = time.monotonic()
    told_ns = sampled_ns = START_NS
    try:
        for now_ns, source, message in messages(setting, seconds):
            recorder.take(source, message, now_ns, episode_s)
            if now_ns - told_ns >= 1_000_000_000:
                advance((now_ns - told_ns) * 1e-9)
                told_ns = now_ns
            if now_ns - sampled_ns >= round(sample_s * 1e9):
                sampled_ns = now_ns
                resident.append(resident_bytes())
                hand_back()
                used.append(resident_bytes())
        recorder.save(now_ns)
    finally:
        recorder.close()
    return Growth(
        seconds=seconds,
        wall_s=time.monotonic() - begin,
        ticks=round(seconds * setting.rate_hz),
        rows=recorder.dataset.frames,
        episodes=recorder.dataset.episodes,
        sample_s=sample_s,
        resident_bytes=resident,
        used_bytes=used,
        slope_bytes_per_hour=slope(used, sample_s),
    )


def slope(sizes: Sequence[int], sample_s: float) -> float:
    """Bytes per hour of a straight line through all but the first fifth of the samples."""
    kept = np.asarray(sizes[int(SKIPPED * len(sizes)) :], dtype=np.float64)
    if len(kept) < 2:
        raise ValueError(f"expected at least 3 samples, found {len(sizes)}: record longer")
    hours = np.arange(len(kept)) * sample_s / 3600.0
    return float(np.polyfit(hours, kept, 1)[0])


def resident_bytes() -> int:
    """Memory of this process, as the system counts it."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def hand_back() -> None:
    """Give the system what is free: allocators keep it, and how much they keep varies from minute to minute."""
    gc.collect()
    pyarrow.default_memory_pool().release_unused()
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):  # glibc has it
        library.malloc_trim(0)


class _Recorder:
    """Session, dataset and committer, put together as the node does."""

    def __init__(self, folder: Path) -> None:
        embodiment = load_embodiment(str(folder / "robot.yaml"))
        spec = DatasetSpec.of(embodiment)
        self._problems: list[str] = []
        self._writer: EpisodeWriter | None = None
        self.dataset = DatasetWriter(
            folder / "dataset",
            spec,
            embodiment.cameras,
            codec=LIBX264,
            min_free_bytes=0,
            on_event=self._problems.append,
        )
        self._session = Session(spec, embodiment, self._begin)
        self._committer: Committer[EpisodeReport] = Committer(self.dataset, self._problems.append)
        self._began_ns: int | None = None

    def take(self, source: str, message: Any, now_ns: int, episode_s: float) -> None:
        """One message; episodes begin by themselves and are saved when they are long enough."""
        while (
            self._writer is not None
            and max(camera.waiting for camera in self._writer.health().values()) > _MOST_WAITING
        ):
            time.sleep(_WAIT_S)
        refusal = self._session.take(source, message, now_ns)
        if refusal is not None:
            self._problems.append(refusal.message)
        if self._began_ns is None:
            if self._session.start(TASK, now_ns).ok:
                self._began_ns = now_ns
        elif now_ns - self._began_ns >= round(episode_s * 1e9):
            self.save(now_ns)
        if self._problems:
            raise RuntimeError(f"{(now_ns - START_NS) * 1e-9:.1f} simulated seconds: {self._problems[0]}")

    def save(self, now_ns: int) -> None:
        """End the episode and hand it to the committer."""
        answer, finished = self._session.save(now_ns)
        if not answer.ok:
            raise RuntimeError(answer.message)
        while self._committer.full:
            time.sleep(_WAIT_S)
        self._committer.put([(cast(EpisodeWriter, part.writer), part.report) for part in finished], self._committed)
        self._began_ns, self._writer = None, None

    def close(self) -> None:
        """Wait for the commits."""
        if not self._committer.close(_COMMIT_S):
            self._problems.append(f"the episodes were not committed within {_COMMIT_S:g} s")
        self.dataset.close()
        if self._problems:
            raise RuntimeError(self._problems[0])

    def _begin(self, task: str) -> EpisodeWriter:
        self._writer = self.dataset.begin(task)
        return self._writer

    def _committed(self, result: Committed[EpisodeReport]) -> None:
        self._problems += result.problems


def messages(setting: Setting, seconds: float) -> Iterator[tuple[int, str, Any]]:
    """(time of arrival, source of a session, message), in order of time: what the numbered robot would send."""
    scenes = [Scene(setting.height, setting.width, seed) for seed in range(setting.cameras)]
    frames = 0
    for step in range(round(seconds * JOINT_RATE_HZ)):
        stamp_ns = START_NS + step * 1_000_000_000 // round(JOINT_RATE_HZ)
        for source, leader in ((STATE_STREAM, False), (f"record:{KEY}", True)):
            values = array.array("d", positions(step, leader))
            yield stamp_ns + LAG_NS, source, _stamped(stamp_ns, name=list(JOINTS), position=values)
        while (frame_ns := START_NS + frames * 1_000_000_000 // setting.rate_hz) <= stamp_ns:
            for index, name in enumerate(setting.names):
                picture = scenes[index].draw(picture_number(frames, index, setting.cameras))
                yield stamp_ns + LAG_NS, name, _image(frame_ns, picture)
            frames += 1


def _image(stamp_ns: int, rgb: np.ndarray) -> Any:
    data = array.array("B")
    data.frombytes(memoryview(rgb.data).cast("B"))
    height, width, _ = rgb.shape
    return _stamped(stamp_ns, height=height, width=width, encoding="rgb8", step=3 * width, data=data)


def _stamped(stamp_ns: int, **fields: Any) -> Any:
    stamp = SimpleNamespace(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)
    return SimpleNamespace(header=SimpleNamespace(stamp=stamp, frame_id=""), **fields)


def published(setting: Setting, seconds: float) -> Published:
    """The stamps of ``messages``, for those who compare."""
    joints = START_NS + np.arange(round(seconds * JOINT_RATE_HZ), dtype=np.int64) * 1_000_000_000 // round(
        JOINT_RATE_HZ
    )
    frames = START_NS + np.arange(round(seconds * setting.rate_hz), dtype=np.int64) * 1_000_000_000 // setting.rate_hz
    frames = frames[frames <= joints[-1]]
    return Published(
        dict.fromkeys(setting.names, frames), joints, joints, dict.fromkeys(setting.names, np.zeros_like(frames))
    )
