"""A node as a child process of a test, and a listener with its own ROS context."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

WAIT_S = 60.0  # a loaded machine starts a node in ten seconds; nothing here waits that long when all is well


class NodeProcess:
    """Runs ``python -m MODULE --ros-args -p ...``; ``output`` holds what it printed so far."""

    def __init__(self, command: Sequence[str], **parameters: object) -> None:
        arguments = [part for name, value in parameters.items() for part in ("-p", f"{name}:={_yaml(value)}")]
        line = [sys.executable, *command, *(["--ros-args", *arguments] if arguments else [])]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "RCUTILS_LOGGING_BUFFERED_STREAM": "0"}
        self.process = subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
        )
        self.output = ""
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()

    def wait_for(self, text: str, after: int = 0) -> None:
        """Until a printed line contains ``text``, not counting the first ``after`` characters of ``output``."""
        deadline = time.monotonic() + WAIT_S
        while text not in self.output[after:]:
            line = self._lines.get(timeout=max(0.1, deadline - time.monotonic()))
            assert line is not None, f"ended without printing {text!r}:\n{self.output}"
            self.output += line

    def end(self, *signals: signal.Signals) -> tuple[int, float]:
        """Send signals, wait for the end; exit code and the seconds it took."""
        begin = time.monotonic()
        for number in signals:
            self.process.send_signal(number)
        code = self.process.wait(WAIT_S)
        seconds = time.monotonic() - begin
        while (line := self._lines.get(timeout=WAIT_S)) is not None:
            self.output += line
        return code, seconds

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f"'{value}'" if isinstance(value, str) else str(value)


class Listener:
    """A node in a thread of its own that keeps messages; use as a context manager."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node("listener", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(timeout_sec=2.0)
        self._thread.join(5.0)
        self.node.destroy_node()
        self._context.try_shutdown()

    def listen(self, kind: Any, topic: str, qos: Any = 50, call: Callable[[Any], None] | None = None) -> list[Any]:
        """Subscribe; the list that is returned grows. ``call`` is called with each message, under the lock."""
        messages: list[Any] = []

        def receive(message: Any) -> None:
            with self.changed:
                messages.append(message)
                if call is not None:
                    call(message)
                self.changed.notify_all()

        self.node.create_subscription(kind, topic, receive, qos)
        return messages

    def wait(self, condition: Callable[[], bool], what: str = "message") -> None:
        with self.changed:
            assert self.changed.wait_for(condition, WAIT_S), f"no {what}"

    def publisher(self, kind: Any, topic: str, subscribers: int = 1) -> Any:
        """A publisher that has found so many subscribers."""
        made = self.node.create_publisher(kind, topic, 10)
        deadline = time.monotonic() + WAIT_S
        found = threading.Event()
        while made.get_subscription_count() < subscribers:
            assert time.monotonic() < deadline, f"fewer than {subscribers} listen to {topic}"
            found.wait(0.02)
        return made

    def call(self, kind: Any, service: str, **request: Any) -> Any:
        """Call a service; fields not named are empty."""
        client = self.node.create_client(kind, service)
        assert client.wait_for_service(WAIT_S), f"no service {service}"
        done = threading.Event()
        future = client.call_async(kind.Request(**request))
        future.add_done_callback(lambda _: done.set())
        assert done.wait(WAIT_S), f"{service} does not answer"
        return future.result()


def stamp_ns(message: Any) -> int:
    return int(message.header.stamp.sec) * 1_000_000_000 + int(message.header.stamp.nanosec)
