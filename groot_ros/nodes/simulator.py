"""``/groot_sim``: the simulated arm as a robot on ROS topics, and a recording of all that it says and hears."""

from __future__ import annotations

import array
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point as PointMessage
from geometry_msgs.msg import Pose, PoseArray, Quaternion
from numpy.typing import NDArray
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Bool, Float64, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from groot_ros.bags.topics import EVENTS_TOPIC, INSTRUCTION_TOPIC, BagError, Topic, bag_topics
from groot_ros.bags.write import STORAGES, BagRecorder
from groot_ros.embodiment.errors import EmbodimentError
from groot_ros.embodiment.load import load_embodiment
from groot_ros.embodiment.schema import Camera, Embodiment
from groot_ros.embodiment.vocabulary import JOINT_TRAJECTORY
from groot_ros.nodes.parameters import declare, parameter, read
from groot_ros.nodes.runtime import EXIT_FAILED, StartError, request_stop, run
from groot_ros.simulation.arm import CAMERAS, ArmView, SimArm
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
JPEG_QUALITY = 90


@dataclass(frozen=True)
class SimulatorParameters:
    """Parameters of ``/groot_sim``; read once at the start."""

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
        1.0, "Simulated seconds per second; other than 1 needs publish_clock", minimum=0.01, maximum=10.0
    )
    bag: str = parameter("", "Record into this new rosbag2 folder; empty: do not record")
    storage: str = parameter("mcap", "Storage of the bag", choices=tuple(STORAGES))
    duration_s: float = parameter(0.0, "End after this time; 0: run until stopped", unit="s", minimum=0.0, maximum=1e6)


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
            self._now_ns = self._make_clock()
            self._cameras = {
                name: self.create_publisher(_image_class(camera), camera.topic, CAMERA_QOS)
                for name, camera in self._embodiment.cameras.items()
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
        begin_ns, factor = time.monotonic_ns(), self._options.real_time_factor
        return lambda: SIM_START_NS + round((time.monotonic_ns() - begin_ns) * factor)

    def _make_robot(self) -> SimRobot:
        arm = SimArm(self._seed, task=self._task)
        sizes = {name: (camera.width, camera.height) for name, camera in self._embodiment.cameras.items()}
        rates_hz = [stream.rate_hz for stream in self._embodiment.state_streams.values()]
        frame_rates_hz = [camera.rate_hz for camera in self._embodiment.cameras.values()]
        robot = SimRobot(
            arm,
            lambda: ArmView(arm.model, sizes, self._seed),
            joint_rate_hz=self._options.joint_rate_hz or max(rates_hz),
            camera_rate_hz=self._options.camera_rate_hz or max(frame_rates_hz),
            now_ns=self._now_ns,
            clock_rate=self._options.real_time_factor,
            outlets=Outlets(self._on_tick, self._on_joints, self._on_frame, self._on_clamped, self._on_progress),
        )
        robot.failed = self._on_failure
        return robot

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
        if self._options.publish_clock:
            self._clock_publisher.publish(ClockMessage(clock=_time(stamp_ns)))

    def _on_joints(self, reading: JointReading) -> None:
        message = JointState(
            name=list(reading.position),
            position=list(reading.position.values()),
            velocity=list(reading.velocity.values()),
            effort=list(reading.effort.values()),
        )
        message.header.stamp = _time(reading.stamp_ns)
        for publisher in self._joints:
            self._publish(publisher, message)

    def _on_frame(self, stamp_ns: int, camera: str, rgb: NDArray[np.uint8]) -> None:
        message = _image_message(self._embodiment.cameras[camera], rgb)
        message.header.stamp = _time(stamp_ns)
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
        cubes = PoseArray(poses=[_pose(progress.cubes[name]) for name in CUBES])
        cubes.header.stamp = _time(progress.stamp_ns)
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
    for camera in embodiment.cameras:
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


def _image_class(camera: Camera) -> type[Any]:
    return CompressedImage if camera.type.endswith("CompressedImage") else Image


def _image_message(camera: Camera, rgb: NDArray[np.uint8]) -> Image | CompressedImage:
    """RGB pixels as the YAML says that the driver sends them: JPEG, or rgb8 or bgr8 by the first encoding listed."""
    if camera.type.endswith("CompressedImage"):
        done, jpeg = cv2.imencode(".jpg", rgb[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if not done:
            raise RuntimeError(f"{camera.topic}: OpenCV could not encode a JPEG")
        return CompressedImage(format="jpeg", data=_bytes(jpeg))
    encoding = "bgr8" if camera.encodings[0] == "bgr8" else "rgb8"
    if encoding == "bgr8":
        rgb = np.ascontiguousarray(rgb[:, :, ::-1])
    height, width, _ = rgb.shape
    return Image(height=height, width=width, encoding=encoding, step=3 * width, data=_bytes(rgb))


def _bytes(pixels: NDArray[np.uint8]) -> array.array[int]:
    """What rclpy takes without looking at every byte: an ndarray or a list here costs 50 ms and more."""
    data = array.array("B")
    data.frombytes(memoryview(pixels.data).cast("B"))
    return data


def _time(stamp_ns: int) -> Time:
    return Time(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)


def _pose(pose: NDArray[np.float64]) -> Pose:
    """Of position (m) and quaternion w, x, y, z [7]."""
    x, y, z, qw, qx, qy, qz = pose.tolist()
    return Pose(position=PointMessage(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))


def _nanoseconds(value: Any) -> int:
    """Of a Time or Duration message."""
    return int(value.sec) * 1_000_000_000 + int(value.nanosec)


def main(args: Sequence[str] | None = None) -> int:
    """Run ``/groot_sim``; ``args`` is a command line with the program's name first (None: ``sys.argv``)."""
    return run(SimulatorNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
