"""When a person commanded the robot, for ticks that are settled a little later."""

from __future__ import annotations

from collections import deque

_MOST = 100  # changes that are not yet older than every tick to come


class Interventions:
    """Changes of who commands, by time."""

    def __init__(self) -> None:
        self._changes: deque[tuple[int, bool]] = deque([(0, False)], maxlen=_MOST)

    @property
    def now(self) -> bool:
        """Whether a person commands, as of the last change."""
        return self._changes[-1][1]

    def mark(self, on: bool, time_ns: int) -> None:
        """From ``time_ns`` (not before an earlier one) a person commands, or no longer."""
        if on != self.now:
            self._changes.append((time_ns, on))

    def at(self, time_ns: int) -> bool:
        """Whether a person commands at ``time_ns``, not before that of an earlier call."""
        while len(self._changes) > 1 and self._changes[1][0] <= time_ns:
            self._changes.popleft()
        return self._changes[0][1]

    def forget_times(self) -> None:
        """The clock jumped: what holds now, holds."""
        now = self.now
        self._changes.clear()
        self._changes.append((0, now))
