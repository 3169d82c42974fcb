"""What a dataset says about itself, as far as it can be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any

from groot_ros.dataset import paths
from groot_ros.dataset.check.files import read_json, read_jsonl
from groot_ros.dataset.check.report import Findings
from groot_ros.dataset.check.schema import EpisodeLine, Feature, Info, TaskLine, formed, shortened
from groot_ros.dataset.read import VERSIONS
from groot_ros.dataset.spec import EPISODE_INDEX, FRAME_INDEX, INDEX, STAMP, TASK_INDEX, TIMESTAMP

CONVERTER = "scripts/lerobot_conversion/convert_v3_to_v2.py of NVIDIA/Isaac-GR00T"
# LeRobot and GR00T need these in every dataset, with one number per row.
ALWAYS = (TIMESTAMP, FRAME_INDEX, EPISODE_INDEX, INDEX, TASK_INDEX)


@dataclass(frozen=True)
class Contents:
    """Metadata of a dataset whose info.json is good enough to look for the rest.

    Attributes:
        root: its folder.
        info: info.json.
        features: those of info.json that have the right form.
        episodes: lines of episodes.jsonl that have the right form, in the order of the file.
        tasks: task index -> text.
    """

    root: Path
    info: Info
    features: dict[str, Feature]
    episodes: list[EpisodeLine]
    tasks: dict[int, str]
    _starts: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Rows are in the order of the numbers, whatever the order of the lines.
        episodes = sorted(self.episodes, key=lambda episode: episode.episode_index)
        starts = accumulate((episode.length for episode in episodes), initial=0)
        self._starts.update({episode.episode_index: start for episode, start in zip(episodes, starts)})

    @property
    def fps(self) -> float:
        """Rows and pictures per second."""
        return self.info.fps

    @property
    def is_v20(self) -> bool:
        """LeRobot v2.0, which NVIDIA's demonstrations are, has no statistics per episode."""
        return self.info.codebase_version == "v2.0"

    @property
    def is_recording(self) -> bool:
        """Our recorder made it: it has the real stamps."""
        return STAMP in self.features

    @property
    def videos(self) -> dict[str, Feature]:
        """Features that are videos."""
        return {name: feature for name, feature in self.features.items() if feature.is_video}

    def vector(self, name: str) -> Feature | None:
        """The feature of this name when it is numbers in one list."""
        feature = self.features.get(name)
        return feature if feature is not None and not feature.is_image and feature.width else None

    def start(self, episode: int) -> int:
        """``index`` of the episode's first row."""
        return self._starts[episode]

    def data_path(self, episode: int) -> Path:
        """Rows of an episode, relative to ``root``."""
        return Path(self._filled(self.info.data_path, episode, ""))

    def video_path(self, episode: int, feature: str) -> Path:
        """Video of an episode, relative to ``root``."""
        return Path(self._filled(self.info.video_path or paths.VIDEO_PATTERN, episode, feature))

    def _filled(self, pattern: str, episode: int, feature: str) -> str:
        chunk = episode // self.info.chunks_size
        return pattern.format(episode_chunk=chunk, episode_index=episode, video_key=feature)

    def names(self, feature: str) -> list[str]:
        """One name per number of a vector; its position where the dataset has no names."""
        vector = self.features[feature]
        names = vector.flat_names
        return names if len(names) == vector.width else [str(i) for i in range(vector.width)]


def read_contents(root: Path, found: Findings) -> Contents | None:
    """Metadata of the dataset in ``root``; None, with the reason among the problems, when it cannot be read."""
    if not (root / paths.META).is_dir():
        found.add("no_dataset", ".", f"expected the folder of a LeRobot dataset, with meta/ in it, found {_seen(root)}")
        return None
    data = read_json(root, paths.INFO, found)
    if data is None:
        return None
    version = data.get("codebase_version")
    if isinstance(version, str) and version not in VERSIONS:
        found.add("version", paths.INFO, _version_message(version))
        return None
    info = formed(Info, data, found, "info_invalid", str(paths.INFO))
    if info is None or not _patterns_good(info, found):
        return None
    hint = "restore it from a copy; GR00T and LeRobot both need it"
    lines = read_jsonl(root, paths.EPISODES, found, hint=hint)
    episodes = [(where, formed(EpisodeLine, line, found, "jsonl_damaged", where)) for where, line in lines]
    tasks = [
        (where, formed(TaskLine, line, found, "jsonl_damaged", where))
        for where, line in read_jsonl(root, paths.TASKS, found, hint=hint)
    ]
    for file, entries in ((paths.EPISODES, episodes), (paths.TASKS, tasks)):
        if any(entry is None for _, entry in entries):
            found.damaged.add(str(file))
    good = [(where, episode) for where, episode in episodes if episode is not None]
    return Contents(
        root,
        info,
        _features(info, found),
        _unique(good, found),
        _tasks([(where, task) for where, task in tasks if task is not None], found),
    )


