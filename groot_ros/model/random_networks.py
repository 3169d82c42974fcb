"""Sizes of random checkpoints: the released networks, tiny ones with every mechanism of them, and one that learns.

`full` is the released network. `tiny` has everything in it, as small as it goes, for trying out what surrounds a model.
`demo` (N1.7 only) is for training from nothing on a CPU: one more shape of the same network, whose start is chosen so
that it learns within minutes (see `make_checkpoint.trainable_tensor`).

The released values are those of NVIDIA's config.json and processor_config.json (spec groot_n15_n16.md, 1.1, 1.2 and 4;
groot_n17.md, 1.2 and 4).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

from groot_ros.model.config import CODE_DEFAULT_DIT, ModelConfig
from groot_ros.model.tokenizer import FIRST_SPECIAL_ID_TINY, special_ids

SIZES = ("tiny", "demo", "full")

_WIDTH = 64
_TINY_EDGE = {"n1d5": 56, "n1d6": 64, "n1d7": 96}  # pixels
_DEMO_EDGE, _DEMO_PATCH, _DEMO_VISION_WIDTH = 64, 8, 32

# Keys of `ModelConfig` by size, then what a generation has otherwise.
_NETWORK: dict[str, dict[str, Any]] = {
    "tiny": {
        "backbone_embedding_dim": _WIDTH,
        "select_layer": 4,
        "hidden_size": _WIDTH,
        "input_embedding_dim": _WIDTH,
        "max_seq_len": 128,
        "model_dtype": "float32",
        "diffusion_model_cfg": {
            **CODE_DEFAULT_DIT,
            "num_layers": 4,
            "num_attention_heads": 4,
            "attention_head_dim": 16,
            "output_dim": _WIDTH,
        },
    },
    "full": {
        "backbone_embedding_dim": 2048,
        "select_layer": 16,
        "hidden_size": 1024,
        "input_embedding_dim": 1536,
        "max_seq_len": 1024,
        "model_dtype": "bfloat16",
        "diffusion_model_cfg": {**CODE_DEFAULT_DIT, "num_layers": 32},
    },
}
_NETWORK["demo"] = {
    **_NETWORK["tiny"],
    "select_layer": 2,
    "max_seq_len": 64,
    "diffusion_model_cfg": {**_NETWORK["tiny"]["diffusion_model_cfg"], "dropout": 0.0},
}
_REFINER = {"dropout": 0.2, "final_dropout": True, "positional_embeddings": None}
_TINY_REFINER = {"num_layers": 2, "num_attention_heads": 4, "attention_head_dim": 16, **_REFINER}
_FULL_REFINER = {"num_layers": 4, "num_attention_heads": 32, "attention_head_dim": 64, **_REFINER}
_OWN: dict[tuple[str, str], dict[str, Any]] = {
    ("n1d7", "tiny"): {"vl_self_attention_cfg": _TINY_REFINER},
    ("n1d7", "demo"): {"vl_self_attention_cfg": {**_TINY_REFINER, "num_layers": 1, "dropout": 0.0}},
    ("n1d7", "full"): {"vl_self_attention_cfg": _FULL_REFINER},
    ("n1d6", "tiny"): {},
    ("n1d6", "full"): {},
    ("n1d5", "tiny"): {
        "vl_self_attention_cfg": _TINY_REFINER,
        "use_alternate_vl_dit": False,
        "num_target_vision_tokens": 8,
        "diffusion_model_cfg": {**_NETWORK["tiny"]["diffusion_model_cfg"], "cross_attention_dim": _WIDTH},
    },
    ("n1d5", "full"): {
        "vl_self_attention_cfg": _FULL_REFINER,
        "use_alternate_vl_dit": False,
        "num_target_vision_tokens": 32,
        "select_layer": 12,
        "model_dtype": "float32",  # the head's own word; the files are bfloat16
        "diffusion_model_cfg": {**CODE_DEFAULT_DIT, "num_layers": 16, "cross_attention_dim": 2048},
    },
}
_NAMES: dict[str, dict[str, Any]] = {
    "n1d7": {"model_type": "Gr00tN1d7", "architectures": ["Gr00tN1d7"], "model_name": "nvidia/Cosmos-Reason2-2B"},
    "n1d6": {"model_type": "Gr00tN1d6", "architectures": ["Gr00tN1d6"], "model_name": "nvidia/Eagle-Block2A-2B-v2"},
    "n1d5": {
        "model_type": "gr00t_n1_5",
        "architectures": ["GR00T_N1_5"],
        "model_name": "NVEagle/eagle_er-qwen3_1_7B-Siglip2_400M_stage1_5_128gpu_er_v7_1mlp_nops",
    },
}
GENERATIONS = tuple(sorted(_NAMES))
# Keys that say nothing about the network, which NVIDIA's files have.
_TUNED = {"tune_projector": True, "tune_diffusion_model": True}
_TUNED_PARTS = {**_TUNED, "tune_llm": False, "tune_visual": False, "tune_vlln": True}
_EXTRA: dict[str, dict[str, Any]] = {
    "n1d7": {**_TUNED_PARTS, "backbone_model_type": "qwen", "tune_top_llm_layers": 0},
    "n1d6": {
        **_TUNED_PARTS,
        "backbone_model_type": "eagle",
        "tune_top_llm_layers": 4,
        "load_bf16": True,
        "formalize_language": True,
    },
    "n1d5": {
        "compute_dtype": "bfloat16",
        "torch_dtype": "bfloat16",
        "action_head_cfg": {**_TUNED, "model_dtype": "float32"},
        "backbone_cfg": {"load_bf16": False, "reproject_vision": False, "tune_llm": False, "tune_visual": True},
    },
}

_TINY_TEXT: dict[str, Any] = {
    "vocab_size": 528,
    "hidden_size": _WIDTH,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 128,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 4096,
    "attention_bias": False,
}
_TINY_COSMOS: dict[str, Any] = {
    "tie_word_embeddings": True,
    "text_config": {
        **_TINY_TEXT,
        "rope_theta": 5000000,
        "rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [4, 2, 2]},
    },
    "vision_config": {
        "depth": 4,
        "hidden_size": _WIDTH,
        "num_heads": 4,
        "intermediate_size": 128,
        "hidden_act": "gelu_pytorch_tanh",
        "in_channels": 3,
        "patch_size": 16,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "num_position_embeddings": 64,
        "out_hidden_size": _WIDTH,
        "deepstack_visual_indexes": [0, 1, 2],
    },
}
_DEMO_COSMOS: dict[str, Any] = {
    **_TINY_COSMOS,
    "text_config": {**_TINY_COSMOS["text_config"], "num_hidden_layers": 2, "num_key_value_heads": 4},
    "vision_config": {
        **_TINY_COSMOS["vision_config"],
        "depth": 2,
        "hidden_size": _DEMO_VISION_WIDTH,
        "intermediate_size": 2 * _DEMO_VISION_WIDTH,
        "patch_size": _DEMO_PATCH,
        # One place per patch: nothing is interpolated.
        "num_position_embeddings": (_DEMO_EDGE // _DEMO_PATCH) ** 2,
        "deepstack_visual_indexes": [],
    },
}
_TINY_EAGLE_TEXT: dict[str, Any] = {
    "model_type": "qwen3",
    **_TINY_TEXT,
    "rope_theta": 1000000,
    "rope_scaling": None,
    "use_sliding_window": False,
    "tie_word_embeddings": True,
}
_TINY_EAGLE_VISION: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "num_channels": 3,
    "patch_size": 14,
}
_SMALL_BACKBONE: dict[tuple[str, str], dict[str, Any]] = {
    ("n1d7", "tiny"): _TINY_COSMOS,
    ("n1d7", "demo"): _DEMO_COSMOS,
    ("n1d6", "tiny"): {
        "model_type": "eagle_3_vl",
        "select_layer": -1,
        "use_pixel_shuffle": True,
        "downsample_ratio": 0.5,
        "mlp_connector_layers": 2,
        "text_config": _TINY_EAGLE_TEXT,
        "vision_config": {
            "model_type": "siglip2_vision_model",
            **_TINY_EAGLE_VISION,
            "num_patches": 64,
            "use_rope": False,
            "use_windows_attn": False,
        },
    },
    ("n1d5", "tiny"): {
        "model_type": "eagle_2_5_vl",
        "force_image_size": _TINY_EDGE["n1d5"],
        "select_layer": -1,
        "use_pixel_shuffle": False,
        "downsample_ratio": 0.5,
        "mlp_connector_layers": 1,
        "text_config": _TINY_EAGLE_TEXT,
        "vision_config": {
            "model_type": "siglip_vision_model",
            **_TINY_EAGLE_VISION,
            "image_size": _TINY_EDGE["n1d5"],
        },
    },
}
# What a description calls the ids of the tokens it must know.
_TOKEN_KEYS: dict[str, dict[str, str]] = {
    "n1d7": {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    },
    "n1d6": {"image_token_index": "<IMG_CONTEXT>"},
    "n1d5": {"image_token_index": "<IMG_CONTEXT>"},
}

# State width, action width, chunk length.
_FULL_DIMS = {"n1d5": (64, 32, 16), "n1d6": (128, 128, 50), "n1d7": (132, 132, 40)}
_SMALL_DIMS = {"tiny": (64, 64, 16), "demo": (8, 8, 16)}
_JITTER = {"brightness": 0.3, "contrast": 0.4, "saturation": 0.5, "hue": 0.08}


def default_processor_kwargs(
    modality_configs: Mapping[str, Mapping[str, Any]],
    size: str,
    generation: str = "n1d7",
    statistics: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """`processor_kwargs` of processor_config.json, with the released values or those of the tiny network.

    N1.5 has no such file; for it these are the modality configurations and the network's dimensions only.

    Args:
        modality_configs: embodiment tag -> modality (`video`, `state`, `action`, `language`) -> settings as in
            processor_config.json.
        size: `tiny`, `demo` or `full`.
        generation: `n1d5`, `n1d6` or `n1d7`.
        statistics: as in statistics.json; a small network grows to their width.

    Raises:
        ValueError: unknown size or generation, a size that the generation does not have, or a chunk longer than the
            network's horizon.
    """
    check_size(size, generation)
    widths = {name: _width(modality_configs, statistics or {}, name) for name in ("state", "action")}
    horizons = {tag: len(config["action"]["delta_indices"]) for tag, config in modality_configs.items()}
    state, action, horizon = _FULL_DIMS[generation] if size == "full" else _SMALL_DIMS[size]
    if size != "full":
        state, action = max(state, widths["state"]), max(action, widths["action"])
        horizon = max([horizon, *horizons.values()])
    for tag, steps in horizons.items():
        if steps > horizon:
            raise ValueError(
                f"the action of {tag} has {steps} delta_indices; the full {generation} network has {horizon} steps"
            )
    dims = {"max_state_dim": state, "max_action_dim": action, "max_action_horizon": horizon}
    configs = {tag: dict(config) for tag, config in modality_configs.items()}
    if generation == "n1d5":
        return {"modality_configs": configs, **dims}
    sin_cos = any(config["state"].get("sin_cos_embedding_keys") for config in configs.values())
    edge = {"full": 256, "tiny": _TINY_EDGE[generation], "demo": _DEMO_EDGE}[size]
    # Crops move the picture against the robot, by more than a small network trained for minutes can be off.
    crop, fraction = (edge, 1.0) if size == "demo" else (round(edge * 230 / 256), 0.95)
    common = {
        "modality_configs": configs,
        "use_albumentations": True,
        "random_rotation_angle": None,
        "color_jitter_params": None if size == "demo" else dict(_JITTER),
        "shortest_image_edge": edge,
        "crop_fraction": fraction,
        "model_name": _NAMES[generation]["model_name"],
        "formalize_language": True,
        **dims,
        "clip_outliers": True,
        "use_relative_action": True,
    }
    if generation == "n1d6":
        own = {"image_crop_size": None, "image_target_size": None, "model_type": "eagle", "use_percentiles": False}
        return {**common, **own, "apply_sincos_state_encoding": True}
    return {
        **common,
        "image_crop_size": [crop, crop],
        "image_target_size": [edge, edge],
        "letter_box_transform": False,
        "model_type": "qwen",
        "use_percentiles": True,
        "use_mean_std": False,
        "apply_sincos_state_encoding": sin_cos,
        "exclude_state": False,
        "state_dropout_prob": 0.2,
    }


def network_config(generation: str, size: str, processor_kwargs: Mapping[str, Any]) -> ModelConfig:
    """config.json for processor settings: the network's sizes, and the dimensions that processor and network share.

    Raises:
        ValueError: the embodiments' state histories differ, or are longer than the one step that N1.5 and N1.6 take.
    """
    histories = {tag: len(c["state"]["delta_indices"]) for tag, c in processor_kwargs["modality_configs"].items()}
    if len(set(histories.values())) != 1:
        raise ValueError(f"the embodiments' state delta_indices differ in number: {histories}; one network has one")
    history = next(iter(histories.values()))
    if generation != "n1d7" and history != 1:
        raise ValueError(f"the state has {history} delta_indices; {generation} takes 1")
    values: dict[str, Any] = {
        **_NETWORK[size],
        **_OWN[generation, size],
        **_NAMES[generation],
        "max_state_dim": processor_kwargs["max_state_dim"],
        "max_action_dim": processor_kwargs["max_action_dim"],
        "action_horizon": processor_kwargs["max_action_horizon"],
    }
    extra = copy.deepcopy(_EXTRA[generation])
    if generation == "n1d5":
        extra["hidden_size"] = values["backbone_embedding_dim"]
    else:
        extra["use_relative_action"] = processor_kwargs["use_relative_action"]
        values["state_dropout_prob"] = processor_kwargs.get("state_dropout_prob", 0.0)
        values["state_history_length"] = history
    if size != "full":
        ids = special_ids(FIRST_SPECIAL_ID_TINY)
        tokens = {key: ids[token] for key, token in _TOKEN_KEYS[generation].items()}
        values["backbone_config"] = copy.deepcopy({**tokens, **_SMALL_BACKBONE[generation, size]})
    # Through the file's form, so that it is checked as one that is read.
    return ModelConfig.from_dict(ModelConfig(**copy.deepcopy(values), extra=extra).to_dict())


def random_moments(name: str, shape: Sequence[int]) -> tuple[float, float]:
    """Mean and standard deviation of the parameter `name` of a random network.

    Products keep the size of what they act on (standard deviation fan_in^-0.5), norms start as identity, biases are
    small, and the modulation by time is weak: activations and actions stay of the order of one at any depth.
    """
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "weight" and len(shape) == 1:  # every one-dimensional weight is a norm's
        return 1.0, 0.02
    if leaf == "b" or leaf.endswith("bias"):
        return 0.0, 0.02
    if name.endswith(("embed_tokens.weight", "pos_embed.weight", "position_embedding.weight")):
        return 0.0, 0.5
    fan_in = shape[1] if leaf == "W" else math.prod(shape[1:])
    gain = 0.2 if ".norm1.linear." in name or ".proj_out_1." in name else 1.0
    return 0.0, gain * fan_in**-0.5


def check_size(size: str, generation: str) -> None:
    """ValueError when there is no such size or generation, or not both together."""
    check_choice("size", size, SIZES)
    check_choice("generation", generation, GENERATIONS)
    if (generation, size) not in _OWN:
        raise ValueError(f"size {size} is n1d7's only; take size tiny for {generation}, or generation n1d7")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """ValueError when a value is none of the choices."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(choices)}")


def _width(modality_configs: Mapping[str, Any], statistics: Mapping[str, Any], modality: str) -> int:
    """Numbers of the widest tag. Twice what is counted: a key may become sines and cosines, or a longer rotation."""
    entries = [statistics.get(tag, {}).get(modality, {}) for tag in modality_configs]
    return max((2 * sum(len(entry["min"]) for entry in keys.values()) for keys in entries), default=0)
