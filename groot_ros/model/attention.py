"""One attention function for every part of the network, and its registration with `transformers`."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface
from transformers.utils import is_flash_attn_2_available

_LOG = logging.getLogger(__name__)

TOWER_ATTENTION = "groot_ros_sdpa"
FLASH_ATTENTION = "flash_attn"
MIN_CAPABILITY = (8, 0)
"""Of GPUs that flash-attn 2 runs on: Ampere and later (its README)."""


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
    """Which attention the vision and language towers use: flash-attn where it is installed and can run, else SDPA.

    Where it is installed and cannot run, the log says why, once per device.
    """
    half = dtype in (torch.bfloat16, torch.float16)
    usable = half and device.type == "cuda" and _is_installed() and flash_attention_problem(device) is None
    return "flash_attention_2" if usable else TOWER_ATTENTION


@functools.cache
def flash_attention_problem(device: torch.device) -> str | None:
    """Why the installed flash-attn cannot run on a CUDA device, in one line; None: it can. The first call logs it."""
    problem = _find_problem(device)
    if problem is not None:
        _LOG.warning("flash-attn is installed but not used on %s: %s; SDPA is used instead", device, problem)
    return problem


def _is_installed() -> bool:
    if FLASH_ATTENTION in sys.modules:
        return sys.modules[FLASH_ATTENTION] is not None
    return importlib.util.find_spec(FLASH_ATTENTION) is not None


def _find_problem(device: torch.device) -> str | None:
    capability = torch.cuda.get_device_capability(device)
    if capability < MIN_CAPABILITY:
        needed, found = (f"{major}.{minor}" for major, minor in (MIN_CAPABILITY, capability))
        return f"it needs a GPU of compute capability {needed} or above, this one has {found}"
    try:
        # What transformers imports. Built for another torch, it misses symbols of torch or of CUDA.
        module = importlib.import_module(FLASH_ATTENTION)
        importlib.import_module(f"{FLASH_ATTENTION}.bert_padding")
        attention, _ = module.flash_attn_func, module.flash_attn_varlen_func
    except Exception as error:  # not only ImportError: registering its operations may fail in torch
        return f"it cannot be imported ({_first_line(error)}); install a build for torch {torch.__version__}"
    try:
        if not is_flash_attn_2_available():
            return (
                f"transformers does not take version {getattr(module, '__version__', 'unknown')}; install a newer one"
            )
        _try(attention, device)
    except Exception as error:  # a build without kernels for this GPU
        return f"a trial run failed ({_first_line(error)}); install a build for this GPU and torch {torch.__version__}"
    return None


def _try(attention: Callable[[Tensor, Tensor, Tensor], Tensor], device: torch.device) -> None:
    """Runs flash-attn on one token and waits for the result."""
    token = torch.zeros(1, 1, 1, 64, dtype=torch.float16, device=device)  # [B,L,h,d], as flash-attn has it
    attention(token, token, token).cpu()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
