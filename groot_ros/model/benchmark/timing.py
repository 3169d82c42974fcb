"""Times of calls on a device, and percentiles of them; memory of device and process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch

Result = TypeVar("Result")
_STATUS, _FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_FORGET_PEAK = b"5"


class Stopwatch:
    """Times calls whose work is on `device`.

    On CUDA a call returns before its kernels have run: `wall` waits for them, `device_time` takes the time between two
    events in the stream.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._cuda = device.type == "cuda"

    def wait(self) -> None:
        """Until all that was asked of the device is done."""
        if self._cuda:
            torch.cuda.synchronize(self.device)

    def wall(self, call: Callable[[], Result]) -> tuple[Result, float]:
        """What the call gives, and seconds from an idle device before it to an idle device after it."""
        self.wait()
        begin = time.perf_counter()
        result = call()
        self.wait()
        return result, time.perf_counter() - begin

    def device_time(self, call: Callable[[], Result]) -> tuple[Result, float]:
        """What the call gives, and seconds between an event before it and one after it; without CUDA as `wall`."""
        if not self._cuda:
            return self.wall(call)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.wait()
        with torch.cuda.device(self.device):
            begin.record()
            result = call()
            end.record()
        end.synchronize()
        return result, begin.elapsed_time(end) / 1e3


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """So many threads of torch on the CPU, None: as many as before, and one of OpenCV, as in the policy's process."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    if count is not None:
        torch.set_num_threads(count)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def check_counts(positive: Mapping[str, int | None], warmup: int, cameras: Sequence[int]) -> None:
    """ValueError for runs that cannot be measured; it names the option. What is None is not asked for."""
    for name, value, least in (*((name, value, 1) for name, value in positive.items()), ("warmup", warmup, 0)):
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}, expected at least {least}")
    if any(count < 1 for count in cameras):
        raise ValueError(f"cameras is {list(cameras)}, expected numbers from 1 on")


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Number of runs, and mean, p50, p95, p99, min and max in milliseconds, of at least one time in seconds."""
    values = 1e3 * np.asarray(seconds, dtype=np.float64)
    p50, p95, p99 = np.percentile(values, [50.0, 95.0, 99.0])
    named = {"mean": values.mean(), "p50": p50, "p95": p95, "p99": p99, "min": values.min(), "max": values.max()}
    return {"runs": len(values), **{name: float(value) for name, value in named.items()}}


def middle(values: Sequence[float]) -> dict[str, float]:
    """Median, min and max."""
    return {"median": float(np.median(values)), "min": float(np.min(values)), "max": float(np.max(values))}


class Memory:
    """What is held where the network is: by torch on a CUDA device, else by this process (resident, Linux only)."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.of = "CUDA" if device.type == "cuda" else "process"

    def held(self) -> int | None:
        """Bytes now; None: this system does not say."""
        if self._device.type == "cuda":
            return torch.cuda.memory_allocated(self._device)
        return _status("VmRSS")

    def peak(self) -> int | None:
        """The most since `forget_peak`."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return _status("VmHWM")

    def reserved(self) -> int | None:
        """What torch keeps of a CUDA device, graphs and cache included; None elsewhere."""
        return torch.cuda.memory_reserved(self._device) if self._device.type == "cuda" else None

    def forget_peak(self) -> None:
        """What is held now is the most from here on."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        elif os.access(_FORGET, os.W_OK):
            _FORGET.write_bytes(_FORGET_PEAK)


def difference(after: int | None, before: int | None) -> int | None:
    """`after` - `before`, where both are known."""
    return None if after is None or before is None else after - before


def agreement(one: torch.Tensor, other: torch.Tensor) -> dict[str, float]:
    """Cosine and largest |difference| of two tensors of one shape."""
    a, b = one.detach().double().flatten().cpu(), other.detach().double().flatten().cpu()
    cosine = torch.dot(a, b) / (a.norm() * b.norm())
    return {"cosine": float(cosine), "max_difference": float((a - b).abs().max())}


def worst(agreements: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The lowest cosine and the largest difference."""
    return {
        "cosine": min(item["cosine"] for item in agreements),
        "max_difference": max(item["max_difference"] for item in agreements),
    }


def _status(key: str) -> int | None:
    """A line of /proc/self/status, in bytes."""
    if not _STATUS.is_file():
        return None
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    return None
