"""Products of the engine in 8-bit floats (E4M3: 4 bits of exponent, 3 of mantissa, largest value 448).

`fp8_weights`: the weights only, which halves their memory on any device. `fp8`: weights and activations, multiplied by
the tensor cores of compute capability 8.9 and above. By default the language model and the DiT, without the keys and
values of its cross-attention: they are computed once per chunk and then read by every Euler step, so an error there
counts at all of them. Vision tower, refinement, encoders and decoder stay as they are; the vision tower is the part
that drifts first (spec performance.md, A5).

Every scale is a power of two. A float format has the same relative precision at every scale, so nothing is lost, and
multiplying by it is exact in bfloat16 too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from groot_ros.model.engine.dense import Dense, tensors_of
from groot_ros.model.engine.gate import FP8, FP8_WEIGHTS, MODEL, PRECISIONS, GateResult

E4M3 = torch.float8_e4m3fn
E4M3_MAX = 448.0
CAPABILITY = (8, 9)
"""What `torch._scaled_mm` needs: Ada, Hopper, Blackwell."""
MULTIPLE = 16
"""What it needs inputs and outputs of a product to be a multiple of; rows are free."""
MARGIN = 1.5
"""How much larger than anything seen in calibration an activation may be before it saturates. Costs no precision, only
range at the lower end: at most 1.6 of the 15 powers of two in which E4M3 keeps its mantissa, rounding up included."""
LAYERS = ("language.*", "dit.*")
EXCLUDED = ("language.projection", "dit.kv.*")


class HasProducts(Protocol):
    """A program of the engine: its big products by name."""

    def denses(self) -> Iterator[tuple[str, object, str]]:
        """Name, the object that holds the product, and in which attribute."""
        ...


class PrecisionUnavailable(ValueError):
    """This device, this torch or these numbers do not allow the precision. The message says what would."""


class Fp8WeightDense:
    """x W^T + b with W in E4M3 and one scale per output; everything else in the dtype of x.

    Half the memory of bfloat16. W is converted on every call: unless torch.compile puts that into the product, which
    it does with some shapes only, up to 2.5 times the bytes of a bfloat16 product are moved (1 read, 2 written, 2 read
    again, instead of 2), and it is slower. For GPUs whose memory is too small, not for speed.

    Attributes:
        weight: E4M3 [out,in].
        scale: [out], powers of two, in the dtype of the original weight.
        bias: [out], or None.
    """

    __slots__ = ("bias", "scale", "weight")

    def __init__(self, source: Dense) -> None:
        """`source` is not kept. Raises: ValueError (NaN or infinity in the weights)."""
        weight = source.weight.detach()
        scale = power_of_two(weight.float().abs().amax(dim=1))
        self.weight = saturated(weight.float() / scale[:, None])
        self.scale = scale.to(weight.dtype)
        self.bias = source.bias

    def __call__(self, x: Tensor, step: int = 0) -> Tensor:
        """x [...,in] -> [...,out]."""
        out = functional.linear(x, self.weight.to(x.dtype))
        return out * self.scale if self.bias is None else torch.addcmul(self.bias, out, self.scale)


class Fp8Dense:
    """x W^T + b with x and W in E4M3, summed in float32, out in the dtype of x. Static shapes, no wait for the device.

    W has one scale, x one per Euler step, fixed before (`Calibrator`): the DiT's activations differ from step to step.
    x is converted by a few small kernels, which torch.compile makes one of; without it they cost launches.

    Attributes:
        weight: E4M3 [out,in].
        weight_scale: float32 scalar.
        scales: float32 scalars, one per step; each a tensor of its own, so that its address is aligned.
        inverses: 1 / scales.
        bias: [out], or None.
    """

    __slots__ = ("bias", "inverses", "scales", "weight", "weight_scale")

    def __init__(self, source: Dense, scales: Sequence[float]) -> None:
        """`source` is not kept.

        Args:
            scales: of x, one per step, powers of two.

        Raises:
            ValueError: NaN or infinity in the weights, or `fits` says no.
        """
        exact = source.weight.detach().float()
        if not fits(exact.shape):
            raise ValueError(f"expected sizes that are multiples of {MULTIPLE}, found {list(exact.shape)}")
        self.weight_scale = power_of_two(exact.abs().amax())
        self.weight = saturated(exact / self.weight_scale)
        self.scales = tuple(torch.tensor(scale, dtype=torch.float32, device=exact.device) for scale in scales)
        self.inverses = tuple(1 / scale for scale in scales)
        self.bias = source.bias

    def __call__(self, x: Tensor, step: int = 0) -> Tensor:
        """x [...,in] -> [...,out]."""
        rows = saturated(x.reshape(-1, x.shape[-1]) * self.inverses[step])
        out = multiplied(rows, self.weight, self.scales[step], self.weight_scale, self.bias, x.dtype)
        return out.unflatten(0, x.shape[:-1])


def power_of_two(largest: Tensor) -> Tensor:
    """The smallest powers of two by which values up to `largest` (float32, any shape) fit into E4M3; 1 for zero.

    Raises:
        ValueError: NaN or infinity.
    """
    values = largest.double().cpu().numpy()
    if not np.isfinite(values).all():
        raise ValueError("expected finite numbers, found NaN or infinity")
    mantissa, exponent = np.frexp(values / E4M3_MAX)
    exponent = np.where(mantissa == 0.5, exponent - 1, exponent)
    scale = np.where(values == 0, 1.0, np.ldexp(1.0, np.clip(exponent, -100, 100)))
    return torch.from_numpy(np.asarray(scale, dtype=np.float32)).to(largest.device)


def saturated(values: Tensor) -> Tensor:
    """E4M3, rounded to the nearest; what is too large becomes the largest number, NaN stays NaN."""
    return values.clamp(-E4M3_MAX, E4M3_MAX).to(E4M3)


def multiplied(
    rows: Tensor, weight: Tensor, scale: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """(rows * scale) (weight * weight_scale)^T + bias -> [M,out] of `dtype`.

    Args:
        rows: E4M3 [M,in].
        weight: E4M3 [out,in].
        scale, weight_scale: float32 scalars on the device.
    """
    if rows.device.type == "cpu" and not _cpu_multiplies():
        exact = functional.linear(rows.float(), weight.float()) * (scale * weight_scale)
        return (exact if bias is None else exact + bias.float()).to(dtype)
    # cuBLAS adds no bias to float32 (aten/src/ATen/native/cuda/Blas.cpp).
    apart = bias is not None and dtype == torch.float32
    out = torch._scaled_mm(
        rows.contiguous(),
        weight.t(),
        scale_a=scale,
        scale_b=weight_scale,
        bias=None if apart else bias,
        out_dtype=dtype,
    )
    return out + bias if apart and bias is not None else out


@cache
def _cpu_multiplies() -> bool:
    """Whether this torch has `_scaled_mm` for the CPU, as newer ones do."""
    one, scale = torch.ones(MULTIPLE, MULTIPLE).to(E4M3), torch.ones(())
    try:
        torch._scaled_mm(one, one.t(), scale_a=scale, scale_b=scale, out_dtype=torch.float32)
    except (NotImplementedError, RuntimeError):
        return False
    return True


def fits(shape: Sequence[int]) -> bool:
    """Whether the tensor cores take a product of this size [out,in]."""
    return all(size % MULTIPLE == 0 for size in shape)


def check_device(precision: str, device: torch.device) -> None:
    """Raises: PrecisionUnavailable where the device does not multiply in fp8, and the precision is `fp8`."""
    if precision not in PRECISIONS:
        raise PrecisionUnavailable(f"precision '{precision}': expected one of {', '.join(PRECISIONS)}")
    if precision != FP8 or device.type != "cuda":
        return
    found = torch.cuda.get_device_capability(device)
    if found < CAPABILITY:
        raise PrecisionUnavailable(
            f"precision 'fp8': expected compute capability 8.9 or more (Ada, Hopper, Blackwell), found {found[0]}."
            f"{found[1]} ({torch.cuda.get_device_name(device)}): use precision fp8_weights, which halves the memory of "
            "the weights on any GPU, or model"
        )


class Calibrator:
    """Records the largest activation of every product at every Euler step while the program runs. A context manager.

    On leaving, the program is as it was. Nothing waits for the device until `scales` is asked for.

    Args:
        program: unquantised.
        layers, exclude: as for `quantize`.
    """

    def __init__(self, program: HasProducts, layers: Sequence[str] = LAYERS, exclude: Sequence[str] = EXCLUDED) -> None:
        self._places = list(chosen(program, layers, exclude))
        self._watched: dict[str, _Watched] = {}

    def __enter__(self) -> Calibrator:
        for name, holder, attribute in self._places:
            self._watched[name] = _Watched(getattr(holder, attribute))
            setattr(holder, attribute, self._watched[name])
        return self

    def __exit__(self, *_: object) -> None:
        for name, holder, attribute in self._places:
            setattr(holder, attribute, self._watched[name].source)

    def scales(self) -> dict[str, tuple[float, ...]]:
        """Name -> scale per step, `MARGIN` included, of every product that fits fp8.

        Raises:
            PrecisionUnavailable: a product was never run, or met NaN or infinity.
        """
        found = {}
        for name, watched in self._watched.items():
            if not fits(watched.source.weight.shape):
                continue
            if not watched.largest:
                raise PrecisionUnavailable(f"{name}: expected to be run in calibration, found no input")
            try:
                scales = power_of_two(MARGIN * torch.stack(watched.largest))
            except ValueError as error:
                raise PrecisionUnavailable(f"{name}: calibration: {error}") from error
            found[name] = tuple(float(scale) for scale in scales)
        return found


class _Watched:
    """A product that remembers the largest absolute input of every step, on the device."""

    def __init__(self, source: Dense) -> None:
        self.source = source
        self.largest: list[Tensor] = []

    def __call__(self, x: Tensor, step: int = 0) -> Tensor:
        while len(self.largest) <= step:
            self.largest.append(torch.zeros((), device=x.device))
        self.largest[step] = torch.maximum(self.largest[step], x.detach().abs().amax().float())
        return self.source(x, step)


@dataclass(frozen=True)
class QuantizeReport:
    """What `quantize` did.

    Attributes:
        precision: as given.
        layers: names of the products that were replaced.
        left: those that were asked for and stayed: name -> why.
        bytes_before, bytes_after: weights, biases and scales of all products of the program.
    """

    precision: str
    layers: tuple[str, ...]
    bytes_before: int
    bytes_after: int
    left: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        some = "; ".join(f"{name}: {why}" for name, why in list(self.left.items())[:3])
        left = f"; {len(self.left)} stay as they were ({some})" if self.left else ""
        before, after = (f"{size / 1e6:,.1f}" for size in (self.bytes_before, self.bytes_after))
        return f"precision {self.precision}: {len(self.layers)} products, {before} -> {after} MB of weights{left}"


def chosen(
    program: HasProducts, layers: Sequence[str] = LAYERS, exclude: Sequence[str] = EXCLUDED
) -> Iterator[tuple[str, object, str]]:
    """The products whose names match a pattern of `layers` (`dit.*`, `language.3.down`) and none of `exclude`."""
    for name, holder, attribute in program.denses():
        if _matches(name, layers) and not _matches(name, exclude):
            yield name, holder, attribute


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def quantize(
    program: HasProducts,
    precision: str,
    scales: Mapping[str, Sequence[float]] | None = None,
    *,
    layers: Sequence[str] = LAYERS,
    exclude: Sequence[str] = EXCLUDED,
) -> QuantizeReport:
    """Replaces products of the program, one after another, so that at most one is held twice.

    Their weights are freed unless something else holds them, as the plain model does until `Engine.release`. Graphs
    that were captured before go on with the old weights: quantise first.

    Args:
        precision: `fp8_weights`, or `fp8` with `scales`; `model` changes nothing.
        scales: of `Calibrator.scales`. A product without them stays as it is.
        layers, exclude: patterns of names.

    Raises:
        PrecisionUnavailable: the device cannot, the program is quantised already, or weights hold NaN (then some
            products are replaced: load the checkpoint again); the message says which.
    """
    if precision not in PRECISIONS:
        raise PrecisionUnavailable(f"precision '{precision}': expected one of {', '.join(PRECISIONS)}")
    places = [] if precision == MODEL else list(chosen(program, layers, exclude))
    for name, holder, attribute in places:
        product = getattr(holder, attribute)
        if not isinstance(product, Dense):
            raise PrecisionUnavailable(f"{name} is {type(product).__name__} already: load the checkpoint again")
        check_device(precision, next(tensors_of(product)).device)
    before = products_bytes(program)
    done, left = [], {}
    for name, holder, attribute in places:
        source = getattr(holder, attribute)
        try:
            if precision == FP8_WEIGHTS:
                setattr(holder, attribute, Fp8WeightDense(source))
            elif not fits(shape := source.weight.shape):
                left[name] = f"sizes {list(shape)} are no multiples of {MULTIPLE}"
                continue
            elif scales is None or name not in scales:
                left[name] = "not calibrated"
                continue
            else:
                setattr(holder, attribute, Fp8Dense(source, scales[name]))
        except ValueError as error:
            raise PrecisionUnavailable(f"precision '{precision}': weights of {name}: {error}") from error
        done.append(name)
    return QuantizeReport(precision, tuple(done), before, products_bytes(program), left)


def products_bytes(program: HasProducts) -> int:
    """Bytes of all tensors in the products of a program."""
    return sum(_bytes(getattr(holder, attribute)) for _, holder, attribute in program.denses())


def _bytes(product: object) -> int:
    packed = getattr(product, "packed", None)  # for a CPU; its `weight` is another copy, made when asked for
    tensors = [packed, product.bias] if packed is not None else list(tensors_of(product))  # type: ignore[attr-defined]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


class HasProgram(Protocol):
    """An `Engine`."""

    @property
    def program(self) -> HasProducts:
        """What it runs."""
        ...

    def wait(self) -> bool:
        """Until nothing is being recorded."""
        ...

    def changed(self) -> None:
        """Forget what was recorded of the program."""
        ...


def apply_precision(engine: HasProgram, gate: GateResult) -> QuantizeReport:
    """Gives an engine the precision that was measured: the same products, the same scales.

    Args:
        gate: of a file that says passed; `groot_ros.policy.precision_gate.allowed_precision` reads it.

    Raises:
        PrecisionUnavailable: see `quantize`; or the network has not the products of the file.
    """
    program = engine.program
    missing = set(gate.layers) - {name for name, _, _ in program.denses()}
    if missing or not gate.layers:
        what = ", ".join(sorted(missing)[:3]) or "any product"
        raise PrecisionUnavailable(f"{gate.source}: layers: this network has not {what}: measure again")
    engine.wait()  # a recording under way reads the weights
    report = quantize(program, gate.precision, gate.scales, layers=gate.layers, exclude=())
    engine.changed()
    return report
