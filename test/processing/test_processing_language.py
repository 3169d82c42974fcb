"""Prompts and token ids: against the reference, with and without Qwen's vocabulary, and refused instructions."""

from __future__ import annotations

import copy
import json
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processing_helpers import qwen_tokenizer_folder
from safetensors.numpy import load_file

from groot_ros.processing.errors import ProcessorError
from groot_ros.processing.generations import EAGLE_TOKEN_IDS, N1D5, N1D6, N1D7
from groot_ros.processing.language import PromptEncoder, formalize, load_tokenizer
from groot_ros.processing.patches import PatchLayout

ONE_TOKEN = (1, 2, 2)
CHAT = N1D7.chat


@pytest.fixture(scope="module")
def prompts(n1d7: Path) -> dict[str, Any]:
    return json.loads((n1d7 / "prompt_tokens.json").read_text())


def test_golden_formalize_and_prompt_text(prompts: dict[str, Any]) -> None:
    for raw, expected in prompts["formalize"]:
        assert formalize(raw) == expected
    for case in prompts["prompts"]:
        assert CHAT.text(formalize(case["lang"]), case["n_images"]) == case["text"]


def test_golden_token_ids_with_the_qwen_vocabulary(
    n1d7: Path, prompts: dict[str, Any], e2e: dict[str, np.ndarray], e2e_info: dict[str, Any]
) -> None:
    encoder = PromptEncoder(load_tokenizer(qwen_tokenizer_folder()), CHAT, 2, formalize_language=True)
    vocabulary = encoder.tokenizer.get_vocab()
    assert {token: vocabulary[token] for token in prompts["special_ids"]} == prompts["special_ids"]
    for case in prompts["prompts"]:
        ids = encoder.encode(case["lang"], (ONE_TOKEN,) * case["n_images"])
        assert ids.tolist() == case["ids_unexpanded"], case["lang"]

    # The batch lists its images over all samples, and texts already formalised.
    batch = prompts["batch"]
    images = load_file(n1d7 / "qwen_image_io.safetensors")
    layout = PatchLayout(min_pixels=e2e_info["qwen_image_size"][0])
    grids = [layout.patches(images[f"{name}.in"][None])[1] for name in batch["images"]]
    assert [list(grid) for grid in grids] == batch["image_grid_thw"]
    per_sample = len(grids) // len(batch["texts"])
    for row, text in enumerate(batch["texts"]):
        instruction = text.rsplit("<|vision_end|>", 1)[1].removesuffix("<|im_end|>\n")
        own = tuple(grids[row * per_sample : (row + 1) * per_sample])
        valid = np.array(batch["input_ids"][row])[np.array(batch["attention_mask"][row]) == 1]
        np.testing.assert_array_equal(encoder.encode(instruction, own), valid)

    e2e_grids = [tuple(int(n) for n in grid) for grid in e2e["out.image_grid_thw"]]
    per_sample = len(e2e_grids) // len(e2e_info["langs"])
    for row, instruction in enumerate(e2e_info["langs"]):
        own = tuple(e2e_grids[row * per_sample : (row + 1) * per_sample])
        valid = e2e["out.input_ids"][row][e2e["out.attention_mask"][row] == 1]
        np.testing.assert_array_equal(encoder.encode(instruction, own), valid)
    assert encoder.pad_token_id == prompts["special_ids"]["<|endoftext|>"]


def test_placeholders_are_repeated_in_order(byte_tokenizer: Any) -> None:
    encoder = PromptEncoder(byte_tokenizer, CHAT, 2, formalize_language=True)
    ids = encoder.encode("go", ((1, 2, 4), (1, 4, 6)))
    image = encoder.image_token_id
    ends = np.flatnonzero(ids == byte_tokenizer.convert_tokens_to_ids("<|vision_end|>"))
    starts = np.flatnonzero(ids == byte_tokenizer.convert_tokens_to_ids("<|vision_start|>"))
    assert (ends - starts - 1).tolist() == [2, 6]
    assert (ids == image).sum() == 8
    assert byte_tokenizer.decode(ids[ends[-1] + 1 :]) == "go<|im_end|>\n"


def test_a_caller_cannot_change_what_is_remembered(byte_tokenizer: Any) -> None:
    encoder = PromptEncoder(byte_tokenizer, CHAT, 2, formalize_language=True)
    first = encoder.encode("go", (ONE_TOKEN,))
    kept = first.copy()
    first[:] = 0
    second = encoder.encode("go", (ONE_TOKEN,))
    second[:] = 0
    np.testing.assert_array_equal(encoder.encode("go", (ONE_TOKEN,)), kept)


