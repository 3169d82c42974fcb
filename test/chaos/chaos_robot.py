"""A robot made of topics that does what it is told, goes wrong when asked to, and keeps all that it heard."""

from __future__ import annotations

import array
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import rclpy
from lifecycle_msgs.srv import ChangeState
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSHistoryPolicy, QoSProfile, QoSReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from groot_ros.embodiment.load import load_embodiment
from groot_ros.embodiment.vocabulary import JOINT_TRAJECTORY
from groot_ros.msg import ActionChunk, PolicyStatus
from groot_ros.nodes import convert
from groot_ros.simulation.trajectory import Point, TrajectoryFollower, TrajectoryRefused

YAML = Path(__file__).with_name("chaos_robot.yaml")
POLICY = "/groot_policy"
# Everything is kept, however late the thread that takes it.
KEEP_QOS = QoSProfile(history=QoSHistoryPolicy.KEEP_LAST, depth=2000, reliability=QoSReliabilityPolicy.RELIABLE)
STEP_S = 0.003
Edit = Callable[[str, Any], "list[Any]"]


@dataclass(frozen=True)
class Heard:
    """A message with the system time at which it was published (ns)."""

    sent_ns: int
    message: Any


def stamp_of(message: Any) -> int:
    """The header's stamp in ns."""
    return int(message.header.stamp.sec) * 1_000_000_000 + int(message.header.stamp.nanosec)


def as_points(message: JointTrajectory) -> list[Point]:
    """What ``TrajectoryFollower`` takes."""
    return [
        Point(
            point.time_from_start.sec * 1_000_000_000 + point.time_from_start.nanosec, point.positions, point.velocities
        )
        for point in message.points
    ]


