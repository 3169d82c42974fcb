"""N1.6's processor against NVIDIA's: images, prompts, groups, and the whole chain both ways."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processing_helpers import SPECIAL_IDS, Arrays, TableTokenizer, groups, qwen_tokenizer_folder
from safetensors.numpy import load_file

from groot_ros.processing.config import ProcessorFiles
from groot_ros.processing.generations import N1D6
from groot_ros.processing.images import ImageTransform, crop_part, letter_box, scale_shorter_side
from groot_ros.processing.language import PromptEncoder, formalize, load_tokenizer
from groot_ros.processing.modality import ActionConfig, ActionFormat, ActionRep, ModalityConfig
from groot_ros.processing.patches import EagleLayout
from groot_ros.processing.pose import absolute_poses, relative_poses
from groot_ros.processing.processor import Processor
from groot_ros.processing.scaling import by_flags
from groot_ros.processing.state_action import StateActionProcessor
from groot_ros.processing.statistics import TagStatistics


@pytest.fixture(scope="module")
def folder(golden_root: Path) -> Path:
    return golden_root / "n1d6" / "processor"


@pytest.fixture(scope="module")
def images(folder: Path) -> Arrays:
    return load_file(folder / "images_and_tokens.safetensors")


@pytest.fixture(scope="module")
def info(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "images_and_tokens.json").read_text())


def planes(frames: np.ndarray) -> np.ndarray:
    """[1, H, W, 3] -> [3, H, W]."""
    return frames[0].transpose(2, 0, 1)


def pictures(patches: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """Patches [rows * columns, 588] of one image -> [1, 3, H, W], the reference's form."""
    rows, columns = grid[1:]
    blocks = patches.reshape(rows, columns, 14, 14, 3).transpose(4, 0, 2, 1, 3)
    return blocks.reshape(1, 3, rows * 14, columns * 14)


def test_golden_image_transforms(images: Arrays, info: dict[str, Any]) -> None:
    assert info["image_cases"] and {name.split(".")[0] for name in info["image_cases"]} <= {"alb", "tv"}
    for name, case in info["image_cases"].items():
        settings = {key: value for key, value in case.items() if key != "out_shape"}
        # As a file says it: no key for the letterbox, which NVIDIA's code of February 2026 always has.
        kwargs = {**N1D6.defaults, **settings, "use_albumentations": name.startswith("alb.")}
        frames = images[f"in.{name.rsplit('.', 1)[1]}"][None]
        result = planes(ImageTransform.from_kwargs(kwargs, "case")(frames))
        assert list(result.shape) == case["out_shape"], name
        np.testing.assert_array_equal(result, images[name], err_msg=name)


def test_golden_stages(images: Arrays) -> None:
    cases = sorted({name.rsplit(".", 1)[0] for name in images if name.startswith("stages.")})
    assert cases
    for case in cases:
        _, picture, edge_text = case.split(".")
        edge = int(edge_text.removeprefix("edge"))
        padded = letter_box(images[f"in.{picture}"][None])[0]
        scaled = scale_shorter_side(padded, edge)
        cropped = crop_part(scaled, 0.95)
        for index, stage in enumerate((padded, scaled, cropped, scale_shorter_side(cropped, edge))):
            np.testing.assert_array_equal(stage, images[f"{case}.{index}"], err_msg=f"{case}.{index}")


def test_golden_original_pipeline_without_letterbox(folder: Path) -> None:
    io = load_file(folder / "images_n16_original_no_letterbox.safetensors")
    cases = json.loads((folder / "images_n16_original_no_letterbox.json").read_text())
    assert cases
    for name, sizes in cases.items():
        setting, picture = name.rsplit(".", 1)
        edge, fraction = setting.removeprefix("edge").split("_f")
        kwargs = {
            "use_albumentations": True,
            "shortest_image_edge": int(edge),
            "crop_fraction": float(fraction),
            "letter_box_transform": False,
        }
        frames = ImageTransform.from_kwargs({**N1D6.defaults, **kwargs}, "case")(io[f"in.{picture}"][None])
        np.testing.assert_array_equal(planes(frames), io[f"alb.{name}"], err_msg=name)
        resized = EagleLayout().resize(frames)
        np.testing.assert_array_equal(resized[0], io[f"smart.{name}"], err_msg=name)
        assert [list(frames.shape[1:3]), list(resized.shape[1:3])] == [sizes["eval_hw"], sizes["smart_hw"]]


def test_golden_smart_resize(info: dict[str, Any]) -> None:
    assert info["smart_resize"]
    for case in info["smart_resize"]:
        assert list(EagleLayout().target_size(case["h"], case["w"])) == case["out"], case


def test_golden_smart_resized_images_and_pixel_values(images: Arrays) -> None:
    resized = groups(images, "proc.smart_resized")
    names = [name for name in images if ".eval_image" in name]
    evaluated = [
        images[name] for name in sorted(names, key=lambda name: [int(part) for part in re.findall(r"\d+", name)])
    ]
    assert len(resized) == len(evaluated) > 0
    for index, frame in enumerate(evaluated):
        np.testing.assert_array_equal(EagleLayout().resize(frame[None])[0], resized[str(index)])
        patches, grid = EagleLayout().patches(frame[None])
        stored = images[f"proc.batch.pixel_values.{index}"]
        np.testing.assert_array_equal(pictures(patches[0], grid), stored)
        assert [14 * side for side in grid[1:]] == images["proc.batch.image_sizes"][index].tolist()


