"""The networks against NVIDIA's, where the golden references have more than the plain batch: padding, other settings,
bfloat16, state dropout, in-painting, times; and the parts of one backbone only."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from groot_ros.model import positions
from groot_ros.model.action_head import FLOW, RtcOptions, velocity_strength

FEATURES = {"atol": 1e-5, "rtol": 0}
BFLOAT16 = {"atol": 5e-2, "rtol": 0}


def close(got: Tensor, expected: Tensor, name: str, tolerance: dict[str, float] = FEATURES) -> None:
    torch.testing.assert_close(got, expected, **tolerance, msg=lambda text: f"{name}: {text}")


def features(golden, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return golden.model.backbone(inputs).features


def test_golden_padded_batches(golden_eagle):
    """Batches with samples of different lengths; rows of padding change N1.5's actions."""
    prefixes = [m[1] for name in golden_eagle.io if (m := re.fullmatch(r"(.+\.)input_ids", name))]
    if golden_eagle.model.config.generation == "n1d6":
        prefixes.append("")
    assert prefixes
    for prefix in prefixes:
        inputs = golden_eagle.batch(prefix)
        assert not bool(inputs["attention_mask"].all())
        close(features(golden_eagle, inputs), golden_eagle.io[f"{prefix}out.backbone_features"], prefix)
        actions = golden_eagle.model.sample(inputs, golden_eagle["initial noise"])
        close(actions, golden_eagle.io[f"{prefix}infer.action_pred"], prefix)


def test_golden_samples_alone(golden_cosmos):
    golden = golden_cosmos
    found = [(n, m) for n in golden.io if (m := re.fullmatch(r"out\.single(\d+)\.(.+)", n))]
    assert found
    for name, match in found:
        sample, what = int(match[1]), match[2]
        inputs = golden.alone(golden.inputs, sample)
        if what == "backbone_features":
            close(features(golden, inputs), golden.io[name], name)
        else:
            assert what == "action_pred"
            close(golden.model.sample(inputs, golden["initial noise"][sample : sample + 1]), golden.io[name], name)


def test_golden_padding_does_not_change_real_rows(golden):
    """Each sample without its padding has the features that it has in the batch."""
    real = golden.inputs["attention_mask"] == 1
    for sample in range(len(real)):
        got = features(golden, golden.alone(golden.inputs, sample))[0]
        close(got, golden.io["out.backbone_features"][sample][real[sample]], f"sample {sample}")


# Names of the variants that are the same weights under another config.
VARIANTS = {
    r"plain_dit": lambda _: {"use_alternate_vl_dit": False},
    r"attend_text_every_(\d+)": lambda match: {"attend_text_every_n_blocks": int(match[1])},
}


def test_golden_variants_of_the_config(golden_n1d6, load_golden):
    found = 0
    for name, expected in golden_n1d6.io.items():
        for pattern, changes in VARIANTS.items():
            if match := re.fullmatch(rf"variant\.{pattern}\.infer\.action_pred", name):
                other = load_golden("n1d6", **changes(match))
                close(other.model.sample(other.inputs, other["initial noise"]), expected, name)
                found += 1
    assert found >= len(VARIANTS)


def test_golden_dropped_state_is_the_mask_token(golden_n1d6, load_golden):
    token = golden_n1d6.io["variant.state_dropout1.mask_token"]
    other = load_golden("n1d6", added={"action_head.mask_token": token}, state_dropout_prob=1.0)
    with torch.no_grad():
        close(other.train().loss[None], golden_n1d6.io["variant.state_dropout1.train.loss"], "loss")


@pytest.mark.parametrize("match_reference", [False, True])
def test_golden_bfloat16(golden_n1d6, load_golden, match_reference):
    names = [n for n in golden_n1d6.io if re.fullmatch(r"variant\.bf16\.infer\.action_pred", n)]
    assert names
    other = load_golden("n1d6", dtype=torch.bfloat16)
    other.model.backbone.match_reference_bf16 = match_reference
    close(other.model.sample(other.inputs, other["initial noise"]), golden_n1d6.io[names[0]], names[0], BFLOAT16)


