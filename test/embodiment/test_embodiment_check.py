"""A robot's YAML against a checkpoint of another robot."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest

from groot_ros.embodiment.check import check_against_checkpoint, check_against_metadata
from groot_ros.embodiment.errors import EmbodimentError
from groot_ros.embodiment.load import load_embodiment
from groot_ros.embodiment.schema import Embodiment

ROBOT = load_embodiment("sim_arm")
KEYS = {
    "video": ["front", "wrist"],
    "state": ["single_arm", "gripper"],
    "action": ["single_arm", "gripper"],
    "language": ["annotation.human.task_description"],
}
DELTAS = {"video": [0], "state": [0], "action": list(range(16)), "language": [0]}
DIMS = {"single_arm": 5, "gripper": 1}


def modality(**changes: dict[str, list[Any]]) -> dict[str, Any]:
    """The checkpoint of ROBOT, with keys or deltas changed."""
    keys = {**KEYS, **changes.get("keys", {})}
    deltas = {**DELTAS, **changes.get("deltas", {})}
    return {name: SimpleNamespace(modality_keys=keys[name], delta_indices=deltas[name]) for name in keys}


def differences(theirs: dict[str, Any], robot: Embodiment = ROBOT, **options: Any) -> list[str]:
    dims = {"state_dims": DIMS, "action_dims": DIMS, **options}
    with pytest.raises(EmbodimentError) as caught:
        check_against_checkpoint(robot, theirs, checkpoint_name="ckpt/processor_config.json", **dims)
    return caught.value.lines


def test_the_same_robot_passes() -> None:
    check_against_checkpoint(ROBOT, modality(), DIMS, DIMS, "ckpt", available_tags=["gr1", "new_embodiment"])


CASES = {
    "video key": (
        {"keys": {"video": ["ego", "wrist"]}},
        {},
        ["video.front: expected a key of", "video: expected ego, wrist"],
    ),
    "missing state key": ({"keys": {"state": ["single_arm", "gripper", "base"]}}, {}, ["add base"]),
    "extra action key": ({"keys": {"action": ["single_arm"]}}, {}, ["action.gripper: expected a key of"]),
    "misspelt key": (
        {"keys": {"action": ["single_arms", "gripper"]}},
        {},
        ["did you mean 'single_arms'?", "add single_arms"],
    ),
    "order": ({"keys": {"video": ["wrist", "front"]}}, {}, ["video: expected the order wrist, front"]),
    "language": ({"keys": {"language": ["task"]}}, {}, ["language.key: expected task"]),
    "history": ({"deltas": {"video": [-15, 0]}}, {}, ["delta_indices.video: expected [-15, 0]"]),
    "horizon": (
        {"deltas": {"action": list(range(40))}},
        {},
        ["delta_indices.action: expected [0, 1, ... 39] (40 steps)"],
    ),
    "state dims": ({}, {"state_dims": {"single_arm": 7, "gripper": 1}}, ["state.single_arm: expected 7 numbers"]),
    "action dims": ({}, {"action_dims": {"single_arm": 5, "gripper": 2}}, ["action.gripper: expected 2 numbers"]),
    "tag": ({}, {"available_tags": ["new_embodimen", "gr1"]}, ["embodiment_tag: expected a tag of"]),
}


@pytest.mark.parametrize(("changes", "options", "says"), CASES.values(), ids=CASES.keys())
def test_each_difference_is_named(changes: dict[str, Any], options: dict[str, Any], says: list[str]) -> None:
    lines = differences(modality(**changes), **options)
    assert len(lines) == len(says)
    for line, text in zip(lines, says, strict=True):
        assert text in line and "ckpt/processor_config.json" in line and "found" in line


def test_the_line_of_the_yaml_is_named() -> None:
    [line] = differences(modality(deltas={"video": [-15, 0]}))
    assert ROBOT.source is not None
    path, number, _ = line.split(":", 2)
    assert path == str(ROBOT.source.path)
    assert ROBOT.source.path.read_text().splitlines()[int(number) - 1].strip() == "video: [0]"


def test_a_modality_that_the_checkpoint_lacks() -> None:
    theirs = modality()
    del theirs["language"]
    [line] = differences(theirs)
    assert "language: expected 'language' in ckpt/processor_config.json, found video, state, action" in line


def test_a_robot_built_in_python_is_named_instead_of_a_line() -> None:
    robot = Embodiment.model_validate(ROBOT.model_dump())
    [line] = differences(modality(keys={"language": ["task"]}), robot)
    assert line.startswith("embodiment sim_arm: language.key: ")


METADATA: dict[str, Any] = {
    "new_embodiment": {
        "statistics": {
            "state": {"single_arm": {"min": [0.0] * 5}, "gripper": {"min": [0.0]}, "legs": {"min": [0.0] * 12}},
            "action": {"single_arm": {"min": [0.0] * 5}, "gripper": {"min": [0.0]}},
        },
        "modalities": {"video": {"front": {}, "wrist": {}, "left": {}}},
    }
}


def without(metadata: dict[str, Any], *path: str) -> dict[str, Any]:
    """A copy without what is at ``path``; a dotted pair ``old=new`` at its end renames a key."""
    copied: dict[str, Any] = copy.deepcopy(metadata)
    *parents, last = path
    at = copied
    for parent in parents:
        at = at[parent]
    old, _, new = last.partition("=")
    value = at.pop(old)
    if new:
        at[new] = value
    return copied


def test_an_n1d5_robot_takes_some_of_the_keys_that_were_recorded() -> None:
    check_against_metadata(ROBOT, METADATA, "metadata.json")
    check_against_metadata(ROBOT, {"New_Embodiment": METADATA["new_embodiment"]}, "metadata.json")
    check_against_metadata(ROBOT, without(METADATA, "new_embodiment", "modalities"), "metadata.json")


N1D5_CASES = {
    "tag": (without(METADATA, "new_embodiment=gr1"), "embodiment_tag: expected a tag of metadata.json (gr1), found"),
    "view": (
        without(METADATA, "new_embodiment", "modalities", "video", "front=frond"),
        "video.front: expected a key of metadata.json (wrist, left, frond), found 'front', did you mean 'frond'?",
    ),
    "state key": (
        without(METADATA, "new_embodiment", "statistics", "state", "gripper"),
        "state.gripper: expected a key of metadata.json (single_arm, legs), found 'gripper', rename or remove it",
    ),
    "action section": (
        without(METADATA, "new_embodiment", "statistics", "action"),
        "action.single_arm: expected a key of metadata.json ((none)), found 'single_arm'",
    ),
}


@pytest.mark.parametrize(("metadata", "says"), N1D5_CASES.values(), ids=N1D5_CASES.keys())
def test_what_an_n1d5_checkpoint_did_not_record_is_named(metadata: dict[str, Any], says: str) -> None:
    with pytest.raises(EmbodimentError) as caught:
        check_against_metadata(ROBOT, metadata, "metadata.json")
    assert ROBOT.source is not None
    assert caught.value.lines[0].startswith(f"{ROBOT.source.path}:")
    assert says in caught.value.lines[0]


def test_a_width_that_an_n1d5_checkpoint_has_not_is_named() -> None:
    metadata = copy.deepcopy(METADATA)
    metadata["new_embodiment"]["statistics"]["state"]["single_arm"]["min"] = [0.0] * 7
    with pytest.raises(EmbodimentError, match=r"state.single_arm: expected 7 numbers as in metadata.json, found 5"):
        check_against_metadata(ROBOT, metadata, "metadata.json")
