"""``groot-ros benchmark policy|sampler|preprocess``: what runs on a bare machine too, here with a bar and tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable

from groot_ros.embodiment.load import load_embodiment
from groot_ros.embodiment.modality import modality_configs
from groot_ros.embodiment.untrained import metadata_modalities, statistics
from groot_ros.model.benchmark.host import host_line
from groot_ros.model.benchmark.options import check_output
from groot_ros.model.benchmark.policy import PolicySettings, measure_policy
from groot_ros.model.benchmark.robots import Robot
from groot_ros.model.benchmark.sampler import SamplerSettings, measure_sampler, too_slow
from groot_ros.model.benchmark.tables import Table, policy_tables, sampler_tables
from groot_ros.policy.generation import checkpoint_generation
from groot_ros.processing.benchmark import measure_preprocess, preprocess_report, preprocess_table


def run_policy_benchmark(settings: PolicySettings, output: Path | None, console: Console) -> None:
    """Measure, print tables and host, write JSON to ``output``.

    Raises:
        ValueError: see ``measure_policy``.
        OSError: ``output`` cannot be written, which is known before anything is measured.
    """
    check_output(output)
    with _bar(console) as tell:
        report = measure_policy(settings, tell)
    hand_out(report, policy_tables(report), output)


def run_sampler_benchmark(
    settings: SamplerSettings, min_ratio: float | None, output: Path | None, console: Console
) -> bool:
    """As ``run_policy_benchmark``; False: a median ratio is lower than ``min_ratio``, which is said.

    Raises:
        ValueError: see ``measure_sampler``.
        OSError: ``output`` cannot be written, which is known before anything is measured.
    """
    check_output(output)
    with _bar(console) as tell:
        report = measure_sampler(settings, tell)
    hand_out(report, sampler_tables(report), output)
    slow = [] if min_ratio is None else too_slow(report, min_ratio)
    for line in slow:
        console.print(line, style="red", markup=False, soft_wrap=True)
    return not slow


def run_preprocess_benchmark(
    generations: Sequence[str],
    cameras: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    *,
    threads: Sequence[int],
    devices: Sequence[str],
    repeats: int,
    warmup: int,
    output: Path | None,
    console: Console,
) -> None:
    """As ``run_policy_benchmark``, for ``measure_preprocess``.

    Raises:
        ValueError: see ``measure_preprocess``.
        OSError: ``output`` cannot be written, which is known before anything is measured.
    """
    check_output(output)
    with _bar(console) as tell:
        rows = measure_preprocess(
            generations, cameras, sizes, repeats, threads=threads, devices=devices, warmup=warmup, tell=tell
        )
    report = preprocess_report(rows, devices=devices, repeats=repeats, warmup=warmup)
    hand_out(report, [preprocess_table(rows)], output)


def robots_of(embodiment_name: str, generations: Sequence[str], checkpoint: str | None) -> dict[str, Robot]:
    """What the YAML of a robot says, for each generation, or for that of a checkpoint.

    Raises:
        EmbodimentError: the YAML is refused, or has not one of the generations.
        CheckpointError, ConfigError: there is no such checkpoint.
    """
    if checkpoint is not None:
        generations = [checkpoint_generation(checkpoint)]
    return {generation: _robot(embodiment_name, generation) for generation in generations}


def _robot(embodiment_name: str, generation: str) -> Robot:
    embodiment = load_embodiment(embodiment_name, generation)
    tag = embodiment.embodiment_tag
    cameras = {key: embodiment.cameras[spec.camera] for key, spec in embodiment.video.items()}
    return Robot(
        tag=tag,
        modality=modality_configs(embodiment, generation)[tag],
        statistics=statistics(embodiment, generation),
        modalities=metadata_modalities(embodiment),
        views={key: (camera.height, camera.width) for key, camera in cameras.items()},
    )


def hand_out(report: dict[str, Any], tables: Sequence[Table], output: Path | None) -> None:
    """Print tables and host; write the report."""
    # As wide as the tables: a cell that is cut says nothing.
    out = Console(highlight=False, width=max([Console().width, *(_width(table) for table in tables)]))
    for table in tables:
        if table.rows:
            out.print(drawn(table))
        else:
            out.print(table.title, markup=False, soft_wrap=True)
        for note in table.notes:
            out.print(note, markup=False, soft_wrap=True)
        out.print()
    out.print(host_line(report["host"]), markup=False, soft_wrap=True)
    if output is not None:
        output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        out.print(f"report: {output}", markup=False)


def drawn(table: Table) -> RichTable:
    """A table with lines; the first column is words."""
    found = RichTable(title=table.title, title_justify="left")
    for i, name in enumerate(table.columns):
        found.add_column(name, justify="left" if i == 0 else "right", no_wrap=True)
    for row in table.rows:
        found.add_row(*row)
    return found


def _width(table: Table) -> int:
    """Columns of characters that a drawn table takes."""
    if not table.rows:
        return 0
    lines = [table.columns, *table.rows]
    return sum(max(len(line[i]) for line in lines) + 3 for i in range(len(table.columns))) + 1


@contextmanager
def _bar(console: Console) -> Iterator[Callable[[str, float], None]]:
    """A progress bar, moved by (text, share of all)."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=1.0)
        yield lambda text, share: progress.update(task, description=text, completed=share)
