"""config.json of the three generations: where each keeps its keys, what it assumes, what it writes."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groot_ros.model.config import ConfigError, ModelConfig, detect_generation

HEAD: dict[str, Any] = {
    "action_dim": 32,
    "action_horizon": 16,
    "add_pos_embed": True,
    "backbone_embedding_dim": 2048,
    "diffusion_model_cfg": {
        "attention_head_dim": 48,
        "cross_attention_dim": 2048,
        "dropout": 0.2,
        "final_dropout": True,
        "interleave_self_attention": True,
        "norm_type": "ada_norm",
        "num_attention_heads": 32,
        "num_layers": 16,
        "output_dim": 1024,
        "positional_embeddings": None,
    },
    "hidden_size": 1024,
    "input_embedding_dim": 1536,
    "max_action_dim": 32,
    "max_state_dim": 64,
    "num_inference_timesteps": 4,
    "num_target_vision_tokens": 32,
    "tune_projector": True,
    "use_vlln": True,
    "vl_self_attention_cfg": {
        "attention_head_dim": 64,
        "num_attention_heads": 32,
        "num_layers": 4,
        "positional_embeddings": None,
    },
}
N1D5: dict[str, Any] = {
    "model_type": "gr00t_n1_5",
    "architectures": ["GR00T_N1_5"],
    "action_dim": 32,
    "action_horizon": 16,
    "hidden_size": 2048,
    "compute_dtype": "bfloat16",
    "model_dtype": "float32",
    "action_head_cfg": HEAD,
    "backbone_cfg": {
        "eagle_path": "NVEagle/some",
        "project_to_dim": None,
        "select_layer": 12,
        "tune_llm": False,
        "use_flash_attention": True,
    },
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """N1.5's config with the value at a dotted path replaced, or removed when it is `...`."""
    config = copy.deepcopy(N1D5)
    *sections, key = path.split(".")
    part = config
    for section in sections:
        part = part[section]
    if value is ...:
        del part[key]
    else:
        part[key] = value
    return config


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("generation", "n1d5"),
        ("hidden_size", 1024),  # the head's, not the 2048 at the top
        ("max_action_dim", 32),
        ("select_layer", 12),
        ("num_target_vision_tokens", 32),
        ("use_alternate_vl_dit", False),
        ("project_to_dim", None),
        ("max_num_embodiments", 32),
        ("model_name", "NVEagle/some"),
    ],
)
def test_nested_config_is_read_from_its_sections(name: str, expected: Any) -> None:
    assert getattr(ModelConfig.from_dict(N1D5), name) == expected


def test_nested_config_is_written_back_nested() -> None:
    config = ModelConfig.from_dict(N1D5)
    written = config.to_dict()
    assert written["compute_dtype"] == "bfloat16"
    assert written["hidden_size"] == 2048
    for section in ("action_head_cfg", "backbone_cfg"):
        assert {key: written[section][key] for key in N1D5[section]} == N1D5[section]
    assert "use_alternate_vl_dit" not in written
    assert ModelConfig.from_dict(written) == config


def test_a_new_horizon_is_written_at_both_of_its_places() -> None:
    config = dataclasses.replace(ModelConfig.from_dict(N1D5), action_horizon=8, max_action_dim=40)
    written = config.to_dict()
    head = written["action_head_cfg"]
    assert (written["action_horizon"], head["action_horizon"]) == (8, 8)
    assert (written["action_dim"], head["action_dim"], head["max_action_dim"]) == (40, 40, 40)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("action_head_cfg", ..., ["action_head_cfg", "object"]),
        ("backbone_cfg", [1], ["backbone_cfg", "[1]"]),
        ("backbone_cfg.select_layer", ..., ["backbone_cfg.select_layer"]),
        ("action_head_cfg.max_state_dim", "64", ["action_head_cfg.max_state_dim", "'64'", "int"]),
        ("action_head_cfg.diffusion_model_cfg", ..., ["action_head_cfg.diffusion_model_cfg"]),
        ("action_head_cfg.num_target_vision_tokens", -1, ["num_target_vision_tokens", "-1"]),
        ("action_head_cfg.input_embedding_dim", 1024, ["1536", "1024"]),
        ("backbone_cfg.project_to_dim", 1536, ["project_to_dim", "1536", "2048"]),
        ("action_head_cfg.diffusion_model_cfg.positional_embeddings", "sinusoidal", ["positional_embeddings"]),
        ("action_head_cfg.diffusion_model_cfg.positional_embeddings", ..., ["is not there", "'sinusoidal'", "None"]),
        ("action_head_cfg.diffusion_model_cfg.norm_eps", 0.5, ["diffusion_model_cfg.norm_eps is 0.5", "1e-05"]),
        ("action_head_cfg.diffusion_model_cfg.activation_fn", "gelu", ["activation_fn is 'gelu'", "gelu-approximate"]),
        ("action_head_cfg.diffusion_model_cfg.norm_elementwise_affine", True, ["norm_elementwise_affine is True"]),
        ("action_head_cfg.vl_self_attention_cfg.attention_bias", False, ["vl_self_attention_cfg.attention_bias"]),
    ],
)
def test_a_wrong_nested_key_is_named(path: str, value: Any, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        ModelConfig.from_dict(changed(path, value))
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("values", "attribute", "expected"),
    [
        ({"model_type": "Gr00tN1d7", "architectures": None}, "architectures", ["Gr00tN1d7"]),
        ({"model_type": "Gr00tN1d6", "state_dropout_prob": None}, "state_dropout_prob", 0.0),
        ({"model_type": "Gr00tN1d6", "model_dtype": "torch.float32"}, "model_dtype", "float32"),
        (changed("action_head_cfg.num_inference_timesteps", None), "num_inference_timesteps", 4),
        (changed("architectures", None), "generation", "n1d5"),
        (changed("backbone_cfg.project_to_dim", None), "project_to_dim", None),
    ],
)
def test_null_is_as_good_as_absent(values: dict[str, Any], attribute: str, expected: Any) -> None:
    assert getattr(ModelConfig.from_dict(values), attribute) == expected


