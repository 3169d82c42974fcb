"""Behaviour of Eagle that references cannot show: refusals, images of several sizes, the projection, what is unused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from groot_ros.model.config import ConfigError, ModelConfig
from groot_ros.model.descriptions import EAGLE_2_5, EAGLE_BLOCK2A_2B
from groot_ros.model.eagle import EagleBackbone
from groot_ros.model.groot import GrootModel

RAW_INPUTS = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")


@pytest.fixture
def inputs_of():
    """A copy of the golden inputs that a test may change."""
    return lambda golden: {name: value.clone() for name, value in golden.inputs.items()}


def first_grid(*grid: int) -> Callable[[dict[str, Tensor], int], None]:
    return lambda x, _: x["image_grid_thw"].__setitem__(0, torch.tensor(grid))


def lose_token(x: dict[str, Tensor], token: int) -> None:
    """One image token of sample 0 becomes text."""
    column = (x["input_ids"][0] == token).nonzero()[0, 0]
    x["input_ids"][0, column] = 1


def swap_images(x: dict[str, Tensor], _token: int) -> None:
    """The same patches and number of tokens, but the images are no longer whole in their samples."""
    x["image_grid_thw"] = x["image_grid_thw"].flip(0)


# Generation, change, words of the message.
BAD_INPUTS: dict[str, tuple[str, Callable[[dict[str, Tensor], int], object], list[str]]] = {
    "tile size": ("n1d5", first_grid(1, 2, 8), ["(1, 2, 8)", "tiles of 4 x 4"]),
    "odd side": ("n1d6", first_grid(1, 3, 8), ["(1, 3, 8)", "2 divides"]),
    "frames": ("n1d6", first_grid(2, 2, 6), ["(2, 2, 6)", "1 frame"]),
    "patches": (
        "n1d6",
        lambda x, _: x.update(pixel_values=x["pixel_values"][1:]),
        ["pixel_values", "(75, 588)", "(76, 588)"],
    ),
    "patch width": (
        "n1d5",
        lambda x, _: x.update(pixel_values=x["pixel_values"][:, 1:]),
        ["pixel_values", "(64, 587)", "(64, 588)"],
    ),
    "no image": (
        "n1d6",
        lambda x, _: x.update(image_grid_thw=x["image_grid_thw"][:0], pixel_values=x["pixel_values"][:0]),
        ["image_grid_thw is empty"],
    ),
    "too few tokens of N1.5": ("n1d5", lose_token, ["sample 0", "31 image tokens", "16"]),
    "too few tokens": ("n1d6", lose_token, ["sample 0", "14 image tokens", "[6, 9, 4]"]),
    "too few images": (
        "n1d6",
        lambda x, _: x.update(image_grid_thw=x["image_grid_thw"][:2], pixel_values=x["pixel_values"][:60]),
        ["sample 1", "4 image tokens", "from number 2", "[]"],
    ),
    "too many images": (
        "n1d6",
        lambda x, _: x.update(
            image_grid_thw=torch.cat((x["image_grid_thw"], x["image_grid_thw"][2:])),
            pixel_values=torch.cat((x["pixel_values"], x["pixel_values"][60:])),
        ),
        ["4 images", "tokens for 3"],
    ),
    "image across samples": ("n1d6", swap_images, ["sample 0", "15 image tokens", "[4, 9, 6]"]),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_images_are_refused_by_name(own_sets, inputs_of, case):
    name, change, expected = BAD_INPUTS[case]
    golden = own_sets(name)
    inputs = inputs_of(golden)
    change(inputs, golden.model.backbone.image_token_id)
    with pytest.raises(ValueError) as error:
        golden.model.sample(inputs)
    for word in expected:
        assert word in str(error.value)


def test_an_image_token_in_the_padding_is_no_image(own_n1d6, inputs_of):
    inputs = inputs_of(own_n1d6)
    padding = inputs["attention_mask"] == 0
    assert padding.any()
    inputs["input_ids"][padding] = own_n1d6.model.backbone.image_token_id
    actions = own_n1d6.model.sample(inputs, own_n1d6["initial noise"])
    torch.testing.assert_close(actions, own_n1d6.io["infer.action_pred"], atol=1e-5, rtol=0)


def test_images_of_equal_and_other_sizes_do_not_see_each_other(own_n1d6):
    """Together or one by one, an image has the same features; images of one size go through the layers together."""
    backbone = own_n1d6.model.backbone
    grids = [(1, 2, 4), (1, 4, 4), (1, 2, 4), (1, 4, 2), (1, 4, 4)]
    counts = [rows * cols for _, rows, cols in grids]
    patches = torch.randn(sum(counts), 588, generator=torch.Generator().manual_seed(0)).split(counts)
    with torch.no_grad():
        together = backbone.encode_images(torch.cat(patches), grids)
        single = [backbone.encode_images(image, [grid]) for image, grid in zip(patches, grids, strict=True)]
    torch.testing.assert_close(together, torch.cat(single), atol=1e-5, rtol=0)


@given(rows=st.integers(1, 9), cols=st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_position_table_keeps_its_mean_and_its_own_size(own_n1d6, rows, cols):
    embeddings = own_n1d6.model.backbone.visual.embeddings
    side = embeddings.table_side
    with torch.no_grad():
        table = embeddings.positions(rows, cols)
        assert table.shape == (rows * cols, embeddings.position_embedding.weight.shape[1])
        # Every value is an average of values of the table.
        own = embeddings.position_embedding.weight
        assert (table <= own.max(dim=0).values + 1e-5).all() and (table >= own.min(dim=0).values - 1e-5).all()
        torch.testing.assert_close(embeddings.positions(side, side), own)


def small(generation: str, changes: dict[str, Any]) -> ModelConfig:
    """The released description of a generation's Eagle with a few values replaced, in a config."""
    document: dict[str, Any] = copy.deepcopy(EAGLE_2_5 if generation == "n1d5" else EAGLE_BLOCK2A_2B)
    for path, value in changes.items():
        *sections, key = path.split(".")
        part = document
        for name in sections:
            part = part[name]
        if value is ...:
            del part[key]
        else:
            part[key] = value
    config = ModelConfig.from_dict({"model_type": "Gr00tN1d6", "eagle_config": document})
    if generation == "n1d6":
        return config
    values = {"model_type": "gr00t_n1_5", "backbone_embedding_dim": 2048, "eagle_config": document}
    head = {
        **{"max_state_dim": 8, "max_action_dim": 8, "action_horizon": 4, "backbone_embedding_dim": 2048},
        "diffusion_model_cfg": config.diffusion_model_cfg,
    }
    backbone = {"select_layer": 2}
    return ModelConfig.from_dict({**values, "action_head_cfg": head, "backbone_cfg": backbone})