def _seen(root: Path) -> str:
    if not root.exists():
        return "nothing there: correct the path"
    if not root.is_dir():
        return "a file: name the folder"
    inside = sorted(path.name for path in root.iterdir())
    return f"{', '.join(inside[:5]) or 'an empty folder'}: name the folder that holds meta/, data/ and videos/"


def _version_message(version: str) -> str:
    if version.startswith("v3"):
        do = f"convert it with {CONVERTER}, or use the v2.1 dataset from which it was exported"
    elif version.startswith("v1"):
        do = "convert it with the conversion scripts of LeRobot 0.3"
    else:
        do = "name a dataset of LeRobot"
    return (
        f"codebase_version: expected {' or '.join(VERSIONS)}, which GR00T trains on, found {shortened(version)}: {do}"
    )


def _patterns_good(info: Info, found: Findings) -> bool:
    """Whether data_path and video_path name a file inside the dataset for every episode."""
    good = True
    for name, pattern in (("data_path", info.data_path), ("video_path", info.video_path)):
        if pattern is None:
            continue
        try:
            filled = pattern.format(episode_chunk=0, episode_index=0, video_key="key")
            other = pattern.format(episode_chunk=0, episode_index=1, video_key="key")
        except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
            what = f"cannot be filled in ({type(error).__name__}: {error})"
        else:
            path = PurePosixPath(filled)
            if filled == other:
                what = "is the same for two episodes"
            elif path.is_absolute() or ".." in path.parts or "\0" in filled:
                what = "is not inside the dataset"
            else:
                continue
        good = False
        expected = paths.DATA_PATTERN if name == "data_path" else paths.VIDEO_PATTERN
        found.add("info_invalid", paths.INFO, f"{name}: expected {expected}, found {shortened(pattern)}, which {what}")
    return good


def _features(info: Info, found: Findings) -> dict[str, Feature]:
    features = {}
    for name, data in info.features.items():
        feature = formed(Feature, data, found, "feature_invalid", f"{paths.INFO}: features.{name}")
        if feature is not None:
            features[name] = feature
    return features


def _unique(lines: Sequence[tuple[str, EpisodeLine]], found: Findings) -> list[EpisodeLine]:
    """The episodes, each number once; they must count from 0."""
    episodes: dict[int, EpisodeLine] = {}
    wrong = []
    for position, (where, episode) in enumerate(lines):
        if episode.episode_index != position and str(paths.EPISODES) not in found.damaged:
            wrong.append((where, position, episode.episode_index))
        episodes.setdefault(episode.episode_index, episode)
    if wrong:
        where, position, number = wrong[0]
        found.add(
            "episode_order",
            where,
            f"episode_index: expected {position}, found {number} ({len(wrong)} lines in all): episodes count from 0, "
            "one line each; `groot-ros dataset repair` numbers them",
        )
    return list(episodes.values())


def _tasks(lines: Sequence[tuple[str, TaskLine]], found: Findings) -> dict[int, str]:
    tasks: dict[int, str] = {}
    for where, line in lines:
        if not line.task.strip():
            found.add("task_blank", where, "expected the text of a task, found none: write what the robot does")
        elif line.task in tasks.values():
            found.add("task_blank", where, f"expected each task once, found {line.task!r} again: merge the two")
        if line.task_index in tasks:
            found.add("task_unknown", where, f"expected each task_index once, found {line.task_index} again")
        tasks.setdefault(line.task_index, line.task)
    return tasks


def content_counts(contents: Contents, found: Findings) -> None:
    """Compare the totals of info.json with the lines of the other files."""
    info, cameras = contents.info, len(contents.videos)
    episodes = len(contents.episodes)
    expected: dict[str, tuple[Any, Any, bool]] = {}
    if str(paths.EPISODES) not in found.damaged:
        chunks = -(-episodes // info.chunks_size)
        expected["total_episodes"] = (episodes, info.total_episodes, True)
        expected["total_frames"] = (sum(line.length for line in contents.episodes), info.total_frames, True)
        expected["total_videos"] = (episodes * cameras, info.total_videos, False)
        expected["total_chunks"] = (chunks, info.total_chunks, False)
        if info.splits is not None and set(info.splits) == {"train"}:
            expected["splits.train"] = (f"0:{episodes}", info.splits["train"], False)
    if str(paths.TASKS) not in found.damaged:
        expected["total_tasks"] = (len(contents.tasks), info.total_tasks, True)
    for name, (right, said, loaded) in expected.items():
        if said is not None and said != right:
            found.add(
                "count_mismatch",
                f"{paths.INFO}: {name}",
                f"expected {right}, as the files of meta/ say, found {said}: run `groot-ros dataset repair`",
                # Loaders only look at the first three.
                severity=None if loaded else "warning",
            )
