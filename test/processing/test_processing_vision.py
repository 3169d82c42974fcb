"""The quick way from frames to patches against the plain one: the same bytes for any size, strides and threads."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from groot_ros.processing import patches, vision
from groot_ros.processing.errors import ProcessorError
from groot_ros.processing.images import FloatTransform, ImageTransform, scale_letter_boxed
from groot_ros.processing.modality import ModalityConfig
from groot_ros.processing.patches import EagleLayout, Layout, PatchLayout, TileLayout
from groot_ros.processing.threads import Threads
from groot_ros.processing.vision import ImageEncoder

Frames = np.ndarray


def plain_transform(transform: ImageTransform | FloatTransform, frame: Frames) -> Frames:
    """One frame [H, W, 3] as the reference does it, step by step."""
    if isinstance(transform, FloatTransform):
        rows, columns = (int(side * transform.crop_fraction) for side in frame.shape[:2])
        top, left = round((frame.shape[0] - rows) / 2), round((frame.shape[1] - columns) / 2)
        values = torch.from_numpy(frame.copy()).permute(2, 0, 1)[None].to(torch.float32) / 255
        cropped = values[..., top : top + rows, left : left + columns]
        size = (transform.size, transform.size)
        resized = torch.nn.functional.interpolate(cropped, size=size, mode="bilinear", antialias=True)
        return (resized[0].permute(1, 2, 0) * 255).to(torch.uint8).numpy()
    if transform.letter_box:
        side = max(frame.shape[:2])
        square = np.zeros((side, side, 3), dtype=np.uint8)
        top, left = (side - frame.shape[0]) // 2, (side - frame.shape[1]) // 2
        square[top : top + frame.shape[0], left : left + frame.shape[1]] = frame
        frame = square
    edge, fraction = transform.shortest_edge, transform.crop_fraction
    assert edge is not None and fraction is not None
    frame = plain_area(frame, edge)
    rows, columns = int(frame.shape[0] * fraction), int(frame.shape[1] * fraction)
    top, left = (frame.shape[0] - rows) // 2, (frame.shape[1] - columns) // 2
    return plain_area(frame[top : top + rows, left : left + columns].copy(), edge)


def plain_area(frame: Frames, edge: int) -> Frames:
    scale = edge / min(frame.shape[:2])
    size = round(frame.shape[1] * scale), round(frame.shape[0] * scale)
    return np.asarray(cv2.resize(np.ascontiguousarray(frame), size, interpolation=cv2.INTER_AREA))


def plain_patches(layout: Layout, frame: Frames) -> Frames:
    """[H, W, 3] -> [n, P], patch by patch."""
    patch = layout.patch_size
    if isinstance(layout, PatchLayout):
        planes = torch.from_numpy(frame.copy()).permute(2, 0, 1)[None]
        size = layout.target_size(*frame.shape[:2])
        if size != frame.shape[:2]:
            planes = torch.nn.functional.interpolate(planes, size=size, mode="bicubic", antialias=True)
        frame = planes[0].permute(1, 2, 0).numpy()
    if isinstance(layout, EagleLayout):
        rows, columns = layout.target_size(*frame.shape[:2])
        frame = np.asarray(Image.fromarray(frame).resize((columns, rows), Image.Resampling.BICUBIC))
    values = (frame.astype(np.float32) - np.float32(127.5)) / np.float32(127.5)
    places = [(row, column) for row in range(frame.shape[0] // patch) for column in range(frame.shape[1] // patch)]
    merge = layout.merge_size
    if isinstance(layout, PatchLayout):  # token by token, row by row within
        places.sort(key=lambda place: (place[0] // merge, place[1] // merge, place[0], place[1]))
    found = []
    for row, column in places:
        block = values[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
        if isinstance(layout, EagleLayout):
            found.append(block.reshape(-1))
        else:
            slots = layout.temporal_patch_size if isinstance(layout, PatchLayout) else 1
            found.append(np.concatenate([np.tile(channel.reshape(-1), slots) for channel in block.transpose(2, 0, 1)]))
    return np.stack(found)


def encoder(transform: ImageTransform | FloatTransform, layout: Layout, views: int, steps: int) -> ImageEncoder:
    keys = tuple(f"camera {number}" for number in range(views))
    video = ModalityConfig(delta_indices=tuple(range(steps)), modality_keys=keys)
    return ImageEncoder(transform, layout, video, False)


def area(edge: int, fraction: float = 0.95, letter_box: bool = False) -> ImageTransform:
    return ImageTransform(True, edge, fraction, None, None, letter_box)


PIPELINES: dict[str, tuple[ImageTransform | FloatTransform, Layout]] = {
    "n1d5": (FloatTransform(28, 0.95), TileLayout(28)),
    "n1d6": (area(32, letter_box=True), EagleLayout()),
    "n1d7": (area(32), PatchLayout(1024)),
    "n1d7, patches of 8": (area(24, 0.9), PatchLayout(256, patch_size=8, temporal_patch_size=3)),
}
# How an array may lie in memory.
LAYOUTS = {
    "plain": lambda frames: frames,
    "RGB of BGR": lambda frames: np.ascontiguousarray(frames[..., ::-1])[..., ::-1],
    "upside down": lambda frames: np.ascontiguousarray(frames[:, ::-1])[:, ::-1],
    "planes": lambda frames: np.ascontiguousarray(frames.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1),
    "part of a wider one": lambda frames: np.pad(frames, ((0, 0), (0, 0), (3, 5), (0, 0)))[:, :, 3:-5],
    "RGB of RGBA": lambda frames: np.pad(frames, ((0, 0), (0, 0), (0, 0), (0, 1)))[..., :3],
}


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(PIPELINES)),
    st.tuples(st.integers(8, 100), st.integers(8, 100)),
    st.tuples(st.integers(1, 3), st.integers(1, 2), st.sampled_from([1, 2, 4])),
    st.sampled_from(sorted(LAYOUTS)),
    st.integers(0, 2**32 - 1),
)
def test_the_same_patches_as_by_the_plain_way(
    name: str, size: tuple[int, int], numbers: tuple[int, int, int], memory: str, seed: int
) -> None:
    (transform, layout), (views, steps, threads) = PIPELINES[name], numbers
    assume(max(size) <= 5 * min(size))
    rng = np.random.default_rng(seed)
    encode = encoder(transform, layout, views, steps)
    plain = [rng.integers(0, 256, (steps, *size, 3), dtype=np.uint8) for _ in range(views)]
    video = {f"camera {number}": LAYOUTS[memory](frames) for number, frames in enumerate(plain)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vision.torch, "get_num_threads", lambda: threads)
        patches, grids = encode.encode(video)
    expected = [
        plain_patches(layout, plain_transform(transform, view[step])) for step in range(steps) for view in plain
    ]
    np.testing.assert_array_equal(patches, np.concatenate(expected))
    assert patches.dtype == np.float32 and patches.flags.c_contiguous
    assert grids == encode.grids(dict.fromkeys(video, size))
    assert len(grids) == views * steps
    assert grids[0][1] * grids[0][2] == len(expected[0])


# Frames of cameras, with scales of a power of two below and others, whole ones and none.
CAMERA_SIZES = [(480, 640), (256, 256), (360, 640), (600, 800), (240, 320), (1080, 1920), (512, 512), (768, 1024)]


@pytest.mark.parametrize("letter_box", [False, True])
@pytest.mark.parametrize("size", [*CAMERA_SIZES, (640, 480), (481, 640), (200, 333), (255, 257)])
def test_the_same_frames_as_by_the_plain_way(size: tuple[int, int], letter_box: bool) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    transform = area(256, letter_box=letter_box)
    result = transform(frame[None])
    np.testing.assert_array_equal(result[0], plain_transform(transform, frame))
    assert transform.size_of(*size) == result.shape[1:3]


@given(st.integers(1, 200), st.integers(1, 200), st.sampled_from([4, 8, 12, 25, 32]), st.integers(0, 99))
def test_bars_may_come_after_scaling(height: int, width: int, edge: int, seed: int) -> None:
    frame = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    side = max(height, width)
    square = np.zeros((side, side, 3), dtype=np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = frame
    np.testing.assert_array_equal(scale_letter_boxed(frame, edge), plain_area(square, edge))


def test_what_is_given_stays_as_it_is() -> None:
    frames = np.random.default_rng(2).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    before = frames.copy()
    encode = encoder(area(32, 1.0), PatchLayout(1024), 1, 1)
    first, _ = encode.encode({"camera 0": frames})
    kept = first.copy()
    np.testing.assert_array_equal(frames, before)
    encode.encode({"camera 0": 255 - frames})
    np.testing.assert_array_equal(first, kept)


def test_views_of_several_sizes_are_refused_before_any_work() -> None:
    encode = encoder(area(32), PatchLayout(1024), 2, 1)
    frames: Any = {"camera 0": np.zeros((1, 32, 32, 3), np.uint8), "camera 1": np.zeros((1, 32, 64, 3), np.uint8)}
    with pytest.raises(ProcessorError, match="camera 0 32x32, camera 1 32x64"):
        encode.encode(frames)


@pytest.mark.parametrize(("count", "threads"), [(1, 4), (3, 1), (3, 2), (3, 8), (0, 2)])
def test_threads_do_everything_once(count: int, threads: int) -> None:
    done: list[int] = []
    names: set[str] = set()

    def work(number: int) -> None:
        names.add(threading.current_thread().name)
        done.append(number)

    Threads().each(work, count, threads)
    assert sorted(done) == list(range(count))
    assert len(names) <= max(1, threads)
    if count > 0:
        assert threading.current_thread().name in names


def test_an_error_in_a_thread_reaches_the_caller_after_all_are_done() -> None:
    started, done = threading.Event(), []

    def work(number: int) -> None:
        if number == 0:
            started.wait(10)
            raise ProcessorError("camera 0", "a picture", "none")
        started.set()
        done.append(number)
        raise ValueError("of another")

    with pytest.raises(ProcessorError, match="camera 0"):
        Threads().each(work, 3, 2)
    assert sorted(done) == [1, 2]
    with pytest.raises(ValueError, match="of another"):
        Threads().each(lambda number: None if number == 0 else work(number), 2, 2)


def test_threads_are_neither_copied_nor_pickled() -> None:
    threads = Threads()
    threads.each(lambda number: None, 2, 2)
    for other in (copy.deepcopy(threads), pickle.loads(pickle.dumps(threads))):
        done: list[int] = []
        other.each(done.append, 2, 2)
        assert sorted(done) == [0, 1]


@pytest.mark.parametrize("size", [(256, 341), (256, 256), (256, 455), (256, 410), (97, 640)])
def test_without_pillow_a_picture_is_resized_to_the_bytes_of_pillow_12(monkeypatch, size: tuple[int, int]) -> None:
    frames = np.random.default_rng(3).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    frames[1, ::2] = 255
    rows, columns = EagleLayout().target_size(*size)
    wide = [Image.fromarray(frame).resize((columns, size[0]), Image.Resampling.BICUBIC) for frame in frames]
    expected = np.stack([picture.resize((columns, rows), Image.Resampling.BICUBIC) for picture in wide])
    if size in ((256, 341), (256, 256), (256, 455)):  # Pillow 13 begins with the rows in the other ones
        np.testing.assert_array_equal(EagleLayout().resize(frames), expected)
    monkeypatch.setattr(patches, "has_pillow", lambda: False)
    found = EagleLayout().resize(frames)
    assert found.dtype == np.uint8 and found.flags.c_contiguous
    np.testing.assert_array_equal(found, expected)


def test_views_that_torch_resizes_are_transformed_in_one_thread(monkeypatch) -> None:
    """Torch keeps a team of threads for every thread that asks it for work."""
    opencv = ImageTransform(True, 16, 0.9, None, None)
    torchs = ImageTransform(False, None, None, (16, 20), (14, 18))
    assert (opencv.in_threads, torchs.in_threads, FloatTransform(16, 0.9).in_threads) == (True, False, False)
    monkeypatch.setattr(vision.torch, "get_num_threads", lambda: 4)
    asked: list[int] = []

    def each(self: Threads, function: Any, count: int, threads: int) -> None:
        asked.append(threads)
        for number in range(count):
            function(number)

    monkeypatch.setattr(Threads, "each", each)
    video = ModalityConfig(delta_indices=(0,), modality_keys=("left", "right"))
    frames = dict.fromkeys(("left", "right"), np.zeros((1, 24, 32, 3), dtype=np.uint8))
    for transform in (opencv, torchs):
        ImageEncoder(transform, EagleLayout(), video, False).encode(frames)
    assert asked == [4, 1]
