"""What the processor's tests share: the references, a tokenizer without a vocabulary file, a checkpoint directory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
JsonEdit = Callable[[Any], None]


@pytest.fixture(scope="session")
def n1d7(golden_root: Path) -> Path:
    """References of N1.7."""
    return golden_root / "n1d7"


@pytest.fixture(scope="session")
def e2e(n1d7: Path) -> dict[str, np.ndarray]:
    """Arrays of the end-to-end reference."""
    return load_file(n1d7 / "processor_e2e.safetensors")


@pytest.fixture(scope="session")
def e2e_info(n1d7: Path) -> dict[str, Any]:
    """Texts and settings of the end-to-end reference."""
    return json.loads((n1d7 / "processor_e2e.json").read_text())


@pytest.fixture(scope="session")
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, plus the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=SPECIAL[0])


@pytest.fixture
def checkpoint(n1d7: Path, tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> Path:
    """A checkpoint directory of a test's own: the reference's processor files, image limits, a tokenizer."""
    directory = tmp_path / "checkpoint"
    shutil.copytree(n1d7 / "processor_dir", directory)
    limits = {"size": {"shortest_edge": 1024, "longest_edge": 16777216}}
    (directory / "preprocessor_config.json").write_text(json.dumps(limits))
    byte_tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def edit_json() -> Callable[[Path, JsonEdit], None]:
    """Changes a JSON file in place with a function of its content."""

    def edit(path: Path, change: JsonEdit) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return edit
