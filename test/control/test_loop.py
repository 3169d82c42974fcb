"""When the control loop works, on clocks that the test owns; the loop runs in the test's own thread."""

from __future__ import annotations

import time

import numpy as np
import pytest

from groot_ros.control import loop as loop_module
from groot_ros.control.loop import ControlLoop

PERIOD_NS = 20_000_000
START = 1000 * PERIOD_NS
PATIENCE_S = 0.5


class Clocks:
    """ROS time and steady time; sleeping lets both go on, and events happen at their steady times.

    Args:
        events: (steady time, what happens).
    """

    def __init__(self, events=(), *, end_s: float = 2.0, rate: float = 1.0, poll_s: float = 0.02) -> None:
        self.now_ns, self.steady_s, self.rate = START, 0.0, rate
        self.events = sorted(events, key=lambda event: event[0])
        self.ticks: list[tuple[int, int]] = []
        self.gaps: list[float] = []
        self.stood: list[float] = []
        self.errors: list[Exception] = []
        self.work_s = 0.0
        self.broken: set[int] = set()
        self.end_s = end_s
        self.loop = ControlLoop(
            PERIOD_NS,
            lambda: self.now_ns,
            self._work,
            self.gaps.append,
            lambda: self.stood.append(self.steady_s),
            self.errors.append,
            PATIENCE_S,
            poll_s=poll_s,
            steady_s=lambda: self.steady_s,
        )

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self._pass(seconds)

    def _pass(self, seconds: float) -> None:
        self.steady_s += seconds
        self.now_ns += round(seconds * self.rate * 1e9)
        while self.events and self.events[0][0] <= self.steady_s:
            self.events.pop(0)[1](self)
        if self.steady_s >= self.end_s:
            self.loop.close(0.0)

    def _work(self, tick: int, missed: int) -> None:
        assert tick == self.loop.tick
        self.ticks.append((tick, missed))
        if self.work_s:
            self._pass(self.work_s)
        if tick in self.broken:
            raise RuntimeError("broken")

    def run(self, monkeypatch: pytest.MonkeyPatch) -> Clocks:
        monkeypatch.setattr(loop_module.time, "sleep", self.sleep)
        monkeypatch.setattr(loop_module, "prefer_this_thread", lambda: None)
        self.loop._loop()
        return self


def gone(seconds: float, ros: float | None = None):
    """The process does not run for so long."""

    def happen(clocks: Clocks) -> None:
        clocks.steady_s += seconds
        clocks.now_ns += round((seconds if ros is None else ros) * 1e9)

    return happen


@pytest.mark.parametrize("poll_s", [0.002, 0.02])
def test_every_tick_is_worked_on_once_right_after_it_is_due(monkeypatch: pytest.MonkeyPatch, poll_s: float) -> None:
    clocks = Clocks(poll_s=poll_s).run(monkeypatch)
    assert [tick for tick, _ in clocks.ticks] == list(range(1001, 1001 + len(clocks.ticks)))
    assert len(clocks.ticks) in (99, 100) and not any(missed for _, missed in clocks.ticks)
    timing = clocks.loop.timing()
    assert (timing.rate_hz, timing.ticks, timing.missed) == (50.0, len(clocks.ticks), 0)
    assert 0.0 <= timing.jitter_max_s < 1e-6 and not clocks.gaps


def test_before_the_first_tick_there_is_nothing_to_tell() -> None:
    clocks = Clocks()
    timing = clocks.loop.timing()
    assert timing.ticks == 0 and np.isnan([timing.jitter_p50_s, timing.jitter_p99_s, timing.jitter_max_s]).all()
    assert clocks.loop.tick == 1000
    assert clocks.loop.close(1.0)


def test_a_loop_that_is_late_goes_on_with_the_tick_that_is_due_and_counts_what_it_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clocks = Clocks([(0.5, gone(0.07))]).run(monkeypatch)
    ticks = [tick for tick, _ in clocks.ticks]
    late = [(tick, missed) for tick, missed in clocks.ticks if missed]
    assert len(late) == 1 and late[0][1] in (3, 4)
    assert all(b - a == 1 + missed for (a, _), (b, missed) in zip(clocks.ticks, clocks.ticks[1:], strict=False))
    assert clocks.loop.timing().missed == late[0][1] and ticks[-1] - ticks[0] + 1 == len(ticks) + late[0][1]
    assert clocks.loop.timing().jitter_max_s == pytest.approx(0.01, abs=2e-3)


def test_work_that_takes_longer_than_a_tick_skips_ticks_and_builds_no_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = Clocks()
    clocks.work_s = 0.05
    clocks.run(monkeypatch)
    assert all(tick * PERIOD_NS <= START + (index + 1) * 60_000_000 for index, (tick, _) in enumerate(clocks.ticks))
    assert 30 <= len(clocks.ticks) <= 40 and clocks.loop.timing().missed > 50


