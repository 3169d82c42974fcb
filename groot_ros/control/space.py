"""The space that commands live in: joints and numbers are lines, an orientation is SO(3).

Values [C] are what messages say, in ROS units; an orientation is a unit quaternion (x, y, z, w). Differences and
velocities [V] live in the tangent space: one column per joint or number, and a rotation vector about the fixed axes of
the message's frame per orientation. All that moves in time (interpolation, limits, blending) is written with ``minus``
and ``plus`` and holds for both.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from groot_ros.control import rotation

Array = NDArray[np.float64]
Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Space:
    """Columns and their limits.

    Attributes:
        names: [V] joint, ``<output>.<field>``, or ``<output>.rotation.x|y|z``; for messages.
        rotations: (first value column, first tangent column) of every orientation.
        lower, upper: float64 [V], -inf and inf where there is no bound (orientations).
        velocity, acceleration: float64 [V], per s and per s^2; inf: unlimited.
        interpolation: [V] ``cubic``, ``linear`` or ``step``.
        rests_at_zero: bool [V]: standing still is 0 (a speed), not the last value.
    """

    names: tuple[str, ...]
    rotations: tuple[tuple[int, int], ...]
    lower: Array
    upper: Array
    velocity: Array
    acceleration: Array
    interpolation: tuple[str, ...]
    rests_at_zero: NDArray[np.bool_]

    @property
    def tangent_count(self) -> int:
        """V."""
        return len(self.names)

    @property
    def value_count(self) -> int:
        """C."""
        return len(self.names) + len(self.rotations)

    @cached_property
    def lines(self) -> tuple[Indices, Indices]:
        """Value columns and tangent columns of all that is no orientation, in the same order."""
        turned_values = {first + i for first, _ in self.rotations for i in range(4)}
        turned_tangents = {first + i for _, first in self.rotations for i in range(3)}
        values = [i for i in range(self.value_count) if i not in turned_values]
        tangents = [i for i in range(self.tangent_count) if i not in turned_tangents]
        return np.array(values, dtype=np.intp), np.array(tangents, dtype=np.intp)

    @cached_property
    def tangent_of(self) -> dict[int, int]:
        """Value column -> tangent column of all that is no orientation."""
        values, tangents = self.lines
        return dict(zip(values.tolist(), tangents.tolist(), strict=True))

    @cached_property
    def smooth(self) -> NDArray[np.bool_]:
        """Tangent columns [V] whose motion is a curve; jumps of the others are meant."""
        return np.array([kind == "cubic" for kind in self.interpolation], dtype=np.bool_)

    @cached_property
    def steps(self) -> NDArray[np.bool_]:
        """Tangent columns [V] that switch."""
        return np.array([kind == "step" for kind in self.interpolation], dtype=np.bool_)

    @cached_property
    def width(self) -> Array:
        """Range of each tangent column [V]: upper - lower; half a turn for an orientation, or without bounds."""
        width = self.upper - self.lower
        return np.where(np.isfinite(width), width, np.pi)

    @cached_property
    def axis_share(self) -> Array:
        """Share [V] of its limits that a tangent column may use by itself: 1/sqrt(3) for an axis of an orientation,
        whose limits hold for the whole turn; else 1.
        """
        share = np.ones(self.tangent_count)
        for _, tangent in self.rotations:
            share[tangent : tangent + 3] = 3.0**-0.5
        return share

    @cached_property
    def smooth_acceleration(self) -> Array:
        """Acceleration limits [V] of what moves on a curve, to hold a motion against; inf: nothing to hold against."""
        return np.where(self.smooth, self.acceleration, np.inf)

    def minus(self, a: Array, b: Array) -> Array:
        """The way from ``b`` to ``a``, [..., C] each -> [..., V]; orientations by the shorter turn."""
        if not self.rotations:
            return a - b
        shape = np.broadcast_shapes(a.shape[:-1], b.shape[:-1])
        result = np.empty((*shape, self.tangent_count))
        values, tangents = self.lines
        result[..., tangents] = a[..., values] - b[..., values]
        for value, tangent in self.rotations:
            turn = rotation.multiply(a[..., value : value + 4], rotation.conjugate(b[..., value : value + 4]))
            result[..., tangent : tangent + 3] = rotation.log(turn)
        return result

    def plus(self, a: Array, way: Array) -> Array:
        """Where ``way`` [..., V] leads from ``a`` [..., C] -> [..., C]; the inverse of ``minus``."""
        if not self.rotations:
            return a + way
        shape = np.broadcast_shapes(a.shape[:-1], way.shape[:-1])
        result = np.empty((*shape, self.value_count))
        values, tangents = self.lines
        result[..., values] = a[..., values] + way[..., tangents]
        for value, tangent in self.rotations:
            turned = rotation.multiply(rotation.exp(way[..., tangent : tangent + 3]), a[..., value : value + 4])
            result[..., value : value + 4] = rotation.unit(turned)
        return result

    def at_rest(self, values: Array) -> Array:
        """What keeps standing still at ``values`` [C]: themselves, and 0 for speeds."""
        still = values.copy()
        value_columns, tangent_columns = self.lines
        still[value_columns[self.rests_at_zero[tangent_columns]]] = 0.0
        return still
