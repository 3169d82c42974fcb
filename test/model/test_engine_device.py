"""What is said where CUDA cannot be used."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from groot_ros.model.engine import device
from groot_ros.model.engine.device import CudaFacts, cuda_facts, device_problem

GOOD = CudaFacts(
    torch="2.9.0+cu128",
    cuda="12.8",
    error=None,
    visible=None,
    driver="570.86.10",
    jetson=False,
    devices=[("NVIDIA H100", (9, 0)), ("Tesla P100", (6, 0))],
    architectures=["sm_75", "sm_80", "sm_90", "sm_120", "compute_120"],
)
OLD = (
    "The NVIDIA driver on your system is too old (found version 12020). Please update your GPU driver by downloading "
    "and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx"
)
NONE = "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver from X"
UNKNOWN = "CUDA unknown error - this may be due to an incorrectly set up environment\nSetting the available devices ..."
EMPTY = "No CUDA GPUs are available"

PROBLEMS: dict[str, tuple[dict[str, object], list[str]]] = {
    "driver too old": ({"error": OLD}, ["570.86.10 is too old", "CUDA up to 12.2", "for CUDA 12.8", "cu122"]),
    "no driver": ({"error": NONE, "driver": None}, ["no NVIDIA driver", "nvidia-smi", "--gpus all"]),
    "no GPU": ({"error": EMPTY}, ["sees no GPU", "nvidia-smi -L"]),
    "hidden": ({"error": EMPTY, "visible": ""}, ["CUDA_VISIBLE_DEVICES is '' and hides all", "unset it"]),
    "hidden by -1": ({"error": EMPTY, "visible": "-1"}, ["CUDA_VISIBLE_DEVICES is '-1'"]),
    "not there": ({"error": EMPTY, "visible": "7"}, ["CUDA_VISIBLE_DEVICES is '7', which names none"]),
    "unknown": ({"error": UNKNOWN}, ["cannot start CUDA: CUDA unknown error", "restart it"]),
    "no devices, no error": ({"devices": []}, ["sees no GPU"]),
    "built without": ({"cuda": None}, ["built without CUDA", "the driver 570.86.10 is there: install torch with CUDA"]),
    "nothing at all": ({"cuda": None, "driver": None}, ["built without CUDA", "if there is an NVIDIA GPU"]),
    "jetson": ({"cuda": None, "jetson": True}, ["built without CUDA", "JetPack"]),
    "architecture": (
        {"devices": [("Tesla P100", (6, 0))]},
        ["Tesla P100 has compute capability 6.0", "sm_75, sm_80", "pytorch.org"],
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_problem(name: str) -> None:
    changes, parts = PROBLEMS[name]
    message = device_problem(None, dataclasses.replace(GOOD, **changes))  # type: ignore[arg-type]
    assert message is not None and "\n" not in message
    for part in parts:
        assert part in message


def test_no_problem() -> None:
    assert device_problem(None, GOOD) is None
    assert device_problem(0, GOOD) is None
    assert device_problem(0, dataclasses.replace(GOOD, architectures=())) is None


def test_number_of_the_device() -> None:
    assert "Tesla P100" in str(device_problem(1, GOOD))
    message = str(device_problem(2, dataclasses.replace(GOOD, visible="0,1")))
    assert "there is no cuda:2 (CUDA_VISIBLE_DEVICES is '0,1')" in message
    assert "cuda:0 NVIDIA H100, cuda:1 Tesla P100" in message


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((8, 9), ["sm_80", "sm_86"], True),
        ((8, 0), ["sm_86"], False),
        ((8, 7), ["sm_80", "sm_86", "sm_90"], False),  # Orin
        ((8, 7), ["sm_87"], True),
        ((8, 6), ["sm_87"], False),
        ((11, 0), ["sm_101"], True),  # Thor
        ((12, 0), ["sm_80", "sm_90"], False),
        ((12, 0), ["sm_80", "compute_90"], True),
        ((12, 1), ["sm_120f"], True),
        ((9, 0), ["sm_90a"], True),
        ((10, 0), ["sm_90a", "compute_90a"], False),
        ((9, 0), ["gfx90a"], True),
    ],
)
def test_architectures(capability: tuple[int, int], architectures: Sequence[str], runs: bool) -> None:
    facts = dataclasses.replace(GOOD, devices=[("GPU", capability)], architectures=architectures)
    assert (device_problem(0, facts) is None) == runs


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024\nGCC", "550.54.14"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build  (b)\n", "540.4.0"),
        ("something else", None),
    ],
)
def test_driver_version(text: str, version: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "version"
    monkeypatch.setattr(device, "_DRIVER_VERSION", path)
    assert device._driver_version() is None
    path.write_text(text, encoding="utf-8")
    assert device._driver_version() == version


def test_facts_where_cuda_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError(OLD)

    monkeypatch.setattr(torch, "version", SimpleNamespace(cuda="12.8", hip=None))
    monkeypatch.setattr(torch.cuda, "init", fail)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    facts = cuda_facts()
    assert (facts.error, facts.cuda, facts.visible, list(facts.devices)) == (OLD, "12.8", "0", [])


def test_facts_of_this_machine() -> None:
    facts = cuda_facts()
    assert facts.torch == torch.__version__
    assert (device_problem(None, facts) is None) == torch.cuda.is_available()
