"""Single layers against NVIDIA's, on the references golden/n1d5/modules.* and golden/n1d6/modules.*."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from groot_ros.model.config import ConfigError, TransformerConfig
from groot_ros.model.dit import AdaptiveNorm, DiT, SelfAttentionStack, TimestepEncoder, time_sinusoid
from groot_ros.model.embodiment_layers import ActionEncoder, CategoryLinear, CategoryMLP, action_time_embedding

Run = Callable[[dict[str, Any], dict[str, Tensor], dict[str, Tensor]], dict[str, Tensor]]


def layer(build: Callable[[dict[str, Any]], nn.Module], *arguments: str) -> Run:
    """A module with the golden weights, called with the golden inputs of these names."""

    def run(config: dict[str, Any], inputs: dict[str, Tensor], weights: dict[str, Tensor]) -> dict[str, Tensor]:
        module = build(config).eval()
        module.load_state_dict(weights)
        return {"out": module(*(inputs[name] for name in arguments))}

    return run


def transformer(config: dict[str, Any]) -> TransformerConfig:
    return TransformerConfig.from_dict("config", config)


def dit(config: dict[str, Any], inputs: dict[str, Tensor], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The DiT's result and the hidden states between its blocks; with masks where it alternates."""
    text_every = config.get("attend_text_every_n_blocks")
    module = DiT(transformer(config), config["cross_attention_dim"], text_every=text_every).eval()
    module.load_state_dict(weights)
    hidden = [inputs["hidden_states"]]
    for block in module.transformer_blocks:
        block.register_forward_hook(lambda _m, _a, out: hidden.append(out))
    context = inputs["encoder_hidden_states"]
    everything = torch.ones(context.shape[:2], dtype=torch.bool)
    real, image = inputs.get("backbone_attention_mask", everything), inputs.get("image_mask", everything)
    out = module(hidden[0], context, inputs["timestep"], real & ~image, real & image)
    return {"out.output": out, **{f"out.hidden{i}": value for i, value in enumerate(hidden)}}


def category(build: Callable[..., nn.Module], *sizes: str) -> Callable[[dict[str, Any]], nn.Module]:
    return lambda config: build(*(config[size] for size in sizes))


# Pattern of golden module names -> how ours is made and called.
MODULES: dict[str, Run] = {
    "CategorySpecificLinear": layer(
        category(CategoryLinear, "num_categories", "input_dim", "hidden_dim"), "x", "cat_ids"
    ),
    "CategorySpecificMLP": layer(
        category(CategoryMLP, "num_categories", "input_dim", "hidden_dim", "output_dim"), "x", "cat_ids"
    ),
    "MultiEmbodimentActionEncoder": layer(
        category(ActionEncoder, "num_embodiments", "action_dim", "hidden_size"), "actions", "timesteps", "cat_ids"
    ),
    "TimestepEncoder": layer(category(TimestepEncoder, "embedding_dim"), "timesteps"),
    "AdaLayerNorm": layer(category(AdaptiveNorm, "embedding_dim"), "x", "temb"),
    "SelfAttentionTransformer": layer(lambda config: SelfAttentionStack(transformer(config)), "hidden_states"),
    r"DiT(_no_interleave)?|AlternateVLDiT_n\d+": dit,
    r"Timesteps\d+": lambda _c, inputs, _w: {"out": time_sinusoid(inputs[""])},
    r"SinusoidalPositionalEncoding(?P<dim>\d+)": lambda config, inputs, _w: {
        "out": action_time_embedding(inputs["timesteps"][0], int(config["dim"]))[None]
    },
}


@pytest.fixture(scope="module", params=("n1d5", "n1d6"))
def modules(request, golden_root):
    """The golden tensors by module and what follows its name, and the constructor arguments by module."""
    path = golden_root / request.param
    if not (path / "modules.safetensors").exists():  # a set needs the whole networks only; the project's has both
        path = Path(__file__).resolve().parent.parent / "golden" / request.param
    tensors: dict[str, dict[str, Tensor]] = {}
    for name, value in load_file(path / "modules.safetensors").items():
        module, rest = name.split(".", 1)
        tensors.setdefault(module, {})[rest] = value
    listed = json.loads((path / "modules.json").read_text(encoding="utf-8"))
    return tensors, {name: entry["config"] for name, entry in listed.items()}


def test_golden_modules_are_all_compared(modules):
    refused = {"SelfAttentionTransformer_sinpos"}  # by the test at the end
    left = {name for name in modules[0] if not any(re.fullmatch(pattern, name) for pattern in MODULES)}
    assert left <= refused


@pytest.mark.parametrize("pattern", MODULES)
def test_golden_module(modules, pattern):
    tensors, configs = modules
    found = {name: match for name in tensors if (match := re.fullmatch(pattern, name))}
    assert found
    for name, match in found.items():
        stored = tensors[name]
        weights = {key[len("weights.") :]: value for key, value in stored.items() if key.startswith("weights.")}
        inputs = {key[2:].lstrip("."): value for key, value in stored.items() if re.match(r"in(\.|$)", key)}
        expected = {key: value for key, value in stored.items() if re.match(r"out(\.|$)", key)}
        with torch.no_grad():
            got = MODULES[pattern]({**configs.get(name, {}), **match.groupdict()}, inputs, weights)
        assert set(got) == set(expected)
        for key, value in expected.items():
            message = f"{name}.{key}"
            torch.testing.assert_close(got[key], value, atol=1e-5, rtol=0, msg=lambda text, m=message: f"{m}: {text}")


def test_golden_sinusoidal_positions_are_refused(modules):
    """A variant of the code that no released checkpoint has."""
    config = modules[1]["SelfAttentionTransformer_sinpos"]
    with pytest.raises(ConfigError, match="positional_embeddings is 'sinusoidal'"):
        transformer(config)
