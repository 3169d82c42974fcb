"""Transformed frames -> the patches each backbone reads, scaled to [-1, 1].

Same numbers as the reference: transformers' fast Qwen2-VL image processor (N1.7), Eagle 3's (N1.6) and Eagle 2.5's
(N1.5). transformers' own processor cannot be imported without torchvision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from groot_ros.processing.errors import ProcessorError, describe, read_json_object
from groot_ros.processing.images import Frames, as_one, as_tensor, resize_antialiased
from groot_ros.processing.resampling import PIL_BITS, Antialiased

PREPROCESSOR_FILE = "preprocessor_config.json"
# Qwen's own limit; beyond it a side would be resized to nothing.
_MAX_ASPECT_RATIO = 200

Grid = tuple[int, int, int]
Patches = NDArray[np.float32]


class Layout(Protocol):
    """How frames become patches.

    Attributes:
        merge_size: patches per side of one image token.
        width: numbers in one patch.
    """

    @property
    def merge_size(self) -> int: ...

    @property
    def width(self) -> int: ...

    def grid(self, height: int, width: int) -> Grid:
        """The (1, rows, columns) grid of patches of one frame of this size."""

    def cut(self, frames: Frames, out: Patches) -> None:
        """Writes the patches of uint8 [N, H, W, 3] into float32 [N, rows * columns, width], each image contiguous."""

    def patches(self, frames: Frames) -> tuple[Patches, Grid]:
        """uint8 [N, H, W, 3], separate images of one size -> float32 [N, rows * columns, width], and their grid.

        Raises:
            ProcessorError: a size that the layout cannot have.
        """
        grid = self.grid(*frames.shape[1:3])
        out = np.empty((len(frames), grid[1] * grid[2], self.width), dtype=np.float32)
        self.cut(frames, out)
        return out, grid


@dataclass(frozen=True)
class PatchLayout(Layout):
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

    @property
    def width(self) -> int:
        """Numbers in one patch: (channel, time, y, x)."""
        return 3 * self.temporal_patch_size * self.patch_size**2

    def grid(self, height: int, width: int) -> Grid:
        """The (time, height, width) grid of one image of this size.

        Raises:
            ProcessorError: one side is more than 200 times the other.
        """
        rows, columns = self.target_size(height, width)
        return 1, rows // self.patch_size, columns // self.patch_size

    def cut(self, frames: Frames, out: Patches) -> None:
        """Resizes (bicubic, antialiased), scales to [-1, 1] and cuts into patches.

        The patches of one merged token are next to each other, and an image fills all its temporal slots.
        """
        size = self.target_size(*frames.shape[1:3])
        images = resize_antialiased(as_tensor(frames), size, "bicubic")
        patch, merge = self.patch_size, self.merge_size
        for image, target in zip(images.numpy(), out, strict=True):
            lines = _planes(image).view(f"V{patch}")  # a line of a patch is one item, so that copying moves it whole
            blocks = lines.reshape(3, size[0] // (merge * patch), merge, patch, -1, merge)
            cut = np.ascontiguousarray(blocks.transpose(1, 4, 2, 5, 0, 3)).view(np.uint8)
            slots = target.reshape(-1, 3, self.temporal_patch_size, patch * patch)
            slots[:] = _scaled(cut.reshape(-1, 3, 1, patch * patch))


@dataclass(frozen=True)
class EagleLayout(Layout):
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
        """uint8 [N, H, W, 3] -> uint8 [N, rows, columns, 3], by PIL's bicubic filter; without PIL slower."""
        rows, columns = self.target_size(*frames.shape[1:3])
        if frames.shape[1:3] == (rows, columns):
            return frames
        if not has_pillow():
            return _without_pillow(frames, (rows, columns))
        from PIL import Image  # the one place; the others do without it

        pictures = [Image.fromarray(frame).resize((columns, rows), Image.Resampling.BICUBIC) for frame in frames]
        return as_one([np.asarray(picture) for picture in pictures])

    @property
    def width(self) -> int:
        """Numbers in one patch: (y, x, channel)."""
        return 3 * self.patch_size**2

    def grid(self, height: int, width: int) -> Grid:
        """The (1, rows, columns) grid of one image of this size."""
        rows, columns = self.target_size(height, width)
        return 1, rows // self.patch_size, columns // self.patch_size

    def cut(self, frames: Frames, out: Patches) -> None:
        """Resizes, scales to [-1, 1] and cuts into patches, row by row."""
        patch = self.patch_size
        for picture, target in zip(self.resize(frames), out, strict=True):
            rows = picture.shape[0] // patch
            lines = picture.reshape(picture.shape[0], -1).view(f"V{3 * patch}").reshape(rows, patch, -1)
            cut = np.ascontiguousarray(lines.transpose(0, 2, 1)).view(np.uint8)
            _scaled(cut.reshape(target.shape), target)


