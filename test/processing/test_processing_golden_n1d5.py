"""N1.5's processor against NVIDIA's: images, prompts, modes, and the whole chain both ways."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processing_helpers import SPECIAL_IDS, Arrays, TableTokenizer, groups, qwen_tokenizer_folder
from safetensors.numpy import load_file

from groot_ros.processing.codecs import SinCos
from groot_ros.processing.config import ProcessorFiles
from groot_ros.processing.generations import N1D5
from groot_ros.processing.images import FloatTransform
from groot_ros.processing.language import PromptEncoder, load_tokenizer
from groot_ros.processing.modes import mode_codec
from groot_ros.processing.patches import TileLayout
from groot_ros.processing.processor import Processor

PATCH = 14


@pytest.fixture(scope="module")
def folder(golden_root: Path) -> Path:
    return golden_root / "n1d5" / "processor"


@pytest.fixture(scope="module")
def arrays(folder: Path) -> Arrays:
    return load_file(folder / "transforms.safetensors")


@pytest.fixture(scope="module")
def info(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "transforms.json").read_text())


def collapsed(prompt: str) -> str:
    """One placeholder for each run of them, and no padding."""
    return re.sub(r"(<IMG_CONTEXT>)+", "<IMG_CONTEXT>", prompt).replace("<|endoftext|>", "")


def instruction(train_text: str) -> str:
    """What stands between the last image and the end of the turn."""
    return re.split(r"<image-\d+>", train_text)[-1].split("<|im_end|>")[0]


def said(decoded: str) -> str:
    """The instruction of a decoded policy prompt, without the list around it."""
    (listed,) = re.findall(r"</img>(\[.*\])<\|im_end\|>", decoded)
    (text,) = ast.literal_eval(listed)
    return text


@pytest.fixture
def checkpoint(tmp_path: Path, arrays: Arrays, info: dict[str, Any]) -> Path:
    """NVIDIA's layout, with sizes and modality as the reference had them."""
    directory = tmp_path / "checkpoint"
    (directory / "experiment_cfg").mkdir(parents=True)
    metadata = {info["metadata"]["embodiment_tag"]: info["metadata"]}
    (directory / "experiment_cfg" / "metadata.json").write_text(json.dumps(metadata))
    horizon, width = arrays["train.action"].shape
    head = {"max_state_dim": arrays["train.state"].shape[-1], "max_action_dim": width, "action_horizon": horizon}
    (directory / "config.json").write_text(json.dumps({"action_head_cfg": head}))
    return directory


def modality(arrays: Arrays, info: dict[str, Any]) -> dict[str, Any]:
    kinds = info["metadata"]["modalities"]
    steps = len(arrays["train.action"])
    return {
        "video": {"delta_indices": [0], "modality_keys": list(kinds["video"])},
        "state": {"delta_indices": [0], "modality_keys": list(kinds["state"])},
        "action": {"delta_indices": list(range(steps)), "modality_keys": list(kinds["action"])},
        "language": {"delta_indices": [0], "modality_keys": ["annotation.human.task_description"]},
    }


def tokenizer_of(arrays: Arrays, info: dict[str, Any]) -> TableTokenizer:
    """The stored ids of the policy's prompt; the training prompt's only lack the list's brackets and quotes."""
    prompt = info["policy_decoded_prompt"][0]
    ids, mask = arrays["policy.eagle_input_ids"][0], arrays["policy.eagle_attention_mask"][0]
    texts = [(collapsed(prompt), ids, mask)]
    texts += [(N1D5.chat.text(instruction(text), text.count("<image-")), ids, mask) for text in info["train_text"]]
    return TableTokenizer(SPECIAL_IDS, "<IMG_CONTEXT>", texts)


@pytest.fixture
def processor(checkpoint: Path, arrays: Arrays, info: dict[str, Any]) -> Processor:
    tag = info["metadata"]["embodiment_tag"]
    return Processor.from_checkpoint(checkpoint, tag, tokenizer_of(arrays, info), modality(arrays, info))


def test_golden_video(arrays: Arrays) -> None:
    evaluated = groups(arrays, "video_eval.video.")
    assert evaluated
    for camera, expected in evaluated.items():
        frames = arrays[f"in.video.{camera}"]
        result = FloatTransform(expected.shape[-2], 0.95)(frames)
        np.testing.assert_array_equal(result, expected.reshape(result.shape), err_msg=camera)


