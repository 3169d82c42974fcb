"""Limits that a URDF gives where the YAML does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from groot_ros.embodiment.check import check_commandable
from groot_ros.embodiment.errors import EmbodimentError
from groot_ros.embodiment.load import load_embodiment
from groot_ros.embodiment.schema import Embodiment, JointLimit

YAML = """\
name: bench
embodiment_tag: new_embodiment
step_hz: 10.0
cameras:
  front: {topic: /front, type: sensor_msgs/msg/Image, width: 4, height: 4, rate_hz: 30.0, max_age_s: 0.2}
state_streams:
  joints: {topic: /joints, type: sensor_msgs/msg/JointState, rate_hz: 100.0, max_age_s: 0.1}
video:
  front: {camera: front}
state:
  arm: {stream: joints, joints: [turn, slide]}
  neck: {stream: joints, joints: [nod, unknown]}
action:
  arm:
    joints: [turn, slide]
language: {key: task}
delta_indices: {action: [0, 1]}
outputs:
  arm: {topic: /arm, type: trajectory_msgs/msg/JointTrajectory, keys: [arm]}
urdf: bench.urdf
limits:
  turn: {acceleration: 5.0}
  slide: {velocity: 0.1, acceleration: 1.0}
"""
LINKS = '<parent link="a"/><child link="b"/>'
URDF = f"""\
<?xml version="1.0"?>
<robot name="bench">
  <joint name="turn" type="revolute">{LINKS}<limit lower="-1.5" upper="2.5" velocity="3.0" effort="9"/></joint>
  <joint name="slide" type="prismatic">{LINKS}<limit lower="0" upper="0.25" velocity="2e0" effort="9"/></joint>
  <joint name="nod" type="revolute">{LINKS}<limit lower="-0.5" upper="0.5" velocity="1" effort="9"/></joint>
  <joint name="wheel" type="continuous">{LINKS}<limit velocity="4.0" effort="9"/></joint>
  <joint name="glued" type="fixed">{LINKS}</joint>
  <joint name="bare" type="revolute">{LINKS}</joint>
  <joint name="open" type="revolute">{LINKS}<limit upper="1.0" velocity="0" effort="9"/></joint>
  <joint name="typo" type="revolute">{LINKS}<limit lower="-1,5" upper="nan" velocity="fast" effort="9"/></joint>
  <ros2_control name="bench" type="system"><joint name="ghost"/></ros2_control>
