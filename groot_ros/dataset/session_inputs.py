"""All that a recording session knows of the robot: samples of its streams, and its commands."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from groot_ros.dataset.commanded import Commanded, Values
from groot_ros.dataset.session_types import StreamQuality
from groot_ros.dataset.spec import recorder_embodiment
from groot_ros.dataset.stream_watch import StreamWatch
from groot_ros.embodiment.schema import Embodiment
from groot_ros.embodiment.vocabulary import JOINT_STATE
from groot_ros.observation.assembler import Assembler
from groot_ros.observation.compressed_size import compressed_size
from groot_ros.observation.images import check_size, check_whole, decode, read_frame
from groot_ros.observation.messages import stamp_ns
from groot_ros.observation.types import Reason, Refusal, Rejected, Samples

LATE_TICK_S = 0.5  # how long after its time a tick may be asked for


class SessionInputs:
    """Messages in; observations and commands at a time out.

    Args:
        embodiment: the robot.

    Attributes:
        commanded: its commands.
        watches: stream -> its rate.
        dead_after_ns: so long after the last message of a stream no tick is complete.
        arrived_ns: when the last message of a stream came; None before the first.

    Raises:
        DatasetError: nothing says an action key.
    """

    def __init__(self, embodiment: Embodiment) -> None:
        self._embodiment = embodiment
        self._assembler = Assembler(recorder_embodiment(embodiment), late_tick_s=LATE_TICK_S)
        self.commanded = Commanded(embodiment, history_s=LATE_TICK_S)
        self.watches = {name: StreamWatch(name, stream) for name, stream in embodiment.streams.items()}
        oldest_s = max(stream.max_age_s for stream in embodiment.streams.values())
        self.dead_after_ns = round(1e9 * (oldest_s + embodiment.sync.max_future_s))
        self.arrived_ns: int | None = None
        self._joint_states: dict[str, Any] = {}
        self._stepped_back: set[str] = set()
        self._bad_pictures: dict[str, Refusal] = {}
        self._rejected_pictures: Counter[str] = Counter()

    @property
    def sources(self) -> dict[str, tuple[str, str]]:
        """Source -> topic and message type: streams, then commands."""
        streams = {name: (stream.topic, stream.type) for name, stream in self._embodiment.streams.items()}
        commands = {name: (source.topic, source.type) for name, source in self.commanded.sources.items()}
        return {**streams, **commands}

    def take(self, source: str, message: Any, now_ns: int, *, recording: bool) -> Refusal | None:
        """Take one message. Returns: why it was refused, if it was. Raises: KeyError for an unknown source."""
        if source not in self.watches:
            return self.commanded.take(source, message, now_ns, self._positions)
        self.arrived_ns = now_ns
        refusal = self._look_at_file(source, message)
        if refusal is not None:
            return refusal
        refusal = self._assembler.add(source, message, now_ns)
        if refusal is not None and refusal.reason is Reason.OUT_OF_ORDER:
            # One alone may be a second publisher's, for which nothing is to be forgotten.
            if source in self._stepped_back and not recording:
                refusal = self._add_anew(source, message, now_ns, refusal)
            self._stepped_back.add(source)
        else:
            self._stepped_back.discard(source)
        if refusal is None:
            watch = self.watches[source]
            watch.add(stamp_ns(message, source, watch.spec.topic))
            if watch.spec.type == JOINT_STATE:
                self._joint_states[source] = message
        return refusal

    def passed(self, time_ns: int) -> bool:
        """Whether every stream has a sample at or after ``time_ns``: none that comes can be used at that time."""
        return all(watch.last_ns is not None and watch.last_ns >= time_ns for watch in self.watches.values())

    def at(self, time_ns: int, at_start: bool) -> tuple[Samples, Values] | Refusal:
        """Observations and commands at ``time_ns``; ``at_start``: a stream's rate has to be known."""
        for refusal in self._bad_pictures.values():
            return refusal
        samples = self._assembler.sample(time_ns)
        if isinstance(samples, Refusal):
            return samples
        slow = self.slow(at_start)
        if slow is not None:
            return slow
        action = self.commanded.at(time_ns)
        return action if isinstance(action, Refusal) else (samples, action)

    def not_ready(self, now_ns: int) -> Refusal | None:
        """Why no episode can start: a stream is missing, slow or bad, or its pictures cannot be decoded."""
        for refusal in self._bad_pictures.values():
            return refusal
        samples = self._assembler.sample(now_ns)
        if isinstance(samples, Refusal):
            return samples
        for name, frame in samples.frames.items():
            try:
                decode(frame, name, self._embodiment.cameras[name])
            except Rejected as error:
                return error.refusal
        return self.slow(at_start=True)

    def slow(self, at_start: bool) -> Refusal | None:
        """Why a stream is too slow."""
        refusals = (watch.refusal(at_start) for watch in self.watches.values())
        return next((refusal for refusal in refusals if refusal is not None), None)

    def reset(self, now_ns: int) -> None:
        """Forget samples and commands, because the clock jumped to ``now_ns``."""
        self._assembler.reset()
        self.commanded.reset()
        self._joint_states.clear()
        self._bad_pictures.clear()
        self._stepped_back.clear()
        for watch in self.watches.values():
            watch.reset()
        self.arrived_ns = now_ns

    @property
    def spread_s(self) -> float:
        """Between the newest stamps of all streams; NaN before all have one."""
        stamps = [watch.last_ns for watch in self.watches.values()]
        known = [stamp for stamp in stamps if stamp is not None]
        return 1e-9 * (max(known) - min(known)) if len(known) == len(stamps) else math.nan

    def qualities(self, now_ns: int, gaps_before: dict[str, int]) -> dict[str, StreamQuality]:
        """Stream or source of commands -> how it comes; gaps since ``gaps_before`` of each stream."""
        ages_s, counts = self._assembler.ages_s(now_ns), self._assembler.counts()
        frozen, rejected = self._assembler.frozen(), self.rejected()
        found = {
            name: StreamQuality(
                topic=watch.spec.topic,
                rate_hz=watch.rate_hz,
                expected_hz=watch.spec.rate_hz,
                age_s=ages_s[name],
                max_age_s=watch.spec.max_age_s,
                gaps=watch.gaps - gaps_before.get(name, 0),
                received=counts[name].received + self._rejected_pictures[name],
                rejected=rejected[name],
                overflow=counts[name].overflow,
                frozen=name in frozen,
            )
            for name, watch in self.watches.items()
        }
        for name, age_s in self.commanded.ages_s(now_ns).items():
            source = self.commanded.sources[name]
            received = self.commanded.received[name]
            found[name] = StreamQuality(source.topic, None, None, age_s, source.max_age_s, 0, received, rejected[name])
        return found

    def rejected(self) -> dict[str, int]:
        """Stream or source of commands -> messages refused so far."""
        streams = {
            name: count.rejected + self._rejected_pictures[name] for name, count in self._assembler.counts().items()
        }
        return {**streams, **self.commanded.rejected}

    def report(self, rejected_before: Mapping[str, int]) -> dict[str, Any]:
        """For an episode's report: where its actions come from, what was refused since, and rates."""
        return {
            "actions": {
                **{key: source.topic for source in self.commanded.sources.values() for key in source.keys},
                **dict.fromkeys(self.commanded.next_state, "next_state"),
            },
            "rejected_messages": {
                name: count - rejected_before[name]
                for name, count in self.rejected().items()
                if count > rejected_before[name]
            },
            "rates_hz": {name: round(watch.rate_hz, 3) for name, watch in self.watches.items()},
        }

    def gaps(self) -> dict[str, int]:
        """Stream -> gaps so far."""
        return {name: watch.gaps for name, watch in self.watches.items()}

    def _look_at_file(self, stream: str, message: Any) -> Refusal | None:
        """A JPEG or PNG of another size, or not whole, would only be found by the encoder, too late for its tick."""
        camera = self._embodiment.cameras.get(stream)
        if camera is None or not camera.type.endswith("CompressedImage"):
            return None
        try:
            frame = read_frame(message, stream, camera)
            check_whole(frame, stream, camera)
            size = compressed_size(frame.data, frame.encoding)
            if size is not None:
                check_size(*size, stream, camera)
        except Rejected as error:
            self._bad_pictures[stream] = error.refusal
            self._rejected_pictures[stream] += 1
            return error.refusal
        self._bad_pictures.pop(stream, None)
        return None

    def _add_anew(self, stream: str, message: Any, now_ns: int, refusal: Refusal) -> Refusal | None:
        """A driver that was started again on another clock must not need a new recorder."""
        last_ns = self.watches[stream].last_ns
        if last_ns is None or last_ns - stamp_ns(message, stream, "") <= self.dead_after_ns:
            return refusal
        self._assembler.reset()
        for watch in self.watches.values():
            watch.reset()
        return self._assembler.add(stream, message, now_ns)

    def _positions(self) -> dict[str, float]:
        """Measured joint positions in ROS units."""
        return {
            name: float(position)
            for message in self._joint_states.values()
            for name, position in zip(message.name, message.position, strict=False)
        }
