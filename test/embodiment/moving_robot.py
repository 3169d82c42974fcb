"""A robot with all kinds of outputs that may be commanded, and edits of its YAML."""

from __future__ import annotations

from pathlib import Path

BASE = """\
name: bench
embodiment_tag: new_embodiment
step_hz: 10.0
cameras:
  front: {topic: /front, type: sensor_msgs/msg/Image, width: 4, height: 4, rate_hz: 30.0, max_age_s: 0.2}
state_streams:
  joints: {topic: /joints, type: sensor_msgs/msg/JointState, rate_hz: 100.0, max_age_s: 0.1}
  tool: {topic: /tool, type: geometry_msgs/msg/PoseStamped, rate_hz: 100.0, max_age_s: 0.1}
video:
  front: {camera: front}
state:
  arm: {stream: joints, joints: [a, b]}
  place: {stream: tool, fields: [pose.position.x, pose.position.y, pose.position.z], unit: m}
  turn: {stream: tool, fields: [pose.rotvec.x, pose.rotvec.y, pose.rotvec.z], unit: rad}
action:
  arm: {joints: [a, b]}
  place:
    fields: [pose.position.x, pose.position.y, pose.position.z]
    unit: m
    bounds: {lower: [-1, -1, 0], upper: [1, 1, 1], velocity: [0.5, 0.5, 0.5]}
  turn:
    fields: [pose.rotvec.x, pose.rotvec.y, pose.rotvec.z]
    unit: rad
    bounds: {lower: [-3, -3, -3], upper: [3, 3, 3], velocity: [1, 1, 1], acceleration: [5, 5, 5]}
  drive: {fields: [linear.x], unit: unitless, bounds: {lower: [-1], upper: [1], velocity: [2]}}
  hand: {fields: [data.0], unit: unitless, bounds: {lower: [0], upper: [1], velocity: [4]}, interpolation: linear}
  mode: {fields: [data.1], unit: unitless, bounds: {lower: [-1], upper: [1]}, interpolation: step}
language: {key: task}
delta_indices: {action: [0, 1]}
limits:
  a: {lower: -1.0, upper: 3.0, velocity: 1.0, acceleration: 2.0}
  b: {lower: -1.0, upper: 3.0, velocity: 1.0, acceleration: 2.0}
outputs:
  arm: {topic: /arm, type: trajectory_msgs/msg/JointTrajectory, keys: [arm]}
  tool: {topic: /target, type: geometry_msgs/msg/PoseStamped, keys: [place, turn]}
  drive: {topic: /cmd_vel, type: geometry_msgs/msg/Twist, keys: [drive]}
  switches: {topic: /switches, type: std_msgs/msg/Float64MultiArray, keys: [hand, mode]}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "bench.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def changed(old: str, new: str) -> str:
    assert BASE.count(old) == 1, "the edit must be unambiguous"
    return BASE.replace(old, new)


def line_of(text: str, marker: str) -> int:
    return text.count("\n", 0, text.index(marker)) + 1
