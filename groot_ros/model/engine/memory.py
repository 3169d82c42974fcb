"""Whether a checkpoint fits on a GPU: what it needs, what is there, what would fit; and what to say when it ran out.

Nothing here is measured on a GPU: none was at hand. Weights are counted from the files; the rest is an allowance, with
its derivation at the constants.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from groot_ros.model.checkpoint import load_config
from groot_ros.model.groot import GrootModel
from groot_ros.model.tensor_files import find_tensors

MIB = 2**20
GIB = 2**30

ACTIVATION_BYTES = 128 * MIB
"""Of one run in bfloat16 with three cameras. The widest are those of N1.5, 3 x 256 image tokens and some 40 others:
the language model's gated product, 810 x 12288 numbers, 20 MB; where attention is not of the flash kind, the scores of
one layer, 16 heads x 810 x 810 in float32, 42 MB; keys and values of its 8 cross-attentions, 810 x 2 x 1536 numbers
each, 40 MB (N1.6 and N1.7 have 16, of a third of the tokens). The rest is smaller, and few tensors live at once."""
COPIES = 3
"""Of the activations: eager runs, warm-up before a capture (on a stream with blocks of its own), the graphs."""
WORKSPACE_BYTES = 4 * 32 * MIB
"""cuBLAS keeps one workspace per thread and stream, 32 MiB on Hopper (torch's default; less on others): inference,
warm-up, capture, and one to spare."""
OTHER_BYTES = 512 * MIB
"""Fused weights beside their parts while the engine is built (the largest, all keys and values of the cross-attention,
have 101 M numbers: 200 MB), kernels that CUDA loads on first use, and what the allocator cannot use of its blocks."""

PARAMETERS = {"n1d5": 2_398_284_528, "n1d6": 2_960_729_840, "n1d7": 3_144_013_952}
"""Numbers that are loaded of a released checkpoint, by generation."""
_NAMES = {"n1d5": "N1.5", "n1d6": "N1.6", "n1d7": "N1.7"}
OUT_OF_MEMORY = "out of GPU memory"
"""How messages about it begin."""
SLOWER = "device:=cpu, many times slower"
"""What is left where nothing fits."""
_MEMINFO = Path("/proc/meminfo")


class DeviceMemoryError(RuntimeError):
    """A checkpoint that cannot be loaded on the device; the message says what is needed, there, and would fit."""


@dataclass(frozen=True)
class Need:
    """What a checkpoint takes on a device, in bytes."""

    generation: str
    dtype: torch.dtype
    weights: int
    """The parameters that are loaded, all at once: other precisions are made of them afterwards."""

    @property
    def working(self) -> int:
        """The allowance for everything else."""
        return COPIES * ACTIVATION_BYTES * self.dtype.itemsize // 2 + WORKSPACE_BYTES + OTHER_BYTES

    @property
    def total(self) -> int:
        return self.weights + self.working


@dataclass(frozen=True)
class DeviceMemory:
    """What a device has, in bytes."""

    name: str
    free: int
    """For this process: what nobody uses, and what torch holds without using it."""
    total: int
    held: int = 0
    """By this process's tensors."""


def needed_bytes(directory: str | Path, dtype: torch.dtype) -> Need:
    """What a checkpoint directory takes in `dtype`, without the tensors that are never read. Reads headers only.

    Raises:
        CheckpointError: as `load_model`, as far as config and headers tell.
    """
    directory = Path(directory)
    config = load_config(directory)
    stored = find_tensors(directory)
    with torch.device("meta"):
        model = GrootModel(config)
    left_out = {*model.tied_parameters(), *model.unused_parameters()}
    shapes = {name: tuple(p.shape) for name, p in model.state_dict().items() if name not in left_out}
    # Names of one stored tensor become one parameter; what is in no file is made, and of the network's shape.
    places = {stored.get(name, name): stored[name].shape if name in stored else shape for name, shape in shapes.items()}
    return Need(config.generation, dtype, sum(math.prod(shape) for shape in places.values()) * dtype.itemsize)


def device_memory(device: torch.device) -> DeviceMemory:
    """What a CUDA device has now."""
    free, total = torch.cuda.mem_get_info(device)
    properties: Any = torch.cuda.get_device_properties(device)
    if getattr(properties, "is_integrated", False):
        # A Jetson: one memory for all. What the system keeps of files counts as used there, but is given up on demand.
        free = max(free, available_bytes() or 0)
    allocated = torch.cuda.memory_allocated(device)
    free += torch.cuda.memory_reserved(device) - allocated
    return DeviceMemory(properties.name, min(free, total), total, allocated)


def check_fits(need: Need, memory: DeviceMemory) -> str | None:
    """A warning where it will be tight, None where it fits.

    Raises:
        DeviceMemoryError: not even the weights fit.
    """
    if need.total <= memory.free:
        return None
    what = f"{_NAMES.get(need.generation, need.generation)} in {_name(need.dtype)}"
    amount = f"{_gib(need.weights)} of weights and about {_gib(need.working)} to work with"
    have = f"{memory.name} has {_gib(memory.free)} free of {_gib(memory.total)}"
    advice = "; or ".join(_advice(need, memory))
    if need.weights > memory.free:
        # The precisions of fp8 are made of weights that are loaded.
        raise DeviceMemoryError(
            f"{what} needs {amount}, {have}: {advice}; precision:=fp8_weights needs as much to load"
        )
    smaller = "precision:=fp8_weights holds less once it is loaded"
    return f"{what} needs {amount}, {have}: it may run out of memory; {advice}; or {smaller}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device's memory ran out."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in text or "CUBLAS_STATUS_ALLOC_FAILED" in text)
    )


