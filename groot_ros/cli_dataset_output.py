"""What the commands of ``groot-ros dataset`` show: bars and tables on stderr, paths and JSON on stdout."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from groot_ros.cli_options import console

if TYPE_CHECKING:
    from groot_ros.dataset.from_bag import Conversion
    from groot_ros.dataset.read import Dataset
    from groot_ros.dataset.rebuild import Built


@contextmanager
def bag_progress(bags: Sequence[Path]) -> Iterator[Callable[[int, float, float], None]]:
    """A bar per bag; a function that takes a bag's number, and seconds of it that are done and in all."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks = [bar.add_task(bag.name, total=None) for bag in bags]
        yield lambda number, done, total: bar.update(tasks[number], completed=done, total=total)


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr while it is worked; a function that takes steps done and in all."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def note(line: str) -> None:
    """One line on stderr, as it is."""
    console.print(line, markup=False, soft_wrap=True)


def tell_json(content: Any) -> None:
    """JSON on stdout. Raises: ValueError (a number is not finite)."""
    typer.echo(json.dumps(content, indent=1, allow_nan=False))


def tell_conversion(result: Conversion) -> None:
    """What became of each bag, and all that was refused."""
    from rich.table import Table

    table = Table("bag", "episodes", "rows", "seconds", "refused messages")
    for bag in result.bags:
        rows = sum(episode.rows for episode in bag.episodes)
        seconds = sum(episode.duration_s for episode in bag.episodes)
        refused = ", ".join(f"{source}: {count}" for source, count in bag.rejected.items()) or "none"
        table.add_row(bag.bag, str(len(bag.episodes)), str(rows), f"{seconds:.1f}", refused)
    for bag in result.bags:
        for line in bag.messages:
            note(f"{bag.bag}: {line}")
        if bag.error:
            console.print(f"{bag.bag}: {bag.error}", style="red", markup=False, soft_wrap=True)
    console.print(table)


def tell_built(built: list[Built], as_json: bool) -> None:
    """A row per dataset and what to know of it; their folders, or ``as_json``, on stdout."""
    from rich.table import Table

    table = Table("dataset", "episodes", "rows", "tasks")
    for one in built:
        table.add_row(str(one.root), *(str(number) for number in (one.episodes, one.frames, one.tasks)))
    console.print(table)
    for one in built:
        for line in one.notes:
            note(f"note: {line}")
    if as_json:
        contents = [one.to_json() for one in built]
        tell_json(contents[0] if len(contents) == 1 else contents)
    else:
        for one in built:
            typer.echo(f"{one.root}")


def show_statistics(dataset: Dataset, found: dict[str, Any], steps: dict[str, Any] | None) -> None:
    """A row per number: of the rows, then relative to the state at the first and the last step of a chunk."""
    from rich.table import Table

    columns = ("min", "q01", "mean", "q99", "max", "std")

    def tell(title: str, names: Sequence[str], row: dict[str, Any]) -> None:
        table = Table(box=None, padding=(0, 1, 0, 0), title=title, title_justify="left", title_style="bold")
        table.add_column("", overflow="fold")
        for column in columns:
            table.add_column(column, justify="right", no_wrap=True)
        for dimension, name in enumerate(names):
            table.add_row(name, *(f"{row[column][dimension]:.3g}" for column in columns))
        console.print(table)

    for feature, row in found.items():
        tell(feature, _names(dataset, feature, len(row["mean"])), row)
    for key, row in (steps or {}).items():
        part = dataset.modality["action"][key]
        names = _names(dataset, "action")[part["start"] : part["end"]]
        for step in sorted({0, len(row["mean"]) - 1}):
            tell(f"{key}, relative, step {step}", names, {column: row[column][step] for column in columns})
    if steps is not None and not steps:
        note("no action key of this robot is RELATIVE: there is no relative_stats.json to write")


def _names(dataset: Dataset, feature: str, width: int | None = None) -> list[str]:
    """Of the numbers of a vector; where it has none, their positions."""
    said = dataset.features[feature]
    width = said["shape"][0] if width is None else width
    names = said.get("names")
    return names if isinstance(names, list) and len(names) == width else [str(number) for number in range(width)]
