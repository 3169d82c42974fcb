"""A robot without a file: what a processor must know, for a network that is random anyway."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groot_ros.model.config import ModelConfig
from groot_ros.model.make_checkpoint import patch_layout
from groot_ros.model.random_networks import default_processor_kwargs, network_config
from groot_ros.model.tokenizer import FIRST_SPECIAL_ID_QWEN, FIRST_SPECIAL_ID_TINY, write_tokenizer
from groot_ros.processing.config import ProcessorFiles
from groot_ros.processing.generations import GENERATIONS
from groot_ros.processing.language import load_tokenizer
from groot_ros.processing.processor import Processor
from groot_ros.processing.tags import complete_embodiment_ids

HORIZON = 16
_JOINTS = {"arm": 7, "gripper": 1}
_WORD = "the"  # one token in every tokenizer
_SPECIAL = re.compile(r"<\|\w+\|>|</?img>|<IMG_CONTEXT>")


@dataclass(frozen=True)
class Robot:
    """What a checkpoint says about a robot.

    Attributes:
        tag: of the embodiment.
        modality: as under `modality_configs[tag]` of processor_config.json.
        statistics: as under the tag in statistics.json.
        modalities: N1.5: as under `modalities` of metadata.json.
        views: key -> (height, width) of the camera's pictures.
    """

    tag: str
    modality: Mapping[str, Any]
    statistics: Mapping[str, Any]
    modalities: Mapping[str, Any]
    views: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Scene:
    """One observation: view -> uint8 [T,H,W,3], group -> float32 [T,D]."""

    video: Mapping[str, NDArray[np.uint8]]
    state: Mapping[str, NDArray[np.float32]]
    instruction: str


def plain_robot(generation: str, cameras: int, size: tuple[int, int]) -> Robot:
    """Seven joints, relative where the generation knows that, a gripper, and `cameras` views of (height, width)."""
    views = {f"camera_{i + 1}": size for i in range(cameras)}
    deltas = {"video": [0], "state": [0], "action": list(range(HORIZON)), "language": [0]}
    keys = {"video": list(views), "state": list(_JOINTS), "action": list(_JOINTS), "language": ["task"]}
    modality: dict[str, dict[str, Any]] = {
        name: {"delta_indices": deltas[name], "modality_keys": keys[name]} for name in deltas
    }
    if generation == "n1d5":
        for name in ("state", "action"):
            modality[name] |= {"normalization_modes": dict.fromkeys(_JOINTS, "min_max"), "target_rotations": {}}
    else:
        modality["action"]["action_configs"] = [
            {"rep": rep, "type": "NON_EEF", "format": "DEFAULT", "state_key": None} for rep in ("RELATIVE", "ABSOLUTE")
        ]
    numbers = {name: _range(np.full(width, 2.0)) for name, width in _JOINTS.items()}
    reach = 0.05 * np.arange(1, HORIZON + 1)[:, None] * np.ones(_JOINTS["arm"])
    statistics = {"state": numbers, "action": numbers, "relative_action": {"arm": _range(reach)}}
    vector = {
        name: {"absolute": True, "rotation_type": None, "shape": [width], "continuous": True}
        for name, width in _JOINTS.items()
    }
    video = {name: {"resolution": [size[1], size[0]], "channels": 3, "fps": 30.0} for name in views}
    modalities = {"video": video, "state": vector, "action": vector}
    return Robot("new_embodiment", modality, statistics, modalities, views)


def _range(reach: NDArray[np.float64]) -> dict[str, list[Any]]:
    """Statistics of numbers that go as far either way."""
    values = {
        "min": -reach,
        "max": reach,
        "mean": 0 * reach,
        "std": 0.5 * reach,
        "q01": -0.98 * reach,
        "q99": 0.98 * reach,
    }
    return {name: value.tolist() for name, value in values.items()}


def random_processor(robot: Robot, generation: str, size: str) -> tuple[Processor, ModelConfig]:
    """The processor and the network's config of a random checkpoint of this robot, without its files.

    Raises:
        ValueError: see `default_processor_kwargs` and `network_config`; ProcessorError for a robot that does not fit.
    """
    configs = {robot.tag: robot.modality}
    kwargs = default_processor_kwargs(configs, size, generation, {robot.tag: robot.statistics})
    config = network_config(generation, size, kwargs)
    layout = None
    if generation == "n1d5":
        kwargs = {name: value for name, value in kwargs.items() if name != "modality_configs"}
        if config.backbone_config is not None:
            kwargs["image_size"] = config.backbone_config["force_image_size"]
            kwargs["patch_size"] = config.backbone_config["vision_config"]["patch_size"]
    elif generation == "n1d7":
        layout = patch_layout(config, size)
    ids = complete_embodiment_ids({}, generation)
    where = f"random {size} {generation}"
    files = ProcessorFiles(
        generation=GENERATIONS[generation],
        kwargs=kwargs,
        modality_configs=configs,
        statistics={robot.tag: robot.statistics},
        embodiment_ids={robot.tag: 0, **ids},
        directory=Path(),
        contents={},
        where=where,
        modality_where=where,
        statistics_where=where,
        modalities={robot.tag: robot.modalities} if generation == "n1d5" else {},
    )
    first = FIRST_SPECIAL_ID_QWEN if size == "full" else FIRST_SPECIAL_ID_TINY
    return Processor(files, robot.tag, _tokenizer(generation, first), layout), config


def _tokenizer(generation: str, first_special_id: int) -> Any:
    """The project's own tokenizer, which knows the words of the prompt, so that these are as many tokens as Qwen's."""
    around = _SPECIAL.sub(" ", GENERATIONS[generation].chat.text(_WORD, 9))
    with tempfile.TemporaryDirectory(prefix="groot_ros_") as folder:
        write_tokenizer(Path(folder), first_special_id, [around])
        return load_tokenizer(folder)


def instruction_of(processor: Processor, text_tokens: int, image_tokens: int, max_tokens: int) -> str:
    """An instruction with which the prompt has so many tokens beside the images, or as few more as can be."""
    words = [_WORD]
    while processor.check_instruction(" ".join([*words, _WORD]), max_tokens) - image_tokens <= text_tokens:
        words.append(_WORD)
    return " ".join(words)


def random_scenes(
    processor: Processor, views: Mapping[str, tuple[int, int]], instruction: str, count: int, seed: int
) -> Sequence[Scene]:
    """So many different observations; noise pictures, which take as long to process as any."""
    generator = np.random.default_rng(seed)
    steps = len(processor.modality["video"].delta_indices)
    blank = processor.blank_state()
    scenes = []
    for _ in range(count):
        video = {key: generator.integers(0, 256, (steps, *size, 3), dtype=np.uint8) for key, size in views.items()}
        state = {key: _near(processor, key, value, generator) for key, value in blank.items()}
        scenes.append(Scene(video, state, instruction))
    return scenes


def _near(
    processor: Processor, key: str, value: NDArray[np.float32], generator: np.random.Generator
) -> NDArray[np.float32]:
    """A blank state group [T,D], moved by a hundredth of its range: a pose stays near to one."""
    low, high = processor.state_limits(key)
    moved = value + 0.01 * (high - low) * generator.uniform(-1, 1, value.shape)
    return np.clip(moved, low, high).astype(np.float32) if np.all(value == 0) else value
