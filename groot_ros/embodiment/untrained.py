"""Modality configuration and statistics for a random checkpoint of a robot, derived from its YAML.

A trained checkpoint has these from its data. A random one gets ranges that keep the robot inside its limits, so
that the whole chain can run before any training.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from groot_ros.embodiment.schema import ActionKey, Embodiment, StateKey
from groot_ros.embodiment.units import to_model

RELATIVE_SPEED = 0.1  # of the velocity limit: how far a relative action may go per step


def modality_configs(embodiment: Embodiment) -> dict[str, dict[str, Any]]:
    """Return the ``modality_configs`` entry of processor_config.json for the robot's tag.

    Action keys of several joints are RELATIVE to the state key of the same name, as GR00T is finetuned; keys without
    such a state key and single joints (grippers) are ABSOLUTE.
    """
    deltas = embodiment.delta_indices

    def config(
        indices: list[int], keys: list[str], action_configs: list[dict[str, Any]] | None = None
    ) -> dict[str, Any]:
        return {
            "delta_indices": indices,
            "modality_keys": keys,
            "sin_cos_embedding_keys": None,
            "mean_std_embedding_keys": None,
            "action_configs": action_configs,
        }

    representations = [
        {
            "rep": "RELATIVE" if is_relative(embodiment, key) else "ABSOLUTE",
            "type": "NON_EEF",
            "format": "DEFAULT",
            "state_key": None,
        }
        for key in embodiment.action
    ]
    return {
        "video": config(deltas.video, list(embodiment.video)),
        "state": config(deltas.state, list(embodiment.state)),
        "action": config(deltas.action, list(embodiment.action), representations),
        "language": config([0], [embodiment.language.key]),
    }


def is_relative(embodiment: Embodiment, key: str) -> bool:
    """Whether a random checkpoint has action ``key`` relative to the state."""
    state = embodiment.state.get(key)
    return state is not None and state.joints == embodiment.action[key].joints and len(state.joints) > 1


def statistics(embodiment: Embodiment) -> dict[str, dict[str, dict[str, list[Any]]]]:
    """Return the robot's entry of statistics.json: uniform over the joint limits, in model units.

    Relative keys get per-step rows [H, D]: step ``i`` reaches ``RELATIVE_SPEED * velocity * dt * (i + 1)`` either way.
    """
    relative = {}
    for key, spec in embodiment.action.items():
        if is_relative(embodiment, key):
            reach = _relative_reach(embodiment, spec)
            relative[key] = _uniform(-reach, reach)
    return {
        "state": {key: _uniform(*_range(embodiment, spec)) for key, spec in embodiment.state.items()},
        "action": {key: _uniform(*_range(embodiment, spec)) for key, spec in embodiment.action.items()},
        "relative_action": relative,
    }


def _range(embodiment: Embodiment, spec: StateKey | ActionKey) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lowest and highest model value [D] of a key; fields without joint limits are taken as -1..1."""
    if spec.joints is None:
        count = len(spec.fields or []) if isinstance(spec, StateKey) else 0
        return -np.ones(count), np.ones(count)
    bounds = [embodiment.limits.get(joint) for joint in spec.joints]
    if isinstance(spec, StateKey) and spec.field == "velocity":
        ends = np.array([[-b.velocity, b.velocity] if b else [-1.0, 1.0] for b in bounds]).T
    else:
        ends = np.array([[b.lower, b.upper] if b else [-np.pi, np.pi] for b in bounds]).T
    values = to_model(embodiment, spec, ends)
    return values.min(axis=0), values.max(axis=0)


def _relative_reach(embodiment: Embodiment, spec: ActionKey) -> NDArray[np.float64]:
    zero = to_model(embodiment, spec, np.zeros((1, len(spec.joints))))
    speed = np.array([embodiment.limits[joint].velocity for joint in spec.joints])
    steps = np.arange(1, embodiment.horizon + 1)[:, None]
    angle = RELATIVE_SPEED * speed * embodiment.dt_s * steps
    reach: NDArray[np.float64] = np.abs(to_model(embodiment, spec, angle) - zero)
    return reach


def _uniform(low: NDArray[np.float64], high: NDArray[np.float64]) -> dict[str, list[Any]]:
    span = high - low
    return {
        "min": low.tolist(),
        "max": high.tolist(),
        "mean": (low + 0.5 * span).tolist(),
        "std": (span / np.sqrt(12.0)).tolist(),
        "q01": (low + 0.01 * span).tolist(),
        "q99": (low + 0.99 * span).tolist(),
    }
