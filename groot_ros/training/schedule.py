"""Which window the n-th draw of a training run is: a function of the draw's number alone.

Ranks, workers and a resumed run need not tell each other anything: batch ``b`` of rank ``r`` of ``W``, with ``B``
samples each, are the draws ``(b * W + r) * B`` and the ``B - 1`` after it (``rank_draws``).

As in GR00T's own loader, windows are drawn by shards: every episode's windows are dealt out to several shards, and a
shard holds the windows of several episodes, so that a batch is mixed although only a few videos are in use at a time.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from groot_ros.training.errors import TrainingError

Order = NDArray[np.int64]

_SEED_ORDER, _SEED_MIXTURE = 1, 2
# Draws are asked for in order but for a few in flight: this epoch's and the next one's orders are enough.
_KEPT = 2


class Schedule:
    """Windows in a seeded order, the same for any number of ranks and workers.

    An epoch is ``epoch_length`` draws. With one dataset, or several without ``weights``, it holds every window exactly
    once. With weights each dataset has its share of every epoch, and goes through all of its windows before any of
    them comes again.
    """

    def __init__(
        self,
        episode_windows: Sequence[Sequence[int]],
        *,
        weights: Sequence[float] | None = None,
        seed: int = 42,
        shard_size: int = 1024,
        episode_sampling_rate: float = 0.1,
    ) -> None:
        """
        Args:
            episode_windows: per dataset, per episode: how many windows it has; an episode may have none.
            weights: share of the draws per dataset, in any unit; None: as many as it has windows.
            shard_size: windows per shard, about.
            episode_sampling_rate: share of an episode's windows that goes to one shard.

        Raises:
            TrainingError: a dataset without a window, or a weight that is not above 0.
        """
        self._ends = [np.cumsum(np.asarray(counts, dtype=np.int64)) for counts in episode_windows]
        self._sizes = [int(ends[-1]) if len(ends) else 0 for ends in self._ends]
        self._seed, self._shard_size = seed, shard_size
        self._pieces = max(1, int(1 / episode_sampling_rate))
        if not self._sizes or not all(self._sizes):
            empty = [number for number, size in enumerate(self._sizes) if not size]
            raise TrainingError(f"schedule: expected windows in every dataset, found none in {empty or 'any'}")
        self._quotas = _quotas(self._sizes, weights)
        self._orders: OrderedDict[tuple[int, int], Order] = OrderedDict()
        self._mixtures: OrderedDict[int, tuple[NDArray[np.int16], Order]] = OrderedDict()

    @property
    def epoch_length(self) -> int:
        """Draws of an epoch: about the windows of all datasets."""
        return sum(self._quotas)

    @property
    def shares(self) -> list[float]:
        """Share of the draws per dataset; they add up to 1."""
        return [quota / self.epoch_length for quota in self._quotas]

    def window(self, draw: int) -> tuple[int, int, int]:
        """(dataset, episode, window of that episode) of a draw; all count from 0.

        Raises:
            IndexError: a negative draw.
        """
        if draw < 0:
            raise IndexError(f"draw {draw}: expected 0 or more")
        epoch, place = divmod(draw, self.epoch_length)
        dataset = 0
        if len(self._sizes) > 1:
            labels, ranks = self._mixture(epoch)
            dataset, place = int(labels[place]), int(ranks[place])
        own_epoch, own_place = divmod(epoch * self._quotas[dataset] + place, self._sizes[dataset])
        return dataset, *self._place(dataset, int(self._order(dataset, own_epoch)[own_place]))

    def _place(self, dataset: int, number: int) -> tuple[int, int]:
        """Episode and window in it of a dataset's window."""
        ends = self._ends[dataset]
        episode = int(np.searchsorted(ends, number, side="right"))
        return episode, number - (int(ends[episode - 1]) if episode else 0)

    def _order(self, dataset: int, epoch: int) -> Order:
        """A dataset's windows in the order of an epoch."""
        if (dataset, epoch) not in self._orders:
            random = np.random.default_rng([self._seed, _SEED_ORDER, dataset, epoch])
            counts = np.diff(self._ends[dataset], prepend=0)
            self._orders[dataset, epoch] = sharded_order(counts, self._shard_size, self._pieces, random)
            while len(self._orders) > _KEPT * len(self._sizes):
                self._orders.popitem(last=False)
        return self._orders[dataset, epoch]

    def _mixture(self, epoch: int) -> tuple[NDArray[np.int16], Order]:
        """Per draw of an epoch: its dataset, and how many draws of the epoch that dataset had before."""
        if epoch not in self._mixtures:
            random = np.random.default_rng([self._seed, _SEED_MIXTURE, epoch])
            labels = random.permutation(np.repeat(np.arange(len(self._sizes), dtype=np.int16), self._quotas))
            ranks = np.empty(len(labels), dtype=np.int64)
            for dataset, quota in enumerate(self._quotas):
                ranks[labels == dataset] = np.arange(quota)
            self._mixtures[epoch] = labels, ranks
            while len(self._mixtures) > _KEPT:
                self._mixtures.popitem(last=False)
        return self._mixtures[epoch]


def sharded_order(counts: NDArray[np.int64], shard_size: int, pieces: int, random: np.random.Generator) -> Order:
    """Numbers 0 to sum(counts) - 1 in the order of their shards.

    Each episode's windows are shuffled and split into ``pieces``, each of which goes to the shard with the fewest
    windows so far; then shards, and the windows within each, are shuffled.

    Args:
        counts: windows per episode.
    """
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    shards: list[list[Order]] = [[] for _ in range(max(1, math.ceil(int(counts.sum()) / shard_size)))]
    sizes = [(0, number) for number in range(len(shards))]
    for episode in random.permutation(len(counts)):
        windows = starts[episode] + random.permutation(int(counts[episode]))
        for piece in np.array_split(windows, pieces):
            if len(piece):
                size, smallest = sizes[0]
                shards[smallest].append(piece)
                heapq.heapreplace(sizes, (size + len(piece), smallest))
    filled = [np.concatenate(shard) for shard in shards if shard]
    return np.concatenate([random.permutation(filled[number]) for number in random.permutation(len(filled))])


def rank_draws(first_batch: int, rank: int, world: int, micro_batch: int) -> Iterator[list[int]]:
    """The draws of each micro-batch of a rank, without end, from its micro-batch number ``first_batch`` on."""
    batch = first_batch
    while True:
        start = (batch * world + rank) * micro_batch
        yield list(range(start, start + micro_batch))
        batch += 1


def _quotas(sizes: Sequence[int], weights: Sequence[float] | None) -> list[int]:
    """Draws per dataset in an epoch as long as all windows together; at least one each."""
    if weights is None:
        return list(sizes)
    if len(weights) != len(sizes) or not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise TrainingError(
            f"--dataset-weights: expected {len(sizes)} numbers above 0, one per dataset, found {list(weights)}: "
            "leave out a dataset that is not to be drawn"
        )
    total, whole = sum(sizes), sum(weights)
    return [max(1, round(total * weight / whole)) for weight in weights]
