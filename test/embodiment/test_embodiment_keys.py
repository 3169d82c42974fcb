"""State and action keys of a YAML: poses, constants, fields with bounds, representations, normalisations, outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from groot_ros.embodiment.errors import EmbodimentError
from groot_ros.embodiment.load import load_embodiment
from groot_ros.embodiment.units import to_model, to_ros

BASE = """\
name: bench
embodiment_tag: new_embodiment
step_hz: 10.0
cameras:
  front: {topic: /front, type: sensor_msgs/msg/Image, width: 4, height: 4, rate_hz: 30.0, max_age_s: 0.2}
state_streams:
  joints: {topic: /joints, type: sensor_msgs/msg/JointState, rate_hz: 100.0, max_age_s: 0.1}
  tool: {topic: /tool, type: geometry_msgs/msg/PoseStamped, rate_hz: 100.0, max_age_s: 0.1}
  base: {topic: /odom, type: nav_msgs/msg/Odometry, rate_hz: 100.0, max_age_s: 0.1}
  wrench: {topic: /wrench, type: geometry_msgs/msg/WrenchStamped, rate_hz: 100.0, max_age_s: 0.1}
video:
  front: {camera: front}
state:
  hand: {stream: joints, joints: [a], unit: fraction, sign: [-1]}
  pose:
    stream: tool
    fields: [pose.position.x, pose.position.y, pose.position.z, pose.rotvec.x, pose.rotvec.y, pose.rotvec.z]
    unit: unitless
    tool_rotation: &turn [0.5, -0.5, 0.5, 0.5]
  heading: {stream: base, fields: [pose.pose.roll, pose.pose.pitch, pose.pose.yaw], unit: deg}
  force: {stream: wrench, fields: [wrench.force.x], unit: N}
  pad: {constant: [0.0, 1.5]}
action:
  hand: {joints: [a], unit: fraction, sign: [-1]}
  pose:
    fields: [pose.position.x, pose.position.y, pose.position.z, pose.rotvec.x, pose.rotvec.y, pose.rotvec.z]
    unit: unitless
    tool_rotation: *turn
    bounds: {lower: [-1, -1, 0, -3.2, -3.2, -3.2], upper: [1, 1, 1, 3.2, 3.2, 3.2]}
    representation: {rep: RELATIVE, type: EEF, format: XYZ_ROTVEC}
  drive:
    fields: [linear.x, angular.z]
    unit: signed_fraction
    bounds: {lower: [-0.5, -1.0], upper: [1.5, 1.0]}
    normalization: mean_std
  mode: {fields: [data.0], unit: unitless, bounds: {lower: [-1], upper: [1]}}
language: {key: task}
delta_indices: {action: [0, 1]}
limits:
  a: {lower: -1.0, upper: 3.0, velocity: 1.0}
outputs:
  hand: {topic: /hand, type: trajectory_msgs/msg/JointTrajectory, keys: [hand]}
  pose: {topic: /pose, type: geometry_msgs/msg/PoseStamped, keys: [pose]}
  drive: {topic: /cmd_vel, type: geometry_msgs/msg/Twist, keys: [drive]}
  mode: {topic: /mode, type: std_msgs/msg/Float64MultiArray, keys: [mode]}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "bench.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_base_of_these_tests_loads(tmp_path: Path) -> None:
    robot = load_embodiment(write(tmp_path, BASE))
    assert robot.action_joints == ["a"]
    assert robot.state["pad"].names == ["constant.0", "constant.1"]
    assert robot.action["pose"].names[3] == "pose.rotvec.x"


def test_shares_of_a_range_are_of_limits_or_bounds(tmp_path: Path) -> None:
    robot = load_embodiment(write(tmp_path, BASE))
    hand, drive = robot.action["hand"], robot.action["drive"]
    np.testing.assert_allclose(to_model(robot, hand, [[-1.0], [3.0], [2.0]]), [[1.0], [0.0], [0.25]], atol=1e-12)
    np.testing.assert_allclose(to_model(robot, drive, [[-0.5, -1.0], [1.0, 0.5]]), [[-1, -1], [0.5, 0.5]], atol=1e-12)
    np.testing.assert_allclose(to_ros(robot, drive, [[1.0, 0.0]]), [[1.5, 0.0]], atol=1e-12)


