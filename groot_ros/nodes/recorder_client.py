"""Asks a running recorder node for things, and hears what it says about itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from std_srvs.srv import SetBool, Trigger

from groot_ros.msg import RecorderStatus
from groot_ros.nodes.calls import ask
from groot_ros.nodes.convert import RELIABLE_QOS

RECORDER = "/groot_recorder"
SERVICES = {
    "start_episode": Trigger,
    "save_episode": Trigger,
    "discard_episode": Trigger,
    "pause": SetBool,
    "intervention": SetBool,
}


class RecorderClient:
    """A node with a thread of its own; use as a context manager.

    Attributes:
        status: the last one; None before the first.
    """

    def __init__(self) -> None:
        self.status: RecorderStatus | None = None
        self._changed = threading.Condition()
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node("recorder_client", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._node.create_subscription(RecorderStatus, f"{RECORDER}/status", self._on_status, RELIABLE_QOS)
        # Made once: the recorder finds a client long before it is used, and no answer comes too early for it.
        self._clients = {name: self._node.create_client(kind, f"{RECORDER}/{name}") for name, kind in SERVICES.items()}
        self._thread = threading.Thread(target=self._executor.spin, name="recorder-client", daemon=True)

    def __enter__(self) -> RecorderClient:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(timeout_sec=1.0)
        self._thread.join(2.0)
        self._node.destroy_node()
        self._context.try_shutdown()

    def call(
        self,
        service: str,
        data: bool | None = None,
        timeout_s: float = 10.0,
        alive: Callable[[], None] = lambda: None,
    ) -> tuple[bool, str]:
        """Call one of ``SERVICES``; return (success, message). ``alive`` may raise to give up early.

        Raises:
            TimeoutError: it does not exist or does not answer within ``timeout_s``.
        """
        return ask(self._clients[service], data, timeout_s, alive)

    def wait_for(
        self, condition: Callable[[RecorderStatus], bool], timeout_s: float, alive: Callable[[], None] = lambda: None
    ) -> bool:
        """Wait until ``condition`` holds for the last status; ``alive`` may raise to give up early."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self.status is None or not condition(self.status):
                if time.monotonic() > deadline:
                    return False
                alive()
                self._changed.wait(0.2)
        return True

    def _on_status(self, message: RecorderStatus) -> None:
        with self._changed:
            self.status = message
            self._changed.notify_all()
