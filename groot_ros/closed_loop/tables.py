"""Terminal tables of a summary."""

from __future__ import annotations

from rich.table import Table

from groot_ros.closed_loop.summary import Spread, Summary


def latency_table(summary: Summary) -> Table:
    """Where the time of a chunk goes, in milliseconds."""
    table = Table(title="milliseconds per chunk", title_justify="left")
    table.add_column("stage")
    for name in ("p50", "p95", "max"):
        table.add_column(name, justify="right")
    for name, spread in summary.stages.items():
        table.add_row(name, *_cells(spread))
    table.add_section()
    table.add_row("newest stamp to command", *_cells(summary.age_at_publish))
    table.add_row("  of it not the model", *_cells(summary.overhead), style="bold")
    return table


def refusal_line(summary: Summary) -> str:
    """Refused ticks in words."""
    if not summary.refused:
        return "refused ticks 0"
    parts = ", ".join(f"{reason} {count}" for reason, count in sorted(summary.refused.items()))
    return f"refused ticks {sum(summary.refused.values())} ({parts})"


def _cells(spread: Spread) -> list[str]:
    return [f"{value:.1f}" for value in (spread.p50_ms, spread.p95_ms, spread.max_ms)]
