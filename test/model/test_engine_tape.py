"""The tape, which stands in for CUDA graphs in tests of the engine."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from tape import TapeRecorder
from torch import Tensor, nn
from torch.nn import functional

from groot_ros.model.engine.graphs import CaptureError


def test_replay_follows_buffers() -> None:
    layer, norm, buffer, index = nn.Linear(4, 6), nn.LayerNorm(4), torch.randn(3, 4), torch.tensor([2, 0])

    def program() -> Tensor:
        x = layer(norm(buffer)).view(3, 2, 3).transpose(0, 1)[None]
        x = functional.scaled_dot_product_attention(x, x, x, is_causal=True)
        return functional.pad(x[0, :, index].flatten(1), (1, 1)).repeat_interleave(2, dim=0)

    replay = TapeRecorder().record(program)
    for _ in range(2):
        buffer.normal_()
        with torch.no_grad():
            torch.testing.assert_close(replay(), program(), rtol=0, atol=0)
    assert replay() is replay()
    assert replay.replays == 4


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_every_grad_mode(mode: Callable[[], torch.no_grad]) -> None:
    layer, buffer = nn.Linear(4, 4), torch.randn(2, 4)
    with mode():
        replay = TapeRecorder().record(lambda: functional.silu(layer(buffer)).reshape(-1))
        buffer.normal_()
        torch.testing.assert_close(replay(), functional.silu(layer(buffer)).reshape(-1), rtol=0, atol=0)


def test_python_runs_once() -> None:
    buffer, factor, calls = torch.ones(2), 2.0, []

    def program() -> Tensor:
        calls.append(factor)
        return buffer * factor

    replay = TapeRecorder(warm_up_runs=2).record(program)
    factor = 5.0
    assert replay().tolist() == [2.0, 2.0]  # the constant of the recording
    assert calls == [2.0, 2.0, 2.0]


def test_weights_that_are_replaced_are_not_seen() -> None:
    layer, buffer = nn.Linear(1, 1, bias=False), torch.ones(1, 1)
    layer.weight.data = torch.tensor([[3.0]])
    replay = TapeRecorder().record(lambda: layer(buffer))
    layer.weight.data = torch.tensor([[7.0]])
    assert replay().item() == 3.0


def test_weights_that_are_written_to_are_seen() -> None:
    layer, buffer = nn.Linear(1, 1, bias=False), torch.ones(1, 1)
    replay = TapeRecorder().record(lambda: layer(buffer))
    with torch.no_grad():
        layer.weight.fill_(7.0)
    assert replay().item() == 7.0


def test_in_place_out_and_factory_operations_run_again() -> None:
    buffer, scratch = torch.ones(2), torch.zeros(2)

    def program() -> Tensor:
        total = torch.zeros(2)
        total += buffer
        total[1:] *= 3
        torch.add(total, torch.arange(2.0), out=scratch)
        return scratch.clone()

    replay = TapeRecorder().record(program)
    buffer.fill_(2.0)
    for _ in range(2):
        assert replay().tolist() == [2.0, 7.0]


def test_recording_leaves_buffers_as_they_were() -> None:
    state = torch.zeros(3)

    def program() -> Tensor:
        state[1:].add_(1.0)
        return state * 1.0

    replay = TapeRecorder(warm_up_runs=1).record(program)
    assert state.tolist() == [0.0, 1.0, 1.0]  # of the warm-up
    replay()
    assert replay().tolist() == [0.0, 3.0, 3.0]


def test_nothing_is_computed_before_the_first_replay() -> None:
    buffer, kept = torch.ones(2), []

    def program() -> Tensor:
        kept.append(buffer + 1)  # a value that somebody remembers of the recording
        return kept[-1].to(torch.bfloat16) * 2

    replay = TapeRecorder(warm_up_runs=1).record(program)
    assert replay.output.isnan().all()
    assert kept[0].tolist() == [2.0, 2.0]
    assert kept[1].isnan().all()
    assert replay().tolist() == [4.0, 4.0]


def test_a_replay_spoils_the_results_of_others() -> None:
    buffer, recorder = torch.ones(2), TapeRecorder()
    first = recorder.record(lambda: buffer + 1)
    second = recorder.record(lambda: (buffer + 2).long())
    result = first()
    second()
    assert result.isnan().all()
    result = second()
    first()
    assert (result != 3).all()


def test_programs_that_read_each_other() -> None:
    buffer, recorder = torch.ones(2), TapeRecorder(spoils_others=False)
    first = recorder.record(lambda: buffer + 1)
    second = recorder.record(lambda: first.output * 2)
    buffer.fill_(4.0)
    first()
    assert second().tolist() == [10.0, 10.0]


def test_names() -> None:
    buffer = torch.ones(2, 2)
    replay = TapeRecorder().record(lambda: buffer.view(4)[None].t() + 1)
    assert replay.names == ["aten.add.Tensor"]


X = torch.arange(4.0)
MASK = X > 1
REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "item": (lambda: X * X[1].item(), "takes values to the host"),
    "if": (lambda: X if X[1] > 0 else -X, "takes values to the host"),
    "tolist": (lambda: X * X.tolist()[1], "Tensor.tolist takes values to the host"),
    "numpy": (lambda: X * float(X.numpy()[1]), "Tensor.numpy takes values to the host"),
    "cpu": (lambda: X.cpu(), "Tensor.cpu takes values to the host"),
    "equal": (lambda: X * torch.equal(X, X), "takes values to the host"),
    "all": (lambda: X if bool(MASK.all()) else -X, "takes values to the host"),
    "tensor": (lambda: X + torch.tensor([1.0, 2.0, 3.0, 4.0]), "takes values from the host"),
    "list index": (lambda: X[[0, 1]], "takes values from the host"),
    "nonzero": (lambda: MASK.nonzero(), "shape that depends on values"),
    "where": (lambda: torch.where(MASK)[0], "shape that depends on values"),
    "masked_select": (lambda: X.masked_select(MASK), "shape that depends on values"),
    "masked_scatter": (lambda: X.masked_scatter(MASK, X), "shape that depends on values"),
    "mask index": (lambda: X[MASK], "with a mask has a shape"),
    "mask index_put": (lambda: X.clone().index_put_((MASK,), X[:2]), "with a mask has a shape"),
    "repeats": (lambda: X.repeat_interleave(MASK.long()), "shape that depends on values"),
    "unique": (lambda: X.unique(), "shape that depends on values"),
    "randn": (lambda: X + torch.randn(4), "random numbers"),
    "normal_": (lambda: torch.empty(4).normal_(), "random numbers"),
    "dropout": (lambda: functional.dropout(X, 0.5, training=True), "random numbers"),
    "set_": (lambda: X.clone().set_(X.clone()), "other memory"),
    "no tensor": (lambda: 3, "gave int, expected a tensor"),
    "its own error": (lambda: X @ torch.ones(3), "RuntimeError: "),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_refused(name: str, mode: Callable[[], torch.no_grad]) -> None:
    function, message = REFUSED[name]
    recorder = TapeRecorder(warm_up_runs=0)
    with mode(), pytest.raises(CaptureError, match=message) as caught:
        recorder.record(function)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert not recorder.programs
    assert (X + 1).tolist() == [1.0, 2.0, 3.0, 4.0]  # no mode is left on
    assert X[1].item() == 1.0


def test_buffers_are_as_before_where_recording_fails() -> None:
    buffer = torch.ones(2)

    def program() -> Tensor:
        buffer.add_(1.0)
        return buffer * buffer[0].item()

    with pytest.raises(CaptureError):
        TapeRecorder(warm_up_runs=0).record(program)
    assert buffer.tolist() == [1.0, 1.0]


def test_masked_fill_and_where_are_allowed() -> None:
    x, mask = torch.arange(4.0), torch.tensor([True, False, True, False])
    replay = TapeRecorder().record(lambda: torch.where(mask, x, 0.0) + x.masked_fill(mask, 9.0))
    assert replay().tolist() == [9.0, 1.0, 11.0, 3.0]
    mask.logical_not_()
    assert replay().tolist() == [0.0, 10.0, 2.0, 12.0]


def test_recording_in_one_thread_leaves_another_alone() -> None:
    buffer, recorder, inside, go_on = torch.ones(2), TapeRecorder(warm_up_runs=0), threading.Event(), threading.Event()
    first = recorder.record(lambda: buffer + 1)

    def program() -> Tensor:
        x = buffer * 2
        inside.set()
        assert go_on.wait(30)
        return x * 2

    found = []
    thread = threading.Thread(target=lambda: found.append(recorder.record(program)))
    thread.start()
    assert inside.wait(30)
    assert first().tolist() == [2.0, 2.0]
    assert buffer[0].item() == 1.0
    go_on.set()
    thread.join(30)
    assert found[0]().tolist() == [4.0, 4.0]
    assert found[0].names == ["aten.mul.Tensor", "aten.mul.Tensor"]
