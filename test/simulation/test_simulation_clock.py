"""Simulated time: as fast as asked for, never ahead of the simulation, never back."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from groot_ros.simulation.clock import SimClock

MS = 1_000_000


class Steady:
    now_ns = 5

    def __call__(self) -> int:
        return self.now_ns


def test_follows_the_factor_while_the_simulation_keeps_up() -> None:
    steady = Steady()
    clock = SimClock(1000 * MS, 3.0, 40 * MS, steady)
    for _ in range(100):
        steady.now_ns += 5 * MS
        clock.reached(clock.now_ns())
    assert clock.now_ns() == 1000 * MS + 100 * 15 * MS
    clock.set_factor(0.5)
    steady.now_ns += 10 * MS
    assert clock.now_ns() == 2505 * MS


def test_waits_for_the_simulation_and_does_not_catch_up() -> None:
    steady = Steady()
    clock = SimClock(0, 1.0, 40 * MS, steady)
    steady.now_ns += 1000 * MS
    assert clock.now_ns() == 40 * MS
    clock.reached(30 * MS)
    assert clock.now_ns() == 40 * MS
    steady.now_ns += 10 * MS
    assert clock.now_ns() == 50 * MS
    steady.now_ns += 100 * MS
    assert clock.now_ns() == 70 * MS


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**9), st.booleans()), max_size=60), st.floats(0.01, 10.0))
def test_never_goes_back_and_never_too_far(steps: list[tuple[int, bool]], factor: float) -> None:
    steady = Steady()
    clock = SimClock(0, factor, 40 * MS, steady)
    before, reached = clock.now_ns(), 0
    for passed_ns, done in steps:
        steady.now_ns += passed_ns
        now_ns = clock.now_ns()
        assert before <= now_ns <= reached + 40 * MS
        before = now_ns
        if done:
            reached = now_ns
            clock.reached(now_ns)
