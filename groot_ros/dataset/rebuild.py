"""A new dataset made of episodes of others: what merge, split, delete-episodes and repair are built from.

Nothing is ever changed where it is. Videos are hard-linked where the file system can, rows are written again because
their counters change. The new folder appears by one rename, complete and synchronised to the disk, or not at all.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from groot_ros.dataset import durable, paths
from groot_ros.dataset.columns import Columns, write_parquet
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.read import LOST, Dataset, read_lines
from groot_ros.dataset.recovery import staged_episodes
from groot_ros.dataset.spec import EPISODE_INDEX, FRAME_INDEX, INDEX, STAMP, TASK_INDEX, differences, totals
from groot_ros.dataset.statistics import episode_statistics, refresh
from groot_ros.dataset.video import count_frames, image_statistics, remux

if TYPE_CHECKING:
    import pyarrow

_REMEDY = {"relative_stats.json": ": `groot-ros dataset stats --relative` makes it for the new rows"}

Progress = Callable[[int, int], None]  # episodes done, of how many


@dataclass(frozen=True)
class Piece:
    """An episode of a dataset; ``rows``: only the first so many of it, None: all."""

    source: Dataset
    episode: int
    rows: int | None = None


@dataclass
class Built:
    """What was built: its folder, totals, and what people should know."""

    root: Path
    episodes: int = 0
    frames: int = 0
    tasks: int = 0
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "dataset": str(self.root),
            "episodes": self.episodes,
            "frames": self.frames,
            "tasks": self.tasks,
            "notes": self.notes,
        }


def build(target: Path, pieces: Sequence[Piece], progress: Progress | None = None) -> Built:
    """Write a new dataset of ``pieces``, in this order, episodes and tasks numbered from 0.

    Args:
        target: folder that does not exist yet.
        progress: called after each episode.

    Raises:
        DatasetError: the folder exists, there is no episode, the sources differ in what an episode holds, or an
            episode is not whole.
    """
    if not pieces:
        raise DatasetError(f"{target}: expected at least one episode for the new dataset, found none")
    for source in _sources(pieces):
        _check_alike(pieces[0].source, source)
        if source.root.resolve() in target.resolve().parents:
            raise DatasetError(f"{target}: expected a folder outside of {source.root}, from which episodes are taken")
    with new_folder(target) as building:
        return _Builder(building, pieces, Built(target)).run(progress)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder beside ``target`` to write into; at the end it is on the disk and has that name, or is gone.

    Raises: DatasetError when there is something of that name.
    """
    if os.path.lexists(target):
        raise DatasetError(f"{target}: expected a folder that does not exist yet, found one: name another")
    building = target.parent / f".{target.name}.building-{os.getpid()}"
    try:
        building.mkdir(parents=True)
        yield building
        durable.sync_tree(building)
        os.rename(building, target)
        durable.sync_folder(target.parent)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)  # the first error is the one to tell
        raise


