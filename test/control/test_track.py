"""What is told tick by tick: held at its ends, sampled between its rows, spliced."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from control_rig import PERIOD_NS, Bench, column, home, mixed
from hypothesis import given
from hypothesis import strategies as st

from groot_ros.control import rotation
from groot_ros.control.space import Space
from groot_ros.control.track import Track, resting, spliced

BENCH = Bench(mixed())
SPACE: Space = BENCH.space
FIRST = 100


def ramp(rows: int = 11, first: int = FIRST) -> Track:
    """``a`` goes 0.01 per tick, the tool turns, the base drives, the mode switches at its row 5."""
    values = np.repeat(home(SPACE)[None], rows, axis=0)
    values[:, column(SPACE, "a")] = 0.01 * np.arange(rows)
    values[:, column(SPACE, "base.linear.x")] = 0.3
    values[:, column(SPACE, "mode.data.0")] = (np.arange(rows) >= 5).astype(float)
    velocities = np.zeros((rows, SPACE.tangent_count))
    velocities[:, 0] = 0.5
    turns = np.zeros((rows, 3))
    turns[:, 2] = 0.02 * np.arange(rows)
    values[:, 7:11] = rotation.exp(turns)
    velocities[:, SPACE.rotations[0][1] + 2] = 1.0
    velocities[-1] = 0.0
    return Track(SPACE, PERIOD_NS, first, values, velocities, first + rows - 3)


@pytest.mark.parametrize(("tick", "row"), [(0, 0), (99, 0), (100, 0), (104, 4), (109, 9)])
def test_motion_is_the_row_of_the_tick(tick: int, row: int) -> None:
    track = ramp()
    np.testing.assert_array_equal(track.motion(tick).values, track.values[row])
    np.testing.assert_array_equal(track.motion(tick).velocity, track.velocities[row])


@pytest.mark.parametrize("tick", [110, 111, 10_000])
def test_at_the_end_it_rests(tick: int) -> None:
    motion = ramp().motion(tick)
    assert motion.values[column(SPACE, "a")] == pytest.approx(0.1) and not motion.velocity.any()
    assert motion.values[column(SPACE, "base.linear.x")] == 0.0


def test_rows_outside_are_held_at_rest() -> None:
    track = ramp()
    values, velocities = track.rows(97, 113)
    assert len(values) == len(velocities) == 17
    np.testing.assert_array_equal(values[:3], np.repeat(track.values[:1], 3, axis=0))
    np.testing.assert_array_equal(values[-3:], np.repeat(track.values[-1:], 3, axis=0))
    assert not velocities[:3].any() and not velocities[-3:].any()
    np.testing.assert_array_equal(velocities[3:13], track.velocities[:10])
    assert len(track.rows(105, 104)[0]) == 0


@given(st.lists(st.integers(-5 * PERIOD_NS, 15 * PERIOD_NS), min_size=1, max_size=8))
def test_samples_lie_between_the_rows_and_switches_never_do(offsets: list[int]) -> None:
    track = ramp()
    track = replace(
        track, velocities=np.repeat(track.velocities[:1], len(track.velocities), axis=0)
    )  # no rest at the end
    times = np.sort(np.array(offsets, dtype=np.int64)) + FIRST * PERIOD_NS
    sampled = track.sample(times)
    expected = np.clip((times / PERIOD_NS) - FIRST, 0.0, 10.0)
    np.testing.assert_allclose(sampled[:, column(SPACE, "a")], 0.01 * expected, atol=1e-9)
    on = np.clip(times // PERIOD_NS, FIRST, FIRST + 10) >= FIRST + 5  # as of the last tick
    np.testing.assert_array_equal(sampled[:, column(SPACE, "mode.data.0")], on)
    np.testing.assert_allclose(rotation.log(sampled[:, 7:11])[:, 2], 0.02 * expected, atol=1e-9)


def test_a_splice_keeps_the_past_and_ends_with_what_is_given() -> None:
    track = ramp()
    new = np.repeat(home(SPACE)[None], 4, axis=0)
    result = spliced(track, 104, new, np.zeros((4, SPACE.tangent_count)), 106, history=50)
    assert (result.first_tick, result.last_tick, result.planned_end) == (100, 108, 106)
    np.testing.assert_array_equal(result.values[:5], track.values[:5])
    np.testing.assert_array_equal(result.values[5:], new)
    short = spliced(track, 104, new, np.zeros((4, SPACE.tangent_count)), 106, history=2)
    assert short.first_tick == 103
    np.testing.assert_array_equal(short.motion(104).values, track.motion(104).values)
    late = spliced(track, 120, new, np.zeros((4, SPACE.tangent_count)), 124, history=5)
    assert (late.first_tick, late.last_tick) == (116, 124)
    assert late.motion(120).values[column(SPACE, "a")] == pytest.approx(0.1) and not late.motion(120).velocity.any()
    early = spliced(track, 90, new, np.zeros((4, SPACE.tangent_count)), 94, history=5)
    assert (early.first_tick, early.last_tick) == (90, 94)
    np.testing.assert_array_equal(early.motion(90).values, track.values[0])
    assert not early.motion(90).velocity.any()


def test_resting_is_one_row() -> None:
    track = resting(SPACE, PERIOD_NS, 7, home(SPACE))
    assert (track.first_tick, track.last_tick, track.planned_end) == (7, 7, 7)
    np.testing.assert_array_equal(track.sample(np.array([0, 10**9])), np.stack([home(SPACE)] * 2))
