"""The command in force at a time, per action key in the units of the training data, from the messages that command.

A JointTrajectory is in force from its arrival (or its stamp, if later) until another one replaces it, as a
``joint_trajectory_controller`` does. Any other command is in force from its header stamp, without one from its
arrival, for ``max_age_s``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groot_ros.bags.topics import COMMAND_PREFIX, RECORD_PREFIX
from groot_ros.dataset.errors import DatasetError
from groot_ros.embodiment.recording_rules import state_of
from groot_ros.embodiment.schema import Embodiment
from groot_ros.embodiment.units import unit_map
from groot_ros.embodiment.vocabulary import FLOAT_ARRAY, JOINT_TRAJECTORY
from groot_ros.observation.buffer import StreamBuffer
from groot_ros.observation.messages import KeyReading, MessageReader
from groot_ros.observation.types import Reason, Refusal, Rejected
from groot_ros.simulation.trajectory import Point, TrajectoryFollower, TrajectoryRefused

Values = dict[str, NDArray[np.float32]]
# Joint name of the robot -> measured position in ROS units.
Measured = Callable[[], Mapping[str, float]]

OUTPUT_MAX_AGE_S = 0.5
_FASTEST_HZ = 1000.0  # sizes the buffer of a command, whose rate no YAML says


@dataclass(frozen=True)
class CommandSource:
    """One topic that says action keys.

    Attributes:
        name: ``command:`` and the output's name, or ``record:`` and the action key.
        topic, type: as in the YAML.
        keys: action keys that it says.
        names: joint names or field paths of all numbers that its messages are expected to have, in their order.
        max_age_s: how long a message is in force; None: until the next one.
    """

    name: str
    topic: str
    type: str
    keys: tuple[str, ...]
    names: tuple[str, ...]
    max_age_s: float | None


class Commanded:
    """All commands of one robot.

    Not thread-safe. Times are integer nanoseconds of the ROS clock.

    Args:
        embodiment: the robot.
        history_s: how long before the newest arrival ``at`` may be asked.

    Attributes:
        sources: source name -> topic, for the keys that a topic says.
        next_state: action key -> state key whose value one step later is the action.
        received, rejected: source -> messages since the beginning.

    Raises:
        DatasetError: nothing says an action key.
    """

    def __init__(self, embodiment: Embodiment, history_s: float = 0.5) -> None:
        self.sources, readings = _sources(embodiment)
        self.next_state = _next_states(embodiment)
        self._of_next = {
            key: (unit_map(embodiment, embodiment.state[state]), unit_map(embodiment, embodiment.action[key]))
            for key, state in self.next_state.items()
        }
        missing = set(embodiment.action) - set(self.next_state)
        missing -= {key for source in self.sources.values() for key in source.keys}
        if missing:
            names = ", ".join(f"action.{key}" for key in embodiment.action if key in missing)
            raise DatasetError(
                f"{embodiment.name}: {names}: expected a source of what is recorded, found none, as no output carries "
                "it: name a topic under recording.commands, or list it in recording.next_state"
            )
        max_future_ns, history_ns = round(embodiment.sync.max_future_s * 1e9), round(history_s * 1e9)
        self._commands: dict[str, _Trajectory | _Latest] = {
            name: _Trajectory(source, readings[name], history_ns)
            if source.type == JOINT_TRAJECTORY
            else _Latest(source, readings[name], history_ns, max_future_ns)
            for name, source in self.sources.items()
        }
        self.received = dict.fromkeys(self.sources, 0)
        self.rejected = dict.fromkeys(self.sources, 0)

    def take(self, source: str, message: Any, now_ns: int, measured: Measured = dict) -> Refusal | None:
        """Take one message of ``source`` that arrived at ``now_ns``.

        Args:
            measured: where the joints are, from where the first trajectory sets out.

        Returns: why the message was refused, if it was. A refused trajectory leaves the one before in force, as a
            controller does; of the other types nothing is in force until a good message comes.
        Raises: KeyError for an unknown source.
        """
        command = self._commands[source]
        self.received[source] += 1
        try:
            command.take(message, now_ns, measured)
        except Rejected as error:
            self.rejected[source] += 1
            return error.refusal
        return None

    def at(self, time_ns: int) -> Values | Refusal:
        """Action key -> float32 [D] in model units, in force at ``time_ns``, for all keys but those of next_state."""
        values: Values = {}
        try:
            for command in self._commands.values():
                values.update(command.at(time_ns))
        except Rejected as error:
            return error.refusal
        return values

    def from_next(self, states: Mapping[str, NDArray[np.float32]]) -> Values:
        """Actions of the keys of ``next_state`` for a tick, from the states (key -> [D], model units) of the next."""
        return {
            key: action.to_model(state.to_ros(states[self.next_state[key]])).astype(np.float32)
            for key, (state, action) in self._of_next.items()
        }

    def ages_s(self, now_ns: int) -> dict[str, float]:
        """Source -> time since its newest good message; infinite before the first."""
        return {
            name: float("inf") if command.newest_ns is None else 1e-9 * (now_ns - command.newest_ns)
            for name, command in self._commands.items()
        }

    def reset(self) -> None:
        """Forget all commands, because the clock jumped; counters stay."""
        for command in self._commands.values():
            command.reset()


class _Latest:
    """A command that is a single set of numbers."""

    def __init__(
        self, source: CommandSource, readings: Sequence[KeyReading], history_ns: int, max_future_ns: int
    ) -> None:
        self._source, self._max_future_ns = source, max_future_ns
        self._max_age_ns = round((source.max_age_s or OUTPUT_MAX_AGE_S) * 1e9)
        self._buffer: StreamBuffer[Values] = StreamBuffer(self._max_age_ns + history_ns, _FASTEST_HZ)
        self._bad: Refusal | None = None
        self._read = (
            _array_reader(source, readings)
            if source.type == FLOAT_ARRAY
            else MessageReader(source.name, source.topic, source.type, readings).read
        )

    @property
    def newest_ns(self) -> int | None:
        return self._buffer.newest_ns

    def take(self, message: Any, now_ns: int, measured: Measured) -> None:
        try:
            stamp_ns = self._stamp(message, now_ns)
            self._buffer.append(stamp_ns, self._read(message))
        except Rejected as error:
            self._bad = error.refusal
            raise
        self._bad = None

    def at(self, time_ns: int) -> Values:
        if self._bad is not None:
            raise Rejected.from_refusal(self._bad)
        found = self._buffer.as_of(time_ns)
        if found is None:
            raise _none_yet(self._source)
        age_ns = time_ns - found[0]
        if age_ns > self._max_age_ns:
            raise Rejected(
                Reason.STALE,
                self._source.name,
                f"{self._source.topic}: expected a command at most {self._max_age_ns * 1e-9:g} s old, found "
                f"{age_ns * 1e-9:.3f} s, check what commands the robot or raise recording.commands' max_age_s",
            )
        return found[1]

    def reset(self) -> None:
        self._buffer.clear()
        self._bad = None

    def _stamp(self, message: Any, now_ns: int) -> int:
        newest_ns = self._buffer.newest_ns
        stamp_ns = _header_ns(message)
        if stamp_ns <= 0:  # two may arrive within the resolution of the clock
            return now_ns if newest_ns is None else max(now_ns, newest_ns + 1)
        if stamp_ns > now_ns + self._max_future_ns:
            text = (
                f"expected a stamp at most {self._max_future_ns * 1e-9:g} s ahead of the clock, found "
                f"{(stamp_ns - now_ns) * 1e-9:.3f} s, synchronise the clocks or set use_sim_time alike everywhere"
            )
            raise Rejected(Reason.FUTURE_STAMP, self._source.name, f"{self._source.topic}: {text}")
        if newest_ns is not None and stamp_ns <= newest_ns:
            text = (
                f"expected a stamp after the last one, found one {(newest_ns - stamp_ns) * 1e-9:.3f} s before it, "
                "check for a second publisher"
            )
            raise Rejected(Reason.OUT_OF_ORDER, self._source.name, f"{self._source.topic}: {text}")
        return stamp_ns


class _Trajectory:
    """What a trajectory controller makes of the messages of one topic."""

    def __init__(self, source: CommandSource, readings: Sequence[KeyReading], history_ns: int) -> None:
        self._source, self._readings, self._history_ns = source, readings, history_ns
        # A controller may have more joints than are recorded, and its messages fewer than all.
        self._joints = [joint for reading in readings for joint in reading.joints or ()]
        # What the joint is called where it is measured.
        self._own = dict(zip(self._joints, (name for reading in readings for name in reading.entry.names), strict=True))
        self.newest_ns: int | None = None
        self.reset()

    def reset(self) -> None:
        unknown = [np.nan] * len(self._joints)
        self._follower = TrajectoryFollower(self._joints, unknown, history_ns=self._history_ns, moving_end=True)
        self._since_ns: int | None = None
        self.newest_ns = None

    def take(self, message: Any, now_ns: int, measured: Measured) -> None:
        try:
            names = list(message.joint_names)
            points = [
                Point(_ns(point.time_from_start), list(point.positions), list(point.velocities))
                for point in message.points
            ]
        except AttributeError as error:
            text = f"{self._source.topic}: expected {JOINT_TRAJECTORY}, found a message without {error.name!r}"
            raise Rejected(Reason.MISSING_FIELD, self._source.name, f"{text}, correct the type in the YAML") from error
        stamp_ns = max(_header_ns(message), 0)
        begin_ns = max(stamp_ns, now_ns)
        if self._since_ns is None:
            positions = measured()
            self._follower.hold([positions.get(self._own[joint], np.nan) for joint in self._joints])
        try:
            names, points = self._select(names, points, begin_ns)
            self._follower.receive(names, points, stamp_ns, now_ns)
        except TrajectoryRefused as error:
            raise Rejected(Reason.BAD_COMMAND, self._source.name, f"{self._source.topic}: {error}") from error
        self._since_ns = begin_ns if self._since_ns is None else min(self._since_ns, begin_ns)
        self.newest_ns = now_ns

    def at(self, time_ns: int) -> Values:
        if self._since_ns is None or time_ns < self._since_ns:
            raise _none_yet(self._source)
        positions = dict(zip(self._joints, self._follower.sample(time_ns)[0].tolist(), strict=True))
        values = {}
        for reading in self._readings:
            numbers = np.array([positions[joint] for joint in reading.joints or ()])
            if not np.isfinite(numbers).all():  # on the way to the first point, from a place that nothing measures
                raise _none_yet(self._source)
            values[reading.name] = reading.units.to_model(numbers).astype(np.float32)
        return values

    def _select(self, names: list[str], points: Sequence[Point], begin_ns: int) -> tuple[list[str], list[Point]]:
        """The columns of the recorded joints; one that the message leaves out stays where it is commanded to be.

        Raises: TrajectoryRefused.
        """
        if len(set(names)) != len(names):
            raise TrajectoryRefused(
                f"joint_names lists {', '.join(sorted({n for n in names if names.count(n) > 1}))} twice"
            )
        there = [joint for joint in self._joints if joint in names]
        if not there:
            raise TrajectoryRefused(
                f"expected joints {', '.join(self._joints)}, found {', '.join(names) or '(none)'}: correct the YAML"
            )
        for i, point in enumerate(points):
            for field, values in (("positions", point.positions), ("velocities", point.velocities)):
                if len(values) != len(names) and (field == "positions" or len(values)):
                    raise TrajectoryRefused(
                        f"points[{i}].{field}: expected {len(names)} values, one per joint name, found {len(values)}"
                    )
        held = dict(zip(self._joints, self._follower.sample(begin_ns)[0].tolist(), strict=True))
        left_out = [joint for joint in self._joints if joint not in names]
        unknown = [joint for joint in left_out if not np.isfinite(held[joint])]
        if unknown:
            raise TrajectoryRefused(
                f"joint_names lacks {', '.join(unknown)}, of which neither a command nor a measured position is known: "
                "command every joint once, or correct the keys in the YAML"
            )
        places = [names.index(joint) for joint in there]
        rest, still = [held[joint] for joint in left_out], [0.0] * len(left_out)
        return [*there, *left_out], [
            Point(
                point.time_from_start_ns,
                [point.positions[place] for place in places] + rest,
                [point.velocities[place] for place in places] + still if len(point.velocities) else (),
            )
            for point in points
        ]


def _sources(embodiment: Embodiment) -> tuple[dict[str, CommandSource], dict[str, list[KeyReading]]]:
    """The topics that say action keys, and how these are read."""
    recording = embodiment.recording
    sources: dict[str, CommandSource] = {}
    readings: dict[str, list[KeyReading]] = {}
    for output_name, output in embodiment.outputs.items():
        keys = [key for key in output.keys if key not in recording.commands and key not in recording.next_state]
        if keys:
            name = f"{COMMAND_PREFIX}{output_name}"
            names = tuple(each for key in output.keys for each in embodiment.action[key].names)
            age_s = None if output.type == JOINT_TRAJECTORY else OUTPUT_MAX_AGE_S
            sources[name] = CommandSource(name, output.topic, output.type, tuple(keys), names, age_s)
            readings[name] = [_reading(embodiment, key, embodiment.action[key].names) for key in keys]
    for key, stream in recording.commands.items():
        name = f"{RECORD_PREFIX}{key}"
        names = tuple(stream.names or embodiment.action[key].names)
        age_s = None if stream.type == JOINT_TRAJECTORY else stream.max_age_s
        sources[name] = CommandSource(name, stream.topic, stream.type, (key,), names, age_s)
        readings[name] = [dataclasses.replace(_reading(embodiment, key, list(names)), field=stream.field)]
    return sources, readings


def _reading(embodiment: Embodiment, key: str, names: list[str]) -> KeyReading:
    entry = embodiment.action[key]
    joints, fields = (names, None) if entry.joints is not None else (None, names)
    return KeyReading(key, f"action.{key}", entry, unit_map(embodiment, entry), joints, fields)


def _next_states(embodiment: Embodiment) -> dict[str, str]:
    found = {key: state_of(embodiment.action[key], embodiment.state) for key in embodiment.recording.next_state}
    return {key: state for key, state in found.items() if state is not None}  # the schema allows no None


def _array_reader(source: CommandSource, readings: Sequence[KeyReading]) -> Callable[[Any], Values]:
    """Reads a Float64MultiArray: its numbers are ``names`` in order, or those that ``data.N`` names."""
    numbered = any(name.startswith("data.") for name in source.names)
    places = {name: int(name.removeprefix("data.")) if numbered else i for i, name in enumerate(source.names)}
    count = max(places.values()) + 1
    indices = {
        reading.name: np.array([places[name] for name in reading.joints or reading.fields or ()], dtype=np.intp)
        for reading in readings
    }
    finish = MessageReader(source.name, source.topic, source.type, readings).finish

    def read(message: Any) -> Values:
        values = np.asarray(message.data, dtype=np.float64)
        if values.ndim != 1 or (values.size < count if numbered else values.size != count):
            text = (
                f"{source.topic}: expected {'at least ' if numbered else ''}{count} numbers in data for "
                f"{', '.join(f'action.{key}' for key in source.keys)}, found {values.size}, correct the publisher"
            )
            raise Rejected(Reason.BAD_LAYOUT, source.name, text)
        return {reading.name: finish(reading, values[indices[reading.name]]) for reading in readings}

    return read


def _none_yet(source: CommandSource) -> Rejected:
    text = (
        f"{source.topic}: expected a command for {', '.join(f'action.{key}' for key in source.keys)}, found none in "
        "force, start what commands the robot, or name another source under recording in the YAML"
    )
    return Rejected(Reason.NO_COMMAND, source.name, text)


def _header_ns(message: Any) -> int:
    """``header.stamp`` in nanoseconds; 0 without a header."""
    header = getattr(message, "header", None)
    return 0 if header is None else _ns(header.stamp)


def _ns(value: Any) -> int:
    return int(value.sec) * 1_000_000_000 + int(value.nanosec)
