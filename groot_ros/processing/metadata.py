"""N1.5's processor files: experiment_cfg/metadata.json, and the modality configuration NVIDIA keeps in Python code.

metadata.json is {tag: {statistics, modalities, embodiment_tag}} (spec/groot_n15_n16.md section 4.7). Checkpoints
written here also carry experiment_cfg/modality_config.json, {tag: {video, state, action, language}}: delta_indices and
modality_keys (without the modality in front) of each, and normalization_modes and target_rotations of state and action.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from groot_ros.model.config import is_lerobot_policy
from groot_ros.processing.config import (
    EMBODIMENT_FILE,
    PROCESSOR_FILE,
    STATISTICS_FILE,
    ProcessorFiles,
    read_embodiment_ids,
)
from groot_ros.processing.errors import ProcessorError, describe, read_json_object
from groot_ros.processing.generations import N1D5
from groot_ros.processing.tags import complete_embodiment_ids

METADATA_FILE = "experiment_cfg/metadata.json"
MODALITY_FILE = "experiment_cfg/modality_config.json"
_CONFIG_FILE = "config.json"
# Keys of action_head_cfg, which say how wide and long the network is.
_HEAD_SIZES = {
    "max_state_dim": "max_state_dim",
    "max_action_dim": "max_action_dim",
    "action_horizon": "max_action_horizon",
}
_BACKBONES = ("eagle_config", "backbone_config")


def metadata_path(root: Path) -> Path | None:
    """Where metadata.json is: experiment_cfg/ or the root itself; None if it is in neither."""
    return next((path for path in (root / METADATA_FILE, root / "metadata.json") if path.is_file()), None)


def name_missing_files(root: Path) -> None:
    """For a directory without any generation's processor files.

    Raises:
        ProcessorError: what is missing, where config.json tells which files belong to the model.
    """
    path = root / _CONFIG_FILE
    config = read_json_object(path) if path.is_file() else {}
    lerobot = is_lerobot_policy(config)
    if lerobot:
        from groot_ros.model.checkpoint import load_config

        n1d5 = load_config(root).generation == N1D5.name
    else:
        n1d5 = "action_head_cfg" in config
    if not (lerobot or n1d5):
        return
    later = f"{PROCESSOR_FILE}, {STATISTICS_FILE} and {EMBODIMENT_FILE}"
    files = f"{METADATA_FILE} with the statistics that N1.5 was trained with" if n1d5 else later
    fix = (
        "LeRobot saves no such files, and its own way to normalise is not read" if lerobot else "The copy is incomplete"
    )
    raise ProcessorError(
        str(root / (METADATA_FILE if n1d5 else PROCESSOR_FILE)),
        files,
        "no such file",
        f"{fix}: copy them from where the model was trained, or make them from its dataset.",
    )


def read_metadata(root: Path) -> ProcessorFiles:
    """Reads N1.5's files.

    The sizes of the network come from config.json: action_head_cfg, and the edge of an image in pixels from the
    backbone's description where there is one (NVIDIA's checkpoints have none: 224).

    Raises:
        ProcessorError: a file is missing or malformed.
    """
    path = metadata_path(root)
    assert path is not None
    document = read_json_object(path)
    for tag, entry in document.items():
        for name in ("statistics", "modalities"):
            if not isinstance(entry, Mapping) or not isinstance(entry.get(name), Mapping):
                found = describe(entry.get(name)) if isinstance(entry, Mapping) else describe(entry)
                raise ProcessorError(f"{path}: {tag}.{name}", "an object with state and action", found)
    modality_path = root / MODALITY_FILE
    own_ids = read_embodiment_ids(root / EMBODIMENT_FILE)
    contents: dict[str, Any] = {METADATA_FILE: document}
    if own_ids:
        contents[EMBODIMENT_FILE] = own_ids
    return ProcessorFiles(
        generation=N1D5,
        kwargs=_network_sizes(root / _CONFIG_FILE),
        modality_configs=read_json_object(modality_path) if modality_path.is_file() else {},
        statistics={tag: entry["statistics"] for tag, entry in document.items()},
        embodiment_ids=complete_embodiment_ids(own_ids, N1D5.name),
        directory=root,
        contents=contents,
        where=f"{root / _CONFIG_FILE}: action_head_cfg",
        modality_where=str(modality_path),
        statistics_where=str(path),
        modalities={tag: entry["modalities"] for tag, entry in document.items()},
    )


def _network_sizes(path: Path) -> dict[str, Any]:
    config = read_json_object(path)
    if is_lerobot_policy(config):  # it names the model's directory, whose config.json has the sizes
        from groot_ros.model.checkpoint import load_config

        config = load_config(path.parent).to_dict()
    head = _section(config, "action_head_cfg", path)
    sizes = {ours: head[theirs] for theirs, ours in _HEAD_SIZES.items() if theirs in head}
    backbone = next((_section(config, name, path) for name in _BACKBONES if config.get(name) is not None), {})
    vision = _section(backbone, "vision_config", path)
    edge = backbone.get("force_image_size", vision.get("image_size"))
    described = {"image_size": edge, "patch_size": vision.get("patch_size")}
    return {**sizes, **{name: value for name, value in described.items() if value is not None}}


def _section(config: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    value = config.get(name, {})
    if not isinstance(value, Mapping):
        raise ProcessorError(f"{path}: {name}", "an object", describe(value))
    return value
