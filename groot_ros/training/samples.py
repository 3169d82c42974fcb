"""Draws -> samples for the network: a map-style dataset for torch's DataLoader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, get_worker_info

from groot_ros.model.action_head import FLOW
from groot_ros.model.config import ModelConfig
from groot_ros.processing.processor import Processor
from groot_ros.training.schedule import Schedule
from groot_ros.training.windows import Window, Windows

Sample = dict[str, Any]

# Each use of chance has a generator of its own, so that one of them can change without moving the others.
_NOISE, _AUGMENT, _STATE, _TASK = range(4)


class Samples(Dataset[Sample]):
    """Sample of a draw; depends on nothing but the draw's number and the seed: not on workers, ranks, or a resume.

    A sample is ``Processor.encode``'s with an action, and ``noise`` float32 [H, A] and ``t`` float32 [] of the
    generation's distribution of times; with ``noise_draws`` N > 1 they are [N, H, A] and [N].
    """

    def __init__(
        self,
        windows: Windows,
        schedule: Schedule,
        processor: Processor,
        config: ModelConfig,
        *,
        seed: int = 42,
        augment: bool = True,
        state_dropout: float = 0.0,
        noise_draws: int = 1,
    ) -> None:
        """
        Args:
            config: of the network, for the sizes of the noise and the distribution of times.
            augment: training's image transforms; False: those of evaluation.
            state_dropout: share of samples whose state is zeros, as N1.7's processor makes them.
            noise_draws: noises and times per sample.
        """
        self.windows, self.schedule, self.processor = windows, schedule, processor
        self._seed, self._augment, self._state_dropout = seed, augment, state_dropout
        self._noise_shape = (noise_draws, config.action_horizon, config.max_action_dim)
        self._beta = config.noise_beta_alpha, config.noise_beta_beta
        self._noise_s, self._time = config.noise_s, FLOW[config.generation].time

    def __len__(self) -> int:
        """Draws of one epoch; larger draws are valid too."""
        return self.schedule.epoch_length

    def __getitem__(self, draw: int) -> Sample:
        return self._sample(draw, self._window(draw))

    def __getitems__(self, draws: Sequence[int]) -> list[Sample]:
        """Samples of a batch, which are decoded in the order of the videos; what DataLoader calls for a batch."""
        if get_worker_info() is not None:
            cv2.setNumThreads(0)  # a worker has one core
        windows = [self._window(draw) for draw in draws]
        samples: list[Sample] = [{}] * len(draws)
        for place in sorted(range(len(draws)), key=windows.__getitem__):
            samples[place] = self._sample(draws[place], windows[place])
        return samples

    def collate(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """``Processor.collate``, and ``noise`` float32 [B, H, A], ``t`` float32 [B] ([B, N, H, A], [B, N])."""
        batch = self.processor.collate(samples)
        return batch | {name: torch.from_numpy(np.stack([s[name] for s in samples])) for name in ("noise", "t")}

    def _window(self, draw: int) -> Window:
        # A window's number in its episode is the row that it begins in.
        return self.schedule.window(draw)

    def _sample(self, draw: int, window: Window) -> Sample:
        raw = self.windows.raw(window, self._random(draw, _TASK) if self.windows.chooses else None)
        augment = self._random(draw, _AUGMENT) if self._augment else None
        sample = self.processor.encode(raw.video, raw.state, raw.instruction, raw.action, augment)
        if self._state_dropout > 0 and self._random(draw, _STATE).random() < self._state_dropout:
            sample["state"] = np.zeros_like(sample["state"])
        sample["noise"], sample["t"] = self._noise(draw)
        return sample

    def _noise(self, draw: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        random = self._random(draw, _NOISE)
        noise = random.standard_normal(self._noise_shape, dtype=np.float32)
        beta = torch.from_numpy(random.beta(*self._beta, size=len(noise)))
        times = self._time(beta, self._noise_s).numpy().astype(np.float32)
        return (noise[0], times[0]) if len(noise) == 1 else (noise, times)

    def _random(self, draw: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, draw, purpose])
