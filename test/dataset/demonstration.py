"""A robot whose every message carries its number, a demonstration with it, and a writer that keeps what it is given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import barcode
import cv2
import numpy as np
from numpy.typing import NDArray

from groot_ros.bags.topics import Topic, bag_sources, typestore
from groot_ros.bags.write import BagWriter
from groot_ros.dataset.session import Session
from groot_ros.dataset.spec import DatasetSpec
from groot_ros.embodiment.schema import Camera, Embodiment
from groot_ros.observation.images import Frame, decode

S, MS = 1_000_000_000, 1_000_000
T0 = 1_700_000_000 * S
FPS, HEIGHT, WIDTH = 30, 24, 32
CAMERAS = ("front", "wrist")
TASK = "stack the cups"
RATES_HZ = {"front": 30, "wrist": 30, "joints": 100, "command:arm": 50}
_STEP_RAD = 2.0**-12


def robot(**changes: Any) -> Embodiment:
    """A raw camera, a JPEG camera, two joints, commanded by JointState; a dotted key replaces (``a__b``) that value."""
    camera = {"width": WIDTH, "height": HEIGHT, "rate_hz": 30.0, "max_age_s": 0.1}
    data: dict[str, Any] = {
        "name": "bench",
        "embodiment_tag": "new_embodiment",
        "step_hz": FPS,
        "cameras": {
            "front": {"topic": "/front", "type": "sensor_msgs/msg/Image", **camera},
            "wrist": {"topic": "/wrist", "type": "sensor_msgs/msg/CompressedImage", **camera},
        },
        "state_streams": {
            "joints": {"topic": "/joints", "type": "sensor_msgs/msg/JointState", "rate_hz": 100.0, "max_age_s": 0.05}
        },
        "video": {"front": {"camera": "front"}, "wrist": {"camera": "wrist"}},
        "state": {"arm": {"stream": "joints", "joints": ["a", "b"]}},
        "action": {"arm": {"joints": ["a", "b"]}},
        "language": {"key": "annotation.human.task_description"},
        "delta_indices": {"action": [0, 1, 2]},
        "limits": {name: {"lower": -9.0, "upper": 9.0, "velocity": 1.0} for name in "ab"},
        "outputs": {"arm": {"topic": "/command", "type": "sensor_msgs/msg/JointState", "keys": ["arm"]}},
    }
    for path, value in changes.items():
        at = data
        *parents, last = path.split("__")
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = value
    return Embodiment.model_validate(data)


# --- messages --------------------------------------------------------------------------------------------------------


def make(kind: str, **fields: Any) -> Any:
    """A message of ``package/msg/Name`` as rosbags has it."""
    return typestore().types[kind](**fields)


def header(stamp_ns: int) -> Any:
    stamp = make("builtin_interfaces/msg/Time", sec=stamp_ns // S, nanosec=stamp_ns % S)
    return make("std_msgs/msg/Header", stamp=stamp, frame_id="")


def image(stamp_ns: int, number: int, height: int = HEIGHT, width: int = WIDTH) -> Any:
    data = barcode.draw(number, height, width).reshape(-1)
    fields = {"height": height, "width": width, "encoding": "rgb8", "is_bigendian": 0, "step": 3 * width, "data": data}
    return make("sensor_msgs/msg/Image", header=header(stamp_ns), **fields)


def jpeg(stamp_ns: int, number: int, height: int = HEIGHT, width: int = WIDTH) -> Any:
    bgr = cv2.cvtColor(barcode.draw(number, height, width), cv2.COLOR_RGB2BGR)
    data = np.frombuffer(cv2.imencode(".jpg", bgr)[1].tobytes(), dtype=np.uint8)
    return make("sensor_msgs/msg/CompressedImage", header=header(stamp_ns), format="jpeg", data=data)


def joint_state(stamp_ns: int, positions: Mapping[str, float]) -> Any:
    values, none = np.array(list(positions.values())), np.zeros(0)
    return make(
        "sensor_msgs/msg/JointState",
        header=header(stamp_ns),
        name=list(positions),
        position=values,
        velocity=none,
        effort=none,
    )


def trajectory(
    stamp_ns: int, points: list[tuple[float, list[float]]], names: list[str] | None = None, **changes: Any
) -> Any:
    """Points (seconds from the start, positions)."""
    none = np.zeros(0)
    made = [
        make(
            "trajectory_msgs/msg/JointTrajectoryPoint",
            positions=np.array(values),
            velocities=changes.get("velocities", none),
            accelerations=none,
            effort=none,
            time_from_start=make("builtin_interfaces/msg/Duration", sec=int(t_s), nanosec=round(t_s % 1.0 * S)),
        )
        for t_s, values in points
    ]
    names = names or ["a", "b"]
    return make("trajectory_msgs/msg/JointTrajectory", header=header(stamp_ns), joint_names=names, points=made)


def numbered(source: str, stamp_ns: int, number: int) -> Any:
    """Message ``number`` of a source."""
    if source == "front":
        return image(stamp_ns, number % barcode.LIMIT)
    if source == "wrist":
        return jpeg(stamp_ns, number % barcode.LIMIT)
    sign = 1.0 if source == "joints" else -1.0
    return joint_state(stamp_ns, {"a": sign * number * _STEP_RAD, "b": 0.5})


def number_of(value: float) -> int:
    """The number in a joint position."""
    return round(abs(float(value)) / _STEP_RAD)


# --- a demonstration -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sent:
    """One message.

    Attributes:
        arrived_ns: when it was received.
        source: of the session.
        message: itself.
        stamp_ns: of its header.
        number: that it carries.
    """

    arrived_ns: int
    source: str
    message: Any
    stamp_ns: int
    number: int


def demonstration(
    duration_s: float = 3.0,
    *,
    rates_hz: Mapping[str, float] = RATES_HZ,
    delay_ns: int = 4 * MS,
    jitter_ns: int = 0,
    seed: int = 0,
    start_ns: int = T0,
) -> list[Sent]:
    """Messages of all sources in the order of their arrival, each ``delay_ns`` plus up to ``jitter_ns`` after it."""
    random = np.random.default_rng(seed)
    sent = []
    for place, (source, rate_hz) in enumerate(rates_hz.items()):
        arrived_ns = 0
        for number in range(round(duration_s * rate_hz)):
            stamp_ns = start_ns + place * MS + round(number * S / rate_hz)
            late_ns = int(random.integers(0, jitter_ns + 1))
            arrived_ns = max(stamp_ns + delay_ns + late_ns, arrived_ns + 1)  # in order, as topics are
            sent.append(Sent(arrived_ns, source, numbered(source, stamp_ns, number), stamp_ns, number))
    return sorted(sent, key=lambda item: item.arrived_ns)


def newest(sent: Iterable[Sent], source: str, time_ns: int) -> Sent:
    """The last message of a source stamped at or before ``time_ns``."""
    return max((item for item in sent if item.source == source and item.stamp_ns <= time_ns), key=lambda i: i.stamp_ns)


def at(time_s: float) -> int:
    """ROS time (ns) of a time of the demonstration (s)."""
    return T0 + round(time_s * S)


def without(sent: list[Sent], source: str, from_s: float, to_s: float) -> list[Sent]:
    """The messages but those of ``source`` stamped within these times."""
    return [item for item in sent if item.source != source or not at(from_s) <= item.stamp_ns < at(to_s)]


def front_in_another_size(sent: Iterable[Sent]) -> list[Sent]:
    return [
        Sent(i.arrived_ns, i.source, image(i.stamp_ns, 1, 48, 64), i.stamp_ns, 1) if i.source == "front" else i
        for i in sent
    ]


def wrist_in_another_size(sent: Iterable[Sent]) -> list[Sent]:
    return [
        Sent(i.arrived_ns, i.source, jpeg(i.stamp_ns, 1, 48, 64), i.stamp_ns, 1) if i.source == "wrist" else i
        for i in sent
    ]


def write_bag(path: Path, sent: Iterable[Sent], embodiment: Embodiment, storage: str = "mcap", more: Any = ()) -> Path:
    """A bag of the demonstration; ``more``: (topic name, message, log ns, type) of other topics."""
    more = list(more)
    sources = {topic.source: topic for topic in bag_sources(embodiment)}
    topics = {topic.name: topic for topic in sources.values()}
    topics |= {name: Topic(name, kind, "") for name, _, _, kind in more}
    records = [(item.arrived_ns, sources[item.source].name, item.message) for item in sent]
    records += [(log_ns, name, message) for name, message, log_ns, _ in more]
    with BagWriter(path, storage, list(topics.values())) as writer:
        for log_ns, name, message in sorted(records, key=lambda record: record[0]):
            writer.write(name, typestore().serialize_cdr(message, topics[name].type), log_ns)
    return path


# --- what a session writes to ----------------------------------------------------------------------------------------


@dataclass
class FakeWriter:
    """Keeps rows and pictures in memory."""

    task: str
    cameras: Mapping[str, Camera] = field(default_factory=dict)
    kept: list[NDArray[np.void]] = field(default_factory=list)
    frames: list[dict[str, Frame | None]] = field(default_factory=list)
    problem: str | None = None
    behind: bool = False
    ended: bool = False
    aborted: str = ""
    discarded: bool = False

    @property
    def rows(self) -> int:
        return len(self.kept)

    def add(self, row: NDArray[np.void], frames: Mapping[str, Frame | None]) -> bool:
        assert not self.ended
        assert not self.aborted
        assert not self.discarded
        if self.problem is not None or (self.behind and any(frame is not None for frame in frames.values())):
            return False
        self.kept.append(row)
        self.frames.append(dict(frames))
        return True

    def health(self) -> dict[str, Any]:
        return {"front": "busy" if self.behind else "idle"}

    def end(self) -> None:
        self.ended = True

    def abort(self, reason: str) -> None:
        self.aborted = reason

    def discard(self) -> None:
        self.discarded = True

    def column(self, name: str) -> NDArray[Any]:
        """One field of all rows."""
        return np.stack([row[name] for row in self.kept])

    def numbers(self, key: str) -> list[int]:
        """What the pictures of a camera show, row by row; a repeated one as it would be in the video."""
        shown: list[int] = []
        for frames in self.frames:
            frame = frames[key]
            shown.append(shown[-1] if frame is None else barcode.read(decode(frame, key, self.cameras[key])))
        return shown


class Desk:
    """A session with fake writers, and a hand that gives it messages."""

    def __init__(self, embodiment: Embodiment | None = None, **options: Any) -> None:
        self.embodiment = embodiment or robot()
        self.writers: list[FakeWriter] = []
        self.session = Session(DatasetSpec.of(self.embodiment), self.embodiment, self.sink, **options)
        self.now_ns = T0

    def sink(self, task: str) -> FakeWriter:
        self.writers.append(FakeWriter(task, self.embodiment.cameras))
        return self.writers[-1]

    def give(self, sent: Iterable[Sent]) -> None:
        """Messages, each at its arrival."""
        for item in sent:
            self.now_ns = item.arrived_ns
            self.session.take(item.source, item.message, item.arrived_ns)

    def play(self, sent: Iterable[Sent], start_s: float = 1.0, task: str = TASK) -> None:
        """Messages, and a start in between that has to succeed."""
        before = [item for item in sent if item.arrived_ns < T0 + start_s * S]
        self.give(before)
        answer = self.session.start(task, T0 + round(start_s * S))
        assert answer.ok, answer.message
        self.give([item for item in sent if item.arrived_ns >= T0 + start_s * S])
