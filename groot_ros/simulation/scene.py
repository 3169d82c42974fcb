"""Where an episode begins: start pose of the arm and places of the cubes, drawn from a seed. No physics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
CUBES = ("red_cube", "blue_cube")

# Start pose (rad, order of JOINTS): folded back over the base, hand above the table; and how far a reset varies it.
HOME_RAD = np.array([0.0, -0.9, 0.9, 1.0, 0.0, 0.5])
HOME_SPREAD_RAD = np.array([0.30, 0.10, 0.10, 0.10, 0.30, 0.15])
CUBE_HALF_M = 0.022
# Where a cube is that takes no part: on a shelf under the room's floor (see arm.xml), which no camera sees.
PARKED_M = np.array([[0.10, 0.0, -0.978], [0.30, 0.0, -0.978]])


@dataclass(frozen=True)
class Area:
    """Where cubes are put: a sector of the mat around the arm's base.

    Attributes:
        radius_m: from and to.
        bearing_rad: most to either side of straight ahead.
        yaw_rad: most that a cube is turned, to either side.
        gap_m: least distance of the cubes' centres; the open gripper has to fit in between.
        turned: yaw counts from the cube's bearing instead of straight ahead: a face looks at the arm's base.
        side_gap_m: least distance of the cubes in y; for pushing one past the other.
    """

    radius_m: tuple[float, float] = (0.19, 0.29)
    bearing_rad: float = 0.5
    yaw_rad: float = math.pi / 4
    gap_m: float = 0.085
    turned: bool = False
    side_gap_m: float = 0.0


WIDE = Area()


@dataclass(frozen=True)
class Scene:
    """What is set up at the start.

    Attributes:
        pose_rad: [6] in the order of ``JOINTS``.
        cubes: cube -> x and y of its centre (m) and yaw (rad) on the table, in the frame of the arm's base;
            None: parked out of sight.
        target: the cube that the task is about; empty without a task.
    """

    pose_rad: NDArray[np.float64]
    cubes: Mapping[str, tuple[float, float, float] | None]
    target: str = ""


def draw_pose(rng: np.random.Generator) -> NDArray[np.float64]:
    """A start pose [6] (rad)."""
    return HOME_RAD + rng.uniform(-HOME_SPREAD_RAD, HOME_SPREAD_RAD)


def draw_cubes(rng: np.random.Generator, area: Area = WIDE) -> dict[str, tuple[float, float, float]]:
    """Places of all cubes in ``area``; a few draws are enough."""
    while True:
        radius = rng.uniform(*area.radius_m, len(CUBES))
        bearing = rng.uniform(-area.bearing_rad, area.bearing_rad, len(CUBES))
        yaw = rng.uniform(-area.yaw_rad, area.yaw_rad, len(CUBES)) + (bearing if area.turned else 0.0)
        x, y = radius * np.cos(bearing), radius * np.sin(bearing)
        if math.hypot(x[0] - x[1], y[0] - y[1]) >= area.gap_m and abs(y[0] - y[1]) >= area.side_gap_m:
            return {name: (float(x[i]), float(y[i]), float(yaw[i])) for i, name in enumerate(CUBES)}


def free_scene(seed: int) -> Scene:
    """Both cubes anywhere and nothing to do."""
    rng = np.random.default_rng(seed)
    return Scene(draw_pose(rng), draw_cubes(rng))


def cube_state(name: str, place: tuple[float, float, float] | None) -> list[float]:
    """Position (m) and quaternion (w, x, y, z) of cube ``name`` [7]."""
    if place is None:
        return [*PARKED_M[CUBES.index(name)].tolist(), 1.0, 0.0, 0.0, 0.0]
    x, y, yaw = place
    return [x, y, CUBE_HALF_M, math.cos(0.5 * yaw), 0.0, 0.0, math.sin(0.5 * yaw)]
