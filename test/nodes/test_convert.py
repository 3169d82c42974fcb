"""Plain values to ROS messages."""

from __future__ import annotations

import numpy as np
import pytest

from groot_ros.control.plan import JointPlan, point_velocities
from groot_ros.embodiment.load import load_embodiment
from groot_ros.embodiment.schema import CAMERA_TYPES, STATE_TYPES, Output
from groot_ros.nodes.convert import message_class, to_duration, to_time, trajectory_message

T0 = 1_700_000_000_999_999_999


@pytest.mark.parametrize("name", [*CAMERA_TYPES, *STATE_TYPES])
def test_every_stream_type_of_the_schema_is_there(name: str) -> None:
    assert message_class(name).__name__ == name.rsplit("/", 1)[1]


def test_times_keep_their_nanoseconds() -> None:
    time, duration = to_time(T0), to_duration(1_500_000_001)
    assert (time.sec, time.nanosec) == (1_700_000_000, 999_999_999)
    assert (duration.sec, duration.nanosec) == (1, 500_000_001)


def test_an_output_carries_its_keys_joints_in_its_order() -> None:
    embodiment = load_embodiment("sim_arm")
    positions = np.arange(18.0).reshape(3, 6) / 100
    due_ns = T0 + np.array([1, 2, 3]) * 33_333_333
    plan = JointPlan(tuple(embodiment.action_joints), T0, due_ns, positions, point_velocities(positions, 1 / 30))
    output = Output(
        topic="/hand", type="trajectory_msgs/msg/JointTrajectory", keys=["gripper", "single_arm"], frame_id="base"
    )
    message = trajectory_message(plan, output, embodiment)
    assert list(message.joint_names) == ["gripper", *embodiment.action["single_arm"].joints]
    assert (message.header.frame_id, message.header.stamp) == ("base", to_time(T0))
    for row, point in enumerate(message.points):
        np.testing.assert_array_equal(point.positions, positions[row, [5, 0, 1, 2, 3, 4]])
        np.testing.assert_array_equal(point.velocities, plan.velocities[row, [5, 0, 1, 2, 3, 4]])
        assert point.time_from_start == to_duration(33_333_333 * (row + 1))
