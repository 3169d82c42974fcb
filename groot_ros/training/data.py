"""From datasets and a base checkpoint to what the training loop needs, or a refusal before anything is trained."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from groot_ros.embodiment.load import load_embodiment
from groot_ros.embodiment.schema import Embodiment
from groot_ros.model.config import ModelConfig
from groot_ros.processing.config import ProcessorFiles
from groot_ros.processing.processor import Processor
from groot_ros.training.episodes import TrainingDataset, open_training_dataset
from groot_ros.training.errors import TrainingError
from groot_ros.training.flags import FinetuneFlags
from groot_ros.training.frame_cache import FrameCache
from groot_ros.training.robot import Robot, check_recorded, choose_robot
from groot_ros.training.samples import Sample, Samples
from groot_ros.training.schedule import Schedule
from groot_ros.training.statistics import Entry, dataset_statistics, merge, n1d5_modalities, outside
from groot_ros.training.windows import Windows, check_keys, window_counts

Progress = Callable[[int, int], None]

# Whether the datasets' statistics replace those that the checkpoint has for the tag, in the reference's own code.
_OVERRIDES = {"n1d5": True, "n1d6": False, "n1d7": True}
_PROMPTS = 4096  # remembered per process, a few KB each


@dataclass(frozen=True)
class TrainingData:
    """What the training loop needs of the data.

    Attributes:
        dataset: map-style, by the number of a draw.
        schedule: what its draws are; ``schedule.rank_draws`` shares them out.
        collate: samples -> batch.
        processor: encodes samples; with the statistics that the trained checkpoint will have.
        statistics: tag -> statistics of the datasets, for experiment_cfg/dataset_statistics.json.
        summary: datasets, windows, robot: for people and for training.json.
        notices: what a person should know before hours are spent, a sentence each.
    """

    dataset: Samples
    schedule: Schedule
    collate: Callable[[Sequence[Sample]], dict[str, torch.Tensor]]
    processor: Processor
    statistics: dict[str, Any]
    summary: dict[str, Any]
    notices: list[str] = field(default_factory=list)

    @property
    def windows(self) -> int:
        """Draws of one epoch."""
        return self.schedule.epoch_length

    def check_prompts(self, max_tokens: int) -> None:
        """Whether the network takes every instruction. Raises: ProcessorError."""
        for text in self.dataset.windows.texts():
            self.processor.check_instruction(text, max_tokens)

    def write_processor(self, directory: Path) -> None:
        """The processor's files, and the tokenizer's where the base checkpoint has them. Raises: OSError."""
        self.processor.save(directory)


def build_data(flags: FinetuneFlags, base: Path, config: ModelConfig, progress: Progress | None = None) -> TrainingData:
    """Open the datasets, look through them, and prepare their samples.

    Args:
        flags: resolved for the checkpoint's generation.
        base: the checkpoint's directory.
        config: of its network.
        progress: called with videos looked at and in all, per dataset.

    Raises:
        TrainingError, DatasetError, ProcessorError, EmbodimentError: by name, before anything is trained.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive the fork of a worker
    files = ProcessorFiles.read(base)
    generation = files.generation.name
    embodiment = load_embodiment(flags.embodiment, generation) if flags.embodiment else None
    robot = choose_robot(files, embodiment, flags.embodiment_tag, flags.embodiment_id, config.max_num_embodiments)
    datasets = [open_training_dataset(path, progress=progress) for path in flags.dataset_path]
    _check_datasets(datasets, robot, embodiment)
    action = robot.modality["action"].delta_indices
    counts = [window_counts(each, generation, action, flags.allow_padding) for each in datasets]
    schedule = Schedule(
        counts,
        weights=flags.dataset_weights or None,
        seed=flags.seed,
        shard_size=flags.shard_size,
        episode_sampling_rate=flags.episode_sampling_rate,
    )
    entry = _merged_statistics(datasets, robot, generation, schedule)
    notices = _notices(datasets, counts, robot)
    processor = _processor(files, flags, base, robot, datasets[0], entry, notices)
    _check_network(processor, config, base)
    cache = _frame_cache(datasets, processor, flags.frame_cache_gb)
    windows = Windows(datasets, processor, allow_padding=flags.allow_padding, cache=cache)
    _check_prompts(windows, processor)
    samples = Samples(
        windows,
        schedule,
        processor,
        config,
        seed=flags.seed,
        augment=flags.augment,
        state_dropout=(flags.state_dropout_prob or 0.0) if generation == "n1d7" else 0.0,
        noise_draws=flags.noise_draws,
    )
    return TrainingData(
        dataset=samples,
        schedule=schedule,
        collate=samples.collate,
        processor=processor,
        statistics={robot.tag: entry},
        summary=_summary(datasets, counts, schedule, robot, cache),
        notices=notices,
    )


def _check_datasets(datasets: Sequence[TrainingDataset], robot: Robot, embodiment: Embodiment | None) -> None:
    first = datasets[0]
    for dataset in datasets:
        check_keys(dataset, robot.modality, robot.tag)
        if embodiment is not None:
            check_recorded(dataset, embodiment)
        if dataset.fps != first.fps:
            raise TrainingError(
                f"{dataset.root}/meta/info.json: fps: expected {first.fps:g}, that of {first.root}, found "
                f"{dataset.fps:g}: a step of the chunk must last equally long in all datasets"
            )
        for name in ("state", "action"):
            for key in robot.modality[name].modality_keys:
                widths = [each.modality.vectors(name)[key].width for each in (first, dataset)]
                if widths[0] != widths[1]:
                    raise TrainingError(
                        f"{dataset.root}/meta/modality.json: {name}.{key}: expected {widths[0]} numbers, as in "
                        f"{first.root}, found {widths[1]}: datasets of one run are of one robot"
                    )


