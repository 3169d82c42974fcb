"""Commands of every output type: which number lands where, when it is due, what a trajectory controller makes of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from geometry_msgs.msg import PoseStamped, Twist, TwistStamped
from rclpy.signals import SignalHandlerOptions
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from groot_ros.control.layout import Layout
from groot_ros.control.limiter import Motion
from groot_ros.control.track import Track
from groot_ros.embodiment.check import check_commandable
from groot_ros.embodiment.load import load_embodiment
from groot_ros.nodes.commands import CommandPublishers, trajectory
from groot_ros.nodes.convert import RELIABLE_QOS, to_time
from groot_ros.nodes.observer import Observer
from groot_ros.simulation.trajectory import Point, TrajectoryFollower

PERIOD_NS = 20_000_000
TICK = 85_000_000_000  # a ROS time of 1.7e18 ns
WAIT_S = 20.0

YAML = """\
name: octopus
embodiment_tag: new_embodiment
step_hz: 10.0
cameras:
  front: {topic: /front, type: sensor_msgs/msg/Image, width: 4, height: 4, rate_hz: 30.0, max_age_s: 0.2}
state_streams:
  joints: {topic: /joints, type: sensor_msgs/msg/JointState, rate_hz: 100.0, max_age_s: 0.1}
  tool: {topic: /tool, type: geometry_msgs/msg/PoseStamped, rate_hz: 100.0, max_age_s: 0.1}
video:
  front: {camera: front}
state:
  joints: {stream: joints, joints: [a, b, c, d, e, f, g]}
  turn: {stream: tool, fields: [pose.rotvec.x, pose.rotvec.y, pose.rotvec.z], unit: rad}
  place: {stream: tool, fields: [pose.position.z, pose.position.x, pose.position.y], unit: m}
action:
  neck: {joints: [g], unit: deg}
  turn:
    fields: [pose.rotvec.x, pose.rotvec.y, pose.rotvec.z]
    unit: rad
    bounds: {lower: [-3, -3, -3], upper: [3, 3, 3], velocity: [1, 1, 1], acceleration: [5, 5, 5]}
  arm: {joints: [a, b]}
  place:
    fields: [pose.position.z, pose.position.x, pose.position.y]
    unit: m
    bounds: {lower: [-1, -1, 0], upper: [1, 1, 1], velocity: [0.5, 0.5, 0.5]}
  finger: {joints: [c]}
  waist: {joints: [d]}
  drive: {fields: [angular.z, linear.x], unit: unitless, bounds: {lower: [-1, -1], upper: [1, 1], velocity: [2, 2]}}
  slide:
    fields: [twist.linear.y]
    unit: unitless
    bounds: {lower: [-1], upper: [1], velocity: [2]}
  mode: {fields: [data.1], unit: unitless, bounds: {lower: [-1], upper: [1]}, interpolation: step}
  hand:
    fields: [data.2, data.0]
    unit: unitless
    bounds: {lower: [0, 0], upper: [1, 1], velocity: [4, 4]}
    interpolation: linear
  legs: {joints: [f, e]}
language: {key: task}
delta_indices: {action: [0, 1]}
limits:
LIMITS
outputs:
  drive: {topic: /octopus/cmd_vel, type: geometry_msgs/msg/Twist, keys: [drive]}
  arm: {topic: /octopus/arm, type: trajectory_msgs/msg/JointTrajectory, keys: [finger, arm], frame_id: base}
  tool: {topic: /octopus/target, type: geometry_msgs/msg/PoseStamped, keys: [place, turn], frame_id: base}
  neck: {topic: /octopus/neck, type: trajectory_msgs/msg/JointTrajectory, keys: [neck]}
  waist: {topic: /octopus/joint_command, type: sensor_msgs/msg/JointState, keys: [waist]}
  slide: {topic: /octopus/slide, type: geometry_msgs/msg/TwistStamped, keys: [slide], frame_id: rail}
  switches: {topic: /octopus/switches, type: std_msgs/msg/Float64MultiArray, keys: [mode, hand]}
  legs: {topic: /octopus/legs, type: std_msgs/msg/Float64MultiArray, keys: [legs]}
