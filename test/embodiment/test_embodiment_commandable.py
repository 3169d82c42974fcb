"""What a robot's YAML must say before anything is commanded, and how what it lacks is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from moving_robot import BASE, changed, line_of, write

from groot_ros.embodiment.check import check_commandable
from groot_ros.embodiment.errors import EmbodimentError
from groot_ros.embodiment.load import load_embodiment


def test_a_robot_that_says_all_of_this_can_be_commanded(tmp_path: Path) -> None:
    check_commandable(load_embodiment(write(tmp_path, BASE)))


# old text, new text, where the line is, what its message says; each loads, for a dry run
UNMOVED = {
    "joint without acceleration": (
        "b: {lower: -1.0, upper: 3.0, velocity: 1.0, acceleration: 2.0}",
        "b: {lower: -1.0, upper: 3.0, velocity: 1.0}",
        "  b: {",
        "limits.b: expected an acceleration of joint 'b' (rad/s^2 or m/s^2), found none, add acceleration to limits.b",
    ),
    "joint that is not measured": (
        "arm: {stream: joints, joints: [a, b]}",
        "arm: {stream: joints, joints: [a, bb]}",
        "  arm: {joints: [a, b]}",
        "action.arm.joints.1: expected a joint whose position a state key holds (a, bb), found 'b', which none does",
    ),
    "joint whose velocity is measured": (
        "arm: {stream: joints, joints: [a, b]}",
        "arm: {stream: joints, joints: [a, b], field: velocity, unit: rad/s}",
        "  arm: {joints: [a, b]}",
        "action.arm.joints.0: expected a joint whose position a state key holds ((none)), found 'a'",
    ),
    "field without speed": (
        "upper: [1], velocity: [2]}",
        "upper: [1]}",
        "drive: {fields",
        "action.drive.bounds: expected velocity, the highest change per second of linear.x, found none, add velocity",
    ),
    "switch that is none": (
        ", interpolation: step}",
        "}",
        "mode: {fields",
        "action.mode.bounds: expected velocity, the highest change per second of data.1",
    ),
    "array with a hole": (
        "fields: [data.1]",
        "fields: [data.3]",
        "switches: {topic",
        "outputs.switches.keys: expected fields data.0 to data.3 without a hole, found none that is data.1, data.2",
    ),
    "array that begins late": (
        "fields: [data.0]",
        "fields: [data.2]",
        "switches: {topic",
        "outputs.switches.keys: expected fields data.0 to data.2 without a hole, found none that is data.0",
    ),
    "pose without a height": (
        "[pose.position.x, pose.position.y, pose.position.z]\n    unit: m\n"
        "    bounds: {lower: [-1, -1, 0], upper: [1, 1, 1], velocity: [0.5, 0.5, 0.5]}",
        "[pose.position.x, pose.position.y]\n    unit: m\n"
        "    bounds: {lower: [-1, -1], upper: [1, 1], velocity: [0.5, 0.5]}",
        "tool: {topic: /target",
        "outputs.tool.keys: expected a whole position, pose.position.x, y and z, found no pose.position.z",
    ),
    "pose with part of a turn": (
        "[pose.rotvec.x, pose.rotvec.y, pose.rotvec.z]\n    unit: rad\n"
        "    bounds: {lower: [-3, -3, -3], upper: [3, 3, 3], velocity: [1, 1, 1], acceleration: [5, 5, 5]}",
        "[pose.yaw]\n    unit: rad\n    bounds: {lower: [-3], upper: [3], velocity: [1]}",
        "tool: {topic: /target",
        "outputs.tool.keys: expected one whole orientation in one key",
    ),
    "pose of increments": (
        "    unit: m\n    bounds",
        "    unit: m\n    at_rest: zero\n    bounds",
        "    at_rest: zero",
        "action.place.at_rest: expected numbers of a pose, which a stop holds, found increments (at_rest: zero)",
    ),
    "pose that is not measured": (
        "turn: {stream: tool, fields: [pose.rotvec.x, pose.rotvec.y, pose.rotvec.z], unit: rad}",
        "turn: {stream: tool, fields: [pose.roll, pose.pitch, pose.yaw], unit: rad}",
        "    fields: [pose.rotvec.x",
        "action.turn.fields: expected a state key with the same fields in the same order",
    ),
}


@pytest.mark.parametrize(("old", "new", "marker", "says"), UNMOVED.values(), ids=UNMOVED.keys())
def test_what_keeps_a_robot_from_moving_is_named(tmp_path: Path, old: str, new: str, marker: str, says: str) -> None:
    text = changed(old, new)
    robot = load_embodiment(write(tmp_path, text))
    with pytest.raises(EmbodimentError) as caught:
        check_commandable(robot)
    found = caught.value.lines
    assert any(f"bench.yaml:{line_of(text, marker)}: " in line and says in line for line in found), "\n".join(found)
    assert all("dry_run:=true" in line for line in found)


def test_an_array_carries_joints_or_fields(tmp_path: Path) -> None:
    text = changed("keys: [hand, mode]", "keys: [arm, hand, mode]")
    text = "".join(line for line in text.splitlines(keepends=True) if "topic: /arm" not in line)
    with pytest.raises(EmbodimentError) as caught:
        check_commandable(load_embodiment(write(tmp_path, text)))
    [line] = caught.value.lines
    assert (
        f"bench.yaml:{line_of(text, 'switches:')}: outputs.switches.keys: expected keys with joints, or keys with"
        in line
    )
    alone = text.replace("keys: [arm, hand, mode]", "keys: [hand, mode]").replace(
        "outputs:\n", "outputs:\n  arm: {topic: /arm, type: std_msgs/msg/Float64MultiArray, keys: [arm]}\n"
    )
    check_commandable(load_embodiment(write(tmp_path, alone)))


@pytest.mark.parametrize(
    ("fields", "whole"),
    [
        (["roll", "pitch", "yaw"], True),
        (["yaw", "roll", "pitch"], True),
        (["rot6d.3", "rot6d.0", "rot6d.1", "rot6d.2", "rot6d.4", "rot6d.5"], True),
        (["orientation.w", "orientation.x", "orientation.y", "orientation.z"], True),
        (["orientation.x", "orientation.y", "orientation.z"], False),
        (["roll", "pitch", "yaw", "rotvec.x"], False),
        (["rotvec.x", "rotvec.y", "yaw"], False),
    ],
)
def test_a_pose_has_one_whole_orientation(tmp_path: Path, fields: list[str], whole: bool) -> None:
    paths = ", ".join(f"pose.{field}" for field in fields)
    text = BASE.replace("pose.rotvec.x, pose.rotvec.y, pose.rotvec.z", paths).replace("unit: rad", "unit: unitless")
    numbers = [f"[{', '.join([number] * len(fields))}]" for number in ("-3", "3", "1")]
    text = text.replace(
        "bounds: {lower: [-3, -3, -3], upper: [3, 3, 3], velocity: [1, 1, 1], acceleration: [5, 5, 5]}",
        "bounds: {{lower: {}, upper: {}, velocity: {}}}".format(*numbers),
    )
    robot = load_embodiment(write(tmp_path, text))
    if whole:
        check_commandable(robot)
        return
    with pytest.raises(EmbodimentError, match="expected one whole orientation in one key") as caught:
        check_commandable(robot)
    assert len(caught.value.lines) == 1


def test_an_orientation_in_two_keys_is_refused(tmp_path: Path) -> None:
    turn = BASE[BASE.index("  turn:\n") : BASE.index("  drive:")]
    parts = "".join(
        f"  {name}: {{fields: [pose.rotvec.{axis}], unit: rad, bounds: {{lower: [-3], upper: [3], velocity: [1]}}}}\n"
        for name, axis in (("u", "x"), ("v", "y"), ("w", "z"))
    )
    states = "".join(f"  s{axis}: {{stream: tool, fields: [pose.rotvec.{axis}], unit: rad}}\n" for axis in "xyz")
    text = BASE.replace(turn, parts).replace("keys: [place, turn]", "keys: [place, u, v, w]")
    text = text.replace("action:\n", states + "action:\n")
    with pytest.raises(EmbodimentError) as caught:
        check_commandable(load_embodiment(write(tmp_path, text)))
    [line] = caught.value.lines
    assert "found pose.rotvec.x in action.u, pose.rotvec.y in action.v, pose.rotvec.z in action.w" in line


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    text = BASE.replace(", acceleration: 2.0", "").replace("fields: [data.1]", "fields: [data.2]")
    with pytest.raises(EmbodimentError) as caught:
        check_commandable(load_embodiment(write(tmp_path, text)))
    assert [line.split(": ")[1] for line in caught.value.lines] == ["limits.a", "limits.b", "outputs.switches.keys"]


def test_what_nobody_is_sent_needs_nothing(tmp_path: Path) -> None:
    text = changed(
        "drive: {fields: [linear.x], unit: unitless,", "drive: {command: false, fields: [linear.x], unit: unitless,"
    )
    text = "".join(line for line in text.splitlines(keepends=True) if "topic: /cmd_vel" not in line)
    check_commandable(load_embodiment(write(tmp_path, text.replace("upper: [1], velocity: [2]}", "upper: [1]}"))))
