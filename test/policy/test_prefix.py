"""From a prefix to what a sampler takes, and the frozen rows back."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from groot_ros.model.action_head import velocity_strength
from groot_ros.model.guidance import cosine_weights, exponential_weights, integrate
from groot_ros.policy.base import Prefix
from groot_ros.policy.prefix import guidance_of, native_options, native_start, restore

HORIZON, LENGTH, FROZEN = 8, 6, 2
ROWS = np.random.default_rng(0).uniform(-1, 1, (HORIZON, 3)).astype(np.float32)


def prefix(**changes: Any) -> Prefix:
    actions = {"arm": 0.1 + np.arange(2.0 * HORIZON).reshape(HORIZON, 2), "gripper": np.full((HORIZON, 1), 1 / 3)}
    return Prefix(**{"actions": actions, "length": LENGTH, "frozen": FROZEN, **changes})


BAD_PREFIXES = {
    "no keys": ({"actions": {}}, "per key"),
    "a vector": ({"actions": {"arm": np.zeros(8)}}, r"'arm': \(8,\)"),
    "two horizons": ({"actions": {"arm": np.zeros((8, 2)), "gripper": np.zeros((7, 1))}}, r"\(7, 1\)"),
    "nothing known": ({"length": 0, "frozen": 0}, "found length 0"),
    "more than there is": ({"length": 9}, "length <= 8 rows .* found length 9"),
    "frozen and unknown": ({"frozen": 7}, "frozen 7"),
    "negative": ({"frozen": -1}, "frozen -1"),
}


@pytest.mark.parametrize("case", BAD_PREFIXES)
def test_a_prefix_that_contradicts_itself_is_refused(case: str) -> None:
    change, expected = BAD_PREFIXES[case]
    with pytest.raises(ValueError, match=f"prefix.*{expected}"):
        prefix(**change)


@pytest.mark.parametrize(("schedule", "weights"), [("cosine", cosine_weights), ("exponential", exponential_weights)])
def test_padding_has_no_weight_and_known_rows_those_of_the_schedule(schedule: str, weights: Any) -> None:
    guidance = guidance_of(ROWS, prefix(schedule=schedule), 10, 5)
    assert guidance.previous.shape == guidance.weights.shape == (10, 5)
    assert guidance.previous.dtype == guidance.weights.dtype == np.float32
    np.testing.assert_array_equal(guidance.previous[:HORIZON, :3], ROWS)
    expected = np.repeat(weights(HORIZON, FROZEN, LENGTH)[:, None], 3, axis=1)
    np.testing.assert_array_equal(guidance.weights[:HORIZON, :3], expected)
    assert not guidance.weights[:, 3:].any() and not guidance.weights[LENGTH:].any()
    assert guidance.beta is None and guidance_of(ROWS, prefix(), 10, 5, beta=2.0).beta == 2.0


def test_rows_behind_the_known_ones_do_not_reach_the_chunk() -> None:
    noise = np.random.default_rng(1).normal(size=(HORIZON, 4))
    other = ROWS.copy()
    other[LENGTH:] = 100.0

    def velocity(actions: np.ndarray, i: int) -> np.ndarray:
        return -actions

    results = [
        integrate(velocity, noise, 4, guidance=guidance_of(rows, prefix(), HORIZON, 4)) for rows in (ROWS, other)
    ]
    np.testing.assert_array_equal(*results)


def test_in_painting_is_given_the_known_rows_only() -> None:
    options = native_options(ROWS, prefix(), 5)
    assert options.prev_action.shape == (1, LENGTH, 5) and options.prev_action.dtype == torch.float32
    assert (options.action_horizon, options.overlap_steps, options.frozen_steps) == (LENGTH, LENGTH, FROZEN)
    assert options.ramp_rate == 6.0
    np.testing.assert_array_equal(options.prev_action[0, :, :3].numpy(), ROWS[:LENGTH])
    assert not options.prev_action[0, :, 3:].any()


def test_in_painting_in_numpy_starts_where_the_network_does() -> None:
    noise = np.random.default_rng(1).normal(size=(HORIZON, 5))
    kept = noise.copy()
    start, strength = native_start(noise, ROWS, prefix())
    np.testing.assert_array_equal(noise, kept)
    np.testing.assert_array_equal(start[:LENGTH], native_options(ROWS, prefix(), 5).prev_action[0].numpy())
    np.testing.assert_array_equal(start[LENGTH:], noise[LENGTH:])
    np.testing.assert_array_equal(strength[:, 0], velocity_strength(HORIZON, LENGTH, FROZEN, 6.0).numpy())
    result = integrate(lambda actions, i: 1.0 - actions, start, 4, strength=strength)
    np.testing.assert_array_equal(result[:FROZEN, :3], ROWS[:FROZEN])


@pytest.mark.parametrize("rows", [ROWS[:7], ROWS[0], np.zeros((HORIZON, 6), np.float32)])
def test_rows_of_other_sizes_are_refused(rows: np.ndarray) -> None:
    for make in (
        lambda: guidance_of(rows, prefix(), HORIZON, 5),
        lambda: native_options(rows, prefix(), 5),
        lambda: native_start(np.zeros((HORIZON, 5)), rows, prefix()),
    ):
        with pytest.raises(ValueError, match=rf"expected {HORIZON} normalised rows.*found shape"):
            make()


def test_a_network_with_fewer_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="the network's 7 rows of 5 numbers"):
        guidance_of(ROWS, prefix(), 7, 5)


def test_frozen_rows_come_back_to_the_bit_and_the_others_stay() -> None:
    given = prefix()
    chunk = {key: np.full(value.shape, 7.0, dtype=np.float32) for key, value in given.actions.items()}
    restored = restore(chunk, given)
    for key, value in restored.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value[:FROZEN], given.actions[key][:FROZEN].astype(np.float32))
        assert (value[FROZEN:] == 7).all() and (chunk[key] == 7).all()


def test_a_chunk_of_other_keys_is_not_mixed_with_the_prefix() -> None:
    given = prefix()
    with pytest.raises(ValueError, match="prefix: expected actions of the shapes"):
        restore({"arm": given.actions["arm"]}, given)
    with pytest.raises(ValueError, match=r"'gripper': \(8, 1\)"):
        restore({"arm": given.actions["arm"], "gripper": np.zeros((7, 1))}, given)


def test_guidance_needs_no_torch() -> None:
    """Nodes import the prefix and must not load torch."""
    code = "import sys, groot_ros.policy.prefix, groot_ros.policy.local; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
