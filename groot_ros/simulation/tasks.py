"""What the simulated arm can be asked to do, and whether it has done it, judged from the physics. No ROS, no MuJoCo.

A task is named ``reach``, or ``reach:blue`` to fix which cube is meant in the same scene.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from groot_ros.simulation.scene import CUBES, WIDE, Area, Scene, draw_cubes, draw_pose

Vector = NDArray[np.float64]
Places = Mapping[str, Vector]

COLOURS = {name.removesuffix("_cube"): name for name in CUBES}  # red -> red_cube

REACH_ABOVE_M = 0.04
REACH_WITHIN_M = 0.025
REACH_HOLD_S = 0.25
PUSH_M = 0.05
PUSH_DIRECTION = np.array([1.0, 0.0])  # forward
PICK_LIFT_M = 0.04
PICK_HOLD_S = 0.5
FALLEN_M = -0.03  # a cube's centre is 22 mm above the table

WRONG_CUBE = "wrong_cube"
OFF_TABLE = "off_table"


@dataclass(frozen=True)
class Verdict:
    """How an episode stands.

    Attributes:
        success: the task is done; stays true.
        failure: why it cannot be done any more, ``wrong_cube`` or ``off_table``; else empty. Stays.
        distance_m: how far it is from done: of the grasp point to its goal, or what the cube has still to move.
    """

    success: bool
    failure: str
    distance_m: float


class Goal(ABC):
    """What is to be done with a cube, and for how long it has to hold."""

    hold_s = 0.0

    @abstractmethod
    def distance_m(self, cube: str, grasp: Vector, cubes: Places, start: Places) -> float:
        """How far ``cube`` is from done; ``grasp`` [3] and ``cubes`` now, ``start`` at the episode's beginning."""

    @abstractmethod
    def done(self, cube: str, grasp: Vector, cubes: Places, start: Places) -> bool:
        """Whether it is done with ``cube`` at this moment."""

    def mistaken(self, cube: str, grasp: Vector, cubes: Places, start: Places) -> bool:
        """Whether it is done at this moment with ``cube``, which was not meant."""
        return self.done(cube, grasp, cubes, start)


class Reach(Goal):
    """The grasp point stands above the cube."""

    hold_s = REACH_HOLD_S

    def distance_m(self, cube: str, grasp: Vector, cubes: Places, start: Places) -> float:
        return float(np.linalg.norm(grasp - cubes[cube] - [0.0, 0.0, REACH_ABOVE_M]))

    def done(self, cube: str, grasp: Vector, cubes: Places, start: Places) -> bool:
        return self.distance_m(cube, grasp, cubes, start) <= REACH_WITHIN_M


class Push(Goal):
    """The cube has moved forward."""

    def distance_m(self, cube: str, grasp: Vector, cubes: Places, start: Places) -> float:
        moved_m = float((cubes[cube] - start[cube])[:2] @ PUSH_DIRECTION)
        return max(0.0, PUSH_M - moved_m)

    def done(self, cube: str, grasp: Vector, cubes: Places, start: Places) -> bool:
        return self.distance_m(cube, grasp, cubes, start) == 0.0

    def mistaken(self, cube: str, grasp: Vector, cubes: Places, start: Places) -> bool:
        return float(np.hypot(*(cubes[cube] - start[cube])[:2])) >= PUSH_M


class Pick(Goal):
    """The cube has been lifted."""

    hold_s = PICK_HOLD_S

    def distance_m(self, cube: str, grasp: Vector, cubes: Places, start: Places) -> float:
        return max(0.0, PICK_LIFT_M - float(cubes[cube][2] - start[cube][2]))

    def done(self, cube: str, grasp: Vector, cubes: Places, start: Places) -> bool:
        return self.distance_m(cube, grasp, cubes, start) == 0.0


