"""Between ROS units and the units of the training data: one affine map per dimension, and its inverse."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from groot_ros.embodiment.schema import ActionKey, Embodiment, StateKey
from groot_ros.embodiment.vocabulary import SPAN_UNITS

# Factor from ROS units; shares of a range come from the joint's limits or the field's bounds instead.
_FACTOR = {"deg": 180.0 / np.pi, "mm": 1000.0}


@dataclass(frozen=True)
class UnitMap:
    """``model = scale * ros + shift`` per dimension; both are float64 [D], no scale is 0."""

    scale: NDArray[np.float64]
    shift: NDArray[np.float64]

    def to_model(self, values: ArrayLike) -> NDArray[np.float64]:
        """[..., D] in ROS units -> [..., D] in model units, float64."""
        return self._checked(values) * self.scale + self.shift

    def to_ros(self, values: ArrayLike) -> NDArray[np.float64]:
        """[..., D] in model units -> [..., D] in ROS units, float64."""
        return (self._checked(values) - self.shift) / self.scale

    def _checked(self, values: ArrayLike) -> NDArray[np.float64]:
        array = np.asarray(values, dtype=np.float64)
        if array.ndim == 0 or array.shape[-1] != self.scale.size:
            raise ValueError(f"expected [..., {self.scale.size}] values, found shape {list(array.shape)}")
        return array


def unit_map(embodiment: Embodiment, key: StateKey | ActionKey) -> UnitMap:
    """The map of one entry of ``embodiment.state`` or ``embodiment.action``."""
    names = key.names
    if isinstance(key, StateKey) and key.constant is not None:  # in model units as it stands
        return UnitMap(np.ones(len(names)), np.zeros(len(names)))
    sign = np.array(key.sign if key.sign is not None else [1] * len(names), dtype=np.float64)
    if key.unit in SPAN_UNITS:
        lower, upper = ros_range(embodiment, key)
        low, high = SPAN_UNITS[key.unit]
        scale = sign * (high - low) / (upper - lower)  # sign -1 swaps the ends of the scale
        return UnitMap(scale, (low + high) / 2.0 - scale * (lower + upper) / 2.0)
    offset = np.array(key.offset if key.offset is not None else [0.0] * len(names), dtype=np.float64)
    factor = _FACTOR.get(key.unit, 1.0)
    return UnitMap(factor * sign, factor * offset)


def ros_range(embodiment: Embodiment, key: StateKey | ActionKey) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lowest and highest position [D] of a key in ROS units: the limits of its joints, or the bounds of its fields.

    Raises: KeyError when it has neither.
    """
    if isinstance(key, ActionKey) and key.bounds is not None:
        return np.array(key.bounds.lower), np.array(key.bounds.upper)
    limits = [embodiment.limits[joint] for joint in key.names]
    return np.array([limit.lower for limit in limits]), np.array([limit.upper for limit in limits])


def to_model(embodiment: Embodiment, key: StateKey | ActionKey, values: ArrayLike) -> NDArray[np.float64]:
    """Values of a state or action key, ROS units [..., D] -> model units [..., D].

    Raises: ValueError when the last axis is not the key's number of joints or fields.
    """
    return unit_map(embodiment, key).to_model(values)


def to_ros(embodiment: Embodiment, key: StateKey | ActionKey, values: ArrayLike) -> NDArray[np.float64]:
    """Inverse of ``to_model``: model units [..., D] -> ROS units [..., D]."""
    return unit_map(embodiment, key).to_ros(values)
