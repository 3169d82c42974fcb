"""The N1.7 network against NVIDIA's: every stage, loss, gradients and sampler, on the references of golden/n1d7."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from groot_ros.model.action_head import RtcOptions, velocity_strength
from groot_ros.model.positions import mrope_position_ids

# Tolerances of golden/LAYOUT.md; the relative part is the rounding of values larger than one.
FEATURES = {"atol": 1e-5, "rtol": 0}
HIDDEN = {"atol": 3e-5, "rtol": 0}

# Golden tensor names of one stage, which of them must exist in every set, and the tolerance.
STAGES = {
    "vision": (r"mid\.vis\.(block_input|block\d+|deepstack\d+|merger)", True, FEATURES),
    "language_input": (r"mid\.llm\.(inputs_embeds|rope_cos|rope_sin)", True, FEATURES),
    "language_layers": (r"mid\.llm\.layer\d+", True, FEATURES),
    "vlln": (r"out\.(vlln_out|vl_self_attention_out)", True, FEATURES),
    "vl_self_attention": (r"mid\.vlsa\.block\d+", False, FEATURES),
    "encoders": (r"out\.(state_features|action_features)", True, FEATURES),
    "dit_input": (r"mid\.dit\.(temb|input)", True, FEATURES),
    "dit_blocks": (r"mid\.dit\.block\d+", True, HIDDEN),
    "dit_output": (r"out\.(dit_output|action_decoder_out)", True, FEATURES),
}


def training_pass(golden):
    return golden.model.loss(golden.inputs, golden.io["in.noise"], golden.io["in.t"])


@pytest.fixture(scope="module")
def captured(golden):
    with torch.no_grad():
        return golden.capture(lambda: training_pass(golden))


@pytest.mark.parametrize("stage", STAGES)
def test_golden_stage(golden, captured, stage):
    pattern, required, tolerance = STAGES[stage]
    names = [name for name in golden.io if re.fullmatch(pattern, name)]
    if not names and not required:
        assert golden.model.config.vl_self_attention is None
    else:
        assert names
    for name in names:
        torch.testing.assert_close(captured[name][0], golden.io[name], **tolerance, msg=lambda m, n=name: f"{n}: {m}")


def test_golden_backbone(golden):
    with torch.no_grad():
        out = golden.model.backbone(golden.inputs)
    torch.testing.assert_close(out.features, golden.io["out.backbone_features"], **FEATURES)
    assert torch.equal(out.attention_mask.to(torch.uint8), golden.io["out.backbone_attention_mask"])
    assert torch.equal(out.image_mask.to(torch.uint8), golden.io["out.image_mask"])


def test_golden_position_ids(golden):
    backbone = golden.model.backbone
    ids = mrope_position_ids(
        golden.inputs["input_ids"],
        golden.inputs["attention_mask"],
        golden.inputs["image_grid_thw"].tolist(),
        image_token_id=backbone.image_token_id,
        merge=backbone.merge,
    )
    assert torch.equal(ids, golden.io["mid.llm.position_ids"])


def alone(golden, sample: int) -> dict[str, Tensor]:
    """One sample of the golden batch without its padding."""
    backbone, inputs = golden.model.backbone, golden.inputs
    real = inputs["attention_mask"] == 1
    tokens = ((inputs["input_ids"] == backbone.image_token_id) & real).sum(dim=1).tolist()
    grids = inputs["image_grid_thw"]
    per_image = (grids.prod(dim=1) // backbone.merge**2).tolist()
    owner, left = [], list(tokens)
    for count in per_image:  # images are in batch order: each belongs to the first sample that still lacks tokens
        b = next(i for i, n in enumerate(left) if n > 0)
        left[b] -= count
        owner.append(b)
    assert not any(left)
    patches = grids.prod(dim=1).tolist()
    pixels = [p for p, b in zip(inputs["pixel_values"].split(patches), owner, strict=True) if b == sample]
    row = real[sample]
    return {
        "input_ids": inputs["input_ids"][sample][row][None],
        "attention_mask": inputs["attention_mask"][sample][row][None],
        "pixel_values": torch.cat(pixels),
        "image_grid_thw": grids[torch.tensor(owner) == sample],
        "state": inputs["state"][sample : sample + 1],
        "embodiment_id": inputs["embodiment_id"][sample : sample + 1],
    }


def test_golden_samples_alone(golden):
    found = [(n, m) for n in golden.io if (m := re.fullmatch(r"out\.single(\d+)\.(.+)", n))]
    assert found
    for name, match in found:
        sample, what = int(match[1]), match[2]
        inputs = alone(golden, sample)
        with torch.no_grad():
            if what == "backbone_features":
                got = golden.model.backbone(inputs).features
            else:
                assert what == "action_pred"
                got = golden.model.sample(inputs, golden.io["in.init_noise"][sample : sample + 1])
        torch.testing.assert_close(got, golden.io[name], **FEATURES)


def test_golden_loss(golden):
    with torch.no_grad():
        out = training_pass(golden)
    torch.testing.assert_close(out.loss[None], golden.io["out.loss"].reshape(1), **FEATURES)
    # Squares of up to 15, where float32 itself steps by 1e-6: their last digits are the order of summation.
    torch.testing.assert_close(out.action_loss, golden.io["out.action_loss"], atol=1e-5, rtol=1e-6)
    horizon = out.predicted_velocity.shape[1]
    velocity = golden.io["out.action_decoder_out"][:, -horizon:]
    torch.testing.assert_close(out.predicted_velocity, velocity, **FEATURES)


def test_golden_gradients(golden):
    model = golden.model
    expected = golden.json("grad_norms.json")
    stored = {name[len("grad.") :]: value for name, value in golden.io.items() if name.startswith("grad.")}
    assert stored
    try:
        training_pass(golden).loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
    finally:
        model.zero_grad(set_to_none=True)
    # The golden list names the tied head too, which is the embedding's parameter.
    tied = model.tied_parameters()
    without = {tied.get(name, name) for name in expected["no_grad_params"]}
    assert {name for name, grad in gradients.items() if grad is None} == without
    assert {tied.get(name, name) for name in expected["grad_norms"]} == set(gradients) - without
    for name, norm in expected["grad_norms"].items():
        got = gradients[tied.get(name, name)]
        assert got.norm().item() == pytest.approx(norm, rel=1e-4, abs=1e-6), name
    for name, value in stored.items():
        torch.testing.assert_close(gradients[tied.get(name, name)], value, atol=1e-5, rtol=1e-4)


def test_golden_euler_steps(golden):
    velocities = [n for n in golden.io if re.fullmatch(r"out\.get_action\.step\d+\.decoder_out", n)]
    assert velocities
    seen = golden.capture(lambda: golden.model.sample(golden.inputs, golden.io["in.init_noise"], len(velocities)))
    for i, out in enumerate(seen["out.action_decoder_out"]):
        torch.testing.assert_close(out, golden.io[f"out.get_action.step{i}.decoder_out"], **FEATURES)
    assert len(seen["out.action_decoder_out"]) == len(velocities)
    # What does not depend on the step is computed once.
    assert len(seen["out.vlln_out"]) == len(seen["out.state_features"]) == 1


def test_golden_actions(golden):
    counts = {None: "out.get_action.action_pred"}
    for name in golden.io:
        if match := re.fullmatch(r"out\.get_action_steps(\d+)\.action_pred", name):
            counts[int(match[1])] = name
    assert len(counts) > 1
    for steps, name in counts.items():
        actions = golden.model.sample(golden.inputs, golden.io["in.init_noise"], steps)
        torch.testing.assert_close(actions, golden.io[name], **FEATURES)


def test_golden_real_time_chunking(golden):
    cases = golden.model.config.extra["_rtc_cases"]
    assert len(cases) == len([n for n in golden.io if re.fullmatch(r"out\.rtc\d+\.action_pred", n)]) > 0
    for i, case in enumerate(cases):
        previous = golden.io["in.prev_action"]
        overlap, frozen = case["rtc_overlap_steps"], case["rtc_frozen_steps"]
        options = RtcOptions(previous, case["action_horizon"], overlap, frozen, case["rtc_ramp_rate"])
        actions = golden.model.sample(golden.inputs, golden.io["in.init_noise"], rtc=options)
        torch.testing.assert_close(actions, golden.io[f"out.rtc{i}.action_pred"], **FEATURES)
        start = case["action_horizon"] - overlap
        assert torch.equal(actions[:, :frozen], previous[:, start : start + frozen])
        strength = velocity_strength(actions.shape[1], overlap, frozen, case["rtc_ramp_rate"])
        torch.testing.assert_close(strength, golden.io[f"out.rtc{i}.vel_strength"], **FEATURES)


def test_golden_state_dict_keys(golden):
    listed = golden.json("state_dict_keys.json")
    state = golden.model.state_dict()
    assert {name: list(p.shape) for name, p in state.items()} == {name: shape for name, (shape, _) in listed.items()}
    assert {str(p.dtype) for p in state.values()} == {f"torch.{dtype}" for _, dtype in listed.values()}


def test_golden_config_is_written_back(golden):
    read = golden.json("config.json")
    written = golden.model.config.to_dict()
    assert {name: written[name] for name in read} == read
