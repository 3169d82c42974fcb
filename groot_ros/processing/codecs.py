"""One state or action group, from physical numbers to the model's and back: the common form of all generations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from groot_ros.processing.normalization import Floats, Normalizer


class Codec(Protocol):
    """Both directions of one group, over any leading axes.

    Attributes:
        width: numbers per step as the model has them.
        invertible: whether `decode` can be called.
        neutral: physical numbers [D] that `encode` takes when there is no observation yet; None: zeros.
    """

    @property
    def width(self) -> int: ...

    @property
    def invertible(self) -> bool: ...

    @property
    def neutral(self) -> tuple[float, ...] | None: ...

    def encode(self, value: Floats, *, limit: bool = True) -> Floats:
        """Physical [..., T, D] -> normalised [..., T, width], same dtype.

        Args:
            limit: whether values outside [-1, 1] are limited to it where the model's training did so.
        """

    def decode(self, value: Floats) -> Floats:
        """Normalised [..., T, width] -> physical [..., T, D]."""


@dataclass(frozen=True)
class Scaled:
    """A normaliser, limited to [-1, 1] on the way in if `limit` (N1.6, N1.7)."""

    normalizer: Normalizer
    width: int
    limit: bool
    invertible: ClassVar[bool] = True
    neutral: ClassVar[tuple[float, ...] | None] = None

    def encode(self, value: Floats, *, limit: bool = True) -> Floats:
        return self.normalizer.normalize(value, self.limit and limit)

    def decode(self, value: Floats) -> Floats:
        return self.normalizer.unnormalize(value)


@dataclass(frozen=True)
class SinCos:
    """Angles (rad) -> all sines, then all cosines; for states only."""

    angles: int
    invertible: ClassVar[bool] = False
    neutral: ClassVar[tuple[float, ...] | None] = None

    @property
    def width(self) -> int:
        return 2 * self.angles

    def encode(self, value: Floats, *, limit: bool = True) -> Floats:
        return np.concatenate([np.sin(value), np.cos(value)], axis=-1)

    def decode(self, value: Floats) -> Floats:
        raise TypeError("sine and cosine have no way back: they are for states only")
