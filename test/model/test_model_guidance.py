"""Guidance towards the previous chunk: the formulas against loops of the tests' own, and its effect on the networks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groot_ros.model.action_head import RtcOptions
from groot_ros.model.guidance import Guidance, cosine_weights, exponential_weights, guided, integrate, ramp_strength

STEPS = 4


@st.composite
def counts(draw):
    """horizon, frozen, length"""
    horizon = draw(st.integers(1, 50))
    length = draw(st.integers(0, horizon))
    return horizon, draw(st.integers(0, length)), length


@given(counts())
@settings(max_examples=100, deadline=None)
def test_weights_are_those_of_the_paper(case):
    horizon, frozen, length = case
    weights = exponential_weights(horizon, frozen, length)
    expected = []
    for i in range(horizon):
        c = (length - i) / (length - frozen + 1)
        overlap = c * (math.exp(c) - 1) / (math.e - 1)
        expected.append(1.0 if i < frozen else overlap if i < length else 0.0)
    assert weights.dtype == np.float32 and weights.shape == (horizon,)
    np.testing.assert_allclose(weights, expected, rtol=1e-6, atol=0)
    assert (np.diff(weights) <= 0).all()
    assert ((weights[frozen:length] > 0) & (weights[frozen:length] < 1)).all()


@given(counts())
@settings(max_examples=100, deadline=None)
def test_cosine_weights_are_the_same_where_they_are_1_and_0_and_a_cosine_in_between(case):
    horizon, frozen, length = case
    weights, paper = cosine_weights(horizon, frozen, length), exponential_weights(horizon, frozen, length)
    assert weights.dtype == np.float32 and weights.shape == (horizon,)
    np.testing.assert_array_equal(weights[:frozen], paper[:frozen])
    np.testing.assert_array_equal(weights[length:], paper[length:])
    overlap = weights[frozen:length]
    expected = [math.sin(math.pi * (len(overlap) - i) / (len(overlap) + 1) / 2) ** 2 for i in range(len(overlap))]
    np.testing.assert_allclose(overlap, expected, atol=1e-6)
    assert (np.diff(weights) <= 0).all()


@pytest.mark.parametrize("case", [(8, 3, 2), (8, -1, 2), (8, 2, 9)])
def test_counts_that_contradict_each_other_are_refused(case):
    for make in (exponential_weights, cosine_weights, lambda *counts: ramp_strength(*counts, 6.0)):
        with pytest.raises(ValueError, match=rf"the 8 rows of a chunk, found frozen {case[1]}, length {case[2]}"):
            make(*case)


def test_a_ramp_that_does_not_rise_is_refused():
    with pytest.raises(ValueError, match="ramp rate is 0"):
        ramp_strength(8, 2, 5, 0.0)


def loop(field, noise, previous, weights, steps, beta):
    """The paper's algorithm number by number, in float64, for a velocity that looks at each number alone."""
    result = np.zeros_like(noise)
    for index in np.ndindex(noise.shape):
        a = float(noise[index])
        for n in range(steps):
            tau = n / steps
            v = field(a, n)
            estimate = a + (1 - tau) * v
            if tau == 0:
                factor = beta
            else:
                r_squared = (1 - tau) ** 2 / (tau**2 + (1 - tau) ** 2)
                factor = min(beta, (1 - tau) / (tau * r_squared))
            a += (v + factor * float(weights[index]) * (float(previous[index]) - estimate)) / steps
        result[index] = a
    return result


def field(a, i):
    """Some velocity that bends."""
    return 0.7 - 1.3 * a + 0.2 * a * a + 0.1 * i


def arrays(seed=0, shape=(6, 3)):
    generator = np.random.default_rng(seed)
    return generator.normal(size=shape), generator.uniform(-1, 1, shape), generator.uniform(0, 1, shape)


@pytest.mark.parametrize("beta", [None, 5.0, 1.5])
@pytest.mark.parametrize("steps", [1, 4, 10])
def test_the_integration_is_the_papers(steps, beta):
    noise, previous, weights = arrays()
    result = integrate(field, noise, steps, guidance=Guidance(previous, weights, beta))
    limit = steps if beta is None else beta
    np.testing.assert_allclose(result, loop(field, noise, previous, weights, steps, limit), rtol=0, atol=1e-12)
    assert not np.allclose(result, loop(field, noise, previous, weights, steps, limit + 0.5))


def test_numpy_and_torch_agree_and_a_weight_per_row_is_one_for_all_its_numbers():
    noise, previous, weights = arrays()
    by_row = np.repeat(weights[:, :1], weights.shape[1], axis=1)
    expected = integrate(field, noise, STEPS, guidance=Guidance(previous, by_row))
    rows = integrate(field, noise, STEPS, guidance=Guidance(previous, weights[:, 0]))
    np.testing.assert_array_equal(rows, expected)
    tensors = Guidance(torch.from_numpy(previous), torch.from_numpy(weights[:, 0].copy()))
    batch = integrate(field, torch.from_numpy(noise)[None], STEPS, guidance=tensors)
    np.testing.assert_allclose(batch[0].numpy(), expected, rtol=0, atol=1e-12)


