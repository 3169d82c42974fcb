"""One turn from buffered messages to a gated plan, with a policy that says what the test wants."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from groot_ros.embodiment.load import load_embodiment
from groot_ros.embodiment.schema import Embodiment
from groot_ros.embodiment.units import to_model
from groot_ros.observation.assembler import Assembler
from groot_ros.observation.types import Observation, Reason, Refusal
from groot_ros.policy.base import Chunk
from groot_ros.policy.cycle import Planned, PolicyCycle, Rejected

T0 = 1_700_000_000_000_000_000
MS = 1_000_000


class Clock:
    def __init__(self) -> None:
        self.now_ns = T0

    def __call__(self) -> int:
        return self.now_ns


class Script:
    """A policy that asks for the positions it is given (rad, [J]) at every step and takes ``latency_ns``."""

    def __init__(self, embodiment, clock: Clock, target: np.ndarray, latency_ns: int = 20 * MS) -> None:
        self.embodiment, self.clock, self.target, self.latency_ns = embodiment, clock, target, latency_ns
        self.seen: list[Observation] = []

    def act(self, observation: Observation, *, seed: int | None = None) -> Chunk:
        self.seen.append(observation)
        self.clock.now_ns += self.latency_ns
        actions, first = {}, 0
        for key, spec in self.embodiment.action.items():
            last = first + len(spec.joints)
            row = to_model(self.embodiment, spec, self.target[first:last])
            actions[key] = np.tile(row, (self.embodiment.horizon, 1)).astype(np.float32)
            first = last
        timings = {"model": self.latency_ns * 1e-9}
        return Chunk(observation.stamp_ns, self.embodiment.dt_s, actions, observation.instruction, seed or 0, timings)


def fill(assembler: Assembler, embodiment, now_ns: int, positions: np.ndarray, shade: int) -> None:
    header = SimpleNamespace(stamp=SimpleNamespace(sec=now_ns // 10**9, nanosec=now_ns % 10**9), frame_id="")
    for name, camera in embodiment.cameras.items():
        data = np.full(camera.height * camera.width * 3, shade, dtype=np.uint8)
        image = SimpleNamespace(
            header=header, height=camera.height, width=camera.width, encoding="rgb8", step=3 * camera.width, data=data
        )
        assert assembler.add(name, image, now_ns) is None
    joints = SimpleNamespace(header=header, name=embodiment.action_joints, position=positions, velocity=[], effort=[])
    assert assembler.add("joints", joints, now_ns) is None


@pytest.fixture
def rig():
    embodiment, clock = load_embodiment("sim_arm"), Clock()
    assembler = Assembler(embodiment)
    policy = Script(embodiment, clock, np.full(6, 0.05))
    return SimpleNamespace(
        embodiment=embodiment,
        clock=clock,
        assembler=assembler,
        policy=policy,
        cycle=PolicyCycle(embodiment, assembler, policy, clock),
    )


def test_a_turn_gives_a_plan_from_the_newest_stamp_on(rig) -> None:
    fill(rig.assembler, rig.embodiment, T0, np.zeros(6), 1)
    rig.policy.latency_ns = 70 * MS
    result = rig.cycle.run("go", seed=7)
    assert isinstance(result, Planned)
    assert result.chunk.seed == 7
    assert result.trimmed == 2  # points due at 33 and 67 ms were past after 70 ms
    assert len(result.plan) == rig.embodiment.horizon - 2
    assert result.plan.stamp_ns == T0
    assert np.isnan(result.gated_actions[:2]).all() and np.isfinite(result.gated_actions[2:]).all()
    np.testing.assert_allclose(result.plan.positions, 0.05, atol=1e-6)
    assert list(result.stages_s) == ["assemble", "model", "gate"]


def test_without_an_observation_the_policy_is_not_asked(rig) -> None:
    result = rig.cycle.run("go")
    assert isinstance(result, Refusal) and result.reason is Reason.MISSING_STREAM
    assert rig.policy.seen == []


def test_a_chunk_that_comes_after_its_last_point_is_rejected_without_a_stop(rig) -> None:
    fill(rig.assembler, rig.embodiment, T0, np.zeros(6), 1)
    rig.policy.latency_ns = 600 * MS
    result = rig.cycle.run("go")
    assert isinstance(result, Rejected)
    assert (result.reason, result.stop) == ("chunk_too_late", False)


def test_a_chunk_that_is_not_finite_is_rejected_and_stops(rig) -> None:
    fill(rig.assembler, rig.embodiment, T0, np.zeros(6), 1)
    rig.policy.target = np.array([0, 0, np.nan, 0, 0, 0.0])
    result = rig.cycle.run("go")
    assert isinstance(result, Rejected)
    assert (result.reason, result.stop) == ("gate", True)
    assert "elbow_flex" in result.message


def test_a_far_target_becomes_a_ramp_from_where_the_robot_is(rig) -> None:
    start = np.array([0.3, -0.2, 0.1, 0.0, 0.5, 0.2])
    fill(rig.assembler, rig.embodiment, T0, start, 1)
    rig.policy.target = np.array([1.5, 1.5, 1.5, 1.5, 1.5, 1.5])
    result = rig.cycle.run("go")
    assert isinstance(result, Planned)
    speed = rig.embodiment.limits["shoulder_pan"].velocity
    reach = speed * (rig.embodiment.dt_s - 0.020)  # the first point is due 33 ms after the stamp, 13 ms from now
    np.testing.assert_allclose(result.plan.positions[0], start + reach, atol=1e-6)
    assert result.clamped["shoulder_pan.velocity"] > 0


def test_the_next_plan_starts_from_the_one_in_force_and_a_stop_brakes_from_it(rig) -> None:
    fill(rig.assembler, rig.embodiment, T0, np.zeros(6), 1)
    first = rig.cycle.run("go")
    assert isinstance(first, Planned)
    assert rig.cycle.stop() is None  # nothing was sent yet
    rig.cycle.commit(first.followed)
    assert rig.cycle.remaining_points() == len(first.plan)
    rig.clock.now_ns = T0 + 200 * MS
    fill(rig.assembler, rig.embodiment, rig.clock.now_ns, np.full(6, -0.3), 2)  # lags behind the command
    rig.policy.target = np.full(6, 0.06)
    second = rig.cycle.run("go")
    assert isinstance(second, Planned)
    np.testing.assert_allclose(second.plan.positions[0], 0.06, atol=1e-6)  # from 0.05, not from -0.3
    stop = rig.cycle.stop()
    assert stop is not None
    np.testing.assert_allclose(stop.positions[-1], 0.05, atol=1e-6)
    assert not stop.velocities[-1].any()


def test_a_stop_before_the_first_point_is_due_brakes_from_between(rig) -> None:
    fill(rig.assembler, rig.embodiment, T0, np.zeros(6), 1)
    rig.policy.target = np.full(6, 1.0)
    planned = rig.cycle.run("go")
    assert isinstance(planned, Planned)
    rig.cycle.commit(planned.followed)
    sent_ns, first_ns = rig.clock.now_ns, int(planned.plan.due_ns[0])
    rig.clock.now_ns = (sent_ns + first_ns) // 2
    stop = rig.cycle.stop()
    assert stop is not None
    speed = rig.embodiment.limits["shoulder_pan"].velocity
    braking = speed**2 / (2 * rig.embodiment.limits["shoulder_pan"].acceleration)
    assert np.all(stop.positions[0] < planned.plan.positions[0] + braking)
    assert np.all(stop.positions >= 0.0)


def test_a_stop_after_the_plan_has_ended_commands_nothing(rig) -> None:
    fill(rig.assembler, rig.embodiment, T0, np.zeros(6), 1)
    planned = rig.cycle.run("go")
    assert isinstance(planned, Planned)
    rig.cycle.commit(planned.followed)
    rig.clock.now_ns = int(planned.plan.due_ns[-1])
    assert rig.cycle.stop() is None


def test_what_was_not_sent_is_not_where_the_next_plan_starts(rig) -> None:
    fill(rig.assembler, rig.embodiment, T0, np.zeros(6), 1)
    rig.policy.target = np.full(6, 0.5)
    assert isinstance(rig.cycle.run("go"), Planned)
    rig.cycle.commit(None)  # a dry run: the robot has not moved
    rig.clock.now_ns = T0 + 200 * MS
    fill(rig.assembler, rig.embodiment, rig.clock.now_ns, np.full(6, -0.15), 2)
    planned = rig.cycle.run("go")
    assert isinstance(planned, Planned)
    assert np.all(planned.plan.positions[0] < -0.1)


def test_after_an_underrun_the_next_plan_starts_where_the_last_one_ended(rig) -> None:
    fill(rig.assembler, rig.embodiment, T0, np.zeros(6), 1)
    first = rig.cycle.run("go")
    assert isinstance(first, Planned)
    rig.cycle.commit(first.followed)
    end_ns = int(first.plan.due_ns[-1])
    rig.clock.now_ns = end_ns - 100 * MS
    fill(rig.assembler, rig.embodiment, rig.clock.now_ns, np.full(6, -0.15), 2)  # still on its way to 0.05
    rig.policy.latency_ns = 300 * MS
    rig.policy.target = np.full(6, 0.06)
    late = rig.cycle.run("go")
    assert isinstance(late, Planned)
    np.testing.assert_allclose(late.plan.positions[0], 0.06, atol=1e-6)  # from 0.05, not from -0.15
    assert late.clamped == {}
    rig.clock.now_ns = end_ns + 300 * MS
    fill(rig.assembler, rig.embodiment, rig.clock.now_ns, np.full(6, -0.15), 3)  # moved by hand after the end
    moved = rig.cycle.run("go")
    assert isinstance(moved, Planned)
    assert np.all(moved.followed.positions[0] < -0.1)


def test_a_reset_while_braking_keeps_where_the_next_plan_starts(rig) -> None:
    fill(rig.assembler, rig.embodiment, T0, np.zeros(6), 1)
    rig.policy.target = np.full(6, 1.0)
    planned = rig.cycle.run("go")
    assert isinstance(planned, Planned)
    rig.cycle.commit(planned.followed)
    rig.clock.now_ns = T0 + 150 * MS
    brake = rig.cycle.stop()
    assert brake is not None
    rig.cycle.reset(braking=True)
    assert rig.cycle.active is not None
    assert isinstance(rig.cycle.run("go"), Refusal)  # the samples are gone
    rig.clock.now_ns = int(brake.due_ns[-1])
    rig.cycle.reset(braking=True)
    assert rig.cycle.active is None


def test_a_reset_forgets_samples_and_plan(rig) -> None:
    fill(rig.assembler, rig.embodiment, T0, np.zeros(6), 1)
    planned = rig.cycle.run("go")
    assert isinstance(planned, Planned)
    rig.cycle.commit(planned.followed)
    rig.cycle.reset()
    assert rig.cycle.active is None and rig.cycle.remaining_points() == 0
    assert isinstance(rig.cycle.run("go"), Refusal)


def test_a_command_without_a_measured_start_is_refused_when_the_robot_is_loaded(rig, tmp_path) -> None:
    state = {key: spec for key, spec in rig.embodiment.state.items() if key != "gripper"}
    half = rig.embodiment.model_copy(update={"state": state})
    with pytest.raises(ValueError, match="gripper"):
        PolicyCycle(half, rig.assembler, rig.policy, rig.clock)


def test_numbers_that_are_no_joints_are_told_and_not_gated(rig) -> None:
    """A dry run of a robot whose base cannot be commanded yet."""
    data = rig.embodiment.model_dump()
    drive = {"fields": ["linear.x", "angular.z"], "unit": "unitless", "bounds": {"lower": [-1, -1], "upper": [1, 1]}}
    data["action"] = {"drive": drive, **data["action"]}
    data["outputs"]["base"] = {"topic": "/cmd_vel", "type": "geometry_msgs/msg/Twist", "keys": ["drive"]}
    mobile = Embodiment.model_validate(data)
    arm = rig.policy.act

    def act(observation: Observation, *, seed: int | None = None) -> Chunk:
        chunk = arm(observation, seed=seed)
        chunk.actions["drive"] = np.full((rig.embodiment.horizon, 2), 0.5, np.float32)
        return chunk

    rig.policy.act = act
    fill(rig.assembler, rig.embodiment, T0, np.zeros(6), 1)
    result = PolicyCycle(mobile, rig.assembler, rig.policy, rig.clock).run("go")
    assert isinstance(result, Planned)
    assert result.gated_actions.shape == (rig.embodiment.horizon, 8)
    assert np.isnan(result.gated_actions[:, :2]).all() and np.isfinite(result.gated_actions[:, 2:]).all()
