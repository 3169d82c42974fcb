"""What is trained and what sleeps, against the tables of the reference, and the loss that trainers see."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from groot_ros.training.errors import TrainingError
from groot_ros.training.flags import FinetuneFlags
from groot_ros.training.lora import add_adapters, has_adapters, merged
from groot_ros.training.parts import Choice, TrainingModel, counts, decay_groups, freeze

FLAGS = FinetuneFlags(base_model_path="base", dataset_path=("data",))
PROJECTOR = {"state_encoder", "action_encoder", "action_decoder", "position_embedding"}


def groups(model) -> set[str]:
    """Names of the parts with a trained parameter: modules of the head, towers of the backbone, LLM layers."""
    backbone = model.backbone
    places = {"vision": [backbone.visual], "language": [backbone.language_model.embed_tokens]}
    places.update({f"layer{i}": [layer] for i, layer in enumerate(backbone.language_model.layers)})
    if hasattr(backbone, "connector"):
        places["connector"] = [backbone.connector]
    names = {id(p): name for name, modules in places.items() for m in modules for p in m.parameters()}
    for child, module in model.action_head.named_children():
        names.update({id(p): child for p in module.parameters()})
    for name, parameter in model.action_head.named_parameters(recurse=False):
        names[id(parameter)] = name
    return {names.get(id(p), name) for name, p in model.named_parameters() if p.requires_grad}


@pytest.fixture
def model(load_golden, generation):
    return load_golden(generation).model


def frozen(model, **flags):
    chosen = FinetuneFlags(base_model_path="base", dataset_path=("data",), **flags).resolved(model.config.generation)
    return freeze(model, Choice.of(chosen, model))


def test_default_groups(model, generation):
    """The whole head; in N1.6 also the last language layers, of which the golden config asks for two of three."""
    expected = PROJECTOR | {"model", "vlln"}
    if model.config.vl_self_attention is not None:
        expected.add("vl_self_attention")
    if model.config.num_target_vision_tokens:
        expected.add("future_tokens")
    if generation == "n1d6":
        expected |= {"layer1", "layer2"}
    asleep = frozen(model)
    assert groups(model) == expected
    assert model.backbone.language_model in asleep and model.backbone.visual in asleep


def test_top_layers_without_a_word_in_the_config(model, generation):
    model.config.extra.pop("tune_top_llm_layers", None)
    choice = Choice.of(FLAGS.resolved(generation), model)
    assert choice.tune_top_llm_layers == {"n1d5": 0, "n1d6": 4, "n1d7": 0}[generation]


def test_towers(model, generation):
    asleep = frozen(model, tune_llm=True, tune_visual=True)
    trained = groups(model)
    assert {"vision", "language", "layer0"} <= trained
    assert ("connector" in trained) == (generation != "n1d7")
    assert not asleep
    unused = model.unused_parameters()
    assert not any(p.requires_grad for name, p in model.named_parameters() if name in unused)


def test_head_without_projector(model):
    asleep = frozen(model, tune_projector=False, tune_top_llm_layers=0)
    assert not groups(model) & {*PROJECTOR, "mask_token"}
    assert "model" in groups(model)
    assert model.action_head.state_encoder in asleep


def test_head_without_diffusion_model(model):
    frozen(model, tune_diffusion_model=False, tune_top_llm_layers=0)
    assert "model" not in groups(model) and "state_encoder" in groups(model)


def test_vlln_is_trained_whatever_the_config_says(model, generation):
    """NVIDIA's launcher sets it; the config of a checkpoint is what the run before had."""
    model.config.extra["tune_vlln"] = False
    frozen(model)
    assert "vlln" in groups(model)


def test_vlln_switch(model, generation):
    if generation == "n1d5":
        with pytest.raises(TrainingError, match="--no-tune-vlln"):
            frozen(model, tune_vlln=False)
        return
    frozen(model, tune_vlln=False)
    assert not groups(model) & {"vlln", "vl_self_attention"}


def test_nothing_to_train_is_refused(own_n1d7_model):
    with pytest.raises(TrainingError, match="nothing to train"):
        frozen(own_n1d7_model, tune_projector=False, tune_diffusion_model=False, tune_vlln=False)


@pytest.fixture
def own_n1d7_model(load_golden):
    return load_golden("n1d7").model


