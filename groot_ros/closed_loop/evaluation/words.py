"""The numbers of an evaluation in words: the rows of the tables that all reports share. First row: the heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from groot_ros.closed_loop.evaluation.record import AGE
from groot_ros.closed_loop.evaluation.summary import EvaluationSummary

Rows = list[tuple[str, ...]]
NONE = "–"
# What reasons mean that do not come from the simulator.
MEANINGS = {
    "time_limit": "the task was not done in time",
    "policy_gate": "the gate stopped the policy: see docs/stopping.md",
    "policy_out_of_training_range": "the robot left the range of the training data",
    "wrong_cube": "the other cube was taken",
    "off_table": "the cube left the table",
}


def headline(summary: EvaluationSummary) -> str:
    """``83 of 100 successes: 83 % (95 % interval 74 to 89 %)``."""
    if summary.rate is None or summary.interval is None:
        return f"no episode of {summary.planned}"
    low, high = summary.interval
    text = f"{summary.successes} of {summary.episodes} successes: {_percent(summary.rate)}"
    return f"{text} (95 % interval {100 * low:.0f} to {_percent(high)})"


def outcome_rows(summary: EvaluationSummary) -> Rows:
    """Successes, failures by reason, times, distances."""
    rows: Rows = [("outcome", "episodes", "")]
    rows.append(("success", str(summary.successes), "")) if summary.episodes else None
    for reason, count in summary.failures.items():
        rows.append((reason, str(count), MEANINGS.get(reason, "")))
    times = f"median {_number(summary.time_p50_s)} s, 90th percentile {_number(summary.time_p90_s)} s"
    rows.append(("time to success", "", times if summary.time_p50_s is not None else NONE))
    if summary.distance_p50_m is not None:
        failed = summary.failed_distance_p50_m
        of_failures = "" if failed is None else f"; of failures {1e2 * failed:.1f} cm"
        rows.append(("distance at the end", "", f"median {1e2 * summary.distance_p50_m:.1f} cm{of_failures}"))
    return rows


def continuity_rows(summary: EvaluationSummary) -> Rows:
    """How continuous the motion was."""
    stalled = NONE if summary.stalled_share is None else _percent(summary.stalled_share, 1)
    return [
        ("", "", "good"),
        ("chunks, hand-overs", f"{summary.chunks}, {summary.handovers}", ""),
        ("observations refused", _counts(summary.refused), "none"),
        ("chunks not executed", _counts(summary.rejected), "none"),
        (
            "control ticks without a target",
            f"{summary.stalled_ticks} of {summary.ticks} ({stalled})",
            "only at a start",
        ),
        ("control ticks missed", str(summary.ticks_missed), "0"),
        ("control ticks late, 99 % within", f"{_number(summary.jitter_p99_ms)} ms (worst episode)", "5 ms"),
        (
            "jump between chunks [rad or m]",
            f"median {_number(summary.jump_p50, 4)}, p95 {_number(summary.jump_p95, 4)}, "
            f"max {_number(summary.jump_max, 4)}",
            "small against one step of the motion",
        ),
        ("acceleration at hand-overs over that inside chunks", _number(summary.seam_ratio), "1 or less"),
        (
            "control ticks per inference",
            f"median {_number(summary.delay_ticks_p50, 0)}, most {_number(summary.delay_ticks_max, 0)}",
            "well below the length of a chunk",
        ),
    ]


def latency_rows(summary: EvaluationSummary) -> Rows:
    """Stages of a chunk in ms."""
    rows: Rows = [("stage", "p50", "p95", "max")]
    for name, spread in summary.latency.items():
        rows.append((name, f"{spread.p50_ms:.1f}", f"{spread.p95_ms:.1f}", f"{spread.max_ms:.1f}"))
    if AGE in summary.latency:
        rows.append((f"({AGE}: in ROS time; all else in the time of a clock on the wall)", "", "", ""))
    return rows


def fact_rows(run: Mapping[str, Mapping[str, Any]]) -> Rows:
    """Command, versions and setting of ``read_run``."""
    rows: Rows = [("", "")]
    for name, value in {**run["facts"], **run["setting"]}.items():
        words = name.replace("_", " ")
        if isinstance(value, Mapping):
            rows += [(f"{words}: {inner}", _text(given)) for inner, given in value.items()]
        else:
            rows.append((words, _text(value)))
    return rows


def _text(value: Any) -> str:
    return NONE if value in (None, "") else str(value)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "0"


def _number(value: float | None, digits: int = 2) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def _percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f} %"
