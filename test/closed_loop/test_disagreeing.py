"""The policy whose chunks disagree: its task, its robots, and what a prefix does to its chunks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from groot_ros.closed_loop.disagreeing import EULER_STEPS, DisagreeingPolicy, Frame
from groot_ros.closed_loop.disagreeing_robots import GRIPPER, HORIZON, VARIANTS, embodiment_of
from groot_ros.closed_loop.mixture import FitError
from groot_ros.closed_loop.two_ways import DIMS, SIDES, TwoWays
from groot_ros.embodiment.check import check_commandable
from groot_ros.model.guidance import integrate
from groot_ros.observation.types import Observation
from groot_ros.policy.base import Chunk, Prefix

SHIFT, FROZEN = 8, 2
EITHER = [np.array([side, side]) for side in (-1.0, 1.0)]


@pytest.fixture(scope="module", params=VARIANTS)
def policy(request: pytest.FixtureRequest) -> DisagreeingPolicy:
    return DisagreeingPolicy(request.param, seed=3)


def undecided(policy: DisagreeingPolicy, share: float = 0.2) -> Observation:
    """A moment of the first motion, on the straight line between both ways."""
    time_s = np.asarray(share * policy.task.move_s)
    sides = [policy.task.path(time_s, np.asarray(0), side) for side in EITHER]
    return policy.observation(round(1e9 * float(time_s)), np.mean(sides, axis=0))


def rows(policy: DisagreeingPolicy, chunk: Chunk) -> np.ndarray:
    """The chunk in task units, [H, 6]."""
    return policy.frame.position(chunk.actions[policy.frame.key])


def leftover(chunk: Chunk, shift: int = SHIFT, frozen: int = FROZEN, native: bool = False) -> Prefix:
    """What is left of ``chunk`` ``shift`` rows later."""
    actions = {
        key: np.concatenate([value[shift:], np.repeat(value[-1:], shift, axis=0)]).astype(np.float64)
        for key, value in chunk.actions.items()
    }
    return Prefix(actions, HORIZON - shift, frozen, native)


def later(policy: DisagreeingPolicy, chunk: Chunk, shift: int = SHIFT) -> Observation:
    """What a robot reports that has executed ``shift`` rows of ``chunk``."""
    stamp_ns = chunk.stamp_ns + round(1e9 * shift * chunk.dt_s)
    return policy.observation(stamp_ns, rows(policy, chunk)[shift - 1])


def test_path_is_without_corners_and_comes_round() -> None:
    task = TwoWays.drawn(5)
    times_s = np.linspace(0.0, task.round_s, 16_001)
    path = task.path(times_s, np.asarray(0), np.array([1.0, -1.0]))
    step_s = times_s[1]
    assert np.abs(np.diff(path, axis=0)).max() < 3.0 * step_s
    assert np.abs(np.diff(path, 2, axis=0)).max() < 10.0 * step_s**2
    np.testing.assert_allclose(path[0], task.targets[0], atol=1e-12)
    np.testing.assert_allclose(path[-1], task.targets[0], atol=1e-9)
    for n in range(len(task.targets)):
        np.testing.assert_allclose(path[n * 1000], task.targets[n], atol=1e-9)


def test_the_two_ways_part_and_meet() -> None:
    task = TwoWays.drawn(6)
    half = np.asarray(task.move_s / 2)
    left, right = (task.path(half, np.asarray(0), side) for side in EITHER)
    np.testing.assert_allclose(np.linalg.norm(right - left), 2 * task.bow, atol=1e-12)
    np.testing.assert_allclose((left + right) / 2, (task.targets[0] + task.targets[1]) / 2, atol=1e-12)


def test_chunks_start_where_the_robot_is_with_the_speed_of_the_path() -> None:
    task = TwoWays.drawn(7)
    time_s, position = np.asarray(0.7), np.full(DIMS, 0.4)
    ahead_s = np.array([0.0, 1e-4, 10.0 * task.settle_s])
    chunks = task.chunks(position, time_s, ahead_s)
    assert chunks.shape == (len(SIDES), 3, DIMS)
    np.testing.assert_allclose(chunks[:, 0], np.broadcast_to(position, (4, DIMS)), atol=1e-12)
    for way, sides in zip(chunks, SIDES, strict=True):
        here, next_, far = task.path(time_s + ahead_s, np.asarray(0), sides)
        np.testing.assert_allclose((way[1] - way[0]) / 1e-4, (next_ - here) / 1e-4, atol=2e-2)
        np.testing.assert_allclose(way[2], far, atol=1e-3)


def test_the_nearer_side_is_the_likelier_by_the_tube() -> None:
    task = TwoWays.drawn(8)
    half = np.asarray(task.move_s / 2)
    right = task.path(half, np.asarray(0), EITHER[1])
    log = task.log_weights(right, half)
    np.testing.assert_allclose(log[2] - log[0], 0.5 * (2 * task.bow / task.tube) ** 2, atol=1e-9)
    np.testing.assert_allclose(log[[0, 2]], log[[1, 3]], atol=1e-12)  # the next motion's side is a coin
    np.testing.assert_allclose(np.ptp(task.log_weights(task.targets[0], np.asarray(0.0))), 0.0, atol=1e-12)


def test_wandering_starts_at_nothing_and_ends_as_said() -> None:
    task = TwoWays.drawn(9)
    ahead_s = (1 + np.arange(HORIZON)) / 25.0
    covariance = task.wandering(ahead_s)
    deviation = np.sqrt(np.diag(covariance))
    assert (np.diff(deviation) > 0).all() and deviation[0] < 0.2 * task.wander
    np.testing.assert_allclose(deviation[-1] ** 2, task.wander**2 + task.white**2, atol=1e-12)
    assert np.linalg.eigvalsh(covariance).min() > 0


@pytest.mark.parametrize("pose", [False, True])
def test_frame_and_back(pose: bool) -> None:
    frame = Frame("arm", pose)
    position = np.random.default_rng(10).uniform(-1, 1, (5, 4, DIMS))
    groups = frame.groups(position, np.ones((5, 4)))
    assert groups["arm"].shape == (5, 4, 9 if pose else 6) and groups[GRIPPER].shape == (5, 4, 1)
    np.testing.assert_allclose(frame.position(groups["arm"]), position, atol=1e-9)


def test_fit_error_is_a_function_of_the_size_asked_for() -> None:
    rng = np.random.default_rng(11)
    size = rng.uniform(0.5, 2.0, (HORIZON, 7))
    error = FitError.drawn(rng, size, EULER_STEPS)
    points = rng.standard_normal((4000, HORIZON, 7))
    values = np.array([error.velocity(x, 1) for x in points])
    np.testing.assert_allclose(values.std(axis=0) / size, 1.0, atol=0.1)
    np.testing.assert_allclose(values.mean(axis=0) / size, 0.0, atol=0.1)
    np.testing.assert_array_equal(error.velocity(points[0], 1), values[0])
    assert np.abs(error.velocity(points[0], 2) - values[0]).max() > 0.1
    assert np.abs(error.velocity(points[0] + 1e-6, 1) - values[0]).max() < 1e-3


@pytest.mark.parametrize("variant", VARIANTS)
def test_robots_can_be_commanded(variant: str) -> None:
    embodiment = embodiment_of(variant)
    check_commandable(embodiment)
    assert (embodiment.step_hz, embodiment.horizon) == (25.0, HORIZON)
    assert list(embodiment.action)[-1] == GRIPPER and embodiment.action[GRIPPER].interpolation == "step"


def test_unknown_variant() -> None:
    with pytest.raises(ValueError, match=r"expected one of joints_absolute, .* found 'legs'"):
        embodiment_of("legs")


def test_chunk_has_the_robot_s_keys_and_units(policy: DisagreeingPolicy) -> None:
    observation = undecided(policy)
    chunk = policy.act(observation, seed=1)
    assert list(chunk.actions) == list(policy.embodiment.action)
    assert all(value.dtype == np.float32 and len(value) == HORIZON for value in chunk.actions.values())
    assert (chunk.stamp_ns, chunk.dt_s, chunk.seed, chunk.frozen) == (observation.stamp_ns, 0.04, 1, 0)
    if policy.frame.pose:
        turn = chunk.actions[policy.frame.key][:, 3:].reshape(-1, 2, 3)
        # Relative poses come back through a rotation matrix; absolute ones are as the network gives them.
        exact = policy.frame.key in policy.processor.reference_keys()
        np.testing.assert_allclose(
            turn @ turn.swapaxes(1, 2), np.tile(np.eye(2), (HORIZON, 1, 1)), atol=1e-5 if exact else 0.3
        )
    gripper = chunk.actions[GRIPPER][:, 0]
    assert (np.minimum(np.abs(gripper), np.abs(gripper - 1)) < 0.15).all()
    # It closes half-way, at 0.8 s; that is between the rows that are due 0.48 s after 0.32 s.
    assert np.round(gripper[:11]).max() == 0 and np.round(gripper[12:]).min() == 1


def test_noise_decides_and_the_seed_decides_the_noise(policy: DisagreeingPolicy) -> None:
    observation = undecided(policy)
    first = policy.act(observation, seed=5)
    np.testing.assert_array_equal(rows(policy, first), rows(policy, policy.act(observation, seed=5)))
    assert np.abs(rows(policy, first) - rows(policy, policy.act(observation, seed=6))).max() > 0.01
    left, right = (policy.task.path(np.asarray(0.32 + 0.64), np.asarray(0), side) for side in EITHER)
    ends = np.array([rows(policy, policy.act(observation, seed=seed))[-1] for seed in range(60)])
    to_the_right = np.linalg.norm(ends - right, axis=-1) < np.linalg.norm(ends - left, axis=-1)
    assert 0.25 < to_the_right.mean() < 0.75


def test_a_robot_that_has_gone_one_way_keeps_to_it(policy: DisagreeingPolicy) -> None:
    time_s = np.asarray(policy.task.move_s / 2)
    right = policy.task.path(time_s, np.asarray(0), EITHER[1])
    left = policy.task.path(time_s, np.asarray(0), EITHER[0])
    beyond = policy.observation(round(1e9 * float(time_s)), right + 0.25 * (right - left))
    ends = np.array([rows(policy, policy.act(beyond, seed=seed))[3] for seed in range(40)])
    ahead = time_s + 4 * policy.embodiment.dt_s
    ways = [policy.task.path(ahead, np.asarray(0), side) for side in EITHER]
    assert (np.linalg.norm(ends - ways[1], axis=-1) < np.linalg.norm(ends - ways[0], axis=-1)).mean() > 0.9


def test_many_steps_without_error_of_fit_give_the_demonstrations(policy: DisagreeingPolicy) -> None:
    """The whole policy, decoded: in the mean over the noise it goes where the demonstrations go."""
    observation = undecided(policy)
    field = policy.field(observation)
    noise = np.random.default_rng(12).standard_normal((600, *field.means.shape[1:]))
    state = {key: value[None] for key, value in observation.state.items()}
    flowed = integrate(lambda x, i: field.velocity(x, i / 50), noise, 50)
    found = policy.frame.position(policy.processor.decode_rows(flowed, state)[policy.frame.key])
    time_s = np.asarray(1e-9 * observation.stamp_ns)
    position = policy.frame.position(observation.state[policy.frame.key][-1])
    ahead_s = (1 + np.arange(HORIZON)) * 0.04
    ways = policy.task.chunks(position, time_s, ahead_s)
    weights = np.exp(policy.task.log_weights(position, time_s))
    mean = np.einsum("k,khd->hd", weights / weights.sum(), ways)
    between = np.einsum("k,khd->hd", weights / weights.sum(), (ways - mean) ** 2)
    deviation = np.sqrt(between + np.diag(policy.task.wandering(ahead_s))[:, None])
    np.testing.assert_allclose(found.mean(axis=0), mean, atol=5 * deviation.max() / np.sqrt(600) + 0.005)
    np.testing.assert_allclose(found[:, -1].std(axis=0), deviation[-1], rtol=0.35)


def test_training_range_and_limits_hold_the_task(policy: DisagreeingPolicy) -> None:
    low, high = policy.processor.state_limits(policy.frame.key)
    times_s = np.arange(0.0, policy.task.round_s, 0.02)
    motion = np.floor(times_s / policy.task.move_s).astype(np.int64)
    for side in EITHER:
        path = policy.frame.groups(policy.task.path(times_s, motion, side), np.zeros(len(times_s)))[policy.frame.key]
        slack = 0.05 * (high - low)  # an entry of a rotation matrix reaches 1 in no demonstration
        assert (path >= low - slack).all() and (path <= high + slack).all()
        if not policy.frame.pose:
            limits = policy.embodiment.limits
            assert np.abs(path).max() < limits["joint_1"].upper
            assert np.abs(np.diff(path, axis=0) / 0.02).max() < limits["joint_1"].velocity


@pytest.mark.parametrize("native", [False, True])
def test_prefix_is_kept_and_drawn_to(policy: DisagreeingPolicy, native: bool) -> None:
    """Frozen rows exactly, the rest of the overlap nearer than without; what lies behind the overlap has no say."""
    free, led = [], []
    for seed in range(20):
        old = policy.act(undecided(policy), seed=100 + seed)
        prefix, observation = leftover(old, native=native), later(policy, old)
        new = policy.act(observation, seed=200 + seed, prefix=prefix)
        assert new.frozen == FROZEN
        for key, value in new.actions.items():
            np.testing.assert_array_equal(value[:FROZEN], old.actions[key][SHIFT : SHIFT + FROZEN])
        overlap = slice(FROZEN, HORIZON - SHIFT)
        wanted = rows(policy, old)[SHIFT:][overlap]
        led.append(np.abs(rows(policy, new)[overlap] - wanted).mean())
        free.append(np.abs(rows(policy, policy.act(observation, seed=200 + seed))[overlap] - wanted).mean())
        altered = {key: value.copy() for key, value in prefix.actions.items()}
        altered[policy.frame.key][prefix.length :] = altered[policy.frame.key][0]
        again = policy.act(observation, seed=200 + seed, prefix=replace(prefix, actions=altered))
        np.testing.assert_array_equal(rows(policy, again), rows(policy, new))
    assert np.mean(led) < 0.9 * np.mean(free)


def test_naive_chunks_jump_and_guided_ones_less(policy: DisagreeingPolicy) -> None:
    """Launched every 8 steps, taken over after 2: the step from the old chunk to the new one, in task units."""
    jumps: dict[str, list[float]] = {"naive": [], "guided": []}
    for mode, jump in jumps.items():
        old = policy.act(policy.observation(0, policy.start()), seed=0)
        for n in range(60):
            new = policy.act(later(policy, old), seed=1 + n, prefix=leftover(old) if mode == "guided" else None)
            here = rows(policy, old)[SHIFT + FROZEN]
            jump.append(float(np.abs(rows(policy, new)[FROZEN] - here).max()))
            before = {key: value[SHIFT : SHIFT + FROZEN] for key, value in old.actions.items()}
            joined = {key: np.concatenate([before[key], value[FROZEN:]]) for key, value in new.actions.items()}
            old = replace(new, actions=joined)
    assert np.median(jumps["naive"]) > 0.015 and np.quantile(jumps["naive"], 0.95) > 0.06
    assert np.median(jumps["guided"]) < np.median(jumps["naive"]) / 1.8
    assert np.quantile(jumps["guided"], 0.95) < np.quantile(jumps["naive"], 0.95) / 1.8