def test_more_top_layers_than_there_are(own_n1d7_model):
    with pytest.raises(TrainingError, match="--tune-top-llm-layers is 99, expected at most"):
        frozen(own_n1d7_model, tune_top_llm_layers=99)


def test_frozen_modules_stay_in_eval_mode(model):
    """Also those whose last layers are trained, as N1.6's language model."""
    wrapped = TrainingModel(model, frozen(model, tune_top_llm_layers=1)).train()
    assert model.action_head.model.training and model.action_head.training
    towers = (model.backbone.language_model, model.backbone.visual)
    assert not any(module.training for tower in towers for module in tower.modules())
    assert not any(module.training for module in wrapped.eval().modules())


def test_decay(model):
    frozen(model, tune_llm=True, tune_visual=True)
    decayed, plain = decay_groups(model, 0.1)
    names = {id(p): name for name, p in model.named_parameters()}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    with_bias = {name for name in names.values() if "bias" in name}
    without = {names[id(p)] for p in plain["params"]}
    assert with_bias - model.unused_parameters() <= without
    norms = {name for name in without - with_bias}
    assert norms and all("norm" in name or name.endswith("vlln.weight") or "mlp1.0" in name for name in norms)
    assert any(name.endswith("state_encoder.layer1.b") for name in (names[id(p)] for p in decayed["params"]))
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(trained) == len(decayed["params"]) + len(plain["params"])


def test_golden_loss_and_gradients_as_trainers_see_them(load_golden, generation):
    """NVIDIA's loss and gradient norms, through the module that the Trainer calls, everything trained."""
    golden = load_golden(generation)
    frozen(golden.model, tune_llm=True, tune_visual=True)
    trained = TrainingModel(golden.model, [])
    batch = {**golden.inputs, "noise": golden["noise"], "t": golden["t"]}
    loss = trained(batch)["loss"]
    torch.testing.assert_close(loss.reshape(1), golden["loss"].reshape(1), atol=1e-5, rtol=0)
    loss.backward()
    listed = golden.json("grad_norms.json")
    norms = listed.get("grad_norms", listed)
    gradients = {name: p.grad for name, p in golden.model.named_parameters() if p.grad is not None}
    tied = golden.model.tied_parameters()
    assert set(gradients) == {tied.get(name, name) for name in norms}
    for name, norm in norms.items():
        assert gradients[tied.get(name, name)].norm().item() == pytest.approx(norm, rel=1e-4, abs=1e-6), name
    total = nn.utils.get_total_norm(gradients.values())
    squares = sum(norm**2 for name, norm in norms.items() if name not in tied)
    assert total.item() == pytest.approx(squares**0.5, rel=1e-4)


def test_gradient_checkpointing_changes_nothing(load_golden, generation):
    def gradients(checkpointing):
        golden = load_golden(generation)
        trained = TrainingModel(golden.model, frozen(golden.model, tune_llm=True, tune_visual=True)).train()
        if checkpointing:
            trained.gradient_checkpointing_enable()
        torch.manual_seed(3)
        trained({**golden.inputs, "noise": golden["noise"], "t": golden["t"]})["loss"].backward()
        return {name: p.grad for name, p in trained.named_parameters() if p.grad is not None}

    plain, again = gradients(False), gradients(True)
    assert plain.keys() == again.keys()
    for name, value in plain.items():
        torch.testing.assert_close(again[name], value, atol=1e-6, rtol=1e-5)


def test_noise_draws_are_the_mean_over_them(load_golden, generation):
    golden = load_golden(generation)
    generator = torch.Generator().manual_seed(1)
    batch, horizon, width = golden.inputs["action"].shape
    noise = torch.randn(batch, 3, horizon, width, generator=generator)
    t = torch.rand(batch, 3, generator=generator)
    with torch.no_grad():
        together = golden.model.loss(golden.inputs, noise, t).loss
        single = [golden.model.loss(golden.inputs, noise[:, i], t[:, i]).loss for i in range(3)]
    torch.testing.assert_close(together, torch.stack(single).mean(), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="t has shape"):
        golden.model.loss(golden.inputs, noise, t[:, 0])
    with pytest.raises(ValueError, match="noise has shape"):
        golden.model.loss(golden.inputs, noise[:, :, 1:], t)


