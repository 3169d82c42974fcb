"""Which window the n-th draw of a training run is: a function of the draw's number alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


class Schedule:
    """Windows in a seeded order, the same for any number of ranks and workers.

    Batch ``b`` of rank ``r`` of ``W`` with micro-batches of ``B`` are the draws ``(b * W + r) * B`` and the ``B - 1``
    after it (``rank_draws``). One dataset: every window exactly once per epoch.
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
            episode_windows: per dataset, per episode: how many windows it has.
            weights: share of draws per dataset, in any unit; None: as many as it has windows.
        """
        raise NotImplementedError

    @property
    def epoch_length(self) -> int:
        """Windows of all datasets."""
        raise NotImplementedError

    def window(self, draw: int) -> tuple[int, int, int]:
        """(dataset, episode, window of the episode) of a draw >= 0."""
        raise NotImplementedError


def rank_draws(first_batch: int, rank: int, world: int, micro_batch: int) -> Iterator[list[int]]:
    """The draws of each micro-batch of a rank, without end, from micro-batch number ``first_batch`` on."""
    raise NotImplementedError
