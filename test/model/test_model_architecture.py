"""The released 3B architectures, without memory: names, shapes and parameter counts.

`released/*.json` are the values of NVIDIA's config.json files (spec groot_n15_n16.md, 1.1 and 1.2; groot_n17.md, 1.2),
which do not describe the vision-language model. `tables/*.tsv` are the tables of the spec; N1.7's is in golden/n1d7.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from groot_ros.model.config import ConfigError, ModelConfig
from groot_ros.model.descriptions import backbone_description
from groot_ros.model.groot import GrootModel

HERE = Path(__file__).parent
RELEASED: dict[str, dict[str, Any]] = {
    name: json.loads((HERE / "released" / f"{name}.json").read_text(encoding="utf-8"))
    for name in ("n1d5", "n1d6", "n1d7")
}
TABLES = {"n1d5": "groot_n15_state_dict.tsv", "n1d6": "groot_n16_state_dict.tsv"}

EAGLE = "backbone.eagle_model"
PARAMETERS = {
    ("n1d5", f"{EAGLE}.language_model.model"): 914_674_688,
    ("n1d5", f"{EAGLE}.language_model.lm_head"): 310_640_640,
    ("n1d5", f"{EAGLE}.vision_model"): 427_680_704,
    ("n1d5", f"{EAGLE}.mlp1"): 2_361_344,
    ("n1d5", "action_head.model"): 550_386_688,
    ("n1d5", "action_head.state_encoder"): 52_510_720,
    ("n1d5", "action_head.action_encoder"): 228_212_736,
    ("n1d5", "action_head.action_decoder"): 34_636_800,
    ("n1d5", "action_head.future_tokens"): 49_152,
    ("n1d5", "action_head.vl_self_attention"): 201_433_088,
    ("n1d5", ""): 2_724_163_520,
    ("n1d6", "backbone.model.language_model.model"): 1_116_018_688,
    ("n1d6", "backbone.model.language_model.lm_head"): 310_640_640,
    ("n1d6", "backbone.model.vision_model"): 427_680_704,
    ("n1d6", "backbone.model.mlp1"): 13_644_800,
    ("n1d6", "action_head.model"): 1_091_722_240,
    ("n1d6", "action_head.state_encoder"): 54_607_872,
    ("n1d6", "action_head.action_encoder"): 232_931_328,
    ("n1d6", "action_head.action_decoder"): 37_785_600,
    ("n1d6", "action_head.vlln"): 4_096,
    ("n1d6", "action_head.position_embedding"): 1_572_864,
    ("n1d6", ""): 3_286_608_832,
    ("n1d7", "backbone.model.model.visual"): 406_957_056,
    ("n1d7", "backbone.model.model.language_model"): 1_116_542_976,
    ("n1d7", "backbone.model.lm_head"): 311_164_928,
    ("n1d7", "action_head"): 1_620_515_968,
    ("n1d7", "action_head.model"): 1_091_722_240,
    ("n1d7", "action_head.vl_self_attention"): 201_433_088,
    ("n1d7", "action_head.state_encoder"): 54_738_944,
    ("n1d7", "action_head.action_encoder"): 233_127_936,
    ("n1d7", "action_head.action_decoder"): 37_916_800,
    ("n1d7", "action_head.position_embedding"): 1_572_864,
    ("n1d7", "action_head.vlln"): 4_096,
    ("n1d7", ""): 3_144_016_000,
}


def build(config: dict[str, Any]) -> GrootModel:
    with torch.device("meta"):
        return GrootModel(ModelConfig.from_dict(config))


@pytest.fixture(scope="module")
def released() -> dict[str, GrootModel]:
    return {name: build(config) for name, config in RELEASED.items()}


def table(name: str) -> dict[str, list[int]]:
    """Names and shapes of the released checkpoint of a generation."""
    if name not in TABLES:
        document = (HERE.parent / "golden" / name / "released_state_dict_shapes.json").read_text(encoding="utf-8")
        return json.loads(document)
    rows = (HERE / "tables" / TABLES[name]).read_text(encoding="utf-8").splitlines()
    return {key: json.loads(shape) for key, shape in (row.split("\t") for row in rows)}


@pytest.mark.parametrize("name", RELEASED)
def test_golden_released_shapes(released, name):
    listed = table(name)
    state = released[name].state_dict()
    assert {key: list(tensor.shape) for key, tensor in state.items()} == listed
    tied = released[name].tied_parameters()
    total = sum(math.prod(shape) for key, shape in listed.items() if key not in tied)
    assert sum(p.numel() for p in released[name].parameters()) == total == PARAMETERS[name, ""]


@pytest.mark.parametrize(("name", "part"), PARAMETERS)
def test_parameter_count(released, name, part):
    module = released[name].get_submodule(part)
    assert sum(p.numel() for p in module.parameters()) == PARAMETERS[name, part]


@pytest.mark.parametrize("name", RELEASED)
def test_no_buffers(released, name):
    # Rotary frequencies are computed where they are used: a buffer would be rounded by a cast to bfloat16.
    assert list(released[name].named_buffers()) == []


LONGEST_PROMPT = {"n1d5": 40960, "n1d6": 40960, "n1d7": 262144}


@pytest.mark.parametrize("name", RELEASED)
def test_longest_prompt(released, name):
    assert released[name].max_prompt_tokens == LONGEST_PROMPT[name]


UNUSED_PARAMETERS = {"n1d5": 12, "n1d6": 12, "n1d7": 1}


@pytest.mark.parametrize("name", RELEASED)
def test_unused_parameters_are_named_in_full(released, name):
    unused = released[name].unused_parameters()
    assert len(unused) == UNUSED_PARAMETERS[name]
    assert unused <= set(released[name].state_dict())


# Width of what each block's keys are made of: the features (2048) or the tokens themselves (1536).
CROSS_ATTENTION_INPUT = {0: 2048, 1: 1536, 2: 2048, -1: 1536}


@pytest.mark.parametrize("name", RELEASED)
@pytest.mark.parametrize("block", CROSS_ATTENTION_INPUT)
def test_cross_and_self_blocks_alternate(released, name, block):
    weight = released[name].action_head.model.transformer_blocks[block].attn1.to_k.weight
    assert weight.shape == (1536, CROSS_ATTENTION_INPUT[block])


def section(name: str, key: str, **changes: Any) -> dict[str, Any]:
    """The released config with values of one section replaced."""
    return {key: {**RELEASED[name][key], **changes}}


DIT = RELEASED["n1d7"]["diffusion_model_cfg"]
BAD_CONFIGS = {
    "no generation": ("n1d7", {"model_type": "llama", "architectures": []}, ["model_type", "llama", "Gr00tN1d7"]),
    "type": ("n1d7", {"select_layer": "16"}, ["select_layer", "'16'", "int"]),
    "bool for int": ("n1d7", {"action_horizon": True}, ["action_horizon", "True", "int"]),
    "dtype": ("n1d7", {"model_dtype": "int8"}, ["model_dtype", "int8", "bfloat16"]),
    "zero": ("n1d7", {"select_layer": 0}, ["select_layer", "0", "at least 1"]),
    "too many layers": ("n1d7", {"select_layer": 29}, ["select_layer", "29", "28"]),
    "too many layers of N1.6": ("n1d6", {"select_layer": 29}, ["select_layer", "29", "28"]),
    "unknown backbone": (
        "n1d7",
        {"model_name": "google/paligemma-3b"},
        ["model_name", "paligemma-3b", "Cosmos-Reason2"],
    ),
    "unknown Eagle": ("n1d6", {"model_name": "nvidia/Eagle-Block2A-9B"}, ["model_name", "Block2A-9B", "2B-v2"]),
    "backbone width": ("n1d7", {"backbone_embedding_dim": 1024, "vl_self_attention_cfg": None}, ["backbone_embedding"]),
    "backbone width of N1.6": ("n1d6", {"backbone_embedding_dim": 1024}, ["backbone_embedding_dim", "1024", "2048"]),
    "dit width": ("n1d7", {"input_embedding_dim": 1024}, ["input_embedding_dim", "1024", "1536"]),
    "vl width": ("n1d7", {"backbone_embedding_dim": 1024}, ["vl_self_attention_cfg", "2048", "1024"]),
    "dit missing": ("n1d7", {"diffusion_model_cfg": {"num_layers": 2}}, ["diffusion_model_cfg", "num_attention_heads"]),
    "dit kind": (
        "n1d7",
        section("n1d7", "diffusion_model_cfg", norm_type="layer_norm"),
        ["diffusion_model_cfg.norm_type", "layer_norm", "ada_norm"],
    ),
    "horizon": ("n1d7", {"action_horizon": 2000}, ["action_horizon", "2000", "max_seq_len"]),
    "strict mask": ("n1d7", {"strict_action_padding_mask": True}, ["strict_action_padding_mask"]),
    "backbone_config": ("n1d7", {"backbone_config": [1]}, ["backbone_config"]),
    "backbone section": ("n1d7", {"backbone_config": {"text_config": {}}}, ["text_config", "vocab_size"]),
    "projection": ("n1d5", section("n1d5", "backbone_cfg", project_to_dim=1536), ["project_to_dim", "1536", "2048"]),
}


@pytest.mark.parametrize(
    ("name", "model_name"),
    [
        ("n1d7", "/models/nvidia/Cosmos-Reason2-2B"),
        ("n1d7", "Qwen/Qwen3-VL-2B-Thinking"),
        ("n1d6", "./Eagle-Block2A-2B-v2/"),
        ("n1d5", "anything"),
    ],
)
def test_a_copy_of_a_known_backbone_is_known(name, model_name):
    values = json.loads(json.dumps(RELEASED[name]))
    (values["backbone_cfg"] if name == "n1d5" else values)["eagle_path" if name == "n1d5" else "model_name"] = (
        model_name
    )
    known = backbone_description(ModelConfig.from_dict(RELEASED[name]))
    assert backbone_description(ModelConfig.from_dict(values)) == known


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_bad_config_is_refused_by_name(case):
    name, change, expected = BAD_CONFIGS[case]
    with pytest.raises(ConfigError) as error:
        build({**RELEASED[name], **change})
    for word in expected:
        assert word in str(error.value)


def assert_holds(written: dict[str, Any], read: dict[str, Any]) -> None:
    """Every value of `read` is in `written`, which may have more keys in every section."""
    for key, value in read.items():
        if isinstance(value, dict) and key in ("action_head_cfg", "backbone_cfg"):
            assert_holds(written[key], value)
        else:
            assert written[key] == value, key


@pytest.mark.parametrize("name", RELEASED)
def test_unknown_keys_are_kept(name):
    extra = {"rtc_ramp_rate": 6.0, "tune_linear": [1, {"a": None}], "use_future_tokens": False}
    written = ModelConfig.from_dict({**RELEASED[name], **extra}).to_dict()
    assert_holds(written, {**RELEASED[name], **extra})


def test_absent_keys_take_the_defaults_of_nvidias_code():
    config = ModelConfig.from_dict({"model_type": "Gr00tN1d7"})
    assert (config.select_layer, config.dit.num_layers, config.vl_self_attention) == (12, 16, None)


def test_projection_of_n1d5_is_built_where_it_has_a_width():
    width = 1536
    head = section("n1d5", "action_head_cfg", backbone_embedding_dim=width, vl_self_attention_cfg=None, use_vlln=False)[
        "action_head_cfg"
    ]
    config = {**RELEASED["n1d5"], "action_head_cfg": head, **section("n1d5", "backbone_cfg", project_to_dim=width)}
    state = build(config).state_dict()
    assert state["backbone.eagle_linear.weight"].shape == (width, 2048)
    assert state["backbone.eagle_linear.bias"].shape == (width,)
