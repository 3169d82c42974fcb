"""A bounded buffer of one stream's samples, in the order of their header stamps."""

from __future__ import annotations

import bisect
import math
from typing import Generic, TypeVar

Sample = TypeVar("Sample")

SLACK = 2.0  # how much faster than its nominal rate a stream may be before samples overflow


class StreamBuffer(Generic[Sample]):
    """Samples of the last ``window_ns``, plus the one before: what any look-up in the window can return.

    Not thread-safe; the assembler holds a lock.

    Args:
        window_ns: how far back from the newest stamp look-ups reach.
        rate_hz: nominal rate of the stream; gives the capacity together with the window.

    Attributes:
        capacity: most samples ever held.
        overflow: samples dropped although they were in the window: the stream is much faster than ``rate_hz``.
    """

    def __init__(self, window_ns: int, rate_hz: float) -> None:
        self.window_ns = window_ns
        self.capacity = math.ceil(SLACK * rate_hz * window_ns * 1e-9) + 2
        self.overflow = 0
        self._stamps: list[int] = []
        self._samples: list[Sample] = []

    def __len__(self) -> int:
        return len(self._stamps)

    @property
    def newest_ns(self) -> int | None:
        """Stamp of the newest sample."""
        return self._stamps[-1] if self._stamps else None

    @property
    def oldest_ns(self) -> int | None:
        """Stamp of the oldest sample still held."""
        return self._stamps[0] if self._stamps else None

    @property
    def newest(self) -> Sample | None:
        """The newest sample."""
        return self._samples[-1] if self._samples else None

    def append(self, stamp_ns: int, sample: Sample) -> None:
        """Add a sample that is newer than all others. Raises ValueError when it is not."""
        if self._stamps and stamp_ns <= self._stamps[-1]:
            raise ValueError(f"stamp {stamp_ns} ns is not after {self._stamps[-1]} ns")
        self._stamps.append(stamp_ns)
        self._samples.append(sample)
        # The newest sample at or before the start of the window stays: a look-up there returns it.
        drop = max(bisect.bisect_right(self._stamps, stamp_ns - self.window_ns) - 1, 0)
        over = len(self._stamps) - drop - self.capacity
        if over > 0:
            self.overflow += over
            drop += over
        del self._stamps[:drop]
        del self._samples[:drop]

    def as_of(self, stamp_ns: int) -> tuple[int, Sample] | None:
        """Stamp and sample of the newest sample with stamp <= ``stamp_ns``, or None when all are newer."""
        place = bisect.bisect_right(self._stamps, stamp_ns)
        return (self._stamps[place - 1], self._samples[place - 1]) if place else None

    def clear(self) -> None:
        """Forget all samples; counters stay."""
        self._stamps.clear()
        self._samples.clear()
