"""Checkpoints of N1.5 and N1.6 that cannot be used: each is refused at construction, by file and key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groot_ros.processing.errors import ProcessorError
from groot_ros.processing.processor import Processor

TAG = {"n1d5": "new_embodiment", "n1d6": "libero_panda"}
METADATA = "experiment_cfg/metadata.json"
MODALITY = "experiment_cfg/modality_config.json"
Edit = Callable[[Any], Any]


def entry(change: Edit) -> Edit:
    """A change of the one tag's entry."""
    return lambda document: change(document["new_embodiment"])


def set_mode(section: str, key: str, mode: Any) -> Edit:
    return entry(lambda modality: modality[section].setdefault("normalization_modes", {}).update({key: mode}))


@pytest.mark.parametrize(
    ("file", "change", "parts"),
    [
        ("config.json", None, ["config.json", "no such file"]),
        ("config.json", lambda c: c.update(action_head_cfg=[1]), ["config.json: action_head_cfg", "an object"]),
        ("config.json", lambda c: c["action_head_cfg"].update(max_action_dim=8), ["max_action_dim", "at least 9"]),
        ("config.json", lambda c: c["action_head_cfg"].update(action_horizon=2), ["max_action_horizon", "at least 3"]),
        ("config.json", lambda c: c["eagle_config"].update(force_image_size=60), ["a multiple of the patch size 14"]),
        ("config.json", lambda c: c["eagle_config"].update(force_image_size="big"), ["image_size", "'big'"]),
        (METADATA, None, ["metadata.json", "no such file", "experiment_cfg"]),
        (METADATA, lambda d: d.update(other=5), ["metadata.json: other.statistics", "an object"]),
        (METADATA, entry(lambda e: e.pop("modalities")), ["metadata.json: new_embodiment.modalities", "None"]),
        (
            METADATA,
            entry(lambda e: e["statistics"]["state"].pop("arm")),
            ["metadata.json: new_embodiment.statistics.state", "group 'arm'", "groups turn, gripper"],
        ),
        (
            METADATA,
            entry(lambda e: e["statistics"]["action"]["arm"].update(q99=[0.0])),
            ["new_embodiment.statistics.action.arm.q99", "2 numbers, as 'min' has", "(1,)"],
        ),
        (
            METADATA,
            entry(lambda e: e["modalities"]["state"]["arm"].update(shape=[7])),
            ["new_embodiment.modalities.state.arm.shape", "[2]", "[7]", "another robot"],
        ),
        (
            METADATA,
            entry(lambda e: e["modalities"]["action"].pop("turn")),
            ["new_embodiment.modalities.action", "'turn'", "keys arm, gripper"],
        ),
        (
            METADATA,
            entry(lambda e: e["modalities"]["video"].pop("wrist")),
            ["new_embodiment.modalities.video", "'wrist'", "front"],
        ),
        (
            METADATA,
            entry(lambda e: e["modalities"]["state"]["turn"].update(rotation_type=None)),
            ["modalities.state.turn.rotation_type", "of 4 numbers", "None"],
        ),
        (
            METADATA,
            entry(lambda e: e["modalities"]["state"]["turn"].update(rotation_type="axis_angle")),
            ["modalities.state.turn.rotation_type", "of 4 numbers", "'axis_angle'"],
        ),
        (
            METADATA,
            entry(lambda e: e["modalities"]["state"]["turn"].update(absolute=False)),
            ["normalization_modes.turn", "'none' for a relative one", "absolute False"],
        ),
        (MODALITY, None, ["modality_config.json", "'new_embodiment'", "argument `modality`"]),
        (MODALITY, lambda d: d.update(gr1=d.pop("new_embodiment")), ["modality_config.json", "entries gr1"]),
        (MODALITY, entry(lambda m: m.pop("language")), ["modality_config.json.new_embodiment", "no language"]),
        (MODALITY, set_mode("state", "arm", "minmax"), ["state.normalization_modes.arm", "min_max", "'minmax'"]),
        (MODALITY, set_mode("state", "leg", "q99"), ["state.normalization_modes", "arm, turn, gripper", "'leg'"]),
        (MODALITY, set_mode("state", "turn", "q99"), ["state.normalization_modes.turn", "'min_max'", "'q99'"]),
        (MODALITY, set_mode("state", "gripper", "min_max"), ["normalization_modes.gripper", "not continuous"]),
        (MODALITY, set_mode("action", "arm", "scale"), ["action.normalization_modes.arm", "a way back"]),
        (MODALITY, set_mode("action", "arm", "sin_cos"), ["action.normalization_modes.arm", "a way back"]),
        (
            MODALITY,
            entry(lambda m: m["action"].update(target_rotations={"turn": "matrix"})),
            ["action.target_rotations.turn", "rotation_6d, quaternion", "'matrix'"],
        ),
        (
            MODALITY,
            entry(
                lambda m: m["action"].update(
                    action_configs=[{"rep": "RELATIVE", "type": "NON_EEF", "format": "DEFAULT"}] * 3
                )
            ),
            ["action.action_configs of 'arm'", "ABSOLUTE", "RELATIVE"],
        ),
    ],
)
def test_broken_n1d5_checkpoints_are_named(
    n1d5_checkpoint: Path, edit_json: Any, file: str, change: Edit | None, parts: list[str]
) -> None:
    if change is None:
        (n1d5_checkpoint / file).unlink()
    else:
        edit_json(n1d5_checkpoint / file, change)
    with pytest.raises(ProcessorError) as caught:
        Processor.from_checkpoint(n1d5_checkpoint, TAG["n1d5"])
    for part in [str(n1d5_checkpoint), *parts]:
        assert part in str(caught.value)


