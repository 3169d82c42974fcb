"""A robot made of topics, for tests of nodes over real DDS: good by default, wrong in the way a test asks for."""

from __future__ import annotations

import array
import threading
import time
from collections.abc import Callable
from types import TracebackType

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool

from groot_ros.embodiment.schema import Embodiment
from groot_ros.nodes.convert import RELIABLE_QOS, message_class, to_time

Edit = Callable[[str, object], object | None]


class RobotDouble:
    """Publishes noise images, resting joints and a resting pose of ``embodiment`` at their rates.

    ``edit(stream, message)`` may change a message, or return None to hold it back.
    """

    def __init__(self, embodiment: Embodiment) -> None:
        self.edit: Edit = lambda stream, message: message
        self.clock: Callable[[], int] | None = None  # simulated time, published on /clock
        self.embodiment = embodiment
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node("robot_double", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._publishers = {}
        rng = np.random.default_rng(0)
        self._frames = {
            name: [rng.integers(0, 256, (c.height, c.width, 3), dtype=np.uint8).tobytes() for _ in range(4)]
            for name, c in embodiment.cameras.items()
        }
        for name, stream in embodiment.streams.items():
            self._publishers[name] = self.node.create_publisher(message_class(stream.type), stream.topic, RELIABLE_QOS)
        self.estop = self.node.create_publisher(Bool, "/groot_policy/estop", RELIABLE_QOS)
        self._clock_publisher = self.node.create_publisher(Clock, "/clock", RELIABLE_QOS)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="robot", daemon=True)

    def __enter__(self) -> RobotDouble:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join(5.0)
        self._executor.shutdown(timeout_sec=1.0)
        self.node.destroy_node()
        self._context.try_shutdown()

    def _run(self) -> None:
        due = {name: time.monotonic() for name in self._publishers}
        count = 0
        while not self._end.is_set():
            now = time.monotonic()
            if self.clock is not None:
                self._clock_publisher.publish(Clock(clock=to_time(self.clock())))
            for name, stream in self.embodiment.streams.items():
                if now >= due[name]:
                    due[name] = max(due[name] + 1.0 / stream.rate_hz, now)
                    message = self.edit(name, self._message(name, count))
                    if message is not None:
                        self._publishers[name].publish(message)
            count += 1
            self._end.wait(0.003)

    def _message(self, name: str, count: int) -> object:
        stamp = to_time(self.clock() if self.clock is not None else self.node.get_clock().now().nanoseconds)
        if name in self.embodiment.cameras:
            camera = self.embodiment.cameras[name]
            message = Image(height=camera.height, width=camera.width, encoding="rgb8", step=3 * camera.width)
            message.data = array.array("B", self._frames[name][count % 4])
        elif self.embodiment.streams[name].type == "geometry_msgs/msg/PoseStamped":
            message = PoseStamped()
        else:
            joints = self.embodiment.action_joints
            message = JointState(name=joints, position=[0.01 * index for index in range(len(joints))])
        message.header.stamp = stamp
        return message
