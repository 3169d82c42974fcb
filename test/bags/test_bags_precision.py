"""Observations of a bag for the precision gate."""

from __future__ import annotations

from pathlib import Path

import bag_maker as maker
import numpy as np
import pytest

from groot_ros.observation.types import Observation
from groot_ros.policy.base import Chunk, Prefix
from groot_ros.policy.precision_gate import PrecisionError
from groot_ros.training.precision_command import bag_observations


class Still:
    """Answers with zeros."""

    def act(self, observation: Observation, *, seed: int | None = None, prefix: Prefix | None = None) -> Chunk:
        rows = np.zeros((16, 6), dtype=np.float32)
        actions = {"single_arm": rows[:, :5], "gripper": rows[:, 5:]}
        return Chunk(observation.stamp_ns, 1 / 30, actions, observation.instruction, seed or 0)


def test_observations_are_spread_over_the_bag(tmp_path: Path) -> None:
    bag = maker.write(tmp_path / "bag", maker.episode(4.0))
    seen = bag_observations(bag, maker.robot(), Still(), 16, "pick it up")
    assert 14 <= len(seen) <= 16
    times = np.array([observation.stamp_ns - maker.T0 for observation in seen]) / maker.S
    assert times[0] < 0.5 and times[-1] > 3.5 and np.diff(times).min() > 0.15
    assert {observation.instruction for observation in seen} == {"pick it up"}


def test_a_bag_without_observations_says_why(tmp_path: Path) -> None:
    """The cameras fall silent before the first tick."""
    messages, seen = [], set()
    for item in maker.episode(4.0):
        if not item.topic.endswith("image_raw") or item.topic not in seen:
            messages.append(item)
        seen.add(item.topic)
    bag = maker.write(tmp_path / "bag", messages)
    with pytest.raises(PrecisionError, match=r"bag: expected observations, found none: .*image_raw"):
        bag_observations(bag, maker.robot(), Still(), 16, "pick it up")