def kwargs(**changes: Any) -> Edit:
    return lambda document: document["processor_kwargs"].update(changes)


@pytest.mark.parametrize(
    ("file", "change", "parts"),
    [
        ("statistics.json", lambda s: s.pop("libero_panda"), ["statistics.json", "'libero_panda'", "none"]),
        (
            "statistics.json",
            lambda s: s["libero_panda"]["action"].pop("roll"),
            ["statistics.json: libero_panda.action", "group 'roll'"],
        ),
        (
            "statistics.json",
            lambda s: s["libero_panda"]["state"]["x"].update(max=[1.0, 2.0]),
            ["libero_panda.state.x.max", "1 numbers, as 'min' has", "(2,)"],
        ),
        (
            "processor_config.json",
            lambda d: d.update(processor_class=["Gr00tN1d6Processor"]),
            ["processor_class", "Gr00tN1d6Processor or Gr00tN1d7Processor"],
        ),
        ("processor_config.json", lambda d: d.update(processor_kwargs=3), ["processor_kwargs", "an object", "3"]),
        ("processor_config.json", kwargs(modality_configs=[]), ["modality_configs", "one entry per tag"]),
        ("processor_config.json", kwargs(letter_box_transform="yes"), ["letter_box_transform", "'yes'"]),
        ("processor_config.json", kwargs(max_state_dim=3), ["max_state_dim", "at least 8", "found 3"]),
        ("processor_config.json", kwargs(formalize_language=1), ["formalize_language", "true or false"]),
    ],
)
def test_broken_n1d6_checkpoints_are_named(
    n1d6_checkpoint: Path, edit_json: Any, file: str, change: Edit, parts: list[str]
) -> None:
    edit_json(n1d6_checkpoint / file, change)
    with pytest.raises(ProcessorError) as caught:
        Processor.from_checkpoint(n1d6_checkpoint, TAG["n1d6"])
    for part in [str(n1d6_checkpoint), *parts]:
        assert part in str(caught.value)


def test_unknown_tags_and_tags_without_an_id_are_named(folders: dict[str, Path], edit_json: Any) -> None:
    for generation, tag in TAG.items():
        with pytest.raises(ProcessorError) as caught:
            Processor.from_checkpoint(folders[generation], "so101")
        assert "'so101'" in str(caught.value)
        assert f"tags {tag}" in str(caught.value)
        with pytest.raises(ProcessorError, match="'so101'"):
            Processor.from_checkpoint(folders[generation], "so101", modality={})
    for name in (METADATA, MODALITY):
        edit_json(folders["n1d5"] / name, lambda content: content.update(my_robot=content.pop("new_embodiment")))
    with pytest.raises(ProcessorError, match=r"embodiment_id.json: expected a projector index for 'my_robot'"):
        Processor.from_checkpoint(folders["n1d5"], "my_robot")
