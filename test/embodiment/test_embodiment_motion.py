"""How a robot's commands are paced and move: control, gate, interpolation, rest, and what commanding it needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from groot_ros.embodiment.check import check_commandable
from groot_ros.embodiment.errors import EmbodimentError
from groot_ros.embodiment.load import load_embodiment
from groot_ros.embodiment.motion import interpolation, measured_key, rests_at_zero

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


def refused(text: str, tmp_path: Path, generation: str | None = None) -> list[str]:
    with pytest.raises(EmbodimentError) as caught:
        load_embodiment(write(tmp_path, text), generation)
    return caught.value.lines


def line_of(text: str, marker: str) -> int:
    return text.count("\n", 0, text.index(marker)) + 1


def test_what_is_left_out_is_guided_at_50_hz_and_stops_at_a_jump(tmp_path: Path) -> None:
    robot = load_embodiment(write(tmp_path, BASE))
    assert (robot.control.rate_hz, robot.control.chunking, robot.control.blend_in_s) == (50.0, "guided", 0.5)
    assert {robot.gate.position, robot.gate.velocity, robot.gate.acceleration} == {"clamp"}
    assert (robot.gate.start_jump, robot.gate.start_jump_share) == ("stop", 0.25)
    assert (robot.gate.training_range, robot.gate.training_slack) == ("refuse", 0.5)


def test_the_sections_are_read_and_may_differ_between_generations(tmp_path: Path) -> None:
    text = BASE + "control: {rate_hz: 100.0, chunking: blend, blend_in_s: 0}\ngate: {position: stop}\n"
    text += "generations:\n  n1d6:\n  n1d7:\n    control: {chunking: native}\n    gate: {training_range: 'off'}\n"
    old, new = (load_embodiment(write(tmp_path, text), name) for name in ("n1d6", "n1d7"))
    assert (old.control.rate_hz, old.control.chunking, old.gate.position) == (100.0, "blend", "stop")
    assert (new.control.rate_hz, new.control.chunking, new.gate.position) == (50.0, "native", "clamp")
    assert new.gate.training_range == "off"


# text at the end of the file, what its message says
SECTIONS = {
    "slower than the model": (
        "control: {rate_hz: 5.0}",
        "control.rate_hz: expected a control rate of at least step_hz, 10",
    ),
    "another way of chunking": ("control: {chunking: guide}", "control.chunking: expected one of 'guided'"),
    "blends into the past": (
        "control: {blend_in_s: -1.0}",
        "control.blend_in_s: expected a number that is not below 0",
    ),
    "no rate": ("control: {rate_hz: 0}", "control.rate_hz: expected a number greater than 0"),
    "misspelt rule": ("gate: {accelerations: stop}", "found unknown key 'accelerations', did you mean 'acceleration'?"),
    "unquoted off": (
        "gate: {training_range: off}",
        "gate.training_range: expected one of 'refuse', 'stop' or 'off', found",
    ),
    "share of nothing": ("gate: {start_jump_share: 0.0}", "gate.start_jump_share: expected a number greater than 0"),
    "share above all": (
        "gate: {start_jump_share: 1.5}",
        "gate.start_jump_share: expected a number that is not above 1",
    ),
}


@pytest.mark.parametrize(("section", "says"), SECTIONS.values(), ids=SECTIONS.keys())
def test_a_mistake_in_a_section_is_named_with_its_line(tmp_path: Path, section: str, says: str) -> None:
    [line] = refused(BASE + section + "\n", tmp_path)
    assert f"bench.yaml:{line_of(BASE + section, section)}: " in line and says in line


def test_a_model_faster_than_the_default_rate_is_told_so_at_step_hz(tmp_path: Path) -> None:
    [line] = refused(changed("step_hz: 10.0", "step_hz: 60.0"), tmp_path)
    assert "bench.yaml:3: step_hz: expected a control rate of at least step_hz, 60 Hz, found 50 Hz, the default" in line
    assert "raise control.rate_hz to 60 or more" in line
    load_embodiment(write(tmp_path, changed("step_hz: 10.0", "step_hz: 60.0\ncontrol: {rate_hz: 60.0}")))


@pytest.mark.parametrize("generation", ["n1d5", "n1d6"])
def test_native_is_refused_where_the_checkpoint_cannot(tmp_path: Path, generation: str) -> None:
    text = BASE + "control: {chunking: native}\n"
    [line] = refused(text, tmp_path, generation)
    assert f"bench.yaml:{line_of(text, 'control:')}: control.chunking: expected a way that {generation} knows" in line
    assert load_embodiment(write(tmp_path, text), "n1d7").control.chunking == "native"


# old text, new text, where the line is, what its message says
KEYS = {
    "speeds of fewer fields": (
        "velocity: [0.5, 0.5, 0.5]",
        "velocity: [0.5, 0.5]",
        "velocity: [0.5, 0.5]",
        "action.place.bounds.velocity: expected 3 numbers, one per field, found 2",
    ),
    "accelerations of more fields": (
        "acceleration: [5, 5, 5]",
        "acceleration: [5, 5, 5, 5]",
        "acceleration: [5",
        "action.turn.bounds.acceleration: expected 3 numbers, one per field, found 4",
    ),
    "no speed": (
        "velocity: [4]",
        "velocity: [0]",
        "velocity: [0]",
        "action.hand.bounds.velocity.0: expected a number greater than 0",
    ),
    "an orientation in parts": (
        "velocity: [1, 1, 1]",
        "velocity: [1, 2, 1]",
        "velocity: [1, 2, 1]",
        "action.turn.bounds.velocity: expected one number for all fields of the orientation",
    ),
    "another interpolation": (
        "interpolation: step",
        "interpolation: steps",
        "interpolation: steps",
        "action.mode.interpolation: expected one of 'cubic', 'linear' or 'step', found 'steps', did you mean 'step'?",
    ),
    "joints at zero": (
        "  arm: {joints: [a, b]}\n",
        "  arm: {joints: [a, b], at_rest: zero}\n",
        "at_rest: zero",
        "action.arm.at_rest: expected hold for joints",
    ),
    "a twist that cannot rest": (
        "bounds: {lower: [-1], upper: [1], velocity: [2]}",
        "bounds: {lower: [0.1], upper: [1], velocity: [2]}",
        "lower: [0.1]",
        "action.drive.bounds.lower.0: expected bounds of linear.x around 0, which a stop commands",
    ),
    "a number that is said to rest at zero": (
        "bounds: {lower: [0], upper: [1], velocity: [4]}",
        "at_rest: zero, bounds: {lower: [-2], upper: [-1], velocity: [4]}",
        "at_rest: zero",
        "action.hand.bounds.upper.0: expected bounds of data.0 around 0",
    ),
}


@pytest.mark.parametrize(("old", "new", "marker", "says"), KEYS.values(), ids=KEYS.keys())
def test_a_mistake_in_a_key_is_named_with_its_line(tmp_path: Path, old: str, new: str, marker: str, says: str) -> None:
    text = changed(old, new)
    [line] = refused(text, tmp_path)
    assert f"bench.yaml:{line_of(text, marker)}: " in line and says in line


def test_a_twist_that_holds_may_have_any_bounds(tmp_path: Path) -> None:
    text = changed(
        "bounds: {lower: [-1], upper: [1], velocity: [2]}", "at_rest: hold, bounds: {lower: [1], upper: [2]}"
    )
    assert not rests_at_zero(load_embodiment(write(tmp_path, text)), "drive")


def test_how_a_key_moves_follows_from_its_numbers_unless_it_is_said(tmp_path: Path) -> None:
    text = changed("  arm: {joints: [a, b]}\n", "  arm: {joints: [a, b], normalization: binary}\n")
    robot = load_embodiment(write(tmp_path, text), "n1d5")
    assert [interpolation(robot, key) for key in robot.action] == ["step", "cubic", "cubic", "cubic", "linear", "step"]
    said = text.replace("normalization: binary", "normalization: binary, interpolation: cubic")
    assert interpolation(load_embodiment(write(tmp_path, said), "n1d5"), "arm") == "cubic"


def test_speeds_rest_at_zero_and_positions_where_they_are(tmp_path: Path) -> None:
    robot = load_embodiment(write(tmp_path, BASE))
    assert [key for key in robot.action if rests_at_zero(robot, key)] == ["drive"]
    wheels = changed("hand: {fields: [data.0], unit: unitless", "hand: {fields: [data.0], unit: rad/s")
    assert rests_at_zero(load_embodiment(write(tmp_path, wheels)), "hand")
    said = wheels.replace("unit: rad/s", "unit: rad/s, at_rest: hold")
    assert not rests_at_zero(load_embodiment(write(tmp_path, said)), "hand")
    said = changed("mode: {fields", "mode: {at_rest: zero, fields")
    assert rests_at_zero(load_embodiment(write(tmp_path, said)), "mode")


def test_the_measured_pose_is_the_one_that_is_named_else_that_of_the_same_fields(tmp_path: Path) -> None:
    other = "  copy: {stream: tool, fields: [pose.position.x, pose.position.y, pose.position.z], unit: m}\n"
    text = changed("  turn: {stream", other + "  turn: {stream")
    robot = load_embodiment(write(tmp_path, text))
    assert [measured_key(robot, key) for key in robot.action] == [None, "place", "turn", None, None, None]
    named = text.replace("    unit: m\n", "    unit: m\n    representation: {rep: RELATIVE, state_key: copy}\n")
    assert measured_key(load_embodiment(write(tmp_path, named)), "place") == "copy"
    misnamed = named.replace("state_key: copy", "state_key: turn").replace("unit: rad}", "unit: m}")
    misnamed = misnamed.replace("unit: m}\naction", "unit: unitless}\naction").replace(
        "    unit: m\n    rep", "    unit: unitless\n    rep"
    )
    assert measured_key(load_embodiment(write(tmp_path, misnamed)), "place") is None, "a rotation measures no position"


def test_the_pose_of_an_odometry_measures_that_of_a_pose(tmp_path: Path) -> None:
    text = changed(
        "tool: {topic: /tool, type: geometry_msgs/msg/PoseStamped", "tool: {topic: /t, type: nav_msgs/msg/Odometry"
    )
    start, end = text.index("state:\n"), text.index("action:\n")
    text = text[:start] + text[start:end].replace("pose.", "pose.pose.") + text[end:]
    robot = load_embodiment(write(tmp_path, text))
    assert (measured_key(robot, "place"), measured_key(robot, "turn")) == ("place", "turn")
    check_commandable(robot)


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


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("keys: [arm]}", "keys: [arms]}", "found 'arms', did you mean 'arm'?"),
        ("keys: [arm]}", "keys: [arm, a]}", "found 'a', which is a joint of action.arm, name the key: arm"),
        (
            "  arm: {joints: [a, b]}\n",
            "  arm: {joints: [a, q]}\n",
            "expected a joint with limits, found 'q', which has none",
        ),
    ],
)
def test_a_group_that_names_an_unknown_joint_is_refused_by_name(tmp_path: Path, old: str, new: str, says: str) -> None:
    text = changed(old, new)
    found = refused(text, tmp_path)
    assert any(f"bench.yaml:{line_of(text, new.strip())}: " in line and says in line for line in found), "\n".join(
        found
    )
