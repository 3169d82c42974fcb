"""The released 3B architecture, without memory: names, shapes and parameter counts (spec groot_n17.md, 2)."""

from __future__ import annotations

import json

import pytest
import torch

from groot_ros.model.config import ConfigError, ModelConfig
from groot_ros.model.groot import GrootModel

RELEASED = {
    "model_type": "Gr00tN1d7",
    "architectures": ["Gr00tN1d7"],
    "model_name": "nvidia/Cosmos-Reason2-2B",
    "select_layer": 16,
    "diffusion_model_cfg": {
        "num_layers": 32,
        "num_attention_heads": 32,
        "attention_head_dim": 48,
        "output_dim": 1024,
        "dropout": 0.2,
        "final_dropout": True,
        "norm_type": "ada_norm",
        "interleave_self_attention": True,
        "positional_embeddings": None,
    },
    "vl_self_attention_cfg": {
        "num_layers": 4,
        "num_attention_heads": 32,
        "attention_head_dim": 64,
        "dropout": 0.2,
        "final_dropout": True,
        "positional_embeddings": None,
    },
}
PARAMETERS = {
    "backbone.model.model.visual": 406_957_056,
    "backbone.model.model.language_model": 1_116_542_976,
    "backbone.model.lm_head": 311_164_928,
    "action_head": 1_620_515_968,
    "action_head.model": 1_091_722_240,
    "action_head.vl_self_attention": 201_433_088,
    "action_head.state_encoder": 54_738_944,
    "action_head.action_encoder": 233_127_936,
    "action_head.action_decoder": 37_916_800,
    "action_head.position_embedding": 1_572_864,
    "action_head.vlln": 4_096,
    "": 3_144_016_000,
}


@pytest.fixture(scope="module")
def released() -> GrootModel:
    with torch.device("meta"):
        return GrootModel(ModelConfig.from_dict(RELEASED))


def test_golden_released_shapes(released, golden_root):
    listed = json.loads((golden_root / "n1d7" / "released_state_dict_shapes.json").read_text(encoding="utf-8"))
    assert {name: list(tensor.shape) for name, tensor in released.state_dict().items()} == listed


@pytest.mark.parametrize("part", PARAMETERS)
def test_parameter_count(released, part):
    module = released.get_submodule(part)
    assert sum(p.numel() for p in module.parameters()) == PARAMETERS[part]


def test_no_buffers(released):
    # Rotary frequencies are computed where they are used: a buffer would be rounded by a cast to bfloat16.
    assert list(released.named_buffers()) == []


CROSS_ATTENTION_INPUT = {0: 2048, 1: 1536, 2: 2048, 31: 1536}


@pytest.mark.parametrize("block", CROSS_ATTENTION_INPUT)
def test_cross_and_self_blocks_alternate(released, block):
    weight = released.action_head.model.transformer_blocks[block].attn1.to_k.weight
    assert weight.shape == (1536, CROSS_ATTENTION_INPUT[block])


BAD_CONFIGS = {
    "no generation": ({"model_type": "llama", "architectures": []}, ["model_type", "llama", "Gr00tN1d7"]),
    "type": ({"select_layer": "16"}, ["select_layer", "'16'", "int"]),
    "bool for int": ({"action_horizon": True}, ["action_horizon", "True", "int"]),
    "dtype": ({"model_dtype": "int8"}, ["model_dtype", "int8", "bfloat16"]),
    "zero": ({"select_layer": 0}, ["select_layer", "0", "at least 1"]),
    "too many layers": ({"select_layer": 29}, ["select_layer", "29", "28"]),
    "unknown backbone": ({"model_name": "nvidia/Cosmos-Reason2-8B"}, ["model_name", "Cosmos-Reason2-8B", "2B"]),
    "backbone width": ({"backbone_embedding_dim": 1024, "vl_self_attention_cfg": None}, ["backbone_embedding_dim"]),
    "dit width": ({"input_embedding_dim": 1024}, ["input_embedding_dim", "1024", "1536"]),
    "vl width": ({"backbone_embedding_dim": 1024}, ["vl_self_attention_cfg", "2048", "1024"]),
    "dit missing": ({"diffusion_model_cfg": {"num_layers": 2}}, ["diffusion_model_cfg", "num_attention_heads"]),
    "dit kind": (
        {"diffusion_model_cfg": {**RELEASED["diffusion_model_cfg"], "norm_type": "layer_norm"}},
        ["diffusion_model_cfg.norm_type", "layer_norm", "ada_norm"],
    ),
    "horizon": ({"action_horizon": 2000}, ["action_horizon", "2000", "max_seq_len"]),
    "strict mask": ({"strict_action_padding_mask": True}, ["strict_action_padding_mask"]),
    "backbone_config": ({"backbone_config": [1]}, ["backbone_config"]),
    "backbone section": ({"backbone_config": {"text_config": {}}}, ["text_config", "vocab_size"]),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_bad_config_is_refused_by_name(case):
    change, expected = BAD_CONFIGS[case]
    with pytest.raises(ConfigError) as error, torch.device("meta"):
        GrootModel(ModelConfig.from_dict({**RELEASED, **change}))
    for word in expected:
        assert word in str(error.value)


def test_unknown_keys_are_kept():
    extra = {"rtc_ramp_rate": 6.0, "tune_linear": [1, {"a": None}], "use_future_tokens": False}
    written = ModelConfig.from_dict({**RELEASED, **extra}).to_dict()
    assert {**written, **RELEASED, **extra} == written


def test_absent_keys_take_the_defaults_of_nvidias_code():
    config = ModelConfig.from_dict({"model_type": "Gr00tN1d7"})
    assert (config.select_layer, config.dit.num_layers, config.vl_self_attention) == (12, 16, None)
