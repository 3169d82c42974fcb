"""One picture per episode of an open-loop evaluation: recorded against predicted, a row per number of the actions."""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from groot_ros.training.open_loop import Column, EpisodeRun
from groot_ros.training.open_loop_report import ColumnError, OpenLoopReport

RECORDED, PREDICTED, START = "#1f2933", "#e07a1f", "#cbd2d9"
_ROW_INCHES = 1.25
# Least height of an axis, so that what hardly moves looks so.
_LEAST = {"rad": 0.1, "deg": 6.0, "m": 0.02, "mm": 20.0, "percent": 5.0, "signed_percent": 10.0}


def draw_episode(report: OpenLoopReport, run: EpisodeRun, path: Path) -> None:
    """Write ``episode_figure`` as a PNG. Raises OSError."""
    figure = episode_figure(report, run)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def episode_figure(report: OpenLoopReport, run: EpisodeRun) -> Figure:
    """One row per number. Chunks are lines of their own, from a dot at the row of their observation."""
    errors = report.column_errors([run])
    count = len(report.columns)
    figure, axes = plt.subplots(
        count, 1, figsize=(12, _ROW_INCHES * count + 1.6), sharex=True, squeeze=False, layout="constrained"
    )
    for axis, column, error, i in zip(axes[:, 0], report.columns, errors, range(count), strict=True):
        _draw_column(axis, column, error, run, i, report.fps)
    axes[-1, 0].set_xlabel("time [s]", fontsize=9)
    axes[-1, 0].set_xlim(0, max(len(run.predicted) - 1, 1) / report.fps)
    figure.align_ylabels(axes[:, 0])
    handles = [
        plt.Line2D([], [], color=RECORDED, label="recorded"),
        plt.Line2D([], [], color=PREDICTED, marker=".", label=f"predicted, {report.execution_horizon} rows per chunk"),
        plt.Line2D([], [], color=START, label="a chunk begins"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    told = textwrap.shorten("; ".join(run.instructions), 90, placeholder=" ...")
    title = f"{Path(report.dataset).name}, episode {run.index}: {told}\n{report.checkpoint}"
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return figure


def _draw_column(axis: Axes, column: Column, error: ColumnError, run: EpisodeRun, i: int, fps: float) -> None:
    times_s = np.arange(len(run.predicted)) / fps
    for start, end in zip(run.starts, (*run.starts[1:], len(times_s)), strict=True):
        axis.axvline(times_s[start], color=START, linewidth=0.8, zorder=0)
        axis.plot(times_s[start:end], run.predicted[start:end, i], color=PREDICTED, linewidth=1.3)
        axis.plot(times_s[start], run.predicted[start, i], ".", color=PREDICTED, markersize=5)
    axis.plot(times_s, run.recorded[:, i], color=RECORDED, linewidth=1.3)
    low, high = axis.get_ylim()
    middle, half = (low + high) / 2, max((high - low) / 2, _LEAST.get(column.unit, 0.0) / 2)
    axis.set_ylim(middle - half, middle + half)
    axis.set_ylabel(column.unit, fontsize=8)
    axis.set_title(f"{column.key}: {column.name}", fontsize=9, loc="left", pad=3)
    note = f"mean |e| {error.mae:.3g} {column.unit}   (kept still: {error.held_mae:.3g})"
    axis.set_title(note, fontsize=8, loc="right", pad=3, color="#52606d")
    axis.tick_params(labelsize=8)
    axis.grid(axis="y", alpha=0.25)
