"""Open loop: what the policy is shown, what counts, the numbers, the pictures, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import barcode
import cv2
import matplotlib.pyplot as plt
import numpy as np
import pytest
from dataset_maker import TASKS, frame_number, make_dataset, small_arm
from rich.console import Console
from typer.testing import CliRunner

from groot_ros.cli import app
from groot_ros.dataset.export_v30 import export
from groot_ros.embodiment.schema import Embodiment
from groot_ros.observation.types import Observation
from groot_ros.policy.base import Chunk, Policy, Prefix, TwoStepPolicy
from groot_ros.policy.generation import embodiment_for
from groot_ros.policy.local import LocalPolicy
from groot_ros.policy.random_checkpoint import make_random_checkpoint
from groot_ros.training.episodes import TrainingDataset, open_training_dataset
from groot_ros.training.errors import TrainingError
from groot_ros.training.open_loop import EpisodeRun, Options, check_dataset, columns_of, run_episode
from groot_ros.training.open_loop_picture import PREDICTED, RECORDED, draw_episode, episode_figure
from groot_ros.training.open_loop_report import OpenLoopReport

ROWS, HORIZON = 21, 16
ROBOT = small_arm()
Rows = np.ndarray


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    old = make_dataset(tmp_path_factory.mktemp("open") / "pick", episodes=2, rows=ROWS)
    export(old, old.with_name("pick30"), image_frames=4)
    return {"v2.1": old, "v3.0": old.with_name("pick30")}


@pytest.fixture(scope="module")
def datasets(roots: dict[str, Path]) -> dict[str, TrainingDataset]:
    return {version: open_training_dataset(root, jobs=1) for version, root in roots.items()}


@pytest.fixture
def dataset(datasets: dict[str, TrainingDataset]) -> TrainingDataset:
    return datasets["v2.1"]


def actions(dataset: TrainingDataset, index: int) -> dict[str, Rows]:
    return {key: dataset.rows(index, [f"action.{key}"])[f"action.{key}"] for key in ROBOT.action}


class Parrot:
    """Says the recorded actions from the row of the observation on, and something wild where there are none."""

    def __init__(self, recorded: dict[str, Rows], offset: float = 0.0) -> None:
        self._recorded, self._offset = recorded, offset
        self.seen: list[tuple[int, Observation, int | None]] = []

    def act(self, observation: Observation, *, seed: int | None = None, prefix: Prefix | None = None) -> Chunk:
        row = round(observation.stamp_ns * 30 / 1e9)
        self.seen.append((row, observation, seed))
        said = {}
        for key, rows in self._recorded.items():
            chunk = np.full((HORIZON, rows.shape[1]), 99.0, dtype=np.float32)
            known = rows[row : row + HORIZON]
            chunk[: len(known)] = known
            chunk[:, 0] += self._offset
            chunk[5:] += 50.0  # beyond the execution horizon of the tests
            said[key] = chunk
        return Chunk(observation.stamp_ns, 1 / 30, said, observation.instruction, seed or 0)


def run(dataset: TrainingDataset, index: int, policy: Policy, robot: Embodiment = ROBOT, **options: Any) -> EpisodeRun:
    chosen = Options(**{"execution_horizon": 5, **options})
    return run_episode(dataset, dataset.episode(index), robot, policy, chosen)


class Serial:
    """A policy without its two steps: nothing is done ahead."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def act(self, observation: Observation, *, seed: int | None = None, prefix: Prefix | None = None) -> Chunk:
        return self._policy.act(observation, seed=seed, prefix=prefix)


def test_what_is_encoded_ahead_gives_the_same_numbers(dataset: TrainingDataset, tmp_path: Path) -> None:
    make_random_checkpoint(tmp_path / "tiny", "n1d7", "tiny", "sim_arm", 0, Console(quiet=True))
    policy = LocalPolicy(tmp_path / "tiny", embodiment_for("sim_arm", tmp_path / "tiny"), device="cpu")
    assert isinstance(policy, TwoStepPolicy) and not isinstance(Serial(policy), TwoStepPolicy)
    results = [run(dataset, 0, told) for told in (policy, Serial(policy))]
    np.testing.assert_array_equal(*(result.predicted for result in results))
    assert all(len(result.latencies_s) == len(result.starts) and min(result.latencies_s) > 0 for result in results)


