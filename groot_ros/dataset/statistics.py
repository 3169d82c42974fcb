"""Statistics of a dataset, exact: from the rows themselves.

LeRobot means the quantiles of the episodes, which is another number, so nothing is merged here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groot_ros.dataset import durable, paths
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.read import Dataset, read_json

# How many episodes and rows stats.json was made from. Not in stats.json: GR00T N1.5 slices all that is in there.
BASIS = paths.REPORTS / "statistics.json"


def episode_statistics(columns: Mapping[str, NDArray[Any]], images: Mapping[str, Any]) -> dict[str, Any]:
    """``stats`` of a line of episodes_stats.jsonl: feature -> min, max, mean, std (population) and count [n].

    Args:
        columns: feature -> [N] or [N, D].
        images: video feature -> its statistics, of shape (3, 1, 1) in 0..1, taken over as they are.
    """
    return {name: column_statistics(values) for name, values in columns.items()} | dict(images)


def column_statistics(values: NDArray[Any], quantiles: Mapping[str, float] = MappingProxyType({})) -> dict[str, Any]:
    """min, max, mean, std (population) and ``quantiles`` per dimension of [N] or [N, D], N >= 1; count [n].

    Quantiles are interpolated linearly. min and max of integers are integers.
    """
    table = values.reshape(len(values), -1)
    low = table.min(axis=0)
    # float64 has not the digits for the square of a time in nanoseconds; for the distance to the first it has.
    above = (table - low if table.dtype.kind == "i" else table.astype(np.float64) - low).astype(np.float64)
    return {
        "min": low.tolist(),
        "max": table.max(axis=0).tolist(),
        "mean": (above.mean(axis=0) + low).tolist(),
        "std": above.std(axis=0).tolist(),
        "count": [len(values)],
        **{name: (np.quantile(above, quantile, axis=0) + low).tolist() for name, quantile in quantiles.items()},
    }


def vector_statistics(values: NDArray[np.floating[Any]]) -> dict[str, list[float]]:
    """Entry of stats.json: mean, std (population), min, max, q01, q99 per dimension of [N] or [N, D], N >= 1.

    Computed in float64; quantiles are interpolated linearly.
    """
    table = values.reshape(len(values), -1)
    found: dict[str, list[float]] = {name: [] for name in ("mean", "std", "min", "max", "q01", "q99")}
    for dimension in range(table.shape[1]):
        # One dimension at a time: a long recording is not copied to float64 as a whole.
        column = table[:, dimension].astype(np.float64)
        low, q01, q99, high = np.quantile(column, [0.0, 0.01, 0.99, 1.0])
        numbers = {"mean": column.mean(), "std": column.std(), "min": low, "max": high, "q01": q01, "q99": q99}
        for name, number in numbers.items():
            found[name].append(float(number))
    return found


def dataset_statistics(root: Path) -> dict[str, Any]:
    """Content of stats.json: every float feature that is no video, over all rows. Empty without episodes.

    Raises:
        DatasetError: info.json or a parquet file is missing or broken, or holds numbers that are not finite.
    """
    dataset = Dataset(root)
    return row_statistics(dataset, range(dataset.info["total_episodes"]))


def row_statistics(dataset: Dataset, episodes: Iterable[int]) -> dict[str, Any]:
    """``vector_statistics`` of every float feature that is no video, over the rows of these episodes.

    Raises:
        DatasetError: a parquet file is missing or broken, or holds numbers that are not finite.
    """
    names = [name for name, feature in dataset.features.items() if str(feature["dtype"]).startswith("float")]
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    for episode in episodes:
        for name, values in dataset.arrays(episode, names).items():
            if not np.isfinite(values).all():
                raise DatasetError(
                    f"{dataset.data(episode)}: expected finite numbers in {name}, found NaN or infinity: delete "
                    f"episode {episode} with `groot-ros dataset delete-episodes`"
                )
            parts[name].append(values)
    return {name: vector_statistics(np.concatenate(values)) for name, values in parts.items() if values}


def refresh(root: Path) -> dict[str, Any]:
    """Compute and write stats.json; its new content. The caller holds the dataset's lock.

    Raises:
        DatasetError: the dataset cannot be read.
        OSError: it cannot be written to.
    """
    statistics = dataset_statistics(root)
    for path, content in ((paths.STATS, statistics), (BASIS, _basis(root))):
        durable.write_json(root / path, content, root / paths.STAGING)
    return statistics


def is_stale(root: Path) -> bool:
    """stats.json is missing, or was made from other episodes than info.json counts. Raises: DatasetError."""
    if not (root / paths.STATS).is_file() or not (root / BASIS).is_file():
        return True
    return read_json(root, BASIS) != _basis(root)


def _basis(root: Path) -> dict[str, Any]:
    info = read_json(root, paths.INFO)
    return {"episodes": info["total_episodes"], "frames": info["total_frames"]}
