"""What training changes in a sample's pictures: where the crop lies, a turn, colours. One draw holds for all of them.

The maths is that of the libraries that NVIDIA trains with: albumentations 1.4.18 on bytes (released N1.6 and N1.7),
torchvision on bytes (N1.6 and N1.7 with use_albumentations false) and on floats (N1.5). Against them:

* The numbers come from this package's generator, so a seed gives other draws than NVIDIA's code, from the same
  distributions: a crop's corner evenly over all pixels where it fits, the angle evenly over +-random_rotation_angle, a
  factor evenly over its range, the four colour steps in random order.
* albumentations: byte for byte, with NumPy 1.26 as NVIDIA has it. torchvision: hue goes through other, equal formulas,
  so that a float differs in its last digits and a byte, once in 100000, by 1 or 2 after all steps. Floats that are
  turned differ along the rim, which torchvision darkens twice; none of N1.5's configurations turns its pictures.
* NVIDIA's torchvision path of N1.6 and N1.7 draws anew for every frame and view. Here one draw holds for the sample, as
  on the other paths: cameras that are turned apart would contradict each other.
* `extra_augmentation_config` (noise and tint behind masks) needs masks, which datasets of a robot do not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from groot_ros.processing.errors import ProcessorError, describe, listing

Frame = NDArray[np.uint8]
Range = tuple[float, float]
STEPS = ("brightness", "contrast", "saturation", "hue")
_NEUTRAL = (1.0, 1.0, 1.0, 0.0)
_GRAY = (0.2989, 0.587, 0.114)  # torchvision's weights of red, green, blue


@dataclass(frozen=True)
class Draw:
    """What was drawn for one sample.

    Attributes:
        crop: (down, right), each in [0, 1): where the crop lies in the room that there is for it.
        angle: degrees, counter-clockwise; None: no turn.
        factors: of STEPS; None: colours stay.
        order: indices into STEPS, in the order of application.
    """

    crop: tuple[float, float]
    angle: float | None = None
    factors: tuple[float, ...] | None = None
    order: tuple[int, ...] = tuple(range(len(STEPS)))


@dataclass(frozen=True)
class Augmentation:
    """How far a draw may go.

    Attributes:
        rotation: largest angle in degrees; 0: none.
        colours: (least, most) factor of each of STEPS, hue as a share of the colour circle; None: colours stay.
    """

    rotation: float = 0.0
    colours: tuple[Range, ...] | None = None

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any], where: str) -> Augmentation:
        """Reads random_rotation_angle and color_jitter_params of `processor_kwargs`; absent or null: none.

        A colour is [least, most], or a number x >= 0: factors in [max(0, 1 - x), 1 + x], hues in [-x, x].

        Raises:
            ProcessorError: names file and key of what is no angle, no colour, or out of range.
        """
        angle = kwargs.get("random_rotation_angle")
        if angle is not None and (not _is_number(angle) or not 0 <= angle <= 180):
            raise ProcessorError(f"{where}.random_rotation_angle", "degrees in [0, 180] or null", describe(angle))
        found = kwargs.get("color_jitter_params")
        if found is None:
            return cls(float(angle or 0))
        place = f"{where}.color_jitter_params"
        if not isinstance(found, Mapping) or set(found) - set(STEPS):
            raise ProcessorError(place, f"an object with members among {listing(STEPS)}, or null", describe(found))
        ranges = [_range(name, found.get(name, 0.0), f"{place}.{name}") for name in STEPS]
        return cls(float(angle or 0), tuple(ranges))

    def draw(self, rng: np.random.Generator) -> Draw:
        """One draw. It always takes equally many numbers from `rng`, whatever the settings."""
        down, right, turn, *shares = rng.random(3 + len(STEPS))
        order = tuple(int(step) for step in rng.permutation(len(STEPS)))
        angle = self.rotation * (2 * turn - 1) if self.rotation else None
        factors = None
        if self.colours is not None:
            factors = tuple(
                float(low + share * (high - low)) for (low, high), share in zip(self.colours, shares, strict=True)
            )
        return Draw((float(down), float(right)), angle, factors, order)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _range(name: str, value: Any, where: str) -> Range:
    """(least, most) of one colour."""
    lowest, highest, neutral = (-0.5, 0.5, 0.0) if name == "hue" else (0.0, float("inf"), 1.0)
    if _is_number(value) and value >= 0:
        ends = max(lowest, neutral - value) if name != "hue" else -value, neutral + value
    elif isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_number, value)):
        ends = value[0], value[1]
    else:
        ends = (1.0, 0.0)
    if not lowest <= ends[0] <= ends[1] <= highest or ends[1] == float("inf"):
        limits = "between -0.5 and 0.5" if name == "hue" else ">= 0"
        raise ProcessorError(where, f"a number >= 0 or [least, most], {limits}", describe(value))
    return float(ends[0]), float(ends[1])


def corner(size: tuple[int, int], cropped: tuple[int, int], draw: Draw) -> tuple[int, int]:
    """Upper left pixel (row, column) of a crop of `cropped` (height, width) within `size`: any that fits, evenly."""
    down, right = (int(share * (full - part + 1)) for share, full, part in zip(draw.crop, size, cropped, strict=True))
    return down, right


def augment_frame(frame: Frame, draw: Draw) -> Frame:
    """Turn and colours of one frame [H, W, 3] as albumentations does; the rim of a turned frame is mirrored."""
    if draw.angle is not None:
        height, width = frame.shape[:2]
        turn = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), draw.angle, 1.0)
        turned = cv2.warpAffine(frame, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        frame = np.asarray(turned, dtype=np.uint8)
    if draw.factors is not None:
        for step in draw.order:
            if draw.factors[step] != _NEUTRAL[step]:
                frame = _FRAME_STEPS[step](frame, draw.factors[step])
    return frame


def _table(factor: float, add: float = 0.0) -> Frame:
    """Byte -> byte * factor + add, limited, fractions cut off."""
    values = np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(add)
    return np.clip(values, 0, 255).astype(np.uint8)


def _brighten(frame: Frame, factor: float) -> Frame:
    return np.asarray(cv2.LUT(frame, _table(factor)), dtype=np.uint8)


def _contrast(frame: Frame, factor: float) -> Frame:
    mean = float(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).mean())
    if factor == 0:
        return np.full_like(frame, int(mean + 0.5))
    return np.asarray(cv2.LUT(frame, _table(factor, mean * (1 - factor))), dtype=np.uint8)


def _saturate(frame: Frame, factor: float) -> Frame:
    gray = cv2.cvtColor(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return np.asarray(cv2.addWeighted(frame, factor, gray, 1 - factor, 0), dtype=np.uint8)


def _turn_hue(frame: Frame, factor: float) -> Frame:
    hsv = cv2.cvtColor(frame, cv2.COLOR_RGB2HSV)  # a byte of hue is two degrees
    turned = np.mod(np.arange(256) + 180 * factor, 180).astype(np.uint8)
    hsv[..., 0] = turned[hsv[..., 0]]
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), dtype=np.uint8)


_FRAME_STEPS = (_brighten, _contrast, _saturate, _turn_hue)


def augment_planes(planes: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Turn and colours as torchvision does, of [N, 3, H, W]: uint8, or float32 in [0, 1]; black around a turned one."""
    if draw.angle is not None:
        planes = _turn(planes, draw.angle)
    if draw.factors is not None:
        for step in draw.order:
            if draw.factors[step] != _NEUTRAL[step]:
                planes = _PLANE_STEPS[step](planes, draw.factors[step])
    return planes


