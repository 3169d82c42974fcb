"""``groot-ros benchmark continuity``: every chunking mode against injected latencies, with a policy that disagrees."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from groot_ros.closed_loop.continuity_run import Recording, Setting, VirtualRobot, accelerations
from groot_ros.closed_loop.continuity_table import continuity_table, misses
from groot_ros.closed_loop.disagreeing import DisagreeingPolicy
from groot_ros.closed_loop.disagreeing_robots import VARIANTS
from groot_ros.closed_loop.summary import machine_name
from groot_ros.embodiment.control_schema import Chunking, PrefixSchedule

MODES: tuple[Chunking, ...] = ("guided", "native", "blend", "ensemble", "naive", "sync")
TABLE_WIDTH = 142
LATENCIES = ("0", "1", "2", "4", "8", "1-8")


@dataclass(frozen=True)
class Cell:
    """One variant, mode and latency over all seeds. NaN: nothing to tell.

    Jumps: largest of all smooth columns, rad (m and rad for a pose), what the model said, before easing and gate.
    Accelerations: largest of all smooth columns, mean over a tick, as a share of the limit, after the gate.

    Attributes:
        variant, mode, latency: which; latency in ticks, ``a-b`` drawn for every inference.
        handovers: chunks that took over from another; ``without_overlap`` of them from one that had ended.
        ticks: after the first chunk; ``stalled`` of them without a target that a chunk asked for.
        jump_p50, jump_p95, jump_max: |new - old| at the first row that is not restored.
        seam_p50, seam_p95, seam_max: over hand-overs, of the largest acceleration within 2 ticks of each.
        seam_ticks_p95: acceleration on all ticks within 2 of a hand-over.
        inside_p50, inside_p99: acceleration on all other ticks.
        clamped_share: smooth columns times ticks that the gate changed, per column and tick planned.
        cosine_p50: between the velocities of the old and the new chunk there.
        off_way_p95: distance (task units) from the nearer of the two ways.
        interval_ticks: mean ticks between hand-overs.
        rejected: reason -> chunks.
    """

    variant: str
    mode: str
    latency: str
    handovers: int
    without_overlap: int
    ticks: int
    stalled: int
    jump_p50: float
    jump_p95: float
    jump_max: float
    seam_p50: float
    seam_p95: float
    seam_max: float
    seam_ticks_p95: float
    inside_p50: float
    inside_p99: float
    clamped_share: float
    cosine_p50: float
    off_way_p95: float
    interval_ticks: float
    rejected: dict[str, int]


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        variants, modes, latencies: every combination; ``naive`` is run in any case, for the ratios.
        seeds: seeds of task, noise and latencies, each a run of its own.
        chunks: asked for per run.
        rate_hz, lag_s, acceleration, schedule: see ``Setting``.
    """

    variants: Sequence[str] = ("joints_absolute", "joints_relative")
    modes: Sequence[str] = MODES
    latencies: Sequence[str] = LATENCIES
    seeds: Sequence[int] = (0, 1, 2)
    chunks: int = 60
    rate_hz: float = 50.0
    lag_s: float = 0.0
    acceleration: float = 3.0
    schedule: PrefixSchedule = "cosine"

    def check(self) -> None:
        """Raise ValueError with the offending value when something cannot be run."""
        for name, found, known in (("modes", self.modes, MODES), ("variants", self.variants, VARIANTS)):
            unknown = [value for value in found if value not in known]
            if unknown or not found:
                raise ValueError(f"--{name}: expected some of {', '.join(known)}, found {', '.join(unknown) or 'none'}")
        for latency in self.latencies:
            latency_range(latency)
        if not self.seeds or not self.latencies or self.chunks < 2:
            raise ValueError("expected at least one seed, one latency and two chunks per run")


def latency_range(text: str) -> tuple[int, int]:
    """``"4"`` -> (4, 4); ``"1-8"`` -> (1, 8).

    Raises:
        ValueError: anything else.
    """
    first, dash, last = text.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) < int(first):
        raise ValueError(f"--latencies: expected ticks (4) or a range of ticks (1-8), found {text!r}")
    return int(first), int(last or first)