class ChaosRobot:
    """Sensors, actuators and the person at the desk, in one node with two threads.

    Attributes:
        edit: (stream, message) -> the messages to publish instead.
        clock: simulated time (ns), published on /clock; None: the system's.
        commands: output -> what came on it.
        statuses, chunks: of the policy node.
        allowed: system times (ns) at which something was asked for that lets it move.
        published: sensor messages so far, to wait by.
    """

    def __init__(self, yaml: Path = YAML) -> None:
        self.embodiment = embodiment = load_embodiment(yaml)
        self.edit: Edit = lambda stream, message: [message]
        self.clock: Callable[[], int] | None = None
        self.clock_log: list[tuple[int, int]] = []
        self.commands: dict[str, list[Heard]] = {name: [] for name in embodiment.outputs}
        self.statuses: list[Heard] = []
        self.chunks: list[Heard] = []
        self.allowed: list[int] = []
        self.refused: list[str] = []
        self.published = 0
        self.changed = threading.Condition()
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node("chaos_robot", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        rng = np.random.default_rng(0)
        self._frames = [rng.integers(0, 256, 64 * 64 * 3, dtype=np.uint8).tobytes() for _ in range(4)]
        self._publishers = {
            name: self.node.create_publisher(
                Image if name in embodiment.cameras else JointState, stream.topic, convert.RELIABLE_QOS
            )
            for name, stream in embodiment.streams.items()
        }
        self._clock_publisher = self.node.create_publisher(Clock, "/clock", convert.RELIABLE_QOS)
        self._estop = self.node.create_publisher(Bool, f"{POLICY}/estop", convert.RELIABLE_QOS)
        self._instruction = self.node.create_publisher(String, f"{POLICY}/instruction", KEEP_QOS)
        subscribe = self.node.create_subscription
        subscribe(PolicyStatus, f"{POLICY}/status", self._keep(self.statuses), KEEP_QOS)
        subscribe(ActionChunk, f"{POLICY}/action_chunk", self._keep(self.chunks), KEEP_QOS)
        for name, output in embodiment.outputs.items():
            subscribe(convert.message_class(output.type), output.topic, self._execute(name, output.type), KEEP_QOS)
        self._triggers = {
            name: self.node.create_client(Trigger, f"{POLICY}/{name}")
            for name in ("start", "stop", "reset", "reset_stop")
        }
        self._switches = {name: self.node.create_client(SetBool, f"{POLICY}/{name}") for name in ("pause", "dry_run")}
        self._lifecycle = self.node.create_client(ChangeState, f"{POLICY}/change_state")
        self.arm = [joint for output in self._of(JOINT_TRAJECTORY) for joint in output]
        self.still = {joint: 0.3 for joint in embodiment.action_joints}
        self._follower = TrajectoryFollower(self.arm, [0.3] * len(self.arm))
        self._positions = dict(self.still)
        self._end = threading.Event()
        self._threads = [
            threading.Thread(target=self._publish, name="sensors", daemon=True),
            threading.Thread(target=self._executor.spin, name="robot", daemon=True),
        ]

    def _of(self, kind: str) -> list[list[str]]:
        layout = self.embodiment
        return [
            [joint for key in output.keys for joint in layout.action[key].joints or []]
            for output in layout.outputs.values()
            if output.type == kind
        ]

    def __enter__(self) -> ChaosRobot:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._executor.shutdown(timeout_sec=1.0)
        for thread in self._threads:
            thread.join(5.0)
        self.node.destroy_node()
        self._context.try_shutdown()

    # --- the person ---------------------------------------------------------------------------------------------------

    @property
    def status(self) -> PolicyStatus:
        """The newest."""
        return self.statuses[-1].message

    def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait for something heard or published."""
        deadline_s = time.monotonic() + timeout_s
        with self.changed:
            while not condition():
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    return False
                self.changed.wait(min(left_s, 0.05))
        return True

    def dwell(self, seconds: float) -> None:
        """Let the robot's sensors run for so long."""
        until = time.monotonic() + seconds
        self.wait_for(lambda: time.monotonic() >= until, seconds + 1.0)

    def call(self, service: str, data: bool | None = None, timeout_s: float = 10.0) -> tuple[bool, str]:
        """Call a service of the node: (success, message)."""
        if service == "start" or (service in ("pause", "dry_run") and data is False):
            self.allowed.append(time.time_ns())
        client = self._triggers[service] if data is None else self._switches[service]
        request = Trigger.Request() if data is None else SetBool.Request(data=data)
        response = self._ask(client, request, timeout_s)
        return bool(response.success), str(response.message)

    def change_state(self, transition: int, timeout_s: float = 60.0) -> bool:
        """A lifecycle transition."""
        request = ChangeState.Request()
        request.transition.id = transition
        return bool(self._ask(self._lifecycle, request, timeout_s).success)

    def _ask(self, client: Any, request: Any, timeout_s: float) -> Any:
        if not client.wait_for_service(timeout_s):
            raise TimeoutError(f"{client.service_name} is not there after {timeout_s} s")
        done = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: done.set())
        if not done.wait(timeout_s):
            raise TimeoutError(f"{client.service_name} has not answered after {timeout_s} s")
        return future.result()

    def estop(self, pressed: bool) -> None:
        """The red button."""
        self._estop.publish(Bool(data=pressed))

    def instruct(self, text: str) -> None:
        """Say what to do."""
        self._instruction.publish(String(data=text))

    # --- the machine --------------------------------------------------------------------------------------------------

    def now_ns(self) -> int:
        """The robot's ROS time."""
        return self.clock() if self.clock is not None else time.time_ns()

    def set_clock(self, clock: Callable[[], int], *, jumped: bool) -> None:
        """Another time; when it ``jumped`` back, trajectories are forgotten, as a controller would."""
        with self.changed:
            if jumped:
                now_ns = self.now_ns()
                self.clock_log.append((time.time_ns(), now_ns))
                self._follower.hold(self._follower.sample(now_ns)[0])
            self.clock = clock

    def _publish(self) -> None:
        due = {name: time.monotonic() for name in self._publishers}
        counts = dict.fromkeys(due, 0)
        while not self._end.is_set():
            now = time.monotonic()
            with self.changed:
                if self.clock is not None:
                    clock_ns = self.clock()
                    self.clock_log.append((time.time_ns(), clock_ns))
                    self._clock_publisher.publish(Clock(clock=convert.to_time(clock_ns)))
            for name, stream in self.embodiment.streams.items():
                if now >= due[name]:
                    due[name] = max(due[name] + 1.0 / stream.rate_hz, now)
                    counts[name] += 1
                    for message in self.edit(name, self._sample(name, counts[name])):
                        self._publishers[name].publish(message)
            with self.changed:
                self.published += 1
                self.changed.notify_all()
            self._end.wait(STEP_S)

    def _sample(self, name: str, count: int) -> Any:
        now_ns = self.now_ns()
        if name in self.embodiment.cameras:
            message = Image(height=64, width=64, encoding="rgb8", step=3 * 64)
            # No two frames are alike, however many of them get lost.
            message.data = array.array("B", count.to_bytes(4, "little") + self._frames[count % 4][4:])
        else:
            with self.changed:
                self._positions.update(zip(self.arm, self._follower.sample(now_ns)[0].tolist(), strict=True))
                joints = self.embodiment.action_joints
                message = JointState(name=joints, position=[self._positions[joint] for joint in joints])
        message.header.stamp = convert.to_time(now_ns)
        return message

    def _keep(self, into: list[Heard]) -> Callable[[Any, Any], None]:
        def receive(message: Any, info: Any) -> None:
            with self.changed:
                into.append(Heard(int(info["source_timestamp"]), message))
                self.changed.notify_all()

        return receive

    def _execute(self, name: str, kind: str) -> Callable[[Any, Any], None]:
        keep = self._keep(self.commands[name])

        def receive(message: Any, info: Any) -> None:
            with self.changed:
                if kind == JOINT_TRAJECTORY:
                    try:
                        self._follower.receive(
                            message.joint_names, as_points(message), stamp_of(message), self.now_ns()
                        )
                    except TrajectoryRefused as error:
                        self.refused.append(str(error))
                elif isinstance(message, JointState):
                    self._positions.update(zip(message.name, message.position, strict=True))
            keep(message, info)

        return receive
