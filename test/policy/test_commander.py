"""What reaches the robot, and when nothing does: the commander in a world of virtual time."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from control_rig import PERIOD_NS, T0, TICK0, World, assert_in_limits, column, home, mixed

from groot_ros.control.limiter import Motion
from groot_ros.policy.cycle import Planned, Rejected
from groot_ros.policy.supervisor import State


def moving(world: World, *, speed: float = 0.3) -> World:
    """A world in full motion: arm and wrist on their way, the tool too, the base at a constant speed."""

    def say(observation, prefix) -> np.ndarray:
        seconds = (observation.stamp_ns - T0) * 1e-9 + world.layout.embodiment.dt_s * np.arange(1, 17)
        return world.bench.rows(
            ("a", lambda i: speed * seconds),
            ("c", lambda i: speed * seconds),
            ("tool.pose.position.x", lambda i: speed * seconds),
            ("base.linear.x", lambda i: np.full(16, 0.5)),
            ("mode.data.0", lambda i: np.full(16, 1.0)),
        )

    world.say = say
    world.start()
    world.run(60)
    return world


def streamed(world: World) -> tuple[np.ndarray, np.ndarray]:
    """Ticks [N] and values [N, C] of what went out tick by tick."""
    ticks = np.array([time_ns // PERIOD_NS for time_ns, _ in world.sender.steps])
    return ticks, np.array([motion.values for _, motion in world.sender.steps])


@pytest.fixture
def world() -> World:
    return World(mixed())


def test_while_running_every_tick_is_sent_once_with_its_own_time(world: World) -> None:
    moving(world)
    ticks, _ = streamed(world)
    assert np.all(np.diff(ticks) == 1) and ticks[-1] == world.now_tick
    assert all(time_ns % PERIOD_NS == 0 for time_ns, _ in world.sender.steps)


def test_before_the_first_chunk_nothing_is_sent(world: World) -> None:
    world.start()
    world.ticks(10)
    assert not world.sender.steps and not world.sender.tracks and world.commander.settled


def test_streams_and_trajectories_say_the_same(world: World) -> None:
    moving(world)
    for tick, stamp_ns, track in world.sender.tracks:
        assert stamp_ns <= tick * PERIOD_NS and not track.velocities[-1].any()
    now, _, track = world.sender.tracks[-1]
    for time_ns, motion in world.sender.steps:
        if time_ns > now * PERIOD_NS:
            np.testing.assert_array_equal(motion.values, track.motion(time_ns // PERIOD_NS).values)


def test_a_stop_brakes_in_all_limits_to_rest_and_then_nothing_is_sent(world: World) -> None:
    moving(world)
    world.stop()
    tick, track = world.now_tick, world.sender.tracks[-1][2]
    assert track.planned_end == tick + 1 and not world.commander.settled
    world.ticks(100)
    assert world.commander.settled
    ticks, values = streamed(world)
    assert ticks[-1] == track.last_tick < world.now_tick
    assert world.sender.tracks[-1][2] is track
    velocities = np.array([motion.velocity for _, motion in world.sender.steps])
    assert_in_limits(world.space, values[1:], velocities[1:])
    drive, a = column(world.space, "base.linear.x"), column(world.space, "a")
    assert values[-1, drive] == 0.0 and not velocities[-1].any()
    braking = values[ticks > tick + 1]
    assert np.all(np.diff(braking[:, drive]) <= 1e-12) and np.all(np.diff(braking[:, a]) >= -1e-12)
    speed = np.abs(velocities[ticks == tick][0])
    assert np.all(np.diff(np.abs(velocities[ticks > tick]), axis=0)[:, 0] <= 1e-9) and speed[0] > 0.2
    assert len(braking) <= 2 + np.ceil((0.5 / 2 + 2 / 20) / 0.02)  # the base: 0.5 m/s at 2 m/s per s, 20 per s^2


@pytest.mark.parametrize("again", ["start", "pause", "reset_stop"])
def test_between_a_new_start_and_its_first_chunk_nothing_is_sent(world: World, again: str) -> None:
    """Whoever moved the resting robot by hand must not see it jump back to where it had stopped."""
    moving(world)
    if again == "pause":
        world.commander.brake(lambda: world.supervisor.pause(True))
    elif again == "reset_stop":
        world.commander.brake(lambda: world.supervisor.latch("gate", "x"))
    else:
        world.stop()
    world.ticks(60)
    sent = len(world.sender.steps)
    if again == "pause":
        assert world.supervisor.pause(False).done
    else:
        world.supervisor.reset_stop()
        world.start()
    world.ticks(20)
    assert len(world.sender.steps) == sent and world.supervisor.moving
    assert world.supervisor.snapshot().reason == ""  # nothing ran empty
    stalled = world.continuity.summary().stalled
    world.where[column(world.space, "c")] = 0.2  # by hand
    world.where[column(world.space, "a")] = 0.3
    world.ticks(1)
    world.latency_ticks = 0
    here = world.where.copy()
    world.say = lambda observation, prefix: np.repeat(here[None], 16, axis=0)
    assert isinstance(world.infer(), Planned)
    world.ticks(1)
    first = world.sender.steps[sent][1].values
    for name in ("a", "c"):
        assert first[column(world.space, name)] == pytest.approx(here[column(world.space, name)], abs=1e-6)
    assert world.continuity.summary().stalled == stalled


def test_started_again_while_braking_it_goes_on_from_the_brake_without_a_jump(world: World) -> None:
    moving(world)
    world.stop()
    world.ticks(2)
    world.start()
    world.run(80)
    assert world.supervisor.state is State.RUNNING
    ticks, values = streamed(world)
    velocities = np.array([motion.velocity for _, motion in world.sender.steps])
    assert np.all(np.diff(ticks) == 1)
    assert_in_limits(world.space, values[1:], velocities[1:])


def test_when_no_chunk_comes_it_brakes_says_so_and_goes_on_with_the_next_one(world: World) -> None:
    moving(world)
    end = world.timeline.track.planned_end
    world.ticks(end - world.now_tick)
    assert world.supervisor.snapshot().reason == ""
    world.ticks(60)
    snapshot = world.supervisor.snapshot()
    assert (snapshot.state, snapshot.reason) == (State.RUNNING, "underrun")
    last = world.sender.steps[-1][1]
    assert not last.velocity.any() and last.values[column(world.space, "base.linear.x")] == 0.0
    np.testing.assert_array_equal(world.sender.steps[-2][1].values, last.values)  # holds
    assert world.continuity.summary().stalled > 40
    assert isinstance(world.infer(), Planned)
    assert world.supervisor.snapshot().reason == ""
    world.ticks(20)
    assert world.timeline.step(world.now_tick).planned


def test_while_time_stands_still_streams_stand_and_a_controller_on_that_time_has_the_way_to_rest(world: World) -> None:
    moving(world)
    before, drive = world.sender.tracks[-1][2], column(world.space, "base.linear.x")
    tracks, steps = len(world.sender.tracks), len(world.sender.steps)
    for _ in range(3):
        world.commander.clock_stopped()
    assert (len(world.sender.tracks), len(world.sender.steps)) == (tracks + 1, steps + 1)
    way = world.sender.tracks[-1][2]
    for tick in (world.now_tick, world.now_tick + 1):  # what is under way stays
        np.testing.assert_array_equal(way.motion(tick).values, before.motion(tick).values)
    assert not way.velocities[-1].any() and way.planned_end == world.now_tick + 1
    assert world.sender.steps[-1][1].values[drive] == 0.0
    world.ticks(100)  # it goes on
    values, tangent = streamed(world)[1][steps:, drive], world.space.names.index("base.linear.x")
    speeds = np.concatenate([[0.0], np.diff(values)]) / (PERIOD_NS * 1e-9)
    assert np.all(np.abs(speeds) <= world.space.velocity[tangent] + 1e-9)
    assert np.all(np.abs(np.diff(speeds)) <= world.space.acceleration[tangent] * PERIOD_NS * 1e-9 + 1e-6)
    assert values[-1] == 0.0 and not world.sender.steps[-1][1].velocity.any()


@pytest.mark.parametrize("missed", [1, 3, 10])
def test_a_run_whose_first_ticks_are_missed_begins_where_the_robot_stands(world: World, missed: int) -> None:
    drive = column(world.space, "base.linear.x")
    world.say = lambda observation, prefix: world.bench.rows(("base.linear.x", lambda i: np.full(16, 0.5)))
    world.start()
    assert isinstance(world.infer(), Planned)
    assert not world.sender.steps
    world.ticks(1, missed=missed)
    world.ticks(5)
    values = streamed(world)[1]
    velocities = np.array([motion.velocity for _, motion in world.sender.steps])
    assert_in_limits(world.space, values, velocities)
    hardest = world.space.acceleration[world.space.names.index("base.linear.x")]
    assert 0.0 <= values[0, drive] <= 0.5 * hardest * (PERIOD_NS * 1e-9) ** 2 + 1e-12
    assert values[-1, drive] > values[0, drive]


@pytest.mark.parametrize("missed", [1, 3, 10, 24])
def test_after_missed_ticks_streams_are_led_back_within_their_limits(world: World, missed: int) -> None:
    moving(world)
    before = world.sender.steps[-1][1]
    sent = world.sender.tracks[-1][2]
    world.ticks(1, missed=missed)
    world.ticks(6)
    track = world.timeline.track
    rows = [Motion(before.values, np.zeros_like(before.velocity))] + [m for _, m in world.sender.steps[-7:]]
    values, velocities = np.array([m.values for m in rows]), np.array([m.velocity for m in rows])
    free = [column(world.space, name) for name in ("c", "tool.pose.position.x")]
    for name, tangent in (("c", world.space.names.index("c")), ("x", world.space.names.index("tool.pose.position.x"))):
        steps = np.abs(np.diff(velocities[:, tangent]))
        assert np.all(steps <= world.space.acceleration[tangent] * PERIOD_NS * 1e-9 + 1e-6), name
        assert np.all(np.abs(velocities[:, tangent]) <= world.space.velocity[tangent] + 1e-9)
    assert np.all(np.abs(np.diff(values[:, free], axis=0)) <= 1.5 * PERIOD_NS * 1e-9 + 1e-9)
    ticks = np.arange(world.now_tick, track.last_tick)
    a = column(world.space, "a")
    for tick in ticks:  # what was sent as a whole trajectory goes on as it was sent
        assert track.motion(tick).values[a] == sent.motion(tick).values[a]


def test_a_gap_in_the_control_loop_latches_brakes_trajectories_and_lets_streams_stand(world: World) -> None:
    moving(world)
    sent, last = len(world.sender.steps), world.sender.steps[-1][1]
    world.ticks(1, missed=25)
    snapshot = world.supervisor.snapshot()
    assert (snapshot.state, snapshot.reason) == (State.STOPPED, "control_gap") and "0.5 s" in snapshot.message
    assert len(world.sender.steps) == sent + 1 and world.commander.settled
    still = world.sender.steps[-1][1]
    assert still.values[column(world.space, "c")] == last.values[column(world.space, "c")]
    assert still.values[column(world.space, "base.linear.x")] == 0.0 and not still.velocity.any()
    assert world.sender.tracks[-1][2].planned_end == world.now_tick + 1  # a brake: the controller went on by itself
    world.ticks(20)
    assert len(world.sender.steps) == sent + 1


@pytest.mark.parametrize("back", [1, 3, 500])
def test_a_clock_set_back_never_repeats_old_commands(world: World, back: int) -> None:
    """The control loop begins again at the earlier tick; what was planned is for other times."""
    moving(world)
    sent, last = len(world.sender.steps), world.sender.steps[-1][1]
    world.now_tick -= back
    world.commander.work(world.now_tick, 0)
    for _ in range(5):
        world.now_tick += 1
        world.commander.work(world.now_tick, 0)
    assert len(world.sender.steps) == sent + 1
    still = world.sender.steps[-1][1]
    np.testing.assert_array_equal(still.values, world.space.at_rest(last.values))
    assert world.timeline.track is None and world.supervisor.moving


def test_an_inference_that_hangs_stops_the_robot_and_is_an_error(world: World) -> None:
    moving(world)
    world.busy_s = 1.01
    world.ticks(1)
    snapshot = world.supervisor.snapshot()
    assert (snapshot.state, snapshot.reason) == (State.ERROR, "inference_timeout") and "1.0 s" in snapshot.message
    assert world.sender.tracks[-1][2].planned_end == world.now_tick + 1
    world.ticks(60)
    assert world.commander.settled
    sent = len(world.sender.steps)
    world.ticks(10)
    assert len(world.sender.steps) == sent


def test_a_hanging_inference_does_not_latch_a_robot_that_may_not_move(world: World) -> None:
    world.busy_s = 100.0
    world.ticks(3)
    assert world.supervisor.state is State.READY


def test_a_dry_run_brakes_first_and_then_sends_nothing(world: World) -> None:
    moving(world)
    world.commander.set_dry_run(True)
    assert not world.commander.settled
    world.ticks(60)
    assert world.commander.settled and world.sender.steps[-1][1].values[column(world.space, "base.linear.x")] == 0.0
    here = world.where.copy()
    world.say = lambda observation, prefix: np.repeat(here[None], 16, axis=0)
    sent, tracks = len(world.sender.steps), len(world.sender.tracks)
    for _ in range(2):
        result = world.infer()
        assert isinstance(result, Planned) and result.accepted.handover is None
        assert world.prefixes[-1] is None
        world.ticks(5)
    assert (len(world.sender.steps), len(world.sender.tracks)) == (sent, tracks)
    world.commander.set_dry_run(False)
    world.ticks(5)
    assert (len(world.sender.steps), len(world.sender.tracks)) == (sent, tracks)  # a plan of the dry run is void
    world.run(20)
    assert len(world.sender.steps) > sent


@pytest.mark.parametrize("ticks", [0, 1, 2])
def test_a_dry_run_that_is_taken_back_while_braking_still_brakes_to_rest(world: World, ticks: int) -> None:
    moving(world)
    world.commander.set_dry_run(True)
    world.ticks(ticks)
    world.commander.set_dry_run(False)
    world.ticks(60)
    assert world.commander.settled
    velocities = np.array([motion.velocity for _, motion in world.sender.steps])
    assert_in_limits(world.space, streamed(world)[1][1:], velocities[1:])
    assert world.sender.steps[-1][1].values[column(world.space, "base.linear.x")] == 0.0


def test_a_chunk_of_the_time_before_a_dry_run_is_disowned(world: World) -> None:
    moving(world)
    world.inside = [lambda: world.commander.set_dry_run(True)]
    tracks = len(world.sender.tracks)
    result = world.infer()
    assert isinstance(result, Rejected) and result.reason == "disowned"
    assert len(world.sender.tracks) == tracks + 1  # the brake


def test_wait_settled_returns_when_the_robot_rests(world: World) -> None:
    moving(world)
    assert world.commander.wait_settled(0.0) is False or world.commander.settled
    world.stop()
    rested: list[bool] = []
    waiter = threading.Thread(target=lambda: rested.append(world.commander.wait_settled(30.0)))
    waiter.start()
    world.ticks(60)
    waiter.join(30.0)
    assert rested == [True]


def test_stand_stops_speeds_at_once_and_says_so_once(world: World) -> None:
    moving(world)
    sent = len(world.sender.steps)
    for _ in range(3):
        world.commander.stand()
    assert len(world.sender.steps) == sent + 1 and world.commander.settled
    assert world.sender.steps[-1][1].values[column(world.space, "base.linear.x")] == 0.0
    world.ticks(5)
    assert len(world.sender.steps) == sent + 1
    world.run(30)
    assert isinstance(world.infer(), Planned)  # it may still move, from where it is measured


def test_transitions_that_keep_the_right_to_move_do_not_brake(world: World) -> None:
    moving(world)
    tracks = len(world.sender.tracks)
    assert world.commander.brake(lambda: world.supervisor.pause(False)).done is False
    world.commander.brake(lambda: world.supervisor.estop(False))
    assert len(world.sender.tracks) == tracks and world.supervisor.moving
    world.commander.brake(lambda: world.supervisor.estop(True))
    assert len(world.sender.tracks) == tracks + 1
    world.commander.brake(lambda: world.supervisor.estop(True))
    assert len(world.sender.tracks) == tracks + 1  # one brake, not a longer one


def test_home_is_where_the_world_begins() -> None:
    world = World(mixed())
    np.testing.assert_array_equal(world.where, home(world.space))
    assert world.now_tick == TICK0
