"""The matrix products of the engine, and the norms between them: weights without modules around them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Dense:
    """x W^T + b. Other precisions are classes with the same call (`groot_ros.model.engine.fp8`).

    Attributes:
        weight: [out,in].
        bias: [out], or None.
    """

    __slots__ = ("bias", "weight")

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor, step: int = 0) -> Tensor:
        """x [...,in] -> [...,out]; `step`, the number of the Euler step, matters to calibrated precisions only."""
        return functional.linear(x, self.weight, self.bias)


def dense_of(linear: nn.Linear) -> Dense:
    """The weights of a linear layer, not copied."""
    return Dense(linear.weight.detach(), None if linear.bias is None else linear.bias.detach())


def fuse(*linears: nn.Linear) -> Dense:
    """Linear layers on one input as one: their outputs stand next to each other.

    The weights are copied into one tensor and the layers become views of it, so nothing is held twice and they go on
    giving the same numbers. Layers that were fused before stay as they are.
    """
    if len(linears) == 1:
        return dense_of(linears[0])
    biases = [linear.bias for linear in linears if linear.bias is not None]
    return Dense(_joined([linear.weight for linear in linears]), _joined(biases) if biases else None)


def _joined(parameters: Sequence[Tensor]) -> Tensor:
    """Parameters [rows,...] one behind the other, of which they become views; they may be so already."""
    rows = sum(len(parameter) for parameter in parameters)
    first = parameters[0].detach()
    offset = first.storage_offset()
    for parameter in parameters:
        same = parameter.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not same or parameter.storage_offset() != offset or not parameter.is_contiguous():
            break
        offset += parameter.numel()
    else:
        return first.as_strided((rows, *first.shape[1:]), first.stride())
    joined = torch.cat([parameter.detach() for parameter in parameters])
    for parameter, part in zip(parameters, joined.split([len(parameter) for parameter in parameters]), strict=True):
        parameter.data = part
    return joined


def product(weight: Tensor, then: Tensor) -> Tensor:
    """Two matrices that follow each other without anything between, as one: `then` @ `weight`, in float32 at least.

    Args:
        weight: [middle,in], applied first.
        then: [out,middle].

    Returns:
        [out,in] in the dtype of `weight`.
    """
    exact = torch.float64 if weight.device.type == "cpu" else torch.float32
    return (then.to(exact) @ weight.to(exact)).to(weight.dtype)


@dataclass
class Norm:
    """LayerNorm with scale and shift [D], or without."""

    weight: Tensor | None
    bias: Tensor | None
    eps: float

    @classmethod
    def of(cls, module: nn.LayerNorm) -> Norm:
        """The weights of a module, not copied."""
        weight, bias = module.weight, module.bias
        return cls(None if weight is None else weight.detach(), None if bias is None else bias.detach(), module.eps)

    def __call__(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *, causal: bool = False) -> Tensor:
    """Softmax attention on [B,T,heads,d], heads of query a multiple of those of key and value -> [B,T,heads*d].

    Args:
        mask: bool, broadcastable to [B,heads,T,keys]; every query sees a key.
    """
    groups = query.shape[2] // key.shape[2]
    key, value = key.transpose(1, 2), value.transpose(1, 2)
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    out = functional.scaled_dot_product_attention(query.transpose(1, 2), key, value, attn_mask=mask, is_causal=causal)
    return out.transpose(1, 2).flatten(2)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of [...,d]: halves turned against each other.

    Args:
        cos: broadcastable to x.
        sin: the same, its first half negated (`signed`).
    """
    return x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin


def signed(sin: Tensor) -> Tensor:
    """[...,d] with the first half negated: so that turning needs no negation of what is turned."""
    first, second = sin.chunk(2, dim=-1)
    return torch.cat((-first, second), dim=-1)


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Every tensor that an object of the engine holds: in attributes, lists, dicts, and modules."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, nn.Module):
            yield from item.parameters()
            yield from item.buffers()
        elif isinstance(item, Mapping):
            waiting.extend(item.values())
        elif isinstance(item, (list, tuple)):
            waiting.extend(item)
        elif type(item).__module__.startswith("groot_ros.model.engine"):
            waiting.extend(_attributes(item))


def _attributes(item: object) -> Iterable[Any]:
    names = (name for kind in type(item).__mro__ for name in getattr(kind, "__slots__", ()))
    # A slot that a subclass replaces by a property holds nothing.
    slots = (name for name in names if not isinstance(getattr(type(item), name, None), property))
    return [*getattr(item, "__dict__", {}).values(), *(getattr(item, name) for name in slots if hasattr(item, name))]
