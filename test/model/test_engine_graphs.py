"""The recorder of CUDA graphs: its calls against a stand-in for torch.cuda, and the real one where there is a GPU."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from groot_ros.model.engine import graphs
from groot_ros.model.engine.cache import Slots
from groot_ros.model.engine.graphs import CaptureError, CudaGraphs
from groot_ros.model.engine.staging import Fetch

LONG = 60.0  # seconds; never reached where the code is right
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


class FakeCuda:
    """Stands in for what `CudaGraphs` calls of torch.cuda and torch._C; notes it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.pools = 0
        self.streams = 0
        self.stream = FakeStream(self, "default")
        self.state = "own"
        self.begin_error: Exception | None = None
        self.end_error: Exception | None = None
        self.torch_cleans_up = False
        fake = self

        class Graph:
            def capture_begin(self, pool: Any, capture_error_mode: str) -> None:
                fake.calls.append(f"begin {pool} {capture_error_mode} on {fake.stream.name} with state {fake.state}")
                assert not gc.isenabled()
                if fake.begin_error is not None:
                    raise fake.begin_error

            def capture_end(self) -> None:
                fake.calls.append(f"end on {fake.stream.name}")
                if fake.end_error is not None:
                    raise fake.end_error

            def reset(self) -> None:
                fake.calls.append("reset")

            def replay(self) -> None:
                fake.calls.append(f"replay on {fake.stream.name}")

        class Generator:
            def graphsafe_get_state(self) -> str:
                return fake.state

            def clone_state(self) -> str:
                return "copy"

            def graphsafe_set_state(self, state: str) -> None:
                fake.state = state

        def end_allocate(index: int, pool: str) -> None:
            fake.calls.append(f"end allocate {pool}")
            if fake.torch_cleans_up:
                raise RuntimeError("not currently recording to mempool_id")

        def make_stream(device: torch.device) -> FakeStream:
            fake.streams += 1
            return FakeStream(fake, ("warm-up", "capture")[(fake.streams - 1) % 2])

        for name, value in {
            "CUDAGraph": Graph,
            "Stream": make_stream,
            "current_device": lambda: 0,
            "current_stream": lambda device=None: fake.stream,
            "default_generators": [Generator()],
            "device": lambda device: contextlib.nullcontext(),
            "empty_cache": lambda: fake.calls.append("empty cache"),
            "graph_pool_handle": fake.new_pool,
            "stream": fake.on,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end_allocate, raising=False)
        monkeypatch.setattr(
            torch._C, "_cuda_releasePool", lambda index, pool: fake.calls.append(f"release {pool}"), raising=False
        )
        monkeypatch.setattr(graphs, "_BROKEN", [])

    def new_pool(self) -> str:
        self.pools += 1
        return f"pool {self.pools}"

    @contextlib.contextmanager
    def on(self, stream: FakeStream) -> Iterator[None]:
        before, self.stream = self.stream, stream
        try:
            yield
        finally:
            self.stream = before


class FakeStream:
    def __init__(self, cuda: FakeCuda, name: str) -> None:
        self.cuda, self.name = cuda, name

    def wait_stream(self, other: FakeStream) -> None:
        self.cuda.calls.append(f"{self.name} waits for {other.name}")

    def synchronize(self) -> None:
        self.cuda.calls.append(f"host waits for {self.name}")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return FakeCuda(monkeypatch)


def recorder_on(fake: FakeCuda, warm_up_runs: int = 1) -> CudaGraphs:
    recorder = CudaGraphs(torch.device("cuda"), warm_up_runs=warm_up_runs)
    assert recorder.device == torch.device("cuda:0")
    recorder.device = torch.device("cpu", 0)  # where the tests' programs give their outputs
    return recorder


def program_of(fake: FakeCuda, error: Exception | None = None, at: str = "capture") -> Callable[[], Tensor]:
    def program() -> Tensor:
        fake.calls.append(f"run on {fake.stream.name}")
        if error is not None and fake.stream.name == at:
            raise error
        return torch.ones(1, device=torch.device("cpu", 0))

    return program


