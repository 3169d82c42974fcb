"""What may become a command, and what stops the robot instead."""

from __future__ import annotations

import numpy as np
import pytest
from control_rig import PERIOD_NS, TICK0, Bench, arm, assert_in_limits, chunk_of, column, home, mixed
from hypothesis import given, settings
from hypothesis import strategies as st

from groot_ros.control.gate import Gate, GateViolation
from groot_ros.control.limiter import Motion

RULES = ("position", "velocity", "acceleration")


def checked(bench: Bench, values: np.ndarray) -> np.ndarray:
    return bench.gate.check_chunk(chunk_of(bench.layout, TICK0 * PERIOD_NS, values).actions)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("key", "place", "name"), [("arm", 1, "'b'"), ("turn", 2, "'pose.rotvec.z'"), ("mode", 0, "'data.0'")]
)
def test_nothing_that_is_not_finite_passes_and_the_number_is_named(key: str, place: int, name: str, bad: float) -> None:
    bench = Bench(mixed())
    chunk = bench.chunk(TICK0, bench.rows())
    chunk.actions[key][7, place] = bad
    with pytest.raises(GateViolation, match=f"{key}: {name} is {bad} at point 7"):
        bench.gate.check_chunk(chunk.actions)


def test_numbers_that_nobody_is_sent_must_be_finite_too() -> None:
    data = arm().model_dump()
    data["action"]["also"] = {**data["action"]["arm"], "command": False}
    bench = Bench(type(arm()).model_validate(data))
    chunk = bench.chunk(TICK0, bench.rows())
    chunk.actions["also"][0, 0] = np.nan
    with pytest.raises(GateViolation, match="also: 'a' is nan at point 0"):
        bench.gate.check_chunk(chunk.actions)


OFFENCES = {
    "position": (
        ("a", lambda i: 2.9 + 0.02 * i),
        r"position: a is 3\.02 at point 5 .*-1 \.\. 3.*gate.position is stop",
    ),
    "velocity": (("a", lambda i: 0.2 * np.maximum(i - 8, 0)), r"velocity: a moves with 2 at point 7 .* more than 1"),
    "acceleration": (("a", lambda i: 0.05 * np.maximum(i - 8, 0)), r"acceleration: a moves with 5 at point 6.*than 4"),
}


@pytest.mark.parametrize("offence", RULES)
@pytest.mark.parametrize("rule", RULES)
def test_only_the_rule_that_says_stop_stops(rule: str, offence: str) -> None:
    target, message = OFFENCES[offence]
    bench = Bench(arm(gate={rule: "stop"}))
    # Twice the speed limit at once is more than the acceleration limit as well.
    if rule == offence or (rule, offence) == ("acceleration", "velocity"):
        with pytest.raises(GateViolation, match=message if rule == offence else "acceleration: a"):
            checked(bench, bench.rows(target))
    else:
        values = bench.rows(target)
        np.testing.assert_allclose(checked(bench, values), values, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_a_chunk_on_its_limits_does_not_stop_the_robot(rule: str) -> None:
    bench = Bench(arm(gate={rule: "stop"}))
    values = bench.rows(("a", lambda i: np.minimum(3.0, 1.4 + 0.1 * i)), ("b", lambda i: np.full(16, 2.0)))
    if rule == "acceleration":
        values = bench.rows(("a", lambda i: 0.5 * 4.0 * (0.1 * i) ** 2 * (i < 4) + (i >= 4) * (0.08 * i)))[:3]
    np.testing.assert_allclose(checked(bench, values), values, atol=1e-5)


def test_a_switch_is_no_motion_that_is_too_fast() -> None:
    bench = Bench(mixed(gate=dict.fromkeys(RULES, "stop")))
    on = ("mode.data.0", lambda i: (i > 5).astype(float))
    shut = ("g", lambda i: 0.1 * (i > 5))  # 1 m/s, its joint does 0.5
    checked(bench, bench.rows(on, shut))


def test_a_turn_that_is_too_fast_stops_the_robot_where_its_yaml_says_so() -> None:
    bench = Bench(mixed(gate={"velocity": "stop"}))
    rows = bench.rows()
    first = bench.space.rotations[0][0]
    angle = 0.1 * np.arange(16)  # 1 rad/s
    rows[:, first + 2], rows[:, first + 3] = np.sin(angle / 2), np.cos(angle / 2)
    checked(bench, rows)
    angle = 0.21 * np.arange(16)
    rows[:, first + 2], rows[:, first + 3] = np.sin(angle / 2), np.cos(angle / 2)
    with pytest.raises(GateViolation, match=r"velocity: tool\.rotation\.z moves with 2\.1"):
        checked(bench, rows)


@pytest.mark.parametrize(
    ("name", "target", "far"),
    [
        ("a", 0.99, False),
        ("a", 1.01, True),
        ("a", -0.99, False),
        ("g", 0.1, False),  # steps
        ("mode.data.0", 1.0, False),  # steps
        ("base.linear.x", 1.0, False),  # a speed begins at 0 and has its limit
        ("tool.pose.position.y", 0.49, False),
        ("tool.pose.position.y", 0.51, True),
    ],
)
def test_how_far_the_first_target_may_be(name: str, target: float, far: bool) -> None:
    bench = Bench(mixed())
    there = home(bench.space)
    there[column(bench.space, name)] = target
    if far:
        with pytest.raises(GateViolation, match=f"start_jump: the first target of {name} is .*start_jump: clamp"):
            bench.gate.check_start(home(bench.space), there)
        Bench(mixed(gate={"start_jump": "clamp"})).gate.check_start(home(bench.space), there)
    else:
        bench.gate.check_start(home(bench.space), there)


@pytest.mark.parametrize(("angle", "far"), [(0.78, False), (0.8, True), (2 * np.pi - 0.1, False)])
def test_how_far_the_first_orientation_may_be(angle: float, far: bool) -> None:
    bench = Bench(mixed())
    there = home(bench.space)
    first = bench.space.rotations[0][0]
    there[first], there[first + 3] = np.sin(angle / 2), np.cos(angle / 2)
    if far:
        with pytest.raises(GateViolation, match=r"tool\.rotation\.x"):
            bench.gate.check_start(home(bench.space), there)
    else:
        bench.gate.check_start(home(bench.space), there)


def test_the_worst_offender_is_named() -> None:
    bench = Bench(arm())
    with pytest.raises(GateViolation, match="first target of b"):
        bench.gate.check_start(home(bench.space), np.array([1.1, 1.9, 0.0]))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 9999), size=st.sampled_from([0.1, 1.0, 10.0]))
def test_what_leaves_the_gate_obeys_every_limit_and_can_stop(seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    bench = Bench(mixed())
    gate = Gate(bench.layout, PERIOD_NS * 1e-9)
    targets = bench.space.plus(home(bench.space)[None], rng.normal(0.0, size, (30, bench.space.tangent_count)))
    start = Motion(home(bench.space), np.zeros(bench.space.tangent_count))
    out = gate.shape(start, targets, rng.normal(0.0, size, (30, bench.space.tangent_count)))
    tick = int(rng.integers(30))
    stop = gate.brake(Motion(out.values[tick], out.velocities[tick]))
    values = np.concatenate([start.values[None], out.values[: tick + 1], stop.values])
    assert_in_limits(
        bench.space, values, np.concatenate([start.velocity[None], out.velocities[: tick + 1], stop.velocities])
    )
    assert not stop.velocities[-1].any()
