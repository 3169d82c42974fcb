"""Image transforms and patches: byte for byte against the reference, sizes, and refused settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from groot_ros.processing.errors import ProcessorError
from groot_ros.processing.images import FloatTransform, ImageTransform
from groot_ros.processing.patches import EagleLayout, PatchLayout, TileLayout

SETTINGS = ("image_target_size", "image_crop_size", "shortest_image_edge", "crop_fraction")
RELEASED = {"use_albumentations": True, "shortest_image_edge": 256, "crop_fraction": 0.95}


def test_golden_eval_transforms(n1d7: Path) -> None:
    cases = json.loads((n1d7 / "image_config.json").read_text())
    io = load_file(n1d7 / "image_io.safetensors")
    assert {case["path"] for case in cases} == {"albumentations", "torchvision"}
    # The torchvision entries do not repeat the settings of their albumentations twin.
    settings = {case["name"]: {key: case[key] for key in SETTINGS} for case in cases if SETTINGS[0] in case}
    for case in cases:
        kwargs = {
            **settings[case["name"]],
            "use_albumentations": case["path"] == "albumentations",
            "letter_box_transform": case["letter_box"],
        }
        frames = io[f"{case['name']}.in"][None]
        result = ImageTransform.from_kwargs(kwargs, "case")(frames)[0].transpose(2, 0, 1)
        name = f"{case['name']}.{case['path']}_eval.letterbox{int(case['letter_box'])}"
        np.testing.assert_array_equal(result, io[name], err_msg=name)


def test_golden_qwen_patches(n1d7: Path) -> None:
    io = load_file(n1d7 / "qwen_image_io.safetensors")
    small = PatchLayout(min_pixels=1024, max_pixels=16777216)
    cases = [key.removesuffix(".in") for key in io if key.endswith(".in")]
    assert cases
    for name in cases:
        patches, grid = small.patches(io[f"{name}.in"][None])
        np.testing.assert_array_equal([grid], io[f"{name}.grid"], err_msg=name)
        np.testing.assert_array_equal(patches[0], io[f"{name}.pixel_values"], err_msg=name)


def test_golden_qwen_patches_of_transformed_images(n1d7: Path) -> None:
    io, images = load_file(n1d7 / "qwen_image_io.safetensors"), load_file(n1d7 / "image_io.safetensors")
    cases = [key.removesuffix(".grid") for key in io if key.endswith(".grid") and key.removesuffix(".grid") in images]
    assert cases
    for name in cases:
        frames = np.ascontiguousarray(images[name].transpose(1, 2, 0))[None]
        patches, grid = PatchLayout().patches(frames)
        np.testing.assert_array_equal([grid], io[f"{name}.grid"], err_msg=name)
        np.testing.assert_array_equal(patches[0, :8], io[f"{name}.pixel_values_first8"], err_msg=name)
        np.testing.assert_array_equal(patches[0, -4:], io[f"{name}.pixel_values_last4"], err_msg=name)
        rows = patches[0].astype(np.float64)
        np.testing.assert_allclose(rows.mean(1), io[f"{name}.pixel_values_rowmean"], atol=1e-6, err_msg=name)
        np.testing.assert_allclose(rows.std(1), io[f"{name}.pixel_values_rowstd"], atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("source", "transformed", "grid"),
    [
        ((256, 256), (256, 256), (1, 16, 16)),
        ((224, 224), (256, 256), (1, 16, 16)),
        ((240, 320), (256, 340), (1, 16, 22)),
        ((480, 640), (256, 340), (1, 16, 22)),
        ((320, 240), (340, 256), (1, 22, 16)),
    ],
)
def test_sizes_with_the_released_settings(
    source: tuple[int, int], transformed: tuple[int, int], grid: tuple[int, int, int]
) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, *source, 3), dtype=np.uint8)
    result = ImageTransform.from_kwargs(RELEASED, "test")(frames)
    assert result.shape == (2, *transformed, 3)
    patches, found = PatchLayout().patches(result)
    assert found == grid
    assert patches.shape == (2, grid[1] * grid[2], 1536)
    assert patches.dtype == np.float32
    assert np.abs(patches).max() <= 1


def test_frames_do_not_influence_each_other() -> None:
    frames = np.random.default_rng(1).integers(0, 256, (3, 48, 64, 3), dtype=np.uint8)
    transform, layout = ImageTransform.from_kwargs(RELEASED, "test"), PatchLayout(1024)
    together = layout.patches(transform(frames))[0]
    for index in range(3):
        np.testing.assert_array_equal(together[index], layout.patches(transform(frames[index : index + 1]))[0][0])


def test_patches_keep_the_pixels_in_the_order_the_vision_tower_reads() -> None:
    frame = np.zeros((1, 64, 64, 3), dtype=np.uint8)
    # The third patch of the first 2x2 token is the one below the first: row 16, column 0; green, at (3, 5) in it.
    frame[0, 16 + 3, 5, 1] = 255
    patches = PatchLayout(1024).patches(frame)[0][0].reshape(16, 3, 2, 16, 16)
    bright = np.argwhere(patches == 1)
    assert bright.tolist() == [[2, 1, 0, 3, 5], [2, 1, 1, 3, 5]]  # both temporal slots
    assert (patches == -1).sum() == patches.size - 2


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_patch_sizes_are_multiples_within_the_limits(height: int, width: int) -> None:
    layout = PatchLayout(min_pixels=65536, max_pixels=1_000_000)
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(ProcessorError, match="aspect ratio"):
            layout.target_size(height, width)
        return
    rows, columns = layout.target_size(height, width)
    assert rows % 32 == columns % 32 == 0
    assert rows * columns >= 65536
    # One unit is the least side, so only very long images may exceed the upper limit.
    assert rows * columns <= 1_000_000 or 32 in (rows, columns)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"use_albumentations": "yes"}, ["use_albumentations", "true or false", "'yes'"]),
        ({"shortest_image_edge": 0}, ["shortest_image_edge", "positive"]),
        ({"shortest_image_edge": 2.5}, ["shortest_image_edge", "2.5"]),
        ({"crop_fraction": 1.2}, ["crop_fraction", "(0, 1]"]),
        ({"shortest_image_edge": None}, ["shortest_image_edge and crop_fraction, or image_target_size"]),
        ({"crop_fraction": None}, ["shortest_image_edge and crop_fraction, or image_target_size"]),
        ({"shortest_image_edge": 1}, ["shortest_image_edge and crop_fraction, or image_target_size"]),
        ({"image_target_size": [256]}, ["image_target_size", "[height, width]"]),
        ({"use_albumentations": False}, ["image_target_size", "use_albumentations false", "None"]),
        (
            {"use_albumentations": False, "image_target_size": [9, 9], "image_crop_size": [9, 10]},
            ["smaller image_crop_size", "(9, 10)"],
        ),
    ],
)
def test_refused_image_settings_are_named(change: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ProcessorError) as caught:
        ImageTransform.from_kwargs({**RELEASED, **change}, "processor_config.json: kwargs")
    for part in ["processor_config.json: kwargs", *parts]:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "limits"),
    [
        ({"min_pixels": 1024, "max_pixels": 4096}, (1024, 4096)),
        ({"size": None, "min_pixels": 1024, "max_pixels": None}, (1024, 16777216)),
        ({"size": {"shortest_edge": 2048}, "min_pixels": 1024}, (2048, 16777216)),
    ],
)
def test_limits_of_pixels_under_their_other_names(tmp_path: Path, settings: Any, limits: tuple[int, int]) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    layout = PatchLayout.from_directory(tmp_path)
    assert (layout.min_pixels, layout.max_pixels) == limits


def test_patch_layout_is_read_and_written_back(tmp_path: Path) -> None:
    assert PatchLayout.from_directory(tmp_path) == PatchLayout()
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({"size": {"shortest_edge": 1024}, "patch_size": 8, "image_mean": [0.5, 0.5, 0.5]}))
    layout = PatchLayout.from_directory(tmp_path)
    assert layout == PatchLayout(min_pixels=1024, patch_size=8)
    path.write_text(json.dumps(layout.to_dict()))
    assert PatchLayout.from_directory(tmp_path) == layout


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ({"size": 5}, ["size", "shortest_edge and longest_edge"]),
        ({"size": {"shortest_edge": "big"}}, ["size.shortest_edge", "positive integer", "'big'"]),
        ({"merge_size": 0}, ["merge_size", "positive integer"]),
        ({"image_std": [0.2, 0.2, 0.2]}, ["image_std", "0.2"]),
    ],
)
def test_refused_patch_layouts_are_named(tmp_path: Path, content: dict[str, Any], parts: list[str]) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    with pytest.raises(ProcessorError) as caught:
        PatchLayout.from_directory(tmp_path)
    for part in ["preprocessor_config.json", *parts]:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("layout", "order"),
    [(EagleLayout(), "yxc"), (TileLayout(size=56), "cyx")],
    ids=["n1d6", "n1d5"],
)
def test_eagles_patches_keep_the_pixels_in_their_order(layout: EagleLayout | TileLayout, order: str) -> None:
    frame = np.zeros((1, 56, 56, 3), dtype=np.uint8)
    frame[0, 14 + 3, 2 * 14 + 5, 1] = 255  # second row, third column; green, at (3, 5) in the patch
    patches, grid = layout.patches(frame)
    assert grid == (1, 4, 4)
    shape = {"yxc": (16, 14, 14, 3), "cyx": (16, 3, 14, 14)}[order]
    place = {"yxc": [6, 3, 5, 1], "cyx": [6, 1, 3, 5]}[order]
    assert np.argwhere(patches[0].reshape(shape) == 1).tolist() == [place]
    assert (patches == -1).sum() == patches.size - 1


def test_a_tile_has_one_size() -> None:
    with pytest.raises(ProcessorError, match=r"one tile of 224x224 pixels; found 224x252"):
        TileLayout().patches(np.zeros((1, 224, 252, 3), dtype=np.uint8))


@given(st.integers(1, 8000), st.integers(1, 8000))
def test_eagles_sizes_are_multiples_within_the_limits(height: int, width: int) -> None:
    layout = EagleLayout()
    rows, columns = layout.target_size(height, width)
    assert rows % 28 == columns % 28 == 0
    assert min(rows, columns) >= 28
    assert rows * columns >= layout.min_pixels
    # One unit is the least side, so only very long images may exceed the upper limit.
    assert rows * columns <= layout.max_pixels or 28 in (rows, columns)


def test_n1d5_takes_the_middle_and_cuts_off_fractions() -> None:
    frame = np.zeros((1, 40, 80, 3), dtype=np.uint8)
    frame[:, 1:39, 2:78] = 200  # exactly what a crop of 0.95 keeps
    assert (FloatTransform(28, 0.95)(frame) == FloatTransform(28, 1.0)(frame[:, 1:39, 2:78])).all()
    half = np.zeros((1, 2, 2, 3), dtype=np.uint8)
    half[:, 0] = 255
    assert FloatTransform(1, 1.0)(half).ravel().tolist() == [127] * 3  # 127.5
    with pytest.raises(ProcessorError, match="1x30 pixels"):
        FloatTransform(28, 0.95)(np.zeros((1, 1, 30, 3), dtype=np.uint8))
