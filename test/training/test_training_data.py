"""What a run is refused for before it begins, and which robot it trains."""

from __future__ import annotations

import json
from pathlib import Path

import data_rig
import numpy as np
import pytest

from groot_ros.dataset.errors import DatasetError
from groot_ros.processing.errors import ProcessorError
from groot_ros.processing.processor import Processor
from groot_ros.training.errors import TrainingError


@pytest.fixture
def make(recorded, random_bases, robot):
    """Training data of N1.7 with changes of the flags."""

    def made(generation: str = "n1d7", *, base: Path | None = None, datasets=None, robot_file=robot, **flags):
        return data_rig.data(base or random_bases(generation), generation, datasets or [recorded], robot_file, **flags)

    return made


def test_summary(make, recorded: Path, recorded_v30: Path) -> None:
    data = make(datasets=[recorded, recorded_v30])
    assert data.windows == 54
    assert data.summary["embodiment_tag"] == "new_embodiment"
    assert [(d["version"], d["windows"], d["share"]) for d in data.summary["datasets"]] == [
        ("v2.1", 27, 0.5),
        ("v3.0", 27, 0.5),
    ]
    json.dumps(data.summary, allow_nan=False)
    assert data.notices == []


def test_both_layouts_give_the_same_samples(make, recorded_v30: Path) -> None:
    one, other = make(), make(datasets=[recorded_v30])
    for draw in range(5):
        expected = one.dataset[draw]
        for name, value in other.dataset[draw].items():
            np.testing.assert_allclose(value, expected[name], atol=1e-6, err_msg=name)


def test_the_checkpoints_own_configuration_without_a_yaml(make) -> None:
    own = make(robot_file=None, embodiment_tag="NEW_EMBODIMENT")
    yaml = make()
    assert own.processor.modality == yaml.processor.modality
    np.testing.assert_array_equal(own.dataset[1]["action"], yaml.dataset[1]["action"])


def test_a_tag_of_ones_own_gets_a_free_projector(make, tmp_path: Path) -> None:
    robot = data_rig.write_robot(tmp_path / "robot.yaml", embodiment_tag="my_robot")
    data = make(robot_file=robot)
    assert data.processor.embodiment_id == 3  # 0 to 2 are others' in NVIDIA's table
    assert any("'my_robot' is new to the checkpoint: it gets projector 3" in notice for notice in data.notices)
    data.write_processor(tmp_path / "out")
    ids = json.loads((tmp_path / "out/embodiment_id.json").read_text())
    assert (ids["my_robot"], ids["new_embodiment"]) == (3, 10)
    assert Processor.from_checkpoint(tmp_path / "out", "my_robot").embodiment_id == 3
    assert Processor.from_checkpoint(tmp_path / "out", "new_embodiment").embodiment_id == 10
    assert make(robot_file=robot, embodiment_id=7).processor.embodiment_id == 7


@pytest.mark.parametrize("generation", ["n1d5", "n1d6"])
def test_a_tag_of_ones_own_in_older_generations(make, tmp_path: Path, generation: str, random_bases) -> None:
    robot = data_rig.write_robot(tmp_path / "robot.yaml", embodiment_tag="my_robot")
    data = make(generation, robot_file=robot)
    data.write_processor(tmp_path / "out")
    (tmp_path / "out/config.json").write_text((random_bases(generation) / "config.json").read_text())
    again = Processor.from_checkpoint(tmp_path / "out", "my_robot")
    assert again.embodiment_id == data.processor.embodiment_id
    np.testing.assert_array_equal(again.state_limits("gripper"), data.processor.state_limits("gripper"))


def test_projectors_that_cannot_be_had(make, tmp_path: Path) -> None:
    robot = data_rig.write_robot(tmp_path / "robot.yaml", embodiment_tag="my_robot")
    with pytest.raises(
        TrainingError, match=r"--embodiment-id: expected a free projector \(3-9,.*found 10, that of new_e"
    ):
        make(robot_file=robot, embodiment_id=10)
    with pytest.raises(TrainingError, match=r"--embodiment-id.*found 4000, beyond the network's 32"):
        make(robot_file=robot, embodiment_id=4000)
    with pytest.raises(TrainingError, match=r"--embodiment-id: expected 10, which 'new_embodiment' has in .*found 5"):
        make(embodiment_id=5)


def test_tags_that_cannot_be_had(make, random_bases, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="--embodiment or --embodiment-tag: expected one of them"):
        make(robot_file=None)
    with pytest.raises(TrainingError, match=r"expected the tag 'my_robot', found new_embodiment: name one of these"):
        make(robot_file=None, embodiment_tag="my_robot")
    trained = tmp_path / "trained"
    robot = data_rig.write_robot(tmp_path / "robot.yaml", embodiment_tag="libero_sim")
    other = data_rig.write_checkpoint(trained, "n1d7", robot)
    path = trained / "processor_config.json"
    document = json.loads(path.read_text())
    document["processor_kwargs"]["modality_configs"]["libero_sim"]["state"]["modality_keys"].append("x")
    path.write_text(json.dumps(document))
    with pytest.raises(
        TrainingError, match=r"embodiment tag 'libero_sim' is taken.*single_arm, gripper, x.*new_embodiment"
    ):
        make(base=other, robot_file=robot)


