"""The running episode of a session: its segments, finished, running or dropped, and what is counted about them."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groot_ros.dataset.commanded import CommandSource, Values
from groot_ros.dataset.segment import Segment
from groot_ros.dataset.session_types import EventKind, Finished, RowWriter, SessionEvent
from groot_ros.dataset.spec import DatasetSpec
from groot_ros.observation.types import Reason, Refusal

_MOST_FAILURES = 3  # segments in a row whose writer broke
_MOST_SEGMENTS = 200
# A robot that was gone for longer may have been restarted: what it was told before is not in force any more.
_GONE_NS = 1_000_000_000
NextStates = Callable[[Mapping[str, NDArray[np.float32]]], Values]


class Episode:
    """One episode, or none: an empty task.

    Args:
        spec: of the dataset.
        sink: task -> writer of a segment; raises DatasetError.
        min_rows: shorter segments are dropped, unless the episode has no other.
        events: where it notes what it does.
        task: what is demonstrated.

    Attributes:
        segment: the running one.
        finished: rows, writer and report of each finished segment.
        dropped: segments aborted as too short or with a broken writer.
        failures: segments in a row whose writer broke.
        first_commands: source -> arrival of its first message since the episode began, or since the robot was gone for
            more than a second (ROS ns).
        refused: reason -> refused ticks.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        sink: Callable[[str], RowWriter],
        min_rows: int,
        events: deque[SessionEvent],
        task: str = "",
    ) -> None:
        self._spec, self._sink, self._min_rows, self._events, self.task = spec, sink, min_rows, events, task
        self.segment: Segment | None = None
        self.finished: list[tuple[int, Finished]] = []
        self.dropped = self.failures = self._flagged = 0
        self.first_commands: dict[str, int] = {}
        self.refused: Counter[str] = Counter()
        self._prepared: RowWriter | None = None
        self._lost_ns: int | None = None  # since when no tick could be recorded

    def prepare(self) -> None:
        """Make the writer of the segment to come. Raises: DatasetError."""
        if self._prepared is None:
            self._prepared = self._sink(self.task)

    @property
    def writer(self) -> RowWriter | None:
        """That of the running segment or of the one to come."""
        return self.segment.writer if self.segment is not None else self._prepared

    @property
    def rows(self) -> int:
        """Of all segments that are not dropped."""
        return sum(rows for rows, _ in self.finished) + (self.segment.rows if self.segment is not None else 0)

    @property
    def flagged(self) -> int:
        """Rows that repeat the one before."""
        return self._flagged + (self.segment.flagged if self.segment is not None else 0)

    @property
    def enough(self) -> str:
        """Why no segment is to follow the finished ones; empty: one may."""
        if self.failures >= _MOST_FAILURES:
            return f"{self.failures} segments in a row could not be written"
        if len(self.finished) >= _MOST_SEGMENTS:  # each has files open
            return f"{len(self.finished)} segments wait: save the episode, and begin another one"
        return ""

    def begin_segment(self, time_ns: int, from_next: NextStates | None) -> Segment:
        """The segment whose first row is at ``time_ns``. Raises: DatasetError."""
        self.prepare()
        assert self._prepared is not None
        self.segment = Segment(self._spec, self._prepared, time_ns, from_next)
        self._prepared = None
        self.note(time_ns, "recording", f"recording: {self.task}")
        return self.segment

    def end_segment(self, time_ns: int, report: Mapping[str, Any], refusal: Refusal | None = None) -> None:
        """Finish the running segment, if there is one.

        Args:
            report: for the sidecar.
            refusal: why it ends, if not by request: then a short one is dropped.
        """
        segment, self.segment = self.segment, None
        if segment is None:
            return
        self._flagged += segment.flagged
        self._lost_ns = None if refusal is None else time_ns
        why = f" ({refusal.message})" if refusal is not None else ""
        broken = refusal is not None and refusal.reason is Reason.WRITER_FAILED
        self.failures = self.failures + 1 if broken else 0
        if not segment.rows and not broken:
            segment.writer.discard()
        elif broken or (refusal is not None and segment.rows < self._min_rows):
            self._drop(time_ns, segment.writer, segment.rows, why)
        else:
            ended_by = None if refusal is None else {"reason": refusal.reason.value, "message": refusal.message}
            more = {**report, "segment": len(self.finished) + self.dropped, "ended_by": ended_by}
            more["refused_ticks"] = dict(self.refused)
            self.finished.append((segment.rows, Finished(segment.writer, more)))
            segment.writer.end()
            self.note(time_ns, "segment", f"segment of {segment.rows} rows ended{why}")

    def close(self, time_ns: int) -> list[Finished]:
        """What is to be committed; the running segment has ended. Short segments are dropped if there are others."""
        self.release()
        if any(rows >= self._min_rows for rows, _ in self.finished):
            for rows, finished in self.finished:
                if rows < self._min_rows:
                    self._drop(time_ns, finished.writer, rows, "")
            self.finished = [(rows, finished) for rows, finished in self.finished if rows >= self._min_rows]
        return [finished for _, finished in self.finished]

    def discard(self) -> None:
        """Remove everything."""
        for writer in self._writers():
            writer.discard()

    def abort(self, time_ns: int, message: str) -> None:
        """Leave everything for a salvage."""
        for writer in self._writers():
            writer.abort(message)
        self.note(time_ns, "aborted", message)

    def release(self) -> None:
        """Remove the writer of a segment to come, which has no rows."""
        if self._prepared is not None:
            self._prepared.discard()
            self._prepared = None

    def missing_command(self, sources: Mapping[str, CommandSource], time_ns: int) -> Refusal | None:
        """Which command has not come by ``time_ns``, of which all else is complete, since it was first waited for."""
        if self._lost_ns is not None and time_ns - self._lost_ns > _GONE_NS:
            self.first_commands.clear()
        self._lost_ns = None
        for name, source in sources.items():
            if self.first_commands.get(name, time_ns + 1) > time_ns:
                keys = ", ".join(f"action.{key}" for key in source.keys)
                text = f"{source.topic}: waiting for the first command for {keys} since the start or a gap"
                return Refusal(Reason.NO_COMMAND, name, text)
        return None

    def note(self, time_ns: int, kind: EventKind, message: str) -> None:
        """Add an event."""
        self._events.append(SessionEvent(time_ns, kind, message))

    def _drop(self, time_ns: int, writer: RowWriter, rows: int, why: str) -> None:
        self.dropped += 1
        text = f"segment of {rows} rows dropped, expected at least {self._min_rows}{why}"
        writer.abort(text)
        self.note(time_ns, "dropped", text)

    def _writers(self) -> list[RowWriter]:
        running = [self.writer] if self.writer is not None else []
        return [finished.writer for _, finished in self.finished] + running
