"""How the path of a new chunk takes over from the path that is being executed: the chunking modes on control ticks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groot_ros.control.handover import Handover
from groot_ros.control.interpolation import resample
from groot_ros.control.space import Array, Space

# ACT's weight of a chunk's age in an ensemble: the oldest has 1, the next exp(-0.01), ... (Zhao et al. 2023).
ENSEMBLE_DECAY = 0.01
ADDED_SHARE = 0.3  # of a chunk's usual acceleration that a change of chunks may add
FADE_TICKS = 3  # the least that a change of chunks takes


@dataclass(frozen=True)
class Path:
    """Targets on consecutive ticks.

    Attributes:
        values: float64 [T, C].
        velocities: float64 [T, V].
    """

    values: Array
    velocities: Array


def minimum_jerk(u: Array) -> tuple[Array, Array]:
    """10 u^3 - 15 u^4 + 6 u^5 and its derivative, for u limited to 0..1: from 0 to 1, at rest at both ends."""
    u = np.clip(u, 0.0, 1.0)
    return u**3 * (10.0 + u * (6.0 * u - 15.0)), 30.0 * u**2 * (1.0 - u) ** 2


def faded(space: Space, old: Path, new: Path, start: float, length: float, period_s: float) -> Path:
    """From ``old`` to ``new``, both on the same ticks [T], with minimum jerk.

    Only what is interpolated by ``cubic`` fades; the rest is the new path's at once.

    Args:
        start: where the fade begins, in ticks from row 0; may lie between ticks.
        length: how long it is, in ticks; 0 switches.
    """
    ticks = np.arange(len(new.values), dtype=np.float64)
    if length <= 0:
        return new
    share, rate = minimum_jerk((ticks - start) / length)
    rate = rate / (length * period_s)
    smooth = space.smooth
    shares = np.where(smooth, share[:, None], 1.0)
    rates = np.where(smooth, rate[:, None], 0.0)
    gap = space.minus(new.values, old.values)
    velocities = old.velocities + shares * (new.velocities - old.velocities) + rates * gap
    return Path(space.plus(old.values, shares * gap), velocities)


def taken_over(
    space: Space,
    path: Path,
    old: Path,
    new: tuple[NDArray[np.int64], Array],
    seam: Handover,
    tick: int,
    period_ns: int,
    least: float,
) -> Path:
    """The old path up to the seam, and from there on the new one, eased in so that it adds little acceleration.

    Args:
        path: through all rows of the new chunk, on the ticks from ``tick`` on.
        old: the path that is executed, on the same ticks.
        new: due times and rows.
        seam: between the two.
        least: length of the easing in ticks, or more.
    """
    due_ns, rows = new
    period_s = period_ns * 1e-9
    start = min(seam.tick - 1 - tick, len(path.values) - 1)
    if seam.begin_ns >= due_ns[seam.row] or seam.row == 0:
        # The way from the last row of the old chunk to the first new one is no part of either.
        at_ns = np.arange(tick, tick + len(path.values)) * period_ns
        before_ns = 2 * due_ns[seam.row] - due_ns[seam.row + 1] if seam.row + 1 < len(rows) else due_ns[seam.row] - 1
        led_ns = np.concatenate([[before_ns], due_ns[seam.row :]])
        led = np.concatenate([seam.lead_in[None], rows[seam.row :]])
        path = _replaced(space, path, Path(*resample(space, led_ns, led, at_ns)))
    accelerations = np.abs(np.diff(path.velocities[start:], axis=0)) / period_s
    usual = np.median(accelerations, axis=0) if len(accelerations) else np.zeros(space.tangent_count)
    return eased(space, old, path, start, ADDED_SHARE * usual, period_s, least, len(path.values) - 1 - start)


def eased(
    space: Space, old: Path, new: Path, start: int, reference: Array, period_s: float, least: float, longest: float
) -> Path:
    """``old`` up to row ``start``, from there on ``new`` and what is left of the difference between the two.

    The difference has the old path's position and velocity at ``start`` and is gone after some ticks: a quintic, at
    rest at its end. Unlike a fade it needs the old path no further, which would lead ever further away. It takes as
    long as it must to add no more acceleration than ``reference``. Only ``cubic`` columns; the rest is the new path's.

    Args:
        start: row, of both paths.
        reference: float64 [V], per s^2.
        least, longest: bounds of its length in ticks; where nothing is short enough, what adds least.
    """
    smooth = space.smooth
    gap = np.where(smooth, space.minus(old.values[start], new.values[start]), 0.0)
    lead = np.where(smooth, old.velocities[start] - new.velocities[start], 0.0)
    length = _easing_ticks(gap, lead, reference, period_s, max(least, FADE_TICKS), max(longest, FADE_TICKS))
    ticks = np.arange(len(new.values), dtype=np.float64)
    u = np.clip((ticks - start) / length, 0.0, 1.0)[:, None]
    span_s = length * period_s
    left = 1.0 - minimum_jerk(u)[0]
    led = u * (1.0 - u) ** 3 * (1.0 + 3.0 * u)
    way = left * gap + span_s * led * lead
    led_rate = (1.0 - u) ** 2 * (1.0 + u * (2.0 - 15.0 * u))
    rate = led_rate * lead - minimum_jerk(u)[1] / span_s * gap
    before = (ticks <= start)[:, None]
    way = np.where(before, np.where(smooth, space.minus(old.values, new.values), 0.0), way)
    rate = np.where(before, np.where(smooth, old.velocities - new.velocities, 0.0), rate)
    return Path(space.plus(new.values, way), new.velocities + rate)


def _easing_ticks(gap: Array, lead: Array, reference: Array, period_s: float, least: float, longest: float) -> float:
    """The shortest length (ticks) with no more than ``reference`` [V] of acceleration, or the gentlest one."""
    lengths = np.arange(least, max(longest, least) + 1.0)
    span_s = lengths[:, None, None] * period_s
    u = np.linspace(0.0, 1.0, 33)[:, None]
    by_gap = u * (u * (180.0 - 120.0 * u) - 60.0)
    by_lead = u * (u * (96.0 - 60.0 * u) - 36.0)
    added = np.abs(by_gap * gap / span_s**2 + by_lead * lead / span_s).max(axis=1)  # [lengths, V]
    worst = (added / np.maximum(reference, 1e-9)).max(axis=1)
    enough = np.flatnonzero(worst <= 1.0)
    return float(lengths[enough[0] if len(enough) else np.argmin(worst)])


def gentle_ticks(space: Space, gaps: Array, period_s: float) -> float:
    """How long a minimum-jerk fade over ``gaps`` [T, V] must be (ticks) to stay within velocity and acceleration."""
    gap = np.where(space.smooth, np.abs(gaps).max(axis=0), 0.0) / space.axis_share
    # The peaks of 10 u^3 - 15 u^4 + 6 u^5: 15/8 of the mean velocity, and 10/sqrt(3) gap / T^2.
    needed_s = np.maximum(1.875 * gap / space.velocity, np.sqrt(10.0 / 3.0**0.5 * gap / space.acceleration))
    return float(needed_s.max(initial=0.0)) / period_s


def _replaced(space: Space, path: Path, smooth_part: Path) -> Path:
    """``path`` with the ``cubic`` columns of ``smooth_part``."""
    smooth = space.smooth
    way = np.where(smooth, space.minus(smooth_part.values, path.values), 0.0)
    return Path(space.plus(path.values, way), np.where(smooth, smooth_part.velocities, path.velocities))


def ensemble(space: Space, chunks: list[tuple[NDArray[np.int64], Array]], at_ns: NDArray[np.int64]) -> Path:
    """The mean of all chunks that cover a tick, weighted exp(-0.01 i) from the oldest (i = 0) on; cubic columns only.

    Args:
        chunks: due times [H] and values [H, C], the oldest first; the newest covers all of ``at_ns``.
        at_ns: times of the ticks [T].
    """
    values, velocities = resample(space, *chunks[-1], at_ns)
    weights = np.zeros((len(chunks), len(at_ns)))
    ways = np.zeros((len(chunks), len(at_ns), space.tangent_count))
    rates = np.zeros_like(ways)
    for index, (due_ns, rows) in enumerate(chunks):
        covered = (at_ns >= due_ns[0]) & (at_ns <= due_ns[-1])
        weights[index] = covered * np.exp(-ENSEMBLE_DECAY * index)
        theirs, their_velocities = resample(space, due_ns, rows, at_ns)
        ways[index] = space.minus(theirs, values)
        rates[index] = their_velocities
    weights /= np.maximum(weights.sum(axis=0), 1e-12)
    smooth = space.smooth
    way = np.where(smooth, np.einsum("it,itv->tv", weights, ways), 0.0)
    covered_any = weights.sum(axis=0)[:, None] > 0
    mean = np.where(smooth & covered_any, np.einsum("it,itv->tv", weights, rates), velocities)
    return Path(space.plus(values, way), mean)