def test_constants_are_in_model_units_already(tmp_path: Path) -> None:
    robot = load_embodiment(write(tmp_path, BASE.replace("pad: {constant", "pad: {unit: deg, constant")))
    np.testing.assert_array_equal(to_model(robot, robot.state["pad"], [0.0, 1.5]), [0.0, 1.5])


RELATIVE = "representation: {rep: RELATIVE, type: EEF, format: XYZ_ROTVEC}"
# old text, new text, part of the YAML on whose line the problem is, what its message says
CASES = {
    "neither stream nor constant": (
        "hand: {stream: joints, joints: [a]",
        "hand: {joints: [a]",
        "hand: {joints: [a], unit: fraction, sign: [-1]}",
        "state.hand: expected stream, or constant, found neither",
    ),
    "constant with a stream": (
        "pad: {constant",
        "pad: {stream: joints, constant",
        "pad: {stream",
        "state.pad.stream: expected no stream for a constant key",
    ),
    "constant with a sign": (
        "constant: [0.0, 1.5]",
        "constant: [0.0, 1.5], sign: [1, 1]",
        "pad: {",
        "state.pad.sign: expected no sign for a constant key",
    ),
    "empty constant": ("constant: [0.0, 1.5]", "constant: []", "pad: {", "expected at least 1 entry"),
    "derived number of a message without a pose": (
        "[wrench.force.x]",
        "[wrench.yaw]",
        "force: {",
        "state.force.fields.0: expected a number of geometry_msgs/msg/WrenchStamped",
    ),
    "derived number in the wrong place": (
        "pose.pose.yaw]",
        "pose.yaw]",
        "heading: {",
        "state.heading.fields.2: expected a number of nav_msgs/msg/Odometry, found 'pose.yaw', did you mean",
    ),
    "degrees of a length": (
        "pose.pose.pitch, pose.pose.yaw]",
        "pose.pose.pitch, pose.pose.position.x]",
        "heading: {",
        "state.heading.unit: expected a unit that pose.pose.position.x can have, found 'deg'",
    ),
    "fraction of a pose": ("unit: N}", "unit: fraction}", "force: {", "expected a unit that needs no joint limits"),
    "short tool rotation": ("[0.5, -0.5, 0.5, 0.5]", "[0.5, 0.5, 0.5]", "tool_rotation:", "expected four numbers x, y"),
    "long tool rotation": (
        "[0.5, -0.5, 0.5, 0.5]",
        "[0.5, -0.5, 0.5, 0.9]",
        "tool_rotation:",
        "expected four numbers x, y, z, w of length 1",
    ),
    "tool rotation of joints": (
        "state:\n  hand: {stream: joints,",
        "state:\n  hand: {tool_rotation: [0, 0, 0, 1], stream: joints,",
        "tool_rotation: [0, 0, 0, 1]",
        "tool_rotation: expected it at a key with an orientation among its fields",
    ),
    "euler reading of joints": (
        "state:\n  hand: {stream: joints,",
        "state:\n  hand: {euler_reading: xyz_as_XYZ, stream: joints,",
        "euler_reading: xyz_as_XYZ",
        "state.hand.euler_reading: expected it at a key with an orientation among its fields",
    ),
    "euler reading of a constant": (
        "pad: {constant",
        "pad: {euler_reading: xyz_as_XYZ, constant",
        "pad: {euler_reading",
        "state.pad.euler_reading: expected no euler_reading for a constant key",
    ),
    "unknown euler reading": (
        "    tool_rotation: &turn",
        "    euler_reading: XYZ\n    tool_rotation: &turn",
        "euler_reading: XYZ",
        "state.pose.euler_reading: expected one of 'xyz_as_XYZ', found 'XYZ'",
    ),
    "euler reading of the state only": (
        "    tool_rotation: &turn",
        "    euler_reading: xyz_as_XYZ\n    tool_rotation: &turn",
        "  pose:\n    fields",
        "action.pose: expected the euler_reading of state.pose (xyz_as_XYZ), to which this key is relative, found none",
    ),
    "another tool rotation than the state's": (
        "tool_rotation: *turn",
        "tool_rotation: [0, 0, 0, 1]",
        "tool_rotation: [0, 0, 0, 1]",
        "action.pose.tool_rotation: expected the tool_rotation of state.pose ([0.5, -0.5, 0.5, 0.5])",
    ),
    "output of a key that is not commanded": (
        "mode: {fields",
        "mode: {command: false, fields",
        "keys: [mode]",
        "outputs.mode.keys.0: expected an action key that is commanded, found 'mode', which says command: false",
    ),
    "commanded key without an output": (
        "keys: [hand]}",
        "keys: [mode]}",
        "hand: {joints",
        "action.hand: expected an output that carries this key, found none, add 'hand' to the keys of an output, or",
    ),
    "joints and fields": (
        "fields: [data.0]",
        "joints: [b], fields: [data.0]",
        "mode: {joints",
        "action.mode: expected joints, or fields, found both",
    ),
    "neither joints nor fields": (
        "mode: {fields: [data.0], ",
        "mode: {",
        "mode: {unit",
        "action.mode: expected joints, or fields, found neither",
    ),
    "fields without bounds": (
        "unit: unitless, bounds: {lower: [-1], upper: [1]}}",
        "unit: unitless}",
        "mode: {fields",
        "action.mode: expected bounds of the fields, found none",
    ),
    "bounds of joints": (
        "action:\n  hand: {joints: [a]",
        "action:\n  hand: {bounds: {lower: [0], upper: [1]}, joints: [a]",
        "hand: {bounds",
        "action.hand.bounds: expected none for joints",
    ),
    "short bounds": (
        "[-0.5, -1.0]",
        "[-0.5]",
        "bounds: {lower: [-0.5]",
        "action.drive.bounds.lower: expected 2 numbers",
    ),
    "bounds swapped": (
        "[-0.5, -1.0]",
        "[-0.5, 1.0]",
        "bounds: {lower: [-0.5",
        "action.drive.bounds.lower.1: expected less than upper (1), found 1",
    ),
    "unknown key of bounds": (
        "bounds: {lower: [-1], upper",
        "bounds: {lower: [-1], uper",
        "mode: {fields",
        "action.mode.bounds.uper: expected one of acceleration, lower, upper, velocity, found unknown key 'uper', "
        "did you mean 'upper'?",
    ),
    "field of another message": (
        "[linear.x, angular.z]",
        "[twist.linear.x, angular.z]",
        "fields: [twist.linear.x",
        "action.drive.fields.0: expected a number of geometry_msgs/msg/Twist, which outputs.drive is",
    ),
    "index of an array": (
        "[data.0]",
        "[data.-1]",
        "mode: {fields",
        "action.mode.fields.0: expected a number of std_msgs",
    ),
    "field of two keys": (
        "keys: [drive]}",
        "keys: [drive, mode]}",
        "mode: {fields",
        "action.mode.fields.0: expected a number of geometry_msgs/msg/Twist",
    ),
    "joints on a twist": (
        "keys: [drive]}",
        "keys: [drive, hand]}",
        "keys: [drive",
        "outputs.drive.keys.1: expected an action key that no other output carries",
    ),
    "fields on a trajectory": (
        "type: geometry_msgs/msg/Twist,",
        "type: trajectory_msgs/msg/JointTrajectory,",
        "topic: /cmd_vel",
        "outputs.drive.keys.0: expected a key with joints, for an output of type trajectory_msgs",
    ),
    "joints on a pose": (
        "/hand, type: trajectory_msgs/msg/JointTrajectory",
        "/hand, type: geometry_msgs/msg/PoseStamped",
        "topic: /hand",
        "outputs.hand.keys.0: expected a key with fields, for an output of type geometry_msgs/msg/PoseStamped",
    ),
    "misspelt representation": (
        "rep: RELATIVE",
        "rep: RELATIV",
        "representation:",
        "representation.rep: expected one of 'RELATIVE', 'ABSOLUTE' or 'DELTA', found 'RELATIV', did you mean",
    ),
    "format of another width": (
        "format: XYZ_ROTVEC",
        "format: XYZ_ROT6D",
        "representation:",
        "action.pose.representation: expected 9 numbers for EEF format XYZ_ROT6D, found 6",
    ),
    "unknown reference": (
        RELATIVE,
        "representation: {rep: RELATIVE, state_key: poses}",
        "representation:",
        "action.pose.representation.state_key: expected a name from state",
    ),
    "reference of another width": (
        RELATIVE,
        "representation: {rep: RELATIVE, state_key: heading}",
        "representation:",
        "action.pose.representation: expected 6 numbers in state.heading, as in this key",
    ),
    "no reference": (
        "    normalization: mean_std\n",
        "    representation: {rep: RELATIVE}\n",
        "representation: {rep: RELATIVE}",
        "action.drive.representation: expected a state key to refer to",
    ),
    "reference in another unit": (
        "hand: {joints: [a], unit: fraction, sign: [-1]}",
        "hand: {joints: [a], unit: rad, representation: {rep: RELATIVE}}",
        "hand: {joints: [a], unit: rad",
        "action.hand.unit: expected the unit of state.hand (fraction), to which this key is relative",
    ),
    "action without an inverse": (
        "normalization: mean_std",
        "normalization: sin_cos",
        "normalization:",
        "action.drive.normalization: expected a normalisation with an inverse",
    ),
    "normalisation of N1.5": (
        "normalization: mean_std",
        "normalization: binary",
        "normalization:",
        "expected min_max, mean_std or sin_cos (for a file that holds for every generation), found 'binary'",
    ),
    "rotation of N1.5": (
        "pose.pose.yaw], unit: deg}",
        "pose.pose.yaw], target_rotation: rotation_6d}",
        "heading: {",
        "state.heading.target_rotation: expected none (for a file that holds for every generation)",
    ),
}


