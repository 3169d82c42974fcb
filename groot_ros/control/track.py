"""What the robot is told, tick by tick: past, planned, and how it comes to rest after that. Immutable."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groot_ros.control.interpolation import resample
from groot_ros.control.limiter import Motion
from groot_ros.control.space import Array, Space


@dataclass(frozen=True)
class Track:
    """Commands on control ticks; tick ``n`` is at ROS time ``n * period_ns``.

    Attributes:
        space: the command space.
        period_ns: time between ticks.
        first_tick: tick of row 0.
        values: float64 [T, C].
        velocities: float64 [T, V]; the last row is 0, so that a track that nothing follows ends at rest.
        planned_end: last tick that a chunk asked for; after it the rows brake.
    """

    space: Space
    period_ns: int
    first_tick: int
    values: Array
    velocities: Array
    planned_end: int

    @property
    def last_tick(self) -> int:
        """Tick of the last row; the robot rests from there on."""
        return self.first_tick + len(self.values) - 1

    def motion(self, tick: int) -> Motion:
        """What is commanded at ``tick``: held at the ends."""
        if tick >= self.last_tick:
            return Motion(self.space.at_rest(self.values[-1]), np.zeros(self.space.tangent_count))
        row = max(tick - self.first_tick, 0)
        return Motion(self.values[row], self.velocities[row])

    def rows(self, first: int, last: int) -> tuple[Array, Array]:
        """Values and velocities of ticks ``first`` to ``last``, both included; held, at rest, outside the track."""
        ticks = np.arange(first, last + 1)
        index = np.clip(ticks - self.first_tick, 0, len(self.values) - 1)
        velocities = self.velocities[index].copy()
        velocities[(ticks < self.first_tick) | (ticks > self.last_tick)] = 0.0
        return self.values[index], velocities

    def sample(self, times_ns: NDArray[np.int64]) -> Array:
        """Values [N, C] at any times: between the rows as they are executed; numbers that step, as of the last tick."""
        first = int(np.clip(times_ns[0] // self.period_ns, self.first_tick, self.last_tick))
        last = int(np.clip(-(-times_ns[-1] // self.period_ns), first, self.last_tick))
        ticks = np.arange(first, last + 1)
        rows, knots = self.values[ticks - self.first_tick], self.velocities[ticks - self.first_tick]
        values, _ = resample(self.space, ticks * self.period_ns, rows, times_ns, knots)
        before = np.clip(times_ns // self.period_ns - first, 0, len(rows) - 1)
        columns, tangents = self.space.lines
        steps = columns[self.space.steps[tangents]]
        values[:, steps] = rows[before][:, steps]
        return values

    def until(self, tick: int, history: int) -> tuple[int, Array, Array]:
        """First tick, values and velocities of the rows up to ``tick``, at most ``history`` of them, at least one."""
        first = max(self.first_tick, tick - history + 1, 0)
        first = min(first, tick)
        values, velocities = self.rows(first, tick)
        return first, values, velocities


def spliced(old: Track, tick: int, values: Array, velocities: Array, planned_end: int, history: int) -> Track:
    """``old`` up to ``tick``, then the rows given, the last of which is at rest."""
    first, past_values, past_velocities = old.until(tick, history)
    return Track(
        old.space,
        old.period_ns,
        first,
        np.concatenate([past_values, values]),
        np.concatenate([past_velocities, velocities]),
        planned_end,
    )


def resting(space: Space, period_ns: int, tick: int, values: Array) -> Track:
    """A track of one row: the robot stands at ``values`` [C] at ``tick``."""
    return Track(space, period_ns, tick, values[None].copy(), np.zeros((1, space.tangent_count)), tick)
