"""Observations of a bag for the precision gate."""

from __future__ import annotations

from pathlib import Path

import bag_maker as maker
import numpy as np
import pytest
from numpy.typing import NDArray

from groot_ros.bags.replay import observations, replay
from groot_ros.observation.types import Observation
from groot_ros.policy.base import Chunk
from groot_ros.policy.precision_gate import PrecisionError
from groot_ros.training.precision_command import bag_observations


def times(seen: list[Observation]) -> NDArray[np.float64]:
    return np.array([observation.stamp_ns - maker.T0 for observation in seen]) / maker.S


def test_observations_are_spread_over_the_bag(tmp_path: Path) -> None:
    bag = maker.write(tmp_path / "bag", maker.episode(4.0))
    seen, others = bag_observations(bag, maker.robot(), "fp8_weights", 16, "pick it up")
    assert 14 <= len(seen) <= 16 and others == []
    assert times(seen)[0] < 0.5 and times(seen)[-1] > 3.5 and np.diff(times(seen)).min() > 0.15
    assert {observation.instruction for observation in seen} == {"pick it up"}


def test_for_fp8_they_are_of_two_halves(tmp_path: Path) -> None:
    bag = maker.write(tmp_path / "bag", maker.episode(4.0))
    judged, calibration = bag_observations(bag, maker.robot(), "fp8", 16, "go")
    assert 15 <= len(judged) == len(calibration) <= 16
    assert times(judged)[-1] + 0.15 < times(calibration)[0]


def test_they_are_what_a_replay_shows_a_policy(tmp_path: Path) -> None:
    bag = maker.write(tmp_path / "bag", maker.episode(2.0))
    shown: list[Observation] = []

    class Watching:
        def act(self, observation: Observation, *, seed: int | None = None) -> Chunk:
            shown.append(observation)
            rows = np.zeros((16, 6), dtype=np.float32)
            return Chunk(observation.stamp_ns, 1 / 30, {"single_arm": rows[:, :5], "gripper": rows[:, 5:]}, "go", 0)

    replay(bag, maker.robot(), Watching(), instruction="go", every_s=0.25)  # type: ignore[arg-type]
    found, refused = observations(bag, maker.robot(), instruction="go", every_s=0.25)
    assert refused == {} and len(found) == len(shown) > 5
    for one, other in zip(found, shown, strict=True):
        assert (one.stamp_ns, one.sample_stamps_ns) == (other.stamp_ns, other.sample_stamps_ns)
        for key, frames in other.video.items():
            np.testing.assert_array_equal(one.video[key], frames)


def test_a_bag_without_observations_says_why(tmp_path: Path) -> None:
    """The cameras fall silent before the first tick."""
    messages, seen = [], set()
    for item in maker.episode(4.0):
        if not item.topic.endswith("image_raw") or item.topic not in seen:
            messages.append(item)
        seen.add(item.topic)
    bag = maker.write(tmp_path / "bag", messages)
    with pytest.raises(PrecisionError, match=r"bag: expected observations, found none: .*image_raw"):
        bag_observations(bag, maker.robot(), "fp8_weights", 16, "pick it up")
