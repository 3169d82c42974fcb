"""The text side of a chunk: all that follows from token ids and image sizes alone, computed once per instruction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from groot_ros.model.backbone import Backbone
from groot_ros.model.engine.dense import signed
from groot_ros.model.positions import Grid


@dataclass
class PromptBuffers:
    """A prompt of I image tokens and T text tokens, L = I + T; T may count padding behind the prompt, which is masked.

    Behind, not in front: the language model is causal, so what comes later changes nothing, and needs no mask there.
    """

    words: Tensor
    """[1,L,D], embeddings of the tokens; what stands at image tokens is replaced."""
    cos: Tensor
    """[1,L,1,head_dim] of the rotary embedding."""
    sin: Tensor
    """[1,L,1,head_dim], the first half negated."""
    image_index: Tensor
    """int64 [I], where the image tokens stand."""
    text_index: Tensor
    """int64 [T], where the others stand."""
    key_mask: Tensor | None
    """bool [1,1,1,L], False on padding; None: there is none."""
    text_mask: Tensor | None
    """bool [1,1,1,T], False on padding; None: there is none."""

    def copy_(self, other: PromptBuffers) -> None:
        """Takes over the contents of another prompt of the same sizes."""
        for field in fields(self):
            mine, its = getattr(self, field.name), getattr(other, field.name)
            if mine is not None:
                mine.copy_(its)

    def clone(self) -> PromptBuffers:
        """A copy in memory of its own."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        copies: dict[str, Any] = {name: None if value is None else value.clone() for name, value in values.items()}
        return PromptBuffers(**copies)


def text_capacity(text: int, bucket: int) -> int:
    """`text` tokens, rounded up to a multiple of `bucket`."""
    return -(-text // bucket) * bucket


@torch.no_grad()
def prompt_buffers(
    backbone: Backbone, table: Tensor, input_ids: Tensor, grids: Sequence[Grid], bucket: int, device: torch.device
) -> PromptBuffers:
    """The buffers of a prompt.

    Args:
        backbone: knows the rotary embedding and checks that tokens and images agree.
        table: [vocabulary,D], the embeddings of the tokens, on any device.
        input_ids: int64 [1,L] without padding.
        grids: one per image.
        bucket: the text is padded to a multiple of it; 1: not at all, and there are no masks.
        device: where the model is.

    Raises:
        ValueError: tokens and images disagree, or an id is not in the table; the message says how.
    """
    ids = input_ids.to("cpu")
    if int(ids.min()) < 0 or int(ids.max()) >= len(table):
        raise ValueError(f"input_ids hold ids from {int(ids.min())} to {int(ids.max())}, expected 0..{len(table) - 1}")
    cos, sin = backbone.prompt_rope(ids.to(device), torch.ones_like(ids, device=device), grids, table.dtype)
    image = ids[0] == backbone.image_token_id
    image_index, text_index = image.nonzero()[:, 0], (~image).nonzero()[:, 0]
    length, text = len(image), len(text_index)
    added = text_capacity(text, bucket) - text
    words = functional.embedding(ids.to(table.device), table).to(device)
    key_mask = text_mask = None
    if bucket > 1:
        text_index = torch.cat((text_index, torch.arange(length, length + added)))
        key_mask = (torch.arange(length + added, device=device) < length)[None, None, None]
        text_mask = (torch.arange(text + added, device=device) < text)[None, None, None]
    pad = (0, 0, 0, added)
    return PromptBuffers(
        functional.pad(words, pad),
        functional.pad(cos[:1], pad)[:, :, None],
        signed(functional.pad(sin[:1], pad))[:, :, None],
        image_index.to(device),
        text_index.to(device),
        key_mask,
        text_mask,
    )
