"""The command in force at a time, per type of message, in the units of the training data."""

from __future__ import annotations

import math
from typing import Any

import demonstration as demo
import numpy as np
import pytest
from demonstration import MS, T0, S, make, trajectory
from hypothesis import given, settings
from hypothesis import strategies as st

from groot_ros.dataset.commanded import Commanded, Values
from groot_ros.dataset.errors import DatasetError
from groot_ros.embodiment.load import load_embodiment
from groot_ros.embodiment.schema import Embodiment
from groot_ros.observation.types import Reason, Refusal
from groot_ros.share import share_directory

TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
ARM = "command:arm"


def told(commanded: Commanded, time_ns: int) -> Values:
    values = commanded.at(time_ns)
    assert not isinstance(values, Refusal), values
    return values


def refused(answer: Any, reason: Reason, text: str) -> None:
    assert isinstance(answer, Refusal)
    assert answer.reason is reason
    assert text in answer.message


def arm(kind: str = TRAJECTORY, **more: Any) -> Embodiment:
    """Two joints in degrees, the second one reversed and shifted."""
    action = {"joints": ["a", "b"], "unit": "deg", "sign": [1, -1], "offset": [0.0, 0.5]}
    return demo.robot(outputs__arm__type=kind, action={"arm": action}, **more)


def degrees(a: float, b: float) -> list[float]:
    """What the model sees of the joints of ``arm``."""
    return [math.degrees(a), math.degrees(0.5 - b)]


# --- trajectories ----------------------------------------------------------------------------------------------------


