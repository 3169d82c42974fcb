"""Reports as tables, in plain text; `groot-ros benchmark` draws the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

MIB = 2**20
NONE = "-"


@dataclass
class Table:
    """Rows of texts under columns; the first column is words, the others are numbers."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The table with aligned columns; without rows the title and the notes."""
        if not self.rows:
            return "\n".join([self.title, *self.notes])
        lines = [list(self.columns), *map(list, self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        out = [self.title]
        for line in lines:
            cells = [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))]
            out.append("  ".join(cells).rstrip())
        return "\n".join([*out, *self.notes])


def sampler_tables(report: dict[str, Any]) -> list[Table]:
    """One table for all generations and numbers of cameras."""
    settings = report["settings"]
    table = Table(
        f"action head, {settings['size']}, {settings['dtype']} on {settings['device']}, {settings['pairs']} pairs; "
        "milliseconds per chunk, p50",
        ("head", "tokens", "plain", "engine", "ratio", "min..max", "CPU ratio", "max diff", "weights MiB"),
    )
    for row in report["results"]:
        wall, ratio, memory = row["wall_ms"], row["ratio"], row["memory"]
        depth = f"{row['layers']} layers, {row['steps']} steps"
        table.rows.append(
            (
                f"{row['generation']}, {_count(row['cameras'], 'camera')}, {depth}",
                f"{row['tokens']['image']}+{row['tokens']['text']}",
                f"{wall['plain']['p50']:.1f}",
                f"{wall['engine']['p50']:.1f}",
                f"{ratio['median']:.2f}",
                f"{ratio['min']:.2f}..{ratio['max']:.2f}",
                f"{row['cpu_ratio']['median']:.2f}",
                f"{row['agreement']['max_difference']:.1e}",
                f"{memory['plain_weights'] / MIB:.0f} -> {memory['engine_weights'] / MIB:.0f}",
            )
        )
    return [table]


def policy_tables(report: dict[str, Any]) -> list[Table]:
    """One table per generation and number of cameras."""
    return [_policy_table(row) for row in report["results"]]


_POLICY_COLUMNS = (
    *("", "data", "backbone", "head", "decode", "E2E p50", "p95", "p99", "faster", "overlapped Hz"),
    *("first s", "peak MiB", "cosine", "max diff"),
)


def setting_title(row: dict[str, Any]) -> str:
    """What an entry of a policy report is of."""
    return row["source"] if row["cameras"] is None else f"{row['source']}, {_count(row['cameras'], 'camera')}"


def _policy_table(row: dict[str, Any]) -> Table:
    if row["reason"] is not None:
        return Table(setting_title(row), (), notes=[f"not measured: {row['reason']}"])
    tokens = row["tokens"]
    sizes = f"{tokens['image']} image + {tokens['text']} text tokens, {row['parameters'] / 1e6:.1f} M parameters"
    table = Table(
        f"{setting_title(row)}, {sizes}, {row['steps']} steps, {row['dtype']} on {row['device']}; milliseconds, p50",
        _POLICY_COLUMNS,
        notes=list(row["notes"]),
    )
    for rung in row["rungs"]:
        if rung["reason"] is not None:
            table.rows.append((rung["name"], *[NONE] * (len(_POLICY_COLUMNS) - 1)))
            table.notes.append(f"{rung['name']}: not measured: {rung['reason']}")
        else:
            table.rows.append(_rung_cells(rung))
            table.notes.extend(f"{rung['name']}: {note}" for note in rung["notes"])
    table.notes.extend(_floor_notes(row["floors"]))
    released = row["released"]
    if released is not None and released["held"] is not None:
        table.notes.append(
            f"{released['rung']} alone, all else released: {released['held'] / MIB:.0f} MiB of {released['of']} held, "
            f"{released['peak'] / MIB:.0f} at most during a chunk"
        )
    return table


def _rung_cells(rung: dict[str, Any]) -> tuple[str, ...]:
    stages, same, e2e = rung["stages_ms"], rung["agreement"], rung["e2e_ms"]
    peak = rung["memory"]["peak"]
    return (
        rung["name"],
        *(f"{stages[name]['p50']:.2f}" if name in stages else NONE for name in ("data", "backbone", "head", "decode")),
        *(f"{e2e[name]:.2f}" for name in ("p50", "p95", "p99")),
        f"{rung['speedup']:.2f}x",
        NONE if rung["overlapped_hz"] is None else f"{rung['overlapped_hz']:.1f}",
        f"{sum(rung['first_s'].values()):.2f}",
        NONE if peak is None else f"{peak / MIB:.0f}",
        NONE if same is None else f"{same['cosine']:.7f}",
        NONE if same is None else f"{same['max_difference']:.1e}",
    )


def _floor_notes(floors: dict[str, Any]) -> list[str]:
    """What the network moves and computes; the floors where the GPU is known."""
    plain, exact = floors["plain"], floors["engine"]
    moved = (
        f"moved in bfloat16: plain {plain['gigabytes']:.2f} GB, {plain['tflop']:.3f} TFLOP; engine "
        f"{exact['gigabytes']:.2f} GB, {exact['tflop']:.3f} TFLOP"
    )
    if floors["gpu"] is None:
        return [moved]
    fp8 = f", fp8 {floors['fp8_ms']:.1f}" if floors.get("fp8_ms") is not None else ""
    line = f"floor of {floors['gpu']}, backbone and head, ms: plain {plain['ms']:.1f}, engine {exact['ms']:.1f}{fp8}"
    return [f"{line}; {moved}"]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
