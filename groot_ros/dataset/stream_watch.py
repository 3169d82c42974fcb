"""Whether a stream comes at the rate that its YAML declares."""

from __future__ import annotations

import statistics
from collections import deque

from groot_ros.embodiment.schema import Camera, StateStream
from groot_ros.observation.types import Reason, Refusal

# Shares of the declared rate. A dip that a busy machine has does not end an episode; half the rate does.
SLOWEST_AT_START, SLOWEST = 0.75, 0.6
FEWEST = 5  # intervals that tell a rate, and of a fast stream those of _SHORTEST_S: it may come in bursts
_SHORTEST_S = 0.2
_LONGEST = 2000


class StreamWatch:
    """Measures one stream by the header stamps of its good samples.

    Args:
        name: of the stream.
        spec: of the stream.

    Attributes:
        last_ns: newest stamp; None before the first.
        gaps: intervals longer than ``max_age_s``.
    """

    def __init__(self, name: str, spec: Camera | StateStream) -> None:
        self.name, self.spec = name, spec
        self.last_ns: int | None = None
        self.gaps = 0
        self._max_age_ns = round(spec.max_age_s * 1e9)
        self._fewest = min(max(round(_SHORTEST_S * spec.rate_hz), FEWEST), _LONGEST // 2)
        self._stamps: deque[int] = deque(maxlen=1 + min(max(round(spec.rate_hz), 2 * FEWEST), _LONGEST))
        self._intervals_ns: deque[int] = deque(maxlen=FEWEST)  # the last ones, gaps among them

    def add(self, stamp_ns: int) -> None:
        """One good sample, newer than the last."""
        if self.last_ns is not None:
            self._intervals_ns.append(stamp_ns - self.last_ns)
            if stamp_ns - self.last_ns > self._max_age_ns:
                # What came before a gap says nothing about the rate after it.
                self._stamps.clear()
                self.gaps += 1
        self._stamps.append(stamp_ns)
        self.last_ns = stamp_ns

    def reset(self) -> None:
        """Forget the samples, because the clock jumped."""
        self._stamps.clear()
        self._intervals_ns.clear()
        self.last_ns = None

    @property
    def recent_ns(self) -> list[int]:
        """Stamps of about the last second, since the last gap."""
        return list(self._stamps)

    @property
    def rate_hz(self) -> float:
        """Over about the last second; 0 while there are too few samples since the last gap."""
        count = len(self._stamps) - 1
        return count * 1e9 / (self._stamps[-1] - self._stamps[0]) if count >= self._fewest else 0.0

    def refusal(self, at_start: bool) -> Refusal | None:
        """Why this stream is too slow; while too few samples tell a rate, that counts ``at_start`` only."""
        share = SLOWEST_AT_START if at_start else SLOWEST
        rate_hz, least_hz = self.rate_hz, share * self.spec.rate_hz
        if rate_hz == 0.0 and len(self._intervals_ns) == FEWEST:
            # One gap is forgiven. A stream whose every interval is one is slow, though no single sample is too old.
            usual_hz = 1e9 / statistics.median(self._intervals_ns)
            rate_hz = usual_hz if usual_hz < least_hz else 0.0
        if rate_hz >= least_hz or (rate_hz == 0.0 and not at_start):
            return None
        found = f"{rate_hz:.1f} Hz" if rate_hz > 0.0 else "too few samples in a row"
        text = (
            f"{self.spec.topic}: expected at least {least_hz:g} Hz ({share:g} of rate_hz {self.spec.rate_hz:g}), "
            f"found {found}, check `ros2 topic hz {self.spec.topic}`, the driver and its QoS, or correct rate_hz"
        )
        return Refusal(Reason.SLOW_STREAM, self.name, text)
