"""``/groot_sim``: the simulated arm as a robot on ROS topics, and a recording of all that it says and hears."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseArray
from numpy.typing import NDArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Float64, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from groot_ros.bags.topics import EVENTS_TOPIC, INSTRUCTION_TOPIC, BagError, Topic, bag_topics
from groot_ros.bags.write import STORAGES, BagRecorder
from groot_ros.embodiment.errors import EmbodimentError
from groot_ros.embodiment.load import load_embodiment
from groot_ros.embodiment.schema import Embodiment
from groot_ros.embodiment.vocabulary import JOINT_TRAJECTORY
from groot_ros.nodes.convert import to_time
from groot_ros.nodes.parameters import declare, parameter, read
from groot_ros.nodes.runtime import EXIT_FAILED, StartError, request_stop, run
from groot_ros.nodes.simulator_messages import image_class, image_message, pose_message
from groot_ros.simulation.arm import CAMERAS, ArmView, SimArm
from groot_ros.simulation.clock import SimClock
from groot_ros.simulation.gl import NoRenderer
from groot_ros.simulation.robot import Counters, JointReading, Outlets, Progress, SimRobot
from groot_ros.simulation.scene import CUBES, JOINTS
from groot_ros.simulation.tasks import Task, find_task
from groot_ros.simulation.trajectory import Point, TrajectoryRefused
from groot_ros.srv import ResetEpisode

# Reliable publishers serve both kinds of subscriber. Best effort would lose frames: an image is larger than one
# fragment of Fast DDS's default shared memory, and a lost fragment loses the frame.
CAMERA_QOS = QoSProfile(depth=5, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE)
RELIABLE_QOS = QoSProfile(depth=10, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE)
SIM_START_NS = 1_000_000_000  # /clock begins here: a stamp of 0 would mean "now" in a trajectory
REPORT_S = 10.0


@dataclass(frozen=True)
class SimulatorParameters:
    """Parameters of ``/groot_sim``; read once at the start, ``real_time_factor`` also later."""

    embodiment: str = parameter("sim_arm", "Name in config/embodiments, or path of a YAML file: topics, rates, sizes")
    seed: int = parameter(
        0, "Seed of start pose, cubes and camera noise; each reset takes the next", minimum=0, maximum=2**31 - 1
    )
    task: str = parameter(
        "",
        "What is to be done and judged: reach_one, reach, push, pick, with :red or :blue to fix the cube; empty: none",
    )
    camera_rate_hz: float = parameter(0.0, "Frame rate; 0: the YAML's", unit="Hz", minimum=0.0, maximum=120.0)
    joint_rate_hz: float = parameter(
        0.0, "Rate of joint states and of the controller; 0: the YAML's", unit="Hz", minimum=0.0, maximum=500.0
    )
    publish_clock: bool = parameter(False, "Publish /clock, for nodes with use_sim_time; stamps are simulated time")
    real_time_factor: float = parameter(
        1.0,
        "Simulated seconds per second; a busy machine does fewer. Other than 1 needs publish_clock; may be changed",
        minimum=0.01,
        maximum=10.0,
    )
    bag: str = parameter("", "Record into this new rosbag2 folder; empty: do not record")
    storage: str = parameter("mcap", "Storage of the bag", choices=tuple(STORAGES))
    duration_s: float = parameter(0.0, "End after this time; 0: run until stopped", unit="s", minimum=0.0, maximum=1e6)


SPEED = "real_time_factor"
READ_ONCE = {item.name for item in dataclasses.fields(SimulatorParameters)} - {SPEED}


class SimulatorNode(Node):
    """Wires a ``SimRobot`` to topics.

    Raises:
        StartError: parameters, embodiment, renderer or bag refuse.
    """

    def __init__(self) -> None:
        super().__init__("groot_sim")
        self._recorder: BagRecorder | None = None
        self._robot: SimRobot | None = None
        try:
            declare(self, SimulatorParameters)
            self._options = read(self, SimulatorParameters)
            self._embodiment = load_embodiment(self._options.embodiment)
            _check(self._embodiment, self._options)
            self._seed = self._options.seed
            self._task = self._own_task = find_task(self._options.task) if self._options.task else None
            self._failure = ""
            self._sim_clock: SimClock | None = None
            self._now_ns = self._make_clock()
            self._cameras = {
                name: self.create_publisher(image_class(camera), camera.topic, CAMERA_QOS)
                for name, camera in self._embodiment.all_cameras.items()
            }
            self._joints = [
                self.create_publisher(JointState, stream.topic, RELIABLE_QOS)
                for stream in self._embodiment.state_streams.values()
            ]
            self._success = self.create_publisher(Bool, "~/success", RELIABLE_QOS)
            self._failures = self.create_publisher(String, "~/failure", RELIABLE_QOS)
            self._distance = self.create_publisher(Float64, "~/distance", RELIABLE_QOS)
            self._cubes = self.create_publisher(PoseArray, "~/cubes", RELIABLE_QOS)
            self._clock_publisher = self.create_publisher(ClockMessage, "/clock", RELIABLE_QOS)
            self._start_recording()
            self._robot = self._make_robot()
            self._robot.start()
        except (ParameterException, EmbodimentError, NoRenderer, ModuleNotFoundError, BagError, ValueError) as error:
            self.close()
            raise StartError(str(error)) from error
        self._subscribe()
        self._start_timers()

    def close(self) -> None:
        """Stop the robot, then finish the bag."""
        if self._robot is not None:
            self._robot.close()
        if self._recorder is not None:
            self._recorder.close()
            counts = ", ".join(f"{topic} {count}" for topic, count in self._recorder.counts.items())
            self.get_logger().info(f"recorded {self._recorder.path}: {counts}")
            self._recorder = None

    # --- set up ------------------------------------------------------------------------------------------------------

    def _make_clock(self) -> Callable[[], int]:
        """The robot's time: the system's, or its own from ``SIM_START_NS`` on. Never this node's ``use_sim_time``."""
        if not self._options.publish_clock:
            system = Clock(clock_type=ClockType.SYSTEM_TIME)
            return lambda: int(system.now().nanoseconds)
        # As far as two events: the next one has to be within it.
        lead_ns = round(2e9 / max(self._rates_hz()))
        self._sim_clock = SimClock(SIM_START_NS, self._options.real_time_factor, lead_ns)
        return self._sim_clock.now_ns

    def _make_robot(self) -> SimRobot:
        arm = SimArm(self._seed, task=self._task)
        sizes = {name: (camera.width, camera.height) for name, camera in self._embodiment.all_cameras.items()}
        joint_rate_hz, camera_rate_hz = self._rates_hz()
        robot = SimRobot(
            arm,
            lambda: ArmView(arm.model, sizes, self._seed),
            joint_rate_hz=joint_rate_hz,
            camera_rate_hz=camera_rate_hz,
            now_ns=self._now_ns,
            clock_rate=self._options.real_time_factor,
            outlets=Outlets(self._on_tick, self._on_joints, self._on_frame, self._on_clamped, self._on_progress),
            wait_for_cameras=self._sim_clock is not None,
        )
        robot.failed = self._on_failure
        return robot

    def _rates_hz(self) -> tuple[float, float]:
        """Of joint states and of frames."""
        joints = max(stream.rate_hz for stream in self._embodiment.state_streams.values())
        frames = max(camera.rate_hz for camera in self._embodiment.all_cameras.values())
        return self._options.joint_rate_hz or joints, self._options.camera_rate_hz or frames

    def _start_recording(self) -> None:
        if self._options.bag:
            events = Topic(EVENTS_TOPIC, "std_msgs/msg/String", "events", required=False)
            topics = [*bag_topics(self._embodiment).values(), events]
            self._recorder = BagRecorder(self._options.bag, self._options.storage, topics, self._on_failure)

    def _subscribe(self) -> None:
        for output in self._embodiment.outputs.values():
            self.create_subscription(JointTrajectory, output.topic, self._on_command(output.topic), RELIABLE_QOS)
        if self._recorder is not None:
            for topic in (INSTRUCTION_TOPIC, EVENTS_TOPIC):
                self.create_subscription(String, topic, self._on_text(topic), RELIABLE_QOS)
        self.add_on_set_parameters_callback(self._on_parameters)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(ResetEpisode, "~/reset_episode", self._on_reset_episode)

    def _start_timers(self) -> None:
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._reported = (time.monotonic(), Counters(), time.process_time())
        self.create_timer(REPORT_S, self._report, clock=steady)
        if self._options.duration_s:
            self.create_timer(self._options.duration_s, request_stop, clock=steady)
        self.get_logger().info(
            f"{self._embodiment.name}: {', '.join(camera.topic for camera in self._embodiment.cameras.values())}, "
            f"{', '.join(stream.topic for stream in self._embodiment.state_streams.values())}; seed {self._seed}"
        )

    # --- from the robot's threads ------------------------------------------------------------------------------------

    def _on_tick(self, stamp_ns: int) -> None:
        if self._sim_clock is not None:
            self._clock_publisher.publish(ClockMessage(clock=to_time(stamp_ns)))
            self._sim_clock.reached(stamp_ns)

    def _on_joints(self, reading: JointReading) -> None:
        message = JointState(
            name=list(reading.position),
            position=list(reading.position.values()),
            velocity=list(reading.velocity.values()),
            effort=list(reading.effort.values()),
        )
        message.header.stamp = to_time(reading.stamp_ns)
        for publisher in self._joints:
            self._publish(publisher, message)

    def _on_frame(self, stamp_ns: int, camera: str, rgb: NDArray[np.uint8]) -> None:
        message = image_message(self._embodiment.all_cameras[camera], rgb)
        message.header.stamp = to_time(stamp_ns)
        message.header.frame_id = f"{camera}_camera"
        self._publish(self._cameras[camera], message)

    def _on_clamped(self, joints: Sequence[str]) -> None:
        self.get_logger().warning(
            f"commanded outside its range, clamped: {', '.join(joints)}", throttle_duration_sec=5.0
        )

    def _on_progress(self, progress: Progress) -> None:
        verdict = progress.verdict
        self._success.publish(Bool(data=verdict.success))
        if progress.begins or verdict.failure != self._failure:
            self._failure = verdict.failure
            self._failures.publish(String(data=verdict.failure))
        if not math.isnan(verdict.distance_m):
            self._distance.publish(Float64(data=verdict.distance_m))
        cubes = PoseArray(poses=[pose_message(progress.cubes[name]) for name in CUBES])
        cubes.header.stamp = to_time(progress.stamp_ns)
        cubes.header.frame_id = "base"
        self._cubes.publish(cubes)

    def _on_failure(self, error: Exception) -> None:
        if isinstance(error, StartError | NoRenderer):
            return  # start() raises it
        self.get_logger().fatal(f"{type(error).__name__}: {error}")
        request_stop(EXIT_FAILED)

    def _publish(self, publisher: Publisher, message: Any) -> None:
        if self._recorder is not None:
            self._recorder.write(publisher.topic_name, serialize_message(message), self._now_ns())
        publisher.publish(message)

    # --- from ROS ----------------------------------------------------------------------------------------------------

    def _on_command(self, topic: str) -> Callable[[JointTrajectory], None]:
        def receive(message: JointTrajectory) -> None:
            now_ns = self._now_ns()
            if self._recorder is not None:
                self._recorder.write(topic, serialize_message(message), now_ns)
            points = [
                Point(_nanoseconds(point.time_from_start), point.positions, point.velocities)
                for point in message.points
            ]
            assert self._robot is not None
            try:
                self._robot.command(message.joint_names, points, _nanoseconds(message.header.stamp))
            except TrajectoryRefused as error:
                self.get_logger().error(f"{topic}: refused: {error}")

        return receive

    def _on_text(self, topic: str) -> Callable[[String], None]:
        def receive(message: String) -> None:
            if self._recorder is not None:
                self._recorder.write(topic, serialize_message(message), self._now_ns())

        return receive

    def _on_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        """Only the speed may change, and only of a clock that is the simulator's own."""
        for one in parameters:
            if one.name in READ_ONCE or (one.name == SPEED and self._sim_clock is None):
                return SetParametersResult(reason=f"'{one.name}' is read once at the start")
        for one in parameters:
            if one.name == SPEED and self._sim_clock is not None and self._robot is not None:
                self._sim_clock.set_factor(float(one.value))
                self._robot.clock_rate = float(one.value)
        return SetParametersResult(successful=True)

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = True, self._begin(self._seed + 1, self._task)
        return response

    def _on_reset_episode(
        self, request: ResetEpisode.Request, response: ResetEpisode.Response
    ) -> ResetEpisode.Response:
        try:
            task = find_task(request.task) if request.task else self._own_task
        except ValueError as error:
            response.message = str(error)
            return response
        response.success, response.message = True, self._begin(int(request.seed), task)
        if task is not None:
            response.instruction = task.instruction(task.scene(self._seed))
        return response

    def _begin(self, seed: int, task: Task | None) -> str:
        """Set up a new scene; what to say about it."""
        assert self._robot is not None
        self._seed, self._task = seed, task
        self._robot.reset(seed, task)
        message = f"new scene, seed {seed}" + (f", {task.name}" if task is not None else "")
        self.get_logger().info(message)
        return message

    def _report(self) -> None:
        """Rates, render time and CPU share since the last report."""
        assert self._robot is not None
        then, before, cpu_then = self._reported
        now, counters, cpu = time.monotonic(), self._robot.counters, time.process_time()
        counters = Counters(counters.joints, counters.frames, counters.dropped, counters.render_s)
        frames = counters.frames - before.frames
        self.get_logger().info(
            f"joints {(counters.joints - before.joints) / (now - then):.1f} Hz, "
            f"cameras {frames / (now - then):.1f} Hz, "
            f"render {1e3 * (counters.render_s - before.render_s) / max(frames, 1):.1f} ms, "
            f"frames dropped {counters.dropped - before.dropped}, CPU {100 * (cpu - cpu_then) / (now - then):.0f} %"
            + (f", bag messages dropped {self._recorder.dropped}" if self._recorder else "")
        )
        self._reported = (now, counters, cpu)


