"""Windows: the observation of a row and the chunk of actions that begins there, raw, as each generation takes them.

| generation | rows that begin a window | beyond an episode's end |
|---|---|---|
| N1.6, N1.7 | those with the whole chunk inside; ``allow_padding``: all | the last value again |
| N1.5 | all | the last value again; zeros where modality.json says ``absolute: false`` |

What lies before an episode's first row is its first row again (N1.5, ``absolute: false``: zeros). NVIDIA's N1.6 and
N1.7 count a negative delta from the episode's *end* there (pandas' ``iloc``), so that the first windows of DROID, whose
video has a delta of -15, show how the episode ends; that is not followed.

Padding counts as real: ``action_mask`` is 1 on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groot_ros.processing.modality import ModalityConfig
from groot_ros.processing.processor import Processor
from groot_ros.training.episodes import TASK, Episode, TrainingDataset
from groot_ros.training.errors import TrainingError
from groot_ros.training.frame_cache import FrameCache
from groot_ros.training.slices import Slice
from groot_ros.training.video_index import Pictures

Floats = NDArray[np.float32]
Window = tuple[int, int, int]
"""(dataset, episode, row): all count from 0, episodes in the order of ``TrainingDataset.episodes``."""

_EVERY_ROW = {"n1d5": True, "n1d6": False, "n1d7": False}


@dataclass(frozen=True)
class RawSample:
    """A window before the processor.

    Attributes:
        video: key -> uint8 [T, H, W, 3] RGB.
        state: key -> float32 [T, D], in the dataset's units.
        action: key -> float32 [H, D], absolute, in the dataset's units.
        instruction: what the robot was told in the window's row.
    """

    video: dict[str, Pictures]
    state: dict[str, Floats]
    action: dict[str, Floats]
    instruction: str


def window_counts(
    dataset: TrainingDataset, generation: str, action_deltas: Sequence[int], allow_padding: bool
) -> list[int]:
    """Windows of each episode; they begin in its first rows.

    Raises:
        TrainingError: no episode has any.
    """
    every_row = _EVERY_ROW[generation] or allow_padding
    beyond = 0 if every_row else max(0, *action_deltas)
    counts = [max(0, episode.length - beyond) for episode in dataset.episodes]
    if not any(counts):
        longest = max(episode.length for episode in dataset.episodes)
        raise TrainingError(
            f"{dataset.root}: expected an episode of at least {beyond + 1} rows, the length of a chunk of actions, the "
            f"longest has {longest}: record longer episodes, shorten delta_indices.action in the robot's YAML, or give "
            "--allow-padding"
        )
    return counts


def check_keys(dataset: TrainingDataset, modality: Mapping[str, ModalityConfig], tag: str) -> None:
    """Whether a dataset has what a robot's modality configuration names.

    Raises:
        TrainingError, DatasetError: it lacks a camera, a key of state or action, or the language key.
    """
    parts: dict[str, Mapping[str, object]] = {
        "video": dataset.modality.video,
        "state": dataset.modality.state,
        "action": dataset.modality.action,
    }
    for name, found in parts.items():
        expected = modality[name].modality_keys
        if any(key not in found for key in expected):
            raise TrainingError(
                f"{dataset.root}/meta/modality.json: {name}: expected the keys {', '.join(expected)} of '{tag}', found "
                f"{', '.join(found) or 'none'}: name the robot that was recorded (--embodiment, --embodiment-tag)"
            )
    language = modality["language"].modality_keys[0]
    for episode in dataset.episodes:
        if not dataset.instructions(episode, language):
            raise TrainingError(f"{dataset.root}: episode {episode.index}: expected a task, found none in the metadata")


class Windows:
    """All windows of several datasets of one robot, for one processor.

    Attributes:
        datasets: in the order of the windows' numbers.
        counts: per dataset, per episode: windows, which begin in its first rows.
        chooses: the language key is ``task``, so that an instruction is any of its episode's.
        cache: of decoded pictures; None: every picture is decoded.
    """

    def __init__(
        self,
        datasets: Sequence[TrainingDataset],
        processor: Processor,
        *,
        allow_padding: bool = False,
        cache: FrameCache | None = None,
    ) -> None:
        """
        Raises:
            TrainingError, DatasetError: a dataset lacks a key, its widths are others than the processor's, or it has no
                window.
        """
        self.datasets, self.cache = list(datasets), cache
        self._modality = {name: config.delta_indices for name, config in processor.modality.items()}
        self._keys = {name: config.modality_keys for name, config in processor.modality.items()}
        self._language = self._keys["language"][0]
        self.chooses = self._language == TASK
        self._pads_with_zeros = processor.generation == "n1d5"
        for dataset in self.datasets:
            self._check(dataset, processor)
        action = self._modality["action"]
        self.counts = [window_counts(each, processor.generation, action, allow_padding) for each in self.datasets]

    def texts(self) -> list[str]:
        """All instructions that a window can have, each once."""
        found: dict[str, None] = {}
        for dataset in self.datasets:
            for episode in dataset.episodes:
                found.update(dict.fromkeys(dataset.instructions(episode, self._language)))
        return list(found)

    def raw(self, window: Window, random: np.random.Generator | None = None) -> RawSample:
        """The window's pictures and numbers.

        Args:
            random: chooses among the tasks of an episode, where ``chooses`` is true; None: the first.

        Raises:
            DatasetError: a picture cannot be decoded.
        """
        number, place, row = window
        dataset = self.datasets[number]
        episode = dataset.episodes[place]
        return RawSample(
            video={key: self._pictures(number, episode, key, row) for key in self._keys["video"]},
            state={key: self._vector(dataset, episode, "state", key, row) for key in self._keys["state"]},
            action={key: self._vector(dataset, episode, "action", key, row) for key in self._keys["action"]},
            instruction=dataset.instruction(episode, row, self._language, random),
        )

    def _vector(self, dataset: TrainingDataset, episode: Episode, modality: str, key: str, row: int) -> Floats:
        values = dataset.vector(episode, modality, key)
        rows = row + np.asarray(self._modality[modality])
        inside = np.clip(rows, 0, episode.length - 1)
        found = values[inside]
        if self._pads_with_zeros and not dataset.modality.vectors(modality)[key].absolute:
            found[rows != inside] = 0
        return found

    def _pictures(self, number: int, episode: Episode, key: str, row: int) -> Pictures:
        dataset = self.datasets[number]
        feature = dataset.modality.video[key]
        rows = np.clip(row + np.asarray(self._modality["video"]), 0, episode.length - 1).tolist()
        if self.cache is None:
            return dataset.frames(episode.index, feature, rows)
        known = {row: self.cache.get(number, feature, episode.start + row) for row in rows}
        missing = sorted(row for row, picture in known.items() if picture is None)
        if missing:
            for row, picture in zip(missing, dataset.frames(episode.index, feature, missing)):
                known[row] = picture
                self.cache.put(number, feature, episode.start + row, picture)
        return np.stack([picture for row in rows if (picture := known[row]) is not None])

    def _check(self, dataset: TrainingDataset, processor: Processor) -> None:
        check_keys(dataset, processor.modality, processor.embodiment_tag)
        for name, widths in (("state", processor.state_dims), ("action", processor.action_dims)):
            slices: Mapping[str, Slice] = dataset.modality.vectors(name)
            for key, width in widths.items():
                if slices[key].width != width:
                    raise TrainingError(
                        f"{dataset.root}/meta/modality.json: {name}.{key}: expected {width} numbers, as the statistics "
                        f"of '{processor.embodiment_tag}' have, found {slices[key].width}: name the robot that was "
                        "recorded, or give --override-pretraining-statistics"
                    )
