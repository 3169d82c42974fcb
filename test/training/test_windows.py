"""Which windows there are, and what is in them, by the rules of each generation."""

from __future__ import annotations

from pathlib import Path

import data_rig
import numpy as np
import pytest

from groot_ros.dataset.read import Dataset
from groot_ros.training.errors import TrainingError
from groot_ros.training.frame_cache import FrameCache

HORIZON, ROWS = 16, data_rig.ROWS


@pytest.fixture
def windows(recorded, robot, random_bases):
    """Generation -> its windows of the recording."""
    return lambda generation, **flags: (
        data_rig.data(random_bases(generation), generation, [recorded], robot, **flags).dataset.windows
    )


@pytest.mark.parametrize(
    ("generation", "padding", "count"),
    [
        ("n1d5", False, ROWS),
        ("n1d6", False, ROWS - HORIZON + 1),
        ("n1d7", False, ROWS - HORIZON + 1),
        ("n1d7", True, ROWS),
    ],
)
def test_number_of_windows(windows, generation: str, padding: bool, count: int) -> None:
    assert windows(generation, allow_padding=padding).counts == [[count] * data_rig.EPISODES]


@pytest.mark.parametrize("generation", ["n1d5", "n1d6", "n1d7"])
def test_a_window_holds_the_rows_from_its_own_on(windows, recorded: Path, generation: str) -> None:
    source = Dataset(recorded)
    action, state = source.column(1, "action"), source.column(1, "observation.state")
    raw = windows(generation).raw((0, 1, 5))
    np.testing.assert_array_equal(np.hstack([raw.state["single_arm"], raw.state["gripper"]]), state[5:6])
    np.testing.assert_array_equal(np.hstack([raw.action["single_arm"], raw.action["gripper"]]), action[5:21])
    assert raw.instruction == data_rig.TASKS[1]
    for camera, key in enumerate(("front", "wrist")):
        (picture,) = raw.video[key]
        assert data_rig.read_barcode(picture) == data_rig.frame_number(ROWS + 5, camera)
    assert {value.dtype for value in (*raw.state.values(), *raw.action.values())} == {np.dtype("float32")}


@pytest.mark.parametrize(("generation", "padding"), [("n1d5", False), ("n1d7", True)])
def test_beyond_the_end_the_last_value_again(windows, recorded: Path, generation: str, padding: bool) -> None:
    action = Dataset(recorded).column(2, "action")
    raw = windows(generation, allow_padding=padding).raw((0, 2, 20))
    np.testing.assert_array_equal(raw.action["gripper"], action[[20, 21, 22, *[23] * 13], 5:])


def test_n1d5_pads_changes_with_zeros(recorded: Path, robot: Path, random_bases, tmp_path: Path) -> None:
    root = data_rig.copied(recorded, tmp_path / "dataset")
    entries = {"single_arm": {"start": 0, "end": 5, "absolute": False}, "gripper": {"start": 5, "end": 6}}
    data_rig.edit_json(root / "meta/modality.json", action=entries)
    raw = data_rig.data(random_bases("n1d5"), "n1d5", [root], robot).dataset.windows.raw((0, 0, 20))
    action = Dataset(recorded).column(0, "action")
    np.testing.assert_array_equal(raw.action["single_arm"][:4], action[20:, :5])
    assert not raw.action["single_arm"][4:].any()
    np.testing.assert_array_equal(raw.action["gripper"][4:], np.repeat(action[23:, 5:], 12, axis=0))


def test_before_the_beginning_the_first_picture_again(recorded: Path, tmp_path: Path) -> None:
    robot = data_rig.write_robot(tmp_path / "robot.yaml", delta_indices__video=[-5, 0])
    base = data_rig.write_checkpoint(tmp_path / "base", "n1d7", robot)
    windows = data_rig.data(base, "n1d7", [recorded], robot).dataset.windows
    for row, shown in ((0, (0, 0)), (3, (0, 3)), (8, (3, 8))):
        pictures = windows.raw((0, 0, row)).video["wrist"]
        assert [data_rig.read_barcode(p) for p in pictures] == [data_rig.frame_number(r, 1) for r in shown]


@pytest.mark.parametrize("share", [1.0, 0.5, 0.0])
def test_a_cache_changes_no_picture(windows, share: float) -> None:
    plain = windows("n1d7")
    (dataset,) = plain.datasets
    sizes = {dataset.modality.video[key]: size for key, size in dataset.view_sizes.items()}
    memory = int(share * dataset.total_rows * 2 * 24 * 32 * 3)
    plain.cache = FrameCache([dataset.total_rows], [sizes], memory)
    assert plain.cache.share == pytest.approx(share, abs=0.02)
    for _ in range(2):
        for window in ((0, 0, 2), (0, 2, 7), (0, 0, 2)):
            cached = plain.raw(window)
            for key in ("front", "wrist"):
                expected = dataset.frames(window[1], key, [window[2]])
                np.testing.assert_array_equal(cached.video[key], expected)
    feature = dataset.modality.video["front"]
    assert (plain.cache.get(0, feature, 2) is not None) == (share > 0)
    assert (plain.cache.get(0, feature, 2 * ROWS + 7) is not None) == (share == 1.0)


def test_episodes_shorter_than_a_chunk(windows, recorded: Path, random_bases, robot: Path, tmp_path: Path) -> None:
    short = data_rig.make_dataset(tmp_path / "short", episodes=1, rows=HORIZON - 1)
    data_rig.refresh_statistics(short)
    for generation in ("n1d6", "n1d7"):
        with pytest.raises(TrainingError, match=r"at least 16 rows.*longest has 15.*--allow-padding"):
            data_rig.data(random_bases(generation), generation, [short], robot)
    assert data_rig.data(random_bases("n1d5"), "n1d5", [short], robot).windows == HORIZON - 1
    with pytest.raises(TrainingError, match=r"at least 16 rows for the statistics of the RELATIVE action key"):
        data_rig.data(random_bases("n1d7"), "n1d7", [short], robot, allow_padding=True)
