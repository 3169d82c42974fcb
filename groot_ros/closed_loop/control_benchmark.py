"""``groot-ros benchmark control``: how punctual the control loop is while the model infers without pause."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from groot_ros.closed_loop.progress import watched
from groot_ros.closed_loop.session import Session, run_session
from groot_ros.closed_loop.summary import machine_name
from groot_ros.control.loop import JITTER_LIMIT_S
from groot_ros.policy.random_checkpoint import make_random_checkpoint

STEADY_RATE_HZ = 50.0  # the rate for which the limit is promised; others are reported
SETTLE_S = 3.0  # after the start, before counting begins


@dataclass(frozen=True)
class Punctuality:
    """One rate.

    Attributes:
        rate_hz: control ticks per second.
        duration_s: how long was counted.
        ticks: in this time.
        missed: in this time.
        jitter_p50_s, jitter_p99_s, jitter_max_s: how late ticks began.
        chunks: in this time.
        busy_share: share of the time in which an inference was under way.
        stalled: ticks without a planned target.
    """

    rate_hz: float
    duration_s: float
    ticks: int
    missed: int
    jitter_p50_s: float
    jitter_p99_s: float
    jitter_max_s: float
    chunks: int
    busy_share: float
    stalled: int

    @property
    def kept(self) -> bool:
        """No tick missed, and 99 of 100 at most 5 ms late."""
        return self.missed == 0 and self.jitter_p99_s <= JITTER_LIMIT_S


def run_control_benchmark(
    checkpoint: Path | None,
    embodiment: str,
    rates_hz: Sequence[float],
    duration_s: float,
    denoising_steps: int,
    output: Path | None,
    console: Console,
) -> bool:
    """Run simulator and policy node once per rate, print a table, write it to ``output``.

    Returns: whether 50 Hz, if it was among the rates, was kept.
    Raises: ProcessDied, NotRunning: see ``run_session``.
    """
    results = []
    with tempfile.TemporaryDirectory(prefix="groot_ros_") as folder:
        if checkpoint is None:
            checkpoint = Path(folder) / "checkpoint"
            make_random_checkpoint(checkpoint, "n1d7", "tiny", embodiment, 0, console)
        for rate_hz in rates_hz:
            console.print(f"{rate_hz:g} Hz")
            with watched(console, SETTLE_S + duration_s) as advance:
                session = run_session(
                    embodiment,
                    checkpoint,
                    instructions=("pick up the red cube",),
                    duration_s=SETTLE_S + duration_s,
                    log_dir=Path(folder) / f"logs_{rate_hz:g}",
                    policy_parameters={
                        "control_rate_hz": float(rate_hz),
                        "replan_steps": 1,
                        "denoising_steps": denoising_steps,
                    },
                    say=lambda text: console.print(f"  {text}"),
                    advance=advance,
                )
            results.append(punctuality(session, duration_s))
    out = Console(highlight=False)
    out.print(_table(results))
    out.print(machine_name(), markup=False)
    if output is not None:
        report = {"machine": machine_name(), "rates": [asdict(result) for result in results]}
        output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        out.print(f"report: {output}", markup=False)
    return all(result.kept for result in results if result.rate_hz == STEADY_RATE_HZ)


def punctuality(session: Session, duration_s: float) -> Punctuality:
    """The last ``duration_s`` of a session.

    Raises:
        ValueError: the session is shorter.
    """
    running = [status for status in session.statuses if status.chunks]
    times_s = [status.header.stamp.sec + 1e-9 * status.header.stamp.nanosec for status in running]
    began = [index for index, time_s in enumerate(times_s) if times_s[-1] - time_s >= duration_s - 0.5]
    if not began:
        raise ValueError(f"expected {duration_s:g} s of statuses with chunks, found {times_s[-1] - times_s[0]:.1f} s")
    first, last = running[began[-1]], running[-1]
    span_s = times_s[-1] - times_s[began[-1]]
    chunks = session.chunks[int(first.chunks) : int(last.chunks)]
    busy_s = sum(sum(chunk.stage_s) for chunk in chunks)
    return Punctuality(
        rate_hz=last.control_rate_hz,
        duration_s=span_s,
        ticks=int(last.ticks_executed - first.ticks_executed),
        missed=int(last.ticks_missed - first.ticks_missed),
        jitter_p50_s=last.tick_jitter_p50_s,
        jitter_p99_s=last.tick_jitter_p99_s,
        jitter_max_s=last.tick_jitter_max_s,
        chunks=len(chunks),
        busy_share=busy_s / span_s,
        stalled=int(last.stalled_ticks - first.stalled_ticks),
    )


def _table(results: Sequence[Punctuality]) -> Table:
    """A column per rate: narrow enough for any terminal."""
    table = Table(title="control loop while the model infers", title_justify="left")
    table.add_column("control rate")
    for result in results:
        table.add_column(f"{result.rate_hz:g} Hz", justify="right")
    rows: dict[str, Callable[[Punctuality], str]] = {
        "time counted": lambda result: f"{result.duration_s:.1f} s",
        "ticks": lambda result: str(result.ticks),
        "ticks missed": lambda result: str(result.missed),
        "ticks without a target": lambda result: str(result.stalled),
        "late by, p50": lambda result: f"{1e3 * result.jitter_p50_s:.2f} ms",
        "late by, p99": lambda result: f"{1e3 * result.jitter_p99_s:.2f} ms",
        "late by, max": lambda result: f"{1e3 * result.jitter_max_s:.2f} ms",
        "chunks": lambda result: str(result.chunks),
        "model busy": lambda result: f"{100 * result.busy_share:.0f} %",
        "0 missed, p99 <= 5 ms": lambda result: "kept" if result.kept else "not kept",
    }
    for name, cell in rows.items():
        table.add_row(name, *map(cell, results))
    return table
