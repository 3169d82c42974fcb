"""What a checkpoint needs on a GPU, and what is said where that is not there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from golden_set import as_checkpoint
from safetensors.torch import load_file, save_file

from groot_ros.model.checkpoint import CheckpointError, load_model
from groot_ros.model.config import ModelConfig
from groot_ros.model.engine import memory
from groot_ros.model.engine.memory import (
    GIB,
    PARAMETERS,
    DeviceMemory,
    DeviceMemoryError,
    Need,
    check_fits,
    device_memory,
    fits_on_host,
    is_out_of_memory,
    needed_bytes,
    out_of_memory_message,
)
from groot_ros.model.groot import GrootModel

RELEASED = Path(__file__).parent / "released"
N1_7 = Need("n1d7", torch.bfloat16, 2 * PARAMETERS["n1d7"])


def gpu(free: float, total: float | None = None, held: float = 0.0) -> DeviceMemory:
    """In GiB."""
    return DeviceMemory("GPU X", int(free * GIB), int((free if total is None else total) * GIB), int(held * GIB))


@pytest.mark.parametrize("name", ["n1d5", "n1d6", "n1d7"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_what_loading_allocates(golden_root: Path, tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    directory = as_checkpoint(golden_root / name, tmp_path)
    model = load_model(directory, dtype=dtype, keep_unused=False)
    loaded = {p.data_ptr(): p.numel() * p.element_size() for p in model.parameters() if p is not None}
    need = needed_bytes(directory, dtype)
    assert need.weights == sum(loaded.values())
    assert (need.generation, need.dtype) == (name, dtype)
    assert need.total == need.weights + need.working


def test_a_broken_checkpoint_is_refused(golden_root: Path, tmp_path: Path) -> None:
    directory = as_checkpoint(golden_root / "n1d7", tmp_path)
    (directory / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="incomplete"):
        needed_bytes(directory, torch.float32)


def test_only_headers_are_read(golden_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = as_checkpoint(golden_root / "n1d7", tmp_path)
    monkeypatch.setattr("groot_ros.model.tensor_files.TensorReader.read", lambda *_: pytest.fail("a tensor was read"))
    assert needed_bytes(directory, torch.float32).weights > 0


def test_one_stored_tensor_under_two_names_counts_once(golden_root: Path, tmp_path: Path) -> None:
    directory = as_checkpoint(golden_root / "n1d7", tmp_path)
    before = needed_bytes(directory, torch.float32).weights
    state = load_file(directory / "model.safetensors")
    names = [name for name in state if name.startswith("action_head.model.transformer_blocks.")]
    first, second = next((a, b) for a in names for b in names if a < b and state[a].shape == state[b].shape)
    size = state.pop(second).numel() * 4
    (directory / "model.safetensors").unlink()
    save_file(state, directory / "model.safetensors", metadata={second: first})  # as safetensors notes shared tensors
    assert needed_bytes(directory, torch.float32).weights == before - size


@pytest.mark.parametrize("generation", PARAMETERS)
def test_sizes_of_the_released_generations(generation: str) -> None:
    with torch.device("meta"):
        model = GrootModel(ModelConfig.from_file(RELEASED / f"{generation}.json"))
    left_out = {*model.tied_parameters(), *model.unused_parameters()}
    assert PARAMETERS[generation] == sum(p.numel() for name, p in model.state_dict().items() if name not in left_out)


def test_allowance_grows_with_the_dtype() -> None:
    assert Need("n1d7", torch.float32, 0).working > Need("n1d7", torch.bfloat16, 0).working > 0


def test_it_fits() -> None:
    assert check_fits(N1_7, gpu(24)) is None


def test_it_is_tight() -> None:
    message = check_fits(N1_7, gpu(6.2, total=8))
    assert message is not None and "\n" not in message
    assert message.startswith(
        "N1.7 in bfloat16 needs 5.9 GiB of weights and about 1.0 GiB to work with, GPU X has 6.2 "
    )
    assert "6.2 GiB free of 8.0 GiB: it may run out of memory; end other programs that use the GPU" in message
    assert message.endswith("; or precision:=fp8_weights holds less once it is loaded")


def test_float32_that_would_fit_in_bfloat16() -> None:
    need = Need("n1d7", torch.float32, 4 * PARAMETERS["n1d7"])
    with pytest.raises(DeviceMemoryError) as caught:
        check_fits(need, gpu(8))
    message = str(caught.value)
    assert message.startswith(
        "N1.7 in float32 needs 11.7 GiB of weights and about 1.4 GiB to work with, GPU X has 8.0 "
    )
    assert "dtype:=bfloat16 needs 6.9 GiB" in message
    assert "a checkpoint of N1.5 in bfloat16 needs 5.5 GiB" in message
    assert message.endswith("; precision:=fp8_weights needs as much to load")
    assert "end other programs" not in message


def test_a_smaller_generation_that_would_fit() -> None:
    with pytest.raises(DeviceMemoryError, match=r"N1.5 in bfloat16 needs 5.5 GiB") as caught:
        check_fits(N1_7, gpu(5.7, total=6))
    assert "N1.6" not in str(caught.value) and "dtype:=" not in str(caught.value)


def test_nothing_would_fit() -> None:
    with pytest.raises(DeviceMemoryError, match=r"no dtype and no generation fits; take a GPU with 6.9 GiB free"):
        check_fits(N1_7, gpu(4))


def test_others_use_the_gpu() -> None:
    with pytest.raises(DeviceMemoryError, match=r"3.0 GiB free of 24.0 GiB: end other programs that use the GPU"):
        check_fits(N1_7, gpu(3, total=24))


@pytest.mark.parametrize("room", [True, False])
def test_the_cpu_is_named_where_the_host_has_room(room: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32: 11.7 GiB of weights and 1.4 to work with."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemAvailable:   {14 * 2**20 if room else 12 * 2**20} kB\n", encoding="ascii")
    monkeypatch.setattr(memory, "_MEMINFO", meminfo)
    with pytest.raises(DeviceMemoryError) as caught:
        check_fits(N1_7, gpu(4))
    assert ("; or use device:=cpu, many times slower" in str(caught.value)) == room
    tight = check_fits(N1_7, gpu(6.2, total=8))
    assert tight is not None and ("device:=cpu" in tight) == room
    meminfo.unlink()
    assert not fits_on_host(N1_7)


def fake_device(
    monkeypatch: pytest.MonkeyPatch, free: int, total: int, reserved: int = 0, allocated: int = 0, **properties: object
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, total))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: allocated)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(name="GPU X", **properties))


def test_what_torch_caches_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_device(monkeypatch, free=100, total=1000, reserved=300, allocated=250, is_integrated=False)
    assert device_memory(torch.device("cuda", 0)) == DeviceMemory("GPU X", 150, 1000, 250)


def test_a_jetson_shares_memory_with_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       64 kB\nMemFree:        1 kB\nMemAvailable:   40 kB\n", encoding="ascii")
    monkeypatch.setattr(memory, "_MEMINFO", meminfo)
    fake_device(monkeypatch, free=1024, total=64 * 1024, is_integrated=True)
    assert device_memory(torch.device("cuda", 0)).free == 40 * 1024
    fake_device(monkeypatch, free=50 * 1024, total=64 * 1024, is_integrated=True)
    assert device_memory(torch.device("cuda", 0)).free == 50 * 1024
    meminfo.unlink()
    fake_device(monkeypatch, free=1024, total=64 * 1024, is_integrated=True)
    assert device_memory(torch.device("cuda", 0)).free == 1024


OUT = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.5 GiB of which 1.1 GiB is free."
)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OUT, True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_is_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


def test_out_of_memory_message() -> None:
    message = out_of_memory_message(OUT, gpu(1, total=24, held=7))
    assert message == (
        "out of GPU memory, 2.00 GiB wanted: GPU X has 1.0 GiB free of 24.0 GiB, this program's tensors hold 7.0 GiB, "
        "other programs and the driver 16.0 GiB; what helps: end other programs that use the GPU, "
        "dtype:=bfloat16, precision:=fp8_weights, fewer cameras, or device:=cpu, many times slower"
    )
    assert "end other programs" not in out_of_memory_message(OUT, gpu(1, total=8, held=6.5))
    assert out_of_memory_message(RuntimeError("CUDA error: out of memory")).startswith("out of GPU memory; what helps")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_real_device() -> None:
    device = torch.device("cuda", 0)
    before = device_memory(device)
    block = torch.empty(256 * 2**20, dtype=torch.uint8, device=device)
    after = device_memory(device)
    assert 0 < after.free < before.free <= before.total
    assert after.held - before.held == block.numel()
    with pytest.raises(torch.OutOfMemoryError) as caught:
        torch.empty(2 * before.total, dtype=torch.uint8, device=device)
    assert is_out_of_memory(caught.value)
    assert "wanted" in out_of_memory_message(caught.value, after)
