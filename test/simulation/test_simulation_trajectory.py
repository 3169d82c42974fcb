"""Trajectories as joint_trajectory_controller takes them: what is refused, and where the command is when."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groot_ros.simulation.trajectory import MAX_WAITING, Point, TrajectoryFollower, TrajectoryRefused

JOINTS = ("a", "b")
S = 1_000_000_000
NOW = 100 * S


def follower() -> TrajectoryFollower:
    return TrajectoryFollower(JOINTS, [0.0, 10.0])


def point(t_s: float, a: float, b: float, *velocities: float) -> Point:
    return Point(round(t_s * S), [a, b], list(velocities))


def at(f: TrajectoryFollower, t_s: float) -> list[float]:
    return f.sample(NOW + round(t_s * S))[0].tolist()


# stamp (s from now; None: zero stamp), points, {time after now: expected [a, b]}
FOLLOWED = [
    pytest.param(None, [(1, 2, 12)], {0: [0, 10], 0.5: [1, 11], 1: [2, 12], 9: [2, 12]}, id="linear-and-hold"),
    pytest.param(None, [(0, 2, 12)], {0: [2, 12]}, id="due-at-once"),
    pytest.param(None, [(1, 2, 10), (3, 4, 20)], {1: [2, 10], 2: [3, 15], 3: [4, 20]}, id="two-segments"),
    pytest.param(1, [(1, 2, 12)], {0.5: [0, 10], 1: [0, 10], 1.5: [1, 11], 2: [2, 12]}, id="future-start-holds"),
    pytest.param(-1, [(0, 0, 0), (2, 4, 8)], {0: [2, 4], 0.5: [3, 6], 1: [4, 8]}, id="past-start-samples-the-middle"),
    pytest.param(-1, [(0.5, 7, 11), (2, 4, 8)], {0.5: [5, 9], 1: [4, 8]}, id="past-points-are-behind"),
    pytest.param(-1, [(2, 4, 8)], {0: [0, 10], 0.5: [2, 9], 1: [4, 8]}, id="past-start-first-point-ahead"),
    pytest.param(None, [], {0: [0, 10], 5: [0, 10]}, id="empty-holds"),
    # Hermite with zero slopes: 3u^2 - 2u^3 = 5/32 at u = 1/4
    pytest.param(
        None, [(1, 0, 0, 0, 0), (3, 32, 64, 0, 0)], {1: [0, 0], 1.5: [5, 10], 2: [16, 32], 3: [32, 64]}, id="cubic"
    ),
    # From rest at 0 to 0 with speed 8: u^2 (u - 1) * 8 at u = 1/2 is -1
    pytest.param(
        None, [(1, 0, 10, 8, 0), (2, 0, 10, 0, 0)], {0.5: [-1, 10], 1: [0, 10], 1.5: [1, 10]}, id="cubic-through-speed"
    ),
    pytest.param(None, [(1, 2, 12, 1, 1), (2, 4, 14)], {0.5: [0.875, 10.875], 1.5: [3, 13]}, id="velocity-at-one-end"),
]


@pytest.mark.parametrize(("stamp_s", "points", "expected"), FOLLOWED)
def test_follows(stamp_s, points, expected):
    f = follower()
    f.receive(JOINTS, [point(*p) for p in points], 0 if stamp_s is None else NOW + stamp_s * S, NOW)
    for t_s, position in expected.items():
        assert at(f, t_s) == pytest.approx(position, abs=1e-9), f"{t_s} s"


REFUSED = [
    pytest.param(["a", "c"], [point(1, 0, 0)], 0, r"unknown joint c: this arm has a, b", id="unknown-joint"),
    pytest.param(["a"], [Point(S, [0.0])], 0, r"lacks b.*allow_partial_joints_goal", id="partial"),
    pytest.param([], [point(1, 0, 0)], 0, r"lacks a, b", id="no-names"),
    pytest.param(["a", "b", "a"], [Point(S, [0.0, 0.0, 0.0])], 0, r"lists a twice", id="twice"),
    pytest.param(JOINTS, [Point(S, [0.0])], 0, r"points\[0\]\.positions: expected 2 values.*found 1", id="short"),
    pytest.param(JOINTS, [point(1, 0, 0), Point(2 * S, [])], 0, r"points\[1\]\.positions.*found 0", id="no-positions"),
    pytest.param(JOINTS, [point(1, 0, 0, 1)], 0, r"points\[0\]\.velocities: expected 2", id="short-velocities"),
    pytest.param(JOINTS, [point(1, 0, math.nan)], 0, r"points\[0\]\.positions: nan for joint b", id="nan"),
    pytest.param(JOINTS, [point(1, 0, 0, math.inf, 0)], 0, r"points\[0\]\.velocities: inf for joint a", id="inf"),
    pytest.param(JOINTS, [point(1, 0, 0), point(1, 0, 0)], 0, r"points\[1\]: time_from_start 1\.000 s", id="equal"),
    pytest.param(JOINTS, [point(2, 0, 0), point(1, 0, 0)], 0, r"points\[1\]: time_from_start 1\.000 s", id="backward"),
    pytest.param(JOINTS, [point(-1, 0, 0), point(1, 0, 0)], 0, r"points\[0\]: time_from_start is neg", id="negative"),
    pytest.param(JOINTS, [point(1, 0, 0, 0, 0.5)], 0, r"last point still moves b", id="ends-moving"),
    pytest.param(JOINTS, [point(1, 0, 0)], NOW - 3 * S, r"ended 2\.000 s before it arrived", id="over-already"),
]


@pytest.mark.parametrize(("names", "points", "stamp_ns", "message"), REFUSED)
def test_refuses_and_goes_on(names, points, stamp_ns, message):
    f = follower()
    f.receive(JOINTS, [point(4, 4, 14)], 0, NOW)
    with pytest.raises(TrajectoryRefused, match=message):
        f.receive(names, points, stamp_ns, NOW)
    assert at(f, 2) == pytest.approx([2, 12])


def test_joints_in_another_order():
    f = follower()
    f.receive(("b", "a"), [Point(S, [12.0, 2.0], [0.0, 0.0])], 0, NOW)
    assert at(f, 1) == [2, 12]


def test_replaces_the_old_one_from_its_start_on():
    f = follower()
    f.receive(JOINTS, [point(4, 4, 10)], 0, NOW)
    f.receive(JOINTS, [point(1, 0, 10)], NOW + 2 * S, NOW + S)
    assert [at(f, t)[0] for t in (1, 2, 2.5, 3, 4)] == pytest.approx([1, 2, 1, 0, 0])


def test_an_earlier_start_cuts_off_what_waits():
    f = follower()
    f.receive(JOINTS, [point(1, 8, 10)], NOW + 5 * S, NOW)
    f.receive(JOINTS, [point(1, 2, 10)], NOW + 2 * S, NOW)
    assert [at(f, t)[0] for t in (2, 3, 6, 9)] == pytest.approx([0, 2, 2, 2])


def test_starts_from_the_commanded_velocity():
    f = follower()
    f.receive(JOINTS, [point(2, 2, 10)], 0, NOW)
    f.receive(JOINTS, [point(1, 4, 10, 0, 0)], 0, NOW + S)
    position, velocity = f.sample(NOW + S)
    assert position.tolist() == pytest.approx([1, 10])
    assert velocity.tolist() == pytest.approx([1, 0])


def test_waiting_trajectories_are_bounded():
    f = follower()
    for i in range(MAX_WAITING):
        f.receive(JOINTS, [point(1, 0, 0)], NOW + (i + 1) * S, NOW)
    with pytest.raises(TrajectoryRefused, match=f"{MAX_WAITING} trajectories wait"):
        f.receive(JOINTS, [point(1, 0, 0)], NOW + (MAX_WAITING + 1) * S, NOW)


def test_hold_forgets_everything():
    f = follower()
    f.receive(JOINTS, [point(1, 5, 5)], 0, NOW)
    assert f.busy(NOW)
    f.hold([1.0, 1.0])
    assert not f.busy(NOW)
    assert at(f, 3) == [1, 1]


numbers = st.floats(-3.0, 3.0)
trajectories = st.lists(
    st.tuples(st.integers(1, 500), numbers, numbers, st.none() | st.tuples(numbers, numbers)), min_size=1, max_size=6
)


def as_points(raw) -> list[Point]:
    points, t_ms = [], 0
    for i, (gap_ms, a, b, velocity) in enumerate(raw):
        t_ms += gap_ms
        end = i == len(raw) - 1
        points.append(Point(t_ms * 1_000_000, [a, b], [0.0, 0.0] if end else list(velocity or ())))
    return points


@settings(deadline=None, max_examples=60)
@given(raw=trajectories, late_ms=st.integers(0, 300))
def test_passes_through_every_point_that_is_not_past(raw, late_ms):
    points = as_points(raw)
    f = follower()
    start = NOW - late_ms * 1_000_000
    if start + points[-1].time_from_start_ns <= NOW:
        with pytest.raises(TrajectoryRefused):
            f.receive(JOINTS, points, start, NOW)
        return
    f.receive(JOINTS, points, start, NOW)
    for p in points:
        due = start + p.time_from_start_ns
        if due >= NOW:
            assert f.sample(due)[0].tolist() == pytest.approx(list(p.positions), abs=1e-9)
    assert f.sample(start + points[-1].time_from_start_ns + 7 * S)[0].tolist() == list(points[-1].positions)


@settings(deadline=None, max_examples=60)
@given(raw=trajectories, second=trajectories, switch_ms=st.integers(0, 800))
def test_commands_are_continuous_when_the_first_point_lies_ahead(raw, second, switch_ms):
    """With all points ahead, neither a trajectory nor a switch jumps: in 1 us the command moves < 30 mrad."""
    f = follower()
    f.receive(JOINTS, as_points(raw), 0, NOW)
    switch = NOW + switch_ms * 1_000_000
    before = f.sample(switch)[0]
    f.receive(JOINTS, as_points(second), 0, switch)
    assert np.abs(f.sample(switch)[0] - before).max() < 1e-9
    times = switch + np.arange(0, 50) * 20_000_000
    for t in times:
        here, speed = f.sample(int(t))
        there, _ = f.sample(int(t) + 1000)
        # A cubic of 1 ms between points 6 rad apart reaches 1.5 * 6000 + 3 rad/s.
        assert np.abs(there - here).max() <= 1e-6 * 3e4 + 1e-9
        assert np.isfinite(speed).all()


@settings(deadline=None, max_examples=60)
@given(raw=trajectories)
def test_velocity_is_the_slope_of_the_position(raw):
    f = follower()
    f.receive(JOINTS, as_points(raw), 0, NOW)
    knots = {p.time_from_start_ns for p in as_points(raw)}
    for t in range(500_000, 400_000_000, 20_000_000):
        if any(abs(t - knot) <= 2000 for knot in knots):
            continue
        before, after = f.sample(NOW + t - 1000)[0], f.sample(NOW + t + 1000)[0]
        slope = (after - before) / 2e-6
        assert f.sample(NOW + t)[1].tolist() == pytest.approx(slope.tolist(), abs=2e-2, rel=2e-3)


# --- what the recorder asks for beyond a robot's controller ---


def test_the_past_is_known_for_as_long_as_it_is_asked_for():
    f = TrajectoryFollower(JOINTS, [0.0, 10.0], history_ns=S)
    for k in range(1, 9):
        f.receive(JOINTS, [point(0, k, k)], 0, NOW + k * S // 4)
    assert [at(f, t_s)[0] for t_s in (1.0, 1.24, 1.25, 1.75, 2.0)] == [4, 4, 5, 7, 8]


def test_the_end_may_move_where_the_controller_lets_it():
    f = TrajectoryFollower(JOINTS, [0.0, 10.0], moving_end=True)
    f.receive(JOINTS, [point(0, 0, 0, 1, 2), point(1, 1, 2, 1, 2)], NOW, NOW)
    assert at(f, 0.25) == pytest.approx([0.25, 0.5])
    assert at(f, 2) == pytest.approx([1.0, 2.0])  # it holds its last point
