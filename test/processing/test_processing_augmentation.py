"""Training transforms: the libraries' numbers, one draw per sample, even distributions, and refused settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processing_helpers import observation

from groot_ros.processing.augmentation import STEPS, Augmentation, Draw, augment_frame, augment_planes, corner
from groot_ros.processing.errors import ProcessorError
from groot_ros.processing.images import FloatTransform, ImageTransform
from groot_ros.processing.processor import Processor

REFERENCE = json.loads((Path(__file__).parent / "augmentation_reference.json").read_text())
FRAME = np.array(REFERENCE["frame"], dtype=np.uint8).reshape(4, 5, 3)
TAG = "new_embodiment"
JITTER = {"brightness": 0.3, "contrast": 0.4, "saturation": 0.5, "hue": 0.08}
TRANSFORMS = {
    "albumentations": ImageTransform(True, 20, 0.75, None, None),
    "torchvision": ImageTransform(False, None, None, (20, 20), (15, 15)),
    "floats": FloatTransform(15, 0.75),
}


def drawn(case: dict[str, Any]) -> Draw:
    return Draw((0.0, 0.0), case["angle"] or None, tuple(case["factors"]), tuple(case["order"]))


@pytest.mark.parametrize("case", REFERENCE["cases"])
def test_colours_and_turns_are_those_of_the_libraries(case: dict[str, Any]) -> None:
    frame = FRAME.copy()
    np.testing.assert_array_equal(augment_frame(frame, drawn(case)).ravel(), case["albumentations"])
    np.testing.assert_array_equal(frame, FRAME)  # a cached frame stays
    planes = torch.from_numpy(FRAME).permute(2, 0, 1)[None]
    result = augment_planes(planes, drawn(case))
    assert result.dtype == torch.uint8
    found = result[0].permute(1, 2, 0).numpy().ravel().astype(int)
    np.testing.assert_allclose(found, case["bytes"], rtol=0, atol=1)
    assert np.mean(found != case["bytes"]) <= 0.05
    if case["floats"] is not None:
        floats = augment_planes(planes / 255, drawn(case))[0].permute(1, 2, 0).numpy().ravel()
        np.testing.assert_allclose(floats, case["floats"], rtol=0, atol=3e-6)


def test_a_turned_float_picture_lies_as_the_turned_bytes_do() -> None:
    smooth = np.add.outer(np.arange(40), 2 * np.arange(30)).astype(np.uint8)
    planes = torch.from_numpy(np.stack([smooth] * 3))[None]
    draw = Draw((0.0, 0.0), angle=25.0)
    middle = (slice(None), slice(None), slice(14, 26), slice(10, 20))
    in_floats = augment_planes(planes / 255, draw)[middle] * 255
    np.testing.assert_allclose(in_floats, augment_planes(planes, draw)[middle], atol=1.6)
    frame = augment_frame(np.stack([smooth] * 3, axis=-1), draw)
    np.testing.assert_allclose(in_floats[0, 0], frame[14:26, 10:20, 0], atol=0.6)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_crop_lies_wherever_it_fits(name: str) -> None:
    """Pixels are numbered, so that what is left says where it was cut; a crop in the middle is the evaluation's."""
    transform = TRANSFORMS[name]
    frames = np.repeat(np.arange(20, dtype=np.uint8)[None, None, :, None] * 12, 20, axis=1).repeat(3, axis=3)
    lowest = {int(transform(frames, Draw((0.0, right)))[0, 0, 0, 0]) for right in np.linspace(0, 0.999, 40)}
    assert len(lowest) == 6  # 20 - 15 + 1 places
    edges = transform(frames, Draw((0.0, 0.0))), transform(frames, Draw((0.0, 0.999)))
    assert edges[0].min() == 0 and edges[1].max() == 19 * 12
    down = transform(frames.transpose(0, 2, 1, 3), Draw((0.999, 0.0)))
    np.testing.assert_array_equal(down.transpose(0, 2, 1, 3), edges[1])
    middles = [transform(frames, Draw((share, share))) for share in (0.4, 0.5)]
    assert any((middle == transform(frames)).all() for middle in middles)


def test_corners_are_even_over_all_places() -> None:
    augmentation, rng = Augmentation(), np.random.default_rng(1)
    corners = np.array([corner((9, 6), (6, 6), augmentation.draw(rng)) for _ in range(2000)])
    assert set(corners[:, 1]) == {0}
    counts = np.bincount(corners[:, 0], minlength=4)
    assert len(counts) == 4
    assert abs(counts - 500).max() < 100


