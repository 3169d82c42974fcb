"""The views of one observation -> patches and grids: transform and patch layout of each generation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from groot_ros.processing.augmentation import Augmentation, Draw
from groot_ros.processing.checks import check_keys, checked_frames
from groot_ros.processing.config import ProcessorFiles
from groot_ros.processing.errors import ProcessorError, describe
from groot_ros.processing.images import FloatTransform, Frames, ImageTransform
from groot_ros.processing.modality import ModalityConfig
from groot_ros.processing.patches import EagleLayout, Grid, Layout, Patches, PatchLayout, TileLayout
from groot_ros.processing.threads import Threads

# Views of a checkpoint whose robot is not known yet.
_ASSUMED_SIZE = (256, 256)
# Rounding to whole pixels changes a ratio by less.
_ASPECT_TOLERANCE = 0.02


class Transform(Protocol):
    """Frames uint8 [N, H, W, 3] of one view -> uint8 [N, h, w, 3]; with a draw as in training.

    Attributes:
        in_threads: views may be transformed in threads; False: torch uses its own on every view.
    """

    @property
    def in_threads(self) -> bool: ...

    def __call__(self, frames: Frames, draw: Draw | None = None) -> Frames: ...

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the result for frames of this size."""


class ImageEncoder:
    """Transforms and cuts the frames of all views.

    Attributes:
        transform: what makes frames of the size that the network was trained with.
        layout: the patch geometry.
    """

    def __init__(
        self,
        transform: Transform,
        layout: Layout,
        video: ModalityConfig,
        one_size: bool,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.transform, self.layout, self._augmentation = transform, layout, augmentation or Augmentation()
        self._keys, self._steps, self._one_size = video.modality_keys, len(video.delta_indices), one_size
        self._threads = Threads()

    def encode(
        self, video: Mapping[str, Frames], augment: np.random.Generator | None = None
    ) -> tuple[Patches, tuple[Grid, ...]]:
        """Patches of all images, time-major and view-minor, and one grid per image.

        Args:
            augment: transform them as in training, by one draw from it for all; None: as in evaluation.

        Raises:
            ProcessorError: a missing or unknown view, a wrong type or shape, or sizes that differ: of the views (N1.5),
                or of what is left of them after the transform (all).
        """
        frames = self._checked(video)
        draw = None if augment is None else self._augmentation.draw(augment)
        grid = self._grid({key: value.shape[1:3] for key, value in frames.items()})
        views = list(frames.values())
        patches = self._patches(grid)

        def encode_view(number: int) -> None:
            self.layout.cut(self.transform(views[number], draw), patches[:, number])

        self._each(encode_view)
        return patches.reshape(-1, self.layout.width), (grid,) * (self._steps * len(views))

    def stack(self, video: Mapping[str, Frames], out: Frames) -> tuple[Grid, ...]:
        """Raw frames in the order of the images, for `groot_ros.processing.device_images`.

        Args:
            out: uint8 [T * views, H, W, 3], which is filled.

        Returns:
            One grid per image.

        Raises:
            ProcessorError: see `encode`, or views that are not of the size of `out`.
        """
        frames = self._checked(video)
        grids = self.grids({key: value.shape[1:3] for key, value in frames.items()})
        for number, (key, value) in enumerate(frames.items()):
            if (len(grids), *value.shape[1:]) != out.shape:
                room = f"frames for which there is room, uint8 {list(out.shape)} for all views"
                raise ProcessorError(f"video '{key}'", room, f"{self._steps} of {value.shape[1]}x{value.shape[2]}")
            out[number :: len(frames)] = value
        return grids

    def transformed(self, video: Mapping[str, Frames]) -> list[Frames]:
        """The first half of `encode`: checks and transform; uint8 [T, h, w, 3] per view."""
        views = list(self._checked(video).values())
        found = list(views)

        def transform(number: int) -> None:
            found[number] = self.transform(views[number])

        self._each(transform)
        return found

    def cut(self, views: Sequence[Frames]) -> tuple[Patches, tuple[Grid, ...]]:
        """The second half of `encode`: patches of transformed views of one size."""
        grid = self.layout.grid(*views[0].shape[1:3])
        patches = self._patches(grid)
        self._each(lambda number: self.layout.cut(views[number], patches[:, number]))
        return patches.reshape(-1, self.layout.width), (grid,) * (self._steps * len(views))

    def _checked(self, video: Mapping[str, Frames]) -> dict[str, Frames]:
        check_keys("video", video, self._keys)
        frames = {key: checked_frames(f"video '{key}'", video[key], self._steps) for key in self._keys}
        self._check_resolutions({key: value.shape[1:3] for key, value in frames.items()})
        return frames

    def _patches(self, grid: Grid) -> Patches:
        """Memory for the patches of all images: [T, views, rows * columns, width]."""
        return np.empty((self._steps, len(self._keys), grid[1] * grid[2], self.layout.width), dtype=np.float32)

    def _each(self, function: Callable[[int], None]) -> None:
        """For the number of every view, in as many threads as torch may have."""
        self._threads.each(function, len(self._keys), torch.get_num_threads() if self.transform.in_threads else 1)

    def grids(self, sizes: Mapping[str, tuple[int, int]] | None) -> tuple[Grid, ...]:
        """The grids that `encode` gives for views of these (height, width) sizes; None: square ones.

        Raises:
            ProcessorError: a missing or unknown view, a size that is none, or sizes that differ where one is needed.
        """
        sizes = dict.fromkeys(self._keys, _ASSUMED_SIZE) if sizes is None else sizes
        check_keys("video", sizes, self._keys)
        for key, size in sizes.items():
            if len(size) != 2 or any(type(side) is not int or side < 1 for side in size):
                raise ProcessorError(f"video '{key}'", "a size (height, width) in pixels", describe(size))
        self._check_resolutions(sizes)
        return (self._grid(sizes),) * (len(self._keys) * self._steps)

    def _grid(self, sizes: Mapping[str, tuple[int, ...]]) -> Grid:
        """The grid of every image, for views of these (height, width) sizes."""
        shapes = {key: self.transform.size_of(*sizes[key]) for key in self._keys}
        _check_equal(
            shapes,
            # NVIDIA's processors stack the views, so no network of theirs was trained on images of two sizes.
            "views that have one size after resizing and cropping, as in training",
            "Let the cameras publish one aspect ratio, or use a checkpoint trained with letter_box_transform.",
        )
        return self.layout.grid(*shapes[self._keys[0]])

    def _check_resolutions(self, sizes: Mapping[str, tuple[int, ...]]) -> None:
        if self._one_size:
            expected = "views of one resolution, which GR00T N1.5 needs"
            _check_equal(sizes, expected, "Let the cameras publish one resolution.")


def _check_equal(sizes: Mapping[str, tuple[int, ...]], expected: str, fix: str) -> None:
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{key} {height}x{width}" for key, (height, width) in sizes.items())
        raise ProcessorError("video", expected, f"{found} (height x width)", fix)


def image_encoder(
    files: ProcessorFiles, video: ModalityConfig, layout: Layout | None = None, directory: Path | None = None
) -> ImageEncoder:
    """The encoder of a checkpoint.

    Args:
        layout: another patch geometry than the files say.
        directory: where N1.7's preprocessor_config.json may be; None: Qwen's released settings.

    Raises:
        ProcessorError: image settings that are wrong or do not fit together.
    """
    transform, own = _PIPELINES[files.generation.name](files, directory)
    augmentation = Augmentation.from_kwargs(files.image_kwargs(), files.where)
    return ImageEncoder(transform, layout or own, video, files.generation.one_view_size, augmentation)


def _tiles(files: ProcessorFiles, directory: Path | None) -> tuple[Transform, Layout]:
    size, patch = files.size("image_size"), files.size("patch_size")
    if size % patch:
        raise ProcessorError(f"{files.where}: image size", f"a multiple of the patch size {patch}", str(size))
    return FloatTransform(size, files.generation.defaults["crop_fraction"]), TileLayout(size, patch)


def _eagle(files: ProcessorFiles, directory: Path | None) -> tuple[Transform, Layout]:
    return ImageTransform.from_kwargs(files.image_kwargs(), files.where), EagleLayout()


def _qwen(files: ProcessorFiles, directory: Path | None) -> tuple[Transform, Layout]:
    layout = PatchLayout() if directory is None else PatchLayout.from_directory(directory)
    return ImageTransform.from_kwargs(files.image_kwargs(), files.where), layout


_PIPELINES: dict[str, Callable[[ProcessorFiles, Path | None], tuple[Any, Layout]]] = {
    "n1d5": _tiles,
    "n1d6": _eagle,
    "n1d7": _qwen,
}


def check_aspects(files: ProcessorFiles, tag: str, sizes: Mapping[str, tuple[int, int]]) -> None:
    """Compares views with the resolutions that N1.5's files give; N1.5 squeezes whatever it gets into a square.

    NVIDIA's code takes exactly that resolution; the same picture in another one is scaled to the same.

    Args:
        sizes: camera -> (height, width) in pixels.

    Raises:
        ProcessorError: another aspect ratio, or a resolution that is none.
    """
    place = f"{files.statistics_where}: {tag}.modalities.video"
    video = files.modalities.get(tag, {}).get("video", {})
    for key, (height, width) in sizes.items():
        trained = video.get(key, {}).get("resolution")
        if trained is None:
            continue
        if not isinstance(trained, (list, tuple)) or [type(side) for side in trained] != [int, int]:
            raise ProcessorError(f"{place}.{key}.resolution", "[width, height] in pixels", describe(trained))
        if abs(width * trained[1] - height * trained[0]) > _ASPECT_TOLERANCE * width * trained[1]:
            raise ProcessorError(
                f"{place}.{key}.resolution",
                f"an aspect ratio like the camera's, {width}x{height} (width x height)",
                f"{trained[0]}x{trained[1]}",
                "Let the camera's driver publish images as they were in training.",
            )
