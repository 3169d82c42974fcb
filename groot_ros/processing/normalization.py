"""Normalisation of one state or action group, by the rules of NVIDIA's N1.6 and N1.7 processors
(spec/groot_n17.md section 4.2, spec/groot_n15_n16.md section 4.3). N1.5's are in `groot_ros.processing.modes`.

Statistics arrays are [D], or [H, D] for relative action groups (one row per chunk step); values are [..., T, D].
The rounding follows the reference: statistics in float64, the quotient rounded to the dtype of the input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groot_ros.processing.errors import ProcessorError, describe, listing

Floats = NDArray[np.floating[Any]]
Array = NDArray[np.float64]

STATISTICS = ("min", "max", "mean", "std", "q01", "q99")


@dataclass(frozen=True)
class Bounds:
    """Maps [low, high] to [-1, 1]. Dimensions with equal ends (np.isclose) go to 0 and come back as low."""

    low: Array
    high: Array

    def normalize(self, value: Floats, clip: bool) -> Floats:
        """[..., T, D] -> the same shape and dtype; limited to [-1, 1] if `clip`."""
        flat, width = self._flat_and_width
        unit = ((value - self.low) / width).astype(value.dtype)
        result = np.where(flat, np.zeros_like(unit), 2 * unit - 1)
        return np.clip(result, -1, 1) if clip else result

    @cached_property
    def _flat_and_width(self) -> tuple[NDArray[np.bool_], Array]:
        """Which dimensions have equal ends, and what to divide by (1 there)."""
        flat = np.isclose(self.high, self.low)
        return flat, np.where(flat, 1.0, self.high - self.low)

    def unnormalize(self, value: Floats) -> Array:
        """[..., T, D] -> float64 physical values. Input outside [-1, 1] is limited first, always."""
        return (np.clip(value, -1, 1) + 1) / 2 * (self.high - self.low) + self.low


@dataclass(frozen=True)
class Moments:
    """(x - mean) / std. Dimensions with std 0 pass through unchanged, both ways."""

    mean: Array
    std: Array

    def normalize(self, value: Floats, clip: bool) -> Floats:
        """[..., T, D] -> the same shape and dtype; limited to [-1, 1] if `clip`, as actions are."""
        still = self.std == 0
        scaled = ((value - self.mean) / np.where(still, 1.0, self.std)).astype(value.dtype)
        result = np.where(still, value, scaled)
        return np.clip(result, -1, 1) if clip else result

    def unnormalize(self, value: Floats) -> Floats:
        """[..., T, D] -> physical values in the input's dtype; never limited."""
        still = self.std == 0
        return np.where(still, value, (value * self.std + self.mean).astype(value.dtype))


Normalizer = Bounds | Moments


def statistic(group: Any, name: str, where: str) -> Array:
    """Reads one array of a statistics.json group.

    Args:
        group: `{min, max, mean, std, q01, q99}` of one group.
        name: which of them.
        where: file and key of `group`, for errors.

    Returns:
        float64 [D] or [H, D].

    Raises:
        ProcessorError: the entry is missing, ragged, not numbers, or not finite.
    """
    if not isinstance(group, Mapping):
        raise ProcessorError(where, "an object with " + ", ".join(STATISTICS), describe(group))
    if name not in group:
        raise ProcessorError(where, f"the key '{name}'", f"keys {listing(group)}")
    try:
        array = np.asarray(group[name], dtype=np.float64)
    except (TypeError, ValueError):
        raise ProcessorError(f"{where}.{name}", "a rectangular list of numbers", describe(group[name])) from None
    if array.ndim not in (1, 2) or array.size == 0:
        raise ProcessorError(f"{where}.{name}", "a list [D] or [H][D]", f"shape {array.shape}")
    if not np.isfinite(array).all():
        raise ProcessorError(f"{where}.{name}", "finite numbers", "NaN or infinity", "Compute the statistics again.")
    return array


def _pair(group: Any, names: tuple[str, str], where: str) -> tuple[Array, Array]:
    first, second = (statistic(group, name, where) for name in names)
    if first.shape != second.shape:
        raise ProcessorError(where, f"'{names[0]}' and '{names[1]}' of one shape", f"{first.shape} and {second.shape}")
    return first, second


def bounds_from(group: Any, use_percentiles: bool, where: str) -> Bounds:
    """`Bounds` from q01/q99 or from min/max of one statistics group."""
    names = ("q01", "q99") if use_percentiles else ("min", "max")
    low, high = _pair(group, names, where)
    if (low > high).any():
        place = tuple(int(i) for i in np.argwhere(low > high)[0])
        raise ProcessorError(
            where,
            f"'{names[0]}' not above '{names[1]}'",
            f"{low[place]} above {high[place]} at index {list(place)}",
            "Compute the statistics again.",
        )
    return Bounds(low, high)


def moments_from(group: Any, where: str) -> Moments:
    """`Moments` from mean/std of one statistics group."""
    return Moments(*_pair(group, ("mean", "std"), where))
