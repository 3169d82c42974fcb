"""What is shown of an episode, read and ready to be drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Span = tuple[int, int]  # first row, and the one after the last


@dataclass(frozen=True)
class Strip:
    """Pictures of one camera: their numbers, the pictures uint8 [H, W, 3] RGB, or why there are none."""

    camera: str
    indices: list[int]
    pictures: list[NDArray[np.uint8]]
    problem: str | None = None


@dataclass
class Curve:
    """One number over an episode: ``values`` by vector (state, action), float64 [rows]."""

    name: str
    unit: str = ""
    values: dict[str, NDArray[np.float64]] = field(default_factory=dict)


@dataclass(frozen=True)
class EpisodeView:
    """One episode.

    Attributes:
        marks: "intervention" and "flagged" -> rows; neither for data of other recorders.
        report: what our recorder noted, if it did.
    """

    index: int
    tasks: tuple[str, ...]
    fps: int
    rows: int
    strips: list[Strip]
    curves: list[Curve]
    marks: dict[str, list[Span]]
    report: dict[str, Any] | None

    @property
    def duration_s(self) -> float:
        """Length when played."""
        return self.rows / self.fps

    @property
    def title(self) -> str:
        """Number, task and length in words."""
        return f"episode {self.index} · {' / '.join(self.tasks)} · {self.duration_s:.1f} s, {self.rows} rows"


def spans(marked: NDArray[np.bool_]) -> list[Span]:
    """Runs of True in [rows]."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], marked.reshape(-1).astype(np.int8), [0]])))
    return [(int(first), int(end)) for first, end in edges.reshape(-1, 2)]
