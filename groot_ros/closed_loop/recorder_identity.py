"""Whether a dataset holds what the numbered robot sent: picture by picture, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groot_ros.closed_loop import barcode
from groot_ros.closed_loop.numbered_robot import STATE_STREAM, Published, picture_number, position_number, positions
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.read import Dataset
from groot_ros.dataset.spec import ACTION, AGES, FLAG_REPEATED, FLAGS, IMAGES, STAMP, STATE, TIMESTAMP
from groot_ros.dataset.video import decode_frames

Integers = NDArray[np.int64]
_UNREADABLE = -2  # counted as a wrong picture


@dataclass(frozen=True)
class CameraProof:
    """One camera over all episodes.

    Attributes:
        published: frames sent from the first to the last one that a row should have.
        recorded: of them in a row.
        lost: of them in no row although they were the newest at some row's time.
        superseded: of them in no row because the next one was sent before the next row's time.
        rows: rows of the parquet files.
        frames: decoded from the videos.
        late: rows whose picture is not the newest that was sent before the row's time.
        wrong: rows whose picture is not the one that was sent with the stamp that the row gives.
        age_max_ms: from the stamp of the picture to the row's time.
        sent_late_p99_ms, sent_late_max_ms: from a picture's stamp until the publisher had sent it.
    """

    published: int
    recorded: int
    lost: int
    superseded: int
    rows: int
    frames: int
    late: int
    wrong: int
    age_max_ms: float
    sent_late_p99_ms: float
    sent_late_max_ms: float


@dataclass(frozen=True)
class Proof:
    """A dataset against what was sent.

    Attributes:
        episodes: that were compared.
        rows: in all of them.
        missing_rows: ticks of the time that was to be recorded that are in no episode.
        repeated_rows: rows that were flagged as repeating the one before.
        off_grid: rows whose stamp is not a whole number of steps after the episode's first, or whose timestamp is not.
        cameras: camera -> proof.
        wrong_states, wrong_actions: rows whose numbers are not those of the message sent: for states the one with the
            stamp that the row gives, for actions any at or before the row's time.
        late_states: rows with another state than the newest that was sent before their time.
        late_actions: the same for actions.
    """

    episodes: int
    rows: int
    missing_rows: int
    repeated_rows: int
    off_grid: int
    cameras: dict[str, CameraProof]
    wrong_states: int
    wrong_actions: int
    late_states: int
    late_actions: int

    @property
    def identical(self) -> bool:
        """Every row of every camera holds the picture, state and action that it says."""
        wrong = self.wrong_states + self.wrong_actions + self.off_grid
        return not wrong and all(not camera.wrong and camera.rows == camera.frames for camera in self.cameras.values())

    @property
    def lost(self) -> int:
        """Frames that should be in a row and are not, and frames of rows that are missing."""
        missing = self.missing_rows + self.repeated_rows
        return sum(camera.lost for camera in self.cameras.values()) + missing * len(self.cameras)


@dataclass(frozen=True)
class _Rows:
    """Rows of all episodes [n], in order; ``ages`` [n, streams], ``states`` and ``actions`` [n, joints]."""

    lengths: list[int]
    streams: list[str]
    stamps: Integers
    ages: Integers
    repeated: NDArray[np.bool_]
    states: NDArray[np.float32]
    actions: NDArray[np.float32]

    @classmethod
    def of(cls, dataset: Dataset) -> _Rows:
        def column(name: str) -> NDArray[Any]:
            return np.concatenate([dataset.column(entry.index, name) for entry in dataset.episodes])

        return cls(
            lengths=[len(dataset.column(entry.index, STAMP)) for entry in dataset.episodes],
            streams=list(dataset.features[AGES]["names"]),
            stamps=column(STAMP).reshape(-1),
            ages=column(AGES),
            repeated=(column(FLAGS).reshape(-1) & FLAG_REPEATED) != 0,
            states=column(STATE),
            actions=column(ACTION),
        )

    def age_ns(self, stream: str) -> Integers:
        return self.ages[:, self.streams.index(stream)]

    def used(self, stream: str, sent: Integers) -> Integers:
        """Number of the message that each row says it is of, -1 where none was sent with that stamp."""
        stamps = self.stamps - self.age_ns(stream)
        found = np.searchsorted(sent, stamps).clip(0, len(sent) - 1)
        return np.where(sent[found] == stamps, found, -1)

    def newest(self, sent: Integers) -> Integers:
        """Number of the newest message at each row's time."""
        return np.searchsorted(sent, self.stamps, "right") - 1


