"""What a robot's dataset contains, for every robot that is shipped, and the actions' sources in the YAML."""

from __future__ import annotations

import json

import numpy as np
import pytest

from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.spec import DatasetSpec
from groot_ros.embodiment.load import available_embodiments, load_embodiment
from groot_ros.embodiment.recording_rules import sources
from groot_ros.embodiment.recording_schema import Recording


@pytest.mark.parametrize("name", sorted(available_embodiments()))
def test_every_robot_has_a_dataset(name: str) -> None:
    spec = DatasetSpec.of(load_embodiment(name))
    assert DatasetSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    features = spec.features()
    assert not [key for key in features if "image" in key and features[key]["dtype"] != "video"]
    for section, feature in (("state", "observation.state"), ("action", "action")):
        parts = list(spec.modality()[section].values())
        assert [part["start"] for part in parts] == [0, *(part["end"] for part in parts[:-1])]
        assert features[feature]["shape"] == [parts[-1]["end"]] == [len(features[feature]["names"])]
    assert not spec.differences(json.loads(json.dumps(spec.info(3, 4, 1))))


def test_a_row_is_in_the_order_of_the_keys() -> None:
    spec = DatasetSpec.of(load_embodiment("sim_arm"))
    values = {"gripper": np.array([9], np.float32), "single_arm": np.arange(5, dtype=np.float32)}
    row = spec.row(values, values, 7, {"joints": 3, "front": 1, "wrist": 2}, True, 1)
    assert row["state"].tolist() == [0, 1, 2, 3, 4, 9] == row["action"].tolist()
    assert (row["stamp_ns"], row["age_ns"].tolist(), row["intervention"], row["flags"]) == (7, [1, 2, 3], 1, 1)


def test_what_cannot_be_appended_is_named() -> None:
    arm = load_embodiment("sim_arm")
    spec = DatasetSpec.of(arm)
    info = spec.info(0, 0, 0)
    info["fps"], info["robot_type"] = 50, "so101"
    info["features"]["action"] = {**info["features"]["action"], "shape": [7]}
    del info["features"]["observation.images.wrist"]
    assert spec.differences(info) == [
        "fps: this robot's is 30, the dataset's is 50",
        "robot_type: this robot's is 'sim_arm', the dataset's is 'so101'",
        "feature action, shape: this robot's is [6], the dataset's is [7]",
        "feature observation.images.wrist: the dataset does not have it",
    ]


@pytest.mark.parametrize(
    ("update", "named"),
    [
        ({"step_hz": 29.97}, "step_hz: expected an integer"),
        ({"cameras": {"front": {"width": 225}}}, "cameras.front: expected an even width and height, found 225x224"),
    ],
)
def test_what_cannot_be_recorded_is_refused(update: dict, named: str) -> None:
    arm = load_embodiment("sim_arm")
    if "cameras" in update:
        changed = {name: arm.cameras[name].model_copy(update=values) for name, values in update["cameras"].items()}
        update = {"cameras": {**arm.cameras, **changed}}
    with pytest.raises(DatasetError, match=named):
        DatasetSpec.of(arm.model_copy(update=update))


LEADER = {"topic": "/leader/joint_states", "type": "sensor_msgs/msg/JointState"}


@pytest.mark.parametrize(
    ("recording", "problem"),
    [
        ({"commands": {"gripper": LEADER}, "next_state": ["single_arm"]}, None),
        ({"commands": {"gripper": {**LEADER, "names": ["leader_gripper"]}}}, None),
        ({"commands": {"griper": LEADER}}, "recording.commands.griper: expected a name from action"),
        ({"commands": {"gripper": {**LEADER, "names": ["a", "b"]}}}, "names: expected 1 names"),
        ({"commands": {"gripper": {**LEADER, "type": "geometry_msgs/msg/Twist"}}}, "type: expected one of"),
        ({"next_state": ["arm"]}, "recording.next_state.0: expected a name from action"),
        ({"commands": {"gripper": LEADER}, "next_state": ["gripper"]}, "expected a key with one source"),
    ],
)
def test_sources_of_actions(recording: dict, problem: str | None) -> None:
    arm = load_embodiment("sim_arm")
    problems = [str(found) for found in sources(Recording.model_validate(recording), arm.action, arm.state)]
    assert len(problems) == (problem is not None)
    assert problem is None or problem in problems[0]
    if problem is None:
        lonely = {key: entry for key, entry in arm.state.items() if key != "single_arm"}
        needs_state = list(sources(Recording(next_state=["single_arm"]), arm.action, lonely))
        assert "same joints or fields" in str(needs_state[0])
