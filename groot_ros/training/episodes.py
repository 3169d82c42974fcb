"""A recorded dataset for training: rows in memory, pictures on demand, and damage told before training begins."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groot_ros.dataset import paths
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.read import Dataset, EpisodeEntry, read_json
from groot_ros.dataset.read_v30 import VERSION as V30
from groot_ros.dataset.read_v30 import DatasetV30
from groot_ros.training.slices import DatasetModality, read_modality
from groot_ros.training.video_index import FrameReader, Pictures, VideoIndex, read_index

Progress = Callable[[int, int], None]
Floats = NDArray[np.float32]

TASK = "task"  # the language key that stands for the tasks of an episode
_NAMED = 5  # damaged episodes that a message names
_MEND = "run `groot-ros dataset check`; `repair` mends what can be, `delete-episodes` takes an episode out"


@dataclass(frozen=True)
class Episode:
    """An episode of a dataset.

    Attributes:
        index: its number in the dataset.
        length: rows.
        tasks: as the metadata say.
        start: rows of the dataset before it.
    """

    index: int
    length: int
    tasks: tuple[str, ...]
    start: int


@dataclass(frozen=True)
class _Video:
    index: VideoIndex
    first: int
    """Number of the episode's first picture."""


class TrainingDataset:
    """A LeRobot dataset (v2.0, v2.1, v3.0) that was looked through: no row and no picture of it is missing.

    Attributes:
        root: its folder.
        version: of the layout.
        fps: rows and pictures per second.
        robot_type: as info.json says.
        episodes: by number.
        modality: modality.json.
        features: of info.json.
        view_sizes: video key -> (height, width) px.
    """

    def __init__(
        self,
        source: Dataset,
        modality: DatasetModality,
        columns: dict[str, NDArray[Any]],
        videos: dict[tuple[int, str], _Video],
    ) -> None:
        """See ``open_training_dataset``.

        Args:
            columns: name -> [all rows] or [all rows, D].
            videos: (episode, feature) -> where its pictures are.
        """
        self.root, self.version = source.root, str(source.info["codebase_version"])
        self.fps, self.features = source.fps, source.features
        self.robot_type = str(source.info.get("robot_type"))
        self.modality = modality
        self.episodes = _episodes(source.episodes)
        self._by_index = {episode.index: episode for episode in self.episodes}
        self._columns, self._videos, self._tasks = columns, videos, source.tasks
        self.view_sizes = {key: self._view_size(feature) for key, feature in modality.video.items()}
        self._reader: tuple[int, FrameReader] | None = None

    @property
    def total_rows(self) -> int:
        """Rows of all episodes."""
        return sum(episode.length for episode in self.episodes)

    @property
    def stats(self) -> dict[str, Any]:
        """stats.json. Raises: DatasetError."""
        path = self.root / paths.STATS
        if not path.is_file():
            how = "export it again" if self.version == V30 else "`groot-ros dataset stats DIR` writes it"
            raise DatasetError(f"{path}: expected the statistics of the columns, found no such file: {how}")
        return read_json(self.root, paths.STATS)

    def episode(self, index: int) -> Episode:
        """An episode by its number. Raises: DatasetError."""
        if index not in self._by_index:
            numbers = sorted(self._by_index)
            raise DatasetError(f"{self.root}: expected an episode of {numbers[0]} to {numbers[-1]}, found {index}")
        return self._by_index[index]

    def rows(self, episode: int, keys: Iterable[str]) -> dict[str, Floats]:
        """Numbers of an episode.

        Args:
            episode: its number.
            keys: ``state.KEY`` or ``action.KEY``, of modality.json.

        Returns:
            Key -> float32 [rows, D], in the dataset's units; not to be written to.

        Raises:
            DatasetError: no such episode or key.
        """
        return {name: self.vector(self.episode(episode), *name.split(".", 1)) for name in keys}

    def vector(self, episode: Episode, modality: str, key: str) -> Floats:
        """A key of ``state`` or ``action``, float32 [rows, D]. Raises: DatasetError."""
        parts = self.modality.vectors(modality)
        if key not in parts:
            raise DatasetError(
                f"{self.root / paths.MODALITY}: {modality}: expected the key '{key}', found "
                f"{', '.join(parts) or 'none'}"
            )
        values = self._columns[parts[key].column][episode.start : episode.start + episode.length]
        return values.reshape(episode.length, -1)[:, parts[key].start : parts[key].end]

    def frames(self, episode: int, feature: str, indices: Sequence[int]) -> Pictures:
        """Pictures of rows ``indices`` of an episode, uint8 [n, H, W, 3] RGB, exactly those.

        Args:
            feature: a video feature, or its key in modality.json.

        Raises:
            DatasetError: no such feature or row, or the picture cannot be decoded.
        """
        feature = self.modality.video.get(feature, feature)
        video = self._videos.get((self.episode(episode).index, feature))
        if video is None:
            raise DatasetError(f"{self.root}: expected a video feature, found {feature!r}")
        wrong = [number for number in indices if not 0 <= number < self.episode(episode).length]
        if wrong:
            raise DatasetError(f"{self.root}: episode {episode}: expected a row of it, found {wrong[0]}")
        return self._frame_reader().read(video.index, [video.first + number for number in indices])

    def instructions(self, episode: Episode, key: str) -> list[str]:
        """What the robot is told: a text per row of the annotation ``key``; of ``task``, all tasks of the episode.

        Raises:
            DatasetError: no such annotation.
        """
        if key == TASK:
            return list(episode.tasks)
        column = self._annotation(key)
        numbers = self._columns[column][episode.start : episode.start + episode.length].reshape(-1)
        return [self._tasks[int(number)] for number in numbers]

    def instruction(self, episode: Episode, row: int, key: str, random: np.random.Generator | None = None) -> str:
        """What the robot is told in a row; of ``task``, any of the episode's (without ``random`` the first).

        Raises:
            DatasetError: no such annotation.
        """
        if key == TASK:
            return episode.tasks[0 if random is None else int(random.integers(len(episode.tasks)))]
        return self._tasks[int(self._columns[self._annotation(key)][episode.start + row])]

    def _annotation(self, key: str) -> str:
        column = self.modality.annotation.get(key.removeprefix("annotation."))
        if column is None:
            found = ", ".join(f"annotation.{name}" for name in self.modality.annotation) or "none"
            raise DatasetError(
                f"{self.root / paths.MODALITY}: annotation: expected '{key}', the language key, found {found}: add it, "
                "or name one of these in the robot's YAML (language.key)"
            )
        return column

    def _view_size(self, feature: str) -> tuple[int, int]:
        codec = self._videos[self.episodes[0].index, feature].index.codec
        return codec.height, codec.width

    def _frame_reader(self) -> FrameReader:
        """This process's own: a forked worker has another."""
        if self._reader is None or self._reader[0] != os.getpid():
            self._reader = os.getpid(), FrameReader()
        return self._reader[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None}