BAD_DESCRIPTIONS = {
    "vision kind": ("n1d6", {"vision_config.model_type": "clip"}, ["vision_config.model_type", "clip", "siglip2"]),
    "vision rope": ("n1d6", {"vision_config.use_rope": True}, ["use_rope"]),
    "windows": ("n1d6", {"vision_config.use_windows_attn": True}, ["use_windows_attn"]),
    "no vision": ("n1d6", {"vision_config": ...}, ["vision_config", "None"]),
    "vision width": ("n1d6", {"vision_config.hidden_size": ...}, ["vision_config", "hidden_size"]),
    "table": ("n1d6", {"vision_config.num_patches": ...}, ["vision_config", "num_patches"]),
    "table that is no square": ("n1d6", {"vision_config.num_patches": 200}, ["num_patches", "200"]),
    "tile of part patches": ("n1d5", {"vision_config.image_size": 225}, ["image_size", "225", "14"]),
    "tile": ("n1d5", {"vision_config.image_size": ...}, ["vision_config", "image_size"]),
    "shuffle of N1.5": ("n1d5", {"use_pixel_shuffle": True}, ["use_pixel_shuffle", "siglip_vision_model"]),
    "ratio": ("n1d6", {"downsample_ratio": 0.3}, ["downsample_ratio", "0.3"]),
    "connector": ("n1d6", {"mlp_connector_layers": 3}, ["mlp_connector_layers", "3"]),
    "image token": ("n1d6", {"image_token_index": ...}, ["image_token_index"]),
    "vision layer": ("n1d6", {"select_layer": -2}, ["select_layer", "-2"]),
    "text key": ("n1d6", {"text_config.head_dim": ...}, ["text_config", "head_dim"]),
    "theta": ("n1d6", {"text_config.rope_theta": ...}, ["rope_theta"]),
    "rope": ("n1d6", {"text_config.rope_scaling": {"rope_type": "yarn"}}, ["rope_scaling", "yarn"]),
    "sliding": ("n1d6", {"text_config.use_sliding_window": True}, ["use_sliding_window"]),
    "width": ("n1d6", {"text_config.hidden_size": 1024}, ["backbone_embedding_dim", "2048", "1024"]),
}


@pytest.mark.parametrize("case", BAD_DESCRIPTIONS)
def test_bad_description_is_refused_by_name(case):
    generation, changes, expected = BAD_DESCRIPTIONS[case]
    config = small(generation, changes)
    with pytest.raises(ConfigError) as error, torch.device("meta"):
        EagleBackbone(config)
    for word in expected:
        assert word in str(error.value)


def test_rope_settings_of_transformers_5_are_read():
    text = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    changes = {"text_config.rope_theta": ..., **{f"text_config.{key}": value for key, value in text.items()}}
    with torch.device("meta"):
        assert EagleBackbone(small("n1d6", changes))._rope_theta == 5e5


def test_projection_follows_the_final_norm(own_n1d5):
    """`project_to_dim` puts a linear layer behind the features; the head is then as wide as it."""
    document = json.loads((own_n1d5.path / "config.json").read_text(encoding="utf-8"))
    values, width = document["model_config"], 24
    values["backbone_cfg"]["project_to_dim"] = width
    values["action_head_cfg"].update(backbone_embedding_dim=width, vl_self_attention_cfg=None)
    torch.manual_seed(0)
    model = GrootModel(ModelConfig.from_dict({**values, "eagle_config": document["eagle_config"]})).eval()
    source = own_n1d5.model.backbone
    missing, unexpected = model.backbone.load_state_dict(source.state_dict(), strict=False)
    assert (set(missing), unexpected) == ({"eagle_linear.weight", "eagle_linear.bias"}, [])
    inputs = {name: own_n1d5.inputs[name] for name in RAW_INPUTS}
    with torch.no_grad():
        expected = model.backbone.eagle_linear(source(inputs).features)
        assert expected.shape[-1] == width
        torch.testing.assert_close(model.backbone(inputs).features, expected)
    assert model.sample(own_n1d5.inputs, own_n1d5["initial noise"]).isfinite().all()
