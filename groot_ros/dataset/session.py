"""One recorder without ROS: messages and requests in, rows of episodes out.

All decisions about what is recorded are here. Time is passed in, and which messages a tick sees depends on their
order, stamps and arrival times only: the same messages give the same rows, whether a timer or the messages drive the
session, live or from a bag.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.grid import Grid
from groot_ros.dataset.interventions import Interventions
from groot_ros.dataset.segment import Segment, Tick
from groot_ros.dataset.session_episode import Episode
from groot_ros.dataset.session_inputs import SessionInputs
from groot_ros.dataset.session_types import (
    DROP_POLICIES,
    Answer,
    DropPolicy,
    Finished,
    RowWriter,
    SessionEvent,
    SessionQuality,
    SessionState,
    clock_jumped,
    encoders_behind,
    no_task,
    refused,
    writer_failed,
)
from groot_ros.dataset.spec import DatasetSpec
from groot_ros.embodiment.schema import Embodiment
from groot_ros.observation.types import Reason, Refusal

# A tick is settled no earlier than this after its time: commands travel too.
_EARLIEST_NS = 20_000_000
_MOST_EVENTS = 100
_RUNNING = (SessionState.WAITING, SessionState.RECORDING)


class Session:
    """Records episodes of one robot.

    One thread at a time. All times are integer nanoseconds of the ROS clock.

    Args:
        spec: of the dataset.
        embodiment: the robot.
        sink: task -> writer of a new segment, which becomes an episode of the dataset; raises DatasetError when there
            can be none.
        drop: what a tick without complete samples does to the running episode: ``fail`` aborts it, ``split`` ends the
            segment and begins another, ``flag`` repeats the last row and flags it.
        settle_s: how long a tick waits until all streams are past it, 0.02 to 0.4 s. So long this process may be kept
            from taking messages without loss.
        min_rows: shorter segments are dropped (aborted and counted), unless the episode has no other; 1 s if left out.
        max_flagged_s: ``flag``: how long rows may repeat until the episode is aborted after all.

    Raises:
        DatasetError: nothing says an action key.
        ValueError: ``drop`` is none of the three, or ``settle_s`` too long.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        embodiment: Embodiment,
        sink: Callable[[str], RowWriter],
        *,
        drop: DropPolicy = "fail",
        settle_s: float = 0.3,
        min_rows: int | None = None,
        max_flagged_s: float = 1.0,
    ) -> None:
        if drop not in DROP_POLICIES:
            raise ValueError(f"drop: expected {', '.join(DROP_POLICIES)}, found {drop!r}")
        if not 0.02 <= settle_s <= 0.4:
            raise ValueError(f"settle_s: expected 0.02 to 0.4 s, found {settle_s:g}")
        self._spec, self._sink, self._drop = spec, sink, drop
        self._settle_ns = round(settle_s * 1e9)
        self._min_rows = spec.fps if min_rows is None else min_rows
        self._max_flagged = round(max_flagged_s * spec.fps)
        self._inputs = SessionInputs(embodiment)
        commanded = self._inputs.commanded
        self._from_next = commanded.from_next if commanded.next_state else None
        self._now_ns: int | None = None
        self._state, self._aborted = SessionState.IDLE, 0
        self._message, self._reason = "", ""
        self._events: deque[SessionEvent] = deque(maxlen=_MOST_EVENTS)
        self._interventions = Interventions()
        self._grid = Grid(spec.fps)
        self._new_episode("")

    # --- what comes in -----------------------------------------------------------------------------------------------

    @property
    def sources(self) -> dict[str, tuple[str, str]]:
        """Source -> topic and message type of all that ``take`` wants: streams, then commands.

        Commands are called ``command:`` and the output's name, or ``record:`` and the action key. One topic may be
        that of several sources.
        """
        return self._inputs.sources

    def take(self, source: str, message: Any, now_ns: int) -> Refusal | None:
        """Take one message of ``source`` (a key of ``sources``) that arrived at ``now_ns``.

        Returns: why the message was refused, if it was.
        Raises: KeyError for an unknown source.
        """
        now_ns = self.advance(now_ns)
        recording = self._episode.segment is not None
        refusal = self._inputs.take(source, message, now_ns, recording=recording)
        if refusal is None and source in self._inputs.commanded.sources and self._state is not SessionState.IDLE:
            self._episode.first_commands.setdefault(source, now_ns)
        self._settle(now_ns)  # the message may be what the next tick waits for
        return refusal

    def advance(self, now_ns: int) -> int:
        """Settle all ticks that are due. To be called as time goes by, with and without messages.

        Returns: the time that counts: not before that of an earlier call, as threads may differ by a little.
        """
        if self._now_ns is not None and now_ns < self._now_ns:
            if self._now_ns - now_ns <= self._settle_ns:
                return self._now_ns
            self.time_jump(now_ns)
        self._now_ns = now_ns
        self._settle(now_ns)
        return now_ns

    def time_jump(self, now_ns: int) -> None:
        """The clock jumped to ``now_ns``: samples and commands are forgotten, a running segment ends by the policy."""
        before_ns = now_ns if self._now_ns is None else self._now_ns
        if self._state in _RUNNING:
            refusal = clock_jumped(now_ns - before_ns)
            self._episode.refused[refusal.reason.value] += 1
            if self._drop == "split":
                self._split(before_ns, refusal)
            else:
                self._abort(before_ns, refusal)
        self._inputs.reset(now_ns)
        self._episode.first_commands.clear()
        self._interventions.forget_times()
        self._now_ns = now_ns
        self._grid.restart(now_ns)

    # --- requests ----------------------------------------------------------------------------------------------------

    @property
    def state(self) -> SessionState:
        """What it does with the next tick."""
        return self._state

    @property
    def message(self) -> str:
        """What is being waited for, or why the last episode was aborted; empty when all is well."""
        return self._message

    @property
    def reason(self) -> str:
        """The ``Reason`` of ``message`` by its value; empty where it has none."""
        return self._reason

    def start(self, task: str, now_ns: int, *, wait: bool = False) -> Answer:
        """Begin an episode: its first row is the first complete tick after every command's first message from now.

        Args:
            task: what is demonstrated, in words.
            wait: begin although streams are missing, and wait for them.
        """
        now_ns = self.advance(now_ns)
        task = task.strip()
        if self._state is not SessionState.IDLE:
            return Answer(False, f"an episode is {self._state.value} already: save or discard it first")
        if not task:
            return refused(no_task())
        refusal = None if wait else self._inputs.not_ready(now_ns)
        if refusal is not None:
            return refused(refusal)
        self._new_episode(task)
        try:
            self._episode.prepare()
        except DatasetError as error:
            self._new_episode("")
            return refused(writer_failed(str(error)))
        self._enter(SessionState.WAITING, "waiting for the first complete tick")
        self._grid.restart(now_ns)
        return Answer(True, f"episode started: {task}")

    def save(self, now_ns: int) -> tuple[Answer, list[Finished]]:
        """End the episode. Returns: the answer, and what is to be sealed and committed, in order."""
        now_ns = self.advance(now_ns)
        if self._state is SessionState.IDLE:
            return self._no_episode("save"), []
        if not self._episode.rows:
            lost = f" ({self._episode.dropped} segments dropped)" if self._episode.dropped else ""
            why = self._message or "its first tick is not settled"
            return Answer(False, f"nothing is recorded yet{lost}: {why}; wait, or discard the episode"), []
        self._episode.end_segment(now_ns, self._report())
        finished = self._episode.close(now_ns)
        rows, dropped = self._episode.rows, self._episode.dropped
        self._go_idle("")
        text = f"{rows} rows, {rows / self._spec.fps:.2f} s, {len(finished)} segments, {dropped} dropped"
        return Answer(True, text), finished

    def discard(self, now_ns: int) -> Answer:
        """Throw the episode away."""
        self.advance(now_ns)
        if self._state is SessionState.IDLE:
            return self._no_episode("discard")
        rows = self._episode.rows
        self._episode.discard()
        self._go_idle("")
        return Answer(True, f"{rows} rows discarded")

    def abandon(self, why: str, now_ns: int) -> Answer:
        """Abort the episode because the recorder ends; what is recorded can be salvaged."""
        now_ns = self.advance(now_ns)
        if self._state is SessionState.IDLE:
            return self._no_episode("abort")
        self._abort(now_ns, Refusal(Reason.RECORDER_ENDED, "recorder", why))
        return Answer(True, self._message)

    def pause(self, on: bool, now_ns: int) -> Answer:
        """End the segment (True), or begin the next one (False)."""
        now_ns = self.advance(now_ns)
        if self._state is SessionState.IDLE:
            return self._no_episode("pause" if on else "resume")
        if on == (self._state is SessionState.PAUSED):
            return Answer(True, "paused already" if on else "not paused")
        if on:
            self._episode.end_segment(now_ns, self._report())
            self._enter(SessionState.PAUSED, "paused")
            return Answer(True, f"paused after {self._episode.rows} rows")
        self._enter(SessionState.WAITING, "waiting for the next complete tick")
        self._episode.failures = 0
        self._grid.restart(now_ns)
        return Answer(True, "resumed")

    def intervention(self, on: bool, now_ns: int) -> Answer:
        """Mark the rows from now on as commanded by a person, or no longer."""
        now_ns = self.advance(now_ns)
        self._interventions.mark(on, now_ns)
        return Answer(True, "intervention marked" if on else "intervention over")

    def events(self) -> list[SessionEvent]:
        """What happened since the last call, the newest 100."""
        events = list(self._events)
        self._events.clear()
        return events

    def quality(self, now_ns: int) -> SessionQuality:
        """How the recording goes, as of ``now_ns``."""
        episode = self._episode
        return SessionQuality(
            state=self._state,
            task=episode.task,
            message=self._message,
            reason=self._reason,
            rows=episode.rows,
            duration_s=episode.rows / self._spec.fps,
            segments=len(episode.finished) + (episode.segment is not None),
            dropped_segments=episode.dropped,
            flagged=episode.flagged,
            refused=dict(episode.refused),
            aborted=self._aborted,
            intervention=self._interventions.now,
            spread_s=self._inputs.spread_s,
            streams=self._inputs.qualities(now_ns, self._gaps_before),
            encoders=dict(episode.writer.health()) if episode.writer is not None else {},
        )

    # --- ticks -------------------------------------------------------------------------------------------------------

    def _settle(self, now_ns: int) -> None:
        """All ticks that nothing more can change, or that have waited long enough."""
        while self._state in _RUNNING:
            tick_ns = self._grid.next_ns
            passed = self._inputs.passed(tick_ns) and now_ns >= tick_ns + _EARLIEST_NS
            if not passed and now_ns < tick_ns + self._settle_ns:
                return
            self._grid.step()
            self._tick(tick_ns, now_ns)

    def _tick(self, tick_ns: int, now_ns: int) -> None:
        tick = self._complete(tick_ns)
        segment = self._episode.segment
        if isinstance(tick, Refusal):
            if segment is None:
                self._wait(tick_ns, now_ns, tick)
            else:
                self._drop_tick(tick_ns, tick, segment, segment.skip)
            return
        if segment is None:
            watches = [self._inputs.watches[camera.camera] for camera in self._spec.cameras.values()]
            if self._grid.align(tick_ns, [(watch.recent_ns, watch.spec.rate_hz) for watch in watches]):
                return
            segment = self._begin_segment(tick_ns)
        if segment is not None and not segment.put(tick):
            problem = segment.writer.problem
            refusal = encoders_behind(segment.writer) if problem is None else writer_failed(problem)
            self._drop_tick(tick_ns, refusal, segment, segment.repeat)
        elif self._state is SessionState.RECORDING:
            self._enter(SessionState.RECORDING)

    def _complete(self, tick_ns: int) -> Tick | Refusal:
        """Everything for one row, or why there is none."""
        writer = self._episode.writer
        if writer is not None and writer.problem is not None:
            return writer_failed(writer.problem)
        at_start = self._episode.segment is None
        found = self._inputs.at(tick_ns, at_start)
        if isinstance(found, Refusal):
            return found
        missing = self._episode.missing_command(self._inputs.commanded.sources, tick_ns) if at_start else None
        if missing is not None:
            return missing
        return Tick(tick_ns, *found, self._interventions.at(tick_ns))

    def _wait(self, tick_ns: int, now_ns: int, refusal: Refusal) -> None:
        self._enter(self._state, refusal.message, refusal)
        if refusal.reason is Reason.WRITER_FAILED:
            self._give_up(tick_ns, refusal)
            return
        # So long after the last message no tick is complete: an idle hour costs nothing.
        last_ns = now_ns - self._settle_ns
        arrived_ns = self._inputs.arrived_ns
        if (arrived_ns is None or tick_ns > arrived_ns + self._inputs.dead_after_ns) and last_ns > tick_ns:
            self._grid.skip_to(last_ns)

    def _begin_segment(self, tick_ns: int) -> Segment | None:
        try:
            segment = self._episode.begin_segment(tick_ns, self._from_next)
        except DatasetError as error:
            self._give_up(tick_ns, writer_failed(str(error)))
            return None
        # Each segment counts its rows from its own first one.
        self._grid.restart(tick_ns, aligned=True)
        self._grid.step()
        self._state = SessionState.RECORDING
        return segment

    def _drop_tick(self, tick_ns: int, refusal: Refusal, segment: Segment, repeat: Callable[[], bool]) -> None:
        """A tick of a running segment cannot be recorded."""
        self._episode.refused[refusal.reason.value] += 1
        if self._drop == "split":
            self._split(tick_ns, refusal)
        elif self._drop == "flag" and segment.flagged_run < self._max_flagged and repeat():
            self._enter(self._state, refusal.message, refusal)
        else:
            self._abort(tick_ns, refusal)

    def _split(self, time_ns: int, refusal: Refusal) -> None:
        self._episode.end_segment(time_ns, self._report(), refusal)
        self._grid.restart(self._grid.next_ns)
        self._enter(SessionState.WAITING, refusal.message, refusal)
        enough = self._episode.enough
        if enough:
            self._give_up(time_ns, replace(refusal, message=f"{refusal.message}; {enough}"))

    def _give_up(self, time_ns: int, refusal: Refusal) -> None:
        """No segment can follow. What a session that splits has finished can still be saved."""
        if self._drop == "split" and self._episode.finished:
            self._episode.release()
            text = f"paused: {refusal.message}"
            self._episode.note(time_ns, "paused", text)
            self._enter(SessionState.PAUSED, text, refusal)
        else:
            self._abort(time_ns, refusal)

    def _abort(self, time_ns: int, refusal: Refusal) -> None:
        rows = self._episode.rows
        kept = ", kept for `groot-ros dataset salvage`" if rows else ""
        text = f"episode aborted after {rows} rows{kept}: {refusal.message}"
        self._episode.abort(time_ns, text)
        self._aborted += 1
        self._go_idle(text, refusal)

    # --- small parts -------------------------------------------------------------------------------------------------

    def _report(self) -> dict[str, Any]:
        return {"drop_policy": self._drop, **self._inputs.report(self._rejected_before)}

    def _no_episode(self, what: str) -> Answer:
        return Answer(False, f"no episode to {what}{': ' if self._message else ''}{self._message}")

    def _new_episode(self, task: str) -> None:
        self._episode = Episode(self._spec, self._sink, self._min_rows, self._events, task)
        self._gaps_before, self._rejected_before = self._inputs.gaps(), self._inputs.rejected()

    def _go_idle(self, message: str, refusal: Refusal | None = None) -> None:
        self._new_episode("")
        self._enter(SessionState.IDLE, message, refusal)

    def _enter(self, state: SessionState, message: str = "", refusal: Refusal | None = None) -> None:
        self._state, self._message = state, message
        self._reason = "" if refusal is None else refusal.reason.value
