"""The expert: its angles are the arm's, its motion is smooth and within limits, and it does the tasks."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from expert_rollout import roll_out
from hypothesis import given, settings
from hypothesis import strategies as st

from groot_ros.embodiment.load import load_embodiment
from groot_ros.simulation import kinematics
from groot_ros.simulation.arm import SimArm
from groot_ros.simulation.expert import ACCELERATION_RAD_S2, SPEED_RAD_S, Expert, Move
from groot_ros.simulation.kinematics import RANGE_RAD, OutOfReach, joints_for, pitch_for
from groot_ros.simulation.scene import JOINTS
from groot_ros.simulation.tasks import find_task

TICK_HZ = 50.0


@pytest.fixture(scope="module")
def arm() -> Iterator[SimArm]:
    made = SimArm(0, 32, 32)
    yield made
    made.close()


@settings(deadline=None)
@given(
    radius=st.floats(0.13, 0.28), bearing=st.floats(-0.6, 0.6), height=st.floats(0.015, 0.10), roll=st.floats(-1.0, 1.0)
)
def test_the_grasp_point_is_where_it_was_asked_for(
    arm: SimArm, radius: float, bearing: float, height: float, roll: float
) -> None:
    place = np.array([radius * math.cos(bearing), radius * math.sin(bearing), height])
    joints = joints_for(place)
    arm._data.qpos[arm._qpos] = [*joints, roll, 0.5]
    arm._mujoco.mj_kinematics(arm.model, arm._data)
    assert arm.grasp_position() == pytest.approx(place, abs=1e-6)
    down = -float(arm._data.site("grasp").xmat[6])  # sine of the pitch
    assert math.asin(down) == pytest.approx(pitch_for(radius), abs=1e-6)


def test_ranges_are_those_of_the_model(arm: SimArm) -> None:
    for joint, limits in zip(JOINTS, RANGE_RAD, strict=False):
        assert arm.model.joint(joint).range.tolist() == pytest.approx(limits.tolist())


@pytest.mark.parametrize("place", [[0.6, 0.0, 0.05], [0.0, 0.0, 0.3]])
def test_places_out_of_reach_are_named(place: list[float]) -> None:
    with pytest.raises(OutOfReach, match=f"\\({place[0]:.3f}, 0.000, {place[2]:.3f}\\) m"):
        kinematics.joints_for(np.array(place))


@pytest.mark.parametrize("name", ["reach_one", "reach", "push", "pick"])
def test_does_its_task_smoothly(name: str, arm: SimArm) -> None:
    task = find_task(name)
    limits = load_embodiment("sim_tabletop").limits
    for seed in range(1000, 1003):
        done = roll_out(arm, task, seed, tick_hz=TICK_HZ)
        assert done.verdict.success, seed
        assert done.instruction == task.instruction(task.scene(seed))
        np.testing.assert_allclose(done.targets[0], done.positions[0], atol=1e-9)
        speed = np.abs(np.diff(done.targets, axis=0)).max() * TICK_HZ
        acceleration = np.abs(np.diff(done.targets, 2, axis=0)).max() * TICK_HZ**2
        assert speed < 1.05 * SPEED_RAD_S and acceleration < 1.1 * ACCELERATION_RAD_S2
        for joint, targets in zip(JOINTS, done.targets.T, strict=True):
            assert limits[joint].lower <= targets.min() and targets.max() <= limits[joint].upper
        assert min(limits[joint].velocity for joint in JOINTS) > SPEED_RAD_S
        assert min(limits[joint].acceleration for joint in JOINTS) > ACCELERATION_RAD_S2


def test_reaches_with_one_posture_per_place_whatever_the_start(arm: SimArm) -> None:
    """What the policy has to learn is a function of what it sees."""
    task = find_task("reach_one")
    arm.reset(1, task)
    ends = []
    for start in (arm.scene.pose_rad, arm.scene.pose_rad + 0.2):
        expert = Expert(task, "red_cube", start)
        expert.step(0.0, arm.cube_poses())
        ends.append(expert.step(60.0, arm.cube_poses()))
        assert expert.finished
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-12)


def test_any_ticks_give_the_same_path(arm: SimArm) -> None:
    task = find_task("push:red")
    arm.reset(2, task)
    cubes = arm.cube_poses()
    slow, fast = (Expert(task, "red_cube", arm.scene.pose_rad) for _ in range(2))
    slow.step(0.0, cubes)
    fast.step(0.0, cubes)
    for _ in range(30):
        for _ in range(4):
            last = fast.step(0.025, cubes)
        np.testing.assert_allclose(slow.step(0.1, cubes), last, atol=1e-9)


def test_a_move_takes_as_long_as_the_limits_ask_for() -> None:
    goal = np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    long, short = Move.along(lambda s: s * goal), Move.along(lambda s: 0.01 * s * goal)
    assert long.duration_s == pytest.approx(1.875 / SPEED_RAD_S, rel=0.02)  # a minimum jerk move's peak speed
    assert short.duration_s == 0.2
    np.testing.assert_array_equal(long.at(long.duration_s + 1.0), goal)
    np.testing.assert_array_equal(long.at(-1.0), 0.0 * goal)


def test_pictures_of_a_rollout(arm: SimArm) -> None:
    done = roll_out(arm, find_task("reach_one"), 4, cameras=("top", "front"), frame_every=10)
    assert {name: frames.shape[1:] for name, frames in done.frames.items()} == {
        "top": (32, 32, 3),
        "front": (32, 32, 3),
    }
    assert len(done.frames["top"]) == -(-len(done.targets) // 10)
    assert (done.frames["top"][0] != done.frames["top"][-1]).any()
