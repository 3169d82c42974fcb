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


def make_byte_tokenizer(special: list[str]) -> PreTrainedTokenizerFast:
    """One token per byte, plus the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=special[0])


@pytest.fixture(scope="session")
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of N1.7's kind."""
    return make_byte_tokenizer(SPECIAL)


@pytest.fixture(scope="session")
def eagle_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of N1.5's and N1.6's kind, with ids of its own."""
    return make_byte_tokenizer([*SPECIAL[:3], "<IMG_CONTEXT>", "<img>", "</img>"])


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


def statistics_of(low: list[float], high: list[float]) -> dict[str, list[float]]:
    """Statistics of one group between two ends."""
    ends = np.array([low, high], dtype=float)
    span = ends[1] - ends[0]
    arrays = {"min": ends[0], "max": ends[1], "mean": ends.mean(0), "std": span / 4}
    arrays |= {"q01": ends[0] + 0.1 * span, "q99": ends[1] - 0.1 * span}
    return {name: value.tolist() for name, value in arrays.items()}


def about(width: int, rotation: str | None = None, absolute: bool = True, continuous: bool = True) -> dict[str, Any]:
    """What N1.5's metadata.json says about one group."""
    return {"absolute": absolute, "rotation_type": rotation, "shape": [width], "continuous": continuous}


@pytest.fixture
def n1d5_checkpoint(tmp_path: Path, eagle_tokenizer: PreTrainedTokenizerFast) -> Path:
    """A small N1.5 checkpoint: two cameras, joints, a pose, a gripper; images of 4 x 4 patches."""
    directory = tmp_path / "n1d5"
    (directory / "experiment_cfg").mkdir(parents=True)
    unit = statistics_of([-1] * 4, [1] * 4)
    groups = {"arm": statistics_of([-2, 0], [2, 4]), "turn": unit, "gripper": statistics_of([0], [1])}
    facts = {"arm": about(2), "turn": about(4, "quaternion"), "gripper": about(1, continuous=False)}
    camera = {"resolution": [64, 48], "channels": 3, "fps": 30}
    entry = {
        "statistics": {"state": groups, "action": groups},
        "modalities": {"video": {"front": camera, "wrist": camera}, "state": facts, "action": facts},
        "embodiment_tag": "new_embodiment",
    }
    settings = {
        "normalization_modes": {"gripper": "binary"},
        "target_rotations": {"turn": "rotation_6d"},
        "modality_keys": list(groups),
    }
    modality = {
        "video": {"delta_indices": [0], "modality_keys": ["front", "wrist"]},
        "state": {"delta_indices": [0], **settings},
        "action": {"delta_indices": [0, 1, 2], **settings},
        "language": {"delta_indices": [0], "modality_keys": ["annotation.human.task_description"]},
    }
    config = {
        "action_head_cfg": {"max_state_dim": 12, "max_action_dim": 10, "action_horizon": 4},
        "eagle_config": {"force_image_size": 56, "vision_config": {"patch_size": 14, "image_size": 56}},
    }
    write = {"experiment_cfg/metadata.json": entry, "experiment_cfg/modality_config.json": modality}
    for name, content in write.items():
        (directory / name).write_text(json.dumps({"new_embodiment": content}))
    (directory / "config.json").write_text(json.dumps(config))
    eagle_tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def n1d6_checkpoint(golden_root: Path, tmp_path: Path, eagle_tokenizer: PreTrainedTokenizerFast) -> Path:
    """The reference's processor files of N1.6, and a tokenizer."""
    directory = tmp_path / "n1d6"
    shutil.copytree(golden_root / "n1d6" / "processor" / "saved_processor", directory)
    eagle_tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def folders(n1d5_checkpoint: Path, n1d6_checkpoint: Path, checkpoint: Path) -> dict[str, Path]:
    return {"n1d5": n1d5_checkpoint, "n1d6": n1d6_checkpoint, "n1d7": checkpoint}