def test_golden_pixel_values(arrays: Arrays, info: dict[str, Any]) -> None:
    corners, means = arrays["policy.eagle_pixel_values_corner"], arrays["policy.eagle_pixel_values_mean"]
    cameras = list(info["metadata"]["modalities"]["video"])
    assert len(cameras) == len(corners)
    for index, camera in enumerate(cameras):
        frame = arrays[f"video_eval.video.{camera}"].reshape(1, 224, 224, 3)
        patches, grid = TileLayout().patches(frame)
        assert grid == (1, 16, 16)
        side = corners.shape[-1]
        np.testing.assert_array_equal(patches[0, 0].reshape(3, PATCH, PATCH)[:, :side, :side], corners[index])
        np.testing.assert_allclose(patches.astype(np.float64).mean(), means[index], rtol=0, atol=1e-6)


def test_golden_an_image_of_any_size_is_one_tile(info: dict[str, Any]) -> None:
    one = [case for case in info["tiling"] if case["tiles"] == 1]
    assert one
    for case in one:
        assert (case["h"], case["w"]) == (TileLayout().size,) * 2
    # The reference cuts other sizes into more tiles, but its own transform never gives it any.
    for case in info["tiling"]:
        frames = FloatTransform(224, 0.95)(np.zeros((1, case["h"], case["w"], 3), np.uint8))
        assert TileLayout().patches(frames)[0].shape == (1, 256, 588)


def test_golden_normalizers(arrays: Arrays, info: dict[str, Any]) -> None:
    value = arrays["normalizer.in"]
    stored = groups(arrays, "normalizer.")
    modes = {name.split(".")[0] for name in stored if "." in name}
    assert modes
    for mode in modes:
        codec = mode_codec(mode, info["normalizer_stats"], "stats", value.shape[-1])
        forward = codec.encode(value)
        np.testing.assert_array_equal(forward, stored[f"{mode}.forward"], err_msg=mode)
        assert forward.dtype == stored[f"{mode}.forward"].dtype
        assert codec.invertible == (f"{mode}.inverse" in stored)
        if codec.invertible:
            back = codec.decode(value)
            np.testing.assert_array_equal(back, stored[f"{mode}.inverse"], err_msg=mode)
            assert back.dtype == value.dtype


def test_golden_sincos(arrays: Arrays) -> None:
    value = arrays["sincos.in"]
    # torch's and numpy's sine differ in the last bit.
    np.testing.assert_allclose(SinCos(value.shape[-1]).encode(value), arrays["sincos.out"], rtol=0, atol=1e-7)


def test_golden_groups(processor: Processor, arrays: Arrays) -> None:
    state = groups(arrays, "in.state.")
    rows = np.concatenate(list(processor._groups.apply_state(state).values()), axis=-1)
    np.testing.assert_array_equal(rows, arrays["concat.state"].reshape(rows.shape))
    action = processor._groups.apply_action(groups(arrays, "in.action."), state)
    rows = np.concatenate(list(action.values()), axis=-1)
    np.testing.assert_array_equal(rows, arrays["train.action"][: len(rows), : rows.shape[-1]])


def test_golden_policy_sample(processor: Processor, arrays: Arrays, info: dict[str, Any]) -> None:
    video = groups(arrays, "in.video.")
    prompt = info["policy_decoded_prompt"][0]
    sample = processor.encode(video, groups(arrays, "in.state."), said(prompt))
    batch = processor.collate([sample])
    for ours, theirs in (("input_ids", "eagle_input_ids"), ("attention_mask", "eagle_attention_mask")):
        np.testing.assert_array_equal(batch[ours].numpy(), arrays[f"policy.{theirs}"])
    np.testing.assert_array_equal(batch["embodiment_id"].numpy(), arrays["policy.embodiment_id"])
    np.testing.assert_array_equal(batch["state_mask"].numpy(), arrays["policy.state_mask"])
    assert batch["state_mask"].numpy().dtype == arrays["policy.state_mask"].dtype
    # The reference was given float64, and kept it; what reaches the network is no wider than float32.
    np.testing.assert_allclose(batch["state"].numpy(), arrays["policy.state"], rtol=0, atol=1e-6)
    corners = arrays["policy.eagle_pixel_values_corner"]
    assert batch["image_grid_thw"].tolist() == [[1, 16, 16]] * len(corners)
    first = batch["pixel_values"].numpy().reshape(len(corners), 256, 3, PATCH, PATCH)[:, 0]
    np.testing.assert_array_equal(first[..., : corners.shape[-2], : corners.shape[-1]], corners)


