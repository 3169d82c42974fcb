"""Transformed frames -> the patches each backbone reads, scaled to [-1, 1].

Same numbers as the reference: transformers' fast Qwen2-VL image processor (N1.7), Eagle 3's (N1.6) and Eagle 2.5's
(N1.5). transformers' own processor cannot be imported without torchvision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from groot_ros.processing.errors import ProcessorError, describe, read_json_object
from groot_ros.processing.images import Frames, resize_antialiased

PREPROCESSOR_FILE = "preprocessor_config.json"
# Qwen's own limit; beyond it a side would be resized to nothing.
_MAX_ASPECT_RATIO = 200

Grid = tuple[int, int, int]
Patches = NDArray[np.float32]


class Layout(Protocol):
    """How frames become patches.

    Attributes:
        merge_size: patches per side of one image token.
    """

    @property
    def merge_size(self) -> int: ...

    def patches(self, frames: Frames) -> tuple[Patches, Grid]:
        """uint8 [N, H, W, 3] -> float32 [N, rows * columns, P] and the grid (1, rows, columns) of every image."""


@dataclass(frozen=True)
class PatchLayout:
    """Qwen's image processor (N1.7): size limits and patch geometry.

    Attributes:
        min_pixels, max_pixels: an image is scaled to an area between these.
        patch_size, merge_size, temporal_patch_size: pixels per patch side, patches per token side, frames per patch.
    """

    min_pixels: int = 65536
    max_pixels: int = 16777216
    patch_size: int = 16
    merge_size: int = 2
    temporal_patch_size: int = 2

    @classmethod
    def from_directory(cls, directory: Path) -> PatchLayout:
        """Reads `preprocessor_config.json` of a directory; the defaults where the file or a key is absent.

        Raises:
            ProcessorError: values that are not positive integers, or an image_mean or image_std other than 0.5.
        """
        path = directory / PREPROCESSOR_FILE
        if not path.exists():
            return cls()
        data = read_json_object(path)
        size = data.get("size") or {}
        if not isinstance(size, Mapping):
            raise ProcessorError(f"{path}: size", "an object with shortest_edge and longest_edge", describe(size))
        values = {
            # transformers reads the limits under either name.
            "min_pixels": ("size.shortest_edge", size.get("shortest_edge", data.get("min_pixels") or cls.min_pixels)),
            "max_pixels": ("size.longest_edge", size.get("longest_edge", data.get("max_pixels") or cls.max_pixels)),
            "patch_size": ("patch_size", data.get("patch_size", cls.patch_size)),
            "merge_size": ("merge_size", data.get("merge_size", cls.merge_size)),
            "temporal_patch_size": (
                "temporal_patch_size",
                data.get("temporal_patch_size", cls.temporal_patch_size),
            ),
        }
        for key, value in values.values():
            if type(value) is not int or value < 1:
                raise ProcessorError(f"{path}: {key}", "a positive integer", describe(value))
        for key in ("image_mean", "image_std"):
            if data.get(key, [0.5] * 3) != [0.5] * 3:
                raise ProcessorError(f"{path}: {key}", "[0.5, 0.5, 0.5]", describe(data[key]))
        return cls(**{name: value for name, (_, value) in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """The form of `preprocessor_config.json`."""
        return {
            "size": {"shortest_edge": self.min_pixels, "longest_edge": self.max_pixels},
            "patch_size": self.patch_size,
            "merge_size": self.merge_size,
            "temporal_patch_size": self.temporal_patch_size,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        }

    def target_size(self, height: int, width: int) -> tuple[int, int]:
        """Size after Qwen's resize: multiples of patch_size * merge_size, area within the limits, aspect about kept.

        Raises:
            ProcessorError: one side is more than 200 times the other.
        """
        if max(height, width) > _MAX_ASPECT_RATIO * min(height, width):
            raise ProcessorError("image", f"an aspect ratio of at most {_MAX_ASPECT_RATIO}", f"{height}x{width} pixels")
        unit = self.patch_size * self.merge_size
        rows, columns = round(height / unit) * unit, round(width / unit) * unit
        if rows * columns > self.max_pixels:
            shrink = math.sqrt(height * width / self.max_pixels)
            rows = max(unit, math.floor(height / shrink / unit) * unit)
            columns = max(unit, math.floor(width / shrink / unit) * unit)
        elif rows * columns < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (height * width))
            rows = math.ceil(height * grow / unit) * unit
            columns = math.ceil(width * grow / unit) * unit
        return rows, columns

    def patches(self, frames: Frames) -> tuple[Patches, Grid]:
        """Resizes (bicubic, antialiased), scales to [-1, 1] and cuts into patches.

        Args:
            frames: uint8 [N, H, W, 3], separate images of one size.

        Returns:
            float32 [N, n, 3 * temporal_patch_size * patch_size^2], the patches of one merged token next to each
            other, and the (time, height, width) grid that every image has; n = height * width. An image fills all
            its temporal slots.
        """
        count, height, width, channels = frames.shape
        size = self.target_size(height, width)
        images = resize_antialiased(torch.from_numpy(np.ascontiguousarray(frames)), size, "bicubic")
        patch, merge = self.patch_size, self.merge_size
        rows, columns = size[0] // patch, size[1] // patch
        blocks = images.reshape(count, rows // merge, merge, patch, columns // merge, merge, patch, channels)
        cut = blocks.permute(0, 1, 4, 2, 5, 7, 3, 6).reshape(count, rows * columns, channels, 1, patch * patch)
        scaled = cut.to(torch.float32).sub_(127.5).div_(127.5)
        spread = scaled.expand(-1, -1, -1, self.temporal_patch_size, -1)
        return spread.reshape(count, rows * columns, -1).numpy(), (1, rows, columns)


@dataclass(frozen=True)
class EagleLayout:
    """Eagle 3's image processor (N1.6): sides that are multiples of 28 pixels, 2 x 2 patches of 14 to a token.

    Attributes:
        min_pixels, max_pixels: an image is scaled to an area between these.
        patch_size, merge_size: pixels per patch side, patches per token side.
    """

    min_pixels: int = 4 * 28 * 28
    max_pixels: int = 4096 * 28 * 28
    patch_size: int = 14
    merge_size: int = 2
    # Sides are brought between these first.
    SIDES: ClassVar[tuple[int, int]] = (28, 7000)

    def target_size(self, height: int, width: int) -> tuple[int, int]:
        """Size after the resize: multiples of 28, area within the limits, aspect about kept."""
        unit = self.patch_size * self.merge_size
        rows, columns = (min(max(round(side / unit) * unit, self.SIDES[0]), self.SIDES[1]) for side in (height, width))
        if rows * columns > self.max_pixels:
            shrink = math.sqrt(height * width / self.max_pixels)
            rows, columns = (max(unit, math.floor(side / shrink / unit) * unit) for side in (height, width))
        elif rows * columns < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (height * width))
            rows, columns = (math.ceil(side * grow / unit) * unit for side in (height, width))
        return rows, columns

    def resize(self, frames: Frames) -> Frames:
        """uint8 [N, H, W, 3] -> uint8 [N, rows, columns, 3], by PIL's bicubic filter."""
        rows, columns = self.target_size(*frames.shape[1:3])
        pictures = (Image.fromarray(frame).resize((columns, rows), Image.Resampling.BICUBIC) for frame in frames)
        return np.stack([np.asarray(picture) for picture in pictures])

    def patches(self, frames: Frames) -> tuple[Patches, Grid]:
        """Resizes, scales to [-1, 1] and cuts into patches, row by row.

        Returns:
            float32 [N, rows * columns, 14 * 14 * 3], a patch as (y, x, channel), and the (1, rows, columns) grid.
        """
        return _rows_of_patches(self.resize(frames), self.patch_size, (0, 1, 3, 2, 4, 5))


