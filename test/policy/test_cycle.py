"""One turn from buffered messages to commands, with a policy that says what the test wants, in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from control_rig import PERIOD_NS, STEP_TICKS, T0, TICK0, World, arm, column, mixed

from groot_ros.control.training_range import TrainingRange
from groot_ros.observation.types import Reason, Refusal
from groot_ros.policy.base import Chunk
from groot_ros.policy.cycle import Planned, PolicyCycle, Rejected
from groot_ros.policy.supervisor import State


def started(**options) -> World:
    world = World(arm(**options.pop("sections", {})), **options)
    world.start()
    return world


def constant(world: World, **targets: float) -> Callable[..., np.ndarray]:
    return lambda observation, prefix: world.bench.rows(
        *((name, lambda i, value=value: np.full(len(i), value)) for name, value in targets.items())
    )


def test_a_turn_executes_the_chunk_from_the_second_tick_after_its_arrival_on() -> None:
    world = started(latency_ticks=13)
    world.say = constant(world, a=0.05, g=0.1)
    result = world.infer(seed=7)
    assert isinstance(result, Planned)
    accepted = result.accepted
    assert accepted.chunk.stamp_ns == T0 == accepted.stamp_ns
    assert accepted.first_tick == TICK0 + 15 and result.delay_ticks == 13
    assert accepted.trimmed == 2  # rows due after 100 and 200 ms were past after 260 ms
    assert world.timeline.track is accepted.track and world.sender.tracks[-1][2] is accepted.track
    gated = result.gated_actions
    assert gated.shape == (16, 3)
    assert np.isnan(gated[:2]).all() and np.isfinite(gated[2:]).all()
    np.testing.assert_allclose(gated[-1], [0.05, 0.0, 0.1], atol=1e-6)
    assert list(result.stages_s) == ["assemble", "model", "transfer", "plan"]


def test_the_gated_rows_are_what_is_commanded_when_they_are_due() -> None:
    world = started(latency_ticks=3)
    world.say = constant(world, a=0.3, b=-0.4)
    result = world.infer()
    assert isinstance(result, Planned)
    world.ticks(STEP_TICKS * 16 - 3)
    commanded = {tick: world.timeline.track.motion(tick).values for tick in range(TICK0 + 4, TICK0 + 81)}
    for row, gated in enumerate(result.gated_actions):
        np.testing.assert_allclose(gated, commanded[TICK0 + (row + 1) * STEP_TICKS], atol=1e-9)


def test_columns_of_keys_that_nobody_is_sent_are_nan_and_shift_no_others() -> None:
    world = started()
    data = world.layout.embodiment.model_dump()
    data["action"] = {"again": {**data["action"]["arm"], "command": False}, **data["action"]}
    twice = World(type(world.layout.embodiment).model_validate(data))
    twice.start()
    for each in (world, twice):
        each.say = constant(each, a=0.2, b=0.1)
    one, two = world.infer(), twice.infer()
    assert isinstance(one, Planned) and isinstance(two, Planned)
    assert np.isnan(two.gated_actions[:, :2]).all()
    np.testing.assert_array_equal(two.gated_actions[:, 2:], one.gated_actions)


def test_without_an_observation_the_policy_is_not_asked_and_the_old_chunk_goes_on() -> None:
    world = started()
    assert isinstance(world.infer(), Planned)
    track = world.timeline.track
    world.assembler.reset()
    result = world.infer()
    assert isinstance(result, Refusal) and result.reason is Reason.MISSING_STREAM
    assert len(world.prefixes) == 1 and world.timeline.track is track


def test_a_chunk_that_comes_after_its_last_row_is_rejected_without_a_stop() -> None:
    world = started(latency_ticks=80)
    result = world.infer()
    assert isinstance(result, Rejected)
    assert (result.reason, result.stop) == ("chunk_too_late", False) and "16 points" in result.message
    assert world.timeline.track is None and not world.sender.tracks
    world.latency_ticks = 78
    assert isinstance(world.infer(), Planned)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_chunk_that_is_not_finite_brakes_and_latches(bad: float) -> None:
    world = started()
    world.run(30)
    act = world.act

    def broken(observation, *, seed=None, prefix=None) -> Chunk:
        chunk = act(observation, seed=seed, prefix=prefix)
        chunk.actions["arm"][15, 1] = bad
        return chunk

    world.cycle._policy.act = broken
    result = world.infer()
    assert isinstance(result, Rejected)
    assert (result.reason, result.stop) == ("gate", True)
    assert "'b'" in result.message and "point 15" in result.message
    assert world.supervisor.state is State.STOPPED
    world.ticks(40)
    assert world.commander.settled


def test_an_unusual_inference_is_no_delay_to_expect_though_its_chunk_is_executed() -> None:
    """The first one with a prompt of its length, say, or by a graph that was just recorded."""
    world = started(latency_ticks=2)
    for _ in range(3):
        assert isinstance(world.infer(), Planned)
    act = world.cycle._policy.act
    world.cycle._policy.act = lambda *given, **named: replace(act(*given, **named), usual=False)
    world.latency_ticks = 14
    result = world.infer()
    assert isinstance(result, Planned) and (result.delay_ticks, result.accepted.chunk.usual) == (14, False)
    assert world.timeline.delay_ticks == 2


def test_delays_are_counted_ticks_and_the_first_one_is_left_out() -> None:
    world = started(latency_ticks=40)
    for latency, expected in ((40, 3), (5, 5), (9, 9), (2, 9)):
        world.latency_ticks = latency
        assert isinstance(world.infer(), Planned)
        assert world.timeline.delay_ticks == expected  # 3: what the node was told before anything was counted
    for _ in range(20):
        assert isinstance(world.infer(), Planned)
    assert world.timeline.delay_ticks == 2


def test_the_prefix_is_what_will_really_be_executed_at_the_rows_of_the_new_chunk() -> None:
    world = started(latency_ticks=7)
    world.say = lambda observation, prefix: world.bench.rows(("a", lambda i: 0.02 * i), ("b", lambda i: -0.01 * i))
    assert isinstance(world.infer(), Planned)
    world.say = constant(world, a=0.4)
    world.ticks(20)
    assert isinstance(world.infer(), Planned)
    world.ticks(23)
    track, stamp_ns, launched = world.timeline.track, world.now_ns, world.now_tick
    assert isinstance(world.infer(), Planned)
    prefix = world.prefixes[-1]
    assert prefix is not None and not prefix.native
    due_ns = world.bench.pace.due_ns(stamp_ns)
    assert prefix.length == np.sum(due_ns <= track.planned_end * PERIOD_NS) == 10
    # What is commanded before a chunk launched on tick n can begin, on tick n + delay + 1, is fixed.
    assert prefix.frozen == np.sum(due_ns <= (launched + 7 + 1) * PERIOD_NS) == 1
    for row in range(prefix.length):
        values = track.motion(int(due_ns[row]) // PERIOD_NS).values
        np.testing.assert_allclose(prefix.actions["arm"][row], values[:2], atol=1e-9)
    np.testing.assert_array_equal(prefix.actions["arm"][10:], np.tile(prefix.actions["arm"][9], (6, 1)))


def test_frozen_rows_are_executed_as_they_were_planned() -> None:
    world = started(latency_ticks=12)
    world.say = lambda observation, prefix: world.bench.rows(("a", lambda i: 0.03 * i))
    for _ in range(3):
        assert isinstance(world.infer(), Planned)
        world.ticks(10)
    before, launched = world.timeline.track, world.now_tick
    world.say = constant(world, a=-0.2)
    assert isinstance(world.infer(), Planned)
    prefix = world.prefixes[-1]
    assert prefix is not None and prefix.frozen == 2
    after = world.timeline.track
    for tick in range(launched, launched + prefix.frozen * STEP_TICKS + 1):
        np.testing.assert_allclose(after.motion(tick).values, before.motion(tick).values, atol=1e-6)


@pytest.mark.parametrize("mode", ["blend", "ensemble", "naive", "sync"])
def test_modes_that_continue_nothing_are_given_no_prefix(mode: str) -> None:
    world = World(arm(), mode=mode)
    world.start()
    world.run(150)
    assert len(world.prefixes) > 1 and set(world.prefixes) == {None}


def test_native_says_so() -> None:
    world = World(arm(), mode="native")
    world.start()
    world.run(60)
    assert world.prefixes[0] is None and world.prefixes[-1] is not None and world.prefixes[-1].native


@pytest.mark.parametrize("what", ["stop", "pause", "reset", "gate", "dry_run"])
def test_after_an_interruption_there_is_no_prefix(what: str) -> None:
    world = started()
    world.run(60)
    assert world.prefixes[-1] is not None
    if what == "pause":
        world.commander.brake(lambda: world.supervisor.pause(True))
        assert world.supervisor.pause(False).done
    elif what == "dry_run":
        world.commander.set_dry_run(True)
        world.ticks(60)
    else:
        world.commander.brake(world.supervisor.stop if what != "gate" else lambda: world.supervisor.latch("gate", "x"))
        if what == "reset":
            world.assembler.reset()
            world.timeline.restart()
            world.ticks(1)
        world.supervisor.reset_stop()
        world.start()
    assert isinstance(world.infer(), Planned)
    assert world.prefixes[-1] is None
    assert isinstance(world.infer(), Planned)
    assert (world.prefixes[-1] is None) == (what == "dry_run")


def test_after_a_new_instruction_there_is_no_prefix_once() -> None:
    world = started()
    world.run(60)
    world.instruction = "stop that"
    for expected in (True, False):
        assert isinstance(world.infer(), Planned)
        assert (world.prefixes[-1] is None) == expected
        world.ticks(10)


@pytest.mark.parametrize("what", ["stop", "stop and start", "pause and on", "latch", "episode", "dry run", "stand"])
@pytest.mark.parametrize("broken", [False, True])
def test_a_chunk_begun_before_an_interruption_never_takes_over(what: str, broken: bool) -> None:
    """Not even by latching a violation against a run that it does not belong to."""
    world = started()
    world.run(30)
    interruptions = {
        "stop": [world.stop],
        "stop and start": [world.stop, world.start],
        "pause and on": [
            lambda: world.commander.brake(lambda: world.supervisor.pause(True)),
            lambda: world.supervisor.pause(False),
        ],
        "latch": [lambda: world.commander.brake(lambda: world.supervisor.latch("estop", "x"))],
        "episode": [world.timeline.restart],
        "dry run": [lambda: world.commander.set_dry_run(True)],
        "stand": [world.commander.stand],
    }[what]
    after: list[State] = []
    world.inside = [lambda: [each() for each in interruptions] and after.append(world.supervisor.state)]
    tracks = len(world.sender.tracks)
    world.say = constant(world, a=np.nan if broken else 0.5)
    result = world.infer()
    assert isinstance(result, Rejected) and result.reason == "disowned" and not result.stop
    assert len(world.sender.tracks) <= tracks + 1  # the brake at most
    assert world.supervisor.state is after[0]
    world.ticks(40)
    assert abs(world.where[column(world.space, "a")]) < 0.1


def test_a_clock_that_jumps_while_the_model_runs_is_no_delay() -> None:
    world = started(latency_ticks=4)
    world.run(60)
    assert world.timeline.delay_ticks == 4

    def back() -> None:
        world.now_tick -= 1000
        world.commander.stand()
        world.assembler.reset()

    world.inside = [back]
    assert isinstance(world.infer(), Rejected)
    assert world.timeline.delay_ticks == 4
    world.inside = [lambda: world.ticks(1, missed=5000)]
    world.infer()
    assert world.timeline.delay_ticks == 4


def test_a_plan_that_the_control_loop_overtakes_is_made_again() -> None:
    world = started()
    world.run(30)
    plan, seen = world.timeline.plan, []

    def slow(chunk, tick, measured, measured_ns):
        seen.append(tick)
        accepted = plan(chunk, tick, measured, measured_ns)
        world.ticks(1)
        return accepted

    world.timeline.plan = slow
    now = world.now_tick + world.latency_ticks
    result = world.infer()
    assert isinstance(result, Planned)
    assert seen == [now + 1, now + 3]  # planned once more, further ahead
    assert result.accepted.first_tick == now + 4 == world.now_tick + 2


def test_a_control_loop_that_is_always_quicker_is_said() -> None:
    world = started()
    world.run(30)
    plan = world.timeline.plan

    def slow(*arguments):
        accepted = plan(*arguments)
        world.ticks(10)
        return accepted

    world.timeline.plan = slow
    track = world.timeline.track
    result = world.infer()
    assert isinstance(result, Rejected) and result.reason == "chunk_too_late" and not result.stop
    assert world.timeline.track is track


def test_a_chunk_planned_while_missed_ticks_were_led_back_is_planned_again() -> None:
    world = World(mixed())
    world.say = lambda observation, prefix: world.bench.rows(("c", lambda i: 0.02 * i))
    world.start()
    world.run(30)
    plan, plans = world.timeline.plan, []

    def interrupted(*arguments):
        accepted = plan(*arguments)
        if not plans:
            world.timeline.resume(world.now_tick, world.sender.steps[-3][1], world.commander._streamed)
        plans.append(accepted)
        return accepted

    world.timeline.plan = interrupted
    result = world.infer()
    assert isinstance(result, Planned) and len(plans) == 2
    assert result.accepted is plans[1] and plans[1].base is not plans[0].base


def test_in_a_dry_run_every_chunk_starts_from_where_the_robot_is() -> None:
    world = started()
    world.commander.set_dry_run(True)
    world.say = constant(world, a=0.2)
    for where in (0.0, 0.1, 0.15):
        world.where[column(world.space, "a")] = where
        world.ticks(1)
        result = world.infer()
        assert isinstance(result, Planned) and result.accepted.handover is None
        base = result.accepted.track.motion(result.accepted.first_tick - 1).values
        assert base[column(world.space, "a")] == pytest.approx(where)
    assert not world.sender.steps and not world.sender.tracks


def training(rule: str) -> World:
    embodiment = arm(gate={"training_range": rule, "training_slack": 0.5})
    ranges = {"arm": (np.array([-0.1, -0.5]), np.array([0.1, 0.5])), "grip": (np.zeros(1), np.full(1, 0.1))}
    world = World(embodiment, training=TrainingRange(embodiment, ranges))
    world.start()
    return world


def test_outside_the_training_range_nothing_is_inferred() -> None:
    world = training("refuse")
    world.where[0] = 0.31
    world.ticks(1)
    result = world.infer()
    assert isinstance(result, Refusal) and result.reason is Reason.OUT_OF_TRAINING_RANGE
    assert "state.arm: expected a within -0.3 .. 0.3" in result.message and not world.prefixes
    world.where[0] = 0.29
    world.ticks(1)
    assert isinstance(world.infer(), Planned)


def test_outside_the_training_range_the_robot_stops_where_its_yaml_says_so() -> None:
    world = training("stop")
    world.run(10)
    world._follow = lambda: world.where.__setitem__(0, 0.31)
    world.ticks(1)
    result = world.infer()
    assert isinstance(result, Rejected) and (result.reason, result.stop) == ("out_of_training_range", True)
    assert world.supervisor.state is State.STOPPED


def test_an_exception_of_the_policy_comes_out_and_nothing_changes() -> None:
    world = started()
    world.run(30)
    track = world.timeline.track

    def broken(*arguments, **options) -> Chunk:
        raise RuntimeError("broken model")

    cycle = PolicyCycle(
        world.layout, world.assembler, type("P", (), {"act": broken})(), world.timeline, None,
        lambda: world.now_ns, lambda: world.now_tick, world.supervisor.lock,
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="broken model"):
        cycle.run("go")
    assert world.timeline.track is track
