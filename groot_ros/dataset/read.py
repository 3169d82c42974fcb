"""Read a LeRobot v2.1 dataset, or v2.0 as NVIDIA's demonstrations are: metadata, columns, places of the videos."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from groot_ros.dataset import paths
from groot_ros.dataset.errors import DatasetError

if TYPE_CHECKING:
    import pyarrow

VERSIONS = ("v2.0", "v2.1")
_DO = "`groot-ros dataset repair` tells what can be mended"
LOST = "restore it from a copy, or take the episode out with `groot-ros dataset delete-episodes`"
_MISSING = f"expected a file of a LeRobot v2.1 dataset, found none: name a dataset's folder; {_DO}"


@dataclass(frozen=True)
class EpisodeEntry:
    """A line of episodes.jsonl."""

    index: int
    tasks: tuple[str, ...]
    length: int


class Dataset:
    """A dataset's folder, opened for reading; files are read when they are asked for.

    Args:
        root: the folder.

    Raises:
        DatasetError: no dataset, another version, or damaged metadata; names file and line. Later also from the
            methods, for the file that they read.
    """

    versions: ClassVar[tuple[str, ...]] = VERSIONS

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser()
        self.info = read_json(self.root, paths.INFO)
        version = self.info.get("codebase_version")
        if version not in self.versions:
            more = ": it has been converted already; work on the v2.1 it was made of" if version == "v3.0" else ""
            raise DatasetError(
                f"{self.root / paths.INFO}: codebase_version: expected {' or '.join(self.versions)}, found "
                f"{version!r}{more}"
            )

    @property
    def fps(self) -> int:
        """Rows and frames per second."""
        return int(self._said("fps", int | float))

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """Feature -> dtype, shape, names."""
        return dict(self._said("features", dict))

    @property
    def video_keys(self) -> list[str]:
        """Names of the video features."""
        return [name for name, feature in self.features.items() if feature.get("dtype") == "video"]

    @cached_property
    def episodes(self) -> list[EpisodeEntry]:
        """All episodes in the order of the file."""
        return [
            EpisodeEntry(
                _member(line, "episode_index", where, int),
                tuple(map(str, _member(line, "tasks", where, list))),
                _member(line, "length", where, int),
            )
            for where, line in read_lines(self.root, paths.EPISODES)
        ]

    @cached_property
    def tasks(self) -> dict[int, str]:
        """Task index -> text."""
        return {
            _member(line, "task_index", where, int): _member(line, "task", where, str)
            for where, line in read_lines(self.root, paths.TASKS)
        }

    @cached_property
    def episodes_stats(self) -> dict[int, dict[str, Any]]:
        """Episode -> feature -> statistics."""
        return {
            _member(line, "episode_index", where, int): _member(line, "stats", where, dict)
            for where, line in read_lines(self.root, paths.EPISODES_STATS)
        }

    @cached_property
    def modality(self) -> dict[str, Any]:
        """modality.json."""
        return read_json(self.root, paths.MODALITY)

    @property
    def stats(self) -> dict[str, Any]:
        """stats.json."""
        return read_json(self.root, paths.STATS)

    def table(self, episode: int, columns: list[str] | None = None) -> pyarrow.Table:
        """Rows of an episode; all columns, or of those named the ones that there are."""
        import pyarrow
        from pyarrow import parquet

        path = self.data(episode)
        if not path.is_file():
            raise DatasetError(f"{path}: expected the rows of episode {episode}, found no such file: {LOST}")
        try:
            with parquet.ParquetFile(path) as file:
                return file.read(columns)
        except (pyarrow.ArrowException, OSError) as error:
            raise DatasetError(
                f"{path}: expected a parquet file with the rows of episode {episode}, found {error}: {LOST}"
            ) from error

    def column(self, episode: int, name: str) -> NDArray[Any]:
        """One column: [rows], or [rows, D] of a vector."""
        return self.arrays(episode, [name])[name]

    def arrays(self, episode: int, names: Sequence[str], table: pyarrow.Table | None = None) -> dict[str, NDArray[Any]]:
        """Columns of an episode: [rows], or [rows, D] of vectors; from ``table``, which is read if left out."""
        table = self.table(episode, list(names)) if table is None else table
        found = {}
        for name in names:
            where = f"{self.data(episode)}: {name}"
            if name not in table.column_names:
                raise DatasetError(f"{where}: expected such a column, found none: {LOST}")
            try:
                found[name] = as_array(table.column(name))
            except DatasetError as error:
                raise DatasetError(f"{where}: {error}: {LOST}") from error
        return found

    def video(self, episode: int, feature: str) -> Path:
        """Where the video of an episode is; it may be missing."""
        return self.root / self._path("video_path", episode, feature)

    def data(self, episode: int) -> Path:
        """Where the rows of an episode are; they may be missing."""
        return self.root / self._path("data_path", episode)

    def report(self, episode: int) -> dict[str, Any] | None:
        """What the recorder noted about an episode; None where another program recorded it."""
        path = paths.report_path(episode)
        return read_json(self.root, path) if (self.root / path).exists() else None

    def _path(self, pattern: str, episode: int, feature: str = "") -> str:
        chunk = episode // self._said("chunks_size", int)
        text = self._said(pattern, str)
        try:
            return text.format(episode_chunk=chunk, episode_index=episode, video_key=feature)
        except (KeyError, IndexError, ValueError) as error:
            raise DatasetError(f"{self.root / paths.INFO}: {pattern}: cannot be filled in: {text!r}: {_DO}") from error

    def _said(self, key: str, kind: type | UnionType) -> Any:
        return _member(self.info, key, str(self.root / paths.INFO), kind)


def as_array(column: pyarrow.ChunkedArray) -> NDArray[Any]:
    """A parquet column: [rows] of a scalar, [rows, D] of lists that are all equally long.

    Raises: DatasetError when they are not, or a value is missing.
    """
    import pyarrow

    if column.null_count:
        raise DatasetError(f"expected a value in every row, found {column.null_count} without")
    array = column.combine_chunks()
    if isinstance(array, pyarrow.ChunkedArray):  # what older releases return for a column without rows
        array = pyarrow.concat_arrays(array.chunks) if array.num_chunks else pyarrow.array([], column.type)
    if not pyarrow.types.is_nested(array.type):
        return np.asarray(array.to_numpy(zero_copy_only=False))
    values = np.asarray(array.flatten().to_numpy(zero_copy_only=False))
    if len(array) == 0:
        return values.reshape(0, 0)
    variable = pyarrow.types.is_list(array.type) or pyarrow.types.is_large_list(array.type)
    if variable and len(set(array.value_lengths().to_pylist())) != 1:
        raise DatasetError("expected lists of one length, found several")
    return values.reshape(len(array), -1)


def read_json(root: Path, name: Path) -> dict[str, Any]:
    """An object in a JSON file of the dataset. Raises: DatasetError naming the file."""
    path = root / name
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: {_MISSING}") from error
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: expected a JSON object, found {error}: {_DO}") from error
    if not isinstance(value, dict):
        raise DatasetError(f"{path}: expected a JSON object, found {type(value).__name__}: {_DO}")
    return value


def read_lines(root: Path, name: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """``FILE:LINE`` and object of every line of a jsonl file. Raises: DatasetError naming file and line."""
    path = root / name
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: {_MISSING}") from error
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: expected lines of text, found {error}: {_DO}") from error
    for number, line in enumerate(text.splitlines(), 1):
        where = f"{path}:{number}"
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DatasetError(f"{where}: expected a JSON object, found {line[:60]!r} ({error}): {_DO}") from error
        if not isinstance(value, dict):
            raise DatasetError(f"{where}: expected a JSON object, found {type(value).__name__}: {_DO}")
        yield where, value


def _member(line: dict[str, Any], key: str, where: str, kind: type | UnionType) -> Any:
    if key not in line:
        raise DatasetError(f"{where}: expected a member {key!r}, found {', '.join(line) or 'none'}: {_DO}")
    if not isinstance(line[key], kind):
        expected = getattr(kind, "__name__", str(kind))
        raise DatasetError(f"{where}: {key}: expected {expected}, found {line[key]!r}: {_DO}")
    return line[key]
