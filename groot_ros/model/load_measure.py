"""What loading a checkpoint costs, for a process of its own: ``python -m groot_ros.model.load_measure DIRECTORY``.

Memory is the process's resident memory as Linux counts it (/proc/self/status), so what an earlier load left behind must
not be in the process: one load per process.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from groot_ros.model.checkpoint import load_model, resolve_checkpoint

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
_STATUS = Path("/proc/self/status")
_IO = Path("/proc/self/io")


@dataclass(frozen=True)
class LoadCost:
    """What one load cost."""

    generation: str
    parameters: int
    """Numbers in the network; what two names share counts once."""
    dtype: str
    device: str
    seconds: float
    bytes_read: int
    """From files, by this process; the system may have had them in memory."""
    weight_bytes: int
    """The parameters in `dtype`."""
    baseline_bytes: int
    """Resident before the load, torch and the network's code imported."""
    peak_bytes: int
    """The most that was resident during the load, over the baseline."""
    cuda_peak_bytes: int | None
    """The most that torch held on the CUDA device; None: on no such device."""


def measure_load(directory: str | Path, dtype: str, device: str = "cpu") -> LoadCost:
    """Loads a checkpoint as the policy node does, without the tensors that are never read.

    Args:
        directory: the checkpoint.
        dtype: `bfloat16` or `float32`.
        device: `cpu`, `cuda` or `cuda:N`.

    Raises:
        CheckpointError: see `load_model`.
        ValueError: there is no such device.
        OSError: this is no Linux.
    """
    target = torch.device(device)
    on_cuda = target.type == "cuda"
    if on_cuda:
        count = torch.cuda.device_count()
        if (target.index or 0) >= count:
            raise ValueError(f"device is {device}, but torch {torch.__version__} finds {count} CUDA devices")
        torch.zeros(1, device=target)  # the driver's own memory is no part of the load
        torch.cuda.reset_peak_memory_stats(target)
    _forget_peak()
    baseline, read = _status("VmHWM"), _bytes_read()
    begin = time.perf_counter()
    model = load_model(directory, dtype=DTYPES[dtype], device=target, keep_unused=False)
    if on_cuda:
        torch.cuda.synchronize(target)
    seconds = time.perf_counter() - begin
    peak, read = _status("VmHWM"), _bytes_read() - read
    parameters = sum(p.numel() for p in model.parameters())
    return LoadCost(
        generation=model.config.generation,
        parameters=parameters,
        dtype=dtype,
        device=torch.cuda.get_device_name(target) if on_cuda else str(target),
        seconds=seconds,
        bytes_read=read,
        weight_bytes=parameters * DTYPES[dtype].itemsize,
        baseline_bytes=baseline,
        peak_bytes=peak - baseline,
        cuda_peak_bytes=torch.cuda.max_memory_allocated(target) if on_cuda else None,
    )


def _status(key: str) -> int:
    """A line of /proc/self/status, in bytes."""
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    raise OSError(f"{_STATUS} has no {key}")


def _bytes_read() -> int:
    first = _IO.read_text(encoding="ascii").splitlines()[0]
    return int(first.removeprefix("rchar:"))


def _forget_peak() -> None:
    """Lowers the counted peak to what is resident now: what the imports needed for a moment is no part of the load."""
    fd = os.open("/proc/self/clear_refs", os.O_WRONLY)
    try:
        os.write(fd, b"5")
    finally:
        os.close(fd)


def drop_from_memory(directory: Path) -> None:
    """Asks Linux to forget what it holds of the weight files, so that they come from the disk."""
    for path in sorted(directory.glob("*.safetensors")):
        with path.open("rb") as file:
            os.fsync(file.fileno())  # what is not on the disk yet cannot be forgotten
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main(arguments: Sequence[str] | None = None) -> int:
    """Load one checkpoint and print what it cost, as one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m groot_ros.model.load_measure", description=main.__doc__)
    parser.add_argument("checkpoint", help="directory or hub id")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cold", action="store_true", help="from the disk, not from the system's memory of it")
    options = parser.parse_args(arguments)
    try:
        directory = resolve_checkpoint(options.checkpoint)
        if options.cold:
            drop_from_memory(directory)
        cost = measure_load(directory, options.dtype, options.device)
    except (ValueError, OSError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(asdict(cost)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