def test_a_picture_that_cannot_be_read_ends_the_run_in_its_turn(
    dataset: TrainingDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chunks before it are computed, though it was met while the last of them was."""
    frames = dataset.frames

    def broken(index: int, key: str, rows: list[int]) -> Rows:
        if max(rows) >= 10:
            raise OSError("the third picture")
        return frames(index, key, rows)

    monkeypatch.setattr(dataset, "frames", broken)
    policy = Parrot(actions(dataset, 0))
    with pytest.raises(OSError, match="the third picture"):
        run(dataset, 0, policy)
    assert [row for row, _, _ in policy.seen] == [0, 5]


def report_of(dataset: TrainingDataset, runs: list[EpisodeRun]) -> OpenLoopReport:
    return OpenLoopReport(str(dataset.root), "/tmp/tiny", ROBOT.name, dataset.fps, 5, 0, columns_of(ROBOT), runs)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_the_policy_sees_what_was_recorded_and_nothing_else(version: str, datasets: dict[str, TrainingDataset]) -> None:
    """Pictures carry their numbers; history before the beginning is the first row."""
    dataset = datasets[version]
    deltas = ROBOT.delta_indices.model_copy(update={"video": [-2, 0], "state": [-3, -1, 0]})
    robot = ROBOT.model_copy(update={"delta_indices": deltas})
    for index in range(2):
        policy = Parrot(actions(dataset, index))
        result = run(dataset, index, policy, robot)
        assert result.starts == (0, 5, 10, 15, 20)
        assert result.instructions == (TASKS[index],)
        state = {key: dataset.rows(index, [f"state.{key}"])[f"state.{key}"] for key in robot.state}
        for (row, observation, _), start in zip(policy.seen, result.starts, strict=True):
            assert row == start
            assert observation.instruction == TASKS[index]
            for camera, frames in enumerate(observation.video.values()):
                numbers = [frame_number(max(0, row + delta), camera, index * ROWS) for delta in (-2, 0)]
                assert [barcode.read(frame) for frame in frames] == numbers
            for key, values in observation.state.items():
                rows = [max(0, row + delta) for delta in (-3, -1, 0)]
                np.testing.assert_array_equal(values, state[key][rows])
                assert values.dtype == np.float32


def test_only_the_rows_before_the_next_observation_count(dataset: TrainingDataset) -> None:
    """The parrot is wrong from row 5 of a chunk on, and beyond the episode's end: neither is looked at."""
    result = run(dataset, 0, Parrot(actions(dataset, 0)))
    np.testing.assert_array_equal(result.predicted, result.recorded)
    recorded = np.concatenate(list(actions(dataset, 0).values()), axis=1)
    np.testing.assert_array_equal(result.recorded, recorded)
    held_rows = [max(0, 5 * (row // 5) - 1) for row in range(ROWS)]
    np.testing.assert_array_equal(result.held, recorded[held_rows])
    short = run(dataset, 0, Parrot(actions(dataset, 0)), steps=7)
    assert (short.starts, len(short.predicted), len(short.recorded), len(short.held)) == ((0, 5), 7, 7, 7)
    late = run(dataset, 0, Parrot(actions(dataset, 0)), execution_horizon=6)
    np.testing.assert_allclose(late.predicted[5], late.recorded[5] + 50, atol=1e-5)


def test_errors_are_those_of_the_numbers_they_name(dataset: TrainingDataset) -> None:
    """Every key is off by 0.2 in its first number."""
    report = report_of(dataset, [run(dataset, index, Parrot(actions(dataset, index), 0.2)) for index in range(2)])
    for error in report.column_errors():
        first = error.name in ("shoulder_pan", "gripper")
        expected = (0.04, 0.2, 0.2) if first else (0.0, 0.0, 0.0)
        np.testing.assert_allclose((error.mse, error.mae, error.max_abs), expected, atol=1e-6, err_msg=error.name)
    keys = report.key_errors()
    np.testing.assert_allclose([keys["single_arm"].mse, keys["single_arm"].mae], [0.04 / 5, 0.2 / 5], atol=1e-6)
    np.testing.assert_allclose([keys["gripper"].mse, keys["gripper"].mae], [0.04, 0.2], atol=1e-6)
    np.testing.assert_allclose(report.mean_error().mae, 0.4 / 6, atol=1e-6)
    one, other = (report.column_errors([result])[1].held_mae for result in report.runs)
    assert one != other
    np.testing.assert_allclose(report.column_errors()[1].held_mae, (one + other) / 2)
    held = np.abs(report.runs[0].held - report.runs[0].recorded)[:, 1].mean()
    np.testing.assert_allclose(one, held)


def test_noise_is_drawn_by_seed_episode_and_row(dataset: TrainingDataset) -> None:
    def seeds(index: int, seed: int) -> list[int | None]:
        policy = Parrot(actions(dataset, index))
        run(dataset, index, policy, seed=seed)
        return [drawn for _, _, drawn in policy.seen]

    assert seeds(0, 0) == seeds(0, 0)
    assert len({*seeds(0, 0), *seeds(1, 0), *seeds(0, 1)}) == 15


def test_another_instruction_is_said_in_place_of_the_recorded_one(dataset: TrainingDataset) -> None:
    assert run(dataset, 1, Parrot(actions(dataset, 1)), instruction="wave").instructions == ("wave",)


def test_tasks_of_the_episode_are_the_instruction_where_the_key_says_so(dataset: TrainingDataset) -> None:
    robot = ROBOT.model_copy(update={"language": ROBOT.language.model_copy(update={"key": "task"})})
    assert run(dataset, 1, Parrot(actions(dataset, 1)), robot).instructions == (TASKS[1],)


def test_the_report_is_json_and_the_picture_has_both_curves(dataset: TrainingDataset, tmp_path: Path) -> None:
    report = report_of(dataset, [run(dataset, 0, Parrot(actions(dataset, 0), 0.3))])
    draw_episode(report, report.runs[0], tmp_path / "one.png")
    report.pictures[0] = "one.png"
    report.to_json(tmp_path / "report.json")
    said = json.loads((tmp_path / "report.json").read_text())
    assert (said["rows"], said["execution_horizon"], said["embodiment"]) == (ROWS, 5, "sim_arm")
    assert [entry["name"] for entry in said["numbers"]] == [column.name for column in columns_of(ROBOT)]
    assert said["episodes"][0]["picture"] == "one.png"
    assert said["episodes"][0]["chunks"] == 5
    assert cv2.imread(str(tmp_path / "one.png")).shape[1] > 1000
    figure = episode_figure(report, report.runs[0])
    axes = figure.axes
    plt.close(figure)
    for i, (axis, column) in enumerate(zip(axes, columns_of(ROBOT), strict=True)):
        assert axis.get_ylabel() == "rad"
        assert axis.get_title("left") == f"{column.key}: {column.name}"
        curves: dict[str, list[Any]] = {RECORDED: [], PREDICTED: []}
        for line in axis.lines:
            points = line.get_xydata()
            if len(points) > 2:
                curves[str(line.get_color())].append(points)
        (recorded,) = curves[RECORDED]
        np.testing.assert_allclose(recorded, np.stack([np.arange(ROWS) / 30, report.runs[0].recorded[:, i]], axis=1))
        assert [len(chunk) for chunk in curves[PREDICTED]] == [5, 5, 5, 5]  # and one of a single row
        predicted = np.concatenate(curves[PREDICTED])[:, 1]
        np.testing.assert_allclose(predicted, report.runs[0].predicted[:20, i])


def edited(**changes: Any) -> Embodiment:
    return ROBOT.model_copy(update=changes)


ARM = ROBOT.action["single_arm"]
TWO = ARM.model_copy(update={"joints": ["shoulder_pan", "shoulder_lift"]})
TURNED = ARM.model_copy(update={"joints": list(reversed(ARM.joints or []))})
LANGUAGE = ROBOT.language.model_copy(update={"key": "annotation.other"})


@pytest.mark.parametrize(
    ("robot", "parts"),
    [
        (edited(step_hz=20.0), ["info.json: fps", "expected 20 rows per second", "step_hz", "found 30"]),
        (edited(action={**ROBOT.action, "single_arm": TWO}), ["modality.json: action.single_arm", "expected 2", "5"]),
        (edited(action={"single_arm": TURNED}), ["features.action.names", "wrist_roll, wrist_flex", "found shoulder"]),
        (edited(action={"leg": ARM}), ["modality.json: action", "'leg'", "single_arm, gripper"]),
        (edited(video={"top": ROBOT.video["front"]}), ["modality.json: video", "'top'", "front, wrist"]),
        (edited(language=LANGUAGE), ["modality.json: annotation", "annotation.other"]),
    ],
)
def test_a_dataset_of_another_robot_is_refused(dataset: TrainingDataset, robot: Embodiment, parts: list[str]) -> None:
    with pytest.raises(RuntimeError) as error:
        check_dataset(dataset, robot)
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_what_differs_and_does_no_harm_is_said(dataset: TrainingDataset) -> None:
    assert check_dataset(dataset, ROBOT) == []
    camera = ROBOT.cameras["wrist"].model_copy(update={"width": 640, "height": 480})
    notices = check_dataset(dataset, edited(name="other", cameras={**ROBOT.cameras, "wrist": camera}))
    assert notices == [
        "the dataset is of the robot sim_arm, the YAML is other's",
        "wrist: the dataset has pictures of 32x24 px, the robot's camera 640x480",
    ]


def test_an_episode_without_a_task_is_refused_unless_the_instruction_is_given(dataset: TrainingDataset) -> None:
    robot = edited(language=ROBOT.language.model_copy(update={"key": "task"}))
    lacking = copy.copy(dataset)
    lacking.episodes = (dataset.episodes[0], dataclasses.replace(dataset.episodes[1], tasks=()))
    assert check_dataset(dataset, robot) == check_dataset(lacking, robot, "pick it up") == []
    with pytest.raises(TrainingError, match=r"episode 1: expected a task, found none .*--instruction"):
        check_dataset(lacking, robot)


@pytest.mark.parametrize("rows", [0, 17])
def test_an_execution_horizon_that_no_chunk_has_is_refused(dataset: TrainingDataset, rows: int) -> None:
    with pytest.raises(TrainingError, match=f"--execution-horizon: expected 1 to 16, .*found {rows}"):
        run(dataset, 0, Parrot(actions(dataset, 0)), execution_horizon=rows)


def test_the_command_evaluates_a_checkpoint(roots: dict[str, Path], tmp_path: Path) -> None:
    """v2.1 and v3.0 give the same numbers; what is wrong is told before the checkpoint is loaded."""
    checkpoint = tmp_path / "tiny"
    make_random_checkpoint(checkpoint, "n1d7", "tiny", "sim_arm", 0, Console(quiet=True))
    found = {}
    for version, root in roots.items():
        words = ["open-loop", "-c", checkpoint, "-d", root, "--episodes", "0-0", "--steps", 9, "-o", tmp_path / version]
        result = CliRunner().invoke(app, [str(word) for word in [*words, "--device", "cpu"]])
        assert result.exit_code == 0, result.output
        found[version] = json.loads((tmp_path / version / "report.json").read_text())
        assert {path.name for path in (tmp_path / version).iterdir()} == {"report.json", "episode_000000.png"}
    assert found["v2.1"]["numbers"] == found["v3.0"]["numbers"]
    assert found["v2.1"]["execution_horizon"] == HORIZON // 2
    assert 0 < found["v2.1"]["all"]["mae"] < 10
    assert "32x24" in result.output
    words = ["open-loop", "-c", checkpoint, "-d", roots["v2.1"], "--episodes", "5", "-o", tmp_path / "none"]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 2
    assert "expected an episode of 0 to 1, found 5" in result.output
    assert not (tmp_path / "none").exists()


def test_what_the_policy_tells_in_the_run_is_printed_and_stored(
    roots: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "tiny"
    make_random_checkpoint(checkpoint, "n1d7", "tiny", "sim_arm", 0, Console(quiet=True))
    act, calls = LocalPolicy.act_encoded, []

    def telling(self: LocalPolicy, *arguments: Any, **named: Any) -> Chunk:
        calls.append(len(calls))
        self._notices.add(f"inference {calls[-1]}: memory ran out")
        return act(self, *arguments, **named)

    monkeypatch.setattr(LocalPolicy, "act_encoded", telling)
    words = [
        "open-loop",
        "-c",
        checkpoint,
        "-d",
        roots["v2.1"],
        "--episodes",
        "0-0",
        "--steps",
        9,
        "-o",
        tmp_path / "o",
    ]
    result = CliRunner().invoke(app, [str(word) for word in [*words, "--device", "cpu", "--no-engine"]])
    assert result.exit_code == 0, result.output
    stored = json.loads((tmp_path / "o" / "report.json").read_text())["notices"]
    told = [f"inference {number}: memory ran out" for number in calls]
    assert told and stored[-len(told) :] == told
    assert all(f"note: {notice}" in " ".join(result.output.split()) for notice in told)