def test_draws_fill_their_ranges_and_come_back_with_the_seed() -> None:
    kwargs = {"random_rotation_angle": 10, "color_jitter_params": {**JITTER, "brightness": 1.5, "contrast": [0.2, 0.4]}}
    augmentation = Augmentation.from_kwargs(kwargs, "test")
    assert augmentation.colours == ((0.0, 2.5), (0.2, 0.4), (0.5, 1.5), (-0.08, 0.08))
    rng = np.random.default_rng(2)
    draws = [augmentation.draw(rng) for _ in range(1000)]
    for index, (low, high) in enumerate((*augmentation.colours, (-10.0, 10.0))):
        values = [draw.angle if index == len(STEPS) else draw.factors[index] for draw in draws]  # type: ignore[index]
        assert low <= min(values) < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < max(values) <= high
        assert abs(np.mean(values) - (low + high) / 2) < 0.05 * (high - low)
    assert len({draw.order for draw in draws}) == 24
    rng = np.random.default_rng(2)
    assert [augmentation.draw(rng) for _ in range(1000)] == draws
    rng = np.random.default_rng(2)
    assert [Augmentation().draw(rng).crop for _ in range(1000)] == [draw.crop for draw in draws]


def test_without_settings_only_the_crop_is_drawn() -> None:
    for kwargs in ({}, {"random_rotation_angle": 0, "color_jitter_params": None}):
        draw = Augmentation.from_kwargs(kwargs, "test").draw(np.random.default_rng(0))
        assert (draw.angle, draw.factors) == (None, None)
    whole = ImageTransform(True, 4, 1.0, None, None)
    np.testing.assert_array_equal(whole(FRAME[None], draw), whole(FRAME[None]))


@pytest.mark.parametrize(
    ("kwargs", "parts"),
    [
        ({"random_rotation_angle": -1}, ["x.random_rotation_angle", "degrees in [0, 180]", "-1"]),
        ({"random_rotation_angle": True}, ["x.random_rotation_angle", "True"]),
        ({"color_jitter_params": 0.3}, ["x.color_jitter_params", "brightness, contrast, saturation, hue", "0.3"]),
        ({"color_jitter_params": {"gamma": 0.3}}, ["x.color_jitter_params", "gamma"]),
        ({"color_jitter_params": {"hue": 0.6}}, ["x.color_jitter_params.hue", "between -0.5 and 0.5", "0.6"]),
        ({"color_jitter_params": {"contrast": -0.1}}, ["x.color_jitter_params.contrast", ">= 0", "-0.1"]),
        ({"color_jitter_params": {"contrast": [2, 1]}}, ["x.color_jitter_params.contrast", "[2, 1]"]),
        ({"color_jitter_params": {"saturation": "much"}}, ["x.color_jitter_params.saturation", "much"]),
        ({"color_jitter_params": {"brightness": float("nan")}}, ["x.color_jitter_params.brightness", "nan"]),
    ],
)
def test_settings_that_are_none_are_named(kwargs: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ProcessorError) as error:
        Augmentation.from_kwargs(kwargs, "x")
    assert all(part in str(error.value) for part in parts), str(error.value)


@pytest.mark.parametrize("generation", ["n1d5", "n1d6", "n1d7"])
def test_one_draw_holds_for_all_pictures_of_a_sample(
    generation: str, folders: dict[str, Path], edit_json: Callable[..., None]
) -> None:
    if generation != "n1d5":  # whose colours are NVIDIA's data configurations'
        settings = {"color_jitter_params": JITTER, "random_rotation_angle": 8}
        path = folders[generation] / "processor_config.json"
        edit_json(path, lambda content: content["processor_kwargs"].update(settings))
    processor = Processor.from_checkpoint(folders[generation], TAG if generation != "n1d6" else "libero_panda")
    seen = observation(processor)
    first = next(iter(seen["video"].values()))[:1]
    seen["video"] = {key: np.repeat(first, len(frames), axis=0) for key, frames in seen["video"].items()}

    def pictures(augment: np.random.Generator | None) -> np.ndarray:
        sample = processor.encode(seen["video"], seen["state"], seen["instruction"], augment=augment)
        return sample["pixel_values"].reshape(len(sample["image_grid_thw"]), -1)

    plain, one, other = pictures(None), pictures(np.random.default_rng(3)), pictures(np.random.default_rng(4))
    assert len(plain) > 1
    for images in (plain, one, other):
        assert (images == images[0]).all()
    assert plain.shape == one.shape
    assert (one == pictures(np.random.default_rng(3))).all()
    for a, b in ((plain, one), (plain, other), (one, other)):
        assert np.abs(a - b).mean() > 0.02
    # Colours as far as they may go: a picture is brighter or darker as a whole.
    assert max(abs(images.mean() - plain.mean()) for images in (one, other)) > 0.01
