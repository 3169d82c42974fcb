"""Low-rank adapters through peft: put in, merged for the policy, saved and loaded for resuming."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groot_ros.model.groot import GrootModel
from groot_ros.training.errors import TrainingError
from groot_ros.training.flags import FinetuneFlags

# The layers that N1.5's finetuning adapts: queries, keys and values of every attention; N1.7's vision tower has them in
# one.
_TARGETS = ("q_proj", "k_proj", "v_proj", "to_q", "to_k", "to_v", "qkv")
ADAPTER_FILE, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"


def add_adapters(model: GrootModel, flags: FinetuneFlags) -> None:
    """Puts adapters in and freezes what they stand for.

    Trained are the adapters and, unless `--no-tune-projector`, the projector as a whole: a new robot's is random. The
    reference (N1.5) freezes the projector too.

    Raises:
        TrainingError: flags that contradict each other.
    """
    from peft import LoraConfig, inject_adapter_in_model

    for name, on in (("--tune-llm", flags.tune_llm), ("--tune-visual", flags.tune_visual)):
        if on:
            raise TrainingError(f"{name} with --lora-rank: whole layers or adapters; for adapters: --lora-full-model")
    head = model.action_head
    targets = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and name.rsplit(".", 1)[-1] in _TARGETS
        and (flags.lora_full_model or name.startswith("action_head."))
    ]
    config = LoraConfig(
        r=flags.lora_rank,
        lora_alpha=flags.lora_alpha,
        lora_dropout=flags.lora_dropout,
        target_modules=targets,
        bias="none",
    )
    inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
    if flags.tune_projector:
        parts: list[nn.Module] = [head.state_encoder, head.action_encoder, head.action_decoder]
        parts += [head.position_embedding] if model.config.add_pos_embed else []
        for part in parts:
            part.requires_grad_(True)
        if hasattr(head, "mask_token"):
            head.mask_token.requires_grad_(True)


def has_adapters(model: nn.Module) -> bool:
    """Whether `add_adapters` was there."""
    return any(".lora_" in name for name, _ in model.named_parameters())


def merged(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a model with adapters under the names of one without, adapters added to what they adapt."""
    from peft.tuners.lora import LoraLayer

    deltas: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, LoraLayer):
                layer: Any = module
                deltas[f"{name}.weight"] = layer.get_delta_weight("default")
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if ".lora_" in name:
            continue
        plain = name.replace(".base_layer.", ".")
        delta = deltas.get(plain)
        result[plain] = tensor if delta is None else (tensor.float() + delta.to(tensor.device).float()).to(tensor.dtype)
    return result


def save_adapters(model: Any, directory: Path) -> None:
    """Writes peft's two files."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in get_peft_model_state_dict(model).items()}
    save_file(state, directory / ADAPTER_FILE, metadata={"format": "pt"})
    config = model.peft_config["default"].to_dict()
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    (directory / ADAPTER_CONFIG).write_text(json.dumps(plain, indent=2, default=str) + "\n", encoding="utf-8")


def load_adapters(model: Any, directory: Path) -> None:
    """Reads what `save_adapters` wrote.

    Raises:
        TrainingError: no such file, or adapters of other layers.
    """
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    path = directory / ADAPTER_FILE
    if not path.is_file():
        raise TrainingError(f"{path} is missing: {directory} was not written by a run with --lora-rank")
    found: Any = set_peft_model_state_dict(model, load_file(path))
    lacking = [name for name in found.missing_keys if ".lora_" in name]
    if lacking or found.unexpected_keys:
        raise TrainingError(
            f"{path}: adapters of other layers; lacking {lacking[:3]}, not known {found.unexpected_keys[:3]}"
        )
