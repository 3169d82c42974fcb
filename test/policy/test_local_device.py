"""Where the policy runs, and what it says where that cannot be."""

from __future__ import annotations

import dataclasses
import logging

import pytest
import torch

from groot_ros.model.engine import device
from groot_ros.model.engine.device import CudaFacts
from groot_ros.policy.local import _torch_device

GOOD = CudaFacts("2.9.0+cu128", "12.8", None, None, "570.86.10", False, [("NVIDIA H100", (9, 0))], ["sm_90"])
OLD = "The NVIDIA driver on your system is too old (found version 12020). Please update your GPU driver ..."


def test_a_device_that_cannot_be_used_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "cuda_facts", lambda: dataclasses.replace(GOOD, error=OLD))
    with pytest.raises(ValueError, match=r"device 'cuda:0': NVIDIA's driver 570.86.10 is too old.*device:=cpu"):
        _torch_device("cuda:0")
    with pytest.raises(ValueError, match="device 'gpu': expected cuda, cuda:N, cpu or auto"):
        _torch_device("gpu")
    assert _torch_device("cpu") == torch.device("cpu")


def test_auto_takes_the_cpu_and_says_why(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(device, "cuda_facts", lambda: GOOD)
    assert _torch_device("auto") == torch.device("cuda")
    monkeypatch.setattr(device, "cuda_facts", lambda: dataclasses.replace(GOOD, error=OLD))
    with caplog.at_level(logging.WARNING):
        assert _torch_device("auto") == torch.device("cpu")
    assert "is too old" in caplog.text