def problems(path: Path, generation: str | None = None) -> list[str]:
    with pytest.raises(EmbodimentError) as caught:
        load_embodiment(path, generation)
    return caught.value.lines


@pytest.mark.parametrize(("old", "new", "marker", "says"), CASES.values(), ids=CASES.keys())
def test_each_mistake_is_named_with_its_line(tmp_path: Path, old: str, new: str, marker: str, says: str) -> None:
    assert BASE.count(old) == 1, "the edit must be unambiguous"
    text = BASE.replace(old, new)
    line = text.count("\n", 0, text.index(marker)) + 1
    found = problems(write(tmp_path, text))
    assert any(f"bench.yaml:{line}: " in problem and says in problem for problem in found), "\n".join(found)
    assert all("expected" in problem and "found" in problem for problem in found)


def test_a_key_that_nobody_is_sent_is_in_no_output(tmp_path: Path) -> None:
    text = BASE.replace("mode: {fields", "mode: {command: false, fields")
    text = "".join(line for line in text.splitlines(keepends=True) if "topic: /mode" not in line)
    robot = load_embodiment(write(tmp_path, text))
    assert list(robot.action) == ["hand", "pose", "drive", "mode"], "the model gives it all the same"
    assert set(robot.outputs) == {"hand", "pose", "drive"}


