"""The closed-form velocity field of a mixture against sampling, against differences, and as a flow."""

from __future__ import annotations

import numpy as np
import pytest

from groot_ros.closed_loop.mixture import FlowMixture, Spread
from groot_ros.model.guidance import integrate

ROWS, COLUMNS = 3, 2


def mixture(seed: int = 0, apart: float = 1.0) -> FlowMixture:
    """Three components over [3, 2] with correlated rows and unequal weights."""
    rng = np.random.default_rng(seed)
    times = np.arange(ROWS)
    correlations = 0.9 * np.exp(-0.5 * (times[:, None] - times) ** 2) + 0.1 * np.eye(ROWS)
    spread = Spread.of(rng.uniform(0.1, 0.6, (ROWS, COLUMNS)), correlations)
    means = apart * rng.standard_normal((3, ROWS, COLUMNS))
    return FlowMixture(means, np.log([0.5, 0.3, 0.2]), spread)


def covariance(spread: Spread) -> np.ndarray:
    """S over the flattened [H * A]."""
    columns = np.einsum("aij,aj,akj->aik", spread.directions, spread.variances, spread.directions)
    full = np.zeros((ROWS, COLUMNS, ROWS, COLUMNS))
    for a in range(COLUMNS):
        full[:, a, :, a] = columns[a]
    return full.reshape(ROWS * COLUMNS, ROWS * COLUMNS)


def test_spread_is_the_covariance_it_was_made_from() -> None:
    deviations = np.array([[0.5, 1.0], [2.0, 0.1], [1.0, 3.0]])
    correlations = np.array([[1.0, 0.5, 0.2], [0.5, 1.0, 0.5], [0.2, 0.5, 1.0]])
    result = covariance(Spread.of(deviations, correlations)).reshape(ROWS, COLUMNS, ROWS, COLUMNS)
    for a in range(COLUMNS):
        np.testing.assert_allclose(
            result[:, a, :, a], np.outer(deviations[:, a], deviations[:, a]) * correlations, atol=1e-12
        )


@pytest.mark.parametrize("time", [0.0, 0.3, 0.7, 0.95])
def test_the_field_is_the_mean_velocity_of_the_pairs_that_pass(time: float) -> None:
    """Monte Carlo: pairs weighted by how near they pass, with the noise integrated out exactly.

    z | x, a is the point (x - t a) / (1 - t), so E[a - z | x] = sum over draws a of N(z(a); 0, I) (a - z(a)).
    """
    field = mixture()
    rng = np.random.default_rng(1)
    chunks = field.draw(rng, 400_000)
    # A point that a pair passes, so that the weights are not those of a few draws alone.
    x = (1 - time) * 0.5 * rng.standard_normal((ROWS, COLUMNS)) + time * field.draw(rng, 1)[0]
    noise = (x - time * chunks) / (1 - time)
    log = -0.5 * np.sum(noise**2, axis=(1, 2))
    weights = np.exp(log - log.max())
    weights /= weights.sum()
    values = chunks - noise
    expected = np.einsum("n,nij->ij", weights, values)
    error = np.sqrt(np.einsum("n,nij->ij", weights**2, (values - expected) ** 2))
    assert (np.abs(field.velocity(x, time) - expected) < 5 * error + 1e-9).all()
    assert error.max() < 0.35


@pytest.mark.parametrize("time", [0.1, 0.5, 0.9])
def test_the_field_is_the_score_by_finite_differences(time: float) -> None:
    """v = (x + (1 - t) grad log p_t(x)) / t, with p_t written out as dense Gaussians (Lipman et al., lemma 1)."""
    field = mixture(2)
    s = covariance(field.spread)
    c = (1 - time) ** 2 * np.eye(len(s)) + time**2 * s
    inverse = np.linalg.inv(c)

    def log_density(flat: np.ndarray) -> float:
        off = flat - time * field.means.reshape(3, -1)
        return float(np.log(np.sum(np.exp(field.log_weights - 0.5 * np.einsum("ki,ij,kj->k", off, inverse, off)))))

    x = np.random.default_rng(3).standard_normal((ROWS, COLUMNS))
    step = 1e-5
    gradient = np.array(
        [
            (log_density(x.ravel() + step * unit) - log_density(x.ravel() - step * unit)) / (2 * step)
            for unit in np.eye(x.size)
        ]
    ).reshape(x.shape)
    expected = (x + (1 - time) * gradient) / time
    np.testing.assert_allclose(field.velocity(x, time), expected, rtol=1e-5, atol=1e-5)


def test_many_euler_steps_from_noise_give_the_mixture() -> None:
    field = mixture(4, apart=1.5)
    steps = 200
    noise = np.random.default_rng(5).standard_normal((10_000, ROWS, COLUMNS))
    result = integrate(lambda x, i: field.velocity(x, i / steps), noise, steps)
    weights = np.exp(field.log_weights)
    np.testing.assert_allclose(result.mean(axis=0), np.einsum("k,kij->ij", weights, field.means), atol=0.05)
    flat_means = field.means.reshape(3, -1)
    between = np.cov(flat_means.T, aweights=weights, ddof=0)
    found = np.cov(result.reshape(len(result), -1).T)
    np.testing.assert_allclose(found, between + covariance(field.spread), atol=0.12)
    np.testing.assert_allclose(field.shares(result, 1.0).mean(axis=0), weights, atol=0.03)


def test_draw_has_the_moments_of_the_mixture() -> None:
    field = mixture(6)
    chunks = field.draw(np.random.default_rng(7), 200_000)
    weights = np.exp(field.log_weights)
    between = np.cov(field.means.reshape(3, -1).T, aweights=weights, ddof=0)
    np.testing.assert_allclose(chunks.mean(axis=0), np.einsum("k,kij->ij", weights, field.means), atol=0.02)
    found = np.cov(chunks.reshape(len(chunks), -1).T)
    np.testing.assert_allclose(found, between + covariance(field.spread), atol=0.03)


def test_leading_axes_and_weights_that_are_not_normalised() -> None:
    field = mixture(8)
    x = np.random.default_rng(9).standard_normal((4, 5, ROWS, COLUMNS))
    whole = field.velocity(x, 0.4)
    assert whole.shape == x.shape
    np.testing.assert_allclose(whole[2, 3], field.velocity(x[2, 3], 0.4), atol=1e-12)
    shifted = FlowMixture(field.means, field.log_weights + 100.0, field.spread)
    np.testing.assert_allclose(shifted.velocity(x, 0.4), whole, atol=1e-9)
    np.testing.assert_allclose(field.shares(x, 0.4).sum(axis=-1), 1.0, atol=1e-12)


def test_a_component_without_spread_is_reached_exactly() -> None:
    """A delta at the mean: Euler steps are exact for it, however few."""
    field = FlowMixture(np.full((1, ROWS, COLUMNS), 0.7), np.zeros(1), Spread.of(np.zeros((ROWS, COLUMNS)), np.eye(3)))
    noise = np.random.default_rng(10).standard_normal((ROWS, COLUMNS))
    result = integrate(lambda x, i: field.velocity(x, i / 4), noise, 4)
    np.testing.assert_allclose(result, 0.7, atol=1e-12)
