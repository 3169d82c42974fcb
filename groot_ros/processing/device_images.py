"""Raw camera frames -> pixel_values on the device that they are on: what a checkpoint's transform and patches do.

Off by default: `Processor.encode` works on the CPU. With its argument `raw` it fills host memory (best: pinned) with
the frames and leaves pixel_values to `DeviceImages`. For frames of one size that is one torch module without a wait for
the host: it can stand at the head of a CUDA graph, behind one copy of the raw bytes.

Against `Processor.encode` of the same observation, measured on a CPU (x86 with AVX2, torch 2.13, OpenCV 4.14, Pillow
13.0), with noise, smooth and flat pictures, all three generations, 480x640, 256x256, 240x320, 360x640, 720x1280 and
odd sizes: no value of pixel_values differs. On a GPU it is not measured. There the arithmetic is the same as long as
torch runs it operation by operation; torch.compile may fuse a product and a sum, which can change a byte by 1 where a
sum of areas lies on a half. Where OpenCV or torch take other code (ARM), the CPU's own results can differ so, too.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from groot_ros.processing.images import FloatTransform, ImageTransform, middle_corner
from groot_ros.processing.patches import EagleLayout, Layout, PatchLayout
from groot_ros.processing.resampling import PIL_BITS, Antialiased, FloatAntialiased, Size, by_area
from groot_ros.processing.vision import ImageEncoder


class DeviceImages(nn.Module):
    """Transform and patches of one checkpoint for frames of one size.

    Attributes:
        size: (height, width) of the frames.
        grid: (1, rows, columns) of the patches of every frame.
    """

    def __init__(self, images: ImageEncoder, size: Size, dtype: torch.dtype = torch.float32) -> None:
        """Computes all weights, on the CPU; `to(device)` takes them there.

        Args:
            images: of a processor (`Processor.images`).
            size: (height, width) of all views.
            dtype: of the result, rounded last.

        Raises:
            ProcessorError: a size that the checkpoint cannot have.
        """
        super().__init__()
        transform, layout = images.transform, images.layout
        if not isinstance(transform, (ImageTransform, FloatTransform)):
            raise TypeError(f"no device path for {type(transform).__name__}")
        self.size, self._dtype = size, dtype
        shape = transform.size_of(*size)
        self.grid = layout.grid(*shape)
        steps = _float_steps(transform, size) if isinstance(transform, FloatTransform) else _byte_steps(transform, size)
        self.steps = nn.Sequential(*steps, *_resize_of(layout, shape))
        self._cut = _Cut(layout, self.grid)

    @torch.no_grad()
    def forward(self, frames: Tensor) -> Tensor:
        """uint8 [N, H, W, 3] -> [N * rows * columns, width]: `pixel_values` of `Processor.encode`, for its frames in
        its order: t0 view0, t0 view1, t1 view0, ...

        Raises:
            ValueError: another shape or type.
        """
        if frames.dtype != torch.uint8 or frames.ndim != 4 or tuple(frames.shape[1:]) != (*self.size, 3):
            height, width = self.size
            found = f"{frames.dtype} {list(frames.shape)}"
            raise ValueError(f"frames: expected torch.uint8 [N, {height}, {width}, 3], found {found}")
        values = self.steps(frames.permute(0, 3, 1, 2)).to(torch.float32)
        scaled = values.sub(127.5).div(127.5).to(self._dtype)
        return cast(Tensor, self._cut(scaled))


class _Window(nn.Module):
    """A part of [..., H, W]; beyond the edges there is black."""

    def __init__(self, top: int, left: int, rows: int, columns: int) -> None:
        super().__init__()
        self._part = top, left, rows, columns

    def forward(self, values: Tensor) -> Tensor:
        top, left, rows, columns = self._part
        height, width = values.shape[-2:]
        below, right = rows + top - height, columns + left - width
        if max(-top, -left, below, right) <= 0:
            return values[..., top : top + rows, left : left + columns]
        return nn.functional.pad(values, (-left, right, -top, below))


class _Unit(nn.Module):
    """Bytes -> [0, 1] in float32, or back, with fractions cut off."""

    def __init__(self, back: bool = False) -> None:
        super().__init__()
        self._back = back

    def forward(self, values: Tensor) -> Tensor:
        return values.mul(255).to(torch.uint8) if self._back else values.to(torch.float32).div(255)


def _float_steps(transform: FloatTransform, size: Size) -> list[nn.Module]:
    cropped = transform.cropped(*size)
    crop = _Window(*middle_corner(size, cropped), *cropped)
    return [crop, _Unit(), FloatAntialiased(cropped, (transform.size, transform.size)), _Unit(back=True)]


def _byte_steps(transform: ImageTransform, size: Size) -> list[nn.Module]:
    steps: list[nn.Module] = []
    if transform.letter_box:
        side = max(size)
        steps.append(_Window(-((side - size[0]) // 2), -((side - size[1]) // 2), side, side))
        size = side, side
    scaled, corner, cropped = transform.plan(*size)
    window = _Window(*corner, *cropped)
    if transform.use_albumentations:
        return [*steps, by_area(size, scaled), window, by_area(cropped, transform.size_of(*size))]
    first, last = Antialiased(size, scaled, "bilinear", None), Antialiased(cropped, scaled, "bilinear", None)
    return [*steps, first, window, last]


def _resize_of(layout: Layout, size: Size) -> list[nn.Module]:
    """The resizing that belongs to the patches."""
    if isinstance(layout, PatchLayout):
        return [Antialiased(size, layout.target_size(*size), "bicubic", None)]
    if isinstance(layout, EagleLayout):
        return [Antialiased(size, layout.target_size(*size), "bicubic", PIL_BITS)]
    return []


class _Cut(nn.Module):
    """[N, 3, H, W] -> [N * rows * columns, width], in the order of the layout."""

    def __init__(self, layout: Layout, grid: tuple[int, int, int]) -> None:
        super().__init__()
        _, rows, columns = grid
        self._width = layout.width
        self._slots = layout.temporal_patch_size if isinstance(layout, PatchLayout) else 1
        merge = layout.merge_size if isinstance(layout, PatchLayout) else 1
        self._merge, self._blocks = merge, (rows // merge, columns // merge)
        self._channels_last = isinstance(layout, EagleLayout)

    def forward(self, planes: Tensor) -> Tensor:
        (rows, columns), merge = self._blocks, self._merge
        count, _, height, width = planes.shape
        y, x = height // (rows * merge), width // (columns * merge)
        blocks = planes.reshape(count, 3, rows, merge, y, columns, merge, x)
        if self._channels_last:
            return blocks.permute(0, 2, 5, 3, 6, 4, 7, 1).reshape(-1, self._width)
        cut = blocks.permute(0, 2, 5, 3, 6, 1, 4, 7)[..., None, :, :]
        return cut.expand(*cut.shape[:-3], self._slots, y, x).reshape(-1, self._width)
