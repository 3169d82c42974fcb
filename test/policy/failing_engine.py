"""A LocalPolicy for a child process whose engine fails in the way that the observation's instruction says."""

from __future__ import annotations

from typing import Any

import torch

from groot_ros.observation.types import Observation
from groot_ros.policy.base import Chunk, Prefix
from groot_ros.policy.local import LocalPolicy

WARMED = "kept warm"
ERRORS = {
    "illegal": RuntimeError("CUDA error: an illegal memory access was encountered"),
    "memory": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
}


class Failing(LocalPolicy):
    """``illegal NUMBER`` and ``memory NUMBER``: at the first chunk with it the program raises, so many times."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.keep_warm_s = arguments.get("keep_warm_s", 0.0)  # as on a GPU
        self._done: set[str] = set()

    def act(self, observation: Observation, *, seed: int | None = None, prefix: Prefix | None = None) -> Chunk:
        engine: Any = self.engine
        what, *words = observation.instruction.split()
        new = what in ERRORS and observation.instruction not in self._done
        self._done.add(observation.instruction)
        program, left = engine._run, [int(words[0]) if new else 0]

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

    def keep_warm(self) -> None:
        print(WARMED)
        super().keep_warm()


def make(*, torch_threads: int = 0, **arguments: Any) -> Failing:
    """The factory."""
    return Failing(**arguments)


if __name__ == "__main__":
    from groot_ros.nodes.policy import main

    main(policy="failing_engine:make")
