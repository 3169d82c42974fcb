"""Drives the simulated arm through its tasks as a teleoperator would: joint states in, trajectory commands out."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from geometry_msgs.msg import Pose, PoseArray
from numpy.typing import NDArray
from rcl_interfaces.srv import SetParameters
from rclpy.client import Client
from rclpy.parameter import Parameter
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from groot_ros.embodiment.schema import Embodiment
from groot_ros.nodes.calls import answer
from groot_ros.nodes.convert import message_class, to_duration, to_time
from groot_ros.nodes.side_node import SideNode
from groot_ros.simulation.expert import Expert
from groot_ros.simulation.kinematics import OutOfReach
from groot_ros.simulation.scene import CUBES, JOINTS, Scene, cube_state
from groot_ros.simulation.tasks import Task
from groot_ros.srv import ResetEpisode

SIMULATOR = "/groot_sim"
SPEED = "real_time_factor"
ANSWER_S = 30.0
STANDS_S = 30.0  # until a new scene is seen on all topics
SILENT_S = 10.0  # without a joint state the simulator is gone
NEW_FRAMES = 2  # of every camera: the recorder's clock may be a little behind the first one
SAME_PLACE_M = 0.003
AHEAD = 5  # steps that a command is sent before it is in force: it may be that long on its way
LATE_NS = 10_000_000_000  # that a command may be late
MOST_STEPS = 2  # that the expert makes at once
HEARD_BY = 2  # the simulator and the recorder
# Deep: a busy machine may keep threads waiting, and no joint state and no command is to be left out.
DEEP_QOS = QoSProfile(depth=500, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE)


class NotDemonstrated(RuntimeError):
    """The simulator does not do what is asked; the message says what."""


@dataclass(frozen=True)
class Ending:
    """How a demonstration went.

    Attributes:
        failure: why the task is not done; empty: it is.
        duration_s: simulated time.
        strayed_rad: farthest that a joint was from where it was told to be, without the gripper, which may hold a cube.
    """

    failure: str
    duration_s: float
    strayed_rad: float


class Demonstrator(SideNode):
    """Hears and commands from the moment it is entered as a context manager.

    Args:
        embodiment: what the simulator plays: its topics.
        alive: called while something is waited for; may raise to give up.

    Attributes:
        step_hz: of the embodiment.
        sent: commands published so far.
    """

    def __init__(self, embodiment: Embodiment, alive: Callable[[], None] = lambda: None) -> None:
        if len(embodiment.outputs) != 1:
            names = ", ".join(output.topic for output in embodiment.outputs.values())
            raise ValueError(f"{embodiment.name}: the simulated arm is commanded on one topic, but outputs has {names}")
        (output,) = embodiment.outputs.values()
        super().__init__("groot_demonstrator")
        self._alive = alive
        self.step_hz = embodiment.step_hz
        self.sent = 0
        self._error: Exception | None = None
        self._expert: Expert | None = None
        self._stamp_ns = self._begin_ns = 0  # of the newest joint state, and of the first of the demonstration
        self._joints: NDArray[np.float64] | None = None
        self._cubes: dict[str, NDArray[np.float64]] = {}
        self._cubes_ns = 0
        self._success, self._failure = False, ""
        self._done_ns: int | None = None  # since when the task is done and the expert rests
        self._told: deque[tuple[int, NDArray[np.float64]]] = deque()  # when commands are in force, and what they say
        self._strayed_rad = 0.0
        self._frames_ns: dict[str, list[int]] = {name: [] for name in embodiment.cameras}
        self._commands = self.node.create_publisher(JointTrajectory, output.topic, DEEP_QOS)
        self._point_ns = round(1e9 / max(stream.rate_hz for stream in embodiment.state_streams.values()))
        self._parameters = self.node.create_client(SetParameters, f"{SIMULATOR}/set_parameters")
        self._reset = self.node.create_client(ResetEpisode, f"{SIMULATOR}/reset_episode")
        stream = next(iter(embodiment.state_streams.values()))
        topics: list[tuple[Any, str, Callable[[Any], None]]] = [
            (JointState, stream.topic, self._on_joints),
            (PoseArray, f"{SIMULATOR}/cubes", self._on_cubes),
            (Bool, f"{SIMULATOR}/success", self._on_success),
            (String, f"{SIMULATOR}/failure", self._on_failure),
            *(
                (message_class(camera.type), camera.topic, partial(self._on_frame, name))
                for name, camera in embodiment.cameras.items()
            ),
        ]
        for kind, topic, call in topics:
            self.node.create_subscription(kind, topic, self._guarded(call), DEEP_QOS)

    def await_listeners(self, timeout_s: float) -> None:
        """Until simulator and recorder listen to the commands. Raises NotDemonstrated."""
        self._wait(lambda: self._commands.get_subscription_count() >= HEARD_BY, timeout_s, "nobody takes commands")

    def reset(self, seed: int, task: Task) -> str:
        """Set up the scene of ``seed``; returns the instruction when all topics show it.

        Raises:
            NotDemonstrated: the simulator refuses, does not answer, or the scene is not seen.
        """
        with self.changed:
            self._expert = None
        begun = self._ask(self._reset, ResetEpisode.Request(seed=seed, task=task.name))
        if not begun.success:
            raise NotDemonstrated(f"{self._reset.srv_name}: {begun.message}")
        scene = task.scene(seed)
        # Samples of the old scene may still be on the way. The first message that shows the new cubes has a stamp of
        # the new scene, and so has whatever is newer.
        with self.changed:
            self._cubes_ns = 0
        self._wait(lambda: self._shows(scene), STANDS_S, f"seed {seed}: {SIMULATOR}/cubes does not show the scene")
        begin_ns = self._cubes_ns
        self._wait(lambda: self._seen_since(begin_ns), STANDS_S, f"seed {seed}: a camera or the joints say nothing new")
        return str(begun.instruction)

    def set_speed(self, factor: float) -> None:
        """Have the simulator do so many seconds per second, at most. Raises NotDemonstrated."""
        speed = Parameter(SPEED, value=float(factor)).to_parameter_msg()
        for result in self._ask(self._parameters, SetParameters.Request(parameters=[speed])).results:
            if not result.successful:
                raise NotDemonstrated(f"{SIMULATOR}: {SPEED}: {result.reason}")

    def run(self, task: Task, target: str, *, limit_s: float, hold_s: float) -> Ending:
        """Do the task in the scene of the last reset.

        Args:
            task: what to do.
            target: the cube.
            limit_s: simulated seconds after which it has failed.
            hold_s: simulated seconds to go on after it is done.

        Raises:
            NotDemonstrated: no joint state came.
        """
        with self.changed:
            assert self._joints is not None, "reset() comes first"
            self._success, self._failure, self._done_ns = False, "", None
            self._begin_ns = self._stamp_ns
            self._told.clear()
            self._strayed_rad = 0.0
            self._expert = Expert(task, target, self._joints)
        seen_ns = self._begin_ns

        def over() -> bool:
            passed_s = 1e-9 * (self._stamp_ns - self._begin_ns)
            held = self._done_ns is not None and self._stamp_ns - self._done_ns >= hold_s * 1e9
            return held or bool(self._failure) or passed_s > limit_s

        def moved_on() -> bool:
            return over() or self._stamp_ns > seen_ns

        while not over():
            self._wait(moved_on, SILENT_S, "no joint states any more")
            seen_ns = self._stamp_ns
        with self.changed:
            self._expert = None
            failure = self._failure or ("" if self._done_ns is not None else "time_limit")
            return Ending(failure, 1e-9 * (self._stamp_ns - self._begin_ns), self._strayed_rad)

    # --- from the node's thread --------------------------------------------------------------------------------------

    def _guarded(self, call: Callable[[Any], None]) -> Callable[[Any], None]:
        """Under the lock; what goes wrong is raised where somebody waits."""

        def receive(message: Any) -> None:
            with self.changed:
                try:
                    call(message)
                except Exception as error:
                    self._error = self._error or error  # the first one: others may follow from it
                self.changed.notify_all()

        return receive

    def _on_joints(self, message: JointState) -> None:
        stamp_ns = _stamp_ns(message)
        positions = dict(zip(message.name, message.position, strict=True))
        before_ns, self._stamp_ns = self._stamp_ns, stamp_ns
        self._joints = np.array([positions[name] for name in JOINTS])
        if self._expert is None or self._failure:
            return
        # What a busy machine left out is not made up for: the motion stays smooth, and is later.
        passed_ns = 0 if before_ns == self._begin_ns else min(stamp_ns - before_ns, MOST_STEPS * self._point_ns)
        try:
            target = self._expert.step(1e-9 * passed_ns, self._cubes)
        except OutOfReach:
            self._failure = "out_of_reach"
            return
        self._command(target, stamp_ns, now=passed_ns == 0)
        self._look_where_it_is(stamp_ns)
        if self._done_ns is None and self._success and self._expert.finished:
            self._done_ns = stamp_ns

    def _look_where_it_is(self, stamp_ns: int) -> None:
        """Commands that came late to the simulator show: the arm is behind them, or makes up for them in a jerk."""
        while len(self._told) > 1 and self._told[1][0] <= stamp_ns:
            self._told.popleft()
        if self._joints is not None and self._told and self._told[0][0] <= stamp_ns:
            strayed = np.abs(self._joints - self._told[0][1])[: JOINTS.index("gripper")].max()
            self._strayed_rad = max(self._strayed_rad, float(strayed))

    def _command(self, target: NDArray[np.float64], stamp_ns: int, now: bool) -> None:
        """A step, or from ``AHEAD`` of the joint state on, in a straight line: so all who hear it do so alike."""
        point = JointTrajectoryPoint(positions=target.tolist())
        message = JointTrajectory(joint_names=list(JOINTS), points=[point])
        if not now:
            message.header.stamp = to_time(stamp_ns + AHEAD * self._point_ns)
            point.time_from_start = to_duration(self._point_ns)
            self._told.append((stamp_ns + (AHEAD + 1) * self._point_ns, target))
            # With an end far ahead it is not refused when it comes late after all.
            held = JointTrajectoryPoint(positions=target.tolist(), time_from_start=to_duration(LATE_NS))
            message.points.append(held)
        self.sent += 1
        self._commands.publish(message)

    def _on_cubes(self, message: PoseArray) -> None:
        self._cubes = {name: _pose(pose) for name, pose in zip(CUBES, message.poses, strict=True)}
        self._cubes_ns = _stamp_ns(message)

    def _on_success(self, message: Bool) -> None:
        self._success = bool(message.data)

    def _on_failure(self, message: String) -> None:
        self._failure = str(message.data)

    def _on_frame(self, camera: str, message: Any) -> None:
        self._frames_ns[camera] = [*self._frames_ns[camera][1 - NEW_FRAMES :], _stamp_ns(message)]

    # --- waiting -----------------------------------------------------------------------------------------------------

    def _shows(self, scene: Scene) -> bool:
        if not self._cubes_ns:
            return False
        places = {name: cube_state(name, place)[:3] for name, place in scene.cubes.items()}
        return all(math.dist(self._cubes[name][:3], place) < SAME_PLACE_M for name, place in places.items())

    def _seen_since(self, begin_ns: int) -> bool:
        cameras = (len(seen) == NEW_FRAMES and seen[0] > begin_ns for seen in self._frames_ns.values())
        return self._stamp_ns > begin_ns and all(cameras)

    def _ask(self, client: Client, request: Any) -> Any:
        try:
            return answer(client, request, ANSWER_S, self._go_on)
        except TimeoutError as error:
            raise NotDemonstrated(str(error)) from error

    def _go_on(self) -> None:
        """Raises what went wrong in the node's thread, or elsewhere."""
        if self._error is not None:
            raise self._error
        self._alive()

    def _wait(self, condition: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
        if not self.wait_until(condition, timeout_s, self._go_on):
            raise NotDemonstrated(f"{otherwise} (waited {timeout_s:.0f} s)")


def _stamp_ns(message: Any) -> int:
    return int(message.header.stamp.sec) * 1_000_000_000 + int(message.header.stamp.nanosec)


def _pose(pose: Pose) -> NDArray[np.float64]:
    """Position and quaternion w, x, y, z [7]."""
    p, q = pose.position, pose.orientation
    return np.array([p.x, p.y, p.z, q.w, q.x, q.y, q.z])
