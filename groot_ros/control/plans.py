"""What the timeline is told, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groot_ros.control.handover import Handover
from groot_ros.control.limiter import Motion
from groot_ros.control.space import Array
from groot_ros.control.track import Track
from groot_ros.policy.base import Chunk, due_ns


@dataclass(frozen=True)
class Pace:
    """What the timeline is told about time.

    Attributes:
        period_ns: between control ticks.
        dt_s: between rows of a chunk.
        horizon: rows of a chunk.
        replan_ns: from one launch to the next, when nothing calls for an earlier one.
        wait_ns: what may pass from a due launch to the launch (the slowest camera's period).
        first_delay_ticks: how long an inference takes before one has been counted.
    """

    period_ns: int
    dt_s: float
    horizon: int
    replan_ns: int
    wait_ns: int
    first_delay_ticks: int

    @property
    def dt_ns(self) -> int:
        """Time between rows, rounded."""
        return round(self.dt_s * 1e9)

    def due_ns(self, stamp_ns: int) -> NDArray[np.int64]:
        """When the rows of a chunk of ``stamp_ns`` are due, int64 [horizon]: ``stamp + (i + 1) * dt``."""
        return due_ns(stamp_ns, self.dt_s, self.horizon)

    def time_ns(self, tick: int) -> int:
        """ROS time of a tick."""
        return tick * self.period_ns

    def tick(self, time_ns: int) -> int:
        """The last tick at or before a time."""
        return time_ns // self.period_ns


@dataclass(frozen=True)
class Step:
    """What is commanded on one tick.

    Attributes:
        tick: its number.
        motion: values and velocities.
        planned: a chunk asked for it; else the robot brakes or holds.
        resting: nothing moves any more.
    """

    tick: int
    motion: Motion
    planned: bool
    resting: bool


@dataclass(frozen=True)
class Accepted:
    """A chunk on its way into the timeline; ``commit`` makes it so.

    Attributes:
        chunk: as the policy said it.
        base: the track that was executed when this was planned.
        track: what is executed from ``first_tick`` on, and a second of what was before.
        first_tick: first tick with something new.
        trimmed: leading rows of the chunk that are past by then.
        clamped: ``<name>.<rule>`` -> ticks that the gate changed.
        stamp_ns: what the due times of the rows count from: the observation's stamp; in mode ``sync`` the start of the
            execution.
        rows: [H, C] as commanded values, before the gate.
        handover: how old and new fit together; None where there was nothing to take over from.
    """

    chunk: Chunk
    base: Track | None
    track: Track
    first_tick: int
    trimmed: int
    clamped: Mapping[str, int]
    stamp_ns: int
    rows: Array
    handover: Handover | None


@dataclass(frozen=True)
class Unusable:
    """A chunk that is not executed; the old one goes on. ``reason`` is ``chunk_too_late`` or ``chunk_older``."""

    reason: str
    message: str
