"""``docs/motion.png``: one joint across hand-overs, naive and guided, on the same task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from groot_ros.closed_loop.continuity_run import Setting, VirtualRobot
from groot_ros.closed_loop.disagreeing import DisagreeingPolicy
from groot_ros.embodiment.control_schema import Chunking

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MODES: tuple[Chunking, ...] = ("naive", "guided")
LATENCY_TICKS = 4
JOINT = 0
SHOWN_S = (1.5, 5.0)
CHUNKS = 14
SURFACE, INK, MUTED, GRID = "#fcfcfb", "#0b0b0b", "#52514e", "#e4e3df"
COLOURS = {"naive": "#eb6834", "guided": "#2a78d6"}


def draw_continuity(path: Path, variant: str = "joints_absolute", seed: int = 0) -> None:
    """Position and acceleration of the first joint over ``SHOWN_S`` s, hand-overs marked; PNG to ``path``."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, len(MODES), figsize=(11, 5.2), sharex=True, sharey="row", facecolor=SURFACE)
    for column, mode in zip(axes.T, MODES, strict=True):
        _column(column, mode, variant, seed)
    axes[0, 0].set_ylabel(f"joint {JOINT + 1} [rad]", color=MUTED)
    axes[1, 0].set_ylabel("acceleration [rad/s²]", color=MUTED)
    figure.suptitle(
        f"commands at 50 Hz, inference takes {LATENCY_TICKS} ticks; lines are hand-overs from chunk to chunk",
        color=INK,
        fontsize=10,
        x=0.01,
        ha="left",
    )
    figure.tight_layout()
    figure.savefig(path, dpi=120, facecolor=SURFACE)
    plt.close(figure)


def _column(axes: Sequence[Axes], mode: Chunking, variant: str, seed: int) -> None:
    setting = Setting(mode, (LATENCY_TICKS, LATENCY_TICKS))
    robot = VirtualRobot(DisagreeingPolicy(variant, seed), setting, seed)
    recording = robot.run(CHUNKS)
    values, velocities = np.array(recording.values), np.array(recording.velocities)
    times_s = np.arange(len(values)) / setting.rate_hz
    accelerations = np.diff(velocities[:, JOINT], prepend=velocities[0, JOINT]) * setting.rate_hz
    shown = (times_s >= SHOWN_S[0]) & (times_s <= SHOWN_S[1])
    for axis, series in zip(axes, (values[:, JOINT], accelerations), strict=True):
        axis.set_facecolor(SURFACE)
        for seam in recording.seams:
            at_s = (seam.tick - recording.first_tick) / setting.rate_hz
            if SHOWN_S[0] <= at_s <= SHOWN_S[1]:
                axis.axvline(at_s - SHOWN_S[0], color=GRID, linewidth=1.0, zorder=0)
        axis.plot(times_s[shown] - SHOWN_S[0], series[shown], color=COLOURS[mode], linewidth=1.4)
        axis.tick_params(colors=MUTED, labelsize=8)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    axes[0].set_title(mode, color=INK, fontsize=10, loc="left")
    axes[-1].set_xlabel("time [s]", color=MUTED)
