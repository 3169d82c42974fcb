"""Write rosbag2 folders, mcap or sqlite3, without ROS."""

from __future__ import annotations

import queue
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType

from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.errors import WriterError

from groot_ros.bags.topics import BagError, Topic, deserialize, typestore

STORAGES = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
_VERSION = 8  # of the metadata file: the newest that Humble's rosbag2 reads too
_FOREVER = QosTime(0, 0)
_QOS = Qos(
    QosHistory.KEEP_LAST,
    10,
    QosReliability.RELIABLE,
    QosDurability.VOLATILE,
    _FOREVER,
    _FOREVER,
    QosLiveliness.AUTOMATIC,
    _FOREVER,
    False,
)


class BagWriter:
    """A bag that is being written; use as a context manager or call ``close``.

    Closing always writes the index and the metadata, also after an exception: what was recorded stays readable.
    One thread at a time.

    Args:
        path: folder to make.
        storage: ``mcap`` or ``sqlite3``.
        topics: all topics that will be written.

    Raises:
        BagError: the folder exists, cannot be made, the storage is unknown or a type has no definition.
    """

    def __init__(self, path: str | Path, storage: str, topics: Sequence[Topic]) -> None:
        self.path = Path(path).expanduser()
        self.counts = {topic.name: 0 for topic in topics}
        if storage not in STORAGES:
            raise BagError(f"bag storage: expected {' or '.join(STORAGES)}, found '{storage}'")
        if self.path.exists():
            raise BagError(f"{self.path} exists already: choose another name or remove it (bags are not overwritten)")
        unknown = [f"{topic.name} ({topic.type})" for topic in topics if topic.type not in typestore().fielddefs]
        if unknown:
            raise BagError(f"no message definition to record {', '.join(unknown)}")
        self._writer: Writer | None = Writer(self.path, version=_VERSION, storage_plugin=STORAGES[storage])
        try:
            self._writer.open()
            self._connections = {
                topic.name: self._writer.add_connection(
                    topic.name, topic.type, typestore=typestore(), offered_qos_profiles=[_QOS]
                )
                for topic in topics
            }
        except (OSError, WriterError) as error:
            raise BagError(f"cannot write a bag at {self.path}: {error}") from error

    def write(self, topic: str, data: bytes | memoryview, stamp_ns: int) -> None:
        """Append one serialized (CDR) message; ``stamp_ns`` is the time at which it was sent or received.

        Bytes after the message are not written, see ``deserialize``.

        Raises:
            BagError: the bytes are no message of the topic's type, the disk refuses, or the bag is closed.
        """
        if self._writer is None:
            raise BagError(f"{self.path} is closed")
        try:
            _, size = deserialize(data, self._connections[topic].msgtype)
        except ValueError as error:
            raise BagError(f"{self.path}: not a message for {topic}: {error}") from error
        try:
            self._writer.write(self._connections[topic], stamp_ns, data[:size])
        except Exception as error:
            raise BagError(f"cannot write to {self.path}: {error}{_room(self.path)}") from error
        self.counts[topic] += 1

    def close(self) -> None:
        """Write index and metadata. Further calls do nothing.

        Raises:
            BagError: the disk refuses.
        """
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            if not any(self.counts.values()):
                writer.min_timestamp = 0  # rosbags' own value for "none yet" is no time
            writer.close()
        except Exception as error:
            writer.abort()
            raise BagError(f"cannot finish {self.path}: {error}{_room(self.path)}") from error

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _room(path: Path) -> str:
    """Named in errors when the disk is nearly full."""
    free_mb = shutil.disk_usage(path if path.exists() else path.parent).free / 1e6
    return f" ({free_mb:.0f} MB free)" if free_mb < 200 else ""


class BagRecorder:
    """A ``BagWriter`` behind a thread and a bounded queue, for callers that must not wait for a disk.

    Args:
        path: folder to make.
        storage: ``mcap`` or ``sqlite3``.
        topics: all topics that will be written.
        failed: called once, from the recorder's thread, with the error that ended the recording.
        depth: messages that may wait; more are dropped and counted in ``dropped``.

    Raises:
        BagError: as ``BagWriter`` does.
    """

    def __init__(
        self,
        path: str | Path,
        storage: str,
        topics: Sequence[Topic],
        failed: Callable[[BagError], None],
        depth: int = 200,
    ) -> None:
        self.path = Path(path).expanduser()
        self.dropped = 0
        self._make = lambda: BagWriter(path, storage, topics)
        self._failed = failed
        self._queue: queue.Queue[tuple[str, bytes, int] | None] = queue.Queue(depth)
        self._opened: Future[BagWriter] = Future()
        self._thread = threading.Thread(target=self._run, name="bag-recorder", daemon=True)
        self._thread.start()
        self._writer = self._opened.result()

    @property
    def counts(self) -> dict[str, int]:
        """Topic -> messages written so far."""
        return dict(self._writer.counts)

    def write(self, topic: str, data: bytes, stamp_ns: int) -> None:
        """Queue one serialized message; from any thread, never blocks."""
        try:
            self._queue.put_nowait((topic, data, stamp_ns))
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write what is queued, then the index. Returns when the bag is complete."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        # The writer lives in this thread alone: sqlite3 connections belong to the thread that made them.
        try:
            writer = self._make()
        except BagError as error:
            self._opened.set_exception(error)
            return
        self._opened.set_result(writer)
        broken: BagError | None = None
        while (item := self._queue.get()) is not None:
            if broken is None:
                try:
                    writer.write(*item)
                except BagError as error:
                    broken = error
                    self._failed(error)
        try:
            writer.close()
        except BagError as error:
            if broken is None:
                self._failed(error)
