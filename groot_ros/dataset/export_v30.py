"""LeRobot v2.1 to v3.0 (spec/lerobot.md section 1.2): shared files in place of one set per episode.

Nothing is encoded again: rows are copied, a row group per episode, and videos are joined packet by packet. Statistics
are computed from the rows and from a few pictures of every video. modality.json and the recorder's reports stay beside.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from groot_ros.dataset import durable, paths
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.image_statistics import ImageStatistics
from groot_ros.dataset.read import Dataset
from groot_ros.dataset.rebuild import Built, Progress, new_folder, number_columns, write_new
from groot_ros.dataset.spec import EPISODE_INDEX, INDEX
from groot_ros.dataset.statistics import column_statistics
from groot_ros.dataset.video import VideoFacts, image_statistics, remux, video_facts

VERSION = "v3.0"
DATA_PATTERN = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATTERN = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATTERN = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
TASKS = paths.META / "tasks.parquet"
DATA_MB, VIDEO_MB = 100, 200  # LeRobot's own limits
EPISODES_PER_FILE = 2000  # of meta/episodes: about 40 MB with statistics
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
_MB = 1 << 20
# What of v2.1 is also of use beside v3.0: GR00T's pipelines convert back with it.
_KEPT = (paths.MODALITY, paths.RELATIVE_STATS, paths.REPORTS)

Row = dict[str, Any]


@dataclass(frozen=True)
class _Place:
    """A file of many: number 1234 is file 234 of chunk 1."""

    number: int

    @property
    def indices(self) -> dict[str, int]:
        return {"chunk_index": self.number // paths.CHUNKS_SIZE, "file_index": self.number % paths.CHUNKS_SIZE}

    def path(self, pattern: str, **names: str) -> Path:
        return Path(pattern.format(**self.indices, **names))


def export(
    root: Path,
    target: Path,
    *,
    data_mb: float = DATA_MB,
    video_mb: float = VIDEO_MB,
    image_frames: int = 10,
    progress: Progress | None = None,
) -> Built:
    """Write ``target``, a new folder, as v3.0 of the v2.1 dataset ``root``. The caller holds the lock of ``root``.

    Args:
        data_mb, video_mb: size (MiB) at which a new file begins.
        image_frames: pictures per video that are decoded for the statistics of images.
        progress: called with steps done and in all; a step is an episode's rows or one of its videos.

    Raises:
        DatasetError: the target exists, or the dataset is not sound: `groot-ros dataset check` says more.
    """
    source = Dataset(root)
    _check(source)
    built = Built(target, len(source.episodes), sum(entry.length for entry in source.episodes), len(source.tasks))
    total = built.episodes * (1 + len(source.video_keys))
    done = iter(range(1, total + 1))

    def step() -> None:
        if progress is not None:
            progress(next(done), total)

    with new_folder(target) as building:
        rows, statistics = _write_data(source, building, int(data_mb * _MB), step)
        for feature in source.video_keys:
            _write_videos(source, building, feature, int(video_mb * _MB), rows)
            statistics[feature] = _image_statistics(source, feature, image_frames, rows, step)
        _write_tasks(source, building / TASKS)
        _write_episodes(rows, building)
        write_new(building / paths.STATS, durable.json_bytes(statistics))
        write_new(building / paths.INFO, durable.json_bytes(_info(source, data_mb, video_mb)))
        for name in _KEPT:
            if (root / name).is_dir():
                shutil.copytree(root / name, building / name)
            elif (root / name).exists():
                shutil.copy2(root / name, building / name)
    return built


def _check(source: Dataset) -> None:
    """v3.0 finds episodes and tasks by their row. Raises: DatasetError when they are not numbered from 0."""
    if not source.episodes:
        raise DatasetError(f"{source.root}: expected at least one episode to export, found none")
    pictures = [name for name, feature in source.features.items() if feature["dtype"] == "image"]
    if pictures:
        raise DatasetError(f"{source.root}: expected videos, found pictures within the rows ({', '.join(pictures)})")
    for name, found in ((paths.EPISODES, [e.index for e in source.episodes]), (paths.TASKS, sorted(source.tasks))):
        if found != list(range(len(found))):
            raise DatasetError(
                f"{source.root / name}: expected indices from 0 on without a gap, found {found[:10]}: "
                "`groot-ros dataset merge DIR --output NEW` numbers them again"
            )


def _size(path: Path) -> int:
    if not path.is_file():
        raise DatasetError(f"{path}: expected a file of the dataset, found none: run `groot-ros dataset repair`")
    return path.stat().st_size


def _write_data(
    source: Dataset, building: Path, limit: int, step: Callable[[], None]
) -> tuple[list[Row], dict[str, Any]]:
    """data/: rows of meta/episodes without the videos', and the statistics of all columns."""
    rows: list[Row] = []
    columns: dict[str, list[NDArray[Any]]] = {}
    sizes = [_size(source.data(entry.index)) for entry in source.episodes]
    first = 0
    for number, group in enumerate(grouped(sizes, limit)):
        place = _Place(number)
        path = building / place.path(DATA_PATTERN)
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = None
        try:
            for episode in group:
                table = _sound_table(source, episode, first).replace_schema_metadata(None)
                writer = pq.ParquetWriter(path, table.schema, compression="snappy") if writer is None else writer
                writer.write_table(table, row_group_size=table.num_rows)
                rows.append(_episode_row(source, episode, table, first, place, columns))
                first += table.num_rows
                step()
        finally:
            if writer is not None:
                writer.close()
    return rows, {name: column_statistics(np.concatenate(parts), QUANTILES) for name, parts in columns.items()}


