"""Which generation a checkpoint is of, and the robot's YAML as it is for that one. Reads config.json only, no torch."""

from __future__ import annotations

import os
from pathlib import Path

from groot_ros.embodiment.load import embodiment_path, load_embodiment
from groot_ros.embodiment.schema import Embodiment
from groot_ros.model.config import ConfigError, detect_generation, is_lerobot_policy, read_json_object


def checkpoint_generation(checkpoint: str | Path) -> str:
    """``n1d5``, ``n1d6`` or ``n1d7``.

    Args:
        checkpoint: directory in NVIDIA's layout, or hub id (which is downloaded).

    Raises:
        CheckpointError: there is no such checkpoint, or no config.json in it.
        ConfigError: config.json is broken or of something else.
    """
    directory = Path(checkpoint).expanduser()
    path = directory / "config.json"
    try:
        config = read_json_object(path) if path.is_file() else {}
        if not config or is_lerobot_policy(config):
            # Both import torch, which NVIDIA's config.json has no need of.
            from groot_ros.model.checkpoint import load_config, resolve_checkpoint

            return load_config(resolve_checkpoint(checkpoint)).generation
        return detect_generation(config)
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith(str(path)) else f"{path}: {text}") from error


def embodiment_for(name_or_path: str | os.PathLike[str], checkpoint: str | Path) -> Embodiment:
    """The robot as its YAML describes it for the generation of ``checkpoint``.

    Raises:
        EmbodimentError: the YAML is refused, or does not list that generation.
        CheckpointError, ConfigError: see ``checkpoint_generation``.
    """
    path = embodiment_path(name_or_path)  # a misspelt name is told before a download
    return load_embodiment(path, checkpoint_generation(checkpoint))
