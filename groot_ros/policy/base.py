"""The seam between observations and actions: every policy, local, remote or replayed, is a ``Policy``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from groot_ros.embodiment.control_schema import PrefixSchedule
from groot_ros.observation.types import Observation


def due_ns(stamp_ns: int, dt_s: float, rows: int) -> NDArray[np.int64]:
    """When the rows of a chunk are due, int64 [rows]: row ``i`` at ``stamp_ns + (i + 1) * dt_s``."""
    return stamp_ns + np.rint(np.arange(1, rows + 1) * dt_s * 1e9).astype(np.int64)


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
        frozen: how many rows at the start are the prefix's own numbers, put back after decoding; 0 without a prefix.
        usual: False when the inference did what later ones do not (the first one with a prompt of its length, or after
            a CUDA graph was captured), or waited for a run that kept the device warm: its time is in no statistics, and
            no later one is expected to take as long.
    """

    stamp_ns: int
    dt_s: float
    actions: Mapping[str, NDArray[np.float32]]
    instruction: str
    seed: int
    timings_s: Mapping[str, float] = field(default_factory=dict)
    frozen: int = 0
    usual: bool = True


@dataclass(frozen=True)
class Prefix:
    """What will be executed of the chunk before, at the rows of the chunk to come.

    Attributes:
        actions: every action key of the model -> float64 [H, D], H rows as a chunk has, in physical, absolute units of
            the model and written as the model writes them (the same sign of a quaternion, the same turn of an angle).
            Rows from ``length`` on are copies of row ``length - 1``, never zeros, and have no weight.
        length: rows with a known target, 1..H.
        frozen: rows that will have been executed before the new chunk can take over, 0..length.
        native: N1.7's in-painting instead of guidance.
        schedule: how guidance fades over the rows that are not frozen.

    Raises:
        ValueError: arrays that are not [H, D] with one H, or counts out of range.
    """

    actions: Mapping[str, NDArray[np.float64]]
    length: int
    frozen: int
    native: bool = False
    schedule: PrefixSchedule = "cosine"

    def __post_init__(self) -> None:
        shapes = {key: np.shape(value) for key, value in self.actions.items()}
        if any(len(shape) != 2 for shape in shapes.values()) or len({shape[0] for shape in shapes.values()}) != 1:
            raise ValueError(f"prefix.actions: expected [rows, numbers] per key, the rows of all equal; found {shapes}")
        if not 1 <= self.length <= self.horizon or not 0 <= self.frozen <= self.length:
            raise ValueError(
                f"prefix: expected 1 <= length <= {self.horizon} rows and 0 <= frozen <= length, "
                f"found length {self.length}, frozen {self.frozen}"
            )

    @property
    def horizon(self) -> int:
        """Rows of every array (H)."""
        return len(next(iter(self.actions.values())))


class Policy(Protocol):
    """A function from an observation to an action chunk. Not thread-safe: one caller at a time."""

    def act(self, observation: Observation, *, seed: int | None = None, prefix: Prefix | None = None) -> Chunk:
        """Return the chunk for ``observation``.

        Args:
            seed: of the initial noise; None draws a fresh one and records it in the chunk.
            prefix: the chunk continues it, and its first ``prefix.frozen`` rows are the prefix's; None: from nothing.
        """
        ...


@runtime_checkable
class TwoStepPolicy(Policy, Protocol):
    """A policy whose work on the host can be done before its model is free: ``act`` is one after the other."""

    def encode(self, observation: Observation) -> Any:
        """What the model needs of ``observation``, on the host; from any thread, also while an inference runs."""
        ...

    def act_encoded(self, encoded: Any, *, seed: int | None = None, prefix: Prefix | None = None) -> Chunk:
        """As ``act``, for what ``encode`` returned."""
        ...
