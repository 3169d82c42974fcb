"""N1.5's normalisation modes and rotation conversions (spec/groot_n15_n16.md section 4.7).

The reference rounds the statistics to the dtype of the value and computes in it; so does this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from groot_ros.processing.codecs import Codec, SinCos
from groot_ros.processing.errors import ProcessorError, describe, listing
from groot_ros.processing.normalization import Array, Floats, statistic
from groot_ros.processing.pose import (
    euler_from_matrix,
    matrix_from_euler,
    matrix_from_quat,
    matrix_from_rot6d,
    matrix_from_rotvec,
    quat_from_matrix,
    rot6d_from_matrix,
    rotvec_from_matrix,
)

# Mode -> the two statistics it reads. `none` leaves the numbers as they are: a key that NVIDIA's data configs do not
# list has no mode and is not normalised.
MODES: dict[str, tuple[str, str] | None] = {
    "min_max": ("min", "max"),
    "q99": ("q01", "q99"),
    "mean_std": ("mean", "std"),
    "scale": ("min", "max"),
    "binary": None,
    "sin_cos": None,
    "none": None,
}
DEFAULT_MODE = "min_max"


@dataclass(frozen=True)
class Mode:
    """One normalisation mode with its two statistics, [D] each (empty where it reads none).

    * min_max: to [-1, 1], never limited, either way; equal ends give 0.
    * q99: the same with the 1st and 99th percentile, limited to [-1, 1] on the way in; equal ends let the value pass
      (and be limited).
    * mean_std: (x - mean) / std; a std of 0 lets the value pass, but back it gives the mean.
    * scale: x / max(|min|, |max|), 0 where that is 0. It has no way back.
    * binary: 1 where x > 0.5, else 0, both ways.
    * none: as it is.
    """

    name: str
    first: Array
    second: Array
    width: int
    neutral: ClassVar[tuple[float, ...] | None] = None

    @property
    def invertible(self) -> bool:
        return self.name != "scale"

    def encode(self, value: Floats, *, limit: bool = True) -> Floats:
        """Physical -> normalised, same shape and dtype; without `limit`, q99 does not limit either."""
        first, second = self._statistics(value)
        zero, one = value.dtype.type(0), value.dtype.type(1)
        if self.name == "none":
            return value
        if self.name == "binary":
            return (value > 0.5).astype(value.dtype)
        if self.name == "mean_std":
            return np.where(second != 0, (value - first) / np.where(second != 0, second, one), value)
        if self.name == "scale":
            largest = np.maximum(np.abs(first), np.abs(second))
            return np.where(largest != 0, value / np.where(largest != 0, largest, one), zero)
        differ = first != second
        unit = 2 * ((value - first) / np.where(differ, second - first, one)) - 1
        if self.name == "q99":
            passed = np.where(differ, unit, value)
            return np.clip(passed, -1, 1) if limit else passed
        return np.where(differ, unit, zero)

    def decode(self, value: Floats) -> Floats:
        """Normalised -> physical, same shape and dtype."""
        first, second = self._statistics(value)
        if self.name == "none":
            return value
        if self.name == "binary":
            return (value > 0.5).astype(value.dtype)
        if self.name == "mean_std":
            return value * second + first
        if self.name == "scale":
            raise TypeError("mode scale has no way back: it is for states only")
        return (value + 1) / 2 * (second - first) + first

    def _statistics(self, value: Floats) -> tuple[Floats, Floats]:
        return self.first.astype(value.dtype), self.second.astype(value.dtype)


@dataclass(frozen=True)
class Rotation:
    """One way to write a rotation, by pytorch3d's conventions.

    Attributes:
        width: numbers.
        bound: largest absolute value of a number; the fixed range of a converted rotation.
        identity: no rotation.
    """

    width: int
    bound: float
    identity: tuple[float, ...]


ROTATIONS: dict[str, Rotation] = {
    "rotation_6d": Rotation(6, 1.0, (1, 0, 0, 0, 1, 0)),
    "quaternion": Rotation(4, 1.0, (1, 0, 0, 0)),
    "euler_angles_rpy": Rotation(3, np.pi, (0, 0, 0)),
    "axis_angle": Rotation(3, np.pi, (0, 0, 0)),
}


def to_matrix(value: Floats, kind: str) -> Floats:
    """[..., D] -> [..., 3, 3]: quaternions are (w, x, y, z), rotation_6d the first two rows, euler angles about the
    moving axes X, Y, Z. A quaternion of zeros or parallel rows give NaN."""
    if kind == "quaternion":
        with np.errstate(invalid="ignore", divide="ignore"):
            return matrix_from_quat(value)
    if kind == "rotation_6d":
        return matrix_from_rot6d(value)
    return matrix_from_euler(value, "XYZ") if kind == "euler_angles_rpy" else matrix_from_rotvec(value)


def from_matrix(matrix: Floats, kind: str) -> Floats:
    """[..., 3, 3] -> [..., D], the inverse of `to_matrix`; quaternions with w >= 0."""
    if kind == "quaternion":
        quat = quat_from_matrix(matrix)
        return np.where(quat[..., :1] < 0, -quat, quat)
    if kind == "rotation_6d":
        return rot6d_from_matrix(matrix)
    return euler_from_matrix(matrix, "XYZ") if kind == "euler_angles_rpy" else rotvec_from_matrix(matrix)


@dataclass(frozen=True)
class Turned:
    """A rotation written in another way for the model, and then scaled by its fixed range."""

    source: str
    target: str
    scale: Mode
    invertible: ClassVar[bool] = True

    @property
    def width(self) -> int:
        return ROTATIONS[self.target].width

    @property
    def neutral(self) -> tuple[float, ...] | None:
        return ROTATIONS[self.source].identity

    def encode(self, value: Floats, *, limit: bool = True) -> Floats:
        turned = from_matrix(to_matrix(value, self.source), self.target)
        return self.scale.encode(turned.astype(value.dtype), limit=limit)

    def decode(self, value: Floats) -> Floats:
        return from_matrix(to_matrix(self.scale.decode(value), self.target), self.source).astype(value.dtype)


def mode_codec(mode: str, group: Any, where: str, width: int) -> Codec:
    """The codec of one key from the statistics of its group.

    Raises:
        ProcessorError: a statistic that the mode reads is missing or malformed.
    """
    if mode == "sin_cos":
        return SinCos(width)
    names = MODES[mode]
    first, second = (statistic(group, name, where) for name in names) if names else (np.zeros(0), np.zeros(0))
    return Mode(mode, first, second, width)


def rotation_codec(source: str, target: str, mode: str) -> Turned:
    """The codec of a converted rotation: `min_max` with the fixed range of the target, or `none`."""
    kind = ROTATIONS[target]
    ends = np.full(kind.width, kind.bound)
    return Turned(source, target, Mode(mode, -ends, ends, kind.width))


def key_options(extra: Mapping[str, Any], name: str, keys: tuple[str, ...], allowed: Any, where: str) -> dict[str, str]:
    """`normalization_modes` or `target_rotations` of one modality: key -> one of `allowed`; null is left out.

    Raises:
        ProcessorError: not an object, a key that the modality does not have, or an unknown value.
    """
    found = extra.get(name) or {}
    if not isinstance(found, Mapping):
        raise ProcessorError(f"{where}.{name}", "an object with one entry per key", describe(found))
    for key, value in found.items():
        if key not in keys:
            raise ProcessorError(f"{where}.{name}", f"keys among {listing(keys)}", f"'{key}'")
        if value is not None and value not in allowed:
            raise ProcessorError(f"{where}.{name}.{key}", f"one of {listing(allowed)}", describe(value))
    return {key: value for key, value in found.items() if value is not None}