def _episode_row(
    source: Dataset,
    episode: int,
    table: pa.Table,
    first: int,
    place: _Place,
    columns: dict[str, list[NDArray[Any]]],
) -> Row:
    """A row of meta/episodes; adds the episode's numbers to ``columns``."""
    statistics = {}
    for name, values in number_columns(source, episode, table).items():
        columns.setdefault(name, []).append(values)
        statistics[name] = column_statistics(values, QUANTILES)
    return {
        "episode_index": episode,
        "tasks": list(source.episodes[episode].tasks),
        "length": table.num_rows,
        **{f"data/{name}": index for name, index in place.indices.items()},
        "dataset_from_index": first,
        "dataset_to_index": first + table.num_rows,
        **_flat(statistics),
    }


def _sound_table(source: Dataset, episode: int, first: int) -> pa.Table:
    """Rows of an episode. Raises: DatasetError unless they are as many, and numbered, as the metadata say."""
    table, where = source.table(episode), source.data(episode)
    length = source.episodes[episode].length
    mend = "run `groot-ros dataset check`, then `repair`"
    if table.num_rows != length:
        raise DatasetError(f"{where}: expected {length} rows as episodes.jsonl says, found {table.num_rows}: {mend}")
    unknown = [name for name in table.column_names if name not in source.features]
    if unknown:
        raise DatasetError(f"{where}: expected the columns of info.json, found {', '.join(unknown)} too: {mend}")
    for name, expected in ((INDEX, first + np.arange(length)), (EPISODE_INDEX, np.full(length, episode))):
        found = source.arrays(episode, [name], table)[name]
        if not np.array_equal(found, expected):
            wrong = int(np.flatnonzero(found != expected)[0])
            raise DatasetError(
                f"{where}: {name}: expected {expected[wrong]} in row {wrong}, found {found[wrong]}: {mend}"
            )
    return table


def _write_videos(source: Dataset, building: Path, feature: str, limit: int, rows: list[Row]) -> None:
    """videos/FEATURE: files of at most ``limit`` bytes; adds to ``rows`` where each episode is."""
    sizes = [_size(source.video(row["episode_index"], feature)) for row in rows]
    facts = [_sound_video(source, row, feature) for row in rows]
    for number, group in enumerate(grouped(sizes, limit, [fact.header for fact in facts])):
        place = _Place(number)
        path = building / place.path(VIDEO_PATTERN, video_key=feature)
        path.parent.mkdir(parents=True, exist_ok=True)
        remux([source.video(episode, feature) for episode in group], path, source.fps)
        before = 0
        for episode in group:
            row = rows[episode]
            row.update({f"videos/{feature}/{name}": index for name, index in place.indices.items()})
            row[f"videos/{feature}/from_timestamp"] = before / source.fps
            before += row["length"]
            row[f"videos/{feature}/to_timestamp"] = before / source.fps


