"""Rotary embeddings: exact in every dtype, or rounded as in NVIDIA's policies, which cast frequencies to bfloat16."""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers.models.qwen3.configuration_qwen3 import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionRotaryEmbedding

from groot_ros.model import positions

HALF = torch.bfloat16
ROUNDINGS = {"exact": None, "as the reference": HALF}


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_text_tables_are_those_of_transformers(rounding):
    theta, width, length = 1e6, 128, 300
    spelling = {"rope_theta": theta} if transformers.__version__ < "5" else {}
    parameters = {"rope_type": "default", "rope_theta": theta}
    config = Qwen3Config(
        hidden_size=width, num_attention_heads=1, head_dim=width, **(spelling or {"rope_parameters": parameters})
    )
    reference = Qwen3RotaryEmbedding(config)
    if ROUNDINGS[rounding] is not None:
        reference = reference.to(HALF)
    expected = reference(torch.zeros(1, dtype=HALF), torch.arange(length)[None])
    tables = positions.rope_tables(length, width, theta, HALF, torch.device("cpu"), ROUNDINGS[rounding])
    for got, want in zip(tables, expected, strict=True):
        assert got.dtype == HALF and got.shape == (1, length, width)
        torch.testing.assert_close(got, want, atol=1e-2, rtol=0)
    other = positions.rope_tables(
        length, width, theta, HALF, torch.device("cpu"), None if rounding != "exact" else HALF
    )
    assert not torch.allclose(tables[0], other[0], atol=1e-2)


@pytest.mark.skipif(
    hasattr(Qwen3VLVisionRotaryEmbedding, "compute_axial_rope_parameters"),
    reason="this transformers computes the table in float32, whatever the dtype of the frequencies",
)
def test_rounded_vision_table_is_that_of_transformers():
    side, head_dim = 32, 64
    reference = Qwen3VLVisionRotaryEmbedding(head_dim // 2).to(HALF)
    coordinates = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    angles = reference(side)[coordinates].flatten(1)
    angles = torch.cat((angles, angles), dim=-1)
    cos, sin = positions.vision_rope_tables(coordinates, head_dim, HALF)
    assert torch.equal(cos, angles.cos().float()) and torch.equal(sin, angles.sin().float())
    exact, _ = positions.vision_rope_tables(coordinates, head_dim)
    assert not torch.allclose(cos, exact, atol=1e-2)


def features(golden, match: bool) -> torch.Tensor:
    backbone = golden.model.backbone
    backbone.match_reference_bf16 = match
    try:
        with torch.no_grad():
            return backbone(golden.inputs).features.float()
    finally:
        backbone.match_reference_bf16 = False


def test_rounding_is_for_bfloat16_only(golden):
    assert torch.equal(features(golden, True), features(golden, False))


@pytest.mark.parametrize("name", ["n1d5", "n1d6", "n1d7"])
def test_rounding_is_off_unless_asked_for(load_golden, name):
    half = load_golden(name, dtype=HALF)
    assert not half.model.backbone.match_reference_bf16
    assert half.model.backbone.rope_rounding is None
    # N1.5's policy does not round: there is nothing to match.
    assert torch.equal(features(half, True), features(half, False)) is (name == "n1d5")
