"""One attention function for every part of the network, and its registration with `transformers`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface
from transformers.utils import is_flash_attn_2_available

TOWER_ATTENTION = "groot_ros_sdpa"


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *, causal: bool = False) -> Tensor:
    """Softmax attention: query [B,h,Q,d], key and value [B,h,K,d] -> [B,h,Q,d].

    `mask` is boolean, broadcastable to [B,h,Q,K], True where a key may be seen. A query that may see no key gets
    exactly 0: `scaled_dot_product_attention` leaves that to its backends, and padded batches depend on it.
    """
    out = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
    if mask is not None:
        out = out.masked_fill(~mask.any(dim=-1, keepdim=True), 0.0)
    return out


def _tower_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    images: int = 1,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """`attend` with the signature of an attention function of transformers: returns [B,Q,h,d] and no weights.

    `images`: query, key and value [1,h,images*L,d] are those of so many images of L patches, which do not see each
    other. transformers would call this function once per image, which on a CPU costs as much as the network does.
    """
    del scaling, dropout, kwargs  # Qwen3-VL scales by 1/sqrt(d), as SDPA does, and has no attention dropout.
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    causal = bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal
    if images > 1:

        def split(tensor: Tensor) -> Tensor:
            return tensor[0].unflatten(1, (images, -1)).transpose(0, 1)

        out = attend(split(query), split(key), split(value))
        return out.transpose(1, 2).flatten(0, 1)[None].contiguous(), None
    out = attend(query, key, value, attention_mask, causal=causal and attention_mask is None)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(TOWER_ATTENTION, _tower_attention)


def tower_attention_name(device: torch.device, dtype: torch.dtype) -> str:
    """Which attention the vision and language towers use: flash-attn where it is installed and can run, else SDPA."""
    half = dtype in (torch.bfloat16, torch.float16)
    return "flash_attention_2" if device.type == "cuda" and half and is_flash_attn_2_available() else TOWER_ATTENTION
