"""Messages for the tests of groot_ros.observation, as plain objects and as rosbags' types, and a small robot."""

from __future__ import annotations

import array
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.typesys import Stores, get_typestore

from groot_ros.embodiment.schema import Embodiment

STORE = get_typestore(Stores.ROS2_JAZZY)
T0 = 1_700_000_000_000_000_000  # ns
MS = 1_000_000  # ns
WIDTH, HEIGHT = 6, 4


def robot(**changes: Any) -> Embodiment:
    """Two cameras (raw, JPEG), a JointState and a pose; a dotted key of ``changes`` replaces that value."""
    data: dict[str, Any] = {
        "name": "bench",
        "embodiment_tag": "new_embodiment",
        "step_hz": 10.0,
        "cameras": {
            "front": {
                "topic": "/front",
                "type": "sensor_msgs/msg/Image",
                "width": WIDTH,
                "height": HEIGHT,
                "rate_hz": 20.0,
                "max_age_s": 0.2,
            },
            "wrist": {
                "topic": "/wrist",
                "type": "sensor_msgs/msg/CompressedImage",
                "width": WIDTH,
                "height": HEIGHT,
                "rate_hz": 20.0,
                "max_age_s": 0.2,
            },
        },
        "state_streams": {
            "joints": {
                "topic": "/joints",
                "type": "sensor_msgs/msg/JointState",
                "rate_hz": 50.0,
                "max_age_s": 0.1,
            },
            "tool": {
                "topic": "/tool",
                "type": "geometry_msgs/msg/PoseStamped",
                "rate_hz": 50.0,
                "max_age_s": 0.1,
            },
        },
        "video": {"front": {"camera": "front"}, "wrist": {"camera": "wrist"}},
        "state": {
            "arm": {"stream": "joints", "joints": ["a", "b"]},
            "hand": {"stream": "joints", "joints": ["c"], "unit": "percent"},
            "tool": {"stream": "tool", "fields": ["pose.position.x", "pose.orientation.w"], "unit": "unitless"},
        },
        "action": {"arm": {"joints": ["a", "b"]}, "hand": {"joints": ["c"], "unit": "percent"}},
        "language": {"key": "task"},
        "delta_indices": {"action": [0, 1, 2]},
        "limits": {name: {"lower": 0.0, "upper": 2.0, "velocity": 1.0} for name in "abc"},
        "outputs": {
            "arm": {"topic": "/command", "type": "trajectory_msgs/msg/JointTrajectory", "keys": ["arm", "hand"]}
        },
    }
    for path, value in changes.items():
        at = data
        *parents, last = path.split("__")
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = value
    return Embodiment.model_validate(data)


def header(stamp_ns: int) -> SimpleNamespace:
    return SimpleNamespace(stamp=SimpleNamespace(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9), frame_id="camera")


def picture(seed: int, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def image(stamp_ns: int, rgb: NDArray[np.uint8], **changes: Any) -> SimpleNamespace:
    """A rgb8 Image as rclpy gives it (data in an array.array)."""
    fields = {
        "header": header(stamp_ns),
        "width": rgb.shape[1],
        "height": rgb.shape[0],
        "encoding": "rgb8",
        "is_bigendian": 0,
        "step": rgb.shape[1] * 3,
        "data": array.array("B", rgb.tobytes()),
    }
    return SimpleNamespace(**{**fields, **changes})


def compressed(stamp_ns: int, rgb: NDArray[np.uint8], kind: str = "png", **changes: Any) -> SimpleNamespace:
    """A CompressedImage; png keeps the pixels exactly."""
    data = cv2.imencode(f".{kind}", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].tobytes()
    fields = {"header": header(stamp_ns), "format": kind, "data": array.array("B", data)}
    return SimpleNamespace(**{**fields, **changes})


def joints(stamp_ns: int, positions: dict[str, float], **changes: Any) -> SimpleNamespace:
    fields = {
        "header": header(stamp_ns),
        "name": list(positions),
        "position": array.array("d", positions.values()),
        "velocity": array.array("d"),
        "effort": array.array("d"),
    }
    return SimpleNamespace(**{**fields, **changes})


def pose(stamp_ns: int, x: float = 0.25, w: float = 1.0) -> SimpleNamespace:
    return SimpleNamespace(
        header=header(stamp_ns),
        pose=SimpleNamespace(
            position=SimpleNamespace(x=x, y=0.0, z=0.0), orientation=SimpleNamespace(x=0.0, y=0.0, z=0.0, w=w)
        ),
    )


def as_rosbags(message: SimpleNamespace, type_name: str) -> Any:
    """The message after a trip through CDR, as rosbags reads it from a bag."""
    types = STORE.types
    stamp = types["builtin_interfaces/msg/Time"](sec=message.header.stamp.sec, nanosec=message.header.stamp.nanosec)
    fields = {**vars(message), "header": types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera")}
    for name, dtype in (("data", np.uint8), ("position", np.float64), ("velocity", np.float64), ("effort", np.float64)):
        if name in fields:
            values = fields[name]
            fields[name] = np.array(list(values) if isinstance(values, bytes) else values, dtype=dtype)
    if "pose" in fields:
        position = types["geometry_msgs/msg/Point"](**vars(message.pose.position))
        orientation = types["geometry_msgs/msg/Quaternion"](**vars(message.pose.orientation))
        fields["pose"] = types["geometry_msgs/msg/Pose"](position=position, orientation=orientation)
    return STORE.deserialize_cdr(STORE.serialize_cdr(types[type_name](**fields), type_name), type_name)
