"""The least time that one action chunk can take on a GPU: the bytes and the arithmetic of a network's own layers.

Every product of the network is an operation, and so is every attention. An operation takes as long as the memory needs
for its bytes, or the arithmetic units for its arithmetic, whichever is longer; no two operations overlap. Launching
kernels, norms, copies from the host and preprocessing are not in it (spec performance.md, B). The shapes are those of
the parameters, so a network on the device `meta` will do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from groot_ros.model.action_head import ActionHead
from groot_ros.model.dit import Block
from groot_ros.model.embodiment_layers import CategoryLinear
from groot_ros.model.groot import GrootModel

PARTS = ("vision", "language", "refiner", "dit", "cross_kv", "time", "embodiment")
ACTIVATION_BYTES = 2
# Layers that read the same numbers, so that one product does for them.
_FUSED = ({"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"}, {"to_q", "to_k", "to_v"})


@dataclass(frozen=True)
class Gpu:
    """Data-sheet values: memory bandwidth (bytes/s), dense arithmetic (operations/s), fp8: None where there is none."""

    name: str
    bandwidth: float
    bf16: float
    fp8: float | None
    marks: tuple[str, ...]
    """What the name that the driver gives contains."""
    not_marks: tuple[str, ...] = ()
    """And does not: other cards of the same name."""


# NVIDIA's data sheets, dense; Orin has no bfloat16 tensor cores to speak of, its value is that of float16.
GPUS = (
    Gpu("H100 SXM", 3.35e12, 989e12, 1979e12, ("H100",), ("PCIe", "NVL", "MIG")),
    Gpu("H200", 4.80e12, 989e12, 1979e12, ("H200",), ("NVL", "GH200", "MIG")),
    Gpu("RTX 4090", 1.008e12, 165e12, 330e12, ("RTX 4090",), ("Laptop", "4090 D")),
    Gpu("RTX 5090", 1.792e12, 209.5e12, 419e12, ("RTX 5090",), ("Laptop", "5090 D")),
    Gpu("Jetson Thor", 0.273e12, 250e12, 500e12, ("Thor",)),
    Gpu("AGX Orin 64", 0.2048e12, 42.5e12, None, ("Orin",), ("Nano", "NX")),
)


@dataclass(frozen=True)
class Operation:
    """One product or attention, executed `times` times."""

    part: str
    weights: int
    """Numbers read from parameters."""
    activations: int
    """Numbers of the inputs and outputs."""
    flops: float
    times: int = 1

    def bytes(self, weight_bytes: int) -> int:
        """Bytes moved by all executions, where a weight takes `weight_bytes`."""
        return self.times * (self.weights * weight_bytes + self.activations * ACTIVATION_BYTES)


@dataclass(frozen=True)
class Work:
    """What a chunk costs whatever the GPU."""

    tflop: float
    gigabytes: float
    """Moved, with weights of two bytes."""
    products: int
    """Products and attentions executed."""


def known_gpu(name: str) -> Gpu | None:
    """The GPU that a driver calls `name`; None: not in the table, or another card of a similar name."""
    for gpu in GPUS:
        if any(mark in name for mark in gpu.marks) and not any(mark in name for mark in gpu.not_marks):
            return gpu
    return None


def gpu_of(weight: Tensor) -> Gpu | None:
    """The GPU that a network's weights are on; None: unknown, no GPU, or weights of more than two bytes."""
    if weight.device.type != "cuda" or weight.element_size() > 2:
        return None
    return known_gpu(torch.cuda.get_device_name(weight.device))


def floor_s(operations: Iterable[Operation], gpu: Gpu, *, fp8: bool = False) -> float:
    """The floor in seconds; `fp8`: weights of one byte and fp8 arithmetic, activations of two bytes.

    Raises:
        ValueError: `fp8` on a GPU without it.
    """
    if fp8 and gpu.fp8 is None:
        raise ValueError(f"{gpu.name} has no fp8 arithmetic")
    peak = gpu.fp8 if fp8 and gpu.fp8 is not None else gpu.bf16
    size = 1 if fp8 else 2
    return sum(max(op.bytes(size) / gpu.bandwidth, op.times * op.flops / peak) for op in operations)


def work(operations: Iterable[Operation]) -> Work:
    """The sums of the operations."""
    listed = list(operations)
    return Work(
        tflop=sum(op.times * op.flops for op in listed) / 1e12,
        gigabytes=sum(op.bytes(2) for op in listed) / 1e9,
        products=sum(op.times for op in listed),
    )


def operations(
    model: GrootModel, patches: Sequence[int], text_tokens: int, *, steps: int | None = None, exact: bool
) -> list[Operation]:
    """One chunk of a network: backbone once, head `steps` times.

    Args:
        model: on any device, `meta` too.
        patches: patches of each image.
        text_tokens: of the prompt, beside the image tokens.
        steps: Euler steps; None: the config's.
        exact: keys and values of the cross-attention once per chunk and only of the tokens that a layer sees, tables of
            the time, one embodiment's weights. False: what `GrootModel.sample` does, on every token.
    """
    image_tokens = sum(patches) // model.backbone.merge**2
    return [
        *vision_operations(model, patches),
        *language_operations(model, image_tokens + text_tokens),
        *head_operations(model.action_head, image_tokens, text_tokens, steps=steps, exact=exact),
    ]