def test_a_trajectory_is_in_force_until_it_is_replaced() -> None:
    commanded = Commanded(arm())
    refused(commanded.at(T0), Reason.NO_COMMAND, "/command: expected a command for action.arm, found none in force")
    assert commanded.take(ARM, trajectory(T0, [(0.0, [0.0, 0.0]), (1.0, [1.0, 2.0])]), T0) is None
    assert told(commanded, T0 + S // 2)["arm"] == pytest.approx(degrees(0.5, 1.0))
    assert told(commanded, T0 + 100 * S)["arm"] == pytest.approx(degrees(1.0, 2.0))  # however old
    assert told(commanded, T0)["arm"].dtype == np.float32
    late_ns = T0 + 100 * S
    assert commanded.take(ARM, trajectory(0, [(0.1, [0.0, 0.0])]), late_ns) is None  # no stamp: from its arrival on
    assert told(commanded, late_ns + 50 * MS)["arm"] == pytest.approx(degrees(0.5, 1.0))
    assert told(commanded, late_ns + 100 * MS)["arm"] == pytest.approx(degrees(0.0, 0.0))


def test_before_the_first_trajectory_there_is_no_command() -> None:
    commanded = Commanded(arm())
    assert commanded.take(ARM, trajectory(T0 + S, [(0.0, [0.0, 0.0])]), T0) is None
    refused(commanded.at(T0 + S - 1), Reason.NO_COMMAND, "found none in force")
    assert told(commanded, T0 + S)["arm"] == pytest.approx(degrees(0.0, 0.0))


@pytest.mark.parametrize("measured", [{"a": 1.0, "b": 1.0}, {}, {"a": 1.0}])
def test_the_way_to_the_first_point_sets_out_from_the_measured_position(measured: dict[str, float]) -> None:
    commanded = Commanded(arm())
    assert commanded.take(ARM, trajectory(0, [(1.0, [3.0, 2.0])]), T0, lambda: measured) is None
    if len(measured) == 2:
        assert told(commanded, T0 + S // 2)["arm"] == pytest.approx(degrees(2.0, 1.5))
    else:  # from a place that nothing measures
        refused(commanded.at(T0 + S // 2), Reason.NO_COMMAND, "found none in force")
    assert told(commanded, T0 + S)["arm"] == pytest.approx(degrees(3.0, 2.0))


def test_a_tick_of_the_past_does_not_see_what_came_after_it() -> None:
    commanded = Commanded(arm())
    commanded.take(ARM, trajectory(T0, [(0.0, [0.0, 0.0]), (10.0, [10.0, 0.0])]), T0)
    for k in range(1, 5):
        commanded.take(ARM, trajectory(0, [(0.0, [100.0 * k, 0.0])]), T0 + 2 * S + k * 100 * MS)
    expected = {2.0: 2.0, 2.05: 2.05, 2.15: 100.0, 2.25: 200.0, 2.35: 300.0, 2.45: 400.0}
    for at_s, position in expected.items():
        assert told(commanded, T0 + round(at_s * S))["arm"] == pytest.approx(degrees(position, 0.0))


def test_more_joints_than_are_recorded_in_another_order() -> None:
    commanded = Commanded(arm())
    message = trajectory(0, [(0.0, [9.0, 2.0, 8.0, 1.0])], ["rail", "b", "tool", "a"])
    assert commanded.take(ARM, message, T0) is None
    assert told(commanded, T0)["arm"] == pytest.approx(degrees(1.0, 2.0))


def test_a_joint_that_is_left_out_stays_where_it_is_commanded_to_be() -> None:
    commanded = Commanded(arm())
    commanded.take(ARM, trajectory(T0, [(0.0, [0.0, 0.0]), (2.0, [2.0, 4.0])]), T0)
    assert commanded.take(ARM, trajectory(0, [(1.0, [5.0])], ["a"]), T0 + S) is None
    assert told(commanded, T0 + 2 * S)["arm"] == pytest.approx(degrees(5.0, 2.0))


def test_a_part_of_the_joints_needs_to_know_the_others() -> None:
    commanded = Commanded(arm())
    refusal = commanded.take(ARM, trajectory(0, [(0.0, [5.0])], ["a"]), T0)
    refused(refusal, Reason.BAD_COMMAND, "/command: joint_names lacks b")
    assert commanded.take(ARM, trajectory(0, [(0.0, [5.0])], ["a"]), T0, lambda: {"b": 2.0}) is None
    assert told(commanded, T0)["arm"] == pytest.approx(degrees(5.0, 2.0))


def test_a_trajectory_whose_end_moves() -> None:
    commanded = Commanded(arm())
    moving = trajectory(T0, [(0.0, [0.0, 0.0]), (1.0, [1.0, 1.0])], velocities=np.array([1.0, 1.0]))
    assert commanded.take(ARM, moving, T0) is None
    assert told(commanded, T0 + S // 4)["arm"] == pytest.approx(degrees(0.25, 0.25))


NO_TRAJECTORIES = [
    pytest.param(trajectory(T0, [(0.0, [1.0])]), "expected 2 values, one per joint name, found 1", id="count"),
    pytest.param(trajectory(T0, [(0.0, [1.0, math.nan])]), "is not a finite number", id="nan"),
    pytest.param(trajectory(T0, [(0.0, [1.0, 1.0])], ["x", "y"]), "expected joints a, b, found x, y", id="others"),
    pytest.param(trajectory(T0, [(0.0, [1.0, 1.0])], ["a", "a"]), "joint_names lists a twice", id="twice"),
    pytest.param(trajectory(T0 - 9 * S, [(0.0, [1.0, 1.0])]), "ended 9.000 s before it arrived", id="late"),
    pytest.param(trajectory(T0, [(1.0, [1.0, 1.0]), (0.5, [1.0, 1.0])]), "does not come after", id="order"),
]


@pytest.mark.parametrize(("message", "text"), NO_TRAJECTORIES)
def test_a_refused_trajectory_leaves_the_one_before_in_force(message: Any, text: str) -> None:
    commanded = Commanded(arm())
    commanded.take(ARM, trajectory(0, [(0.0, [3.0, 4.0])]), T0 - S)
    refused(commanded.take(ARM, message, T0), Reason.BAD_COMMAND, text)
    assert told(commanded, T0 + S)["arm"] == pytest.approx(degrees(3.0, 4.0))
    assert (commanded.received[ARM], commanded.rejected[ARM]) == (2, 1)


def test_not_a_trajectory() -> None:
    refusal = Commanded(arm()).take(ARM, demo.joint_state(T0, {"a": 0.0, "b": 0.0}), T0)
    refused(refusal, Reason.MISSING_FIELD, "expected trajectory_msgs/msg/JointTrajectory")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 300), st.floats(-3, 3)), min_size=1, max_size=8))
def test_asking_late_gives_what_asking_in_time_gave(steps: list[tuple[int, int, float]]) -> None:
    """A tick is asked for up to 0.4 s after its time: what came meanwhile does not change the answer."""
    in_time, late = Commanded(arm()), Commanded(arm())
    messages = []
    now_ns = T0
    for wait_ms, ahead_ms, position in steps:
        now_ns += wait_ms * MS
        stamp_ns = now_ns + ahead_ms * MS if ahead_ms % 2 else 0
        messages.append((now_ns, trajectory(stamp_ns, [(0.05, [position, 0.0]), (0.4, [0.0, position])])))
    ticks = [T0 + k * 33 * MS for k in range((now_ns - T0) // (33 * MS) + 20)]

    def ask(commanded: Commanded, delay_ns: int) -> list[Any]:
        answers, queue = [], list(messages)
        for tick_ns in ticks:
            while queue and queue[0][0] <= tick_ns + delay_ns:
                arrived_ns, message = queue.pop(0)
                commanded.take(ARM, message, arrived_ns, lambda: {"a": 0.0, "b": 0.0})
            found = commanded.at(tick_ns)
            answers.append(None if isinstance(found, Refusal) else found["arm"].tolist())
        return answers

    assert ask(late, 400 * MS) == ask(in_time, 0)


# --- numbers that hold for a while -----------------------------------------------------------------------------------


def twist(linear_x: float, angular_z: float) -> Any:
    return make(
        "geometry_msgs/msg/Twist",
        linear=make("geometry_msgs/msg/Vector3", x=linear_x, y=0.0, z=0.0),
        angular=make("geometry_msgs/msg/Vector3", x=0.0, y=0.0, z=angular_z),
    )


def pose(stamp_ns: int, quaternion: tuple[float, float, float, float]) -> Any:
    x, y, z, w = quaternion
    position = make("geometry_msgs/msg/Point", x=0.1, y=0.2, z=0.3)
    orientation = make("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)
    value = make("geometry_msgs/msg/Pose", position=position, orientation=orientation)
    return make("geometry_msgs/msg/PoseStamped", header=demo.header(stamp_ns), pose=value)


def array(values: list[float]) -> Any:
    dimension = make("std_msgs/msg/MultiArrayLayout", dim=[], data_offset=0)
    return make("std_msgs/msg/Float64MultiArray", layout=dimension, data=np.array(values))


def fields(kind: str, names: list[str], **entry: Any) -> Embodiment:
    """An action of fields on an output of type ``kind``."""
    bounds = {"lower": [-9.0] * len(names), "upper": [9.0] * len(names)}
    action = {"arm": {"fields": names, "bounds": bounds, "unit": "unitless", **entry}}
    return demo.robot(outputs__arm__type=kind, action=action)


def test_joint_state_by_name_and_stamp() -> None:
    commanded = Commanded(arm("sensor_msgs/msg/JointState"))
    for k in range(3):
        stamp_ns = T0 + k * 10 * MS
        message = demo.joint_state(stamp_ns, {"b": 2.0, "extra": 9.0, "a": float(k)})
        assert commanded.take(ARM, message, stamp_ns + 5 * MS) is None
    assert told(commanded, T0 + 19 * MS)["arm"] == pytest.approx(degrees(1.0, 2.0))
    assert told(commanded, T0 + 520 * MS)["arm"] == pytest.approx(degrees(2.0, 2.0))
    refused(commanded.at(T0 + 521 * MS), Reason.STALE, "/command: expected a command at most 0.5 s old, found 0.501 s")
    refused(commanded.at(T0 - 1), Reason.NO_COMMAND, "found none in force")


def test_without_a_stamp_the_arrival_counts() -> None:
    commanded = Commanded(fields("geometry_msgs/msg/Twist", ["linear.x", "angular.z"]))
    assert commanded.take(ARM, twist(0.5, -0.5), T0) is None
    assert commanded.take(ARM, twist(0.25, 0.0), T0) is None  # within the resolution of the clock
    refused(commanded.at(T0 - 1), Reason.NO_COMMAND, "action.arm")
    assert told(commanded, T0 + MS)["arm"].tolist() == [0.25, 0.0]
    unstamped = Commanded(arm("sensor_msgs/msg/JointState"))
    assert unstamped.take(ARM, demo.joint_state(0, {"a": 1.0, "b": 2.0}), T0) is None
    assert told(unstamped, T0)["arm"] == pytest.approx(degrees(1.0, 2.0))


def test_twist_with_a_stamp() -> None:
    commanded = Commanded(fields("geometry_msgs/msg/TwistStamped", ["twist.angular.z", "twist.linear.x"]))
    message = make("geometry_msgs/msg/TwistStamped", header=demo.header(T0), twist=twist(0.5, -0.25))
    assert commanded.take(ARM, message, T0 + 3 * MS) is None
    assert told(commanded, T0)["arm"].tolist() == [-0.25, 0.5]


def test_pose_with_the_numbers_that_states_have() -> None:
    names = ["pose.position.x", "pose.position.z", "pose.roll", "pose.pitch", "pose.yaw"]
    commanded = Commanded(fields("geometry_msgs/msg/PoseStamped", names))
    half = math.sqrt(0.5)
    assert commanded.take(ARM, pose(T0, (0.0, 0.0, 2 * half, 2 * half)), T0) is None  # any length is a rotation
    assert told(commanded, T0)["arm"] == pytest.approx([0.1, 0.3, 0.0, 0.0, math.pi / 2])
    refusal = commanded.take(ARM, pose(T0 + 1, (0.0, 0.0, 0.0, 0.0)), T0 + 1)
    refused(refusal, Reason.NOT_FINITE, "expected a rotation in pose.orientation for action.arm")
    refused(commanded.at(T0), Reason.NOT_FINITE, "/command")  # nothing is in force until a good one comes
    assert commanded.take(ARM, pose(T0 + 2, (0.0, 0.0, 0.0, 1.0)), T0 + 2) is None
    assert told(commanded, T0 + 2)["arm"] == pytest.approx([0.1, 0.3, 0.0, 0.0, 0.0])


def test_pose_in_the_frame_of_the_training_data() -> None:
    names = [f"pose.orientation.{axis}" for axis in "xyzw"]
    turn = [0.0, 0.0, math.sqrt(0.5), math.sqrt(0.5)]
    commanded = Commanded(fields("geometry_msgs/msg/PoseStamped", names, tool_rotation=turn))
    assert commanded.take(ARM, pose(T0, (0.0, 0.0, 0.0, 1.0)), T0) is None
    assert told(commanded, T0)["arm"] == pytest.approx(turn)


def test_array_of_joints_and_of_numbers() -> None:
    both = {"arm": {"joints": ["a"]}, "hand": {"joints": ["b"], "unit": "percent"}}
    joints = demo.robot(
        outputs__arm={"topic": "/command", "type": "std_msgs/msg/Float64MultiArray", "keys": ["hand", "arm"]},
        action=both,
    )
    commanded = Commanded(joints)
    assert commanded.take(ARM, array([0.0, 1.5]), T0) is None  # in the order of the output
    values = told(commanded, T0)
    assert (values["arm"].tolist(), values["hand"].tolist()) == ([1.5], [50.0])
    refused(commanded.take(ARM, array([0.0]), T0 + 1), Reason.BAD_LAYOUT, "expected 2 numbers in data")
    refused(commanded.take(ARM, array([0.0, math.inf]), T0 + 2), Reason.NOT_FINITE, "action.arm")
    numbered = Commanded(fields("std_msgs/msg/Float64MultiArray", ["data.3", "data.0"]))
    assert numbered.take(ARM, array([0.5, 1.5, 2.5, 3.5, 4.5]), T0) is None
    assert told(numbered, T0)["arm"].tolist() == [3.5, 0.5]
    refused(numbered.take(ARM, array([0.5]), T0 + 1), Reason.BAD_LAYOUT, "expected at least 4 numbers in data")


STAMPS = [
    pytest.param(T0 + S, T0, Reason.FUTURE_STAMP, "ahead of the clock, found 1.000 s", id="future"),
    pytest.param(T0 - S, T0, Reason.OUT_OF_ORDER, "found one 1.000 s before it", id="order"),
]


@pytest.mark.parametrize(("stamp_ns", "now_ns", "reason", "text"), STAMPS)
def test_stamps_that_cannot_be(stamp_ns: int, now_ns: int, reason: Reason, text: str) -> None:
    commanded = Commanded(arm("sensor_msgs/msg/JointState"))
    commanded.take(ARM, demo.joint_state(T0, {"a": 0.0, "b": 0.0}), T0)
    refused(commanded.take(ARM, demo.joint_state(stamp_ns, {"a": 0.0, "b": 0.0}), now_ns), reason, text)
    refused(commanded.at(T0), reason, "/command")


# --- where the actions come from -------------------------------------------------------------------------------------


def test_a_leader_arm_with_names_and_field_of_its_own() -> None:
    leader = {"topic": "/leader", "type": "sensor_msgs/msg/JointState", "names": ["la", "lb"], "field": "velocity"}
    commanded = Commanded(demo.robot(recording__commands__arm={**leader, "max_age_s": 0.1}))
    assert list(commanded.sources) == ["record:arm"]
    assert commanded.sources["record:arm"].topic == "/leader"
    message = demo.joint_state(T0, {"lb": 0.0, "la": 0.0})
    message.velocity = np.array([2.0, 1.0])
    assert commanded.take("record:arm", message, T0) is None
    assert told(commanded, T0)["arm"].tolist() == [1.0, 2.0]
    refused(commanded.at(T0 + 101 * MS), Reason.STALE, "at most 0.1 s old")
    with pytest.raises(KeyError):
        commanded.take(ARM, message, T0)


def test_a_leader_that_sends_trajectories_of_its_own_joints() -> None:
    leader = {"topic": "/leader", "type": TRAJECTORY, "names": ["la", "lb"]}
    commanded = Commanded(demo.robot(recording__commands__arm=leader))
    message = trajectory(0, [(1.0, [3.0, 2.0])], ["la", "lb"])
    assert commanded.take("record:arm", message, T0, lambda: {"a": 1.0, "b": 1.0}) is None
    assert told(commanded, T0 + S // 2)["arm"] == pytest.approx([2.0, 1.5])


def test_next_state_in_the_units_of_the_action() -> None:
    embodiment = demo.robot(
        recording__next_state=["arm"],
        state={"arm": {"stream": "joints", "joints": ["a", "b"], "unit": "deg"}},
        action={"arm": {"joints": ["a", "b"], "unit": "percent", "sign": [1, -1]}},
    )
    commanded = Commanded(embodiment)
    assert commanded.sources == {}
    assert commanded.at(T0) == {}
    state = {"arm": np.array([math.degrees(4.5), math.degrees(9.0)], dtype=np.float32)}
    assert commanded.from_next(state)["arm"] == pytest.approx([75.0, 0.0], abs=1e-4)


def test_an_action_that_nothing_says() -> None:
    action = {"arm": {"joints": ["a"]}, "spare": {"joints": ["b"], "command": False}}
    with pytest.raises(DatasetError, match=r"bench: action.spare: expected a source of what is recorded, found none"):
        Commanded(demo.robot(action=action))
    state = {key: {"stream": "joints", "joints": entry["joints"]} for key, entry in action.items()}
    assert Commanded(demo.robot(action=action, recording__next_state=["spare"], state=state)).next_state


def test_reset_forgets() -> None:
    for kind, message in (
        (TRAJECTORY, trajectory(0, [(0.0, [0.0, 0.0])])),
        ("sensor_msgs/msg/JointState", demo.joint_state(T0, {"a": 0.0, "b": 0.0})),
    ):
        commanded = Commanded(arm(kind))
        commanded.take(ARM, message, T0)
        assert commanded.ages_s(T0 + S)[ARM] == pytest.approx(1.0)
        commanded.reset()
        assert commanded.ages_s(T0)[ARM] == math.inf
        refused(commanded.at(T0), Reason.NO_COMMAND, "found none in force")


ROBOTS = sorted(path.stem for path in (share_directory() / "config" / "embodiments").glob("*.yaml"))


@pytest.mark.parametrize("name", ROBOTS)
def test_every_action_of_every_robot_of_the_package_has_a_source(name: str) -> None:
    """Else the recorder could not begin."""
    embodiment = load_embodiment(name)
    commanded = Commanded(embodiment)
    said = [key for source in commanded.sources.values() for key in source.keys]
    assert sorted([*said, *commanded.next_state]) == sorted(embodiment.action)
