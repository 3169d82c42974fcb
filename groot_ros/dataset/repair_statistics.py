"""Which statistics of a dataset are not those of its rows, and what they should be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groot_ros.dataset.check.statistics import TOLERANCES
from groot_ros.dataset.read import Dataset
from groot_ros.dataset.statistics import episode_statistics, row_statistics

_IMAGE_NAMES = ("min", "max", "mean", "std")


def is_statistics(files: Dataset, episodes: Sequence[int], said: Any) -> bool:
    """Whether ``said``, of stats.json, is right for every float feature, and has no ``count``.

    Raises: DatasetError when rows cannot be read, or hold numbers that are not finite.
    """
    if not isinstance(said, dict) or any(not isinstance(row, dict) or "count" in row for row in said.values()):
        return False
    right = row_statistics(files, episodes)
    return all(name in said and _agree(said[name], row) for name, row in right.items())


def is_episode_statistics(files: Dataset, columns: Mapping[str, NDArray[Any]], said: Any) -> bool:
    """Whether ``said``, of a line of episodes_stats.jsonl, is right for the columns and well formed for the videos."""
    if not isinstance(said, dict) or len(well_formed_images(files, said)) < len(files.video_keys):
        return False
    right = episode_statistics(columns, {})
    return all(name in said and _agree(said[name], row, columns[name].dtype.kind) for name, row in right.items())


def well_formed_images(files: Dataset, said: Any) -> dict[str, Any]:
    """Of the statistics of an episode those of its videos that can stay, by video feature."""
    entries = said if isinstance(said, dict) else {}
    return {feature: entries[feature] for feature in files.video_keys if _well_formed(entries.get(feature))}


def _agree(said: Any, right: Mapping[str, Any], kind: str = "f") -> bool:
    """The same numbers, up to what sums in float32 lose."""
    if not isinstance(said, dict):
        return False
    low, high = (np.asarray(right[name], dtype=np.float64) for name in ("min", "max"))
    size = np.maximum(np.abs(low), np.abs(high))
    for name, numbers in right.items():
        found = _array(said.get(name))
        expected = np.asarray(numbers, dtype=np.float64)
        # The standard deviation of counters does not grow with them.
        scale = high - low if name == "std" and kind in "iu" else size
        if found is None or found.shape != expected.shape:
            return False
        if (np.abs(found - expected) > TOLERANCES.get(name, 0.0) * scale + 1e-12).any():
            return False
    return True


def _well_formed(said: Any) -> bool:
    """Statistics of images as LeRobot reads them: (3, 1, 1) in 0..1, count [n]."""
    if not isinstance(said, dict):
        return False
    arrays = [_array(said.get(name)) for name in _IMAGE_NAMES]
    count = _array(said.get("count"))
    if count is None or count.shape != (1,) or count[0] < 1:
        return False
    if any(array is None or array.shape != (3, 1, 1) for array in arrays):
        return False
    low, high, mean, _ = (np.asarray(array) for array in arrays)
    return bool((low >= 0).all() and (low <= mean).all() and (mean <= high).all() and (high <= 1).all())


def _array(value: Any) -> NDArray[np.float64] | None:
    """Finite numbers, else None."""
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        return None
    good = array.dtype.kind in "iuf" and bool(np.isfinite(array).all())
    return array.astype(np.float64) if good else None
