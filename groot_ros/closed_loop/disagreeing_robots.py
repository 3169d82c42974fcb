"""The robots of the disagreeing policy: six joints or a pose, and a gripper; no file, since nobody owns one."""

from __future__ import annotations

from typing import Any

from groot_ros.embodiment.schema import Embodiment

VARIANTS = ("joints_absolute", "joints_relative", "eef_absolute", "eef_relative")
STEP_HZ, HORIZON = 25.0, 16
JOINTS = tuple(f"joint_{i}" for i in range(1, 7))
GRIPPER = "gripper"


def embodiment_of(variant: str) -> Embodiment:
    """The robot of one variant: six joints or a pose, and a gripper that is open or closed.

    Raises:
        ValueError: an unknown variant.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant: expected one of {', '.join(VARIANTS)}, found {variant!r}")
    what, rep = variant.split("_")
    data = _data(what == "eef", rep.upper())
    return Embodiment.model_validate({"name": f"disagreeing_{variant}", "embodiment_tag": "disagreeing", **data})


def _data(pose: bool, rep: str) -> dict[str, Any]:
    """The YAML of the robot, as data."""
    gripper = {"joints": [GRIPPER], "unit": "unitless"}
    data: dict[str, Any] = {
        "step_hz": STEP_HZ,
        "cameras": {
            "front": {
                "topic": "/front/image_raw",
                "type": "sensor_msgs/msg/Image",
                "width": 64,
                "height": 48,
                "rate_hz": 30.0,
                "max_age_s": 0.2,
            }
        },
        "state_streams": {
            "joints": {
                "topic": "/joint_states",
                "type": "sensor_msgs/msg/JointState",
                "rate_hz": 100.0,
                "max_age_s": 0.1,
            }
        },
        "video": {"front": {"camera": "front"}},
        "language": {"key": "annotation.human.task_description"},
        "delta_indices": {"action": list(range(HORIZON))},
        "limits": {
            GRIPPER: {"lower": 0.0, "upper": 1.0, "velocity": 10.0, "acceleration": 200.0},
        },
        "control": {"rate_hz": 50.0},
    }
    if pose:
        fields = [f"pose.position.{axis}" for axis in "xyz"] + [f"pose.rot6d.{i}" for i in range(6)]
        where = {"fields": fields, "unit": "unitless"}
        representation = {"rep": rep, "type": "EEF", "format": "XYZ_ROT6D"}
        bounds = {
            "lower": [0.0, -0.5, -0.1] + [-1.0] * 6,
            "upper": [0.9, 0.5, 0.8] + [1.0] * 6,
            "velocity": [1.0] * 3 + [2.5] * 6,
            "acceleration": [8.0] * 3 + [20.0] * 6,
        }
        key, output = "tool", "geometry_msgs/msg/PoseStamped"
        data["state_streams"]["tool"] = {
            "topic": "/tool_pose",
            "type": output,
            "rate_hz": 100.0,
            "max_age_s": 0.1,
        }
        state, action = {"stream": "tool", **where}, {**where, "bounds": bounds, "representation": representation}
    else:
        key, output = "arm", "trajectory_msgs/msg/JointTrajectory"
        where = {"joints": list(JOINTS), "unit": "rad"}
        state, action = {"stream": "joints", **where}, {**where, "representation": {"rep": rep}}
        data["limits"] |= {
            joint: {"lower": -2.5, "upper": 2.5, "velocity": 3.0, "acceleration": 20.0} for joint in JOINTS
        }
    data["state"] = {key: state, GRIPPER: {"stream": "joints", **gripper}}
    absolute = {"rep": "ABSOLUTE"}
    data["action"] = {key: action, GRIPPER: {**gripper, "representation": absolute, "interpolation": "step"}}
    hand = {"topic": "/hand_command", "type": "trajectory_msgs/msg/JointTrajectory", "keys": [GRIPPER]}
    data["outputs"] = {"arm": {"topic": "/arm_command", "type": output, "keys": [key]}, "hand": hand}
    return data
