"""Calling services of another node from a thread that does not spin."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from rclpy.client import Client
from rclpy.node import Node
from std_srvs.srv import SetBool, Trigger

LOOK_S = 0.2


def call(
    node: Node,
    service: str,
    data: bool | None = None,
    timeout_s: float = 10.0,
) -> tuple[bool, str]:
    """Call a Trigger, or with ``data`` a SetBool, once; return (success, message). Another thread spins ``node``.

    Raises:
        TimeoutError: see ``ask``.
    """
    client = node.create_client(Trigger if data is None else SetBool, service)
    try:
        return ask(client, data, timeout_s)
    finally:
        node.destroy_client(client)


def ask(
    client: Client, data: bool | None = None, timeout_s: float = 10.0, alive: Callable[[], None] = lambda: None
) -> tuple[bool, str]:
    """Call the service of ``client``; ``alive`` is called while the answer is waited for, and may raise to give up.

    Raises:
        TimeoutError: it does not exist or does not answer within ``timeout_s``.
    """
    request = client.srv_type.Request() if data is None else client.srv_type.Request(data=data)
    response = answer(client, request, timeout_s, alive)
    return bool(response.success), str(response.message)


def answer(client: Client, request: Any, timeout_s: float, alive: Callable[[], None] = lambda: None) -> Any:
    """The response to ``request`` of any service; all else as ``ask``."""
    deadline = time.monotonic() + timeout_s
    while not client.wait_for_service(max(0.0, min(LOOK_S, deadline - time.monotonic()))):
        alive()
        if time.monotonic() > deadline:
            raise TimeoutError(f"service {client.srv_name} is not there after {timeout_s} s")
    done = threading.Event()
    future = client.call_async(request)
    future.add_done_callback(lambda _: done.set())
    deadline = time.monotonic() + timeout_s
    while not done.wait(LOOK_S):
        alive()
        if time.monotonic() > deadline:
            client.remove_pending_request(future)
            raise TimeoutError(f"service {client.srv_name} has not answered after {timeout_s} s")
    return future.result()
