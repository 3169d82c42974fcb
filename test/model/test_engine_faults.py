"""The engine where something fails: a capture, a replay, the compiler, memory. A chunk comes all the same."""

from __future__ import annotations

import threading

import pytest
import torch
from engine_rig import EMBODIMENT, network, noise_for, observation, same
from tape import TapeRecorder
from torch import Tensor

from groot_ros.model.engine import Engine, EngineOptions
from groot_ros.model.engine import engine as engine_module
from groot_ros.model.engine.graphs import CaptureError
from groot_ros.model.engine.program import Program

UNPACKED = EngineOptions(pack=False, text_bucket=8)


class Failing(TapeRecorder):
    """Records nothing, or what fails when it is replayed."""

    def __init__(self, at: str, error: Exception) -> None:
        super().__init__()
        self.at, self.error = at, error

    def record(self, function):
        if self.at == "capture":
            raise self.error
        replay = super().record(function)

        def fail() -> Tensor:
            assert replay is not None
            raise self.error

        return fail


@pytest.mark.parametrize(
    ("at", "error", "said"),
    [
        ("capture", CaptureError("operation not permitted when stream is capturing"), "not permitted"),
        ("capture", CaptureError("out of GPU memory while recording: tried to allocate 2 GiB"), "out of GPU memory"),
        ("replay", RuntimeError("CUDA error: invalid argument\nadvice"), "its replay failed: CUDA error: invalid arg"),
    ],
)
def test_engine_goes_on_without_a_graph(at, error, said):
    model, plain, told = network("n1d7"), network("n1d7"), []
    engine = Engine(model, EMBODIMENT, UNPACKED, recorder=Failing(at, error), log=told.append)
    inputs = observation(model)
    for _ in range(4):
        same(engine, plain, inputs)
        assert engine.wait(60)
    report = engine.report()
    assert report.mode == "eager" and said in report.reason
    assert len(told) == 1 and said in told[0] and "\n" not in told[0]
    assert any(said in state for state in report.lengths.values())
    same(engine, plain, observation(model, words=20))  # another length is tried


def test_engine_gives_up_graphs_when_out_of_memory():
    model, plain, told = network("n1d7"), network("n1d7"), []
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
    engine = Engine(model, EMBODIMENT, UNPACKED, recorder=Failing("replay", error), log=told.append)
    inputs = observation(model)
    same(engine, plain, inputs)
    assert engine.wait(60)
    for _ in range(2):
        same(engine, plain, inputs)
    assert len(told) == 1 and "out of memory" in told[0] and "Tried to allocate 20.00 MiB" in told[0]
    assert engine.report().mode == "eager" and "out of memory" in engine.report().reason
    assert engine.report().lengths == {}
    engine.changed()  # there may be room now
    same(engine, plain, inputs)
    assert engine.wait(60) and len(engine.report().lengths) == 1


@pytest.mark.parametrize("where", [(Program, "__call__"), (engine_module, "prompt_buffers")])
def test_engine_says_what_to_do_when_out_of_memory_without_graphs(where, monkeypatch):
    """In the network, and where an instruction is prepared."""
    model, plain, told = network("n1d7"), network("n1d7"), []
    engine, inputs = Engine(model, EMBODIMENT, UNPACKED, log=told.append), observation(model)
    whole, left = getattr(*where), 1

    def short_of_memory(*arguments):
        nonlocal left
        if left:
            left -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nmore")
        return whole(*arguments)

    monkeypatch.setattr(*where, short_of_memory)
    same(engine, plain, inputs)  # the second try
    assert len(told) == 1 and "trying once more" in told[0]
    left, inputs = 2, observation(model, words=9)
    with pytest.raises(
        RuntimeError, match=r"out of GPU memory, 20.00 MiB wanted; what helps: end other programs.*bfloat16"
    ):
        engine.sample(inputs, noise_for(model))
    same(engine, plain, inputs)  # and goes on where there is memory again


@pytest.mark.parametrize("graphs", [False, True])
def test_engine_goes_on_uncompiled(graphs, monkeypatch):
    """With graphs, the thread that records them finds out; no chunk waits for a compiler."""
    threads = []

    def broken(*_: object) -> Tensor:
        threads.append(threading.current_thread())
        raise TypeError("InductorError: no compiler\nis installed")

    model, plain, told = network("n1d6"), network("n1d6"), []
    monkeypatch.setattr(torch, "compile", lambda *_, **__: broken)
    options = EngineOptions(compile=True, pack=False)
    engine = Engine(model, EMBODIMENT, options, recorder=TapeRecorder() if graphs else None, log=told.append)
    for words in (6, 20):
        for _ in range(2):
            same(engine, plain, observation(model, words=words))
            assert engine.wait(60)
    assert told == ["torch.compile: TypeError: InductorError: no compiler; the engine runs uncompiled"]
    assert [thread is threading.main_thread() for thread in threads] == [not graphs]
    assert engine.mode == ("graph" if graphs else "eager")


def test_engine_program_can_be_compiled(monkeypatch):
    """Without a break: dynamo traces the whole of it into one graph, which is run as it is."""
    compile_with = torch.compile

    def traced(function, *, dynamic: bool):
        return compile_with(function, dynamic=dynamic, backend="eager", fullgraph=True)

    monkeypatch.setattr(torch, "compile", traced)
    model, plain = network("n1d7"), network("n1d7")
    engine = Engine(model, EMBODIMENT, EngineOptions(compile=True, pack=False), log=pytest.fail)
    same(engine, plain, observation(model))
    same(engine, plain, observation(model, seed=1), 1)
