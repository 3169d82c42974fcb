"""``relative_stats.json``: per step of a chunk, how far actions are from the state in which the chunk begins.

GR00T N1.6 and N1.7 normalise RELATIVE action keys with these numbers (spec/lerobot.md section 6). They depend on the
horizon, so they are made for one robot, one generation and one horizon.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groot_ros.dataset import durable, paths
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.read import Dataset
from groot_ros.dataset.spec import ACTION, STATE
from groot_ros.dataset.statistics import vector_statistics
from groot_ros.embodiment.modality import representation
from groot_ros.embodiment.schema import Embodiment
from groot_ros.processing.modality import ActionConfig, ActionRep, ActionType
from groot_ros.processing.pose import POSE_DIMS, relative_poses

Floats = NDArray[np.float32]


def relative_statistics(
    dataset: Dataset, embodiment: Embodiment, generation: str, horizon: int | None = None
) -> dict[str, dict[str, list[list[float]]]]:
    """Statistics of every RELATIVE action key of a robot over all windows of ``horizon`` rows inside an episode.

    Args:
        embodiment: the robot for ``generation``; its representations and, without ``horizon``, its horizon count.
        generation: ``n1d6`` or ``n1d7``; N1.5 has no relative actions.
        horizon: steps of a chunk; None: the embodiment's.

    Returns:
        Action key -> ``min``, ``max``, ``mean``, ``std``, ``q01``, ``q99`` -> [horizon][dim], in the dataset's units.

    Raises:
        DatasetError: the dataset lacks a key, widths contradict each other, no episode is long enough, or a pose is
            none.
    """
    steps = embodiment.horizon if horizon is None else horizon
    if steps < 1:
        raise DatasetError(f"{dataset.root}: horizon: expected at least 1 step, found {steps}")
    configs = {
        key: ActionConfig.from_dict(representation(embodiment, key, generation), f"{embodiment.name}.action.{key}")
        for key in embodiment.action
    }
    relative = {key: config for key, config in configs.items() if config.rep is ActionRep.RELATIVE}
    if not relative:
        return {}
    episodes = [entry.index for entry in dataset.episodes if entry.length >= steps]
    if not episodes:
        longest = max((entry.length for entry in dataset.episodes), default=0)
        raise DatasetError(
            f"{dataset.root}: expected an episode of at least {steps} rows (the horizon), the longest has {longest}: "
            "record longer episodes, or name a shorter horizon"
        )
    states = [dataset.column(episode, STATE) for episode in episodes]
    actions = [dataset.column(episode, ACTION) for episode in episodes]
    result = {}
    for key, config in relative.items():
        state = _slice(dataset, "state", config.state_key or key)
        action = _slice(dataset, "action", key)
        _check_widths(dataset, key, config, state, action)
        try:
            result[key] = step_statistics(
                [values[:, state] for values in states], [values[:, action] for values in actions], steps, config
            )
        except DatasetError as error:
            raise DatasetError(f"{dataset.root}: action key {key}: {error}") from error
    return result


def write_relative_statistics(root: Path, statistics: Mapping[str, Any]) -> Path:
    """Write relative_stats.json; its path. The caller holds the dataset's lock. Raises: OSError."""
    path = root / paths.RELATIVE_STATS
    durable.write_json(path, statistics, root / paths.STAGING)
    return path


def step_statistics(
    states: Sequence[Floats], actions: Sequence[Floats], horizon: int, config: ActionConfig
) -> dict[str, list[list[float]]]:
    """Statistics [horizon][D] of ``action[t + step]`` relative to ``state[t]``, over every t whose window fits.

    Args:
        states, actions: per episode float32 [rows, D]; episodes shorter than the horizon have no window.
        config: NON_EEF is relative by subtraction, EEF by the transform between the poses.

    Raises:
        DatasetError: a value that is not finite, or numbers that are no rotation.
    """
    windows = [max(0, len(values) - horizon + 1) for values in states]
    reference = np.concatenate([values[:count] for values, count in zip(states, windows)])
    rows = []
    # One step at a time: memory is that of the rows, not of all windows.
    for step in range(horizon):
        target = np.concatenate([values[step : step + count] for values, count in zip(actions, windows)])
        difference = _difference(reference, target, config)
        if not np.isfinite(difference).all():
            window = int(np.flatnonzero(~np.isfinite(difference).all(axis=1))[0])
            raise DatasetError(
                f"step {step}: expected finite numbers, found {difference[window].tolist()} in window {window}: "
                "`groot-ros dataset check` names the rows"
            )
        rows.append(vector_statistics(difference))
    return {name: [row[name] for row in rows] for name in rows[0]}


def _difference(reference: Floats, target: Floats, config: ActionConfig) -> Floats:
    """[N, D] relative to [N, D]."""
    if config.type is ActionType.EEF:
        return relative_poses(reference, target[:, None, :], config.format)[:, 0].astype(np.float32)
    return (target.astype(np.float64) - reference.astype(np.float64)).astype(np.float32)


def _slice(dataset: Dataset, vector: str, key: str) -> slice:
    entries: dict[str, Any] = dataset.modality.get(vector) or {}
    if key not in entries:
        raise DatasetError(
            f"{dataset.root}/meta/modality.json: {vector}: expected the key '{key}' of this robot, found "
            f"{', '.join(entries) or 'none'}: name the embodiment that the dataset was recorded with"
        )
    return slice(int(entries[key]["start"]), int(entries[key]["end"]))


def _check_widths(dataset: Dataset, key: str, config: ActionConfig, state: slice, action: slice) -> None:
    width, reference = action.stop - action.start, state.stop - state.start
    expected = POSE_DIMS[config.format] if config.type is ActionType.EEF else reference
    if {width, reference} != {expected}:
        raise DatasetError(
            f"{dataset.root}/meta/modality.json: action.{key}: expected {expected} numbers in it and in state."
            f"{config.state_key or key}, to which it is relative, found {width} and {reference}"
        )