def write_new(path: Path, data: bytes) -> None:
    """A file of a ``new_folder``, which synchronises it. Raises: OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def replace(root: Path, pieces: Sequence[Piece], progress: Progress | None = None) -> Built:
    """Build beside ``root``, then put it in its place; the old one stays as ``NAME.before-TIME``.

    Raises: DatasetError as ``build``, or when the folder cannot be renamed (a mount point).
    """
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
    root = root.resolve()
    fresh, before = (root.with_name(f"{root.name}.{word}-{stamp}") for word in ("fresh", "before"))
    built = build(fresh, pieces, progress)
    try:
        os.rename(root, before)
        try:
            os.rename(fresh, root)
        except OSError:
            os.rename(before, root)
            raise
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)  # the first error is the one to tell
        raise DatasetError(
            f"{root}: expected to be renamed to {before.name}, found {error.strerror or error}: name an output folder"
        ) from error
    durable.sync_folder(root.parent)
    built.root = root
    built.notes.append(f"the dataset as it was is {before}")
    return built


def task_columns(dataset: Dataset) -> list[str]:
    """Columns that hold an index into tasks.jsonl: ``task_index``, and annotations of modality.json."""
    names = [TASK_INDEX]
    if (dataset.root / paths.MODALITY).exists():
        for key, entry in (dataset.modality.get("annotation") or {}).items():
            name = (entry or {}).get("original_key") or f"annotation.{key}"
            if name not in names and dataset.features.get(name, {}).get("dtype") == "int64":
                names.append(name)
    return names


class _Builder:
    """Writes the files of one new dataset, episode by episode."""

    def __init__(self, root: Path, pieces: Sequence[Piece], built: Built) -> None:
        self._root, self._pieces, self._built = root, pieces, built
        self._first = pieces[0].source
        self._with_stats = self._first.info["codebase_version"] != "v2.0"
        self._tasks: dict[str, int] = {}
        self._lines: dict[int, dict[int, dict[str, Any]]] = {
            id(source): {int(line["episode_index"]): line for _, line in read_lines(source.root, paths.EPISODES)}
            for source in _sources(pieces)
        }

    def run(self, progress: Progress | None) -> Built:
        episodes, stats = [], []
        for number, piece in enumerate(self._pieces):
            line, row = self._episode(number, piece)
            episodes.append(line)
            stats.append({"episode_index": number, "stats": row})
            self._built.frames += line["length"]
            if progress is not None:
                progress(number + 1, len(self._pieces))
        self._built.episodes, self._built.tasks = len(episodes), len(self._tasks)
        tasks = [{"task_index": index, "task": text} for text, index in self._tasks.items()]
        self._write_lines(paths.EPISODES, episodes)
        self._write_lines(paths.TASKS, tasks)
        if self._with_stats:
            self._write_lines(paths.EPISODES_STATS, stats)
        self._write_json(paths.INFO, self._info())
        if (self._first.root / paths.MODALITY).exists():
            self._write_json(paths.MODALITY, self._first.modality)
        refresh(self._root)
        self._carry_files()
        return self._built

    def _episode(self, number: int, piece: Piece) -> tuple[dict[str, Any], dict[str, Any]]:
        """Files of one episode; its line of episodes.jsonl and its statistics."""
        source = piece.source
        line = dict(self._lines[id(source)].get(piece.episode) or {})
        if not line:
            raise DatasetError(
                f"{source.root / paths.EPISODES}: expected a line for episode {piece.episode}, found none: run "
                "`groot-ros dataset repair`"
            )
        table = source.table(piece.episode)
        if piece.rows is None and table.num_rows != line["length"]:
            raise DatasetError(
                f"{source.data(piece.episode)}: expected {line['length']} rows as episodes.jsonl says, found "
                f"{table.num_rows}: run `groot-ros dataset repair`"
            )
        table = table if piece.rows is None else table.slice(0, piece.rows)
        changed = self._counters(number, piece, table)
        for name, values in changed.items():
            table = _with_column(table, name, values)
        target = self._root / paths.data_path(number)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_parquet(table, target)
        for feature in source.video_keys:
            self._video(source.video(piece.episode, feature), self._root / paths.video_path(number, feature), piece)
        self._report(number, piece, table)
        line.update(episode_index=number, length=table.num_rows)
        if piece.rows is not None and "sub_tasks" in line:
            line["sub_tasks"] = [
                {**part, "end": min(part["end"], table.num_rows)}
                for part in line["sub_tasks"]
                if part["start"] < table.num_rows
            ]
        return line, self._stats(piece, table, changed) if self._with_stats else {}

    def _counters(self, number: int, piece: Piece, table: pyarrow.Table) -> Columns:
        """Columns that say where a row stands, as they are in the new dataset."""
        rows = table.num_rows
        changed: Columns = {
            FRAME_INDEX: np.arange(rows),
            EPISODE_INDEX: np.full(rows, number),
            INDEX: self._built.frames + np.arange(rows),
        }
        for name in task_columns(piece.source):
            if name not in table.column_names:
                continue
            old, inverse = np.unique(piece.source.arrays(piece.episode, [name], table)[name], return_inverse=True)
            new = [self._task(piece, name, int(index)) for index in old]
            changed[name] = np.array(new, dtype=np.int64)[inverse]
        return changed

    def _task(self, piece: Piece, column: str, index: int) -> int:
        texts = piece.source.tasks
        if index not in texts:
            raise DatasetError(
                f"{piece.source.data(piece.episode)}: {column}: expected an index of tasks.jsonl, found {index}: run "
                "`groot-ros dataset repair`"
            )
        return self._tasks.setdefault(texts[index], len(self._tasks))

    def _video(self, video: Path, target: Path, piece: Piece) -> None:
        if not video.is_file():
            raise DatasetError(f"{video}: expected the video of episode {piece.episode}, found no such file: {LOST}")
        target.parent.mkdir(parents=True, exist_ok=True)
        if piece.rows is not None and count_frames(video) != piece.rows:
            remux([video], target, piece.source.fps, piece.rows)
            return
        try:
            os.link(video, target)
        except OSError:  # another file system, or one without hard links
            shutil.copy2(video, target)

    def _report(self, number: int, piece: Piece, table: pyarrow.Table) -> None:
        """The recorder's report under the new number; ``more.origin`` names where the episode came from."""
        report = piece.source.report(piece.episode)
        if report is None:
            return
        more = dict(report.get("more") or {})
        origin = {"dataset": str(piece.source.root.resolve()), "episode": piece.episode, "rows": report.get("rows")}
        more["origin"] = [*more.get("origin", []), origin]
        if piece.rows is not None:
            report["rows"] = table.num_rows
            cameras = report.get("cameras") or {}
            report["cameras"] = {key: {**camera, "frames": table.num_rows} for key, camera in cameras.items()}
            if STAMP in table.column_names:
                report["end_ns"] = table.column(STAMP)[-1].as_py()
        self._write_json(paths.report_path(number), {**report, "index": number, "more": more})

    def _write_json(self, name: Path, content: Any) -> None:
        write_new(self._root / name, durable.json_bytes(content))

    def _write_lines(self, name: Path, lines: Sequence[dict[str, Any]]) -> None:
        write_new(self._root / name, "".join(map(durable.json_line, lines)).encode())

    def _stats(self, piece: Piece, table: pyarrow.Table, changed: Columns) -> dict[str, Any]:
        """The episode's statistics: those there are, with the columns that changed computed again."""
        known = piece.source.episodes_stats.get(piece.episode)
        if known is not None and piece.rows is None:
            return {**known, **episode_statistics({name: changed[name] for name in changed if name in known}, {})}
        return statistics_of(piece.source, piece.episode, number_columns(piece.source, piece.episode, table))

    def _info(self) -> dict[str, Any]:
        """info.json of the first source, with this dataset's totals and places."""
        return {
            **self._first.info,
            **totals(self._built.episodes, self._built.frames, self._built.tasks, len(self._first.video_keys)),
            "chunks_size": paths.CHUNKS_SIZE,
            "data_path": paths.DATA_PATTERN,
            "video_path": paths.VIDEO_PATTERN if self._first.video_keys else None,
        }

    def _carry_files(self) -> None:
        """What people put beside a dataset (README.md) follows it where there is one source; the rest is named."""
        sources = _sources(self._pieces)
        for source in sources:
            for path in sorted(source.root.iterdir()) if len(sources) == 1 else ():
                if path.is_file() and path.name != paths.LOCK.name:
                    shutil.copy2(path, self._root / path.name)
            known = {path.name for path in (self._root / paths.META).iterdir()}
            for path in sorted((source.root / paths.META).iterdir()):
                if path.name not in known:
                    self._note(source, f"{paths.META / path.name}{_REMEDY.get(path.name, '')}")
            aborted = len(list(staged_episodes(source.root)))
            if aborted:
                self._note(source, f"{aborted} aborted episodes under {paths.STAGING}")

    def _note(self, source: Dataset, what: str) -> None:
        self._built.notes.append(f"not carried over from {source.root.name}: {what}")


