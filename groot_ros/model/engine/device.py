"""Why a CUDA device cannot be used, and what to do about it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

_DRIVER_VERSION = Path("/proc/driver/nvidia/version")
_JETSON = Path("/etc/nv_tegra_release")
# GPUs of Jetsons: binaries for other GPUs of the same generation do not run on them, and the other way round.
_TEGRA = {53, 62, 72, 87, 101}
_INDEX = "https://download.pytorch.org/whl"


@dataclass(frozen=True)
class CudaFacts:
    """What torch and the system say about CUDA devices."""

    torch: str
    """Version of torch."""
    cuda: str | None
    """The CUDA version that torch was built for, such as 13.0; None: built without."""
    error: str | None
    """What torch says when it starts CUDA; None: it starts."""
    visible: str | None
    """`CUDA_VISIBLE_DEVICES`."""
    driver: str | None
    """Version of NVIDIA's driver, such as 550.54.14; None: the system has none, or does not say."""
    jetson: bool
    devices: Sequence[tuple[str, tuple[int, int]]] = ()
    """Name and compute capability of each device that torch sees."""
    architectures: Sequence[str] = ()
    """What torch holds kernels for, such as sm_90 and compute_90."""


def cuda_facts() -> CudaFacts:
    """The facts of this process. Starts CUDA where that is possible."""
    error = None
    devices: list[tuple[str, tuple[int, int]]] = []
    if torch.version.cuda is not None or torch.version.hip is not None:
        try:
            torch.cuda.init()
            for i in range(torch.cuda.device_count()):
                devices.append((torch.cuda.get_device_name(i), torch.cuda.get_device_capability(i)))
        except (RuntimeError, AssertionError) as failure:
            error = str(failure).strip()
    return CudaFacts(
        torch=torch.__version__,
        cuda=torch.version.cuda or torch.version.hip,
        error=error,
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        driver=_driver_version(),
        jetson=_JETSON.exists(),
        devices=devices,
        # The names of AMD's architectures are of another kind, and torch checks them itself.
        architectures=torch.cuda.get_arch_list() if torch.version.cuda is not None else (),
    )


def device_problem(index: int | None = None, facts: CudaFacts | None = None) -> str | None:
    """Why the CUDA device cannot be used and what to do, in one line; None: it can.

    Args:
        index: number of the device; None: the first one.
        facts: None: those of this process.
    """
    facts = cuda_facts() if facts is None else facts
    if facts.cuda is None:
        return _no_cuda_build(facts)
    if facts.error is not None or not facts.devices:
        return _not_started(facts)
    number = index or 0
    if number >= len(facts.devices):
        names = ", ".join(f"cuda:{i} {name}" for i, (name, _) in enumerate(facts.devices))
        hidden = "" if facts.visible is None else f" (CUDA_VISIBLE_DEVICES is {facts.visible!r})"
        return f"there is no cuda:{number}{hidden}; torch sees {names}: name one of these"
    name, capability = facts.devices[number]
    if facts.architectures and not _has_kernels(capability, facts.architectures):
        return (
            f"{name} has compute capability {capability[0]}.{capability[1]}, but torch {facts.torch} holds kernels "
            f"for {', '.join(facts.architectures)} only: install a torch that is built for this GPU "
            f"({_advice(facts)})"
        )
    return None


def _no_cuda_build(facts: CudaFacts) -> str:
    if facts.jetson:
        fix = "install the torch that NVIDIA builds for this JetPack"
    elif facts.driver is not None:
        fix = f"the driver {facts.driver} is there: install torch with CUDA ({_advice(facts)})"
    else:
        fix = f"if there is an NVIDIA GPU, install its driver and torch with CUDA ({_advice(facts)})"
    return f"torch {facts.torch} is built without CUDA; {fix}"


def _not_started(facts: CudaFacts) -> str:
    """The message where torch, built with CUDA, sees no device. Looks for torch's own words (CUDAFunctions.cpp)."""
    error = facts.error or "No CUDA GPUs are available"
    driver = f"NVIDIA's driver {facts.driver}" if facts.driver else "NVIDIA's driver"
    # First of all, since CUDA calls it "no devices" too.
    if facts.visible is not None and not re.match(r"\s*(\d|GPU-|MIG-)", facts.visible):
        return (
            f"CUDA_VISIBLE_DEVICES is {facts.visible!r} and hides all GPUs; unset it, or set it to a number such as 0"
        )
    old = re.search(r"driver on your system is too old \(found version (\d+)\)", error)
    if old:
        found = int(old[1])
        version = f"{found // 1000}.{found % 1000 // 10}"
        return (
            f"{driver} is too old: it knows CUDA up to {version}, torch {facts.torch} is built for CUDA {facts.cuda}; "
            f"update the driver, or install a torch for CUDA {version} or older (pip install torch --index-url "
            f"{_INDEX}/cu{version.replace('.', '')}, where PyTorch offers that version)"
        )
    if "Found no NVIDIA driver" in error:
        return (
            f"torch {facts.torch} finds no NVIDIA driver; install it (`nvidia-smi` must list the GPU), and start a "
            "container with --gpus all"
        )
    if "No CUDA GPUs are available" in error or "no CUDA-capable device" in error:
        if facts.visible is not None:
            return (
                f"torch {facts.torch} sees no GPU: CUDA_VISIBLE_DEVICES is {facts.visible!r}, which names none that is "
                "there; unset it, or set it to a number of `nvidia-smi -L`"
            )
        return f"torch {facts.torch} sees no GPU; `nvidia-smi -L` must list one; start a container with --gpus all"
    first = error.splitlines()[0].strip()
    return (
        f"torch {facts.torch} (CUDA {facts.cuda}) cannot start CUDA: {first}; check that `nvidia-smi` works; after an "
        "update of the driver or a suspended machine, restart it"
    )


def _has_kernels(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Whether one of the architectures (sm_86: machine code, compute_86: code that the driver translates) runs."""
    own = 10 * capability[0] + capability[1]
    for architecture in architectures:
        match = re.fullmatch(r"(sm|compute)_(\d+)([a-z]?)", architecture)
        if match is None:
            return True  # a kind that is not known here
        kind, number, special = match[1], int(match[2]), match[3]
        if number == own or (number, own) == (101, 110):  # one GPU; CUDA 13 renamed it
            return True
        if special == "a":  # for this one only
            continue
        if kind == "compute" and number < own and not special:
            return True
        if kind == "sm" and number // 10 == own // 10 and number < own and not {number, own} & _TEGRA:
            return True
    return False


def _advice(facts: CudaFacts) -> str:
    """Where torch comes from."""
    return "NVIDIA's for this JetPack" if facts.jetson else "see https://pytorch.org/get-started/locally"


def _driver_version() -> str | None:
    try:
        text = _DRIVER_VERSION.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    match = re.search(r"NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return match[1] if match else None