def _sound_video(source: Dataset, row: Row, feature: str) -> VideoFacts:
    path = source.video(row["episode_index"], feature)
    facts = video_facts(path)
    if facts.frames != row["length"]:
        raise DatasetError(
            f"{path}: expected {row['length']} pictures, one per row, found {facts.frames}: "
            "`groot-ros dataset repair --truncate` cuts the longer of the two"
        )
    return facts


def _image_statistics(
    source: Dataset, feature: str, frames: int, rows: list[Row], step: Callable[[], None]
) -> dict[str, Any]:
    """Statistics of all videos of a feature; adds each episode's to ``rows``."""
    total = ImageStatistics()

    def one(row: Row) -> ImageStatistics:
        return image_statistics(source.video(row["episode_index"], feature), row["length"], frames)

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding lets other threads run
        for row, found in zip(rows, pool.map(one, rows)):
            total.merge(found)
            row.update(_flat({feature: found.stats(QUANTILES)}))
            step()
    return total.stats(QUANTILES)


def grouped(sizes: Sequence[int], limit: int, kinds: Sequence[str] | None = None) -> Iterator[list[int]]:
    """Consecutive numbers whose sizes add up to at most ``limit`` and whose kinds agree; a single one may be larger."""
    group: list[int] = []
    filled = 0
    for number, size in enumerate(sizes):
        other = kinds is not None and group and kinds[number] != kinds[group[-1]]
        if group and (filled + size > limit or other):
            yield group
            group, filled = [], 0
        group.append(number)
        filled += size
    yield group


def _flat(statistics: Mapping[str, Mapping[str, Any]]) -> Row:
    return {f"stats/{feature}/{name}": value for feature, row in statistics.items() for name, value in row.items()}


def _write_episodes(rows: list[Row], building: Path) -> None:
    for number, start in enumerate(range(0, len(rows), EPISODES_PER_FILE)):
        place = _Place(number)
        part = rows[start : start + EPISODES_PER_FILE]
        for row in part:
            row.update({f"meta/episodes/{name}": index for name, index in place.indices.items()})
        path = building / place.path(EPISODES_PATTERN)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Types follow from the values, which are never empty: int64, double, string and lists of them.
        pq.write_table(pa.Table.from_pylist(part), path, compression="snappy")


def _write_tasks(source: Dataset, path: Path) -> None:
    """tasks.parquet as pandas writes a frame whose index are the texts: LeRobot looks them up by that index."""
    index = "__index_level_0__"

    def described(name: str | None, field: str | None, pandas_type: str, numpy_type: str) -> dict[str, Any]:
        types = {"pandas_type": pandas_type, "numpy_type": numpy_type}
        return {"name": name, "field_name": field, **types, "metadata": None}

    text = partial(described, None, pandas_type="unicode", numpy_type="object")
    pandas = {
        "index_columns": [index],
        "column_indexes": [{**text(None), "metadata": {"encoding": "UTF-8"}}],
        "columns": [described("task_index", "task_index", "int64", "int64"), text(index)],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.2.0",
    }
    schema = pa.schema(
        [("task_index", pa.int64()), (index, pa.string())], metadata={"pandas": json.dumps(pandas).encode()}
    )
    numbers = sorted(source.tasks)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table([numbers, [source.tasks[number] for number in numbers]], schema=schema), path)


def _info(source: Dataset, data_mb: float, video_mb: float) -> dict[str, Any]:
    info = {key: value for key, value in source.info.items() if key not in ("total_videos", "total_chunks")}
    return {
        **info,
        "codebase_version": VERSION,
        "chunks_size": paths.CHUNKS_SIZE,
        "data_files_size_in_mb": data_mb,
        "video_files_size_in_mb": video_mb,
        "data_path": DATA_PATTERN,
        "video_path": VIDEO_PATTERN if source.video_keys else None,
    }
