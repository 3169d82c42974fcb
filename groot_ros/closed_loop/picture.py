"""One picture of a closed-loop run: what the cameras saw, what the joints did, what the policy asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from groot_ros.closed_loop.session import Session
from groot_ros.embodiment.schema import Embodiment, JointLimit
from groot_ros.embodiment.units import to_ros

if TYPE_CHECKING:
    from groot_ros.msg import ActionChunk

STRIP = 8
COLUMNS = 2
MEASURED, ASKED, LIMIT, CHANGE = "#1f2933", "#e07a1f", "#8896a5", "#3b7dd8"


def draw_run(session: Session, path: Path, *, title: str, zoom_s: float = 8.0) -> None:
    """Write a PNG: a strip of frames per camera over the whole run, then ``zoom_s`` of every joint.

    The joints are shown around the last change of instruction, measured against the chunks, in degrees. Each orange
    line is one chunk as sent after the gate; it starts where it took effect. Time 0 is the first instruction.
    """
    embodiment = session.embodiment
    joints = embodiment.action_joints
    cameras = [name for name, frames in session.frames.items() if frames]
    rows = -(-len(joints) // COLUMNS)
    figure = plt.figure(figsize=(15, 1.95 * len(cameras) + 1.9 * rows + 1.3), layout="constrained")
    figure.suptitle(title, fontsize=12, x=0.01, ha="left")
    parts = figure.subfigures(2, 1, height_ratios=[1.95 * len(cameras) or 0.1, 1.9 * rows + 0.6])
    start_ns = session.instructions[0][0]
    _draw_strips(parts[0], session, cameras, start_ns)
    _draw_joints(parts[1], session, joints, rows, start_ns, zoom_s)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _draw_strips(part: Figure, session: Session, cameras: list[str], start_ns: int) -> None:
    axes = part.subplots(len(cameras), STRIP, squeeze=False)
    for row, camera in enumerate(cameras):
        frames = [frame for frame in session.frames[camera] if frame.stamp_ns >= start_ns]
        picked = [frames[index] for index in np.linspace(0, len(frames) - 1, STRIP).round().astype(int)]
        for column, frame in enumerate(picked):
            axis = axes[row][column]
            axis.imshow(frame.rgb)
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title(f"{1e-9 * (frame.stamp_ns - start_ns):.1f} s", fontsize=9)
        axes[row][0].set_ylabel(camera, fontsize=10)


def _draw_joints(part: Figure, session: Session, joints: list[str], rows: int, start_ns: int, zoom_s: float) -> None:
    axes = part.subplots(rows, COLUMNS, squeeze=False, sharex=True)
    changed_s = 1e-9 * (session.instructions[-1][0] - start_ns)
    last_s = 1e-9 * (_chunk_stamp_ns(session.chunks[-1]) - start_ns)
    begin_s = max(0.0, min(changed_s, last_s) - zoom_s / 2)
    end_s = min(last_s, begin_s + zoom_s)
    times_s = np.array([1e-9 * (sample.stamp_ns - start_ns) for sample in session.joints])
    shown = (times_s >= begin_s) & (times_s <= end_s)
    sent = [_sent_points(session.embodiment, chunk, start_ns) for chunk in session.chunks]
    plans = [plan for plan in sent if plan[0][-1] >= begin_s and plan[0][0] <= end_s]
    changes = [(1e-9 * (given_ns - start_ns), text) for given_ns, text in session.instructions[1:]]
    for index, joint in enumerate(joints):
        axis: Axes = axes[index // COLUMNS][index % COLUMNS]
        measured = np.degrees([sample.positions[joint] for sample in session.joints])[shown]
        for plan_s, positions in plans:
            axis.plot(plan_s, np.degrees(positions[:, index]), color=ASKED, linewidth=0.9, alpha=0.8)
            axis.plot(plan_s[:1], np.degrees(positions[:1, index]), ".", color=ASKED, markersize=4)
        axis.plot(times_s[shown], measured, color=MEASURED, linewidth=1.4)
        _finish_axis(axis, joint, session.embodiment.limits[joint], (begin_s, end_s))
        for changed_s, text in changes:
            axis.axvline(changed_s, color=CHANGE, linewidth=1)
            if index == 0:
                axis.set_title(f"instruction: {text}", fontsize=9, color=CHANGE)
    for column in range(COLUMNS):
        axes[-1][column].set_xlabel("time [s]", fontsize=8)
    handles = [
        plt.Line2D([], [], color=MEASURED, label="measured"),
        plt.Line2D([], [], color=ASKED, marker=".", label="chunks sent, after the gate"),
        plt.Line2D([], [], color=LIMIT, linestyle="--", label="joint limits"),
    ]
    part.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9, frameon=False)


def _finish_axis(axis: Axes, joint: str, limit: JointLimit, span_s: tuple[float, float]) -> None:
    """At least 20 degrees high, so that a joint at rest looks at rest; limits where they are in sight."""
    low, high = axis.get_ylim()
    middle, half = (low + high) / 2, max((high - low) / 2, 10.0)
    axis.set_ylim(middle - half, middle + half)
    for bound in (limit.lower, limit.upper):
        axis.axhline(np.degrees(bound), color=LIMIT, linewidth=1, linestyle="--")
    axis.set_title(joint, fontsize=9, loc="left")
    axis.set_ylabel("deg", fontsize=8)
    axis.set_xlim(*span_s)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)


def _chunk_stamp_ns(chunk: ActionChunk) -> int:
    stamp = chunk.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def _sent_points(
    embodiment: Embodiment, chunk: ActionChunk, start_ns: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Due times (s since ``start_ns``) [N] and positions (rad) [N, J] of what was sent of a chunk."""
    horizon, dt_s = chunk.horizon, chunk.dt_s
    values = np.asarray(chunk.gated_actions).reshape(horizon, -1)
    sent = np.isfinite(values).all(axis=1)
    columns, first = [], 0
    for spec in embodiment.action.values():
        last = first + len(spec.names)
        columns.append(to_ros(embodiment, spec, values[sent, first:last]))
        first = last
    due_s = 1e-9 * (_chunk_stamp_ns(chunk) - start_ns) + dt_s * (np.flatnonzero(sent) + 1)
    return due_s, np.concatenate(columns, axis=1)
