"""CUDA graphs of a program, recorded beside a running one.

A recorded program repeats the same kernels on the same memory, so it may read nothing but buffers and weights that
stay where they are. Sources: PyTorch's notes on CUDA graphs, its `CUDAGraph.cpp`, `CUDAGeneratorImpl.cpp` and
`CUDACachingAllocator.cpp` (2.6 to 2.13), and NVIDIA's CUDA programming guide on stream capture.

What lets one thread replay a graph while another thread records the next one:

* Mode `thread_local`: calls that a capture forbids (`cudaMalloc` and the like) fail in the recording thread only.
* Other threads may not synchronise the device, nor call `torch.cuda.empty_cache()`, nor query an event recorded on the
  capturing stream: the first and the last end the capture. So whoever runs beside waits for events: `Fetch`.
* torch's streams are non-blocking ones. Only so may others go on using the legacy default stream during a capture.
* Warm-up runs write to memory. They run on another stream than the capture: cuBLAS has one workspace per stream, and
  the one of the capturing stream belongs to the recorded graphs, which may be running. The rest of what warm-up runs
  write comes from the common pool, which no graph reads.
* The graphs of a recorder share a pool: the intermediate values of one may lie where those of another are. So two
  replays may never overlap; `order` makes them wait for each other where their streams differ. A capture runs nothing.
* Python's garbage collection during a capture could free a graph or an event of someone else in the recording thread,
  with calls that a capture forbids; it is off meanwhile.
* torch 2.6 to 2.11 put the device's random state into capture mode: random numbers of other threads, and in 2.6 every
  replay, would fail then, and after a broken capture forever. The capture gets a state of its own instead. Random
  numbers inside a program are refused there; noise is a buffer.
"""

from __future__ import annotations

import contextlib
import gc
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from groot_ros.model.engine.memory import OUT_OF_MEMORY, is_out_of_memory

WARM_UP_RUNS = 3
"""As in PyTorch's examples: the first runs load kernels, choose algorithms, and compile where that is asked for."""

# torch allows one capture at a time in a process.
_CAPTURE_LOCK = threading.Lock()
# Captures that could not be ended in order: torch's allocators may still hold a function that looks into them.
_BROKEN: list[torch.cuda.CUDAGraph] = []


class CaptureError(RuntimeError):
    """A program could not be recorded; the message says why in one line. Nothing is left half-captured."""


