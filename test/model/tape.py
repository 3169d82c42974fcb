"""Graph capture without a GPU: a `Recorder` that repeats the operations of a program on the memory they ran on.

What a program does in Python happens once, when it is recorded; a replay runs the same ATen operations, with the same
numbers as arguments, on the same tensors. So a program whose replays are right depends on nothing but its buffers, as a
CUDA graph demands. What a CUDA capture would refuse, and would not notice, is refused or made to show:

* values that go to the host (`item`, `tolist`, `if tensor`), values that come from it (`torch.tensor`), shapes that
  depend on values, random numbers: `CaptureError`;
* a capture runs nothing: buffers are as before, and what was made meanwhile holds NaN until a replay;
* a replay of one program spoils the output of the recorder's others, whose memory it may have used.

Not emulated: memory that is freed under a graph; the tape keeps all that it touches.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from groot_ros.model.engine.graphs import CaptureError, one_line

# Methods that read values on the host without an operation, or move tensors there.
HOST_METHODS = {
    "__array__", "__bool__", "__complex__", "__float__", "__index__", "__int__", "cpu", "item", "numpy", "pin_memory",
    "tolist",
}  # fmt: skip
HOST_OPERATIONS = {"lift", "lift_fresh", "lift_fresh_copy"}
SHAPE_OPERATIONS = {
    "argwhere", "bincount", "masked_scatter", "masked_scatter_", "masked_select", "nonzero", "nonzero_numpy", "unique",
    "_unique2", "unique_consecutive", "unique_dim",
}  # fmt: skip
RANDOM_OPERATIONS = {
    "bernoulli", "cauchy", "exponential", "geometric", "log_normal", "multinomial", "native_dropout", "normal",
    "normal_functional", "poisson", "rand", "rand_like", "randint", "randint_like", "randn", "randn_like", "randperm",
    "random", "uniform",
}  # fmt: skip
MEMORY_OPERATIONS = {"resize", "resize_as", "set", "set_data"}


@dataclass
class Step:
    """One operation that a replay runs."""

    operation: Any
    args: Any
    kwargs: Any
    outputs: list[tuple[int, Tensor]]
    """Which of its outputs are new memory, and that memory."""

    def run(self) -> None:
        result = tree_leaves(self.operation(*self.args, **self.kwargs))
        for i, recorded in self.outputs:
            if result[i].shape != recorded.shape:
                raise AssertionError(f"{self.operation}: {tuple(result[i].shape)}, recorded {tuple(recorded.shape)}")
            recorded.copy_(result[i])


@dataclass(eq=False)
class TapeReplay:
    """A recorded program; a call replays it."""

    recorder: TapeRecorder
    steps: list[Step]
    output: Tensor
    replays: int = 0

    @property
    def names(self) -> list[str]:
        """The operations, in order, such as `aten.add.Tensor`; views are not among them."""
        return [str(step.operation) for step in self.steps]

    def __call__(self) -> Tensor:
        with self.recorder.lock, torch.inference_mode():
            if self.recorder.spoils_others:
                for other in self.recorder.programs:
                    if other is not self:
                        other.spoil()
            for step in self.steps:
                step.run()
            self.replays += 1
        return self.output

    def spoil(self) -> None:
        """Puts NaN where this program's own results are."""
        with torch.inference_mode():
            for step in self.steps:
                for _, tensor in step.outputs:
                    _fill_with_garbage(tensor)


@dataclass
class TapeRecorder:
    """A `Recorder` for programs on the CPU."""

    warm_up_runs: int = 1
    spoils_others: bool = True
    """Off where one program reads the output of another, recorded before it."""
    programs: weakref.WeakSet[TapeReplay] = field(default_factory=weakref.WeakSet)
    """What it recorded and somebody still holds."""
    lock: threading.RLock = field(default_factory=threading.RLock)

    def record(self, function: Callable[[], Tensor]) -> TapeReplay:
        """See `groot_ros.model.engine.graphs.Recorder`."""
        tape = _Tape()
        try:
            with torch.no_grad():
                for _ in range(self.warm_up_runs):
                    function()
                with _HostGuard(), tape:
                    output = function()
            if not isinstance(output, Tensor):
                raise CaptureError(f"the program gave {type(output).__name__}, expected a tensor")
        except CaptureError:
            raise
        except Exception as error:
            raise CaptureError(f"{type(error).__name__}: {one_line(error)}") from error
        finally:
            tape.restore()
        replay = TapeReplay(self, tape.steps, output)
        replay.spoil()
        with self.lock:
            self.programs.add(replay)
        return replay


