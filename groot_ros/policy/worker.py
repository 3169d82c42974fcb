"""The inference thread: when to ask the policy next. It knows neither ROS nor the model."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterable

from groot_ros.control.loop import CLOCK_STOPPED_S

POLL_S = 0.02  # steady-clock wait between looks at ROS time, which may be simulated, slow or stopped


class Worker:
    """Calls ``turn`` in a thread of its own, one call at a time.

    After a successful turn ``next_due_ns`` says when the next one is due. Once due, it waits until every camera has
    delivered a new frame, so that the observation is as fresh as the slowest camera allows, but no longer than
    ``patience_ns``: then the assembler decides and names what is missing.

    Args:
        turn: does one turn and returns whether a chunk came of it.
        enabled: whether turns may happen now.
        now_ns: ROS time.
        cameras: names that :meth:`arrived` will be called with.
        next_due_ns: given the ROS time at which a turn began, that of the next one.
        longest_ns: no turn is due later than this after the one before; when ROS time is set back, one is due at once.
        patience_ns: ROS time to wait for frames, and between refused turns.
        failed: called with the exception when a turn raises; the thread goes on.
        clock_stopped: called every ``CLOCK_STOPPED_S`` of steady time in which ROS time did not move, while enabled.
        steady_s: the steady clock.
    """

    def __init__(
        self,
        turn: Callable[[], bool],
        enabled: Callable[[], bool],
        now_ns: Callable[[], int],
        cameras: Iterable[str],
        next_due_ns: Callable[[int], int],
        longest_ns: int,
        patience_ns: int,
        failed: Callable[[Exception], None],
        clock_stopped: Callable[[], None],
        steady_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._turn, self._enabled, self._now_ns, self._failed = turn, enabled, now_ns, failed
        self._clock_stopped, self._steady_s = clock_stopped, steady_s
        self._last_moved = (-1, 0.0)  # ROS time, and the steady time when it was first seen
        self._stopped_reports = 0
        self._cameras = frozenset(cameras)
        self._next_due_ns, self._longest_ns, self._patience_ns = next_due_ns, longest_ns, patience_ns
        self._condition = threading.Condition()
        self._fresh: set[str] = set()
        self._due_ns = 0
        self._busy_since_s: float | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._loop, name="inference", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self, timeout_s: float) -> bool:
        """Ask the thread to end and wait; False when a turn is still running after ``timeout_s`` (steady clock)."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        if self._thread.is_alive():  # not so when configuring failed before the start
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def busy_s(self) -> float:
        """How long the turn that is under way has taken (steady clock); 0 when there is none."""
        since_s = self._busy_since_s
        return self._steady_s() - since_s if since_s is not None else 0.0

    def arrived(self, camera: str) -> None:
        """Note a new frame of ``camera``."""
        with self._condition:
            if self._early(self._now_ns()):
                return
            self._fresh.add(camera)
            if self._fresh >= self._cameras:
                self._condition.notify()

    def restart(self) -> None:
        """Make a turn due now: after a start, or when ROS time jumped."""
        with self._condition:
            self._due_ns = 0
            self._fresh.clear()
            self._condition.notify()

    def _loop(self) -> None:
        waiting_since_ns: int | None = None
        while True:
            with self._condition:
                if self._closing:
                    return
                now_ns = self._now_ns()
                stopped = self._has_stopped(now_ns)
                if stopped or not self._enabled() or self._early(now_ns):
                    waiting_since_ns = None
                    self._condition.wait(POLL_S)
                    continue
                if waiting_since_ns is None or waiting_since_ns > now_ns:
                    waiting_since_ns = now_ns
                if not (self._fresh >= self._cameras or now_ns - waiting_since_ns >= self._patience_ns):
                    self._condition.wait(POLL_S)
                    continue
                self._fresh.clear()
                self._busy_since_s = self._steady_s()
            waiting_since_ns = None
            try:
                worked = self._turn()
            except Exception as error:
                worked = False
                try:
                    self._failed(error)
                except Exception:  # nobody would ask the policy any more
                    traceback.print_exc()
            with self._condition:
                self._busy_since_s = None
                self._due_ns = min(self._next_due_ns(now_ns), now_ns + self._longest_ns) if worked else now_ns

    def _early(self, now_ns: int) -> bool:
        """Whether the next turn is not due yet; never for longer than ``longest_ns``, even if ROS time was set back."""
        return self._due_ns - self._longest_ns <= now_ns < self._due_ns

    def _has_stopped(self, now_ns: int) -> bool:
        """Whether ROS time stands still; reports it while turns are enabled."""
        steady_s = self._steady_s()
        if now_ns != self._last_moved[0] or not self._enabled():
            self._last_moved = (now_ns, steady_s)
            self._stopped_reports = 0
            return False
        reports = int((steady_s - self._last_moved[1]) / CLOCK_STOPPED_S)
        if reports > self._stopped_reports:
            self._stopped_reports = reports
            self._clock_stopped()
        return reports > 0
