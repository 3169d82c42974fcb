"""Controls: what they change and what they leave, for every robot that ships, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from groot_ros.closed_loop.controls import CONTROLS, write_control
from groot_ros.embodiment.errors import EmbodimentError
from groot_ros.embodiment.load import available_embodiments, embodiment_generations, load_embodiment
from groot_ros.embodiment.schema import Embodiment
from groot_ros.embodiment.units import to_model

CHANGED = {"cameras": {"video", "description"}, "joints": {"state", "action", "gate", "description"}}
ROBOTS = list(available_embodiments())


def test_cameras_are_swapped(tmp_path: Path) -> None:
    robot = load_embodiment("sim_arm")
    control = load_embodiment(write_control("sim_arm", "cameras", tmp_path / "control.yaml"))
    assert {key: spec.camera for key, spec in control.video.items()} == {"front": "wrist", "wrist": "front"}
    assert control.cameras == robot.cameras
    assert "front sees wrist" in control.description


def test_joints_are_permuted_by_the_seed_in_state_and_action(tmp_path: Path) -> None:
    robot = load_embodiment("sim_arm")
    seen = set()
    for seed in range(5):
        control = load_embodiment(write_control("sim_arm", "joints", tmp_path / "control.yaml", seed=seed))
        text = (tmp_path / "control.yaml").read_text()
        write_control("sim_arm", "joints", tmp_path / "again.yaml", seed=seed)
        assert (tmp_path / "again.yaml").read_text() == text
        before, after = robot.state["single_arm"].joints, control.state["single_arm"].joints
        assert before is not None and after is not None
        assert sorted(after) == sorted(before)
        assert not [a for a, b in zip(before, after, strict=True) if a == b]
        assert control.action["single_arm"].joints == after
        assert control.state["gripper"].joints == control.action["gripper"].joints == ["gripper"]
        assert control.limits == robot.limits
        assert control.gate.training_range == "off"
        assert control.gate.start_jump == robot.gate.start_jump
        seen.add(tuple(after))
    assert len(seen) > 2


def shared(robot: Embodiment, left_out: set[str]) -> dict[str, object]:
    return {name: value for name, value in robot.model_dump().items() if name not in left_out}


@pytest.mark.parametrize("name", ROBOTS)
@pytest.mark.parametrize("control", CONTROLS)
def test_every_robot_loads_under_a_control_or_says_why_not(name: str, control: str, tmp_path: Path) -> None:
    """Nothing but the control's own sections may change; keys, widths and units stay the checkpoint's."""
    generation = (embodiment_generations(name) or (None,))[0]
    robot = load_embodiment(name, generation)
    cameras = {spec.camera for spec in robot.video.values()} | set(robot.scene_cameras)
    arms = [spec for spec in robot.action.values() if len(spec.joints or []) >= 2]
    target = tmp_path / "control.yaml"
    if len(cameras) < 2 and control == "cameras":
        with pytest.raises(EmbodimentError, match=r"video: .* expected two cameras.*use the control joints"):
            write_control(name, control, target, generation=generation)
        return
    if not arms and control == "joints":
        with pytest.raises(EmbodimentError, match=r"action: .*two joints.*use the control cameras"):
            write_control(name, control, target, generation=generation)
        return
    write_control(name, control, target, generation=generation)
    changed = load_embodiment(target)
    left_out = CHANGED[control] | {"urdf"}
    if len(robot.cameras) == 1 and control == "cameras":  # the other one comes from the scene
        left_out |= {"cameras", "scene_cameras"}
        assert list(changed.cameras) == list(robot.scene_cameras)
    assert shared(changed, left_out) == shared(robot, left_out)
    assert changed.video.keys() == robot.video.keys()
    for section in ("state", "action"):
        old, new = getattr(robot, section), getattr(changed, section)
        assert {key: len(spec.names) for key, spec in new.items()} == {
            key: len(spec.names) for key, spec in old.items()
        }
        assert {key: spec.unit for key, spec in new.items()} == {key: spec.unit for key, spec in old.items()}
        moved = [key for key in old if old[key].names != new[key].names]
        assert bool(moved) == (control == "joints")


def test_calibration_and_generations_and_urdf_follow(tmp_path: Path) -> None:
    """A joint keeps the numbers that the model has for it, in another place."""
    data = yaml.safe_load(available_embodiments()["sim_arm"].read_text())
    joints = data["state"]["single_arm"]["joints"]
    data["state"]["single_arm"] |= {"sign": [1, -1, 1, 1, -1], "offset": [0.1, 0.2, 0.3, 0.4, 0.5], "unit": "deg"}
    (tmp_path / "robot").mkdir()
    limits = "".join(
        f'<joint name="{joint}" type="revolute"><parent link="a"/><limit lower="-2" upper="1.8" velocity="2"/></joint>'
        for joint in joints
    )
    (tmp_path / "robot" / "arm.urdf").write_text(f'<robot name="arm">{limits}</robot>')
    data["urdf"] = "arm.urdf"
    data["limits"] = {joint: {"acceleration": 30.0} for joint in joints} | {"gripper": data["limits"]["gripper"]}
    data["generations"] = {"n1d6": {"step_hz": 15.0}, "n1d7": None}
    source = tmp_path / "robot" / "arm.yaml"
    source.write_text(yaml.safe_dump(data))
    robot = load_embodiment(source, "n1d6")
    target = write_control(source, "joints", tmp_path / "control.yaml", seed=3, generation="n1d6")
    control = load_embodiment(target)
    assert (control.generation, control.step_hz, control.limits) == ("n1d6", 15.0, robot.limits)
    with pytest.raises(EmbodimentError, match="n1d7"):
        load_embodiment(target, "n1d7")
    old, new = robot.state["single_arm"], control.state["single_arm"]
    assert old.names != new.names
    position = {joint: 0.1 * i for i, joint in enumerate(joints)}

    def by_joint(of: Embodiment) -> dict[str, float]:
        spec = of.state["single_arm"]
        numbers = to_model(of, spec, np.array([[position[joint] for joint in spec.names]]))[0]
        return dict(zip(spec.names, np.round(numbers, 6).tolist(), strict=True))

    assert by_joint(robot) == by_joint(control)


def test_what_is_no_control_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EmbodimentError, match=r"control: expected one of .*cameras.*joints.*found 'camera'.*'cameras'"):
        write_control("sim_arm", "camera", tmp_path / "control.yaml")
    with pytest.raises(EmbodimentError, match="no_such_robot"):
        write_control("no_such_robot", "cameras", tmp_path / "control.yaml")
    assert not list(tmp_path.iterdir())
