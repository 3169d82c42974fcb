"""A disk that is full, nearly full or read-only: the episode ends, the dataset stays."""

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dataset_maker
import numpy as np
import pytest
from writer_rig import SPEC, Full, lengths, open_writer, sealed

from groot_ros.dataset import commit, salvage, staged
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.recovery import staged_episodes
from groot_ros.observation.images import Frame


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A dataset with one episode of five rows."""
    return dataset_maker.make_dataset(tmp_path / "set", episodes=1, rows=5)


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
        assert episode.problem is not None and "found 0.00 GB: free some, or lower min_free_gb" in episode.problem
        with pytest.raises(DatasetError, match=r"expected at least 0.00 GB free on the disk"):
            target.begin("pick")
        episode.abort(episode.problem)
        monkeypatch.undo()
        assert [aborted.reason for aborted in staged_episodes(root)] == [episode.problem]
    assert lengths(root) == [5]


def test_rows_are_on_their_way_every_second(root: Path) -> None:
    with open_writer(root) as target:
        episode = target.begin("pick")
        dataset_maker.record(episode, dataset_maker.make_rows(SPEC, SPEC.fps + 5, seed=0))
        assert len(staged.read_rows(episode.path, SPEC)) == SPEC.fps
        episode.discard()


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


def test_a_disk_that_goes_away_is_told_and_raises_nothing_into_the_robots_callbacks(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    target = open_writer(root, on_event=events.append)
    running, other = target.begin("pick"), target.begin("pick")
    gone = Full(shutil.disk_usage)
    monkeypatch.setattr(shutil, "disk_usage", gone)
    dataset_maker.record(running, dataset_maker.make_rows(SPEC, SPEC.fps, seed=0))
    assert running.problem is not None
    assert "No space left" in running.problem or "full disk" in running.problem
    with pytest.raises(DatasetError, match=re.escape(str(root))):
        target.begin("pick")
    monkeypatch.setattr(shutil, "rmtree", Full(shutil.rmtree))
    other.discard()
    assert any(str(other.path) in event and "could not be removed" in event for event in events)
    monkeypatch.undo()
    running.discard()
    target.close()
    assert lengths(root) == [5]
