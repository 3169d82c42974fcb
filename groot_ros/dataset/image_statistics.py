"""Statistics of a video's pixels from a histogram per channel, which episodes and videos add up exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

STRIDE = 4  # every fourth pixel of every fourth row: a sixteenth of the work, and no visible difference
QUANTILES = {"q01": 0.01, "q99": 0.99}


class ImageStatistics:
    """Counts of the 8-bit values of pictures.

    Attributes:
        histogram: int64 [3, 256], how often each value came up, channels R, G, B.
        frames: pictures counted.
    """

    def __init__(self, histogram: NDArray[np.int64] | None = None, frames: int = 0) -> None:
        self.histogram = np.zeros((3, 256), np.int64) if histogram is None else np.array(histogram, np.int64)
        self.frames = frames
        if self.histogram.shape != (3, 256):
            raise ValueError(f"expected a histogram [3, 256], found {list(self.histogram.shape)}")

    def add(self, rgb: NDArray[np.uint8], times: int = 1) -> None:
        """Count a picture uint8 [H, W, 3] RGB ``times`` times."""
        self.add_histogram(histogram(rgb), times)

    def add_histogram(self, counts: NDArray[np.int64], frames: int = 1) -> None:
        """Count a picture whose ``histogram`` is known already ``frames`` times."""
        self.histogram += counts * frames
        self.frames += frames

    def merge(self, other: ImageStatistics) -> None:
        """Add the pictures of ``other``."""
        self.histogram += other.histogram
        self.frames += other.frames

    def stats(self, quantiles: Mapping[str, float] = QUANTILES) -> dict[str, Any]:
        """As in ``episodes_stats.jsonl``: min, max, mean, std, q01, q99 of shape (3, 1, 1) in 0..1; count [frames].

        ``quantiles`` names others than q01 and q99. They are interpolated linearly, as ``numpy.quantile`` does.

        Raises: ValueError when no picture was counted.
        """
        if not self.frames:
            raise ValueError("expected statistics of at least one picture, found none")
        values = np.arange(256) / 255
        columns: dict[str, list[float]] = {name: [] for name in ("min", "max", "mean", "std", *quantiles)}
        for counts in self.histogram:
            total, seen = counts.sum(), np.flatnonzero(counts)
            mean = float(counts @ values / total)
            columns["min"].append(float(values[seen[0]]))
            columns["max"].append(float(values[seen[-1]]))
            columns["mean"].append(mean)
            columns["std"].append(float(np.sqrt(counts @ (values - mean) ** 2 / total)))
            for name, quantile in quantiles.items():
                columns[name].append(_quantile(np.cumsum(counts), values, quantile))
        stats: dict[str, Any] = {name: [[[value]] for value in column] for name, column in columns.items()}
        return {**stats, "count": [self.frames]}


def histogram(rgb: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Counts int64 [3, 256] of a picture uint8 [H, W, 3]."""
    counts = [cv2.calcHist([rgb], [channel], None, [256], [0, 256]) for channel in range(3)]
    # OpenCV counts in float32, which is exact up to 16 million pixels.
    return np.concatenate(counts, axis=1).T.astype(np.int64)


def _quantile(cumulative: NDArray[np.int64], values: NDArray[np.float64], quantile: float) -> float:
    """Of the sorted sample behind the counts, interpolated linearly between the two nearest members."""
    position = quantile * (int(cumulative[-1]) - 1)
    low = int(position)
    below, above = (values[np.searchsorted(cumulative, rank, side="right")] for rank in (low, low + 1))
    return float(below + (above - below) * (position - low))
