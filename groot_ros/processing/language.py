"""Instruction -> prompt text -> token ids (spec/groot_n17.md section 4.5, spec/groot_n15_n16.md section 4.2, 4.7)."""

from __future__ import annotations

import re
import shutil
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groot_ros.processing.errors import ProcessorError, describe, read_json_object
from groot_ros.processing.generations import Chat

_NOT_WORD_OR_SPACE = re.compile(r"[^\w\s]")
# A file of any of these names means: this directory has a tokenizer of its own.
TOKENIZER_MARKERS = ("tokenizer.json", "vocab.json")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
# Prompts of one run: a handful of instructions, one or two image grids.
_CACHE_ENTRIES = 64

Grid = tuple[int, int, int]


def formalize(instruction: str) -> str:
    """Lower case, without any character that is neither word (letters of any script, digits, _) nor space."""
    return _NOT_WORD_OR_SPACE.sub("", instruction.lower())


def has_tokenizer(directory: Path) -> bool:
    """True if the directory holds tokenizer files."""
    return any((directory / name).is_file() for name in TOKENIZER_MARKERS)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copies the tokenizer files of one directory into another."""
    for name in _TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


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
        "Set the parameter `tokenizer` to a folder with the backbone's tokenizer (tokenizer.json, or vocab.json and "
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


def add_missing_tokens(tokenizer: Any, wanted: dict[str, int], where: str) -> None:
    """Gives a plain Qwen3 tokenizer the tokens that Eagle adds to it.

    Qwen3's own tokens end at 151668; Eagle's `<IMG_CONTEXT>`, `<img>` and `</img>` are 151669, 151670 and 151671, and
    the rows of the network's embedding are at those ids. A tokenizer that has the tokens is left as it is, whatever
    their ids (a small checkpoint numbers them in its own way).

    Args:
        wanted: token -> id, ascending; the tokenizer is changed in place.

    Raises:
        ProcessorError: only some of them are there, or they would get other ids.
    """
    missing = [token for token in wanted if token not in tokenizer.get_vocab()]
    if not missing:
        return
    found = f"no {', '.join(missing)}, and {len(tokenizer)} tokens in all"
    expected = (
        f"{', '.join(wanted)}, or Qwen3's tokenizer, to which they are added as {', '.join(map(str, wanted.values()))}"
    )
    if len(missing) != len(wanted) or len(tokenizer) != min(wanted.values()):
        raise ProcessorError(where, expected, found, "Set `tokenizer` to the tokenizer of this checkpoint's backbone.")
    tokenizer.add_tokens(list(wanted), special_tokens=True)
    vocabulary = tokenizer.get_vocab()
    given = {token: vocabulary[token] for token in wanted}
    if given != wanted:
        raise ProcessorError(where, expected, f"the ids {describe(given)}")


class PromptEncoder:
    """Turns an instruction and the grids of its images into token ids, remembering recent results. From any thread.

    Attributes:
        image_token_id: id of the placeholder that image features replace.
        highest_token_id: the largest id of the tokenizer.
        pad_token_id: id used for left padding.
        capacity: prompts that are remembered; training on many instructions raises it.
    """

    def __init__(
        self, tokenizer: Any, chat: Chat, merge_size: int, formalize_language: bool, where: str = "tokenizer"
    ) -> None:
        """Checks the tokenizer, and adds the tokens of Eagle to one that has none of them.

        Args:
            tokenizer: a loaded transformers tokenizer; see `add_missing_tokens` for when it is changed.
            merge_size: patches per side of one image token.

        Raises:
            ProcessorError: the tokenizer lacks special tokens of the chat, or a padding token.
        """
        self.tokenizer, self._chat = tokenizer, chat
        self.capacity = _CACHE_ENTRIES
        self._merge_area = merge_size**2
        self._formalize = formalize_language
        self._cache: OrderedDict[tuple[str, bool, tuple[Grid, ...]], NDArray[np.int64]] = OrderedDict()
        self._lock = threading.Lock()  # tokenizers refuse a second caller
        missing = [token for token in chat.special if token not in chat.added and token not in tokenizer.get_vocab()]
        if missing:
            raise ProcessorError(
                where,
                "the special tokens of the backbone's chat",
                "no " + ", ".join(missing),
                "Set `tokenizer` to that model's.",
            )
        add_missing_tokens(tokenizer, dict(chat.added), where)
        if tokenizer.pad_token_id is None:
            raise ProcessorError(where, "a padding token", "none", "Set `pad_token` in tokenizer_config.json.")
        vocabulary = tokenizer.get_vocab()
        self.image_token_id: int = vocabulary[chat.image_token]
        self.highest_token_id: int = max(vocabulary.values())
        self.pad_token_id: int = tokenizer.pad_token_id

    def text(self, instruction: Any, images: int, *, quoted: bool = False) -> str:
        """The prompt before its image placeholders are repeated.

        Args:
            quoted: the instruction as NVIDIA's N1.5 policy gives it, as the text of a list: `['pick up']`.

        Raises:
            ProcessorError: not a string, nothing is left of it (for the model an instruction of punctuation is empty),
                or it contains a special token of the chat.
        """
        if not isinstance(instruction, str):
            raise ProcessorError("instruction", "text", describe(instruction))
        words = formalize(instruction) if self._formalize else instruction
        if not formalize(words).strip():
            raise ProcessorError(
                "instruction", "a text with words", describe(instruction), "Say what the robot is to do."
            )
        special = next((token for token in self._chat.special if token in words), None)
        if special is not None:
            raise ProcessorError("instruction", f"a text without {special}", describe(instruction))
        return self._chat.text(str([words]) if quoted else words, images)

    def encode(self, instruction: str, grids: tuple[Grid, ...], *, quoted: bool = False) -> NDArray[np.int64]:
        """Token ids int64 [L], with every image's placeholder repeated once per merged patch of its (t, h, w) grid.

        Raises:
            ProcessorError: see `text`.
        """
        with self._lock:
            entry = (instruction, quoted, grids)
            cached = self._cache.get(entry) if isinstance(instruction, str) else None
            if cached is not None:
                self._cache.move_to_end(entry)
                return cached.copy()
            expanded = self._expanded(instruction, grids, quoted)
            self._cache[entry] = expanded
            if len(self._cache) > self.capacity:
                self._cache.popitem(last=False)
            return expanded.copy()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def _expanded(self, instruction: str, grids: tuple[Grid, ...], quoted: bool) -> NDArray[np.int64]:
        text = self.text(instruction, len(grids), quoted=quoted)
        ids = np.asarray(self.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)
        places = np.flatnonzero(ids == self.image_token_id)
        if len(places) != len(grids):
            raise ProcessorError(
                "tokenizer",
                f"{self._chat.image_token} kept as one token",
                f"{len(places)} image placeholders for {len(grids)} images in {describe(text)}",
                "Set `tokenizer` to the tokenizer of this checkpoint's backbone.",
            )
        repeats = np.ones(len(ids), dtype=np.int64)
        repeats[places] = [t * h * w // self._merge_area for t, h, w in grids]
        return np.repeat(ids, repeats)
