"""What a ``joint_trajectory_controller`` does with a JointTrajectory, without ROS: accept or refuse, then sample.

Behaviour as ros2_controllers documents it (Trajectory Representation, Trajectory Replacement, and the controller's
defaults ``allow_partial_joints_goal: false`` and ``allow_nonzero_velocity_at_trajectory_end: false``):

* Point ``i`` is reached at ``header.stamp + time_from_start``; a zero stamp means now. A trajectory that has ended
  before it arrives is refused. A start in the past is fine: sampling begins in the middle.
* Joints in any order, but each exactly once and none left out.
* Between two points: linear with positions only, cubic Hermite with velocities at both. Before the first point: from
  the state at the start (or at the arrival, if later) to the first point. After the last: hold it.
* A new trajectory replaces the old one from its start on; until then the old one goes on.
* Without points (an extension here): hold the present position from the start on.

Times are integer nanoseconds of the robot's clock, positions rad, velocities rad/s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


MAX_WAITING = 16  # trajectories whose start lies ahead


class TrajectoryRefused(ValueError):
    """A trajectory message that is not executed; the message says what is wrong and with which point or joint."""


@dataclass(frozen=True)
class Point:
    """One point of a message: seconds from the start as integer nanoseconds, and values in the message's order."""

    time_from_start_ns: int
    positions: Sequence[float]
    velocities: Sequence[float] = ()


@dataclass(frozen=True)
class _Segments:
    """Knots of an accepted trajectory, in the follower's joint order; NaN velocities: none given."""

    start_ns: int
    times_ns: NDArray[np.int64]
    positions: NDArray[np.float64]
    velocities: NDArray[np.float64]


