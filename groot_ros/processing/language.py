"""Instruction -> prompt text -> token ids (spec/groot_n17.md section 4.5)."""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groot_ros.processing.errors import ProcessorError, describe, read_json_object

IMAGE_TOKEN = "<|image_pad|>"
_IMAGE = f"<|vision_start|>{IMAGE_TOKEN}<|vision_end|>"
_NOT_WORD_OR_SPACE = re.compile(r"[^\w\s]")
# A file of any of these names means: this directory has a tokenizer of its own.
TOKENIZER_MARKERS = ("tokenizer.json", "vocab.json")
# Prompts of one run: a handful of instructions, one or two image grids.
_CACHE_ENTRIES = 64

Grid = tuple[int, int, int]


def formalize(instruction: str) -> str:
    """Lower case, without any character that is neither word (letters of any script, digits, _) nor space."""
    return _NOT_WORD_OR_SPACE.sub("", instruction.lower())


def prompt_text(instruction: str, images: int) -> str:
    """One user turn of the Qwen3-VL chat: all images, then the text; no system prompt and no opening of an answer."""
    return f"<|im_start|>user\n{_IMAGE * images}{instruction}<|im_end|>\n"


def has_tokenizer(directory: Path) -> bool:
    """True if the directory holds tokenizer files."""
    return any((directory / name).is_file() for name in TOKENIZER_MARKERS)


def _is_plain(directory: Path) -> bool:
    """True for a tokenizer.json that names no class of its own.

    AutoTokenizer would look into config.json then, where transformers does not know GR00T's model type.
    """
    if not (directory / "tokenizer.json").is_file():
        return False
    settings = directory / "tokenizer_config.json"
    named = read_json_object(settings).get("tokenizer_class") if settings.is_file() else None
    return named in (None, "PreTrainedTokenizerFast")


def load_tokenizer(source: str | Path) -> Any:
    """Loads a tokenizer with transformers.

    Args:
        source: a directory with tokenizer files, or a hub id.

    Raises:
        ProcessorError: the directory has no tokenizer, or the hub cannot be reached and nothing is cached.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    fix = (
        "Set the parameter `tokenizer` to a folder with the Qwen3-VL tokenizer (tokenizer.json, or vocab.json and "
        "merges.txt), or copy those files into the checkpoint directory."
    )
    path = Path(source).expanduser()
    if path.is_dir():
        if not has_tokenizer(path):
            raise ProcessorError(f"tokenizer folder {path}", " or ".join(TOKENIZER_MARKERS), "neither file", fix)
        source = path
    loader = PreTrainedTokenizerFast if path.is_dir() and _is_plain(path) else AutoTokenizer
    try:
        return loader.from_pretrained(source)
    except Exception as error:  # the tokenizers library raises nothing more specific
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ProcessorError(f"tokenizer '{source}'", "a tokenizer transformers can load", first_line, fix) from error


class PromptEncoder:
    """Turns an instruction and the grids of its images into token ids, remembering recent results.

    Attributes:
        image_token_id: id of the placeholder that image features replace.
        pad_token_id: id used for left padding.
    """

    def __init__(self, tokenizer: Any, merge_size: int, formalize_language: bool, where: str = "tokenizer") -> None:
        """Raises ProcessorError if the tokenizer lacks the special tokens of Qwen3-VL's chat."""
        self.tokenizer = tokenizer
        self._merge_area = merge_size**2
        self._formalize = formalize_language
        self._cache: OrderedDict[tuple[str, tuple[Grid, ...]], NDArray[np.int64]] = OrderedDict()
        tokens = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", IMAGE_TOKEN, "<|vision_end|>")
        vocabulary = tokenizer.get_vocab()
        missing = [token for token in tokens if token not in vocabulary]
        if missing:
            raise ProcessorError(
                where,
                "the special tokens of Qwen3-VL",
                "no " + ", ".join(missing),
                "Set `tokenizer` to that model's.",
            )
        if tokenizer.pad_token_id is None:
            raise ProcessorError(where, "a padding token", "none", "Set `pad_token` in tokenizer_config.json.")
        self.image_token_id: int = vocabulary[IMAGE_TOKEN]
        self.pad_token_id: int = tokenizer.pad_token_id

    def text(self, instruction: Any, images: int) -> str:
        """The prompt before its image placeholders are repeated.

        Raises:
            ProcessorError: not a string, or nothing is left of it (for the model an instruction of
                punctuation is empty).
        """
        if not isinstance(instruction, str):
            raise ProcessorError("instruction", "text", describe(instruction))
        words = formalize(instruction) if self._formalize else instruction
        if not words.strip():
            raise ProcessorError(
                "instruction", "a text with words", describe(instruction), "Say what the robot is to do."
            )
        return prompt_text(words, images)

    def encode(self, instruction: str, grids: tuple[Grid, ...]) -> NDArray[np.int64]:
        """Token ids int64 [L], with every image's placeholder repeated once per merged patch of its (t, h, w) grid.

        Raises:
            ProcessorError: an empty instruction, or one that contains the image placeholder itself.
        """
        cached = self._cache.get((instruction, grids)) if isinstance(instruction, str) else None
        if cached is not None:
            self._cache.move_to_end((instruction, grids))
            return cached.copy()
        text = self.text(instruction, len(grids))
        ids = np.asarray(self.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)
        places = np.flatnonzero(ids == self.image_token_id)
        if len(places) != len(grids):
            raise ProcessorError(
                "instruction",
                f"a text without {IMAGE_TOKEN}",
                f"{len(places)} image placeholders for {len(grids)} images in {describe(instruction)}",
            )
        repeats = np.ones(len(ids), dtype=np.int64)
        repeats[places] = [t * h * w // self._merge_area for t, h, w in grids]
        expanded = np.repeat(ids, repeats)
        self._cache[instruction, grids] = expanded
        if len(self._cache) > _CACHE_ENTRIES:
            self._cache.popitem(last=False)
        return expanded.copy()
