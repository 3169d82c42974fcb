"""Whatever stops a writer, what was committed stays whole, and the next one goes on."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import dataset_maker
import pytest
from writer_rig import SPEC, Full, lengths, open_writer, sealed

from groot_ros.dataset import commit, durable, paths, salvage, staged, statistics
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.recovery import staged_episodes

KILLS = Path(__file__).with_name("kill_writer.py")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A dataset with one episode of five rows."""
    return dataset_maker.make_dataset(tmp_path / "set", episodes=1, rows=5)


def test_kill_9_at_any_moment_and_at_every_step() -> None:
    """The long run is `python test/dataset/kill_writer.py --runs 200`."""
    command = [sys.executable, str(KILLS), "--runs", "8", "--steps", "1", "--seed", "5"]
    # What a killed process wrote is there without a disk; syncing one takes most of the time.
    if os.access("/dev/shm", os.W_OK):
        command += ["--folder", "/dev/shm"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout)
    assert sum(summary["kills"].values()) == 8 + len(commit.STEPS)
    assert all(summary["kills"][f"at {step}"] == 1 for step in commit.STEPS)
    assert summary["rolled_forward"] >= 5 and summary["rolled_back"] >= 1 and summary["frames_checked"] > 50


def test_interrupted_lines_are_completed_not_doubled(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a power cut leaves them: a part of a line is on the disk."""

    def torn(path: Path, at: int, data: bytes) -> NoReturn:
        with path.open("r+b") as file:
            file.seek(at)
            file.write(data[: len(data) // 2])
        raise OSError(errno.EIO, "Input/output error")

    target = open_writer(root)
    path = sealed(target, 3)
    monkeypatch.setattr(commit, "_append", torn)
    with pytest.raises(DatasetError, match="Input/output error"):
        target.commit([path])
    monkeypatch.undo()
    target._lock.release()
    events: list[str] = []
    with open_writer(root, on_event=events.append) as again:
        assert again.episodes == 2 and again.recovered.committed == 1 and not again.recovered.mended
    assert lengths(root) == [5, 3] and "ended the commit of 1 episode(s)" in events[0]


def test_record_of_other_files_is_not_followed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = open_writer(root)
    monkeypatch.setattr(commit, "_append", Full(commit._append))
    with pytest.raises(DatasetError, match="full disk"):
        target.commit([sealed(target, 3)])
    monkeypatch.undo()
    target._lock.release()
    text = (root / paths.EPISODES).read_text()
    (root / paths.EPISODES).write_text(text + '{"episode_index": 1, "tasks": ["mine"], "length": 3}\n')
    with pytest.raises(DatasetError, match=r"episodes\.jsonl: expected the \d+ bytes of before the commit"):
        open_writer(root)
    (root / paths.EPISODES).write_text(text[:-9])
    with pytest.raises(DatasetError, match=r"episodes\.jsonl: expected the \d+ bytes of before the commit"):
        open_writer(root)
    (root / paths.EPISODES).write_text(text)
    assert not salvage.aborted_episodes(root) and not salvage.remove_aborted(root), "it is part of the dataset"
    open_writer(root).close()
    assert lengths(root) == [5, 3]


def test_a_sealed_episode_whose_video_was_changed_is_refused_before_the_record(root: Path) -> None:
    with open_writer(root) as target:
        path = sealed(target, 3)
        (path / "wrist.mp4").write_bytes(b"short")
        with pytest.raises(DatasetError, match=r"wrist\.mp4: expected \d+ bytes, found 5: it was changed"):
            target.commit([path])
        (path / "wrist.mp4").unlink()
        with pytest.raises(DatasetError, match=r"expected a sealed episode, found .*wrist\.mp4"):
            target.commit([path])
    open_writer(root).close()
    assert lengths(root) == [5]


def test_statistics_that_cannot_be_written_do_not_undo_a_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    with open_writer(tmp_path, on_event=events.append) as target:
        monkeypatch.setattr(statistics, "refresh", Full(statistics.refresh))
        assert [report.index for report in target.commit([sealed(target, 3)])] == [0]
        monkeypatch.undo()
        assert "found a full disk" in events[0] and events[0].endswith("stats.json is not up to date")
    assert lengths(tmp_path) == [3]


def test_torn_line_of_another_program_is_cut(root: Path) -> None:
    with (root / paths.EPISODES).open("a") as file:
        file.write('{"episode_index": 1, "ta')
    events: list[str] = []
    with open_writer(root, on_event=events.append) as target:
        assert target.recovered.mended == [paths.EPISODES]
        assert "removed the end of a line" in events[0]
        target.commit([sealed(target, 2)])
    assert lengths(root) == [5, 2]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (paths.EPISODES, "", r"episodes_stats\.jsonl: expected 0 lines, one per episode, found 1"),
        (paths.EPISODES, '{"episode_index": 3, "tasks": ["a"], "length": 5}\n', r"numbered from 0 without a gap"),
        (
            paths.EPISODES,
            '{"episode_index": 0, "tasks": ["a"], "length": 6}\n',
            r"info\.json: expected 1 episodes, 6 r",
        ),
        (paths.EPISODES, "nonsense\n", r"episodes\.jsonl:1: expected a JSON object"),
        (paths.INFO, "{", r"info\.json: expected a JSON object"),
    ],
)
def test_damage_is_left_to_a_person(root: Path, name: Path, text: str, message: str) -> None:
    (root / name).write_text(text)
    with pytest.raises(DatasetError, match=message):
        open_writer(root)
    assert (root / name).read_text() == text
    with pytest.raises(DatasetError, match=message):  # not: found another writer
        open_writer(root)


def test_files_of_no_episode_are_moved_out(root: Path) -> None:
    stray = root / paths.data_path(1)
    shutil.copy(root / paths.data_path(0), stray)
    shutil.copy(root / paths.data_path(0), root / paths.video_path(7, "observation.images.front"))
    with open_writer(root) as target:
        assert set(target.recovered.strays) == {
            paths.data_path(1),
            paths.video_path(7, "observation.images.front"),
        }
        target.commit([sealed(target, 2)])
    assert lengths(root) == [5, 2]
    (kept,) = (root / ".staging").glob("stray-*/data/**/*.parquet")
    assert kept.read_bytes() == (root / paths.data_path(0)).read_bytes()


def test_half_files_are_removed_and_statistics_brought_up_to_date(root: Path) -> None:
    half = root / ".staging/COMMIT.json.tmp"
    with open_writer(root) as target:
        target.commit([sealed(target, 3)])
        assert statistics.is_stale(root), "the owner says when"
        half.write_text("{")
        target._lock.release()  # as if it were killed here
        with open_writer(root) as again:
            assert again.recovered.refreshed and not statistics.is_stale(root) and not half.exists()
    assert lengths(root) == [5, 3]


@pytest.mark.parametrize("left", [(), (staged.ROWS,), ("front.mkv",), ("begin.json.tmp", staged.ROWS)])
def test_a_folder_that_was_half_made_or_half_removed_is_removed(root: Path, left: tuple[str, ...]) -> None:
    folder = root / ".staging/20260101T000000Z-1-0"
    folder.mkdir()
    for name in left:
        (folder / name).write_bytes(b"something")
    with open_writer(root) as target:
        assert not list(target.staging.iterdir()) and not target.recovered.aborted


def test_interrupted_creation_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for works in range(4):
        monkeypatch.setattr(durable, "write_file", Full(durable.write_file, works))
        with pytest.raises(DatasetError, match="full disk"):
            open_writer(tmp_path)
        monkeypatch.undo()
    with open_writer(tmp_path) as target:
        target.commit([sealed(target, 2)])
    assert lengths(tmp_path) == [2]


def test_a_running_episode_of_another_process_is_left_alone(root: Path) -> None:
    """As a worker that converts a bag goes on when the process that started it is gone."""
    target = open_writer(root)
    episode = target.begin("pick")
    dataset_maker.record(episode, dataset_maker.make_rows(SPEC, 3, seed=0))
    target.close()
    with open_writer(root) as other:
        assert not other.recovered.aborted
        assert [found.state for found in staged_episodes(root)] == ["running"]
        path = episode.seal()
        assert [report.rows for report in other.commit([path])] == [3]
    assert lengths(root) == [5, 3]


def test_every_step_syncs_what_the_next_relies_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename is durable when both folders were synced; a file, when it and its folder were."""
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    at_record: list[int] = []
    with open_writer(root) as target:
        target._on_step = lambda name: at_record.append(len(synced)) if name == "record" else None
        monkeypatch.setattr(os, "fsync", fsync)
        path = sealed(target, 3)
        target.commit([path])
    before = set(synced[: at_record[0]])
    names = ("rows.bin", "front.mp4", "wrist.mp4", "rows.parquet", "report.json.tmp", "episode.json.tmp")
    assert {str(path / name) for name in names} | {str(path)} <= before
    after = set(synced[at_record[0] :])
    assert str(root / ".staging/COMMIT.json.tmp") == synced[at_record[0]] and str(root / ".staging") in after
    places = [paths.data_path(1), paths.video_path(1, "observation.images.wrist"), paths.report_path(1)]
    assert {str((root / place).parent) for place in places} <= after
    assert {str(root / name) for name in (paths.TASKS, paths.EPISODES, paths.EPISODES_STATS)} <= after
    assert {str(root / paths.META), str(root / ".staging/info.json.tmp")} <= after
