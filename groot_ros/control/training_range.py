"""Is the robot where the training data has been? By the checkpoint's own statistics, before anything is inferred."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from groot_ros.embodiment.ranges import position_limits
from groot_ros.embodiment.schema import Embodiment, StateKey
from groot_ros.embodiment.vocabulary import orientation_leaf
from groot_ros.observation.types import Observation, Reason, Refusal

Array = NDArray[np.float64]

# A number that hardly moved in training may still be off by this share of its joint's limits.
_LEAST = 0.05


class TrainingRange:
    """Compares states with the ranges of the training data, in model units.

    Orientation numbers (a quaternion and its negative are one rotation) and constants are left out.

    Args:
        embodiment: the robot; ``gate.training_slack`` says how far beyond a range is fine.
        ranges: state key -> lowest and highest training value, float64 [D] each.
    """

    def __init__(
        self, embodiment: Embodiment, ranges: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
    ) -> None:
        self._allowed: dict[str, tuple[StateKey, NDArray[np.float64], NDArray[np.float64]]] = {}
        for key, spec in embodiment.state.items():
            if spec.constant is not None or key not in ranges:
                continue
            low, high = ranges[key]
            slack = np.maximum(embodiment.gate.training_slack * (high - low), _LEAST * _widths(embodiment, spec))
            # By its path: a joint may be called wrist_roll.
            free = np.array([spec.joints is None and orientation_leaf(name) is not None for name in spec.names])
            self._allowed[key] = (
                spec,
                np.where(free, -np.inf, low - slack),
                np.where(free, np.inf, high + slack),
            )

    def refusal(self, observation: Observation) -> Refusal | None:
        """The first number that is out of range, with what to check; None: all are inside."""
        for key, (spec, low, high) in self._allowed.items():
            rows = np.asarray(observation.state[key], dtype=np.float64)
            bad = np.argwhere((rows < low) | (rows > high))
            if len(bad):
                row, column = (int(index) for index in bad[0])
                text = (
                    f"state.{key}: expected {spec.names[column]} within {low[column]:.4g} .. {high[column]:.4g} "
                    f"{spec.unit} (training data and slack), found {rows[row, column]:.4g}: move the robot to where it "
                    "was trained, or check unit, sign and offset of this key"
                )
                return Refusal(Reason.OUT_OF_TRAINING_RANGE, spec.stream or key, text)
        return None


def _widths(embodiment: Embodiment, spec: StateKey) -> Array:
    """Width of each joint's limits in model units; 0 where there are none."""
    limits = position_limits(embodiment, spec)
    return limits[1] - limits[0] if limits is not None else np.zeros(len(spec.names))
