"""Keys and their meaning, without a recorder; with one: test_recorder_node.py."""

from __future__ import annotations

import os
import termios

import pytest

from groot_ros.msg import RecorderStatus
from groot_ros.nodes.record_keys import KEYS, Call, Keyboard, call_for
from groot_ros.nodes.recorder_reports import status_line

IDLE, WAITING = RecorderStatus.IDLE, RecorderStatus.WAITING
RECORDING, PAUSED = RecorderStatus.RECORDING, RecorderStatus.PAUSED
WAIT_S = 20.0

MEANINGS = [
    (" ", IDLE, Call("start_episode")),
    (" ", WAITING, Call("save_episode")),
    (" ", RECORDING, Call("save_episode")),
    (" ", PAUSED, Call("save_episode")),
    ("d", RECORDING, Call("discard_episode")),
    ("d", WAITING, Call("discard_episode")),
    ("d", IDLE, "discard: no episode is running (idle)"),
    ("p", RECORDING, Call("pause", True)),
    ("p", PAUSED, Call("pause", False)),
    ("p", RecorderStatus.INACTIVE, "pause: no episode is running (inactive)"),
    ("i", IDLE, Call("intervention", True)),
    ("i", RECORDING, Call("intervention", True)),
]


@pytest.mark.parametrize(("key", "state", "call"), MEANINGS)
def test_a_key_means_what_the_state_allows(key: str, state: int, call: Call | str) -> None:
    assert call_for(KEYS[key], RecorderStatus(state=state)) == call


def test_the_same_key_ends_an_intervention() -> None:
    assert call_for(KEYS["i"], RecorderStatus(state=RECORDING, intervention=True)) == Call("intervention", False)


def test_keys_come_from_a_pipe_one_by_one_and_arrows_are_none() -> None:
    reader, writer = os.pipe()
    keyboard = Keyboard(reader)
    os.write(writer, b" p\x1b[D\x1bOP\x1bd\x1b[15~q")  # left, F1, Alt-d, F5
    os.close(writer)
    keyboard.thread.join(WAIT_S)
    assert keyboard.ended
    assert [keyboard.keys.get() for _ in range(keyboard.keys.qsize())] == [" ", "p", "q"]
    keyboard.close()
    os.close(reader)


def test_a_key_held_down_does_not_fill_the_memory() -> None:
    reader, writer = os.pipe()
    keyboard = Keyboard(reader)
    os.write(writer, b"i" * 1000)
    os.close(writer)
    keyboard.thread.join(WAIT_S)
    assert keyboard.keys.full() and keyboard.keys.qsize() < 100
    keyboard.close()
    os.close(reader)


def test_a_terminal_is_given_back_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    leader, terminal = os.openpty()
    monkeypatch.setattr(os, "tcgetpgrp", lambda descriptor: os.getpgrp())  # it is not the terminal of this process
    before = termios.tcgetattr(terminal)
    keyboard = Keyboard(terminal)
    assert not termios.tcgetattr(terminal)[3] & (termios.ICANON | termios.ECHO)
    os.write(leader, b"d")
    assert keyboard.keys.get(timeout=WAIT_S) == "d"
    keyboard.close()
    assert termios.tcgetattr(terminal) == before
    os.close(leader)
    os.close(terminal)


def test_the_line_says_what_is_wrong() -> None:
    status = RecorderStatus(state=RECORDING, task="pick", rows=90, duration_s=3.0, segments=2, refused=4, episodes=7)
    status.stream_names, status.stream_rate_hz = ["front", "joints", "command:arm"], [21.0, 100.0, float("nan")]
    status.stream_expected_hz, status.frozen_cameras = [30.0, 100.0, float("nan")], ["front"]
    status.encoder_names, status.encoder_waiting, status.encoder_peak = ["front"], [2], [9]
    line = status_line(status)
    for part in ("RECORDING", "90 rows 3.0 s", "2 segments", "4 ticks refused", "'pick'", "front 21! joints 100 Hz"):
        assert part in line
    for part in ("FROZEN front", "queue 2 peak 9", "7 episodes"):
        assert part in line
