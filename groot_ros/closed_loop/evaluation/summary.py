"""The numbers of an evaluation, out of its episodes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from groot_ros.closed_loop.evaluation.record import AGE, Episode
from groot_ros.closed_loop.summary import Spread, spread

CONFIDENCE = 0.95


@dataclass(frozen=True)
class EvaluationSummary:
    """None: there is nothing to tell.

    Attributes:
        planned: episodes that were asked for.
        rate: share of successes.
        interval: Wilson's 95 % confidence interval of ``rate``.
        time_p50_s, time_p90_s: ROS time to success, over the successes.
        failures: reason -> episodes, most frequent first.
        distance_p50_m: at the end, over all episodes; failed_distance_p50_m: over the failures.
        refused, rejected: reason -> ticks refused, chunks not executed.
        stalled_share: of control ticks, without a planned target.
        seam_ratio: median over episodes; jitter_p99_ms: of the worst one; each over the last minute at its end.
        latency: stage -> milliseconds over all chunks.
    """

    planned: int
    episodes: int
    successes: int
    rate: float | None
    interval: tuple[float, float] | None
    time_p50_s: float | None
    time_p90_s: float | None
    failures: dict[str, int]
    distance_p50_m: float | None
    failed_distance_p50_m: float | None
    chunks: int
    handovers: int
    refused: dict[str, int]
    rejected: dict[str, int]
    ticks: int
    ticks_missed: int
    stalled_ticks: int
    stalled_share: float | None
    jump_p50: float | None
    jump_p95: float | None
    jump_max: float | None
    seam_ratio: float | None
    delay_ticks_p50: float | None
    delay_ticks_max: float | None
    jitter_p99_ms: float | None
    latency: dict[str, Spread]

    @property
    def complete(self) -> bool:
        """All episodes that were asked for were played."""
        return self.episodes >= self.planned


def wilson(successes: int, trials: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of a rate, from 0 to 1. Raises: ValueError without trials."""
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"expected 0 <= successes <= trials and a trial, found {successes} of {trials}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate, scale = successes / trials, 1.0 + z * z / trials
    middle = (rate + z * z / (2 * trials)) / scale
    half = z / scale * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    # At the ends the formula is exact, its rounding is not.
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    high = 1.0 if successes == trials else min(1.0, middle + half)
    return low, high


def summarize_episodes(episodes: Sequence[Episode], planned: int) -> EvaluationSummary:
    """Sum up any number of episodes."""
    successes = [episode for episode in episodes if episode.success]
    failures = [episode for episode in episodes if not episode.success]
    times = _percentiles([episode.time_s for episode in successes], 50, 90)
    jumps = _percentiles([jump for episode in episodes for jump in episode.jumps], 50, 95, 100)
    delays = _percentiles([ticks for episode in episodes for ticks in episode.delay_ticks], 50, 100)
    jitters = [episode.jitter_p99_ms for episode in episodes if episode.jitter_p99_ms is not None]
    ticks = sum(episode.ticks for episode in episodes)
    stalled = sum(episode.stalled_ticks for episode in episodes)
    reasons = Counter(episode.reason for episode in failures)
    return EvaluationSummary(
        planned=planned,
        episodes=len(episodes),
        successes=len(successes),
        rate=len(successes) / len(episodes) if episodes else None,
        interval=wilson(len(successes), len(episodes)) if episodes else None,
        time_p50_s=times[0],
        time_p90_s=times[1],
        failures=dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        distance_p50_m=_percentiles([episode.distance_m for episode in episodes], 50)[0],
        failed_distance_p50_m=_percentiles([episode.distance_m for episode in failures], 50)[0],
        chunks=sum(episode.chunks for episode in episodes),
        handovers=sum(episode.handovers for episode in episodes),
        refused=_total(episode.refused for episode in episodes),
        rejected=_total(episode.rejected for episode in episodes),
        ticks=ticks,
        ticks_missed=sum(episode.ticks_missed for episode in episodes),
        stalled_ticks=stalled,
        stalled_share=stalled / ticks if ticks else None,
        jump_p50=jumps[0],
        jump_p95=jumps[1],
        jump_max=jumps[2],
        seam_ratio=_percentiles([episode.seam_ratio for episode in episodes], 50)[0],
        delay_ticks_p50=delays[0],
        delay_ticks_max=delays[1],
        jitter_p99_ms=max(jitters, default=None),
        latency=_latency(episodes),
    )


def summary_content(summary: EvaluationSummary, run: dict[str, Any], episodes: Sequence[Episode]) -> dict[str, Any]:
    """Of report.json: the numbers, the run, and the episodes without what is per chunk."""
    per_chunk = {"jumps", "delay_ticks", "latency_ms"}
    rows = [{name: value for name, value in asdict(e).items() if name not in per_chunk} for e in episodes]
    return {"summary": asdict(summary) | {"complete": summary.complete}, "run": run, "episodes": rows}


def _latency(episodes: Sequence[Episode]) -> dict[str, Spread]:
    pooled: dict[str, list[float]] = {}
    for episode in episodes:
        for name, values in episode.latency_ms.items():
            pooled.setdefault(name, []).extend(values)
    pooled[AGE] = pooled.pop(AGE, [])  # the sum comes last
    return {name: spread(1e-3 * np.array(values)) for name, values in pooled.items() if values}


def _total(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(total.most_common())


def _percentiles(values: Iterable[float | None], *which: int) -> tuple[float | None, ...]:
    known = [value for value in values if value is not None]
    if not known:
        return (None,) * len(which)
    return tuple(float(value) for value in np.percentile(np.array(known, np.float64), which))