def test_joints_that_are_not_commanded_may_be_another_key_s(tmp_path: Path) -> None:
    text = BASE.replace(
        "mode: {fields: [data.0], unit: unitless, bounds: {lower: [-1], upper: [1]}}", "mode: {joints: [a]}"
    )
    assert any(
        "action.mode.joints.0: expected a joint that no other" in line for line in problems(write(tmp_path, text))
    )
    text = text.replace("mode: {joints", "mode: {command: false, joints")
    text = "".join(line for line in text.splitlines(keepends=True) if "topic: /mode" not in line)
    robot = load_embodiment(write(tmp_path, text))
    assert robot.action_joints == ["a"]
    assert robot.action["mode"].commanded_joints == []


@pytest.mark.parametrize("unit", ["percent", "signed_percent", "fraction", "signed_fraction"])
def test_every_share_of_a_range_needs_limits(tmp_path: Path, unit: str) -> None:
    text = BASE.replace("joints: [a], unit: fraction, sign: [-1]}\n  pose", f"joints: [q], unit: {unit}}}\n  pose", 1)
    assert any(
        f"state.hand.joints.0: expected a joint with limits (unit {unit}" in p for p in problems(write(tmp_path, text))
    )


def test_what_only_n1d5_has_stands_under_it(tmp_path: Path) -> None:
    text = BASE.replace("normalization: mean_std", "normalization: binary").replace(RELATIVE, "normalization: min_max")
    text = text.replace("pose.pose.yaw], unit: deg}", "pose.pose.yaw], target_rotation: rotation_6d}")
    robot = load_embodiment(write(tmp_path, text), "n1d5")
    assert robot.state["heading"].target_rotation == "rotation_6d"
    assert {"binary" in p or "target_rotation" in p for p in problems(write(tmp_path, text), "n1d6")} == {True}


