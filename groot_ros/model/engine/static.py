"""A program with buffers of its own, recorded once and replayed for every chunk."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from groot_ros.model.config import ModelConfig
from groot_ros.model.engine.graphs import Recorder
from groot_ros.model.engine.head import ChunkBuffers, GuidanceBuffers
from groot_ros.model.engine.prompt import PromptBuffers
from groot_ros.model.engine.vision import Views

Run = Callable[[PromptBuffers, ChunkBuffers, Views], Tensor]


class StaticProgram:
    """The program for one set of picture sizes and one length of prompt.

    Making it records it, which takes about a second; it may be made in another thread than the one that runs others.

    Args:
        run: the program.
        views: of the picture sizes.
        prompt: the first prompt of this length.
        config: of the model.
        steps: Euler steps.
        patches: shape of `pixel_values`.
        dtype: of the model.
        recorder: what records it.

    Raises:
        CaptureError: it cannot be recorded.
    """

    def __init__(
        self,
        run: Run,
        views: Views,
        prompt: PromptBuffers,
        *,
        config: ModelConfig,
        steps: int,
        patches: tuple[int, int],
        dtype: torch.dtype,
        recorder: Recorder,
    ) -> None:
        device = prompt.words.device
        horizon, width = config.action_horizon, config.max_action_dim

        def zeros(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.zeros(shape, device=device, dtype=dtype)

        self._prompt, self._loaded = prompt.clone(), prompt
        self._chunk = ChunkBuffers(
            pixel_values=zeros(*patches),
            state=zeros(1, config.state_history_length, config.max_state_dim),
            noise=zeros(1, horizon, width),
            strength=torch.ones(horizon, 1, device=device, dtype=dtype),
            guidance=GuidanceBuffers(
                zeros(1, horizon, width), zeros(horizon, width), zeros(steps, dtype=torch.float32)
            ),
        )
        self._neutral = True
        self._replay = recorder.record(lambda: run(self._prompt, self._chunk, views))

    def __call__(self, prompt: PromptBuffers, chunk: ChunkBuffers) -> Tensor:
        """Actions float32 [1,H,A]: the one output tensor, good until the next call.

        Args:
            prompt: of this length; its buffers are copied where it is another than the last one.
            chunk: on any device; what is None changes nothing.
        """
        if prompt is not self._loaded:
            self._prompt.copy_(prompt)
            self._loaded = prompt
        mine = self._chunk
        for name in ("pixel_values", "state", "noise"):
            getattr(mine, name).copy_(getattr(chunk, name), non_blocking=True)
        self._continue(chunk)
        return self._replay()

    def _continue(self, chunk: ChunkBuffers) -> None:
        """The buffers of in-painting and guidance; all neutral, and left so, where there is none."""
        neutral = chunk.strength is None and chunk.guidance is None
        if neutral and self._neutral:
            return
        self._neutral = neutral
        mine, pull = self._chunk, chunk.guidance
        assert mine.strength is not None and mine.guidance is not None
        for buffer, value, otherwise in (
            (mine.strength, chunk.strength, 1.0),
            (mine.guidance.previous, None if pull is None else pull.previous, 0.0),
            (mine.guidance.weights, None if pull is None else pull.weights, 0.0),
            (mine.guidance.factors, None if pull is None else pull.factors, 0.0),
        ):
            if value is None:
                buffer.fill_(otherwise)
            else:
                buffer.copy_(value.expand(buffer.shape), non_blocking=True)