def _merged_statistics(datasets: Sequence[TrainingDataset], robot: Robot, generation: str, schedule: Schedule) -> Entry:
    later = generation != "n1d5"
    entries = [dataset_statistics(dataset, robot.modality, relative=later) for dataset in datasets]
    return merge(entries, schedule.shares, widest_quantiles=later)


def _processor(
    files: ProcessorFiles,
    flags: FinetuneFlags,
    base: Path,
    robot: Robot,
    dataset: TrainingDataset,
    entry: Entry,
    notices: list[str],
) -> Processor:
    """The processor with the robot in it; adds to ``notices`` whose statistics it has."""
    generation = files.generation.name
    statistics: Mapping[str, Any] = entry
    override = flags.override_pretraining_statistics
    if not (_OVERRIDES[generation] if override is None else override) and robot.tag in files.statistics:
        statistics = files.statistics[robot.tag]
        beyond = outside(statistics, entry)
        more = f"; numbers beyond their range are cut off, in {', '.join(beyond)}" if beyond else ""
        notices.append(
            f"'{robot.tag}' keeps the statistics of the base checkpoint, as GR00T {_name(generation)} does{more}. "
            "--override-pretraining-statistics takes those of the datasets."
        )
    settings: dict[str, Any] = {}
    if generation != "n1d5":
        settings["use_relative_action"] = True  # as the reference's finetuning sets it, whatever the checkpoint says
    if generation == "n1d7":
        settings["state_dropout_prob"] = flags.state_dropout_prob or 0.0
    if flags.random_rotation_angle is not None:
        settings["random_rotation_angle"] = flags.random_rotation_angle
    if flags.color_jitter() is not None:
        settings["color_jitter_params"] = flags.color_jitter()
    trained = files.with_training(
        robot.tag,
        embodiment_id=robot.embodiment_id,
        modality=robot.settings,
        statistics=statistics,
        modalities=n1d5_modalities(dataset, robot.modality) if generation == "n1d5" else {},
        settings=settings,
    )
    processor = Processor.from_checkpoint(base, robot.tag, flags.tokenizer or None, files=trained)
    processor.prompts.capacity = _PROMPTS
    return processor


def _check_network(processor: Processor, config: ModelConfig, base: Path) -> None:
    history = len(processor.modality["state"].delta_indices)
    for what, found, expected in (
        ("state_history_length, the number of delta_indices.state", history, config.state_history_length),
        ("max_state_dim", processor.max_state_dim, config.max_state_dim),
        ("max_action_dim", processor.max_action_dim, config.max_action_dim),
        ("action_horizon (max_action_horizon)", processor.max_action_horizon, config.action_horizon),
    ):
        if found != expected:
            raise TrainingError(
                f"{base / 'config.json'}: {what}: expected {found}, as the processor's files and the robot have it, "
                f"found {expected}: use a checkpoint whose files belong together, or change the robot's delta_indices"
            )


def _frame_cache(datasets: Sequence[TrainingDataset], processor: Processor, gigabytes: float) -> FrameCache | None:
    if gigabytes <= 0:
        return None
    keys = processor.modality["video"].modality_keys
    sizes = [{each.modality.video[key]: each.view_sizes[key] for key in keys} for each in datasets]
    return FrameCache([each.total_rows for each in datasets], sizes, int(gigabytes * 1e9))


def _check_prompts(windows: Windows, processor: Processor) -> None:
    """Views and instructions, as the first sample of each would find them."""
    keys = processor.modality["video"].modality_keys
    for dataset in windows.datasets:
        processor.check_views({key: dataset.view_sizes[key] for key in keys})
    for text in windows.texts():
        processor.check_instruction(text, 1 << 30)


def _notices(datasets: Sequence[TrainingDataset], counts: Sequence[Sequence[int]], robot: Robot) -> list[str]:
    found = []
    if not robot.known:
        found.append(
            f"'{robot.tag}' is new to the checkpoint: it gets projector {robot.embodiment_id}, which no robot of the "
            "checkpoint uses."
        )
    for dataset, own in zip(datasets, counts):
        short = sum(count == 0 for count in own)
        if short:
            found.append(f"{dataset.root}: {short} of {len(own)} episodes are shorter than a chunk of actions: unused.")
    return found


def _summary(
    datasets: Sequence[TrainingDataset],
    counts: Sequence[Sequence[int]],
    schedule: Schedule,
    robot: Robot,
    cache: FrameCache | None,
) -> dict[str, Any]:
    return {
        "embodiment_tag": robot.tag,
        "embodiment_id": robot.embodiment_id,
        "horizon": len(robot.modality["action"].delta_indices),
        "fps": datasets[0].fps,
        "windows": schedule.epoch_length,
        "cached_frames": 0.0 if cache is None else cache.share,
        "datasets": [
            {
                "path": str(dataset.root),
                "version": dataset.version,
                "episodes": len(dataset.episodes),
                "rows": dataset.total_rows,
                "windows": sum(own),
                "share": share,
            }
            for dataset, own, share in zip(datasets, counts, schedule.shares)
        ],
    }


def _name(generation: str) -> str:
    """``N1.6`` of ``n1d6``."""
    return generation.upper().replace("D", ".")
