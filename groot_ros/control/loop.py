"""The thread that commands on every control tick. It knows neither ROS nor the model."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

WINDOW_S = 60.0
JITTER_LIMIT_S = 5e-3  # that the 99th percentile of a punctual loop stays below
CLOCK_STOPPED_S = 1.0  # of steady time without any ROS time: the clock has stopped
SHORTEST_SLEEP_S = 2e-4  # a simulated clock may stand right before a tick for long
REALTIME_PRIORITY = 10  # above ordinary threads, below the kernel's and a ros2_control loop's 50


@dataclass(frozen=True)
class LoopTiming:
    """How punctual the loop is.

    Attributes:
        rate_hz: ticks per second that are asked for.
        ticks: since the start.
        missed: ticks that were due and never happened.
        jitter_p50_s, jitter_p99_s, jitter_max_s: how late ticks began, over the last minute; NaN before the first.
    """

    rate_hz: float
    ticks: int
    missed: int
    jitter_p50_s: float
    jitter_p99_s: float
    jitter_max_s: float


def prefer_this_thread() -> bool:
    """Ask the kernel to run this thread before all ordinary ones, as ros2_control's loop does; False: not allowed.

    Allowed for root and where ``ulimit -r`` is not 0 (``rtprio`` in /etc/security/limits.conf).
    """
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(REALTIME_PRIORITY))
    except (OSError, AttributeError):  # no permission; no such call on this system
        return False
    return True


class ControlLoop:
    """Calls ``work`` once per tick, in a thread of its own. Tick ``n`` is due at ROS time ``n * period_ns``.

    After a delay it goes on with the tick that is due now, and counts those that it missed. A clock that is set back
    starts the count again; one that stands still has no ticks.

    Args:
        period_ns: between ticks.
        now_ns: ROS time.
        work: called with the tick and how many were missed right before it.
        held_up: called with the seconds that the loop did not run when these are ``patience_s`` or more, instead of
            ``work``, on the steady clock: the process was stopped, or the machine slept.
        stood: called once when ROS time has stood still for ``CLOCK_STOPPED_S`` while the loop ran.
        failed: called with what one of these raised; the loop goes on.
        patience_s: see ``held_up``.
        poll_s: longest sleep: how late the end of the thread, or a jump of the clock, may be noticed. A simulated clock
            needs a short one, for nobody knows how fast it runs.
        steady_s: the steady clock.
    """

    def __init__(
        self,
        period_ns: int,
        now_ns: Callable[[], int],
        work: Callable[[int, int], None],
        held_up: Callable[[float], None],
        stood: Callable[[], None],
        failed: Callable[[Exception], None],
        patience_s: float,
        poll_s: float = 0.02,
        steady_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._period_ns, self._now_ns, self._steady_s = period_ns, now_ns, steady_s
        self._work, self._held_up, self._stood = work, held_up, stood
        self._failed, self._patience_s = failed, patience_s
        self._poll_s = poll_s
        self._tick: int | None = None
        self._ticks = self._missed = 0
        self._late_s: deque[float] = deque(maxlen=round(WINDOW_S * 1e9 / period_ns))
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="control", daemon=True)

    @property
    def tick(self) -> int:
        """The last tick that was worked on; the one that is due now while the loop has not begun."""
        return self._now_ns() // self._period_ns if self._tick is None else self._tick

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self, timeout_s: float) -> bool:
        """End the thread and wait for it, ``timeout_s`` at most; False when it has not ended."""
        self._closing.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def timing(self) -> LoopTiming:
        """Numbers for now."""
        late_s = np.array(list(self._late_s))
        p50, p99, most = np.percentile(late_s, [50, 99, 100]).tolist() if len(late_s) else [float("nan")] * 3
        return LoopTiming(1e9 / self._period_ns, self._ticks, self._missed, p50, p99, most)

    def _loop(self) -> None:
        prefer_this_thread()
        seen_s = moved_s = self._steady_s()
        moved_ns, told = self._now_ns(), False
        while not self._closing.is_set():
            now_s, now_ns = self._steady_s(), self._now_ns()
            away_s, seen_s = now_s - seen_s, now_s
            due = now_ns // self._period_ns
            if away_s >= self._patience_s:
                self._tick = due
                self._guarded(self._held_up, away_s)
            elif not self._tick or due < self._tick:  # simulated time is 0 until its first message
                self._tick = due
            elif due > self._tick:
                missed, self._tick = self._missed_before(due, away_s), due
                self._late_s.append((now_ns - due * self._period_ns) * 1e-9)
                self._ticks += 1
                self._missed += missed
                self._guarded(self._work, due, missed)
            left_s = ((due + 1) * self._period_ns - self._now_ns()) * 1e-9
            if now_ns != moved_ns:
                moved_ns, moved_s, told = now_ns, now_s, False
            elif not told and now_s - moved_s >= CLOCK_STOPPED_S:
                told = True
                self._guarded(self._stood)
            if left_s > 0:
                time.sleep(min(max(left_s, SHORTEST_SLEEP_S), self._poll_s))

    def _missed_before(self, due: int, away_s: float) -> int:
        """Ticks without work since the last one. What a coarse simulated clock skips while this thread watches it, a
        few at a time, nobody missed: no time passed between them.
        """
        skipped = due - (self._tick or due) - 1
        period_s = self._period_ns * 1e-9
        return skipped if away_s >= period_s or skipped * period_s >= self._patience_s else 0

    def _guarded(self, call: Callable[..., None], *arguments: float) -> None:
        try:
            call(*arguments)
        except Exception as error:
            try:
                self._failed(error)
            except Exception:  # a loop that has ended could not even brake
                traceback.print_exc()
