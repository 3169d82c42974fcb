"""Bags for tests: a small robot whose frames and joints tell the time, written with rosbags alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from groot_ros.bags.topics import INSTRUCTION_TOPIC, Topic, bag_topics, typestore
from groot_ros.bags.write import BagWriter
from groot_ros.embodiment.load import load_embodiment
from groot_ros.embodiment.schema import Embodiment

S = 1_000_000_000
MS = 1_000_000
T0 = 1_700_000_000 * S
SIZE = 8
JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
COMMAND_TOPIC = "/arm_controller/joint_trajectory"


def robot() -> Embodiment:
    """The simulated arm with tiny pictures."""
    arm = load_embodiment("sim_arm")
    cameras = {name: camera.model_copy(update={"width": SIZE, "height": SIZE}) for name, camera in arm.cameras.items()}
    return arm.model_copy(update={"cameras": cameras})


@dataclass(frozen=True)
class Recorded:
    """A message to be written, and when it was received."""

    topic: str
    message: Any
    log_ns: int


def make(kind: str, **fields: Any) -> Any:
    """A message of ``package/msg/Name``."""
    return typestore().types[kind](**fields)


def time_message(stamp_ns: int) -> Any:
    return make("builtin_interfaces/msg/Time", sec=stamp_ns // S, nanosec=stamp_ns % S)


def header(stamp_ns: int) -> Any:
    return make("std_msgs/msg/Header", stamp=time_message(stamp_ns), frame_id="")


def image(stamp_ns: int) -> Any:
    """The first pixel holds the milliseconds since T0."""
    rgb = np.full((SIZE, SIZE, 3), 90, dtype=np.uint8)
    ticks = (stamp_ns - T0) // MS
    rgb[0, 0] = ticks // 65536 % 256, ticks // 256 % 256, ticks % 256
    return make(
        "sensor_msgs/msg/Image",
        header=header(stamp_ns),
        height=SIZE,
        width=SIZE,
        encoding="rgb8",
        is_bigendian=0,
        step=3 * SIZE,
        data=rgb.reshape(-1),
    )


def pixel_ms(rgb: np.ndarray) -> int:
    """Milliseconds since T0 of a frame."""
    high, middle, low = (int(value) for value in rgb[0, 0])
    return high * 65536 + middle * 256 + low


def position(joint: int, stamp_ns: int) -> float:
    """Where joint ``joint`` is: straight lines, so that interpolation is exact."""
    return 0.1 * joint + 0.05 * (stamp_ns - T0) / S


def joints(stamp_ns: int) -> Any:
    values = np.array([position(i, stamp_ns) for i in range(len(JOINTS))])
    zero = np.zeros(len(JOINTS))
    return make(
        "sensor_msgs/msg/JointState",
        header=header(stamp_ns),
        name=list(JOINTS),
        position=values,
        velocity=zero,
        effort=zero,
    )


def trajectory(stamp_ns: int, points: Iterable[tuple[float, list[float]]]) -> Any:
    """Points (seconds from the stamp, positions in the order of JOINTS)."""
    none = np.zeros(0)
    return make(
        "trajectory_msgs/msg/JointTrajectory",
        header=header(stamp_ns),
        joint_names=list(JOINTS),
        points=[
            make(
                "trajectory_msgs/msg/JointTrajectoryPoint",
                positions=np.array(values),
                velocities=none,
                accelerations=none,
                effort=none,
                time_from_start=make(
                    "builtin_interfaces/msg/Duration", sec=math.floor(t_s), nanosec=round(t_s % 1.0 * S)
                ),
            )
            for t_s, values in points
        ],
    )


def string(text: str) -> Any:
    return make("std_msgs/msg/String", data=text)


def episode(duration_s: float = 2.0, delay_ns: int = 4 * MS) -> list[Recorded]:
    """Frames at 30 Hz, joints at 100 Hz and an instruction at 0; received ``delay_ns`` after their stamps."""
    records = [Recorded(INSTRUCTION_TOPIC, string("pick up the red cube"), T0)]
    for i in range(round(duration_s * 100) + 1):
        stamp = T0 + i * 10 * MS
        records.append(Recorded("/joint_states", joints(stamp), stamp + delay_ns))
    for i in range(round(duration_s * 30) + 1):
        stamp = T0 + round(i * S / 30)
        records += [Recorded(f"/{name}/image_raw", image(stamp), stamp + delay_ns) for name in ("front", "wrist")]
    return sorted(records, key=lambda record: record.log_ns)


def write(
    path: Path,
    records: Iterable[Recorded],
    storage: str = "mcap",
    topics: Iterable[Topic] | None = None,
    keep: Callable[[Recorded], bool] = lambda record: True,
) -> Path:
    """Write ``records`` and return ``path``."""
    known = list(bag_topics(robot()).values() if topics is None else topics)
    types = {topic.name: topic.type for topic in known}
    with BagWriter(path, storage, known) as writer:
        for record in filter(keep, records):
            data = typestore().serialize_cdr(record.message, types[record.topic])
            writer.write(record.topic, data, record.log_ns)
    return path
