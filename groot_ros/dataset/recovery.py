"""What a writer does before it writes: end the commit that a crash interrupted, and look at what else was left.

Nothing recorded is removed: an episode that was not saved stays under ``.staging`` for `groot-ros dataset salvage`, and
files that belong to no episode are moved there.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from groot_ros.dataset import durable, paths, statistics
from groot_ros.dataset.commit import Totals, recorded, roll_forward
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.lock import is_locked
from groot_ros.dataset.spec import DatasetSpec
from groot_ros.dataset.staged import ABORTED, BEGIN, ROWS, SEALED, note_abort, read_begin, read_rows, remove

_JSONL = (paths.TASKS, paths.EPISODES, paths.EPISODES_STATS)
_EPISODE_FILE = re.compile(r"episode_(\d+)\.(parquet|mp4|json)")
_STRAYS = "stray-"
_KILLED = "the process that recorded it ended"
_NOT_COMMITTED = "it was ended, but the process stopped before it was part of the dataset"


@dataclass(frozen=True)
class StagedEpisode:
    """An episode that is not part of the dataset.

    Attributes:
        path: its folder under ``.staging``.
        state: ``aborted`` for salvage or removal; ``running`` while a process writes it.
        task: its text.
        rows: recorded, as far as the system has them.
        reason: why it was not saved.
        bytes: that it takes.
    """

    path: Path
    state: Literal["aborted", "running"]
    task: str
    rows: int
    reason: str
    bytes: int


@dataclass
class Recovery:
    """What was found at the start.

    Attributes:
        committed: episodes of an interrupted commit that are in their places now.
        aborted: episodes that were not saved.
        strays: files of no episode, moved to ``.staging``.
        mended: jsonl files whose last line was torn.
        refreshed: stats.json was computed anew.
    """

    committed: int = 0
    aborted: list[StagedEpisode] = field(default_factory=list)
    strays: list[Path] = field(default_factory=list)
    mended: list[Path] = field(default_factory=list)
    refreshed: bool = False


def create(root: Path, spec: DatasetSpec) -> None:
    """Files of a dataset without episodes; info.json, which makes it one, comes last. The caller holds the lock.

    Raises:
        DatasetError: the folder holds something else.
        OSError: the disk.
    """
    allowed = {paths.LOCK.name, paths.STAGING.name, paths.META.name}
    others = sorted(path.name for path in root.iterdir() if path.name not in allowed)
    others += [str(name) for name in _JSONL if (root / name).is_file() and (root / name).stat().st_size]
    if others:
        raise DatasetError(
            f"{root}: expected a dataset or an empty folder, found no {paths.INFO} but {', '.join(others[:5])}: choose "
            "another folder"
        )
    staging = root / paths.STAGING
    durable.make_folder(root / paths.REPORTS)
    for name in _JSONL:
        durable.write_file(root / name, b"", staging)
    for name, content in ((paths.MODALITY, spec.modality()), (paths.INFO, spec.info(0, 0, 0))):
        durable.write_json(root / name, content, staging)


def recover(root: Path, on_event: Callable[[str], None]) -> tuple[Totals, Recovery]:
    """Bring a dataset to where its last commit left it. The caller holds the lock.

    Args:
        on_event: told each thing found, as one sentence.

    Raises:
        DatasetError: the dataset is damaged in a way that only a person can judge.
        OSError: the disk.
    """
    staging = root / paths.STAGING
    durable.make_folder(staging)
    found = Recovery(committed=roll_forward(root))
    if found.committed:
        on_event(f"{root}: ended the commit of {found.committed} episode(s) that had been interrupted")
    for path in staging.glob("*.tmp"):
        path.unlink()
    for name in _JSONL:
        if _mend(root / name):
            found.mended.append(name)
            on_event(f"{root / name}: removed the end of a line that was never completed")
    totals = Totals.of(root)
    found.strays = _find_strays(root, totals.episodes)
    move_strays(root, found.strays)
    if found.strays:
        on_event(f"{root}: moved files of no episode to {paths.STAGING}: {', '.join(map(str, found.strays[:5]))}")
    found.aborted = _look_at_staged(root, on_event)
    if statistics.is_stale(root):
        statistics.refresh(root)
        found.refreshed = True
    return totals, found


def staged_episodes(root: Path) -> Iterator[StagedEpisode]:
    """Episodes under ``.staging`` of which no commit is recorded, oldest first. Raises: DatasetError, OSError."""
    committed = recorded(root)
    for path in sorted((root / paths.STAGING).glob(f"*/{BEGIN}")):
        if path.parent.name in committed:
            continue
        try:
            episode = _staged_episode(path.parent)
        except (DatasetError, OSError):
            if path.exists():
                raise
            continue  # committed or discarded while it was looked at
        yield episode


def _staged_episode(folder: Path) -> StagedEpisode:
    spec, task = read_begin(folder)
    running = _is_running(folder)
    note = folder / ABORTED
    if note.is_file():
        reason = str(json.loads(note.read_bytes())["reason"])
    else:
        reason = "" if running else _NOT_COMMITTED if (folder / SEALED).is_file() else _KILLED
    size = sum(file.stat().st_size for file in folder.iterdir())
    state: Literal["aborted", "running"] = "running" if running else "aborted"
    rows = len(read_rows(folder, spec)) if (folder / ROWS).is_file() else 0
    return StagedEpisode(folder, state, task, rows, reason, size)


def move_strays(root: Path, names: Sequence[Path]) -> None:
    """Move files, by their names in the dataset, to a new folder under ``.staging``. Raises: OSError."""
    if not names:
        return
    target = root / paths.STAGING / f"{_STRAYS}{datetime.now(timezone.utc):%Y%m%dT%H%M%S.%fZ}"
    for name in names:
        durable.make_folder((target / name).parent)
        os.replace(root / name, target / name)
    for folder in {folder for name in names for folder in ((root / name).parent, (target / name).parent)}:
        durable.sync_folder(folder)


def _look_at_staged(root: Path, on_event: Callable[[str], None]) -> list[StagedEpisode]:
    for folder in (root / paths.STAGING).iterdir():
        # Killed while it was made or removed; or another process is about to begin.
        is_episode = (folder / BEGIN).exists() or _is_running(folder)
        if folder.is_dir() and not is_episode and not folder.name.startswith(_STRAYS):
            remove(folder)
    aborted = []
    for episode in staged_episodes(root):
        if episode.state == "running":
            continue
        for half in episode.path.glob("*.tmp"):
            half.unlink()
        if not episode.rows:
            remove(episode.path)
            on_event(f"{episode.path}: removed an episode of which nothing was recorded: {episode.reason}")
            continue
        if not (episode.path / ABORTED).is_file():
            note_abort(episode.path, episode.reason)
            on_event(
                f"{episode.path}: {episode.rows} rows of an episode ({episode.task!r}) are not part of the dataset: "
                f"{episode.reason}; see `groot-ros dataset salvage {root}`"
            )
        aborted.append(episode)
    return aborted


def _is_running(folder: Path) -> bool:
    return (folder / ROWS).is_file() and is_locked(folder / ROWS)


def _mend(path: Path) -> bool:
    """Cut off what follows the last whole line."""
    if not path.is_file():
        raise DatasetError(f"{path}: expected a file of the dataset, found none: `groot-ros dataset repair` writes it")
    with path.open("r+b") as file:
        data = file.read()
        whole = data.rfind(b"\n") + 1
        if whole == len(data):
            return False
        file.truncate(whole)
        os.fsync(file.fileno())
    return True


def _find_strays(root: Path, episodes: int) -> list[Path]:
    """Loaders read every file under data/, so those of a writer that died before its metadata spoil the dataset."""
    found = []
    for folder in ("data", "videos", str(paths.REPORTS)):
        for path in sorted((root / folder).rglob("episode_*")):
            match = _EPISODE_FILE.fullmatch(path.name)
            if match and int(match[1]) >= episodes:
                found.append(path.relative_to(root))
    return found
