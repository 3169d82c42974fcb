"""Products in E4M3: how far they are from the ones they replace, how they are calibrated, and what is freed."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from groot_ros.model.engine import fp8
from groot_ros.model.engine.dense import Dense
from groot_ros.model.engine.fp8 import (
    E4M3,
    Calibrator,
    Fp8Dense,
    Fp8WeightDense,
    PrecisionUnavailable,
    apply_precision,
    chosen,
    power_of_two,
    quantize,
    saturated,
)
from groot_ros.model.engine.gate import GateResult

STEPS = 3
NAMES = (
    "vision.0.up",
    "language.0.down",
    "language.projection",
    "dit.0.q",
    "dit.0.down",
    "dit.kv.text",
    "decoder.first",
)


def dense(outputs: int = 32, inputs: int = 64, *, seed: int = 0, bias: bool = True, dtype: torch.dtype) -> Dense:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=generator) * torch.rand(outputs, 1, generator=generator)
    return Dense(weight.to(dtype), torch.randn(outputs, generator=generator).to(dtype) if bias else None)


def inputs_of(shape: tuple[int, ...] = (1, 51, 64), *, seed: int = 1, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


class Net:
    """Products under names such as the engine's, run one after another, the DiT's at every step."""

    def __init__(self, dtype: torch.dtype = torch.float32, inputs: int = 64) -> None:
        self.parts = {
            name: SimpleNamespace(product=dense(64, inputs, seed=i, dtype=dtype)) for i, name in enumerate(NAMES)
        }

    def denses(self) -> Iterator[tuple[str, object, str]]:
        for name, part in self.parts.items():
            yield name, part, "product"

    def __call__(self, x: Tensor) -> Tensor:
        for name, part in self.parts.items():
            for step in range(STEPS if name.startswith("dit.") and "kv" not in name else 1):
                x = functional.layer_norm(part.product(x * (1 + step), step), (x.shape[-1],))
        return x


def test_scales_are_the_smallest_powers_of_two_that_fit() -> None:
    largest = torch.tensor([0.0, 448.0, 448.1, 1.0, 3e-9, 1e30])
    scales = power_of_two(largest)
    assert scales[:4].tolist() == [1.0, 1.0, 2.0, 2.0**-8]
    assert (largest / scales <= fp8.E4M3_MAX).all()
    for scale in scales:
        mantissa, _ = torch.frexp(scale)
        assert mantissa == 0.5
    with pytest.raises(ValueError, match="NaN or infinity"):
        power_of_two(torch.tensor([1.0, float("nan")]))


def test_what_is_too_large_saturates_and_nan_stays() -> None:
    values = saturated(torch.tensor([500.0, -1e9, float("inf"), float("nan"), 0.3])).float()
    assert values[:3].tolist() == [448.0, -448.0, 448.0]
    assert values[3].isnan() and values[4] == pytest.approx(0.3, rel=2**-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_weights_in_fp8_are_those_of_the_rounded_matrix(dtype: torch.dtype, bias: bool) -> None:
    source = dense(bias=bias, dtype=dtype)
    reduced, x = Fp8WeightDense(source), inputs_of(dtype=dtype)
    assert reduced.weight.dtype is E4M3 and reduced.weight.shape == source.weight.shape
    rounded = reduced.weight.float() * reduced.scale.float()[:, None]
    # Three bits of mantissa: half a unit in the last place, of each number, whatever the size of its row.
    normal = source.weight.float().abs() > reduced.scale.float()[:, None] * 2**-6
    assert ((rounded - source.weight.float()).abs()[normal] <= 2**-4 * source.weight.float().abs()[normal]).all()
    exact = functional.linear(x.float(), rounded, None if source.bias is None else source.bias.float())
    found = reduced(x)
    assert found.dtype is dtype and found.shape == (1, 51, 32)
    assert relative_error(found, exact) < (1e-6 if dtype is torch.float32 else 1e-2)
    assert relative_error(found, source(x)) < 0.04


@pytest.mark.parametrize("emulated", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_fp8_math_is_near_the_product_at_every_step(
    dtype: torch.dtype, bias: bool, emulated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if emulated:  # as in a torch whose CPU has no such product
        monkeypatch.setattr(fp8, "_cpu_multiplies", lambda: False)
    source = dense(bias=bias, dtype=dtype)
    x = inputs_of(dtype=dtype)
    reduced = Fp8Dense(source, [2.0**-6, 2.0**2])
    for step, size in enumerate((1.0, 200.0)):
        found = reduced(x * size, step)
        assert found.dtype is dtype and found.shape == (1, 51, 32)
        assert relative_error(found, source(x * size)) < 0.06
    assert relative_error(reduced(x * 200.0, 0), source(x * 200.0)) > 0.3  # the scale of the other step saturates
    assert reduced(x[0, :3]).shape == (3, 32)


def test_both_ways_of_multiplying_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    source, x = dense(dtype=torch.float32), inputs_of(dtype=torch.float32)
    reduced = Fp8Dense(source, [2.0**-6])
    first = reduced(x)
    monkeypatch.setattr(fp8, "_cpu_multiplies", lambda: False)
    assert relative_error(reduced(x), first) < 1e-6


def test_the_bias_is_added_apart_where_cublas_would_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[bool, torch.dtype, tuple[int, ...]]] = []

    def scaled_mm(rows: Tensor, weight: Tensor, bias: Tensor | None, **given_too: Any) -> Tensor:
        scale_a, scale_b, out_dtype = (given_too[name] for name in ("scale_a", "scale_b", "out_dtype"))
        assert scale_a.dtype is scale_b.dtype is torch.float32 and scale_a.ndim == scale_b.ndim == 0
        assert weight.stride(0) == 1  # column-major, as cuBLAS wants it
        given.append((bias is not None, out_dtype, tuple(weight.shape)))
        out = (rows.float() @ weight.float()) * scale_a * scale_b
        return (out if bias is None else out + bias).to(out_dtype)

    monkeypatch.setattr(torch, "_scaled_mm", scaled_mm)
    monkeypatch.setattr(fp8, "_cpu_multiplies", lambda: True)
    for dtype in (torch.float32, torch.bfloat16):
        source, x = dense(dtype=dtype), inputs_of(dtype=dtype)
        assert relative_error(Fp8Dense(source, [2.0**-6])(x), source(x)) < 0.06
    assert given == [(False, torch.float32, (64, 32)), (True, torch.bfloat16, (64, 32))]


def test_by_default_language_and_dit_without_its_keys_and_values() -> None:
    assert [name for name, _, _ in chosen(Net())] == ["language.0.down", "dit.0.q", "dit.0.down"]
    assert [name for name, _, _ in chosen(Net(), ["dit.*"], ["*.down"])] == ["dit.0.q", "dit.kv.text"]


def test_calibration_knows_every_step_and_leaves_the_program_as_it_was() -> None:
    net, x = Net(), inputs_of(dtype=torch.float32)
    before, parts = net(x), {name: part.product for name, part in net.parts.items()}
    with Calibrator(net) as calibrator:
        again = net(x)
        net(0.5 * x)
    assert torch.equal(before, again)
    assert all(net.parts[name].product is product for name, product in parts.items())
    scales = calibrator.scales()
    assert {name: len(steps) for name, steps in scales.items()} == {
        "language.0.down": 1,
        "dit.0.q": STEPS,
        "dit.0.down": STEPS,
    }
    assert scales["dit.0.q"][0] < scales["dit.0.q"][2]  # its input is three times as large there
    for steps in scales.values():
        assert all(scale > 0 and torch.frexp(torch.tensor(scale))[0] == 0.5 for scale in steps)


def test_calibration_holds_what_was_seen_with_a_margin() -> None:
    net = Net()
    x = inputs_of(dtype=torch.float32)
    with Calibrator(net, ["vision.0.up"], []) as calibrator:
        net(x)
        net(3 * x)
    [[scale]] = calibrator.scales().values()
    seen = float((3 * x).abs().max())
    assert fp8.MARGIN * seen <= scale * fp8.E4M3_MAX < 2 * fp8.MARGIN * seen


def test_calibration_that_saw_nothing_or_nan_is_refused() -> None:
    net = Net()
    with Calibrator(net) as calibrator:
        pass
    with pytest.raises(PrecisionUnavailable, match=r"language.0.down: expected to be run"):
        calibrator.scales()
    with Calibrator(net) as calibrator:
        net(torch.full((1, 2, 64), float("nan")))
    with pytest.raises(PrecisionUnavailable, match=r"language.0.down: calibration: .*NaN"):
        calibrator.scales()


@pytest.mark.parametrize("precision", ["fp8_weights", "fp8"])
def test_a_program_is_quantised_and_its_old_weights_are_freed(precision: str) -> None:
    net, x = Net(torch.bfloat16), inputs_of(dtype=torch.bfloat16)
    before = net(x)
    with Calibrator(net) as calibrator:
        net(x)
    old = [weakref.ref(part.product.weight) for name, part in net.parts.items() if name in ("dit.0.q", "dit.0.down")]
    report = quantize(net, precision, calibrator.scales())
    del calibrator
    gc.collect()
    assert [reference() for reference in old] == [None, None]
    assert report.layers == ("language.0.down", "dit.0.q", "dit.0.down") and not report.left
    matrix = 64 * 64
    small = 2 * 64 if precision == "fp8_weights" else 4 * (1 + STEPS)  # scales
    assert report.bytes_before == len(NAMES) * 2 * (matrix + 64)
    assert report.bytes_after <= report.bytes_before - 3 * (matrix - small)
    assert relative_error(net(x), before) < 0.3 and not torch.equal(net(x), before)
    assert f"precision {precision}: 3 products" in str(report)


def test_products_that_do_not_fit_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    net = SimpleNamespace(part=SimpleNamespace(a=dense(32, 60, dtype=torch.float32), b=dense(dtype=torch.float32)))
    net.denses = lambda: iter([("dit.0.q", net.part, "a"), ("dit.0.up", net.part, "b"), ("dit.0.out", net.part, "b")])
    report = quantize(net, "fp8", {"dit.0.up": [1.0]}, exclude=["dit.0.out"])
    assert report.layers == ("dit.0.up",) and "60" in report.left["dit.0.q"]
    assert "1 stay as they were (dit.0.q: sizes [32, 60]" in str(report)
    assert quantize(Net(), "fp8", {}).left == dict.fromkeys(
        ("language.0.down", "dit.0.q", "dit.0.down"), "not calibrated"
    )


def test_precision_model_changes_nothing() -> None:
    net = Net()
    report = quantize(net, "model")
    assert report.layers == () and report.bytes_before == report.bytes_after


def test_what_cannot_be_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    with pytest.raises(PrecisionUnavailable, match=r"precision 'int4': expected one of model, fp8_weights, fp8"):
        quantize(net, "int4")
    net.parts["dit.0.q"].product.weight[3, 4] = float("inf")
    with pytest.raises(PrecisionUnavailable, match=r"'fp8_weights': weights of dit.0.q: .*NaN or infinity"):
        quantize(net, "fp8_weights")
    with pytest.raises(PrecisionUnavailable, match=r"language.0.down is Fp8WeightDense already"):
        quantize(net, "fp8_weights")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 7))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Orin")
    with pytest.raises(PrecisionUnavailable, match=r"8.9 or more .* found 8.7 \(Orin\): use precision fp8_weights"):
        fp8.check_device("fp8", torch.device("cuda"))
    fp8.check_device("fp8_weights", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    fp8.check_device("fp8", torch.device("cuda"))


def gate(layers: tuple[str, ...], scales: dict[str, tuple[float, ...]], precision: str = "fp8") -> GateResult:
    return GateResult(
        precision,
        "passed",
        (),
        "abc",
        "/ckpt",
        "arm",
        "tag",
        "n1d7",
        STEPS,
        layers,
        scales,
        {},
        "2026",
        source="f.json",
    )


class Holder:
    """As an `Engine`."""

    def __init__(self) -> None:
        self.program, self.calls = Net(), list[str]()

    def wait(self) -> bool:
        assert all(isinstance(part.product, Dense) for part in self.program.parts.values())
        self.calls.append("wait")
        return True

    def changed(self) -> None:
        assert any(isinstance(part.product, Fp8Dense) for part in self.program.parts.values())
        self.calls.append("changed")


def test_an_engine_gets_what_was_measured_and_nothing_else() -> None:
    engine = Holder()
    report = apply_precision(engine, gate(("dit.0.q",), {"dit.0.q": (1.0, 1.0, 1.0)}))
    assert engine.calls == ["wait", "changed"]  # nothing records the old weights, and nothing recorded replays them
    assert report.layers == ("dit.0.q",)
    assert isinstance(engine.program.parts["dit.0.q"].product, Fp8Dense)
    assert isinstance(engine.program.parts["dit.0.down"].product, Dense)
    with pytest.raises(PrecisionUnavailable, match=r"f.json: layers: this network has not dit.9.q: measure again"):
        apply_precision(Holder(), gate(("dit.0.q", "dit.9.q"), {}))
    with pytest.raises(PrecisionUnavailable, match=r"has not any product"):
        apply_precision(Holder(), gate((), {}))