</robot>
"""


def write(folder: Path, text: str = YAML, urdf: str = URDF) -> Path:
    (folder / "bench.urdf").write_text(urdf, encoding="utf-8")
    path = folder / "bench.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path) -> list[str]:
    with pytest.raises(EmbodimentError) as caught:
        load_embodiment(path)
    return caught.value.lines


def with_joint(joint: str, limits: str = "") -> str:
    """The robot of these tests with ``joint`` for ``turn``, and what ``limits`` says of it."""
    text = YAML.replace("[turn, slide]", f"[{joint}, slide]")
    return text.replace("  turn: {acceleration: 5.0}\n", f"  {joint}: {limits}\n" if limits else "")


def test_what_the_yaml_says_comes_before_the_urdf(tmp_path: Path) -> None:
    robot = load_embodiment(write(tmp_path))
    assert robot.limits["turn"] == JointLimit(lower=-1.5, upper=2.5, velocity=3.0, acceleration=5.0)
    assert robot.limits["slide"] == JointLimit(lower=0.0, upper=0.25, velocity=0.1, acceleration=1.0)
    check_commandable(robot)


def test_joints_that_are_only_read_get_what_there_is(tmp_path: Path) -> None:
    limits = load_embodiment(write(tmp_path)).limits
    assert limits["nod"] == JointLimit(lower=-0.5, upper=0.5, velocity=1.0)
    assert "unknown" not in limits and "wheel" not in limits


def test_limits_may_be_left_out_but_not_the_acceleration(tmp_path: Path) -> None:
    text = YAML[: YAML.index("limits:")]
    robot = load_embodiment(write(tmp_path, text))
    assert robot.limits["turn"] == JointLimit(lower=-1.5, upper=2.5, velocity=3.0)
    with pytest.raises(EmbodimentError) as caught:
        check_commandable(robot)
    assert len(caught.value.lines) == 2
    assert "bench.yaml:15: action.arm.joints.0: expected an acceleration of joint 'turn'" in caught.value.lines[0]
    assert "add acceleration to limits.turn" in caught.value.lines[0]


@pytest.mark.parametrize("said", ["{folder}/bench.urdf", "./bench.urdf", "package://bench_description/urdf/bench.urdf"])
def test_the_file_may_be_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    share = tmp_path / "prefix" / "share" / "bench_description" / "urdf"
    share.mkdir(parents=True)
    (share / "bench.urdf").write_text(URDF, encoding="utf-8")
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{tmp_path / 'other'}:{tmp_path / 'prefix'}")
    text = YAML.replace("urdf: bench.urdf", f"urdf: {said.format(folder=tmp_path)}")
    assert load_embodiment(write(tmp_path, text)).limits["turn"].upper == 2.5


def test_a_generation_may_name_a_urdf_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "other.urdf").write_text(URDF.replace('upper="2.5"', 'upper="2.0"'), encoding="utf-8")
    path = write(tmp_path, YAML + "generations:\n  n1d6:\n  n1d7:\n    urdf: other.urdf\n")
    assert load_embodiment(path, "n1d6").limits["turn"].upper == 2.5
    assert load_embodiment(path, "n1d7").limits["turn"].upper == 2.0


# what stands for bench.urdf in the YAML, what is in bench.urdf, what the message says
FILES = {
    "no such file": ("robot.urdf", URDF, "expected an existing URDF file, found {folder}/robot.urdf, which is none"),
    "a folder": (".", URDF, "expected an existing URDF file"),
    "unknown package": ("package://nobody/x.urdf", URDF, "found 'package://nobody/x.urdf', which is not in"),
    "no XML": (
        "bench.urdf",
        URDF.replace("</robot>", ""),
        "expected XML in {folder}/bench.urdf, found no element found",
    ),
    "not a robot": (
        "bench.urdf",
        "<sdf/>",
        "expected a URDF with <robot> at its root in {folder}/bench.urdf, found <sdf>",
    ),
    "not expanded": (
        "bench.urdf",
        '<robot xmlns:xacro="http://www.ros.org/wiki/xacro"><xacro:arm/></robot>',
        "expected a plain URDF in {folder}/bench.urdf, found xacro, expand it",
    ),
}


@pytest.mark.parametrize(("said", "urdf", "says"), FILES.values(), ids=FILES.keys())
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, urdf: str, says: str
) -> None:
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    [line] = refused(write(tmp_path, YAML.replace("urdf: bench.urdf", f"urdf: {said}"), urdf))
    assert "bench.yaml:20: urdf: " in line and says.format(folder=tmp_path) in line


# joint in place of turn, what limits says of it, what the messages say
JOINTS = {
    "unknown": (
        "trun",
        "",
        ["lower and upper and velocity of joint 'trun' in {urdf}, found no such joint, did you mean"],
    ),
    "in a ros2_control block only": ("ghost", "", ["of joint 'ghost' in {urdf}, found no such joint"]),
    "fixed": ("glued", "", ["of joint 'glued' in {urdf}, found a joint of type fixed"]),
    "continuous": (
        "wheel",
        "{acceleration: 1.0}",
        [
            "a finite lower of joint 'wheel' in {urdf}, found a continuous joint, whose <limit> has none, write lower",
            "a finite upper of joint 'wheel' in {urdf}, found a continuous joint, whose <limit> has none, write upper",
        ],
    ),
    "without a limit": (
        "bare",
        "",
        [f"a {what} of joint 'bare' in {{urdf}}" for what in ("finite lower", "finite upper", "velocity above 0")],
    ),
    "with half a limit": (
        "open",
        "",
        ["a finite lower of joint 'open' in {urdf}", "a velocity above 0 of joint 'open' in {urdf}, found '0'"],
    ),
    "with no numbers": (
        "typo",
        "",
        ["of joint 'typo' in {urdf}, found '-1,5'", "found 'nan'", "found 'fast', write velocity under limits.typo"],
    ),
}


@pytest.mark.parametrize(("joint", "limits", "says"), JOINTS.values(), ids=JOINTS.keys())
def test_a_joint_that_the_urdf_cannot_limit_is_named(tmp_path: Path, joint: str, limits: str, says: list[str]) -> None:
    text = with_joint(joint, limits)
    found = refused(write(tmp_path, text))
    place = f"limits.{joint}" if limits else "action.arm.joints.0"
    number = text.count("\n", 0, text.index(f"  {joint}: " if limits else f"    joints: [{joint}")) + 1
    assert len(found) == len(says)
    for line, said in zip(found, says, strict=True):
        assert f"bench.yaml:{number}: {place}: expected " in line, line
        assert said.format(urdf=tmp_path / "bench.urdf") in line, line


def test_a_continuous_joint_with_bounds_in_the_yaml_is_taken(tmp_path: Path) -> None:
    text = with_joint("wheel", "{lower: -6.0, upper: 6.0, acceleration: 1.0}")
    assert load_embodiment(write(tmp_path, text)).limits["wheel"].velocity == 4.0


def test_bounds_of_yaml_and_urdf_that_cross_are_refused(tmp_path: Path) -> None:
    text = YAML.replace("turn: {acceleration", "turn: {lower: 3.0, acceleration")
    [line] = refused(write(tmp_path, text))
    assert "bench.yaml:22: limits.turn.lower: expected less than upper (2.5), found 3" in line


@pytest.mark.parametrize("section", ["limits: 3", "limits:\n  turn: 3", "limits:\n  turn: {lower: low}", "limits:"])
def test_malformed_limits_are_the_schema_s_to_refuse(tmp_path: Path, section: str) -> None:
    found = refused(write(tmp_path, YAML[: YAML.index("limits:")] + section + "\n"))
    assert any(": limits" in line for line in found)


@pytest.mark.parametrize("said", ["3", "''", "[]"])
def test_a_urdf_that_is_no_path_is_refused(tmp_path: Path, said: str) -> None:
    found = refused(write(tmp_path, YAML.replace("urdf: bench.urdf", f"urdf: {said}")))
    assert any("bench.yaml:20: urdf: expected text" in line for line in found)


def test_a_robot_built_in_python_reads_no_file(tmp_path: Path) -> None:
    robot = load_embodiment(write(tmp_path))
    (tmp_path / "bench.urdf").unlink()
    assert Embodiment.model_validate(robot.model_dump()).limits == robot.limits
