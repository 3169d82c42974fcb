"""The tasks: which scene a seed draws, what it is called, and when it is done or cannot be done any more."""

from __future__ import annotations

import math

import numpy as np
import pytest

from groot_ros.simulation.arm import SimArm
from groot_ros.simulation.scene import CUBES, free_scene
from groot_ros.simulation.tasks import (
    OFF_TABLE,
    PICK_HOLD_S,
    PUSH_M,
    REACH_ABOVE_M,
    REACH_HOLD_S,
    TASKS,
    WRONG_CUBE,
    Judge,
    Pick,
    Push,
    Reach,
    find_task,
)

RED, BLUE = CUBES
START = {RED: np.array([0.24, 0.0, 0.022]), BLUE: np.array([0.24, 0.1, 0.022])}
ABOVE = np.array([0.0, 0.0, REACH_ABOVE_M])
FAR = np.array([0.13, 0.0, 0.1])
DT = 0.02


@pytest.mark.parametrize("name", TASKS)
def test_a_seed_draws_the_same_scene_whatever_the_target(name: str) -> None:
    task = find_task(name)
    for seed in range(30):
        scene, again = task.scene(seed), task.scene(seed)
        assert scene.cubes == again.cubes and scene.target == again.target
        np.testing.assert_array_equal(scene.pose_rad, again.pose_rad)
        for colour in ("red", "blue") if name != "reach_one" else ("red",):
            fixed = find_task(f"{name}:{colour}").scene(seed)
            assert fixed.cubes == scene.cubes and fixed.target == f"{colour}_cube"
            np.testing.assert_array_equal(fixed.pose_rad, scene.pose_rad)


@pytest.mark.parametrize("name", ["reach", "push", "pick"])
def test_seeds_draw_both_targets_in_all_places(name: str) -> None:
    scenes = [find_task(name).scene(seed) for seed in range(200)]
    assert 70 < sum(scene.target == RED for scene in scenes) < 130
    places = np.array([scene.cubes[cube][:2] for scene in scenes for cube in CUBES])  # type: ignore[index]
    assert np.ptp(places, axis=0) == pytest.approx([0.08, 0.22], abs=0.05)
    area = find_task(name).area
    for scene in scenes:
        (x, y, _), (u, v, _) = (place for place in scene.cubes.values() if place is not None)
        assert math.hypot(x - u, y - v) >= area.gap_m and abs(y - v) >= area.side_gap_m


def test_reach_one_is_the_free_scene_without_the_blue_cube() -> None:
    scene, free = find_task("reach_one").scene(5), free_scene(5)
    assert scene.cubes == {RED: free.cubes[RED], BLUE: None}
    np.testing.assert_array_equal(scene.pose_rad, free.pose_rad)
    arm = SimArm(5, task=find_task("reach_one"))
    before = arm.cube_poses()[BLUE]
    arm.step(1.0)
    assert list(arm.cube_positions()) == [RED]
    assert before[2] < -0.9 and arm.cube_poses()[BLUE] == pytest.approx(before, abs=1e-3)  # it lies still out there


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("reach_one", "reach the red cube"),
        ("reach:blue", "reach the blue cube"),
        ("push:blue", "push the blue cube forward"),
        ("pick:red", "pick up the red cube"),
    ],
)
def test_instructions_name_the_cube(name: str, words: str) -> None:
    task = find_task(name)
    assert task.name == name
    assert task.instruction(task.scene(3)) == words


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fly", "there are reach_one, reach, push, pick"),
        ("reach:green", "reach:red or reach:blue"),
        ("reach:", "reach:red or reach:blue"),
        ("reach_one:blue", "reach_one is about reach_one:red"),
        ("", "no task ''"),
    ],
)
def test_unknown_tasks_are_refused_by_name(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_task(name)


def test_reach_has_to_be_held() -> None:
    judge = Judge(Reach(), RED, START)
    steps = round(REACH_HOLD_S / DT)
    near = START[RED] + ABOVE + [0.02, 0.0, 0.0]
    for tick in range(steps):
        verdict = judge.update(tick * DT, near, START)
        assert not verdict.success and verdict.distance_m == pytest.approx(0.02)
    judge.update(steps * DT, near + [0.01, 0.0, 0.0], START)  # away for a moment: it counts anew
    for tick in range(1, steps + 1):
        assert not judge.update((steps + tick) * DT, near, START).success
    assert judge.update((2 * steps + 2) * DT, near, START).success
    after = judge.update(10.0, FAR, START)
    assert after.success and after.failure == "" and after.distance_m > 0.1  # stays done


def test_holding_above_the_other_cube_is_the_wrong_one() -> None:
    judge = Judge(Reach(), RED, START)
    for tick in range(round(REACH_HOLD_S / DT)):
        assert judge.update(tick * DT, START[BLUE] + ABOVE, START).failure == ""
    assert judge.update(REACH_HOLD_S, START[BLUE] + ABOVE, START).failure == WRONG_CUBE
    for time_s in (1.0, 2.0):  # too late
        assert not judge.update(time_s, START[RED] + ABOVE, START).success


def test_push_counts_the_way_forward_only() -> None:
    judge = Judge(Push(), RED, START)

    def moved(x: float, y: float, cube: str = RED) -> dict[str, np.ndarray]:
        return {**START, cube: START[cube] + [x, y, 0.0]}

    assert judge.update(0.0, FAR, moved(0.02, 0.0)).distance_m == pytest.approx(PUSH_M - 0.02)
    assert judge.update(0.1, FAR, moved(-0.02, 0.06)).distance_m == pytest.approx(PUSH_M + 0.02)
    assert not judge.update(0.2, FAR, moved(0.049, 0.05)).success
    assert judge.update(0.3, FAR, moved(0.051, 0.05)).success
    other = Judge(Push(), RED, START)
    assert other.update(0.0, FAR, moved(0.0, 0.04, BLUE)).failure == ""
    assert other.update(0.1, FAR, moved(0.0, 0.06, BLUE)).failure == WRONG_CUBE


def test_pick_has_to_be_held_up() -> None:
    judge = Judge(Pick(), BLUE, START)
    up = {**START, BLUE: START[BLUE] + [0.0, 0.0, 0.041]}
    assert judge.update(0.0, FAR, START).distance_m == pytest.approx(0.04)
    assert not judge.update(0.1, FAR, up).success
    assert not judge.update(0.1 + PICK_HOLD_S - DT, FAR, up).success
    assert judge.update(0.1 + PICK_HOLD_S, FAR, up).success
    wrong = Judge(Pick(), RED, START)
    wrong.update(0.0, FAR, up)
    assert wrong.update(PICK_HOLD_S, FAR, up).failure == WRONG_CUBE


def test_a_cube_that_falls_off_ends_it() -> None:
    judge = Judge(Push(), RED, START)
    fallen = {**START, BLUE: np.array([0.9, 0.0, -0.2])}
    assert judge.update(0.0, FAR, fallen).failure == OFF_TABLE


def test_without_a_task_nothing_is_judged() -> None:
    verdict = SimArm(1).verdict()
    assert (verdict.success, verdict.failure) == (False, "") and math.isnan(verdict.distance_m)