def test_golden_training_sample(processor: Processor, arrays: Arrays, info: dict[str, Any]) -> None:
    text = info["train_text"][0]
    sample = processor.encode(
        groups(arrays, "in.video."), groups(arrays, "in.state."), instruction(text), groups(arrays, "in.action.")
    )
    for name in ("state_mask", "action_mask"):
        np.testing.assert_array_equal(sample[name], arrays[f"train.{name}"])
        assert sample[name].dtype == arrays[f"train.{name}"].dtype
    for name in ("state", "action"):
        np.testing.assert_allclose(sample[name], arrays[f"train.{name}"], rtol=0, atol=1e-6, err_msg=name)


def test_golden_decoding(processor: Processor, arrays: Arrays) -> None:
    decoded = processor.decode(arrays["in.normalized_action"], {})
    expected = groups(arrays, "unapply.action.")
    assert set(decoded) == set(expected)
    for key, value in decoded.items():
        np.testing.assert_array_equal(value, expected[key], err_msg=key)


def test_golden_prompts(info: dict[str, Any]) -> None:
    assert info["train_text"]
    for text in info["train_text"]:
        count = text.count("<image-")
        ours = N1D5.chat.text(instruction(text), count)
        for number in range(1, count + 1):
            ours = ours.replace(N1D5.chat.image.format(number=number), f"<image-{number}>")
        assert ours == text


def test_golden_tokens_with_the_qwen_vocabulary(arrays: Arrays, info: dict[str, Any]) -> None:
    encoder = PromptEncoder(load_tokenizer(qwen_tokenizer_folder()), N1D5.chat, 1, formalize_language=False)
    prompts = [prompt for name, texts in info.items() if name.startswith("policy_decoded_prompt") for prompt in texts]
    assert len(prompts) > 1
    for prompt in prompts:
        count = prompt.count("<img>")
        tokens = prompt.count("<IMG_CONTEXT>") // count
        ids = encoder.encode(said(prompt), ((1, 1, tokens),) * count, quoted=True)
        assert encoder.tokenizer.decode(ids) == prompt.replace("<|endoftext|>", "")
    mask = arrays["policy.eagle_attention_mask"][0] == 1
    first = info["policy_decoded_prompt"][0]
    grids = ((1, 16, 16),) * first.count("<img>")
    ids = encoder.encode(said(first), grids, quoted=True)
    np.testing.assert_array_equal(ids, arrays["policy.eagle_input_ids"][0][mask])


def test_golden_metadata_is_written_back_as_read(
    processor: Processor, checkpoint: Path, arrays: Arrays, info: dict[str, Any], tmp_path: Path
) -> None:
    processor.save(tmp_path / "again")
    written = sorted(str(path.relative_to(tmp_path / "again")) for path in (tmp_path / "again").rglob("*.json"))
    assert written == ["experiment_cfg/metadata.json", "experiment_cfg/modality_config.json"]
    read = ProcessorFiles.read(checkpoint)
    stored = json.loads((tmp_path / "again" / "experiment_cfg" / "metadata.json").read_text())
    assert stored == read.contents["experiment_cfg/metadata.json"]
    # With the network's own file beside it, it loads without any argument.
    (tmp_path / "again" / "config.json").write_text((checkpoint / "config.json").read_text())
    again = Processor.from_checkpoint(tmp_path / "again", processor.embodiment_tag, tokenizer_of(arrays, info))
    for name, config in processor.modality.items():
        assert again.modality[name] == config
    np.testing.assert_array_equal(
        again.decode(arrays["in.normalized_action"], {})["gripper"],
        processor.decode(arrays["in.normalized_action"], {})["gripper"],
    )
