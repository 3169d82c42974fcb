"""A small byte-level tokenizer of the project's own, with Qwen's special tokens, for checkpoints made here.

Trained checkpoints come with, or name, the tokenizer they were trained with; this one only makes a random checkpoint
complete. Any text can be written in it, in more tokens than Qwen's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from groot_ros.processing.generations import EAGLE_TOKEN_IDS

# Qwen numbers these without a gap, from 151643 on.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
FIRST_SPECIAL_ID_QWEN = 151643
FIRST_SPECIAL_ID_TINY = 496
PAD_TOKEN = "<|endoftext|>"

# What the merges are learned from: words of instructions.
_CORPUS = (
    "user assistant system",
    "pick up the red cube and place it in the bowl on the table",
    "put the green block into the blue box then close the drawer",
    "open the top drawer and take out the yellow cup",
    "move the white plate to the left of the black pan",
    "push the button with the gripper and wait",
    "stack the small orange brick on the large brown brick",
    "fold the towel in half and hand over the bottle",
    "turn the knob to the right and pour water into the glass",
    "sort the objects by color and wipe the surface",
)
_BASE_SIZE = FIRST_SPECIAL_ID_TINY


def build_tokenizer(first_special_id: int, more: Sequence[str] = ()) -> dict[str, Any]:
    """The content of tokenizer.json, with the special tokens at `first_special_id` and the numbers after it.

    Args:
        more: texts to learn from, beside instructions.

    Raises:
        ValueError: `first_special_id` lies within the ids of ordinary tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_BASE_SIZE, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator((*_CORPUS, *more), trainer)
    ordinary = tokenizer.get_vocab_size()
    if first_special_id < ordinary:
        raise ValueError(f"first_special_id is {first_special_id}, but {ordinary} ordinary tokens come before it")
    ids = special_ids(first_special_id)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ids])
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    # The library gives added tokens the next free ids; one that the model's vocabulary already knows keeps its id
    # there. So a gap in the numbering, as Qwen's ids need, is written into the vocabulary.
    content["model"]["vocab"].update(ids)
    for token in content["added_tokens"]:
        token["id"] = ids[token["content"]]
    return content


def special_ids(first_special_id: int) -> dict[str, int]:
    """Id of every special token, Eagle's image tokens included."""
    qwen = {token: first_special_id + i for i, token in enumerate(SPECIAL_TOKENS)}
    eagle = {token: first_special_id + number - FIRST_SPECIAL_ID_QWEN for token, number in EAGLE_TOKEN_IDS.items()}
    return {**qwen, **eagle}


def write_tokenizer(directory: Path, first_special_id: int, more: Sequence[str] = ()) -> None:
    """Writes tokenizer.json and tokenizer_config.json, which `transformers.AutoTokenizer` loads."""
    content = build_tokenizer(first_special_id, more)
    (directory / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": PAD_TOKEN,
        "padding_side": "left",
        "additional_special_tokens": [t for t in special_ids(first_special_id) if t not in ("<|im_end|>", PAD_TOKEN)],
        "clean_up_tokenization_spaces": False,
        "model_max_length": 262144,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
