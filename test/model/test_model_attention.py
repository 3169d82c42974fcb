"""flash-attn that is installed but cannot run: SDPA instead, and the reason in the log."""

from __future__ import annotations

import importlib.machinery
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from groot_ros.model import attention
from groot_ros.model.attention import TOWER_ATTENTION, flash_attention_problem, tower_attention_name

GPU = torch.device("cuda", 0)
UNDEFINED = "/site-packages/flash_attn_2_cuda.so: undefined symbol: _ZN3c105ErrorC2ENS_14SourceLocationE"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """One with a GPU that flash-attn could run on, as far as anybody asks; nothing installed, nothing remembered."""
    flash_attention_problem.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "flash_attn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(attention, "is_flash_attn_2_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(attention, "_try", lambda function, device: None)
    yield monkeypatch
    flash_attention_problem.cache_clear()


def install(machine: pytest.MonkeyPatch, **attributes: Any) -> ModuleType:
    """A flash-attn that can be imported."""
    module, padding = ModuleType("flash_attn"), ModuleType("flash_attn.bert_padding")
    functions = {"flash_attn_func": lambda q, k, v: q, "flash_attn_varlen_func": lambda *args: None}
    for name, value in {**functions, **attributes}.items():
        setattr(module, name, value)
    module.__path__ = []
    module.__spec__ = importlib.machinery.ModuleSpec("flash_attn", None, is_package=True)
    machine.setitem(sys.modules, "flash_attn", module)
    machine.setitem(sys.modules, "flash_attn.bert_padding", padding)
    return module


def install_broken(machine: pytest.MonkeyPatch, folder: Path, error: str) -> None:
    """A flash-attn on the disk whose import fails."""
    package = folder / "flash_attn"
    package.mkdir()
    (package / "__init__.py").write_text(f"raise {error}\n", encoding="utf-8")
    machine.syspath_prepend(folder)


def test_it_is_used_where_it_runs(machine: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    install(machine)
    assert tower_attention_name(GPU, torch.bfloat16) == "flash_attention_2"
    assert tower_attention_name(GPU, torch.float16) == "flash_attention_2"
    assert tower_attention_name(GPU, torch.float32) == TOWER_ATTENTION
    assert tower_attention_name(torch.device("cpu"), torch.bfloat16) == TOWER_ATTENTION
    assert not caplog.records


def test_not_installed_is_no_problem(machine: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    machine.setattr(importlib.util, "find_spec", lambda name: None)
    assert tower_attention_name(GPU, torch.bfloat16) == TOWER_ATTENTION
    assert not caplog.records


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (f"ImportError('{UNDEFINED}')", f"cannot be imported (ImportError: {UNDEFINED})"),
        ("RuntimeError('operator flash_attn::_flash_attn_forward\\nTraceback')", "RuntimeError: operator flash_attn::"),
        ("OSError()", "cannot be imported (OSError)"),
    ],
)
def test_built_for_another_torch(
    machine: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path, error: str, expected: str
) -> None:
    install_broken(machine, tmp_path, error)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert tower_attention_name(GPU, torch.bfloat16) == TOWER_ATTENTION
    assert [record.name for record in caplog.records] == ["groot_ros.model.attention"]
    message = caplog.records[0].getMessage()
    assert message.startswith("flash-attn is installed but not used on cuda:0: it ") and "\n" not in message
    assert expected in message
    assert message.endswith(f"install a build for torch {torch.__version__}; SDPA is used instead")


def test_without_a_part_that_is_needed(machine: pytest.MonkeyPatch) -> None:
    module = install(machine)
    del module.flash_attn_varlen_func
    problem = flash_attention_problem(GPU)
    assert problem is not None and "AttributeError" in problem and "flash_attn_varlen_func" in problem


def test_old_gpu(machine: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    install(machine)
    machine.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert tower_attention_name(GPU, torch.float16) == TOWER_ATTENTION
    assert "compute capability 8.0 or above, this one has 7.5" in caplog.text


def test_a_version_that_transformers_does_not_take(machine: pytest.MonkeyPatch) -> None:
    install(machine, __version__="2.0.4")
    machine.setattr(attention, "is_flash_attn_2_available", lambda: False)
    assert flash_attention_problem(GPU) == "transformers does not take version 2.0.4; install a newer one"


def test_no_kernels_for_this_gpu(machine: pytest.MonkeyPatch) -> None:
    def fail(function: object, device: torch.device) -> None:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nadvice")

    install(machine)
    machine.setattr(attention, "_try", fail)
    problem = flash_attention_problem(GPU)
    assert problem is not None
    assert problem.startswith(
        "a trial run failed (RuntimeError: CUDA error: no kernel image is available for execution"
    )
    assert "\n" not in problem


def test_the_trial_run() -> None:
    def function(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        assert query.shape == key.shape == value.shape == (1, 1, 1, 64)
        assert query.dtype == torch.float16
        raise RuntimeError("seen")

    with pytest.raises(RuntimeError, match="seen"):
        attention._try(function, torch.device("cpu"))
    attention._try(lambda query, key, value: value, torch.device("cpu"))
