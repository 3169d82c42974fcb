"""What a session does with ticks that it cannot record: bad input, drop policies, pauses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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
    trajectory,
    without,
    wrist_in_another_size,
)

from groot_ros.dataset import session_episode
from groot_ros.dataset.session_types import SessionState
from groot_ros.dataset.spec import FLAG_REPEATED
from groot_ros.observation.types import Reason

PLAIN = demonstration()


# --- bad input while recording ---------------------------------------------------------------------------------------


def _stops(sent: list[Sent]) -> list[Sent]:
    return without(sent, "front", 2.0, 9)


def _slows_down(sent: list[Sent]) -> list[Sent]:
    return [i for i in sent if i.source != "wrist" or i.stamp_ns < T0 + S or i.number % 2]


def _loses_a_joint(sent: list[Sent]) -> list[Sent]:
    def cut(item: Sent) -> Sent:
        if item.source != "joints" or item.stamp_ns < at(2):
            return item
        message = demo.joint_state(item.stamp_ns, {"a": 0.0})
        return Sent(item.arrived_ns, item.source, message, item.stamp_ns, item.number)

    return [cut(item) for item in sent]


def _mixes_sizes(sent: list[Sent]) -> list[Sent]:
    return [i for i in sent if i.stamp_ns < at(2)] + front_in_another_size([i for i in sent if i.stamp_ns >= at(2)])


def _mixes_jpeg_sizes(sent: list[Sent]) -> list[Sent]:
    return [i for i in sent if i.stamp_ns < at(2)] + wrist_in_another_size([i for i in sent if i.stamp_ns >= at(2)])


def _command_loses_a_joint(sent: list[Sent]) -> list[Sent]:
    def cut(item: Sent) -> Sent:
        if item.source != "command:arm" or item.stamp_ns < at(2):
            return item
        message = demo.joint_state(item.stamp_ns, {"b": 0.0})
        return Sent(item.arrived_ns, item.source, message, item.stamp_ns, item.number)

    return [cut(item) for item in sent]


SPOILED = [
    pytest.param(_stops, Reason.STALE, "/front: expected a sample at most 0.1 s old", id="stops"),
    pytest.param(_slows_down, Reason.SLOW_STREAM, "/wrist: expected at least 18 Hz", id="half-rate"),
    pytest.param(_loses_a_joint, Reason.MISSING_JOINT, "/joints: expected joint 'b' (state.arm)", id="joint"),
    pytest.param(_mixes_sizes, Reason.WRONG_SIZE, "/front: expected 32x24 px, found 64x48", id="sizes"),
    pytest.param(_mixes_jpeg_sizes, Reason.WRONG_SIZE, "/wrist: expected 32x24 px, found 64x48", id="jpeg-sizes"),
    pytest.param(_command_loses_a_joint, Reason.MISSING_JOINT, "/command: expected joint 'a' (action.arm)", id="told"),
]


@pytest.mark.parametrize(("spoil", "reason", "message"), SPOILED)
def test_bad_input_ends_the_episode_by_name_and_keeps_what_there_is(
    spoil: Callable[[list[Sent]], list[Sent]], reason: Reason, message: str
) -> None:
    desk = Desk()
    desk.play(spoil(PLAIN))
    (writer,) = desk.writers
    assert desk.session.state is SessionState.IDLE
    assert message in writer.aborted
    assert not writer.discarded
    assert writer.rows >= 3  # these stay for a salvage
    assert message in desk.session.message
    (event,) = [event for event in desk.session.events() if event.kind == "aborted"]
    assert message in event.message
    answer, _ = desk.session.save(desk.now_ns)
    assert not answer.ok
    assert message in answer.message  # who saves is told why there is nothing
    assert desk.session.quality(desk.now_ns).aborted == 1
    assert desk.session.reason == reason.value


@pytest.mark.parametrize(("spoil", "reason", "message"), SPOILED)
def test_bad_input_ends_a_segment_and_what_is_whole_is_saved(
    spoil: Callable[[list[Sent]], list[Sent]], reason: Reason, message: str
) -> None:
    desk = Desk(drop="split", min_rows=3)
    desk.play(spoil(PLAIN))
    quality = desk.session.quality(desk.now_ns)
    answer, finished = desk.session.save(desk.now_ns)
    assert answer.ok
    assert quality.refused[reason.value] >= 1
    assert finished[0].report["ended_by"]["reason"] == reason.value
    assert message in finished[0].report["ended_by"]["message"]
    assert desk.writers[0].ended
    assert not desk.writers[0].aborted


def test_a_recorder_that_ends_leaves_the_episode_for_a_salvage() -> None:
    desk = Desk()
    answer = desk.session.abandon("the recorder was stopped", desk.now_ns)
    assert not answer.ok
    desk.play(PLAIN)
    assert desk.session.reason == ""
    answer = desk.session.abandon("the recorder was stopped", desk.now_ns)
    assert answer.ok
    (writer,) = desk.writers
    assert writer.rows > FPS
    assert not writer.discarded
    assert writer.aborted == desk.session.message
    assert "rows, kept for `groot-ros dataset salvage`: the recorder was stopped" in writer.aborted
    assert (desk.session.state, desk.session.reason) == (SessionState.IDLE, Reason.RECORDER_ENDED.value)


def test_half_a_picture_is_as_good_as_none_and_is_counted() -> None:
    def cut(item: Sent) -> Sent:
        if item.source != "wrist" or item.number != 60:
            return item
        message = demo.jpeg(item.stamp_ns, item.number)
        message.data = message.data[:-9]
        return Sent(item.arrived_ns, item.source, message, item.stamp_ns, item.number)

    desk = Desk()
    desk.play([cut(item) for item in PLAIN])
    _, finished = desk.session.save(desk.now_ns)
    whole = [item for item in PLAIN if item.source != "wrist" or item.number != 60]
    (writer,) = desk.writers
    stamps = writer.column("stamp_ns").tolist()
    assert writer.numbers("wrist") == [newest(whole, "wrist", stamp_ns).number for stamp_ns in stamps]
    assert finished[0].report["rejected_messages"] == {"wrist": 1}
    assert desk.session.quality(desk.now_ns).streams["wrist"].rejected == 1


@pytest.mark.parametrize("drop", ["fail", "flag"])
@pytest.mark.parametrize("back_s", [1.0, 1e6])
def test_a_clock_that_jumps_back(drop: str, back_s: float) -> None:
    desk = Desk(drop=drop)
    desk.play(PLAIN)
    desk.session.advance(desk.now_ns - round(back_s * S))
    assert "the clock: expected it to go on, found a jump of -" in desk.writers[0].aborted
    assert desk.writers[0].rows > FPS
    # The recorder goes on with the new clock.
    again = demonstration(2.0, start_ns=desk.now_ns - round(back_s * S) + MS)
    desk.give(again[: len(again) // 2])
    assert desk.session.start(demo.TASK, desk.now_ns).ok
    desk.give(again[len(again) // 2 :])
    assert desk.session.save(desk.now_ns)[0].ok


def test_a_clock_that_jumps_back_splits() -> None:
    desk = Desk(drop="split")
    desk.play(PLAIN)
    start_ns = desk.now_ns - 100 * S
    desk.session.time_jump(start_ns)
    desk.give(demonstration(2.0, start_ns=start_ns))
    answer, finished = desk.session.save(desk.now_ns)
    assert answer.ok
    assert [finished[0].report["ended_by"]["reason"], finished[1].report["ended_by"]] == ["clock_jumped", None]


def test_a_clock_that_jumps_ahead() -> None:
    desk = Desk()
    desk.play(PLAIN)
    desk.session.advance(desk.now_ns + 500 * S)
    assert "s old at the tick" in desk.writers[0].aborted


def test_small_disagreement_about_the_time_is_none() -> None:
    desk = Desk()
    desk.play(PLAIN)
    assert desk.session.advance(desk.now_ns - 5 * MS) == desk.now_ns
    assert desk.session.state is SessionState.RECORDING


def test_a_driver_that_starts_anew_on_an_older_clock_needs_no_new_recorder() -> None:
    desk = Desk()
    desk.give(PLAIN)
    old = demonstration(2.0, start_ns=T0 - 50 * S)
    shift = desk.now_ns - old[0].arrived_ns + 10 * MS
    desk.give([Sent(i.arrived_ns + shift, i.source, i.message, i.stamp_ns, i.number) for i in old])
    answer = desk.session.start(demo.TASK, desk.now_ns)
    assert answer.refusal is not None
    assert answer.refusal.reason is Reason.STALE  # on its own clock it is old, and that is said


# --- drop policies ---------------------------------------------------------------------------------------------------


def test_split_begins_again_on_a_grid_of_its_own() -> None:
    desk = Desk(drop="split", min_rows=5)
    sent = without(PLAIN, "front", 1.8, 2.1)
    desk.play(sent)
    answer, finished = desk.session.save(desk.now_ns)
    first, second = desk.writers
    assert answer.ok
    assert [each.writer for each in finished] == [first, second]
    assert [each.report["segment"] for each in finished] == [0, 1]
    for writer in desk.writers:
        stamps = writer.column("stamp_ns")
        assert stamps.tolist() == [int(stamps[0]) + k * S // FPS for k in range(writer.rows)]
        assert writer.frames[0]["front"] is not None
        assert writer.numbers("front") == [newest(sent, "front", stamp).number for stamp in stamps.tolist()]
    # Ticks without a picture younger than 0.1 s are missing, and no more than the rate takes to tell.
    assert first.kept[-1]["stamp_ns"] >= at(1.83)
    assert at(2.1) <= second.kept[0]["stamp_ns"] < at(2.4)


@pytest.mark.parametrize(("gone_s", "goes_on"), [(0.3, True), (1.5, False)])
def test_a_robot_that_was_gone_for_long_has_to_be_told_anew(gone_s: float, goes_on: bool) -> None:
    """Its last trajectory would stay in force for ever; a robot that was restarted does not follow it any more."""
    desk = Desk(robot(outputs__arm__type="trajectory_msgs/msg/JointTrajectory"), drop="split", min_rows=2)
    sent = [
        replace(item, message=trajectory(item.stamp_ns, [(0.1, [1.0, 0.5])])) if item.source == "command:arm" else item
        for item in demonstration(4.0)
        if item.source != "command:arm" or item.stamp_ns < at(1.4)  # the robot is told once, and follows
    ]
    for source in ("front", "wrist", "joints"):
        sent = without(sent, source, 1.5, 1.5 + gone_s)
    desk.play(sent)
    assert (desk.session.state is SessionState.RECORDING) == goes_on
    assert goes_on or desk.session.reason == Reason.NO_COMMAND.value
    assert len(desk.session.save(desk.now_ns)[1]) == (2 if goes_on else 1)


def test_short_segments_are_dropped_and_counted() -> None:
    desk = Desk(drop="split", min_rows=FPS)
    sent = without(PLAIN, "front", 1.3, 1.5)
    desk.play(sent)
    quality = desk.session.quality(desk.now_ns)
    answer, finished = desk.session.save(desk.now_ns)
    assert quality.dropped_segments == 1
    assert "1 dropped" in answer.message
    assert len(finished) == 1
    assert "rows dropped, expected at least 30" in desk.writers[0].aborted
    assert desk.writers[0].rows > 0  # salvage can have them


def test_flag_repeats_the_row_before() -> None:
    desk = Desk(drop="flag")
    desk.play(without(PLAIN, "front", 1.8, 2.1))
    answer, finished = desk.session.save(desk.now_ns)
    (writer,) = desk.writers
    flagged = np.flatnonzero(writer.column("flags") & FLAG_REPEATED)
    assert answer.ok
    assert sum(finished[0].report["refused_ticks"].values()) == len(flagged) > 3
    assert (np.diff(flagged) == 1).all()
    stamps = writer.column("stamp_ns")
    assert stamps.tolist() == [int(stamps[0]) + k * S // FPS for k in range(writer.rows)]
    before = writer.kept[flagged[0] - 1]
    for row in flagged:
        assert (writer.kept[row]["state"] == before["state"]).all()
        assert set(writer.frames[row].values()) == {None}
        used = writer.kept[row]["stamp_ns"] - writer.kept[row]["age_ns"]
        assert (used == before["stamp_ns"] - before["age_ns"]).all()
    assert finished[0].report["refused_ticks"] == {"stale": len(flagged)}


def test_flag_with_next_state_keeps_the_rows_in_step() -> None:
    desk = Desk(robot(recording__next_state=["arm"]), drop="flag")
    desk.play(without([item for item in PLAIN if item.source != "command:arm"], "front", 1.8, 2.1))
    desk.session.save(desk.now_ns)
    (writer,) = desk.writers
    stamps, flags = writer.column("stamp_ns"), writer.column("flags")
    assert stamps.tolist() == [int(stamps[0]) + k * S // FPS for k in range(writer.rows)]
    whole = np.flatnonzero(flags == 0)
    for row in whole[whole < writer.rows - 1]:
        assert (writer.kept[row]["action"] == writer.kept[row + 1]["state"]).all()
        assert number_of(writer.kept[row]["state"][0]) == newest(PLAIN, "joints", int(stamps[row])).number


def test_flag_for_too_long_aborts() -> None:
    desk = Desk(drop="flag", max_flagged_s=0.2)
    desk.play(without(PLAIN, "front", 1.8, 2.5))
    assert "/front" in desk.writers[0].aborted
    assert np.count_nonzero(desk.writers[0].column("flags")) == 6


@pytest.mark.parametrize(("drop", "ends"), [("fail", True), ("split", False), ("flag", False)])
def test_an_encoder_that_is_behind(drop: str, ends: bool) -> None:
    desk = Desk(drop=drop, min_rows=3)
    half = [item for item in PLAIN if item.arrived_ns < at(2)]
    desk.play(half)
    desk.writers[0].behind = True
    desk.give([item for item in PLAIN if at(2) <= item.arrived_ns < at(2.2)])
    desk.writers[0].behind = False
    desk.give([item for item in PLAIN if item.arrived_ns >= at(2.2)])
    answer, _ = desk.session.save(desk.now_ns)
    assert answer.ok is not ends
    if drop == "fail":
        assert "the encoders: expected room" in desk.writers[0].aborted
    elif drop == "split":
        assert len(desk.writers) == 2
    else:
        stamps = desk.writers[0].column("stamp_ns")
        assert stamps.tolist() == [int(stamps[0]) + k * S // FPS for k in range(len(stamps))]
        assert np.count_nonzero(desk.writers[0].column("flags")) >= 5


@pytest.mark.parametrize("drop", ["fail", "flag"])
def test_a_writer_with_a_problem(drop: str) -> None:
    desk = Desk(drop=drop)
    desk.play(PLAIN)
    desk.writers[0].problem = "/wrist: expected 32x24 px, found 64x48"
    desk.give(demonstration(0.5, start_ns=desk.now_ns))
    assert "/wrist: expected 32x24 px" in desk.writers[0].aborted
    assert desk.session.state is SessionState.IDLE


def test_split_pauses_when_writers_go_on_failing() -> None:
    desk = Desk(drop="split", min_rows=3)
    sent = demonstration(8.0)
    desk.play([item for item in sent if item.arrived_ns < at(2)])
    desk.session.pause(True, desk.now_ns)
    desk.session.pause(False, desk.now_ns)
    for item in sent:
        if item.arrived_ns < at(2):
            continue
        if desk.session.state is SessionState.RECORDING:
            desk.writers[-1].problem = "/front: the encoder failed"
        desk.give([item])
    assert desk.session.state is SessionState.PAUSED
    assert "/front: the encoder failed" in desk.session.message
    assert [event.message for event in desk.session.events() if event.kind == "paused"] == [desk.session.message]
    assert len(desk.writers) == 4  # one is whole, three failed
    answer, finished = desk.session.save(desk.now_ns)
    assert answer.ok
    assert [each.writer for each in finished] == [desk.writers[0]]


def test_an_episode_has_no_end_of_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_episode, "_MOST_SEGMENTS", 2)
    desk = Desk(drop="split", min_rows=2)
    sent = demonstration(4.0)
    for k in range(4):
        sent = without(sent, "front", 1.5 + 0.6 * k, 1.65 + 0.6 * k)
    desk.play(sent)
    assert desk.session.state is SessionState.PAUSED
    assert "2 segments wait: save the episode" in desk.session.message
    assert len(desk.session.save(desk.now_ns)[1]) == 2


# --- pauses and interventions ----------------------------------------------------------------------------------------


def test_pause_and_intervention() -> None:
    desk = Desk(min_rows=3)
    session = desk.session
    requests: list[tuple[float, Callable[[int], Any]]] = [
        (1.5, lambda now: session.intervention(True, now)),
        (1.7, lambda now: session.intervention(False, now)),
        (2.0, lambda now: session.pause(True, now)),
        (2.4, lambda now: session.pause(False, now)),
    ]
    sent = list(PLAIN)
    desk.play([item for item in sent if item.arrived_ns < at(1.5)])
    for (at_s, request), until_s in zip(requests, (1.7, 2.0, 2.4, 9.0), strict=True):
        assert request(at(at_s)).ok
        desk.give([item for item in sent if at(at_s) <= item.arrived_ns < at(until_s)])
    _, finished = session.save(desk.now_ns)
    first, second = desk.writers
    assert len(finished) == 2
    marked = first.column("stamp_ns")[first.column("intervention") == 1]
    assert at(1.5) <= marked.min() < at(1.54)
    assert at(1.66) < marked.max() < at(1.7)
    assert first.kept[-1]["stamp_ns"] <= at(2.0)
    assert at(2.4) <= second.kept[0]["stamp_ns"] < at(2.44)
    assert not second.column("intervention").any()
    assert [event.kind for event in session.events()] == ["recording", "segment", "recording", "segment"]


def test_a_paused_episode_records_nothing_and_discards_all() -> None:
    desk = Desk()
    desk.play(PLAIN)
    rows = desk.writers[0].rows
    assert desk.session.pause(True, desk.now_ns).ok
    assert desk.session.pause(True, desk.now_ns).ok
    desk.give(demonstration(1.0, start_ns=desk.now_ns))
    assert len(desk.writers) == 1
    assert desk.session.quality(desk.now_ns).rows == desk.writers[0].rows <= rows + 1
    assert desk.session.discard(desk.now_ns).ok
    assert desk.writers[0].discarded


def test_quality_names_what_is_behind() -> None:
    desk = Desk()
    desk.play(PLAIN)
    quality = desk.session.quality(desk.now_ns)
    assert quality.state is SessionState.RECORDING
    assert quality.task == demo.TASK
    assert quality.rows == desk.writers[0].rows
    assert quality.streams["front"].rate_hz == pytest.approx(30.0, rel=1e-3)
    assert quality.streams["joints"].rate_hz == pytest.approx(100.0, rel=1e-3)
    assert quality.streams["command:arm"].rate_hz is None
    assert 0.0 <= quality.streams["command:arm"].age_s < 0.03
    assert 0.0 <= quality.spread_s < 0.04
    assert quality.encoders == {"front": "idle"}
