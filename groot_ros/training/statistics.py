"""Statistics that a checkpoint carries for a robot, made of its datasets.

Absolute numbers come from each dataset's stats.json, as NVIDIA's do. Relative ones depend on the chunk's length, so
they are computed from the rows. Several datasets of one robot are merged by their shares of the draws (spec
groot_n15_n16.md 6.1, groot_n17.md 7): mean and E[x^2] are averaged, min and max are the widest; q01 and q99 are the
widest in N1.6 and N1.7, and averaged in N1.5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groot_ros.dataset import paths
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.read_v30 import VERSION as V30
from groot_ros.dataset.relative_statistics import step_statistics
from groot_ros.processing.modality import ActionConfig, ActionRep, ModalityConfig
from groot_ros.training.episodes import TrainingDataset
from groot_ros.training.errors import TrainingError

NAMES = ("min", "max", "mean", "std", "q01", "q99")
Entry = dict[str, dict[str, dict[str, Any]]]
"""``state``, ``action``, ``relative_action`` -> key -> name -> [D], or [H][D] of a relative action."""

_QUANTILES = {"q01": 0.01, "q99": 0.99}
# Of a number's range: rows may lie so far outside of stats.json, which others compute in float32.
_TOLERANCE = 1e-3
_ROUNDING = 1e-6  # and so far by rounding a float64 to float32


def dataset_statistics(
    dataset: TrainingDataset, modality: Mapping[str, ModalityConfig], *, relative: bool = True
) -> Entry:
    """What statistics.json (N1.5: metadata.json) has for one robot, of one dataset.

    Args:
        modality: keys, chunk and representations.
        relative: RELATIVE action keys are made relative, as N1.6 and N1.7 do; their statistics are computed then.

    Raises:
        TrainingError, DatasetError: stats.json is missing, lacks a column or is not that of the rows, or a relative key
            has no reference.
    """
    stats = dataset.stats
    entry: Entry = {}
    for name in ("state", "action"):
        entry[name] = {key: _sliced(dataset, stats, name, key) for key in modality[name].modality_keys}
    if relative:
        action = modality["action"]
        keys = [key for key in action.modality_keys if action.action_config(key).rep is ActionRep.RELATIVE]
        entry["relative_action"] = {key: _relative(dataset, modality, key) for key in keys}
    return entry


def merge(entries: Sequence[Entry], shares: Sequence[float], *, widest_quantiles: bool) -> Entry:
    """Statistics of several datasets of one robot as one.

    Args:
        entries: with the same keys and widths.
        shares: of the draws; any unit.
        widest_quantiles: q01 is the lowest and q99 the highest (N1.6, N1.7); else they are averaged (N1.5).
    """
    if len(entries) == 1:
        return entries[0]
    weights = np.asarray(shares, np.float64) / sum(shares)
    return {
        section: {key: _merged([entry[section][key] for entry in entries], weights, widest_quantiles) for key in groups}
        for section, groups in entries[0].items()
    }


def n1d5_modalities(dataset: TrainingDataset, modality: Mapping[str, ModalityConfig]) -> dict[str, Any]:
    """``modalities`` of N1.5's metadata.json: what the views and vectors of a dataset are."""
    video = {}
    for key in modality["video"].modality_keys:
        height, width = dataset.view_sizes[key]
        video[key] = {"resolution": [width, height], "channels": 3, "fps": float(dataset.fps)}

    def vectors(name: str) -> dict[str, Any]:
        parts = {key: dataset.modality.vectors(name)[key] for key in modality[name].modality_keys}
        return {
            key: {
                "absolute": part.absolute,
                "rotation_type": part.rotation_type,
                "shape": [part.width],
                "continuous": True,
            }
            for key, part in parts.items()
        }

    return {"video": video, "state": vectors("state"), "action": vectors("action")}


def outside(kept: Mapping[str, Any], found: Entry) -> list[str]:
    """Groups of which a dataset's numbers go beyond the range that a checkpoint's statistics have, in words."""
    lines = []
    for section, groups in found.items():
        for key, group in groups.items():
            theirs = kept.get(section, {}).get(key)
            if not isinstance(theirs, Mapping) or "min" not in theirs or "max" not in theirs:
                continue
            low, high = (np.asarray(theirs[name], np.float64) for name in ("min", "max"))
            own_low, own_high = (np.asarray(group[name], np.float64) for name in ("min", "max"))
            if low.shape == own_low.shape and bool(((own_low < low) | (own_high > high)).any()):
                lines.append(f"{section}.{key}")
    return lines