def test_a_rotation_that_is_written_in_another_way_has_a_fixed_range(tmp_path: Path) -> None:
    text = BASE.replace(RELATIVE, "normalization: none")
    text = text.replace(
        "pose.pose.yaw], unit: deg}", "pose.pose.yaw], target_rotation: rotation_6d, normalization: q99}"
    )
    [problem] = problems(write(tmp_path, text), "n1d5")
    assert "state.heading.normalization: expected min_max or none beside target_rotation, found 'q99'" in problem
    for mode in ("min_max", "none"):
        robot = load_embodiment(write(tmp_path, text.replace("normalization: q99", f"normalization: {mode}")), "n1d5")
        assert robot.state["heading"].normalization == mode


def test_n1d5_has_no_relative_actions(tmp_path: Path) -> None:
    [problem] = problems(write(tmp_path, BASE), "n1d5")
    assert "action.pose.representation.rep: expected ABSOLUTE (n1d5 has no other)" in problem


@pytest.mark.parametrize(
    ("fields", "fits"),
    [
        (["orientation.w", "orientation.x", "orientation.y", "orientation.z"], True),
        (["orientation.x", "orientation.y", "orientation.z", "orientation.w"], False),
        (["rotvec.x", "rotvec.y", "rotvec.z"], True),
        ([f"rot6d.{i}" for i in range(6)], True),
        (["roll", "yaw", "pitch"], False),
        (["roll", "pitch"], False),
    ],
)
def test_a_target_rotation_needs_a_whole_rotation_in_order(tmp_path: Path, fields: list[str], fits: bool) -> None:
    listed = ", ".join(f"pose.pose.{field}" for field in fields)
    text = BASE.replace(
        "heading: {stream: base, fields: [pose.pose.roll, pose.pose.pitch, pose.pose.yaw], unit: deg}",
        f"heading: {{stream: base, fields: [{listed}], target_rotation: rotation_6d}}",
    ).replace(RELATIVE, "normalization: min_max")
    path = write(tmp_path, text)
    if fits:
        assert load_embodiment(path, "n1d5").state["heading"].fields
    else:
        [problem] = problems(path, "n1d5")
        assert "expected it at a key whose fields are one whole rotation" in problem


def test_a_robot_without_commanded_joints_needs_no_limits(tmp_path: Path) -> None:
    start = BASE.index("limits:\n")
    text = BASE[:start] + BASE[BASE.index("outputs:\n") :]
    text = text.replace("  hand: {topic: /hand, type: trajectory_msgs/msg/JointTrajectory, keys: [hand]}\n", "")
    text = text.replace("action:\n  hand: {joints: [a], unit: fraction, sign: [-1]}\n", "action:\n")
    text = text.replace("unit: fraction, sign: [-1]}", "unit: rad}")
    robot = load_embodiment(write(tmp_path, text))
    assert robot.action_joints == [] and robot.limits == {}