@pytest.fixture
def program_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch has only one CPU and calls it cpu; the recorder compares devices with numbers."""
    monkeypatch.setattr(graphs, "_same_device", lambda tensor, device: True)


@pytest.mark.usefixtures("program_device")
def test_order_of_calls(fake: FakeCuda) -> None:
    recorder = recorder_on(fake, warm_up_runs=2)
    replay = recorder.record(program_of(fake))
    assert fake.calls == [
        "warm-up waits for default",
        "run on warm-up",
        "run on warm-up",
        "host waits for warm-up",
        "begin pool 2 thread_local on capture with state copy",
        "run on capture",
        "end on capture",
    ]
    assert (fake.state, fake.stream.name) == ("own", "default")
    assert gc.isenabled()
    fake.calls.clear()
    assert replay() is replay()
    assert fake.calls == ["replay on default"] * 2
    assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()


@pytest.mark.usefixtures("program_device")
def test_graphs_share_a_pool_while_one_of_them_lives(fake: FakeCuda) -> None:
    recorder = recorder_on(fake)
    first = recorder.record(program_of(fake))
    second = recorder.record(program_of(fake))
    pools = [call.split()[2] for call in fake.calls if call.startswith("begin")]
    assert pools == ["2", "2"]
    del first, second
    recorder.record(program_of(fake))
    assert [call.split()[2] for call in fake.calls if call.startswith("begin")] == ["2", "2", "3"]


@pytest.mark.usefixtures("program_device")
def test_replays_on_other_streams_wait_for_each_other(fake: FakeCuda) -> None:
    recorder = recorder_on(fake)
    first, second = recorder.record(program_of(fake)), recorder.record(program_of(fake))
    fake.calls.clear()
    first()
    with fake.on(FakeStream(fake, "another")):
        second()
        first()
    assert fake.calls == ["replay on default", "another waits for default", "replay on another", "replay on another"]


@pytest.mark.usefixtures("program_device")
def test_a_program_that_fails_in_the_capture(fake: FakeCuda) -> None:
    recorder = recorder_on(fake)
    with pytest.raises(CaptureError, match=r"^ValueError: no such thing$"):
        recorder.record(program_of(fake, ValueError("no such thing\nadvice")))
    assert fake.calls[-3:] == ["run on capture", "end on capture", "reset"]
    assert (fake.state, fake.stream.name, gc.isenabled()) == ("own", "default", True)
    fake.calls.clear()
    recorder.record(program_of(fake))()  # nothing is locked or left behind
    assert fake.calls[-1] == "replay on default"


@pytest.mark.usefixtures("program_device")
@pytest.mark.parametrize("torch_cleans_up", [False, True])
def test_a_capture_that_became_invalid(fake: FakeCuda, torch_cleans_up: bool) -> None:
    recorder = recorder_on(fake)
    fake.torch_cleans_up = torch_cleans_up  # as from 2.12 on
    fake.end_error = RuntimeError("CUDA error: operation failed due to a previous error during capture")
    with pytest.raises(CaptureError, match="RuntimeError: CUDA error: operation not permitted"):
        recorder.record(program_of(fake, RuntimeError("CUDA error: operation not permitted\nCUDA kernel errors ...")))
    after = fake.calls[fake.calls.index("run on capture") + 1 :]
    release = [] if torch_cleans_up else ["release pool 2"]
    assert after == ["end on capture", "end allocate pool 2", *release, "reset"]
    assert len(graphs._BROKEN) == 1
    assert (fake.state, fake.stream.name, gc.isenabled()) == ("own", "default", True)


@pytest.mark.usefixtures("program_device")
def test_a_capture_that_cannot_begin_or_end(fake: FakeCuda) -> None:
    recorder = recorder_on(fake)
    fake.begin_error = fake.end_error = RuntimeError("CUDA error: unknown")
    with pytest.raises(CaptureError, match="CUDA error: unknown"):
        recorder.record(program_of(fake))
    assert (fake.state, gc.isenabled(), fake.calls[-1]) == ("own", True, "reset")
    fake.begin_error = None
    with pytest.raises(CaptureError, match="CUDA error: unknown"):
        recorder.record(program_of(fake))
    assert (fake.state, fake.stream.name, fake.calls[-1]) == ("own", "default", "reset")


@pytest.mark.usefixtures("program_device")
@pytest.mark.parametrize("at", ["warm-up", "capture"])
def test_out_of_memory(fake: FakeCuda, at: str) -> None:
    recorder = recorder_on(fake)
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")
    with pytest.raises(CaptureError, match=r"^out of GPU memory while recording: CUDA out of memory. Tried"):
        recorder.record(program_of(fake, error, at))
    assert fake.calls[-1] == "empty cache"
    assert ("reset" in fake.calls) == (at == "capture")


@pytest.mark.usefixtures("program_device")
def test_what_a_failed_program_held_is_freed(fake: FakeCuda) -> None:
    class Held:
        alive = 0

        def __init__(self) -> None:
            Held.alive += 1

        def __del__(self) -> None:
            Held.alive -= 1

    def program() -> Tensor:
        held = Held()
        raise ValueError(f"with {held is not None}")

    with pytest.raises(CaptureError) as caught:
        recorder_on(fake).record(program)
    assert Held.alive == 0, caught


def test_a_program_must_give_a_tensor_of_the_device(fake: FakeCuda) -> None:
    recorder = recorder_on(fake)
    with pytest.raises(CaptureError, match="the program gave int, expected a tensor on"):
        recorder.record(lambda: 3)  # type: ignore[arg-type,return-value]
    with pytest.raises(CaptureError, match="the program gave a tensor on meta, expected"):
        recorder.record(lambda: torch.ones(1, device="meta"))


def test_arguments() -> None:
    with pytest.raises(ValueError, match="CUDA graphs need a CUDA device, found cpu"):
        CudaGraphs(torch.device("cpu"))
    with pytest.raises(ValueError, match="warm_up_runs is 0"):
        CudaGraphs(torch.device("cuda", 0), warm_up_runs=0)


# With a GPU.


class Network:
    """A small program with buffers of its own: products, attention, a norm."""

    def __init__(self, rows: int, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.layer = nn.Linear(64, 3 * 64, device="cuda", dtype=torch.bfloat16)
        self.norm = nn.LayerNorm(64, device="cuda", dtype=torch.bfloat16)
        self.buffer = torch.randn(rows, 64, device="cuda", dtype=torch.bfloat16)

    def __call__(self) -> Tensor:
        q, k, v = self.layer(self.norm(self.buffer)).view(1, len(self.buffer), 3, 4, 16).unbind(2)
        out = functional.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return out.transpose(1, 2).flatten(2) + torch.arange(64, device="cuda")

    @torch.no_grad()
    def fill(self, value: float) -> Tensor:
        """New contents; what is to come out, on the CPU."""
        self.buffer.copy_(torch.linspace(-value, value, self.buffer.numel()).view_as(self.buffer))
        return self().float().cpu()


def assert_close(found: Tensor, expected: Tensor) -> None:
    """Up to a rounding: another algorithm may have been chosen."""
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


@needs_gpu
def test_replay_follows_the_buffers() -> None:
    network, recorder = Network(24), CudaGraphs(torch.device("cuda"))
    replay = recorder.record(network)
    for i in range(3):
        expected = network.fill(1.0 + i)
        assert_close(replay().float().cpu(), expected)
    assert replay() is replay()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        assert_close(replay().float().cpu(), expected)


@needs_gpu
def test_two_graphs_of_one_pool() -> None:
    networks, recorder = [Network(24), Network(40, seed=1)], CudaGraphs(torch.device("cuda"))
    replays = [recorder.record(network) for network in networks]
    for i in range(3):
        for network, replay in zip(networks, replays, strict=True):
            expected = network.fill(1.0 + i)
            assert_close(replay().float().cpu(), expected)


@needs_gpu
def test_a_replay_asks_the_allocator_for_nothing() -> None:
    network = Network(24)
    replay = CudaGraphs(torch.device("cuda")).record(network)
    replay()
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    for _ in range(5):
        replay()
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


@needs_gpu
def test_replays_while_another_is_captured() -> None:
    recorder, first, second = CudaGraphs(torch.device("cuda")), Network(24), Network(40, seed=1)
    captured, inside, go_on = [], threading.Event(), threading.Event()
    replay = recorder.record(first)
    expected = first.fill(2.0)
    fetch = Fetch(replay())

    def slow() -> Tensor:
        out = second()
        if torch.cuda.is_current_stream_capturing():
            inside.set()
            assert go_on.wait(LONG)
        return out * 1

    thread = threading.Thread(target=lambda: captured.append(recorder.record(slow)))
    thread.start()
    assert inside.wait(LONG)
    for _ in range(20):
        assert_close(fetch(replay()), expected)
        torch.randn(4, device="cuda")  # the device's random numbers go on too
        torch.empty(2**22, device="cuda")  # and its allocator
    go_on.set()
    thread.join(LONG)
    later = second.fill(3.0)
    assert_close(captured[0]().float().cpu(), later)
    assert_close(fetch(replay()), expected)


REFUSED: dict[str, Callable[[Tensor], Tensor]] = {
    "item": lambda x: x * x[0, 0].item(),
    "mask": lambda x: x[x > 0],
    "error": lambda x: x @ torch.ones(3, device="cuda"),
    "synchronize": lambda x: (torch.cuda.synchronize(), x)[1] * 2,
}


@needs_gpu
@pytest.mark.parametrize("name", REFUSED)
def test_nothing_is_left_after_a_failed_capture(name: str) -> None:
    recorder, good, x = CudaGraphs(torch.device("cuda")), Network(24), torch.randn(4, 4, device="cuda")
    before = recorder.record(good)
    with pytest.raises(CaptureError) as caught:
        recorder.record(lambda: REFUSED[name](x))
    assert "\n" not in str(caught.value)
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    torch.randn(4, device="cuda")  # would raise in 2.6 to 2.11 with the generator left capturing
    torch.cuda.synchronize()
    torch.cuda.empty_cache()  # would assert with the allocator left in the capture
    expected = good.fill(2.0)
    for replay in (before, recorder.record(good)):
        assert_close(replay().float().cpu(), expected)


@needs_gpu
def test_slots_on_the_device() -> None:
    recorder = CudaGraphs(torch.device("cuda"))
    networks = {rows: Network(rows, seed=rows) for rows in (8, 16, 24)}
    slots: Slots[int, Callable[[], Tensor]] = Slots(lambda rows: recorder.record(networks[rows]), limit=2)
    for rows in networks:
        slots.request(rows)
    assert slots.wait(LONG)
    assert slots.get(8) is None
    for rows in (16, 24):
        replay, expected = slots.get(rows), networks[rows].fill(1.0)
        assert replay is not None
        assert_close(replay().float().cpu(), expected)
    slots.close()
