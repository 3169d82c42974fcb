"""``groot-ros replay``: a bag, a checkpoint, a progress bar, a table and a JSON report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from groot_ros.bags.read import Bag
from groot_ros.bags.replay import replay
from groot_ros.bags.report import JointError, ReplayReport
from groot_ros.bags.topics import BagError
from groot_ros.policy.generation import embodiment_for


def replay_command(
    bag: Path,
    checkpoint: str | Path,
    embodiment_name: str,
    report_path: Path,
    *,
    instruction: str | None,
    policy_options: Mapping[str, Any],
    seed: int,
    console: Console,
) -> None:
    """Replay ``bag`` through ``checkpoint`` (a directory or a hub id), print a summary and write ``report_path``.

    Args:
        policy_options: arguments of ``LocalPolicy``.

    Raises:
        BagError, EmbodimentError, CheckpointError, ProcessorError, ValueError, OSError: each says what to mend.
    """
    from groot_ros.policy.local import LocalPolicy  # imports torch

    if not bag.expanduser().exists():
        raise BagError(f"no bag at {bag}: no such file or folder")
    embodiment = embodiment_for(embodiment_name, checkpoint)
    with Bag(bag, embodiment):
        pass  # a bad bag is told before the checkpoint is loaded
    if not report_path.parent.is_dir():
        raise FileNotFoundError(f"--report {report_path}: there is no folder {report_path.parent}")
    with console.status(f"loading {checkpoint}"):
        policy = LocalPolicy(checkpoint, embodiment, **policy_options)
        policy.warm_up()
    notices = policy.news().notices
    _print_notices(notices, console)
    columns = (TextColumn("replaying"), BarColumn(), TextColumn("{task.completed:.0f} of {task.total:.0f} s"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("replay")

        def progress(done_s: float, total_s: float) -> None:
            bar.update(task, completed=done_s, total=total_s)

        report = replay(bag, embodiment, policy, instruction=instruction, seed=seed, progress=progress)
    later = policy.news().notices
    report = replace(report, notices=[*notices, *later])
    report.to_json(report_path)
    _print(report, console)
    _print_notices(later, console)
    console.print(f"report: {report_path}", soft_wrap=True)


def _print_notices(notices: Sequence[str], console: Console) -> None:
    for notice in notices:
        console.print(notice, markup=False, soft_wrap=True)


def _print(report: ReplayReport, console: Console) -> None:
    title = f"{report.bag}, {report.duration_s:.1f} s; ages at the tick in ms"
    streams = Table(title=title, title_justify="left")
    streams.add_column("topic", overflow="fold")
    for name in ("messages", "rejected", "Hz", "age p50", "p95", "max"):
        streams.add_column(name, justify="right")
    for stream in report.streams.values():
        rate = "-" if stream.rate_hz is None else f"{stream.rate_hz:.1f}"
        ages = [_ms(stream.age_s.p50), _ms(stream.age_s.p95), _ms(stream.age_s.max)]
        streams.add_row(stream.topic, str(stream.messages), str(sum(stream.rejected.values())), rate, *ages)
    console.print(streams)
    refused = ", ".join(f"{reason} {count}" for reason, count in report.refused.items()) or "none"
    console.print(
        f"ticks {report.ticks}, every {report.every_s:.3f} s; chunks {len(report.chunks)}; refused: {refused}"
    )
    for reason, message in report.refusal_messages.items():
        console.print(f"  {reason}: {message}", markup=False, soft_wrap=True)
    console.print(f"latency p50 {_ms(report.latency_s.p50)} ms, p95 {_ms(report.latency_s.p95)} ms")
    _print_errors("recorded commands", report.command_errors, console)
    _print_errors("recorded joint states", report.state_errors, console)


def _print_errors(what: str, errors: list[JointError], console: Console) -> None:
    if not errors:
        console.print(f"no {what} to compare with")
        return
    table = Table(title=f"prediction minus {what}, {errors[0].count} points", title_justify="left")
    for name in ("joint", "unit", "mean |e|", "p95 |e|", "max |e|"):
        table.add_column(name, justify="left" if name in ("joint", "unit") else "right")
    for error in errors:
        numbers = [f"{value:.4f}" for value in (error.mean_abs, error.p95_abs, error.max_abs)]
        table.add_row(error.joint, error.unit, *numbers)
    console.print(table)


def _ms(value_s: float | None) -> str:
    return "-" if value_s is None else f"{1e3 * value_s:.1f}"
