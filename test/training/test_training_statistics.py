"""Statistics of a robot from its datasets: per generation, for this chunk, merged, and as the processor reads them."""

from __future__ import annotations

import json
from pathlib import Path

import data_rig
import numpy as np
import pytest

from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.read import Dataset
from groot_ros.dataset.relative_statistics import relative_statistics
from groot_ros.embodiment.load import load_embodiment
from groot_ros.processing.modality import ActionConfig, ActionFormat, ActionRep, ActionType, ModalityConfig
from groot_ros.processing.processor import Processor
from groot_ros.training.episodes import open_training_dataset
from groot_ros.training.errors import TrainingError
from groot_ros.training.statistics import dataset_statistics, merge

TAG = "new_embodiment"


@pytest.fixture
def statistics(recorded, robot, random_bases):
    """Generation, datasets -> statistics of the robot."""

    def made(generation: str, datasets: list[Path] | None = None, **flags):
        data = data_rig.data(random_bases(generation), generation, datasets or [recorded], robot, **flags)
        return data.statistics[TAG]

    return made


def rows(root: Path, column: str) -> np.ndarray:
    return np.concatenate([Dataset(root).column(episode, column) for episode in range(data_rig.EPISODES)])


@pytest.mark.parametrize("generation", ["n1d5", "n1d6", "n1d7"])
def test_absolute_statistics_are_those_of_the_rows(statistics, recorded: Path, generation: str) -> None:
    found = statistics(generation)
    for section, column in (("state", "observation.state"), ("action", "action")):
        for key, part in (("single_arm", slice(0, 5)), ("gripper", slice(5, 6))):
            values = rows(recorded, column)[:, part].astype(np.float64)
            expected = {
                "min": values.min(0),
                "max": values.max(0),
                "mean": values.mean(0),
                "std": values.std(0),
                "q01": np.quantile(values, 0.01, axis=0),
                "q99": np.quantile(values, 0.99, axis=0),
            }
            assert found[section][key].keys() == expected.keys()
            for name, numbers in expected.items():
                np.testing.assert_allclose(found[section][key][name], numbers, rtol=1e-9, atol=1e-12)


def test_quantiles_that_stats_json_lacks_are_those_of_the_rows(statistics, recorded_v30: Path, tmp_path: Path) -> None:
    """As datasets of LeRobot's first v3.0 have it."""
    root = data_rig.copied(recorded_v30, tmp_path / "v30")
    path = root / "meta/stats.json"
    columns = json.loads(path.read_text())
    short = {name: {k: v for k, v in column.items() if not k.startswith("q")} for name, column in columns.items()}
    path.write_text(json.dumps(short))
    found, expected = statistics("n1d7", [root]), statistics("n1d7", [recorded_v30])
    for section, key in (("state", "single_arm"), ("action", "gripper")):
        for name in ("q01", "q99"):
            np.testing.assert_allclose(found[section][key][name], expected[section][key][name], rtol=1e-6)


@pytest.mark.parametrize("generation", ["n1d6", "n1d7"])
def test_relative_statistics_are_those_of_all_whole_chunks(statistics, recorded: Path, generation: str) -> None:
    found = statistics(generation)["relative_action"]
    assert list(found) == ["single_arm"]
    source = Dataset(recorded)
    chunks = []
    for episode in range(data_rig.EPISODES):
        state, action = source.column(episode, "observation.state"), source.column(episode, "action")
        for row in range(data_rig.ROWS - 15):
            chunks.append(action[row : row + 16, :5].astype(np.float64) - state[row, :5])
    for name, numbers in (("min", np.min(chunks, 0)), ("max", np.max(chunks, 0)), ("std", np.std(chunks, 0))):
        np.testing.assert_allclose(found["single_arm"][name], numbers, atol=1e-6)
    assert found == relative_statistics(source, load_embodiment("sim_arm"), generation)


