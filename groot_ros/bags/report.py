"""What a replay found, as numbers that go into a JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from groot_ros.policy.base import Chunk


@dataclass(frozen=True)
class Spread:
    """Distribution of a number; all None where there was no sample."""

    count: int
    min: float | None
    p50: float | None
    p95: float | None
    max: float | None


def spread(values: ArrayLike) -> Spread:
    """Minimum, median, 95th percentile (interpolated) and maximum."""
    array = np.asarray(values, dtype=np.float64)
    if not array.size:
        return Spread(0, None, None, None, None)
    low, p50, p95, high = (float(value) for value in np.percentile(array, [0, 50, 95, 100]))
    return Spread(int(array.size), low, p50, p95, high)


@dataclass(frozen=True)
class StreamReport:
    """One stream.

    Attributes:
        topic: its topic.
        messages: read from the bag.
        rejected: of these, refused by the assembler, by reason.
        rate_hz: by header stamps; None for fewer than two messages.
        age_s: from the newest used sample's stamp to the tick, over accepted ticks.
        delay_s: from header stamp to log time, over messages.
    """

    topic: str
    messages: int
    rejected: dict[str, int]
    rate_hz: float | None
    age_s: Spread
    delay_s: Spread


@dataclass(frozen=True)
class JointError:
    """Predicted minus recorded position of one joint, in ``unit``, at the points that would have been executed."""

    joint: str
    unit: str
    count: int
    mean_abs: float
    p95_abs: float
    max_abs: float


def joint_errors(joints: Sequence[str], differences: ArrayLike) -> list[JointError]:
    """From differences [N, J] in rad; rows with NaN (nothing recorded for that time) are left out."""
    array = np.abs(np.asarray(differences, dtype=np.float64).reshape(-1, len(joints)))
    array = array[np.isfinite(array).all(axis=1)]
    if not len(array):
        return []
    return [
        JointError(
            joint,
            "rad",
            len(column),
            float(column.mean()),
            float(np.percentile(column, 95)),
            float(column.max()),
        )
        for joint, column in zip(joints, array.T, strict=True)
    ]


@dataclass(frozen=True)
class ReplayedChunk:
    """A chunk, the tick (ns of the bag's clock) for which it was made, and the wall time of ``act``."""

    tick_ns: int
    latency_s: float
    ages_s: Mapping[str, float]
    chunk: Chunk


@dataclass(frozen=True)
class ReplayReport:
    """Result of a replay.

    Attributes:
        bag: path.
        embodiment: name.
        duration_s: of the bag.
        every_s: time between ticks.
        ticks: observations asked for.
        refused: of these, refused, by reason.
        refusal_messages: reason -> first message.
        streams: per stream.
        chunks: every chunk, in order.
        latency_s: wall time of ``act``, the host's work on the next observation beside it.
        stages_s: stage -> its time within ``act``.
        instructions: (ns, text) of every instruction used, first use only.
        command_errors: against the recorded commands; empty where the bag has none.
        state_errors: against the joint states recorded at the points' due times.
        commands: recorded command messages, and those of them that a trajectory controller refuses.
        notices: what the policy had to tell, at its start and in the run.
    """

    bag: str
    embodiment: str
    duration_s: float
    every_s: float
    ticks: int
    refused: dict[str, int]
    refusal_messages: dict[str, str]
    streams: dict[str, StreamReport]
    chunks: list[ReplayedChunk]
    latency_s: Spread
    stages_s: dict[str, Spread]
    instructions: list[tuple[int, str]]
    command_errors: list[JointError]
    state_errors: list[JointError]
    commands: tuple[int, int]
    notices: Sequence[str] = ()

    def to_dict(self) -> dict[str, object]:
        """Plain lists, texts and numbers."""
        return {
            "bag": self.bag,
            "embodiment": self.embodiment,
            "notices": list(self.notices),
            "duration_s": self.duration_s,
            "every_s": self.every_s,
            "ticks": {"total": self.ticks, "accepted": len(self.chunks), "refused": self.refused},
            "refusal_messages": self.refusal_messages,
            "streams": {name: asdict(stream) for name, stream in self.streams.items()},
            "latency_s": asdict(self.latency_s),
            "stages_s": {stage: asdict(times) for stage, times in self.stages_s.items()},
            "instructions": [{"time_ns": time_ns, "text": text} for time_ns, text in self.instructions],
            "commands": {"messages": self.commands[0], "refused": self.commands[1]},
            "error_to_commands": [asdict(error) for error in self.command_errors],
            "error_to_states": [asdict(error) for error in self.state_errors],
            "chunks": [_chunk_dict(chunk) for chunk in self.chunks],
        }

    def to_json(self, path: str | Path) -> None:
        """Write ``to_dict`` to ``path``. Raises OSError."""
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        Path(path).write_text(text + "\n", encoding="utf-8")


def _chunk_dict(item: ReplayedChunk) -> dict[str, object]:
    chunk = item.chunk
    return {
        "tick_ns": item.tick_ns,
        "stamp_ns": chunk.stamp_ns,
        "dt_s": chunk.dt_s,
        "instruction": chunk.instruction,
        "seed": chunk.seed,
        "latency_s": item.latency_s,
        "ages_s": dict(item.ages_s),
        "timings_s": dict(chunk.timings_s),
        # float32 needs nine digits to come back as it was; rounding keeps the file readable
        "actions": {key: np.round(rows.astype(np.float64), 6).tolist() for key, rows in chunk.actions.items()},
    }
