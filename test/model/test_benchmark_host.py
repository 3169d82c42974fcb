"""The description of the machine, with a GPU and a driver's program that are made up."""

from __future__ import annotations

import types
from pathlib import Path

import pytest
import torch

from groot_ros.model.benchmark.host import describe_host, host_line

CUDA = torch.device("cuda", 0)
ASKED = "--id=GPU-12ab --query-gpu=name,driver_version,power.limit,clocks.max.sm,clocks.current.sm"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A GPU; the function it gives installs an nvidia-smi that runs a line of shell."""
    properties = types.SimpleNamespace(
        name="NVIDIA H100 80GB HBM3", total_memory=80 * 2**30, major=9, minor=0, multi_processor_count=132, uuid="12ab"
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def install(line: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)

    return install


def test_a_gpu_is_described_with_driver_power_and_clocks(machine, tmp_path: Path) -> None:
    machine(f'echo "$@" > {tmp_path}/asked; echo "NVIDIA H100 80GB HBM3, 570.86.15, 700.00, 1980, 345"')
    host = describe_host(CUDA)
    assert host["gpu"] == {
        "name": "NVIDIA H100 80GB HBM3",
        "memory_bytes": 80 * 2**30,
        "compute_capability": "9.0",
        "multiprocessors": 132,
        "driver": "570.86.15",
        "power_limit_w": 700.0,
        "max_clock_mhz": 1980.0,
        "clock_mhz": 345.0,
    }
    assert (tmp_path / "asked").read_text().startswith(ASKED)
    line = host_line(host)
    assert "NVIDIA H100 80GB HBM3 (80 GiB, driver 570.86.15, limit 700.0 W, up to 1980.0 MHz)" in line
    assert torch.__version__ in line and host["date"] in line


@pytest.mark.parametrize("line", ["exit 9", "echo nothing of use", "echo 'No devices were found'; exit 6"])
def test_a_driver_program_that_does_not_answer_is_left_out(machine, line: str) -> None:
    machine(line)
    gpu = describe_host(CUDA)["gpu"]
    assert gpu["name"] == "NVIDIA H100 80GB HBM3" and "driver" not in gpu
    assert "(80 GiB)" in host_line(describe_host(CUDA))


def test_numbers_that_a_card_does_not_have_are_none(machine) -> None:
    machine('echo "Orin, 540.4.0, [N/A], [N/A], [N/A]"')
    host = describe_host(CUDA)
    assert host["gpu"]["driver"] == "540.4.0" and host["gpu"]["power_limit_w"] is None
    assert "(80 GiB, driver 540.4.0)" in host_line(host)


def test_a_machine_without_a_gpu() -> None:
    host = describe_host(torch.device("cpu"))
    assert host["gpu"] is None and host["cores"] >= 1 and host_line(host).startswith("no GPU used; ")
