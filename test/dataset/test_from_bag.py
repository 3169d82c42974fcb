"""Bags become episodes: every picture is that of its row, and a bag of a live recording gives the same rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import barcode
import demonstration as demo
import numpy as np
import pytest
from demonstration import MS, T0, Desk, S, Sent, demonstration, newest, number_of, robot, write_bag

from groot_ros.bags.topics import EVENTS_TOPIC, INSTRUCTION_TOPIC
from groot_ros.dataset import bag_session
from groot_ros.dataset.bag_events import KINDS, NO_EVENTS, EpisodeEvent
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.from_bag import Conversion, convert
from groot_ros.dataset.read import Dataset
from groot_ros.dataset.video import decode_frames
from groot_ros.embodiment.schema import Embodiment

STRING, BOOL = "std_msgs/msg/String", "std_msgs/msg/Bool"
PLAIN = demonstration(2.5)


def to_dataset(
    bags: Sequence[Path], root: Path, embodiment: Embodiment, task: str | None = demo.TASK, **more: Any
) -> Conversion:
    return convert(bags, root, embodiment, task, codec="libx264", min_free_bytes=0, **more)


def check_identity(dataset: Dataset, episode: int, sent: Sequence[Sent]) -> list[int]:
    """Every row and every picture is the newest of its time. Returns: the stamps."""
    stamps = [int(stamp) for stamp in dataset.column(episode, "recording.stamp_ns")]
    states, actions = dataset.column(episode, "observation.state"), dataset.column(episode, "action")
    ages = dataset.column(episode, "recording.age_ns")
    for row, stamp_ns in enumerate(stamps):
        assert number_of(states[row][0]) == newest(sent, "joints", stamp_ns).number
        assert number_of(actions[row][0]) == newest(sent, "command:arm", stamp_ns).number
        for place, stream in enumerate(("front", "wrist", "joints")):
            assert stamp_ns - int(ages[row][place]) == newest(sent, stream, stamp_ns).stamp_ns
    for camera in demo.CAMERAS:
        shown = [barcode.read(rgb) for rgb in decode_frames(dataset.video(episode, f"observation.images.{camera}"))]
        assert shown == [newest(sent, camera, stamp_ns).number for stamp_ns in stamps]
    return stamps


def string(text: str) -> Any:
    return demo.make(STRING, data=text)


def event(kind: Any, stamp_ns: int, delay_ns: int = 30 * MS, **more: Any) -> tuple[str, Any, int, str]:
    """An event of the recorder, published some time after what it tells of."""
    return EVENTS_TOPIC, string(EpisodeEvent(kind, stamp_ns, **more).to_text()), stamp_ns + delay_ns, STRING


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_every_picture_is_that_of_its_row(storage: str, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", demonstration(2.5, jitter_ns=20 * MS), robot(), storage)
    seen: list[tuple[int, float, float]] = []
    result = to_dataset([bag], tmp_path / "data", robot(), progress=lambda *values: seen.append(values))
    dataset = Dataset(tmp_path / "data")
    assert result.ok
    assert [episode.rows for episode in result.episodes] == [entry.length for entry in dataset.episodes]
    stamps = check_identity(dataset, 0, demonstration(2.5, jitter_ns=20 * MS))
    assert stamps == [stamps[0] + k * S // demo.FPS for k in range(len(stamps))]
    assert len(stamps) > 2 * demo.FPS
    report = dataset.report(0)
    assert report is not None
    assert report["more"]["source"] == str(bag)
    assert report["more"]["actions"] == {"arm": "/command"}
    assert 4.0 < result.bags[0].delay_ms["front"] < 24.0
    assert seen[-1][1] == seen[-1][2] > 2.0


def test_a_bag_of_a_live_recording_gives_the_same_rows(tmp_path: Path) -> None:
    """The requests are in the bag with the times at which the session was told."""
    live = Desk(min_rows=10)
    sent = demonstration(2.8, jitter_ns=15 * MS)
    told = [(0.7, "start"), (1.4, "intervention"), (1.8, "pause"), (2.0, "resume"), (2.7, "save")]
    events = []
    for item in sent:
        while told and T0 + round(told[0][0] * S) <= item.arrived_ns:
            at_s, kind = told.pop(0)
            request(live, kind, T0 + round(at_s * S))
            events.append(event(kind, T0 + round(at_s * S), task=demo.TASK))
        live.give([item])
    bag = write_bag(tmp_path / "bag", sent, robot(), more=events)
    result = to_dataset([bag], tmp_path / "data", robot(), None, min_rows=10)
    dataset = Dataset(tmp_path / "data")
    assert result.ok, result
    assert [entry.length for entry in dataset.episodes] == [writer.rows for writer in live.writers]
    assert [entry.tasks for entry in dataset.episodes] == [(demo.TASK,)] * 2
    columns = {
        **{"recording.stamp_ns": "stamp_ns", "recording.age_ns": "age_ns", "recording.intervention": "intervention"},
        **{"observation.state": "state", "action": "action"},
    }
    for episode, writer in enumerate(live.writers):
        for column, name in columns.items():
            converted = np.stack([np.asarray(value) for value in dataset.column(episode, column)])
            assert np.array_equal(converted.reshape(len(converted), -1), writer.column(name).reshape(writer.rows, -1))
    assert live.writers[0].column("intervention").any()


def request(desk: Desk, kind: str, now_ns: int) -> None:
    """Ask a session for what an event says."""
    session = desk.session
    if kind == "start":
        assert session.start(demo.TASK, now_ns).ok
    elif kind == "save":
        assert session.save(now_ns)[0].ok
    elif kind == "intervention":
        assert session.intervention(True, now_ns).ok
    else:
        assert session.pause(kind == "pause", now_ns).ok


# --- where episodes begin and end ------------------------------------------------------------------------------------


def test_bool_events(tmp_path: Path) -> None:
    """Only its changes count; a start waits for its streams."""
    marks = [(0.02, True), (0.6, True), (1.1, False), (1.2, False), (1.5, True), (2.0, False), (2.2, True)]
    more = [("/episode", demo.make(BOOL, data=on), T0 + round(at_s * S), BOOL) for at_s, on in marks]
    bag = write_bag(tmp_path / "bag", PLAIN, robot(), more=more)
    result = to_dataset([bag], tmp_path / "data", robot(), event_topic="/episode", min_rows=5)
    (outcome,) = result.bags
    assert [episode.rows for episode in outcome.episodes] == pytest.approx([26, 15], abs=2)
    assert "the bag ended before the episode was saved" in outcome.messages[-1]
    assert not any("refused" in message for message in outcome.messages)
    first = [int(stamp) for stamp in Dataset(tmp_path / "data").column(0, "recording.stamp_ns")]
    assert first[0] >= T0 + 0.02 * S and first[-1] <= T0 + 1.1 * S


def test_an_episode_that_was_aborted_live_does_not_run_into_the_next_one(tmp_path: Path) -> None:
    """A recorder that was killed says nothing; one that gave up says that the episode is discarded."""
    for ending in ([], [event("discard", T0 + S)]):
        told = [event("start", T0 + S // 2, task="a"), *ending, event("start", T0 + 3 * S // 2, task="b")]
        bag = write_bag(tmp_path / f"bag{len(ending)}", PLAIN, robot(), more=[*told, event("save", T0 + 2 * S)])
        root = tmp_path / f"data{len(ending)}"
        (outcome,) = to_dataset([bag], root, robot(), None, min_rows=5).bags
        assert [episode.task for episode in outcome.episodes] == ["b"]
        assert Dataset(root).column(0, "recording.stamp_ns")[0] >= T0 + 3 * S // 2
        assert any("began another" in message for message in outcome.messages) == (not ending)


def test_an_episode_whose_save_finds_nothing_is_over(tmp_path: Path) -> None:
    """The streams are not there in time: it does not go on until the next save."""
    told = [event("start", T0, task="a"), event("save", T0 + S // 20), event("start", T0 + S, task="b")]
    bag = write_bag(tmp_path / "bag", PLAIN, robot(), more=[*told, event("save", T0 + 2 * S)])
    (outcome,) = to_dataset([bag], tmp_path / "data", robot(), None, min_rows=5).bags
    assert [episode.task for episode in outcome.episodes] == ["b"]
    assert "save refused: nothing is recorded yet" in outcome.messages[0]


def test_events_that_are_to_be_ignored(tmp_path: Path) -> None:
    told = [event("start", T0 + S), event("save", T0 + 2 * S)]
    bag = write_bag(tmp_path / "bag", PLAIN, robot(), more=told)
    result = to_dataset([bag], tmp_path / "data", robot(), event_topic=NO_EVENTS)
    assert result.ok
    assert result.episodes[0].rows > 1.8 * demo.FPS


def test_a_disk_that_ends_the_conversion_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was whole before is saved all the same."""
    begun = []

    def begin(self: Any, task: str) -> Any:
        begun.append(task)
        if len(begun) > 1:
            raise DatasetError("the disk is full")
        return real(self, task)

    real = bag_session._BagConversion._writer
    monkeypatch.setattr(bag_session._BagConversion, "_writer", begin)
    sent = [item for item in PLAIN if item.source != "front" or not 1.2 <= (item.stamp_ns - T0) / S < 1.5]
    result = to_dataset([write_bag(tmp_path / "bag", sent, robot())], tmp_path / "data", robot(), min_rows=5)
    (outcome,) = result.bags
    assert not result.ok
    assert "not converted to its end: " in outcome.error and "the disk is full" in outcome.error
    assert len(outcome.episodes) == 1


