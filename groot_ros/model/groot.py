"""The whole GR00T network: a backbone and an action head, chosen by the checkpoint's generation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from groot_ros.model.action_head import ActionHead, LossOutput, RtcOptions
from groot_ros.model.backbone import Backbone
from groot_ros.model.config import ModelConfig
from groot_ros.model.cosmos import CosmosBackbone
from groot_ros.model.eagle import EagleBackbone
from groot_ros.model.guidance import Guidance


@dataclass(frozen=True)
class GenerationParts:
    """How one generation builds its backbone and its head from its config."""

    backbone: Callable[[ModelConfig], Backbone]
    action_head: Callable[[ModelConfig], ActionHead]


GENERATIONS: dict[str, GenerationParts] = {
    "n1d7": GenerationParts(CosmosBackbone, ActionHead),
    "n1d6": GenerationParts(EagleBackbone, ActionHead),
    "n1d5": GenerationParts(EagleBackbone, ActionHead),
}

INTEGER_INPUTS = ("input_ids", "attention_mask", "image_grid_thw", "embodiment_id")
INFERENCE_INPUTS = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw", "state", "embodiment_id")
TRAINING_INPUTS = (*INFERENCE_INPUTS, "action", "action_mask")


class GrootModel(nn.Module):
    """Images, prompt, state and embodiment -> normalised actions.

    Every method takes `inputs`, a dict of tensors on any device, moved to the model's:

    | key | shape, dtype |
    |---|---|
    | input_ids | int64 [B,L] |
    | attention_mask | [B,L], 1 on real tokens; padding on the left |
    | pixel_values | float [patches, values], all images in batch order; order and size of a patch are its backbone's |
    | image_grid_thw | int64 [images,3]: 1, rows, columns, in patches |
    | state | float [B,history,S], normalised and padded |
    | embodiment_id | int64 [B] |
    | action, action_mask | float [B,H,A], for the loss only |
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        parts = GENERATIONS[config.generation]
        self.config = config
        self.backbone = parts.backbone(config)
        self.action_head = parts.action_head(config)
        self.released = ""
        """What took the weights, once they are not all here any more."""

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the action head, in which states and actions are computed."""
        return next(self.action_head.parameters()).dtype

    def tied_parameters(self) -> dict[str, str]:
        """Names of state-dict entries that are another parameter, and that parameter's name. Files may lack them."""
        return {f"backbone.{name}": f"backbone.{source}" for name, source in self.backbone.tied_parameters().items()}

    def unused_parameters(self) -> set[str]:
        """Names of state-dict entries that are never read. Files may lack them."""
        return {f"backbone.{name}" for name in self.backbone.unused_parameters()}

    def optional_parameters(self) -> set[str]:
        """Names of state-dict entries that files may lack, beside the tied ones."""
        own = dict(self.named_parameters())
        return self.unused_parameters() | {name for name in ("action_head.mask_token",) if name in own}

    @property
    def max_prompt_tokens(self) -> int:
        """The longest prompt, image tokens included, that the language model has positions for."""
        return self.backbone.max_prompt_tokens

    def forward(self, inputs: dict[str, Tensor]) -> LossOutput:
        """The training loss; what trainers call."""
        return self.loss(inputs)

    def loss(self, inputs: dict[str, Tensor], noise: Tensor | None = None, t: Tensor | None = None) -> LossOutput:
        """Flow-matching loss on `inputs["action"]`.

        Args:
            inputs: see the class.
            noise: float [B,H,A], drawn when None; [B,K,H,A]: K draws per sample, for which the backbone runs once.
            t: float [B] (with K draws [B,K]) in [0,1), drawn when None.

        Raises:
            ValueError: an input is missing or of the wrong shape; the message names it.
        """
        # Where only some of the head is trained, and so float32, the rest must not round states, actions and noise.
        mixed = any(parameter.dtype == torch.float32 for parameter in self.action_head.parameters())
        inputs = self.prepare(inputs, TRAINING_INPUTS, torch.float32 if mixed else None)
        _check_draws(inputs["action"], noise, t)
        return self.action_head.loss(self.backbone(inputs), inputs, noise, t)

    @torch.no_grad()
    def sample(
        self,
        inputs: dict[str, Tensor],
        noise: Tensor | None = None,
        num_steps: int | None = None,
        rtc: RtcOptions | None = None,
        generator: torch.Generator | None = None,
        guidance: Guidance | None = None,
    ) -> Tensor:
        """Actions, normalised and padded, float32 [B,H,A].

        Args:
            inputs: see the class.
            noise: float [B,H,A], where the integration starts; drawn from `generator` when None.
            num_steps: Euler steps; None: the config's `num_inference_timesteps`.
            rtc: in-painting of the previous chunk.
            guidance: a pull towards the previous chunk, torch or numpy; not together with `rtc`.

        Raises:
            ValueError: an input is missing or of the wrong shape; the message names it.
        """
        inputs = self.prepare(inputs, INFERENCE_INPUTS)
        actions = self.action_head.sample(
            self.backbone(inputs),
            inputs,
            noise=noise,
            num_steps=num_steps,
            rtc=rtc,
            guidance=guidance,
            generator=generator,
        )
        return actions.float()

    def prepare(
        self, inputs: dict[str, Tensor], required: Sequence[str], dtype: torch.dtype | None = None
    ) -> dict[str, Tensor]:
        """The required inputs, checked against the config, on the model's device and in `dtype`; None: in its own."""
        if self.released:
            raise RuntimeError(f"this model's weights are gone: {self.released}; load the checkpoint again")
        check_inputs(inputs, required, self.config, self.max_prompt_tokens)
        device, dtype = self.device, dtype or self.dtype
        return {
            key: inputs[key].to(device) if key in INTEGER_INPUTS else inputs[key].to(device, dtype) for key in required
        }


