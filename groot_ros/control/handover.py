"""Where one chunk takes over from another, and how far apart the two are there before anything smooths it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groot_ros.control.space import Array, Space
from groot_ros.control.track import Track


@dataclass(frozen=True)
class Handover:
    """The seam between what was planned and a new chunk.

    Attributes:
        tick: first tick that follows something new.
        begin_ns: until then the old path is followed.
        end_ns: as long as that the old chunk has targets.
        gap: float64 [V], new minus old at the first row that is new, before fade and gate.
        overlap: whether the old chunk has a target there; without one the gap is that to a robot coming to rest.
        row: the first row that is new.
        lead_in: float64 [C], where the new path would be one step before that row if it differed from the old one by
            the gap there too. Without it the new path had no slope at its first row but that of the step after.
        cosine: between the old and the new velocity there, limits as units; NaN where one of the two stands still.
    """

    tick: int
    begin_ns: int
    end_ns: int
    gap: Array
    overlap: bool
    row: int
    lead_in: Array
    cosine: float

    def jump(self, space: Space) -> float:
        """The largest gap of what moves on a curve (rad or m, or per s); jumps of the rest are meant."""
        return float(np.abs(self.gap[space.smooth]).max(initial=0.0))


def handover(
    space: Space, old: Track, due_ns: NDArray[np.int64], values: Array, tick: int, frozen: int, patient: bool
) -> Handover:
    """The seam for a chunk with rows ``values`` [H, C] due at ``due_ns`` [H], executed from the tick after ``tick`` on.

    Args:
        frozen: rows that are the old chunk's, restored.
        patient: the old path is followed up to the first new row, if it goes so far; else only through what is frozen.
    """
    now_ns = tick * old.period_ns
    ahead = int(np.searchsorted(due_ns, now_ns, side="right"))
    row = min(max(ahead, frozen), len(due_ns) - 1)
    end_ns = old.planned_end * old.period_ns
    known = max(now_ns, int(due_ns[frozen - 1]) if frozen else now_ns)
    first = max(now_ns, int(due_ns[min(frozen, len(due_ns) - 1)]))
    begin_ns = first if patient and first <= end_ns else known
    there = old.sample(due_ns[row : row + 1])[0]
    gap = space.minus(values[row], there)
    after = min(row + 1, len(due_ns) - 1)
    before = max(after - 1, 0)
    step_ns = max(int(due_ns[after] - due_ns[before]), 1)
    new_velocity = space.minus(values[after], values[before]) / (step_ns * 1e-9)
    old_velocity = old.motion(int(due_ns[row]) // old.period_ns).velocity
    return Handover(
        tick=-(-begin_ns // old.period_ns) + 1,
        begin_ns=begin_ns,
        end_ns=end_ns,
        gap=gap,
        overlap=int(due_ns[row]) <= end_ns,
        row=row,
        lead_in=space.plus(old.sample(np.array([int(due_ns[row]) - step_ns]))[0], gap),
        cosine=_cosine(space, old_velocity, new_velocity),
    )


def _cosine(space: Space, a: Array, b: Array) -> float:
    unit = np.where(space.smooth & np.isfinite(space.velocity), 1.0 / space.velocity, 0.0)
    a, b = a * unit, b * unit
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths > 1e-9 else float("nan")
