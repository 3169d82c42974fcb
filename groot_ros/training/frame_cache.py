"""Decoded pictures in memory that forked workers share."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[np.uint8]


@dataclass(frozen=True)
class _Part:
    pictures: Pictures
    """uint8 [rows, H, W, 3]."""
    known: NDArray[np.uint8]
    """uint8 [rows]: 1 where the picture is there."""


class FrameCache:
    """The pictures of a fixed part of the rows.

    Every window is drawn once per epoch, so a picture that was used is not needed again soon, and a cache that keeps
    the latest ones would hit nothing. This one keeps the pictures of the first rows, as many as there is memory for:
    its hit rate is the share of the pictures that it holds. Memory is taken when a picture is stored.

    Made before the workers are forked; a copy that is pickled for another kind of worker holds nothing.
    """

    def __init__(self, rows: Sequence[int], sizes: Sequence[Mapping[str, tuple[int, int]]], limit_bytes: int) -> None:
        """
        Args:
            rows: of each dataset.
            sizes: of each dataset, feature -> (height, width) px.
            limit_bytes: memory for pictures.
        """
        wanted = sum(
            count * height * width * 3 for count, views in zip(rows, sizes) for height, width in views.values()
        )
        self.share = min(1.0, limit_bytes / wanted) if wanted else 0.0
        self._parts: dict[tuple[int, str], _Part] = {}
        for number, (count, views) in enumerate(zip(rows, sizes)):
            kept = int(count * self.share)
            for feature, (height, width) in views.items() if kept else ():
                self._parts[number, feature] = _Part(_shared((kept, height, width, 3)), _shared((kept,)))
        self._fence = threading.Lock()

    def get(self, dataset: int, feature: str, row: int) -> Pictures | None:
        """uint8 [H, W, 3], not to be written to; None where it has to be decoded."""
        part = self._parts.get((dataset, feature))
        if part is None or row >= len(part.known) or not part.known[row]:
            return None
        self._order()
        return part.pictures[row]

    def put(self, dataset: int, feature: str, row: int, picture: Pictures) -> None:
        """Keep a picture, where there is a place for it."""
        part = self._parts.get((dataset, feature))
        if part is not None and row < len(part.known):
            part.pictures[row] = picture
            self._order()
            part.known[row] = 1

    def _order(self) -> None:
        """What was written before is seen before what is written after, on processors that reorder (ARM)."""
        for _ in range(2):
            with self._fence:
                pass

    def __getstate__(self) -> dict[str, Any]:
        return {"share": 0.0, "_parts": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _fence=threading.Lock())


def _shared(shape: tuple[int, ...]) -> Pictures:
    """Zeros that processes forked later share."""
    return np.frombuffer(mmap.mmap(-1, int(np.prod(shape))), np.uint8).reshape(shape)
