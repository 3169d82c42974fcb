"""What a recording session says, and what it needs of whatever writes its rows."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from groot_ros.observation.images import Frame
from groot_ros.observation.types import Reason, Refusal

DropPolicy = Literal["fail", "split", "flag"]
EventKind = Literal["recording", "segment", "dropped", "paused", "aborted"]
DROP_POLICIES: tuple[DropPolicy, ...] = ("fail", "split", "flag")


class RowWriter(Protocol):
    """One episode that is being written; ``writer.EpisodeWriter`` is one."""

    @property
    def rows(self) -> int:
        """Rows taken so far."""

    @property
    def problem(self) -> str | None:
        """Why it cannot go on, in one sentence."""

    def add(self, row: NDArray[np.void], frames: Mapping[str, Frame | None]) -> bool:
        """Take one row of ``DatasetSpec.row_dtype`` and its frame per video key, None to repeat the last one.

        Returns: False when an encoder is behind; then nothing was taken. Never waits.
        """

    def health(self) -> Mapping[str, Any]:
        """Video key -> state of its encoder."""

    def end(self) -> None:
        """There are no more rows: its threads may end when they are through. Does not wait."""

    def abort(self, reason: str) -> None:
        """End it unfinished; what it has can be salvaged."""

    def discard(self) -> None:
        """Remove it."""


class SessionState(enum.Enum):
    """What a session does with the next tick of its grid."""

    IDLE = "idle"
    WAITING = "waiting"  # for the first complete tick of an episode or of its next segment
    RECORDING = "recording"
    PAUSED = "paused"


@dataclass(frozen=True)
class Answer:
    """Answer to a request.

    Attributes:
        ok: whether it was done.
        message: one sentence: what was done, or what was expected, what was found and what to do.
        refusal: what it was refused for, where that has a reason.
    """

    ok: bool
    message: str
    refusal: Refusal | None = None


@dataclass(frozen=True)
class Finished:
    """One finished segment, which becomes an episode of the dataset.

    Attributes:
        writer: to be sealed and committed.
        report: what ``writer.seal`` is to add to the episode's report; JSON.
    """

    writer: RowWriter
    report: Mapping[str, Any]


@dataclass(frozen=True)
class SessionEvent:
    """Something that the session did by itself.

    Attributes:
        time_ns: grid time of the tick, or time of the request (ROS time).
        kind: ``recording`` (a segment's first row), ``segment`` (it ended), ``dropped`` (it was too short), ``paused``
            (nothing more can be written) or ``aborted``.
        message: one sentence.
    """

    time_ns: int
    kind: EventKind
    message: str


@dataclass(frozen=True)
class StreamQuality:
    """One camera, state stream or source of commands.

    Attributes:
        topic: as in the YAML.
        rate_hz: over the last second of its samples by header stamps; 0 when too few; None for commands.
        expected_hz: ``rate_hz`` of the YAML; None for commands.
        age_s: time since its newest good sample; infinite before the first.
        max_age_s: oldest that is used; None: in force until replaced.
        gaps: times between two samples that were longer than ``max_age_s``, since the episode began.
        received, rejected, overflow: messages since the session was made.
        frozen: a camera whose picture has stood still for ``frozen_after_s``.
    """

    topic: str
    rate_hz: float | None
    expected_hz: float | None
    age_s: float
    max_age_s: float | None
    gaps: int
    received: int
    rejected: int
    overflow: int = 0
    frozen: bool = False


@dataclass(frozen=True)
class SessionQuality:
    """How the recording goes.

    Attributes:
        state: of the session.
        task: of the running episode; empty without one.
        message: what is being waited for, or why the last episode was aborted; empty when all is well.
        reason: the ``Reason`` of ``message`` by its value; empty where it has none.
        rows: of the running episode, all segments.
        duration_s: rows over fps.
        segments: finished or running ones of the episode.
        dropped_segments: that were too short, of the episode.
        flagged: rows of the episode that repeat the one before.
        refused: reason -> refused ticks of the episode, while recording.
        aborted: episodes aborted since the session was made.
        intervention: whether a person commands.
        spread_s: between the newest samples of all streams; NaN before all have one.
        streams: stream, then source of commands -> its quality.
        encoders: ``health`` of the writer.
    """

    state: SessionState
    task: str
    message: str
    reason: str
    rows: int
    duration_s: float
    segments: int
    dropped_segments: int
    flagged: int
    refused: Mapping[str, int]
    aborted: int
    intervention: bool
    spread_s: float
    streams: Mapping[str, StreamQuality] = field(default_factory=dict)
    encoders: Mapping[str, Any] = field(default_factory=dict)


def refused(refusal: Refusal) -> Answer:
    """A request was refused."""
    return Answer(False, refusal.message, refusal)


def no_task() -> Refusal:
    """An episode without a task."""
    text = "task: expected what is demonstrated, in words, found nothing, publish it on ~/task or set task"
    return Refusal(Reason.EMPTY_INSTRUCTION, "task", text)


def clock_jumped(step_ns: int) -> Refusal:
    """The clock went on by ``step_ns`` at once, or back."""
    text = (
        f"the clock: expected it to go on, found a jump of {1e-9 * step_ns:+.3f} s, leave simulated time and clock "
        "synchronisation alone while recording"
    )
    return Refusal(Reason.CLOCK_JUMPED, "clock", text)


def writer_failed(problem: str) -> Refusal:
    """What is recorded cannot be written."""
    return Refusal(Reason.WRITER_FAILED, "dataset", problem)


def encoders_behind(writer: RowWriter) -> Refusal:
    """The queue of an encoder is full."""
    text = (
        f"the encoders: expected room for the next pictures, found {dict(writer.health())}, record fewer or smaller "
        "pictures, or on a faster computer or GPU"
    )
    return Refusal(Reason.ENCODER_BEHIND, "encoder", text)
