"""Builds the observation for a tick from buffered samples, or refuses with a reason.

Live topics, bags and the simulator all come through here. Time is passed in, so the same messages and the same ticks
give the same observations.
"""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from groot_ros.embodiment.schema import Camera, Embodiment, StateKey, StateStream
from groot_ros.observation.buffer import StreamBuffer
from groot_ros.observation.images import Frame, decode, read_frame
from groot_ros.observation.messages import StateReader, stamp_ns
from groot_ros.observation.types import Observation, Reason, Refusal, Rejected, Samples

State = dict[str, NDArray[np.float32]]

# How long after its time a tick may be assembled, unless said otherwise.
LATE_TICK_S = 0.1
_RATE_SAMPLES = 64  # over how many samples a stream's rate is measured
_PREFIX = 4096  # bytes that nearly always tell two images apart


@dataclass
class _Image:
    """A buffered image. ``pixels`` is filled when first needed, with the refusal when it could not be decoded."""

    frame: Frame
    unchanged_since_ns: int
    pixels: NDArray[np.uint8] | Refusal | None = None


@dataclass(frozen=True)
class StreamCounts:
    """Messages of one stream since start: received, of them rejected, and dropped from a full buffer."""

    received: int
    rejected: int
    overflow: int


Sample = TypeVar("Sample")
Made = TypeVar("Made")


class _Stream(Generic[Sample]):
    """One stream: its buffer, the refusal of its last message if that was bad, and its counters."""

    def __init__(
        self,
        name: str,
        spec: Camera | StateStream,
        deltas_ns: tuple[int, ...],
        max_future_ns: int,
        late_tick_ns: int,
        read: Callable[[Any, int, Sample | None], Sample],
    ) -> None:
        self.name = name
        self.topic = spec.topic
        self.deltas_ns = deltas_ns
        self.max_age_ns = round(spec.max_age_s * 1e9)
        self.lock = threading.Lock()
        self.bad: Refusal | None = None
        self.received = 0
        self.rejected = 0
        window_ns = max(-min(deltas_ns), 0) + self.max_age_ns + max_future_ns + late_tick_ns
        self.buffer: StreamBuffer[Sample] = StreamBuffer(window_ns, spec.rate_hz)
        self.recent: deque[int] = deque(maxlen=_RATE_SAMPLES)
        self._max_future_ns = max_future_ns
        self._read = read

    def add(self, message: Any, now_ns: int) -> Refusal | None:
        with self.lock:
            self.received += 1
            try:
                stamp = stamp_ns(message, self.name, self.topic)
                self._check_stamp(stamp, now_ns)
                self.buffer.append(stamp, self._read(message, stamp, self.buffer.newest))
            except Rejected as error:
                self.rejected += 1
                self.bad = error.refusal
            else:
                self.bad = None
                self.recent.append(stamp)
            return self.bad

    def select(self, now_ns: int) -> list[tuple[int, Sample]]:
        """Stamp and sample per delta index. Raises: Rejected when one is missing or too old."""
        with self.lock:
            if self.bad is not None:
                raise Rejected.from_refusal(self.bad)
            if self.buffer.newest_ns is None:
                text = f"{self.topic}: expected messages, found none, check `ros2 topic hz {self.topic}` and its QoS"
                raise Rejected(Reason.MISSING_STREAM, self.name, text)
            # The newest first: a stopped stream is stale, whatever its history.
            return [self._as_of(now_ns, delta_ns) for delta_ns in reversed(self.deltas_ns)][::-1]

    def _check_stamp(self, stamp: int, now_ns: int) -> None:
        if stamp > now_ns + self._max_future_ns:
            text = (
                f"{self.topic}: expected a stamp at most {self._max_future_ns * 1e-9:g} s ahead of the clock, "
                f"found {(stamp - now_ns) * 1e-9:.3f} s, synchronise the clocks or set use_sim_time alike everywhere"
            )
            raise Rejected(Reason.FUTURE_STAMP, self.name, text)
        newest = self.buffer.newest_ns
        if newest is not None and stamp <= newest:
            text = (
                f"{self.topic}: expected a stamp after the last one, found {_step_back(newest - stamp)}, "
                "check for a second publisher; after a clock jump reset the policy, or start another episode"
            )
            raise Rejected(Reason.OUT_OF_ORDER, self.name, text)

    def _as_of(self, now_ns: int, delta_ns: int) -> tuple[int, Sample]:
        target_ns = now_ns + delta_ns
        found = self.buffer.as_of(target_ns)
        when = "at the tick" if delta_ns == 0 else f"{-delta_ns * 1e-9:.3f} s before the tick"
        if found is None:
            reach_s = max(now_ns - (self.buffer.oldest_ns or now_ns), 0) * 1e-9
            lost = f" ({self.buffer.overflow} dropped: it is faster than rate_hz)" if self.buffer.overflow else ""
            text = (
                f"{self.topic}: expected a sample {when}, found history of {reach_s:.3f} s{lost}, wait for it to fill"
            )
            raise Rejected(Reason.SHORT_HISTORY, self.name, text)
        age_ns = target_ns - found[0]
        if age_ns > self.max_age_ns:
            text = (
                f"{self.topic}: expected a sample at most {self.max_age_ns * 1e-9:g} s old {when}, "
                f"found {age_ns * 1e-9:.3f} s, check `ros2 topic hz {self.topic}` and the clock "
                "of its stamps, or raise max_age_s"
            )
            raise Rejected(Reason.STALE, self.name, text)
        return found


