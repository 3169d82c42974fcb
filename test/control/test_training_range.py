"""States outside what the checkpoint was trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from control_rig import mixed

from groot_ros.control.training_range import TrainingRange
from groot_ros.observation.types import Observation, Reason

RANGES = {
    "arm": (np.array([-0.2, 0.0]), np.array([0.2, 1.0])),
    "grip": (np.array([0.05]), np.array([0.05])),
    "wrist": (np.array([-10.0]), np.array([10.0])),
    "place": (np.zeros(3), np.full(3, 0.4)),
    "turn": (np.full(3, -0.1), np.full(3, 0.1)),
}


def seen(**state: list[float]) -> Observation:
    inside = {key: np.array([0.5 * (low + high)]) for key, (low, high) in RANGES.items()}
    rows = {**inside, **{key: np.atleast_2d(np.array(values)) for key, values in state.items()}}
    rows = {key: values.astype(np.float32) for key, values in rows.items()}
    return Observation(0, {}, rows, "go", {}, {})


@pytest.mark.parametrize(
    ("state", "named"),
    [
        ({}, None),
        ({"arm": [0.39, 0.5]}, None),  # half of the width 0.4 beyond 0.2, and no more
        ({"arm": [0.41, 0.5]}, "state.arm: expected a within -0.4 .. 0.4 rad"),
        ({"arm": [0.0, -0.51]}, "state.arm: expected b within -0.5 .. 1.5 rad"),
        ({"arm": [[0.0, 0.5], [0.0, 1.6]]}, "expected b"),  # any row of the history
        ({"place": [0.0, 0.0, 0.61]}, "state.place: expected pose.position.z within -0.2 .. 0.6 m"),
        ({"turn": [3.0, -3.0, 3.0]}, None),  # one orientation can be written in more than one way
        ({"grip": [0.054]}, None),  # stood still in training: 5 % of its limits
        ({"grip": [0.056]}, "state.grip: expected g within 0.045 .. 0.055 m"),
        ({"wrist": [19.9]}, None),
        ({"wrist": [20.1]}, "expected c within -20 .. 20 deg"),
    ],
)
def test_what_is_refused(state: dict[str, Any], named: str | None) -> None:
    refusal = TrainingRange(mixed(), RANGES).refusal(seen(**state))
    if named is None:
        assert refusal is None
    else:
        assert refusal is not None and refusal.reason is Reason.OUT_OF_TRAINING_RANGE and named in refusal.message
        assert refusal.source in ("joints", "tool") and "check unit" in refusal.message


def test_the_slack_is_the_yamls() -> None:
    wide = mixed(gate={"training_slack": 2.0})
    assert TrainingRange(wide, RANGES).refusal(seen(arm=[0.9, 0.5])) is None
    tight = mixed(gate={"training_slack": 0.0})
    # never less than 5 % of the joint's limits: 0.2 of 4 rad
    assert TrainingRange(tight, RANGES).refusal(seen(arm=[0.39, 0.5])) is None
    assert TrainingRange(tight, RANGES).refusal(seen(arm=[0.41, 0.5])) is not None


def test_keys_without_a_range_and_constants_are_not_compared() -> None:
    assert TrainingRange(mixed(), {}).refusal(seen(arm=[100.0, 100.0])) is None
    data = mixed().model_dump()
    data["state"]["flag"] = {"constant": [5.0]}
    robot = type(mixed()).model_validate(data)
    observation = seen()
    observation.state["flag"] = np.full((1, 1), 5.0, np.float32)
    assert TrainingRange(robot, {**RANGES, "flag": (np.zeros(1), np.ones(1))}).refusal(observation) is None
