"""Read rosbag2 folders and files without ROS: a robot's topics, in the order in which they were recorded."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader

from groot_ros.bags.topics import BagError, Topic, bag_sources, deserialize
from groot_ros.embodiment.schema import Embodiment


@dataclass(frozen=True)
class BagMessage:
    """One message.

    Attributes:
        source: as in ``Topic``.
        topic: its topic.
        message: deserialized; fields as rclpy's, numpy arrays for sequences of numbers.
        log_ns: when it was recorded.
    """

    source: str
    topic: str
    message: Any
    log_ns: int


class Bag:
    """An open bag, checked against a robot; use as a context manager.

    Args:
        path: rosbag2 folder, or a single ``.mcap`` or ``.db3`` file.
        embodiment: the robot whose topics are read; others are skipped.

    Raises:
        BagError: no bag, damaged, or without a topic that the robot needs, or with another type.
    """

    def __init__(self, path: str | Path, embodiment: Embodiment) -> None:
        self.path = Path(path).expanduser()
        self._topics: dict[str, list[Topic]] = {}
        for topic in bag_sources(embodiment):
            self._topics.setdefault(topic.name, []).append(topic)
        self._reader = _open(self.path)
        try:
            self._check(embodiment)
        except BagError:
            self.close()
            raise

    @property
    def start_ns(self) -> int:
        """Log time of the first message of any topic."""
        return int(self._reader.start_time)

    @property
    def duration_s(self) -> float:
        """From the first to the last message of any topic."""
        return 1e-9 * float(self._reader.duration)

    @property
    def message_count(self) -> int:
        """Messages of the robot's topics."""
        return sum(info.msgcount for name, info in self._reader.topics.items() if name in self._topics)

    def sources(self) -> dict[str, Topic]:
        """Source -> topic of what this bag has for the robot."""
        there = [topic for name in self._reader.topics for topic in self._topics.get(name, [])]
        return {topic.source: topic for topic in there}

    def type_of(self, topic: str) -> str | None:
        """Message type of any topic of the bag; None: it has no message of it."""
        found = self._reader.topics.get(topic)
        return None if found is None or not found.msgcount else str(found.msgtype)

    def read(self, topic: str) -> Iterator[tuple[int, Any]]:
        """Log time (ns) and message of one topic, of the robot or not.

        Raises:
            BagError: a message cannot be read.
        """
        connections = [connection for connection in self._reader.connections if connection.topic == topic]
        for _, log_ns, message in self._messages(connections):
            yield log_ns, message

    def messages(self) -> Iterator[BagMessage]:
        """All messages of the robot's topics by log time; equal times in the order of the bag.

        Raises:
            BagError: a message cannot be read; names its topic and place.
        """
        connections = [connection for connection in self._reader.connections if connection.topic in self._topics]
        for name, log_ns, message in self._messages(connections):
            for topic in self._topics[name]:
                yield BagMessage(topic.source, name, message, log_ns)

    def close(self) -> None:
        """Close the files."""
        if self._reader.is_open:
            self._reader.close()

    def __enter__(self) -> Bag:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _messages(self, connections: list[Connection]) -> Iterator[tuple[str, int, Any]]:
        """Topic, log time and message."""
        raw = self._reader.messages(connections)
        for seen in itertools.count():
            try:
                connection, log_ns, data = next(raw)
            except StopIteration:
                return
            except Exception as error:
                raise BagError(
                    f"{self.path} is damaged after {seen} messages: {error}; {_repair(self.path)}"
                ) from error
            try:
                message, _ = deserialize(data, connection.msgtype)
            except ValueError as error:
                what = f"message {seen} ({connection.topic} at {log_ns} ns)"
                raise BagError(f"{self.path}: {what} is no {connection.msgtype}: {error}") from error
            yield connection.topic, log_ns, message

    def _check(self, embodiment: Embodiment) -> None:
        there = {
            connection.topic: (connection.msgtype, info.msgcount)
            for info in self._reader.topics.values()
            for connection in info.connections
        }
        topics = [topic for same in self._topics.values() for topic in same]
        missing = [topic for topic in topics if topic.required and there.get(topic.name, ("", 0))[1] == 0]
        if missing:
            wanted = ", ".join(f"{topic.name} ({topic.type})" for topic in missing)
            has = ", ".join(f"{name} ({kind}, {count} messages)" for name, (kind, count) in sorted(there.items()))
            raise BagError(
                f"{self.path} has no messages of {wanted}, which embodiment '{embodiment.name}' needs; it has "
                f"{has or 'nothing'}: record these topics, or name the bag's topics in the embodiment's YAML"
            )
        for topic in topics:
            kind = there.get(topic.name, (topic.type, 0))[0]
            if kind != topic.type:
                raise BagError(
                    f"{self.path}: topic {topic.name} holds {kind}, but embodiment '{embodiment.name}' says "
                    f"{topic.type}: correct the YAML or record the other topic"
                )


def read_bag(path: str | Path, embodiment: Embodiment) -> Iterator[BagMessage]:
    """Open, yield all messages of the robot's topics by log time, close. Raises BagError as ``Bag`` does."""
    with Bag(path, embodiment) as bag:
        yield from bag.messages()


def _open(path: Path) -> Reader:
    if not path.exists():
        raise BagError(f"no bag at {path}: no such file or folder")
    if path.is_dir() and not (path / "metadata.yaml").exists():
        files = sorted(file.name for file in path.iterdir() if file.suffix in (".mcap", ".db3"))
        if not files:
            raise BagError(f"{path} is no bag: a rosbag2 folder has metadata.yaml and .mcap or .db3 files")
        raise BagError(
            f"{path} has {', '.join(files)} but no metadata.yaml: the recording was cut off; {_repair(path)}"
        )
    if path.is_file() and path.suffix not in (".mcap", ".db3"):
        raise BagError(f"{path} is no bag: expected a rosbag2 folder, an .mcap or a .db3 file")
    reader = Reader(path)
    try:
        reader.open()
    except Exception as error:
        raise BagError(f"cannot read the bag {path}: {error}; {_repair(path)}") from error
    return reader


def _repair(path: Path) -> str:
    folder = path if path.is_dir() else path.parent
    if any(file.suffix == ".mcap" for file in folder.iterdir()):
        return "`mcap recover` saves what is whole, then `ros2 bag reindex` writes the metadata"
    return "`ros2 bag reindex` may save it, else record anew"
