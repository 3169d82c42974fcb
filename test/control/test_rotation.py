"""Quaternions (x, y, z, w) against scipy, and the laws that the limiter and the interpolation lean on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from groot_ros.control.rotation import angular_velocity, conjugate, exp, log, multiply, rate, unit

RNG = np.random.default_rng(7)
VECTORS = arrays(np.float64, (5, 3), elements=st.floats(-20.0, 20.0, width=64))


def quaternions(*shape: int) -> np.ndarray:
    return unit(RNG.normal(size=(*shape, 4)))


def test_product_and_opposite_are_those_of_scipy() -> None:
    a, b = quaternions(40), quaternions(40)
    expected = (Rotation.from_quat(a) * Rotation.from_quat(b)).as_matrix()
    np.testing.assert_allclose(Rotation.from_quat(multiply(a, b)).as_matrix(), expected, atol=1e-14)
    np.testing.assert_allclose(multiply(a, conjugate(a)), np.tile([0.0, 0.0, 0.0, 1.0], (40, 1)), atol=1e-15)


def test_leading_axes_are_broadcast() -> None:
    a, b = quaternions(6, 1, 2), quaternions(3, 2)
    product = multiply(a, b)
    assert product.shape == (6, 3, 2, 4)
    np.testing.assert_allclose(product[4, 1, 0], multiply(a[4, 0, 0], b[1, 0]), atol=1e-15)
    assert multiply(np.empty((0, 4)), np.empty((0, 4))).shape == (0, 4)


@given(VECTORS)
def test_exp_is_that_of_scipy_and_has_length_1(vectors: np.ndarray) -> None:
    q = exp(vectors)
    np.testing.assert_allclose(np.linalg.norm(q, axis=-1), 1.0, atol=1e-14)
    np.testing.assert_allclose(Rotation.from_quat(q).as_matrix(), Rotation.from_rotvec(vectors).as_matrix(), atol=1e-12)


@given(VECTORS)
def test_log_is_the_short_way_back(vectors: np.ndarray) -> None:
    back = log(exp(vectors))
    assert np.all(np.linalg.norm(back, axis=-1) <= np.pi + 1e-12)
    same = np.abs(np.sum(exp(back) * exp(vectors), axis=-1))  # q and -q are the same rotation
    np.testing.assert_allclose(same, 1.0, atol=1e-13)
    near = np.linalg.norm(vectors, axis=-1) < 3.1
    np.testing.assert_allclose(back[near], vectors[near], atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, 1e-300, 1e-160, 1e-20, 1e-9, 1e-8, 2.1e-8, 1e-4, 1.0, 3.14159, np.pi])
def test_tiny_and_half_turns_keep_their_digits(angle: float) -> None:
    vector = angle * np.array([2.0, -1.0, 2.0]) / 3.0
    np.testing.assert_allclose(log(exp(vector)), vector, rtol=1e-14, atol=0.0)
    np.testing.assert_allclose(log(-exp(vector)), vector, rtol=1e-14, atol=0.0)


def test_log_of_exactly_half_a_turn_has_norm_pi() -> None:
    q = np.array([[0.0, 1.0, 0.0, 0.0], [0.0, -1.0, 0.0, -0.0]])
    np.testing.assert_allclose(log(q), [[0.0, np.pi, 0.0], [0.0, -np.pi, 0.0]], atol=1e-15)


@pytest.mark.parametrize("angle", [0.0, 1e-5, 0.0099, 0.0101, 0.5, 3.1, 5.0])
def test_angular_velocity_is_that_of_the_turning_frame_and_rate_its_inverse(angle: float) -> None:
    rng = np.random.default_rng(2)
    vector = angle * unit(rng.normal(size=(20, 4)))[:, :3]
    change, h = rng.normal(size=(20, 3)), 1e-5
    turn = multiply(exp(vector + h * change), conjugate(exp(vector - h * change)))
    angular = angular_velocity(vector, change)
    np.testing.assert_allclose(angular, log(turn) / (2.0 * h), atol=2e-9)
    np.testing.assert_allclose(rate(vector, angular), change, atol=1e-9)


def test_unit_of_tiny_and_huge_quaternions() -> None:
    q = np.array([3.0, 0.0, 4.0, 0.0])
    for scale in (1e-300, 1.0, 1e300):
        np.testing.assert_allclose(unit(q * scale), [0.6, 0.0, 0.8, 0.0], atol=1e-15)


@pytest.mark.parametrize("bad", [[0.0] * 4, [np.nan, 0.0, 0.0, 1.0], [0.0, np.inf, 0.0, 1.0]])
def test_no_rotation_is_refused_with_its_place(bad: list[float]) -> None:
    rows = np.tile([0.0, 0.0, 0.0, 1.0], (2, 3, 1))
    rows[1, 2] = bad
    with pytest.raises(ValueError, match=r"at \[1, 2\] is no rotation"):
        unit(rows)


def test_another_width_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"b: expected a last axis of 4, found shape \(3,\)"):
        multiply(np.zeros(4), np.zeros(3))
    with pytest.raises(ValueError, match="rotvec: expected a last axis of 3"):
        exp(np.zeros(4))