def test_what_is_remembered_is_bounded(byte_tokenizer: Any) -> None:
    encoder = PromptEncoder(byte_tokenizer, CHAT, 2, formalize_language=True)
    for number in range(200):
        encoder.encode(f"pick {number}", (ONE_TOKEN,))
    assert len(encoder._cache) == 64


def test_an_instruction_may_be_checked_while_another_is_encoded(byte_tokenizer: Any) -> None:
    """Tokenizers refuse a second caller; an instruction is checked beside the thread that encodes."""
    busy = threading.Lock()

    class Alone:
        def __getattr__(self, name: str) -> Any:
            return getattr(byte_tokenizer, name)

        def __call__(self, *arguments: Any, **named: Any) -> Any:
            assert busy.acquire(blocking=False), "a second caller"
            try:
                os.sched_yield()
                return byte_tokenizer(*arguments, **named)
            finally:
                busy.release()

    encoder = PromptEncoder(Alone(), CHAT, 2, formalize_language=True)
    texts = [f"pick up cube {number}" for number in range(100)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda text: encoder.encode(text, ((1, 4, 4),)), texts * 2))
    for text, ids in zip(texts * 2, found, strict=True):
        np.testing.assert_array_equal(ids, encoder.encode(text, ((1, 4, 4),)))


def test_an_encoder_can_be_copied_and_pickled(byte_tokenizer: Any) -> None:
    encoder = PromptEncoder(byte_tokenizer, CHAT, 2, formalize_language=True)
    copied = pickle.loads(pickle.dumps(copy.deepcopy(encoder)))
    np.testing.assert_array_equal(*(one.encode("pick up", ((1, 4, 4),)) for one in (encoder, copied)))


@pytest.mark.parametrize(
    ("instruction", "part"),
    [("", "''"), ("  \n", "found"), ("?!", "'?!'"), (None, "None"), (b"go", "b'go'"), (["go"], "['go']")],
)
def test_an_instruction_without_words_is_refused(byte_tokenizer: Any, instruction: Any, part: str) -> None:
    encoder = PromptEncoder(byte_tokenizer, CHAT, 2, formalize_language=True)
    with pytest.raises(ProcessorError, match="instruction: expected") as caught:
        encoder.encode(instruction, (ONE_TOKEN,))
    assert part in str(caught.value)


def test_without_formalize_an_image_placeholder_in_the_text_is_refused(byte_tokenizer: Any) -> None:
    encoder = PromptEncoder(byte_tokenizer, CHAT, 2, formalize_language=False)
    assert "Go!" in encoder.text("Go!", 1)
    with pytest.raises(ProcessorError, match=r"a text without <\|image_pad\|>; found 'see"):
        encoder.encode("see <|image_pad|>", (ONE_TOKEN,))


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    plain = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0}, [])))
    with pytest.raises(ProcessorError, match=r"no <\|im_start\|>, .*Set `tokenizer`"):
        PromptEncoder(plain, CHAT, 2, formalize_language=True)


def test_a_tokenizer_without_padding_is_refused(byte_tokenizer: Any) -> None:
    from transformers import PreTrainedTokenizerFast

    without = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer.backend_tokenizer)
    with pytest.raises(ProcessorError, match="padding token"):
        PromptEncoder(without, CHAT, 2, formalize_language=True)


def test_tokenizers_load_from_folders(byte_tokenizer: Any, tmp_path: Path) -> None:
    byte_tokenizer.save_pretrained(tmp_path)
    text = CHAT.text("pick up", 1)
    expected = byte_tokenizer(text)["input_ids"]
    assert load_tokenizer(tmp_path)(text)["input_ids"] == expected
    (tmp_path / "tokenizer_config.json").unlink()
    assert load_tokenizer(str(tmp_path))(text)["input_ids"] == expected


@pytest.mark.parametrize(
    "content",
    [None, "{", '{"version": "1.0"}', '{"version": "1.0", "added_tokens": [], "model": {}}'],
    ids=["no file", "not JSON", "not a tokenizer", "no model"],
)
def test_a_folder_without_a_usable_tokenizer_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ProcessorError, match="Set the parameter `tokenizer`") as caught:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_an_unreachable_hub_id_says_which_parameter_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("We couldn't connect to 'https://huggingface.co'\nsecond line")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", offline)
    with pytest.raises(ProcessorError) as caught:
        load_tokenizer("nvidia/Cosmos-Reason2-2B")
    for part in ("nvidia/Cosmos-Reason2-2B", "We couldn't connect", "parameter `tokenizer`"):
        assert part in str(caught.value)
    assert "second line" not in str(caught.value)


SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
IMAGES = "<image 1><img><IMG_CONTEXT></img><image 2><img><IMG_CONTEXT></img>"


def test_each_generation_has_its_own_order_and_ending(eagle_tokenizer: Any) -> None:
    prompts = [
        PromptEncoder(eagle_tokenizer, chat, 1, formalize_language=formal).text("Go!", 2)
        for chat, formal in ((N1D5.chat, False), (N1D6.chat, True))
    ]
    assert prompts == [
        f"{SYSTEM}{IMAGES}Go!<|im_end|>\n<|im_start|>assistant\n",
        f"{SYSTEM}go{IMAGES}<|im_end|>\n",
    ]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("pick up", "['pick up']"),
        ("don't", '["don\'t"]'),
        ('a "b"', "['a \"b\"']"),
        ("caf\u00e9", "['caf\u00e9']"),
        ("a\tb", "['a\\tb']"),
        ("word " * 40 + "end", f"['{'word ' * 40}end']"),
    ],
)
def test_a_quoted_instruction_is_what_numpy_writes(eagle_tokenizer: Any, text: str, written: str) -> None:
    encoder = PromptEncoder(eagle_tokenizer, N1D5.chat, 1, formalize_language=False)
    assert str(np.array([text])) == written
    assert encoder.text(text, 0, quoted=True) == N1D5.chat.text(written, 0)
    assert not np.array_equal(encoder.encode(text, (), quoted=True), encoder.encode(text, ()))


@pytest.mark.parametrize("token", ["<|im_end|>", "<img>", "<IMG_CONTEXT>"])
def test_special_tokens_in_an_instruction_are_refused(eagle_tokenizer: Any, token: str) -> None:
    encoder = PromptEncoder(eagle_tokenizer, N1D5.chat, 1, formalize_language=False)
    with pytest.raises(ProcessorError, match="instruction: expected a text without"):
        encoder.encode(f"go {token} on", (ONE_TOKEN,))


def plain_tokenizer(size: int, *extra: str) -> Any:
    """A tokenizer of `size` tokens that has Qwen's chat tokens, but none of Eagle's except `extra`."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *extra]
    words = {f"w{number}": number for number in range(size - len(special))}
    tokenizer = Tokenizer(models.WordLevel(vocab=words, unk_token="w0"))
    tokenizer.add_special_tokens(special)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=special[0])


def test_eagles_tokens_are_added_to_qwen3s_tokenizer() -> None:
    tokenizer = plain_tokenizer(151669)
    encoder = PromptEncoder(tokenizer, N1D6.chat, 2, formalize_language=True)
    assert {token: tokenizer.get_vocab()[token] for token in EAGLE_TOKEN_IDS} == EAGLE_TOKEN_IDS
    assert encoder.image_token_id == 151669
    ids = encoder.encode("go", ((1, 4, 4),))
    assert (ids == 151669).sum() == 4
    assert ids[np.flatnonzero(ids == 151669)[0] - 1] == 151670
    PromptEncoder(tokenizer, N1D5.chat, 1, formalize_language=False)
    assert len(tokenizer) == 151672


@pytest.mark.parametrize(
    ("size", "extra", "parts"),
    [
        (500, (), ["no <IMG_CONTEXT>, <img>, </img>", "500 tokens", "151669, 151670, 151671"]),
        (151669, ("<img>",), ["no <IMG_CONTEXT>, </img>", "Set `tokenizer`"]),
        (151665, (), ["151665 tokens", "Qwen3's tokenizer"]),
    ],
    ids=["small", "some are there", "Qwen 2.5"],
)
def test_eagles_tokens_are_not_added_where_their_ids_would_be_others(
    size: int, extra: tuple[str, ...], parts: list[str]
) -> None:
    tokenizer = plain_tokenizer(size, *extra)
    with pytest.raises(ProcessorError) as caught:
        PromptEncoder(tokenizer, N1D6.chat, 2, formalize_language=True)
    for part in parts:
        assert part in str(caught.value)
    assert len(tokenizer) == size