def test_an_absent_key_of_a_stack_means_what_nvidias_class_takes() -> None:
    config = ModelConfig.from_dict(changed("action_head_cfg.diffusion_model_cfg.interleave_self_attention", ...))
    assert config.dit.interleave_self_attention is False


def test_without_its_norm_n1d5_has_no_self_attention_either() -> None:
    config = ModelConfig.from_dict(changed("action_head_cfg.use_vlln", False))
    assert config.vl_self_attention is None
    assert ModelConfig.from_dict(N1D5).vl_self_attention is not None


@pytest.mark.parametrize(
    ("model_type", "expected"),
    [
        ("Gr00tN1d7", {"select_layer": 12, "max_action_dim": 132, "action_horizon": 40, "layers": 16}),
        ("Gr00tN1d6", {"select_layer": 16, "max_action_dim": 29, "action_horizon": 16, "layers": 32}),
    ],
)
def test_a_short_config_has_the_defaults_of_its_generation(model_type: str, expected: dict[str, int]) -> None:
    config = ModelConfig.from_dict({"model_type": model_type})
    found = {name: getattr(config, name) for name in expected if name != "layers"}
    assert {**found, "layers": config.dit.num_layers} == expected


@pytest.mark.parametrize(
    ("model_type", "foreign"),
    [("Gr00tN1d7", ["num_target_vision_tokens", "project_to_dim"]), ("Gr00tN1d6", ["vl_self_attention_cfg"])],
)
def test_keys_of_other_generations_are_not_written(model_type: str, foreign: list[str]) -> None:
    written = ModelConfig.from_dict({"model_type": model_type}).to_dict()
    assert not set(foreign) & set(written)


def test_alternating_cross_attention_needs_self_attention_between() -> None:
    dit = {**HEAD["diffusion_model_cfg"], "interleave_self_attention": False}
    values = {"model_type": "Gr00tN1d6", "diffusion_model_cfg": dit}
    with pytest.raises(ConfigError, match=r"interleave_self_attention.*use_alternate_vl_dit"):
        ModelConfig.from_dict(values)
    assert not ModelConfig.from_dict({**values, "use_alternate_vl_dit": False}).dit.interleave_self_attention


@given(
    st.sampled_from(["Gr00tN1d7", "Gr00tN1d6", "gr00t_n1_5"]),
    st.dictionaries(st.from_regex(r"x_[a-z]{1,8}", fullmatch=True), st.one_of(st.none(), st.integers(), st.text())),
)
def test_unknown_keys_come_back(model_type: str, extra: dict[str, Any]) -> None:
    base = N1D5 if model_type == "gr00t_n1_5" else {"model_type": model_type}
    written = json.loads(json.dumps(ModelConfig.from_dict({**base, **extra}).to_dict()))
    assert {key: written[key] for key in extra} == extra


@pytest.mark.parametrize("folder", ["n1d5", "n1d6"])
def test_golden_config_of_the_older_generations_is_written_back(folder: str, golden_root: Path) -> None:
    read = json.loads((golden_root / folder / "config.json").read_text(encoding="utf-8"))
    document = {**read["model_config"], "eagle_config": read["eagle_config"]}
    config = ModelConfig.from_dict(document)
    assert config.generation == detect_generation(document) == folder
    assert config.backbone_config == read["eagle_config"]
    written = config.to_dict()

    def differences(expected: dict[str, Any], got: dict[str, Any]) -> list[str]:
        return [
            key
            for key, value in expected.items()
            if (differences(value, got[key]) if isinstance(value, dict) else got.get(key) != value)
        ]

    assert differences(document, written) == []
