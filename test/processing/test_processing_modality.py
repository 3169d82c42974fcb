"""Modality configs and embodiment tags: parsing, writing back, and what is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groot_ros.processing.errors import ProcessorError
from groot_ros.processing.modality import ActionFormat, ActionRep, ActionType, ModalityConfig, parse_modalities
from groot_ros.processing.tags import EMBODIMENT_IDS, N1D7_TAG_NAMES, complete_embodiment_ids, resolve_tag


@pytest.fixture
def modalities(n1d7: Path) -> dict[str, Any]:
    document = json.loads((n1d7 / "processor_dir" / "processor_config.json").read_text())
    return next(iter(document["processor_kwargs"]["modality_configs"].values()))


def test_golden_modalities_are_written_back_as_read(modalities: dict[str, Any]) -> None:
    parsed = parse_modalities(modalities, "file: tag")
    assert {name: config.to_dict() for name, config in parsed.items()} == modalities
    action = parsed["action"]
    assert action.action_config("eef_9d").rep is ActionRep.RELATIVE
    assert action.action_config("eef_9d").format is ActionFormat.XYZ_ROT6D
    assert action.action_config("gripper").type is ActionType.NON_EEF


def test_unknown_keys_are_kept_and_unknown_modalities_ignored(modalities: dict[str, Any]) -> None:
    modalities["state"]["exclude_state"] = True
    modalities["rl_info"] = {"anything": 1}
    parsed = parse_modalities(modalities, "file: tag")
    assert parsed["state"].exclude_state
    assert not parsed["action"].exclude_state
    assert parsed["state"].to_dict() == modalities["state"]
    assert "rl_info" not in parsed


def test_enum_values_are_accepted_besides_names(modalities: dict[str, Any]) -> None:
    config = modalities["action"]["action_configs"][0]
    config.update(rep="relative", type="eef", format="xyz+rot6d")
    parsed = parse_modalities(modalities, "file: tag")
    assert parsed["action"].action_config("eef_9d").to_dict()["format"] == "XYZ_ROT6D"


def test_without_action_configs_every_group_is_absolute() -> None:
    config = ModalityConfig.from_dict({"delta_indices": [0], "modality_keys": ["x", "y"]}, "action")
    assert {config.action_config(key).rep for key in ("x", "y")} == {ActionRep.ABSOLUTE}


def edit(*path: Any, value: Any) -> Callable[[Any], None]:
    def change(data: Any) -> None:
        for name in path[:-1]:
            data = data[name]
        if value is KeyError:
            del data[path[-1]]
        else:
            data[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (edit("video", value=KeyError), ["tag:", "no video"]),
        (edit("video", value=[]), ["tag.video:", "delta_indices and modality_keys"]),
        (edit("video", "delta_indices", value=KeyError), ["tag.video:", "no delta_indices"]),
        (edit("video", "delta_indices", value=[]), ["tag.video.delta_indices", "non-empty"]),
        (edit("video", "delta_indices", value=[0.5]), ["tag.video.delta_indices", "integers", "0.5"]),
        (edit("state", "modality_keys", value=[]), ["tag.state.modality_keys", "at least one"]),
        (edit("state", "modality_keys", value="arm"), ["tag.state.modality_keys", "'arm'"]),
        (edit("state", "modality_keys", value=["a", "a"]), ["tag.state.modality_keys", "each name once"]),
        (edit("state", "mean_std_embedding_keys", value="arm"), ["tag.state.mean_std_embedding_keys"]),
        (edit("action", "action_configs", value=[]), ["tag.action.action_configs", "3 entries", "found 0"]),
        (edit("action", "action_configs", 1, value=7), ["tag.action.action_configs[1]", "found 7"]),
        (edit("action", "action_configs", 1, "rep", value=KeyError), ["action_configs[1]", "no rep"]),
        (edit("action", "action_configs", 1, "rep", value="FOO"), ["action_configs[1].rep", "RELATIVE", "'FOO'"]),
        (edit("action", "action_configs", 0, "state_key", value=3), ["action_configs[0].state_key", "found 3"]),
        (edit("action", "action_configs", 0, "state_key", value="leg"), ["'eef_9d' is RELATIVE", "'leg'", "arm"]),
    ],
)
def test_malformed_modalities_are_named(modalities: Any, change: Callable[[Any], None], parts: list[str]) -> None:
    data = copy.deepcopy(modalities)
    change(data)
    with pytest.raises(ProcessorError) as caught:
        parse_modalities(data, "file: tag")
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("libero_sim", "libero_sim"),
        ("LIBERO_SIM", "libero_sim"),
        ("LIBERO_PANDA", "libero_sim"),
        ("libero_panda", "libero_sim"),
        ("NEW_EMBODIMENT", "new_embodiment"),
        ("My_Robot", "My_Robot"),
        ("my_robot", "My_Robot"),
        ("OXE_DROID_RELATIVE_EEF_RELATIVE_JOINT", None),
        ("", None),
    ],
)
def test_tags_are_found_by_name_or_value(name: str, expected: str | None) -> None:
    assert resolve_tag(name, ["libero_sim", "new_embodiment", "My_Robot"], N1D7_TAG_NAMES) == expected


def test_every_named_tag_has_an_id() -> None:
    assert set(N1D7_TAG_NAMES.values()) <= set(EMBODIMENT_IDS["n1d7"])


@pytest.mark.parametrize(("generation", "folder"), [("n1d7", "processor_dir"), ("n1d6", "processor/saved_processor")])
def test_golden_embodiment_ids_equal_the_table(golden_root: Path, generation: str, folder: str) -> None:
    stored = json.loads((golden_root / generation / folder / "embodiment_id.json").read_text())
    assert stored == EMBODIMENT_IDS[generation]


def test_golden_embodiment_id_of_n1d5(golden_root: Path) -> None:
    stored = json.loads((golden_root / "n1d5" / "processor" / "transforms.json").read_text())
    assert EMBODIMENT_IDS["n1d5"][stored["metadata"]["embodiment_tag"]] == stored["embodiment_id"]


def test_one_tag_may_have_another_id_in_another_generation() -> None:
    assert [EMBODIMENT_IDS[name]["gr1"] for name in ("n1d5", "n1d6")] == [24, 20]
    assert [complete_embodiment_ids({}, name)["new_embodiment"] for name in ("n1d5", "n1d6", "n1d7")] == [31, 10, 10]
    assert resolve_tag("LIBERO_PANDA", EMBODIMENT_IDS["n1d6"], {}) == "libero_panda"


def test_the_checkpoints_ids_win_and_missing_ones_are_filled_in() -> None:
    ids = complete_embodiment_ids({"libero_sim": 7, "my_robot": 12})
    assert ids["libero_sim"] == 7
    assert ids["my_robot"] == 12
    assert ids["new_embodiment"] == EMBODIMENT_IDS["n1d7"]["new_embodiment"]
