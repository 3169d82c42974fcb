"""One picture of an evaluation: the rate, an outcome per seed, times to success, and what some episodes looked like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from groot_ros.closed_loop.evaluation.record import Episode
from groot_ros.closed_loop.evaluation.summary import EvaluationSummary
from groot_ros.closed_loop.evaluation.video import frames_of
from groot_ros.closed_loop.evaluation.words import headline

GOOD, BAD, INK = "#2ea043", "#d64541", "#1f2933"
STRIP = 8  # pictures of a video
SHOWN = 4  # videos
PER_ROW, FEW = 50, 25  # episodes


def draw_evaluation(
    path: Path, folder: Path, summary: EvaluationSummary, episodes: Sequence[Episode], title: str, limit_s: float
) -> None:
    """Write a PNG of at least one episode.

    Args:
        folder: where the videos are.
        title: what was evaluated.
        limit_s: time limit of an episode.

    Raises: OSError or av.FFmpegError when a video cannot be read.
    """
    shown = _shown(episodes)
    rows = -(-len(episodes) // PER_ROW)
    heights = [0.45 + 0.35 * rows, 2.1, 1.55 * len(shown) or 0.01]
    figure = plt.figure(figsize=(13, sum(heights) + 0.8), layout="constrained")
    figure.suptitle(f"{headline(summary)}\n{title}", fontsize=13, x=0.01, ha="left")
    strip, times, films = figure.subfigures(3, 1, height_ratios=heights)
    _draw_strip(strip.subplots(), episodes, rows)
    _draw_times(times, episodes, summary, limit_s)
    if shown:
        _draw_films(films, folder, shown)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _shown(episodes: Sequence[Episode]) -> list[Episode]:
    """Half successes, half failures, of as many reasons as there are."""
    seen = [episode for episode in episodes if episode.video]
    successes = [episode for episode in seen if episode.success]
    failures: list[Episode] = []
    for episode in seen:
        if not episode.success and episode.reason not in {other.reason for other in failures}:
            failures.append(episode)
    failures += [episode for episode in seen if not episode.success and episode not in failures]
    room = max(SHOWN // 2, SHOWN - len(failures))
    return [*successes[:room], *failures][:SHOWN]


def _draw_strip(axis: Axes, episodes: Sequence[Episode], rows: int) -> None:
    for at, episode in enumerate(episodes):
        row, column = divmod(at, PER_ROW)
        axis.bar(column, 0.8, 0.86, bottom=-row, color=GOOD if episode.success else BAD)
    first, last = episodes[0].seed, episodes[-1].seed
    axis.set_title(f"seeds {first} to {last}, green: success", fontsize=10, loc="left")
    axis.set_xlim(-0.6, (PER_ROW if rows > 1 else max(len(episodes), FEW)) - 0.4)
    axis.set_ylim(-rows + 0.9, 0.9)
    axis.axis("off")


def _draw_times(part: Figure, episodes: Sequence[Episode], summary: EvaluationSummary, limit_s: float) -> None:
    left, right = part.subplots(1, 2)
    times = [episode.time_s for episode in episodes if episode.success]
    left.hist(times, bins=np.linspace(0.0, limit_s, 31).tolist(), color=GOOD)
    left.set_title("time to success [s]", fontsize=10, loc="left")
    left.set_xlim(0.0, limit_s)
    reasons = list(summary.failures)[::-1]
    right.barh(reasons, [summary.failures[reason] for reason in reasons], 0.6, color=BAD)
    right.set_ylim(len(reasons) - 0.5 - max(4, len(reasons)), len(reasons) - 0.5)
    right.set_title("failures by reason", fontsize=10, loc="left")
    for axis, there in ((left, times), (right, reasons)):
        if there:
            axis.locator_params(axis="y" if axis is left else "x", integer=True)
        else:
            axis.text(0.5, 0.5, "none", ha="center", va="center", transform=axis.transAxes, color=INK)
            axis.set_yticks([])
            if axis is right:
                axis.set_xticks([])
    for axis in (left, right):
        axis.tick_params(labelsize=9)
        axis.grid(alpha=0.25)
        axis.set_axisbelow(True)


def _draw_films(part: Figure, folder: Path, shown: Sequence[Episode]) -> None:
    axes = part.subplots(len(shown), STRIP, squeeze=False)
    for row, episode in enumerate(shown):
        for column, rgb in enumerate(frames_of(folder / str(episode.video), STRIP)):
            axis = axes[row][column]
            axis.imshow(rgb)
            axis.set_xticks([])
            axis.set_yticks([])
            for side in axis.spines.values():
                side.set_color(GOOD if episode.success else BAD)
                side.set_linewidth(2.0)
        axes[row][0].set_ylabel(f"seed {episode.seed}\n{episode.outcome}", fontsize=9)