def out_of_memory_message(error: BaseException, memory: DeviceMemory | None = None) -> str:
    """What to tell when memory ran out in the middle of a run: how much was wanted and is there, and what helps.

    Args:
        error: of torch.
        memory: of the device, read after the failure; None: it is not known.
    """
    wanted = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", str(error))
    text = OUT_OF_MEMORY + (f", {wanted[1]} wanted" if wanted else "")
    helps = f"dtype:=bfloat16, precision:=fp8_weights, fewer cameras, or {SLOWER}"
    if memory is None:
        return f"{text}; what helps: end other programs that use the GPU, {helps}"
    others = max(memory.total - memory.free - memory.held, 0)
    text += f": {memory.name} has {_gib(memory.free)} free of {_gib(memory.total)}, this program's tensors hold "
    text += f"{_gib(memory.held)}, other programs and the driver {_gib(others)}"
    first = "end other programs that use the GPU, " if others > GIB else ""
    return f"{text}; what helps: {first}{helps}"


def _advice(need: Need, memory: DeviceMemory) -> list[str]:
    """What would fit."""
    fits = []
    if need.dtype.itemsize > 2:
        half = dataclasses.replace(need, dtype=torch.bfloat16, weights=need.weights * 2 // need.dtype.itemsize)
        if half.total <= memory.free:
            fits.append(f"dtype:=bfloat16 needs {_gib(half.total)}")
    for generation, name in _NAMES.items():
        other = Need(generation, torch.bfloat16, PARAMETERS[generation] * torch.bfloat16.itemsize)
        if other.total <= memory.free and other.weights < need.weights * 2 // need.dtype.itemsize:
            fits.append(f"a checkpoint of {name} in bfloat16 needs {_gib(other.total)}")
    if need.total <= memory.total:
        fits.insert(0, "end other programs that use the GPU")
    if not fits:
        smallest = dataclasses.replace(need, dtype=torch.bfloat16, weights=need.weights * 2 // need.dtype.itemsize)
        fits.append(f"no dtype and no generation fits; take a GPU with {_gib(smallest.total)} free")
    if fits_on_host(dataclasses.replace(need, dtype=torch.float32, weights=need.weights * 4 // need.dtype.itemsize)):
        fits.append(f"use {SLOWER}")
    return fits


def available_bytes() -> int | None:
    """Of the host's memory, what the system says a program can still get; None: it does not say."""
    try:
        match = re.search(r"^MemAvailable:\s+(\d+) kB", _MEMINFO.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return int(match[1]) * 1024 if match else None


def fits_on_host(need: Need) -> bool:
    """Whether the host's memory has room for it, as far as the system says."""
    return need.total <= (available_bytes() or 0)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _gib(count: int) -> str:
    """In GiB, as `nvidia-smi` and torch count; needs are not rounded below what they are."""
    return f"{count / GIB:.1f} GiB"
