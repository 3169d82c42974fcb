"""Random checkpoints in NVIDIA's directory layout, so that everything runs without a download.

`tiny` has every mechanism of the released network (deepstack, M-RoPE, VL self-attention, alternating cross-attention)
in about two million parameters; `full` has the released sizes. Both are the same code with other numbers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groot_ros.model.checkpoint import CONFIG_NAME, write_json, write_weights
from groot_ros.model.config import CODE_DEFAULT_DIT, ModelConfig
from groot_ros.model.groot import GrootModel
from groot_ros.model.tokenizer import FIRST_SPECIAL_ID_QWEN, FIRST_SPECIAL_ID_TINY, special_ids, write_tokenizer
from groot_ros.processing.tags import complete_embodiment_ids

SIZES = ("tiny", "full")
# One shard in memory at a time. NVIDIA writes 5 GB ones; smaller ones keep the peak of this command low.
SHARD_BYTES = 1_500_000_000

_TINY_WIDTH = 64
_TINY_SIZES: dict[str, Any] = {
    "backbone_embedding_dim": _TINY_WIDTH,
    "select_layer": 4,
    "hidden_size": _TINY_WIDTH,
    "input_embedding_dim": _TINY_WIDTH,
    "max_seq_len": 128,
    "model_dtype": "float32",
    "diffusion_model_cfg": {
        **CODE_DEFAULT_DIT,
        "num_layers": 4,
        "num_attention_heads": 4,
        "attention_head_dim": 16,
        "output_dim": _TINY_WIDTH,
    },
    "vl_self_attention_cfg": {"num_layers": 2, "num_attention_heads": 4, "attention_head_dim": 16},
}
_FULL_SIZES: dict[str, Any] = {
    "backbone_embedding_dim": 2048,
    "select_layer": 16,
    "hidden_size": 1024,
    "input_embedding_dim": 1536,
    "max_seq_len": 1024,
    "model_dtype": "bfloat16",
    "diffusion_model_cfg": {**CODE_DEFAULT_DIT, "num_layers": 32},
    "vl_self_attention_cfg": {"num_layers": 4, "num_attention_heads": 32, "attention_head_dim": 64},
}
_TINY_BACKBONE: dict[str, Any] = {
    "tie_word_embeddings": True,
    "text_config": {
        "vocab_size": 512,
        "hidden_size": _TINY_WIDTH,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 128,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 4096,
        "attention_bias": False,
        "rope_theta": 5000000,
        "rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [4, 2, 2]},
    },
    "vision_config": {
        "depth": 4,
        "hidden_size": _TINY_WIDTH,
        "num_heads": 4,
        "intermediate_size": 128,
        "hidden_act": "gelu_pytorch_tanh",
        "in_channels": 3,
        "patch_size": 16,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "num_position_embeddings": 64,
        "out_hidden_size": _TINY_WIDTH,
        "deepstack_visual_indexes": [0, 1, 2],
    },
}

# Image edge in pixels, largest state and action width, chunk length, smallest image in pixels.
_PROCESSOR_SIZES = {
    "tiny": {"edge": 96, "dim": 64, "horizon": 16, "min_pixels": 1024},
    "full": {"edge": 256, "dim": 132, "horizon": 40, "min_pixels": 65536},
}
_MAX_PIXELS = 16777216
_CROP_FRACTION = 0.95


def default_processor_kwargs(modality_configs: Mapping[str, Mapping[str, Any]], size: str) -> dict[str, Any]:
    """`processor_kwargs` of processor_config.json, with the released values or those of the tiny network.

    Args:
        modality_configs: embodiment tag -> modality (`video`, `state`, `action`, `language`) -> settings as in
            processor_config.json.
        size: `tiny` or `full`.

    Raises:
        ValueError: unknown size, or a chunk longer than the network's horizon.
    """
    _check_choice("size", size, SIZES)
    sizes = _PROCESSOR_SIZES[size]
    horizons = {tag: len(config["action"]["delta_indices"]) for tag, config in modality_configs.items()}
    horizon = sizes["horizon"] if size == "full" else max([sizes["horizon"], *horizons.values()])
    for tag, steps in horizons.items():
        if steps > horizon:
            raise ValueError(f"the action of {tag} has {steps} delta_indices; the full network has {horizon} steps")
    edge = sizes["edge"]
    crop = round(edge * 230 / 256)
    return {
        "modality_configs": {tag: dict(config) for tag, config in modality_configs.items()},
        "image_crop_size": [crop, crop],
        "image_target_size": [edge, edge],
        "use_albumentations": True,
        "random_rotation_angle": None,
        "color_jitter_params": {"brightness": 0.3, "contrast": 0.4, "saturation": 0.5, "hue": 0.08},
        "shortest_image_edge": edge,
        "crop_fraction": _CROP_FRACTION,
        "letter_box_transform": False,
        "model_name": "nvidia/Cosmos-Reason2-2B",
        "model_type": "qwen",
        "formalize_language": True,
        "max_state_dim": sizes["dim"],
        "max_action_dim": sizes["dim"],
        "max_action_horizon": horizon,
        "use_percentiles": True,
        "use_mean_std": False,
        "clip_outliers": True,
        "apply_sincos_state_encoding": False,
        "use_relative_action": True,
        "exclude_state": False,
        "state_dropout_prob": 0.2,
    }


def make_checkpoint(
    directory: str | Path,
    *,
    generation: str,
    size: str,
    processor_kwargs: Mapping[str, Any],
    statistics: Mapping[str, Any],
    embodiment_ids: Mapping[str, int] | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Writes a random checkpoint: config.json, weights, processor files, statistics, embodiment ids and a tokenizer.

    The same seed gives the same weights, whatever else is written.

    Args:
        directory: made if it is not there.
        generation: `n1d7`.
        size: `tiny` or `full` (6.9 GB, bfloat16, written shard by shard).
        processor_kwargs: as `default_processor_kwargs` gives them; the network's state, action and history sizes
            follow them.
        statistics: content of statistics.json: tag -> `state`/`action`/`relative_action` -> group -> arrays.
        embodiment_ids: tag -> projector index; tags of NVIDIA's table that are not named are added.
        progress: called with the share of the weights that is written, 0 to 1.

    Raises:
        ValueError: unknown generation or size, or embodiments whose state histories differ.
        OSError: the directory cannot be written.
    """
    _check_choice("generation", generation, ("n1d7",))
    _check_choice("size", size, SIZES)
    config = _model_config(size, processor_kwargs)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    first_special = FIRST_SPECIAL_ID_TINY if size == "tiny" else FIRST_SPECIAL_ID_QWEN
    write_tokenizer(directory, first_special)
    write_json(directory / CONFIG_NAME, config.to_dict())
    document = {"processor_class": "Gr00tN1d7Processor", "processor_kwargs": processor_kwargs}
    write_json(directory / "processor_config.json", document)
    write_json(directory / "statistics.json", statistics)
    write_json(directory / "embodiment_id.json", complete_embodiment_ids(embodiment_ids or {}))
    write_json(
        directory / "preprocessor_config.json",
        {
            "size": {"shortest_edge": _PROCESSOR_SIZES[size]["min_pixels"], "longest_edge": _MAX_PIXELS},
            "patch_size": 16,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        },
    )
    _write_random_weights(directory, config, seed, progress)


