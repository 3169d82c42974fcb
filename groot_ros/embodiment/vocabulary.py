"""What the messages that an embodiment YAML may name contain: encodings, compressions, field paths."""

from __future__ import annotations

JOINT_STATE = "sensor_msgs/msg/JointState"

# Encodings that have one meaning as 8-bit RGB. uyvy and yuyv are the newer names of yuv422 and yuv422_yuy2.
IMAGE_ENCODINGS = ("rgb8", "bgr8", "rgba8", "bgra8", "mono8", "yuv422", "uyvy", "yuv422_yuy2", "yuyv")
COMPRESSIONS = ("jpeg", "png")

_XYZ = ("x", "y", "z")


def _paths(*parts: tuple[str, tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(f"{prefix}.{leaf}" for prefix, leaves in parts for leaf in leaves)


# Numbers of the stamped messages that are not JointState, as ROS 2 names them.
FIELD_PATHS: dict[str, tuple[str, ...]] = {
    "geometry_msgs/msg/PoseStamped": _paths(("pose.position", _XYZ), ("pose.orientation", (*_XYZ, "w"))),
    "geometry_msgs/msg/TwistStamped": _paths(("twist.linear", _XYZ), ("twist.angular", _XYZ)),
    "geometry_msgs/msg/WrenchStamped": _paths(("wrench.force", _XYZ), ("wrench.torque", _XYZ)),
    "nav_msgs/msg/Odometry": _paths(
        ("pose.pose.position", _XYZ),
        ("pose.pose.orientation", (*_XYZ, "w")),
        ("twist.twist.linear", _XYZ),
        ("twist.twist.angular", _XYZ),
    ),
}

# Units that make sense per array of a JointState; a command is a position.
UNITS_OF_FIELD: dict[str, tuple[str, ...]] = {
    "position": ("rad", "deg", "m", "mm", "percent", "signed_percent", "unitless"),
    "velocity": ("rad/s", "m/s", "unitless"),
    "effort": ("Nm", "N", "unitless"),
}
PERCENT_UNITS = ("percent", "signed_percent")
