"""Open loop: a policy is shown recorded observations, and its chunks are compared with what was recorded.

As NVIDIA's open_loop_eval does: a prediction every ``execution_horizon`` rows, of which as many rows count; the policy
never sees what its own actions would have led to. It tells whether a policy reproduces its data, not whether it
succeeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groot_ros.embodiment.load import dotted, where
from groot_ros.embodiment.schema import Embodiment
from groot_ros.observation.types import Observation
from groot_ros.policy.ahead import Prepared, TwoSteps, ahead
from groot_ros.policy.base import Policy
from groot_ros.training.episodes import TASK, Episode, TrainingDataset
from groot_ros.training.errors import TrainingError

Floats = NDArray[np.float64]
Progress = Callable[[int, int], None]

# Rates are written with few digits (29.97 as 30).
_RATE_TOLERANCE = 0.01


@dataclass(frozen=True)
class Column:
    """A number of the actions: key, joint or field, and unit."""

    key: str
    name: str
    unit: str


@dataclass(frozen=True)
class Options:
    """How a policy is evaluated.

    Attributes:
        execution_horizon: rows of each chunk that count, 1 to the chunk's length; then comes the next observation.
        steps: at most so many rows of an episode; None: all.
        instruction: in place of the recorded ones.
        seed: each chunk's noise is drawn by seed, episode and row.
    """

    execution_horizon: int
    steps: int | None = None
    instruction: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class EpisodeRun:
    """What was predicted for an episode, in the order of ``columns_of``.

    Attributes:
        index: its number in the dataset.
        instructions: what the policy was told, in order, each change once.
        starts: rows of the observations, one per chunk.
        predicted: float64 [rows, A], in the units of the training data; row ``i`` is of the last chunk before.
        recorded: float64 [rows, A].
        held: float64 [rows, A], what the comparison is worth: the last action recorded before the observation.
        latencies_s: wall time of ``act`` per chunk; the host works on the next observation beside the inference.
    """

    index: int
    instructions: tuple[str, ...]
    starts: tuple[int, ...]
    predicted: Floats
    recorded: Floats
    held: Floats
    latencies_s: tuple[float, ...]


def columns_of(embodiment: Embodiment) -> list[Column]:
    """The numbers of the actions, key after key."""
    return [Column(key, name, spec.unit) for key, spec in embodiment.action.items() for name in spec.names]


def check_dataset(dataset: TrainingDataset, embodiment: Embodiment, instruction: str | None = None) -> list[str]:
    """Is the dataset one of this robot?

    Args:
        instruction: in place of the recorded ones, which are then not asked for.

    Returns: what a person should know, one sentence each.

    Raises:
        TrainingError: another frame rate, a key of another width, or an episode without a task.
        DatasetError: a key or the annotation is missing.
    """
    info = dataset.root / "meta" / "info.json"
    if abs(dataset.fps - embodiment.step_hz) > _RATE_TOLERANCE * embodiment.step_hz:
        place = f"{where(embodiment, ('step_hz',))}: {dotted(embodiment, ('step_hz',))}"
        raise TrainingError(
            f"{info}: fps: expected {embodiment.step_hz:g} rows per second as {place} says, found {dataset.fps:g}: use "
            "the YAML with which it was recorded"
        )
    first = dataset.episodes[0]
    if instruction is None:
        _check_tasks(dataset, embodiment.language.key)
    for key, state in embodiment.state.items():
        _check_names(dataset, first, "state", key, state.names)
    for key, action in embodiment.action.items():
        _check_names(dataset, first, "action", key, action.names)
    notices = []
    if dataset.robot_type != embodiment.name:
        notices.append(f"the dataset is of the robot {dataset.robot_type}, the YAML is {embodiment.name}'s")
    for key, view in embodiment.video.items():
        camera = embodiment.cameras[view.camera]
        if key not in dataset.view_sizes:
            names = ", ".join(dataset.view_sizes) or "none"
            raise TrainingError(
                f"{dataset.root / 'meta' / 'modality.json'}: video: expected the key '{key}', found {names}"
            )
        size = dataset.view_sizes[key]
        if size != (camera.height, camera.width):
            notices.append(
                f"{key}: the dataset has pictures of {size[1]}x{size[0]} px, the robot's camera {camera.width}x"
                f"{camera.height}"
            )
    return notices


def _check_tasks(dataset: TrainingDataset, language: str) -> None:
    """Every episode has what the policy is told."""
    for episode in dataset.episodes:
        if not all(dataset.instructions(episode, language) or [""]):
            raise TrainingError(
                f"{dataset.root}: episode {episode.index}: expected a task, found none in the metadata: "
                "`groot-ros dataset repair` says what can be mended, or give --instruction"
            )


def _check_names(dataset: TrainingDataset, episode: Episode, modality: str, key: str, names: list[str]) -> None:
    """As many numbers as the YAML has, and not its joints in another order."""
    found = dataset.vector(episode, modality, key).shape[1]
    if found != len(names):
        raise TrainingError(
            f"{dataset.root / 'meta' / 'modality.json'}: {modality}.{key}: expected {len(names)} numbers "
            f"({', '.join(names)}), found {found}: use the YAML with which it was recorded"
        )
    part = dataset.modality.vectors(modality)[key]
    said = dataset.features[part.column].get("names")
    if not isinstance(said, list):
        return
    order = [str(name).removeprefix(f"{key}.") for name in said[part.start : part.end]]
    if sorted(order) == sorted(names) and order != names:
        raise TrainingError(
            f"{dataset.root / 'meta' / 'info.json'}: features.{part.column}.names: expected the YAML's order of "
            f"{modality}.{key}, {', '.join(names)}, found {', '.join(order)}: use the YAML with which it was recorded"
        )


def check_execution_horizon(embodiment: Embodiment, rows: int) -> None:
    """Raises: TrainingError where a chunk has fewer rows."""
    if not 1 <= rows <= embodiment.horizon:
        raise TrainingError(
            f"--execution-horizon: expected 1 to {embodiment.horizon}, the rows of a chunk, found {rows}"
        )


def run_episode(
    dataset: TrainingDataset,
    episode: Episode,
    embodiment: Embodiment,
    policy: Policy,
    options: Options,
    progress: Progress | None = None,
) -> EpisodeRun:
    """Predict an episode chunk by chunk; pictures are decoded and encoded in another thread, one observation ahead.

    Args:
        progress: called with rows done and in all.

    Raises:
        TrainingError: ``options.execution_horizon`` is out of range.
        DatasetError: a picture cannot be read.
        ProcessorError: the policy refuses an observation.
    """
    execution_horizon = options.execution_horizon
    check_execution_horizon(embodiment, execution_horizon)
    rows = episode.length if options.steps is None else min(options.steps, episode.length)
    recorded = np.concatenate(
        [dataset.vector(episode, "action", key).astype(np.float64) for key in embodiment.action], axis=1
    )
    predicted, held = np.full((rows, recorded.shape[1]), np.nan), np.empty((rows, recorded.shape[1]))
    source = RecordedObservations(dataset, episode, embodiment, options.instruction)
    starts = range(0, rows, execution_horizon)
    told: list[str] = []
    latencies = []
    steps = TwoSteps(policy)

    def prepare() -> Iterator[tuple[int, Prepared]]:
        for row in starts:
            yield row, steps.prepare(source.at(row))

    with closing(ahead(prepare)) as prepared:
        for row, item in prepared:
            begin = time.perf_counter()
            chunk = steps.act(item, seed=_noise_seed(options.seed, episode.index, row))
            latencies.append(item.seconds + time.perf_counter() - begin)
            end = min(row + execution_horizon, rows)
            predicted[row:end] = _joined(chunk.actions, embodiment)[: end - row]
            held[row:end] = recorded[max(row - 1, 0)]
            if not told or told[-1] != item.observation.instruction:
                told.append(item.observation.instruction)
            if progress is not None:
                progress(end, rows)
    return EpisodeRun(episode.index, tuple(told), tuple(starts), predicted, recorded[:rows], held, tuple(latencies))


def _noise_seed(seed: int, episode: int, row: int) -> int:
    return int(np.random.default_rng((seed, episode, row)).integers(2**31))


def _joined(actions: Mapping[str, NDArray[np.float32]], embodiment: Embodiment) -> Floats:
    return np.concatenate([np.asarray(actions[key], dtype=np.float64) for key in embodiment.action], axis=1)


class RecordedObservations:
    """The recorded observations of an episode; history before its beginning is its first row."""

    def __init__(
        self, dataset: TrainingDataset, episode: Episode, embodiment: Embodiment, instruction: str | None
    ) -> None:
        self._dataset, self._episode, self._embodiment = dataset, episode, embodiment
        self._state = {key: dataset.vector(episode, "state", key) for key in embodiment.state}
        if instruction is not None:
            self._texts: Sequence[str] = [instruction] * episode.length
        else:
            self._texts = dataset.instructions(episode, embodiment.language.key)
            if embodiment.language.key == TASK:  # those of the episode, not of its rows
                self._texts = [self._texts[0]] * episode.length

    def at(self, row: int) -> Observation:
        deltas = self._embodiment.delta_indices
        pictures = [max(0, row + delta) for delta in deltas.video]
        states = [max(0, row + delta) for delta in deltas.state]
        return Observation(
            stamp_ns=round(row * 1e9 / self._dataset.fps),
            video={key: self._dataset.frames(self._episode.index, key, pictures) for key in self._embodiment.video},
            state={key: values[states] for key, values in self._state.items()},
            instruction=self._texts[row],
            sample_stamps_ns={},
            ages_s={},
        )
