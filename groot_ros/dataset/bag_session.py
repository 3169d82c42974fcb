"""One bag through the session of the live recorder, told the log times of the bag."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from groot_ros.bags.read import Bag, BagMessage
from groot_ros.bags.replay import MAX_CLOCK_DIFFERENCE_NS
from groot_ros.bags.topics import INSTRUCTION_TOPIC, BagError, absolute
from groot_ros.dataset import staged
from groot_ros.dataset.bag_events import STRING, EpisodeEvent, read_events
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.session import Session
from groot_ros.dataset.session_types import Answer, DropPolicy, Finished, SessionState
from groot_ros.dataset.spec import DatasetSpec
from groot_ros.dataset.staging import EpisodeWriter
from groot_ros.embodiment.schema import Embodiment
from groot_ros.observation.images import Frame
from groot_ros.observation.messages import stamp_ns
from groot_ros.observation.types import Refusal, Rejected

# Number of the bag, seconds of it that are done, seconds of it in all.
Progress = Callable[[int, float, float], None]

_MOST_MESSAGES = 200  # kept per bag
_MOST_SEGMENTS = 50  # that wait to be sealed
_PROGRESS_S = 0.5  # of the bag, between two calls
_ENCODER_POLL_S = 0.002


@dataclass(frozen=True)
class BagJob:
    """One bag and all that a process needs to convert it."""

    number: int
    bag: Path
    staging: Path
    embodiment: Embodiment
    task: str | None
    event_topic: str | None
    drop: DropPolicy | None
    min_rows: int | None
    codec: str
    min_free_bytes: int


@dataclass(frozen=True)
class SealedBag:
    """What a process hands back: sealed folders, in the order of the bag, and the rest of the outcome."""

    staged: tuple[Path, ...]
    messages: tuple[str, ...]
    rejected: Mapping[str, int]
    delay_ms: Mapping[str, float]
    error: str


def convert_bag(job: BagJob, progress: Progress) -> SealedBag:
    """One bag, to its end or to what stops it."""
    conversion = _BagConversion(job)
    error = ""
    try:
        with Bag(job.bag, job.embodiment) as bag:
            conversion.run(bag, progress)
    except (BagError, DatasetError) as failure:
        error = str(failure)
        conversion.leave(error)
    except BaseException:  # stopped by a person, or by a bug: nobody hears of its episodes any more
        conversion.remove()
        raise
    return conversion.sealed(error)


class _BagConversion:
    """A session that is told what is in a bag, and notes what it says."""

    def __init__(self, job: BagJob) -> None:
        self._job = job
        self._spec = DatasetSpec.of(job.embodiment)
        self._session: Session | None = None
        self._sources: frozenset[str] = frozenset()
        self._start_ns = self._now_ns = 0
        self._task, self._waiting = "", 0  # of the running episode; its segments that wait to be sealed
        self._staged: list[Path] = []
        self._failures: list[str] = []
        self._messages: list[str] = []
        self._rejected: dict[str, int] = {}
        self._delays_ns: dict[str, list[int]] = {}  # sum, count

    def run(self, bag: Bag, progress: Progress) -> None:
        """Read it all. Raises: BagError, DatasetError."""
        self._start_ns = self._now_ns = bag.start_ns
        events = read_events(bag, self._job.event_topic)
        by_events = events is not None
        drop = self._job.drop or ("fail" if by_events else "split")
        session = Session(self._spec, self._job.embodiment, self._writer, drop=drop, min_rows=self._job.min_rows)
        self._session, self._sources = session, frozenset(session.sources)
        self._check_commands(bag, session)
        if events is None:
            events = _by_instruction(bag, self._job)
        told_s = 0.0
        for item in bag.messages():
            while events and events[0].stamp_ns <= item.log_ns:
                self._apply(session, events.pop(0), by_events)
            self._take(session, item)
            if not by_events and self._waiting >= _MOST_SEGMENTS and session.state is SessionState.WAITING:
                # What has files open ends, and the episode goes on as another one.
                self._save(session, self._now_ns)
                session.start(self._task, self._now_ns, wait=True)
            done_s = 1e-9 * (item.log_ns - bag.start_ns)
            if done_s >= told_s + _PROGRESS_S:
                told_s = done_s
                progress(self._job.number, done_s, bag.duration_s)
        for event in events:
            self._apply(session, event, by_events)
        self._end(session, by_events)
        progress(self._job.number, bag.duration_s, bag.duration_s)

    def leave(self, why: str) -> None:
        """End a running episode because of an error; what it has can be salvaged."""
        if self._session is not None:
            self._session.abandon(why, self._now_ns)
            self._note_events(self._session)

    def remove(self) -> None:
        """Of what is not in the dataset: the bag still has it."""
        if self._session is not None:
            self._session.discard(self._now_ns)
        for path in self._staged:
            staged.remove(path)

    def sealed(self, error: str) -> SealedBag:
        """For the process that commits."""
        delay_ms = {name: round(total / count / 1e6, 3) for name, (total, count) in self._delays_ns.items() if count}
        errors = "; ".join([*self._failures, *([error] if error else [])])
        return SealedBag(tuple(self._staged), tuple(self._messages), self._rejected, delay_ms, errors)

    def _take(self, session: Session, item: BagMessage) -> None:
        self._now_ns = max(self._now_ns, item.log_ns)
        if item.source in self._sources:
            if item.source in self._job.embodiment.streams:
                self._look_at_clock(item)
            refusal = session.take(item.source, item.message, item.log_ns)
            if refusal is not None:
                self._count(item, refusal)
            self._note_events(session)

    def _look_at_clock(self, item: BagMessage) -> None:
        try:
            difference_ns = item.log_ns - stamp_ns(item.message, item.source, item.topic)
        except Rejected:
            return  # no stamp at all: the session refuses the message, and says so
        known = self._delays_ns.setdefault(item.source, [0, 0])
        if not known[1] and abs(difference_ns) > MAX_CLOCK_DIFFERENCE_NS:
            raise BagError(
                f"{self._job.bag}: {item.topic} was recorded {1e-9 * difference_ns:+.1f} s after its header stamp: two "
                "clocks; record simulated time with `ros2 bag record --use-sim-time`"
            )
        known[0] += difference_ns
        known[1] += 1

    def _apply(self, session: Session, event: EpisodeEvent, by_events: bool) -> None:
        self._now_ns = max(self._now_ns, event.stamp_ns)
        running = session.state is not SessionState.IDLE
        if event.kind == "start":
            if running and by_events:  # whoever granted that had none: a recorder that was killed says nothing
                session.abandon("the recorder began another one, so it had not gone on with this", event.stamp_ns)
            task = self._task = self._job.task or event.task or self._job.embodiment.language.default or ""
            # A bag may have begun only just before, and there is no second try.
            answer = session.start(task, event.stamp_ns, wait=True)
        elif event.kind == "save":
            answer = self._save(session, event.stamp_ns)
        elif event.kind == "discard":
            answer = session.discard(event.stamp_ns)
            if not running:
                return  # it was aborted here as it was there, which has been said
            self._note(event.stamp_ns, f"as in the recording, {answer.message}")
        elif event.kind == "intervention":
            answer = session.intervention(event.on, event.stamp_ns)
        else:
            answer = session.pause(event.kind == "pause", event.stamp_ns)
        self._note_events(session)
        if not answer.ok:
            self._note(event.stamp_ns, f"{event.kind} refused: {answer.message}")

    def _end(self, session: Session, by_events: bool) -> None:
        if by_events:
            if session.state is not SessionState.IDLE:
                session.abandon("the bag ended before the episode was saved", self._now_ns)
        elif session.state is SessionState.IDLE:
            self._failures.append(f"not converted to its end: {session.message}")
        else:
            if session.state is SessionState.WAITING:
                self._note(self._now_ns, f"no more rows until the end of the bag: {session.message}")
            answer = self._save(session, self._now_ns)
            if not answer.ok:
                self._note(self._now_ns, answer.message)
        self._note_events(session)

    def _save(self, session: Session, now_ns: int) -> Answer:
        """What is not saved now never is."""
        if session.state is SessionState.PAUSED and session.reason:  # by itself, because nothing can be written
            self._failures.append(f"not converted to its end: {session.message}")
        answer, finished = session.save(now_ns)
        self._note_events(session)
        self._waiting = 0
        if not answer.ok and session.state is not SessionState.IDLE:
            session.discard(now_ns)
        self._seal(finished)
        return answer

    def _seal(self, finished: Sequence[Finished]) -> None:
        for segment in finished:
            writer = segment.writer
            assert isinstance(writer, EpisodeWriter)
            try:
                self._staged.append(writer.seal({**segment.report, "source": str(self._job.bag)}))
            except DatasetError as failure:  # it stays for a salvage, and the others are still whole
                self._failures.append(str(failure))

    def _writer(self, task: str) -> EpisodeWriter:
        job = self._job
        return _PatientWriter(
            job.staging,
            self._spec,
            job.embodiment.cameras,
            task,
            codec=job.codec,
            min_free_bytes=job.min_free_bytes,
            on_event=lambda text: self._note(self._now_ns, text),
        )

    def _check_commands(self, bag: Bag, session: Session) -> None:
        missing = [
            f"{absolute(topic)} ({kind})"
            for source, (topic, kind) in session.sources.items()
            if source not in self._job.embodiment.streams and bag.type_of(absolute(topic)) is None
        ]
        if missing:
            raise BagError(
                f"{bag.path} has no messages of {', '.join(missing)}, which say the actions of embodiment "
                f"'{self._job.embodiment.name}': record these topics, or say under recording in the YAML where actions "
                "come from (next_state: the state one step later)"
            )

    def _count(self, item: BagMessage, refusal: Refusal) -> None:
        count = self._rejected[item.source] = self._rejected.get(item.source, 0) + 1
        if count == 1:
            self._note(item.log_ns, f"message refused: {refusal.message}")

    def _note_events(self, session: Session) -> None:
        for event in session.events():
            self._waiting += event.kind == "segment"
            if event.kind != "recording":
                self._note(event.time_ns, event.message)

    def _note(self, time_ns: int, text: str) -> None:
        if len(self._messages) < _MOST_MESSAGES:
            self._messages.append(f"{1e-9 * (time_ns - self._start_ns):.3f} s: {text}")
        elif len(self._messages) == _MOST_MESSAGES:
            self._messages.append("and more of these")


class _PatientWriter(EpisodeWriter):
    """Waits for the encoders: a bag is read as fast as they can go."""

    def add(self, row: NDArray[Any], frames: Mapping[str, Frame | None]) -> bool:
        """As ``EpisodeWriter.add``, but False only when there is a problem."""
        while not super().add(row, frames):
            if self.problem is not None:
                return False
            time.sleep(_ENCODER_POLL_S)
        return True


def _by_instruction(bag: Bag, job: BagJob) -> list[EpisodeEvent]:
    """One episode per instruction, from the beginning of the bag on; it waits for its streams.

    Raises: BagError when nothing says the task.
    """
    if job.task is not None:
        return [EpisodeEvent("start", bag.start_ns, job.task)]
    said = list(bag.read(INSTRUCTION_TOPIC)) if bag.type_of(INSTRUCTION_TOPIC) == STRING else []
    tasks = [(log_ns, str(message.data).strip()) for log_ns, message in said if str(message.data).strip()]
    task = tasks[0][1] if tasks else job.embodiment.language.default
    if task is None:
        raise BagError(
            f"{bag.path}: expected a task, found none on {INSTRUCTION_TOPIC} and no language.default in embodiment "
            f"'{job.embodiment.name}': give the task (--task)"
        )
    events = [EpisodeEvent("start", bag.start_ns, task)]
    for log_ns, text in tasks:
        if text != task:
            events += [EpisodeEvent("save", log_ns), EpisodeEvent("start", log_ns, text)]
            task = text
    return events
