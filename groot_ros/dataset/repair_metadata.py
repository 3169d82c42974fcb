"""The lines of a dataset's metadata as they should be: those that are left, and those that its files still say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groot_ros.dataset import durable, paths
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.read import LOST, Dataset
from groot_ros.dataset.spec import EPISODE_INDEX, FRAME_INDEX, INDEX, TASK_INDEX
from groot_ros.dataset.video import count_frames

# Members without which a line says nothing.
REQUIRED = {
    paths.EPISODES: ("episode_index", "tasks", "length"),
    paths.TASKS: ("task_index", "task"),
    paths.EPISODES_STATS: ("episode_index", "stats"),
}


@dataclass
class Lines:
    """A jsonl file as far as it can be read.

    Attributes:
        entries: lines by their index, the first where two have the same.
        problems: what is wrong with the file, one sentence each; empty: it stays as it is.
        lost: lines that cannot be read.
        missing: there is no such file.
    """

    entries: dict[int, dict[str, Any]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    lost: int = 0
    missing: bool = False


def readable_lines(root: Path, name: Path) -> Lines:
    """Read what can be read of a jsonl file. Raises: OSError."""
    found = Lines()
    try:
        data = (root / name).read_bytes()
    except FileNotFoundError:
        found.missing = True
        found.problems.append("there is no such file")
        return found
    *whole, rest = data.split(b"\n")
    for number, line in enumerate([*whole, rest] if rest else whole, 1):
        entry = _parsed(line, REQUIRED[name])
        if not line.strip():
            found.problems.append(f"line {number} is blank")
        elif entry is None:
            found.lost += 1
            found.problems.append(f"line {number} is damaged: {line[:60]!r}")
        elif entry[REQUIRED[name][0]] in found.entries:
            found.problems.append(f"line {number} has the index of an earlier line")
        else:
            found.entries[entry[REQUIRED[name][0]]] = entry
            if line is rest:
                found.problems.append(f"line {number} has no end")
    return found


def _parsed(line: bytes, required: Iterable[str]) -> dict[str, Any] | None:
    """An object with the members that it needs, else None."""
    try:
        entry = json.loads(line)
    except ValueError:  # also bytes that are no UTF-8
        return None
    if not isinstance(entry, dict) or any(member not in entry for member in required):
        return None
    index, *_ = (entry[member] for member in required)
    return entry if type(index) is int else None


class Files(Dataset):
    """The files of a dataset whose info.json may be missing."""

    def __init__(self, root: Path, info: dict[str, Any]) -> None:
        self.root, self.info = root, info


@dataclass(frozen=True)
class EpisodeFacts:
    """What the files of an episode say.

    Attributes:
        rows: in its parquet file.
        frames: video feature -> pictures.
        tasks: indices in its rows.
        counters: frame_index, episode_index and index, [rows] each.
    """

    rows: int
    frames: dict[str, int]
    tasks: set[int]
    counters: dict[str, NDArray[np.int64]]

    @classmethod
    def read(cls, files: Dataset, episode: int) -> EpisodeFacts:
        """Read rows and videos. Raises: DatasetError when one is missing or cannot be read."""
        names = [FRAME_INDEX, EPISODE_INDEX, INDEX]
        counters = files.arrays(episode, [*names, TASK_INDEX])
        tasks = set(counters.pop(TASK_INDEX).tolist())
        try:
            frames = {feature: count_frames(files.video(episode, feature)) for feature in files.video_keys}
        except DatasetError as error:
            raise DatasetError(f"{error}: {LOST}") from error
        return cls(len(counters[INDEX]), frames, tasks, counters)

    @property
    def shortest(self) -> int:
        """Rows that every video has a picture for."""
        return min(self.rows, *self.frames.values()) if self.frames else self.rows

    @property
    def whole(self) -> bool:
        """Every video has as many pictures as there are rows."""
        return set(self.frames.values()) <= {self.rows}

    @property
    def number(self) -> int:
        """The episode that the rows say they are of; -1 when they say several, or there is none."""
        numbers = np.unique(self.counters[EPISODE_INDEX])
        return int(numbers[0]) if len(numbers) == 1 else -1

    def counts(self, episode: int, first: int) -> bool:
        """The counters are those of this episode, with ``first`` rows before it."""
        frame = np.arange(self.rows)
        expected = {FRAME_INDEX: frame, EPISODE_INDEX: np.full(self.rows, episode), INDEX: first + frame}
        return all(np.array_equal(self.counters[name], values) for name, values in expected.items())


class Draft:
    """Lines of episodes, tasks and statistics, to begin with those that can be read.

    Attributes:
        files: the dataset's files.
        episodes: episode -> line.
        tasks: index -> text.
        stats: episode -> statistics by feature.
        has_stats: its version has them.
        problems: file -> what is wrong with its lines.
    """

    def __init__(self, root: Path, info: dict[str, Any]) -> None:
        """Raises: OSError."""
        self.files = Files(root, info)
        names = [paths.EPISODES, paths.TASKS]
        # LeRobot v2.0 has no statistics per episode.
        names += [paths.EPISODES_STATS] if info["codebase_version"] != "v2.0" else []
        lines = {name: readable_lines(root, name) for name in names}
        self._lost, self._missing = lines[paths.EPISODES].lost, lines[paths.EPISODES].missing
        self.episodes = lines[paths.EPISODES].entries
        self.tasks = {index: str(line["task"]) for index, line in lines[paths.TASKS].entries.items()}
        self.has_stats = paths.EPISODES_STATS in lines
        stats = lines[paths.EPISODES_STATS].entries if self.has_stats else {}
        self.stats: dict[int, Any] = {index: line["stats"] for index, line in stats.items()}
        self.problems = {name: found.problems for name, found in lines.items() if found.problems}

    def candidates(self) -> Iterator[int]:
        """Episodes with a line, and those whose line was lost: their files are there, and one is missing."""
        known = max(self.episodes, default=-1) + 1
        limit = max(int(self.files.info.get("total_episodes") or 0), known + self._lost)
        index = 0
        while index < known or ((index < limit or self._missing) and self.files.data(index).is_file()):
            if index in self.episodes or self.files.data(index).is_file():
                yield index
            index += 1

    def find_tasks(self, facts: Mapping[int, EpisodeFacts]) -> Iterator[tuple[int, str | None]]:
        """Every task index of the rows that has no text, and the text that episodes.jsonl says for certain, or None."""
        used = {episode: fact.tasks for episode, fact in facts.items()}
        for index in sorted(set().union(*used.values()) - set(self.tasks)):
            texts = set()
            for episode, line in self.episodes.items():
                unknown = set(line["tasks"]) - set(self.tasks.values())
                if used.get(episode, set()) - set(self.tasks) == {index} and len(unknown) == 1:
                    texts |= unknown
            text = texts.pop() if len(texts) == 1 else None
            if text is not None:
                self.tasks[index] = text
            yield index, text

    def find_episodes(self, facts: Mapping[int, EpisodeFacts]) -> Iterator[int]:
        """Make the lines that were lost of those episodes whose tasks are known; the episodes."""
        for episode, fact in facts.items():
            if episode not in self.episodes and fact.tasks <= set(self.tasks):
                texts = [self.tasks[index] for index in sorted(fact.tasks)]
                self.episodes[episode] = {"episode_index": episode, "tasks": texts, "length": fact.rows}
                yield episode
        self.episodes = dict(sorted(self.episodes.items()))

    def text(self, name: Path) -> bytes:
        """Content of one of the jsonl files."""
        if name == paths.EPISODES:
            lines = list(self.episodes.values())
        elif name == paths.TASKS:
            lines = [{"task_index": index, "task": self.tasks[index]} for index in sorted(self.tasks)]
        else:
            lines = [{"episode_index": index, "stats": self.stats[index]} for index in sorted(self.stats)]
        return "".join(map(durable.json_line, lines)).encode()
