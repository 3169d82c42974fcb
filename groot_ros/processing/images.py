"""Camera frames -> what the vision tower takes: NVIDIA's evaluation transforms, then Qwen's patches.

Both steps give the same bytes as the reference (albumentations or torchvision, then transformers' fast
Qwen2-VL image processor) without needing those packages; transformers' own processor cannot be imported
without torchvision. Frames stay channels-last uint8 until the patches are cut, which is also the layout torch
resizes fastest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from groot_ros.processing.errors import ProcessorError, describe, read_json_object

Frames = NDArray[np.uint8]

PREPROCESSOR_FILE = "preprocessor_config.json"
# Qwen's own limit; beyond it a side would be resized to nothing.
_MAX_ASPECT_RATIO = 200


@dataclass(frozen=True)
class EvalTransform:
    """NVIDIA's deterministic transform: optional letterbox, resize, centre crop, resize.

    Attributes:
        use_albumentations: True (released checkpoints): scale the SHORTER side with area averaging, keeping
            the aspect ratio. False: resize to `target_size` with antialiased bilinear filtering, as torchvision does.
        shortest_edge: shorter side in pixels after each scaling (albumentations).
        crop_fraction: share of each side that the centre crop keeps (albumentations).
        target_size, crop_size: (height, width) of the torchvision path.
        letter_box: pad to a square with black first.
    """

    use_albumentations: bool
    shortest_edge: int | None
    crop_fraction: float | None
    target_size: tuple[int, int] | None
    crop_size: tuple[int, int] | None
    letter_box: bool = False

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any], where: str) -> EvalTransform:
        """Reads the image settings of `processor_kwargs`.

        Keys: use_albumentations, shortest_image_edge, crop_fraction, image_target_size, image_crop_size,
        letter_box_transform. Without shortest_image_edge and crop_fraction the older pair of sizes counts.

        Raises:
            ProcessorError: a wrong type, or not enough settings for the chosen path.
        """
        target = _size(kwargs.get("image_target_size"), f"{where}.image_target_size")
        crop = _size(kwargs.get("image_crop_size"), f"{where}.image_crop_size")
        flags = {name: kwargs.get(name, False) for name in ("use_albumentations", "letter_box_transform")}
        for name, value in flags.items():
            if not isinstance(value, bool):
                raise ProcessorError(f"{where}.{name}", "true or false", describe(value))
        edge, fraction = kwargs.get("shortest_image_edge"), kwargs.get("crop_fraction")
        if edge is not None and (type(edge) is not int or edge < 1):
            raise ProcessorError(f"{where}.shortest_image_edge", "a positive integer or null", describe(edge))
        if fraction is not None and (not isinstance(fraction, (int, float)) or not 0 < fraction <= 1):
            raise ProcessorError(f"{where}.crop_fraction", "a number in (0, 1] or null", describe(fraction))
        if flags["use_albumentations"]:
            edge = edge or (target[0] if target else None)
            if fraction is None and target and crop:
                fraction = crop[0] / target[0]
            if edge is None or fraction is None or fraction > 1 or int(edge * fraction) < 1:
                raise ProcessorError(
                    where,
                    "shortest_image_edge and crop_fraction, or image_target_size and a smaller image_crop_size",
                    describe({"image_target_size": target, "image_crop_size": crop, "edge": edge, "crop": fraction}),
                )
        elif target is None or crop is None or crop[0] > target[0] or crop[1] > target[1]:
            raise ProcessorError(
                where,
                "image_target_size and a smaller image_crop_size, which use_albumentations false needs",
                f"{target} and {crop}",
            )
        return cls(flags["use_albumentations"], edge, fraction, target, crop, flags["letter_box_transform"])

    def __call__(self, frames: Frames) -> Frames:
        """uint8 [N, H, W, 3] -> uint8 [N, h, w, 3]."""
        if self.letter_box:
            frames = _letter_box(frames)
        if not self.use_albumentations:
            return self._torchvision(frames)
        assert self.shortest_edge is not None and self.crop_fraction is not None
        return np.stack([_scale_crop_scale(frame, self.shortest_edge, self.crop_fraction) for frame in frames])

    def _torchvision(self, frames: Frames) -> Frames:
        assert self.target_size is not None and self.crop_size is not None
        (height, width), (rows, columns) = self.target_size, self.crop_size
        # torchvision rounds the crop's corner (halves to even); albumentations rounds down.
        top, left = round((height - rows) / 2), round((width - columns) / 2)
        resized = resize_antialiased(torch.from_numpy(np.ascontiguousarray(frames)), self.target_size, "bilinear")
        cropped = resized[:, top : top + rows, left : left + columns]
        return resize_antialiased(cropped, self.target_size, "bilinear").contiguous().numpy()


def _size(value: Any, where: str) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or len(value) != 2 or any(type(v) is not int or v < 1 for v in value):
        raise ProcessorError(where, "[height, width] or null", describe(value))
    return value[0], value[1]


def _letter_box(frames: Frames) -> Frames:
    height, width = frames.shape[1:3]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return np.pad(frames, ((0, 0), (top, side - height - top), (left, side - width - left), (0, 0)))


def _scale_shorter_side(frame: Frames, edge: int) -> Frames:
    height, width = frame.shape[:2]
    scale = edge / min(height, width)
    size = round(width * scale), round(height * scale)
    if size == (width, height):
        return frame
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _scale_crop_scale(frame: Frames, edge: int, fraction: float) -> Frames:
    scaled = _scale_shorter_side(frame, edge)
    height, width = scaled.shape[:2]
    rows, columns = int(height * fraction), int(width * fraction)
    top, left = (height - rows) // 2, (width - columns) // 2
    return _scale_shorter_side(scaled[top : top + rows, left : left + columns], edge)


def resize_antialiased(images: torch.Tensor, size: tuple[int, int], mode: str) -> torch.Tensor:
    """Antialiased resize of uint8 [N, H, W, 3] to (height, width), in integers as torchvision v2 does."""
    if tuple(images.shape[1:3]) == size:
        return images
    planes = images.permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(planes, size=size, mode=mode, align_corners=False, antialias=True)
    return resized.permute(0, 2, 3, 1)


@dataclass(frozen=True)
class PatchLayout:
    """Qwen's image processor: size limits and patch geometry.

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
        size = data.get("size", {})
        if not isinstance(size, Mapping):
            raise ProcessorError(f"{path}: size", "an object with shortest_edge and longest_edge", describe(size))
        values = {
            "min_pixels": ("size.shortest_edge", size.get("shortest_edge", cls.min_pixels)),
            "max_pixels": ("size.longest_edge", size.get("longest_edge", cls.max_pixels)),
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

    def patches(self, frames: Frames) -> tuple[NDArray[np.float32], tuple[int, int, int]]:
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
