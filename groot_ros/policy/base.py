"""The seam between observations and actions: every policy, local, remote or replayed, is a ``Policy``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from groot_ros.observation.types import Observation


@dataclass(frozen=True)
class Chunk:
    """What the model said for one observation, in physical, absolute units of the model's action keys.

    Attributes:
        stamp_ns: stamp of the observation; point ``i`` is due at ``stamp_ns + (i + 1) * dt_s``.
        dt_s: seconds between points.
        actions: key -> float32 [H, D].
        instruction: the text the model was given.
        seed: seed of the initial noise.
        timings_s: stage -> seconds (``processing``, ``model``, ``decode``), in order of execution.
    """

    stamp_ns: int
    dt_s: float
    actions: Mapping[str, NDArray[np.float32]]
    instruction: str
    seed: int
    timings_s: Mapping[str, float] = field(default_factory=dict)


class Policy(Protocol):
    """A function from an observation to an action chunk. Not thread-safe: one caller at a time."""

    def act(self, observation: Observation, *, seed: int | None = None) -> Chunk:
        """Return the chunk for ``observation``; ``seed`` None draws a fresh one and records it in the chunk."""
        ...
