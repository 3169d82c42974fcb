"""The limits hold on the curve between the rows, whatever the targets; what may be met is met exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groot_ros.control import rotation
from groot_ros.control.limiter import Limited, Motion, brake, follow
from groot_ros.control.space import Space

PERIODS = st.sampled_from([0.005, 0.01, 0.02, 0.04])
SEEDS = st.integers(0, 2**32 - 1)
IDENTITY = np.array([0.0, 0.0, 0.0, 1.0])


def lines(
    lower: Sequence[float], upper: Sequence[float], velocity: Sequence[float], acceleration: Sequence[float], **other
) -> Space:
    count = len(lower)
    return Space(
        names=tuple(f"j{index}" for index in range(count)),
        rotations=(),
        lower=np.array(lower, dtype=float),
        upper=np.array(upper, dtype=float),
        velocity=np.array(velocity, dtype=float),
        acceleration=np.array(acceleration, dtype=float),
        interpolation=tuple(other.get("interpolation", ["cubic"] * count)),
        rests_at_zero=np.array(other.get("rests_at_zero", [False] * count)),
    )


def pose(velocity: float = 1.0, acceleration: float = 4.0) -> Space:
    """x, an orientation, y."""
    return Space(
        names=("x", "rotation.x", "rotation.y", "rotation.z", "y"),
        rotations=((1, 1),),
        lower=np.array([-1.0, *[-np.inf] * 3, -1.0]),
        upper=np.array([1.0, *[np.inf] * 3, 1.0]),
        velocity=np.array([0.5, *[velocity] * 3, 0.5]),
        acceleration=np.array([2.0, *[acceleration] * 3, 2.0]),
        interpolation=("cubic",) * 5,
        rests_at_zero=np.zeros(5, dtype=bool),
    )


def braking_way(space: Space, velocity: np.ndarray, period_s: float) -> np.ndarray:
    """The way to rest, tick by tick."""
    speed, way = np.abs(velocity), np.zeros(len(velocity))
    while np.any(speed > 0.0):
        slower = np.maximum(speed - space.acceleration * period_s, 0.0)
        way += 0.5 * period_s * (speed + slower)
        speed = slower
    return way


def random_space(rng: np.random.Generator, count: int) -> Space:
    middle, half = rng.uniform(-2.0, 2.0, count), 10.0 ** rng.uniform(-2.0, 1.0, count)
    lower, upper = middle - half, middle + half
    lower[rng.random(count) < 0.15] = -np.inf
    upper[rng.random(count) < 0.15] = np.inf
    return lines(lower, upper, 10.0 ** rng.uniform(-1.5, 1.5, count), 10.0 ** rng.uniform(-1.0, 2.5, count))


def random_start(rng: np.random.Generator, space: Space, period_s: float) -> Motion:
    """A start inside the limits that can stop inside them; often it only just can."""
    lower, upper = np.maximum(space.lower, -20.0), np.minimum(space.upper, 20.0)
    velocity = space.velocity * rng.uniform(-1.0, 1.0, len(lower))
    while np.any(too_fast := braking_way(space, velocity, period_s) > upper - lower):
        velocity = np.where(too_fast, 0.5 * velocity, velocity)
    way = braking_way(space, velocity, period_s)
    least, most = lower + np.where(velocity < 0.0, way, 0.0), upper - np.where(velocity > 0.0, way, 0.0)
    share = np.clip(rng.uniform(-0.5, 1.5, len(lower)), 0.0, 1.0)
    return Motion(least + share * (most - least), velocity)


def random_targets(rng: np.random.Generator, space: Space, rows: int, period_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Paths of every kind: noise, walks, waves, jumps, far away; with velocities that fit, do not fit, or are 0."""
    count = space.tangent_count
    centre = np.clip(rng.normal(size=count), space.lower, space.upper)
    scale = np.minimum(space.upper - space.lower, 5.0) * 10.0 ** rng.uniform(-2.0, 1.0, count)
    time = np.arange(rows)[:, None] * period_s
    wave = np.sin(time * rng.uniform(0.1, 20.0, count) + rng.uniform(0.0, 6.0, count))
    walk = np.cumsum(rng.normal(size=(rows, count)), axis=0) / np.sqrt(rows)
    jumps = rng.normal(size=(rows // 10 + 1, count)).repeat(10, axis=0)[:rows]
    kinds = np.stack([wave, walk, jumps, rng.normal(size=(rows, count)), np.ones((rows, count))])
    targets = centre + scale * np.take_along_axis(kinds, rng.integers(0, 5, (1, 1, count)), axis=0)[0]
    fitting = np.diff(targets, axis=0, append=targets[-1:]) / period_s
    velocities = np.choose(
        rng.integers(0, 4, count), [fitting, np.zeros_like(fitting), 3.0 * rng.normal(size=fitting.shape), fitting]
    )
    return targets, velocities


def curve(way: np.ndarray, v: np.ndarray, w: np.ndarray, period_s: float) -> tuple[np.ndarray, ...]:
    """Ways from the row before [T, S, V], velocities and accelerations, of the Hermite segments [T, V], densely."""
    s = np.linspace(0.0, 1.0, 33)[:, None]
    way, v, w = way[:, None], v[:, None] * period_s, w[:, None] * period_s
    # also where the velocity is extreme, s = -c / 2 b of velocity = a + c s + b s^2
    c, b = 6.0 * way - 4.0 * v - 2.0 * w, 3.0 * (v + w) - 6.0 * way
    with np.errstate(divide="ignore", invalid="ignore"):
        top = np.nan_to_num(np.clip(-0.5 * c / b, 0.0, 1.0))
    s = np.concatenate([np.broadcast_to(s, (len(way), len(s), way.shape[-1])), top], axis=1)
    moved = way * (3 * s**2 - 2 * s**3) + v * (s - 2 * s**2 + s**3) + w * (s**3 - s**2)
    speed = (v + c * s + b * s**2) / period_s
    sharpness = (c + 2.0 * b * s) / period_s**2
    return moved, speed, sharpness


def assert_within(space: Space, start: Motion, out: Limited, period_s: float) -> None:
    values, velocities = np.vstack([start.values, out.values]), np.vstack([start.velocity, out.velocities])
    assert np.isfinite(values).all() and np.isfinite(velocities).all()
    ways = space.minus(values[1:], values[:-1])
    moved, speed, sharpness = curve(ways, velocities[:-1], velocities[1:], period_s)
    # a value is rounded to 2^-53 of itself, and the acceleration of a curve through two is 6 / period^2 of that
    rounding = 16.0 / period_s**2 * np.finfo(float).eps * np.abs(values).max()
    value_columns, tangent_columns = space.lines
    at = values[:-1, None][..., value_columns] + moved[..., tangent_columns]
    assert np.all(at <= space.upper[tangent_columns] + 1e-9), "above the upper bound"
    assert np.all(at >= space.lower[tangent_columns] - 1e-9), "below the lower bound"
    share = np.ones(space.tangent_count)
    for _, tangent in space.rotations:
        share[tangent : tangent + 3] = 3.0**-0.5
    assert np.all(np.abs(speed) <= space.velocity * share + 1e-9 + rounding * period_s)
    assert np.all(np.abs(sharpness) <= space.acceleration * share + 1e-9 + rounding)


@settings(max_examples=120, deadline=None)
@given(SEEDS, PERIODS)
def test_the_curve_between_the_rows_obeys_every_limit(seed: int, period_s: float) -> None:
    rng = np.random.default_rng(seed)
    space = random_space(rng, 12)
    start = random_start(rng, space, period_s)
    targets, velocities = random_targets(rng, space, 80, period_s)
    out = follow(space, start, targets, velocities, period_s)
    assert_within(space, start, out, period_s)
    untouched = [name for name in space.names if not any(key.startswith(f"{name}.") for key in out.clamped)]
    columns = [space.names.index(name) for name in untouched]
    np.testing.assert_array_equal(out.values[:, columns], targets[:, columns])
    np.testing.assert_array_equal(out.velocities[:, columns], velocities[:, columns])


@settings(max_examples=50, deadline=None)
@given(SEEDS, PERIODS, st.integers(0, 40))
def test_from_any_row_it_can_stop_inside_the_limits(seed: int, period_s: float, row: int) -> None:
    rng = np.random.default_rng(seed)
    space = random_space(rng, 12)
    start = random_start(rng, space, period_s)
    out = follow(space, start, *random_targets(rng, space, row + 1, period_s), period_s)
    motion = Motion(out.values[row], out.velocities[row])
    stop = brake(space, motion, period_s)
    assert_within(space, motion, stop, period_s)
    speeds = np.abs(np.vstack([motion.velocity, stop.velocities]))
    assert np.all(np.diff(speeds, axis=0) <= 0.0)
    assert np.all(stop.velocities[-1] == 0.0)
    assert np.all(np.diff(np.vstack([motion.values, stop.values]), axis=0) * np.sign(motion.velocity) >= 0.0)
    # as short as the limit allows: the slowest column needs all its ticks
    needed = np.max(np.abs(motion.velocity) / (space.acceleration * period_s))
    assert max(1, np.ceil(needed)) == len(stop.values) or np.isclose(needed, np.rint(needed))


@settings(max_examples=50, deadline=None)
@given(SEEDS, PERIODS)
def test_cut_anywhere_and_gone_on_it_is_the_same(seed: int, period_s: float) -> None:
    """A caller may start anew from any row with the targets that are left: there is no state beside it."""
    rng = np.random.default_rng(seed)
    space = random_space(rng, 6)
    start = random_start(rng, space, period_s)
    targets, velocities = random_targets(rng, space, 40, period_s)
    whole = follow(space, start, targets, velocities, period_s)
    motion, rows = start, []
    for tick in range(30):
        one = follow(space, motion, targets[tick:], velocities[tick:], period_s)
        motion = Motion(one.values[0], one.velocities[0])
        rows.append(motion.values)
    np.testing.assert_array_equal(np.array(rows), whole.values[:30])


@settings(max_examples=50, deadline=None)
@given(SEEDS, PERIODS)
def test_a_far_target_is_reached_monotonically(seed: int, period_s: float) -> None:
    rng = np.random.default_rng(seed)
    count = 8
    space = lines([-3.0] * count, [3.0] * count, rng.uniform(0.3, 5.0, count), 10.0 ** rng.uniform(0.5, 2.0, count))
    start = Motion(rng.uniform(-3.0, 3.0, count), np.zeros(count))
    goal = rng.uniform(-3.5, 3.5, count)  # some outside the bounds
    inside = np.clip(goal, -3.0, 3.0)
    rows = int(np.ceil((6.0 / space.velocity + space.velocity / space.acceleration).max() / period_s)) + 5
    out = follow(space, start, np.tile(goal, (rows, 1)), np.zeros((rows, count)), period_s)
    steps = np.diff(np.vstack([start.values, out.values]), axis=0) * np.sign(inside - start.values)
    assert np.all(steps >= -1e-12)
    assert np.all((inside - out.values) * np.sign(inside - start.values) >= -1e-6)
    np.testing.assert_array_equal(out.values[-1], inside)
    np.testing.assert_array_equal(out.velocities[-1], 0.0)
    assert_within(space, start, out, period_s)
    # the time of a trapezoidal profile and at most two ticks
    way = np.abs(inside - start.values)
    peak = np.minimum(space.velocity, np.sqrt(way * space.acceleration))
    ideal = np.where(way > 0.0, way / np.maximum(peak, 1e-12) + peak / space.acceleration, 0.0)
    arrived = np.argmax(np.all(out.values == inside, axis=1)) + 1
    assert arrived <= ideal.max() / period_s + 3


@settings(max_examples=30, deadline=None)
@given(SEEDS, PERIODS, st.floats(0.1, 0.85))
def test_a_path_that_obeys_the_limits_is_met_exactly_in_the_end(seed: int, period_s: float, share: float) -> None:
    rng = np.random.default_rng(seed)
    count = 6
    frequency, amplitude = rng.uniform(0.5, 4.0, count), rng.uniform(0.1, 1.0, count)
    phase = rng.uniform(0.0, 6.0, count)
    space = lines(
        [-1.2] * count, [1.2] * count, amplitude * frequency / share, amplitude * frequency**2 / share
    )  # fmt: skip
    time = period_s * np.arange(1, int(20.0 / period_s))[:, None]
    targets = amplitude * np.sin(frequency * time + phase)
    velocities = amplitude * frequency * np.cos(frequency * time + phase)
    start = Motion(rng.uniform(-1.0, 1.0, count), np.zeros(count))
    out = follow(space, start, targets, velocities, period_s)
    np.testing.assert_array_equal(out.values[-20:], targets[-20:])
    np.testing.assert_array_equal(out.velocities[-20:], velocities[-20:])
    assert_within(space, start, out, period_s)


@settings(max_examples=30, deadline=None)
@given(SEEDS, PERIODS)
def test_a_start_outside_the_limits_is_led_back(seed: int, period_s: float) -> None:
    rng = np.random.default_rng(seed)
    count = 8
    space = lines([-1.0] * count, [1.0] * count, rng.uniform(0.5, 3.0, count), rng.uniform(4.0, 40.0, count))
    start = Motion(rng.uniform(-2.0, 2.0, count), rng.uniform(-2.0, 2.0, count) * space.velocity)
    rows, back = int(7.0 / period_s), int(6.0 / period_s)
    targets, velocities = random_targets(rng, space, rows, period_s)
    out = follow(space, start, targets, velocities, period_s)
    # how far it must go to stop, and no further
    way = braking_way(space, start.velocity, period_s)
    most = np.maximum(1.0, start.values + np.where(start.velocity > 0.0, way, 0.0))
    least = np.minimum(-1.0, start.values - np.where(start.velocity < 0.0, way, 0.0))
    speed = np.maximum(space.velocity, np.abs(start.velocity))
    wide = lines(least, most, speed, space.acceleration)
    assert_within(wide, start, out, period_s)
    late = Motion(out.values[back], out.velocities[back])  # 1.5 s to stop and less than 4 s to return
    rest = Limited(out.values[back + 1 :], out.velocities[back + 1 :], {})
    assert_within(space, late, rest, period_s)


def test_what_was_clamped_is_counted_by_the_first_limit() -> None:
    space = lines([-1.0] * 4, [1.0] * 4, [1.0] * 4, [10.0] * 4)
    start = Motion(np.zeros(4), np.array([0.0, 1.0, 0.0, 0.0]))
    targets = np.array([[0.0, 0.03, 0.01, 0.0], [0.0, 0.06, 0.01, 1.5], [0.0, 0.09, 0.01, 1.5]])
    velocities = np.array([[0.0, 1.5, 0.0, 0.0], [0.0, 1.5, 0.0, 0.0], [0.0, 1.5, 0.0, 0.0]])
    out = follow(space, start, targets, velocities, 0.02)
    assert out.clamped == {"j1.velocity": 3, "j2.acceleration": 3, "j3.position": 2}
    np.testing.assert_array_equal(out.values[:, 0], targets[:, 0])


def test_a_target_at_the_bound_with_a_velocity_out_of_it_counts_as_position() -> None:
    space = lines([-1.0], [1.0], [1.0], [10.0])
    start = Motion(np.array([0.975]), np.array([0.5]))
    out = follow(space, start, np.array([[0.988]]), np.array([[0.5]]), 0.02)
    assert out.clamped == {"j0.position": 1}
    assert 0.988 > out.values[0, 0] > 0.975
    assert braking_way(space, out.velocities[0], 0.02)[0] <= 1.0 - out.values[0, 0] + 1e-12


def test_a_curve_that_leaves_the_bound_between_two_rows_is_refused() -> None:
    """Both ends are inside, but the curve from rest up and back down again is not."""
    space = lines([-1.0, -1.0], [1.0, 1.0], [9.0, 9.0], [10.0, 10.0])
    start = Motion(np.array([1.0 - 1e-5, -1.0 + 1e-5]), np.zeros(2))
    target, velocity = np.array([[1.0 - 1e-5, -1.0 + 1e-5]]), np.array([[-0.04, 0.04]])
    moved, _, _ = curve(target - start.values, start.velocity[None], velocity, 0.02)
    assert np.max(np.abs(start.values + moved)) > 1.0 + 1e-4
    still = start.values[None]
    for rows in (0, 1, 3):  # also where all targets before were met
        targets = np.vstack([still] * rows + [target])
        out = follow(space, start, targets, np.vstack([0.0 * still] * rows + [velocity]), 0.02)
        assert out.clamped == {"j0.position": 1, "j1.position": 1}
        assert_within(space, start, out, 0.02)


def test_unlimited_columns_take_their_target_at_once() -> None:
    inf = np.inf
    space = lines(
        [0.0, -1.0, -1.0], [1.0, 1.0, 1.0], [inf, inf, 2.0], [inf, inf, inf], interpolation=["step", "cubic", "cubic"]
    )
    targets = np.array([[1.0, 0.5, 0.01], [1.0, 0.5, 0.05], [0.0, 2.0, 0.5]])
    velocities = np.array([[0.0, 3.0, 1.0], [5.0, 900.0, 1.0], [0.0, 3.0, 0.0]])
    start = Motion(np.zeros(3), np.zeros(3))
    out = follow(space, start, targets, velocities, 0.02)
    np.testing.assert_array_equal(out.values[:, 0], [1.0, 1.0, 0.0])
    np.testing.assert_array_equal(out.velocities[:, 0], 0.0)
    np.testing.assert_array_equal(out.values[:, 1], [0.5, 0.5, 1.0])
    np.testing.assert_allclose(out.velocities[:, 1], [3.0, 3.0 / 0.02 * 0.5, 0.0])
    assert 0.05 < out.values[2, 2] <= 0.05 + 2.0 * 0.02 + 1e-12
    assert out.clamped == {"j1.position": 1, "j2.velocity": 2}
    assert_within(space, start, out, 0.02)
    stop = brake(space, Motion(np.array([1.0, 0.5, 0.0]), np.array([0.0, 30.0, 2.0])), 0.02)
    assert_within(space, Motion(np.array([1.0, 0.5, 0.0]), np.array([0.0, 30.0, 2.0])), stop, 0.02)
    assert len(stop.values) == 1
    np.testing.assert_array_equal(stop.velocities, 0.0)


@settings(max_examples=30, deadline=None)
@given(SEEDS, PERIODS)
def test_speeds_go_to_zero_and_the_rest_stays(seed: int, period_s: float) -> None:
    rng = np.random.default_rng(seed)
    finite = lines([-1.0] * 4, [1.0] * 4, rng.uniform(0.3, 5.0, 4), rng.uniform(2.0, 50.0, 4))
    start = random_start(rng, finite, period_s)
    start.velocity[3], start.values[3] = 0.0, 0.7
    space = replace(
        finite,
        velocity=np.array([*finite.velocity[:3], np.inf]),
        acceleration=np.array([*finite.acceleration[:3], np.inf]),
        rests_at_zero=np.array([True, True, False, True]),
    )
    stop = brake(space, start, period_s)
    np.testing.assert_array_equal(stop.values[-1, [0, 1, 3]], 0.0)
    np.testing.assert_array_equal(stop.velocities[-1], 0.0)
    assert stop.values[0, 3] == 0.0
    assert_within(space, start, stop, period_s)
    assert len(stop.values) == 1 or np.any(stop.velocities[-2]) or np.any(stop.values[-2, [0, 1]])
    hold = Motion(np.array([0.0, 0.0, 0.4, 0.0]), np.zeros(4))
    still = brake(space, hold, period_s)
    np.testing.assert_array_equal(still.values, [hold.values])


@settings(max_examples=50, deadline=None)
@given(SEEDS, PERIODS)
def test_orientations_obey_their_limits(seed: int, period_s: float) -> None:
    rng = np.random.default_rng(seed)
    space = pose(*10.0 ** rng.uniform(-0.5, 1.0, 2))
    rows = 120
    targets = np.empty((rows, 6))
    turns = np.cumsum(rng.normal(size=(rows, 3)) * 10.0 ** rng.uniform(-3.0, 0.0), axis=0)
    targets[:, 1:5] = rotation.exp(turns) * rng.choice([-1.0, 1.0], (rows, 1))  # both signs are the same orientation
    targets[:, [0, 5]] = rng.normal(size=(rows, 2))
    velocities = rng.normal(size=(rows, 5))
    start = Motion(np.concatenate([[0.2], rotation.exp(rng.normal(size=3)), [-0.3]]), np.zeros(5))
    out = follow(space, start, targets, velocities, period_s)
    assert_within(space, start, out, period_s)
    np.testing.assert_allclose(np.linalg.norm(out.values[:, 1:5], axis=1), 1.0, atol=1e-12)
    assert np.all(np.linalg.norm(out.velocities[:, 1:4], axis=1) <= space.velocity[1] + 1e-9)
    motion = Motion(out.values[-1], out.velocities[-1])
    stop = brake(space, motion, period_s)
    assert_within(space, motion, stop, period_s)
    np.testing.assert_array_equal(stop.velocities[-1], 0.0)


@settings(max_examples=25, deadline=None)
@given(SEEDS, PERIODS)
def test_a_far_orientation_is_reached_without_swinging(seed: int, period_s: float) -> None:
    rng = np.random.default_rng(seed)
    space = pose(2.0, 8.0)
    axis = rng.normal(size=3)
    turn = rng.uniform(0.1, 3.1) * axis / np.linalg.norm(axis)
    first = rotation.unit(rng.normal(size=4))
    goal = np.concatenate([[0.0], rotation.multiply(rotation.exp(turn), first), [0.0]])
    start = Motion(np.concatenate([[0.0], first, [0.0]]), np.zeros(5))
    rows = int(6.0 / period_s)
    out = follow(space, start, np.tile(goal, (rows, 1)), np.zeros((rows, 5)), period_s)
    left = np.linalg.norm(space.minus(goal, np.vstack([start.values, out.values]))[:, 1:4], axis=1)
    assert np.maximum(np.diff(left), 0.0).sum() <= 1e-3  # the axes turn each other a little as they arrive
    np.testing.assert_array_equal(out.values[-1], goal)
    np.testing.assert_array_equal(out.velocities[-1], 0.0)


@pytest.mark.parametrize("huge", [1e30, 1e160, 1.7e308])
def test_absurd_but_finite_targets_do_no_harm(huge: float) -> None:
    space = lines([-1.0, -np.inf], [1.0, np.inf], [1.0, 2.0], [5.0, 5.0])
    start = Motion(np.array([0.5, -0.5]), np.array([0.1, -0.1]))
    targets = np.array([[huge, huge], [-huge, -huge], [0.0, 0.0]]).repeat(5, axis=0)
    for velocities in (np.zeros_like(targets), np.full_like(targets, huge), -targets):
        assert_within(space, start, follow(space, start, targets, velocities, 0.02), 0.02)


def test_no_targets_give_no_rows() -> None:
    space = lines([-1.0], [1.0], [1.0], [5.0])
    out = follow(space, Motion(np.zeros(1), np.zeros(1)), np.empty((0, 1)), np.empty((0, 1)), 0.02)
    assert out.values.shape == (0, 1) and out.clamped == {}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"targets": np.zeros((3, 3))}, r"targets: expected shape \(3, 2\), found \(3, 3\)"),
        ({"target_velocities": np.zeros((2, 2))}, r"target_velocities: expected shape \(3, 2\), found \(2, 2\)"),
        ({"targets": np.array([[0.0, 0.0], [0.0, np.nan], [0.0, 0.0]])}, r"targets\[1, 1\] is nan"),
        ({"start": Motion(np.array([0.0, np.inf]), np.zeros(2))}, r"start.values\[1\] is inf"),
        ({"start": Motion(np.zeros(2), np.zeros(3))}, r"start.velocity: expected shape \(2,\), found \(3,\)"),
        ({"period_s": 0.0}, "period_s is 0.0: expected a positive number"),
    ],
)
def test_bad_input_is_refused_by_name(change: dict[str, object], expected: str) -> None:
    space = lines([-1.0] * 2, [1.0] * 2, [1.0] * 2, [5.0] * 2)
    good = {
        "space": space,
        "start": Motion(np.zeros(2), np.zeros(2)),
        "targets": np.zeros((3, 2)),
        "target_velocities": np.zeros((3, 2)),
        "period_s": 0.02,
    }
    with pytest.raises(ValueError, match=expected):
        follow(**(good | change))
