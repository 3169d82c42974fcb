"""A LocalPolicy for a child process whose engine fails in the way that the observation's instruction says."""

from __future__ import annotations

from typing import Any

import torch

from groot_ros.observation.types import Observation
from groot_ros.policy.base import Chunk, Prefix
from groot_ros.policy.local import LocalPolicy

ERRORS = {
    "illegal": RuntimeError("CUDA error: an illegal memory access was encountered"),
    "memory": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
}


class Failing(LocalPolicy):
    """``illegal NUMBER`` and ``memory NUMBER``: so many times in a row the engine's program raises."""

    def act(self, observation: Observation, *, seed: int | None = None, prefix: Prefix | None = None) -> Chunk:
        engine: Any = self.engine
        what, _, times = observation.instruction.partition(" ")
        program, left = engine._run, [int(times) if what in ERRORS else 0]

        def run(*arguments: Any) -> torch.Tensor:
            if left[0]:
                left[0] -= 1
                raise ERRORS[what]
            return program(*arguments)

        engine._run = engine.program = run
        try:
            return super().act(observation, seed=seed, prefix=prefix)
        finally:
            engine._run = engine.program = program


def make(**arguments: Any) -> Failing:
    """The factory."""
    return Failing(**arguments)
