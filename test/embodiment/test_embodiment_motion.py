"""How a robot's commands are paced and move: control, gate, interpolation, rest, and what commanding it needs."""

from __future__ import annotations

from pathlib import Path

import pytest
from moving_robot import BASE, changed, line_of, write

from groot_ros.embodiment.check import check_commandable
from groot_ros.embodiment.errors import EmbodimentError
from groot_ros.embodiment.load import load_embodiment
from groot_ros.embodiment.motion import interpolation, measured_key, rests_at_zero


def refused(text: str, tmp_path: Path, generation: str | None = None) -> list[str]:
    with pytest.raises(EmbodimentError) as caught:
        load_embodiment(write(tmp_path, text), generation)
    return caught.value.lines


def test_what_is_left_out_is_guided_at_50_hz_and_stops_at_a_jump(tmp_path: Path) -> None:
    robot = load_embodiment(write(tmp_path, BASE))
    assert (robot.control.rate_hz, robot.control.chunking, robot.control.blend_in_s) == (50.0, "guided", 0.5)
    assert {robot.gate.position, robot.gate.velocity, robot.gate.acceleration} == {"clamp"}
    assert (robot.gate.start_jump, robot.gate.start_jump_share) == ("stop", 0.25)
    assert (robot.gate.training_range, robot.gate.training_slack) == ("refuse", 0.5)


def test_the_sections_are_read_and_may_differ_between_generations(tmp_path: Path) -> None:
    text = BASE + "control: {rate_hz: 100.0, chunking: blend, blend_in_s: 0}\ngate: {position: stop}\n"
    text += "generations:\n  n1d6:\n  n1d7:\n    control: {chunking: native}\n    gate: {training_range: off}\n"
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
    "true": (
        "gate: {training_range: on}",
        "gate.training_range: expected one of 'refuse', 'stop' or 'off', found True",
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
