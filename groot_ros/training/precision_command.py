"""``groot-ros precision``: observations of a dataset or a bag, a table, a verdict, and the file that allows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from groot_ros.embodiment.schema import Embodiment
from groot_ros.model.engine.gate import FP8, FP8_WEIGHTS, PRECISIONS, Comparison, GateResult
from groot_ros.observation.types import Observation
from groot_ros.policy.generation import embodiment_for
from groot_ros.policy.precision_gate import Measurement, PrecisionError, write_result
from groot_ros.training.episodes import Episode, TrainingDataset, open_training_dataset
from groot_ros.training.open_loop import RecordedObservations, check_dataset

T = TypeVar("T")
REDUCED = tuple(name for name in PRECISIONS if name in (FP8_WEIGHTS, FP8))


def spread_rows(episodes: Sequence[Episode], count: int) -> list[tuple[int, int]]:
    """Episode and row of up to ``count`` different rows, evenly spread over all rows."""
    ends = np.cumsum([episode.length for episode in episodes])
    total = int(ends[-1])
    count = min(count, total)
    places = ((2 * np.arange(count) + 1) * total) // (2 * count)
    chosen = []
    for place in places.tolist():
        number = int(np.searchsorted(ends, place, side="right"))
        episode = episodes[number]
        chosen.append((episode.index, place - int(ends[number]) + episode.length))
    return chosen


def read_rows(
    dataset: TrainingDataset, rows: Sequence[tuple[int, int]], embodiment: Embodiment, instruction: str | None
) -> list[Observation]:
    """The observations that were recorded there. Raises: DatasetError: a picture cannot be read."""
    sources: dict[int, RecordedObservations] = {}
    found = []
    for index, row in rows:
        if index not in sources:
            sources[index] = RecordedObservations(dataset, dataset.episode(index), embodiment, instruction)
        found.append(sources[index].at(row))
    return found


def dataset_observations(
    dataset: TrainingDataset, embodiment: Embodiment, precision: str, count: int, instruction: str | None
) -> tuple[list[Observation], list[Observation]]:
    """Up to ``count`` that are judged and, for ``fp8``, as many of other episodes for the calibration.

    Evenly spread, both. Of a dataset with one episode they are of its halves.

    Raises:
        DatasetError: a picture cannot be read.
    """
    episodes = dataset.episodes
    if precision == FP8 and len(episodes) > 1:
        judged, calibration = spread_rows(episodes[::2], count), spread_rows(episodes[1::2], count)
    else:
        judged, calibration = parted(spread_rows(episodes, wanted(precision, count)), precision)
    judged_seen, calibration_seen = (
        read_rows(dataset, rows, embodiment, instruction) for rows in (judged, calibration)
    )
    return judged_seen, calibration_seen


def bag_observations(
    bag: Path, embodiment: Embodiment, precision: str, count: int, instruction: str | None
) -> tuple[list[Observation], list[Observation]]:
    """As ``dataset_observations``, of a bag, as the policy node would have had them; for ``fp8`` of its halves.

    Raises:
        BagError: see ``replay``.
        PrecisionError: the bag has not a single one.
    """
    from groot_ros.bags.read import Bag
    from groot_ros.bags.replay import observations

    count = wanted(precision, count)
    with Bag(bag, embodiment) as opened:
        every_s = max(opened.duration_s / (count + 1), embodiment.dt_s)
    seen, refused = observations(bag, embodiment, instruction=instruction, every_s=every_s)
    if not seen:
        reasons = "; ".join(refused.values()) or "the bag has no ticks"
        raise PrecisionError(f"{bag}: expected observations, found none: {reasons}")
    return parted(seen[:count], precision)


def wanted(precision: str, count: int) -> int:
    """How many to take where one recording has both, those that are judged and the others."""
    return 2 * count + 1 if precision == FP8 else count


def parted(seen: Sequence[T], precision: str) -> tuple[list[T], list[T]]:
    """Those that are judged and, for ``fp8``, others for the calibration: scales are judged on observations that they
    were not found on, nor on their neighbours in time. So they are of two halves, and one between them is left out."""
    if precision != FP8:
        return list(seen), []
    half = len(seen) // 2
    return list(seen[: max(half, 1)]), list(seen[-half:] if half else [])


def precision_command(
    checkpoint: str | Path,
    embodiment_name: str,
    precision: str,
    *,
    dataset_path: Path | None,
    bag: Path | None,
    observations: int,
    output: Path | None,
    exclude: Sequence[str],
    instruction: str | None,
    seed: int,
    policy_options: Mapping[str, Any],
    console: Console,
) -> GateResult:
    """Measure ``precision`` for a checkpoint (a directory or a hub id) and a robot, print it, and write the result.

    Args:
        dataset_path, bag: one of them has the observations.
        observations: how many are judged; ``fp8`` takes as many again for its calibration.
        output: the result file; None: where the policy looks for it.
        exclude: patterns of products that stay in the model's precision.
        instruction: in place of the recorded ones.
        policy_options: arguments of ``LocalPolicy``.

    Raises:
        DatasetError, TrainingError, BagError, EmbodimentError, CheckpointError, ProcessorError, PrecisionError,
        ValueError, OSError: each says what to mend.
    """
    if precision not in REDUCED:
        raise PrecisionError(f"--precision {precision}: expected one of {', '.join(REDUCED)}")
    if (dataset_path is None) == (bag is None):
        raise PrecisionError("expected --dataset DIR or --bag BAG, one of them: where your observations are")
    embodiment = embodiment_for(embodiment_name, checkpoint)
    dataset = None
    if dataset_path is not None:
        with console.status(f"looking through {dataset_path}"):
            dataset = open_training_dataset(dataset_path)
        for notice in check_dataset(dataset, embodiment, instruction):
            console.print(f"note: {notice}", markup=False, soft_wrap=True)
    from groot_ros.model.checkpoint import resolve_checkpoint
    from groot_ros.policy.local import LocalPolicy  # imports torch

    with console.status(f"loading {checkpoint}"):
        policy = LocalPolicy(checkpoint, embodiment, graphs=False, **policy_options)
    if policy.engine is None:
        facts = policy.news().engine
        raise PrecisionError(
            f"--precision {precision}: expected the engine, found: {facts.reason if facts else 'none'}"
        )
    with console.status("reading observations"):
        if dataset is not None:
            judged, calibration = dataset_observations(dataset, embodiment, precision, observations, instruction)
        else:
            judged, calibration = bag_observations(Path(bag or ""), embodiment, precision, observations, instruction)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("chunks"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("", total=3 * len(judged) + len(calibration))
        measurement = Measurement(
            policy,
            embodiment,
            precision,
            exclude=exclude,
            seed=seed,
            progress=lambda stage, _done, _all: bar.update(task, advance=1, description=stage),
        )
        comparison = measurement.run(judged, calibration)
    steps = policy_options.get("num_steps") or policy.model.config.num_inference_timesteps
    result = measurement.result(comparison, resolve_checkpoint(checkpoint), str(checkpoint), steps)
    path = write_result(result, output)
    console.print(str(measurement.report), markup=False, soft_wrap=True)
    print_comparison(comparison, result, console)
    console.print(f"result: {path}", soft_wrap=True)
    return result


def print_comparison(comparison: Comparison, result: GateResult, console: Console) -> None:
    """Table and verdict."""
    where = f"{result.machine['device']}, {result.machine['dtype']}, torch {result.machine['torch']}"
    console.print(f"{result.precision} against the model, {comparison.observations} observations; {where}\n")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("action key", no_wrap=True)
    for name in ("cosine", "|d|\n95 %", "|d|\nmax", "noise\n95 %", "noise\nmax", "of range\n|d|, noise"):
        table.add_column(name, justify="right", no_wrap=True)
    for key, numbers in comparison.keys.items():
        physical = (numbers.p95, numbers.largest, numbers.noise_p95, numbers.noise_largest)
        table.add_row(
            f"{key} ({numbers.unit})",
            f"{numbers.cosine:.5f}",
            *(f"{value:.3g}" for value in physical),
            f"{numbers.share_p95:.2%}, {numbers.noise_share_p95:.2%}",
        )
    console.print(table)
    console.print(
        f"\ncosine of all chunks {comparison.cosine:.5f}, of the worst observation {comparison.worst_cosine:.5f}"
    )
    if comparison.passed:
        console.print(f"passed: this checkpoint may run with precision:={result.precision}", style="green")
    for reason in comparison.reasons:
        console.print(f"refused: {reason}", style="red", markup=False, soft_wrap=True)
