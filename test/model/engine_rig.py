"""Small random networks of each generation, observations for them, and engines to compare with them."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from tape import TapeRecorder
from torch import Tensor

from groot_ros.model.engine import Engine, EngineOptions
from groot_ros.model.groot import GrootModel
from groot_ros.model.make_checkpoint import random_tensor
from groot_ros.model.random_networks import default_processor_kwargs, network_config

GENERATIONS = ("n1d5", "n1d6", "n1d7")
EMBODIMENT = 10
# Patches per picture that the small towers take; SigLIP2 and Qwen take any size.
GRIDS = {"n1d5": (1, 4, 4), "n1d6": (1, 4, 6), "n1d7": (1, 6, 6)}
WORDS = (8, 9, 10, 11, 12, 13)


def network(generation: str, seed: int = 0) -> GrootModel:
    """A tiny network with all that the generation has; the seed gives its weights."""
    action = {"delta_indices": list(range(16)), "modality_keys": ["x"]}
    one = {"delta_indices": [0], "modality_keys": ["x"]}
    configs = {"tag": {"state": one, "action": action, "video": one}}
    model = GrootModel(network_config(generation, "tiny", default_processor_kwargs(configs, "tiny", generation)))
    values = partial(random_tensor, seed=seed)
    for name, parameter in model.named_parameters():
        parameter.data = values(name, tuple(parameter.shape))
    return model.eval()


def observation(
    model: GrootModel, *, pictures: int = 2, words: int = 6, seed: int = 0, grid: tuple[int, int, int] | None = None
) -> dict[str, Tensor]:
    """The model's inputs: so many pictures, and words behind and between them."""
    generator = torch.Generator().manual_seed(seed)
    backbone, config = model.backbone, model.config
    grid = grid or GRIDS[config.generation]
    patches = grid[1] * grid[2]
    ids = [5, 6]
    for _ in range(pictures):
        ids += [backbone.image_token_id] * (patches // backbone.merge**2) + [7]
    ids += [WORDS[(seed + i) % len(WORDS)] for i in range(words)]
    return {
        "input_ids": torch.tensor([ids]),
        "attention_mask": torch.ones(1, len(ids), dtype=torch.int64),
        "pixel_values": torch.randn(pictures * patches, backbone.patch_values, generator=generator),
        "image_grid_thw": torch.tensor([grid] * pictures),
        "state": torch.randn(1, config.state_history_length, config.max_state_dim, generator=generator),
        "embodiment_id": torch.tensor([EMBODIMENT]),
    }


def noise_for(model: GrootModel, seed: int = 0) -> Tensor:
    """[1,H,A]."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randn(1, model.config.action_horizon, model.config.max_action_dim, generator=generator)


def recorded(model: GrootModel, **options: Any) -> Engine:
    """An engine whose programs go on a tape; every complaint is a failure."""
    return Engine(
        model, EMBODIMENT, EngineOptions(pack=False, text_bucket=8, **options), recorder=TapeRecorder(), log=pytest.fail
    )


def same(engine: Engine, plain: GrootModel, inputs: dict[str, Tensor], seed: int = 0, **continuation: Any) -> None:
    """The engine gives what the plain network gives."""
    expected = plain.sample(inputs, noise_for(plain, seed), **continuation)
    got = engine.sample(inputs, noise_for(plain, seed), **continuation)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