@pytest.mark.parametrize("half", [False, True], ids=["float32 frozen", "bfloat16 frozen"])
def test_autocast_keeps_float32_weights(load_golden, generation, half):
    """bfloat16 arithmetic on float32 weights; frozen ones may be bfloat16, as on a GPU."""
    golden = load_golden(generation)
    model = golden.model
    trained = TrainingModel(model, frozen(model)).train()
    for parameter in model.parameters():
        if half and not parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)
    batch = {**golden.inputs, "noise": golden["noise"], "t": golden["t"]}
    trained.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = trained(batch)["loss"]
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(golden["loss"].item(), rel=0.05)
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(grad is not None and grad.dtype == torch.float32 for grad in grads)


@pytest.mark.parametrize("part", ["adapters", "projector"])
def test_states_and_actions_stay_float32_beside_a_bfloat16_part(load_golden, generation, part, monkeypatch):
    """Of the head, only adapters, or all but the diffusion transformer are trained: the rest of it is bfloat16."""
    golden = load_golden(generation)
    model = golden.model
    if part == "adapters":
        flags = FinetuneFlags(base_model_path="base", dataset_path=("d",), lora_rank=2, tune_projector=False)
        asleep = freeze(model, Choice.of(flags.resolved(generation), model))
        add_adapters(model, flags)
    else:
        asleep = frozen(model, tune_diffusion_model=False)
    trained = TrainingModel(model, asleep).eval()
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)
    seen, real = [], model.action_head.loss

    def loss_of(features, inputs, *draws):
        seen.append({inputs[name].dtype for name in ("state", "action", "action_mask")})
        return real(features, inputs, *draws)

    monkeypatch.setattr(model.action_head, "loss", loss_of)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = trained({**golden.inputs, "noise": golden["noise"], "t": golden["t"]})["loss"]
    loss.backward()
    assert seen == [{torch.float32}] and loss.dtype == torch.float32
    assert loss.item() == pytest.approx(golden["loss"].item(), rel=0.05)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters() if p.requires_grad)


def test_adapters_of_the_backbone_are_in_every_tower(load_golden, generation):
    model = load_golden(generation).model
    flags = FinetuneFlags(base_model_path="base", dataset_path=("d",), lora_rank=2, lora_full_model=True)
    freeze(model, Choice.of(flags.resolved(generation), model))
    add_adapters(model, flags)
    adapted = [name for name, p in model.named_parameters() if ".lora_" in name and p.requires_grad]
    for tower in ("backbone.language_model", "backbone.visual", "action_head.model"):
        inside = {id(p) for p in model.get_submodule(tower).parameters()}
        assert any(id(model.get_parameter(name)) in inside for name in adapted), tower


def test_adapters(load_golden, generation):
    golden = load_golden(generation)
    model = golden.model
    plain = dict(model.state_dict())
    flags = FinetuneFlags(base_model_path="base", dataset_path=("d",), lora_rank=2).resolved(generation)
    freeze(model, Choice.of(flags, model))
    add_adapters(model, flags)
    assert has_adapters(model)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    whole = tuple(f"action_head.{part}" for part in (*PROJECTOR, "mask_token"))
    assert all(name.startswith("action_head.") for name in names)
    assert any(".lora_" in name for name in names)
    assert all(".lora_" in name or name.startswith(whole) for name in names)
    assert 0 < counts(model)["trained"] < counts(model)["total"]
    assert merged(model, model.state_dict()).keys() == plain.keys()
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            nn.init.normal_(parameter, std=0.05)
    with torch.no_grad():
        model.eval()  # new adapters come awake, with dropout
        adapted = golden.train().loss
    other = load_golden(generation).model
    other.load_state_dict(merged(model, model.state_dict()))
    with torch.no_grad():
        loss = other.loss(golden.inputs, golden["noise"], golden["t"]).loss
    assert loss.item() == pytest.approx(adapted.item(), rel=1e-5)
    assert abs(loss.item() - golden["loss"].item()) > 1e-4


def test_adapters_and_whole_layers_are_not_mixed(own_n1d7_model):
    flags = FinetuneFlags(base_model_path="base", dataset_path=("d",), lora_rank=2, tune_llm=True).resolved("n1d7")
    with pytest.raises(TrainingError, match="--tune-llm with --lora-rank"):
        add_adapters(own_n1d7_model, flags)
