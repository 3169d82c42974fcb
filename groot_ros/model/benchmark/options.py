"""Words of the command line -> settings. Without torch at import, so that `--help` is quick."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from groot_ros.model.benchmark.policy import PolicySettings
    from groot_ros.model.benchmark.sampler import SamplerSettings

GENERATIONS = ("n1d5", "n1d6", "n1d7")
SIZES = ("full", "tiny")
DTYPES = ("auto", "float32", "bfloat16")
RUNG_NAMES = ("plain", "engine", "graph", "pictures", "compile", "fp8_weights", "fp8")


def policy_settings(*, generations: Sequence[str] | None, dtype: str, device: str, **more: Any) -> PolicySettings:
    """Settings of `measure_policy`, torch's device and dtype found.

    Raises:
        ValueError: see `find_device`.
    """
    from groot_ros.model.benchmark.policy import PolicySettings

    found = find_device(device)
    rungs = tuple(more.pop("rungs") or RUNG_NAMES)
    return PolicySettings(
        generations=tuple(generations or GENERATIONS), dtype=find_dtype(dtype, found), device=found, rungs=rungs, **more
    )


def sampler_settings(*, generations: Sequence[str] | None, dtype: str, device: str, **more: Any) -> SamplerSettings:
    """Settings of `measure_sampler`, torch's device and dtype found.

    Raises:
        ValueError: see `find_device`.
    """
    from groot_ros.model.benchmark.sampler import SamplerSettings

    found = find_device(device)
    chosen = tuple(generations or GENERATIONS)
    return SamplerSettings(generations=chosen, dtype=find_dtype(dtype, found), device=found, **more)


def find_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N`; a CUDA device with its number.

    Raises:
        ValueError: there is no such device, or torch cannot use it; the message says why.
    """
    import torch

    from groot_ros.model.engine.device import device_problem

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device is {name!r}, expected auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device is {name!r}, expected auto, cpu, cuda or cuda:N")
    if device.type == "cpu":
        return device
    problem = device_problem(device.index)
    if problem is not None:
        raise ValueError(f"device {name}: {problem}")
    return torch.device("cuda", device.index or 0)


def find_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on a GPU and float32 on a CPU, as in the policy node."""
    import torch

    if name == "auto":
        name = "bfloat16" if device.type == "cuda" else "float32"
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def camera_size(text: str) -> tuple[int, int]:
    """`640x480` -> (height, width).

    Raises:
        ValueError: something else.
    """
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) > 0 and int(height) > 0):
        raise ValueError(f"camera size is {text!r}, expected WIDTHxHEIGHT in pixels, as 640x480")
    return int(height), int(width)


def counts(text: str) -> tuple[int, ...]:
    """`1,2,3` -> numbers from 1 on.

    Raises:
        ValueError: something else.
    """
    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise ValueError(f"found {text!r}, expected numbers from 1 on, separated by commas, as 1,2,3")
    return tuple(int(word) for word in words)


def check_output(path: Path | None) -> None:
    """Before measuring: a report can be written there. A file that is there already stays as it is.

    Raises:
        OSError: it cannot.
    """
    if path is None:
        return
    new = not path.exists()
    with path.open("a", encoding="utf-8"):
        pass
    if new:
        path.unlink()
