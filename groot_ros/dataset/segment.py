"""The rows of one segment of an episode: an unbroken run of ticks, one writer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from groot_ros.dataset.commanded import Values
from groot_ros.dataset.session_types import RowWriter
from groot_ros.dataset.spec import FLAG_REPEATED, DatasetSpec
from groot_ros.observation.images import Frame
from groot_ros.observation.types import Samples


@dataclass(frozen=True)
class Tick:
    """One complete tick of the grid.

    Attributes:
        time_ns: on the grid.
        samples: observations.
        action: action key -> float32 [D], the command in force.
        intervention: a person commands.
    """

    time_ns: int
    samples: Samples
    action: Values
    intervention: bool = False


@dataclass
class Segment:
    """Ticks in, rows out. Row ``k`` has the time ``start_ns + k * 10**9 // fps``.

    Args:
        spec: of the dataset.
        writer: takes the rows.
        start_ns: time of the first tick.
        from_next: actions of the keys that are the next tick's state, from that tick's states; None: there are none.

    Attributes:
        rows: written.
        flagged: of them, those that repeat the one before.
        flagged_run: such rows at the end.
    """

    spec: DatasetSpec
    writer: RowWriter
    start_ns: int
    from_next: Callable[[Mapping[str, NDArray[np.float32]]], Values] | None = None
    rows: int = 0
    flagged: int = 0
    flagged_run: int = 0
    _last_row: NDArray[np.void] | None = None
    _last_stamps_ns: Mapping[str, int] = field(default_factory=dict)
    _pending: Tick | None = None

    def put(self, tick: Tick) -> bool:
        """Write a tick; with actions that are the next state, the tick before it.

        Returns: False when the writer did not take it: an encoder is behind, or it has a problem.
        """
        if self.from_next is None:
            return self._write(tick, tick.action)
        before, self._pending = self._pending, tick
        return before is None or self._write(before, {**before.action, **self.from_next(tick.samples.states)})

    def repeat(self) -> bool:
        """Write the last row once more for the next tick, flagged.

        Returns: False when there is no row yet, or the writer did not take it.
        """
        if self._last_row is None:
            return False
        row = self._last_row.copy()
        row["stamp_ns"] = self.start_ns + self.rows * 1_000_000_000 // self.spec.fps
        row["age_ns"] += row["stamp_ns"] - self._last_row["stamp_ns"]
        row["flags"] |= FLAG_REPEATED
        if not self._add(row, dict.fromkeys(self.spec.cameras)):
            return False
        self.flagged += 1
        self.flagged_run += 1
        return True

    def skip(self) -> bool:
        """``repeat`` for a tick that was refused before it came here: first write the tick that waits for it."""
        before, self._pending = self._pending, None
        if before is not None and self.from_next is not None:
            # The row to come repeats the state of the one before, so that state is what came next.
            action = {**before.action, **self.from_next(before.samples.states)}
            if not self._write(before, action) and not self.repeat():
                return False
        return self.repeat()

    def _write(self, tick: Tick, action: Values) -> bool:
        stamps_ns = tick.samples.stamps_ns
        frames: dict[str, Frame | None] = {}
        for key, camera in self.spec.cameras.items():
            same = stamps_ns[camera.camera] == self._last_stamps_ns.get(camera.camera)
            frames[key] = None if same else tick.samples.frames[camera.camera]  # None: not decoded again
        ages_ns = {stream: tick.time_ns - stamps_ns[stream] for stream in self.spec.streams}
        row = self.spec.row(tick.samples.states, action, tick.time_ns, ages_ns, tick.intervention)
        if not self._add(row, frames):
            return False
        self._last_stamps_ns = stamps_ns
        self.flagged_run = 0
        return True

    def _add(self, row: NDArray[np.void], frames: Mapping[str, Frame | None]) -> bool:
        if not self.writer.add(row, frames):
            return False
        self._last_row = row
        self.rows += 1
        return True
