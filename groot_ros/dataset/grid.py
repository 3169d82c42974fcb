"""The times of rows: a grid of integer nanoseconds, laid so that jitter of the cameras neither skips nor repeats."""

from __future__ import annotations

import cmath
import math
from collections.abc import Iterable, Sequence

_SHIFTS = 16  # tried per period
_MARGIN = 0.25  # of a period: how far a tick keeps from the stamps of pictures
_NEAR_INTEGER = 0.02


class Grid:
    """Tick ``k`` is at ``anchor + k * 10**9 // fps``.

    Args:
        fps: ticks per second.
    """

    def __init__(self, fps: int) -> None:
        self._fps = fps
        self._anchor_ns = self._number = 0
        self._aligned = False

    @property
    def next_ns(self) -> int:
        """Time of the next tick."""
        return self._anchor_ns + self._number * 1_000_000_000 // self._fps

    def step(self) -> None:
        """Go on to the tick after it."""
        self._number += 1

    def restart(self, time_ns: int, *, aligned: bool = False) -> None:
        """Begin at ``time_ns``; ``aligned``: where it lies is as it should be."""
        self._anchor_ns, self._number, self._aligned = time_ns, 0, aligned

    def skip_to(self, time_ns: int) -> None:
        """Go on with the last tick that is not after ``time_ns``, unless the next one is later."""
        self._number = max(self._number, (time_ns - self._anchor_ns) * self._fps // 1_000_000_000)

    def align(self, tick_ns: int, pictures: Iterable[tuple[Sequence[int], float]]) -> bool:
        """Lay the grid anew from ``tick_ns`` or less than a period later on, once per ``restart``.

        Args:
            tick_ns: a tick that has all its samples.
            pictures: stamps (ns) of each camera's newest pictures, and its rate (Hz).

        Returns: whether the grid begins later than ``tick_ns``.
        """
        if self._aligned:
            return False
        shift_ns = quiet_shift(tick_ns, self._fps, pictures)
        self.restart(tick_ns + shift_ns, aligned=True)
        return shift_ns > 0


def quiet_shift(tick_ns: int, fps: int, pictures: Iterable[tuple[Sequence[int], float]]) -> int:
    """How much later than ``tick_ns`` (0 to 1 / fps, in ns) a grid of ``fps`` is best laid.

    Ticks keep a quarter of a period from the stamps of pictures, or as much as all cameras let them; then their
    pictures are as young as can be. Cameras whose rate goes into ``fps`` no whole number of times, nor the other way,
    have no say: they drift past any grid.
    """
    usual = [
        (_phase(tick_ns, stamps_ns, period_ns), period_ns)
        for stamps_ns, rate_hz in pictures
        if stamps_ns and (period_ns := _common_period_ns(fps, rate_hz))
    ]
    best_ns, best = 0, (-1.0, -1.0)
    for i in range(_SHIFTS):
        shift_ns = i * 1_000_000_000 // (fps * _SHIFTS)
        ages = [(phase + shift_ns / period_ns) % 1.0 for phase, period_ns in usual]
        margin = min((min(age, 1.0 - age) for age in ages), default=1.0)
        score = (min(margin, _MARGIN), -max(ages, default=0.0))
        if score > best:
            best_ns, best = shift_ns, score
    return best_ns


def _common_period_ns(fps: int, rate_hz: float) -> int:
    """In which the phase of a camera to the grid stays as it is; 0: none."""
    ratio = max(fps / rate_hz, rate_hz / fps)
    return round(1e9 / max(fps, rate_hz)) if abs(ratio - round(ratio)) <= _NEAR_INTEGER * ratio else 0


def _phase(tick_ns: int, stamps_ns: Sequence[int], period_ns: int) -> float:
    """Mean of how long the stamps are before a tick, in periods (0 to 1), around the circle."""
    turns = [cmath.exp(2j * math.pi * ((tick_ns - stamp_ns) % period_ns) / period_ns) for stamp_ns in stamps_ns]
    return cmath.phase(sum(turns)) / (2 * math.pi) % 1.0
