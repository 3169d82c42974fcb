"""Does the simulated arm's tasks from the true places of the cubes: the teacher of the demonstrations. No ROS.

An expert goes through moves one after the other. Each is a smooth curve, at rest at both ends, whose duration keeps
every joint within ``SPEED_RAD_S`` and ``ACCELERATION_RAD_S2``, well inside the limits of the YAML files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groot_ros.simulation.kinematics import joints_for, pitch_for
from groot_ros.simulation.scene import CUBE_HALF_M, JOINTS
from groot_ros.simulation.tasks import REACH_ABOVE_M, Goal, Pick, Push, Reach, Task

Vector = NDArray[np.float64]
Poses = Mapping[str, Vector]
Curve = Callable[[float], Vector]  # from 0 to 1 -> joint targets [6]

SPEED_RAD_S = 1.6
ACCELERATION_RAD_S2 = 8.0
SHORTEST_S = 0.2  # of a move
REACH_S = 1.6  # least, to reach: one pace for all cubes is easier to learn, and 16 rows of 0.1 s are an action chunk
PIECES = 60  # in which a curve is looked at for its greatest speed

GRIPPER = JOINTS.index("gripper")
ROLL = JOINTS.index("wrist_roll")
RESTING_RAD = 0.5  # gripper that has nothing to grip; two fingers also push steadier than one
OPEN_RAD = 0.85
SQUEEZE_RAD = -0.1  # tighter than the cube lets it
ABOVE_M = 0.10  # height of the grasp point when the hand passes over cubes
BEHIND_M = 0.055  # of the pushed cube's centre
PUSH_TO_M = 0.085  # of the grasp point beyond the cube's near face
LOW_M = 0.03
PUSH_PITCH_RAD = 0.85  # all the way: a hand that turns while it pushes jams the cube against the table
GRASP_M = 0.042  # the cube's upper edge between the fingertips: deeper, the moving one would be too far open
BESIDE_M = 0.020  # of the grasp point from the cube's centre, so that the fixed finger lies along a face
LIFT_M = 0.06


@dataclass(frozen=True)
class Move:
    """One smooth move along ``curve``, over at ``duration_s``."""

    curve: Curve
    duration_s: float

    @classmethod
    def along(cls, curve: Curve, shortest_s: float = SHORTEST_S) -> Move:
        """As fast as the limits allow, but not in less than ``shortest_s``."""
        s = np.linspace(0.0, 1.0, PIECES + 1)
        path = np.array([curve(_eased(float(value))) for value in s])
        speed = np.abs(np.diff(path, axis=0)).max() * PIECES
        acceleration = np.abs(np.diff(path, 2, axis=0)).max() * PIECES**2
        return cls(curve, max(speed / SPEED_RAD_S, math.sqrt(acceleration / ACCELERATION_RAD_S2), shortest_s))

    def at(self, time_s: float) -> Vector:
        """Joint targets [6] at ``time_s`` since its beginning."""
        return self.curve(_eased(min(max(time_s / self.duration_s, 0.0), 1.0)))


class Expert:
    """Joint targets for one episode.

    Args:
        task: what to do.
        target: the cube.
        start: joint angles [6] at the beginning (rad, order of ``JOINTS``).
    """

    def __init__(self, task: Task, target: str, start: Vector) -> None:
        self._target = target
        self._now = np.array(start, dtype=np.float64)
        self._cubes: Poses = {}
        self._place = np.zeros(3)  # of the grasp point at the end of the last move
        self._pitch: float | None = None  # of the hand; None: as steep as it can be held
        self._moves = MOVES[type(task.goal)](self)
        self._move: Move | None = None
        self._time_s = 0.0
        self.finished = False

    def step(self, passed_s: float, cubes: Poses) -> Vector:
        """Joint targets [6] ``passed_s`` after the last call.

        Args:
            passed_s: 0 at the first call.
            cubes: cube -> centre (m) and quaternion w, x, y, z [7], as they are now; looked at where a move begins.

        Raises:
            OutOfReach: a cube is where the arm cannot do the task.
        """
        self._cubes = cubes
        self._time_s += passed_s
        while not self.finished and (self._move is None or self._time_s >= self._move.duration_s):
            if self._move is not None:
                self._time_s -= self._move.duration_s
                self._now = self._move.at(self._move.duration_s)
            self._move = next(self._moves, None)
            self.finished = self._move is None
        if self._move is not None:
            return self._move.at(self._time_s)
        return self._now.copy()

    # --- what the tasks are made of ----------------------------------------------------------------------------------

    def reach(self) -> Iterator[Move]:
        """Straight to above the cube."""
        place, _ = self._cube()
        yield self._across(place + [0.0, 0.0, REACH_ABOVE_M], 0.0, RESTING_RAD, REACH_S)

    def push(self) -> Iterator[Move]:
        """Over and down behind the cube, then forward in a straight line."""
        place, _ = self._cube()
        self._pitch = PUSH_PITCH_RAD
        behind = np.array([place[0] - BEHIND_M, place[1], LOW_M])
        yield self._across(behind + [0.0, 0.0, ABOVE_M - LOW_M], 0.0, RESTING_RAD)
        yield self._straight(behind)
        yield self._straight(behind + [BEHIND_M - CUBE_HALF_M + PUSH_TO_M, 0.0, 0.0])

    def pick(self) -> Iterator[Move]:
        """Over the cube, down with one finger along a face, close, and up."""
        place, yaw = self._cube()
        bearing = math.atan2(place[1], place[0])
        # The gripper closes along a face, whichever of the four is nearest; the hand is not quite upright.
        turn = (yaw - bearing + math.pi / 4) % (math.pi / 2) - math.pi / 4
        pitch = pitch_for(math.hypot(place[0], place[1]))
        roll = math.atan(-math.tan(turn) / math.sin(pitch))
        closing = np.array([-math.sin(bearing + turn), math.cos(bearing + turn), 0.0])
        low = np.array([place[0], place[1], GRASP_M]) - BESIDE_M * closing
        yield self._across(low + [0.0, 0.0, ABOVE_M - GRASP_M], roll, OPEN_RAD)
        yield self._straight(low)
        yield self._grip(SQUEEZE_RAD)
        yield self._straight(low + [0.0, 0.0, LIFT_M])

    def _cube(self) -> tuple[Vector, float]:
        """Centre [3] (m) and yaw (rad) of the target now."""
        pose = self._cubes[self._target]
        w, x, y, z = pose[3:]
        return pose[:3].copy(), math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))

    def _across(self, place: Vector, roll_rad: float, gripper_rad: float, shortest_s: float = SHORTEST_S) -> Move:
        """All joints at once, to where the grasp point is at ``place``; the same joint angles whatever the start."""
        start, goal = self._now.copy(), np.concatenate([joints_for(place, self._pitch), [roll_rad, gripper_rad]])
        self._place = place
        return Move.along(lambda s: start + s * (goal - start), shortest_s)

    def _straight(self, place: Vector) -> Move:
        """The grasp point in a straight line from where the last move has brought it to ``place``."""
        begin, hand, pitch = self._place, self._now[ROLL:].copy(), self._pitch
        self._place = place
        return Move.along(lambda s: np.concatenate([joints_for(begin + s * (place - begin), pitch), hand]))

    def _grip(self, gripper_rad: float) -> Move:
        """The gripper alone."""
        start, goal = self._now.copy(), self._now.copy()
        goal[GRIPPER] = gripper_rad
        return Move.along(lambda s: start + s * (goal - start))


MOVES: dict[type[Goal], Callable[[Expert], Iterator[Move]]] = {
    Reach: Expert.reach,
    Push: Expert.push,
    Pick: Expert.pick,
}


def _eased(s: float) -> float:
    """From 0 to 1 with speed and acceleration 0 at both ends."""
    return s**3 * (10.0 - 15.0 * s + 6.0 * s * s)
