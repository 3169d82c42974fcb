"""Listens to a running policy node and its robot, and keeps what the demo, the benchmark and the tests look at."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from groot_ros.embodiment.schema import Embodiment, Output
from groot_ros.embodiment.vocabulary import JOINT_TRAJECTORY
from groot_ros.msg import ActionChunk, PolicyStatus
from groot_ros.nodes import convert
from groot_ros.nodes.calls import call
from groot_ros.nodes.side_node import SideNode

POLICY = "/groot_policy"
# Deep: a busy machine may keep this thread waiting for seconds, and none of the commands may be lost then.
COMMAND_QOS = QoSProfile(depth=1000, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE)


@dataclass(frozen=True)
class JointSample:
    """One JointState: stamp (ns) and positions by name (rad)."""

    stamp_ns: int
    positions: dict[str, float]


class Observer(SideNode):
    """Keeps messages from the moment it is entered as a context manager.

    Attributes:
        chunks, statuses: messages of the policy node, in order of arrival.
        commands: trajectories of all JointTrajectory outputs together.
        streams: output -> (arrival on the steady clock in s, command), of every type.

    Args:
        embodiment: whose topics to listen to.
        joints: keep joint states.
    """

    def __init__(self, embodiment: Embodiment, *, joints: bool = True) -> None:
        super().__init__("groot_observer")
        self.chunks: list[ActionChunk] = []
        self.commands: list[JointTrajectory] = []
        self.streams: dict[str, list[tuple[float, Any]]] = {name: [] for name in embodiment.outputs}
        self.statuses: list[PolicyStatus] = []
        self.joints: list[JointSample] = []
        subscribe = self.node.create_subscription
        subscribe(ActionChunk, f"{POLICY}/action_chunk", self._keep(self.chunks), convert.RELIABLE_QOS)
        subscribe(PolicyStatus, f"{POLICY}/status", self._keep(self.statuses), convert.RELIABLE_QOS)
        for name, output in embodiment.outputs.items():
            kind, keep = convert.message_class(output.type), self._keep_command(name, output)
            subscribe(kind, output.topic, keep, COMMAND_QOS)
        if joints:
            for stream in embodiment.state_streams.values():
                if stream.type == "sensor_msgs/msg/JointState":
                    qos = convert.stream_qos("sensor_data", stream.rate_hz, 0.5)
                    subscribe(convert.message_class(stream.type), stream.topic, self._on_joints, qos)
        self._instruction = self.node.create_publisher(String, f"{POLICY}/instruction", convert.RELIABLE_QOS)

    def instruct(self, text: str) -> None:
        """Publish an instruction."""
        self._instruction.publish(String(data=text))

    def call(self, service: str, data: bool | None = None, timeout_s: float = 10.0) -> tuple[bool, str]:
        """Call a std_srvs service of the policy node; return (success, message).

        Raises:
            TimeoutError: it does not exist or does not answer within ``timeout_s``.
        """
        return call(self.node, f"{POLICY}/{service}", data, timeout_s)

    def _keep(self, into: list[Any]) -> Callable[[Any], None]:
        def receive(message: Any) -> None:
            with self.changed:
                into.append(message)
                self.changed.notify_all()

        return receive

    def _keep_command(self, name: str, output: Output) -> Callable[[Any], None]:
        kept = self.streams[name]

        def receive(message: Any) -> None:
            with self.changed:
                kept.append((time.monotonic(), message))
                if output.type == JOINT_TRAJECTORY:
                    self.commands.append(message)
                self.changed.notify_all()

        return receive

    def _on_joints(self, message: Any) -> None:
        stamp_ns = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
        self.joints.append(JointSample(stamp_ns, dict(zip(message.name, message.position, strict=True))))
