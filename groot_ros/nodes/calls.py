"""Calling a service of another node from a thread that does not spin."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from rclpy.node import Node
from std_srvs.srv import SetBool, Trigger

LOOK_S = 0.2


def call(
    node: Node,
    service: str,
    data: bool | None = None,
    timeout_s: float = 10.0,
    alive: Callable[[], None] = lambda: None,
) -> tuple[bool, str]:
    """Call a Trigger, or with ``data`` a SetBool; return (success, message). Another thread spins ``node``.

    ``alive`` is called while the answer is waited for, and may raise to give up early.

    Raises:
        TimeoutError: it does not exist or does not answer within ``timeout_s``.
    """
    kind = Trigger if data is None else SetBool
    client = node.create_client(kind, service)
    try:
        if not client.wait_for_service(timeout_s):
            raise TimeoutError(f"service {service} is not there after {timeout_s} s")
        request = kind.Request() if data is None else kind.Request(data=data)
        done = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: done.set())
        deadline = time.monotonic() + timeout_s
        while not done.wait(LOOK_S):
            alive()
            if time.monotonic() > deadline:
                raise TimeoutError(f"service {service} has not answered after {timeout_s} s")
        response = future.result()
        return bool(response.success), str(response.message)
    finally:
        node.destroy_client(client)
