"""Simulated time: as fast as asked for, but never ahead of the simulation. No ROS."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class SimClock:
    """A clock that waits for the simulation, so that a busy machine makes it slower, and nothing is left out.

    Thread-safe. All times are integer nanoseconds.

    Args:
        start_ns: simulated time now.
        factor: simulated seconds per second.
        lead_ns: how far it may be ahead of what the simulation has reached; more than a step of it.
        steady_ns: a clock that goes on by itself.
    """

    def __init__(
        self, start_ns: int, factor: float, lead_ns: int, steady_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._factor, self._lead_ns, self._steady_ns = factor, lead_ns, steady_ns
        self._lock = threading.Lock()
        self._now_ns, self._read_ns = start_ns, steady_ns()
        self._most_ns = start_ns + lead_ns

    def now_ns(self) -> int:
        """Simulated time."""
        with self._lock:
            return self._advance()

    def set_factor(self, factor: float) -> None:
        """Go on at another speed from now on."""
        with self._lock:
            self._advance()
            self._factor = factor

    def reached(self, stamp_ns: int) -> None:
        """The simulation has done everything up to ``stamp_ns``."""
        with self._lock:
            self._advance()  # what was waited for so far is not caught up
            self._most_ns = max(self._most_ns, stamp_ns + self._lead_ns)

    def _advance(self) -> int:
        steady_ns = self._steady_ns()
        free_ns = self._now_ns + round((steady_ns - self._read_ns) * self._factor)
        self._now_ns, self._read_ns = min(free_ns, self._most_ns), steady_ns
        return self._now_ns