def run_continuity_benchmark(plan: Plan, output: Path | None, console: Console) -> bool:
    """Run ``plan``, print its table, write ``output``; True when mode ``guided`` meets every criterion.

    Raises:
        ValueError: the plan cannot be run.
        OSError: ``output`` cannot be written.
    """
    plan.check()
    cells = measure(plan, console)
    out = Console(highlight=False)
    if not out.is_terminal:
        out.width = max(out.width, TABLE_WIDTH)
    for variant in plan.variants:
        out.print(continuity_table([cell for cell in cells if cell.variant == variant], plan.rate_hz))
    missed = misses(cells)
    for line in missed:
        out.print(f"missed: {line}", markup=False)
    machine = machine_name()
    out.print(machine, markup=False)
    if output is not None:
        document = {
            "plan": asdict(plan),
            "machine": machine,
            "missed": missed,
            "cells": [_finite(cell) for cell in cells],
        }
        output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        out.print(f"report: {output}", markup=False)
    return not missed


def measure(plan: Plan, console: Console) -> list[Cell]:
    """Every cell of ``plan``, variant by variant, latency by latency, ``naive`` always among the modes."""
    modes = [mode for mode in MODES if mode in plan.modes or mode == "naive"]
    cells = []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=len(plan.variants) * len(plan.latencies) * len(modes))
        for variant in plan.variants:
            progress.update(task, description=f"{variant}: demonstrations")
            policies = [DisagreeingPolicy(variant, seed) for seed in plan.seeds]
            for latency in plan.latencies:
                for mode in modes:
                    progress.update(task, description=f"{variant}, {latency} ticks, {mode}")
                    setting = Setting(
                        mode, latency_range(latency), plan.rate_hz, plan.lag_s, plan.acceleration, plan.schedule
                    )
                    robots = [VirtualRobot(policy, setting, seed) for policy, seed in zip(policies, plan.seeds)]
                    recordings = [robot.run(plan.chunks) for robot in robots]
                    cells.append(cell_of(variant, latency, setting, robots, recordings))
                    progress.advance(task)
    return cells


def cell_of(
    variant: str, latency: str, setting: Setting, robots: Sequence[VirtualRobot], recordings: Sequence[Recording]
) -> Cell:
    """The numbers of runs that differ in their seed only."""
    layout = robots[0].layout
    smooth = layout.space.smooth
    seams = [seam for recording in recordings for seam in recording.seams]
    jumps = np.array([seam.jump(layout.space) for seam in seams if seam.overlap])
    peaks, near, inside = (
        np.concatenate(parts)
        for parts in zip(*(accelerations(recording, layout, 1.0 / setting.rate_hz) for recording in recordings))
    )
    ticks = sum(len(recording.planned) for recording in recordings)
    rejected: Counter[str] = sum((recording.rejected for recording in recordings), Counter())
    spans = [np.diff([seam.tick for seam in recording.seams]) for recording in recordings]
    return Cell(
        variant=variant,
        mode=setting.mode,
        latency=latency,
        handovers=len(seams),
        without_overlap=sum(not seam.overlap for seam in seams),
        ticks=ticks,
        stalled=sum(recording.planned.count(False) for recording in recordings),
        jump_p50=_quantile(jumps, 0.5),
        jump_p95=_quantile(jumps, 0.95),
        jump_max=_quantile(jumps, 1.0),
        seam_p50=_quantile(peaks, 0.5),
        seam_p95=_quantile(peaks, 0.95),
        seam_max=_quantile(peaks, 1.0),
        seam_ticks_p95=_quantile(near, 0.95),
        inside_p50=_quantile(inside, 0.5),
        inside_p99=_quantile(inside, 0.99),
        clamped_share=sum(recording.clamped for recording in recordings)
        / (max(sum(recording.shaped for recording in recordings), 1) * max(int(smooth.sum()), 1)),
        cosine_p50=_quantile(np.array([seam.cosine for seam in seams if np.isfinite(seam.cosine)]), 0.5),
        off_way_p95=_quantile(np.array([way for recording in recordings for way in recording.off_way]), 0.95),
        interval_ticks=float(np.concatenate(spans).mean()) if sum(map(len, spans)) else float("nan"),
        rejected=dict(rejected),
    )


def _finite(cell: Cell) -> dict[str, object]:
    """As JSON, which has no NaN."""
    return {name: None if value != value else value for name, value in asdict(cell).items()}


def _quantile(values: NDArray[np.float64], share: float) -> float:
    return float(np.quantile(values, share)) if len(values) else float("nan")
