"""``/groot_sim`` over real DDS: what it publishes, obeys, records and refuses, and how it ends."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import PoseArray
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image, JointState
from sim_process import Listener, NodeProcess, stamp_ns
from std_msgs.msg import Bool, Float64, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from groot_ros.bags.read import Bag
from groot_ros.bags.topics import EVENTS_TOPIC, INSTRUCTION_TOPIC
from groot_ros.embodiment.load import load_embodiment
from groot_ros.nodes.simulator import SIM_START_NS, main
from groot_ros.simulation.arm import SimArm
from groot_ros.simulation.expert import Expert
from groot_ros.simulation.scene import CUBES, JOINTS
from groot_ros.simulation.schedule import MAX_LAG_NS
from groot_ros.simulation.tasks import find_task
from groot_ros.srv import ResetEpisode

MODULE = ["-m", "groot_ros.nodes.simulator"]
COMMAND = "/arm_controller/joint_trajectory"
SIZE = 64


@pytest.fixture(scope="class")
def sim(robot_yaml: Path) -> Iterator[NodeProcess]:
    with NodeProcess(MODULE, embodiment=str(robot_yaml), seed=3) as node:
        node.wait_for("seed 3")
        yield node


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as made:
        yield made


def trajectory(t_s: float = 0.2, **joints: float) -> JointTrajectory:
    """All joints, those not named at 0."""
    point = JointTrajectoryPoint(
        positions=[joints.get(name, 0.0) for name in JOINTS],
        velocities=[0.0] * 6,
        time_from_start=Duration(nanosec=round(t_s * 1e9)),
    )
    return JointTrajectory(joint_names=list(JOINTS), points=[point])


def grid(messages: list[Image | JointState]) -> set[int]:
    """Gaps (ns) between stamps, without those after which the grid started anew because the machine was busy."""
    gaps = np.diff([stamp_ns(message) for message in messages])
    assert (gaps > 0).all()
    return set(gaps[gaps <= MAX_LAG_NS].tolist())


class TestRunning:
    """One simulator for all tests of this class; it is gone before the next test starts its own."""

    def test_publishes_the_robot_of_the_yaml(self, sim: NodeProcess, listener: Listener) -> None:
        cameras = {name: listener.listen(Image, f"/{name}/image_raw") for name in ("front", "wrist")}
        joints = listener.listen(JointState, "/joint_states")
        listener.wait(lambda: all(len(frames) > 20 for frames in cameras.values()) and len(joints) > 60)
        now_ns = listener.node.get_clock().now().nanoseconds
        for name, frames in cameras.items():
            frame = frames[-1]
            assert (frame.width, frame.height, frame.encoding, frame.step) == (SIZE, SIZE, "rgb8", 3 * SIZE)
            assert frame.header.frame_id == f"{name}_camera"
            assert len(frame.data) == SIZE * SIZE * 3
            assert np.asarray(frame.data).std() > 10
            # Multiples of a thirtieth of a second, rounded once: a slow renderer may leave frames out.
            assert all(min(gap % (1e9 / 30), -gap % (1e9 / 30)) < 2 for gap in grid(frames))
        front, wrist = ({stamp_ns(frame) for frame in frames} for frames in cameras.values())
        assert len(front & wrist) >= 20
        assert joints[-1].name == list(JOINTS)
        for field in ("position", "velocity", "effort"):
            assert np.isfinite(getattr(joints[-1], field)).all() and len(getattr(joints[-1], field)) == 6
        assert {gap % 10_000_000 for gap in grid(joints)} == {0}
        assert all(stamp_ns(message) <= now_ns for message in (joints[0], *cameras["front"]))
        assert now_ns - stamp_ns(joints[-1]) < 10e9

    def test_serves_sensor_data_subscribers(self, sim: NodeProcess, listener: Listener) -> None:
        joints = listener.listen(JointState, "/joint_states", qos_profile_sensor_data)
        frames = listener.listen(Image, "/front/image_raw", qos_profile_sensor_data)
        listener.wait(lambda: len(joints) > 3 and len(frames) > 1)

    def test_obeys_commands_and_refuses_bad_ones(self, sim: NodeProcess, listener: Listener) -> None:
        joints = listener.listen(JointState, "/joint_states")
        publisher = listener.publisher(JointTrajectory, COMMAND)
        publisher.publish(trajectory(shoulder_pan=0.4, shoulder_lift=-0.5, gripper=1.0))
        goal = [0.4, -0.5, 0.0, 0.0, 0.0, 1.0]
        listener.wait(lambda: bool(joints) and np.abs(np.array(joints[-1].position) - goal).max() < 0.02, "motion")
        partial = trajectory()
        partial.joint_names, partial.points[0].positions, partial.points[0].velocities = ["gripper"], [0.0], []
        publisher.publish(partial)
        sim.wait_for("refused: joint_names lacks shoulder_pan")
        nan = trajectory(gripper=float("nan"))
        publisher.publish(nan)
        sim.wait_for("refused: points[0].positions: nan for joint gripper")
        count = len(joints)
        listener.wait(lambda: len(joints) > count + 20)
        assert list(joints[-1].position) == pytest.approx(goal, abs=0.02)
        publisher.publish(trajectory(gripper=3.0))
        sim.wait_for("clamped: gripper")

    def test_parameters_are_read_once(self, sim: NodeProcess, listener: Listener) -> None:
        for name, value in (("seed", 9), ("real_time_factor", 2.0)):  # its clock is the system's
            parameter = Parameter(name, value=value).to_parameter_msg()
            answer = listener.call(SetParameters, "/groot_sim/set_parameters", parameters=[parameter])
            assert [(r.successful, r.reason) for r in answer.results] == [
                (False, f"'{name}' is read once at the start")
            ]

    def test_reset_takes_the_next_seed(self, sim: NodeProcess, listener: Listener) -> None:
        joints = listener.listen(JointState, "/joint_states")
        listener.wait(lambda: len(joints) > 1)
        first = listener.call(Trigger, "/groot_sim/reset")
        assert (first.success, first.message) == (True, "new scene, seed 4")
        count = len(joints)
        listener.wait(lambda: len(joints) > count + 5)
        pose = list(joints[-1].position)
        assert listener.call(Trigger, "/groot_sim/reset").message == "new scene, seed 5"
        count = len(joints)
        listener.wait(lambda: len(joints) > count + 5)
        assert np.abs(np.array(joints[-1].position) - pose).max() > 0.01

    def test_an_episode_is_reset_done_and_judged(self, sim: NodeProcess, listener: Listener) -> None:
        success, failure = listener.listen(Bool, "/groot_sim/success"), listener.listen(String, "/groot_sim/failure")
        distance = listener.listen(Float64, "/groot_sim/distance")
        cubes = listener.listen(PoseArray, "/groot_sim/cubes")
        joints = listener.listen(JointState, "/joint_states")
        publisher = listener.publisher(JointTrajectory, COMMAND)
        refused = listener.call(ResetEpisode, "/groot_sim/reset_episode", seed=1, task="fly")
        assert (refused.success, refused.instruction) == (False, "") and "reach_one" in refused.message
        answer = listener.call(ResetEpisode, "/groot_sim/reset_episode", seed=8, task="reach:blue")
        assert (answer.success, answer.instruction) == (True, "reach the blue cube")
        task = find_task("reach:blue")
        arm = SimArm(8, task=task)
        count = len(cubes), len(joints)
        listener.wait(lambda: len(cubes) > count[0] + 1 and len(joints) > count[1] + 5 and bool(distance))
        assert list(joints[-1].position) == pytest.approx(list(arm.positions().values()), abs=3e-3)
        told = [[p.position.x, p.position.y] for p in cubes[-1].poses]
        np.testing.assert_allclose(told, [arm.cube_positions()[name][:2] for name in CUBES], atol=1e-3)
        assert not success[-1].data and failure[-1].data == "" and distance[-1].data > 0.03
        expert = Expert(task, "blue_cube", arm.scene.pose_rad)
        expert.step(0.0, arm.cube_poses())
        goal = dict(zip(JOINTS, expert.step(60.0, arm.cube_poses()).tolist(), strict=True))
        publisher.publish(trajectory(1.0, **goal))
        listener.wait(lambda: success[-1].data, "success")
        assert distance[-1].data < 0.025
        # The simulator's own task is none: what is done is not judged.
        assert listener.call(ResetEpisode, "/groot_sim/reset_episode", seed=8).instruction == ""
        count = len(success), len(distance)
        listener.wait(lambda: len(success) > count[0] + 2)
        assert not success[-1].data and len(distance) <= count[1] + 1

    def test_holding_above_the_wrong_cube_is_a_failure(self, sim: NodeProcess, listener: Listener) -> None:
        failure = listener.listen(String, "/groot_sim/failure")
        publisher = listener.publisher(JointTrajectory, COMMAND)
        listener.call(ResetEpisode, "/groot_sim/reset_episode", seed=8, task="reach:red")
        arm = SimArm(8, task=find_task("reach"))
        expert = Expert(find_task("reach"), "blue_cube", arm.scene.pose_rad)
        expert.step(0.0, arm.cube_poses())
        goal = dict(zip(JOINTS, expert.step(60.0, arm.cube_poses()).tolist(), strict=True))
        publisher.publish(trajectory(1.0, **goal))
        listener.wait(lambda: bool(failure) and failure[-1].data == "wrong_cube", "failure")


@pytest.mark.parametrize(("storage", "number"), [("mcap", signal.SIGTERM), ("sqlite3", signal.SIGINT)])
def test_records_what_is_said_and_heard(
    storage: str, number: signal.Signals, robot_yaml: Path, listener: Listener, tmp_path: Path
) -> None:
    bag_path = tmp_path / "bag"
    joints = listener.listen(JointState, "/joint_states")
    frames = listener.listen(Image, "/front/image_raw")
    with NodeProcess(MODULE, embodiment=str(robot_yaml), bag=str(bag_path), storage=storage) as node:
        node.wait_for("seed 0")
        listener.publisher(String, INSTRUCTION_TOPIC).publish(String(data="pick up the red cube"))
        listener.publisher(String, EVENTS_TOPIC).publish(String(data="{}"))
        listener.publisher(JointTrajectory, COMMAND).publish(trajectory(shoulder_pan=0.3))
        listener.wait(lambda: bool(joints) and abs(joints[-1].position[0] - 0.3) < 0.02 and len(frames) > 5)
        # 0 means that it was closed in time: the watchdog of runtime.py would have made it 1.
        assert node.end(number, number)[0] == 0, node.output
    assert "Traceback" not in node.output
    assert f"recorded {bag_path}" in node.output
    with Bag(bag_path, load_embodiment(robot_yaml)) as bag:
        messages = list(bag.messages())
        # From them, the episodes of a recorder beside the simulator are made again.
        assert [message.data for _, message in bag.read(EVENTS_TOPIC)] == ["{}"]
    by_source = {source: [m for m in messages if m.source == source] for source in bag_sources(messages)}
    assert [m.message.data for m in by_source["instruction"]] == ["pick up the red cube"]
    assert len(by_source["command:arm"]) == 1
    # What went over DDS is in the bag, byte for byte.
    recorded = {stamp_ns(m.message): m.message for m in by_source["front"]}
    for frame in frames:
        np.testing.assert_array_equal(recorded[stamp_ns(frame)].data, np.asarray(frame.data))
    positions = {stamp_ns(m.message): list(m.message.position) for m in by_source["joints"]}
    for state in joints:
        assert positions[stamp_ns(state)] == list(state.position)
    assert all(0 <= m.log_ns - stamp_ns(m.message) < 10e9 for m in by_source["joints"])


def bag_sources(messages: list) -> set[str]:
    return {message.source for message in messages}


def test_simulated_time(robot_yaml: Path, listener: Listener) -> None:
    clock = listener.listen(Clock, "/clock")
    joints = listener.listen(JointState, "/joint_states")
    frames = listener.listen(Image, "/wrist/image_raw")
    with NodeProcess(MODULE, embodiment=str(robot_yaml), publish_clock=True, real_time_factor=0.5) as node:
        node.wait_for("seed 0")
        listener.wait(lambda: len(clock) > 20 and len(joints) > 10 and len(frames) > 3)
        publisher = listener.publisher(JointTrajectory, COMMAND)
        publisher.publish(trajectory(shoulder_pan=-0.4))
        listener.wait(lambda: abs(joints[-1].position[0] + 0.4) < 0.02, "motion")
    times = [message.clock.sec * 10**9 + message.clock.nanosec for message in clock]
    assert times == sorted(times)
    assert times[0] >= SIM_START_NS
    assert times[-1] < SIM_START_NS + 300 * 10**9
    assert {stamp_ns(message) for message in joints[1:-1]} <= set(times)


def test_jpeg_and_bgr_cameras(robot_yaml: Path, listener: Listener, tmp_path: Path) -> None:
    """The picture is the same whatever the YAML says that the driver sends."""
    import cv2

    text = robot_yaml.read_text().replace("encodings: [rgb8]", "encodings: [jpeg]", 1)
    text = text.replace("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", 1)
    text = text.replace("encodings: [rgb8]", "encodings: [bgr8]", 1)
    path = tmp_path / "other.yaml"
    path.write_text(text)
    jpegs = listener.listen(CompressedImage, "/front/image_raw")
    frames = listener.listen(Image, "/wrist/image_raw")
    with NodeProcess(MODULE, embodiment=str(path)) as node:
        node.wait_for("seed 0")
        listener.wait(lambda: len(jpegs) > 1 and len(frames) > 1)
    assert jpegs[0].format == "jpeg"
    front = cv2.imdecode(np.asarray(jpegs[0].data), cv2.IMREAD_COLOR)
    assert front.shape == (SIZE, SIZE, 3)
    assert frames[0].encoding == "bgr8"
    wrist = np.asarray(frames[0].data).reshape(SIZE, SIZE, 3)
    for bgr in (front, wrist):
        # The mat is green: more than red, in any order of the other two.
        assert bgr[..., 1].mean() > bgr[..., 2].mean() - 20
    # In the front picture the table, right at the bottom corner, is warm: red above blue.
    corner = front[SIZE // 2 - 8 : SIZE // 2, :6].reshape(-1, 3).mean(0)
    assert corner[2] > corner[0]


REFUSED = [
    pytest.param({"embodiment": "'sofa'"}, r"'sofa' (no such file or name)", id="embodiment"),
    pytest.param({"bag": "'/tmp'"}, "/tmp exists already: choose another name", id="existing-bag"),
    pytest.param({"storage": "'rosbag1'", "bag": "'/nonexistent'"}, "expected one of mcap, sqlite3", id="storage"),
    pytest.param({"real_time_factor": "2.0"}, "needs publish_clock:=true", id="factor"),
    pytest.param({"real_time_factor": "-1.0"}, "real_time_factor", id="range"),
    pytest.param({"seed": "'x'"}, "seed", id="type"),
    pytest.param({"task": "'fly'"}, "no task 'fly': there are reach_one", id="task"),
]


@pytest.mark.parametrize(("parameters", "message"), REFUSED)
def test_refuses_to_start(parameters: dict[str, str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
    assert main(["simulator", "--ros-args", *arguments]) == 2
    error = capfd.readouterr().err
    assert error.startswith("simulator: ")
    assert message in error
    assert "Traceback" not in error


OTHER_ROBOTS = [
    pytest.param({"  front:\n": "  left:\n", "{camera: front}": "{camera: left}"}, "but not 'left'", id="camera"),
    pytest.param({"wrist_roll": "wrist_yaw"}, "but not wrist_yaw", id="joint"),
]


@pytest.mark.parametrize(("changes", "message"), OTHER_ROBOTS)
def test_robots_that_it_cannot_play(
    changes: dict[str, str], message: str, robot_yaml: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = robot_yaml.read_text()
    for old, new in changes.items():
        text = text.replace(old, new)
    (tmp_path / "other.yaml").write_text(text)
    assert main(["simulator", "--ros-args", "-p", f"embodiment:='{tmp_path / 'other.yaml'}'"]) == 2
    assert message in capfd.readouterr().err


def test_ends_by_itself_after_its_duration(robot_yaml: Path, tmp_path: Path) -> None:
    bag = tmp_path / "bag"
    arguments = ["-p", f"embodiment:='{robot_yaml}'", "-p", "duration_s:=1.0", "-p", f"bag:='{bag}'"]
    assert main(["simulator", "--ros-args", *arguments]) == 0
    with Bag(bag, load_embodiment(robot_yaml)) as recorded:
        assert recorded.duration_s > 0.5
