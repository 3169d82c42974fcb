"""What is commanded when: due times, hand-overs, launches, stops; in ticks, without threads."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
from control_rig import PERIOD_NS, STEP_TICKS, TICK0, Bench, arm, assert_in_limits, column, home, mixed
from hypothesis import given, settings
from hypothesis import strategies as st

from groot_ros.control.gate import GateViolation
from groot_ros.control.plans import Accepted, Unusable

MODES = ("guided", "native", "blend", "ensemble", "naive", "sync")
AT_ONCE = {"control": {"rate_hz": 50.0, "blend_in_s": 0.0}}


def line(i: np.ndarray) -> np.ndarray:
    return 0.02 * i


def commanded(bench: Bench, tick: int, name: str) -> float:
    assert bench.timeline.track is not None
    return float(bench.timeline.track.motion(tick).values[column(bench.space, name)])


# --- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("delay", [0, 3, 12])
def test_row_i_is_commanded_at_stamp_plus_i_plus_one_steps(mode: str, delay: int) -> None:
    """But in mode sync, which counts from the tick on which it begins."""
    bench = Bench(arm(**AT_ONCE), mode)
    values = bench.rows(("a", line), ("b", lambda i: -line(i)))
    now = TICK0 + delay
    start = home(bench.space)
    accepted = bench.accept(bench.chunk(TICK0, values), now, start)
    begin = now if mode == "sync" else TICK0
    assert accepted.stamp_ns == begin * PERIOD_NS
    assert accepted.trimmed == (0 if mode == "sync" else delay // STEP_TICKS)
    for row in range(6, 16):  # the first ones: on the way from rest
        tick = begin + (row + 1) * STEP_TICKS
        assert commanded(bench, tick, "a") == pytest.approx(0.02 * (row + 1), abs=1e-6)
        assert commanded(bench, tick, "b") == pytest.approx(-0.02 * (row + 1), abs=1e-6)
    assert bench.timeline.track.planned_end == begin + 16 * STEP_TICKS


def test_stamps_between_ticks_keep_their_due_times() -> None:
    bench = Bench(arm(**AT_ONCE))
    stamp_ns = TICK0 * PERIOD_NS + 7_000_000
    chunk = bench.chunk(TICK0, bench.rows(("a", line)))
    late = type(chunk)(stamp_ns, chunk.dt_s, chunk.actions, "go", 0)
    bench.accept(late, TICK0 + 3)
    for tick in range(TICK0 + 30, TICK0 + 80):
        due = (tick * PERIOD_NS - stamp_ns) * 1e-9
        assert commanded(bench, tick, "a") == pytest.approx(0.2 * due, abs=1e-6)
    assert bench.timeline.track.planned_end == TICK0 + 80


def test_nothing_is_commanded_before_the_first_chunk() -> None:
    timeline = Bench(arm()).timeline
    assert timeline.step(TICK0) is None and timeline.track is None and timeline.observed_ns is None
    assert timeline.remaining(TICK0) == 0 and timeline.brake(TICK0) is None
    assert timeline.next_launch_ns(5) == 5


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "sync"])
@pytest.mark.parametrize("frozen", [0, 2])
def test_chunks_that_agree_leave_no_trace_of_their_hand_over(mode: str, frozen: int) -> None:
    bench = Bench(arm(**AT_ONCE), mode)

    def curve(ticks: np.ndarray) -> np.ndarray:
        return 0.2 * (1.0 - np.cos((ticks - TICK0) * PERIOD_NS * 1e-9 * 2.0))

    def said(tick: int) -> np.ndarray:
        return bench.rows(("a", lambda row: curve(tick + row * STEP_TICKS)))

    bench.accept(bench.chunk(TICK0, said(TICK0)), TICK0)
    alone = bench.timeline.track
    second = TICK0 + 8 * STEP_TICKS
    bench.accept(bench.chunk(second, said(second), frozen=frozen), second + 3)
    both = bench.timeline.track
    assert alone is not None and both is not None
    for tick in range(second, TICK0 + 15 * STEP_TICKS):
        after, before = (track.motion(tick).values[column(bench.space, "a")] for track in (both, alone))
        assert after == pytest.approx(before, abs=5e-4)
        assert after == pytest.approx(curve(np.array(tick)), abs=2e-3)


def test_what_was_commanded_up_to_the_hand_over_stays() -> None:
    bench = Bench(arm(**AT_ONCE))
    bench.accept(bench.chunk(TICK0, bench.rows(("a", line))), TICK0 + 3)
    before = bench.timeline.track
    accepted = bench.accept(bench.chunk(TICK0 + 20, bench.rows(("a", lambda i: 0.08 - line(i)))), TICK0 + 26)
    assert accepted.first_tick == TICK0 + 27 and accepted.base is before
    for tick in range(TICK0 + 4, TICK0 + 27):
        np.testing.assert_array_equal(accepted.track.motion(tick).values, before.motion(tick).values)
    assert accepted.handover is not None and accepted.handover.overlap
    assert bench.timeline.observed_ns == (TICK0 + 20) * PERIOD_NS


# --- chunks that are not executed ------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [80, 81, 400])
def test_a_chunk_that_is_past_is_refused_and_the_old_one_goes_on(late: int) -> None:
    bench = Bench(arm())
    bench.accept(bench.chunk(TICK0 + late - 10, bench.rows(("a", line))), TICK0 + late - 5)
    track = bench.timeline.track
    result = bench.timeline.plan(bench.chunk(TICK0, bench.rows()), TICK0 + late, bench.seen(), TICK0 * PERIOD_NS)
    assert isinstance(result, Unusable) and result.reason == "chunk_too_late"
    assert bench.timeline.track is track and bench.timeline.observed_ns == (TICK0 + late - 10) * PERIOD_NS


@pytest.mark.parametrize("mode", MODES)
def test_a_chunk_of_an_older_or_the_same_observation_is_refused(mode: str) -> None:
    bench = Bench(arm(), mode)
    bench.accept(bench.chunk(TICK0 + 10, bench.rows()), TICK0 + 12)
    for older in (0, 5, 10):
        result = bench.timeline.plan(bench.chunk(TICK0 + older, bench.rows()), TICK0 + 13, bench.seen(), 0)
        assert isinstance(result, Unusable) and result.reason == "chunk_older"


def led_back(bench: Bench) -> None:
    bench.timeline.resume(TICK0 + 23, bench.timeline.track.motion(TICK0 + 20), np.ones(3, dtype=bool))


def plans(bench: Bench, tick: int = TICK0 + 23) -> Accepted:
    planned = bench.timeline.plan(bench.chunk(tick - 3, bench.rows(("a", line))), tick, bench.seen(), tick * PERIOD_NS)
    assert isinstance(planned, Accepted)
    return planned


@pytest.mark.parametrize(
    ("meanwhile", "committed"),
    [
        (lambda bench: None, True),
        (lambda bench: bench.timeline.brake(TICK0 + 23), False),
        (lambda bench: bench.timeline.forget(), False),
        (lambda bench: bench.accept(bench.chunk(TICK0 + 21, bench.rows()), TICK0 + 23), False),
        (lambda bench: led_back(bench), False),
    ],
    ids=["nothing", "brake", "forget", "another chunk", "resume"],
)
def test_a_plan_is_executed_only_on_what_it_was_planned_on(meanwhile, committed: bool) -> None:
    bench = Bench(arm())
    bench.accept(bench.chunk(TICK0, bench.rows(("b", line))), TICK0 + 3)
    planned = plans(bench)
    meanwhile(bench)
    track = bench.timeline.track
    assert bench.timeline.commit(planned, TICK0 + 23) is committed
    assert bench.timeline.track is (planned.track if committed else track)


def test_a_plan_whose_first_tick_has_been_commanded_is_not_executed() -> None:
    bench = Bench(arm())
    planned = plans(bench)
    assert not bench.timeline.commit(planned, planned.first_tick)
    assert bench.timeline.commit(planned, planned.first_tick - 1)


@pytest.mark.parametrize("act", ["brake", "restart", "forget"])
def test_what_ends_a_run_changes_the_version(act: str) -> None:
    bench = Bench(arm())
    plans(bench)
    before = bench.timeline.version
    getattr(bench.timeline, act)(*([TICK0] if act == "brake" else []))
    assert bench.timeline.version != before


def test_a_stop_beside_a_plan_raises_nothing() -> None:
    """``plan`` runs without the lock: whatever it reads may have gone the moment after."""
    bench = Bench(arm(), "ensemble")
    ended = threading.Event()

    def interrupt() -> None:
        while not ended.is_set():
            bench.timeline.restart()

    other = threading.Thread(target=interrupt)
    other.start()
    try:
        for tick in range(TICK0, TICK0 + 200, 10):
            planned = plans(bench, tick)
            bench.timeline.commit(planned, tick)
    finally:
        ended.set()
        other.join()


# --- rest ------------------------------------------------------------------------------------------------------------


def test_when_nothing_follows_it_brakes_to_rest_and_holds() -> None:
    bench = Bench(mixed(**AT_ONCE))
    values = bench.rows(("a", line), ("c", line), ("base.linear.x", lambda i: np.full(16, 0.5)))
    bench.accept(bench.chunk(TICK0, values), TICK0 + 3)
    track = bench.timeline.track
    end = TICK0 + 80
    assert track.planned_end == end < track.last_tick
    assert abs(track.motion(end).velocity[bench.space.names.index("a")]) > 0.19
    speeds = [abs(track.motion(tick).velocity) for tick in range(end, track.last_tick + 1)]
    for name in ("a", "c"):
        column_speeds = [speed[bench.space.names.index(name)] for speed in speeds]
        assert all(after <= before + 1e-12 for before, after in itertools.pairwise(column_speeds))
    for tick in (track.last_tick, track.last_tick + 1, track.last_tick + 1000):
        step = bench.timeline.step(tick)
        assert step.resting and not step.planned and not step.motion.velocity.any()
        assert step.motion.values[column(bench.space, "base.linear.x")] == 0.0
        np.testing.assert_array_equal(step.motion.values, track.values[-1])
    assert bench.timeline.step(end).planned and not bench.timeline.step(end + 1).planned
    assert (bench.timeline.remaining(end - 7), bench.timeline.remaining(end + 7)) == (7, 0)


def test_a_brake_begins_where_and_how_fast_the_robot_is_told_to_be() -> None:
    bench = Bench(mixed())
    bench.accept(bench.chunk(TICK0, bench.rows(("a", line), ("c", line), ("tool.pose.position.x", line))), TICK0 + 3)
    old = bench.timeline.track
    stop = bench.timeline.brake(TICK0 + 40)
    assert stop is bench.timeline.track and stop.planned_end == TICK0 + 40
    for tick in range(TICK0 + 10, TICK0 + 41):
        np.testing.assert_array_equal(stop.motion(tick).values, old.motion(tick).values)
    assert_in_limits(bench.space, stop.values, stop.velocities)
    assert stop.last_tick < TICK0 + 60
    assert bench.timeline.brake(stop.last_tick) is None
    assert bench.timeline.observed_ns is None


def test_a_brake_before_the_first_tick_of_a_chunk_moves_nothing() -> None:
    bench = Bench(arm())
    planned = bench.timeline.plan(
        bench.chunk(TICK0, bench.rows(("a", line))), TICK0 + 5, bench.seen(), TICK0 * PERIOD_NS
    )
    assert isinstance(planned, Accepted) and bench.timeline.commit(planned, TICK0 + 3)
    stop = bench.timeline.brake(TICK0 + 4)
    assert not stop.values.any() and not stop.velocities.any()


# --- starts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blend_in_s", [0.0, 0.5, 1.0])
def test_after_a_start_the_motion_grows_from_where_the_robot_stands(blend_in_s: float) -> None:
    bench = Bench(arm(control={"rate_hz": 50.0, "blend_in_s": blend_in_s}))
    target = bench.rows(("a", lambda i: np.full(16, 0.3)))
    bench.accept(bench.chunk(TICK0, target), TICK0 + 3)
    track = bench.timeline.track
    way = track.values[:, 0]
    assert way[0] == 0.0 and np.all(np.diff(way) >= -1e-9)
    arrived = track.first_tick + int(np.argmax(way > 0.3 - 1e-6))
    fastest = 2 * np.sqrt(0.3 / 4.0) / 0.02  # 4 rad/s^2 up and down
    gentle = np.sqrt(5.78 * 0.3 / 4.0) / 0.02  # minimum jerk
    assert arrived - (TICK0 + 3) >= max(blend_in_s / 0.02 * 0.9, fastest - 1)
    assert arrived - (TICK0 + 3) <= max(blend_in_s / 0.02, gentle) + 6
    if blend_in_s == 1.0:
        half = track.motion(TICK0 + 3 + 25).values[0]
        assert half == pytest.approx(0.15, abs=0.01)


def test_a_second_chunk_does_not_cut_the_blend_in_short() -> None:
    for stand in (0.0, 0.5):
        bench = Bench(arm(control={"rate_hz": 50.0, "blend_in_s": 1.0}), "naive")
        start = home(bench.space)
        if stand:  # found elsewhere after it had come to rest
            bench.accept(bench.chunk(TICK0 - 500, bench.rows()), TICK0 - 497)
            start[0] = stand
        target = bench.rows(("a", lambda i, at=stand: np.full(16, at + 0.3)))
        bench.accept(bench.chunk(TICK0, target), TICK0 + 3, start)
        bench.accept(bench.chunk(TICK0 + 10, target), TICK0 + 13, start, TICK0 + 10)
        assert commanded(bench, TICK0 + 3 + 30, "a") < stand + 0.28
        assert commanded(bench, TICK0 + 3 + 50, "a") == pytest.approx(stand + 0.3, abs=1e-3)


@pytest.mark.parametrize("rule", ["stop", "clamp"])
def test_a_first_target_that_is_far_away(rule: str) -> None:
    bench = Bench(arm(gate={"start_jump": rule, "start_jump_share": 0.25}))  # of 4 rad
    far = bench.chunk(TICK0, bench.rows(("a", lambda i: np.full(16, 1.01))))
    if rule == "stop":
        with pytest.raises(GateViolation, match=r"start_jump.*of a is 1\.01 away.*start_jump: clamp"):
            bench.timeline.plan(far, TICK0 + 3, bench.seen(), TICK0 * PERIOD_NS)
        assert bench.timeline.track is None
        far = bench.chunk(TICK0, bench.rows(("a", lambda i: np.full(16, 0.99))))
    accepted = bench.accept(far, TICK0 + 3)
    assert_in_limits(bench.space, accepted.track.values, accepted.track.velocities)
    # once under way, a far target is the model's business, within the limits
    bench.accept(bench.chunk(TICK0 + 10, bench.rows(("a", lambda i: np.full(16, -0.9)))), TICK0 + 13)


def test_the_start_is_measured_where_that_is_known_and_the_target_elsewhere() -> None:
    bench = Bench(arm(**AT_ONCE))
    known = np.array([True, False, True])
    planned = bench.timeline.plan(
        bench.chunk(TICK0, bench.rows(("a", lambda i: np.full(16, 0.2)), ("b", lambda i: np.full(16, 0.4)))),
        TICK0 + 3,
        (np.array([0.1, -1.5, 0.0]), known),
        TICK0 * PERIOD_NS,
    )
    assert isinstance(planned, Accepted)
    np.testing.assert_allclose(planned.track.values[0], [0.1, 0.4, 0.0], atol=1e-6)


def test_what_is_not_measured_begins_inside_its_limits() -> None:
    bench = Bench(arm(**AT_ONCE))
    outside = bench.chunk(TICK0, bench.rows(("b", lambda i: np.full(16, 2.5))))
    unknown = (home(bench.space), np.array([True, False, True]))
    planned = bench.timeline.plan(outside, TICK0 + 3, unknown, TICK0 * PERIOD_NS)
    assert isinstance(planned, Accepted)
    assert_in_limits(bench.space, planned.track.values, planned.track.velocities)


@pytest.mark.parametrize(
    ("restarted", "away", "fresh"), [(False, 0.0, False), (False, 0.1, False), (False, 0.3, True), (True, 0.1, True)]
)
def test_a_robot_that_rests_goes_on_from_its_command_unless_it_was_moved_or_started_anew(
    restarted: bool, away: float, fresh: bool
) -> None:
    bench = Bench(arm())
    bench.accept(bench.chunk(TICK0, bench.rows(("a", line))), TICK0 + 3)
    rest = bench.timeline.track
    if restarted:
        rest = bench.timeline.brake(TICK0 + 50)
    tick = rest.last_tick + 30
    where = rest.values[-1].copy()
    where[0] += away
    accepted = bench.accept(bench.chunk(tick - 2, np.repeat(where[None], 16, axis=0)), tick, where, tick - 2)
    assert (accepted.handover is None) == fresh
    begin = accepted.track.motion(tick).values[0]
    assert begin == pytest.approx(where[0] if fresh else rest.values[-1, 0], abs=1e-6)


def test_joints_that_still_catch_up_with_a_resting_command_do_not_move_it_back() -> None:
    bench = Bench(arm())
    bench.accept(bench.chunk(TICK0, bench.rows(("a", line))), TICK0 + 3)
    stop = bench.timeline.brake(TICK0 + 50)
    tick = stop.last_tick + 5
    lagging = stop.values[-1] - np.array([0.01, 0.0, 0.0])
    accepted = bench.accept(bench.chunk(tick - 2, np.repeat(stop.values[-1:], 16, axis=0)), tick, lagging, tick - 2)
    np.testing.assert_allclose(accepted.track.motion(tick).values, stop.values[-1])


def test_an_observation_of_before_the_rest_does_not_tell_where_the_robot_rests() -> None:
    bench = Bench(arm())
    bench.accept(bench.chunk(TICK0, bench.rows(("a", line))), TICK0 + 3)
    stop = bench.timeline.brake(TICK0 + 50)
    tick = stop.last_tick + 1
    lagging = stop.values[-1] - np.array([0.3, 0.0, 0.0])
    accepted = bench.accept(bench.chunk(tick - 20, np.repeat(stop.values[-1:], 16, axis=0)), tick, lagging, tick - 20)
    np.testing.assert_allclose(accepted.track.motion(tick).values, stop.values[-1])


# --- launches --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["guided", "native", "blend", "ensemble", "naive"])
@pytest.mark.parametrize("delay", [0, 1, 5, 30, 60, 79, 200])
def test_the_next_inference_is_launched_before_the_queue_can_run_empty(mode: str, delay: int) -> None:
    bench = Bench(arm(), mode)
    bench.timeline.counted(500)
    bench.timeline.counted(delay)
    bench.accept(bench.chunk(TICK0, bench.rows()), TICK0 + 3)
    launched_ns = TICK0 * PERIOD_NS
    due_ns = bench.timeline.next_launch_ns(launched_ns)
    assert launched_ns <= due_ns <= launched_ns + bench.pace.replan_ns
    end_ns = bench.timeline.track.planned_end * PERIOD_NS
    if delay < 70:
        assert due_ns + bench.pace.wait_ns + (delay + 1) * PERIOD_NS < end_ns
    if delay <= 1:
        assert due_ns == launched_ns + bench.pace.replan_ns
    if delay >= 79:
        assert due_ns == launched_ns


def test_sync_launches_when_the_robot_rests() -> None:
    bench = Bench(arm(), "sync")
    bench.accept(bench.chunk(TICK0, bench.rows(("a", line))), TICK0 + 3)
    assert bench.timeline.next_launch_ns(TICK0 * PERIOD_NS) == (bench.timeline.track.last_tick + 1) * PERIOD_NS


def test_delays_are_the_most_of_the_last_twenty_without_the_first() -> None:
    timeline = Bench(arm(), first_delay_ticks=9).timeline
    assert timeline.delay_ticks == 9
    timeline.counted(1000)
    assert timeline.delay_ticks == 9
    for ticks, expected in [(3, 3), (7, 7), *[(2, 7)] * 19, (2, 2)]:
        timeline.counted(ticks)
        assert timeline.delay_ticks == expected


# --- prefix ----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    form=st.sampled_from(["rotvec", "rpy", "rot6d", "quaternion"]),
    shift=st.integers(0, 90),
    delay=st.integers(0, 40),
    seed=st.integers(0, 99),
)
def test_a_prefix_says_what_will_be_executed_at_every_row(form: str, shift: int, delay: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    bench = Bench(mixed(form, **AT_ONCE, gate={"start_jump": "clamp"}))
    bench.timeline.counted(0)
    bench.timeline.counted(delay)
    ways = rng.normal(0.0, 0.3, bench.space.tangent_count) * np.linspace(0.1, 1.0, 16)[:, None]
    values = bench.space.plus(home(bench.space)[None], ways)
    bench.accept(bench.chunk(TICK0, values), TICK0 + 3)
    track, launched = bench.timeline.track, TICK0 + 3 + shift
    stamp_ns = launched * PERIOD_NS - 3_000_000
    prefix = bench.timeline.prefix(stamp_ns, launched, "go")
    due_ns = bench.pace.due_ns(stamp_ns)
    covered = int(np.sum(due_ns <= track.planned_end * PERIOD_NS))
    if not covered:
        assert prefix is None
        return
    assert prefix is not None and prefix.length == covered
    first_new_ns = (launched + delay + 1) * PERIOD_NS
    assert np.sum(due_ns < first_new_ns - PERIOD_NS) <= prefix.frozen or prefix.frozen == covered
    assert prefix.frozen <= np.sum(due_ns <= first_new_ns)
    said = bench.layout.values(prefix.actions)
    executed = track.sample(due_ns[:covered])
    np.testing.assert_allclose(bench.space.minus(said[:covered], executed), 0.0, atol=1e-7)
    for rows in prefix.actions.values():
        assert rows.shape[0] == 16 and np.array_equal(rows[covered:], np.tile(rows[covered - 1], (16 - covered, 1)))


def test_a_prefix_holds_keys_that_nobody_is_sent_as_the_last_chunk_said_them() -> None:
    data = arm().model_dump()
    data["action"]["also"] = {**data["action"]["arm"], "command": False}
    bench = Bench(type(arm()).model_validate(data))
    chunk = bench.chunk(TICK0, bench.rows(("a", line)))
    chunk.actions["also"][:] = np.arange(16)[:, None]
    bench.accept(chunk, TICK0 + 3)
    prefix = bench.timeline.prefix((TICK0 + 10) * PERIOD_NS, TICK0 + 10, "go")
    assert prefix is not None and prefix.length == 14
    np.testing.assert_array_equal(prefix.actions["also"][:, 0], [*range(2, 16), 15, 15])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda bench: None, True),
        (lambda bench: bench.timeline.brake(TICK0 + 20), False),
        (lambda bench: bench.timeline.restart(), False),
        (lambda bench: bench.timeline.forget(), False),
    ],
    ids=["nothing", "brake", "restart", "forget"],
)
def test_after_the_end_of_a_run_there_is_no_prefix_until_the_next_chunk(change, expected: bool) -> None:
    bench = Bench(arm())
    bench.accept(bench.chunk(TICK0, bench.rows(("a", line))), TICK0 + 3)
    change(bench)
    asked = ((TICK0 + 20) * PERIOD_NS, TICK0 + 20)
    assert (bench.timeline.prefix(*asked, "go") is not None) == expected
    assert bench.timeline.prefix(*asked, "something else") is None
    bench.accept(bench.chunk(TICK0 + 15, bench.rows(("a", line))), TICK0 + 19)
    assert bench.timeline.prefix(*asked, "go") is not None


def test_an_ensemble_does_not_mix_in_what_was_meant_for_another_instruction() -> None:
    for words, expected in (("go", 0.1), ("stop", 0.2)):
        bench = Bench(arm(**AT_ONCE), "ensemble")
        bench.accept(bench.chunk(TICK0, bench.rows()), TICK0 + 3)
        other = bench.rows(("a", lambda i: np.full(16, 0.2)))
        bench.accept(bench.chunk(TICK0 + 10, other, instruction=words), TICK0 + 13)
        assert commanded(bench, TICK0 + 70, "a") == pytest.approx(expected, abs=2e-3)
        bench.accept(bench.chunk(TICK0 + 20, other, instruction=words), TICK0 + 23)
        assert commanded(bench, TICK0 + 70, "a") == pytest.approx(0.2 if words == "stop" else 0.4 / 3, abs=2e-3)


# --- all of it -------------------------------------------------------------------------------------------------------


def test_switches_never_take_a_value_in_between() -> None:
    for mode in MODES:
        bench = Bench(mixed(), mode)
        tick = TICK0
        for number in range(4):
            closed = float(number % 2)
            bench.accept(bench.chunk(tick, bench.rows(("mode.data.0", lambda i, on=closed: np.full(16, on)))), tick + 3)
            tick += 30
        rows = bench.timeline.track.values[:, column(bench.space, "mode.data.0")]
        assert set(rows) <= {0.0, 1.0}, mode


@settings(max_examples=40, deadline=None)
@given(
    mode=st.sampled_from(MODES),
    form=st.sampled_from(["rotvec", "rpy", "rot6d", "quaternion"]),
    arrivals=st.lists(st.tuples(st.integers(0, 12), st.integers(1, 60)), min_size=1, max_size=5),
    size=st.sampled_from([0.05, 0.5, 3.0]),
    seed=st.integers(0, 10_000),
    brake=st.booleans(),
)
def test_whatever_comes_whenever_all_that_is_commanded_obeys_every_limit(
    mode: str, form: str, arrivals: list[tuple[int, int]], size: float, seed: int, brake: bool
) -> None:
    rng = np.random.default_rng(seed)
    bench = Bench(mixed(form, gate={"start_jump": "clamp"}), mode)
    tick, sent = TICK0, []
    for latency, wait in arrivals:
        values = bench.space.plus(home(bench.space)[None], rng.normal(0.0, size, (16, bench.space.tangent_count)))
        track = bench.timeline.track
        seen = bench.seen(track.motion(tick).values if track is not None else None)
        planned = bench.timeline.plan(bench.chunk(tick, values), tick + latency, seen, tick * PERIOD_NS)
        if track is not None:
            sent.append(track.rows(tick + 1, tick + latency))
        if isinstance(planned, Accepted):
            assert_in_limits(bench.space, planned.track.values, planned.track.velocities)
            assert not planned.track.velocities[-1].any()
            assert bench.timeline.commit(planned, tick + latency)
        if bench.timeline.track is None:
            tick += latency + wait
            continue
        half = wait // 2
        sent.append(bench.timeline.track.rows(tick + latency + 1, tick + latency + half))
        if brake:
            bench.timeline.brake(tick + latency + half)
        sent.append(bench.timeline.track.rows(tick + latency + half + 1, tick + latency + wait))
        tick += latency + wait
    values = np.concatenate([rows for rows, _ in sent])
    assert_in_limits(bench.space, values, np.concatenate([speeds for _, speeds in sent]))
