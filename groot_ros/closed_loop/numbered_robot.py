"""A robot of which every message carries its number: what was recorded can be compared with what was sent.

Pictures have the number as a barcode; the first joint of a JointState has it as its position. The process that
publishes is ``groot_ros.nodes.numbered_robot``; this is what it and those who check a recording agree on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml
from numpy.typing import NDArray

from groot_ros.closed_loop.barcode import COLUMNS, LIMIT, ROWS

JOINTS = tuple(f"joint_{index}" for index in range(6))
STATE_STREAM, KEY = "joints", "arm"
JOINT_RATE_HZ = 100.0
ENCODINGS = ("rgb8", "jpeg")
_STEP_RAD = 2.0**-13  # from number to number: exact in float32, and half a minute of 100 Hz is less than 0.5 rad


@dataclass(frozen=True)
class Setting:
    """What the robot sends.

    Attributes:
        cameras: how many.
        width, height: of the pictures (px).
        encoding: rgb8, or jpeg on a compressed topic.
        rate_hz: of every camera, and of the rows.
        max_age_s: oldest sample that a row may have, and most time between its samples (s).
    """

    cameras: int = 3
    width: int = 640
    height: int = 480
    encoding: str = "rgb8"
    rate_hz: int = 30
    max_age_s: float = 0.2

    def __post_init__(self) -> None:
        if self.encoding not in ENCODINGS:
            raise ValueError(f"expected one of the encodings {', '.join(ENCODINGS)}, found {self.encoding!r}")
        if self.height < 4 * ROWS or self.width < 4 * COLUMNS:
            raise ValueError(
                f"expected pictures of at least {4 * COLUMNS}x{4 * ROWS} px, so that a barcode can be read, found "
                f"{self.width}x{self.height}"
            )
        if self.cameras < 1 or self.rate_hz < 1:
            raise ValueError(f"expected at least one camera and 1 Hz, found {self.cameras} and {self.rate_hz} Hz")

    @property
    def names(self) -> list[str]:
        """Names of the cameras, and their video keys."""
        return [f"camera_{index}" for index in range(self.cameras)]

    def __str__(self) -> str:
        return f"{self.cameras} x {self.width}x{self.height} {self.encoding} at {self.rate_hz} Hz"


def write_embodiment(setting: Setting, path: Path) -> None:
    """Write the YAML of the robot."""
    compressed = setting.encoding == "jpeg"
    cameras = {
        name: {
            "topic": f"/{name}/image_raw/compressed" if compressed else f"/{name}/image_raw",
            "type": "sensor_msgs/msg/CompressedImage" if compressed else "sensor_msgs/msg/Image",
            "encodings": [setting.encoding],
            "width": setting.width,
            "height": setting.height,
            "rate_hz": float(setting.rate_hz),
            "max_age_s": setting.max_age_s,
        }
        for name in setting.names
    }
    joint_state = "sensor_msgs/msg/JointState"
    key = {"joints": list(JOINTS), "unit": "rad"}
    document = {
        "name": "numbered_robot",
        "embodiment_tag": "new_embodiment",
        "step_hz": float(setting.rate_hz),
        "cameras": cameras,
        "state_streams": {
            STATE_STREAM: {
                "topic": "/joint_states",
                "type": joint_state,
                "rate_hz": JOINT_RATE_HZ,
                "max_age_s": setting.max_age_s,
            }
        },
        "sync": {"max_spread_s": setting.max_age_s},
        "video": {name: {"camera": name} for name in setting.names},
        "state": {KEY: {"stream": STATE_STREAM, **key}},
        "action": {KEY: key},
        "language": {"key": "annotation.human.task_description"},
        "delta_indices": {"action": list(range(16))},
        "limits": {joint: {"lower": -10.0, "upper": 10.0, "velocity": 3.0, "acceleration": 30.0} for joint in JOINTS},
        "outputs": {
            "arm": {
                "topic": "/arm_controller/joint_trajectory",
                "type": "trajectory_msgs/msg/JointTrajectory",
                "keys": [KEY],
            }
        },
        "recording": {
            "commands": {KEY: {"topic": "/leader/joint_states", "type": joint_state, "max_age_s": setting.max_age_s}}
        },
    }
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


Number = TypeVar("Number", int, NDArray[np.int64])


def picture_number(frame: Number, camera: int, cameras: int) -> Number:
    """The barcode of frame ``frame`` of the ``camera``-th of ``cameras``; after ten minutes they come again."""
    return (frame * cameras + camera) % LIMIT


def positions(numbers: int | NDArray[np.int64], leader: bool = False) -> NDArray[np.float64]:
    """Joint positions (rad) of the message with this number, [..., joints]; the first is the number in small steps.

    The others are waves, of the leader arm in the opposite direction.
    """
    number = np.asarray(numbers, dtype=np.float64)[..., None]
    waves = (-0.5 if leader else 0.5) * np.sin(number * np.arange(1, len(JOINTS)) * 0.013)
    return np.concatenate([number * _STEP_RAD, waves], axis=-1)


def position_number(first: NDArray[np.float32]) -> NDArray[np.int64]:
    """Numbers of the messages with these positions of the first joint."""
    return np.rint(first / _STEP_RAD).astype(np.int64)


@dataclass(frozen=True)
class Published:
    """What was sent: entry n of each array is of the message with number n.

    Attributes:
        cameras: camera -> header stamps (ROS ns), int64 [frames].
        joints, leader: header stamps of states and of commands, int64 [messages].
        late_ns: camera -> how much later than its stamp each frame was sent, int64 [frames].
    """

    cameras: Mapping[str, NDArray[np.int64]]
    joints: NDArray[np.int64]
    leader: NDArray[np.int64]
    late_ns: Mapping[str, NDArray[np.int64]]

    def write(self, path: Path) -> None:
        """Into an npz file, at once: a reader sees all of it or no file."""
        arrays: dict[str, Any] = {"joints": self.joints, "leader": self.leader}
        arrays |= {f"stamp/{name}": stamps for name, stamps in self.cameras.items()}
        arrays |= {f"late/{name}": late for name, late in self.late_ns.items()}
        temporary = path.with_suffix(".part.npz")
        np.savez(temporary, **arrays)
        temporary.replace(path)

    @classmethod
    def read(cls, path: Path, cameras: Sequence[str]) -> Published:
        """Inverse of ``write``. Raises: OSError, KeyError (another robot's file)."""
        with np.load(path) as file:
            return cls(
                cameras={name: file[f"stamp/{name}"] for name in cameras},
                joints=file["joints"],
                leader=file["leader"],
                late_ns={name: file[f"late/{name}"] for name in cameras},
            )
