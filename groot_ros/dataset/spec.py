"""What the dataset of a robot contains: features, slices per modality key, rows. Made from the embodiment's YAML.

Format: LeRobot v2.1 as GR00T reads it (spec/lerobot.md sections 1.1 and 1.3). Numbers are in the units of the training
data, actions absolute.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groot_ros.dataset import paths
from groot_ros.dataset.errors import DatasetError
from groot_ros.embodiment.schema import ActionKey, Embodiment, StateKey
from groot_ros.embodiment.vocabulary import rotation_type

VERSION = "v2.1"
STATE, ACTION, IMAGES = "observation.state", "action", "observation.images"
# Not under "observation.": LeRobot takes every such feature for an input of the policy.
STAMP, AGES, INTERVENTION, FLAGS = "recording.stamp_ns", "recording.age_ns", "recording.intervention", "recording.flags"
# The columns that every LeRobot dataset has.
TIMESTAMP, FRAME_INDEX, EPISODE_INDEX = "timestamp", "frame_index", "episode_index"
INDEX, TASK_INDEX = "index", "task_index"
_COUNTERS = (FRAME_INDEX, EPISODE_INDEX, INDEX, TASK_INDEX)

FLAG_REPEATED = 1  # the tick was refused, and the row repeats the one before
FLAG_SALVAGED = 2  # the episode was aborted, and its whole part taken over by `groot-ros dataset salvage`

DEFAULT_ANNOTATION = "human.task_description"


@dataclass(frozen=True)
class Slice:
    """One modality key in its vector: ``names`` of its numbers, and N1.5's name of the rotation that it is, if any."""

    key: str
    names: tuple[str, ...]
    rotation_type: str | None = None


@dataclass(frozen=True)
class CameraSpec:
    """The camera of a video key, and the size of its pictures (px)."""

    camera: str
    height: int
    width: int


