"""Asks a running recorder node for things, and hears what it says about itself."""

from __future__ import annotations

from collections.abc import Callable

from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from groot_ros.msg import RecorderStatus
from groot_ros.nodes.calls import ask
from groot_ros.nodes.convert import RELIABLE_QOS
from groot_ros.nodes.side_node import SideNode

RECORDER = "/groot_recorder"
SERVICES = {
    "start_episode": Trigger,
    "save_episode": Trigger,
    "discard_episode": Trigger,
    "pause": SetBool,
    "intervention": SetBool,
}


class RecorderClient(SideNode):
    """Hears and asks from the moment it is entered as a context manager.

    Attributes:
        status: the last one; None before the first.
    """

    def __init__(self) -> None:
        super().__init__("recorder_client")
        self.status: RecorderStatus | None = None
        self.node.create_subscription(RecorderStatus, f"{RECORDER}/status", self._on_status, RELIABLE_QOS)
        self._task = self.node.create_publisher(String, f"{RECORDER}/task", RELIABLE_QOS)
        # Made once: the recorder finds a client long before it is used, and no answer comes too early for it.
        self._clients = {name: self.node.create_client(kind, f"{RECORDER}/{name}") for name, kind in SERVICES.items()}

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

    def set_task(self, text: str) -> None:
        """Publish what the next episode shows; ``status.task`` says when the recorder has heard it."""
        self._task.publish(String(data=text))

    def wait_for(
        self, condition: Callable[[RecorderStatus], bool], timeout_s: float, alive: Callable[[], None] = lambda: None
    ) -> bool:
        """Wait until ``condition`` holds for the last status; ``alive`` may raise to give up early."""
        return self.wait_until(lambda: self.status is not None and condition(self.status), timeout_s, alive)

    def _on_status(self, message: RecorderStatus) -> None:
        with self.changed:
            self.status = message
            self.changed.notify_all()
