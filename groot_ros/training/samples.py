"""Draws -> samples for the network: a map-style dataset for torch's DataLoader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

Sample = dict[str, Any]


class Samples(Dataset[Sample]):
    """Sample of a draw; depends on nothing but the draw's number and the seed.

    A sample is ``Processor.encode``'s with an action, and ``noise`` float32 [H, A] (or [N, H, A] with ``noise_draws``
    N > 1) and ``t`` float32 [] (or [N]) of the generation's distribution of times.
    """

    def __len__(self) -> int:
        """Draws of one epoch; larger draws are valid too."""
        raise NotImplementedError

    def __getitem__(self, draw: int) -> Sample:
        raise NotImplementedError

    def __getitems__(self, draws: Sequence[int]) -> list[Sample]:
        """Samples of a batch; what DataLoader calls with a batch sampler."""
        raise NotImplementedError

    def collate(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """``Processor.collate`` and ``noise`` [B, H, A] ([B, N, H, A]), ``t`` [B] ([B, N])."""
        raise NotImplementedError