def vision_operations(model: GrootModel, patches: Sequence[int]) -> Iterator[Operation]:
    """The vision tower and what stands between it and the language model."""
    backbone, total = model.backbone, sum(patches)
    tower = backbone.visual
    tokens = total // backbone.merge**2
    if hasattr(tower, "blocks"):  # Qwen3-VL
        embedding, layers = tower.patch_embed.proj.weight, tower.blocks
        joins = [tower.merger, *tower.deepstack_merger_list]
    else:  # SigLIP
        embedding, layers = tower.embeddings.patch_embedding.weight, tower.encoder.layers
        joins = [backbone.connector]  # type: ignore[attr-defined]
    width = embedding.shape[0]
    yield _product("vision", total, embedding[0].numel(), width)
    for layer in layers:
        yield from _linears("vision", layer, total)
        for size in patches:
            yield _attention("vision", size, size, width)
    for join in joins:
        yield from _linears("vision", join, tokens)


def language_operations(model: GrootModel, tokens: int) -> Iterator[Operation]:
    """The kept layers of the language model; the embedding is only looked up."""
    tower = model.backbone.language_model
    width = tower.config.num_attention_heads * tower.config.head_dim
    for layer in tower.layers:
        yield from _linears("language", layer, tokens)
        yield _attention("language", tokens, tokens, width)


def head_operations(
    head: ActionHead, image_tokens: int, text_tokens: int, *, steps: int | None = None, exact: bool
) -> list[Operation]:
    """The action head: refinement of the features and state once, the rest in each of `steps` steps."""
    config = head.config
    context = image_tokens + text_tokens
    steps = config.num_inference_timesteps if steps is None else steps
    found: list[Operation] = []
    for block in getattr(head.vl_self_attention, "transformer_blocks", ()):
        found.extend(_linears("refiner", block, context))
        found.append(_attention("refiner", context, context, config.backbone_embedding_dim))
    for layer in (head.state_encoder.layer1, head.state_encoder.layer2):
        found.append(_category(layer, 1))
    queries = 1 + config.num_target_vision_tokens + config.action_horizon
    for _ in range(steps):
        found.extend(_velocity(head, queries, exact))
        found.extend(_embodiment(head, queries, exact))
    looked_at = {"text": text_tokens, "image": image_tokens, "all": context}
    for i, block in enumerate(_blocks(head)):
        sees = head.model.sees(i)
        if sees != "self":
            keys = looked_at[sees] if exact else context
            width, source = block.attn1.to_q.out_features, block.attn1.to_k.in_features
            found.extend([_attention("dit", queries, keys, width)] * steps)
            found.extend([_product("cross_kv", keys, source, 2 * width)] * (1 if exact else steps))
    return found


def _velocity(head: ActionHead, queries: int, exact: bool) -> Iterator[Operation]:
    """One step of the DiT without what the cross-attention does on the features."""
    dit = head.model
    for i, block in enumerate(_blocks(head)):
        width = block.attn1.to_q.out_features
        if dit.sees(i) == "self":
            yield _product("dit", queries, width, 3 * width)
            yield _attention("dit", queries, queries, width)
        else:
            yield _product("dit", queries, width, width)
        yield from _linears("dit", block.attn1.to_out, queries)
        yield from _linears("dit", block.ff, queries)
        if not exact:
            yield from _linears("time", block.norm1, 1)
    yield _product("dit", queries, dit.proj_out_2.in_features, dit.proj_out_2.out_features)
    if not exact:
        yield _product("time", 1, dit.proj_out_1.in_features, dit.proj_out_1.out_features)
        yield from _linears("time", dit.timestep_encoder, 1)


def _blocks(head: ActionHead) -> list[Block]:
    return cast("list[Block]", list(head.model.transformer_blocks))


def _embodiment(head: ActionHead, queries: int, exact: bool) -> Iterator[Operation]:
    """Encoder and decoder of the actions. Plain, the embodiment's weights are read, written and read again."""
    horizon, encoder, decoder = head.config.action_horizon, head.action_encoder, head.action_decoder
    for layer in (encoder.W1, encoder.W2, encoder.W3):
        yield _category(layer, horizon, 1 if exact else 3)
    for layer in (decoder.layer1, decoder.layer2):
        yield _category(layer, queries, 1 if exact else 3)


def _linears(part: str, module: nn.Module, rows: int) -> Iterator[Operation]:
    """The linear layers of a module, those of `_FUSED` as one."""
    widths: dict[tuple[str, int], tuple[int, int]] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            owner, _, leaf = name.rpartition(".")
            family = next((i for i, names in enumerate(_FUSED) if leaf in names), None)
            key = (name, -1) if family is None else (owner, family)
            before = widths.get(key, (0, 0))[1]
            widths[key] = (layer.in_features, before + layer.out_features)
    for inputs, outputs in widths.values():
        yield _product(part, rows, inputs, outputs)


def _category(layer: CategoryLinear, rows: int, times_read: int = 1) -> Operation:
    _, inputs, outputs = layer.W.shape
    weights = times_read * inputs * outputs
    return Operation("embodiment", weights, rows * (inputs + outputs), 2.0 * rows * inputs * outputs)


def _product(part: str, rows: int, inputs: int, outputs: int) -> Operation:
    return Operation(part, inputs * outputs, rows * (inputs + outputs), 2.0 * rows * inputs * outputs)


def _attention(part: str, queries: int, keys: int, width: int) -> Operation:
    """Scores and weighted sums of all heads together: `width` numbers per token."""
    return Operation(part, 0, 2 * (queries + keys) * width, 4.0 * queries * keys * width)


def parameter_groups(model: GrootModel) -> dict[str, int]:
    """Weights (without biases) that the operations of each part read, one embodiment's where there are several."""
    tokens = [model.backbone.merge**2]
    found: dict[str, int] = dict.fromkeys(PARTS, 0)
    for op in operations(model, tokens, 1, steps=1, exact=False):
        found[op.part] += op.weights
    repeated = sum(op.weights for op in _embodiment(model.action_head, 1, False))
    once = sum(op.weights for op in _embodiment(model.action_head, 1, True))
    found["embodiment"] += once - repeated
    return found