class Assembler:
    """All streams of one robot, and the observation for a tick.

    ``add`` may be called from one thread per stream, ``assemble`` and ``sample`` from one other thread, the rest from
    any.

    Args:
        embodiment: the robot.
        late_tick_s: how long after its time a tick may be assembled; samples that old are kept beyond what the tick
            itself needs.
    """

    def __init__(self, embodiment: Embodiment, late_tick_s: float = LATE_TICK_S) -> None:
        self._embodiment = embodiment
        late_tick_ns = round(late_tick_s * 1e9)
        max_future_ns = round(embodiment.sync.max_future_s * 1e9)
        deltas = embodiment.delta_indices
        video_ns = tuple(round(d * 1e9 / embodiment.step_hz) for d in deltas.video)
        state_ns = tuple(round(d * 1e9 / embodiment.step_hz) for d in deltas.state)
        self._cameras = {
            name: _Stream(name, camera, video_ns, max_future_ns, late_tick_ns, _image_reader(name, camera))
            for name, camera in embodiment.cameras.items()
        }
        self._states = {
            name: _Stream(name, stream, state_ns, max_future_ns, late_tick_ns, _state_reader(embodiment, name))
            for name, stream in embodiment.state_streams.items()
        }
        self._streams: dict[str, _Stream[Any]] = {**self._cameras, **self._states}
        self._refused: Counter[Reason] = Counter()
        self._assembled = 0

    @property
    def streams(self) -> tuple[str, ...]:
        """All stream names: cameras, then state streams."""
        return tuple(self._streams)

    def add(self, stream: str, message: object, now_ns: int) -> Refusal | None:
        """Take one message of ``stream``, received at ROS time ``now_ns``. Cheap: images stay undecoded.

        Returns: why the message was rejected, if it was. Until a good one comes, ticks are refused for that reason.
        Raises: KeyError for an unknown stream.
        """
        if stream not in self._streams:
            raise KeyError(f"no stream {stream!r}: the embodiment has {', '.join(self._streams)}")
        return self._streams[stream].add(message, now_ns)

    def assemble(self, now_ns: int, instruction: str) -> Observation | Refusal:
        """The observation for ROS time ``now_ns``: per stream and delta index the newest sample not after it."""
        return self._counted(lambda: self._assemble(now_ns, instruction))

    def sample(self, now_ns: int) -> Samples | Refusal:
        """The same for a recorder: the newest samples not after ``now_ns``, the pictures not decoded."""
        return self._counted(lambda: self._sample(now_ns))

    def reset(self) -> None:
        """Forget all samples, because the clock jumped or the robot was moved; counters stay."""
        for stream in self._streams.values():
            with stream.lock:
                stream.buffer.clear()
                stream.recent.clear()
                stream.bad = None

    def ages_s(self, now_ns: int) -> dict[str, float]:
        """Stream -> time since its newest good stamp; infinite before the first."""
        ages = {}
        for name, stream in self._streams.items():
            newest = stream.buffer.newest_ns
            ages[name] = math.inf if newest is None else (now_ns - newest) * 1e-9
        return ages

    def rates_hz(self) -> dict[str, float]:
        """Stream -> rate of its last good samples by header stamps; 0 before the second."""
        rates = {}
        for name, stream in self._streams.items():
            with stream.lock:
                stamps = stream.recent
                rates[name] = (len(stamps) - 1) * 1e9 / (stamps[-1] - stamps[0]) if len(stamps) > 1 else 0.0
        return rates

    @property
    def assembled(self) -> int:
        """Ticks that got an observation."""
        return self._assembled

    def refused(self) -> dict[Reason, int]:
        """Reason -> ticks refused for it; reasons that never occurred are left out."""
        return dict(self._refused)

    def counts(self) -> dict[str, StreamCounts]:
        """Stream -> its message counters."""
        return {
            name: StreamCounts(stream.received, stream.rejected, stream.buffer.overflow)
            for name, stream in self._streams.items()
        }

    def frozen(self) -> set[str]:
        """Cameras whose newest picture has stood still for ``frozen_after_s`` and more."""
        found = set()
        for name, stream in self._cameras.items():
            with stream.lock:
                stamp, image = stream.buffer.newest_ns, stream.buffer.newest
            if stamp is not None and image is not None and self._still_s(name, stamp, image) is not None:
                found.add(name)
        return found

    def _counted(self, make: Callable[[], Made]) -> Made | Refusal:
        try:
            made = make()
        except Rejected as error:
            self._refused[error.refusal.reason] += 1
            return error.refusal
        self._assembled += 1
        return made

    def _assemble(self, now_ns: int, instruction: str) -> Observation:
        if not instruction.strip():
            text = "instruction: expected a task in words, found nothing, publish one on ~/instruction"
            raise Rejected(Reason.EMPTY_INSTRUCTION, "instruction", text)
        images, states = self._select(now_ns)
        stamps = {
            name: tuple(stamp for stamp, _ in samples)
            for selected in (images, states)
            for name, samples in selected.items()
        }
        newest = {name: values[-1] for name, values in stamps.items()}
        return Observation(
            stamp_ns=max(newest.values()),
            video=self._video(images),
            state={key: self._state(key, entry, states) for key, entry in self._embodiment.state.items()},
            instruction=instruction,
            sample_stamps_ns=stamps,
            ages_s={name: (now_ns - stamp) * 1e-9 for name, stamp in newest.items()},
        )

    def _sample(self, now_ns: int) -> Samples:
        images, states = self._select(now_ns)
        return Samples(
            frames={name: samples[-1][1].frame for name, samples in images.items()},
            states={key: self._state(key, entry, states)[-1] for key, entry in self._embodiment.state.items()},
            stamps_ns=_newest(images, states),
        )

    def _select(self, now_ns: int) -> tuple[dict[str, list[tuple[int, _Image]]], dict[str, list[tuple[int, State]]]]:
        """Stamp and sample per delta index of every camera and state stream. Raises: Rejected."""
        images = {name: stream.select(now_ns) for name, stream in self._cameras.items()}
        states = {name: stream.select(now_ns) for name, stream in self._states.items()}
        for name, samples in images.items():
            self._check_frozen(name, *samples[-1])
        self._check_spread(_newest(images, states))
        return images, states

    def _state(self, key: str, entry: StateKey, states: Mapping[str, list[tuple[int, State]]]) -> NDArray[np.float32]:
        if entry.stream is None:  # the schema allows that for constants only
            return np.tile(np.array(entry.constant, dtype=np.float32), (len(self._embodiment.delta_indices.state), 1))
        return np.stack([sample[key] for _, sample in states[entry.stream]])

    def _video(self, images: Mapping[str, list[tuple[int, _Image]]]) -> dict[str, NDArray[np.uint8]]:
        video = {}
        for key, entry in self._embodiment.video.items():
            pixels = [self._pixels(entry.camera, image) for _, image in images[entry.camera]]
            stacked = pixels[0][None] if len(pixels) == 1 else np.stack(pixels)
            stacked.flags.writeable = False  # one image may be in several observations
            video[key] = stacked
        return video

    def _pixels(self, name: str, image: _Image) -> NDArray[np.uint8]:
        """Decode once per image, whether that succeeds or not."""
        if image.pixels is None:
            try:
                image.pixels = decode(image.frame, name, self._embodiment.cameras[name])
            except Rejected as error:
                image.pixels = error.refusal
                with self._cameras[name].lock:
                    self._cameras[name].rejected += 1
        if isinstance(image.pixels, Refusal):
            raise Rejected.from_refusal(image.pixels)
        return image.pixels

    def _still_s(self, name: str, stamp: int, image: _Image) -> float | None:
        """For how long a picture has stood still; None while that is not too long."""
        longest_s, still_s = self._embodiment.cameras[name].frozen_after_s, (stamp - image.unchanged_since_ns) * 1e-9
        return still_s if longest_s is not None and still_s >= longest_s else None

    def _check_frozen(self, name: str, stamp: int, image: _Image) -> None:
        camera = self._embodiment.cameras[name]
        still_s = self._still_s(name, stamp, image)
        if still_s is not None:
            text = (
                f"{camera.topic}: expected a changing image, found the same bytes for {still_s:.3f} s "
                f"(frozen_after_s {camera.frozen_after_s:g}), restart the camera driver"
            )
            raise Rejected(Reason.FROZEN_CAMERA, name, text)

    def _check_spread(self, newest: Mapping[str, int]) -> None:
        last = max(newest, key=lambda name: newest[name])
        first = min(newest, key=lambda name: newest[name])
        spread_s = (newest[last] - newest[first]) * 1e-9
        if spread_s > self._embodiment.sync.max_spread_s:
            text = (
                f"{self._streams[first].topic}: expected a stamp within {self._embodiment.sync.max_spread_s:g} s of "
                f"the other streams', found it {spread_s:.3f} s behind {self._streams[last].topic}: see with `ros2 "
                f"topic hz {self._streams[first].topic}` whether it has stopped, check its rate and clock, or raise "
                "sync.max_spread_s"
            )
            raise Rejected(Reason.SPREAD, first, text)


