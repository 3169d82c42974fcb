"""What a caller gives the engine, checked and brought into the form of its buffers. All of it on the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from groot_ros.model.action_head import RtcOptions, checked_guidance, inpainted
from groot_ros.model.backbone import Backbone
from groot_ros.model.config import ModelConfig
from groot_ros.model.engine.head import ChunkBuffers, GuidanceBuffers, guidance_factors
from groot_ros.model.groot import INFERENCE_INPUTS, check_inputs
from groot_ros.model.guidance import Guidance
from groot_ros.model.positions import Grid


@dataclass(frozen=True)
class Limits:
    """What inputs are checked against."""

    config: ModelConfig
    embodiment_id: int
    max_prompt_tokens: int


def check_observation(inputs: Mapping[str, Tensor], limits: Limits, backbone: Backbone) -> tuple[Grid, ...]:
    """The sizes of the pictures.

    Raises:
        ValueError: what `GrootModel.sample` refuses; more than one sample, a padded prompt, or another embodiment than
            the engine is made for.
    """
    check_inputs(inputs, INFERENCE_INPUTS, limits.config, limits.max_prompt_tokens)
    grids = tuple(backbone.read_grids(inputs))
    check_prompt(inputs["input_ids"], grids, limits)
    if not bool((inputs["attention_mask"] == 1).all()):
        raise ValueError("input attention_mask marks padding; the engine takes one prompt, which needs none")
    embodiment = int(inputs["embodiment_id"])
    if embodiment != limits.embodiment_id:
        raise ValueError(
            f"input embodiment_id is {embodiment}, but the engine is made for {limits.embodiment_id}; load the "
            "checkpoint for that robot"
        )
    return grids


def check_prompt(input_ids: Tensor, grids: Sequence[Grid], limits: Limits) -> None:
    """ValueError unless this is one prompt that the model has positions for, with at least one picture."""
    shape = tuple(input_ids.shape)
    if len(shape) != 2 or shape[0] != 1 or shape[1] == 0:
        raise ValueError(f"input input_ids has shape {shape}, expected (1, tokens): one prompt, that of one robot")
    if shape[1] > limits.max_prompt_tokens:
        raise ValueError(f"input input_ids has {shape[1]} tokens, expected at most {limits.max_prompt_tokens}")
    if not grids:
        raise ValueError("image_grid_thw is empty: the model needs at least one image")
    if any(min(grid) < 1 for grid in grids):
        raise ValueError(f"image_grid_thw is {[list(grid) for grid in grids]}, expected numbers from 1 on")


def chunk_inputs(
    inputs: Mapping[str, Tensor],
    noise: Tensor | None,
    rtc: RtcOptions | None,
    guidance: Guidance | None,
    generator: torch.Generator | None,
    *,
    config: ModelConfig,
    steps: int,
    dtype: torch.dtype,
) -> ChunkBuffers:
    """The tensors of one chunk in `dtype`, on the devices on which they came; what is not asked for is None.

    Raises:
        ValueError: as `GrootModel.sample`.
    """
    if rtc is not None and guidance is not None:
        raise ValueError("rtc and guidance are two ways to continue the previous chunk: give one of them")
    shape = (1, config.action_horizon, config.max_action_dim)
    if noise is None:
        noise = torch.randn(shape, generator=generator, device=None if generator is None else generator.device)
    elif tuple(noise.shape) != shape:
        raise ValueError(f"noise has shape {tuple(noise.shape)}, expected {shape}")
    chunk = ChunkBuffers(inputs["pixel_values"], inputs["state"], noise.to(dtype))
    if rtc is not None:
        chunk.noise, chunk.strength = inpainted(chunk.noise, rtc)
    if guidance is not None:
        if guidance.beta is not None and not guidance.beta > 0:
            raise ValueError(f"guidance.beta is {guidance.beta}, expected more than 0")
        checked = checked_guidance(chunk.noise, guidance)
        weights = checked.weights[:, None] if checked.weights.ndim == 1 else checked.weights
        factors = guidance_factors(steps, guidance.beta)
        chunk.guidance = GuidanceBuffers(checked.previous.expand(shape), weights, factors)
    return chunk
