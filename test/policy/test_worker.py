"""When the inference thread asks the policy: due, with fresh frames, never while it may not."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from groot_ros.policy.worker import CLOCK_STOPPED_S, Worker

PERIOD_NS, LONGEST_NS, PATIENCE_NS = 200, 900, 50
WAIT_S = 10.0


class Rig:
    """A worker whose clock, permission and turns the test owns."""

    def __init__(self, result: bool = True) -> None:
        self.now_ns = 1000
        self.period_ns = PERIOD_NS
        self.steady_s = 0.0
        self.stops = 0
        self.enabled = True
        self.result: bool | Exception = result
        self.turns: list[int] = []
        self.errors: list[Exception] = []
        self.changed = threading.Condition()
        self.worker = Worker(
            self._turn,
            lambda: self.enabled,
            lambda: self.now_ns,
            ["front", "wrist"],
            lambda began_ns: began_ns + self.period_ns,
            LONGEST_NS,
            PATIENCE_NS,
            self._failed,
            self._clock_stopped,
            lambda: self.steady_s,
        )

    def _turn(self) -> bool:
        with self.changed:
            self.turns.append(self.now_ns)
            self.changed.notify_all()
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def _failed(self, error: Exception) -> None:
        with self.changed:
            self.errors.append(error)
            self.changed.notify_all()

    def _clock_stopped(self) -> None:
        with self.changed:
            self.stops += 1
            self.changed.notify_all()

    def frames(self) -> None:
        self.worker.arrived("front")
        self.worker.arrived("wrist")

    def wait_turns(self, count: int) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: len(self.turns) >= count, WAIT_S)

    def stays_at(self, count: int) -> bool:
        """Several polls of the worker go by without another turn."""
        with self.changed:
            return not self.changed.wait_for(lambda: len(self.turns) > count, 0.1)


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    made.worker.start()
    yield made
    assert made.worker.close(WAIT_S)


def test_a_turn_needs_a_new_frame_of_every_camera(rig: Rig) -> None:
    rig.worker.arrived("front")
    rig.worker.arrived("front")
    assert rig.stays_at(0)
    rig.worker.arrived("wrist")
    assert rig.wait_turns(1)


def test_a_turn_waits_for_its_period_and_frames_before_it_do_not_count(rig: Rig) -> None:
    rig.frames()
    assert rig.wait_turns(1)
    rig.now_ns += PERIOD_NS - 1
    rig.frames()
    assert rig.stays_at(1)
    rig.now_ns += 1
    assert rig.stays_at(1)
    rig.frames()
    assert rig.wait_turns(2)


def test_without_frames_a_turn_happens_after_the_patience_so_that_the_cause_is_named(rig: Rig) -> None:
    assert rig.stays_at(0)
    rig.now_ns += PATIENCE_NS
    assert rig.wait_turns(1)


def test_nothing_happens_while_not_enabled(rig: Rig) -> None:
    rig.enabled = False
    rig.now_ns += 10 * PERIOD_NS
    rig.frames()
    assert rig.stays_at(len(rig.turns))


def test_a_refused_turn_is_tried_again_with_the_next_frames() -> None:
    rig = Rig(result=False)
    rig.worker.start()
    rig.frames()
    assert rig.wait_turns(1)
    rig.frames()
    assert rig.wait_turns(2)
    assert rig.worker.close(WAIT_S)


def test_a_turn_that_raises_is_reported_and_the_thread_goes_on() -> None:
    rig = Rig()
    rig.result = RuntimeError("broken model")
    rig.worker.start()
    rig.frames()
    with rig.changed:
        assert rig.changed.wait_for(lambda: rig.errors, WAIT_S)
    rig.result = True
    rig.frames()
    assert rig.wait_turns(2)
    assert [str(error) for error in rig.errors] == ["broken model"]
    assert rig.worker.close(WAIT_S)


def test_a_clock_that_stands_still_is_reported_and_no_turn_happens_until_it_goes_on(rig: Rig) -> None:
    rig.frames()
    assert rig.wait_turns(1)
    rig.now_ns += PERIOD_NS
    assert rig.stays_at(1)  # the worker has seen this time
    for count in (1, 2):
        rig.steady_s += 1.5 * CLOCK_STOPPED_S
        with rig.changed:
            assert rig.changed.wait_for(lambda count=count: rig.stops >= count, WAIT_S)
    rig.frames()
    assert rig.stays_at(1)
    rig.now_ns += 1
    rig.frames()
    assert rig.wait_turns(2)


def test_a_clock_that_stands_still_is_not_reported_while_disabled(rig: Rig) -> None:
    rig.enabled = False
    rig.steady_s += 10 * CLOCK_STOPPED_S
    assert rig.stays_at(0)
    assert rig.stops == 0


def test_restart_makes_a_turn_due(rig: Rig) -> None:
    rig.frames()
    assert rig.wait_turns(1)
    rig.frames()
    assert rig.stays_at(1)
    rig.worker.restart()
    rig.frames()
    assert rig.wait_turns(2)


@pytest.mark.parametrize("during_the_turn", [False, True])
def test_a_turn_is_due_when_time_was_set_back(during_the_turn: bool) -> None:
    rig = Rig()
    began, go_on = threading.Event(), threading.Event()

    def turn() -> bool:
        began.set()
        assert go_on.wait(WAIT_S)
        return Rig._turn(rig)

    rig.worker._turn = turn
    rig.worker.start()
    rig.frames()
    assert began.wait(WAIT_S)
    if during_the_turn:
        rig.now_ns = 10
        rig.worker.restart()
    go_on.set()
    assert rig.wait_turns(1)
    rig.now_ns = 10
    assert rig.stays_at(1)  # the end of the turn is past
    rig.frames()
    assert rig.wait_turns(2)
    assert rig.worker.close(WAIT_S)


def test_no_turn_is_due_later_than_the_longest_wait(rig: Rig) -> None:
    """Whatever the timeline says: it may have been asked about a clock that was set back since."""
    rig.period_ns = 10**15
    rig.frames()
    assert rig.wait_turns(1)
    rig.now_ns += LONGEST_NS - 1
    rig.frames()
    assert rig.stays_at(1)
    rig.now_ns += 1
    rig.frames()
    assert rig.wait_turns(2)


def test_how_long_a_turn_has_taken_is_known_while_it_runs() -> None:
    rig = Rig()
    began, go_on = threading.Event(), threading.Event()

    def turn() -> bool:
        began.set()
        assert go_on.wait(WAIT_S)
        return Rig._turn(rig)

    rig.worker._turn = turn
    rig.worker.start()
    assert rig.worker.busy_s() == 0.0
    rig.frames()
    assert began.wait(WAIT_S)
    rig.steady_s += 7.0
    assert rig.worker.busy_s() == 7.0
    go_on.set()
    assert rig.wait_turns(1)
    assert rig.worker.close(WAIT_S)
    assert rig.worker.busy_s() == 0.0


def test_a_worker_that_never_ran_can_be_closed() -> None:
    assert Rig().worker.close(WAIT_S)


def test_the_thread_outlives_a_report_that_raises_too(monkeypatch: pytest.MonkeyPatch, rig: Rig) -> None:
    rig.result = RuntimeError("broken")
    monkeypatch.setattr(rig.worker, "_failed", lambda error: 1 / 0)
    rig.frames()
    assert rig.wait_turns(1)
    rig.now_ns += PATIENCE_NS
    rig.frames()
    assert rig.wait_turns(2)