"""
LIMITS = "\n".join(
    f"  {joint}: {{lower: -3.0, upper: 3.0, velocity: 2.0, acceleration: 8.0}}" for joint in ("a", "b", *"cdefg")
)
ROTVEC = [0.3, -0.7, 1.1]
# What the model says, in the units and the order of its keys.
SAID = {
    "neck": [90.0],
    "turn": ROTVEC,
    "arm": [0.1, 0.2],
    "place": [0.33, 0.11, -0.22],
    "finger": [0.5],
    "waist": [-0.4],
    "drive": [0.25, -0.75],
    "slide": [0.6],
    "mode": [-1.0],
    "hand": [0.9, 0.7],
    "legs": [1.5, -1.25],
}


class Sink:
    """Stands for a node: keeps what its publishers are given."""

    def __init__(self) -> None:
        self.sent: dict[str, list[Any]] = {}
        self.kinds: dict[str, type] = {}

    def create_publisher(self, kind: type, topic: str, qos: object) -> Sink._Publisher:
        assert qos is RELIABLE_QOS
        self.kinds[topic] = kind
        return self._Publisher(self.sent.setdefault(topic, []), topic)

    def destroy_publisher(self, publisher: Sink._Publisher) -> None:
        del self.sent[publisher.topic]

    class _Publisher:
        def __init__(self, into: list[Any], topic: str) -> None:
            self.publish, self.topic = into.append, topic


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    path = tmp_path_factory.mktemp("octopus") / "octopus.yaml"
    path.write_text(YAML.replace("LIMITS", LIMITS), encoding="utf-8")
    embodiment = load_embodiment(str(path))
    check_commandable(embodiment)
    return Layout(embodiment)


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def publishers(sink: Sink, layout: Layout) -> CommandPublishers:
    return CommandPublishers(sink, layout)  # type: ignore[arg-type]


def motion(layout: Layout) -> Motion:
    values = layout.values({key: np.array([row], dtype=np.float32) for key, row in SAID.items()})
    return Motion(values[0], np.zeros(layout.space.tangent_count))


def track(layout: Layout, ticks: int = 30, seed: int = 0) -> Track:
    """Any motion that ends at rest; orientations are unit quaternions."""
    rng = np.random.default_rng(seed)
    space = layout.space
    values = rng.uniform(-1, 1, (ticks, space.value_count))
    for first, _ in space.rotations:
        values[:, first : first + 4] = Rotation.random(ticks, random_state=seed).as_quat()
    velocities = rng.uniform(-1, 1, (ticks, space.tangent_count))
    velocities[-1] = 0.0
    return Track(space, PERIOD_NS, TICK, values, velocities, TICK + ticks - 8)


def test_a_step_says_every_number_in_its_place(layout: Layout, sink: Sink, publishers: CommandPublishers) -> None:
    time_ns = TICK * PERIOD_NS + 999
    publishers.send_step(motion(layout), time_ns)
    assert {topic: len(messages) for topic, messages in sink.sent.items() if messages} == dict.fromkeys(
        (f"/octopus/{name}" for name in ("cmd_vel", "target", "joint_command", "slide", "switches", "legs")), 1
    ), "and no trajectory"
    drive: Twist = sink.sent["/octopus/cmd_vel"][0]
    assert (drive.linear.x, drive.linear.y, drive.linear.z) == (-0.75, 0.0, 0.0)
    assert (drive.angular.x, drive.angular.y, drive.angular.z) == (0.0, 0.0, 0.25)
    target: PoseStamped = sink.sent["/octopus/target"][0]
    place, turn = target.pose.position, target.pose.orientation
    np.testing.assert_allclose([place.x, place.y, place.z], [0.11, -0.22, 0.33], rtol=1e-6)
    turned = Rotation.from_quat([turn.x, turn.y, turn.z, turn.w])
    np.testing.assert_allclose(turned.as_rotvec(), ROTVEC, atol=1e-6)
    assert (target.header.frame_id, target.header.stamp) == ("base", to_time(time_ns))
    waist: JointState = sink.sent["/octopus/joint_command"][0]
    assert (list(waist.name), list(waist.velocity), waist.header.stamp) == (["d"], [], to_time(time_ns))
    np.testing.assert_allclose(waist.position, [-0.4], rtol=1e-6)
    slide: TwistStamped = sink.sent["/octopus/slide"][0]
    np.testing.assert_allclose([slide.twist.linear.x, slide.twist.linear.y], [0.0, 0.6], rtol=1e-6)
    assert (slide.header.frame_id, slide.header.stamp) == ("rail", to_time(time_ns))
    switches: Float64MultiArray = sink.sent["/octopus/switches"][0]
    np.testing.assert_allclose(switches.data, [0.7, -1.0, 0.9], rtol=1e-6)
    np.testing.assert_allclose(sink.sent["/octopus/legs"][0].data, [1.5, -1.25], rtol=1e-6)


@pytest.mark.parametrize("kind", [JointTrajectory, JointState, Float64MultiArray, Twist, TwistStamped, PoseStamped])
def test_every_type_of_the_schema_is_tried_here(sink: Sink, publishers: CommandPublishers, kind: type) -> None:
    assert kind in sink.kinds.values()


def test_a_pose_that_names_no_orientation_is_not_turned(tmp_path: Path, sink: Sink) -> None:
    """It cannot be commanded, but a dry run makes its publishers; a quaternion of zeros would be no orientation."""
    text = YAML.replace("LIMITS", LIMITS).replace("keys: [place, turn]", "keys: [place]")
    text = text.replace("    fields: [pose.rotvec.x", "    command: false\n    fields: [pose.rotvec.x", 1)
    path = tmp_path / "flat.yaml"
    path.write_text(text, encoding="utf-8")
    layout = Layout(load_embodiment(str(path)))
    CommandPublishers(sink, layout).send_step(motion(layout), 0)  # type: ignore[arg-type]
    turn = sink.sent["/octopus/target"][0].pose.orientation
    assert (turn.x, turn.y, turn.z, turn.w) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("late_ns", [0, 1, 12_345_678, 7 * PERIOD_NS])
def test_a_track_becomes_points_on_the_control_ticks(
    layout: Layout, sink: Sink, publishers: CommandPublishers, late_ns: int
) -> None:
    whole = track(layout)
    tick = TICK + 7
    stamp_ns = (tick + 1) * PERIOD_NS - late_ns
    publishers.send_track(whole, tick, stamp_ns)
    assert sorted(topic for topic, sent in sink.sent.items() if sent) == ["/octopus/arm", "/octopus/neck"]
    joints = {"/octopus/arm": ["c", "a", "b"], "/octopus/neck": ["g"]}
    for topic, names in joints.items():
        (message,) = sink.sent[topic]
        assert (list(message.joint_names), message.header.stamp) == (names, to_time(stamp_ns))
        assert message.header.frame_id == ("base" if topic == "/octopus/arm" else "")
        due_ns = [
            stamp_ns + point.time_from_start.sec * 1_000_000_000 + point.time_from_start.nanosec
            for point in message.points
        ]
        assert due_ns == [(tick + 1 + i) * PERIOD_NS for i in range(whole.last_tick - tick)]
        for point, number in zip(message.points, range(tick + 1, whole.last_tick + 1), strict=True):
            row = whole.motion(number)
            assert point.positions.tolist() == [row.values[layout.joint_columns[name]] for name in names]
            assert point.velocities.tolist() == [row.velocity[layout.space.names.index(name)] for name in names]
        assert not any(message.points[-1].velocities)


def test_nothing_is_sent_when_nothing_is_left(layout: Layout, sink: Sink, publishers: CommandPublishers) -> None:
    whole = track(layout)
    publishers.send_track(whole, whole.last_tick, whole.last_tick * PERIOD_NS)
    publishers.send_track(whole, whole.last_tick + 50, whole.last_tick * PERIOD_NS)
    assert not any(sink.sent.values())
    publishers.send_track(whole, whole.last_tick - 1, whole.last_tick * PERIOD_NS)
    assert [len(sent[0].points) for sent in sink.sent.values() if sent] == [1, 1]


def test_rows_before_the_track_are_not_made_up(layout: Layout, sink: Sink, publishers: CommandPublishers) -> None:
    whole = track(layout)
    publishers.send_track(whole, TICK - 10, (TICK - 10) * PERIOD_NS)
    (message,) = sink.sent["/octopus/neck"]
    assert len(message.points) == len(whole.values)
    assert message.points[0].time_from_start.nanosec == 10 * PERIOD_NS


def test_a_stamp_after_the_first_row_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"\['a'\].*2000 ns.*2001 ns.*after the stamp"):
        trajectory(["a"], np.zeros((2, 1)), np.zeros((2, 1)), [2000, 3000], 2001)


class FromMeasured(TrajectoryFollower):
    """joint_trajectory_controller as it is by default: before the first point it starts from where the joint is.

    The joint is always 0.1 rad behind. With interpolate_from_desired_state it is a TrajectoryFollower.
    """

    receiving = False

    def receive(self, joint_names: Sequence[str], points: Sequence[Point], stamp_ns: int, now_ns: int) -> None:
        self.receiving = True
        super().receive(joint_names, points, stamp_ns, now_ns)
        self.receiving = False

    def sample(self, time_ns: int) -> tuple[np.ndarray, np.ndarray]:
        position, velocity = super().sample(time_ns)
        return position - 0.1 * self.receiving, velocity


def deviation(layout: Layout, kind: type[TrajectoryFollower], back: int) -> float:
    """How far a controller strays that is sent the rest of its track on every tick, late as DDS is (rad, rad/s)."""
    whole = track(layout, ticks=40, seed=3)
    sink, rng = Sink(), np.random.default_rng(4)
    publishers = CommandPublishers(sink, layout)  # type: ignore[arg-type]
    joints = ["c", "a", "b"]
    at_rest = [whole.values[0, layout.joint_columns[name]] for name in joints]
    once, often = TrajectoryFollower(joints, at_rest), kind(joints, at_rest)
    for follower in (once, often):
        receive(follower, sink_message(sink, publishers, whole, TICK - 1), TICK * PERIOD_NS)
    found = 0.0
    for tick in range(TICK + 1, whole.last_tick - 1):
        arrival_ns = tick * PERIOD_NS + int(rng.integers(0, PERIOD_NS))
        receive(often, sink_message(sink, publishers, whole, tick - back), arrival_ns)
        for time_ns in range(arrival_ns, arrival_ns + PERIOD_NS, PERIOD_NS // 5):
            ways = zip(often.sample(time_ns), once.sample(time_ns), strict=True)
            found = max(found, *(float(np.abs(a - b).max()) for a, b in ways))
    return found


@pytest.mark.parametrize("back", [0, 1])
def test_the_rest_of_a_track_in_place_of_the_track_changes_no_motion(layout: Layout, back: int) -> None:
    assert deviation(layout, TrajectoryFollower, back) < 1e-9


def test_with_the_row_under_way_it_does_not_matter_where_a_controller_starts(layout: Layout) -> None:
    assert deviation(layout, FromMeasured, 1) < 1e-9
    assert deviation(layout, FromMeasured, 0) > 0.05, (
        "the first point lies ahead: the joint is made to catch up at once"
    )


def sink_message(sink: Sink, publishers: CommandPublishers, whole: Track, tick: int) -> JointTrajectory:
    """The rest after ``tick``, stamped as a chunk is: by what was seen a while ago."""
    publishers.send_track(whole, tick, (tick - 3) * PERIOD_NS)
    return sink.sent["/octopus/arm"].pop()


def receive(follower: TrajectoryFollower, message: JointTrajectory, now_ns: int) -> None:
    points = [
        Point(p.time_from_start.sec * 1_000_000_000 + p.time_from_start.nanosec, list(p.positions), list(p.velocities))
        for p in message.points
    ]
    stamp = message.header.stamp
    follower.receive(list(message.joint_names), points, stamp.sec * 1_000_000_000 + stamp.nanosec, now_ns)


@pytest.fixture
def node() -> Iterator[rclpy.node.Node]:
    context = rclpy.Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    made = rclpy.create_node("commander", context=context)
    yield made
    made.destroy_node()
    context.try_shutdown()


def test_every_command_arrives_over_dds_and_none_after_close(layout: Layout, node: rclpy.node.Node) -> None:
    topics = {name: output.topic for name, output in layout.embodiment.outputs.items()}
    publishers, wanted = CommandPublishers(node, layout), Sink()
    same = CommandPublishers(wanted, layout)  # type: ignore[arg-type]
    with Observer(layout.embodiment, joints=False) as observer:
        sending = [publisher for publisher in node.publishers if publisher.topic in topics.values()]
        assert len(sending) == len(topics)
        assert observer.wait_until(lambda: all(publisher.get_subscription_count() for publisher in sending), WAIT_S)
        whole = track(layout)
        for to in (publishers, same):
            to.send_track(whole, TICK + 2, (TICK + 3) * PERIOD_NS)
            to.send_step(motion(layout), 5)
        assert observer.wait_until(lambda: all(observer.streams.values()), WAIT_S)
        for name, topic in topics.items():
            assert [message for _, message in observer.streams[name]] == wanted.sent[topic]
        assert sorted(len(message.joint_names) for message in observer.commands) == [1, 3]
        publishers.close()
        publishers.close()
        publishers.send_track(whole, TICK + 2, (TICK + 3) * PERIOD_NS)
        publishers.send_step(motion(layout), 6)
        assert not set(node.publishers) & set(sending)
        assert observer.wait_until(lambda: not any(map(observer.node.count_publishers, topics.values())), WAIT_S)
        assert [len(observer.streams[name]) for name in topics] == [1] * len(topics)
