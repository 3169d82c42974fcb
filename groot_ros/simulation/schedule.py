"""When joint states and camera frames are due. No clock in here: times come in and go out as nanoseconds."""

from __future__ import annotations

from dataclasses import dataclass

# Behind by more than this the lost events are skipped: a robot that was suspended does not catch up in a burst.
MAX_LAG_NS = 100_000_000
# A clock this far before the last event was set back.
MAX_BACK_NS = 1_000_000_000


@dataclass(frozen=True)
class Event:
    """Something due at ``due_ns``; both kinds may fall together."""

    due_ns: int
    joints: bool
    frames: bool


class Schedule:
    """Two regular series without drift: event ``i`` of a series is due at ``start + i / rate``, rounded once.

    Args:
        joint_rate_hz: of joint states.
        camera_rate_hz: of frames; every camera at the same instant.
        start_ns: of both series.
    """

    def __init__(self, joint_rate_hz: float, camera_rate_hz: float, start_ns: int) -> None:
        self._rates_hz = (joint_rate_hz, camera_rate_hz)
        self.skipped = 0
        self.restarts = 0
        self.restart(start_ns)

    def restart(self, start_ns: int) -> None:
        """Begin both series anew at ``start_ns``."""
        self._start_ns = start_ns
        self._counts = [0, 0]

    def upcoming_ns(self) -> int:
        """When the next event is due."""
        return min(self._due_ns(series) for series in (0, 1))

    def take(self, now_ns: int) -> Event | None:
        """Return the next event if it is due at ``now_ns``, else None; skips and restarts as the constants say."""
        due_ns = self.upcoming_ns()
        lag_ns = now_ns - due_ns
        if lag_ns > MAX_LAG_NS or lag_ns < -MAX_BACK_NS:
            self.skipped += max(0, round(1e-9 * lag_ns * self._rates_hz[0]))
            self.restarts += 1
            self.restart(now_ns)
            due_ns = now_ns
        elif lag_ns < 0:
            return None
        due = [self._due_ns(series) == due_ns for series in (0, 1)]
        self._counts = [count + flag for count, flag in zip(self._counts, due, strict=True)]
        return Event(due_ns, joints=due[0], frames=due[1])

    def _due_ns(self, series: int) -> int:
        return self._start_ns + round(self._counts[series] * 1e9 / self._rates_hz[series])
