"""What the messages that an embodiment YAML may name contain: encodings, compressions, field paths."""

from __future__ import annotations

import re

# Oldest first. A file that names no generation for a section means every generation.
GENERATIONS = ("n1d5", "n1d6", "n1d7")

JOINT_STATE = "sensor_msgs/msg/JointState"
JOINT_TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
FLOAT_ARRAY = "std_msgs/msg/Float64MultiArray"
POSE_STAMPED = "geometry_msgs/msg/PoseStamped"
TWISTS = ("geometry_msgs/msg/Twist", "geometry_msgs/msg/TwistStamped")

# Encodings that have one meaning as 8-bit RGB. uyvy and yuyv are the newer names of yuv422 and yuv422_yuy2.
IMAGE_ENCODINGS = ("rgb8", "bgr8", "rgba8", "bgra8", "mono8", "yuv422", "uyvy", "yuv422_yuy2", "yuyv")
COMPRESSIONS = ("jpeg", "png")

_XYZ = ("x", "y", "z")


def _paths(*parts: tuple[str, tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(f"{prefix}.{leaf}" for prefix, leaves in parts for leaf in leaves)


# Numbers that are computed from the orientation of a pose. roll, pitch and yaw (rad) turn about the fixed axes x, y
# and z in this order; rotvec is axis times angle (rad); rot6d holds the first two rows of the rotation matrix.
DERIVED = ("roll", "pitch", "yaw", *_paths(("rotvec", _XYZ), ("rot6d", tuple("012345"))))
QUATERNION = _paths(("orientation", (*_XYZ, "w")))
_POSE = (*_paths(("position", _XYZ)), *QUATERNION, *DERIVED)

# Where a message has its pose.
POSE_OF: dict[str, str] = {"geometry_msgs/msg/PoseStamped": "pose", "nav_msgs/msg/Odometry": "pose.pose"}

# Numbers of the stamped messages that are not JointState, as ROS 2 names them, and those derived from their poses.
FIELD_PATHS: dict[str, tuple[str, ...]] = {
    "geometry_msgs/msg/PoseStamped": _paths(("pose", _POSE)),
    "geometry_msgs/msg/TwistStamped": _paths(("twist.linear", _XYZ), ("twist.angular", _XYZ)),
    "geometry_msgs/msg/WrenchStamped": _paths(("wrench.force", _XYZ), ("wrench.torque", _XYZ)),
    "nav_msgs/msg/Odometry": (
        *_paths(("pose.pose", _POSE)),
        *_paths(("twist.twist.linear", _XYZ), ("twist.twist.angular", _XYZ)),
    ),
}

# Commands by number. Float64MultiArray has data.0, data.1, ... as many as are named.
COMMAND_PATHS: dict[str, tuple[str, ...]] = {
    "geometry_msgs/msg/PoseStamped": FIELD_PATHS["geometry_msgs/msg/PoseStamped"],
    "geometry_msgs/msg/Twist": _paths(("linear", _XYZ), ("angular", _XYZ)),
    "geometry_msgs/msg/TwistStamped": FIELD_PATHS["geometry_msgs/msg/TwistStamped"],
    FLOAT_ARRAY: ("data.0",),
}
# Commands by joint.
JOINT_COMMANDS = (JOINT_TRAJECTORY, JOINT_STATE, FLOAT_ARRAY)

# Units that make sense per array of a JointState; a command is a position.
UNITS_OF_FIELD: dict[str, tuple[str, ...]] = {
    "position": ("rad", "deg", "m", "mm", "percent", "signed_percent", "fraction", "signed_fraction", "unitless"),
    "velocity": ("rad/s", "m/s", "unitless"),
    "effort": ("Nm", "N", "unitless"),
}
SPEED_UNITS = ("rad/s", "m/s")
# Shares of a range: -> (value at the lower end, value at the upper end).
SPAN_UNITS: dict[str, tuple[float, float]] = {
    "percent": (0.0, 100.0),
    "signed_percent": (-100.0, 100.0),
    "fraction": (0.0, 1.0),
    "signed_fraction": (-1.0, 1.0),
}

# N1.5's names of what a group of numbers that is a rotation holds, by the last part of its field paths, in order.
_ROTATIONS: dict[tuple[str, ...], str] = {
    ("orientation.w", "orientation.x", "orientation.y", "orientation.z"): "quaternion",
    ("roll", "pitch", "yaw"): "euler_angles_rpy",
    ("rotvec.x", "rotvec.y", "rotvec.z"): "axis_angle",
    tuple(f"rot6d.{i}" for i in range(6)): "rotation_6d",
}
# Ways of writing an orientation, and the last parts of the field paths that are it.
ORIENTATIONS = {
    "quaternion": QUATERNION,
    "rpy": ("roll", "pitch", "yaw"),
    "rotvec": _paths(("rotvec", _XYZ)),
    "rot6d": _paths(("rot6d", tuple("012345"))),
}
_ROTATION_LEAF = re.compile(r"(?:orientation\.[xyzw]|roll|pitch|yaw|rotvec\.[xyz]|rot6d\.[0-5])$")


def orientation_leaf(path: str) -> str | None:
    """What ``path`` takes from the orientation of a pose (``orientation.x``, ``roll``, ``rot6d.0``); None: nothing."""
    match = _ROTATION_LEAF.search(path)
    return match.group() if match else None


def pose_part(path: str) -> str | None:
    """``path`` of a pose without the message around it (``position.x``, ``roll``); None: it is not in a pose."""
    match = re.fullmatch(r"(?:pose\.)?pose\.(.+)", path)
    return match.group(1) if match and match.group(1) in _POSE else None


def orientation_form(path: str) -> str | None:
    """Which way of writing an orientation ``path`` is part of: a key of ``ORIENTATIONS``; None: of none."""
    leaf = orientation_leaf(path)
    return next((form for form, leaves in ORIENTATIONS.items() if leaf in leaves), None)


def rotation_type(paths: list[str]) -> str | None:
    """N1.5's name of the rotation that the field paths are, whole and in its order (w first); None: they are none."""
    return _ROTATIONS.get(tuple(orientation_leaf(path) or path for path in paths))


def is_command_path(path: str, message_type: str) -> bool:
    """Whether ``path`` is a number that can be commanded with a message of ``message_type``."""
    if message_type == FLOAT_ARRAY:
        return re.fullmatch(r"data\.(0|[1-9][0-9]*)", path) is not None
    return path in COMMAND_PATHS.get(message_type, ())


def quantity(path: str) -> str:
    """``length``, ``angle``, ``any`` (a number of an array) or ``number``: which units can be meant."""
    if path.startswith("data."):
        return "any"
    if re.search(r"position\.[xyz]$", path):
        return "length"
    leaf = orientation_leaf(path) or ""
    return "angle" if leaf in ("roll", "pitch", "yaw") or leaf.startswith("rotvec") else "number"