class TrajectoryFollower:
    """The commanded position over time.

    Args:
        joints: names, in the order of all vectors.
        position: [J] rad, held until a trajectory comes.
        history_ns: how long before the newest arrival ``sample`` still knows what was commanded.
        moving_end: accept a trajectory whose last point moves (``allow_nonzero_velocity_at_trajectory_end``).
    """

    def __init__(
        self, joints: Sequence[str], position: Sequence[float], *, history_ns: int = 0, moving_end: bool = False
    ) -> None:
        self.joints = tuple(joints)
        self._history_ns, self._moving_end = history_ns, moving_end
        self.hold(position)

    def hold(self, position: Sequence[float]) -> None:
        """Forget all trajectories and hold ``position`` [J]."""
        self._held = np.array(position, dtype=np.float64)
        self._active: list[_Segments] = []

    def receive(self, joint_names: Sequence[str], points: Sequence[Point], stamp_ns: int, now_ns: int) -> None:
        """Take a message over.

        Args:
            joint_names: as in the message.
            points: as in the message.
            stamp_ns: ``header.stamp``; 0 means now.
            now_ns: the robot's time of arrival.

        Raises:
            TrajectoryRefused: with the reason; what was being executed goes on unchanged.
        """
        start_ns = stamp_ns if stamp_ns != 0 else now_ns
        order = self._order(joint_names)
        if points:
            times_ns, positions, velocities = self._check(points, order, joint_names)
            times_ns = start_ns + times_ns
            if times_ns[-1] <= now_ns and stamp_ns != 0:
                late_s = 1e-9 * float(now_ns - times_ns[-1])
                raise TrajectoryRefused(
                    f"the trajectory ended {late_s:.3f} s before it arrived (its header.stamp is {start_ns} ns): "
                    "publish it earlier, or check the clocks of both machines"
                )
        else:
            times_ns, positions, velocities = np.zeros(0, np.int64), *np.zeros((2, 0, len(self.joints)))
        begin_ns = max(start_ns, now_ns)
        if not len(times_ns) or times_ns[0] > begin_ns:
            # The segment before the first point starts from what is commanded at that moment.
            position, velocity = self.sample(begin_ns)
            if not len(times_ns):
                velocity = np.zeros_like(velocity)
            elif np.isnan(velocities[0]).any():
                velocity = np.full_like(velocity, np.nan)
            times_ns = np.concatenate([[begin_ns], times_ns])
            positions = np.concatenate([position[None], positions])
            velocities = np.concatenate([velocity[None], velocities])
        self._forget_before(now_ns - self._history_ns)
        waiting = [segments for segments in self._active if now_ns < segments.start_ns < begin_ns]
        if len(waiting) >= MAX_WAITING:
            raise TrajectoryRefused(f"{len(waiting)} trajectories wait for their start already: stamp them nearer")
        # What was to start later than this one is cut off by it.
        self._active = [segments for segments in self._active if segments.start_ns < begin_ns]
        self._active.append(_Segments(begin_ns, times_ns, positions, velocities))

    def sample(self, time_ns: int) -> tuple[Vector, Vector]:
        """Return commanded position and velocity [J] at ``time_ns`` (at most ``history_ns`` before a ``receive``)."""
        for segments in reversed(self._active):
            if segments.start_ns <= time_ns:
                return _interpolate(segments, time_ns)
        return self._held.copy(), np.zeros_like(self._held)

    def busy(self, time_ns: int) -> bool:
        """Whether a trajectory still has points after ``time_ns``."""
        return any(segments.times_ns[-1] > time_ns for segments in self._active)

    def _forget_before(self, now_ns: int) -> None:
        started = [i for i, segments in enumerate(self._active) if segments.start_ns <= now_ns]
        if started:
            del self._active[: started[-1]]

    def _order(self, names: Sequence[str]) -> list[int]:
        """Where each of the follower's joints is in a message."""
        if len(set(names)) != len(names):
            double = sorted({name for name in names if list(names).count(name) > 1})
            raise TrajectoryRefused(f"joint_names lists {', '.join(double)} twice")
        unknown = [name for name in names if name not in self.joints]
        if unknown:
            raise TrajectoryRefused(f"unknown joint {', '.join(unknown)}: this arm has {', '.join(self.joints)}")
        missing = [name for name in self.joints if name not in names]
        if missing:
            raise TrajectoryRefused(
                f"joint_names lacks {', '.join(missing)}: every joint has to be commanded "
                "(allow_partial_joints_goal is false)"
            )
        return [list(names).index(name) for name in self.joints]

    def _check(
        self, points: Sequence[Point], order: list[int], names: Sequence[str]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        count = len(self.joints)
        times_ns = np.array([point.time_from_start_ns for point in points], dtype=np.int64)
        if times_ns[0] < 0:
            raise TrajectoryRefused(f"points[0]: time_from_start is negative ({1e-9 * times_ns[0]:.3f} s)")
        backward = np.flatnonzero(np.diff(times_ns) <= 0)
        if len(backward):
            i = int(backward[0]) + 1
            raise TrajectoryRefused(
                f"points[{i}]: time_from_start {1e-9 * times_ns[i]:.3f} s does not come after "
                f"{1e-9 * times_ns[i - 1]:.3f} s of the point before"
            )
        positions = np.zeros((len(points), count))
        velocities = np.full((len(points), count), np.nan)
        for i, point in enumerate(points):
            positions[i] = _values("positions", i, point.positions, names)[order]
            if len(point.velocities):
                velocities[i] = _values("velocities", i, point.velocities, names)[order]
        last = velocities[-1]
        if not self._moving_end and len(points[-1].velocities) and np.abs(last).max() > 0.0:
            moving = [name for name, value in zip(self.joints, last, strict=True) if value != 0.0]
            raise TrajectoryRefused(
                f"the last point still moves {', '.join(moving)}: its velocities have to be zero "
                "(allow_nonzero_velocity_at_trajectory_end is false)"
            )
        return times_ns, positions, velocities


def _values(field: str, i: int, given: Sequence[float], names: Sequence[str]) -> Vector:
    if len(given) != len(names):
        raise TrajectoryRefused(
            f"points[{i}].{field}: expected {len(names)} values, one per joint name, found {len(given)}"
        )
    for name, value in zip(names, given, strict=True):
        if not math.isfinite(value):
            raise TrajectoryRefused(f"points[{i}].{field}: {value} for joint {name} is not a finite number")
    return np.array(given, dtype=np.float64)


def _interpolate(segments: _Segments, time_ns: int) -> tuple[Vector, Vector]:
    """Position and velocity at ``time_ns``; at rest outside the knots."""
    times_ns, positions, velocities = segments.times_ns, segments.positions, segments.velocities
    right = int(np.searchsorted(times_ns, time_ns, side="right"))
    if right == 0 or right == len(times_ns):
        return positions[max(right - 1, 0)].copy(), np.zeros(positions.shape[1])
    left = right - 1
    span_s = 1e-9 * float(times_ns[right] - times_ns[left])
    u = 1e-9 * float(time_ns - times_ns[left]) / span_s
    start, end = positions[left], positions[right]
    if np.isnan(velocities[left]).any() or np.isnan(velocities[right]).any():
        slope = (end - start) / span_s
        return start + u * (end - start), slope
    # Cubic Hermite polynomial on [0, 1] with end slopes scaled to the segment's length.
    a, b = velocities[left] * span_s, velocities[right] * span_s
    position = (1 + 2 * u) * (1 - u) ** 2 * start + u * (1 - u) ** 2 * a + u**2 * (3 - 2 * u) * end + u**2 * (u - 1) * b
    velocity = (6 * u * (u - 1) * (start - end) + (1 - u) * (1 - 3 * u) * a + u * (3 * u - 2) * b) / span_s
    return position, velocity
