"""The last look at a plan before it becomes a command: finite, inside the joint limits, no faster than allowed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from groot_ros.control.plan import JointPlan, point_velocities
from groot_ros.embodiment.schema import JointLimit


class GateViolation(ValueError):
    """A plan that no clamping makes safe; nothing of it may be sent."""


@dataclass(frozen=True)
class Gated:
    """The plan that may be sent and how often each rule had to change it.

    Attributes:
        plan: same joints and due times as the plan that came in.
        clamped: ``"<joint>.position"`` or ``"<joint>.velocity"`` -> number of points changed.
    """

    plan: JointPlan
    clamped: Mapping[str, int]


class Gate:
    """Clamps a plan to the limits of the embodiment YAML.

    Args:
        limits: joint -> bounds (rad, rad/s).
    """

    def __init__(self, limits: Mapping[str, JointLimit]) -> None:
        self._limits = limits

    def apply(self, plan: JointPlan, start: NDArray[np.float64], start_ns: int) -> Gated:
        """Return ``plan`` inside the limits when the robot is asked to be at ``start`` [J] (rad) at ``start_ns``.

        Positions are clamped first, then each point is held within velocity * time of the point before it, beginning
        at ``start``; so a chunk that begins far from the robot becomes a ramp and not a jump. A robot that stands
        outside its bounds is led back in at that speed, over points that are outside too.

        Raises:
            GateViolation: a value is NaN or infinite (joint and point named), or the plan is empty.
        """
        if len(plan) == 0:
            raise GateViolation("the plan has no point left to send")
        bad = np.argwhere(~np.isfinite(plan.positions))
        if len(bad):
            point, column = (int(index) for index in bad[0])
            raise GateViolation(
                f"joint '{plan.joints[column]}' is {plan.positions[point, column]} at point {point} of the chunk; "
                "the model's output is broken (checkpoint, dtype or statistics)"
            )
        if not np.all(np.isfinite(start)):
            raise GateViolation(f"the start position {start.tolist()} is not finite")
        bounds = [self._limits[joint] for joint in plan.joints]
        lower = np.array([bound.lower for bound in bounds])
        upper = np.array([bound.upper for bound in bounds])
        speed = np.array([bound.velocity for bound in bounds])

        counts: Counter[str] = Counter()
        inside = np.clip(plan.positions, lower, upper)
        _count(counts, plan.joints, inside != plan.positions, "position")

        slowed = inside.copy()
        previous = start
        steps_s = np.maximum(np.diff(plan.due_ns, prepend=start_ns), 0) * 1e-9
        for index, reach in enumerate(steps_s[:, None] * speed):
            slowed[index] = previous = np.minimum(np.maximum(inside[index], previous - reach), previous + reach)
        _count(counts, plan.joints, slowed != inside, "velocity")

        dt_s = float(plan.due_ns[-1] - plan.due_ns[0]) * 1e-9 / (len(plan) - 1) if len(plan) > 1 else 1.0
        velocities = np.clip(point_velocities(slowed, dt_s), -speed, speed)
        return Gated(replace(plan, positions=slowed, velocities=velocities), dict(counts))


def _count(counts: Counter[str], joints: tuple[str, ...], changed: NDArray[np.bool_], rule: str) -> None:
    for joint, number in zip(joints, changed.sum(axis=0), strict=True):
        if number:
            counts[f"{joint}.{rule}"] += int(number)
