"""From the rows of a chunk to control ticks: smooth columns stay smooth, switches stay switches."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from groot_ros.control import rotation
from groot_ros.control.space import Space

Array = NDArray[np.float64]
Times = NDArray[np.int64]


def resample(
    space: Space, due_ns: Times, values: Array, at_ns: Times, knots: Array | None = None
) -> tuple[Array, Array]:
    """Values [T, C] and velocities [T, V] (per s) at the times ``at_ns`` of a path through ``values`` at ``due_ns``.

    By the column's ``interpolation``:

    * ``cubic``: the cubic Hermite polynomial through neighbouring rows. The velocity in a row is the mean of the two
      slopes beside it, each weighted with the length of the other's segment (the derivative of the parabola through
      three rows), at the ends the slope of the one segment. Value and velocity are continuous.
    * ``linear``: straight lines; the velocity is that of the segment, of the one to come where two meet.
    * ``step``: a row's value holds from after the row before until its own due time: what is due is commanded as soon
      as the row before has passed. Never a value in between; velocity 0.

    An orientation is interpolated as the rotation vector from the first row of its segment, and its velocity is the
    angular velocity about the fixed axes; ``step`` and ``linear`` hold for it as well (the kind of its first column).
    Before the first and after the last row the value is held, with velocity 0.

    Args:
        space: the columns.
        due_ns: int64 [N], N >= 1, strictly increasing.
        values: float64 [N, C].
        at_ns: int64 [T], in any order.
        knots: float64 [N, V], velocities in the rows where they are known; None: as said above.

    Raises:
        ValueError: a shape does not fit, no row, times that do not increase, or a number that is not finite.
    """
    _check(space, due_ns, values, at_ns)
    if len(due_ns) == 1:
        return np.repeat(values, len(at_ns), axis=0), np.zeros((len(at_ns), space.tangent_count))
    values = _same_side(space, values)
    spans_s = np.diff(due_ns)[:, None] * 1e-9
    ways = space.minus(values[1:], values[:-1])
    slopes = ways / spans_s
    knots = _knot_velocities(slopes, spans_s) if knots is None else knots
    # the segment that a time lies in, and where in it; a row's own time begins the segment after it
    segment = np.clip(np.searchsorted(due_ns, at_ns, side="right") - 1, 0, len(due_ns) - 2)
    span_s = spans_s[segment]
    s = np.clip((at_ns - due_ns[segment])[:, None] * 1e-9 / span_s, 0.0, 1.0)

    way, slope = ways[segment], slopes[segment]
    first, last = knots[segment], _rates(space, ways, knots[1:])[segment]
    kinds = np.array(space.interpolation)
    cubic, step = kinds == "cubic", kinds == "step"
    # Hermite, with the straight line taken out
    bent = s * (1.0 - s) * ((1.0 - s) * (first - slope) - s * (last - slope))
    moved = np.where(cubic, s * way + span_s * bent, s * way)
    rate = (1.0 - s) * (1.0 - 3.0 * s) * first + s * (3.0 * s - 2.0) * last + 6.0 * s * (1.0 - s) * slope
    rate = np.where(cubic, rate, slope)
    result = space.plus(values[segment], np.where(step, np.where(s > 0.0, way, 0.0), moved))
    velocities = _angular(space, moved, np.where(step, 0.0, rate))

    outside = (at_ns < due_ns[0]) | (at_ns > due_ns[-1])
    velocities[outside] = 0.0
    _rows_exactly(space, due_ns, values, at_ns, result)
    return result, velocities


def _knot_velocities(slopes: Array, spans_s: Array) -> Array:
    """Velocities [N, V] in the rows, of slopes [N - 1, V] of segments that take spans_s [N - 1, 1]."""
    before, after = spans_s[:-1], spans_s[1:]
    inner = (after * slopes[:-1] + before * slopes[1:]) / (before + after)
    return np.concatenate([slopes[:1], inner, slopes[-1:]])


def _rates(space: Space, ways: Array, velocities: Array) -> Array:
    """Velocities [..., V] at the end of ``ways`` [..., V] as derivatives of the tangent coordinates.

    Only orientations differ: their rotation vector turns away from the angular velocity with the way gone.
    """
    if not space.rotations:
        return velocities
    result = velocities.copy()
    for _, tangent in space.rotations:
        columns = slice(tangent, tangent + 3)
        result[..., columns] = rotation.rate(ways[..., columns], velocities[..., columns])
    return result


def _angular(space: Space, moved: Array, rates: Array) -> Array:
    """The inverse of ``_rates``: angular velocities of derivatives ``rates`` [..., V] at ``moved`` [..., V]."""
    result = rates.copy()
    for _, tangent in space.rotations:
        columns = slice(tangent, tangent + 3)
        result[..., columns] = rotation.angular_velocity(moved[..., columns], rates[..., columns])
    return result


def _same_side(space: Space, values: Array) -> Array:
    """``values`` with each quaternion on the side of the row before; q and -q are the same orientation."""
    if not space.rotations:
        return values
    values = values.copy()
    for value, _ in space.rotations:
        rows = values[:, value : value + 4]
        flips = np.einsum("ni,ni->n", rows[1:], rows[:-1]) < 0.0
        rows[1:][np.logical_xor.accumulate(flips)] *= -1.0
    return values


def _rows_exactly(space: Space, due_ns: Times, values: Array, at_ns: Times, result: Array) -> None:
    """Put a row's very numbers where a time is its due time, and the held ones outside."""
    index = np.clip(np.searchsorted(due_ns, at_ns, side="left"), 0, len(due_ns) - 1)
    exact = (due_ns[index] == at_ns) | (at_ns < due_ns[0]) | (at_ns > due_ns[-1])
    result[exact] = values[index[exact]]
    # A step needs no arithmetic at all.
    columns, tangents = space.lines
    for column, tangent in zip(columns, tangents):
        if space.interpolation[tangent] == "step":
            result[:, column] = values[index, column]


def _check(space: Space, due_ns: Times, values: Array, at_ns: Times) -> None:
    if due_ns.ndim != 1 or len(due_ns) == 0:
        raise ValueError(f"due_ns: expected [N] with N >= 1, found shape {due_ns.shape}")
    if values.shape != (len(due_ns), space.value_count):
        raise ValueError(f"values: expected shape {(len(due_ns), space.value_count)}, found {values.shape}")
    if at_ns.ndim != 1:
        raise ValueError(f"at_ns: expected [T], found shape {at_ns.shape}")
    steps = np.diff(due_ns)
    if np.any(steps <= 0):
        row = int(np.argmax(steps <= 0)) + 1
        raise ValueError(f"due_ns: row {row} is due {steps[row - 1]} ns after row {row - 1}: expected increasing times")
    if not np.isfinite(values).all():
        row, column = (int(index) for index in np.argwhere(~np.isfinite(values))[0])
        raise ValueError(f"values[{row}, {column}] is {values[row, column]}: expected finite numbers")
