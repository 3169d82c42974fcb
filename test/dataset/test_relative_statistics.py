"""Statistics of actions relative to the state, against a plain loop over windows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from dataset_maker import make_dataset, small_arm
from numpy.typing import NDArray

from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.read import Dataset
from groot_ros.dataset.relative_statistics import relative_statistics, step_statistics, write_relative_statistics
from groot_ros.embodiment.schema import Representation
from groot_ros.processing import pose
from groot_ros.processing.modality import ActionConfig, ActionFormat, ActionRep, ActionType

Floats = NDArray[np.float32]
NUMBERS = ActionConfig(ActionRep.RELATIVE, ActionType.NON_EEF, ActionFormat.DEFAULT)
POSE_6D = ActionConfig(ActionRep.RELATIVE, ActionType.EEF, ActionFormat.XYZ_ROT6D)
POSE_VECTOR = ActionConfig(ActionRep.RELATIVE, ActionType.EEF, ActionFormat.XYZ_ROTVEC)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset(make_dataset(tmp_path_factory.mktemp("relative") / "arm", episodes=2, rows=20))


def plain(states: Sequence[Floats], actions: Sequence[Floats], horizon: int, config: ActionConfig) -> Floats:
    """[windows, horizon, D], one window after the other."""
    windows = []
    for state, action in zip(states, actions):
        for start in range(len(state) - horizon + 1):
            chunk = action[start : start + horizon].astype(np.float64)
            reference = state[start].astype(np.float64)
            if config.type is ActionType.EEF:
                base = np.linalg.inv(pose.homogeneous(reference, config.format))
                steps = [base @ pose.homogeneous(step, config.format) for step in chunk]
                windows.append(np.stack([pose.from_homogeneous(step, config.format) for step in steps]))
            else:
                windows.append(chunk - reference)
    return np.stack(windows).astype(np.float32)


def poses(random: np.random.Generator, rows: int, config: ActionConfig) -> Floats:
    matrix = np.zeros((rows, 4, 4))
    matrix[:, :3, :3] = pose.matrix_from_rotvec(random.normal(size=(rows, 3)))
    matrix[:, :3, 3], matrix[:, 3, 3] = random.normal(size=(rows, 3)), 1.0
    return pose.from_homogeneous(matrix, config.format).astype(np.float32)


@pytest.mark.parametrize("config", [NUMBERS, POSE_6D, POSE_VECTOR], ids=["numbers", "xyz+rot6d", "xyz+rotvec"])
def test_steps_equal_a_plain_loop(config: ActionConfig) -> None:
    random = np.random.default_rng(3)
    lengths = (9, 4, 3, 12)  # the third is shorter than a chunk
    if config.type is ActionType.EEF:
        states, actions = ([poses(random, rows, config) for rows in lengths] for _ in range(2))
    else:
        states, actions = ([random.normal(size=(rows, 5)).astype(np.float32) for rows in lengths] for _ in range(2))
    found = step_statistics(states, actions, 4, config)
    windows = plain(states, actions, 4, config).astype(np.float64)
    assert len(windows) == 6 + 1 + 9
    expected = {"min": windows.min(0), "max": windows.max(0), "mean": windows.mean(0), "std": windows.std(0)}
    expected |= {"q01": np.quantile(windows, 0.01, axis=0), "q99": np.quantile(windows, 0.99, axis=0)}
    assert set(found) == set(expected)
    for name, numbers in expected.items():
        np.testing.assert_allclose(found[name], numbers, atol=2e-6, err_msg=name)


def test_relative_keys_of_a_robot(dataset: Dataset) -> None:
    found = relative_statistics(dataset, small_arm(), "n1d7")
    assert list(found) == ["single_arm"]  # the gripper is absolute
    assert np.shape(found["single_arm"]["q01"]) == (16, 5)
    states = [dataset.column(episode, "observation.state")[:, :5] for episode in range(2)]
    actions = [dataset.column(episode, "action")[:, :5] for episode in range(2)]
    windows = plain(states, actions, 16, NUMBERS)
    np.testing.assert_allclose(found["single_arm"]["max"], windows.max(0), atol=1e-7)


def test_horizon_can_be_named_and_n1d5_has_no_relative_keys(dataset: Dataset) -> None:
    assert np.shape(relative_statistics(dataset, small_arm(), "n1d6", 4)["single_arm"]["std"]) == (4, 5)
    assert relative_statistics(dataset, small_arm(), "n1d5") == {}


def test_written_where_groot_reads_it(dataset: Dataset) -> None:
    path = write_relative_statistics(dataset.root, relative_statistics(dataset, small_arm(), "n1d7", 2))
    assert path.relative_to(dataset.root) == Path("meta/relative_stats.json") and path.stat().st_size
    path.unlink()


def test_refusals_name_what_is_wrong(dataset: Dataset) -> None:
    with pytest.raises(DatasetError, match=r"at least 21 rows.*longest has 20"):
        relative_statistics(dataset, small_arm(), "n1d7", 21)
    with pytest.raises(DatasetError, match="at least 1 step, found 0"):
        relative_statistics(dataset, small_arm(), "n1d7", 0)
    robot = small_arm()
    renamed = robot.model_copy(
        update={
            "state": {"left_arm": robot.state["single_arm"]},
            "action": {"left_arm": robot.action["single_arm"]},
        }
    )
    with pytest.raises(
        DatasetError, match=r"modality.json: state: expected the key 'left_arm'.*found single_arm, grip"
    ):
        relative_statistics(dataset, renamed, "n1d7")
    posed = robot.action["gripper"].model_copy(
        update={"representation": Representation(rep="RELATIVE", type="EEF", format="XYZ_ROT6D")}
    )
    with pytest.raises(DatasetError, match=r"action.gripper: expected 9 numbers.*found 1 and 1"):
        relative_statistics(dataset, robot.model_copy(update={"action": {"gripper": posed}}), "n1d7")
    flat = np.zeros((5, 9), np.float32)  # no rotation
    with pytest.raises(DatasetError, match="step 0: expected finite numbers"):
        step_statistics([flat], [flat], 2, POSE_6D)