class Judge:
    """Watches one episode.

    Args:
        goal: of the task.
        target: the cube meant.
        start: cube -> centre [3] (m) at the beginning; parked cubes left out.
    """

    def __init__(self, goal: Goal, target: str, start: Places) -> None:
        self._goal, self._target = goal, target
        self._start = {name: np.array(place) for name, place in start.items()}
        self._since_s: dict[str, float] = {}
        self._verdict = Verdict(False, "", math.nan)

    def update(self, time_s: float, grasp: Vector, cubes: Places) -> Verdict:
        """How it stands at ``time_s`` with the grasp point [3] and the cubes' centres [3]; call it on every tick."""
        places = {name: cubes[name] for name in self._start}
        distance_m = self._goal.distance_m(self._target, grasp, places, self._start)
        success, failure = self._verdict.success, self._verdict.failure
        if not success and not failure:
            success = self._held(self._target, time_s, self._goal.done(self._target, grasp, places, self._start))
            if not success:
                failure = self._failure(time_s, grasp, places)
        self._verdict = Verdict(success, failure, distance_m)
        return self._verdict

    def _failure(self, time_s: float, grasp: Vector, places: Places) -> str:
        if any(place[2] < FALLEN_M for place in places.values()):
            return OFF_TABLE
        others = [name for name in places if name != self._target]
        wrong = [self._held(name, time_s, self._goal.mistaken(name, grasp, places, self._start)) for name in others]
        return WRONG_CUBE if any(wrong) else ""

    def _held(self, cube: str, time_s: float, now: bool) -> bool:
        if not now:
            self._since_s.pop(cube, None)
            return False
        since_s = self._since_s.setdefault(cube, time_s)
        return time_s - since_s >= self._goal.hold_s - 1e-9


@dataclass(frozen=True)
class Task:
    """One thing to do.

    Attributes:
        name: as it is asked for, with the suffix.
        words: the instruction, with ``{}`` for the cube.
        goal: what is judged.
        area: where the cubes are put.
        alone: only this cube is on the mat; empty: all are.
        target: the cube meant in every scene; empty: the seed draws it.
    """

    name: str
    words: str
    goal: Goal
    area: Area = WIDE
    alone: str = ""
    target: str = ""

    def scene(self, seed: int) -> Scene:
        """The scene of ``seed``; the same for every target."""
        rng = np.random.default_rng(seed)
        pose, places = draw_pose(rng), draw_cubes(rng, self.area)
        drawn = CUBES[int(rng.integers(len(CUBES)))]
        cubes = {name: place if self.alone in ("", name) else None for name, place in places.items()}
        return Scene(pose, cubes, self.target or self.alone or drawn)

    def instruction(self, scene: Scene) -> str:
        """The task in words, for ``scene``."""
        return self.words.format(scene.target.replace("_", " "))


TASKS = {
    task.name: task
    for task in (
        Task("reach_one", "reach the {}", Reach(), alone="red_cube"),
        Task("reach", "reach the {}", Reach()),
        # A cube turned far slips off the gripper; one behind the other would push both.
        Task("push", "push the {} forward", Push(), Area((0.19, 0.26), yaw_rad=0.35, side_gap_m=0.08)),
        # Farther out the hand cannot point down steeply enough, and the gripper closes along the cube's faces only.
        Task("pick", "pick up the {}", Pick(), Area((0.18, 0.25), yaw_rad=0.35, gap_m=0.10, turned=True)),
    )
}


def find_task(name: str) -> Task:
    """The task called ``name``, for example ``reach`` or ``reach:blue``.

    Raises:
        ValueError: there is none; names those there are.
    """
    base, _, colour = name.partition(":")
    task = TASKS.get(base)
    if task is None:
        raise ValueError(f"no task '{name}': there are {', '.join(TASKS)}, each also with :{' or :'.join(COLOURS)}")
    if not colour and ":" not in name:
        return task
    target = COLOURS.get(colour)
    if target is None or task.alone not in ("", target):
        cubes = [task.alone.removesuffix("_cube")] if task.alone else list(COLOURS)
        raise ValueError(f"no task '{name}': {base} is about {' or '.join(f'{base}:{cube}' for cube in cubes)}")
    return replace(task, name=name, target=target)
