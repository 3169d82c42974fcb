"""The table of ``groot-ros benchmark continuity``, and what the default mode must reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from groot_ros.closed_loop.continuity_benchmark import Cell

DEFAULT_MODE = "guided"
TIMES_SMALLER = 2.0  # than naive's: the jump at a hand-over


def reference(cells: Sequence[Cell], cell: Cell) -> Cell:
    """``naive`` of the same variant and latency."""
    return next(c for c in cells if (c.variant, c.latency, c.mode) == (cell.variant, cell.latency, "naive"))


def misses(cells: Sequence[Cell]) -> list[str]:
    """A line per criterion that the default mode misses in a cell.

    No stalled tick, no hand-over without an overlap; median and p95 of the jump at least twice smaller than naive's;
    acceleration at hand-overs no more than the 99th percentile of the ticks inside chunks, for the median of the
    largest within two ticks of each, and for 95 of 100 ticks within two of one.
    """
    lines = []
    for cell in cells:
        if cell.mode != DEFAULT_MODE:
            continue
        name, naive = f"{cell.variant}, {cell.latency} ticks", reference(cells, cell)
        if cell.stalled:
            lines.append(f"{name}: {cell.stalled} stalled ticks of {cell.ticks}")
        if cell.without_overlap:
            lines.append(f"{name}: {cell.without_overlap} hand-overs after the end of the chunk before")
        for which in ("p50", "p95"):
            ratio = getattr(naive, f"jump_{which}") / getattr(cell, f"jump_{which}")
            if not ratio >= TIMES_SMALLER:
                lines.append(f"{name}: jump {which} {ratio:.2f}x smaller than naive's, wanted {TIMES_SMALLER:g}x")
        for which, value in (("p50", cell.seam_p50), ("of 95 % of the ticks", cell.seam_ticks_p95)):
            share = value / cell.inside_p99
            if not share <= 1.0:
                lines.append(f"{name}: hand-over acceleration {which} {share:.2f} of the p99 inside, wanted 1 or less")
    return lines


def continuity_table(cells: Sequence[Cell], rate_hz: float) -> Table:
    """One row per latency and mode of one variant."""
    pose = cells[0].variant.startswith("eef")
    table = Table(
        title=f"{cells[0].variant}, latency in ticks of {1e3 / rate_hz:g} ms, jumps in {'mm or ' * pose}mrad, "
        "accelerations in % of the limit",
        title_justify="left",
    )
    for name in ("ticks", "mode"):
        table.add_column(name)
    names = (
        "stalled",
        "jump p50",
        "p95",
        "naive/ p50",
        "p95",
        "seam p50",
        "p95",
        "max",
        "ticks p95",
        "in p99",
        "clamped",
    )
    for name in (*names, "cosine", "off way"):
        table.add_column(name, justify="right")
    latency = cells[0].latency
    for cell in cells:
        if cell.latency != latency:
            table.add_section()
            latency = cell.latency
        naive = reference(cells, cell)
        table.add_row(
            cell.latency,
            cell.mode,
            f"{100 * cell.stalled / max(cell.ticks, 1):.0f} %" if cell.stalled else "0",
            *(f"{1e3 * value:.1f}" for value in (cell.jump_p50, cell.jump_p95)),
            *(f"{value:.2f}" for value in (naive.jump_p50 / cell.jump_p50, naive.jump_p95 / cell.jump_p95)),
            *(f"{100 * value:.0f}" for value in (cell.seam_p50, cell.seam_p95, cell.seam_max, cell.seam_ticks_p95)),
            f"{100 * cell.inside_p99:.0f}",
            f"{100 * cell.clamped_share:.1f} %",
            f"{cell.cosine_p50:.2f}",
            f"{cell.off_way_p95:.2f}",
            style="bold" if cell.mode == DEFAULT_MODE else None,
        )
    return table
