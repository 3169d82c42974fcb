"""``groot-ros open-loop``: a dataset, a checkpoint, a table, a JSON report and a picture per episode."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from groot_ros.dataset.edit import parse_episodes
from groot_ros.embodiment.schema import Embodiment
from groot_ros.policy.generation import embodiment_for
from groot_ros.training.episodes import TrainingDataset, open_training_dataset
from groot_ros.training.open_loop import Options, check_dataset, check_execution_horizon, columns_of, run_episode
from groot_ros.training.open_loop_report import OpenLoopReport

if TYPE_CHECKING:
    from groot_ros.policy.local import LocalPolicy

REPORT = "report.json"


def open_loop_command(
    dataset_path: Path,
    checkpoint: str | Path,
    embodiment_name: str,
    output: Path,
    *,
    episodes: str,
    execution_horizon: int | None,
    options: Mapping[str, Any],
    policy_options: Mapping[str, Any],
    console: Console,
) -> OpenLoopReport:
    """Evaluate ``checkpoint`` (a directory or a hub id), print a summary, and write ``output``: a folder, made if new.

    Args:
        episodes: numbers and ranges; empty: the first five.
        execution_horizon: None: half a chunk.
        options: the other members of ``Options``.
        policy_options: arguments of ``LocalPolicy``.

    Raises:
        DatasetError, TrainingError, EmbodimentError, CheckpointError, ProcessorError, ValueError, OSError: each says
            what to mend.
    """
    embodiment = embodiment_for(embodiment_name, checkpoint)
    horizon = max(1, embodiment.horizon // 2) if execution_horizon is None else execution_horizon
    check_execution_horizon(embodiment, horizon)
    with console.status(f"looking through {dataset_path}"):
        dataset = open_training_dataset(dataset_path)
    # Whatever does not fit is told before the checkpoint is loaded.
    notices = check_dataset(dataset, embodiment, options.get("instruction"))
    chosen = [dataset.episode(index).index for index in parse_episodes(episodes)] if episodes else _first(dataset)
    output.mkdir(parents=True, exist_ok=True)
    from groot_ros.policy.local import LocalPolicy  # imports torch

    with console.status(f"loading {checkpoint}"):
        policy = LocalPolicy(checkpoint, embodiment, **policy_options)
    notices = [*notices, *policy.news().notices]
    choice = Options(execution_horizon=horizon, **options)
    report = OpenLoopReport(
        dataset=str(dataset.root),
        checkpoint=str(checkpoint),
        embodiment=embodiment.name,
        fps=dataset.fps,
        execution_horizon=horizon,
        seed=choice.seed,
        columns=columns_of(embodiment),
        runs=[],
        notices=notices,
    )
    _evaluate(report, dataset, chosen, embodiment, policy, choice, output, console)
    _print(report, console)
    console.print(f"report and pictures: {output / REPORT}", soft_wrap=True)
    return report


def _evaluate(
    report: OpenLoopReport,
    dataset: TrainingDataset,
    episodes: list[int],
    embodiment: Embodiment,
    policy: LocalPolicy,
    options: Options,
    output: Path,
    console: Console,
) -> None:
    """Run ``episodes`` with a progress bar into ``report``, and write it and the pictures."""
    from groot_ros.training.open_loop_picture import draw_episode  # imports matplotlib

    lengths = [dataset.episode(index).length for index in episodes]
    rows = [length if options.steps is None else min(length, options.steps) for length in lengths]
    bar_columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("rows"))
    with Progress(*bar_columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("", total=sum(rows))
        for number, index in enumerate(episodes):
            done = sum(rows[:number])
            bar.update(task, completed=done, description=f"episode {index}")
            run = run_episode(
                dataset,
                dataset.episode(index),
                embodiment,
                policy,
                options,
                progress=lambda row, _, done=done: bar.update(task, completed=done + row),  # type: ignore[misc]
            )
            picture = output / f"episode_{index:06d}.png"
            draw_episode(report, run, picture)
            report.runs.append(run)
            report.notices.extend(policy.news().notices)
            report.pictures[index] = picture.name
            report.to_json(output / REPORT)  # what was measured stays when the next episode is interrupted


def _first(dataset: TrainingDataset) -> list[int]:
    return [episode.index for episode in dataset.episodes[:5]]


def _print(report: OpenLoopReport, console: Console) -> None:
    for notice in report.notices:
        console.print(f"note: {notice}", style="yellow", markup=False, soft_wrap=True)
    title = (
        f"prediction minus recording, {sum(len(run.predicted) for run in report.runs)} rows of {len(report.runs)} "
        f"episodes, {report.execution_horizon} per chunk"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("key, joint", overflow="fold")
    table.add_column("unit")
    for name in ("MSE", "mean |e|", "max |e|", "kept still"):
        table.add_column(name, justify="right")
    errors = report.column_errors()
    for key, mean in report.key_errors().items():
        table.add_row(key, "", *_digits(mean.mse, mean.mae), "", *_digits(mean.held_mae), style="bold")
        for error in (error for error in errors if error.key == key):
            numbers = _digits(error.mse, error.mae, error.max_abs, error.held_mae)
            table.add_row(f"  {error.name}", error.unit, *numbers)
    table.add_section()
    mean = report.mean_error()
    table.add_row("all", "", *_digits(mean.mse, mean.mae), "", *_digits(mean.held_mae))
    console.print(table)
    latency = report.latency_s
    if latency.p50 is not None and latency.p95 is not None:
        console.print(f"latency p50 {1e3 * latency.p50:.1f} ms, p95 {1e3 * latency.p95:.1f} ms")


def _digits(*values: float) -> list[str]:
    return [f"{value:.3g}" for value in values]
