"""The vision-language models that GR00T's checkpoints name but do not describe, and reading such a description."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from groot_ros.model.config import ConfigError, ModelConfig

# Spec groot_n17.md, 1.2.
COSMOS_REASON2_2B: dict[str, Any] = {
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "tie_word_embeddings": True,
    "text_config": {
        "vocab_size": 151936,
        "hidden_size": 2048,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 6144,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 262144,
        "attention_bias": False,
        "rope_theta": 5000000,
        "rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [24, 20, 20]},
    },
    "vision_config": {
        "depth": 24,
        "hidden_size": 1024,
        "num_heads": 16,
        "intermediate_size": 4096,
        "hidden_act": "gelu_pytorch_tanh",
        "in_channels": 3,
        "patch_size": 16,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "num_position_embeddings": 2304,
        "out_hidden_size": 2048,
        "deepstack_visual_indexes": [5, 11, 17],
    },
}

# Spec groot_n15_n16.md, 1.1 and 1.2: both Eagles read with a Qwen3 of the same sizes and look with a SigLIP of the same
# sizes.
_EAGLE_TEXT: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 151680,
    "hidden_size": 2048,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 6144,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 40960,
    "attention_bias": False,
    "rope_theta": 1000000,
    "rope_scaling": None,
    "use_sliding_window": False,
    "tie_word_embeddings": True,
}
_EAGLE_VISION: dict[str, Any] = {
    "hidden_size": 1152,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "intermediate_size": 4304,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "num_channels": 3,
    "patch_size": 14,
}
EAGLE_2_5: dict[str, Any] = {
    "model_type": "eagle_2_5_vl",
    "image_token_index": 151669,
    "force_image_size": 224,
    "select_layer": -1,
    "use_pixel_shuffle": False,
    "downsample_ratio": 0.5,
    "mlp_connector_layers": 1,
    "min_dynamic_tiles": 1,
    "max_dynamic_tiles": 12,
    "use_thumbnail": True,
    "text_config": _EAGLE_TEXT,
    "vision_config": {"model_type": "siglip_vision_model", **_EAGLE_VISION, "image_size": 224},
}
EAGLE_BLOCK2A_2B: dict[str, Any] = {
    "model_type": "eagle_3_vl",
    "image_token_index": 151669,
    "select_layer": -1,
    "use_pixel_shuffle": True,
    "downsample_ratio": 0.5,
    "mlp_connector_layers": 2,
    "dynamic_image_size": False,
    "use_thumbnail": False,
    "text_config": _EAGLE_TEXT,
    "vision_config": {
        "model_type": "siglip2_vision_model",
        **_EAGLE_VISION,
        "num_patches": 256,
        "use_rope": False,
        "use_windows_attn": False,
    },
}

# What `model_name` must contain for each: NVIDIA's N1.7 asks no more, and a local copy keeps the end of the name.
# N1.5's `eagle_path` names the folder that the model was trained from; whatever it says, the model is Eagle 2.5. A
# backbone of other sizes under such a name fails by the shapes of its tensors.
BUILT_IN_BACKBONES: dict[str, dict[str, dict[str, Any]]] = {
    "n1d7": {"Cosmos-Reason2": COSMOS_REASON2_2B, "Qwen3-VL": COSMOS_REASON2_2B},
    "n1d6": {"Eagle-Block2A-2B-v2": EAGLE_BLOCK2A_2B},
    "n1d5": {"": EAGLE_2_5},
}


def backbone_description(config: ModelConfig) -> dict[str, Any]:
    """The sizes of the backbone: the checkpoint's own if it carries them, else those known by generation and name.

    Raises:
        ConfigError: the name is none that is known.
    """
    if config.backbone_config is not None:
        return config.backbone_config
    known = BUILT_IN_BACKBONES[config.generation]
    for part, description in known.items():
        if part in config.model_name:
            return description
    raise ConfigError(
        f"model_name is {config.model_name!r}, which contains none of the known backbones ({', '.join(known)}); "
        f"describe it under the key {config.backbone_config_key}"
    )


def pick(description: dict[str, Any], section: str, keys: Sequence[str]) -> dict[str, Any]:
    """`keys` of one section of a description; ConfigError names those it lacks."""
    part = description.get(section)
    if not isinstance(part, dict):
        raise ConfigError(f"the backbone's {section} is {part!r}, expected an object")
    missing = [key for key in keys if key not in part]
    if missing:
        raise ConfigError(f"the backbone's {section} lacks {', '.join(missing)}")
    return {key: part[key] for key in keys}


def pick_text(description: dict[str, Any], select_layer: int) -> dict[str, Any]:
    """The sizes of the language model cut after `select_layer` layers; ConfigError when it has fewer."""
    keys = (
        *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
        *("intermediate_size", "hidden_act", "rms_norm_eps", "max_position_embeddings", "attention_bias"),
    )
    text = pick(description, "text_config", keys)
    if not 1 <= select_layer <= text["num_hidden_layers"]:
        raise ConfigError(
            f"select_layer is {select_layer}, but the backbone has {text['num_hidden_layers']} language layers"
        )
    return {**text, "num_hidden_layers": select_layer}


def rope_parameters(description: dict[str, Any]) -> dict[str, Any]:
    """Rotary settings of the language model, where transformers 4.57 (`rope_scaling`) or 5.x (`rope_parameters`) has
    them; `rope_theta` is always there.

    Raises:
        ConfigError: no `rope_theta`, or another kind of rotary embedding than `default`.
    """
    text = description["text_config"]
    found = text.get("rope_parameters") or text.get("rope_scaling") or {}
    theta = found.get("rope_theta", text.get("rope_theta"))
    if theta is None:
        raise ConfigError("the backbone's text_config lacks rope_theta")
    if found.get("rope_type", "default") != "default":
        raise ConfigError(f"the backbone's rope_scaling is {found}; only rope_type default is supported")
    return {**found, "rope_type": "default", "rope_theta": float(theta)}


def check_width(config: ModelConfig, hidden_size: int) -> None:
    """ConfigError when the language model's width is not what the head was built for."""
    if hidden_size != config.backbone_embedding_dim:
        raise ConfigError(
            f"backbone_embedding_dim is {config.backbone_embedding_dim}, but the backbone's "
            f"text_config.hidden_size is {hidden_size}"
        )
