"""Recorded programs by key, with a real recording thread that the tests hold up at will."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from groot_ros.model.engine.cache import Slots, SlotStatus
from groot_ros.model.engine.graphs import CaptureError

LONG = 30.0  # seconds; never reached where the code is right


class Recordings:
    """A recorder that goes on with a key only when told; notes what it was asked for and how many ran at once."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._begun: dict[str, threading.Event] = {}
        self._go_on: dict[str, threading.Event] = {}
        self.errors: dict[str, Exception] = {}
        self.held: set[str] = set()

    def hold(self, *keys: str) -> None:
        """These keys wait for `release`."""
        for key in keys:
            self.held.add(key)
            self._begun[key], self._go_on[key] = threading.Event(), threading.Event()

    def begun(self, key: str) -> bool:
        """Waits until the key is being recorded."""
        return self._begun[key].wait(LONG)

    def release(self, *keys: str) -> None:
        for key in keys:
            self._go_on[key].set()

    def __call__(self, key: str) -> str:
        with self._lock:
            self.asked.append(key)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            if key in self.held:
                self._begun[key].set()
                assert self._go_on[key].wait(LONG)
            if key in self.errors:
                raise self.errors[key]
            return f"program {key} {self.asked.count(key)}"
        finally:
            with self._lock:
                self._at_once -= 1


@pytest.fixture
def recordings() -> Iterator[Recordings]:
    recordings = Recordings()
    yield recordings
    recordings.release(*recordings.held)


def test_get_does_not_wait(recordings: Recordings) -> None:
    slots = Slots(recordings)
    recordings.hold("a")
    assert slots.get("a") is None
    assert slots.status("a") is None
    assert slots.request("a")
    assert recordings.begun("a")
    assert slots.get("a") is None  # it is being recorded in this very moment
    assert slots.status("a") == SlotStatus("recording", "its graph is being recorded")
    assert not slots.wait(timeout=0)
    recordings.release("a")
    assert slots.wait(LONG)
    assert slots.get("a") == "program a 1"
    assert slots.status("a") == SlotStatus("graph")


def test_never_twice_and_one_at_a_time(recordings: Recordings) -> None:
    slots = Slots(recordings)
    recordings.hold("a")
    assert slots.request("a")
    assert recordings.begun("a")
    assert not slots.request("a")  # under way
    assert slots.request("b")
    assert not slots.request("b")  # in line
    assert slots.status("b") == SlotStatus("waiting", "its graph is recorded after another one")
    assert set(slots.statuses()) == {"a", "b"}
    recordings.release("a")
    assert slots.wait(LONG)
    assert not slots.request("a")  # there
    assert recordings.asked == ["a", "b"]
    assert recordings.most_at_once == 1


def test_a_program_is_used_while_another_is_recorded(recordings: Recordings) -> None:
    slots = Slots(recordings)
    slots.request("a")
    assert slots.wait(LONG)
    recordings.hold("b")
    slots.request("b")
    assert recordings.begun("b")
    assert slots.get("a") == "program a 1"
    recordings.release("b")
    assert slots.wait(LONG)
    assert slots.statuses() == {"a": SlotStatus("graph"), "b": SlotStatus("graph")}


def test_requests_from_many_threads(recordings: Recordings) -> None:
    slots = Slots(recordings, limit=100)
    start, accepted = threading.Barrier(8), []

    def ask() -> None:
        start.wait(LONG)
        for i in range(20):
            if slots.request(str(i)):
                accepted.append(i)
            slots.get(str(i))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert slots.wait(LONG)
    assert sorted(accepted) == list(range(20))
    assert sorted(recordings.asked, key=int) == [str(i) for i in range(20)]
    assert recordings.most_at_once == 1
    assert all(slots.get(str(i)) is not None for i in range(20))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (CaptureError("aten.nonzero has a shape"), "aten.nonzero has a shape"),
        (RuntimeError("CUDA error: bad\nCompile with ..."), "RuntimeError: CUDA error: bad"),
        (KeyError(), "KeyError"),
    ],
)
def test_failure_is_eager_with_a_reason_said_once(recordings: Recordings, error: Exception, reason: str) -> None:
    said: list[str] = []
    slots = Slots(recordings, log=said.append)
    recordings.errors["a"] = error
    slots.request("a")
    slots.request("b")
    assert slots.wait(LONG)
    assert slots.status("a") == SlotStatus("eager", reason)
    assert slots.get("a") is None
    assert slots.get("b") == "program b 1"  # the thread lives on
    assert not slots.request("a")
    assert slots.wait(LONG)
    assert recordings.asked == ["a", "b"]
    assert said == [f"a: no graph, {reason}"]


