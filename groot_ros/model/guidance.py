"""The Euler loop from noise to actions, and how a chunk is made to continue the one before (real-time chunking).

Only arithmetic, so that numpy arrays and torch tensors work alike. Source: Black et al. 2025, "Real-time execution of
action chunking flow policies" (arXiv 2506.07339), with the identity in place of the Jacobian of the estimate, which
needs no gradient (spec performance.md, D1 and D2). Time runs from 0 (noise) to 1 (actions).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = Any
"""A numpy array or a torch tensor."""


@dataclass(frozen=True)
class Guidance:
    """Where the chunk is to be led while it forms."""

    previous: Numbers
    """The previous chunk at the rows of the new one, normalised as the model's actions are: [H,A] or [B,H,A]."""
    weights: Numbers
    """[H] or [H,A] in 0..1: how much of the way each row, or each number, is led; 0 on padding. Of `cosine_weights`."""
    beta: float | None = None
    """Largest factor of the correction; None: the number of Euler steps."""


def exponential_weights(horizon: int, frozen: int, length: int) -> NDArray[np.float32]:
    """How strongly each row of a chunk follows the previous one; equation 5 of the paper.

    1 on the frozen rows; c (e^c - 1) / (e - 1) with c = (length - i) / (length - frozen + 1) on the rest of the
    overlap, which falls from below 1 to above 0; 0 behind it.

    Args:
        horizon: rows of the chunk.
        frozen: rows that will have been executed when the chunk arrives.
        length: rows for which the previous chunk has a target.

    Returns:
        float32 [horizon].

    Raises:
        ValueError: not 0 <= frozen <= length <= horizon.
    """
    return _weights(horizon, frozen, length, lambda c: c * np.expm1(c) / np.expm1(1.0))


def cosine_weights(horizon: int, frozen: int, length: int) -> NDArray[np.float32]:
    """As `exponential_weights`, with (1 - cos(pi c)) / 2 on the overlap; the default.

    The paper's weights leave the first row that is free 0.68 (six rows of overlap), so that it is two thirds led; this
    leaves it 0.95 and has no kink where the overlap ends. `groot-ros benchmark continuity --schedule` tells them apart.
    """
    return _weights(horizon, frozen, length, lambda c: 0.5 - 0.5 * np.cos(np.pi * c))


def _weights(
    horizon: int, frozen: int, length: int, fade: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> NDArray[np.float32]:
    _check_counts(horizon, frozen, length)
    weights = np.zeros(horizon)
    weights[:frozen] = 1.0
    weights[frozen:length] = fade((length - np.arange(frozen, length)) / (length - frozen + 1))
    return weights.astype(np.float32)


def ramp_strength(horizon: int, frozen: int, length: int, rate: float) -> NDArray[np.float32]:
    """How much of the velocity each row keeps in N1.7's own in-painting (spec groot_n17.md, 3.7).

    0 on frozen rows, an exponential ramp up to `length`, then 1. With n = length - frozen and
    u = linspace(0, 1, n + 2), the ramp is (1 - e^(-rate u)) / (1 - e^-rate) without its two ends.

    Returns:
        float32 [horizon].

    Raises:
        ValueError: not 0 <= frozen <= length <= horizon, or a rate that is not positive.
    """
    _check_counts(horizon, frozen, length)
    if not rate > 0:
        raise ValueError(f"the ramp rate is {rate}, expected more than 0")
    strength = np.ones(horizon)
    strength[:frozen] = 0.0
    u = np.linspace(0.0, 1.0, length - frozen + 2)
    strength[frozen:length] = (np.expm1(-rate * u) / np.expm1(-rate))[1:-1]
    return strength.astype(np.float32)


def guided(
    velocity: Numbers, actions: Numbers, previous: Numbers, weights: Numbers, time: float, beta: float
) -> Numbers:
    """The velocity with a pull towards the previous chunk; equation 2 of the paper with the identity as Jacobian.

    velocity + min(beta, (1 - t) / (t r^2)) W (previous - estimate), where the estimate of the finished chunk is
    actions + (1 - t) velocity and r^2 = (1 - t)^2 / (t^2 + (1 - t)^2). At t = 0 the factor is beta.

    Args:
        velocity, actions, previous: arrays of one shape, or shapes that broadcast.
        weights: broadcasts against them.
        time: t in [0, 1).
        beta: upper limit of the factor.
    """
    return velocity + guidance_factor(time, beta) * weights * (previous - (actions + (1 - time) * velocity))


def guidance_factor(time: float, beta: float) -> float:
    """min(beta, (1 - t) / (t r^2)) of `guided`, which is beta at t = 0."""
    left = 1 - time
    # written without a quotient of quotients
    return beta if time == 0 else min(beta, (time**2 + left**2) / (time * left))


def integrate(
    velocity: Callable[[Numbers, int], Numbers],
    actions: Numbers,
    steps: int,
    *,
    guidance: Guidance | None = None,
    strength: Numbers | None = None,
) -> Numbers:
    """Euler's method from noise at time 0 to actions at time 1.

    Args:
        velocity: `velocity(actions, i)` is the velocity at time i / steps.
        actions: the noise, [H,A] or [B,H,A]; not changed.
        steps: number of equal steps.
        guidance: leads the chunk towards the one before; its arrays are of the same kind as `actions`.
        strength: factor on the velocity, broadcasts against `actions` (`ramp_strength`).

    Raises:
        ValueError: no step, or a `beta` that is not positive.
    """
    if steps < 1:
        raise ValueError(f"num_steps is {steps}, expected at least 1")
    if guidance is not None:
        beta = float(steps) if guidance.beta is None else guidance.beta
        if not beta > 0:
            raise ValueError(f"guidance.beta is {beta}, expected more than 0")
        weights = guidance.weights[:, None] if guidance.weights.ndim == 1 else guidance.weights
    for i in range(steps):
        v = velocity(actions, i)
        if strength is not None:
            v = v * strength
        if guidance is not None:
            v = guided(v, actions, guidance.previous, weights, i / steps, beta)
        actions = actions + v / steps
    return actions


def _check_counts(horizon: int, frozen: int, length: int) -> None:
    if not 0 <= frozen <= length <= horizon:
        raise ValueError(
            f"prefix: expected 0 <= frozen <= length <= the {horizon} rows of a chunk, "
            f"found frozen {frozen}, length {length}"
        )
