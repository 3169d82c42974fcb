"""``groot-ros benchmark node``: what the node adds to the model's time."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rich.console import Console

from groot_ros.closed_loop.progress import watched
from groot_ros.closed_loop.session import run_session
from groot_ros.closed_loop.tables import latency_table, refusal_line
from groot_ros.policy.random_checkpoint import make_random_checkpoint


def run_node_benchmark(
    checkpoint: Path | None, embodiment: str, duration_s: float, output: Path | None, console: Console
) -> None:
    """Run simulator and policy node, print the stages, write them to ``output``.

    Raises:
        ProcessDied, NotRunning: see ``run_session``.
    """
    with tempfile.TemporaryDirectory(prefix="groot_ros_") as folder:
        if checkpoint is None:
            checkpoint = Path(folder) / "checkpoint"
            make_random_checkpoint(checkpoint, "n1d7", "tiny", embodiment, 0, console)
        with watched(console, duration_s) as advance:
            session = run_session(
                embodiment,
                checkpoint,
                instructions=("pick up the red cube",),
                duration_s=duration_s,
                log_dir=Path(folder) / "logs",
                policy_parameters={"torch_threads": 1},
                say=lambda text: console.print(f"  {text}"),
                advance=advance,
            )
    summary = session.summary()
    out = Console(highlight=False)
    out.print(latency_table(summary))
    out.print(summary.machine, markup=False)
    out.print(
        f"{summary.chunks} chunks, {summary.chunk_rate_hz:.2f}/s; {refusal_line(summary)}; "
        f"{summary.points_trimmed_mean:.1f} points past on publishing",
        markup=False,
    )
    if output is not None:
        summary.write(output)
        out.print(f"report: {output}", markup=False)
