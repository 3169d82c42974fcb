"""Weights in the order that oneDNN's products read them in, for float32 on a CPU.

A chunk has some fifty rows, too few for the copying and padding that a product otherwise does with the weights each
time; the packed form does it once. It is what `torch.compile` uses when it freezes weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from groot_ros.model.engine.dense import Dense

# Products with fewer numbers than this gain nothing.
SMALLEST = 64 * 1024
ROWS = 48
"""About as many rows as a chunk's products have, for which the order is chosen."""


class PackedDense(Dense):
    """As `Dense`; other order of summation, same sums."""

    __slots__ = ("packed",)

    def __init__(self, packed: Tensor, bias: Tensor | None) -> None:
        self.packed, self.bias = packed, bias

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """[out,in], unpacked anew."""
        return self.packed.to_dense()

    def __call__(self, x: Tensor, step: int = 0) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return out


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this torch, device and dtype have packed products."""
    operators: Any = torch.ops.mkldnn
    return (
        device.type == "cpu"
        and dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(operators, "_reorder_linear_weight")
        and hasattr(operators, "_linear_pointwise")
    )


@torch.no_grad()
def pack_products(products: Iterable[tuple[str, object, str]]) -> None:
    """Puts packed copies in the place of products that are large enough.

    Args:
        products: name, the object that holds the product, the attribute in which; as `Program.denses` gives them.
    """
    for _, holder, name in products:
        dense = getattr(holder, name)
        if type(dense) is Dense and dense.weight.numel() >= SMALLEST:
            packed = torch.ops.mkldnn._reorder_linear_weight(dense.weight.contiguous(), ROWS)
            setattr(holder, name, PackedDense(packed, dense.bias))
