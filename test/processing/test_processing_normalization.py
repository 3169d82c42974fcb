"""Scaling of one group: the rules one by one, and round trips."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from groot_ros.processing.codecs import SinCos
from groot_ros.processing.errors import ProcessorError
from groot_ros.processing.normalization import Bounds, Moments, bounds_from, moments_from, statistic

GROUP = {"min": [0, 1], "max": [4, 1], "mean": [1, 2], "std": [0.5, 0], "q01": [1, 1], "q99": [3, 1]}


def f32(*values: float) -> np.ndarray:
    return np.array([values], dtype=np.float32)


@pytest.mark.parametrize(
    ("percentiles", "value", "clip", "expected"),
    [
        (False, f32(1, 1), True, f32(-0.5, 0)),
        (False, f32(5, 7), True, f32(1, 0)),
        (False, f32(6, 7), False, f32(2, 0)),
        (True, f32(2.5, 1), True, f32(0.5, 0)),
        (True, f32(0, 1), True, f32(-1, 0)),
    ],
    ids=["inside", "clipped", "not clipped", "percentiles", "percentiles clipped"],
)
def test_bounds(percentiles: bool, value: np.ndarray, clip: bool, expected: np.ndarray) -> None:
    result = bounds_from(GROUP, percentiles, "group").normalize(value, clip)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, expected)


def test_bounds_without_width_go_to_zero_and_come_back_as_the_lower_end() -> None:
    # A range of rounding noise counts as no width: np.isclose, not ==.
    bounds = Bounds(np.array([0.5, -1e-16]), np.array([0.5, 1e-16]))
    value = f32(0.7, 3.0)
    np.testing.assert_array_equal(bounds.normalize(value, clip=False), f32(0, 0))
    np.testing.assert_allclose(bounds.unnormalize(f32(0.9, -1.0)), [[0.5, -1e-16]], atol=0)


def test_unnormalizing_bounds_limits_its_input() -> None:
    bounds = bounds_from(GROUP, False, "group")
    np.testing.assert_array_equal(bounds.unnormalize(f32(3, -3)), [[4, 1]])
    np.testing.assert_array_equal(bounds.unnormalize(f32(-1.5, 0)), [[0, 1]])


@pytest.mark.parametrize(("clip", "expected"), [(False, f32(4, 9)), (True, f32(1, 1))])
def test_moments(clip: bool, expected: np.ndarray) -> None:
    result = moments_from(GROUP, "group").normalize(f32(3, 9), clip)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, expected)


def test_unnormalizing_moments_is_not_limited_and_passes_std_zero_through() -> None:
    result = moments_from(GROUP, "group").unnormalize(f32(4, 9))
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, f32(3, 9))


def test_rows_of_per_step_statistics_apply_to_their_own_step() -> None:
    bounds = Bounds(np.array([[0.0], [0.0], [1.0]]), np.array([[1.0], [2.0], [1.0]]))
    chunk = np.full((2, 3, 1), 1.0)
    np.testing.assert_array_equal(bounds.normalize(chunk, clip=True)[1], [[1], [0], [0]])
    np.testing.assert_array_equal(bounds.unnormalize(np.zeros((2, 3, 1)))[0], [[0.5], [1], [1]])


def test_sin_cos_puts_all_sines_first() -> None:
    result = SinCos(2).encode(f32(0, np.pi / 2))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, [[0, 1, 1, 0]], atol=1e-7)


finite = st.floats(-100, 100)
unit = st.floats(0, 1)


@given(arrays(np.float64, (4, 3), elements=unit), arrays(np.float64, 3, elements=finite), st.floats(0.01, 50))
def test_bounds_round_trip_inside_the_range(share: np.ndarray, low: np.ndarray, width: float) -> None:
    bounds = Bounds(low, low + width)
    value = low + share * width
    normal = bounds.normalize(value, clip=True)
    assert np.abs(normal).max() <= 1
    np.testing.assert_allclose(bounds.unnormalize(normal), value, atol=1e-9)


@given(
    arrays(np.float64, (4, 3), elements=finite),
    arrays(np.float64, 3, elements=finite),
    arrays(np.float64, 3, elements=st.one_of(st.just(0.0), st.floats(1e-3, 50))),
)
def test_moments_round_trip(value: np.ndarray, mean: np.ndarray, std: np.ndarray) -> None:
    moments = Moments(mean, std)
    np.testing.assert_allclose(moments.unnormalize(moments.normalize(value, clip=False)), value, atol=1e-8)


@pytest.mark.parametrize(
    ("group", "parts"),
    [
        (None, ["file: tag.arm", "an object", "None"]),
        ({"max": [1]}, ["file: tag.arm", "'min'", "max"]),
        ({"min": [[1, 2], [3]]}, ["file: tag.arm.min", "rectangular"]),
        ({"min": ["a"]}, ["file: tag.arm.min", "numbers", "'a'"]),
        ({"min": 3.0}, ["file: tag.arm.min", "shape ()"]),
        ({"min": []}, ["file: tag.arm.min", "shape (0,)"]),
        ({"min": [1.0, float("nan")]}, ["file: tag.arm.min", "finite", "NaN"]),
    ],
)
def test_bad_statistics_are_named(group: object, parts: list[str]) -> None:
    with pytest.raises(ProcessorError) as caught:
        statistic(group, "min", "file: tag.arm")
    for part in parts:
        assert part in str(caught.value)


def test_statistics_that_do_not_belong_together_are_named() -> None:
    with pytest.raises(ProcessorError, match=r"'min' and 'max' of one shape"):
        bounds_from({"min": [0, 0], "max": [1]}, False, "group")


@pytest.mark.parametrize(("percentiles", "names"), [(False, ("min", "max")), (True, ("q01", "q99"))])
def test_bounds_the_wrong_way_are_named(percentiles: bool, names: tuple[str, str]) -> None:
    group = {names[0]: [0.0, 2.0], names[1]: [0.0, 1.0]}
    with pytest.raises(ProcessorError, match=rf"group: expected '{names[0]}' not above.*2.0 above 1.0 at index \[1\]"):
        bounds_from(group, percentiles, "group")
