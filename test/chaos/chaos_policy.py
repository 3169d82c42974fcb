"""The real tiny checkpoint, in the inference process, with a file that says how it has to misbehave."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from groot_ros.observation.types import Observation
from groot_ros.policy.base import Chunk, Prefix
from groot_ros.policy.child import Hosted, local_policy

ORDER = "CHAOS_ORDER"  # environment variable: path of the file
WILD = 1e3  # far outside every limit
MODEL_SHARE = 0.3  # of what an untrained network says, beside a swing that keeps everything moving
AMPLITUDE = {"arm": 0.6, "gripper": 0.3, "base": 0.3}
MIDDLE = {"arm": 0.0, "gripper": 0.5, "base": 0.0}
SWING_HZ = 0.2


class Naughty:
    """LocalPolicy, unless the file says ``raise``, ``nan``, ``hang``, ``slow SECONDS``, ``wild`` or ``far``."""

    def __init__(self, good: Hosted, order: Path) -> None:
        self._good, self._order = good, order
        self._rng = np.random.default_rng(0)
        self.device, self.processor = good.device, good.processor
        self.warm_up, self.check_instruction = good.warm_up, good.check_instruction

    def act(self, observation: Observation, *, seed: int | None = None, prefix: Prefix | None = None) -> Chunk:
        """What the model says, or what the file says."""
        order, _, argument = self._order.read_text().partition(" ")
        if order == "raise":
            raise RuntimeError("CUDA error: device-side assert triggered (not really)")
        while self._order.read_text().startswith("hang"):
            time.sleep(0.01)
        if order == "slow":
            time.sleep(float(argument))
        chunk = self._good.act(observation, seed=seed, prefix=prefix)
        chunk = replace(chunk, actions={key: _swung(key, rows, chunk) for key, rows in chunk.actions.items()})
        if order in ("nan", "wild", "far"):
            chunk = replace(chunk, actions={key: self._spoilt(order, rows) for key, rows in chunk.actions.items()})
        return chunk

    def _spoilt(self, order: str, rows: np.ndarray) -> np.ndarray:
        rows = rows.copy()
        if order == "nan":
            rows[len(rows) // 2, 0] = np.nan
        elif order == "far":
            rows[:] = WILD
        else:
            rows[:] = self._rng.choice([-WILD, WILD], size=rows.shape)
        return rows


def _swung(key: str, rows: np.ndarray, chunk: Chunk) -> np.ndarray:
    """The model's rows around a slow swing over time; rows that are the prefix's stay."""
    due_s = chunk.stamp_ns % 10**12 * 1e-9 + chunk.dt_s * np.arange(1, len(rows) + 1)
    swing = np.sin(2 * np.pi * SWING_HZ * due_s[:, None] + np.arange(rows.shape[1]))
    moved = MIDDLE[key] + AMPLITUDE[key] * swing + MODEL_SHARE * (rows - MIDDLE[key])
    moved[: chunk.frozen] = rows[: chunk.frozen]
    return moved.astype(np.float32)


def make(**arguments: Any) -> Naughty:
    """The factory for ``PolicyNode(policy="chaos_policy:make")``."""
    return Naughty(local_policy(**arguments), Path(os.environ[ORDER]))
