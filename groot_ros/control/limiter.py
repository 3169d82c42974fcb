"""Targets on control ticks -> commands that obey the limits, and the stop that is always possible.

A command is a value and a velocity per column on every tick. joint_trajectory_controller runs the cubic Hermite
polynomial through two neighbouring rows, so that curve is what must obey the limits, not only its ends. Its
acceleration is linear in time, its velocity a parabola, which makes each check exact.

What keeps the bounds is an invariant: on every tick the column could brake, by ``acceleration`` for whole ticks, to
rest before its bound (``_Law.stop_distance``). A row that would break it is never produced. All state is in the row
before, so a caller may start anew from any row, e.g. when a new chunk replaces the targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groot_ros.control.space import Space

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Slack of the checks, for the rounding of a row that was made to lie exactly on a limit.
_POSITION_SLACK = 1e-12
_SPEED_SLACK = 1e-11
_ACCELERATION_SLACK = 5e-10

# Least share of the acceleration that is counted on to brake relative to a target that brakes itself.
_LEAST = 0.25

_RULES = ("position", "velocity", "acceleration")


@dataclass(frozen=True)
class Motion:
    """One row of a command: where it is and how fast it goes.

    Attributes:
        values: float64 [C], see ``Space``.
        velocity: float64 [V], per s.
    """

    values: Array
    velocity: Array


@dataclass(frozen=True)
class Limited:
    """Commands, one row per tick.

    Attributes:
        values: float64 [T, C].
        velocities: float64 [T, V], per s.
        clamped: ``"<name>.position|velocity|acceleration"`` -> number of ticks whose target was not taken as it came,
            by the first limit, in this order, that going there would have broken.
    """

    values: Array
    velocities: Array
    clamped: Mapping[str, int]


def follow(space: Space, start: Motion, targets: Array, target_velocities: Array, period_s: float) -> Limited:
    """Return what to command so that ``targets`` are met as soon as the limits let them be.

    Where a target, with its velocity, can be met within its tick, it is met exactly. Otherwise the column moves at
    constant acceleration for the tick, so that it meets the moving target in the fewest ticks without shooting past
    it: a far target that stands still is approached monotonically. A start outside the bounds, or faster than
    allowed, is led back; until it is back, its bound is where it can stop. An orientation follows the same law per
    axis, in the tangent space of the row before, with 1/sqrt(3) of its limits per axis. Columns of unlimited velocity
    take their target at once; those of unlimited acceleration turn round within a tick.

    Args:
        space: the columns and their limits.
        start: the row before the first one.
        targets: float64 [T, C], one row per tick. More rows than are used now are of use: where the last row moves,
            nothing says how its velocity goes on, and it is taken to be as before.
        target_velocities: float64 [T, V], per s.
        period_s: time between rows (s).

    Raises:
        ValueError: a shape does not fit the space, a number is not finite, or ``period_s`` is not positive.
    """
    _check(space, start, period_s)
    _check_array("targets", targets, (len(targets), space.value_count))
    _check_array("target_velocities", target_velocities, (len(targets), space.tangent_count))
    law = _Law(space, period_s)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        goals = law.goals(targets, target_velocities)
        return _follow(law, start, goals)


def brake(space: Space, start: Motion, period_s: float) -> Limited:
    """Return the way to rest, every column at its acceleration limit: T >= 1 rows, the last one with velocity 0.

    Columns that rest at zero (speeds) go to 0 within their limits; all others stop on their way, without turning back.
    Bounds need no look: a start that ``follow`` made stops inside them.

    Raises:
        ValueError: as ``follow``.
    """
    _check(space, start, period_s)
    law = _Law(space, period_s)
    speed = np.abs(start.velocity)
    ticks = np.where(law.free, 1.0, np.ceil(speed / law.delta))
    count = max(1, int(ticks.max(initial=1.0)))
    value_columns, tangent_columns = space.lines
    falling = tangent_columns[space.rests_at_zero[tangent_columns]]
    falling_values = value_columns[space.rests_at_zero[tangent_columns]]
    down = None
    if len(falling):
        down = _fall(space, falling, Motion(start.values[falling_values], start.velocity[falling]), period_s)
        count = max(count, len(down.values))

    left = np.maximum(speed - np.arange(count + 1)[:, None] * law.delta, 0.0)
    left[1:, law.free] = 0.0
    left[-1] = 0.0
    velocities = np.sign(start.velocity) * left
    ways = 0.5 * period_s * (velocities[:-1] + velocities[1:])
    # At once, but on a curve that neither turns back nor leaves the bounds, see _Law.goals.
    ways[0, law.free] = start.velocity[law.free] * period_s / 3.0
    values = np.empty((count, space.value_count))
    current = start.values
    for tick, way in enumerate(ways):
        values[tick] = current = space.plus(current, way)
    velocities = velocities[1:]
    if down is not None:
        values[:, falling_values] = 0.0
        velocities[:, falling] = 0.0
        values[: len(down.values), falling_values] = down.values
        velocities[: len(down.values), falling] = down.velocities
    return Limited(values, velocities, {})


def _fall(space: Space, columns: NDArray[np.intp], start: Motion, period_s: float) -> Limited:
    """The way of the tangent ``columns`` (speeds) [N] to value 0 and rest; as many rows as that takes."""
    part = Space(
        names=tuple(space.names[column] for column in columns),
        rotations=(),
        lower=np.minimum(space.lower[columns], 0.0),  # to stop is allowed whatever the bounds say
        upper=np.maximum(space.upper[columns], 0.0),
        velocity=space.velocity[columns],
        acceleration=space.acceleration[columns],
        interpolation=tuple(space.interpolation[column] for column in columns),
        rests_at_zero=space.rests_at_zero[columns],
    )
    law = _Law(part, period_s)
    # Stop, come back, and at most dist/velocity + 2 sqrt(dist/acceleration), the time of a trapezoidal profile.
    speed = np.abs(start.velocity)
    way = np.abs(start.values) + law.stop_distance(speed)
    needed = speed / law.delta + way / (law.speed * period_s) + 2.0 * np.sqrt(way / (law.delta * period_s))
    count = int(np.where(law.free, 0.0, needed).max(initial=0.0)) + 8
    zeros = np.zeros((count, len(columns)))
    down = follow(part, start, zeros, zeros, period_s)
    moving = np.flatnonzero(np.any((down.values != 0.0) | (down.velocities != 0.0), axis=1))
    rows = int(moving[-1]) + 2 if len(moving) else 1
    return Limited(down.values[:rows], down.velocities[:rows], {})


@dataclass(frozen=True)
class _Goals:
    """Targets as they may be met: inside the bounds; all [T, ...], what depends on the row before is left out."""

    values: Array  # [T, C]
    velocities: Array  # [T, V]
    gains: Array  # [T, V]: what the velocity grows by from this row to the next
    outside: Mask  # [T, V]: the target was outside the bounds
    unstoppable: Mask  # [T, V]: from there and at that velocity the column could not stop before its bound
    turning: Mask  # [T, V]: the curve that ends here may have left the bounds on the other side


class _Law:
    """The limits of a space per tick of ``period_s``, with numbers for the columns that have none."""

    def __init__(self, space: Space, period_s: float) -> None:
        self.space, self.period_s = space, period_s
        self.values, self.tangents = space.lines
        self.lower, self.upper = space.lower, space.upper
        self.free = np.isinf(space.velocity)
        self.speed = np.where(self.free, 1.0, space.velocity * space.axis_share)
        at_once = 4.0 * self.speed / period_s
        self.acceleration = np.where(
            self.free, at_once, np.where(np.isinf(space.acceleration), at_once, space.acceleration * space.axis_share)
        )
        self.delta = self.acceleration * period_s
        # no check ever fails in a free column
        self.most_speed = np.where(self.free, np.inf, self.speed + _SPEED_SLACK)
        self.most_acceleration = np.where(self.free, np.inf, self.acceleration + _ACCELERATION_SLACK)
        # More way than this to go makes no difference: it lets the column go faster than its limit.
        self.far = 4.0 * self.speed * period_s + self.speed**2 / self.acceleration
        self._ways = np.empty((3, space.tangent_count))
        self._deltas = np.stack((self.delta, self.delta, self.delta))

    def stop_distance(self, speed: Array) -> Array:
        """Way [..., V] to rest from ``speed`` >= 0, losing acceleration * period per tick: a sum of trapezoids.

        It is at least the continuous speed^2 / (2 acceleration), and at least half a tick at ``speed``.
        """
        ticks = np.ceil(speed / self.delta)
        return self.period_s * ((ticks - 0.5) * speed - 0.5 * self.delta * ticks * (ticks - 1.0))

    def reach(self, way: Array, delta: Array) -> Array:
        """Highest speed v >= 0 [..., V] with v * period / 2 + its stop distance <= ``way`` (0 where that is < 0).

        ``delta`` is the speed that each tick of the stop takes away.
        """
        way = np.minimum(np.maximum(way, 0.0), self.far)
        ticks = np.ceil(0.5 * (np.sqrt(1.0 + (8.0 / self.period_s) * way / delta) - 1.0))
        ticks = np.maximum(ticks, 1.0)
        return (way / self.period_s + 0.5 * delta * ticks * (ticks - 1.0)) / ticks

    def lines(self, values: Array) -> Array:
        """[..., C] -> [..., V]: the values in the tangent columns, 0 for orientations (they have no bounds)."""
        if not self.space.rotations:
            return values
        result = np.zeros((*values.shape[:-1], self.space.tangent_count))
        result[..., self.tangents] = values[..., self.values]
        return result

    def goals(self, targets: Array, velocities: Array) -> _Goals:
        """The targets [T, C] with velocities [T, V], held inside the bounds."""
        asked = self.lines(targets)
        lines = np.minimum(np.maximum(asked, self.lower), self.upper)
        outside = lines != asked
        values = targets.copy()
        values[:, self.values] = lines[:, self.tangents]
        velocities = np.where(outside, 0.0, velocities)
        up, down = self.upper - lines, lines - self.lower
        if self.free.any():
            # A Hermite segment stays inside when value +- velocity * period / 3 does at both ends.
            most = np.where(self.space.steps, 0.0, 3.0 / self.period_s * np.minimum(up, down))
            kept = np.minimum(np.maximum(velocities, -most), most)
            velocities = np.where(self.free, kept, velocities)
        speed = np.abs(velocities)
        forward = velocities > 0.0
        ahead, behind = np.where(forward, up, down), np.where(forward, down, up)
        unstoppable = ~self.free & (self.stop_distance(speed) > ahead + _POSITION_SLACK)
        turning = ~self.free & (speed * self.period_s / 3.0 > behind)
        gains = np.zeros_like(velocities)
        if len(gains) > 1:
            np.subtract(velocities[1:], velocities[:-1], out=gains[:-1])
            gains[-1] = gains[-2]
        return _Goals(values, velocities, gains, outside, unstoppable, turning)

    def broken(self, way: Array, v: Array, w: Array) -> tuple[Mask, Mask]:
        """Does the Hermite segment over ``way`` [..., V], from velocity ``v`` to ``w``, break velocity, acceleration?

        A column that is faster than allowed already may be so, but no faster.
        """
        mean = 6.0 / self.period_s * way
        first = (mean - 4.0 * v - 2.0 * w) / self.period_s
        last = (2.0 * v + 4.0 * w - mean) / self.period_s
        sharp = np.maximum(np.abs(first), np.abs(last)) > self.most_acceleration
        # The velocity is extreme where the acceleration, first + (last - first) s, is 0.
        span = np.where(first * last < 0.0, first - last, np.inf)
        extreme = np.abs(v + 0.5 * self.period_s * first * (first / span))
        fast = (extreme > np.maximum(np.abs(v), self.most_speed)) | (np.abs(w) > self.most_speed)
        return fast | np.isnan(extreme), sharp

    def leaves(self, way: Array, v: Array, w: Array, up: Array, down: Array) -> Mask:
        """Does the Hermite segment over ``way`` [V] go further than ``up`` or ``-down`` in between?"""
        mean = 6.0 / self.period_s * way
        first = (mean - 4.0 * v - 2.0 * w) / self.period_s
        last = (2.0 * v + 4.0 * w - mean) / self.period_s
        third = (last - first) / self.period_s  # velocity(t) = v + first t + third t^2 / 2
        half = -(first + np.copysign(np.sqrt(first * first - 2.0 * third * v), first))  # NaN: never at rest
        result = np.zeros(len(way), dtype=bool)
        for time in (half / third, 2.0 * v / half):
            inside = (time > 0.0) & (time < self.period_s)
            at = time * (v + time * (0.5 * first + time * third / 6.0))
            result |= inside & ((at > up + _POSITION_SLACK) | (at < -down - _POSITION_SLACK))
        return result

    def approach(self, way: Array, v: Array, w: Array, gain: Array, up: Array, down: Array) -> Array:
        """The velocity [V] at the end of a tick of constant acceleration towards a target that cannot be met in it.

        ``way`` to the target, whose velocity is ``w`` and grows by ``gain`` per tick; ``up`` and ``down`` are the room
        to stop in.
        """
        half = 0.5 * self.period_s
        short = way - half * (v + w)  # what would be left of the way with w at the end
        # What brakes relative to the target: a target that brakes too leaves less. Without this a path at four fifths
        # of the acceleration limit is never caught, only swung around.
        closing = np.minimum(np.maximum(self.delta + np.sign(short) * gain, _LEAST * self.delta), self.delta)
        gone = half * v
        ways, deltas = self._ways, self._deltas
        ways[0], ways[1], ways[2] = np.abs(short), up - gone, down + gone
        deltas[0] = closing
        gained, rise, sink = self.reach(ways, deltas)
        wanted = w + np.copysign(gained, short)
        wanted = np.minimum(np.maximum(wanted, -np.minimum(self.speed, sink)), np.minimum(self.speed, rise))
        return np.minimum(np.maximum(wanted, v - self.delta), v + self.delta)


def _follow(law: _Law, start: Motion, goals: _Goals) -> Limited:
    """``follow`` for targets that are held inside the bounds."""
    space = law.space
    values, velocities = goals.values.copy(), goals.velocities.copy()
    kept = np.zeros((3, *goals.outside.shape), dtype=bool)  # what kept the target from being met, see _RULES
    easy = _easy(law, goals)
    current, v = start.values, start.velocity
    exact = False  # the row before is its target
    for tick in range(len(values)):
        if exact and easy[tick]:
            continue
        if exact:
            current, v = goals.values[tick - 1], goals.velocities[tick - 1]
        goal, w = goals.values[tick], goals.velocities[tick]
        line = law.lines(current)
        way = space.minus(goal, current)
        fast, sharp = law.broken(way, v, w)
        # Where a start cannot stop before its bound, the bound is where it can.
        room = law.stop_distance(np.abs(v))
        up = np.maximum(law.upper - line, np.where(v > 0.0, room, 0.0))
        down = np.maximum(line - law.lower, np.where(v < 0.0, room, 0.0))
        misses = goals.unstoppable[tick]
        if goals.turning[tick].any():
            misses = misses | (goals.turning[tick] & law.leaves(way, v, w, up, down))
        missed = misses | fast | sharp
        exact = not missed.any()
        if exact:
            continue
        kept[0, tick], kept[1, tick], kept[2, tick] = misses, fast, sharp
        met = ~missed
        for _, tangent in space.rotations:  # one axis alone cannot arrive: the others turn it
            met[tangent : tangent + 3] = met[tangent : tangent + 3].all()
        v1 = np.where(met, w, law.approach(way, v, w, goals.gains[tick], up, down))
        way = np.where(met, way, 0.5 * law.period_s * (v + v1))
        current, v = _arrive(space, current, way, goal, met), v1
        values[tick], velocities[tick] = current, v
    return Limited(values, velocities, _counts(space, goals, kept))


def _easy(law: _Law, goals: _Goals) -> Mask:
    """[T]: going from the target before to this one breaks no limit; False for the first."""
    easy = np.zeros(len(goals.values), dtype=bool)
    if len(easy) > 1:
        ways = law.space.minus(goals.values[1:], goals.values[:-1])
        fast, sharp = law.broken(ways, goals.velocities[:-1], goals.velocities[1:])
        hard = fast | sharp | goals.turning[1:] | goals.unstoppable[1:]
        easy[1:] = ~hard.any(axis=1)
    return easy


def _arrive(space: Space, current: Array, way: Array, goal: Array, met: Mask) -> Array:
    """``current`` moved by ``way``, with the very numbers of ``goal`` in columns that ``met`` it."""
    moved = space.plus(current, way)
    if not space.rotations:
        return np.where(met, goal, moved)
    values, tangents = space.lines
    moved[values] = np.where(met[tangents], goal[values], moved[values])
    for value, tangent in space.rotations:
        if met[tangent]:
            moved[value : value + 4] = goal[value : value + 4]
    return moved


def _counts(space: Space, goals: _Goals, kept: Mask) -> dict[str, int]:
    """Ticks by name and rule, each counted for the first of the rules in ``kept`` [3, T, V]."""
    kept[0] |= goals.outside
    kept[1:] &= ~kept[0]
    kept[2] &= ~kept[1]
    numbers = kept.sum(axis=1)
    return {
        f"{space.names[column]}.{_RULES[rule]}": int(numbers[rule, column])
        for column, rule in np.argwhere(numbers.T).tolist()
    }


def _check(space: Space, start: Motion, period_s: float) -> None:
    if not (period_s > 0.0 and np.isfinite(period_s)):
        raise ValueError(f"period_s is {period_s}: expected a positive number of seconds")
    _check_array("start.values", start.values, (space.value_count,))
    _check_array("start.velocity", start.velocity, (space.tangent_count,))


def _check_array(name: str, array: Array, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, found {array.shape}")
    if not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))[0]
        raise ValueError(f"{name}{bad.tolist()} is {array[tuple(bad)]}: expected finite numbers")