@pytest.mark.parametrize(("away_s", "held"), [(0.45, False), (0.52, True), (5.0, True)])
def test_a_process_that_was_stopped_is_told_how_long(
    monkeypatch: pytest.MonkeyPatch, away_s: float, held: bool
) -> None:
    clocks = Clocks([(0.5, gone(away_s))], end_s=8.0).run(monkeypatch)
    assert bool(clocks.gaps) == held
    if held:
        assert away_s <= clocks.gaps[0] <= away_s + 0.03 and len(clocks.gaps) == 1
        assert not any(missed for _, missed in clocks.ticks)  # the gap is told instead
    ticks = [tick for tick, _ in clocks.ticks]
    assert ticks == sorted(set(ticks)) and ticks[-1] >= 1000 + 8.0 / 0.02 - 2


@pytest.mark.parametrize("back_s", [0.01, 0.03, 100.0])
def test_a_clock_that_is_set_back_begins_anew(monkeypatch: pytest.MonkeyPatch, back_s: float) -> None:
    def back(clocks: Clocks) -> None:
        clocks.now_ns -= round(back_s * 1e9)

    clocks = Clocks([(1.0, back)]).run(monkeypatch)
    ticks = [tick for tick, _ in clocks.ticks]
    steps = np.diff(ticks)
    assert np.sum(steps < 1) <= 1 and np.all(steps <= 2)
    assert ticks[-1] == pytest.approx((START + 2e9 - back_s * 1e9) / PERIOD_NS, abs=1.1)
    assert clocks.loop.timing().missed <= 1 and not clocks.gaps


def test_a_clock_that_stands_still_has_no_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    def still(clocks: Clocks) -> None:
        clocks.rate = 0.0

    def on(clocks: Clocks) -> None:
        clocks.rate = 1.0

    clocks = Clocks([(0.5, still), (1.4, on), (2.0, still), (4.5, on)], end_s=5.0).run(monkeypatch)
    ticks = [tick for tick, _ in clocks.ticks]
    assert ticks == list(range(1001, 1001 + len(ticks))) and abs(len(ticks) - 80) <= 2
    assert not clocks.gaps
    assert clocks.stood == [pytest.approx(3.0, abs=0.05)]  # once, and not for less than a second


def test_a_simulated_clock_that_runs_fast_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = Clocks(rate=5.0, poll_s=0.002).run(monkeypatch)
    ticks = [tick for tick, _ in clocks.ticks]
    assert ticks[-1] - 1000 >= 495 and clocks.loop.timing().missed == 0


@pytest.mark.parametrize(("step_s", "missed"), [(1 / 30, 0), (0.1, 0), (0.6, 29)])
def test_a_coarse_simulated_clock_skips_ticks_that_nobody_missed(
    monkeypatch: pytest.MonkeyPatch, step_s: float, missed: int
) -> None:
    """But a jump as long as ``patience_s`` is told."""

    def step(clocks: Clocks) -> None:
        clocks.now_ns += round(step_s * 1e9)

    beats = [(0.1 + index * step_s, step) for index in range(5)]
    clocks = Clocks(beats, end_s=0.1 + 5 * step_s, rate=0.0, poll_s=0.002).run(monkeypatch)
    assert len(clocks.ticks) == 5
    assert {skipped for _, skipped in clocks.ticks} == {missed}
    assert [tick for tick, _ in clocks.ticks] == [
        (START + (i + 1) * round(step_s * 1e9)) // PERIOD_NS for i in range(5)
    ]


def test_work_that_raises_is_reported_and_the_loop_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = Clocks()
    clocks.broken = {1005, 1006}
    clocks.run(monkeypatch)
    assert [str(error) for error in clocks.errors] == ["broken", "broken"]
    assert [tick for tick, _ in clocks.ticks] == list(range(1001, 1001 + len(clocks.ticks)))


def test_the_loop_outlives_a_report_that_raises_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clocks = Clocks(end_s=0.5)
    clocks.broken = {1005}
    clocks.errors = None  # type: ignore[assignment]
    monkeypatch.setattr(clocks.loop, "_failed", lambda error: 1 / 0)
    clocks.run(monkeypatch)
    assert clocks.ticks[-1][0] > 1020 and "ZeroDivisionError" in capsys.readouterr().err


def test_the_thread_ends_when_it_is_closed() -> None:
    worked: list[int] = []
    loop = ControlLoop(
        1_000_000, time.monotonic_ns, lambda tick, missed: worked.append(tick), print, print, print, patience_s=60.0
    )
    loop.start()
    deadline = time.monotonic() + 10.0
    while not worked and time.monotonic() < deadline:
        time.sleep(0.001)
    assert loop.close(10.0) and worked
    count = len(worked)
    assert loop.close(10.0) and len(worked) == count