def test_the_least_recently_used_is_dropped(recordings: Recordings) -> None:
    said: list[str] = []
    slots = Slots(recordings, limit=2, log=said.append)
    for key in ("a", "b"):
        slots.request(key)
        assert slots.wait(LONG)
    assert slots.get("a") is not None  # now b is the older one
    slots.request("c")
    assert slots.wait(LONG)
    assert slots.statuses() == {"a": SlotStatus("graph"), "c": SlotStatus("graph")}
    assert slots.status("b") is None
    assert said == ["b: its graph is dropped, as more than 2 are in use"]
    assert slots.request("b")  # it can come back
    assert slots.wait(LONG)
    assert slots.get("b") == "program b 2"
    assert slots.get("a") is None


def test_a_program_in_use_outlives_its_slot() -> None:
    class Program:
        pass

    slots: Slots[str, Program] = Slots(lambda key: Program(), limit=1)
    slots.request("a")
    assert slots.wait(LONG)
    used = slots.get("a")
    slots.request("b")
    assert slots.wait(LONG)
    assert slots.get("a") is None
    assert isinstance(used, Program)


def test_fail_while_replaying(recordings: Recordings) -> None:
    said: list[str] = []
    slots = Slots(recordings, log=said.append)
    slots.request("a")
    assert slots.wait(LONG)
    for _ in range(2):
        slots.fail("a", "out of memory")
    assert slots.get("a") is None
    assert slots.status("a") == SlotStatus("eager", "out of memory")
    assert not slots.request("a")
    assert said == ["a: no graph, out of memory"]


def test_fail_while_recording(recordings: Recordings) -> None:
    slots = Slots(recordings)
    recordings.hold("a")
    slots.request("a")
    assert recordings.begun("a")
    slots.fail("a", "the device is gone")
    recordings.release("a")
    assert slots.wait(LONG)
    assert slots.status("a") == SlotStatus("eager", "the device is gone")


def test_clear(recordings: Recordings) -> None:
    slots = Slots(recordings)
    recordings.errors["x"] = RuntimeError("no")
    recordings.hold("b")
    for key in ("a", "x", "b", "c"):
        slots.request(key)
    assert recordings.begun("b")
    slots.clear()
    assert slots.statuses() == {}
    assert slots.request("b")  # again: what is being recorded is of the old network
    recordings.release("b")
    assert slots.wait(LONG)
    assert slots.statuses() == {"b": SlotStatus("graph")}
    assert slots.get("b") == "program b 2"
    assert recordings.asked == ["a", "x", "b", "b"]
    assert slots.request("x")  # failures are forgotten too


def test_close_waits_for_the_recording_under_way(recordings: Recordings) -> None:
    slots = Slots(recordings)
    recordings.hold("b")
    for key in ("a", "b", "c"):
        slots.request(key)
    assert recordings.begun("b")
    closed = threading.Event()

    def close() -> None:
        slots.close()
        closed.set()

    thread = threading.Thread(target=close)
    thread.start()
    deadline = time.monotonic() + LONG
    while slots.status("a") is not None:  # until `close` has begun
        assert time.monotonic() < deadline
    assert not closed.is_set()
    recordings.release("b")
    assert closed.wait(LONG)
    thread.join(LONG)
    assert slots.statuses() == {}
    assert slots.get("b") is None
    assert not slots.request("d")
    assert recordings.asked == ["a", "b"]
    slots.close()


def test_close_in_the_recording_thread() -> None:
    slots: Slots[str, str] = Slots(lambda key: (slots.close(), "program")[1])
    slots.request("a")
    assert slots.wait(LONG)
    assert slots.get("a") is None


def test_no_thread_is_left(recordings: Recordings) -> None:
    slots = Slots(recordings, name="recorder of this test")
    for key in ("a", "b"):
        slots.request(key)
    assert slots.wait(LONG)
    for thread in threading.enumerate():
        if thread.name == "recorder of this test":
            thread.join(LONG)
            assert not thread.is_alive()


def test_a_log_that_fails_does_not_end_the_recording(recordings: Recordings) -> None:
    def log(message: str) -> None:
        raise OSError(message)

    slots = Slots(recordings, log=log)
    recordings.errors["a"] = RuntimeError("no")
    slots.request("a")
    slots.request("b")
    assert slots.wait(LONG)
    assert slots.get("b") == "program b 1"


def test_limit() -> None:
    with pytest.raises(ValueError, match="limit is 0"):
        Slots(str, limit=0)
