"""Whatever stops a writer, what was committed stays whole, and the next one goes on."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import barcode
import dataset_maker
import numpy as np
import pytest

from groot_ros.dataset import commit, durable, paths, salvage, staging, statistics
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.read import Dataset
from groot_ros.dataset.recovery import staged_episodes
from groot_ros.dataset.spec import FLAG_SALVAGED, FLAGS, DatasetSpec
from groot_ros.dataset.video import decode_frames
from groot_ros.dataset.writer import DatasetWriter
from groot_ros.observation.images import Frame

ROBOT = dataset_maker.small_arm()
SPEC = DatasetSpec.of(ROBOT)
KILLS = Path(__file__).with_name("kill_writer.py")


def open_writer(root: Path, spec: DatasetSpec = SPEC, **arguments: Any) -> DatasetWriter:
    options = {"codec": "libx264", "min_free_bytes": 0, **arguments}
    return DatasetWriter(root, spec, ROBOT.cameras, **options)


def sealed(target: DatasetWriter, count: int = 4, seed: int = 0) -> Path:
    episode = target.begin("pick")
    dataset_maker.record(episode, dataset_maker.make_rows(SPEC, count, seed))
    return episode.seal()


def lengths(root: Path) -> list[int]:
    """Of a dataset that is consistent; of every episode all columns and videos are there."""
    dataset = Dataset(root)
    counts = [entry.length for entry in dataset.episodes]
    assert dataset.info == SPEC.info(len(counts), sum(counts), len(dataset.tasks))
    assert [dataset.table(episode).num_rows for episode in range(len(counts))] == counts
    assert all(dataset.video(episode, key).is_file() for episode in range(len(counts)) for key in dataset.video_keys)
    assert sorted(dataset.episodes_stats) == list(range(len(counts)))
    assert dataset.stats == statistics.dataset_statistics(root)
    return counts


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


class Full:
    """A disk that is full from the n-th call on."""

    def __init__(self, real: Callable[..., Any], works: int = 0) -> None:
        self.real, self.works = real, works

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.works -= 1
        if self.works < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.real(*arguments, **options)


def test_full_disk_before_the_record_changes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_writer(root) as target:
        paths_ = [sealed(target, 3), sealed(target, 4)]
        monkeypatch.setattr(commit, "write_parquet", Full(commit.write_parquet, works=1))
        with pytest.raises(DatasetError, match=r"found a full disk: .* are not part of the dataset; they stay in"):
            target.commit(paths_)
        assert lengths(root) == [5]
        monkeypatch.undo()
        assert [report.index for report in target.commit(paths_)] == [1, 2]
    assert lengths(root) == [5, 3, 4]


@pytest.mark.parametrize("works", [0, 1, 2, 3])
def test_full_disk_after_the_record_is_ended_by_the_next_commit(
    root: Path, monkeypatch: pytest.MonkeyPatch, works: int
) -> None:
    events: list[str] = []
    with open_writer(root, on_event=events.append) as target:
        first = sealed(target, 3)
        second = sealed(target, 4)
        # Lines of the three jsonl files, then info.json.
        if works == 3:
            target._on_step = lambda name: (
                monkeypatch.setattr(os, "replace", Full(os.replace)) if name == "info.json" else None
            )
        else:
            monkeypatch.setattr(commit, "_append", Full(commit._append, works))
        with pytest.raises(DatasetError, match=r"found a full disk: .* The episodes are safe"):
            target.commit([first])
        monkeypatch.undo()
        target._on_step = lambda name: None
        assert [report.index for report in target.commit([second])] == [2]
    assert lengths(root) == [5, 3, 4]
    assert [event for event in events if "ended the commit of 1 episode(s) that the disk had stopped" in event]


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
    (root / paths.EPISODES).write_text(text)
    open_writer(root).close()
    assert lengths(root) == [5, 3]


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


@pytest.mark.parametrize("left", [(), (staging.ROWS,), ("front.mkv",), ("begin.json.tmp", staging.ROWS)])
def test_a_folder_that_was_half_made_or_half_removed_is_removed(root: Path, left: tuple[str, ...]) -> None:
    folder = root / ".staging/20260101T000000Z-1-0"
    folder.mkdir()
    for name in left:
        (folder / name).write_bytes(b"something")
    with open_writer(root) as target:
        assert not list(target.staging.iterdir()) and not target.recovered.aborted


def test_an_interrupted_removal_is_ended(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = aborted_episode(root, 3)
    monkeypatch.setattr(shutil, "rmtree", Full(shutil.rmtree))
    with pytest.raises(DatasetError, match="full disk"):
        salvage.remove_aborted(root)
    monkeypatch.undo()
    assert (path / staging.ROWS).is_file() and not salvage.aborted_episodes(root)
    open_writer(root).close()
    assert not path.exists()


def test_rows_are_on_their_way_every_second(root: Path) -> None:
    with open_writer(root) as target:
        episode = target.begin("pick")
        dataset_maker.record(episode, dataset_maker.make_rows(SPEC, SPEC.fps + 5, seed=0))
        assert len(staging.read_rows(episode.path, SPEC)) == SPEC.fps
        episode.discard()


def test_interrupted_creation_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for works in range(4):
        monkeypatch.setattr(durable, "write_file", Full(durable.write_file, works))
        with pytest.raises(DatasetError, match="full disk"):
            open_writer(tmp_path)
        monkeypatch.undo()
    with open_writer(tmp_path) as target:
        target.commit([sealed(target, 2)])
    assert lengths(tmp_path) == [2]


def test_read_only_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def read_only(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR) and str(path).startswith(str(root)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(
        DatasetError, match=r"expected a folder to write to, found it read-only \(Read-only file system"
    ):
        open_writer(root)
    monkeypatch.undo()
    assert lengths(root) == [5]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    if os.geteuid():
        pytest.skip("mounting a small tmpfs needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"mounting a small tmpfs is not allowed here: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def noise(random: np.random.Generator) -> dict[str, Frame | None]:
    """Pictures that do not compress."""
    size = dataset_maker.HEIGHT * dataset_maker.WIDTH * 3
    return {
        key: Frame(random.integers(0, 256, size, dtype=np.uint8), "rgb8", dataset_maker.WIDTH * 3)
        for key in SPEC.cameras
    }


def test_a_disk_that_fills_up_aborts_the_episode_only(small_disk: Path) -> None:
    root = dataset_maker.make_dataset(small_disk / "set", episodes=1, rows=5)
    random, events = np.random.default_rng(0), []
    target = open_writer(root, on_event=events.append)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 200_000))
    episode = target.begin("pick")
    (row,) = dataset_maker.make_rows(SPEC, 1, seed=0)
    while episode.problem is None and episode.rows < 2000:
        episode.add(row, noise(random))
    assert episode.problem is not None and "pace" in episode.problem  # "free disk space", "No space left"
    assert not episode.add(row, noise(random))
    with pytest.raises(DatasetError, match="pace"):
        episode.seal()
    episode.abort("told the person")
    filler.unlink()
    target.commit([sealed(target, 3)])
    target.close()
    assert lengths(root) == [5, 3]
    with open_writer(root) as again:
        (aborted,) = again.recovered.aborted
        assert aborted.path == episode.path and aborted.rows > 0


def test_a_full_disk_at_the_end_of_an_episode(small_disk: Path) -> None:
    """The mp4 files need room beside what they are made of."""
    root = dataset_maker.make_dataset(small_disk / "set", episodes=1, rows=5)
    target = open_writer(root)
    episode = target.begin("pick")
    random = np.random.default_rng(0)
    rows = dataset_maker.make_rows(SPEC, 100, seed=0)
    for row in rows:
        frames = noise(random)
        while not episode.add(row, frames):
            assert episode.problem is None
    while any(health.frames < 100 for health in episode.health().values()):
        assert episode.problem is None
    filler = small_disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 20_000))
    with pytest.raises(DatasetError, match="space"):
        episode.seal()
    filler.unlink()
    target.close()
    assert lengths(root) == [5]
    (report,) = salvage.salvage(root)
    assert report.rows == 100 and lengths(root) == [5, 100]


def test_a_nearly_full_disk_refuses_and_stops(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(root)
    with open_writer(root, min_free_bytes=1000) as target:
        episode = target.begin("pick")
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=999))
        dataset_maker.record(episode, dataset_maker.make_rows(SPEC, SPEC.fps, seed=0))
        assert episode.problem is not None and "found 0.00 GB: free some, or lower min_free" in episode.problem
        with pytest.raises(DatasetError, match=r"expected at least 0.00 GB free on the disk"):
            target.begin("pick")
        episode.abort(episode.problem)
        monkeypatch.undo()
        assert [aborted.reason for aborted in staged_episodes(root)] == [episode.problem]
    assert lengths(root) == [5]


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


def aborted_episode(root: Path, rows: int, reason: str = "camera lost") -> Path:
    with open_writer(root) as target:
        episode = target.begin("pick the cup")
        dataset_maker.record(episode, dataset_maker.make_rows(SPEC, rows, seed=3), first=50)
        # All pictures are in the file, as they are a moment later in a recording.
        for encoder in episode._encoders.values():
            encoder.close(10.0)
        episode.abort(reason)
        return episode.path


def test_salvage_takes_what_agrees_and_says_so(root: Path) -> None:
    path = aborted_episode(root, 8)
    rows = path / staging.ROWS
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