def _turn(planes: torch.Tensor, angle: float) -> torch.Tensor:
    height, width = planes.shape[-2:]
    down = torch.arange(height, dtype=torch.float32)[:, None] - (height - 1) / 2
    right = torch.arange(width, dtype=torch.float32)[None] - (width - 1) / 2
    cosine, sine = float(np.cos(np.radians(angle))), float(np.sin(np.radians(angle)))
    # Where each pixel comes from, in halves of the picture's sides.
    grid = torch.stack(
        [(right * cosine - down * sine) / (width / 2), (right * sine + down * cosine) / (height / 2)], dim=-1
    )
    mode = "bilinear" if planes.is_floating_point() else "nearest"
    turned = torch.nn.functional.grid_sample(
        planes.to(torch.float32), grid.expand(len(planes), -1, -1, -1), mode=mode, align_corners=False
    )
    return turned.to(planes.dtype)


def _blend(planes: torch.Tensor, other: torch.Tensor | float, factor: float) -> torch.Tensor:
    """planes * factor + other * (1 - factor), limited; fractions of bytes are cut off."""
    mixed = torch.add(planes.mul(factor), other, alpha=1 - factor)
    return mixed.clamp_(0, 1 if planes.is_floating_point() else 255).to(planes.dtype)


def _gray(planes: torch.Tensor) -> torch.Tensor:
    """[N, 1, H, W] float32; of bytes whole numbers."""
    red, green, blue = planes.to(torch.float32).unbind(dim=-3)
    # With torchvision's order of operations: a byte of gray is cut off, so the last digit of the sum can count.
    gray = (red * _GRAY[0]).add_(green, alpha=_GRAY[1]).add_(blue, alpha=_GRAY[2]).unsqueeze(-3)
    return gray if planes.is_floating_point() else gray.floor()


def _brighten_planes(planes: torch.Tensor, factor: float) -> torch.Tensor:
    return _blend(planes, 0.0, factor)


def _contrast_planes(planes: torch.Tensor, factor: float) -> torch.Tensor:
    return _blend(planes, _gray(planes).mean(dim=(-3, -2, -1), keepdim=True), factor)


def _saturate_planes(planes: torch.Tensor, factor: float) -> torch.Tensor:
    return _blend(planes, _gray(planes), factor)


def _turn_hue_planes(planes: torch.Tensor, factor: float) -> torch.Tensor:
    unit = planes if planes.is_floating_point() else planes.to(torch.float32) / 255
    red, green, blue = unit.unbind(dim=-3)
    value, least = unit.amax(dim=-3), unit.amin(dim=-3)
    span = value - least
    safe = torch.where(span > 0, span, torch.ones_like(span))
    # Hue in sixths of the circle: 0 red, 2 green, 4 blue.
    sixths = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sixths = (sixths / 6 + factor).remainder(1.0) * 6
    channels = []
    for offset in (5, 3, 1):
        distance = (sixths + offset).remainder(6.0)
        ramp = torch.minimum(distance, 4 - distance).clamp(0, 1)
        channels.append(value - span * ramp)
    turned = torch.stack(channels, dim=-3)
    return turned if planes.is_floating_point() else (turned * (256 - 1e-3)).to(torch.uint8)


_PLANE_STEPS = (_brighten_planes, _contrast_planes, _saturate_planes, _turn_hue_planes)
