"""Camera frames -> frames of the size the vision tower is fed with: NVIDIA's transforms.

For evaluation they give the same bytes as the reference (albumentations or torchvision) without needing those packages.
With a `Draw` they are the training transforms: the crop lies elsewhere, and turn and colours come after
(`groot_ros.processing.augmentation`). Frames stay channels-last uint8.
`groot_ros.processing.patches` comes after.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from groot_ros.processing.augmentation import Draw, augment_frame, augment_planes, corner
from groot_ros.processing.errors import ProcessorError, describe

Frames = NDArray[np.uint8]
Size = tuple[int, int]
_kept = threading.local()


@dataclass(frozen=True)
class ImageTransform:
    """The transform of N1.6 and N1.7: optional letterbox, resize, crop (of the centre, or as drawn), resize.

    Attributes:
        use_albumentations: True (released checkpoints): scale the SHORTER side with area averaging, keeping
            the aspect ratio. False: resize to `target_size` with antialiased bilinear filtering, as torchvision does.
        shortest_edge: shorter side in pixels after each scaling (albumentations).
        crop_fraction: share of each side that the crop keeps (albumentations).
        target_size, crop_size: (height, width) of the torchvision path.
        letter_box: pad to a square with black first.
    """

    use_albumentations: bool
    shortest_edge: int | None
    crop_fraction: float | None
    target_size: Size | None
    crop_size: Size | None
    letter_box: bool = False

    @property
    def in_threads(self) -> bool:
        """OpenCV's work may be done for several views at once; torch would keep a team of threads in each of these."""
        return self.use_albumentations

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any], where: str) -> ImageTransform:
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

    def __call__(self, frames: Frames, draw: Draw | None = None) -> Frames:
        """uint8 [N, H, W, 3] -> uint8 [N, h, w, 3]; with `draw` as in training."""
        if not self.use_albumentations:
            return self._torchvision(letter_box(frames) if self.letter_box else frames, draw)
        assert self.shortest_edge is not None and self.crop_fraction is not None
        first = scale_letter_boxed if self.letter_box else scale_shorter_side
        edge, fraction = self.shortest_edge, self.crop_fraction
        scaled = [scale_shorter_side(crop_part(first(frame, edge), fraction, draw), edge) for frame in frames]
        return as_one(scaled if draw is None else [augment_frame(frame, draw) for frame in scaled])

    def size_of(self, height: int, width: int) -> Size:
        """(height, width) of the result for frames of this size."""
        if self.letter_box:
            height = width = max(height, width)
        scaled, _, cropped = self.plan(height, width)
        if not self.use_albumentations:
            return scaled
        assert self.shortest_edge is not None
        return _scaled_size(*cropped, self.shortest_edge)

    def plan(self, height: int, width: int) -> tuple[Size, Size, Size]:
        """Of frames of this size, letter-boxed where there is one: the size after the first scaling, and corner and
        size of the crop, each (rows, columns)."""
        if self.use_albumentations:
            assert self.shortest_edge is not None and self.crop_fraction is not None
            scaled = _scaled_size(height, width, self.shortest_edge)
            rows, columns = int(scaled[0] * self.crop_fraction), int(scaled[1] * self.crop_fraction)
            return scaled, ((scaled[0] - rows) // 2, (scaled[1] - columns) // 2), (rows, columns)
        assert self.target_size is not None and self.crop_size is not None
        return self.target_size, middle_corner(self.target_size, self.crop_size), self.crop_size

    def _torchvision(self, frames: Frames, draw: Draw | None) -> Frames:
        assert self.target_size is not None and self.crop_size is not None
        rows, columns = self.crop_size
        size, cropped_size = self.target_size, self.crop_size
        top, left = middle_corner(size, cropped_size) if draw is None else corner(size, cropped_size, draw)
        resized = resize_antialiased(as_tensor(frames), self.target_size, "bilinear")
        cropped = resized[:, top : top + rows, left : left + columns]
        scaled = resize_antialiased(cropped, self.target_size, "bilinear")
        if draw is not None:
            scaled = augment_planes(scaled.permute(0, 3, 1, 2), draw).permute(0, 2, 3, 1)
        return scaled.contiguous().numpy()


def middle_corner(size: Size, cropped: Size) -> Size:
    """Upper left pixel (row, column) of the crop; torchvision rounds (halves to even), albumentations rounds down."""
    return round((size[0] - cropped[0]) / 2), round((size[1] - cropped[1]) / 2)


def _size(value: Any, where: str) -> Size | None:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or len(value) != 2 or any(type(v) is not int or v < 1 for v in value):
        raise ProcessorError(where, "[height, width] or null", describe(value))
    return value[0], value[1]


def letter_box(frames: Frames) -> Frames:
    """Black bars to a square, the odd row or column of them at the bottom or right."""
    height, width = frames.shape[1:3]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return np.pad(frames, ((0, 0), (top, side - height - top), (left, side - width - left), (0, 0)))


def as_one(frames: Sequence[Frames]) -> Frames:
    """Frames [H, W, 3] -> [N, H, W, 3]; a single one is not copied."""
    return frames[0].reshape(1, *frames[0].shape) if len(frames) == 1 else np.stack(frames)


def as_tensor(frames: Frames) -> torch.Tensor:
    """uint8 [N, H, W, 3] as a tensor on the same memory where that can be.

    Its strides are those of its shape: numpy's `frame[None]` has others, from which torch does not see that the
    channels come last, and resizes four times as slowly.
    """
    return torch.from_numpy(np.require(frames, requirements=["C", "W"]).reshape(-1)).view(frames.shape)


def scale_shorter_side(frame: Frames, edge: int) -> Frames:
    """One frame [H, W, 3] with its shorter side at `edge` pixels, averaged over areas."""
    return _scale_by_area(frame, _scaled_size(frame.shape[0], frame.shape[1], edge))


def scale_letter_boxed(frame: Frames, edge: int) -> Frames:
    """One frame [H, W, 3] -> [edge, edge, 3]: letter box and scaling; where it is the same, the bars come last."""
    height, width = frame.shape[:2]
    inner = _without_bars(height, width, edge)
    if inner is None:
        return scale_shorter_side(letter_box(frame[None])[0], edge)
    return letter_box(_scale_by_area(frame, inner)[None])[0]


def _scaled_size(height: int, width: int, edge: int) -> Size:
    scale = edge / min(height, width)
    return round(height * scale), round(width * scale)


@lru_cache(maxsize=64)
def _without_bars(height: int, width: int, edge: int) -> Size | None:
    """(height, width) of the picture within its scaled letter box, where every pixel comes out as if bars were there.

    That is so where bars end between pixels of the result, and OpenCV's scale (1 / (new / old)) is exact, so that
    shifting by a whole number of pixels does not change a weight.
    """
    side = max(height, width)
    scale = 1 / (edge / side)
    bar = (side - min(height, width)) // 2
    if scale < 1 or Fraction(scale) != Fraction(side, edge) or any(v % scale for v in (bar, height, width)):
        return None
    inner = round(height / scale), round(width / scale)
    return inner if min(inner) > 0 and all(1 / (n / o) == scale for n, o in zip(inner, (height, width))) else None


def _scale_by_area(frame: Frames, size: Size) -> Frames:
    """[H, W, 3] -> [height, width, 3] by cv2's INTER_AREA."""
    height, width = size
    if frame.shape[:2] == size:
        return frame
    if height <= frame.shape[0] and width <= frame.shape[1] and (frame.shape[0] % height or frame.shape[1] % width):
        # Not whole pixels: OpenCV sums in float32 whatever it is given, and takes floats faster than bytes.
        scaled = cv2.resize(_as_floats(frame), (width, height), interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.convertScaleAbs(scaled), dtype=np.uint8)
    return np.asarray(cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _as_floats(frame: Frames) -> NDArray[np.float32]:
    """The frame in memory of this thread, until the next call: new memory of that size costs more than the resizing."""
    memory: NDArray[np.float32] | None = getattr(_kept, "memory", None)
    if memory is None or memory.size < frame.size:
        memory = _kept.memory = np.empty(frame.size, dtype=np.float32)
    floats = memory[: frame.size].reshape(frame.shape)
    np.copyto(floats, frame)
    return floats


def crop_part(frame: Frames, fraction: float, draw: Draw | None = None) -> Frames:
    """The middle of one frame [H, W, 3], or the part drawn; sizes and corner rounded down, as albumentations does."""
    height, width = frame.shape[:2]
    rows, columns = int(height * fraction), int(width * fraction)
    top, left = (height - rows) // 2, (width - columns) // 2
    if draw is not None:
        top, left = corner((height, width), (rows, columns), draw)
    return frame[top : top + rows, left : left + columns]


def resize_antialiased(images: torch.Tensor, size: Size, mode: str) -> torch.Tensor:
    """Antialiased resize of uint8 [N, H, W, 3] to (height, width), in integers as torchvision v2 does."""
    if tuple(images.shape[1:3]) == size:
        return images
    planes = images.permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(planes, size=size, mode=mode, align_corners=False, antialias=True)
    return resized.permute(0, 2, 3, 1)


@dataclass(frozen=True)
class FloatTransform:
    """N1.5's transform: crop (of the centre, or as drawn), then a square by antialiased bilinear filtering, in float32.

    Attributes:
        size: edge of the square in pixels.
        crop_fraction: share of each side that the crop keeps.
    """

    size: int
    crop_fraction: float
    in_threads: ClassVar[bool] = False

    def __call__(self, frames: Frames, draw: Draw | None = None) -> Frames:
        """uint8 [N, H, W, 3] -> uint8 [N, size, size, 3]; the last step cuts off fractions, it does not round.

        Args:
            draw: as in training.

        Raises:
            ProcessorError: nothing is left by the crop.
        """
        height, width = frames.shape[1:3]
        rows, columns = self.cropped(height, width)
        size, part = (height, width), (rows, columns)
        top, left = middle_corner(size, part) if draw is None else corner(size, part, draw)
        planes = np.empty((len(frames), 3, rows, columns), dtype=np.uint8)  # torch resizes planes fastest
        for frame, target in zip(frames, planes, strict=True):
            cv2.split(frame[top : top + rows, left : left + columns], list(target))
        resized = torch.nn.functional.interpolate(
            torch.from_numpy(planes).to(torch.float32).div_(255),
            size=(self.size, self.size),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        if draw is not None:  # means of colours depend on the order in memory in their last digits
            resized = augment_planes(resized.contiguous(memory_format=torch.channels_last), draw)
        return resized.mul(255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()

    def size_of(self, height: int, width: int) -> Size:
        """(height, width) of the result for frames of this size.

        Raises:
            ProcessorError: nothing is left by the crop.
        """
        self.cropped(height, width)
        return self.size, self.size

    def cropped(self, height: int, width: int) -> Size:
        """(rows, columns) that the crop keeps.

        Raises:
            ProcessorError: nothing is left.
        """
        rows, columns = int(height * self.crop_fraction), int(width * self.crop_fraction)
        if rows < 1 or columns < 1:
            raise ProcessorError(
                "video", f"frames of which {self.crop_fraction} is a pixel", f"{height}x{width} pixels"
            )
        return rows, columns