class _HostGuard(TorchFunctionMode):
    """Refuses methods that take values to the host; some of them run no operation."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in HOST_METHODS:
            raise CaptureError(f"Tensor.{name} takes values to the host")
        return func(*args, **(kwargs or {}))


class _Tape(TorchDispatchMode):
    """Writes down what runs meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self._new: set[int] = set()
        """Storages that were made meanwhile; the steps keep them alive."""
        self._before: dict[int, tuple[Tensor, Tensor]] = {}
        """Storages from before that were written to: their bytes, and a copy of what they held."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):
            raise CaptureError(f"{func} is no ATen operation, and the tape cannot tell what it does")
        _check(func, args, kwargs)
        with self:  # so that what a composite operation is made of is seen
            result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        # The arguments as they are now: of a tensor that is given other memory or another shape, a graph knows nothing.
        recorded_args, recorded_kwargs = tree_map(_alias, args), tree_map(_alias, kwargs)
        inputs = {_storage(tensor) for tensor in _tensors((args, kwargs))}
        mutable = func._schema.is_mutable
        if mutable:
            self._keep(func, args, kwargs)
        result = func(*args, **kwargs)
        leaves = tree_leaves(result)
        outputs = [
            (i, leaf.detach())
            for i, leaf in enumerate(leaves)
            if isinstance(leaf, Tensor) and _storage(leaf) not in inputs
        ]
        self._new.update(_storage(tensor) for _, tensor in outputs)
        if outputs or mutable:
            self.steps.append(Step(func, recorded_args, recorded_kwargs, outputs))
        return result

    def restore(self) -> None:
        """Undoes what recording wrote: a capture runs nothing."""
        with torch.inference_mode():
            for own, copy in self._before.values():
                own.copy_(copy)

    def _keep(self, func: Any, args: Any, kwargs: Any) -> None:
        """Copies what the operation is about to write to, unless it was made here."""
        for i, argument in enumerate(func._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            value = args[i] if i < len(args) else kwargs.get(argument.name)
            for tensor in _tensors(value):
                key = _storage(tensor)
                if key not in self._new and key not in self._before:
                    storage = tensor.untyped_storage()
                    own = torch.empty(0, dtype=torch.uint8).set_(storage)
                    self._before[key] = (own, own.clone())


def _check(func: torch._ops.OpOverload, args: Any, kwargs: Any) -> None:
    """CaptureError for an operation that a capture refuses or the tape cannot repeat."""
    name = func._schema.name.split("::")[-1]
    plain = name.removesuffix("_") if name not in SHAPE_OPERATIONS else name
    if name == "_local_scalar_dense" or torch.Tag.data_dependent_output in func.tags:
        raise CaptureError(f"{func} takes values to the host")
    if name in HOST_OPERATIONS:
        raise CaptureError(f"{func} takes values from the host, as torch.tensor does; make the tensor beforehand")
    if plain in RANDOM_OPERATIONS:
        raise CaptureError(f"{func} draws random numbers; read them from a buffer")
    if plain in MEMORY_OPERATIONS:
        raise CaptureError(f"{func} gives a tensor other memory")
    if name in SHAPE_OPERATIONS:
        raise CaptureError(f"{func} has a shape that depends on values")
    if name in ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"):
        if any(index.dtype in (torch.bool, torch.uint8) for index in _tensors(args[1])):
            raise CaptureError(f"{func} with a mask has a shape that depends on values")
    elif torch.Tag.dynamic_output_shape in func.tags and kwargs.get("output_size") is None:
        raise CaptureError(f"{func} has a shape that depends on values")


def _alias(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _tensors(value: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))


def _fill_with_garbage(tensor: Tensor) -> None:
    if tensor.is_floating_point() or tensor.is_complex():
        tensor.fill_(float("nan"))
    elif tensor.dtype == torch.bool:
        tensor.logical_not_()
    else:
        tensor.fill_(torch.iinfo(tensor.dtype).max)