def check_inputs(inputs: Mapping[str, Tensor], required: Sequence[str], config: ModelConfig, max_tokens: int) -> None:
    """ValueError unless the required inputs are there and fit to the config; the message names the one that does not.

    Args:
        inputs: see `GrootModel`.
        required: their keys.
        max_tokens: longest prompt that the language model takes.
    """
    missing = [key for key in required if key not in inputs]
    if missing:
        raise ValueError(f"the model's inputs lack {', '.join(missing)}; they hold {', '.join(sorted(inputs))}")
    batch = inputs["input_ids"].shape[0]
    shapes: dict[str, tuple[int, ...]] = {
        "attention_mask": tuple(inputs["input_ids"].shape),
        "state": (batch, config.state_history_length, config.max_state_dim),
        "embodiment_id": (batch,),
        "action": (batch, config.action_horizon, config.max_action_dim),
        "action_mask": (batch, config.action_horizon, config.max_action_dim),
    }
    for key in required:
        if key in shapes and tuple(inputs[key].shape) != shapes[key]:
            raise ValueError(f"input {key} has shape {tuple(inputs[key].shape)}, expected {shapes[key]}")
    if inputs["input_ids"].shape[1] > max_tokens:
        raise ValueError(
            f"input input_ids has {inputs['input_ids'].shape[1]} tokens per prompt, expected at most "
            f"{max_tokens}, the positions that the language model has"
        )
    ids = inputs["embodiment_id"]
    if bool(((ids < 0) | (ids >= config.max_num_embodiments)).any()):
        raise ValueError(f"input embodiment_id is {ids.tolist()}, expected 0..{config.max_num_embodiments - 1}")


def _check_draws(action: Tensor, noise: Tensor | None, t: Tensor | None) -> None:
    """ValueError unless noise and times are those of `action` [B,H,A]."""
    batch, horizon, width = action.shape
    expected: tuple[int, ...] = (batch,)
    if noise is not None:
        if noise.ndim not in (3, 4) or (noise.shape[0], *noise.shape[-2:]) != (batch, horizon, width):
            raise ValueError(
                f"noise has shape {tuple(noise.shape)}, expected {(batch, horizon, width)}, or with K draws per "
                f"sample ({batch}, K, {horizon}, {width})"
            )
        expected = tuple(noise.shape[:-2])
    if t is not None and tuple(t.shape) != expected:
        raise ValueError(f"t has shape {tuple(t.shape)}, expected {expected}")