def open_training_dataset(
    root: str | Path, *, progress: Progress | None = None, jobs: int | None = None
) -> TrainingDataset:
    """Open a dataset, and look through all of it: every row is read, and of every video the index and two pictures.

    Args:
        progress: called with episodes looked at and in all.
        jobs: threads; None: one per processor.

    Raises:
        DatasetError: no dataset, no modality.json, or damage; names the files, up to five.
    """
    folder = Path(root).expanduser()
    info = read_json(folder, paths.INFO)
    source = DatasetV30(folder) if info.get("codebase_version") == V30 else Dataset(folder)
    modality = read_modality(source)
    if not source.episodes:
        raise DatasetError(f"{folder}: expected episodes, found none: record some")
    damage: list[str] = []
    columns = _read_columns(source, modality, damage)
    videos = _read_videos(source, modality, damage, progress, jobs)
    if damage:
        more = f"\n... and {len(damage) - _NAMED} more" if len(damage) > _NAMED else ""
        raise DatasetError("\n".join(damage[:_NAMED]) + more + (f"\n{_MEND}" if len(damage) > 1 else ""))
    return TrainingDataset(source, modality, columns, videos)


def _episodes(entries: Iterable[EpisodeEntry]) -> tuple[Episode, ...]:
    found, start = [], 0
    for entry in sorted(entries, key=lambda entry: entry.index):
        found.append(Episode(entry.index, entry.length, entry.tasks, start))
        start += entry.length
    return tuple(found)