def test_without_weight_nothing_changes_and_the_noise_is_left_alone():
    noise, previous, weights = arrays()
    kept = noise.copy()
    weights[:, 1] = 0
    plain, led = (integrate(field, noise, STEPS, guidance=g) for g in (None, Guidance(previous, weights)))
    np.testing.assert_array_equal(led[:, 1], plain[:, 1])
    assert (led[:, [0, 2]] != plain[:, [0, 2]]).all()
    np.testing.assert_array_equal(noise, kept)


def test_the_last_step_halves_the_error_at_least():
    """With four steps the factor of the last is (t^2 + (1-t)^2) / (t (1-t)) = 10/3, over 4 steps: 1/6 is left."""
    previous, zero = np.full((1, 1), 0.5), np.zeros((1, 1))
    velocity = guided(zero, zero, previous, np.ones((1, 1)), 0.75, 4.0)
    np.testing.assert_allclose(previous - velocity / STEPS, 0.5 / 6, atol=1e-15)


def test_strength_zero_keeps_the_row():
    noise, _, _ = arrays()
    strength = ramp_strength(6, 2, 4, 6.0)[:, None]
    result = integrate(field, noise, STEPS, strength=strength)
    np.testing.assert_array_equal(result[:2], noise[:2])
    np.testing.assert_array_equal(result[4:], integrate(field, noise, STEPS)[4:])


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
def test_a_beta_that_pushes_away_is_refused(beta):
    noise, previous, weights = arrays()
    with pytest.raises(ValueError, match=r"guidance\.beta is .*, expected more than 0"):
        integrate(field, noise, STEPS, guidance=Guidance(previous, weights, beta))


def test_no_step_is_refused():
    with pytest.raises(ValueError, match="num_steps is 0"):
        integrate(field, np.zeros((2, 2)), 0)


def previous_chunk(golden, seed=3):
    config = golden.model.config
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(config.action_horizon, config.max_action_dim, generator=generator) - 1


def test_a_led_chunk_of_every_network_is_nearer_to_the_one_before(golden):
    noise, previous = golden["initial noise"], previous_chunk(golden)
    horizon = len(previous)
    frozen, length = horizon // 4, 3 * horizon // 4
    guidance = Guidance(previous, exponential_weights(horizon, frozen, length))
    plain = golden.model.sample(golden.inputs, noise)
    with torch.inference_mode():
        led = golden.model.sample(golden.inputs, noise, guidance=guidance)
    assert led.dtype == torch.float32 and led.shape == plain.shape
    before, after = ((chunk - previous).abs().mean(dim=(0, 2)) for chunk in (plain, led))
    assert (after[:length] < before[:length]).all()
    assert (after[:frozen] < 0.3 * before[:frozen]).all()
    assert after[length - 1] > after[0]  # the end of the overlap is freer than the start


def test_guidance_without_weight_gives_the_same_bits(golden):
    previous = previous_chunk(golden)
    guidance = Guidance(previous, torch.zeros(len(previous)))
    noise = golden["initial noise"]
    assert torch.equal(
        golden.model.sample(golden.inputs, noise), golden.model.sample(golden.inputs, noise, guidance=guidance)
    )


BAD_GUIDANCE = {
    "rows": (
        {"previous": torch.zeros(7, 9)},
        r"guidance.previous has shape \(7, 9\), expected \(8, 9\) or \(2, 8, 9\)",
    ),
    "weights": ({"weights": torch.zeros(9)}, r"guidance.weights has shape \(9,\), expected \(8,\) or \(8, 9\)"),
    "NaN": ({"previous": torch.full((8, 9), math.nan)}, r"guidance.previous holds NaN"),
    "infinite weight": ({"weights": torch.full((8,), math.inf)}, r"guidance.weights holds NaN or infinity"),
    "beta": ({"beta": 0.0}, "beta is 0"),
}


@pytest.mark.parametrize("case", BAD_GUIDANCE)
def test_bad_guidance_is_refused_by_name(own_n1d7, case):
    change, expected = BAD_GUIDANCE[case]
    guidance = Guidance(**{"previous": torch.zeros(8, 9), "weights": torch.zeros(8), **change})
    with pytest.raises(ValueError, match=expected):
        own_n1d7.model.sample(own_n1d7.inputs, guidance=guidance)


def test_guidance_and_in_painting_together_are_refused(own_n1d7):
    rtc = RtcOptions(own_n1d7.io["in.prev_action"], 8, 4, 2)
    with pytest.raises(ValueError, match="rtc and guidance"):
        own_n1d7.model.sample(own_n1d7.inputs, rtc=rtc, guidance=Guidance(torch.zeros(8, 9), torch.zeros(8)))


def test_numpy_guidance_and_one_previous_chunk_per_sample_reach_the_network(own_n1d7):
    previous = previous_chunk(own_n1d7)
    weights = exponential_weights(8, 2, 6)
    noise = own_n1d7["initial noise"]
    results = [
        own_n1d7.model.sample(own_n1d7.inputs, noise, guidance=guidance)
        for guidance in (
            Guidance(previous, torch.from_numpy(weights)),
            Guidance(previous.numpy(), weights),
            Guidance(torch.stack((previous, -previous)), torch.from_numpy(weights)),
        )
    ]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0][0], results[2][0])
    assert not torch.equal(results[0][1], results[2][1])
