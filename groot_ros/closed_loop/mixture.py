"""The velocity field that a flow-matching policy would have learnt perfectly, for chunks that are a known mixture.

Training pairs are x_t = (1 - t) z + t a with noise z ~ N(0, I) and chunks a ~ sum_k w_k N(mean_k, S). The field that
minimises the training loss is E[a - z | x_t] (Lipman et al. 2023, "Flow matching for generative modeling"). Given the
component all is Gaussian, so it is known in closed form:

    x_t | k ~ N(t mean_k, C),  C = (1 - t)^2 I + t^2 S
    E[a - z | x_t, k] = mean_k + (t S - (1 - t) I) C^-1 (x_t - t mean_k)
    E[a - z | x_t] = sum_k P(k | x_t) E[a - z | x_t, k],  P(k | x_t) ~ w_k N(x_t; t mean_k, C)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Spread:
    """Covariance S of a chunk [H, A] around its mean: any over the rows, none between the columns.

    Attributes:
        variances: float64 [A, H], eigenvalues of each column's covariance over the rows, not negative.
        directions: float64 [A, H, H], their eigenvectors as columns.
    """

    variances: Array
    directions: Array

    @classmethod
    def of(cls, deviations: Array, correlations: Array) -> Spread:
        """From standard deviations [H, A] and the correlation of the rows, [H, H] for all columns or [A, H, H]."""
        scale = deviations.T
        variances, directions = np.linalg.eigh(scale[:, :, None] * correlations * scale[:, None, :])
        return cls(np.maximum(variances, 0.0), directions)


@dataclass(frozen=True)
class FlowMixture:
    """Chunks a ~ sum_k w_k N(mean_k, S) and the flow that leads there from noise.

    Attributes:
        means: float64 [K, H, A].
        log_weights: float64 [K]; need not be normalised.
        spread: S, the same around every mean.
    """

    means: Array
    log_weights: Array
    spread: Spread

    def velocity(self, x: Array, time: float) -> Array:
        """E[a - z | x_t = x]: x [..., H, A] at a time in [0, 1) -> [..., H, A]."""
        left, variances = 1 - time, self.spread.variances
        variance = left**2 + time**2 * variances  # [A, H]: C in the eigenvectors of S
        off = self._rotated(np.asarray(x)[..., None, :, :] - time * self.means)  # [..., K, A, H]
        share = self._shares(off, variance)
        answer = self._rotated_back((time * variances - left) / variance * off) + self.means
        result: Array = np.sum(share[..., None, None] * answer, axis=-3)
        return result

    def shares(self, x: Array, time: float) -> Array:
        """P(k | x_t = x): which component x [..., H, A] is on the way to, [..., K]."""
        variance = (1 - time) ** 2 + time**2 * self.spread.variances
        return self._shares(self._rotated(np.asarray(x)[..., None, :, :] - time * self.means), variance)

    def draw(self, rng: np.random.Generator, count: int) -> Array:
        """Chunks of the mixture itself, without a flow: [count, H, A]."""
        weights = np.exp(self.log_weights - self.log_weights.max())
        component = rng.choice(len(weights), size=count, p=weights / weights.sum())
        white = rng.standard_normal((count, *self.spread.variances.shape))
        return self.means[component] + self._rotated_back(np.sqrt(self.spread.variances) * white)

    def _shares(self, off: Array, variance: Array) -> Array:
        # All components have the same covariance: its determinant cancels.
        log = self.log_weights - 0.5 * np.sum(off**2 / variance, axis=(-2, -1))
        share = np.exp(log - log.max(axis=-1, keepdims=True))
        result: Array = share / share.sum(axis=-1, keepdims=True)
        return result

    def _rotated(self, chunk: Array) -> Array:
        """[..., H, A] -> [..., A, H] in the eigenvectors of S."""
        columns = np.swapaxes(chunk, -1, -2)[..., None, :]
        result: Array = np.matmul(columns, self.spread.directions)[..., 0, :]
        return result

    def _rotated_back(self, rotated: Array) -> Array:
        columns = np.matmul(self.spread.directions, rotated[..., None])[..., 0]
        return np.swapaxes(columns, -1, -2)


@dataclass(frozen=True)
class FitError:
    """What a network adds to the perfect field, because it never fits perfectly: a fixed smooth function of x.

    Each number of the chunk has an error of its own, a sine along a random direction of x; so neighbouring rows err
    independently, and the chunk comes out rough.

    Attributes:
        size: float64 [H, A], standard deviation of the velocity's error over x ~ N(0, I).
        directions: float64 [H * A, H * A], one direction of x per column.
        phases: float64 [steps, H * A], another function at every Euler step.
    """

    size: Array
    directions: Array
    phases: Array

    @classmethod
    def drawn(cls, rng: np.random.Generator, size: Array, steps: int, turns: float = 3.0) -> FitError:
        """``turns``: standard deviation (rad) of the sine's argument: how fast the error changes with x."""
        count = size.size
        directions = turns / np.sqrt(count) * rng.standard_normal((count, count))
        return cls(size, directions, rng.uniform(0, 2 * np.pi, (steps, count)))

    def velocity(self, x: Array, step: int) -> Array:
        """The error at x [H, A] in Euler step ``step``, [H, A]."""
        waves = np.sin(x.reshape(-1) @ self.directions + self.phases[step])
        return np.sqrt(2.0) * self.size * waves.reshape(x.shape)
