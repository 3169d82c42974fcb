"""Which parameters are trained, which modules stay in eval mode, and the module that trainers call.

Sources: spec groot_n15_n16.md, 1.3 and 6.2, groot_n17.md, 7.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from groot_ros.model.dit import Block
from groot_ros.model.eagle import EagleBackbone
from groot_ros.model.groot import GrootModel
from groot_ros.training.errors import TrainingError
from groot_ros.training.flags import FinetuneFlags

# Layers of the backbones, by name: their classes differ between the generations, and FSDP asks for names as well.
_TOWER_LAYERS = ("Qwen3VLTextDecoderLayer", "Qwen3VLVisionBlock", "Qwen3DecoderLayer", "SiglipEncoderLayer")
LAYER_CLASSES = (Block.__name__, *_TOWER_LAYERS)
_TOP_LLM_LAYERS = {"n1d5": 0, "n1d6": 4, "n1d7": 0}
_NORMS = ("LayerNorm", "RMSNorm", "Qwen3RMSNorm", "Qwen3VLTextRMSNorm")


@dataclass(frozen=True)
class Choice:
    """Which groups are trained. See `FinetuneFlags` for the fields."""

    tune_llm: bool = False
    tune_visual: bool = False
    tune_projector: bool = True
    tune_diffusion_model: bool = True
    tune_vlln: bool = True
    tune_top_llm_layers: int = 0

    @classmethod
    def of(cls, flags: FinetuneFlags, model: GrootModel) -> Choice:
        """What flags say, and where they say nothing of the top layers, config.json, as NVIDIA's launcher leaves it.

        Raises:
            TrainingError: config.json has no use for a flag that was given, or a value of another kind.
        """
        generation, extra = model.config.generation, model.config.extra
        vlln, layers = flags.tune_vlln, flags.tune_top_llm_layers
        if generation == "n1d5":
            # N1.5 knows neither switch: norm, self-attention and future tokens are always trained.
            if vlln is False:
                raise TrainingError("--no-tune-vlln: N1.5 always trains the norm over the features; leave the flag out")
            return cls(
                flags.tune_llm, flags.tune_visual, flags.tune_projector, flags.tune_diffusion_model, True, layers or 0
            )
        if vlln is None:
            vlln = True
        if layers is None:
            layers = extra.get("tune_top_llm_layers", _TOP_LLM_LAYERS[generation])
        if type(layers) is not int:
            raise TrainingError(
                f"config.json: tune_top_llm_layers is {layers!r}, expected a whole number; correct the base "
                "checkpoint's, or give --tune-top-llm-layers"
            )
        return cls(flags.tune_llm, flags.tune_visual, flags.tune_projector, flags.tune_diffusion_model, vlln, layers)

    def config_keys(self) -> dict[str, bool | int]:
        """The keys of config.json that say it."""
        return dict(vars(self))


def freeze(model: GrootModel, choice: Choice) -> list[nn.Module]:
    """Sets `requires_grad` of every parameter, and returns the modules that stay in eval mode.

    Raises:
        TrainingError: nothing is left to train, or more language layers are asked for than there are.
    """
    backbone: Any = model.backbone
    language, visual = backbone.language_model, [backbone.visual]
    if isinstance(backbone, EagleBackbone):
        visual.append(backbone.connector)
    model.requires_grad_(True)
    asleep: list[nn.Module] = []
    if not choice.tune_llm:
        asleep.append(language)
    if not choice.tune_visual:
        asleep += visual
    asleep += _sleeping_head(model, choice)
    for module in asleep:
        module.requires_grad_(False)
    if not choice.tune_projector and hasattr(model.action_head, "mask_token"):
        model.action_head.mask_token.requires_grad_(False)
    # The last layers are trained although the language model is in eval mode, as in the reference.
    layers = len(language.layers)
    if choice.tune_top_llm_layers > layers:
        raise TrainingError(f"--tune-top-llm-layers is {choice.tune_top_llm_layers}, expected at most {layers}")
    for layer in language.layers[layers - choice.tune_top_llm_layers :]:
        layer.requires_grad_(True)
    parameters = dict(model.named_parameters())
    for name in model.unused_parameters() & parameters.keys():
        parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TrainingError("nothing to train: every --tune-... flag is off; leave one on")
    return asleep


def _sleeping_head(model: GrootModel, choice: Choice) -> list[nn.Module]:
    head, asleep = model.action_head, []
    if not choice.tune_projector:
        asleep += [head.state_encoder, head.action_encoder, head.action_decoder]
        asleep += [head.position_embedding] if model.config.add_pos_embed else []
    if not choice.tune_diffusion_model:
        asleep.append(head.model)
    if not choice.tune_vlln:
        asleep += [head.vlln, head.vl_self_attention]
    return asleep


class TrainingModel(nn.Module):
    """The network as trainers call it: a batch with `noise` and `t` -> {"loss": scalar}.

    Modules that are not trained stay in eval mode whatever `train` is called with. State-dict names begin with
    `PREFIX`.
    """

    PREFIX = "groot."

    def __init__(self, groot: GrootModel, asleep: list[nn.Module]) -> None:
        super().__init__()
        self.groot = groot
        self._asleep = (asleep,)  # in a tuple, so that they are not registered twice
        # What FSDP wraps on its own; it refuses a class that is not there.
        self._no_split_modules = sorted({type(module).__name__ for module in groot.modules()} & set(LAYER_CLASSES))

    def train(self, mode: bool = True) -> TrainingModel:
        super().train(mode)
        for module in self._asleep[0]:
            module.eval()
        return self

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """`inputs`: see `GrootModel`, with `noise` and `t` as `GrootModel.loss` takes them."""
        return {"loss": self.groot.loss(inputs, inputs.get("noise"), inputs.get("t")).loss}

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """Every layer of towers and head keeps its input only, and computes the rest again in the backward pass."""
        arguments = {"use_reentrant": False, **(gradient_checkpointing_kwargs or {})}
        for module in self.modules():
            if type(module).__name__ in LAYER_CLASSES:
                module.forward = functools.partial(_recomputed, module.forward, arguments)


def _recomputed(forward: Any, arguments: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, **arguments, **kwargs)


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups of the optimizer: no weight decay for biases and norms.

    A bias is what has "bias" in its name, as in the reference: the `b` of layers per embodiment decays.
    """
    undecayed = {id(parameter) for parameter in _norm_parameters(model)}
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (plain if "bias" in name or id(parameter) in undecayed else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _norm_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    for module in model.modules():
        if type(module).__name__ in _NORMS:
            yield from module.parameters(recurse=False)


def counts(model: nn.Module) -> dict[str, int]:
    """Numbers of parameters: `trained` and `total`."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return {"trained": sum(size for size, trained in sizes if trained), "total": sum(size for size, _ in sizes)}
