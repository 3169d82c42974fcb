"""``make demo``: the whole chain on a plain machine, with a picture of what happened."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from groot_ros.closed_loop.session import Session, run_session
from groot_ros.closed_loop.tables import latency_table, refusal_line
from groot_ros.policy.random_checkpoint import make_random_checkpoint

EMBODIMENT = "sim_arm"
FRAMES = 8


def run_demo(output: Path, instructions: Sequence[str], duration_s: float, seed: int, console: Console) -> Path:
    """Make a tiny checkpoint, run simulator and policy node for ``duration_s``, write report and picture.

    Returns the picture's path.

    Raises:
        ProcessDied, NotRunning: see ``run_session``.
    """
    output.mkdir(parents=True, exist_ok=True)
    checkpoint = output / "checkpoint"
    shutil.rmtree(checkpoint, ignore_errors=True)
    make_random_checkpoint(checkpoint, "n1d7", "tiny", EMBODIMENT, seed, console)
    console.print(f"checkpoint: {checkpoint} (tiny, random: the arm moves, but it has learnt nothing)")
    with watched(console, duration_s) as advance:
        session = run_session(
            EMBODIMENT,
            checkpoint,
            instructions=instructions,
            duration_s=duration_s,
            log_dir=output / "logs",
            frame_every_s=duration_s / (4 * FRAMES),  # dense enough to pick even ones
            policy_parameters={"device": "cpu", "torch_threads": 1},
            seed=seed,
            say=lambda text: console.print(f"  {text}"),
            advance=advance,
        )
    return _report(session, output, duration_s, console)


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


def _report(session: Session, output: Path, duration_s: float, console: Console) -> Path:
    from groot_ros.closed_loop.picture import draw_run  # matplotlib takes a second to import

    summary = session.summary()
    summary.write(output / "report.json")
    out = Console(highlight=False)
    out.print(latency_table(summary))
    out.print(f"chunks {summary.chunks} in {duration_s:.0f} s; {refusal_line(summary)}", markup=False)
    model = summary.model
    title = (
        f"groot-ros demo: simulated arm, tiny random GR00T N1.7, {summary.chunks} chunks of "
        f"{session.embodiment.horizon} points in {duration_s:.0f} s\n"
        f"model p50 {model.p50_ms:.0f} ms, p95 {model.p95_ms:.0f} ms; newest sample to command without the model "
        f"p50 {summary.overhead.p50_ms:.1f} ms; {refusal_line(summary)}"
    )
    picture = output / "demo.png"
    draw_run(session, picture, title=title)
    return picture
