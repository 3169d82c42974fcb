"""Contact sheet and joint plots as PNG. Imports matplotlib, which is optional."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from groot_ros.dataset.show_view import Curve, EpisodeView, Strip
from groot_ros.dataset.spec import ACTION, STATE

SURFACE, INK, MUTED, GRID = "#fcfcfb", "#0b0b0b", "#52514e", "#e4e3df"
COLOURS = {STATE: "#2a78d6", ACTION: "#eb6834"}
LABELS = {STATE: "state", ACTION: "action"}
MARKS = {"intervention": "#7a5fd0", "flagged": "#d03b3b"}
MARK_TEXTS = {"intervention": "a person commands", "flagged": "flagged rows"}
DPI = 100
# Contact sheet, px.
THUMB, GAP, LEFT, RIGHT, TOP = 150, 4, 120, 20, 34
TITLE, TIMES, BAR, BETWEEN = 26, 16, 8, 20
# Joint plots, inches.
COLUMNS, WIDTH, HEIGHT = 3, 4.0, 1.15  # of a panel
ACROSS, DOWN, HEAD, FOOT, SIDE = 0.62, 0.46, 0.85, 0.45, 0.55  # between panels, and around them
_DOTS_UP_TO = 60  # rows; more of them would be a thick line


def draw_sheet(views: Sequence[EpisodeView], path: Path) -> None:
    """A strip of pictures per camera and episode over time, with a bar that shows interventions and flagged rows."""
    per_strip = max((len(strip.pictures) for view in views for strip in view.strips), default=1) or 1
    heights = [[_thumb_height(strip) for strip in view.strips] for view in views]
    width = LEFT + per_strip * (THUMB + GAP) - GAP + RIGHT
    height = TOP + sum(TITLE + TIMES + BAR + BETWEEN + sum(h + GAP for h in each) for each in heights)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=SURFACE)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    _text(axes, LEFT, 18, "the whole of each episode, from left to right", MUTED, 9)
    _sheet_legend(axes, views, width)
    y = TOP
    for view, strip_heights in zip(views, heights):
        y = _draw_episode(axes, view, strip_heights, y, width)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
    figure.savefig(path, dpi=DPI, facecolor=SURFACE)


def _thumb_height(strip: Strip) -> int:
    if not strip.pictures:
        return THUMB // 3
    rows, columns = strip.pictures[0].shape[:2]
    return max(round(THUMB * rows / columns), 1)


def _sheet_legend(axes: Axes, views: Sequence[EpisodeView], width: int) -> None:
    x = width - RIGHT
    for label in [label for label in MARKS if any(view.marks.get(label) for view in views)][::-1]:
        text = MARK_TEXTS[label]
        x -= 8 * len(text) + 34
        axes.add_patch(Rectangle((x, 10), 14, BAR, color=MARKS[label], linewidth=0))
        _text(axes, x + 20, 18, text, MUTED, 9)


def _draw_episode(axes: Axes, view: EpisodeView, heights: Sequence[int], y: int, width: int) -> int:
    """One block of the sheet; the y where the next begins."""
    title = textwrap.shorten(view.title, max((width - LEFT - RIGHT) // 7, 20), placeholder=" ...")
    _text(axes, LEFT, y + 17, title, INK, 10.5)
    y += TITLE
    for strip, height in zip(view.strips, heights):
        name = textwrap.shorten(strip.camera, 18, placeholder="...") or strip.camera[:15] + "..."
        _text(axes, LEFT - 10, y + height / 2 + 4, name, MUTED, 9, "right")
        for column, picture in enumerate(strip.pictures):
            x = LEFT + column * (THUMB + GAP)
            thumb = _resized(picture, height)
            axes.imshow(thumb, extent=(x, x + THUMB, y + height, y), interpolation="nearest", aspect="auto")
        if strip.problem is not None:
            axes.add_patch(Rectangle((LEFT, y), width - LEFT - RIGHT, height, facecolor=GRID, linewidth=0))
            text = textwrap.shorten(strip.problem, (width - LEFT - RIGHT) // 7, placeholder=" ...")
            _text(axes, LEFT + 10, y + height / 2 + 4, text, MARKS["flagged"], 9)
        y += height + GAP
    longest = max(view.strips, key=lambda strip: len(strip.indices), default=None)
    for column, index in enumerate(longest.indices if longest is not None else ()):
        _text(axes, LEFT + column * (THUMB + GAP) + THUMB / 2, y + 10, f"{index / view.fps:.2f} s", MUTED, 8, "center")
    y += TIMES
    length = width - LEFT - RIGHT
    axes.add_patch(Rectangle((LEFT, y), length, BAR, facecolor=GRID, linewidth=0))
    for label, colour in MARKS.items():
        for first, end in view.marks.get(label, ()):
            left, right = (LEFT + length * row / max(view.rows, 1) for row in (first, end))
            # Never thinner than 2 px: a single row of a long episode is to be seen.
            axes.add_patch(Rectangle((left, y), max(right - left, 2), BAR, facecolor=colour, linewidth=0))
    return y + BAR + BETWEEN


def _resized(picture: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    how = cv2.INTER_AREA if picture.shape[1] > THUMB else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(picture, (THUMB, height), interpolation=how), dtype=np.uint8)


def draw_joints(view: EpisodeView, path: Path) -> None:
    """One panel per number, state and action of the same name together; interventions and flagged rows shaded."""
    count = max(len(view.curves), 1)
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    size = (
        columns * WIDTH + (columns - 1) * ACROSS + SIDE + 0.15,
        rows * HEIGHT + (rows - 1) * DOWN + HEAD + FOOT,
    )
    figure = Figure(figsize=size, dpi=DPI, facecolor=SURFACE)
    # Fixed places: to find them by the size of the texts takes matplotlib longer than all the rest.
    places = {
        "left": SIDE / size[0],
        "right": 1 - 0.15 / size[0],
        "bottom": FOOT / size[1],
        "top": 1 - HEAD / size[1],
        "wspace": ACROSS / WIDTH,
        "hspace": DOWN / HEIGHT,
    }
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, gridspec_kw=places).reshape(-1)
    for axes, curve in zip(panels, view.curves):
        _draw_curve(axes, view, curve)
    for axes in panels[len(view.curves) :]:
        axes.set_axis_off()
    for column in range(columns):
        lowest = panels[min(column + columns * (rows - 1), len(view.curves) - 1)]
        if column + columns * (rows - 1) >= len(view.curves) > columns:
            lowest = panels[column + columns * (rows - 2)]
            lowest.tick_params(labelbottom=True)
        lowest.set_xlabel("time [s]", color=MUTED, fontsize=8)
    title = textwrap.shorten(view.title, int(size[0] * 9), placeholder=" ...")
    figure.text(0.1 / size[0], 1 - 0.22 / size[1], title, color=INK, fontsize=10.5, va="center", parse_math=False)
    figure.legend(
        handles=_legend(view),
        loc="upper left",
        bbox_to_anchor=(0.02 / size[0], 1 - 0.32 / size[1]),
        ncols=4,
        frameon=False,
        fontsize=8.5,
        labelcolor=MUTED,
        borderpad=0,
        handlelength=1.4,
    )
    figure.savefig(path, dpi=DPI, facecolor=SURFACE)


def _draw_curve(axes: Axes, view: EpisodeView, curve: Curve) -> None:
    axes.set_facecolor(SURFACE)
    for label, colour in MARKS.items():
        for first, end in view.marks.get(label, ()):
            axes.axvspan((first - 0.5) / view.fps, (end - 0.5) / view.fps, color=colour, alpha=0.16, linewidth=0)
    # The action first: where they agree, what the robot did covers what it was told.
    for vector in (ACTION, STATE):
        if vector in curve.values:
            values = curve.values[vector]
            times_s = np.arange(len(values)) / view.fps
            marker = "." if len(values) <= _DOTS_UP_TO else None
            axes.plot(times_s, values, color=COLOURS[vector], linewidth=1.3, marker=marker, markersize=3)
            _draw_missing(axes, times_s, values)
    title = textwrap.shorten(curve.name, 52, placeholder="...") + (
        f"  [{curve.unit}]" if curve.unit not in ("", "unitless") else ""
    )
    # With y given, matplotlib does not look for a place, which takes half of its time.
    axes.set_title(title, color=INK, fontsize=8.5, loc="left", y=1.0, pad=3, parse_math=False)
    axes.tick_params(colors=MUTED, labelsize=7.5, length=2.5)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)


def _draw_missing(axes: Axes, times_s: NDArray[np.float64], values: NDArray[np.float64]) -> None:
    """A curve has a hole where a number is none; a hole of one row is hard to see."""
    for at_s in times_s[~np.isfinite(values)]:
        axes.axvline(at_s, color=MARKS["flagged"], linewidth=0.8)


def _legend(view: EpisodeView) -> list[Patch]:
    vectors = [vector for vector in COLOURS if any(vector in curve.values for curve in view.curves)]
    handles = [Patch(color=COLOURS[vector], label=LABELS[vector]) for vector in vectors]
    handles += [
        Patch(color=MARKS[label], alpha=0.3, label=MARK_TEXTS[label]) for label in MARKS if view.marks.get(label)
    ]
    return handles


def _text(axes: Axes, x: float, y: float, text: str, colour: str, size: float, align: str = "left") -> None:
    axes.text(x, y, text, color=colour, fontsize=size, ha=align, va="baseline", parse_math=False)
