"""The recording session: grid, gate, drop policies, and that what it records depends on the messages alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import demonstration as demo
import numpy as np
import pytest
from demonstration import (
    FPS,
    MS,
    T0,
    Desk,
    S,
    Sent,
    at,
    demonstration,
    front_in_another_size,
    newest,
    number_of,
    robot,
    without,
    wrist_in_another_size,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.session_types import SessionState
from groot_ros.observation.types import Reason

PLAIN = demonstration()


# --- what is in the rows ---------------------------------------------------------------------------------------------


def test_every_row_holds_the_newest_samples_of_its_time() -> None:
    desk = Desk()
    desk.play(PLAIN)
    answer, finished = desk.session.save(desk.now_ns)
    (writer,) = desk.writers
    assert answer.ok
    assert [each.writer for each in finished] == [writer]
    assert writer.ended
    assert writer.rows >= 2 * FPS - 3
    stamps = writer.column("stamp_ns").tolist()
    for row, stamp_ns in enumerate(stamps):
        assert number_of(writer.kept[row]["state"][0]) == newest(PLAIN, "joints", stamp_ns).number
        assert number_of(writer.kept[row]["action"][0]) == newest(PLAIN, "command:arm", stamp_ns).number
        for place, stream in enumerate(("front", "wrist", "joints")):
            assert stamp_ns - writer.kept[row]["age_ns"][place] == newest(PLAIN, stream, stamp_ns).stamp_ns
    for camera in demo.CAMERAS:
        assert writer.numbers(camera) == [newest(PLAIN, camera, stamp_ns).number for stamp_ns in stamps]
    assert not writer.column("flags").any()


@pytest.mark.parametrize("phase_ms", range(0, 33, 4))
def test_cameras_that_jitter_lose_no_picture_at_the_rate_of_the_rows(phase_ms: int) -> None:
    """Whenever the start comes, the grid lies where 5 ms more or less change nothing."""
    random = np.random.default_rng(phase_ms)
    sent = []
    for item in PLAIN:
        if item.source in demo.CAMERAS:
            stamp_ns = item.stamp_ns + int(random.integers(-5, 6)) * MS
            message = demo.numbered(item.source, stamp_ns, item.number)
            item = Sent(stamp_ns + 6 * MS, item.source, message, stamp_ns, item.number)
        sent.append(item)
    desk = Desk()
    desk.play(sorted(sent, key=lambda item: item.arrived_ns), start_s=1.0 + 1e-3 * phase_ms)
    for camera in demo.CAMERAS:
        shown = desk.writers[0].numbers(camera)
        assert shown == list(range(shown[0], shown[0] + len(shown)))


@settings(max_examples=12, deadline=None)
@given(
    jitter_ms=st.integers(0, 60),
    drop=st.sampled_from(("fail", "split", "flag")),
    seed=st.integers(0, 1000),
    timer_ms=st.integers(1, 200),
    gap_s=st.floats(0.0, 0.3),
)
def test_a_timer_changes_nothing(jitter_ms: int, drop: str, seed: int, timer_ms: int, gap_s: float) -> None:
    """The same messages at the same times: the same rows, whoever drives the session."""
    sent = demonstration(2.5, jitter_ns=jitter_ms * MS, seed=seed)
    sent = without(sent, "front", 1.6, 1.6 + gap_s)

    def record(drive: Callable[[Desk, int], None]) -> list[Any]:
        desk = Desk(drop=drop, min_rows=3)
        for item in sent:
            drive(desk, item.arrived_ns)
            if desk.session.state is SessionState.IDLE and not desk.writers and item.arrived_ns > T0 + S // 2:
                desk.session.start(demo.TASK, item.arrived_ns)
            desk.give([item])
        desk.session.save(desk.now_ns)
        return [
            (b"".join(row.tobytes() for row in writer.kept), writer.aborted, writer.ended) for writer in desk.writers
        ]

    last = [T0]

    def timer(desk: Desk, until_ns: int) -> None:
        while last[0] + timer_ms * MS < until_ns:
            last[0] += timer_ms * MS
            desk.session.advance(last[0])

    driven = record(lambda desk, until_ns: None)
    assert record(timer) == driven


@pytest.mark.parametrize("seed", range(4))
def test_who_receives_a_little_later_records_the_same_within_a_tick(seed: int) -> None:
    """A bag is written by another process than the recorder: it has other times of arrival."""
    desks = [Desk(), Desk()]
    for desk, jitter_ns in zip(desks, (2 * MS, 12 * MS), strict=True):
        desk.play(demonstration(3.0, jitter_ns=jitter_ns, seed=seed))
    mine, other = (desk.writers[0] for desk in desks)
    assert abs(mine.rows - other.rows) <= 1
    assert abs(int(mine.kept[0]["stamp_ns"]) - int(other.kept[0]["stamp_ns"])) <= S // FPS
    for camera in demo.CAMERAS:
        pairs = zip(mine.numbers(camera), other.numbers(camera), strict=False)
        assert max(abs(one - another) for one, another in pairs) <= 1


def test_a_process_that_is_held_up_loses_nothing() -> None:
    """For a quarter of a second nothing is taken; then everything that waited comes at once, topic by topic."""
    held_from, held_to = at(1.6), at(1.85)
    late = [item for item in PLAIN if held_from <= item.arrived_ns < held_to]
    late.sort(key=lambda item: (item.source, item.stamp_ns))
    moved = [Sent(held_to, item.source, item.message, item.stamp_ns, item.number) for item in late]
    sent = [item for item in PLAIN if item.arrived_ns < held_from] + moved
    sent += [item for item in PLAIN if item.arrived_ns >= held_to]
    held, plain = Desk(), Desk()
    held.play(sent)
    plain.play(PLAIN)
    assert [row.tobytes() for row in held.writers[0].kept] == [row.tobytes() for row in plain.writers[0].kept]


def test_the_first_action_is_one_that_came_after_the_start() -> None:
    sent = [item for item in PLAIN if item.source != "command:arm" or not 0.9 * S < item.arrived_ns - T0 < 1.5 * S]
    desk = Desk()
    desk.play(sent)
    writer = desk.writers[0]
    first = min(item.arrived_ns for item in sent if item.source == "command:arm" and item.arrived_ns > T0 + S)
    assert first <= writer.kept[0]["stamp_ns"] < first + 2 * S // FPS
    assert number_of(writer.kept[0]["action"][0]) > number_of(newest(sent, "command:arm", T0 + S).message.position[0])


def test_while_it_waits_it_says_for_what() -> None:
    desk = Desk()
    desk.play([item for item in PLAIN if item.source != "command:arm"])
    assert desk.session.state is SessionState.WAITING
    assert "/command: expected a command for action.arm" in desk.session.message
    answer, finished = desk.session.save(desk.now_ns)
    assert not answer.ok
    assert not finished
    assert "nothing is recorded yet: /command" in answer.message
    assert desk.session.discard(desk.now_ns).ok
    assert desk.writers[0].discarded


def test_next_state() -> None:
    """The action of a row is the state of the next, and the last tick has none."""
    desk = Desk(robot(recording__next_state=["arm"]))
    desk.play([item for item in PLAIN if item.source != "command:arm"])
    desk.session.save(desk.now_ns)
    writer = desk.writers[0]
    assert writer.rows > FPS
    assert (writer.column("action")[:-1] == writer.column("state")[1:]).all()
    stamp_ns = int(writer.kept[-1]["stamp_ns"]) + S // FPS + 1
    assert number_of(writer.kept[-1]["action"][0]) == newest(PLAIN, "joints", stamp_ns).number


# --- the gate --------------------------------------------------------------------------------------------------------


def _half_rate(source: str) -> list[Sent]:
    return demonstration(rates_hz={**demo.RATES_HZ, source: demo.RATES_HZ[source] / 2})


GATE = [
    pytest.param(without(PLAIN, "front", 0, 9), Reason.MISSING_STREAM, "/front: expected messages", id="no-camera"),
    pytest.param(without(PLAIN, "joints", 0, 9), Reason.MISSING_STREAM, "/joints: expected messages", id="no-joints"),
    pytest.param(without(PLAIN, "joints", 0.8, 9), Reason.STALE, "/joints: expected a sample at most", id="stopped"),
    pytest.param(_half_rate("front"), Reason.SLOW_STREAM, r"/front: expected at least 22.5 Hz", id="slow-camera"),
    pytest.param(_half_rate("joints"), Reason.SLOW_STREAM, r"found 50.0 Hz", id="slow-joints"),
    pytest.param(front_in_another_size(PLAIN), Reason.WRONG_SIZE, "/front: expected 32x24 px", id="raw-size"),
    pytest.param(wrist_in_another_size(PLAIN), Reason.WRONG_SIZE, "/wrist: expected 32x24 px", id="jpeg-size"),
]


@pytest.mark.parametrize(("sent", "reason", "message"), GATE)
def test_no_episode_starts(sent: list[Sent], reason: Reason, message: str) -> None:
    desk = Desk()
    desk.give([item for item in sent if item.arrived_ns < T0 + S])
    answer = desk.session.start(demo.TASK, T0 + S)
    assert not answer.ok
    assert answer.refusal is not None
    assert answer.refusal.reason is reason
    assert message in answer.message
    assert desk.session.state is SessionState.IDLE
    assert not desk.writers


def test_a_second_publisher_on_another_clock_is_named() -> None:
    """Its messages are refused one by one; those of the first one are not forgotten for them."""
    desk = Desk()
    second = [
        Sent(i.arrived_ns + 1, i.source, demo.joint_state(i.stamp_ns - 50 * S, {"a": 0.0, "b": 0.0}), 0, 0)
        for i in PLAIN
        if i.source == "joints"
    ]
    desk.give(sorted([*PLAIN, *second], key=lambda item: item.arrived_ns))
    answer = desk.session.start(demo.TASK, desk.now_ns)
    assert answer.refusal is not None
    assert answer.refusal.reason is Reason.OUT_OF_ORDER
    assert "check for a second publisher" in answer.message


def test_a_start_that_waits_for_its_streams() -> None:
    desk = Desk()
    assert desk.session.start(demo.TASK, T0, wait=True).ok
    desk.give(PLAIN)
    assert desk.session.state is SessionState.RECORDING
    assert desk.writers[0].kept[0]["stamp_ns"] < T0 + S


@pytest.mark.parametrize("task", ["", " \n"])
def test_no_episode_without_a_task(task: str) -> None:
    desk = Desk()
    desk.give(PLAIN)
    answer = desk.session.start(task, desk.now_ns)
    assert not answer.ok
    assert answer.refusal is not None
    assert answer.refusal.reason is Reason.EMPTY_INSTRUCTION
    assert not desk.writers


def test_one_episode_at_a_time() -> None:
    desk = Desk()
    desk.play(PLAIN)
    answer = desk.session.start("another", desk.now_ns)
    assert not answer.ok
    assert "recording already" in answer.message
    assert len(desk.writers) == 1


def test_a_dataset_that_takes_no_episode() -> None:
    desk = Desk()

    def full(task: str) -> demo.FakeWriter:
        raise DatasetError("/data: expected 1 GB free")

    desk.session._sink = full
    desk.give(PLAIN)
    answer = desk.session.start(demo.TASK, desk.now_ns)
    assert (answer.ok, answer.message) == (False, "/data: expected 1 GB free")
    assert desk.session.state is SessionState.IDLE


def test_requests_without_an_episode() -> None:
    desk = Desk()
    answers = [desk.session.save(T0)[0], desk.session.discard(T0), desk.session.pause(True, T0)]
    assert not any(answer.ok for answer in answers)


def test_an_idle_hour_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(drop="split")
    desk.play(PLAIN)
    asked = []
    complete = desk.session._complete
    monkeypatch.setattr(desk.session, "_complete", lambda tick_ns: asked.append(tick_ns) or complete(tick_ns))
    desk.session.advance(desk.now_ns + 3600 * S)
    assert len(asked) < 2 * FPS
    later = demonstration(2.0, start_ns=at(3610))
    desk.give(later)
    desk.session.save(desk.now_ns)
    assert desk.writers[1].kept[0]["stamp_ns"] < at(3611)
