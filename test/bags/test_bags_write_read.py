"""Bags: what is written is read back in order, and whatever is wrong with a bag is said by name."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import bag_maker as maker
import numpy as np
import pytest
from bag_maker import MS, T0, Recorded
from hypothesis import given
from hypothesis import strategies as st

from groot_ros.bags import write as write_module
from groot_ros.bags.read import Bag, read_bag
from groot_ros.bags.topics import INSTRUCTION_TOPIC, BagError, Topic, bag_topics, deserialize, typestore
from groot_ros.bags.write import BagRecorder, BagWriter

STORAGES = ["mcap", "sqlite3"]
EXPECTED = {"front": 31, "wrist": 31, "joints": 101, "instruction": 1}


def sources(path: Path) -> list[str]:
    return [message.source for message in read_bag(path, maker.robot())]


@pytest.mark.parametrize("storage", STORAGES)
def test_round_trip(storage: str, tmp_path: Path) -> None:
    records = maker.episode(1.0)
    path = maker.write(tmp_path / "bag", records, storage)
    with Bag(path, maker.robot()) as bag:
        assert bag.start_ns == T0
        assert bag.duration_s == pytest.approx(1.004, abs=1e-6)
        assert bag.message_count == len(records)
        assert set(bag.sources()) == {"front", "wrist", "joints", "instruction", "command:arm"}
        messages = list(bag.messages())
    assert {source: sum(m.source == source for m in messages) for source in EXPECTED} == EXPECTED
    assert [(m.topic, m.log_ns) for m in messages] == [(r.topic, r.log_ns) for r in records]
    for read, written in zip(messages, records, strict=True):
        if read.source in ("front", "wrist"):
            np.testing.assert_array_equal(read.message.data, written.message.data)
            assert read.message.header == written.message.header
        elif read.source == "joints":
            assert list(read.message.name) == list(maker.JOINTS)
            np.testing.assert_array_equal(read.message.position, written.message.position)


@pytest.mark.parametrize("storage", STORAGES)
def test_read_by_log_time(storage: str, tmp_path: Path) -> None:
    records = maker.episode(0.5)
    random.Random(0).shuffle(records)
    times = [m.log_ns for m in read_bag(maker.write(tmp_path / "bag", records, storage), maker.robot())]
    assert times == sorted(times)
    assert len(times) == len(records)


def test_a_single_file_is_a_bag_too(tmp_path: Path) -> None:
    path = maker.write(tmp_path / "bag", maker.episode(0.2))
    assert sources(path / "bag.mcap") == sources(path)


def test_other_topics_are_skipped(tmp_path: Path) -> None:
    topics = [*bag_topics(maker.robot()).values(), Topic("/chatter", "std_msgs/msg/String", "")]
    records = [*maker.episode(0.2), Recorded("/chatter", maker.string("hello"), T0 + 5 * MS)]
    path = maker.write(tmp_path / "bag", records, topics=topics)
    assert set(sources(path)) == set(EXPECTED)


@pytest.mark.parametrize("storage", STORAGES)
def test_an_exception_leaves_a_readable_bag(storage: str, tmp_path: Path) -> None:
    def records() -> list[Recorded]:
        yield from maker.episode(0.2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        maker.write(tmp_path / "bag", records(), storage)  # type: ignore[arg-type]
    assert len(sources(tmp_path / "bag")) == len(maker.episode(0.2))


# --- refusals of the writer ---

TOPICS = list(bag_topics(maker.robot()).values())


def test_does_not_overwrite(tmp_path: Path) -> None:
    (tmp_path / "bag").mkdir()
    with pytest.raises(BagError, match=r"bag exists already: choose another name"):
        BagWriter(tmp_path / "bag", "mcap", TOPICS)


REFUSED = [
    pytest.param("bag", "rosbag1", TOPICS, r"expected mcap or sqlite3, found 'rosbag1'", id="storage"),
    pytest.param("bag", "mcap", [Topic("/x", "my_msgs/msg/Thing", "x")], r"/x \(my_msgs/msg/Thing\)", id="type"),
    pytest.param("file/bag", "mcap", TOPICS, r"cannot write a bag at .*file/bag", id="folder"),
]


@pytest.mark.parametrize(("name", "storage", "topics", "message"), REFUSED)
def test_writer_refuses(name: str, storage: str, topics: list[Topic], message: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BagError, match=message):
        BagWriter(tmp_path / name, storage, topics)
    assert not (tmp_path / "bag").exists()


def test_a_closed_writer_refuses(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "bag", "mcap", TOPICS)
    writer.close()
    writer.close()
    with pytest.raises(BagError, match="is closed"):
        writer.write("/joint_states", b"", 0)


# --- refusals of the reader ---


def _cut(path: Path, keep: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def _missing(tmp_path: Path) -> Path:
    return tmp_path / "nothing"


def _empty_folder(tmp_path: Path) -> Path:
    return tmp_path


def _text_file(tmp_path: Path) -> Path:
    (tmp_path / "notes.txt").write_text("hello")
    return tmp_path / "notes.txt"


def _without_metadata(tmp_path: Path) -> Path:
    path = maker.write(tmp_path / "bag", maker.episode(0.2))
    (path / "metadata.yaml").unlink()
    return path


def _bad_metadata(tmp_path: Path) -> Path:
    path = maker.write(tmp_path / "bag", maker.episode(0.2))
    (path / "metadata.yaml").write_text("a: [")
    return path


def _without_file(tmp_path: Path) -> Path:
    path = maker.write(tmp_path / "bag", maker.episode(0.2))
    (path / "bag.mcap").unlink()
    return path


def _truncated(storage: str, suffix: str) -> Callable[[Path], Path]:
    def make(tmp_path: Path) -> Path:
        path = maker.write(tmp_path / "bag", maker.episode(0.5), storage)
        _cut(path / f"bag.{suffix}", 0.6)
        return path

    return make


def _without_joints(tmp_path: Path) -> Path:
    return maker.write(tmp_path / "bag", maker.episode(0.2), keep=lambda record: record.topic != "/joint_states")


def _without_camera_topic(tmp_path: Path) -> Path:
    topics = [topic for topic in TOPICS if topic.source != "wrist"]
    records = [record for record in maker.episode(0.2) if record.topic != "/wrist/image_raw"]
    return maker.write(tmp_path / "bag", records, topics=topics)


def _compressed_camera(tmp_path: Path) -> Path:
    topics = [
        replace(topic, type="sensor_msgs/msg/CompressedImage") if topic.source == "front" else topic for topic in TOPICS
    ]
    jpeg = maker.make(
        "sensor_msgs/msg/CompressedImage", header=maker.header(T0), format="jpeg", data=np.zeros(9, dtype=np.uint8)
    )
    records = [
        replace(record, message=jpeg) if record.topic == "/front/image_raw" else record for record in maker.episode(0.2)
    ]
    return maker.write(tmp_path / "bag", records, topics=topics)


BAD_BAGS = [
    pytest.param(_missing, r"no bag at .*nothing: no such file or folder", id="missing"),
    pytest.param(_empty_folder, r"is no bag: a rosbag2 folder has metadata\.yaml", id="empty-folder"),
    pytest.param(_text_file, r"notes\.txt is no bag: expected a rosbag2 folder", id="text-file"),
    pytest.param(_without_metadata, r"bag\.mcap but no metadata\.yaml: the recording was cut off", id="cut-off"),
    pytest.param(_bad_metadata, r"cannot read the bag .*metadata\.yaml", id="bad-metadata"),
    pytest.param(_without_file, r"cannot read the bag .*bag\.mcap", id="no-file"),
    pytest.param(_truncated("mcap", "mcap"), r"cannot read the bag .*`mcap recover`", id="truncated-mcap"),
    pytest.param(_truncated("sqlite3", "db3"), r"bag.*(malformed|damaged).*ros2 bag reindex", id="truncated-db3"),
    pytest.param(
        _without_joints,
        r"no messages of /joint_states \(sensor_msgs/msg/JointState\), which embodiment 'sim_arm' needs; it has "
        r"/arm_controller/joint_trajectory .*0 messages.*/front/image_raw \(sensor_msgs/msg/Image, 7 messages\)",
        id="topic-without-messages",
    ),
    pytest.param(_without_camera_topic, r"no messages of /wrist/image_raw", id="topic-not-there"),
    pytest.param(
        _compressed_camera,
        r"topic /front/image_raw holds sensor_msgs/msg/CompressedImage, but embodiment 'sim_arm' says sensor_msgs",
        id="other-type",
    ),
]


@pytest.mark.parametrize(("make", "message"), BAD_BAGS)
def test_bad_bags(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    with pytest.raises(BagError, match=message):
        sources(make(tmp_path))


def test_a_message_that_is_not_its_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Past the check of BagWriter, as another tool might write it.
    monkeypatch.setattr(write_module, "deserialize", lambda data, kind: (None, len(data)))
    records = maker.episode(0.1)
    with BagWriter(tmp_path / "bag", "mcap", TOPICS) as writer:
        for record in records:
            kind = bag_topics(maker.robot())[record.topic].type
            writer.write(record.topic, typestore().serialize_cdr(record.message, kind), record.log_ns)
        writer.write("/joint_states", b"\x00\x01\x00\x00garbage", T0 + 900 * MS)
    expected = rf"message {len(records)} \(/joint_states at {T0 + 900 * MS} ns\) is no sensor_msgs"
    with pytest.raises(BagError, match=expected):
        sources(tmp_path / "bag")


@pytest.mark.parametrize("data", [b"", b"\x00\x01\x00\x00garbage", b"\x07\x07\x00\x00" + bytes(100)])
def test_writer_refuses_what_is_no_message(data: bytes, tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "bag", "mcap", TOPICS)
    with writer, pytest.raises(BagError, match="not a message for /joint_states"):
        writer.write("/joint_states", data, T0)
    assert writer.counts["/joint_states"] == 0


@given(st.binary(max_size=64))
def test_bytes_after_the_message_are_left_out(tail: bytes) -> None:
    message = maker.trajectory(T0, [(0.5, [1.0] * 6), (1.0, [2.0] * 6)])
    data = bytes(typestore().serialize_cdr(message, "trajectory_msgs/msg/JointTrajectory"))
    read, size = deserialize(data + tail, "trajectory_msgs/msg/JointTrajectory")
    assert size == len(data)
    assert [point.positions.tolist() for point in read.points] == [[1.0] * 6, [2.0] * 6]


@given(st.integers(0, 200))
def test_cut_messages_are_refused(keep: int) -> None:
    data = bytes(typestore().serialize_cdr(maker.joints(T0), "sensor_msgs/msg/JointState"))
    assert len(data) > 200
    with pytest.raises(ValueError):
        deserialize(data[:keep], "sensor_msgs/msg/JointState")


# --- the recorder's thread ---

TEXT = bytes(typestore().serialize_cdr(maker.string("wave"), "std_msgs/msg/String"))


@pytest.mark.parametrize("storage", STORAGES)
def test_recorder_writes_all_before_it_closes(storage: str, tmp_path: Path) -> None:
    failures: list[BagError] = []
    recorder = BagRecorder(tmp_path / "bag", storage, TOPICS, failures.append, depth=1000)
    records = maker.episode(0.5)
    types = bag_topics(maker.robot())
    for record in records:
        data = typestore().serialize_cdr(record.message, types[record.topic].type)
        recorder.write(record.topic, bytes(data), record.log_ns)
    recorder.close()
    assert (failures, recorder.dropped) == ([], 0)
    assert recorder.counts[INSTRUCTION_TOPIC] == 1
    assert len(sources(tmp_path / "bag")) == len(records)


def test_recorder_refuses_where_it_is_made(tmp_path: Path) -> None:
    (tmp_path / "bag").mkdir()
    with pytest.raises(BagError, match="exists already"):
        BagRecorder(tmp_path / "bag", "mcap", TOPICS, lambda error: None)


def test_recorder_counts_what_a_slow_disk_drops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writing, go_on = threading.Event(), threading.Event()
    really_write = BagWriter.write

    def slow(self: BagWriter, *args: object) -> None:
        writing.set()
        assert go_on.wait(30)
        really_write(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(BagWriter, "write", slow)
    recorder = BagRecorder(tmp_path / "bag", "mcap", TOPICS, lambda error: None, depth=2)
    recorder.write(INSTRUCTION_TOPIC, TEXT, T0)
    assert writing.wait(30)
    for _ in range(5):
        recorder.write(INSTRUCTION_TOPIC, TEXT, T0)
    go_on.set()
    recorder.close()
    assert recorder.dropped == 3
    assert recorder.counts[INSTRUCTION_TOPIC] == 3


def test_recorder_reports_a_full_disk_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object, *args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write_module.Writer, "write", full)
    failures: list[BagError] = []
    recorder = BagRecorder(tmp_path / "bag", "mcap", TOPICS, failures.append)
    recorder.write(INSTRUCTION_TOPIC, TEXT, T0)
    recorder.write(INSTRUCTION_TOPIC, TEXT, T0)
    recorder.close()
    assert len(failures) == 1
    assert "No space left on device" in str(failures[0])
