"""Controls of an evaluation: the same robot, wired wrongly on purpose. A policy that still succeeds did not need it.

A control is another embodiment YAML, for the policy node alone; simulator, evaluator and recorder keep the robot's own.
Whatever the policy learned is right, and what it sees or says goes to the wrong place:

* ``cameras``: every video key gets the camera of the next one (of two: they are swapped); of a robot with one camera, a
  scene camera. Topics, sizes and encodings stay with the cameras, so the observation is refused by nobody.
* ``joints``: within every action key of two joints or more, no joint keeps its place. The state keys that read these
  joints are permuted in the same way: number ``i`` of the model is another joint, both ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from groot_ros.embodiment import generations
from groot_ros.embodiment.errors import EmbodimentError
from groot_ros.embodiment.load import dotted, embodiment_path, load_embodiment, where
from groot_ros.embodiment.problems import closest, one_of
from groot_ros.embodiment.schema import Embodiment
from groot_ros.embodiment.yaml_lines import read_yaml

CONTROLS = ("cameras", "joints")
# Lists of a state or action key with one number per joint, which belong to the joint and not to its place.
_CALIBRATION = ("sign", "offset")


def write_control(
    embodiment: str | Path, control: str, target: Path, *, seed: int = 0, generation: str | None = None
) -> Path:
    """Write the YAML of a robot under a control.

    Args:
        embodiment: name or YAML file of the robot.
        control: one of ``CONTROLS``.
        target: file to write, ``.yaml``; its folder must exist.
        seed: of the permutation of ``joints``.
        generation: of the checkpoint; the file is for this one only where the robot's lists generations.

    Returns: ``target``, which ``load_embodiment`` takes.

    Raises:
        EmbodimentError: no such robot or control, or a robot that it would not change: one camera and none of the
            scene, or no action key with two joints.
        OSError: the file cannot be written.
    """
    if control not in CONTROLS:
        near = closest(control, CONTROLS)
        hint = f", did you mean {near!r}?" if near else ""
        raise EmbodimentError([f"control: expected one of {one_of(CONTROLS)}, found {control!r}{hint}"])
    robot = load_embodiment(embodiment, generation)
    source = embodiment_path(embodiment)
    data = _sections(robot, source)
    changed = _swap_cameras(robot, data) if control == "cameras" else _permute_joints(robot, data, seed)
    data["description"] = f"{robot.description} [control: {changed}]".strip()
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)
    head = f"# {source} under the control {control}: {changed}\n# For the policy of an evaluation only.\n"
    target.write_text(head + text, encoding="utf-8")
    load_embodiment(target, generation)
    return target


def _sections(robot: Embodiment, source: Path) -> dict[str, Any]:
    """What the robot's file says for its generation, without what depends on where the file is."""
    data, _ = read_yaml(source)
    listed = generations.listed(data)
    if listed:
        assert robot.generation is not None
        merged, _ = generations.merged(data, robot.generation)
        data = {**merged, generations.SECTION: {robot.generation: None}}
    urdf = data.get("urdf")
    if isinstance(urdf, str) and not urdf.startswith("package://"):
        data["urdf"] = str((source.parent / Path(urdf).expanduser()).resolve())
    return dict(data)


def _swap_cameras(robot: Embodiment, data: dict[str, Any]) -> str:
    keys = list(robot.video)
    cameras = [robot.video[key].camera for key in keys]
    shifted = cameras[1:] + cameras[:1]
    if len(set(cameras)) < 2:
        other = next(iter(robot.scene_cameras), None)
        if other is None:
            raise _unchanged(robot, "video", f"two cameras to swap, found {one_of(cameras)}", "cameras", "joints")
        shifted = [other] * len(keys)
        data["cameras"] = {other: data.pop("scene_cameras")[other]}
    data["video"] = {key: {**data["video"][key], "camera": camera} for key, camera in zip(keys, shifted, strict=True)}
    return ", ".join(f"{key} sees {camera}" for key, camera in zip(keys, shifted, strict=True))


def _unchanged(robot: Embodiment, section: str, expected: str, control: str, other: str) -> EmbodimentError:
    place = f"{where(robot, (section,))}: {dotted(robot, (section,))}"
    return EmbodimentError([f"{place}: the control {control} expected {expected}: use the control {other}"])


def _permute_joints(robot: Embodiment, data: dict[str, Any], seed: int) -> str:
    rng = np.random.default_rng(seed)
    taken: dict[str, str] = {}
    for spec in robot.action.values():
        joints = [joint for joint in spec.joints or [] if joint not in taken]
        if len(joints) >= 2:
            taken |= dict(zip(joints, (joints[i] for i in _derangement(len(joints), rng)), strict=True))
    if not taken:
        raise _unchanged(robot, "action", "a key with two joints or more, found none", "joints", "cameras")
    for section in ("state", "action"):
        data[section] = {key: _permuted(entry, taken) for key, entry in data[section].items()}
    # A permuted state may leave the ranges of the training data. The policy is to be measured, not that guard.
    data["gate"] = {**(data.get("gate") or {}), "training_range": "off"}
    return ", ".join(f"{other} in the place of {joint}" for joint, other in taken.items())


def _permuted(entry: Mapping[str, Any], taken: Mapping[str, str]) -> dict[str, Any]:
    """One key with every joint of ``taken`` replaced; a joint that the key has elsewhere brings its calibration."""
    joints = entry.get("joints")
    if not joints:
        return dict(entry)
    others = [taken.get(joint, joint) for joint in joints]
    result = {**entry, "joints": others}
    for name in _CALIBRATION:
        numbers = entry.get(name)
        if numbers is not None:
            known = dict(zip(joints, numbers, strict=True))
            result[name] = [known.get(other, number) for other, number in zip(others, numbers, strict=True)]
    return result


def _derangement(count: int, rng: np.random.Generator) -> list[int]:
    """A random order of ``count`` things in which none keeps its place; every such order is equally likely."""
    while True:
        order = rng.permutation(count)
        if (order != np.arange(count)).all():
            return [int(i) for i in order]
