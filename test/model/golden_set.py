"""A golden set: a small network with what NVIDIA's code computed on its inputs.

Names and layout of the files: golden/LAYOUT.md. N1.5 and N1.6 share one scheme of tensor names, N1.7 has another;
`ROLES` and the tables of the backbones have both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from groot_ros.model.groot import GrootModel

EAGLE_SETS = ("n1d5", "n1d6")
COSMOS_SETS = ("n1d7", "n1d7/plain_dit")
MODEL_INPUTS = ("input_ids", "attention_mask", "state", "embodiment_id", "action", "action_mask")

# What a tensor is: its name in N1.5's and N1.6's files and in N1.7's.
ROLES = {
    "noise": ("train_noise", "in.noise"),
    "t": ("train_t", "in.t"),
    "initial noise": ("infer_noise", "in.init_noise"),
    "loss": ("train.loss", "out.loss"),
    "action_loss": ("train.action_loss", "out.action_loss"),
    "gradient": ("train.grad.", "grad."),
    "vlln": ("train.vlln", "out.vlln_out"),
    "refined": ("train.vl_self_attention", "out.vl_self_attention_out"),
    "refined block": ("train.vl_self_attention.block", "mid.vlsa.block"),
    "state features": ("train.state_features", "out.state_features"),
    "action features": ("train.action_features_nopos", "out.action_features"),
    "noisy": ("train.noisy_trajectory", "not stored: noisy actions"),
    "time": ("train.temb", "mid.dit.temb"),
    "dit input": ("train.sa_embs", "mid.dit.input"),
    "dit block": ("train.dit.block", "mid.dit.block"),
    "dit output": ("train.dit_output", "out.dit_output"),
    "all tokens": ("train.pred_all_tokens", "out.action_decoder_out"),
}
HEAD_OUTPUTS = {
    "vlln": "vlln",
    "vl_self_attention": "refined",
    "state_encoder": "state features",
    "action_encoder": "action features",
    "model.timestep_encoder": "time",
    "model": "dit output",
    "action_decoder": "all tokens",
}
HEAD_STACKS = {"vl_self_attention.transformer_blocks": "refined block", "model.transformer_blocks": "dit block"}
HEAD_INPUTS = {"model": "dit input", "action_encoder": "noisy"}
BACKBONE_OUTPUTS = (
    {
        "language_model.norm": "out.llm.final_norm",
        "visual.embeddings": "out.vision.embeddings",
        "visual": "out.vision.last_hidden_state",
        "connector": "out.vision.mlp1_out",
    },
    {"visual.merger": "mid.vis.merger"},
)
BACKBONE_STACKS = (
    {"language_model.layers": "out.llm.layer"},
    {
        "language_model.layers": "mid.llm.layer",
        "visual.blocks": "mid.vis.block",
        "visual.deepstack_merger_list": "mid.vis.deepstack",
    },
)


def read_config(golden: Path) -> dict[str, Any]:
    """What a checkpoint's config.json would hold. N1.5's and N1.6's file keeps the two parts of it apart."""
    document = json.loads((golden / "config.json").read_text(encoding="utf-8"))
    if "model_config" not in document:
        return document
    return {**document["model_config"], "eagle_config": document["eagle_config"]}


def as_checkpoint(golden: Path, directory: Path, added: dict[str, Tensor] | None = None, **changes: Any) -> Path:
    """A checkpoint directory on the golden files, with more tensors `added`; `changes` are put into its config.json."""
    text = json.dumps({**read_config(golden), **changes})
    (directory / "config.json").write_text(text, encoding="utf-8")
    source, target = golden / "weights.safetensors", directory / "model.safetensors"
    if added is None:
        target.symlink_to(source)
    else:
        save_file({**load_file(source), **added}, target)
    return directory


def to_patches(images: Sequence[Tensor], size: int, *, channels_last: bool) -> tuple[Tensor, Tensor]:
    """Normalised images [1 or N,3,h,w] -> the model's `pixel_values` [patches,3*size*size] and `image_grid_thw`."""
    patches, grids = [], []
    for image in (single for stack in images for single in stack):
        channels, height, width = image.shape
        rows, cols = height // size, width // size
        cut = image.view(channels, rows, size, cols, size)
        cut = cut.permute(1, 3, 2, 4, 0) if channels_last else cut.permute(1, 3, 0, 2, 4)
        patches.append(cut.reshape(rows * cols, -1))
        grids.append([1, rows, cols])
    return torch.cat(patches), torch.tensor(grids)


