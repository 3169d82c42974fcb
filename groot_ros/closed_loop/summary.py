"""The numbers of a closed-loop run, out of the messages that were seen."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from groot_ros.msg import ActionChunk, PolicyStatus

WAITING = "sample age at start"


@dataclass(frozen=True)
class Spread:
    """Milliseconds over all chunks."""

    p50_ms: float
    p95_ms: float
    max_ms: float


@dataclass(frozen=True)
class Summary:
    """Chunks, refusals and where the time goes.

    Attributes:
        chunks: number of chunks published.
        chunk_rate_hz: chunks per second between the first and the last stamp.
        refused: ticks refused, by reason.
        model: time in ``model.sample``.
        overhead: newest stamp used -> published, minus ``model``.
        age_at_publish: newest stamp used -> published.
        stages: stage -> time; ``sample age at start`` is what had passed since the newest stamp when assembly began.
        points_trimmed_mean: points of a chunk that were past when it was published.
        clamped_share: share of sent values that the gate changed.
        machine: processor and system.
    """

    chunks: int
    chunk_rate_hz: float
    refused: dict[str, int]
    model: Spread
    overhead: Spread
    age_at_publish: Spread
    stages: dict[str, Spread]
    points_trimmed_mean: float
    clamped_share: float
    machine: str

    def write(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def summarize(chunks: Sequence[ActionChunk], status: PolicyStatus) -> Summary:
    """Sum up at least one chunk and the last status.

    Raises:
        ValueError: there is no chunk.
    """
    if not chunks:
        raise ValueError("no chunk to sum up")
    stamps_s = np.array([chunk.header.stamp.sec + 1e-9 * chunk.header.stamp.nanosec for chunk in chunks])
    ages_s = np.array([chunk.age_at_publish_s for chunk in chunks])
    stages_s = {
        name: np.array([chunk.stage_s[list(chunk.stage_names).index(name)] for chunk in chunks])
        for name in chunks[0].stage_names
    }
    before_s = ages_s - np.sum(list(stages_s.values()), axis=0)
    said = np.concatenate([np.asarray(chunk.model_actions) for chunk in chunks])
    sent = np.concatenate([np.asarray(chunk.gated_actions) for chunk in chunks])
    was_sent = np.isfinite(sent)
    changed = np.abs(sent[was_sent] - said[was_sent]) > 1e-6
    span_s = float(stamps_s[-1] - stamps_s[0])
    return Summary(
        chunks=len(chunks),
        chunk_rate_hz=(len(chunks) - 1) / span_s if span_s > 0 else 0.0,
        refused=dict(zip(status.refusal_reasons, [int(count) for count in status.refusal_counts], strict=True)),
        model=spread(np.array([chunk.model_s for chunk in chunks])),
        overhead=spread(np.array([chunk.overhead_s for chunk in chunks])),
        age_at_publish=spread(ages_s),
        stages={WAITING: spread(before_s), **{name: spread(values) for name, values in stages_s.items()}},
        points_trimmed_mean=float(np.mean([chunk.points_trimmed for chunk in chunks])),
        clamped_share=float(changed.mean()) if changed.size else 0.0,
        machine=machine_name(),
    )


def machine_name() -> str:
    """Processor, cores and system of this machine."""
    import os

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores, {platform.system()}"


def spread(values_s: np.ndarray) -> Spread:
    """Percentiles of at least one time (s)."""
    p50, p95 = np.percentile(values_s, [50.0, 95.0])
    return Spread(1e3 * float(p50), 1e3 * float(p95), 1e3 * float(values_s.max()))