def test_n1d5_has_no_relative_statistics_and_says_what_the_views_are(
    recorded: Path, robot: Path, random_bases, tmp_path: Path
) -> None:
    data = data_rig.data(random_bases("n1d5"), "n1d5", [recorded], robot)
    assert list(data.statistics[TAG]) == ["state", "action"]
    data.write_processor(tmp_path / "out")
    entry = json.loads((tmp_path / "out/experiment_cfg/metadata.json").read_text())[TAG]
    assert entry["statistics"] == data.statistics[TAG]
    assert entry["embodiment_tag"] == TAG
    assert entry["modalities"]["video"]["wrist"] == {"resolution": [32, 24], "channels": 3, "fps": 30.0}
    arm = {"absolute": True, "rotation_type": None, "shape": [5], "continuous": True}
    assert entry["modalities"]["action"] == {"single_arm": arm, "gripper": {**arm, "shape": [1]}}
    assert not (tmp_path / "out/embodiment_id.json").exists()  # the tag has its id in NVIDIA's table


def entry_of(values: np.ndarray) -> dict:
    numbers = {
        "min": values.min(0),
        "max": values.max(0),
        "mean": values.mean(0),
        "std": values.std(0),
        "q01": np.quantile(values, 0.01, axis=0),
        "q99": np.quantile(values, 0.99, axis=0),
    }
    return {"state": {"arm": {name: value.tolist() for name, value in numbers.items()}}}


def test_merging_equals_the_statistics_of_all_rows_where_it_can() -> None:
    random = np.random.default_rng(0)
    first, second = random.normal(1, 2, (300, 3)), random.normal(-2, 0.5, (100, 3))
    merged = merge([entry_of(first), entry_of(second)], [300, 100], widest_quantiles=True)["state"]["arm"]
    together = entry_of(np.concatenate([first, second]))["state"]["arm"]
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(merged[name], together[name], rtol=1e-9)
    low, high = (entry_of(values)["state"]["arm"] for values in (second, first))
    np.testing.assert_array_equal(merged["q01"], np.minimum(low["q01"], high["q01"]))
    np.testing.assert_array_equal(merged["q99"], np.maximum(low["q99"], high["q99"]))
    averaged = merge([entry_of(first), entry_of(second)], [3, 1], widest_quantiles=False)["state"]["arm"]
    np.testing.assert_allclose(averaged["q99"], 0.75 * np.array(high["q99"]) + 0.25 * np.array(low["q99"]))
    np.testing.assert_allclose(averaged["std"], together["std"])


def test_several_datasets_are_merged_by_their_shares(statistics, recorded: Path, tmp_path: Path) -> None:
    other = data_rig.make_dataset(tmp_path / "other", episodes=1, rows=30, seed=9)
    data_rig.refresh_statistics(other)
    single = [np.array(statistics("n1d7", [root])["state"]["gripper"]["mean"]) for root in (recorded, other)]
    by_windows = statistics("n1d7", [recorded, other])["state"]["gripper"]["mean"]
    np.testing.assert_allclose(by_windows, (27 * single[0] + 15 * single[1]) / 42)
    even = statistics("n1d7", [recorded, other], dataset_weights=(1.0, 1.0))["state"]["gripper"]["mean"]
    np.testing.assert_allclose(even, (single[0] + single[1]) / 2)
    steps = statistics("n1d7", [recorded, other])["relative_action"]["single_arm"]["max"]
    assert np.array(steps).shape == (16, 5)


@pytest.mark.parametrize(
    ("generation", "flag", "own"),
    [("n1d5", None, True), ("n1d6", None, False), ("n1d6", True, True), ("n1d7", None, True), ("n1d7", False, False)],
)
def test_whose_statistics_count(recorded, robot, random_bases, generation: str, flag: bool | None, own: bool) -> None:
    base = random_bases(generation)
    data = data_rig.data(base, generation, [recorded], robot, override_pretraining_statistics=flag)
    before, now = Processor.from_checkpoint(base, TAG), data.processor
    kept = np.array_equal(before.state_limits("single_arm"), now.state_limits("single_arm"))
    assert kept is not own
    np.testing.assert_array_equal(
        now.state_limits("single_arm")[0],
        before.state_limits("single_arm")[0] if kept else data.statistics[TAG]["state"]["single_arm"]["min"],
    )
    said = [notice for notice in data.notices if "keeps the statistics of the base checkpoint" in notice]
    assert len(said) == kept
    assert all("are cut off, in" in notice and "relative_action.single_arm" in notice for notice in said)


