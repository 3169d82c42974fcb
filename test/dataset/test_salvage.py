"""Aborted episodes: kept, told, taken over as far as they are whole, or removed."""

import shutil
from pathlib import Path

import barcode
import dataset_maker
import numpy as np
import pytest
from writer_rig import SPEC, Full, aborted_episode, lengths, open_writer, sealed

from groot_ros.dataset import durable, recovery, salvage, staged
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.read import Dataset
from groot_ros.dataset.spec import FLAG_SALVAGED, FLAGS, DatasetSpec
from groot_ros.dataset.video import decode_frames


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A dataset with one episode of five rows."""
    return dataset_maker.make_dataset(tmp_path / "set", episodes=1, rows=5)


def test_an_interrupted_removal_is_ended(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = aborted_episode(root, 3)
    monkeypatch.setattr(shutil, "rmtree", Full(shutil.rmtree))
    with pytest.raises(DatasetError, match="full disk"):
        salvage.remove_aborted(root)
    monkeypatch.undo()
    assert (path / staged.ROWS).is_file() and not salvage.aborted_episodes(root)
    open_writer(root).close()
    assert not path.exists()


def test_salvage_takes_what_agrees_and_says_so(root: Path) -> None:
    path = aborted_episode(root, 8)
    rows = path / staged.ROWS
    rows.write_bytes(rows.read_bytes()[: -SPEC.row_dtype.itemsize - 7])  # as a crash tears it: 6 whole rows
    (found,) = salvage.aborted_episodes(root)
    assert (found.task, found.rows, found.reason, found.state) == ("pick the cup", 6, "camera lost", "aborted")
    assert found.bytes > 1000
    (report,) = salvage.salvage(root, path.name)
    assert (report.index, report.rows, report.salvaged, report.more) == (1, 6, True, {"reason": "camera lost"})
    assert lengths(root) == [5, 6] and not salvage.aborted_episodes(root)
    dataset = Dataset(root)
    assert (dataset.column(1, FLAGS) == FLAG_SALVAGED).all()
    expected = dataset_maker.make_rows(SPEC, 8, seed=3)[:6]
    np.testing.assert_array_equal(dataset.column(1, "observation.state"), expected["state"])
    for camera, key in enumerate(dataset.video_keys):
        numbers = [barcode.read(rgb) for rgb in decode_frames(dataset.video(1, key))]
        assert numbers == [dataset_maker.frame_number(row, camera, 50) for row in range(6)]
        assert dataset.episodes_stats[1][key]["count"] == [6]


def test_salvage_of_all_passes_over_what_has_nothing(root: Path) -> None:
    broken, whole = aborted_episode(root, 3), aborted_episode(root, 4)
    (broken / "wrist.mkv").write_bytes(b"")
    with pytest.raises(
        DatasetError, match="expected rows with a frame of every camera, found 3 of rows, 3 of front, 0"
    ):
        salvage.salvage(root, broken.name)
    events: list[str] = []
    (report,) = salvage.salvage(root, on_event=events.append)
    assert report.rows == 4 and "remove the episode" in events[-1] and not whole.exists()
    with pytest.raises(DatasetError, match=f"expected an aborted episode nothing, found {broken.name}"):
        salvage.remove_aborted(root, "nothing")
    assert [episode.path for episode in salvage.remove_aborted(root)] == [broken]
    assert not broken.exists() and salvage.salvage(root) == [] and lengths(root) == [5, 4]


def test_a_sealed_episode_that_was_not_committed_is_kept(root: Path) -> None:
    with open_writer(root) as target:
        path = sealed(target, 4)
    with open_writer(root) as target:
        (kept,) = target.recovered.aborted
        assert kept.path == path and "before it was part of the dataset" in kept.reason
    (report,) = salvage.salvage(root)
    assert report.salvaged and lengths(root) == [5, 4]


def test_salvage_can_be_interrupted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aborted_episode(root, 5)
    for works in range(2):
        monkeypatch.setattr(durable, "write_file", Full(durable.write_file, works))
        with pytest.raises(DatasetError, match="full disk"):
            salvage.salvage(root)
        monkeypatch.undo()
    assert [report.rows for report in salvage.salvage(root)] == [5]
    assert lengths(root) == [5, 5]


def test_salvage_is_refused_while_another_records(root: Path) -> None:
    aborted_episode(root, 3)
    with open_writer(root), pytest.raises(DatasetError, match="expected no other writer, found process"):
        salvage.salvage(root)


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="typo: expected a dataset's folder, found none"):
        salvage.aborted_episodes(tmp_path / "typo")


def test_what_goes_while_it_is_listed_is_no_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, other = aborted_episode(root, 3), aborted_episode(root, 4)
    real = recovery.read_rows

    def gone(folder: Path, spec: DatasetSpec) -> np.ndarray:
        if folder == path:
            shutil.rmtree(path)
        return real(folder, spec)

    monkeypatch.setattr(recovery, "read_rows", gone)
    assert [episode.path for episode in salvage.aborted_episodes(root)] == [other]