def number_columns(source: Dataset, episode: int, table: pyarrow.Table) -> Columns:
    """Columns [N] or [N, D] of an episode that are numbers of a feature; not texts, nor pictures within the rows.

    Raises: DatasetError when a value is missing or lists are not equally long.
    """
    features, no_numbers = source.features, (None, "string", "image")
    names = [name for name in table.column_names if features.get(name, {}).get("dtype") not in no_numbers]
    return source.arrays(episode, names, table)


def statistics_of(
    source: Dataset, episode: int, columns: Columns, images: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """``stats`` of an episode from its columns, and as many pictures of each video, which are all decoded.

    Args:
        images: video feature -> statistics that are known.

    Raises: DatasetError when a video cannot be read.
    """
    rows = len(next(iter(columns.values())))
    made = {
        feature: image_statistics(source.video(episode, feature), rows).stats()
        for feature in source.video_keys
        if feature not in images
    }
    return episode_statistics(columns, {**images, **made})


def _sources(pieces: Sequence[Piece]) -> list[Dataset]:
    return list({id(piece.source): piece.source for piece in pieces}.values())


def _check_alike(first: Dataset, other: Dataset) -> None:
    """Raises: DatasetError with every difference that keeps episodes of both from being in one dataset."""
    if first is other:
        return
    found = differences(first.info, other.info, "the first", "the second")
    modalities = [source.modality if (source.root / paths.MODALITY).exists() else None for source in (first, other)]
    if modalities[0] != modalities[1]:
        found.append("meta/modality.json is not the same")
    if found:
        listed = "".join(f"\n  {line}" for line in found)
        raise DatasetError(f"expected datasets of one robot, {first.root} and {other.root} differ:{listed}")


def _with_column(table: pyarrow.Table, name: str, values: NDArray[np.int64]) -> pyarrow.Table:
    """The table with other numbers in a column that it has, of the type that it has."""
    import pyarrow

    at = table.column_names.index(name)
    kind = table.schema.field(at)
    return table.set_column(at, kind, pyarrow.array(values, type=kind.type))
