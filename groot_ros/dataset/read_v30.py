"""Read a LeRobot v3.0 dataset (spec/lerobot.md section 1.2): many episodes share a file of rows, or of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from groot_ros.dataset import paths
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.read import Dataset, EpisodeEntry

if TYPE_CHECKING:
    import pyarrow
    from pyarrow import parquet

VERSION = "v3.0"
EPISODES = paths.META / "episodes"
TASKS = paths.META / "tasks.parquet"
_DO = "restore it from a copy, or export the v2.1 dataset again (`groot-ros dataset export`)"
_PLAIN = ("episode_index", "tasks", "length", "data/chunk_index", "data/file_index", "dataset_from_index")


@dataclass(frozen=True)
class _Rows:
    """Where the rows of an episode are: a file, and the number of the first one in it."""

    path: Path
    first: int
    length: int


class DatasetV30(Dataset):
    """A v3.0 dataset's folder, opened for reading; as ``Dataset`` otherwise.

    Raises:
        DatasetError: no dataset, another version, or damaged metadata; later also from the methods.
    """

    versions: ClassVar[tuple[str, ...]] = (VERSION,)

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)
        self._file: tuple[Path, parquet.ParquetFile] | None = None

    @cached_property
    def episodes(self) -> list[EpisodeEntry]:
        """All episodes by number."""
        return [EpisodeEntry(index, tuple(row["tasks"]), row["length"]) for index, row in self._entries.items()]

    @cached_property
    def tasks(self) -> dict[int, str]:
        """Task index -> text."""
        table = _read_table(self.root / TASKS)
        names = [name for name in table.column_names if name != "task_index"]
        if "task_index" not in table.column_names or not names:
            raise DatasetError(
                f"{self.root / TASKS}: expected the columns task_index and the text, found "
                f"{', '.join(table.column_names)}: {_DO}"
            )
        return dict(zip(table.column("task_index").to_pylist(), map(str, table.column(names[0]).to_pylist())))

    def data(self, episode: int) -> Path:
        """The file that has the rows of an episode; it may be missing."""
        return self._rows[episode].path

    def video(self, episode: int, feature: str) -> Path:
        """The file that has the pictures of an episode, those from ``first_picture`` on; it may be missing."""
        return self.root / self._filled("video_path", episode, f"videos/{feature}/", feature)

    def first_picture(self, episode: int, feature: str) -> int:
        """Number of the episode's first picture in its file."""
        return round(self._value(episode, f"videos/{feature}/from_timestamp") * self.fps)

    def table(self, episode: int, columns: list[str] | None = None) -> pyarrow.Table:
        """Rows of an episode; all columns, or of those named the ones that there are."""
        place = self._rows[episode]
        file = self._opened(place.path)
        groups, before, skipped = [], 0, 0
        for number in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(number).num_rows
            if before + rows <= place.first:
                skipped += rows
            elif before < place.first + place.length:
                groups.append(number)
            before += rows
        table = _arrow(place.path, lambda: file.read_row_groups(groups, columns=columns))
        return table.slice(place.first - skipped, place.length)

    def _opened(self, path: Path) -> parquet.ParquetFile:
        """The file; the last one stays open, because episodes are read in order."""
        from pyarrow import parquet

        if self._file is None or self._file[0] != path:
            if not path.is_file():
                raise DatasetError(f"{path}: expected the rows of several episodes, found no such file: {_DO}")
            self._file = path, _arrow(path, lambda: parquet.ParquetFile(path))
        return self._file[1]

    @cached_property
    def _entries(self) -> dict[int, dict[str, Any]]:
        """Episode -> row of meta/episodes, without statistics."""
        files = sorted((self.root / EPISODES).glob("*/*.parquet"))
        if not files:
            raise DatasetError(f"{self.root / EPISODES}: expected parquet files, found none: {_DO}")
        wanted = [*_PLAIN]
        for feature in self.video_keys:
            wanted += [f"videos/{feature}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
        entries: dict[int, dict[str, Any]] = {}
        for path in files:
            table = _read_table(path, wanted)
            missing = [name for name in wanted if name not in table.column_names]
            if missing:
                raise DatasetError(f"{path}: expected the columns {', '.join(missing)}, found none: {_DO}")
            for row in table.to_pylist():
                entries[row["episode_index"]] = row
        return dict(sorted(entries.items()))

    @cached_property
    def _rows(self) -> dict[int, _Rows]:
        files = {
            index: self.root / self._filled("data_path", index, "data/", None)
            for index in sorted(self._entries, key=lambda number: int(self._entries[number]["dataset_from_index"]))
        }
        firsts: dict[Path, int] = {}
        for index, path in files.items():
            firsts.setdefault(path, self._entries[index]["dataset_from_index"])
        return {
            index: _Rows(path, entry["dataset_from_index"] - firsts[path], entry["length"])
            for index, path in files.items()
            for entry in [self._entries[index]]
        }

    def _value(self, episode: int, name: str) -> Any:
        value = self._entries[episode].get(name)
        if value is None:
            raise DatasetError(
                f"{self.root / EPISODES}: episode {episode}: {name}: expected a number, found none: {_DO}"
            )
        return value

    def _filled(self, pattern: str, episode: int, prefix: str, feature: str | None) -> str:
        text = self.info.get(pattern)
        try:
            return str(text).format(
                chunk_index=self._value(episode, f"{prefix}chunk_index"),
                file_index=self._value(episode, f"{prefix}file_index"),
                video_key=feature,
            )
        except (KeyError, IndexError, ValueError) as error:
            raise DatasetError(f"{self.root / paths.INFO}: {pattern}: cannot be filled in: {text!r}: {_DO}") from error


def _read_table(path: Path, columns: Sequence[str] | None = None) -> pyarrow.Table:
    from pyarrow import parquet

    def read() -> pyarrow.Table:
        with parquet.ParquetFile(path) as file:
            return file.read(None if columns is None else list(columns))

    if not path.is_file():
        raise DatasetError(f"{path}: expected a file of a LeRobot v3.0 dataset, found none: {_DO}")
    return _arrow(path, read)


def _arrow(path: Path, action: Any) -> Any:
    """What ``action`` returns; what pyarrow says about the file becomes a DatasetError that names it."""
    import pyarrow

    try:
        return action()
    except (pyarrow.ArrowException, OSError) as error:
        raise DatasetError(f"{path}: expected a parquet file, found {error}: {_DO}") from error