def prove(root: Path, published: Published, times_ns: tuple[int, int] | None = None) -> Proof:
    """Compare all episodes of a dataset, which were recorded in one go, with what was sent; decodes every picture.

    Args:
        times_ns: from when to when there should be rows (ROS ns); from the first to the last one when left out.

    Raises: DatasetError: a file cannot be read, or there is no episode.
    """
    dataset = Dataset(root)
    if not dataset.episodes:
        raise DatasetError(f"{root}: expected at least one episode, found none")
    rows = _Rows.of(dataset)
    first_ns, last_ns = int(rows.stamps[0]), int(rows.stamps[-1])
    from_ns, to_ns = times_ns or (first_ns, last_ns)
    ticks = round((last_ns - first_ns) * dataset.fps / 1e9) + 1
    before = max(first_ns - from_ns, 0) * dataset.fps // 1_000_000_000
    after = max(to_ns - last_ns, 0) * dataset.fps // 1_000_000_000
    joints = rows.used(STATE_STREAM, published.joints)
    told, newest_command = position_number(rows.actions[:, 0]), rows.newest(published.leader)
    own_states = positions(joints).astype(np.float32)
    own_actions = positions(told, leader=True).astype(np.float32)
    return Proof(
        episodes=len(rows.lengths),
        rows=len(rows.stamps),
        missing_rows=before + ticks + after - len(rows.stamps),
        repeated_rows=_count(rows.repeated),
        off_grid=sum(_off_grid(dataset, entry.index) for entry in dataset.episodes),
        cameras={name: _camera(dataset, rows, published, name) for name in published.cameras},
        wrong_states=_count((joints < 0) | (rows.states != own_states).any(axis=1)),
        wrong_actions=_count((told > newest_command) | (rows.actions != own_actions).any(axis=1)),
        late_states=_count(~rows.repeated & (joints < rows.newest(published.joints))),
        late_actions=_count(~rows.repeated & (told < newest_command)),
    )


def _camera(dataset: Dataset, rows: _Rows, published: Published, name: str) -> CameraProof:
    index, sent = list(published.cameras).index(name), published.cameras[name]
    shown, frames = [], 0
    for entry, length in zip(dataset.episodes, rows.lengths, strict=True):
        numbers = _numbers(decode_frames(dataset.video(entry.index, f"{IMAGES}.{name}")))
        frames += len(numbers)
        # Frames without a row, and rows without a frame, show in the counts; here the others are compared.
        shown.append(np.pad(numbers[:length], (0, max(length - len(numbers), 0)), constant_values=_UNREADABLE))
    used, newest = rows.used(name, sent), rows.newest(sent)
    expected = picture_number(used, index, len(published.cameras))
    wanted = np.unique(newest)
    first, last = int(wanted[0]), int(wanted[-1])
    recorded = np.unique(used[(used >= first) & (used <= last)])
    lost = np.setdiff1d(wanted, recorded)
    sent_late_ms = published.late_ns[name] / 1e6
    return CameraProof(
        published=last - first + 1,
        recorded=len(recorded),
        lost=len(lost),
        superseded=last - first + 1 - len(np.union1d(recorded, wanted)),
        rows=len(rows.stamps),
        frames=frames,
        late=_count(~rows.repeated & (used < newest)),
        wrong=_count((used < 0) | (np.concatenate(shown) != expected)),
        age_max_ms=float(rows.age_ns(name).max()) / 1e6,
        sent_late_p99_ms=float(np.percentile(sent_late_ms, 99)),
        sent_late_max_ms=float(sent_late_ms.max()),
    )


def _numbers(pictures: Iterator[NDArray[np.uint8]]) -> Integers:
    """Barcode of each picture."""

    def number(picture: NDArray[np.uint8]) -> int:
        try:
            return barcode.read(picture)
        except ValueError:
            return _UNREADABLE

    return np.array([number(picture) for picture in pictures], dtype=np.int64)


def _off_grid(dataset: Dataset, episode: int) -> int:
    stamps = dataset.column(episode, STAMP).reshape(-1)
    rows = np.arange(len(stamps), dtype=np.int64)
    off = np.abs(stamps - stamps[0] - rows * 1_000_000_000 // dataset.fps) > 1
    timestamps = dataset.column(episode, TIMESTAMP).reshape(-1)
    return _count(off | (timestamps != (rows / dataset.fps).astype(np.float32)))


def _count(where: NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(where))
