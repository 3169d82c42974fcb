"""What a benchmark ran on: numbers without it are worth nothing."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
import transformers

_CPUINFO = Path("/proc/cpuinfo")
# What `nvidia-smi --query-gpu` is asked for; the last two in W and MHz.
_QUERY = ("name", "driver_version", "power.limit", "clocks.max.sm", "clocks.current.sm")


def describe_host(device: torch.device) -> dict[str, Any]:
    """Date, processor, GPU, driver and versions; `gpu` is None where the device is none.

    Returns:
        date (UTC), cpu, cores, load (of one minute, now), system, python, torch, torch_threads, transformers, cuda
        (torch's, None: a build without), gpu: name, memory_bytes, compute_capability, multiprocessors, and from
        nvidia-smi, where it is there, driver, power_limit_w, max_clock_mhz, clock_mhz.
    """
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "transformers": transformers.__version__,
        "cuda": torch.version.cuda,
        "gpu": _gpu(device) if device.type == "cuda" else None,
    }


def host_line(host: dict[str, Any]) -> str:
    """A description in one line."""
    gpu = host["gpu"]
    parts = [
        "no GPU used" if gpu is None else _gpu_line(gpu),
        f"{host['cpu']}, {host['cores']} cores" + _threads(host["torch_threads"]),
        f"torch {host['torch']}" + (f", CUDA {host['cuda']}" if host["cuda"] else ""),
        f"transformers {host['transformers']}, Python {host['python']}, {host['date']}",
    ]
    return "; ".join(parts)


def _threads(count: int | None) -> str:
    """None: the rows have their own."""
    return "" if count is None else f", {count} thread{'s' if count > 1 else ''} of torch"


def _gpu_line(gpu: dict[str, Any]) -> str:
    more = [f"{gpu['memory_bytes'] / 2**30:.0f} GiB"]
    for key, text in (("driver", "driver {}"), ("power_limit_w", "limit {} W"), ("max_clock_mhz", "up to {} MHz")):
        if gpu.get(key) is not None:
            more.append(text.format(gpu[key]))
    return f"{gpu['name']} ({', '.join(more)})"


def _cpu() -> str:
    if _CPUINFO.is_file():
        for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _gpu(device: torch.device) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        **_nvidia_smi(str(getattr(properties, "uuid", ""))),
    }


def _nvidia_smi(uuid: str) -> dict[str, Any]:
    """What the driver's own program adds; nothing where it is not there (Jetson) or does not know the device."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    chosen = [f"--id=GPU-{uuid.removeprefix('GPU-')}"] if uuid else ["--id=0"]
    command = [program, *chosen, f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    fields = [field.strip() for field in done.stdout.strip().split(",")]
    if done.returncode or len(fields) != len(_QUERY):
        return {}
    _, driver, limit, fastest, now = fields
    return {
        "driver": driver,
        "power_limit_w": _number(limit),
        "max_clock_mhz": _number(fastest),
        "clock_mhz": _number(now),
    }


def _number(text: str) -> float | None:
    """A number of nvidia-smi; None for its "[N/A]"."""
    try:
        return float(text)
    except ValueError:
        return None