@pytest.mark.parametrize("generation", ["n1d5", "n1d6", "n1d7"])
def test_what_is_written_is_what_was_trained_with(
    recorded: Path, robot: Path, random_bases, tmp_path: Path, generation: str
) -> None:
    data = data_rig.data(random_bases(generation), generation, [recorded], robot, state_dropout_prob=0.25)
    data.write_processor(tmp_path / "out")
    config = random_bases(generation) / "config.json"
    (tmp_path / "out/config.json").write_text(config.read_text())
    again = Processor.from_checkpoint(tmp_path / "out", TAG)
    raw = data.dataset.windows.raw((0, 0, 3))
    for encode in (data.processor.encode, again.encode):
        sample = encode(raw.video, raw.state, raw.instruction, raw.action)
        for name, value in data.processor.encode(raw.video, raw.state, raw.instruction, raw.action).items():
            np.testing.assert_array_equal(sample[name], value)
    assert np.abs(sample["action"]).max() <= 1
    if generation != "n1d5":
        settings = json.loads((tmp_path / "out/processor_config.json").read_text())["processor_kwargs"]
        assert settings["use_relative_action"] is True
        assert settings.get("state_dropout_prob") == (0.25 if generation == "n1d7" else None)


def test_another_horizon_has_its_own_statistics(recorded: Path, random_bases, tmp_path: Path) -> None:
    robot = data_rig.write_robot(tmp_path / "robot.yaml", delta_indices__action=list(range(8)))
    data = data_rig.data(random_bases("n1d7"), "n1d7", [recorded], robot)
    assert np.array(data.statistics[TAG]["relative_action"]["single_arm"]["min"]).shape == (8, 5)
    assert data.processor.action_horizon == 8
    assert data.windows == data_rig.EPISODES * (data_rig.ROWS - 7)
    sample = data.dataset[0]
    assert sample["action_mask"].sum() == 8 * 6


def test_stats_json_must_be_there_and_be_of_these_rows(recorded, robot, random_bases, tmp_path: Path) -> None:
    def refused(name: str, change) -> str:
        root = data_rig.copied(recorded, tmp_path / name)
        stats = json.loads((root / "meta/stats.json").read_text())
        changed = change(stats)
        (root / "meta/stats.json").unlink()
        if changed is not None:
            (root / "meta/stats.json").write_text(json.dumps(changed))
        with pytest.raises(DatasetError) as caught:
            data_rig.data(random_bases("n1d7"), "n1d7", [root], robot)
        return str(caught.value)

    assert "stats.json: expected the statistics" in refused("none", lambda stats: None)
    missing = refused("action", lambda stats: {k: v for k, v in stats.items() if k != "action"})
    assert "stats.json: action: expected its statistics, found none: `groot-ros dataset stats" in missing
    old = refused("old", lambda s: {**s, "action": {**s["action"], "max": [0.01] * 6}})
    assert "older than the episode" in old
    assert "action.single_arm" in old
    short = refused("short", lambda s: {**s, "action": {**s["action"], "q01": [0.0] * 5}})
    assert "stats.json: action.q01: expected 6 finite numbers" in short


def test_a_relative_key_needs_whole_steps_from_now(recorded: Path) -> None:
    relative = ActionConfig(ActionRep.RELATIVE, ActionType.NON_EEF, ActionFormat.DEFAULT)
    keys = ("single_arm",)
    modality = {
        "state": ModalityConfig((0,), keys),
        "action": ModalityConfig(tuple(range(1, 9)), keys, action_configs=(relative,)),
    }
    with pytest.raises(TrainingError, match="action key 'single_arm': expected action steps 0, 1, 2"):
        dataset_statistics(open_training_dataset(recorded), modality)
