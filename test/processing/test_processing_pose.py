"""Rotations and relative poses: against the reference, against scipy, and as properties."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import load_file
from scipy.spatial.transform import Rotation

from groot_ros.processing import pose
from groot_ros.processing.modality import ActionFormat

TOLERANCE = 1e-7  # the reference converts rot6d in float32


def test_golden_rotations(n1d7: Path) -> None:
    io = load_file(n1d7 / "proc_io.safetensors")
    matrix = pose.matrix_from_rotvec(io["pose.in.rotvec"])
    results = {
        "matrix_from_rotvec": matrix,
        "matrix_from_rot6d_raw": pose.matrix_from_rot6d(io["pose.in.rot6d_raw"]),
        "rot6d_from_rotvec": pose.rot6d_from_matrix(matrix),
        "quat_wxyz_from_rotvec": pose.quat_from_matrix(matrix),
        "euler_xyz_deg_from_rotvec": pose.euler_from_matrix(matrix, "xyz", degrees=True),
    }
    for name, result in results.items():
        np.testing.assert_allclose(result, io[f"pose.{name}"], rtol=0, atol=1e-12, err_msg=name)


def test_golden_relative_chunks(n1d7: Path) -> None:
    io = load_file(n1d7 / "proc_io.safetensors")
    reference, chunk, rot6d = io["pose.in.ref_9d"], io["pose.in.chunk_9d"], ActionFormat.XYZ_ROT6D
    relative = pose.relative_poses(reference, chunk, rot6d)
    matrices = pose.homogeneous(relative, rot6d)
    results = {
        "relative_9d": relative,
        "relative_mat4": matrices,
        "relative_rotvec": pose.from_homogeneous(matrices, ActionFormat.XYZ_ROTVEC),
        "abs_roundtrip_9d": pose.absolute_poses(reference, relative, rot6d),
        "delta_9d": pose.delta_poses(reference, chunk, rot6d),
    }
    for name, result in results.items():
        np.testing.assert_allclose(result, io[f"pose.{name}"], rtol=0, atol=TOLERANCE, err_msg=name)


def test_golden_droid_frame(n1d7: Path) -> None:
    io = load_file(n1d7 / "proc_io.safetensors")
    result = pose.droid_eef_9d(io["droid.in.cartesian_position"])
    np.testing.assert_allclose(result, io["droid.eef_9d"], rtol=0, atol=1e-12)


def angles(limit: float) -> st.SearchStrategy[np.ndarray]:
    return arrays(np.float64, 3, elements=st.floats(-limit, limit, allow_subnormal=False))


@given(angles(3.5))
def test_rotvec_agrees_with_scipy(rotvec: np.ndarray) -> None:
    expected = Rotation.from_rotvec(rotvec)
    matrix = pose.matrix_from_rotvec(rotvec)
    np.testing.assert_allclose(matrix, expected.as_matrix(), atol=1e-14)
    turned_back = Rotation.from_rotvec(pose.rotvec_from_matrix(matrix))
    # Compared as rotations: at half a turn both signs of the axis are right.
    assert (turned_back * expected.inv()).magnitude() < 1e-7


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-9, 1e-6, 9.9e-4, 1.1e-3, 1.0, np.pi - 1e-3, np.pi - 1e-9, np.pi])
def test_rotvec_at_the_ends_of_its_range(angle: float) -> None:
    rotvec = angle * np.array([2.0, -1.0, 2.0]) / 3.0
    matrix = pose.matrix_from_rotvec(rotvec)
    np.testing.assert_allclose(matrix, Rotation.from_rotvec(rotvec).as_matrix(), atol=1e-15)
    np.testing.assert_allclose(pose.rotvec_from_matrix(matrix), rotvec, rtol=1e-9, atol=1e-15)


def test_quaternion_agrees_with_scipy_in_sign_and_order() -> None:
    matrix = Rotation.random(500, random_state=3).as_matrix()
    expected = Rotation.from_matrix(matrix).as_quat()[:, [3, 0, 1, 2]]
    np.testing.assert_allclose(pose.quat_from_matrix(matrix), expected, atol=1e-14)
    np.testing.assert_allclose(pose.matrix_from_quat(2.5 * expected), matrix, atol=1e-14)


@pytest.mark.parametrize("order", ["xyz", "zyx", "yxz", "XYZ", "ZYX", "XZY"])
def test_matrix_from_euler_agrees_with_scipy(order: str) -> None:
    turns = np.random.default_rng(4).uniform(-180, 180, (100, 3))
    expected = Rotation.from_euler(order, turns, degrees=True).as_matrix()
    np.testing.assert_allclose(pose.matrix_from_euler(turns, order, degrees=True), expected, atol=1e-13)


@pytest.mark.parametrize("order", ["xyz", "XYZ"])
@pytest.mark.parametrize("middle", [None, 90.0, -90.0])
def test_euler_round_trip_also_at_the_poles(order: str, middle: float | None) -> None:
    turns = np.random.default_rng(5).uniform(-89, 89, (100, 3))
    if middle is not None:
        turns[:, 1] = middle
    matrix = pose.matrix_from_euler(turns, order, degrees=True)
    found = pose.euler_from_matrix(matrix, order, degrees=True)
    np.testing.assert_allclose(pose.matrix_from_euler(found, order, degrees=True), matrix, atol=1e-7)
    if middle is None:
        np.testing.assert_allclose(found, turns, atol=1e-9)


@given(arrays(np.float64, 6, elements=st.floats(-5, 5)))
def test_rot6d_is_orthonormal_and_right_handed(rot6d: np.ndarray) -> None:
    first, second = rot6d[:3], rot6d[3:]
    sine = np.linalg.norm(np.cross(first, second))
    lengths = np.linalg.norm(first) * np.linalg.norm(second)
    assume(np.linalg.norm(first) > 1e-3 and sine > 1e-3 * max(1.0, lengths))
    matrix = pose.matrix_from_rot6d(rot6d)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(matrix) == pytest.approx(1.0)
    np.testing.assert_allclose(pose.matrix_from_rot6d(pose.rot6d_from_matrix(matrix)), matrix, atol=1e-9)


@pytest.mark.parametrize("rot6d", [[0, 0, 0, 0, 1, 0], [1, 0, 0, 2, 0, 0]], ids=["zero row", "parallel rows"])
def test_a_rot6d_without_a_rotation_is_not_a_number(rot6d: list[float]) -> None:
    assert np.isnan(pose.matrix_from_rot6d(rot6d)).any()


@settings(max_examples=50)
@given(
    st.sampled_from(list(ActionFormat)),
    arrays(np.float64, (2, 7, 3), elements=st.floats(-3, 3)),
    arrays(np.float64, (2, 7, 3), elements=st.floats(-1.7, 1.7)),
)
def test_absolute_undoes_relative(form: ActionFormat, position: np.ndarray, rotvec: np.ndarray) -> None:
    matrices = np.zeros((2, 7, 4, 4))
    matrices[..., :3, :3] = pose.matrix_from_rotvec(rotvec)
    matrices[..., :3, 3] = position
    matrices[..., 3, 3] = 1.0
    reference, chunk = matrices[:, 0], matrices[:, 1:]
    flat_reference, flat_chunk = pose.from_homogeneous(reference, form), pose.from_homogeneous(chunk, form)
    relative = pose.relative_poses(flat_reference, flat_chunk, form)
    expected = np.linalg.inv(reference)[:, None] @ chunk
    np.testing.assert_allclose(pose.homogeneous(relative, form), expected, atol=1e-9)
    absolute = pose.absolute_poses(flat_reference, relative, form)
    np.testing.assert_allclose(pose.homogeneous(absolute, form), chunk, atol=1e-9)


def test_a_chunk_relative_to_its_own_start_begins_with_no_motion() -> None:
    chunk = pose.droid_eef_9d([[0.3, 0.1, 0.5, 3.0, 0.2, -1.0], [0.4, 0.0, 0.5, 2.9, 0.1, -1.2]])
    relative = pose.relative_poses(chunk[0], chunk, ActionFormat.XYZ_ROT6D)
    np.testing.assert_allclose(relative[0], [0, 0, 0, 1, 0, 0, 0, 1, 0], atol=1e-12)
    deltas = pose.delta_poses(chunk[0], chunk, ActionFormat.XYZ_ROT6D)
    np.testing.assert_allclose(deltas, relative, atol=1e-12)  # with two steps the second delta is the relative pose


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pose.matrix_from_rot6d(np.zeros(5)), "rot6d: expected a last axis of 6"),
        (lambda: pose.matrix_from_euler(np.zeros(3), "xYz"), "euler order"),
        (lambda: pose.euler_from_matrix(np.eye(3), "zyx"), "euler order"),
        (lambda: pose.rot6d_from_matrix(np.zeros((3, 4))), r"\[..., 3, 3\]"),
        (lambda: pose.homogeneous(np.zeros(9), ActionFormat.XYZ_ROTVEC), "XYZ_ROTVEC"),
        (lambda: pose.from_homogeneous(np.eye(3), ActionFormat.DEFAULT), r"\[..., 4, 4\]"),
    ],
)
def test_wrong_shapes_are_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
