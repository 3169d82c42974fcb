"""From a staged episode to one of the dataset: all of it or nothing, whenever the process or the machine stops.

1. Rows and report of each episode are written into its staging folder, which is synced.
2. The record ``.staging/COMMIT.json`` appears by a rename: from here on the episodes belong to the dataset. It says all
   that is left to do, so that doing it again from any point leads to the same files.
3. Files are moved to their places, lines are appended to the jsonl files, info.json is replaced.
4. The staging folders are removed, then the record.

Every file and folder is synced before the next step relies on it. A record of several episodes is one commit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groot_ros.dataset import durable, paths
from groot_ros.dataset.columns import arrow_table, columns, write_parquet
from groot_ros.dataset.episode_report import EpisodeReport
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.read import Dataset, read_json
from groot_ros.dataset.spec import IMAGES, DatasetSpec
from groot_ros.dataset.staged import SealedEpisode, read_sealed, remove
from groot_ros.dataset.statistics import episode_statistics

RECORD = paths.STAGING / "COMMIT.json"
# Told before each step of a commit, some of them once per file; tests stop the process there.
STEPS = ("rows", "record", "move", "tasks.jsonl", "episodes_stats.jsonl", "episodes.jsonl", "info.json", "clean", "end")
Step = Callable[[str], None]
_LINES = (paths.TASKS, paths.EPISODES_STATS, paths.EPISODES)
_ROWS, _REPORT = "rows.parquet", "report.json"


@dataclass
class Totals:
    """What a dataset holds: episodes, rows, and the index of each task's text."""

    episodes: int
    frames: int
    tasks: dict[str, int]

    @classmethod
    def of(cls, root: Path) -> Totals:
        """Read from the jsonl files, and compared with info.json.

        Raises: DatasetError when they disagree or are damaged.
        """
        dataset = Dataset(root)
        entries, tasks = dataset.episodes, {text: index for index, text in dataset.tasks.items()}
        totals = cls(len(entries), sum(entry.length for entry in entries), tasks)
        numbers = [entry.index for entry in entries]
        if numbers != list(range(len(entries))) or sorted(tasks.values()) != list(range(len(tasks))):
            raise _damaged(root, paths.EPISODES, "episodes and tasks numbered from 0 without a gap", "others")
        with (root / paths.EPISODES_STATS).open("rb") as file:
            lines = sum(1 for _ in file)
        if lines != totals.episodes:
            raise _damaged(root, paths.EPISODES_STATS, f"{totals.episodes} lines, one per episode", str(lines))
        found = {name: dataset.info.get(f"total_{name}") for name in ("episodes", "frames", "tasks")}
        if found != {"episodes": totals.episodes, "frames": totals.frames, "tasks": len(tasks)}:
            raise _damaged(
                root, paths.INFO, f"{totals.episodes} episodes, {totals.frames} rows, {len(tasks)} tasks", str(found)
            )
        return totals


def commit(
    root: Path, spec: DatasetSpec, totals: Totals, staged: Sequence[Path], step: Step
) -> tuple[Totals, list[EpisodeReport]]:
    """Append sealed episodes to the dataset in this order. The caller holds the lock and has recovered the dataset.

    Returns:
        The new totals, and the reports with the episodes' indices.

    Raises:
        DatasetError: an episode is not sealed, not of this robot, or given twice; nothing was changed.
        OSError: the disk. If ``RECORD`` exists now, the episodes are safe and ``roll_forward`` ends the commit; else
            nothing was changed.
    """
    if len({path.resolve() for path in staged}) != len(staged):
        raise DatasetError(f"{root}: expected each episode once, found one twice among those to commit")
    after = Totals(totals.episodes, totals.frames, dict(totals.tasks))
    moves: list[tuple[str, str]] = []
    lines: dict[Path, list[str]] = {path: [] for path in _LINES}
    reports = []
    for path in staged:
        episode = read_sealed(path)
        if episode.spec != spec or path.parent.resolve() != (root / paths.STAGING).resolve():
            raise DatasetError(f"{path}: expected an episode staged for {root}, found one of other contents or place")
        step("rows")
        reports.append(_prepare(episode, after, moves, lines))
    record = {
        "moves": moves,
        "append": {
            str(path): {"at": (root / path).stat().st_size, "text": "".join(text)} for path, text in lines.items()
        },
        "info": read_json(root, paths.INFO) | spec.info(after.episodes, after.frames, len(after.tasks)),
        "staged": [path.name for path in staged],
    }
    step("record")
    durable.write_json(root / RECORD, record)
    roll_forward(root, step)
    return after, reports


