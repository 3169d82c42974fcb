"""Rows of one episode: columns, numbers, counters, times and tasks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow
from numpy.typing import NDArray
from pyarrow import parquet

from groot_ros.dataset import paths
from groot_ros.dataset.check.contents import Contents
from groot_ros.dataset.check.report import Findings
from groot_ros.dataset.check.schema import EpisodeLine, Feature
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.read import as_array
from groot_ros.dataset.spec import EPISODE_INDEX, FRAME_INDEX, INDEX, TASK_INDEX, TIMESTAMP

TIMESTAMP_TOLERANCE_S = 1e-4  # LeRobot's


@dataclass
class EpisodeRows:
    """What could be read of an episode.

    Attributes:
        entry: its line of episodes.jsonl.
        where: its parquet file.
        count: rows.
        columns: feature -> [rows, D], D = 1 for a scalar; only those of the right type and width.
        finite: features of ``columns`` without NaN and infinity.
    """

    entry: EpisodeLine
    where: str
    count: int
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    finite: set[str] = field(default_factory=set)

    @property
    def index(self) -> int:
        """Number of the episode."""
        return self.entry.episode_index

    def numbers(self, name: str) -> NDArray[Any] | None:
        """[rows, D] of a feature that is there and finite, else None."""
        return self.columns[name] if name in self.finite else None


def read_rows(contents: Contents, entry: EpisodeLine, found: Findings) -> EpisodeRows | None:
    """Read an episode and check each column by itself; None when its file is missing or damaged."""
    number = entry.episode_index
    path = contents.data_path(number)
    if not (contents.root / path).is_file():
        return None  # reported by check_files
    try:
        # Not partitioning: a folder named key=value above the dataset must not become a column.
        table = parquet.read_table(contents.root / path, partitioning=None)
    except (pyarrow.ArrowException, OSError) as error:
        found.unsound.add(number)
        found.add(
            "parquet_damaged",
            path,
            f"expected a parquet file, found {_one_line(error)}: restore it from a copy, or take the episode out with "
            "`groot-ros dataset delete-episodes`",
            episode=number,
        )
        return None
    rows = EpisodeRows(entry, str(path), table.num_rows)
    if rows.count != entry.length:
        found.unsound.add(number)
        found.add(
            "length_mismatch",
            path,
            f"expected {entry.length} rows, as {paths.EPISODES} says, found {rows.count}: {_REPAIR}",
            episode=number,
        )
    for name, feature in contents.features.items():
        if not feature.is_image:
            _column(rows, table, name, feature, found)
    extra = [name for name in table.column_names if name not in contents.info.features]
    if extra:
        found.add(
            "column_undeclared",
            path,
            f"expected only columns that {paths.INFO} declares, found {', '.join(extra)}: declare or remove them",
            episode=number,
        )
    return rows


def _column(rows: EpisodeRows, table: pyarrow.Table, name: str, feature: Feature, found: Findings) -> None:
    where, number = f"{rows.where}: {name}", rows.index
    if name not in table.column_names:
        found.unsound.add(number)
        found.add("column_missing", rows.where, f"expected a column {name}, found none", episode=number)
        return
    if feature.dtype == "string":
        return
    column = table.column(name)
    inner = column.type
    if pyarrow.types.is_nested(inner) and hasattr(inner, "value_type"):
        inner = inner.value_type
    expected = f"{feature.dtype} [{', '.join(map(str, feature.shape))}]"
    is_number = pyarrow.types.is_integer(inner) or pyarrow.types.is_floating(inner) or pyarrow.types.is_boolean(inner)
    if not is_number or _kind(str(inner)) != _kind(feature.dtype):
        found.unsound.add(number)
        found.add("column_type", where, f"expected {expected}, found {column.type}", episode=number)
        return
    if column.null_count:
        found.unsound.add(number)
        message = f"expected a value in every row, found {column.null_count} of {rows.count} rows without: {_DELETE}"
        found.add("not_finite", where, message, episode=number)
        return
    try:
        values = as_array(column)
    except (DatasetError, ValueError) as error:
        found.unsound.add(number)
        found.add("column_type", where, f"expected {expected}: {_one_line(error)}", episode=number)
        return
    values = values.reshape(rows.count, -1) if rows.count else values.reshape(0, max(feature.width, 1))
    if values.shape[1] != (feature.width or 1):
        found.unsound.add(number)
        found.add("column_type", where, f"expected {expected}, found {values.shape[1]} numbers a row", episode=number)
        return
    rows.columns[name] = values
    _finite(rows, name, feature, found)


_REPAIR = "run `groot-ros dataset repair`"
_DELETE = "take the episode out with `groot-ros dataset delete-episodes`, or record it again"


def _finite(rows: EpisodeRows, name: str, feature: Feature, found: Findings) -> None:
    values = rows.columns[name]
    bad = ~np.isfinite(values.astype(np.float64)) if values.dtype.kind in "fO" else np.zeros(values.shape, bool)
    if not bad.any():
        rows.finite.add(name)
        return
    found.unsound.add(rows.index)
    row, dimension = (int(i) for i in np.argwhere(bad)[0])
    names = feature.flat_names
    label = f" {names[dimension]}" if len(names) == values.shape[1] else ""
    message = (
        f"expected finite numbers, found {values[row, dimension]} in row {row} "
        f"({int(bad.any(axis=1).sum())} rows in all): {_DELETE}"
    )
    found.add("not_finite", f"{rows.where}: {name}[{dimension}]{label}", message, episode=rows.index)


def check_counters(contents: Contents, rows: EpisodeRows, found: Findings) -> None:
    """frame_index from 0, episode_index the episode's, index over the whole dataset, timestamp = frame_index / fps."""
    if not rows.count:
        found.add("length_mismatch", rows.where, f"expected rows, found none: {_DELETE}", episode=rows.index)
        return
    steps = np.arange(rows.count)
    expected = {
        FRAME_INDEX: steps,
        EPISODE_INDEX: np.full(rows.count, rows.index),
        INDEX: contents.start(rows.index) + steps,
    }
    if str(paths.EPISODES) in found.damaged:
        del expected[INDEX]
    for name, right in expected.items():
        values = rows.numbers(name)
        if values is None:
            continue
        wrong = np.flatnonzero(values[:, 0] != right)
        if len(wrong):
            row = int(wrong[0])
            message = (
                f"expected {right[row]}, found {values[row, 0]} in row {row} ({len(wrong)} rows in all): {_REPAIR}"
            )
            found.add("index_wrong", f"{rows.where}: {name}", message, episode=rows.index)
    _check_timestamps(contents, rows, steps, found)


