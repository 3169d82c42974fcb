"""When readings are due: exact instants, no drift, no burst after a pause."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groot_ros.simulation.schedule import MAX_BACK_NS, MAX_LAG_NS, Event, Schedule

MS = 1_000_000
T0 = 1_700_000_000_000_000_000


def take_all(schedule: Schedule, until_ns: int) -> list[Event]:
    events = []
    while schedule.upcoming_ns() <= until_ns:
        event = schedule.take(schedule.upcoming_ns())
        assert event is not None
        events.append(event)
    return events


def test_both_series_in_order() -> None:
    events = take_all(Schedule(100.0, 30.0, T0), T0 + 100 * MS)
    joints = [event.due_ns - T0 for event in events if event.joints]
    frames = [event.due_ns - T0 for event in events if event.frames]
    assert joints == [i * 10 * MS for i in range(11)]
    assert frames == [0, 33_333_333, 66_666_667, 100 * MS]
    assert [event.due_ns for event in events] == sorted({T0 + due for due in joints + frames})
    assert events[0] == Event(T0, joints=True, frames=True)


@given(rate=st.floats(1.0, 500.0), count=st.integers(1, 10**9))
def test_no_drift(rate: float, count: int) -> None:
    """Event ``count`` is where its number says, not where many rounded periods add up to."""
    schedule = Schedule(rate, 1e-6, T0)
    schedule._counts = [count, 1]
    assert abs(schedule._due_ns(0) - T0 - count / rate * 1e9) <= 1e9 * count / rate * 1e-15 + 1


def test_not_due_yet() -> None:
    schedule = Schedule(100.0, 30.0, T0)
    assert schedule.take(T0) is not None
    assert schedule.take(T0 + 9 * MS) is None
    assert schedule.take(T0 + 10 * MS) == Event(T0 + 10 * MS, joints=True, frames=False)


LATE = [
    pytest.param(MAX_LAG_NS, T0 + 10 * MS, 0, id="as-late-as-allowed-catches-up"),
    pytest.param(MAX_LAG_NS + 1, T0 + 10 * MS + MAX_LAG_NS + 1, 10, id="later-skips"),
    pytest.param(60_000 * MS, T0 + 10 * MS + 60_000 * MS, 6000, id="suspended-for-a-minute"),
    pytest.param(-MAX_BACK_NS - 1, T0 + 10 * MS - MAX_BACK_NS - 1, 0, id="clock-set-back"),
]


@pytest.mark.parametrize(("lag_ns", "due_ns", "skipped"), LATE)
def test_late(lag_ns: int, due_ns: int, skipped: int) -> None:
    schedule = Schedule(100.0, 30.0, T0)
    schedule.take(T0)
    event = schedule.take(T0 + 10 * MS + lag_ns)
    assert event is not None
    assert event.due_ns == due_ns
    assert schedule.skipped == skipped
    assert schedule.restarts == (due_ns != T0 + 10 * MS)
