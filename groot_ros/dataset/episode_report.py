"""What is noted about an episode beside its rows: ``meta/recording/episode_000000.json``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groot_ros.dataset.spec import FLAG_REPEATED, FLAG_SALVAGED, DatasetSpec

# A step from sample to sample is a gap when it is longer than so many usual ones. Two happen without a lost message,
# where a camera and the grid have the same rate and drift past each other.
_GAP = 2.5


@dataclass(frozen=True)
class StreamTiming:
    """How one stream was sampled.

    Attributes:
        age_mean_ms, age_max_ms: from the stamp of the sample used to the row's time.
        repeats: rows with the sample of the row before.
        gaps: steps between samples used longer than 2.5 times the median step.
    """

    age_mean_ms: float
    age_max_ms: float
    repeats: int
    gaps: int


@dataclass(frozen=True)
class EpisodeReport:
    """One episode.

    Attributes:
        index: in the dataset; None before the commit.
        task: its text.
        rows: rows, and frames of every camera.
        fps: of the dataset.
        start_ns, end_ns: ROS time of the first and the last row.
        streams: stream -> timing.
        repeated_rows: rows that repeat the one before after a refused tick (drop policy ``flag``).
        salvaged: taken over from an aborted recording.
        intervention_rows: rows in which a person commanded.
        constant: numbers of state and action that never change; GR00T's normalisation has no range for them.
        cameras: video key -> frames, queue_peak (pictures waiting for the encoder), bytes of the video.
        more: what the recorder adds: source, refusals by reason.
    """

    index: int | None
    task: str
    rows: int
    fps: int
    start_ns: int
    end_ns: int
    streams: Mapping[str, StreamTiming]
    repeated_rows: int
    salvaged: bool
    intervention_rows: int
    constant: Sequence[str]
    cameras: Mapping[str, Mapping[str, int]]
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def duration_s(self) -> float:
        """Length of the episode when played."""
        return self.rows / self.fps

    def at(self, index: int) -> EpisodeReport:
        """The same at its place in the dataset."""
        return dataclasses.replace(self, index=index)

    def to_json(self) -> dict[str, Any]:
        """For the sidecar file."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EpisodeReport:
        """Inverse of ``to_json``."""
        streams = {name: StreamTiming(**timing) for name, timing in data["streams"].items()}
        return cls(**{**data, "streams": streams})


def report(
    spec: DatasetSpec,
    rows: NDArray[np.void],
    task: str,
    cameras: Mapping[str, Mapping[str, int]],
    more: Mapping[str, Any],
) -> EpisodeReport:
    """Look through rows [N >= 1] of ``spec.row_dtype``."""
    names = [f"state {name}" for name in spec.state_names] + [f"action {name}" for name in spec.action_names]
    numbers = np.concatenate([rows["state"], rows["action"]], axis=1)
    still = (numbers == numbers[0]).all(axis=0)
    samples = rows["stamp_ns"][:, None] - rows["age_ns"]
    return EpisodeReport(
        index=None,
        task=task,
        rows=len(rows),
        fps=spec.fps,
        start_ns=int(rows["stamp_ns"][0]),
        end_ns=int(rows["stamp_ns"][-1]),
        streams={
            name: _timing(samples[:, column], rows["age_ns"][:, column]) for column, name in enumerate(spec.streams)
        },
        repeated_rows=int(np.count_nonzero(rows["flags"] & FLAG_REPEATED)),
        salvaged=bool(np.any(rows["flags"] & FLAG_SALVAGED)),
        intervention_rows=int(np.count_nonzero(rows["intervention"])),
        constant=[name for name, constant in zip(names, still) if constant],
        cameras={key: dict(camera) for key, camera in cameras.items()},
        more=dict(more),
    )


def _timing(samples_ns: NDArray[np.int64], ages_ns: NDArray[np.int64]) -> StreamTiming:
    steps = np.diff(samples_ns)
    moved = steps[steps > 0]
    return StreamTiming(
        age_mean_ms=round(float(ages_ns.mean()) / 1e6, 3),
        age_max_ms=round(float(ages_ns.max()) / 1e6, 3),
        repeats=int(np.count_nonzero(steps == 0)),
        gaps=int(np.count_nonzero(moved > _GAP * np.median(moved))) if len(moved) else 0,
    )
