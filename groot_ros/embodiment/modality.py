"""What a checkpoint says about a robot (``modality_configs`` of processor_config.json), made from its YAML.

Random checkpoints get it, and NVIDIA's N1.5 checkpoints, which do not carry it, are run with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from groot_ros.embodiment.schema import ActionKey, Embodiment, StateKey


def modality_configs(embodiment: Embodiment, generation: str) -> dict[str, dict[str, Any]]:
    """Tag -> modality (``video``, ``state``, ``action``, ``language``) -> settings, ready for JSON.

    For ``n1d6`` and ``n1d7`` these are NVIDIA's: delta_indices, modality_keys, sin_cos_embedding_keys,
    mean_std_embedding_keys, action_configs. For ``n1d5``, which has them in Python code, they are delta_indices,
    modality_keys (without the modality in front), and for state and action normalization_modes and target_rotations.
    """
    deltas = embodiment.delta_indices
    plain = {
        "video": _config(deltas.video, embodiment.video),
        "state": _config(deltas.state, embodiment.state),
        "action": _config(deltas.action, embodiment.action),
        "language": _config([0], [embodiment.language.key]),
    }
    vectors: dict[str, Mapping[str, StateKey | ActionKey]] = {"state": embodiment.state, "action": embodiment.action}
    if generation == "n1d5":
        for name, entries in vectors.items():
            plain[name]["normalization_modes"] = {key: entry.normalization for key, entry in entries.items()}
            turned = {key: entry.target_rotation for key, entry in entries.items() if entry.target_rotation}
            plain[name]["target_rotations"] = turned
        return {embodiment.embodiment_tag: plain}
    for name, config in plain.items():
        config["sin_cos_embedding_keys"] = _keys_with(vectors.get(name, {}), "sin_cos")
        config["mean_std_embedding_keys"] = _keys_with(vectors.get(name, {}), "mean_std")
        config["action_configs"] = None
    plain["action"]["action_configs"] = [representation(embodiment, key, generation) for key in embodiment.action]
    return {embodiment.embodiment_tag: plain}


def representation(embodiment: Embodiment, key: str, generation: str) -> dict[str, Any]:
    """The ``action_configs`` entry of an action key: rep, type, format, state_key."""
    said = embodiment.action[key].representation
    if said is not None:
        return said.model_dump()
    rep = "RELATIVE" if generation != "n1d5" and _relative_by_default(embodiment, key) else "ABSOLUTE"
    return {"rep": rep, "type": "NON_EEF", "format": "DEFAULT", "state_key": None}


def _relative_by_default(embodiment: Embodiment, key: str) -> bool:
    """Several joints with a state key of the same name, joints and unit, as GR00T is finetuned; not a gripper."""
    state, action = embodiment.state.get(key), embodiment.action[key]
    if state is None or action.joints is None or len(action.joints) < 2:
        return False
    return state.joints == action.joints and state.field == "position" and state.unit == action.unit


def _config(indices: list[int], keys: Mapping[str, Any] | list[str]) -> dict[str, Any]:
    return {"delta_indices": list(indices), "modality_keys": list(keys)}


def _keys_with(entries: Mapping[str, StateKey | ActionKey], normalization: str) -> list[str] | None:
    return [key for key, entry in entries.items() if entry.normalization == normalization] or None
