"""What a scripted policy says: one motion for all time, so that a command can be compared with what is due then."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groot_ros.embodiment.schema import Embodiment
from groot_ros.observation.types import Observation
from groot_ros.policy.base import Chunk, Prefix, due_ns

DISAGREE = "disagree"  # in the instruction: chunks lie to one side of the motion and the other, in turns
OFFSET = 0.08


def motion(times_ns: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Key -> [N, D] in the model's units at ROS times [N]."""
    # From the same second in both processes; double precision has no nanoseconds of 1.7e18.
    phase = np.pi * ((times_ns % (1000 * 10**9)) * 1e-9)  # half a turn per second, 500 of them
    swing = 0.2 * np.sin(phase)
    nothing = np.zeros_like(swing)
    return {
        "arm": np.stack([swing, 0.2 * np.cos(phase)], axis=1),
        "waist": swing[:, None],
        "drive": np.stack([0.5 + swing, -2.0 * swing], axis=1),
        "place": np.stack([0.1 + 0.5 * swing, nothing, 0.3 - 0.5 * swing], axis=1),
        "turn": np.stack([nothing, 0.1 + nothing, 2.0 * swing], axis=1),
        "valve": (np.sin(phase / 2) > 0).astype(float)[:, None],
        "hand": 0.5 + swing[:, None],
    }


class Scripted:
    """Says ``motion``, whatever it sees."""

    def __init__(self, embodiment: Embodiment) -> None:
        self.device = "cpu"
        self.processor = SimpleNamespace(
            generation="n1d7",
            modality={"state": SimpleNamespace(modality_keys=list(embodiment.state))},
            state_limits=lambda key: (np.full(3, -1.0), np.full(3, 1.0)),
        )
        self._embodiment, self._count = embodiment, 0

    def warm_up(self) -> float:
        return 0.01

    def check_instruction(self, text: str) -> None:
        if "refused" in text:
            raise ValueError(f"instruction: expected another, found {text!r}")

    def act(self, observation: Observation, *, seed: int | None = None, prefix: Prefix | None = None) -> Chunk:
        dt_s = self._embodiment.dt_s
        actions = motion(due_ns(observation.stamp_ns, dt_s, self._embodiment.horizon))
        self._count += 1
        if DISAGREE in observation.instruction:
            side = OFFSET if self._count % 2 else -OFFSET
            actions = {key: rows + side * (key in ("arm", "waist", "place")) for key, rows in actions.items()}
        said = {key: rows.astype(np.float32) for key, rows in actions.items()}
        return Chunk(observation.stamp_ns, dt_s, said, observation.instruction, seed or 0, {"model": 1e-3})


def make(**arguments: Any) -> Scripted:
    """The factory."""
    return Scripted(arguments["embodiment"])


if __name__ == "__main__":
    from groot_ros.nodes.policy import main

    main(policy="scripted_motion:make")