def test_streams_that_never_come_back_are_named(tmp_path: Path) -> None:
    sent = [item for item in PLAIN if item.source != "wrist" or item.stamp_ns < T0 + 3 * S // 2]
    bag = write_bag(tmp_path / "bag", sent, robot())
    (outcome,) = to_dataset([bag], tmp_path / "data", robot(), min_rows=5).bags
    assert len(outcome.episodes) == 1
    assert "no more rows until the end of the bag: /wrist: expected a sample at most 0.1 s old" in outcome.messages[-1]


def test_many_gaps_are_saved_bit_by_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same episodes."""
    sent = [item for item in PLAIN if item.source != "front" or not 0.4 <= (item.stamp_ns - T0) / S % 0.8 < 0.55]
    bag = write_bag(tmp_path / "bag", sent, robot())
    rows = []
    for most in (50, 1):
        monkeypatch.setattr(bag_session, "_MOST_SEGMENTS", most)
        result = to_dataset([bag], tmp_path / f"data{most}", robot(), min_rows=3)
        assert result.ok
        rows.append([episode.rows for episode in result.episodes])
    assert rows[0] == rows[1]
    assert len(rows[0]) >= 3


def test_a_conversion_that_is_stopped_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = [event("start", T0 + S // 2), event("save", T0 + S), event("start", T0 + S + 1)]
    bag = write_bag(tmp_path / "bag", PLAIN, robot(), more=told)

    def stop(number: int, done_s: float, total_s: float) -> None:
        if done_s > 1.4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        to_dataset([bag], tmp_path / "data", robot(), progress=stop)
    assert not (tmp_path / "data").exists()


def test_a_folder_that_was_there_stays_with_what_was_in_it(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert not to_dataset([tmp_path / "missing"], tmp_path / "data", robot()).ok
    assert list((tmp_path / "data").iterdir()) == []
    bag = write_bag(tmp_path / "bag", PLAIN, robot())
    assert to_dataset([bag], tmp_path / "data", robot()).ok
    assert not to_dataset([tmp_path / "missing"], tmp_path / "data", robot()).ok
    assert len(Dataset(tmp_path / "data").episodes) == 1


def test_gaps_and_instructions_make_episodes_without_events(tmp_path: Path) -> None:
    sent = [item for item in PLAIN if item.source != "front" or not 0.9 <= (item.stamp_ns - T0) / S < 1.2]
    said = [(0.0, "first task"), (0.3, "first task"), (1.9, "second task")]
    more = [(INSTRUCTION_TOPIC, string(text), T0 + round(at_s * S), STRING) for at_s, text in said]
    bag = write_bag(tmp_path / "bag", sent, robot(), more=more)
    result = to_dataset([bag], tmp_path / "data", robot(), None, min_rows=5)
    dataset = Dataset(tmp_path / "data")
    assert [entry.tasks for entry in dataset.episodes] == [("first task",), ("first task",), ("second task",)]
    for episode in range(3):
        check_identity(dataset, episode, sent)
    assert any("segment of" in message and "/front" in message for message in result.bags[0].messages)


def test_several_bags_at_a_time(tmp_path: Path) -> None:
    """Two processes; the order is that of the bags, and a bad one does not stop the others."""
    parts = [demonstration(1.2, start_ns=T0 + 100 * k * S) for k in range(2)]
    bags = [write_bag(tmp_path / f"bag{k}", sent, robot()) for k, sent in enumerate(parts)]
    seen: list[int] = []
    result = to_dataset(
        [bags[1], tmp_path / "missing", bags[0]],
        tmp_path / "data",
        robot(),
        min_rows=5,
        jobs=2,
        progress=lambda number, done_s, total_s: seen.append(number),
    )
    dataset = Dataset(tmp_path / "data")
    assert not result.ok
    assert "no bag at" in result.bags[1].error
    assert [bag.error for bag in result.bags][::2] == ["", ""]
    check_identity(dataset, 0, parts[1])
    check_identity(dataset, 1, parts[0])
    assert {0, 2} <= set(seen)


# --- refusals --------------------------------------------------------------------------------------------------------


def _no_command(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    return write_bag(tmp_path / "bag", [i for i in PLAIN if i.source != "command:arm"], robot()), {}


def _no_camera(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    return write_bag(tmp_path / "bag", [i for i in PLAIN if i.source != "wrist"], robot()), {}


def _no_task(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    return write_bag(tmp_path / "bag", PLAIN[:50], robot()), {"task": None}


def _no_events(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    return write_bag(tmp_path / "bag", PLAIN[:50], robot()), {"event_topic": "/marks"}


def _no_event(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    return write_bag(tmp_path / "bag", PLAIN[:50], robot(), more=[(EVENTS_TOPIC, string("begin"), T0, STRING)]), {}


def _no_flag(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    mark = demo.make("std_msgs/msg/Float64", data=1.0)
    bag = write_bag(tmp_path / "bag", PLAIN[:50], robot(), more=[("/marks", mark, T0, "std_msgs/msg/Float64")])
    return bag, {"event_topic": "/marks"}


def _two_clocks(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    late = [Sent(i.arrived_ns + 3600 * S, i.source, i.message, i.stamp_ns, i.number) for i in PLAIN[:50]]
    return write_bag(tmp_path / "bag", late, robot()), {}


def _half_rate(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    return write_bag(tmp_path / "bag", [i for i in PLAIN if i.source != "front" or i.number % 2], robot()), {}


BAD = [
    pytest.param(
        _no_command, r"no messages of /command \(sensor_msgs/msg/JointState\), which say the act", id="command"
    ),
    pytest.param(_no_camera, r"no messages of /wrist", id="camera"),
    pytest.param(_no_task, r"expected a task, found none on /groot_policy/instruction", id="task"),
    pytest.param(_no_events, r"expected episode events on /marks, found no message", id="events"),
    pytest.param(_no_event, r"expected a JSON object, found 'begin'", id="event"),
    pytest.param(_no_flag, r"/marks: expected std_msgs/msg/String .* found std_msgs/msg/Float64", id="event-type"),
    pytest.param(_two_clocks, r"\+3600.0 s after its header stamp: two clocks", id="clocks"),
    pytest.param(_half_rate, r"/front: expected at least 22.5 Hz", id="half-rate"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_a_bag_that_cannot_be_converted(make: Any, message: str, tmp_path: Path) -> None:
    """It is told why, and nothing is left of the dataset that was made for it."""
    bag, options = make(tmp_path)
    result = to_dataset([bag], tmp_path / "data", robot(), **{"task": demo.TASK, **options})
    (outcome,) = result.bags
    assert not result.ok
    assert re.search(message, " ".join([outcome.error, *outcome.messages]))
    assert not (tmp_path / "data").exists()


def test_nothing_to_do_and_a_bag_given_twice(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected bags and at least one job, found 0 bags"):
        to_dataset([], tmp_path / "data", robot())
    with pytest.raises(ValueError, match=r"expected each bag once, found .*bag more than once"):
        to_dataset([tmp_path / "bag", tmp_path / "x" / ".." / "bag"], tmp_path / "data", robot())
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_survives_its_text(kind: Any) -> None:
    told = EpisodeEvent(kind, T0, "tidy up, \u00e9" if kind == "start" else "", on=kind != "intervention")
    assert EpisodeEvent.from_text(told.to_text()) == told


@pytest.mark.parametrize(
    "text", ["", "[]", '{"event": "stop"}', '{"event": "start", "stamp_ns": 1.5}', '{"event": "start", "task": 1}']
)
def test_a_text_that_is_no_event(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        EpisodeEvent.from_text(text)
