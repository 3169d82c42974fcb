"""The report of an evaluation: JSON, Markdown and a page, written anew after every episode."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from groot_ros.closed_loop.evaluation.page import page
from groot_ros.closed_loop.evaluation.record import EvaluationFolder, read_episodes, read_run
from groot_ros.closed_loop.evaluation.summary import EvaluationSummary, summarize_episodes, summary_content
from groot_ros.closed_loop.evaluation.words import continuity_rows, fact_rows, headline, latency_rows, outcome_rows
from groot_ros.dataset.durable import write_file, write_json

JSON, MARKDOWN, PAGE, PICTURE = "report.json", "report.md", "report.html", "report.png"


def write_report(folder: EvaluationFolder, planned: int, note: str = "") -> EvaluationSummary:
    """Write report.json, report.md and report.html for what is there.

    Args:
        planned: episodes that were asked for.
        note: why the run has ended before its time; empty when it has not.

    Raises: OSError, EvaluationError when the folder holds no run.
    """
    run = read_run(folder.path)
    episodes = sorted(folder.episodes, key=lambda episode: episode.seed)
    summary = summarize_episodes(episodes, planned)
    write_json(folder.path / JSON, summary_content(summary, run, episodes))
    text = _markdown(summary, run, note, (folder.path / PICTURE).exists())
    write_file(folder.path / MARKDOWN, text.encode())
    html = page(summary, run, episodes, note)
    write_file(folder.path / PAGE, html.encode())
    return summary


def read_folder(path: Path) -> EvaluationFolder:
    """An evaluation that was made before. Raises: EvaluationError when there is none."""
    read_run(path)
    folder = EvaluationFolder(path)
    folder.episodes = read_episodes(path)
    return folder


def _markdown(summary: EvaluationSummary, run: dict[str, Any], note: str, picture: bool) -> str:
    parts = [f"# {headline(summary)}\n"]
    if note:
        parts.append(f"**Not complete** ({summary.episodes} of {summary.planned} episodes): {note}\n")
    if picture:
        parts.append(f"![outcomes]({PICTURE})\n")
    for title, rows in (
        ("Outcomes", outcome_rows(summary)),
        ("Continuity", continuity_rows(summary)),
        ("Latency [ms]", latency_rows(summary)),
        ("This run", fact_rows(run)),
    ):
        parts.append(f"## {title}\n\n{_table(rows)}")
    return "\n".join(parts)


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in body)]) + "\n"
