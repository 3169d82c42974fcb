"""`groot-ros precision`: which observations, the verdict, and that a policy takes what passed and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import data_rig
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from groot_ros.cli import app
from groot_ros.model.engine import fp8
from groot_ros.model.engine.fp8 import Fp8Dense, Fp8WeightDense
from groot_ros.policy.generation import embodiment_for
from groot_ros.policy.local import LocalPolicy
from groot_ros.policy.precision_gate import PrecisionError
from groot_ros.training.episodes import TrainingDataset, open_training_dataset
from groot_ros.training.precision_command import dataset_observations, parted, spread_rows

KINDS = {"fp8_weights": Fp8WeightDense, "fp8": Fp8Dense}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "groot_ros" / "precision"


@pytest.fixture(scope="module")
def dataset(recorded: Path) -> TrainingDataset:
    return open_training_dataset(recorded, jobs=1)


def test_rows_are_spread_over_all_episodes_and_none_comes_twice(dataset: TrainingDataset) -> None:
    total = data_rig.EPISODES * data_rig.ROWS
    for count in (1, 5, 16, total, total + 10):
        rows = spread_rows(dataset.episodes, count)
        assert len(set(rows)) == len(rows) == min(count, total)
        flat = [episode * data_rig.ROWS + row for episode, row in rows]
        assert all(0 <= row < data_rig.ROWS for _, row in rows)
        gaps = np.diff(flat)
        assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1
    assert {episode for episode, _ in spread_rows(dataset.episodes, 5)} == {0, 1, 2}


def test_an_observation_is_what_was_recorded(dataset: TrainingDataset, robot: Path) -> None:
    embodiment = embodiment_for_robot(robot)
    seen, others = dataset_observations(dataset, embodiment, "fp8_weights", 6, None)
    assert others == []
    for observation, (episode, row) in zip(seen, spread_rows(dataset.episodes, 6), strict=True):
        for camera, frames in enumerate(observation.video.values()):
            number = data_rig.frame_number(row, camera, episode * data_rig.ROWS)
            assert data_rig.read_barcode(frames[-1]) == number
        assert observation.instruction in data_rig.TASKS


def embodiment_for_robot(robot: Path) -> Any:
    from groot_ros.embodiment.load import load_embodiment

    return load_embodiment(robot, "n1d7")


def test_scales_are_judged_on_other_episodes(dataset: TrainingDataset, robot: Path) -> None:
    seen = dataset_observations(dataset, embodiment_for_robot(robot), "fp8", 7, None)
    numbers = [
        [data_rig.read_barcode(next(iter(observation.video.values()))[-1]) for observation in some] for some in seen
    ]
    episode_of = {
        data_rig.frame_number(row, 0, episode * data_rig.ROWS): episode
        for episode in range(data_rig.EPISODES)
        for row in range(data_rig.ROWS)
    }
    judged, calibration = ({episode_of[number] for number in some} for some in numbers)
    assert (judged, calibration) == ({0, 2}, {1})
    assert [len(some) for some in numbers] == [7, 7]


@pytest.mark.parametrize(
    ("seen", "judged", "calibration"),
    [(11, [0, 1, 2, 3, 4], [6, 7, 8, 9, 10]), (4, [0, 1], [2, 3]), (3, [0], [2]), (1, [0], [])],
)
def test_of_one_recording_they_are_of_two_halves(seen: int, judged: list[int], calibration: list[int]) -> None:
    assert parted(range(seen), "fp8") == (judged, calibration)
    assert parted(range(seen), "fp8_weights") == ([*range(seen)], [])


def measure(checkpoint: Path, dataset: Path, robot: Path, *more: str) -> Any:
    words = ["precision", "-c", str(checkpoint), "-d", str(dataset), "-e", str(robot), "--device", "cpu"]
    return CliRunner().invoke(app, [*words, "--observations", "16", *more])


@pytest.mark.parametrize("precision", ["fp8_weights", "fp8"])
def test_what_passes_can_be_used(
    precision: str, generation: str, random_bases: Any, recorded: Path, robot: Path, cache: Path
) -> None:
    base = random_bases(generation)
    result = measure(base, recorded, robot, "--precision", precision)
    assert result.exit_code == 0, result.output
    [path] = cache.iterdir()
    document = json.loads(path.read_text())
    assert document["verdict"] == "passed" and document["generation"] == generation
    shown = " ".join(result.output.split())
    assert f"passed: this checkpoint may run with precision:={precision}" in shown and str(path.name) in shown
    assert "single_arm (rad)" in shown and "gripper (" in shown and "worst observation" in shown
    embodiment = embodiment_for(robot, base)
    reduced = LocalPolicy(base, embodiment, device="cpu", precision=precision)
    assert reduced.engine is not None
    products = {name: getattr(holder, attribute) for name, holder, attribute in reduced.engine.program.denses()}
    assert {name for name, product in products.items() if isinstance(product, KINDS[precision])} == set(
        document["layers"]
    )
    assert any(name.startswith("dit.") for name in document["layers"])
    assert not any(name.startswith(("vision.", "encoder.", "decoder.", "dit.kv")) for name in document["layers"])
    plain = LocalPolicy(base, embodiment, device="cpu")
    look = reduced.blank_observation()
    chunks = [policy.act(look, seed=3).actions["single_arm"] for policy in (plain, reduced)]
    assert (chunks[0] != chunks[1]).any()
    assert np.abs(chunks[0] - chunks[1]).max() <= 2 * document["numbers"]["keys"]["single_arm"]["noise_largest"]


def test_without_it_a_policy_is_refused(random_bases: Any, robot: Path) -> None:
    base = random_bases("n1d7")
    with pytest.raises(PrecisionError, match=r"found none at .*groot-ros precision --checkpoint"):
        LocalPolicy(base, embodiment_for(robot, base), device="cpu", precision="fp8_weights")


def test_what_is_damaged_is_refused_with_exit_code_1(
    random_bases: Any, recorded: Path, robot: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fp8, "saturated", lambda values: (torch.ones_like(values) * 3).to(fp8.E4M3))
    base = random_bases("n1d7")
    result = measure(base, recorded, robot)
    assert result.exit_code == 1, result.output
    assert "refused: " in result.output and "passed" not in result.output
    [path] = cache.iterdir()
    with pytest.raises(PrecisionError, match=r"measured on .* and refused \("):
        LocalPolicy(base, embodiment_for(robot, base), device="cpu", precision="fp8_weights", precision_file=path)


def test_result_and_products_of_the_users_choice(
    random_bases: Any, recorded: Path, robot: Path, cache: Path, tmp_path: Path
) -> None:
    path = tmp_path / "mine" / "result.json"
    result = measure(random_bases("n1d7"), recorded, robot, "-o", str(path), "--exclude", "language.*")
    assert result.exit_code == 0, result.output
    assert not cache.exists()
    assert all(name.startswith("dit.") for name in json.loads(path.read_text())["layers"])


REFUSALS = {
    "no observations": (["--observations", "16"], "--dataset DIR or --bag BAG"),
    "both": (["-d", "x", "--bag", "y"], "one of them"),
    "no such robot": (["-d", "x", "-e", "nobody"], "nobody"),
    "no such dataset": (["-d", "/nowhere"], "/nowhere"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_measured_is_said_in_one_message(case: str, random_bases: Any) -> None:
    words, expected = REFUSALS[case]
    result = CliRunner().invoke(app, ["precision", "-c", str(random_bases("n1d7")), *words])
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert expected in " ".join(result.output.split())
