"""From a state message to model vectors: header stamps, joints matched by name, fields by path.

Messages are duck typed: rclpy's and rosbags' have the same fields; arrays may be array.array, ndarray or list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groot_ros.embodiment.schema import ActionKey, Embodiment, StateKey
from groot_ros.embodiment.units import UnitMap, unit_map
from groot_ros.embodiment.vocabulary import DERIVED, JOINT_STATE, POSE_OF, QUATERNION, orientation_leaf
from groot_ros.observation.orientation import orientation_numbers
from groot_ros.observation.types import Reason, Rejected


def stamp_ns(message: Any, stream: str, topic: str) -> int:
    """``header.stamp`` in nanoseconds.

    Raises: Rejected (MISSING_FIELD) when the message has none or the publisher left it at 0.
    """
    try:
        stamp = int(message.header.stamp.sec) * 1_000_000_000 + int(message.header.stamp.nanosec)
    except AttributeError as error:
        text = f"{topic}: expected a message with header.stamp, found none ({error.name}), correct the type in the YAML"
        raise Rejected(Reason.MISSING_FIELD, stream, text) from error
    if stamp <= 0:
        text = f"{topic}: expected a header stamp, found {stamp} ns, make the publisher stamp its messages"
        raise Rejected(Reason.MISSING_FIELD, stream, text)
    return stamp


@dataclass(frozen=True)
class KeyReading:
    """How one key of the robot is read from the messages of one topic.

    Attributes:
        name: the key.
        label: what errors call it, such as ``state.arm``.
        entry: the key in the YAML.
        units: from ROS units to the model's.
        joints: joint names on this topic, in the key's order; None for a key with fields.
        fields: field paths on this topic, in the key's order; None for a key with joints.
        field: which array of a JointState is read.
    """

    name: str
    label: str
    entry: StateKey | ActionKey
    units: UnitMap
    joints: list[str] | None
    fields: list[str] | None
    field: str = "position"

    @property
    def is_turned(self) -> bool:
        """Whether the model sees another orientation than that of the message."""
        return self.entry.tool_rotation is not None or self.entry.euler_reading is not None

    @property
    def is_rotation(self) -> bool:
        """Whether it takes more from an orientation than some numbers of the quaternion as they are sent."""
        leaves = {orientation_leaf(path) for path in self.fields or []}
        return self.is_turned or bool(leaves & {*DERIVED}) or leaves >= {*QUATERNION}


class MessageReader:
    """Reads the keys that one topic feeds.

    Args:
        source: what refusals name as their source.
        topic: its topic.
        kind: its message type; of the types without joints only numbers by field path are read.
        keys: what is read.
    """

    def __init__(self, source: str, topic: str, kind: str, keys: Sequence[KeyReading]) -> None:
        self._source, self._topic, self._keys = source, topic, list(keys)
        self._joint_state = kind == JOINT_STATE
        self._pose = POSE_OF.get(kind, "")
        # Publishers keep their joint order, so the indices of the last message nearly always hold.
        self._order: list[str] | None = None
        self._indices: list[NDArray[np.intp]] = []

    def read(self, message: Any) -> dict[str, NDArray[np.float32]]:
        """Key -> float32 [D] in model units.

        Raises: Rejected (MISSING_JOINT, DUPLICATE_JOINT, MISSING_FIELD, BAD_LAYOUT, NOT_FINITE) naming the topic.
        """
        return self._read_joints(message) if self._joint_state else self._read_fields(message)

    def _read_joints(self, message: Any) -> dict[str, NDArray[np.float32]]:
        names = list(self._field(message, "name"))
        if names != self._order:
            self._indices = self._match(names)
            self._order = names
        arrays: dict[str, NDArray[np.float64]] = {}
        result = {}
        for key, indices in zip(self._keys, self._indices, strict=True):
            if key.field not in arrays:
                arrays[key.field] = self._array(message, key.field, len(names))
            result[key.name] = self.finish(key, arrays[key.field][indices])
        return result

    def _match(self, names: list[str]) -> list[NDArray[np.intp]]:
        """Where the joints of each key are among ``names``."""
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            text = f"{self._topic}: expected each joint once, found {', '.join(map(repr, twice))} more than once"
            raise self._rejected(Reason.DUPLICATE_JOINT, f"{text}, correct the publisher")
        places = {name: i for i, name in enumerate(names)}
        indices = []
        for key in self._keys:
            joints = key.joints or []
            missing = [joint for joint in joints if joint not in places]
            if missing:
                text = (
                    f"{self._topic}: expected joint {', '.join(map(repr, missing))} ({key.label}), "
                    f"found {', '.join(names) or '(no joints)'}, correct the name in the YAML or have one publisher "
                    "send all joints"
                )
                raise self._rejected(Reason.MISSING_JOINT, text)
            indices.append(np.array([places[joint] for joint in joints], dtype=np.intp))
        return indices

    def _array(self, message: Any, field: str, count: int) -> NDArray[np.float64]:
        values = np.asarray(self._field(message, field), dtype=np.float64)
        if values.size == 0 and count > 0:
            text = f"{self._topic}: expected {field} of {count} joints, found none, make the publisher fill {field}"
            raise self._rejected(Reason.MISSING_FIELD, text)
        if values.shape != (count,):
            text = f"{self._topic}: expected {count} values of {field}, one per name, found {values.size}"
            raise self._rejected(Reason.BAD_LAYOUT, f"{text}, correct the publisher")
        return values

    def _read_fields(self, message: Any) -> dict[str, NDArray[np.float32]]:
        result = {}
        for key in self._keys:
            paths = key.fields or []
            derived = self._derived(message, key) if key.is_rotation else {}
            values = [derived[path] if path in derived else self._number(message, path) for path in paths]
            result[key.name] = self.finish(key, np.array(values))
        return result

    def _derived(self, message: Any, key: KeyReading) -> dict[str, float]:
        """Field path -> number that is computed from the pose's orientation. A quaternion is passed on as it is sent
        unless it is to be turned, but one that is no rotation is refused."""
        quaternion = [self._number(message, f"{self._pose}.orientation.{axis}") for axis in "xyzw"]
        try:
            numbers = orientation_numbers(quaternion, key.entry.tool_rotation, key.entry.euler_reading)
        except ValueError as error:
            shown = ", ".join(f"{axis}={value:g}" for axis, value in zip("xyzw", quaternion, strict=True))
            text = (
                f"{self._topic}: expected a rotation in {self._pose}.orientation for {key.label}, found {shown}, "
                "check the driver or sensor"
            )
            raise self._rejected(Reason.NOT_FINITE, text) from error
        wanted = numbers if key.is_turned else DERIVED
        return {f"{self._pose}.{leaf}": numbers[leaf] for leaf in wanted}

    def _number(self, message: Any, path: str) -> float:
        value = message
        for part in path.split("."):
            value = self._field(value, part, path)
        return float(value)

    def _field(self, message: Any, field: str, path: str | None = None) -> Any:
        try:
            return getattr(message, field)
        except AttributeError as error:
            text = f"{self._topic}: expected field {path or field!r}, found a message without {field!r}"
            raise self._rejected(Reason.MISSING_FIELD, f"{text}, correct the stream's type in the YAML") from error

    def finish(self, key: KeyReading, values: NDArray[np.float64]) -> NDArray[np.float32]:
        """ROS units [D] to model units.

        Raises: Rejected (NOT_FINITE) unless all numbers are finite.
        """
        if not np.isfinite(values).all():
            bad = [f"{n}={v}" for n, v in zip(key.entry.names, values.tolist(), strict=True) if not np.isfinite(v)]
            text = f"{self._topic}: expected finite numbers for {key.label}, found {', '.join(bad)}"
            raise self._rejected(Reason.NOT_FINITE, f"{text}, check the driver or sensor")
        return key.units.to_model(values).astype(np.float32)

    def _rejected(self, reason: Reason, text: str) -> Rejected:
        return Rejected(reason, self._source, text)


class StateReader(MessageReader):
    """Reads the state keys that one stream feeds.

    Args:
        embodiment: the robot.
        stream: name of a state stream of it.
    """

    def __init__(self, embodiment: Embodiment, stream: str) -> None:
        spec = embodiment.state_streams[stream]
        keys = [
            KeyReading(
                name, f"state.{name}", entry, unit_map(embodiment, entry), entry.joints, entry.fields, entry.field
            )
            for name, entry in embodiment.state.items()
            if entry.stream == stream
        ]
        super().__init__(stream, spec.topic, spec.type, keys)