@dataclass
class Golden:
    """One golden set and the model built from it."""

    name: str
    path: Path
    model: GrootModel
    io: dict[str, Tensor]
    inputs: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.scheme = 1 if "in.input_ids" in self.io else 0
        self.inputs = self.batch("in." if self.scheme else "")

    def batch(self, prefix: str) -> dict[str, Tensor]:
        """The model's inputs under `prefix`; what is not stored there is as in the main batch."""
        own = {name: self.io[prefix + name] for name in MODEL_INPUTS if prefix + name in self.io}
        if self.scheme:
            names = ("pixel_values", "image_grid_thw")
            pixels, grids = (self.io[prefix + name] for name in names)
        else:
            pattern = re.compile(re.escape(prefix) + r"pixel_values(?:\.(\d+))?")
            found = [(int(m[1] or 0), name) for name in self.io if (m := pattern.fullmatch(name))]
            images = [self.io[name] for _, name in sorted(found)]
            size = self.model.backbone.visual.config.patch_size
            pixels, grids = to_patches(images, size, channels_last=self.model.config.generation == "n1d6")
        main = getattr(self, "inputs", {})
        return {**main, **own, "pixel_values": pixels, "image_grid_thw": grids}

    def role(self, role: str) -> str:
        """The name of a tensor by what it is."""
        return ROLES[role][self.scheme]

    def __getitem__(self, role: str) -> Tensor:
        return self.io[self.role(role)]

    def json(self, name: str) -> Any:
        return json.loads((self.path / name).read_text(encoding="utf-8"))

    def train(self) -> Any:
        """The loss on the golden batch."""
        return self.model.loss(self.inputs, self["noise"], self["t"])

    def alone(self, inputs: dict[str, Tensor], sample: int) -> dict[str, Tensor]:
        """One sample of a batch without its padding."""
        backbone = self.model.backbone
        real = inputs["attention_mask"] == 1
        left = ((inputs["input_ids"] == backbone.image_token_id) & real).sum(dim=1).tolist()
        grids = inputs["image_grid_thw"]
        patches = grids.prod(dim=1).tolist()
        owner = []
        for count in patches:  # images are in batch order: each belongs to the first sample that still lacks tokens
            owner.append(next(b for b, tokens in enumerate(left) if tokens > 0))
            left[owner[-1]] -= count // backbone.merge**2
        assert not any(left)
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

    def capture(self, run: Callable[[], object]) -> dict[str, list[Tensor]]:
        """What went into and out of the modules during `run`, under the golden names, one entry per call."""
        seen: dict[str, list[Tensor]] = {}
        handles = []

        def keep(name: str, value: Any) -> None:
            value = torch.cat(value) if isinstance(value, list) else value
            seen.setdefault(name, []).append(value.detach())

        def outputs(name: str, module: nn.Module) -> None:
            handles.append(module.register_forward_hook(lambda _m, _a, out: keep(name, out)))

        def arguments(module: nn.Module, take: Callable[[tuple[Any, ...], dict[str, Any]], dict[str, Tensor]]) -> None:
            def hook(_m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                for name, value in take(args, kwargs).items():
                    keep(name, value)

            handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

        def first_argument(name: str, module: nn.Module) -> None:
            arguments(module, lambda args, _: {name: args[0]})

        backbone, head = self.model.backbone, self.model.action_head
        for path, name in BACKBONE_OUTPUTS[self.scheme].items():
            outputs(name, find(backbone, path))
        for path, role in HEAD_OUTPUTS.items():
            outputs(self.role(role), find(head, path))
        for path, role in HEAD_INPUTS.items():
            first_argument(self.role(role), find(head, path))
        stacks = [(backbone, path, name) for path, name in BACKBONE_STACKS[self.scheme].items()]
        stacks += [(head, path, self.role(role)) for path, role in HEAD_STACKS.items()]
        for root, path, name in stacks:
            for i, module in enumerate(find(root, path, ())):
                outputs(f"{name}{i}", module)
        if self.scheme:
            first_argument("mid.vis.block_input", backbone.visual.blocks[0])
            arguments(
                backbone.language_model.layers[0],
                lambda args, kwargs: {
                    "mid.llm.inputs_embeds": args[0],
                    "mid.llm.rope_cos": kwargs["position_embeddings"][0],
                    "mid.llm.rope_sin": kwargs["position_embeddings"][1],
                },
            )
        else:
            first_argument("out.vision.mlp1_out.in", backbone.connector)
        try:
            run()
        finally:
            for handle in handles:
                handle.remove()
        return seen


def find(root: nn.Module, path: str, absent: Any = None) -> Any:
    """The module at a dotted path."""
    for name in path.split("."):
        root = getattr(root, name, absent)
    return root
