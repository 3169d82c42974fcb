"""From datasets and a base checkpoint to what the training loop needs, or a refusal before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from groot_ros.embodiment.schema import Embodiment
from groot_ros.processing.processor import Processor
from groot_ros.training.samples import Sample, Samples
from groot_ros.training.schedule import Schedule

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class DataOptions:
    """What a run says about its data.

    Attributes:
        datasets: folders, v2.0, v2.1 or v3.0.
        weights: share of each dataset in any unit; None: as many samples as it has windows.
        embodiment: the robot; None: the checkpoint's own modality configuration of ``embodiment_tag``.
        embodiment_tag: None: the embodiment's.
        embodiment_id: projector of a tag that the checkpoint does not know; None: its own, or NVIDIA's.
        allow_padding: N1.6 and N1.7: also windows that reach beyond the end of an episode.
        override_statistics: the datasets' statistics in place of those that the checkpoint has for the tag; None: as
            the generation's own code does (N1.6: no, N1.5 and N1.7: yes).
        state_dropout_prob: N1.7: its processor's dropout; None: none.
        random_rotation_angle, color_jitter_params: in place of the checkpoint's; None: the checkpoint's.
        augment: training's image transforms.
        frame_cache_gb: memory for decoded pictures, shared by the workers of this process.
        noise_draws: noises and times per sample.
        jobs: threads that look through the videos at the beginning; None: one per processor.
    """

    datasets: Sequence[Path]
    weights: Sequence[float] | None = None
    embodiment: Embodiment | None = None
    embodiment_tag: str | None = None
    embodiment_id: int | None = None
    allow_padding: bool = False
    override_statistics: bool | None = None
    state_dropout_prob: float | None = None
    random_rotation_angle: int | None = None
    color_jitter_params: Mapping[str, float] | None = None
    augment: bool = True
    seed: int = 42
    shard_size: int = 1024
    episode_sampling_rate: float = 0.1
    frame_cache_gb: float = 2.0
    noise_draws: int = 1
    jobs: int | None = None


@dataclass(frozen=True)
class TrainingData:
    """What the training loop needs of the data.

    Attributes:
        dataset: map-style, by the number of a draw.
        schedule: its draws; ``schedule.rank_draws``.
        collate: samples -> batch.
        processor: encodes samples; with the statistics that the trained checkpoint will have.
        statistics: statistics.json's entry of the tag, as made from the datasets (experiment_cfg/dataset_statistics).
        notices: what a person should read before training, one sentence each.
    """

    dataset: Samples
    schedule: Schedule
    collate: Callable[[Sequence[Sample]], dict[str, torch.Tensor]]
    processor: Processor
    statistics: dict[str, Any]
    notices: list[str] = field(default_factory=list)

    def write_processor(self, directory: Path) -> None:
        """The processor's files, tokenizer included, in NVIDIA's layout."""
        raise NotImplementedError


def build_data(base: Path, options: DataOptions, progress: Progress | None = None) -> TrainingData:
    """Open, check, and prepare.

    Args:
        base: local checkpoint directory.
        progress: called with videos looked at and in all.

    Raises:
        TrainingError, DatasetError, ProcessorError: before anything is trained, by name.
    """
    raise NotImplementedError