def test_golden_texts(info: dict[str, Any]) -> None:
    assert info["texts"]
    for case in info["texts"]:
        count = case["chat_text"].count("<image-")
        ours = N1D6.chat.text(formalize(case["raw"]), count)
        for number in range(1, count + 1):
            ours = ours.replace(N1D6.chat.image.format(number=number), f"<image-{number}>")
        assert ours == case["chat_text"]


def test_golden_tokens_with_the_qwen_vocabulary(images: Arrays, info: dict[str, Any]) -> None:
    tokenizer = load_tokenizer(qwen_tokenizer_folder())
    for case in info["tokenizer"]:
        assert tokenizer(case["text"], add_special_tokens=False)["input_ids"] == case["ids"], case["text"]
    encoder = PromptEncoder(tokenizer, N1D6.chat, 2, formalize_language=True)
    assert [tokenizer.convert_ids_to_tokens(encoder.pad_token_id), encoder.pad_token_id] == info["pad"]
    assert {token: tokenizer.get_vocab()[token] for token in SPECIAL_IDS} == SPECIAL_IDS
    per_sample = len(images["proc.batch.image_sizes"]) // len(info["texts"])
    grids = [(1, h // 14, w // 14) for h, w in images["proc.batch.image_sizes"].tolist()]
    for row, case in enumerate(info["texts"]):
        ids = encoder.encode(case["raw"], tuple(grids[row * per_sample : (row + 1) * per_sample]))
        mask = images["proc.batch.attention_mask"][row] == 1
        np.testing.assert_array_equal(ids, images["proc.batch.input_ids"][row][mask])
        padding = info["pad"][0] * int((~mask).sum())
        assert padding + tokenizer.decode(ids) == info["decoded"][row]


@pytest.fixture
def processor(folder: Path, images: Arrays, info: dict[str, Any]) -> Processor:
    files = ProcessorFiles.read(folder / "saved_processor")
    (tag,) = files.modality_configs
    texts = []
    for row, case in enumerate(info["texts"]):
        text = N1D6.chat.text(formalize(case["raw"]), case["chat_text"].count("<image-"))
        texts.append((text, images["proc.batch.input_ids"][row], images["proc.batch.attention_mask"][row]))
    return Processor(files, tag, TableTokenizer(SPECIAL_IDS, "<IMG_CONTEXT>", texts))


def raw_picture(images: Arrays, evaluated: np.ndarray) -> np.ndarray:
    """The input whose stored transform is `evaluated`; which settings that had is not looked at."""
    same = [
        name
        for name, value in images.items()
        if name.startswith("alb.") and np.array_equal(value.transpose(1, 2, 0), evaluated)
    ]
    return images[f"in.{same[0].rsplit('.', 1)[1]}"]


def raw_state(processor: Processor, rows: np.ndarray) -> Arrays:
    """A state that is normalised to `rows`; the set does not store the physical one."""
    start, parts = 0, {}
    for key, width in processor._groups.state_widths.items():
        parts[key] = rows[:, start : start + width]
        start += width
    return {key: value.astype(np.float32) for key, value in processor._groups.unapply_state(parts).items()}


def test_golden_samples_and_batch(processor: Processor, images: Arrays, info: dict[str, Any]) -> None:
    cameras = processor.modality["video"].modality_keys
    samples = []
    for row, case in enumerate(info["texts"]):
        views = [images[f"proc.sample{row}.eval_image{index}"] for index in range(len(cameras))]
        video = {camera: raw_picture(images, view)[None] for camera, view in zip(cameras, views, strict=True)}
        rows = images[f"proc.sample{row}.state"]
        sample = processor.encode(video, raw_state(processor, rows), case["raw"])
        np.testing.assert_allclose(sample["state"], rows, rtol=0, atol=1e-6)
        samples.append(sample)
    batch = processor.collate(samples)
    for name in ("input_ids", "attention_mask", "embodiment_id", "state"):
        stored = images[f"proc.batch.{name}"]
        assert batch[name].numpy().dtype == stored.dtype, name
        np.testing.assert_allclose(batch[name].numpy(), stored, rtol=0, atol=1e-6 if name == "state" else 0)
    start = 0
    for index, grid in enumerate(batch["image_grid_thw"].tolist()):
        count = grid[1] * grid[2]
        picture = pictures(batch["pixel_values"][start : start + count].numpy(), tuple(grid))
        np.testing.assert_array_equal(picture, images[f"proc.batch.pixel_values.{index}"])
        start += count
    assert start == len(batch["pixel_values"])


def test_golden_training_sample_and_decoding(processor: Processor, images: Arrays, info: dict[str, Any]) -> None:
    cameras = processor.modality["video"].modality_keys
    views = [images[f"proc.sample0.eval_image{index}"] for index in range(len(cameras))]
    video = {camera: raw_picture(images, view)[None] for camera, view in zip(cameras, views, strict=True)}
    state = raw_state(processor, images["proc.train.state"])
    action = groups(images, "proc.train.in.action.")
    sample = processor.encode(video, state, info["texts"][0]["raw"], action)
    np.testing.assert_allclose(sample["action"], images["proc.train.action"], rtol=0, atol=1e-7)
    np.testing.assert_array_equal(sample["action_mask"], images["proc.train.action_mask"])
    assert sample["action_mask"].dtype == images["proc.train.action_mask"].dtype
    np.testing.assert_allclose(sample["state"], images["proc.train.state"], rtol=0, atol=1e-6)

    decoded = processor.decode(images["proc.train.action"][None], {key: value[None] for key, value in state.items()})
    expected = groups(images, "proc.decode_action.")
    assert set(decoded) == set(expected)
    for key, value in decoded.items():
        np.testing.assert_allclose(value, expected[key], rtol=0, atol=1e-6, err_msg=key)


def test_golden_saved_processor_is_written_back_as_read(processor: Processor, folder: Path, tmp_path: Path) -> None:
    processor.save(tmp_path)
    stored = sorted((folder / "saved_processor").iterdir())
    assert [path.name for path in stored] == sorted(path.name for path in tmp_path.iterdir())
    for path in stored:
        assert json.loads((tmp_path / path.name).read_text()) == json.loads(path.read_text()), path.name


@pytest.fixture(scope="module")
def cases(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "state_action.json").read_text())


@pytest.fixture(scope="module")
def arrays(folder: Path) -> Arrays:
    return load_file(folder / "state_action.safetensors")


def build(cases: dict[str, Any], flags: dict[str, Any]) -> StateActionProcessor:
    tag = cases["tag"]
    configs = cases["modality_configs"][tag]
    return by_flags(
        ModalityConfig.from_dict(configs["state"], "state"),
        ModalityConfig.from_dict(configs["action"], "action"),
        TagStatistics(cases["statistics"][tag], "statistics"),
        use_percentiles=flags["use_percentiles"],
        clip_outliers=flags["clip_outliers"],
        apply_sincos=flags["apply_sincos_state_encoding"],
        use_relative_action=flags["use_relative_action"],
    )


def test_golden_state_action_cases(cases: dict[str, Any], arrays: Arrays) -> None:
    state, action = groups(arrays, "in.state."), groups(arrays, "in.action.")
    assert cases["cases"]
    for name, flags in cases["cases"].items():
        processor = build(cases, flags)
        assert sum(processor.state_widths.values()) == flags["state_dim"]
        assert sum(processor.action_widths.values()) == flags["action_dim"]
        applied = processor.apply_action(action, state)
        results = {
            "apply.state": processor.apply_state(state),
            "apply.action": applied,
            "unapply.action": processor.unapply_action(groups(arrays, "in.normalized_action."), state),
            "unapply.batched_action": processor.unapply_action(
                groups(arrays, "in.batched_normalized_action."), groups(arrays, "in.batched_state.")
            ),
            "roundtrip.action": processor.unapply_action(applied, state),
            "unapply.state": processor.unapply_state(processor.apply_state(state)),
        }
        stored = groups(arrays, f"{name}.")
        assert stored
        for full, expected in stored.items():
            kind, key = full.rsplit(".", 1)
            result = results[kind][key]
            assert result.dtype == expected.dtype, (name, full)
            eef = key.startswith("eef") and flags["use_relative_action"]
            # Plain numbers are reproduced to the last bit; the reference's rot6d conversion is float32.
            np.testing.assert_allclose(result, expected, rtol=0, atol=2e-7 if eef else 0, err_msg=f"{name}.{full}")


def test_golden_conversions_without_normalisation(cases: dict[str, Any], arrays: Arrays) -> None:
    action = ModalityConfig.from_dict(cases["modality_configs"][cases["tag"]]["action"], "action")
    relative = groups(arrays, "raw.relative.")
    assert relative
    for key, expected in relative.items():
        config: ActionConfig = action.action_config(key)
        assert config.rep is ActionRep.RELATIVE
        reference = arrays[f"in.state.{config.state_key or key}"][-1].astype(np.float64)
        value = arrays[f"in.action.{key}"]
        if config.type.name == "EEF":
            result = relative_poses(reference, value, config.format)
            back = absolute_poses(reference, expected, config.format)
        else:
            result, back = value - reference, reference + expected
        np.testing.assert_allclose(result, expected, rtol=0, atol=2e-7, err_msg=key)
        np.testing.assert_allclose(back, arrays[f"raw.absolute_roundtrip.{key}"], rtol=0, atol=2e-7, err_msg=key)


def test_golden_relative_matrices(arrays: Arrays) -> None:
    given = groups(arrays, "raw.eef_default.in.")
    result = relative_poses(given["state16"], given["action16"], ActionFormat.DEFAULT)
    np.testing.assert_allclose(result.reshape(-1, 4, 4), arrays["raw.eef_default.relative"], rtol=0, atol=1e-12)
