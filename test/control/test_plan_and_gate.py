"""From a chunk to joint points, through the gate, to a stop."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from groot_ros.control.gate import Gate, GateViolation
from groot_ros.control.plan import JointPlan, plan_chunk, point_velocities, sample, stop_plan, trim_past
from groot_ros.embodiment.load import load_embodiment
from groot_ros.embodiment.schema import Embodiment, JointLimit
from groot_ros.embodiment.units import to_model
from groot_ros.observation.types import Observation
from groot_ros.policy.base import Chunk
from groot_ros.policy.cycle import Planned, PolicyCycle

T0 = 1_700_000_000_000_000_000
LIMITS = {
    "a": JointLimit(lower=-1.0, upper=1.0, velocity=2.0, acceleration=8.0),
    "b": JointLimit(lower=-0.5, upper=2.0, velocity=1.0),
}


def make_plan(positions: np.ndarray, dt_s: float = 0.1) -> JointPlan:
    due = T0 + np.rint(np.arange(1, len(positions) + 1) * dt_s * 1e9).astype(np.int64)
    return JointPlan(("a", "b"), T0, due, positions, point_velocities(positions, dt_s))


def random_chunk(embodiment_name: str, seed: int) -> tuple[object, Chunk, np.ndarray]:
    embodiment = load_embodiment(embodiment_name)
    rng = np.random.default_rng(seed)
    limits = [embodiment.limits[joint] for joint in embodiment.action_joints]
    ros = rng.uniform([x.lower for x in limits], [x.upper for x in limits], (embodiment.horizon, len(limits)))
    actions, first = {}, 0
    for key, spec in embodiment.action.items():
        last = first + len(spec.joints)
        actions[key] = to_model(embodiment, spec, ros[:, first:last]).astype(np.float32)
        first = last
    return embodiment, Chunk(T0, embodiment.dt_s, actions, "go", 0), ros


@pytest.mark.parametrize("name", ["sim_arm", "so101"])
def test_points_are_due_one_step_after_the_stamp_and_in_ros_units(name: str) -> None:
    embodiment, chunk, ros = random_chunk(name, 3)
    plan = plan_chunk(embodiment, chunk)
    assert plan.joints == tuple(embodiment.action_joints)
    np.testing.assert_allclose(plan.positions, ros, atol=1e-4)
    np.testing.assert_allclose(
        (plan.due_ns - T0) * 1e-9, embodiment.dt_s * np.arange(1, embodiment.horizon + 1), atol=1e-8
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda actions: actions.pop("gripper"), "lacks action key 'gripper'"),
        (
            lambda actions: actions.update(gripper=np.zeros((16, 2), np.float32)),
            "action key 'gripper': expected [H, 1]",
        ),
        (lambda actions: actions.update(gripper=np.zeros(16, np.float32)), "found [16]"),
    ],
)
def test_a_chunk_of_another_shape_is_refused_by_key(change, expected: str) -> None:
    embodiment, chunk, _ = random_chunk("sim_arm", 0)
    change(chunk.actions)
    with pytest.raises(ValueError) as refused:
        plan_chunk(embodiment, chunk)
    assert expected in str(refused.value)


def test_velocities_are_those_of_a_line_and_end_at_rest() -> None:
    line = np.outer(np.arange(5.0), [0.1, -0.2])
    expected = np.tile([1.0, -2.0], (5, 1))
    expected[-1] = 0.0
    np.testing.assert_allclose(point_velocities(line, 0.1), expected)
    assert not point_velocities(line[:1], 0.1).any()


@pytest.mark.parametrize(("after_ms", "trimmed"), [(0, 0), (99, 0), (100, 1), (101, 1), (400, 4), (10_000, 5)])
def test_past_points_are_trimmed_and_counted(after_ms: int, trimmed: int) -> None:
    plan = make_plan(np.arange(10.0).reshape(5, 2))
    rest, count = trim_past(plan, T0 + after_ms * 1_000_000)
    assert count == trimmed
    np.testing.assert_array_equal(rest.positions, plan.positions[trimmed:])
    assert len(rest.due_ns) == len(rest.velocities) == 5 - trimmed


@given(arrays(np.float64, (6, 2), elements=st.floats(-2, 2)), st.integers(0, 700))
def test_sampling_passes_the_points_and_differentiates(positions: np.ndarray, after_ms: int) -> None:
    plan = make_plan(positions)
    for index, due_ns in enumerate(plan.due_ns):
        np.testing.assert_allclose(sample(plan, int(due_ns))[0], positions[index], atol=1e-9)
    time_ns, step_ns = T0 + after_ms * 1_000_000, 1000
    if plan.due_ns[0] < time_ns - step_ns and time_ns + step_ns < plan.due_ns[-1]:
        before, after = sample(plan, time_ns - step_ns)[0], sample(plan, time_ns + step_ns)[0]
        np.testing.assert_allclose((after - before) / (2e-9 * step_ns), sample(plan, time_ns)[1], atol=2e-2)


PLANS = arrays(np.float64, st.tuples(st.integers(1, 8), st.just(2)), elements=st.floats(-10, 10))


@given(PLANS, arrays(np.float64, 2, elements=st.floats(-3, 3)))
def test_whatever_comes_in_leaves_the_gate_inside_limits_and_no_faster_than_allowed(
    positions: np.ndarray, start: np.ndarray
) -> None:
    plan = make_plan(positions)
    gated = Gate(LIMITS).apply(plan, start, T0)
    out = gated.plan
    lower, upper, speed = np.array([-1.0, -0.5]), np.array([1.0, 2.0]), np.array([2.0, 1.0])
    assert np.all(out.positions >= np.minimum(lower, start) - 1e-12)
    assert np.all(out.positions <= np.maximum(upper, start) + 1e-12)
    outside = np.abs(np.clip(out.positions, lower, upper) - out.positions)
    assert np.all(np.diff(outside, axis=0) <= 1e-12)  # only ever back in
    path = np.vstack([start, out.positions])
    assert np.all(np.abs(np.diff(path, axis=0)) <= speed * 0.1 + 1e-9)
    assert np.all(np.abs(out.velocities) <= speed + 1e-9)
    assert not out.velocities[-1].any()
    np.testing.assert_array_equal(out.due_ns, plan.due_ns)
    changed = int((np.abs(out.positions - positions) > 0).any())
    assert bool(gated.clamped) == bool(changed)


def test_a_robot_outside_its_limits_is_led_back_at_its_speed_and_stops_on_the_way() -> None:
    gated = Gate(LIMITS).apply(make_plan(np.zeros((8, 2))), np.array([1.5, 0.0]), T0)
    np.testing.assert_allclose(gated.plan.positions[:, 0], [1.3, 1.1, 0.9, 0.7, 0.5, 0.3, 0.1, 0.0], atol=1e-12)
    stop = stop_plan(("a", "b"), np.array([1.4, 0.0]), np.array([-2.0, 0.0]), LIMITS, T0)
    np.testing.assert_allclose(stop.positions[:, 0], 1.4 - np.array([0.09, 0.16, 0.21, 0.24, 0.25]), atol=1e-9)
    outwards = stop_plan(("a", "b"), np.array([1.4, 0.0]), np.array([2.0, 0.0]), LIMITS, T0)
    assert np.all(outwards.positions[:, 0] == 1.4)


def test_a_plan_inside_all_limits_passes_unchanged() -> None:
    positions = np.outer(np.linspace(0.0, 0.4, 6), [1.0, 1.0])
    gated = Gate(LIMITS).apply(make_plan(positions), np.zeros(2), T0)
    np.testing.assert_array_equal(gated.plan.positions, positions)
    assert gated.clamped == {}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nothing_that_is_not_finite_passes_and_the_joint_is_named(bad: float) -> None:
    positions = np.zeros((4, 2))
    positions[2, 1] = bad
    with pytest.raises(GateViolation, match=r"joint 'b' is .*point 2"):
        Gate(LIMITS).apply(make_plan(positions), np.zeros(2), T0)
    with pytest.raises(GateViolation, match="start position"):
        Gate(LIMITS).apply(make_plan(np.zeros((4, 2))), np.array([0.0, bad]), T0)


def test_an_empty_plan_does_not_pass() -> None:
    with pytest.raises(GateViolation, match="no point left"):
        Gate(LIMITS).apply(make_plan(np.zeros((0, 2))), np.zeros(2), T0)


@settings(max_examples=200)
@given(
    arrays(np.float64, 2, elements=st.floats(-0.5, 1.0)),
    arrays(np.float64, 2, elements=st.floats(-2.0, 2.0)),
)
def test_a_stop_ends_at_rest_inside_the_limits_without_ever_speeding_up(
    position: np.ndarray, velocity: np.ndarray
) -> None:
    plan = stop_plan(("a", "b"), position, velocity, LIMITS, T0)
    assert not plan.velocities[-1].any()
    assert np.all(np.abs(plan.velocities) <= np.abs(velocity) + 1e-9)
    assert np.all(plan.positions >= np.array([-1.0, -0.5])) and np.all(plan.positions <= np.array([1.0, 2.0]))
    assert np.all(np.diff(plan.due_ns) > 0) and plan.due_ns[0] > T0
    braked = position + velocity * np.abs(velocity) / (2 * np.array([8.0, 5.0]))
    np.testing.assert_allclose(plan.positions[-1], np.clip(braked, [-1.0, -0.5], [1.0, 2.0]), atol=1e-6)


def test_keys_that_are_no_joints_are_checked_and_left_out() -> None:
    embodiment, chunk, ros = random_chunk("sim_arm", 4)
    drive = {"fields": ["linear.x", "angular.z"], "unit": "unitless", "bounds": {"lower": [-1, -1], "upper": [1, 1]}}
    data = embodiment.model_dump()
    data["action"] = {"drive": drive, **data["action"]}
    data["outputs"]["base"] = {"topic": "/cmd_vel", "type": "geometry_msgs/msg/Twist", "keys": ["drive"]}
    mobile = Embodiment.model_validate(data)
    chunk.actions["drive"] = np.zeros((embodiment.horizon, 2), np.float32)
    plan = plan_chunk(mobile, chunk)
    assert plan.joints == tuple(embodiment.action_joints)
    np.testing.assert_allclose(plan.positions, ros, atol=1e-4)
    chunk.actions["drive"] = np.zeros((embodiment.horizon, 3), np.float32)
    with pytest.raises(ValueError, match=r"action key 'drive': expected \[H, 2\]"):
        plan_chunk(mobile, chunk)


@pytest.mark.parametrize("place", ["before", "after"])
def test_joints_that_are_not_commanded_are_left_out(place: str) -> None:
    """As with a model that gives each motion twice: the same joints under another key, which nobody is sent."""
    embodiment, chunk, ros = random_chunk("sim_arm", 4)
    data = embodiment.model_dump()
    [(first, spec)] = list(data["action"].items())[:1]
    again = {"again": {**spec, "command": False}}
    data["action"] = {**again, **data["action"]} if place == "before" else {**data["action"], **again}
    twice = Embodiment.model_validate(data)
    chunk.actions["again"] = chunk.actions[first] + 1.0
    plan = plan_chunk(twice, chunk)
    assert plan.joints == tuple(embodiment.action_joints)
    np.testing.assert_allclose(plan.positions, ros, atol=1e-4)
    chunk.actions.pop("again")
    with pytest.raises(ValueError, match="lacks action key 'again'"):
        plan_chunk(twice, chunk)


def test_a_turn_tells_what_is_not_commanded_and_does_not_gate_it() -> None:
    """The columns of joints that nobody is sent are NaN, as those of numbers are, and shift no others."""
    embodiment, chunk, ros = random_chunk("sim_arm", 4)
    data = embodiment.model_dump()
    first = next(iter(data["action"]))
    data["action"] = {"again": {**data["action"][first], "command": False}, **data["action"]}
    twice = Embodiment.model_validate(data)
    chunk.actions["again"] = chunk.actions[first] + 1.0
    state = {
        key: to_model(embodiment, spec, [[ros[0, embodiment.action_joints.index(joint)] for joint in spec.joints]])
        for key, spec in embodiment.state.items()
    }
    stamps = dict.fromkeys(embodiment.state_streams, (T0,))
    seen = Observation(T0, {}, state, "go", stamps, {})
    assembler = SimpleNamespace(assemble=lambda now_ns, instruction: seen)
    policy = SimpleNamespace(act=lambda observation, seed=None: chunk)
    result = PolicyCycle(twice, assembler, policy, lambda: T0).run("go")
    assert isinstance(result, Planned)
    width = len(data["action"]["again"]["joints"])
    assert np.isnan(result.gated_actions[:, :width]).all()
    alone = PolicyCycle(embodiment, assembler, policy, lambda: T0).run("go")
    assert isinstance(alone, Planned)
    np.testing.assert_array_equal(result.gated_actions[:, width:], alone.gated_actions)


def test_a_robot_without_joints_has_a_plan_of_times_only() -> None:
    embodiment, chunk, _ = random_chunk("sim_arm", 4)
    data = embodiment.model_dump()
    drive = {"fields": ["linear.x"], "unit": "unitless", "bounds": {"lower": [-1], "upper": [1]}}
    data["action"] = {"drive": drive}
    data["outputs"] = {"base": {"topic": "/cmd_vel", "type": "geometry_msgs/msg/Twist", "keys": ["drive"]}}
    mobile = Embodiment.model_validate(data)
    chunk.actions["drive"] = np.zeros((embodiment.horizon, 1), np.float32)
    plan = plan_chunk(mobile, chunk)
    assert plan.positions.shape == (embodiment.horizon, 0)
    gated = Gate(mobile.limits).apply(plan, np.zeros(0), T0)
    assert len(gated.plan) == embodiment.horizon and gated.clamped == {}
