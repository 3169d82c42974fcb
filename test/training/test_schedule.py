"""The order of draws: every window once per epoch, whatever the ranks; shares of several datasets."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groot_ros.training.errors import TrainingError
from groot_ros.training.schedule import Schedule, rank_draws, sharded_order

EPISODES = st.lists(st.integers(0, 12), min_size=1, max_size=8).filter(any)
DATASETS = st.lists(EPISODES, min_size=1, max_size=3)


def all_windows(datasets: list[list[int]]) -> set[tuple[int, int, int]]:
    return {(d, e, w) for d, counts in enumerate(datasets) for e, count in enumerate(counts) for w in range(count)}


@settings(max_examples=60, deadline=None)
@given(DATASETS, st.integers(0, 2**32 - 1), st.integers(1, 9), st.sampled_from([1.0, 0.5, 0.3, 0.1]), st.integers(0, 5))
def test_every_window_exactly_once_per_epoch(
    datasets: list[list[int]], seed: int, shard_size: int, rate: float, epoch: int
) -> None:
    schedule = Schedule(datasets, seed=seed, shard_size=shard_size, episode_sampling_rate=rate)
    length = schedule.epoch_length
    drawn = [schedule.window(draw) for draw in range(epoch * length, (epoch + 1) * length)]
    assert length == sum(map(sum, datasets)) == len(drawn)
    assert set(drawn) == all_windows(datasets)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 20), st.integers(1, 6))
def test_ranks_share_the_draws_without_overlap_or_gap(world: int, micro: int, first: int, batches: int) -> None:
    per_rank = [
        [d for batch in islice(rank_draws(first, r, world, micro), batches) for d in batch] for r in range(world)
    ]
    start = first * world * micro
    assert sorted(d for draws in per_rank for d in draws) == list(range(start, start + batches * world * micro))


@settings(max_examples=40, deadline=None)
@given(EPISODES, st.integers(0, 1000), st.sampled_from([(1, 4), (2, 2), (4, 1)]))
def test_an_epoch_over_ranks_draws_each_window_once(counts: list[int], seed: int, layout: tuple[int, int]) -> None:
    world, micro = layout
    schedule = Schedule([counts], seed=seed, shard_size=5, episode_sampling_rate=0.5)
    epochs = world * micro  # so that micro-batches fill them exactly
    batches = schedule.epoch_length
    drawn = [
        schedule.window(draw)
        for rank in range(world)
        for batch in islice(rank_draws(0, rank, world, micro), batches)
        for draw in batch
    ]
    assert {window: drawn.count(window) for window in drawn} == dict.fromkeys(all_windows([counts]), epochs)


@settings(max_examples=40, deadline=None)
@given(EPISODES, st.integers(0, 1000), st.integers(0, 300))
def test_a_draw_depends_on_its_number_only(counts: list[int], seed: int, draw: int) -> None:
    fresh, used = (Schedule([counts], seed=seed, shard_size=4) for _ in range(2))
    for earlier in (*range(draw + 30, draw, -7), 0):
        used.window(earlier)
    assert used.window(draw) == fresh.window(draw)


def test_global_batches_do_not_depend_on_the_number_of_ranks() -> None:
    one = list(islice(rank_draws(3, 0, 1, 8), 4))
    ranks = [list(islice(rank_draws(3, rank, 4, 2), 4)) for rank in range(4)]
    assert one == [[draw for rank in ranks for draw in rank[batch]] for batch in range(4)]


def test_epochs_and_seeds_differ() -> None:
    counts = [[40, 40, 40]]
    first, second = Schedule(counts, seed=1), Schedule(counts, seed=2)
    epochs = [[first.window(d) for d in range(120 * e, 120 * (e + 1))] for e in range(2)]
    assert epochs[0] != epochs[1]
    assert epochs[0] != [second.window(d) for d in range(120)]


def test_a_shard_mixes_episodes_and_keeps_to_its_size() -> None:
    counts = np.full(50, 100)
    order = sharded_order(counts, 500, 10, np.random.default_rng(0))
    assert sorted(order) == list(range(5000))
    for start in range(0, 5000, 500):
        episodes, windows = np.unique(order[start : start + 500] // 100, return_counts=True)
        assert len(episodes) >= 20
        assert windows.max() <= 60


def test_a_shard_holds_few_episodes_when_each_gives_much_to_it() -> None:
    order = sharded_order(np.full(50, 100), 500, 1, np.random.default_rng(0))
    for start in range(0, 5000, 500):
        assert len(np.unique(order[start : start + 500] // 100)) == 5


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=2, max_size=4), st.data())
def test_weights_are_shares_and_no_window_comes_again_before_the_others(sizes: list[int], data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.floats(0.1, 10), min_size=len(sizes), max_size=len(sizes)))
    schedule = Schedule([[size] for size in sizes], weights=weights, seed=3)
    drawn = [schedule.window(draw) for draw in range(3 * schedule.epoch_length)]
    for dataset, size in enumerate(sizes):
        own = [window for d, _, window in drawn if d == dataset]
        assert len(own) == round(3 * schedule.epoch_length * schedule.shares[dataset])
        assert abs(schedule.shares[dataset] - weights[dataset] / sum(weights)) <= 2 * len(sizes) / sum(sizes)
        for start in range(0, len(own) - size + 1, size):
            assert sorted(own[start : start + size]) == list(range(size))


def test_refusals() -> None:
    with pytest.raises(TrainingError, match=r"found none in \[1\]"):
        Schedule([[3], [0, 0]])
    with pytest.raises(TrainingError, match=r"--dataset-weights.*leave out"):
        Schedule([[3], [4]], weights=[1.0, 0.0])
    with pytest.raises(IndexError, match="draw -1"):
        Schedule([[3]]).window(-1)
