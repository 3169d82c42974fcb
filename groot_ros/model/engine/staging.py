"""The way of values into an engine's buffers and of its result out of them, without holding up the host or the device.

On CUDA through pinned host memory, which is allocated once: from there and to there copies run beside the host. What
they must wait for is said by events. A synchronisation of the whole device would also wait for other robots' work, and
would end a capture that another thread has begun.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor


class Marker(Protocol):
    """A point in the work of a stream."""

    def record(self) -> Any:
        """Puts the point behind all work of the current stream so far."""
        ...

    def synchronize(self) -> Any:
        """Holds up the host until the work before the point is done; at once where nothing was recorded."""
        ...


class Transfers(Protocol):
    """How values travel between host and device; a seam for tests."""

    def host_like(self, tensor: Tensor) -> Tensor:
        """Host memory of the tensor's shape and dtype that a copy can run to or from beside the host."""
        ...

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Puts a copy behind the work of the current stream."""
        ...

    def marker(self) -> Marker: ...


class CudaTransfers:
    """Pinned memory, copies that do not hold up the host, CUDA events.

    Args:
        device: whose streams the copies run in; it need not be torch's current device.
        blocking: the host sleeps while it waits instead of spinning: less load, a little later.
    """

    def __init__(self, device: torch.device, *, blocking: bool = False) -> None:
        self._device, self._blocking = device, blocking

    def host_like(self, tensor: Tensor) -> Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)

    def copy(self, target: Tensor, source: Tensor) -> None:
        target.copy_(source, non_blocking=True)

    def marker(self) -> Marker:
        return CudaMarker(self._device, blocking=self._blocking)


class CudaMarker:
    """An event in the current stream of a device.

    An event by itself takes the stream of torch's current device, and would be over before the copies on another one.
    """

    def __init__(self, device: torch.device, *, blocking: bool) -> None:
        self._device, self._event = device, torch.cuda.Event(blocking=blocking)

    def record(self) -> None:
        """See `Marker.record`."""
        self._event.record(torch.cuda.current_stream(self._device))

    def synchronize(self) -> None:
        """See `Marker.synchronize`."""
        self._event.synchronize()


class PinnedCopy:
    """Host tensors into static buffers of one device; one thread at a time.

    On the CPU, and for values that are on the device already, a plain copy.

    Args:
        buffers: by name.
        transfers: None: as the buffers' device has it.
    """

    def __init__(self, buffers: Mapping[str, Tensor], transfers: Transfers | None = None) -> None:
        self._buffers = dict(buffers)
        devices = [buffer.device for buffer in self._buffers.values() if buffer.device.type == "cuda"]
        self._transfers = CudaTransfers(devices[0]) if transfers is None and devices else transfers
        self._staged: dict[str, Tensor] = {}
        self._left: Marker | None = None
        if self._transfers is not None:
            self._staged = {name: self._transfers.host_like(buffer) for name, buffer in self._buffers.items()}
            self._left = self._transfers.marker()

    def __call__(self, values: Mapping[str, Tensor]) -> None:
        """Writes the values into the buffers of their names, cast to their dtypes, on the current stream.

        The values may change as soon as this returns.

        Raises:
            ValueError: there is no such buffer, or the value has another shape.
        """
        for name, value in values.items():
            if name not in self._buffers:
                raise ValueError(f"there is no buffer {name}; there are {', '.join(sorted(self._buffers))}")
            if value.shape != self._buffers[name].shape:
                expected = tuple(self._buffers[name].shape)
                raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {expected}, which its buffer has")
        if self._left is not None:
            self._left.synchronize()  # until the last copies have left the staged values, which are now overwritten
        for name, value in values.items():
            buffer = self._buffers[name]
            if self._transfers is None or value.device.type != "cpu":
                buffer.copy_(value)
            else:
                self._transfers.copy(buffer, self._staged[name].copy_(value))
        if self._left is not None:
            self._left.record()


class Fetch:
    """A result of fixed shape from the device to the host; one thread at a time.

    Args:
        like: a tensor of the result's shape, dtype and device.
        transfers: None: as the device has it.
    """

    def __init__(self, like: Tensor, transfers: Transfers | None = None) -> None:
        self._shape, self._dtype = like.shape, like.dtype
        on_cuda = like.device.type == "cuda"
        self._transfers = CudaTransfers(like.device) if transfers is None and on_cuda else transfers
        self._there: Marker | None = None
        if self._transfers is not None:
            self._host = self._transfers.host_like(like)
            self._there = self._transfers.marker()
        else:
            self._host = torch.empty(like.shape, dtype=like.dtype)

    def start(self, result: Tensor) -> None:
        """Puts the copy behind the current stream's work; the result may be overwritten by work that comes later.

        Raises:
            ValueError: the result has another shape or dtype.
        """
        if result.shape != self._shape or result.dtype != self._dtype:
            raise ValueError(
                f"the result is {tuple(result.shape)} {result.dtype}, expected {tuple(self._shape)} {self._dtype}"
            )
        if self._transfers is None or self._there is None:
            self._host.copy_(result)
        else:
            self._transfers.copy(self._host, result)
            self._there.record()

    def wait(self) -> Tensor:
        """The result of the last start, float32 on the CPU, in memory of its own."""
        if self._there is not None:
            self._there.synchronize()
        return self._host.to(torch.float32, copy=True)

    def __call__(self, result: Tensor) -> Tensor:
        """`start` and `wait`."""
        self.start(result)
        return self.wait()