def _sliced(dataset: TrainingDataset, stats: Mapping[str, Any], modality: str, key: str) -> dict[str, list[float]]:
    part = dataset.modality.vectors(modality)[key]
    where = f"{dataset.root / paths.STATS}: {part.column}"
    fix = (
        "export the v2.1 dataset again (`groot-ros dataset export`)"
        if dataset.version == V30
        else "`groot-ros dataset stats DIR` computes it again"
    )
    width = int((dataset.features[part.column].get("shape") or [1])[0])
    column = stats.get(part.column)
    if not isinstance(column, Mapping):
        raise DatasetError(f"{where}: expected its statistics, found none: {fix}")
    found = {}
    for name in NAMES:
        if name in _QUANTILES and name not in column:  # v3.0 datasets of older LeRobot have none
            found[name] = np.quantile(_all_rows(dataset, modality, key), _QUANTILES[name], axis=0)
            continue
        try:
            values = np.asarray(column[name], np.float64).reshape(-1)
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"{where}.{name}: expected {width} numbers, found {error!r}: {fix}") from error
        if values.shape != (width,) or not np.isfinite(values).all():
            raise DatasetError(f"{where}.{name}: expected {width} finite numbers, found {values.tolist()}: {fix}")
        found[name] = values[part.start : part.end]
    _check_range(dataset, modality, key, found["min"], found["max"], where, fix)
    return {name: values.tolist() for name, values in found.items()}


def _all_rows(dataset: TrainingDataset, modality: str, key: str) -> NDArray[np.float64]:
    """A key of all episodes, [rows, D]."""
    rows = [dataset.vector(episode, modality, key) for episode in dataset.episodes]
    return np.concatenate(rows).astype(np.float64)


def _check_range(
    dataset: TrainingDataset,
    modality: str,
    key: str,
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    where: str,
    fix: str,
) -> None:
    """Statistics that were made before the last episodes do not hold those."""
    slack = _TOLERANCE * (high - low) + _ROUNDING * np.maximum(np.abs(low), np.abs(high)) + _ROUNDING
    for episode in dataset.episodes:
        rows = dataset.vector(episode, modality, key)
        if len(rows) and bool(((rows < low - slack) | (rows > high + slack)).any()):
            raise DatasetError(
                f"{where}: expected the range of the rows, found episode {episode.index} outside of it in "
                f"{modality}.{key}, [{_numbers(rows.min(axis=0))}] to [{_numbers(rows.max(axis=0))}] where it says "
                f"[{_numbers(low)}] to [{_numbers(high)}]: the file is older than the episode, {fix}"
            )


def _relative(dataset: TrainingDataset, modality: Mapping[str, ModalityConfig], key: str) -> dict[str, Any]:
    action, state = modality["action"], modality["state"]
    config: ActionConfig = action.action_config(key)
    horizon = len(action.delta_indices)
    if action.delta_indices != tuple(range(horizon)) or state.delta_indices[-1] != 0:
        raise TrainingError(
            f"action key '{key}': expected action steps 0, 1, 2, ... and a newest state at 0, which a RELATIVE key is "
            f"relative to, found {list(action.delta_indices)} and {list(state.delta_indices)}: change delta_indices, "
            "or make it ABSOLUTE"
        )
    episodes = [episode for episode in dataset.episodes if episode.length >= horizon]
    if not episodes:
        raise TrainingError(
            f"{dataset.root}: expected an episode of at least {horizon} rows for the statistics of the RELATIVE action "
            f"key '{key}', found none: record longer episodes, or shorten delta_indices.action"
        )
    reference = config.state_key or key
    try:
        return step_statistics(
            [dataset.vector(episode, "state", reference) for episode in episodes],
            [dataset.vector(episode, "action", key) for episode in episodes],
            horizon,
            config,
        )
    except (DatasetError, ValueError) as error:
        raise TrainingError(
            f"{dataset.root}: relative action '{key}', to state '{reference}' ({config.type.name}, "
            f"{config.format.name}): {error}"
        ) from error


def _merged(groups: Sequence[Mapping[str, Any]], weights: NDArray[np.float64], widest: bool) -> dict[str, Any]:
    arrays = {name: np.asarray([group[name] for group in groups], np.float64) for name in NAMES}

    def average(values: NDArray[np.float64]) -> NDArray[np.float64]:
        mean: NDArray[np.float64] = np.tensordot(weights, values, axes=1)
        return mean

    mean = average(arrays["mean"])
    square = average(arrays["std"] ** 2 + arrays["mean"] ** 2)
    merged = {
        "min": arrays["min"].min(axis=0),
        "max": arrays["max"].max(axis=0),
        "mean": mean,
        "std": np.sqrt(np.maximum(square - mean**2, 0)),
        "q01": arrays["q01"].min(axis=0) if widest else average(arrays["q01"]),
        "q99": arrays["q99"].max(axis=0) if widest else average(arrays["q99"]),
    }
    return {name: values.tolist() for name, values in merged.items()}


def _numbers(values: NDArray[Any]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
