"""A random network made where it runs: no file, no download, and no second copy on the way."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from groot_ros.model.action_head import ActionHead
from groot_ros.model.config import ModelConfig
from groot_ros.model.groot import GrootModel
from groot_ros.model.random_networks import default_processor_kwargs, network_config, random_moments

# Settings of a robot that say nothing but that there is one, for networks whose processor is not asked.
_NO_ROBOT: dict[str, dict[str, Any]] = {
    name: {"delta_indices": [0], "modality_keys": ["key"]} for name in ("video", "state", "action", "language")
}


def random_model(config: ModelConfig, dtype: torch.dtype, device: torch.device, seed: int) -> GrootModel:
    """The network of `config` with random weights and without the parameters that are never read, in eval mode.

    The same seed gives the same weights on the same kind of device.
    """
    with torch.device("meta"):
        model = GrootModel(config)
    tied = model.tied_parameters()
    for name in model.unused_parameters() - set(tied):
        _put(model, name, None)
    _fill(model, dtype, device, seed)
    for name, source in tied.items():
        _put(model, name, model.get_parameter(source))
    return model.eval()


def random_head(config: ModelConfig, dtype: torch.dtype, device: torch.device, seed: int) -> ActionHead:
    """The action head of `config` alone, with random weights, in eval mode."""
    with torch.device("meta"):
        head = ActionHead(config)
    _fill(head, dtype, device, seed)
    return head.eval()


def head_config(generation: str, size: str, layers: int | None = None) -> ModelConfig:
    """The config of a generation at a size, with so many layers of the DiT; None: its own number.

    Raises:
        ValueError: there is no such generation or size, or no layer.
    """
    config = network_config(generation, size, default_processor_kwargs({"robot": _NO_ROBOT}, size, generation))
    if layers is None:
        return config
    if layers < 1:
        raise ValueError(f"layers is {layers}, expected at least 1")
    return dataclasses.replace(config, diffusion_model_cfg={**config.diffusion_model_cfg, "num_layers": layers})


def parameter_count(module: nn.Module) -> int:
    """Numbers in the parameters; what two names share counts once."""
    return sum(parameter.numel() for parameter in module.parameters())


def weight_bytes(module: nn.Module) -> int:
    """Bytes of the parameters; what two names share counts once."""
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


@torch.no_grad()
def _fill(module: nn.Module, dtype: torch.dtype, device: torch.device, seed: int) -> None:
    """Gives every parameter of a module on `meta` memory and values; a parameter of two names stays one."""
    generator = torch.Generator(device).manual_seed(seed)
    made: dict[int, nn.Parameter] = {}
    for name, parameter in list(module.named_parameters(remove_duplicate=False)):
        if id(parameter) not in made:
            mean, deviation = random_moments(name, parameter.shape)
            values = torch.empty(parameter.shape, dtype=dtype, device=device)
            values.normal_(mean, deviation, generator=generator)
            made[id(parameter)] = nn.Parameter(values, requires_grad=False)
        _put(module, name, made[id(parameter)])


def _put(module: nn.Module, name: str, value: nn.Parameter | None) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(owner), leaf, value)