def random_tensor(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """float32 values for the parameter `name`, depending on name, shape and seed alone.

    Products keep the size of what they act on (standard deviation fan_in^-0.5), norms start as identity, biases are
    small, and the modulation by time is weak: activations and actions stay of the order of one at any depth.
    """
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    values = torch.randn(shape, generator=generator)
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "weight" and len(shape) == 1:  # every one-dimensional weight is a norm's
        return values.mul_(0.02).add_(1.0)
    if leaf in ("bias", "b"):
        return values.mul_(0.02)
    if name.endswith(("embed_tokens.weight", "pos_embed.weight", "position_embedding.weight")):
        return values.mul_(0.5)
    fan_in = shape[1] if leaf == "W" else math.prod(shape[1:])
    gain = 0.2 if ".norm1.linear." in name or ".proj_out_1." in name else 1.0
    return values.mul_(gain * fan_in**-0.5)


def _model_config(size: str, processor_kwargs: Mapping[str, Any]) -> ModelConfig:
    """config.json for processor settings: the network's sizes, and the dimensions that processor and network share."""
    histories = {tag: len(c["state"]["delta_indices"]) for tag, c in processor_kwargs["modality_configs"].items()}
    if len(set(histories.values())) != 1:
        raise ValueError(f"the embodiments' state delta_indices differ in number: {histories}; one network has one")
    sizes = dict(_TINY_SIZES if size == "tiny" else _FULL_SIZES)
    refine = {**sizes.pop("vl_self_attention_cfg"), "dropout": 0.2, "final_dropout": True}
    values: dict[str, Any] = {
        **sizes,
        "model_type": "Gr00tN1d7",
        "architectures": ["Gr00tN1d7"],
        "backbone_model_type": "qwen",
        "model_name": processor_kwargs["model_name"],
        "vl_self_attention_cfg": {**refine, "positional_embeddings": None},
        "max_state_dim": processor_kwargs["max_state_dim"],
        "max_action_dim": processor_kwargs["max_action_dim"],
        "action_horizon": processor_kwargs["max_action_horizon"],
        "state_history_length": next(iter(histories.values())),
        "state_dropout_prob": processor_kwargs.get("state_dropout_prob", 0.0),
        "use_relative_action": processor_kwargs["use_relative_action"],
        "tune_llm": False,
        "tune_visual": False,
        "tune_projector": True,
        "tune_diffusion_model": True,
        "tune_vlln": True,
        "tune_top_llm_layers": 0,
    }
    if size == "tiny":
        ids = special_ids(FIRST_SPECIAL_ID_TINY)
        values["backbone_config"] = {
            "image_token_id": ids["<|image_pad|>"],
            "video_token_id": ids["<|video_pad|>"],
            "vision_start_token_id": ids["<|vision_start|>"],
            "vision_end_token_id": ids["<|vision_end|>"],
            **_TINY_BACKBONE,
        }
    return ModelConfig.from_dict(values)


def _write_random_weights(
    directory: Path, config: ModelConfig, seed: int, progress: Callable[[float], None] | None
) -> None:
    with torch.device("meta"):
        model = GrootModel(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = model.tied_parameters()
    dtype: torch.dtype = getattr(torch, config.model_dtype)
    sizes = {name: math.prod(shape) * dtype.itemsize for name, shape in shapes.items()}
    total, done = sum(sizes.values()), 0

    def tensor(name: str) -> Tensor:
        nonlocal done
        values = random_tensor(tied.get(name, name), shapes[name], seed).to(dtype)
        done += sizes[name]
        if progress is not None:
            progress(done / total)
        return values

    write_weights(directory, sizes, tensor, max_shard_bytes=SHARD_BYTES)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(choices)}")
