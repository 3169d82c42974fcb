"""The golden N1.7 networks, loaded once, with everything they computed on the golden inputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from groot_ros.model.checkpoint import load_model
from groot_ros.model.groot import GrootModel

VARIANTS = ("n1d7", "n1d7/plain_dit")


def as_checkpoint(golden: Path, directory: Path) -> Path:
    """A checkpoint directory on the golden files, which keep their weights under another name."""
    (directory / "config.json").symlink_to(golden / "config.json")
    (directory / "model.safetensors").symlink_to(golden / "weights.safetensors")
    return directory


@dataclass
class Golden:
    """One golden variant and the model built from it."""

    path: Path
    model: GrootModel
    io: dict[str, Tensor]
    inputs: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.inputs = {name[3:]: value for name, value in self.io.items() if name.startswith("in.")}

    def json(self, name: str) -> Any:
        return json.loads((self.path / name).read_text(encoding="utf-8"))

    def capture(self, run: Callable[[], object]) -> dict[str, list[Tensor]]:
        """What the modules of the golden tensors gave during `run`, under the golden names, one entry per call."""
        seen: dict[str, list[Tensor]] = {}
        handles = []

        def outputs(name: str, module: nn.Module) -> None:
            hook = lambda _m, _a, out: seen.setdefault(name, []).append(out.detach())  # noqa: E731
            handles.append(module.register_forward_hook(hook))

        def arguments(module: nn.Module, take: Callable[[tuple[Any, ...], dict[str, Any]], dict[str, Tensor]]) -> None:
            def hook(_m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                for name, value in take(args, kwargs).items():
                    seen.setdefault(name, []).append(value.detach())

            handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

        vision, language = self.model.backbone.visual, self.model.backbone.language_model
        head = self.model.action_head
        stacks = {
            "mid.vis.block": vision.blocks,
            "mid.vis.deepstack": vision.deepstack_merger_list,
            "mid.llm.layer": language.layers,
            "mid.vlsa.block": getattr(head.vl_self_attention, "transformer_blocks", []),
            "mid.dit.block": head.model.transformer_blocks,
        }
        for prefix, modules in stacks.items():
            for i, module in enumerate(modules):
                outputs(f"{prefix}{i}", module)
        for name, module in {
            "mid.vis.merger": vision.merger,
            "out.vlln_out": head.vlln,
            "out.vl_self_attention_out": head.vl_self_attention,
            "out.state_features": head.state_encoder,
            "out.action_features": head.action_encoder,
            "mid.dit.temb": head.model.timestep_encoder,
            "out.dit_output": head.model,
            "out.action_decoder_out": head.action_decoder,
        }.items():
            outputs(name, module)
        arguments(vision.blocks[0], lambda args, _: {"mid.vis.block_input": args[0]})
        arguments(
            language.layers[0],
            lambda args, kwargs: {
                "mid.llm.inputs_embeds": args[0],
                "mid.llm.rope_cos": kwargs["position_embeddings"][0],
                "mid.llm.rope_sin": kwargs["position_embeddings"][1],
            },
        )
        arguments(head.model, lambda args, _: {"mid.dit.input": args[0]})
        try:
            run()
        finally:
            for handle in handles:
                handle.remove()
        return seen


@pytest.fixture(scope="session", params=VARIANTS)
def golden(
    request: pytest.FixtureRequest, golden_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Golden]:
    """Both golden variants."""
    path = golden_root / request.param
    model = load_model(as_checkpoint(path, tmp_path_factory.mktemp("golden")), dtype=torch.float32)
    yield Golden(path, model, load_file(path / "io.safetensors"))


@pytest.fixture(scope="session")
def golden_n1d7(golden_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Golden:
    """The main golden variant alone, for tests that need any working network."""
    path = golden_root / "n1d7"
    model = load_model(as_checkpoint(path, tmp_path_factory.mktemp("golden")), dtype=torch.float32)
    return Golden(path, model, load_file(path / "io.safetensors"))
