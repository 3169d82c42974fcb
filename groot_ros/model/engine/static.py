"""A program with buffers of its own, recorded once and replayed for every chunk."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from groot_ros.model.config import ModelConfig
from groot_ros.model.engine.graphs import Recorder
from groot_ros.model.engine.head import ChunkBuffers, GuidanceBuffers
from groot_ros.model.engine.prompt import PromptBuffers
from groot_ros.model.engine.staging import PinnedCopy
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
        pull = self._chunk.guidance
        assert self._chunk.strength is not None and pull is not None
        continuing = {
            "strength": self._chunk.strength,
            "previous": pull.previous,
            "weights": pull.weights,
            "factors": pull.factors,
        }
        self._neutral, self._nothing = True, {name: buffer.to("cpu", copy=True) for name, buffer in continuing.items()}
        always = {"pixel_values": self._chunk.pixel_values, "state": self._chunk.state, "noise": self._chunk.noise}
        self._copy = PinnedCopy({**always, **continuing})
        mine, buffers = self._prompt, self._chunk  # not by way of self, which the recording would then keep alive
        self._replay = recorder.record(lambda: run(mine, buffers, views))

    def __call__(self, prompt: PromptBuffers, chunk: ChunkBuffers) -> Tensor:
        """Actions float32 [1,H,A]: the one output tensor, good until the next call.

        Args:
            prompt: of this length; its buffers are copied where it is another than the last one.
            chunk: on any device; what is None changes nothing.
        """
        if prompt is not self._loaded:
            self._prompt.copy_(prompt)
            self._loaded = prompt
        values = {"pixel_values": chunk.pixel_values, "state": chunk.state, "noise": chunk.noise}
        neutral = chunk.strength is None and chunk.guidance is None
        if not (neutral and self._neutral):  # what is neutral already stays as it is
            values.update(self._continuation(chunk))
        self._neutral = neutral
        self._copy(values)
        return self._replay()

    def _continuation(self, chunk: ChunkBuffers) -> dict[str, Tensor]:
        """What in-painting and guidance put into their buffers, and neutral values where there is none."""
        values = dict(self._nothing)
        if chunk.strength is not None:
            values["strength"] = chunk.strength
        if chunk.guidance is not None:
            pull = chunk.guidance
            weights = pull.weights.expand(values["weights"].shape)
            values.update(previous=pull.previous, weights=weights, factors=pull.factors)
        return values
