"""Reduced precision in whole engines: with recorded programs, after the release, and on a GPU where there is one."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from engine_rig import EMBODIMENT, GENERATIONS, network, noise_for, observation
from tape import TapeRecorder
from torch import Tensor
from torch.nn import functional

from groot_ros.model.engine import Engine, EngineOptions
from groot_ros.model.engine.dense import Dense
from groot_ros.model.engine.fp8 import (
    CAPABILITY,
    Calibrator,
    Fp8Dense,
    Fp8WeightDense,
    PrecisionUnavailable,
    apply_precision,
    chosen,
    quantize,
)
from groot_ros.model.engine.gate import GateResult
from groot_ros.model.engine.graphs import CudaGraphs

PRECISIONS = ("fp8_weights", "fp8")
OPTIONS = EngineOptions(pack=False, text_bucket=8)


def gate_for(generation: str, precision: str) -> GateResult:
    """As if measured: all products, scales of one observation."""
    engine = Engine(network(generation), EMBODIMENT, OPTIONS)
    with Calibrator(engine.program) as calibrator:
        engine.sample(observation(network(generation)), noise_for(network(generation)))
    layers = tuple(name for name, _, _ in chosen(engine.program))
    scales = calibrator.scales() if precision == "fp8" else {}
    about = ("", "", "", "", generation, engine.steps)
    return GateResult(precision, "passed", (), *about, layers, scales, {}, "")


def reduced(generation: str, gate: GateResult, **more: object) -> Engine:
    engine = Engine(network(generation), EMBODIMENT, OPTIONS, **more)
    apply_precision(engine, gate)
    return engine


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_fp8_after_a_program_was_recorded(generation, precision):
    """The recorded program of before is forgotten, and the new one, which no host value enters, gives the same."""
    gate, model = gate_for(generation, precision), network(generation)
    inputs, noise = observation(model), noise_for(model)
    expected = reduced(generation, gate).sample(inputs, noise)
    engine = Engine(model, EMBODIMENT, OPTIONS, recorder=TapeRecorder(), log=pytest.fail)
    before = engine.sample(inputs, noise).clone()
    report = apply_precision(engine, gate)
    assert report.layers == gate.layers and not report.left
    for mode in ("eager", "graph"):
        found = engine.sample(inputs, noise)
        assert engine.report().mode == mode
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
        assert engine.wait(60)
    assert float((found - before).abs().max()) > 1e-5
    assert float(functional.cosine_similarity(found.flatten(), before.flatten(), dim=0)) > 0.98


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_fp8_frees_the_weights_with_the_release(generation, precision):
    gate, model = gate_for(generation, precision), network(generation)
    engine = Engine(model, EMBODIMENT, OPTIONS)
    products = [(holder, attribute) for _, holder, attribute in chosen(engine.program)]
    old = [weakref.ref(getattr(holder, attribute).weight) for holder, attribute in products]
    sizes = sum(getattr(holder, attribute).weight.nbytes for holder, attribute in products)
    held = engine.report().weight_bytes
    plain = Engine(network(generation), EMBODIMENT, OPTIONS)
    report = apply_precision(engine, gate)
    gc.collect()
    assert [reference() for reference in old] == [None] * len(old)
    named = [name for name, parameter in model.named_parameters() if parameter.numel()]
    assert engine.release() >= plain.release() + 0.99 * sizes  # what the model held of them goes too
    # All of a fused product's layers: what one of them still held would keep the memory of all.
    left = [name for name in named if model.get_parameter(name).numel() and "vision" not in name]
    assert not [name for name in left if name.endswith(("q_proj.weight", "k_proj.weight", "up_proj.weight"))]
    freed = report.bytes_before - report.bytes_after
    assert freed == pytest.approx(0.75 * sizes, rel=0.05) and held - engine.report().weight_bytes == freed
    assert engine.sample(observation(network(generation)), noise_for(network(generation))).isfinite().all()


@pytest.mark.parametrize("generation", GENERATIONS)
def test_fp8_with_other_observations_than_those_of_the_calibration(generation):
    gate = gate_for(generation, "fp8")
    exact, model = Engine(network(generation), EMBODIMENT, OPTIONS), network(generation)
    engine = reduced(generation, gate)
    for seed in range(1, 4):
        inputs, noise = observation(model, seed=seed, words=5 + seed), noise_for(model, seed)
        pair = [one.sample(inputs, noise).flatten() for one in (engine, exact)]
        assert float(functional.cosine_similarity(*pair, dim=0)) > 0.98


def test_fp8_of_packed_products():
    """On a CPU the engine brings large products into another order first."""
    model = network("n1d7")
    engine = Engine(model, EMBODIMENT, EngineOptions(pack=True))
    inputs, noise = observation(model), noise_for(model)
    engine.sample(inputs, noise)
    expected = reduced("n1d7", gate_for("n1d7", "fp8_weights")).sample(inputs, noise)
    apply_precision(engine, gate_for("n1d7", "fp8_weights"))
    torch.testing.assert_close(engine.sample(inputs, noise), expected, atol=1e-5, rtol=0)
    with pytest.raises(PrecisionUnavailable, match="is Fp8WeightDense already"):
        quantize(engine.program, "fp8_weights")


def without_fp8() -> bool:
    return not torch.cuda.is_available() or torch.cuda.get_device_capability() < CAPABILITY


def cuda_dense() -> tuple[Dense, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight, bias, x = (torch.randn(*shape, generator=generator) for shape in ((6144, 1536), (6144,), (1, 51, 1536)))
    return Dense(weight.cuda().bfloat16(), bias.cuda().bfloat16()), x.cuda().bfloat16()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_fp8_weights_on_a_gpu():
    dense, x = cuda_dense()
    found, expected = Fp8WeightDense(dense)(x).float(), dense(x).float()
    assert float((found - expected).norm() / expected.norm()) < 0.04


@pytest.mark.skipif(without_fp8(), reason="needs a GPU of compute capability 8.9")
def test_fp8_math_on_a_gpu_eagerly_and_recorded():
    dense, x = cuda_dense()
    product = Fp8Dense(dense, [2.0**-6, 2.0**-5])
    for step in (0, 1):
        found, expected = product(x, step).float(), dense(x).float()
        assert float((found - expected).norm() / expected.norm()) < 0.06
    expected = product(x, 1)
    replay = CudaGraphs(x.device).record(lambda: product(x, 1))
    torch.testing.assert_close(replay(), expected, atol=0, rtol=0)
