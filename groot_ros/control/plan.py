"""From an action chunk to timed joint points, and from timed joint points to a stop.

Positions are rad (or m), velocities rad/s, times integer nanoseconds of ROS time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from groot_ros.embodiment.schema import Embodiment, JointLimit
from groot_ros.embodiment.units import to_ros
from groot_ros.policy.base import Chunk

STOP_STEPS = 5
DEFAULT_STOP_ACCELERATION = 5.0  # rad/s^2, for a joint whose YAML states none: 1 rad/s stops in 0.2 s


@dataclass(frozen=True)
class JointPlan:
    """Absolute joint targets.

    Attributes:
        joints: J names in command order.
        stamp_ns: the observation's stamp; the command message carries it.
        due_ns: int64 [N], strictly increasing; point ``i`` is to be reached at ``due_ns[i]``.
        positions: float64 [N, J].
        velocities: float64 [N, J]; the last row is zero, so that a plan that nothing follows ends at rest.
    """

    joints: tuple[str, ...]
    stamp_ns: int
    due_ns: NDArray[np.int64]
    positions: NDArray[np.float64]
    velocities: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.due_ns)


def point_velocities(positions: NDArray[np.float64], dt_s: float) -> NDArray[np.float64]:
    """Velocities [N, J] for positions [N, J] at a fixed step: central differences, one-sided first, zero last.

    joint_trajectory_controller refuses a trajectory that ends with a velocity (its parameter
    ``allow_nonzero_velocity_at_trajectory_end`` is false by default), and a robot should.
    """
    velocities = np.zeros_like(positions)
    if len(positions) > 1:
        velocities[0] = (positions[1] - positions[0]) / dt_s
        velocities[1:-1] = (positions[2:] - positions[:-2]) / (2.0 * dt_s)
    return velocities


def plan_chunk(embodiment: Embodiment, chunk: Chunk) -> JointPlan:
    """Return all points of ``chunk`` as joint targets in ROS units, due at ``stamp + (i + 1) * dt``.

    Keys that command fields of a message are no joint targets and are left out (``embodiment.check.check_commandable``
    refuses a robot that has them before anything moves), and so are those with ``command: false``.

    Raises:
        ValueError: an action key is missing in the chunk or has another shape than [H, number of joints or fields].
    """
    columns = []
    for key, spec in embodiment.action.items():
        values = chunk.actions.get(key)
        if values is None:
            raise ValueError(f"the chunk lacks action key '{key}'; it has {sorted(chunk.actions)}")
        if values.ndim != 2 or values.shape[1] != len(spec.names):
            raise ValueError(
                f"action key '{key}': expected [H, {len(spec.names)}] for {spec.names}, found {list(values.shape)}"
            )
        targets = to_ros(embodiment, spec, np.asarray(values, dtype=np.float64))
        columns.append(targets if spec.commanded_joints else targets[:, :0])
    positions = np.concatenate(columns, axis=1)
    steps = np.arange(1, len(positions) + 1, dtype=np.float64)
    due_ns = chunk.stamp_ns + np.rint(steps * chunk.dt_s * 1e9).astype(np.int64)
    return JointPlan(
        joints=tuple(embodiment.action_joints),
        stamp_ns=chunk.stamp_ns,
        due_ns=due_ns,
        positions=positions,
        velocities=point_velocities(positions, chunk.dt_s),
    )


def trim_past(plan: JointPlan, now_ns: int) -> tuple[JointPlan, int]:
    """Drop the points due at or before ``now_ns``; return the rest (may be empty) and the number dropped."""
    first = int(np.searchsorted(plan.due_ns, now_ns, side="right"))
    rest = replace(
        plan, due_ns=plan.due_ns[first:], positions=plan.positions[first:], velocities=plan.velocities[first:]
    )
    return rest, first


def entered(plan: JointPlan, time_ns: int, position: NDArray[np.float64], velocity: NDArray[np.float64]) -> JointPlan:
    """``plan`` with the robot's motion [J] at ``time_ns``, when it was sent, as its first point.

    A controller that replaces trajectories goes on from there to the first point; a stop before that point is due
    must brake from between the two.
    """
    if time_ns >= plan.due_ns[0]:
        return plan
    return replace(
        plan,
        due_ns=np.concatenate([[time_ns], plan.due_ns]),
        positions=np.vstack([position, plan.positions]),
        velocities=np.vstack([velocity, plan.velocities]),
    )


def sample(plan: JointPlan, time_ns: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Position and velocity [J] that the plan asks for at ``time_ns``: cubic Hermite between points, held outside."""
    if time_ns <= plan.due_ns[0]:
        return plan.positions[0].copy(), plan.velocities[0].copy()
    if time_ns >= plan.due_ns[-1]:
        return plan.positions[-1].copy(), np.zeros(len(plan.joints))
    right = int(np.searchsorted(plan.due_ns, time_ns, side="right"))
    left = right - 1
    span_s = float(plan.due_ns[right] - plan.due_ns[left]) * 1e-9
    u = float(time_ns - plan.due_ns[left]) * 1e-9 / span_s
    p0, p1 = plan.positions[left], plan.positions[right]
    m0, m1 = plan.velocities[left] * span_s, plan.velocities[right] * span_s
    position = (
        (2 * u**3 - 3 * u**2 + 1) * p0 + (u**3 - 2 * u**2 + u) * m0 + (3 * u**2 - 2 * u**3) * p1 + (u**3 - u**2) * m1
    )
    velocity = (
        (6 * u**2 - 6 * u) * p0 + (3 * u**2 - 4 * u + 1) * m0 + (6 * u - 6 * u**2) * p1 + (3 * u**2 - 2 * u) * m1
    ) / span_s
    return position, velocity


def stop_plan(
    joints: Sequence[str],
    position: NDArray[np.float64],
    velocity: NDArray[np.float64],
    limits: Mapping[str, JointLimit],
    now_ns: int,
) -> JointPlan:
    """Brake from ``position`` and ``velocity`` [J] to rest, each joint at its acceleration limit, inside its bounds.

    All joints come to rest within the time of the slowest one: ``max |v| / a``.
    """
    acceleration = np.array([limits[joint].acceleration or DEFAULT_STOP_ACCELERATION for joint in joints])
    # A robot on its way back into its bounds stops where it is.
    lower = np.minimum([limits[joint].lower for joint in joints], position)
    upper = np.maximum([limits[joint].upper for joint in joints], position)
    brake_s = np.abs(velocity) / acceleration
    total_s = max(float(brake_s.max(initial=0.0)), 0.02)  # at rest already: one hold command 20 ms ahead
    times_s = total_s * np.arange(1, STOP_STEPS + 1) / STOP_STEPS
    braking_s = np.minimum(times_s[:, None], brake_s[None, :])
    deceleration = np.sign(velocity) * acceleration
    positions = position + velocity * braking_s - 0.5 * deceleration * braking_s**2
    velocities = velocity - deceleration * braking_s
    inside = np.clip(positions, lower, upper)
    velocities[inside != positions] = 0.0
    velocities[-1] = 0.0
    return JointPlan(
        joints=tuple(joints),
        stamp_ns=now_ns,
        due_ns=now_ns + np.rint(times_s * 1e9).astype(np.int64),
        positions=inside,
        velocities=velocities,
    )