@dataclass(frozen=True)
class DatasetSpec:
    """Contents of a dataset.

    Attributes:
        fps: rows and frames per second.
        robot_type: name of the embodiment.
        state, action: modality keys in the order of their vectors.
        cameras: video key -> camera.
        streams: names of the streams whose ages are kept, cameras first.
        annotation: language key without the ``annotation.`` in front.
    """

    fps: int
    robot_type: str
    state: tuple[Slice, ...]
    action: tuple[Slice, ...]
    cameras: Mapping[str, CameraSpec]
    streams: tuple[str, ...]
    annotation: str = DEFAULT_ANNOTATION

    @classmethod
    def of(cls, embodiment: Embodiment) -> DatasetSpec:
        """The dataset of a robot.

        Raises:
            DatasetError: it cannot be recorded: ``step_hz`` is no integer, or a picture has an odd size.
        """
        if embodiment.step_hz != round(embodiment.step_hz):
            raise DatasetError(
                f"{embodiment.name}: step_hz: expected an integer, which becomes the dataset's fps, found "
                f"{embodiment.step_hz:g}: set the frame rate at which you train"
            )
        cameras = {
            key: CameraSpec(
                entry.camera, embodiment.cameras[entry.camera].height, embodiment.cameras[entry.camera].width
            )
            for key, entry in embodiment.video.items()
        }
        for spec in cameras.values():
            if spec.height % 2 or spec.width % 2:
                raise DatasetError(
                    f"{embodiment.name}: cameras.{spec.camera}: expected an even width and height, found "
                    f"{spec.width}x{spec.height} px: H.264 stores colour for blocks of 2x2 pixels, crop in the driver"
                )
        prefix, _, rest = embodiment.language.key.partition(".")
        return cls(
            fps=round(embodiment.step_hz),
            robot_type=embodiment.name,
            state=tuple(_slice(key, entry) for key, entry in embodiment.state.items()),
            action=tuple(_slice(key, entry) for key, entry in embodiment.action.items()),
            cameras=cameras,
            streams=tuple(embodiment.streams),
            annotation=rest if prefix == "annotation" and rest else DEFAULT_ANNOTATION,
        )

    @property
    def state_names(self) -> list[str]:
        """``key.name`` of every number of ``observation.state``."""
        return [f"{part.key}.{name}" for part in self.state for name in part.names]

    @property
    def action_names(self) -> list[str]:
        """``key.name`` of every number of ``action``."""
        return [f"{part.key}.{name}" for part in self.action for name in part.names]

    @property
    def video_features(self) -> dict[str, CameraSpec]:
        """Feature name -> camera."""
        return {f"{IMAGES}.{key}": camera for key, camera in self.cameras.items()}

    @cached_property
    def row_dtype(self) -> np.dtype[np.void]:
        """One row as it is staged: state float32 [S], action float32 [A], the rest int64, little-endian."""
        return np.dtype(
            [
                ("state", "<f4", (len(self.state_names),)),
                ("action", "<f4", (len(self.action_names),)),
                ("stamp_ns", "<i8"),
                ("age_ns", "<i8", (len(self.streams),)),
                ("intervention", "<i8"),
                ("flags", "<i8"),
            ]
        )

    def row(
        self,
        state: Mapping[str, NDArray[np.float32]],
        action: Mapping[str, NDArray[np.float32]],
        stamp_ns: int,
        ages_ns: Mapping[str, int],
        intervention: bool = False,
        flags: int = 0,
    ) -> NDArray[np.void]:
        """One row, shape (), of ``row_dtype``.

        Args:
            state, action: key -> float32 [D] in model units.
            stamp_ns: the row's time on the grid (ROS time).
            ages_ns: stream -> time from the stamp of the sample used to ``stamp_ns``.
            intervention: a person commands.
            flags: ``FLAG_*`` bits.
        """
        row = np.zeros((), dtype=self.row_dtype)
        row["state"] = np.concatenate([state[part.key] for part in self.state])
        row["action"] = np.concatenate([action[part.key] for part in self.action])
        row["stamp_ns"] = stamp_ns
        row["age_ns"] = [ages_ns[stream] for stream in self.streams]
        row["intervention"] = int(intervention)
        row["flags"] = flags
        return row

    def features(self) -> dict[str, dict[str, Any]]:
        """``features`` of info.json, in the order of the columns; videos have no column."""
        scalar = {"dtype": "int64", "shape": [1], "names": None}
        return {
            STATE: {"dtype": "float32", "shape": [len(self.state_names)], "names": self.state_names},
            ACTION: {"dtype": "float32", "shape": [len(self.action_names)], "names": self.action_names},
            **{name: self._video_feature(camera) for name, camera in self.video_features.items()},
            STAMP: scalar,
            AGES: {"dtype": "int64", "shape": [len(self.streams)], "names": list(self.streams)},
            INTERVENTION: scalar,
            FLAGS: scalar,
            TIMESTAMP: {"dtype": "float32", "shape": [1], "names": None},
            **dict.fromkeys(_COUNTERS, scalar),
        }

    def modality(self) -> dict[str, Any]:
        """``modality.json``: which part of which column is which key of the model."""
        return {
            "state": _slices(self.state),
            "action": _slices(self.action),
            "video": {key: {"original_key": f"{IMAGES}.{key}"} for key in self.cameras},
            "annotation": {self.annotation: {"original_key": TASK_INDEX}},
        }

    def info(self, episodes: int, frames: int, tasks: int) -> dict[str, Any]:
        """``info.json`` of a dataset with so many episodes, rows and tasks."""
        return {
            "codebase_version": VERSION,
            "robot_type": self.robot_type,
            **totals(episodes, frames, tasks, len(self.cameras)),
            "chunks_size": paths.CHUNKS_SIZE,
            "fps": self.fps,
            "data_path": paths.DATA_PATTERN,
            "video_path": paths.VIDEO_PATTERN,
            "features": self.features(),
        }

    def differences(self, info: Mapping[str, Any]) -> list[str]:
        """Why episodes of this robot cannot be appended to the dataset with this ``info.json``; empty if they can."""
        return differences(self.info(0, 0, 0), info, "this robot", "the dataset")

    def to_json(self) -> dict[str, Any]:
        """For the staging folder: what its rows mean, whatever the YAML says later."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DatasetSpec:
        """Inverse of ``to_json``."""
        slices = {
            name: tuple(Slice(part["key"], tuple(part["names"]), part["rotation_type"]) for part in data[name])
            for name in ("state", "action")
        }
        cameras = {key: CameraSpec(**camera) for key, camera in data["cameras"].items()}
        return cls(**{**data, **slices, "cameras": cameras, "streams": tuple(data["streams"])})

    def _video_feature(self, camera: CameraSpec) -> dict[str, Any]:
        return {
            "dtype": "video",
            "shape": [camera.height, camera.width, 3],
            "names": ["height", "width", "channels"],
            "info": {
                "video.height": camera.height,
                "video.width": camera.width,
                "video.codec": "h264",
                "video.pix_fmt": "yuv420p",
                "video.is_depth_map": False,
                "video.fps": self.fps,
                "video.channels": 3,
                "has_audio": False,
            },
        }


def totals(
    episodes: int, frames: int, tasks: int, cameras: int, chunks_size: int = paths.CHUNKS_SIZE
) -> dict[str, Any]:
    """The members of info.json that count."""
    return {
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "total_videos": episodes * cameras,
        "total_chunks": -(-episodes // chunks_size),
        "splits": {"train": f"0:{episodes}"},
    }


def differences(info: Mapping[str, Any], other: Mapping[str, Any], name: str, other_name: str) -> list[str]:
    """Why episodes of two datasets with these info.json cannot be in one, by their names; empty if they can."""
    found = [
        f"{key}: {name}'s is {info.get(key)!r}, {other_name}'s is {other.get(key)!r}"
        for key in ("codebase_version", "fps", "robot_type")
        if info.get(key) != other.get(key)
    ]
    features, others = dict(info.get("features") or {}), dict(other.get("features") or {})
    for feature in features | others:
        if feature not in features or feature not in others:
            found.append(f"feature {feature}: {name if feature in others else other_name} does not have it")
            continue
        found += [
            f"feature {feature}, {part}: {name}'s is {features[feature].get(part)}, {other_name}'s is "
            f"{others[feature].get(part)}"
            for part in ("dtype", "shape", "names")
            if features[feature].get(part) != others[feature].get(part)
        ]
    return found


def recorder_embodiment(embodiment: Embodiment) -> Embodiment:
    """The robot as the recorder assembles it: no history, every row is now."""
    deltas = embodiment.delta_indices.model_copy(update={"video": [0], "state": [0]})
    return embodiment.model_copy(update={"delta_indices": deltas})


def _slice(key: str, entry: StateKey | ActionKey) -> Slice:
    return Slice(key, tuple(entry.names), rotation_type(entry.fields) if entry.fields else None)


def _slices(parts: tuple[Slice, ...]) -> dict[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = {}
    start = 0
    for part in parts:
        entries[part.key] = {"start": start, "end": start + len(part.names)}
        if part.rotation_type is not None:
            entries[part.key]["rotation_type"] = part.rotation_type
        start += len(part.names)
    return entries