def recorded(root: Path) -> list[str]:
    """Names of the staging folders whose commit is recorded and not ended. Raises: DatasetError, OSError."""
    record = _read_record(root)
    return [] if record is None else record["staged"]


def roll_forward(root: Path, step: Step = lambda name: None) -> int:
    """Do what the record of a commit says, and remove it; the number of episodes. Without a record nothing is done.

    Raises:
        DatasetError: a file that the record names is gone or was changed meanwhile.
        OSError: the disk; to be tried again.
    """
    path, record = root / RECORD, _read_record(root)
    if record is None:
        return 0
    _move_all(root, record["moves"], step)
    for name, addition in record["append"].items():
        step(Path(name).name)
        _append(root / name, addition["at"], addition["text"].encode())
    step("info.json")
    durable.write_json(root / paths.INFO, record["info"], root / paths.STAGING)
    step("clean")
    for name in record["staged"]:
        folder = root / paths.STAGING / name
        if folder.is_dir():
            remove(folder)
    # Without the record, what reappears of a folder would pass for an episode that was not saved.
    durable.sync_folder(path.parent)
    step("end")
    path.unlink()
    durable.sync_folder(path.parent)
    return len(record["staged"])


def _read_record(root: Path) -> dict[str, Any] | None:
    path = root / RECORD
    try:
        return dict(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DatasetError(f"{path}: expected the record of a commit, found {error}: restore it from a copy") from error


def _prepare(
    episode: SealedEpisode, totals: Totals, moves: list[tuple[str, str]], lines: Mapping[Path, list[str]]
) -> EpisodeReport:
    """Write what an episode still lacks, and note its moves and lines. Counts it in ``totals``."""
    spec, index, folder = episode.spec, totals.episodes, episode.path
    report = episode.report.at(index)
    if report.task not in totals.tasks:
        task = totals.tasks[report.task] = len(totals.tasks)
        lines[paths.TASKS].append(durable.json_line({"task_index": task, "task": report.task}))
    values = columns(spec, episode.rows, index, totals.frames, totals.tasks[report.task])
    write_parquet(arrow_table(spec.features(), values), folder / _ROWS)
    durable.write_json(folder / _REPORT, report.to_json())
    targets = {_ROWS: paths.data_path(index), _REPORT: paths.report_path(index)}
    targets |= {f"{key}.mp4": paths.video_path(index, f"{IMAGES}.{key}") for key in spec.cameras}
    moves += [(f"{paths.STAGING}/{folder.name}/{name}", str(target)) for name, target in targets.items()]
    statistics = episode_statistics(values, episode.images)
    entry = {"episode_index": index, "tasks": [report.task], "length": len(episode.rows)}
    lines[paths.EPISODES].append(durable.json_line(entry))
    lines[paths.EPISODES_STATS].append(durable.json_line({"episode_index": index, "stats": statistics}))
    totals.episodes += 1
    totals.frames += len(episode.rows)
    return report


def _move_all(root: Path, moves: Sequence[Sequence[str]], step: Step) -> None:
    folders = set()
    for source_name, target_name in moves:
        step("move")
        source, target = root / source_name, root / target_name
        durable.make_folder(target.parent)
        if source.exists():
            os.replace(source, target)
            folders.add(source.parent)
        elif not target.exists():
            raise DatasetError(
                f"{source}: expected the file that {RECORD} names there or at {target}, found neither: restore it from "
                "a copy"
            )
        folders.add(target.parent)
    for folder in folders:
        durable.sync_folder(folder)


def _append(path: Path, at: int, data: bytes) -> None:
    """Bytes ``data`` from position ``at`` to the end of the file, of which a crash may have written a part."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(at)
        if size < at or not data.startswith(file.read()):
            raise DatasetError(
                f"{path}: expected the {at} bytes of before the commit that {RECORD} tells of, found others: undo what "
                "was changed by hand"
            )
        file.seek(at)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _damaged(root: Path, name: Path, expected: str, found: str) -> DatasetError:
    return DatasetError(
        f"{root / name}: expected {expected}, found {found}: see `groot-ros dataset check {root}`, then "
        f"`groot-ros dataset repair {root}`"
    )