@dataclass(frozen=True)
class TileLayout:
    """Eagle 2.5's image processor (N1.5) for frames that are one tile: a square of `size` pixels.

    Larger images would be cut into up to twelve tiles and a thumbnail; N1.5's transform always makes one tile of them.
    """

    size: int = 224
    patch_size: int = 14
    merge_size: ClassVar[int] = 1

    def patches(self, frames: Frames) -> tuple[Patches, Grid]:
        """Scales to [-1, 1] and cuts into patches, row by row.

        Returns:
            float32 [N, rows * columns, 3 * 14 * 14], a patch as (channel, y, x), and the (1, rows, columns) grid.

        Raises:
            ProcessorError: frames of another size.
        """
        if frames.shape[1:3] != (self.size, self.size):
            found = f"{frames.shape[1]}x{frames.shape[2]}"
            raise ProcessorError("image", f"one tile of {self.size}x{self.size} pixels", found)
        return _rows_of_patches(frames, self.patch_size, (0, 1, 3, 5, 2, 4))


def _rows_of_patches(frames: Frames, patch: int, order: tuple[int, ...]) -> tuple[Patches, Grid]:
    """Patches row by row; `order` permutes (image, row, y, column, x, channel)."""
    count, height, width, channels = frames.shape
    rows, columns = height // patch, width // patch
    blocks = torch.from_numpy(np.ascontiguousarray(frames)).reshape(count, rows, patch, columns, patch, channels)
    cut = blocks.permute(*order).reshape(count, rows * columns, -1)
    return cut.to(torch.float32).sub_(127.5).div_(127.5).numpy(), (1, rows, columns)
