"""The networks of all generations against NVIDIA's: every stage, loss, gradients, sampler, on the golden references."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

# Tolerances of golden/LAYOUT.md.
FEATURES = {"atol": 1e-5, "rtol": 0}
HIDDEN = {"atol": 3e-5, "rtol": 0}

# Golden tensor names of one stage, which generations must have some, and the tolerance.
ALL = ("n1d5", "n1d6", "n1d7")
STAGES = {
    "vision": (
        r"mid\.vis\.(block_input|block\d+|deepstack\d+|merger)|out\.vision\.(embeddings|last_hidden_state)",
        ALL,
    ),
    "connector": (r"out\.vision\.mlp1_out(\.in)?", ("n1d5", "n1d6")),
    "language_input": (r"mid\.llm\.(inputs_embeds|rope_cos|rope_sin)", ("n1d7",)),
    "language_layers": (r"(mid|out)\.llm\.layer\d+", ALL),
    "language_norm": (r"out\.llm\.final_norm", ("n1d5", "n1d6")),
    "vlln": (r"out\.(vlln_out|vl_self_attention_out)|train\.vlln", ALL),
    "vl_self_attention": (r"mid\.vlsa\.block\d+|train\.vl_self_attention(\.block\d+)?", ()),
    "encoders": (r"(out|train)\.(state_features|action_features(_nopos)?)", ALL),
    "noisy_actions": (r"train\.noisy_trajectory", ("n1d5", "n1d6")),
    "dit_input": (r"mid\.dit\.(temb|input)|train\.(temb|sa_embs)", ALL),
    "dit_blocks": (r"(mid|train)\.dit\.block\d+", ALL),
    "dit_output": (r"(out|train)\.(dit_output|action_decoder_out|pred_all_tokens)", ALL),
}


def close(got: Tensor, expected: Tensor, name: str, tolerance: dict[str, float]) -> None:
    torch.testing.assert_close(got, expected, **tolerance, msg=lambda text: f"{name}: {text}")


@pytest.fixture(scope="module")
def captured(golden):
    with torch.no_grad():
        return golden.capture(golden.train)


@pytest.mark.parametrize("stage", STAGES)
def test_golden_stage(golden, captured, stage):
    pattern, generations = STAGES[stage]
    names = [name for name in golden.io if re.fullmatch(pattern, name)]
    required = golden.model.config.generation in generations
    if stage == "vl_self_attention":
        required = golden.model.config.vl_self_attention is not None
    assert names or not required
    for name in names:
        expected = golden.io[name]
        # Images of one batch are stored as a stack in one generation and one after the other in another.
        close(captured[name][0].reshape(expected.shape), expected, name, HIDDEN if stage == "dit_blocks" else FEATURES)


def test_golden_backbone(golden):
    with torch.no_grad():
        out = golden.model.backbone(golden.inputs)
    close(out.features, golden.io["out.backbone_features"], "features", FEATURES)
    assert torch.equal(out.attention_mask, golden.io["out.backbone_attention_mask"].bool())
    if golden.model.config.generation != "n1d5":  # whose head does not look at it
        assert torch.equal(out.image_mask, golden.io["out.image_mask"].bool())


def test_golden_loss(golden):
    with torch.no_grad():
        out = golden.train()
    close(out.loss[None], golden["loss"].reshape(1), "loss", FEATURES)
    times = golden.io.get("train.t_discretized", (golden["t"] * golden.model.config.num_timestep_buckets).long())
    assert torch.equal(out.timestep, times)
    velocity = golden["all tokens"][:, -golden.model.config.action_horizon :]
    close(out.predicted_velocity, velocity, "velocity", FEATURES)
    # Squares of up to 15, where float32 itself steps by 1e-6: their last digits are the order of summation.
    squares = {"atol": 1e-5, "rtol": 1e-6}
    if golden.role("action_loss") in golden.io:
        close(out.action_loss, golden["action_loss"], "action_loss", squares)
    if "train.velocity" in golden.io:
        mask = golden.inputs["action_mask"].float()
        close(
            out.action_loss, (velocity - golden.io["train.velocity"]) ** 2 * mask, "squares", {**squares, "rtol": 1e-5}
        )


def test_golden_gradients(golden):
    model = golden.model
    listed = golden.json("grad_norms.json")
    norms = listed.get("grad_norms", listed)
    prefix = golden.role("gradient")
    stored = {name[len(prefix) :]: value for name, value in golden.io.items() if name.startswith(prefix)}
    assert stored
    try:
        golden.train().loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
    finally:
        model.zero_grad(set_to_none=True)
    # The golden list names a tied head too, which is the embedding's parameter.
    tied = model.tied_parameters()
    without = {tied.get(name, name) for name in listed.get("no_grad_params", model.unused_parameters())}
    assert {name for name, grad in gradients.items() if grad is None} == without
    assert {tied.get(name, name) for name in norms} == set(gradients) - without
    for name, norm in norms.items():
        got = gradients[tied.get(name, name)]
        assert got.norm().item() == pytest.approx(norm, rel=1e-4, abs=1e-6), name
    for name, value in stored.items():
        close(gradients[tied.get(name, name)], value, name, {"atol": 1e-5, "rtol": 1e-4})


RUN = re.compile(r"(infer|variant\.steps(\d+)\.infer|out\.get_action(?:_steps(\d+))?)\.action_pred")


def test_golden_euler(golden):
    """Every stored number of steps, and every stored step of each run."""
    model = golden.model
    runs = {match[1]: int(match[2] or match[3] or 0) for name in golden.io if (match := RUN.fullmatch(name))}
    assert len(runs) > 1
    decoded, noisy, vlln, state = (golden.role(role) for role in ("all tokens", "noisy", "vlln", "state features"))
    compared = 0
    for run, count in runs.items():
        steps = count or model.config.num_inference_timesteps
        actions = model.sample(golden.inputs, golden["initial noise"], count or None)
        close(actions, golden.io[f"{run}.action_pred"], run, FEATURES)
        seen = golden.capture(lambda n=steps: model.sample(golden.inputs, golden["initial noise"], n))
        # What does not depend on the step is computed once.
        assert [len(seen[name]) for name in (decoded, noisy, vlln, state)] == [steps, steps, 1, 1]
        after, horizon = [*seen[noisy][1:], actions], actions.shape[1]
        for i in range(steps):
            got = {
                f"{run}.step{i}.decoder_out": seen[decoded][i],
                f"{run}.step{i}.velocity": seen[decoded][i][:, -horizon:],
                f"{run}.step{i}.actions": after[i],
            }
            for name in golden.io.keys() & got.keys():
                close(got[name], golden.io[name], name, FEATURES)
                compared += 1
        once = {f"{run}.backbone_features_vlln": seen[vlln][0], f"{run}.state_features": seen[state][0]}
        for name in golden.io.keys() & once.keys():
            close(once[name], golden.io[name], name, FEATURES)
    assert compared == sum(bool(re.fullmatch(r".+\.step\d+\.(decoder_out|velocity|actions)", n)) for n in golden.io) > 0


def test_golden_unused_parameters_are_not_read(golden, load_golden):
    other = load_golden(golden.name)
    parameters = dict(other.model.named_parameters())
    with torch.no_grad():
        for name in other.model.unused_parameters():
            parameters[name].fill_(torch.nan)
    actions = other.model.sample(other.inputs, other["initial noise"])
    assert torch.equal(actions, golden.model.sample(golden.inputs, golden["initial noise"]))


def test_golden_state_dict(golden):
    """Names and shapes of all parameters, which are those of the golden weights."""
    if (golden.path / "state_dict_keys.json").exists():
        listed = {name: shape for name, (shape, _) in golden.json("state_dict_keys.json").items()}
    else:
        with safe_open(golden.path / "weights.safetensors", "pt") as file:
            listed = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (not a dict)
    assert {name: list(p.shape) for name, p in golden.model.state_dict().items()} == listed


def test_golden_config_is_written_back(golden_cosmos):
    read = golden_cosmos.json("config.json")
    written = golden_cosmos.model.config.to_dict()
    assert {name: written[name] for name in read} == read
