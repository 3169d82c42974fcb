"""How the path of a new chunk takes over from the path that is being executed: the chunking modes on control ticks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groot_ros.control.interpolation import resample
from groot_ros.control.space import Array, Space

# ACT's weight of a chunk's age in an ensemble: the oldest has 1, the next exp(-0.01), ... (Zhao et al. 2023).
ENSEMBLE_DECAY = 0.01
# A minimum-jerk fade over T s adds at most this many times gap / T^2 of acceleration and gap / T of velocity.
_PEAK_ACCELERATION = 10.0 / np.sqrt(3.0)
_PEAK_VELOCITY = 1.875
FADE_TICKS = 3


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
    smooth = np.array([kind == "cubic" for kind in space.interpolation])
    shares = np.where(smooth, share[:, None], 1.0)
    rates = np.where(smooth, rate[:, None], 0.0)
    gap = space.minus(new.values, old.values)
    velocities = old.velocities + shares * (new.velocities - old.velocities) + rates * gap
    return Path(space.plus(old.values, shares * gap), velocities)


def fade_ticks(gap: Array, reference: Array, period_s: float, longest: float) -> float:
    """How long a fade over ``gap`` [V] has to be (ticks), so that it adds no more acceleration than ``reference`` [V].

    At least ``FADE_TICKS``, at most ``longest`` where that is more.
    """
    needed_s = np.sqrt(_PEAK_ACCELERATION * np.abs(gap) / np.maximum(reference, 1e-9))
    return float(np.clip(needed_s.max(initial=0.0) / period_s, FADE_TICKS, max(longest, FADE_TICKS)))


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
    smooth = np.array([kind == "cubic" for kind in space.interpolation])
    way = np.where(smooth, np.einsum("it,itv->tv", weights, ways), 0.0)
    covered_any = weights.sum(axis=0)[:, None] > 0
    mean = np.where(smooth & covered_any, np.einsum("it,itv->tv", weights, rates), velocities)
    return Path(space.plus(values, way), mean)