def test_a_tag_of_another_robot_in_n1d5(make, tmp_path: Path) -> None:
    """metadata.json says which keys its datasets had."""
    robot = data_rig.write_robot(tmp_path / "robot.yaml", embodiment_tag="gr1")
    base = data_rig.write_checkpoint(tmp_path / "base", "n1d5", robot)
    assert make("n1d5", base=base, robot_file=robot).summary["embodiment_tag"] == "gr1"
    (base / "experiment_cfg/modality_config.json").unlink()
    path = base / "experiment_cfg/metadata.json"
    document = json.loads(path.read_text())
    for name in ("statistics", "modalities"):
        document["gr1"][name]["state"]["left_arm"] = document["gr1"][name]["state"].pop("gripper")
    path.write_text(json.dumps(document))
    with pytest.raises(TrainingError, match=r"'gr1' is taken: .*metadata\.json has it .*single_arm, left_arm.*gripper"):
        make("n1d5", base=base, robot_file=robot)


def test_a_yaml_that_is_not_that_of_the_recording(make, recorded: Path, tmp_path: Path) -> None:
    def robot(name: str, **changes) -> Path:
        return data_rig.write_robot(tmp_path / f"{name}.yaml", **changes)

    with pytest.raises(TrainingError, match=r"info\.json: fps: expected 20, the step_hz of sim_arm\.yaml, found 30"):
        make(robot_file=robot("rate", step_hz=20.0))
    with pytest.raises(TrainingError, match=r"video\.wrist: expected pictures of 64x48 px.*camera wrist, found 32x24"):
        make(robot_file=robot("size", cameras__wrist__width=64, cameras__wrist__height=48))
    names = ["shoulder_lift", "shoulder_pan", "elbow_flex", "wrist_flex", "wrist_roll"]
    swapped = robot("joints", state__single_arm__joints=names, action__single_arm__joints=names)
    with pytest.raises(TrainingError, match=r"expected single_arm\.shoulder_lift, .*found single_arm\.shoulder_pan"):
        make(robot_file=swapped)
    other = data_rig.copied(recorded, tmp_path / "other")
    data_rig.edit_json(other / "meta/info.json", robot_type="another")
    make(datasets=[other])
    with pytest.raises(TrainingError, match=r"expected single_arm\.shoulder_lift, .*found single_arm\.shoulder_pan"):
        make(datasets=[other], robot_file=swapped)
    with pytest.raises(TrainingError, match=r"video: expected the keys top, wrist of 'new_embodiment', found front"):
        make(robot_file=robot("key", video={"top": {"camera": "front"}, "wrist": {"camera": "wrist"}}))
    with pytest.raises(DatasetError, match=r"annotation: expected 'annotation\.goal', the language key"):
        make(robot_file=robot("language", language={"key": "annotation.goal"}))


def test_datasets_that_do_not_go_together(make, recorded: Path, tmp_path: Path) -> None:
    other = data_rig.copied(recorded, tmp_path / "other")
    entries = {"single_arm": {"start": 0, "end": 4}, "gripper": {"start": 4, "end": 6}}
    data_rig.edit_json(other / "meta/modality.json", state=entries, action=entries)
    data_rig.edit_json(other / "meta/info.json", robot_type="another")
    with pytest.raises(TrainingError, match=r"state\.single_arm: expected 5 numbers, as in .*found 4"):
        make(datasets=[recorded, other])


def test_instructions_without_words_are_refused(make, recorded: Path, tmp_path: Path) -> None:
    root = data_rig.copied(recorded, tmp_path / "dataset")
    lines = [{"task_index": 0, "task": "..."}, {"task_index": 1, "task": "put it down"}]
    (root / "meta/tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ProcessorError, match="instruction: expected a text with words"):
        make(datasets=[root])


def test_instructions_that_are_longer_than_the_network_takes(make) -> None:
    data = make()
    longest = max(data.processor.check_instruction(text, 1 << 30) for text in data.dataset.windows.texts())
    data.check_prompts(longest)
    with pytest.raises(ProcessorError, match=rf"instruction: expected a prompt of at most {longest - 1} tokens"):
        data.check_prompts(longest - 1)


def test_a_network_of_other_sizes_is_refused(make, random_bases, tmp_path: Path, recorded: Path, robot: Path) -> None:
    base = data_rig.copied(random_bases("n1d7"), tmp_path / "base")
    data_rig.edit_json(base / "config.json", max_action_dim=48)
    with pytest.raises(TrainingError, match=r"config\.json: max_action_dim: expected \d+.*found 48"):
        make(base=base)
    history = data_rig.write_robot(tmp_path / "history.yaml", delta_indices__state=[-1, 0])
    with pytest.raises(TrainingError, match=r"state_history_length, the number of delta_indices\.state: expected 2"):
        make(robot_file=history)


def test_colours_and_turns_of_the_flags(make, tmp_path: Path) -> None:
    data = make(random_rotation_angle=5, color_jitter_params=("brightness=0.1",))
    data.write_processor(tmp_path / "out")
    settings = json.loads((tmp_path / "out/processor_config.json").read_text())["processor_kwargs"]
    assert settings["random_rotation_angle"] == 5
    assert settings["color_jitter_params"] == {"brightness": 0.1}


def test_progress(recorded: Path, random_bases, robot: Path) -> None:
    seen: list[tuple[int, int]] = []
    flags = data_rig.FinetuneFlags(
        base_model_path="x", dataset_path=(str(recorded),), embodiment=str(robot), frame_cache_gb=0.0
    ).resolved("n1d7")
    base = random_bases("n1d7")
    data_rig.build_data(flags, base, data_rig.load_config(base), lambda done, of: seen.append((done, of)))
    assert seen == [(number, 6) for number in range(1, 7)]