def _newest(
    images: Mapping[str, list[tuple[int, _Image]]], states: Mapping[str, list[tuple[int, State]]]
) -> dict[str, int]:
    """Stream -> stamp of the last sample selected."""
    selected: dict[str, Sequence[tuple[int, object]]] = {**images, **states}
    return {name: samples[-1][0] for name, samples in selected.items()}


def _image_reader(name: str, camera: Camera) -> Callable[[Any, int, _Image | None], _Image]:
    def read(message: Any, stamp: int, previous: _Image | None) -> _Image:
        frame = read_frame(message, name, camera)
        unchanged = previous is not None and camera.frozen_after_s is not None and _same(previous.frame, frame)
        return _Image(frame, previous.unchanged_since_ns if unchanged and previous is not None else stamp)

    return read


def _state_reader(embodiment: Embodiment, name: str) -> Callable[[Any, int, State | None], State]:
    reader = StateReader(embodiment, name)
    return lambda message, stamp, previous: reader.read(message)


def _same(a: Frame, b: Frame) -> bool:
    """Whether two images have the same bytes; the beginning settles it for nearly all that differ."""
    return np.array_equal(a.data[:_PREFIX], b.data[:_PREFIX]) and np.array_equal(a.data, b.data)


def _step_back(step_ns: int) -> str:
    return "the same stamp again" if step_ns == 0 else f"one {step_ns * 1e-9:.3f} s before it"
