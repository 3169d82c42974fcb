"""What the control loop decides -> messages on the outputs of the robot. No decisions here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion, Twist, TwistStamped, Vector3
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.publisher import Publisher
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, Header
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from groot_ros.control.layout import Layout
from groot_ros.control.limiter import Motion
from groot_ros.control.track import Track
from groot_ros.embodiment.schema import Output
from groot_ros.embodiment.vocabulary import COMMAND_PATHS, FLOAT_ARRAY, JOINT_STATE, JOINT_TRAJECTORY, POSE_STAMPED
from groot_ros.nodes.convert import RELIABLE_QOS, message_class, to_duration, to_time

_POSE_PATHS = (
    *(f"pose.position.{axis}" for axis in "xyz"),
    *(f"pose.orientation.{axis}" for axis in "xyzw"),
)
# Two constants behind the values of a motion, as columns: what no key names is 0, and an orientation that none names
# is no turn.
_ZERO, _ONE = -2, -1


@dataclass(frozen=True)
class _Trajectory:
    """A JointTrajectory output: joints in its order, with their value and tangent columns."""

    publisher: Publisher
    joints: list[str]
    columns: NDArray[np.intp]
    tangents: NDArray[np.intp]
    frame_id: str


@dataclass(frozen=True)
class _Stream:
    """An output of any other type: value columns, in the order in which ``build`` takes the numbers."""

    publisher: Publisher
    columns: list[int]
    build: Callable[[list[float], int], Any]


class CommandPublishers:
    """One reliable publisher per output of the robot.

    Not thread-safe: after ``close`` has begun nothing may be sent any more.

    Args:
        node: whose publishers they are.
        layout: which column of the command space is which joint or number.
    """

    def __init__(self, node: Node, layout: Layout) -> None:
        self._node = node
        self._trajectories: list[_Trajectory] = []
        self._streams: list[_Stream] = []
        for name, output in layout.embodiment.outputs.items():
            publisher = node.create_publisher(message_class(output.type), output.topic, RELIABLE_QOS)
            columns = output_columns(layout, name)
            if output.type == JOINT_TRAJECTORY:
                of_joints = list(columns.values())
                self._trajectories.append(
                    _Trajectory(
                        publisher,
                        list(columns),
                        np.array(of_joints, dtype=np.intp),
                        np.array([layout.space.tangent_of[column] for column in of_joints], dtype=np.intp),
                        output.frame_id,
                    )
                )
            else:
                self._streams.append(_Stream(publisher, *_numbers(output, columns)))

    def send_track(self, track: Track, tick: int, stamp_ns: int) -> None:
        """Send what is left of ``track`` to every JointTrajectory output; nothing when nothing is left.

        Args:
            track: what is executed.
            tick: its rows after this tick are sent, each at the ROS time of its own tick.
            stamp_ns: the header's stamp, which ``time_from_start`` counts from.

        Raises:
            ValueError: the stamp is later than the first of these rows.
        """
        first = max(tick + 1, track.first_tick)
        if not self._trajectories or first > track.last_tick:
            return
        rows = slice(first - track.first_tick, None)
        times_ns = [number * track.period_ns for number in range(first, track.last_tick + 1)]
        for output in self._trajectories:
            message = trajectory(
                output.joints,
                track.values[rows, output.columns],
                track.velocities[rows, output.tangents],
                times_ns,
                stamp_ns,
                output.frame_id,
            )
            output.publisher.publish(message)

    def send_step(self, motion: Motion, time_ns: int) -> None:
        """Send what is commanded now to every output that is no JointTrajectory, stamped ``time_ns`` (ROS time)."""
        if not self._streams:
            return
        row = [*motion.values.tolist(), 0.0, 1.0]
        for stream in self._streams:
            stream.publisher.publish(stream.build([row[column] for column in stream.columns], time_ns))

    def close(self) -> None:
        """Destroy the publishers; a second time does nothing."""
        for publisher in [output.publisher for output in self._trajectories] + [s.publisher for s in self._streams]:
            self._node.destroy_publisher(publisher)
        self._trajectories, self._streams = [], []


def output_columns(layout: Layout, name: str) -> dict[str, int]:
    """Value columns of output ``name`` by joint or field path, in the order of its keys.

    An orientation is that of the message, ``pose.orientation.x`` to ``w``, however its key writes it.
    """
    found: dict[str, int] = {}
    for key in layout.embodiment.outputs[name].keys:
        columns, names = layout.keys[key], layout.embodiment.action[key].names
        found.update((names[place], column) for column, place in columns.lines)
        if columns.orientation is not None:
            first = columns.orientation[0]
            found.update((f"pose.orientation.{axis}", first + i) for i, axis in enumerate("xyzw"))
    return found


def _numbers(output: Output, columns: dict[str, int]) -> tuple[list[int], Callable[[list[float], int], Any]]:
    """Which columns a message of ``output`` takes, in order, and what makes it of their values and a time."""
    frame_id = output.frame_id
    if output.type == JOINT_STATE:
        joints = list(columns)
        return list(columns.values()), lambda values, time_ns: joint_state(joints, values, time_ns, frame_id)
    if output.type == FLOAT_ARRAY:
        return _array_columns(columns), lambda values, _: Float64MultiArray(data=values)
    if output.type == POSE_STAMPED:
        missing = dict.fromkeys(_POSE_PATHS, _ZERO) | {"pose.orientation.w": _ONE}
        # Part of an orientation has no place here; check_commandable lets it through for a dry run only.
        order = [columns.get(path, missing[path]) for path in _POSE_PATHS]
        return order, lambda values, time_ns: pose_stamped(values, time_ns, frame_id)
    order = [columns.get(path, _ZERO) for path in COMMAND_PATHS[output.type]]
    if output.type == "geometry_msgs/msg/Twist":
        return order, lambda values, _: twist(values)
    return order, lambda values, time_ns: TwistStamped(header=header(time_ns, frame_id), twist=twist(values))


def _array_columns(columns: dict[str, int]) -> list[int]:
    """Joints in their order, or the fields ``data.0``, ``data.1``, ... in theirs."""
    fields = {int(path.removeprefix("data.")): columns[path] for path in columns if path.startswith("data.")}
    if not fields:
        return list(columns.values())
    return [fields.get(i, _ZERO) for i in range(max(fields) + 1)]


def trajectory(
    joints: list[str],
    positions: NDArray[np.float64],
    velocities: NDArray[np.float64],
    times_ns: Sequence[int],
    stamp_ns: int,
    frame_id: str = "",
) -> JointTrajectory:
    """Positions and velocities [T, J] (rad or m, per s) at ROS times [T], counted from ``stamp_ns``.

    Raises:
        ValueError: the stamp is later than the first time.
    """
    if times_ns[0] < stamp_ns:
        raise ValueError(
            f"trajectory of {joints}: expected a stamp at or before its first point, which is due at {times_ns[0]} ns, "
            f"found {stamp_ns} ns; send the rows after the stamp only"
        )
    return JointTrajectory(
        header=header(stamp_ns, frame_id),
        joint_names=joints,
        points=[
            JointTrajectoryPoint(
                positions=position, velocities=velocity, time_from_start=to_duration(time_ns - stamp_ns)
            )
            for position, velocity, time_ns in zip(positions.tolist(), velocities.tolist(), times_ns, strict=True)
        ],
    )


def joint_state(joints: list[str], positions: list[float], time_ns: int, frame_id: str = "") -> JointState:
    """Positions (rad or m) by joint name."""
    return JointState(header=header(time_ns, frame_id), name=joints, position=positions)


def twist(values: Sequence[float]) -> Twist:
    """Linear x, y, z (m/s), then angular x, y, z (rad/s)."""
    x, y, z, about_x, about_y, about_z = values
    return Twist(linear=Vector3(x=x, y=y, z=z), angular=Vector3(x=about_x, y=about_y, z=about_z))


def pose_stamped(values: Sequence[float], time_ns: int, frame_id: str = "") -> PoseStamped:
    """Position x, y, z (m), then orientation x, y, z, w (unit quaternion)."""
    x, y, z, *turn = values
    quaternion = Quaternion(x=turn[0], y=turn[1], z=turn[2], w=turn[3])
    return PoseStamped(
        header=header(time_ns, frame_id), pose=Pose(position=Point(x=x, y=y, z=z), orientation=quaternion)
    )


def header(time_ns: int, frame_id: str) -> Header:
    """A stamp and the frame of the numbers."""
    return Header(stamp=to_time(time_ns), frame_id=frame_id)
