"""Copies into an engine's buffers and out of them, with transfers that run as late as they may."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from groot_ros.model.engine.staging import CudaTransfers, Fetch, PinnedCopy

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


class Late:
    """A stream whose copies run only when somebody waits for a marker behind them."""

    def __init__(self) -> None:
        self.work: list[Callable[[], object]] = []
        self.done = 0
        self.made = 0

    def host_like(self, tensor: Tensor) -> Tensor:
        self.made += 1
        return torch.empty(tensor.shape, dtype=tensor.dtype)

    def copy(self, target: Tensor, source: Tensor) -> None:
        self.work.append(lambda: target.copy_(source))

    def marker(self) -> LateMarker:
        return LateMarker(self)

    def run(self, until: int) -> None:
        while self.done < until:
            self.work[self.done]()
            self.done += 1


class LateMarker:
    def __init__(self, stream: Late) -> None:
        self.stream, self.at = stream, 0

    def record(self) -> None:
        self.at = len(self.stream.work)

    def synchronize(self) -> None:
        self.stream.run(self.at)


def test_plain_copy_on_the_cpu() -> None:
    buffers = {"state": torch.zeros(2, dtype=torch.bfloat16), "noise": torch.zeros(3)}
    stage = PinnedCopy(buffers)
    stage({"state": torch.tensor([1.0, 2.0])})
    assert buffers["state"].tolist() == [1.0, 2.0]
    assert buffers["noise"].tolist() == [0.0] * 3


def test_staged_values_wait_for_the_last_copies() -> None:
    stream, buffer = Late(), torch.zeros(2)
    stage = PinnedCopy({"state": buffer}, stream)
    value, seen = torch.ones(2), []
    stage({"state": value})
    value.fill_(9.0)  # the caller's tensor is free at once
    assert buffer.tolist() == [0.0, 0.0]  # nothing was waited for
    stream.work.append(lambda: seen.append(buffer.tolist()))  # a replay
    stage({"state": torch.full((2,), 2.0)})
    stream.run(len(stream.work))
    assert seen == [[1.0, 1.0]]
    assert buffer.tolist() == [2.0, 2.0]


def test_memory_is_made_once() -> None:
    stream, buffers = Late(), {"a": torch.zeros(2), "b": torch.zeros(2, dtype=torch.int64)}
    stage = PinnedCopy(buffers, stream)
    for i in range(3):
        stage({"a": torch.full((2,), float(i)), "b": torch.full((2,), i)})
    stream.run(len(stream.work))
    assert stream.made == 2
    assert buffers["a"].tolist() == [2.0, 2.0]
    assert buffers["b"].tolist() == [2, 2]


def test_bad_values_are_refused_before_anything_is_written() -> None:
    buffer = torch.zeros(2)
    stage = PinnedCopy({"state": buffer})
    with pytest.raises(ValueError, match=r"state has shape \(3,\), expected \(2,\)"):
        stage({"state": torch.ones(3)})
    with pytest.raises(ValueError, match="there is no buffer stat; there are state"):
        stage({"state": torch.ones(2), "stat": torch.ones(2)})
    assert buffer.tolist() == [0.0, 0.0]


def test_fetch_on_the_cpu() -> None:
    result = torch.tensor([1.5, 2.0], dtype=torch.bfloat16)
    fetch = Fetch(result)
    first = fetch(result)
    result.zero_()
    second = fetch(result)
    assert first.dtype == torch.float32
    assert (first.tolist(), second.tolist()) == ([1.5, 2.0], [0.0, 0.0])


def test_fetch_waits_for_its_own_copy_only() -> None:
    stream, result = Late(), torch.ones(2)
    fetch = Fetch(result, stream)
    stream.work.append(lambda: result.mul_(3.0))  # the replay whose result it is
    fetch.start(result)
    later: list[int] = []
    stream.work.append(lambda: later.append(1))
    found = fetch.wait()
    assert found.tolist() == [3.0, 3.0]
    assert not later
    fetch(torch.zeros(2))
    assert found.tolist() == [3.0, 3.0]  # memory of its own


def test_fetch_refuses_another_result() -> None:
    fetch = Fetch(torch.zeros(2))
    with pytest.raises(ValueError, match=r"the result is \(3,\) torch.float32, expected \(2,\) torch.float32"):
        fetch(torch.zeros(3))
    with pytest.raises(ValueError, match="bfloat16"):
        fetch.start(torch.zeros(2, dtype=torch.bfloat16))


@needs_gpu
def test_to_the_device_and_back() -> None:
    buffers = {"a": torch.zeros(1000, device="cuda", dtype=torch.bfloat16), "b": torch.zeros(3, device="cuda")}
    stage, fetch = PinnedCopy(buffers), Fetch(buffers["a"])
    for i in range(50):
        value = torch.full((1000,), float(i))
        stage({"a": value, "b": torch.full((3,), float(i), device="cuda")})
        value.fill_(-1.0)
        torch.testing.assert_close(fetch(buffers["a"]), torch.full((1000,), float(i)))
        assert buffers["b"].tolist() == [float(i)] * 3


@needs_gpu
def test_no_allocation_on_the_device() -> None:
    buffer = torch.zeros(1000, device="cuda", dtype=torch.bfloat16)
    stage, fetch, value = PinnedCopy({"a": buffer}), Fetch(buffer), torch.ones(1000)
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    for _ in range(3):
        stage({"a": value})
        fetch(buffer)
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


def test_markers_stand_in_the_stream_of_the_copies(monkeypatch):
    """Also where the model is on another GPU than torch's current one, whose streams are empty: nobody would wait."""
    recorded = []

    class Event:
        def __init__(self, blocking: bool) -> None:
            self.blocking = blocking

        def record(self, stream: object) -> None:
            recorded.append(stream)

        def synchronize(self) -> None:
            recorded.append("waited")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: f"current stream of {device}")
    marker = CudaTransfers(torch.device("cuda", 1)).marker()
    marker.record()
    marker.synchronize()
    assert recorded == ["current stream of cuda:1", "waited"]
