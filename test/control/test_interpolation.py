"""Cubic columns and orientations are C1 through their rows, lines are straight, switches do not smear."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import CubicHermiteSpline

from groot_ros.control import rotation
from groot_ros.control.interpolation import resample
from groot_ros.control.space import Space

T0 = 1_700_000_000_000_000_000
MS = 1_000_000
SEEDS = st.integers(0, 2**32 - 1)


def lines(*kinds: str) -> Space:
    count = len(kinds)
    return Space(
        names=tuple(f"j{index}" for index in range(count)),
        rotations=(),
        lower=np.full(count, -np.inf),
        upper=np.full(count, np.inf),
        velocity=np.full(count, np.inf),
        acceleration=np.full(count, np.inf),
        interpolation=kinds,
        rests_at_zero=np.zeros(count, dtype=bool),
    )


def pose(kind: str = "cubic") -> Space:
    """An orientation between two numbers."""
    return Space(
        names=("x", "rotation.x", "rotation.y", "rotation.z", "grip"),
        rotations=((1, 1),),
        lower=np.full(5, -np.inf),
        upper=np.full(5, np.inf),
        velocity=np.full(5, np.inf),
        acceleration=np.full(5, np.inf),
        interpolation=("cubic", kind, kind, kind, "step"),
        rests_at_zero=np.zeros(5, dtype=bool),
    )


def uneven_times(rng: np.random.Generator, rows: int) -> np.ndarray:
    return T0 + np.cumsum(rng.integers(5 * MS, 80 * MS, rows))


def pose_rows(rng: np.random.Generator, rows: int) -> np.ndarray:
    values = rng.normal(size=(rows, 6))
    turned = [rotation.exp(rng.normal(size=3))]
    for _ in range(rows - 1):
        turned.append(rotation.multiply(rotation.exp(rng.normal(size=3) * 0.6), turned[-1]))
    values[:, 1:5] = np.array(turned) * rng.choice([-1.0, 1.0], (rows, 1))  # q and -q are the same orientation
    return values


@given(SEEDS)
def test_cubic_columns_are_the_hermite_spline_with_central_differences(seed: int) -> None:
    rng = np.random.default_rng(seed)
    due, values = uneven_times(rng, 7), rng.normal(size=(7, 2))
    at = rng.integers(due[0], due[-1], 50)
    found, velocities = resample(lines("cubic", "cubic"), due, values, at)
    time = (due - T0) * 1e-9
    knots = np.gradient(values, time, axis=0)  # second order on uneven steps, one-sided at the ends
    spline = CubicHermiteSpline(time, values, knots)
    np.testing.assert_allclose(found, spline((at - T0) * 1e-9), atol=1e-10)
    np.testing.assert_allclose(velocities, spline((at - T0) * 1e-9, 1), atol=1e-7)


def test_a_parabola_is_kept_between_its_inner_rows() -> None:
    due = T0 + np.array([0, 30, 100, 140, 200]) * MS
    at = T0 + np.arange(30, 141) * MS
    time, dense = (due - T0) * 1e-9, (at - T0) * 1e-9
    found, velocities = resample(lines("cubic"), due, (3.0 * time**2 - time)[:, None], at)
    np.testing.assert_allclose(found[:, 0], 3.0 * dense**2 - dense, atol=1e-12)
    np.testing.assert_allclose(velocities[:, 0], 6.0 * dense - 1.0, atol=1e-10)


def test_linear_and_step_next_to_a_cubic() -> None:
    due = T0 + np.array([40, 80, 120]) * MS
    values = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 3.0, 0.0]])
    at = T0 + np.array([40, 41, 60, 80, 81, 100, 120]) * MS
    found, velocities = resample(lines("cubic", "linear", "step"), due, values, at)
    np.testing.assert_allclose(found[:, 1], [0.0, 0.025, 0.5, 1.0, 1.05, 2.0, 3.0], atol=1e-12)
    np.testing.assert_allclose(velocities[:, 1], [25.0, 25.0, 25.0, 50.0, 50.0, 50.0, 50.0])
    np.testing.assert_array_equal(found[:, 2], [0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(velocities[:, 2], 0.0)
    assert found[3, 0] == 1.0 and velocities[3, 0] == 0.0


@given(SEEDS)
def test_a_switch_never_takes_a_value_that_no_row_has(seed: int) -> None:
    rng = np.random.default_rng(seed)
    due, values = uneven_times(rng, 6), rng.normal(size=(6, 1))
    at = np.concatenate([due, rng.integers(due[0] - MS, due[-1] + MS, 60)])
    found, velocities = resample(lines("step"), due, values, at)
    expected = [next((values[i, 0] for i in range(6) if time <= due[i]), values[-1, 0]) for time in at]
    np.testing.assert_array_equal(found[:, 0], expected)
    np.testing.assert_array_equal(velocities, 0.0)


@pytest.mark.parametrize("space", [lines("cubic", "linear", "step"), pose(), pose("linear")])
def test_rows_are_met_exactly_and_held_outside(space: Space) -> None:
    rng = np.random.default_rng(5)
    due = uneven_times(rng, 6)
    values = pose_rows(rng, 6) if space.rotations else rng.normal(size=(6, 3))
    found, _ = resample(space, due, values, due)
    sign = np.ones(space.value_count)
    for row in range(6):
        if space.rotations:
            sign[1:5] = np.sign(np.dot(found[row, 1:5], values[row, 1:5]))
        np.testing.assert_array_equal(found[row], values[row] * sign)
    held, velocities = resample(space, due, values, np.array([0, due[0] - 1, due[-1] + 1, due[-1] + 10**12]))
    np.testing.assert_array_equal(held, found[[0, 0, -1, -1]])
    np.testing.assert_array_equal(velocities, 0.0)


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_an_orientation_is_c1_and_its_velocity_the_angular_velocity(seed: int) -> None:
    rng = np.random.default_rng(seed)
    space, due, values = pose(), uneven_times(rng, 6), pose_rows(rng, 6)
    at = np.concatenate([due[1:-1], rng.integers(due[0] + MS, due[-1] - MS, 40)])
    half = 2_000  # ns
    _, velocities = resample(space, due, values, at)
    before, early = resample(space, due, values, at - half)
    after, late = resample(space, due, values, at + half)
    numeric = space.minus(after, before) / (2e-9 * half)
    scale = 1.0 + np.abs(velocities).max()
    np.testing.assert_allclose(numeric[:, :4], velocities[:, :4], atol=2e-3 * scale)
    # also across the rows the velocity is continuous: it changes by an acceleration times 4 microseconds
    np.testing.assert_allclose(late[:, :4], early[:, :4], atol=5e-3 * scale)
    np.testing.assert_allclose(np.linalg.norm(after[:, 1:5], axis=1), 1.0, atol=1e-12)
    ordered, _ = resample(space, due, values, np.sort(at))
    assert np.all(np.einsum("ti,ti->t", ordered[1:, 1:5], ordered[:-1, 1:5]) > 0.0)


@pytest.mark.parametrize("kind", ["cubic", "linear"])
def test_a_steady_turn_stays_steady(kind: str) -> None:
    axis, first = np.array([0.6, 0.0, 0.8]), rotation.exp(np.array([0.3, -1.0, 0.2]))
    due = T0 + np.array([0, 40, 100, 140]) * MS
    angles = 9.0 * (due - T0) * 1e-9
    values = np.zeros((4, 6))
    values[:, 1:5] = rotation.multiply(rotation.exp(angles[:, None] * axis), first)
    at = T0 + np.arange(0, 140, 7) * MS
    found, velocities = resample(pose(kind), due, values, at)
    expected = rotation.multiply(rotation.exp(9.0 * (at - T0)[:, None] * 1e-9 * axis), first)
    np.testing.assert_allclose(found[:, 1:5], expected, atol=1e-12)
    np.testing.assert_allclose(velocities[:, 1:4], np.tile(9.0 * axis, (len(at), 1)), atol=1e-9)


def test_one_row_is_held() -> None:
    found, velocities = resample(lines("cubic"), np.array([T0]), np.array([[0.5]]), np.array([T0 - 1, T0, T0 + 1]))
    np.testing.assert_array_equal(found, [[0.5]] * 3)
    np.testing.assert_array_equal(velocities, [[0.0]] * 3)


@pytest.mark.parametrize(
    ("due", "values", "expected"),
    [
        ([], np.zeros((0, 1)), r"due_ns: expected \[N\] with N >= 1, found shape \(0,\)"),
        ([1, 2], np.zeros((2, 2)), r"values: expected shape \(2, 1\), found \(2, 2\)"),
        ([1, 3, 3], np.zeros((3, 1)), "row 2 is due 0 ns after row 1"),
        ([1, 2], np.array([[0.0], [np.nan]]), r"values\[1, 0\] is nan"),
    ],
)
def test_bad_input_is_refused_by_name(due: list[int], values: np.ndarray, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        resample(lines("cubic"), np.array(due, dtype=np.int64), values, np.array([1], dtype=np.int64))
