"""What the tests of the processors share: a tokenizer for the references, and observations."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from groot_ros.processing.generations import EAGLE_TOKEN_IDS
from groot_ros.processing.processor import Processor

Arrays = dict[str, np.ndarray]
SPECIAL_IDS = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645, **EAGLE_TOKEN_IDS}
PROJECT = Path(__file__).resolve().parents[2]


class TableTokenizer:
    """Knows the prompts of a reference and nothing else, so that no vocabulary file is needed."""

    pad_token_id: int

    def __init__(
        self, special_ids: dict[str, int], image_token: str, prompts: list[tuple[str, np.ndarray, np.ndarray]]
    ) -> None:
        """`prompts`: text, input_ids and attention_mask of each; runs of the image token are one in the text."""
        self._special_ids = special_ids
        self.pad_token_id = special_ids["<|endoftext|>"]
        self._ids = {}
        for text, row, mask in prompts:
            ids = row[mask == 1]
            kept = np.concatenate([[True], (ids[1:] != ids[:-1]) | (ids[1:] != special_ids[image_token])])
            self._ids[text] = ids[kept].tolist()

    def get_vocab(self) -> dict[str, int]:
        return self._special_ids

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": self._ids[text]}


def qwen_tokenizer_folder() -> Path:
    """Folder with Qwen's vocabulary; the test is skipped where there is none."""
    named = os.environ.get("GROOT_QWEN_TOKENIZER")
    folder = Path(named) if named else PROJECT.parent / "shared" / "data" / "qwen_tokenizer"
    if not (folder / "vocab.json").is_file() and not (folder / "tokenizer.json").is_file():
        pytest.skip(
            f"no Qwen vocabulary in {folder}: set GROOT_QWEN_TOKENIZER to a folder with vocab.json and merges.txt"
        )
    return folder


def groups(arrays: dict[str, Any], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose name starts with `prefix`, by what comes after it."""
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def observation(processor: Processor, seed: int = 0, size: tuple[int, int] = (48, 64)) -> dict[str, Any]:
    """An observation of the robot, in the middle of its ranges."""
    generator = np.random.default_rng(seed)
    steps = len(processor.modality["video"].delta_indices)
    keys = processor.modality["video"].modality_keys
    state = {key: 0.1 + value for key, value in processor.blank_state().items()}
    return {
        "video": {key: generator.integers(0, 256, (steps, *size, 3), dtype=np.uint8) for key in keys},
        "state": state,
        "instruction": "Pick up the cube.",
    }


def held(processor: Processor, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """An action that stays where the state is; one number of a wider state group for a narrower action group."""
    steps = processor.action_horizon
    return {key: np.repeat(state[key][-1:, :width], steps, axis=0) for key, width in processor.action_dims.items()}
