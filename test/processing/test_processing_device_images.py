"""Pictures made on a device against those of the CPU path: no value differs where torch runs its AVX2 code."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from groot_ros.model.benchmark.robots import plain_robot, random_processor, random_scenes
from groot_ros.processing.device_images import DeviceImages
from groot_ros.processing.errors import ProcessorError
from groot_ros.processing.images import FloatTransform, ImageTransform
from groot_ros.processing.modality import ModalityConfig
from groot_ros.processing.patches import EagleLayout, Layout, PatchLayout, TileLayout
from groot_ros.processing.resampling import by_area
from groot_ros.processing.vision import ImageEncoder

Transform = ImageTransform | FloatTransform
# What is promised for pixel_values: the largest difference in levels of a byte, and the share of values with any. How
# floats are summed (N1.5) depends on how torch was compiled, too.
AVX2 = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
EXACT, CLOSE = (0, 0.0), (1, 0.2)
BYTES = EXACT if AVX2 else CLOSE
FLOATS = EXACT if AVX2 and torch.__version__.startswith("2.13.") else CLOSE
LEVEL = 1 / 127.5

FULL: dict[str, tuple[Transform, Layout]] = {
    "n1d5": (FloatTransform(224, 0.95), TileLayout(224)),
    "n1d6": (ImageTransform(True, 256, 0.95, None, None, True), EagleLayout()),
    "n1d7": (ImageTransform(True, 256, 0.95, None, None, False), PatchLayout()),
    "n1d7, torchvision": (ImageTransform(False, None, None, (256, 256), (230, 230), True), PatchLayout()),
}
SMALL: dict[str, tuple[Transform, Layout]] = {
    "n1d5": (FloatTransform(28, 0.95), TileLayout(28)),
    "n1d6": (ImageTransform(True, 32, 0.95, None, None, True), EagleLayout()),
    "n1d7": (ImageTransform(True, 32, 0.95, None, None, False), PatchLayout(1024)),
    "n1d7, torchvision": (ImageTransform(False, None, None, (36, 40), (31, 37), False), PatchLayout(1024)),
}


def pictures(size: tuple[int, int], seed: int) -> list[np.ndarray]:
    """Noise, a smooth one, edges, one colour."""
    rng = np.random.default_rng(seed)
    few = rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)
    sides = size[1], size[0]
    found = [
        rng.integers(0, 256, (*size, 3), dtype=np.uint8),
        cv2.resize(few, sides, interpolation=cv2.INTER_CUBIC),
        cv2.resize(few, sides, interpolation=cv2.INTER_NEAREST),
        np.broadcast_to(few[0, 0], (*size, 3)),
    ]
    return [np.ascontiguousarray(picture) for picture in found]


def compare(transform: Transform, layout: Layout, size: tuple[int, int], seed: int) -> None:
    frames = pictures(size, seed)
    keys = ("left", "right")
    video = ModalityConfig(delta_indices=(-1, 0), modality_keys=keys)
    images = ImageEncoder(transform, layout, video, False)
    expected, grids = images.encode({"left": np.stack(frames[:2]), "right": np.stack(frames[2:])})
    device = DeviceImages(images, size)
    found = device(torch.from_numpy(np.stack([frames[0], frames[2], frames[1], frames[3]]))).numpy()
    assert found.shape == expected.shape
    assert (device.grid,) * 4 == grids
    differences = np.abs(found - expected)
    levels, share = FLOATS if isinstance(transform, FloatTransform) else BYTES
    assert differences.max() <= levels * LEVEL * (1 + 1e-6)
    assert (differences > 0).mean() <= share


@pytest.mark.parametrize("name", sorted(FULL))
@pytest.mark.parametrize("size", [(480, 640), (256, 256), (360, 640)])
def test_released_sizes(name: str, size: tuple[int, int]) -> None:
    compare(*FULL[name], size, 0)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(SMALL)),
    st.tuples(st.integers(8, 120), st.integers(8, 120)),
    st.integers(0, 2**32 - 1),
)
def test_any_size(name: str, size: tuple[int, int], seed: int) -> None:
    assume(max(size) <= 5 * min(size))
    compare(*SMALL[name], size, seed)


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(1, 60)] * 4), st.integers(0, 2**32 - 1))
def test_areas_are_those_of_opencv(sides: tuple[int, int, int, int], seed: int) -> None:
    old, new = sides[:2], sides[2:]
    frame = np.random.default_rng(seed).integers(0, 256, (*old, 3), dtype=np.uint8)
    expected = cv2.resize(frame, (new[1], new[0]), interpolation=cv2.INTER_AREA)
    found = by_area(old, new)(torch.from_numpy(frame).permute(2, 0, 1)).permute(1, 2, 0)
    np.testing.assert_array_equal(found.numpy(), expected)


def test_one_type_of_result_and_all_weights_move() -> None:
    transform, layout = SMALL["n1d6"]
    images = ImageEncoder(transform, layout, ModalityConfig(delta_indices=(0,), modality_keys=("eye",)), False)
    frame = torch.from_numpy(pictures((48, 64), 1)[0][None])
    plain, short = DeviceImages(images, (48, 64)), DeviceImages(images, (48, 64), torch.bfloat16)
    assert torch.equal(short(frame), plain(frame).to(torch.bfloat16))
    assert not plain.state_dict()
    assert all(buffer.device.type == "meta" for buffer in plain.to("meta").buffers())
    assert plain(frame.to("meta")).shape == (16, 588)  # nothing of it needs a value on the host


@pytest.mark.parametrize("generation", ["n1d5", "n1d6", "n1d7"])
def test_a_processor_can_leave_the_pictures_to_it(generation: str) -> None:
    size = (48, 64)
    robot = plain_robot(generation, 2, size)
    processor, _ = random_processor(robot, generation, "tiny")
    scene = random_scenes(processor, robot.views, "pick up the cube", 1, 0)[0]
    plain = processor.collate([processor.encode(scene.video, scene.state, scene.instruction)])
    raw = torch.zeros(2, *size, 3, dtype=torch.uint8)
    sample = processor.encode(scene.video, scene.state, scene.instruction, raw=raw.numpy())
    batch = {"pixel_values": DeviceImages(processor.images, size)(raw), **processor.collate([sample])}
    assert batch.keys() == plain.keys()
    assert all(torch.equal(batch[name], plain[name]) for name in plain if name != "pixel_values")
    levels, share = FLOATS if generation == "n1d5" else BYTES
    differences = (batch["pixel_values"] - plain["pixel_values"]).abs()
    assert differences.max() <= levels * LEVEL * (1 + 1e-6)
    assert (differences > 0).float().mean() <= share
    for shape in ((1, *size, 3), (2, 64, 48, 3)):
        with pytest.raises(ProcessorError, match=r"camera_1.*frames for which there is room"):
            processor.encode(scene.video, scene.state, scene.instruction, raw=np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    ("frames", "found"),
    [
        (torch.zeros(1, 48, 65, 3, dtype=torch.uint8), r"\[1, 48, 65, 3\]"),
        (torch.zeros(48, 64, 3, dtype=torch.uint8), r"\[48, 64, 3\]"),
        (torch.zeros(1, 48, 64, 3), "torch.float32"),
    ],
)
def test_other_frames_are_refused(frames: torch.Tensor, found: str) -> None:
    transform, layout = SMALL["n1d7"]
    images = ImageEncoder(transform, layout, ModalityConfig(delta_indices=(0,), modality_keys=("eye",)), False)
    with pytest.raises(ValueError, match=rf"expected torch.uint8 \[N, 48, 64, 3\], found .*{found}"):
        DeviceImages(images, (48, 64))(frames)


def test_a_size_that_cannot_be_is_refused_when_it_is_made() -> None:
    images = ImageEncoder(*SMALL["n1d5"], ModalityConfig(delta_indices=(0,), modality_keys=("eye",)), False)
    with pytest.raises(ProcessorError, match="1x30 pixels"):
        DeviceImages(images, (1, 30))
