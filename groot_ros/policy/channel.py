"""Messages between two processes of ours on one machine: pickles over a socket, large arrays beside them."""

from __future__ import annotations

import pickle
import select
import socket
import struct
import sys
import time
from typing import Any

BUFFER_BYTES = 1 << 22  # asked for; Linux gives what net.core.wmem_max allows
_HEAD = struct.Struct("<IQ")  # number of buffers, bytes of the pickle
_SIZE = struct.Struct("<Q")


class Channel:
    """One end. Send and receive from one thread at a time; ``hang_up`` from any.

    Only for processes that trust each other, a parent and its child: what is received is unpickled.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        # Room for a whole observation: fewer changes to and fro between the processes while it is sent.
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        self._received = 0  # bytes of the message that is being received

    def send(self, message: object, deadline_s: float | None = None) -> None:
        """Send any picklable object; the memory of contiguous arrays is sent as it is, not copied into the pickle.

        Args:
            deadline_s: of ``time.monotonic``; None waits for as long as the other end takes to read.

        Raises:
            OSError: the other end is gone, this one was hung up, or the deadline passed (TimeoutError).
            Exception: ``message`` cannot be pickled; nothing was sent.
        """
        buffers: list[pickle.PickleBuffer] = []
        head = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
        views = [buffer.raw() for buffer in buffers]
        sizes = b"".join(_SIZE.pack(view.nbytes) for view in views)
        self._socket.settimeout(None if deadline_s is None else _left(deadline_s))
        self._socket.sendall(_HEAD.pack(len(views), len(head)) + sizes + head)
        for view in views:
            self._socket.sendall(view)

    def receive(self, deadline_s: float | None = None) -> Any:
        """Wait for the next message; arrays in it are writable.

        Args:
            deadline_s: as for ``send``.

        Raises:
            EOFError: the other end is gone, or this one was hung up.
            TimeoutError: nothing came before the deadline; a later call may still get it.
            ConnectionError: a part of a message came before the deadline; the channel can no longer be used.
        """
        self._received = 0
        try:
            count, length = _HEAD.unpack(self._fill(_HEAD.size, deadline_s))
            sizes = [size for (size,) in _SIZE.iter_unpack(self._fill(_SIZE.size * count, deadline_s))]
            head = self._fill(length, deadline_s)
            return pickle.loads(head, buffers=[self._fill(size, deadline_s) for size in sizes])
        except TimeoutError:
            if self._received:
                self.hang_up()
                raise ConnectionError("a message broke off") from None
            raise

    def arrived(self, timeout_s: float) -> bool:
        """Wait, ``timeout_s`` at most, until a message begins to arrive or the other end is gone; False: neither."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(1e3 * timeout_s))

    def hang_up(self) -> None:
        """End all sending and receiving at both ends, also calls that are waiting now."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # hung up before

    def _fill(self, size: int, deadline_s: float | None) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            self._socket.settimeout(None if deadline_s is None else _left(deadline_s))
            count = self._socket.recv_into(view)
            if not count:
                raise EOFError("the other end of the channel is gone")
            self._received += count
            view = view[count:]
        return data


def _left(deadline_s: float) -> float:
    # Zero would mean "do not wait" and raise another exception.
    return max(deadline_s - time.monotonic(), 1e-6)


def described(error: Exception) -> dict[str, Any]:
    """What the other process needs to raise ``error`` again: its classes by name, its text, its plain attributes."""
    kinds = [(kind.__module__, kind.__qualname__) for kind in type(error).__mro__ if issubclass(kind, Exception)]
    attributes = {
        name: value
        for name, value in vars(error).items()
        if isinstance(value, (str, int, float)) or (isinstance(value, list) and all(type(x) is str for x in value))
    }
    return {"kinds": kinds, "text": str(error), "attributes": attributes}


def rebuilt(description: dict[str, Any]) -> Exception:
    """The exception of ``described``, with the same text.

    It is of the same class where that is loaded here. Nothing is imported for it: most classes that are not loaded are
    in modules that need torch. Then it is of a class of that name, derived from the nearest one that is loaded.
    """
    text, name = description["text"], description["kinds"][0][1]
    for module, kind_name in description["kinds"]:
        kind: object = getattr(sys.modules.get(module), kind_name, None)
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            continue
        if kind.__name__ != name:
            kind = type(name, (kind,), {"__module__": description["kinds"][0][0]})
        error = _from_text(kind, text, description["attributes"])
        if error is not None:
            return error
    return RuntimeError(text)


def _from_text(kind: type[Exception], text: str, attributes: dict[str, Any]) -> Exception | None:
    """None for a class that cannot be made so, or whose text would be another."""
    try:
        # Not by a call: the constructors of our own classes make the text from its parts.
        error = kind.__new__(kind, text)
        error.args = (text,)
        vars(error).update(attributes)
        return error if str(error) == text else None
    except (TypeError, AttributeError):
        return None
