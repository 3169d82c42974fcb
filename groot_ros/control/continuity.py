"""How continuous the motion is, counted while it happens: stalls, seams between chunks, ages, delays."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

import numpy as np

from groot_ros.control.handover import Handover
from groot_ros.control.plans import Step
from groot_ros.control.space import Space

WINDOW = 3000  # ticks: a minute at 50 Hz
SEAM_TICKS = 2  # on either side of a hand-over


@dataclass(frozen=True)
class ContinuitySummary:
    """Numbers over the last ``WINDOW`` ticks and their hand-overs; counts since the start. NaN: nothing to tell.

    Attributes:
        ticks: commanded while running.
        stalled: of them without a planned target, after the first chunk.
        jump_p50, jump_p95, jump_max: largest |new - old| of a column per hand-over, before fade and gate (rad or m).
        seam_acceleration: largest within 2 ticks of a hand-over, median over hand-overs, as a share of the limit.
        seam_acceleration_max: the same, of the worst hand-over.
        inside_acceleration: 99th percentile of all other ticks with a planned target, as a share of the limit.
        cosine_p50: between the velocities before and after a hand-over.
        age_p50_s, age_p95_s: of the observation behind what is executed.
        delay_p50, delay_p95, delay_max: ticks that passed while an inference ran.
        rejected: reason -> chunks.
    """

    ticks: int = 0
    stalled: int = 0
    handovers: int = 0
    jump_p50: float = float("nan")
    jump_p95: float = float("nan")
    jump_max: float = float("nan")
    seam_acceleration: float = float("nan")
    seam_acceleration_max: float = float("nan")
    inside_acceleration: float = float("nan")
    cosine_p50: float = float("nan")
    age_p50_s: float = float("nan")
    age_p95_s: float = float("nan")
    delay_p50: float = float("nan")
    delay_p95: float = float("nan")
    delay_max: float = float("nan")
    rejected: dict[str, int] = field(default_factory=dict)

    @property
    def seam_ratio(self) -> float:
        """Acceleration at the median hand-over over that inside chunks; 1 or less is what is wanted."""
        return self.seam_acceleration / self.inside_acceleration if self.inside_acceleration > 0 else float("nan")


class Continuity:
    """Collects under the lock of the control loop; ``summary`` may be asked for without it, for it reads copies.

    Args:
        space: the command space.
        period_s: time between ticks.
        window: ticks that are kept.
    """

    def __init__(self, space: Space, period_s: float, window: int = WINDOW) -> None:
        self._space = space
        self._scale = 1.0 / (space.smooth_acceleration * period_s)
        self._ticks = self._stalled = self._handovers = 0
        self._previous: Step | None = None
        self._accelerations: deque[tuple[int, float, bool]] = deque(maxlen=window)
        self._ages_s: deque[float] = deque(maxlen=window)
        self._jumps: deque[float] = deque(maxlen=window)
        self._cosines: deque[float] = deque(maxlen=window)
        self._seams: deque[int] = deque(maxlen=window)
        self._delays: deque[int] = deque(maxlen=window)
        self._rejected: Counter[str] = Counter()

    def stepped(self, step: Step, age_s: float | None) -> None:
        """A tick was commanded while running; ``age_s`` of the observation behind it, None while holding."""
        self._ticks += 1
        self._stalled += not step.planned
        previous, self._previous = self._previous, step
        if previous is not None and previous.tick == step.tick - 1:
            change = np.abs(step.motion.velocity - previous.motion.velocity) * self._scale
            planned = step.planned and previous.planned
            self._accelerations.append((step.tick, float(change.max(initial=0.0)), planned))
        if age_s is not None:
            self._ages_s.append(age_s)

    def took_over(self, seam: Handover | None) -> None:
        """A chunk took over; None: there was nothing before it."""
        if seam is None:
            return
        self._handovers += 1
        self._seams.append(seam.tick)
        if seam.overlap:
            self._jumps.append(seam.jump(self._space))
            self._cosines.append(seam.cosine)

    def delayed(self, ticks: int) -> None:
        """An inference took so many ticks."""
        self._delays.append(ticks)

    def rejected(self, reason: str) -> None:
        """A chunk was computed and not executed."""
        self._rejected[reason] += 1

    def summary(self) -> ContinuitySummary:
        """All numbers at once."""
        seam, worst, inside = self._seam_accelerations()
        jump_p50, jump_p95, jump_max = _percentiles(self._jumps, 50, 95, 100)
        delay_p50, delay_p95, delay_max = _percentiles(self._delays, 50, 95, 100)
        age_p50_s, age_p95_s = _percentiles(self._ages_s, 50, 95)
        return ContinuitySummary(
            ticks=self._ticks,
            stalled=self._stalled,
            handovers=self._handovers,
            jump_p50=jump_p50,
            jump_p95=jump_p95,
            jump_max=jump_max,
            seam_acceleration=seam,
            seam_acceleration_max=worst,
            inside_acceleration=inside,
            cosine_p50=_percentiles(self._cosines, 50)[0],
            age_p50_s=age_p50_s,
            age_p95_s=age_p95_s,
            delay_p50=delay_p50,
            delay_p95=delay_p95,
            delay_max=delay_max,
            rejected=dict(self._rejected),
        )

    def _seam_accelerations(self) -> tuple[float, float, float]:
        nan = float("nan")
        recorded = list(self._accelerations)
        if not recorded:
            return nan, nan, nan
        shares = {tick: share for tick, share, _ in recorded}
        oldest = min(shares) - SEAM_TICKS
        around = [range(seam - SEAM_TICKS, seam + SEAM_TICKS + 1) for seam in list(self._seams) if seam >= oldest]
        found = [[shares[tick] for tick in near if tick in shares] for near in around]
        peaks = [max(values) for values in found if values]
        at_seam = {tick for near in around for tick in near}
        # A robot that has run out of targets brakes as hard as it may: that is no measure of a chunk's inside.
        others = [share for tick, share, planned in recorded if planned and tick not in at_seam]
        inside = float(np.percentile(others, 99)) if others else nan
        return (float(np.median(peaks)), max(peaks), inside) if peaks else (nan, nan, inside)


def _percentiles(values: deque[float] | deque[int], *which: int) -> tuple[float, ...]:
    known = np.array([value for value in list(values) if np.isfinite(value)], dtype=np.float64)
    if not len(known):
        return (float("nan"),) * len(which)
    return tuple(float(value) for value in np.percentile(known, which))
