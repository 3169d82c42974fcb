"""Samples of `Processor.encode` -> one batch for the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from groot_ros.processing.errors import ProcessorError

_STACKED = ("state", "state_mask", "embodiment_id", "action", "action_mask")


def collate(samples: Sequence[Mapping[str, Any]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """See `Processor.collate`.

    Args:
        pad_token_id: what prompts are padded with, on the left.

    Raises:
        ProcessorError: no samples, or only some of them with an action.
    """
    if not samples:
        raise ProcessorError("collate", "at least one sample", "none")
    with_action = sum("action" in sample for sample in samples)
    if with_action not in (0, len(samples)):
        raise ProcessorError("collate", "an action in every sample or in none", f"{with_action} of {len(samples)}")
    ids, mask = _prompts([sample["input_ids"] for sample in samples], pad_token_id)
    arrays = {
        "input_ids": ids,
        "attention_mask": mask,
        "image_grid_thw": _joined([sample["image_grid_thw"] for sample in samples]),
    }
    if "pixel_values" in samples[0]:
        arrays["pixel_values"] = _joined([sample["pixel_values"] for sample in samples])
    stacked = [name for name in _STACKED if name in samples[0]]
    arrays.update({name: np.stack([sample[name] for sample in samples]) for name in stacked})
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _prompts(prompts: Sequence[NDArray[Any]], pad_token_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids [B, L], and 1 where they are."""
    length = max(map(len, prompts))
    ids = np.full((len(prompts), length), pad_token_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        start = length - len(prompt)
        ids[row, start:] = prompt
        mask[row, start:] = 1
    return ids, mask


def _joined(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