def _check_timestamps(contents: Contents, rows: EpisodeRows, steps: NDArray[Any], found: Findings) -> None:
    values = rows.numbers(TIMESTAMP)
    if values is None:
        return
    right = steps / contents.fps
    # float32 holds about seven digits: after minutes the last one is above LeRobot's tolerance by itself.
    rounding = np.spacing(right.astype(np.float32)).astype(np.float64)
    off = np.abs(values[:, 0].astype(np.float64) - right)
    wrong = np.flatnonzero(off > np.maximum(TIMESTAMP_TOLERANCE_S, rounding))
    if len(wrong):
        row = int(wrong[0])
        message = (
            f"expected frame_index / fps = {right[row]:.6f} s, found {values[row, 0]:.6f} s in row {row} ({len(wrong)} "
            f"rows in all, largest difference {off.max() * 1e3:.3f} ms): LeRobot refuses more than 0.1 ms; {_DELETE}"
        )
        found.add("timestamp_wrong", f"{rows.where}: {TIMESTAMP}", message, episode=rows.index)


def check_tasks(contents: Contents, rows: EpisodeRows, columns: list[str], found: Findings) -> None:
    """Task numbers of the rows are in tasks.jsonl, and those of ``task_index`` are the episode's.

    Args:
        columns: those that hold task numbers.
    """
    if str(paths.TASKS) in found.damaged:
        return
    for name in columns:
        values = rows.numbers(name)
        if values is None:
            continue
        indices = np.unique(values[:, 0]).tolist()
        unknown = [index for index in indices if index not in contents.tasks]
        if unknown:
            listed = ", ".join(map(str, unknown[:5]))
            message = (
                f"expected numbers of {paths.TASKS} (it has {len(contents.tasks)}), found {listed}: correct the column"
            )
            found.add("task_unknown", f"{rows.where}: {name}", message, episode=rows.index)
        elif name == TASK_INDEX:
            texts = {contents.tasks[index] for index in indices}
            if not texts <= set(rows.entry.tasks):
                message = (
                    f"expected the tasks that {paths.EPISODES} gives this episode, {sorted(rows.entry.tasks)}, found "
                    f"{sorted(texts)}: correct the one that is wrong"
                )
                found.add("task_mismatch", f"{rows.where}: {name}", message, episode=rows.index)
    missing = [task for task in rows.entry.tasks if task not in contents.tasks.values()]
    if missing:
        message = f"expected tasks of {paths.TASKS}, found {', '.join(map(repr, missing))}: add a line for each"
        found.add("task_unknown", f"{paths.EPISODES}: episode {rows.index}", message, episode=rows.index)


def _kind(dtype: str) -> str:
    """Integer, float or bool: what numpy's and Arrow's names have in common. Widths do not matter to loaders."""
    for kind, words in (("int", ("int", "uint")), ("float", ("float", "double", "half")), ("bool", ("bool",))):
        if dtype.startswith(words):
            return kind
    return dtype


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
