"""Progress bars of commands that run for a known time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def watched(console: Console, duration_s: float) -> Iterator[Callable[[float], None]]:
    """A progress bar over ``duration_s``; yields what moves it on by seconds."""
    columns = (
        TextColumn("running"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("run", total=duration_s)
        yield lambda seconds: progress.advance(task, seconds)