def _check(embodiment: Embodiment, parameters: SimulatorParameters) -> None:
    """Whether the simulated arm can play this robot. Raises ValueError that says what it cannot."""
    if parameters.real_time_factor != 1.0 and not parameters.publish_clock:
        raise ValueError("parameter 'real_time_factor' other than 1 needs publish_clock:=true")
    name = embodiment.name
    for camera in embodiment.all_cameras:
        if camera not in CAMERAS:
            raise ValueError(f"{name}: the simulated arm has the cameras {', '.join(CAMERAS)}, but not '{camera}'")
    for stream in embodiment.state_streams.values():
        if stream.type != "sensor_msgs/msg/JointState":
            raise ValueError(f"{name}: the simulated arm publishes JointState, but {stream.topic} is {stream.type}")
    for output in embodiment.outputs.values():
        if output.type != JOINT_TRAJECTORY:
            raise ValueError(f"{name}: the simulated arm follows JointTrajectory, but {output.topic} is {output.type}")
    unknown = sorted(set(embodiment.action_joints) - set(JOINTS))
    if unknown:
        raise ValueError(f"{name}: the simulated arm has the joints {', '.join(JOINTS)}, but not {', '.join(unknown)}")


def _nanoseconds(value: Any) -> int:
    """Of a Time or Duration message."""
    return int(value.sec) * 1_000_000_000 + int(value.nanosec)


def main(args: Sequence[str] | None = None) -> int:
    """Run ``/groot_sim``; ``args`` is a command line with the program's name first (None: ``sys.argv``)."""
    return run(SimulatorNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
