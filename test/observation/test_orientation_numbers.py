"""Numbers derived from a pose: as processing.pose computes them, through the messages, refused where there are none."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_messages as fake
import numpy as np
import pytest
from fake_messages import MS, T0
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file
from scipy.spatial.transform import Rotation

from groot_ros.embodiment.load import load_embodiment
from groot_ros.embodiment.schema import Embodiment
from groot_ros.embodiment.vocabulary import DERIVED, FIELD_PATHS, POSE_OF
from groot_ros.observation.assembler import Assembler
from groot_ros.observation.messages import StateReader
from groot_ros.observation.orientation import (
    fixed_read_as_moving,
    message_orientation,
    model_orientation,
    moving_read_as_fixed,
    orientation_numbers,
)
from groot_ros.observation.types import Observation, Reason, Rejected
from groot_ros.processing.pose import (
    euler_from_matrix,
    matrix_from_euler,
    matrix_from_quat,
    matrix_from_rotvec,
    quat_from_matrix,
    rot6d_from_matrix,
    rotvec_from_matrix,
)

# Unit quaternions, and others of lengths that a driver may send.
numbers = st.floats(-10, 10)
quaternions = st.tuples(numbers, numbers, numbers, numbers).filter(lambda q: math.hypot(*q) > 1e-3)
turns = st.tuples(*[st.floats(-4, 4)] * 3)


def matrix(xyzw: Any) -> NDArray[np.float64]:
    return matrix_from_quat(np.roll(np.asarray(xyzw, dtype=np.float64), 1))


def picked(found: dict[str, float], *leaves: str) -> list[float]:
    return [found[leaf] for leaf in leaves]


def three(found: dict[str, float]) -> tuple[list[float], list[float], list[float]]:
    return (
        picked(found, "roll", "pitch", "yaw"),
        picked(found, "rotvec.x", "rotvec.y", "rotvec.z"),
        picked(found, *(f"rot6d.{i}" for i in range(6))),
    )


@given(quaternion=quaternions)
def test_they_are_those_of_processing(quaternion: tuple[float, ...]) -> None:
    rotation = matrix(quaternion)
    euler, rotvec, rot6d = three(orientation_numbers(quaternion))
    np.testing.assert_allclose(rot6d, rot6d_from_matrix(rotation), atol=1e-12)
    # Angles of half a turn have two signs, so the rotations are compared.
    np.testing.assert_allclose(matrix_from_rotvec(rotvec), rotation, atol=1e-9)
    np.testing.assert_allclose(matrix_from_euler(euler), rotation, atol=1e-6)
    assert np.linalg.norm(rotvec) <= np.pi + 1e-9
    assert abs(euler[1]) <= np.pi / 2 + 1e-9


@given(quaternion=quaternions, tool=turns)
def test_a_tool_is_turned_on_the_right(quaternion: tuple[float, ...], tool: tuple[float, ...]) -> None:
    half = matrix_from_rotvec(tool)
    angle = float(np.linalg.norm(tool))
    xyzw = [*(np.sin(angle / 2) * np.asarray(tool) / (angle or 1.0)), math.cos(angle / 2)]
    found = orientation_numbers(quaternion, xyzw)
    np.testing.assert_allclose(three(found)[2], rot6d_from_matrix(matrix(quaternion) @ half), atol=1e-9)
    again = matrix(picked(found, *(f"orientation.{axis}" for axis in "xyzw")))
    np.testing.assert_allclose(again, matrix(quaternion) @ half, atol=1e-9)


@given(quaternion=quaternions, scale=st.floats(0.1, 10), flip=st.sampled_from([-1, 1]))
def test_length_and_sign_do_not_matter(quaternion: tuple[float, ...], scale: float, flip: int) -> None:
    one = orientation_numbers(quaternion)
    other = orientation_numbers([scale * flip * value for value in quaternion])
    np.testing.assert_allclose(three(one)[2], three(other)[2], atol=1e-9)


# x, y, z, w -> roll, pitch, yaw by hand
HALF = math.sqrt(0.5)
EULER = {
    "none": ((0, 0, 0, 1), (0, 0, 0)),
    "about x": ((HALF, 0, 0, HALF), (math.pi / 2, 0, 0)),
    "up": ((0, -HALF, 0, HALF), (0, -math.pi / 2, 0)),
    "down": ((0, HALF, 0, HALF), (0, math.pi / 2, 0)),
    "about z": ((0, 0, HALF, HALF), (0, 0, math.pi / 2)),
    "half a turn": ((0, 0, 1, 0), (0, 0, math.pi)),
    # Extrinsic: first about x, then about the fixed z. Rz(90) Rx(90) is the quaternion (1, 1, 1, 1) / 2.
    "x, then z": ((0.5, 0.5, 0.5, 0.5), (math.pi / 2, 0, math.pi / 2)),
}


@pytest.mark.parametrize(("quaternion", "euler"), EULER.values(), ids=EULER.keys())
def test_known_angles(quaternion: tuple[float, ...], euler: tuple[float, ...]) -> None:
    np.testing.assert_allclose(three(orientation_numbers(quaternion))[0], euler, atol=1e-9)


@pytest.mark.parametrize("quaternion", [(0, 0, 0, 0), (math.nan, 0, 0, 1), (math.inf, 0, 0, 1), (1e-200, 0, 0, 0)])
def test_no_rotation_is_no_number(quaternion: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="a quaternion of length"):
        orientation_numbers(quaternion)


def test_every_derived_number_has_a_value_and_a_path() -> None:
    found = orientation_numbers((0.1, 0.2, 0.3, 0.9))
    assert set(DERIVED) <= set(found)
    for kind, pose in POSE_OF.items():
        assert {f"{pose}.{leaf}" for leaf in found} <= set(FIELD_PATHS[kind])


# --- angles about fixed axes that the training data took for angles about moving axes ---------------------------------

READING = "xyz_as_XYZ"
# Of these fixed angles no more than the middle one is kept away from a quarter of a turn, where they are not unique.
tools_pointing_anywhere = st.tuples(st.floats(-3.1, 3.1), st.floats(-1.5, 1.5), st.floats(-3.1, 3.1))


def xyzw(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.roll(quat_from_matrix(rotation), -1)


@given(angles=tools_pointing_anywhere)
def test_fixed_angles_read_as_moving_ones(angles: tuple[float, ...]) -> None:
    measured = xyzw(matrix_from_euler(angles, "xyz"))
    np.testing.assert_allclose(matrix(fixed_read_as_moving(measured)), matrix_from_euler(angles, "XYZ"), atol=1e-9)


@given(angles=tools_pointing_anywhere)
def test_moving_angles_read_as_fixed_ones(angles: tuple[float, ...]) -> None:
    said = xyzw(matrix_from_euler(angles, "XYZ"))
    np.testing.assert_allclose(matrix(moving_read_as_fixed(said)), matrix_from_euler(angles, "xyz"), atol=1e-9)


@given(
    angles=tools_pointing_anywhere,
    tool=st.none() | turns,
    reading=st.sampled_from([None, READING]),
    scale=st.floats(0.1, 10),
)
def test_the_orientation_of_a_message_comes_back(
    angles: tuple[float, ...], tool: tuple[float, ...] | None, reading: str | None, scale: float
) -> None:
    """What the output side sends for an orientation of the model is the message that the model would see as it."""
    measured = matrix_from_euler(angles, "xyz")
    turn = None if tool is None else xyzw(matrix_from_rotvec(tool)).tolist()
    seen = model_orientation((scale * xyzw(measured)).tolist(), turn, reading)
    assert math.hypot(*seen) == pytest.approx(1.0)
    np.testing.assert_allclose(matrix(message_orientation(seen, turn, reading)), measured, atol=1e-8)
    again = model_orientation(message_orientation(seen, turn, reading), turn, reading)
    np.testing.assert_allclose(matrix(again), matrix(seen), atol=1e-8)


@pytest.mark.parametrize("function", [fixed_read_as_moving, moving_read_as_fixed])
def test_no_rotation_has_no_angles(function: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match="a quaternion of length"):
        function((0.0, 0.0, 0.0, 0.0))


# --- through the messages --------------------------------------------------------------------------------------------

QUATERNION = (0.1, -0.2, 0.3, 0.8)
FIELDS = ["pose.position.x", "pose.roll", "pose.rotvec.z", "pose.rot6d.4"]


def robot(**tool: Any) -> Embodiment:
    return fake.robot(state__tool={"stream": "tool", "fields": FIELDS, "unit": "unitless", **tool})


def pose(quaternion: tuple[float, ...]) -> SimpleNamespace:
    message = fake.pose(T0)
    message.pose.orientation = SimpleNamespace(**dict(zip("xyzw", map(float, quaternion), strict=True)))
    return message


def read(embodiment: Embodiment, message: Any) -> NDArray[np.float32]:
    return StateReader(embodiment, "tool").read(message)["tool"]


@pytest.mark.parametrize("tool", [None, [0.5, -0.5, 0.5, 0.5]])
@pytest.mark.parametrize("rosbags", [False, True])
def test_a_pose_is_read_with_its_derived_numbers(tool: list[float] | None, rosbags: bool) -> None:
    message: Any = pose(QUATERNION)
    if rosbags:
        message = fake.as_rosbags(message, "geometry_msgs/msg/PoseStamped")
    rotation = matrix(QUATERNION) @ (np.eye(3) if tool is None else matrix(tool))
    expected = [
        0.25,
        euler_from_matrix(rotation)[0],
        rotvec_from_matrix(rotation)[2],
        rot6d_from_matrix(rotation)[4],
    ]
    found = read(robot(tool_rotation=tool), message)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_units_and_signs_apply_to_derived_numbers() -> None:
    angles = {"fields": ["pose.yaw", "pose.pitch"], "unit": "deg", "sign": [1, -1], "offset": [0.5, 0.0]}
    _, pitch, yaw = euler_from_matrix(matrix(QUATERNION))
    np.testing.assert_allclose(read(robot(**angles), pose(QUATERNION)), np.rad2deg([yaw + 0.5, -pitch]), rtol=1e-5)


def test_an_odometry_has_its_pose_one_level_down() -> None:
    stream = {"topic": "/odom", "type": "nav_msgs/msg/Odometry", "rate_hz": 50.0, "max_age_s": 0.1}
    embodiment = fake.robot(
        state_streams__tool=stream,
        state__tool={"stream": "tool", "fields": ["pose.pose.yaw", "twist.twist.linear.x"], "unit": "unitless"},
    )
    twist = SimpleNamespace(twist=SimpleNamespace(linear=SimpleNamespace(x=0.75)))
    message = SimpleNamespace(header=fake.header(T0), pose=pose((0, 0, HALF, HALF)), twist=twist)
    np.testing.assert_allclose(read(embodiment, message), [math.pi / 2, 0.75], rtol=1e-6)


def test_a_quaternion_is_passed_on_as_it_is_sent_unless_it_is_turned() -> None:
    fields = [f"pose.orientation.{axis}" for axis in "wxyz"]
    sent = (0.2, -0.4, 0.6, 1.6)
    np.testing.assert_allclose(read(robot(fields=fields), pose(sent)), [1.6, 0.2, -0.4, 0.6], rtol=1e-6)
    turned = read(robot(fields=fields, tool_rotation=[0.0, 0.0, 0.0, 1.0]), pose(sent))
    np.testing.assert_allclose(turned, np.array([1.6, 0.2, -0.4, 0.6]) / math.hypot(*sent), rtol=1e-6)


WHOLE = [f"pose.orientation.{axis}" for axis in "xyzw"]


@pytest.mark.parametrize("quaternion", [(0, 0, 0, 0), (math.nan, 0, 0, 1), (0, math.inf, 0, 1)])
@pytest.mark.parametrize("fields", [FIELDS, WHOLE, ["pose.yaw"]], ids=["mixed", "quaternion", "yaw"])
def test_what_is_no_rotation_is_refused_by_name(quaternion: tuple[float, ...], fields: list[str]) -> None:
    with pytest.raises(Rejected) as caught:
        read(robot(fields=fields), pose(quaternion))
    refusal = caught.value.refusal
    assert refusal.reason is Reason.NOT_FINITE and refusal.source == "tool"
    assert refusal.message.startswith("/tool: expected a rotation in pose.orientation for state.tool, found x=")


def test_a_constant_key_is_the_same_in_every_step_of_the_history() -> None:
    embodiment = fake.robot(state__pad={"constant": [0.0, 1.5]}, delta_indices={"state": [-1, 0], "action": [0]})
    target = Assembler(embodiment)
    for stamp in range(T0, T0 + 400 * MS, 20 * MS):
        rgb = fake.picture(stamp // MS % 1000)
        target.add("front", fake.image(stamp, rgb), stamp)
        target.add("wrist", fake.compressed(stamp, rgb), stamp)
        target.add("joints", fake.joints(stamp, {"a": 0.1, "b": 0.2, "c": 0.3}), stamp)
        target.add("tool", fake.pose(stamp), stamp)
    observation = target.assemble(T0 + 390 * MS, "go")
    assert isinstance(observation, Observation), observation
    np.testing.assert_array_equal(observation.state["pad"], np.array([[0.0, 1.5]] * 2, dtype=np.float32))
    assert observation.state["pad"].dtype == np.float32
    assert set(observation.sample_stamps_ns) == {"front", "wrist", "joints", "tool"}


DROID_TOOL = (0.5, -0.5, -0.5, 0.5)


def test_droid_s_poses_reach_the_model_as_nvidia_made_them(golden_root: Path) -> None:
    """oxe_droid.yaml, n1d7: a message with the orientation that DROID measured -> eef_9d of NVIDIA's conversion."""
    golden = load_file(golden_root / "n1d7" / "proc_io.safetensors")
    cartesian, expected = golden["droid.in.cartesian_position"], golden["droid.eef_9d"]
    reader = StateReader(load_embodiment("oxe_droid", "n1d7"), "tool")
    rotations = Rotation.from_euler("xyz", cartesian[..., 3:].reshape(-1, 3))  # as DROID computes its angles, backwards
    off_by_reading = 0.0
    for row, quaternion, wanted in zip(
        cartesian.reshape(-1, 6), rotations.as_quat(), expected.reshape(-1, 9), strict=True
    ):
        message = pose(tuple(quaternion))
        message.pose.position = SimpleNamespace(x=float(row[0]), y=float(row[1]), z=float(row[2]))
        np.testing.assert_allclose(reader.read(message)["eef_9d"], wanted, atol=2e-7)  # float32
        unread = orientation_numbers(quaternion, DROID_TOOL)
        off_by_reading = max(off_by_reading, abs(unread["rot6d.0"] - wanted[3]))
    assert off_by_reading > 0.01, "the golden poses must tell the two readings apart"
