"""The page: facts, contact sheet and plots in one HTML file that needs no other."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from groot_ros.dataset.read import Dataset
from groot_ros.dataset.show_view import EpisodeView

_STYLE = """
:root { color-scheme: light; --ink: #0b0b0b; --muted: #52514e; --line: #e4e3df; --paper: #fcfcfb; }
body { margin: 0 auto; max-width: 1420px; padding: 24px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 22px; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 36px 0 8px; padding-top: 12px; border-top: 1px solid var(--line); }
p, td, th, summary { color: var(--muted); }
.facts { display: flex; flex-wrap: wrap; gap: 8px 32px; margin: 12px 0 20px; padding: 0; list-style: none; }
.facts b { display: block; color: var(--ink); font-size: 18px; font-weight: 600; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 500; }
td, th { padding: 4px 18px 4px 0; border-bottom: 1px solid var(--line); }
td.n, th.n { text-align: right; }
img { display: block; max-width: 100%; height: auto; margin: 8px 0; }
a { color: #1f5fae; }
.bad { color: #b02a2a; }
"""


def page(dataset: Dataset, views: Sequence[EpisodeView], sheet: Path, plots: Sequence[Path]) -> str:
    """HTML of a look at ``dataset``.

    Args:
        views: the episodes shown.
        sheet: the contact sheet.
        plots: one per episode.

    Raises: OSError when a picture cannot be read, DatasetError for the dataset's metadata.
    """
    title = escape(dataset.root.resolve().name)
    parts = [
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>{title}</h1><p>{escape(str(dataset.root.resolve()))}</p>",
        *_facts(dataset, views),
        *_table(views),
        "<h2>Cameras</h2>",
        _image(sheet, "pictures of every camera over each episode"),
    ]
    for view, plot in zip(views, plots):
        parts.append(f'<h2 id="episode-{view.index}">Episode {view.index}: {escape(" / ".join(view.tasks))}</h2>')
        parts += [
            f'<p class="bad">{escape(strip.camera)}: {escape(strip.problem)}</p>'
            for strip in view.strips
            if strip.problem
        ]
        parts.append(_image(plot, f"state and action of episode {view.index} over time"))
        parts += _streams(view.report)
    return "\n".join(parts) + "\n</body></html>\n"


def _facts(dataset: Dataset, views: Sequence[EpisodeView]) -> Iterator[str]:
    entries = dataset.episodes
    rows = sum(entry.length for entry in entries)
    facts = {
        "robot": dataset.info.get("robot_type") or "not said",
        "rows per second": dataset.fps,
        "episodes": f"{len(entries)} ({len(views)} shown)",
        "rows": rows,
        "together": _duration(rows / dataset.fps),
        "cameras": len(dataset.video_keys),
        "tasks": len(dataset.tasks),
        "layout": f"LeRobot {dataset.info['codebase_version']}",
    }
    yield '<ul class="facts">'
    yield from (f"<li><b>{escape(str(value))}</b>{escape(name)}</li>" for name, value in facts.items())
    yield "</ul>"


def _table(views: Sequence[EpisodeView]) -> Iterator[str]:
    marks = [label for label in ("intervention", "flagged") if any(view.marks.get(label) for view in views)]
    names = {"intervention": "rows commanded by a person", "flagged": "flagged rows"}
    yield '<table><tr><th class="n">episode</th><th>task</th><th class="n">length</th><th class="n">rows</th>'
    yield "".join(f'<th class="n">{names[label]}</th>' for label in marks) + "</tr>"
    for view in views:
        cells = "".join(
            f'<td class="n">{sum(end - first for first, end in view.marks.get(label, ()))}</td>' for label in marks
        )
        yield (
            f'<tr><td class="n"><a href="#episode-{view.index}">{view.index}</a></td>'
            f'<td>{escape(" / ".join(view.tasks))}</td><td class="n">{view.duration_s:.1f} s</td>'
            f'<td class="n">{view.rows}</td>{cells}</tr>'
        )
    yield "</table>"


def _streams(report: dict[str, Any] | None) -> Iterator[str]:
    """Ages of the samples, where the recorder noted them."""
    streams = (report or {}).get("streams")
    if not isinstance(streams, dict) or not all(isinstance(timing, dict) for timing in streams.values()):
        return
    columns = {
        "age_mean_ms": "mean age [ms]",
        "age_max_ms": "largest age [ms]",
        "repeats": "rows that repeat a sample",
        "gaps": "gaps",
    }
    yield "<details><summary>How old the samples were</summary><table><tr><th>stream</th>"
    yield "".join(f'<th class="n">{name}</th>' for name in columns.values()) + "</tr>"
    for name, timing in streams.items():
        cells = "".join(f'<td class="n">{escape(str(timing.get(column, "")))}</td>' for column in columns)
        yield f"<tr><td>{escape(str(name))}</td>{cells}</tr>"
    yield "</table></details>"


def _image(path: Path, alt: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