class Recorder(Protocol):
    """Turns a program into one that is repeated without Python."""

    def record(self, function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Runs `function` for warm-up and records it.

        What is returned repeats the same kernels on the same memory and gives the same output tensor each time; its
        content is good until the next replay of any program of this recorder.

        Args:
            function: reads and writes only tensors that it holds. Warm-up runs it while other programs of the same
                recorder may run, so it may share with them what nobody writes, and nothing else.

        Raises:
            CaptureError: the program cannot be recorded.
        """
        ...


class GraphReplay:
    """A recorded program: a call replays it on the current stream and gives the one output tensor.

    Whoever drops it waits first for its last run: its memory goes back at once.
    """

    def __init__(
        self, recorder: CudaGraphs, graph: torch.cuda.CUDAGraph, output: Tensor, function: Callable[[], Tensor]
    ) -> None:
        self._recorder, self._graph, self._output = recorder, graph, output
        self._function = function  # the graph knows addresses only; this keeps alive what is there

    def __call__(self) -> Tensor:
        self._recorder.order()
        self._graph.replay()
        return self._output


class CudaGraphs:
    """A `Recorder` of CUDA graphs, for one engine: its graphs share one memory pool.

    Args:
        device: a CUDA device.
        warm_up_runs: before each capture.
    """

    def __init__(self, device: torch.device, *, warm_up_runs: int = WARM_UP_RUNS) -> None:
        if device.type != "cuda":
            raise ValueError(f"CUDA graphs need a CUDA device, found {device}")
        if warm_up_runs < 1:
            raise ValueError(f"warm_up_runs is {warm_up_runs}, expected at least 1")
        index = torch.cuda.current_device() if device.index is None else device.index
        self.device = torch.device("cuda", index)
        self._warm_up_runs = warm_up_runs
        self._warm_up_stream = torch.cuda.Stream(self.device)
        # One stream for all captures: the blocks of a pool belong to the stream that asked for them.
        self._capture_stream = torch.cuda.Stream(self.device)
        self._pool = torch.cuda.graph_pool_handle()
        self._live: weakref.WeakSet[torch.cuda.CUDAGraph] = weakref.WeakSet()
        self._last_stream: torch.cuda.Stream | None = None

    def record(self, function: Callable[[], Tensor]) -> GraphReplay:
        """See `Recorder.record`. The replay runs on the current stream of whoever calls it."""
        with _CAPTURE_LOCK, torch.cuda.device(self.device), torch.no_grad():
            try:
                self._warm_up(function)
                graph, output = self._capture(function)
            except Exception as error:
                traceback.clear_frames(error.__traceback__)  # what the program held on the GPU
                if isinstance(error, CaptureError):
                    raise
                if is_out_of_memory(error):
                    torch.cuda.empty_cache()  # what the warm-up runs left; no capture is under way any more
                    raise CaptureError(f"{OUT_OF_MEMORY} while recording: {one_line(error)}") from error
                raise CaptureError(f"{type(error).__name__}: {one_line(error)}") from error
        return GraphReplay(self, graph, output, function)

    def order(self) -> None:
        """Lets a replay on another stream than the last one wait for that one: they share memory."""
        stream = torch.cuda.current_stream(self.device)
        last, self._last_stream = self._last_stream, stream
        if last is not None and last != stream:
            stream.wait_stream(last)

    def _warm_up(self, function: Callable[[], Tensor]) -> None:
        """Runs it in this thread, whose cuBLAS handle the capture will use, on a stream of its own."""
        stream = self._warm_up_stream
        stream.wait_stream(torch.cuda.current_stream(self.device))  # the buffers may just be being filled
        with torch.cuda.stream(stream):
            for _ in range(self._warm_up_runs):
                output = function()
        stream.synchronize()
        if not isinstance(output, Tensor) or not _same_device(output, self.device):
            found = f"a tensor on {output.device}" if isinstance(output, Tensor) else type(output).__name__
            raise CaptureError(f"the program gave {found}, expected a tensor on {self.device}")

    def _capture(self, function: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """The graph and its output. `torch.cuda.graph` is not used.

        On entry that waits for the whole device and frees all cached memory, which holds up whoever runs beside; and
        where the capture ends with an error it leaves its stream the current one.
        """
        # A pool is dead for good once its last graph is gone, so a living graph is held until the new one is there.
        anchor = next(iter(self._live), None)
        if anchor is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with _no_collection(), torch.cuda.stream(self._capture_stream):
            try:
                with _own_random_state(self.device):
                    graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                output = function()
                graph.capture_end()
            except BaseException:
                self._abandon(graph)
                raise
        self._live.add(graph)
        del anchor
        return graph, output

    def _abandon(self, graph: torch.cuda.CUDAGraph) -> None:
        """Ends a capture that failed, so that the stream, the allocator and the pool are as before it."""
        try:
            graph.capture_end()
        except RuntimeError:
            # The capture is invalid or over. Before torch 2.12 `capture_end` then leaves the allocator in it; where
            # it does not, the first call fails, and the second must not be made.
            index = self.device.index
            for name in ("_cuda_endAllocateToPool", "_cuda_endAllocateCurrentStreamToPool"):  # torch >= 2.8, before
                if hasattr(torch._C, name):
                    with contextlib.suppress(RuntimeError):
                        getattr(torch._C, name)(index, self._pool)
                        torch._C._cuda_releasePool(index, self._pool)
                    break
            _BROKEN.append(graph)
        graph.reset()


def one_line(error: BaseException) -> str:
    """The first line of an error's text; CUDA's errors go on with advice about debugging."""
    text = str(error).strip()
    return text.splitlines()[0].strip() if text else type(error).__name__


def _same_device(tensor: Tensor, device: torch.device) -> bool:
    return tensor.device == device


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection of reference cycles meanwhile, in any thread."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextlib.contextmanager
def _own_random_state(device: torch.device) -> Iterator[None]:
    """The capture that begins meanwhile takes a copy of the device's random state, which nobody else uses."""
    generator = torch.cuda.default_generators[device.index]
    state, copy = generator.graphsafe_get_state(), generator.clone_state()
    generator.graphsafe_set_state(copy)
    try:
        yield
    finally:
        generator.graphsafe_set_state(state)