def test_golden_training_times(golden_eagle):
    generation = golden_eagle.model.config.generation
    draws, times = golden_eagle.io["time.beta_samples_seed42"], golden_eagle.io[f"time.{generation}_t"]
    close(FLOW[generation].time(draws, golden_eagle.model.config.noise_s), times, "time", {"atol": 1e-7, "rtol": 0})


def test_golden_real_time_chunking(golden_cosmos):
    golden = golden_cosmos
    cases = golden.model.config.extra["_rtc_cases"]
    assert len(cases) == len([n for n in golden.io if re.fullmatch(r"out\.rtc\d+\.action_pred", n)]) > 0
    for i, case in enumerate(cases):
        previous = golden.io["in.prev_action"]
        overlap, frozen = case["rtc_overlap_steps"], case["rtc_frozen_steps"]
        options = RtcOptions(previous, case["action_horizon"], overlap, frozen, case["rtc_ramp_rate"])
        actions = golden.model.sample(golden.inputs, golden["initial noise"], rtc=options)
        close(actions, golden.io[f"out.rtc{i}.action_pred"], f"rtc {i}")
        start = case["action_horizon"] - overlap
        assert torch.equal(actions[:, :frozen], previous[:, start : start + frozen])
        strength = velocity_strength(actions.shape[1], overlap, frozen, case["rtc_ramp_rate"])
        close(strength, golden.io[f"out.rtc{i}.vel_strength"], f"rtc {i}")


def test_golden_cosmos_positions(golden_cosmos):
    """Position ids of the prompt; the position table stretched over each image."""
    backbone, io, inputs = golden_cosmos.model.backbone, golden_cosmos.io, golden_cosmos.inputs
    grids = inputs["image_grid_thw"].tolist()
    ids = positions.mrope_position_ids(
        *(inputs["input_ids"], inputs["attention_mask"], grids),
        image_token_id=backbone.image_token_id,
        merge=backbone.merge,
    )
    assert torch.equal(ids, io["mid.llm.position_ids"])
    coordinates = positions.patch_coordinates(grids, backbone.merge, ids.device)
    indices, weights = positions.position_table_lookup(grids, coordinates, backbone.visual.num_grid_per_side)
    with torch.no_grad():
        table = (backbone.visual.pos_embed(indices) * weights[..., None]).sum(dim=0)
    close(table, io["mid.vis.block_input"] - io["mid.vis.patch_embed"], "position table")


def test_golden_cosmos_final_norm(golden_cosmos):
    """NVIDIA's checkpoints hold the norm that N1.7 does not use."""
    with torch.no_grad():
        normed = golden_cosmos.model.backbone.language_model.norm(golden_cosmos.io["out.backbone_features"])
    close(normed, golden_cosmos.io["mid.llm.final_norm_UNUSED"], "norm")


def test_golden_siglip2_embeddings(golden_n1d6):
    """Patches, and the position table stretched over each image, apart."""
    io, embeddings = golden_n1d6.io, golden_n1d6.model.backbone.visual.embeddings
    grids = golden_n1d6.inputs["image_grid_thw"]
    assert torch.equal(grids[:, 1:], io["out.vision.spatial_shapes"])
    with torch.no_grad():
        patches = embeddings.embed(golden_n1d6.inputs["pixel_values"])
        tables = torch.cat([embeddings.positions(rows, cols) for _, rows, cols in grids.tolist()])
    close(patches, io["out.vision.patch_embedding"], "patches")
    close(tables[None], io["out.vision.resized_pos_embed"], "position table")


def test_golden_siglip_patches_are_the_convolution(golden_n1d5):
    embeddings = golden_n1d5.model.backbone.visual.embeddings
    convolution = embeddings.patch_embedding
    images = golden_n1d5.io["pixel_values"]
    with torch.no_grad():
        expected = functional.conv2d(images, convolution.weight, convolution.bias, stride=convolution.stride)
        got = embeddings.embed(golden_n1d5.inputs["pixel_values"])
    close(got, expected.flatten(2).transpose(1, 2).flatten(0, 1), "patches")