def _read_columns(source: Dataset, modality: DatasetModality, damage: list[str]) -> dict[str, NDArray[Any]]:
    """Numbers of all rows; adds to ``damage`` what is wrong with an episode."""
    numbers, texts = modality.columns, list(dict.fromkeys(modality.annotation.values()))
    missing = [name for name in texts if name not in source.features]
    if missing:
        raise DatasetError(f"{source.root / paths.MODALITY}: annotation: expected a feature, found {missing[0]!r}")
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in (*numbers, *texts)}
    for episode in _episodes(source.episodes):
        try:
            found = source.arrays(episode.index, list(parts))
            _check_rows(source, episode, found, numbers, texts)
        except DatasetError as error:
            damage.append(str(error))
            continue
        for name, values in found.items():
            parts[name].append(values.astype(np.float32 if name in numbers else np.int64, copy=False))
    return {name: np.concatenate(values) for name, values in parts.items() if values}


def _check_rows(
    source: Dataset, episode: Episode, found: dict[str, NDArray[Any]], numbers: list[str], texts: list[str]
) -> None:
    where = f"{source.data(episode.index)}: episode {episode.index}"
    for name, values in found.items():
        if len(values) != episode.length:
            raise DatasetError(
                f"{where}: expected {episode.length} rows, as the metadata say, found {len(values)}: {_MEND}"
            )
        if name in numbers and not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))[0])
            raise DatasetError(
                f"{where}: {name}: expected finite numbers, found {values[row].tolist()} in row {row}: {_MEND}"
            )
        unknown = sorted(set(np.unique(values).tolist()) - source.tasks.keys()) if name in texts else []
        if unknown:
            raise DatasetError(f"{where}: {name}: expected indices of tasks, found {unknown[0]}: {_MEND}")


def _read_videos(
    source: Dataset, modality: DatasetModality, damage: list[str], progress: Progress | None, jobs: int | None
) -> dict[tuple[int, str], _Video]:
    """Where all pictures are; adds to ``damage`` what is wrong with a video."""
    features = list(dict.fromkeys(modality.video.values()))
    places = {
        (episode.index, feature): (source.video(episode.index, feature), _first_picture(source, episode.index, feature))
        for episode in _episodes(source.episodes)
        for feature in features
    }
    files = list(dict.fromkeys(path for path, _ in places.values()))
    indices: dict[Path, VideoIndex] = {}

    def look(path: Path) -> VideoIndex | DatasetError:
        try:
            index = read_index(path)
            FrameReader.sample(index)
        except DatasetError as error:
            return error
        return index

    with ThreadPoolExecutor(jobs or os.cpu_count() or 1, thread_name_prefix="videos") as pool:
        for done, (path, found) in enumerate(zip(files, pool.map(look, files)), start=1):
            if isinstance(found, DatasetError):
                damage.append(str(found))
            else:
                indices[path] = found
            if progress is not None:
                progress(done, len(files))
    lengths = {episode.index: episode.length for episode in _episodes(source.episodes)}
    videos = {}
    for (episode, feature), (path, first) in places.items():
        if path in indices:
            problem = _misfit(source, indices[path], first, lengths[episode], feature)
            if problem is None:
                videos[episode, feature] = _Video(indices[path], first)
            else:
                damage.append(f"{path}: episode {episode}: {problem}: {_MEND}")
    return videos


def _first_picture(source: Dataset, episode: int, feature: str) -> int:
    return source.first_picture(episode, feature) if isinstance(source, DatasetV30) else 0


def _misfit(source: Dataset, index: VideoIndex, first: int, length: int, feature: str) -> str | None:
    """Why a video is not that of an episode of ``length`` rows; None where it is."""
    alone = not isinstance(source, DatasetV30)
    if index.frames < first + length or (alone and index.frames != length):
        return f"expected {length} pictures from number {first} on, one per row, found {index.frames} in the file"
    if abs(index.fps - source.fps) > 0.01 * source.fps:
        return f"expected {source.fps} pictures per second, the fps of info.json, found {index.fps:g}"
    said, found = _said_size(source.features[feature]), [index.codec.height, index.codec.width]
    if said != found:
        return f"expected pictures of {said} px (height, width) as info.json says, found {found}"
    return None


def _said_size(feature: dict[str, Any]) -> list[int]:
    """[height, width] of a video feature; LeRobot writes the three sizes in either order, and names them."""
    shape, names = list(feature.get("shape") or ()), feature.get("names")
    if isinstance(names, list) and len(names) == len(shape) and {"height", "width"} <= set(names):
        return [int(shape[names.index(name)]) for name in ("height", "width")]
    return [int(number) for number in shape[:2]]
