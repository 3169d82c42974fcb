"""The page of an evaluation: one HTML file, with the videos beside it in their folder."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Any

from groot_ros.closed_loop.evaluation.record import Episode
from groot_ros.closed_loop.evaluation.summary import EvaluationSummary
from groot_ros.closed_loop.evaluation.words import (
    MEANINGS,
    Rows,
    continuity_rows,
    fact_rows,
    headline,
    latency_rows,
    outcome_rows,
)

_STYLE = """
:root { color-scheme: light; --ink: #0b0b0b; --muted: #52514e; --line: #e4e3df; --paper: #fcfcfb;
  --good: #2ea043; --bad: #d64541; --none: #d6d4ce; }
body { margin: 0 auto; max-width: 1180px; padding: 24px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 2px; }
h2 { font-size: 17px; margin: 34px 0 8px; padding-top: 12px; border-top: 1px solid var(--line); }
h3 { font-size: 15px; margin: 22px 0 6px; }
p, td, th, summary, figcaption { color: var(--muted); margin: 0; }
td:first-child, th { color: var(--ink); overflow-wrap: anywhere; }
.note { border-left: 4px solid var(--bad); padding: 6px 12px; margin: 12px 0; color: var(--ink); }
.bar { position: relative; height: 16px; background: var(--none); margin: 14px 0 4px; border-radius: 3px; }
.bar i { position: absolute; height: 100%; background: var(--good); border-radius: 3px 0 0 3px; }
.bar b { position: absolute; top: 6px; height: 4px; background: var(--ink); opacity: .55; }
.strip { display: flex; flex-wrap: wrap; gap: 2px; margin: 8px 0; }
.strip > * { width: 18px; height: 26px; border-radius: 2px; background: var(--none); }
.strip .good { background: var(--good); } .strip .bad { background: var(--bad); }
.strip a:hover { outline: 2px solid var(--ink); }
.videos { display: flex; flex-wrap: wrap; gap: 14px; }
figure { margin: 0; width: 272px; } video { width: 100%; display: block; background: #181b1f; }
figcaption { font-size: 13px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; }
td, th { padding: 4px 24px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
code { overflow-wrap: anywhere; }
"""
_BINS = 20


def page(summary: EvaluationSummary, run: Mapping[str, Any], episodes: Sequence[Episode], note: str = "") -> str:
    """HTML: rate and interval, a cell per seed, videos of the failures by reason, then tables and facts.

    Args:
        run: see ``read_run``.
        episodes: in the order of their seeds.
        note: why the run is not complete.
    """
    title, setting = escape(headline(summary)), run["setting"]
    parts = [
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{_STYLE}</style></head><body>",
        *_head(summary, setting, title, note),
        *_strip(episodes, summary.planned),
        _table(outcome_rows(summary)),
        *_histogram(episodes, setting),
        *_videos(episodes),
        f"<h2>Continuity</h2>{_table(continuity_rows(summary))}",
        f"<h2>Latency [ms]</h2>{_table(latency_rows(summary))}",
        f"<h2>This run</h2>{_table(fact_rows(run)[1:], head=False)}",
    ]
    return "\n".join(parts) + "\n</body></html>\n"


def _head(summary: EvaluationSummary, setting: Mapping[str, Any], title: str, note: str) -> Iterator[str]:
    what = [str(setting[name]) for name in ("task", "embodiment", "checkpoint") if setting.get(name)]
    yield f"<h1>{title}</h1><p>{escape(' · '.join(what))}</p>"
    if note:
        yield (
            f'<p class="note">Not complete, {summary.episodes} of {summary.planned} episodes: {escape(note)}. '
            "The same command with --resume goes on.</p>"
        )
    if summary.rate is not None and summary.interval is not None:
        low, high = summary.interval
        yield (
            f'<div class="bar"><i style="width:{100 * summary.rate:.1f}%"></i>'
            f'<b style="left:{100 * low:.1f}%;width:{100 * (high - low):.1f}%"></b></div>'
        )


def _strip(episodes: Sequence[Episode], planned: int) -> Iterator[str]:
    """A cell per episode, a link where there is a video."""
    yield '<div class="strip">'
    for episode in episodes:
        kind = "good" if episode.success else "bad"
        told = escape(f"seed {episode.seed}: {episode.outcome}, {episode.time_s:.1f} s", quote=True)
        if episode.video:
            yield f'<a class="{kind}" title="{told}" href="{escape(episode.video, quote=True)}"></a>'
        else:
            yield f'<span class="{kind}" title="{told}"></span>'
    yield '<span title="not played"></span>' * max(0, planned - len(episodes))
    yield "</div>"


def _histogram(episodes: Sequence[Episode], setting: Mapping[str, Any]) -> Iterator[str]:
    """How long successes took, as an SVG."""
    times = [episode.time_s for episode in episodes if episode.success]
    if len(times) < 2:
        return
    limit_s = float(setting.get("time_limit_s") or max(times))
    counts = [0] * _BINS
    for time_s in times:
        counts[min(_BINS - 1, int(_BINS * time_s / limit_s))] += 1
    width, height, step = 560, 120, 560 / _BINS
    yield f'<h2>Time to success</h2><svg viewBox="0 -14 {width} {height + 34}" width="{width}" role="img">'
    for at, count in enumerate(counts):
        if count:
            tall = height * count / max(counts)
            x, y = at * step, height - tall
            yield f'<rect x="{x + 1:.1f}" y="{y:.1f}" width="{step - 2:.1f}" height="{tall:.1f}" fill="#2ea043"/>'
            yield f'<text x="{x + step / 2:.1f}" y="{y - 3:.1f}" font-size="10" text-anchor="middle">{count}</text>'
    yield f'<path d="M0 {height}H{width}" stroke="#8896a5"/>'
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        anchor = {0.0: "start", 1.0: "end"}.get(share, "middle")
        label = f"{share * limit_s:g} s"
        yield f'<text x="{share * width}" y="{height + 15}" font-size="11" text-anchor="{anchor}">{label}</text>'
    yield "</svg>"


def _videos(episodes: Sequence[Episode]) -> Iterator[str]:
    shown = [episode for episode in episodes if episode.video]
    failures = sorted((e for e in shown if not e.success), key=lambda episode: (episode.reason, episode.seed))
    if failures:
        yield "<h2>Failures</h2>"
    for reason, group in groupby(failures, key=lambda episode: episode.reason):
        of_reason = list(group)
        meaning = MEANINGS.get(reason, "")
        yield f"<h3>{escape(reason)} ({len(of_reason)}){': ' if meaning else ''}{escape(meaning)}</h3>"
        yield from _figures(of_reason)
    successes = [episode for episode in shown if episode.success]
    if successes:
        yield "<h2>Successes</h2>"
        yield from _figures(successes)


def _figures(episodes: Sequence[Episode]) -> Iterator[str]:
    yield '<div class="videos">'
    for episode in episodes:
        words = [f"seed {episode.seed}", episode.instruction, f"{episode.time_s:.1f} s"]
        if episode.distance_m is not None and math.isfinite(episode.distance_m):
            words.append(f"{100 * episode.distance_m:.1f} cm from the goal")
        if episode.message:
            words.append(episode.message)
        yield (
            f'<figure><video controls muted preload="metadata" src="{escape(str(episode.video), quote=True)}"></video>'
            f"<figcaption>{escape(' · '.join(filter(None, words)))}</figcaption></figure>"
        )
    yield "</div>"


def _table(rows: Rows, head: bool = True) -> str:
    lines = []
    for number, row in enumerate(rows):
        tag = "th" if head and number == 0 else "td"
        lines.append("<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) + "</tr>")
    return f"<table>{''.join(lines)}</table>"