@dataclass(frozen=True)
class TileLayout(Layout):
    """Eagle 2.5's image processor (N1.5) for frames that are one tile: a square of `size` pixels.

    Larger images would be cut into up to twelve tiles and a thumbnail; N1.5's transform always makes one tile of them.
    """

    size: int = 224
    patch_size: int = 14
    merge_size: ClassVar[int] = 1

    @property
    def width(self) -> int:
        """Numbers in one patch: (channel, y, x)."""
        return 3 * self.patch_size**2

    def grid(self, height: int, width: int) -> Grid:
        """The (1, rows, columns) grid of one frame.

        Raises:
            ProcessorError: another size than the tile's.
        """
        if (height, width) != (self.size, self.size):
            raise ProcessorError("image", f"one tile of {self.size}x{self.size} pixels", f"{height}x{width}")
        return 1, self.size // self.patch_size, self.size // self.patch_size

    def cut(self, frames: Frames, out: Patches) -> None:
        """Scales to [-1, 1] and cuts into patches, row by row."""
        patch = self.patch_size
        for frame, target in zip(frames, out, strict=True):
            lines = _planes(frame).view(f"V{patch}").reshape(3, self.size // patch, patch, -1)
            cut = np.ascontiguousarray(lines.transpose(1, 3, 0, 2)).view(np.uint8)
            _scaled(cut.reshape(target.shape), target)


@cache
def has_pillow() -> bool:
    """Pillow can be imported."""
    try:
        from PIL import Image  # noqa: F401
    except ImportError:
        return False
    return True


def _without_pillow(frames: Frames, size: tuple[int, int]) -> Frames:
    """PIL's bicubic filter, [N, H, W, 3] -> [N, *size, 3], without it.

    Columns come before rows, as in Pillow up to 12. Pillow 13 begins with the rows where the height shrinks more than
    the width (python-pillow/Pillow#9549), and has other bytes there: not for pictures of 4:3, 16:9 and squares, but for
    those of 16:10 without a letter box (256x410 after the transform).
    """
    height, width = frames.shape[1:3]
    resized = _bicubic((height, width), size)(as_tensor(frames).permute(0, 3, 1, 2))
    return resized.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


@lru_cache(maxsize=8)
def _bicubic(old: tuple[int, int], new: tuple[int, int]) -> Antialiased:
    return Antialiased(old, new, "bicubic", PIL_BITS)


def _planes(image: Frames) -> Frames:
    """[H, W, 3] -> [3, H, W]."""
    planes = np.empty((3, *image.shape[:2]), dtype=np.uint8)
    cv2.split(image, list(planes))
    return planes


def _scaled(values: NDArray[np.uint8], out: Patches | None = None) -> Patches:
    """Bytes -> [-1, 1]: minus and divided by 127.5, with the reference's two roundings to float32."""
    shifted = np.subtract(values, 127.5, out=out, dtype=np.float32)
    return np.divide(shifted, np.float32(127.5), out=shifted)
