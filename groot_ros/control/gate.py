"""The last look before a chunk becomes a command, and what the robot's YAML says about each finding: clamp or stop."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from groot_ros.control.layout import Layout
from groot_ros.control.limiter import Limited, Motion, brake, follow
from groot_ros.control.space import Array

_SLACK = 1e-6  # of a limit: rounding of float32 rows is no violation


class GateViolation(ValueError):
    """A chunk that must not be executed; the robot is stopped. The message names rule, joint or number, and point."""


class Gate:
    """Checks chunks and bounds motion by the robot's limits and ``gate`` rules.

    Args:
        layout: the robot's commands.
        period_s: time between control ticks (s).
    """

    def __init__(self, layout: Layout, period_s: float) -> None:
        self._layout = layout
        self._rules = layout.embodiment.gate
        self._period_s = period_s

    def check_chunk(self, actions: Mapping[str, NDArray[np.floating]]) -> Array:
        """What the chunk commands, [H, C] in ROS units.

        Raises:
            GateViolation: NaN or infinity in any key, commanded or not; with ``gate.position``, ``velocity`` or
                ``acceleration: stop`` a target outside its limits, or steps from target to target above them.
            ValueError: a key is missing or has another shape.
        """
        for key, rows in actions.items():
            bad = np.argwhere(~np.isfinite(rows))
            if len(bad):
                point, column = (int(index) for index in bad[0])
                spec = self._layout.embodiment.action.get(key)
                name = spec.names[column] if spec is not None and column < len(spec.names) else column
                raise GateViolation(
                    f"{key}: '{name}' is {rows[point, column]} at point {point} of the chunk; the model's output is "
                    "broken (checkpoint, dtype or statistics)"
                )
        values = self._layout.values(actions)
        if self._rules.position == "stop":
            self._check_positions(values)
        self._check_rates(values)
        return values

    def check_start(self, start: Array, target: Array) -> None:
        """Compare where the robot is with the first target after a start, [C] each; numbers that step may jump.

        Raises:
            GateViolation: with ``gate.start_jump: stop``, further away than ``start_jump_share`` of the range.
        """
        if self._rules.start_jump != "stop":
            return
        space, share = self._layout.space, self._rules.start_jump_share
        way = space.minus(target, start)
        width = space.width
        # Speeds start from 0 and have the acceleration limit.
        exempt = space.rests_at_zero | space.steps
        far = np.flatnonzero((np.abs(way) > share * width) & ~exempt)
        if len(far):
            worst = int(far[np.argmax(np.abs(way[far]) / width[far])])
            raise GateViolation(
                f"start_jump: the first target of {space.names[worst]} is {abs(way[worst]):.3g} away from where it is, "
                f"more than {share:g} of its range ({share * width[worst]:.3g}): check unit, sign and offset of its "
                "key, the order of the joints and the cameras; if the motion is meant, set gate.start_jump: clamp"
            )

    def shape(self, start: Motion, targets: Array, velocities: Array) -> Limited:
        """The motion [T] that follows ``targets`` [T, C] with ``velocities`` [T, V] from ``start`` in all limits."""
        return follow(self._layout.space, start, targets, velocities, self._period_s)

    def brake(self, start: Motion) -> Limited:
        """The shortest way to rest from ``start`` [T >= 1] in all limits; the last row is at rest."""
        return brake(self._layout.space, start, self._period_s)

    def _check_rates(self, values: Array) -> None:
        """Differences of the rows, which are one model step apart, against the limits whose rule is ``stop``.

        Numbers that step may: what moves them takes its time.
        """
        space, step_s = self._layout.space, self._layout.embodiment.dt_s
        rates = space.minus(values[1:], values[:-1]) / step_s
        # Differences of float32 rows are off by what the rows are, however small the limit.
        rounding = np.finfo(np.float32).eps * max(1.0, float(np.abs(values).max(initial=0.0))) / step_s
        checks = [
            ("velocity", rates, space.velocity, rounding),
            ("acceleration", np.diff(rates, axis=0) / step_s, space.acceleration, 2.0 * rounding / step_s),
        ]
        for rule, found, limit, slack in checks:
            bad = np.argwhere((np.abs(found) > limit * (1.0 + _SLACK) + slack) & ~space.steps)
            if len(bad) and getattr(self._rules, rule) == "stop":
                point, column = (int(index) for index in bad[0])
                raise GateViolation(
                    f"{rule}: {space.names[column]} moves with {abs(found[point, column]):.4g} at point {point} of the "
                    f"chunk, more than {limit[column]:g}; gate.{rule} is stop"
                )

    def _check_positions(self, values: Array) -> None:
        space = self._layout.space
        columns, tangents = space.lines
        low, high = space.lower[tangents], space.upper[tangents]
        slack = _SLACK * np.where(np.isfinite(high - low), high - low, 1.0)
        bad = np.argwhere((values[:, columns] < low - slack) | (values[:, columns] > high + slack))
        if len(bad):
            point, column = (int(index) for index in bad[0])
            raise GateViolation(
                f"position: {space.names[tangents[column]]} is {values[point, columns[column]]:.4g} at point {point} "
                f"of the chunk, outside {low[column]:g} .. {high[column]:g}; gate.position is stop"
            )
