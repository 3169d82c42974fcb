"""A ROS node beside what a program does itself: own context, own executor, own thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

S = TypeVar("S", bound="SideNode")
LOOK_S = 0.2


class SideNode:
    """Base of clients and listeners; use as a context manager. Callbacks run in the thread, from ``__enter__`` on.

    Attributes:
        node: to subscribe, publish and call services with.
        changed: held by callbacks while they change what ``wait_until`` looks at, and notified then.
    """

    def __init__(self, name: str) -> None:
        self.changed = threading.Condition()
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node(name, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin, name=name, daemon=True)

    def __enter__(self: S) -> S:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(timeout_sec=1.0)
        self._thread.join(2.0)
        self.node.destroy_node()
        self._context.try_shutdown()

    def wait_until(
        self, condition: Callable[[], bool], timeout_s: float, alive: Callable[[], None] | None = None
    ) -> bool:
        """Wait until ``condition`` holds (checked on every change); ``alive`` may raise to give up early."""
        deadline = time.monotonic() + timeout_s
        with self.changed:
            while not condition():
                if time.monotonic() > deadline:
                    return False
                if alive is not None:
                    alive()
                self.changed.wait(LOOK_S)
        return True
