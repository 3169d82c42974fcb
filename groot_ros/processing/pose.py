"""Rotations, poses and relative end-effector actions, in numpy float64, over any leading axes.

Conventions (spec/groot_n17.md section 4.3): a rot6d holds the first two ROWS of the rotation matrix;
quaternions are (w, x, y, z); lower-case euler orders are extrinsic and upper-case ones intrinsic, as in scipy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from groot_ros.processing.modality import ActionFormat

Array = NDArray[np.float64]

# Below this angle (rad) the quotients sin(a)/a are replaced by their series; the next term is then below 1e-17.
_SMALL_ANGLE = 1e-3
# Extra rotation between the DROID robot's tool frame and the frame of the pretraining data, on the right.
_DROID_TOOL = np.array([[0.0, 0.0, -1.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])

POSE_DIMS = {ActionFormat.XYZ_ROT6D: 9, ActionFormat.XYZ_ROTVEC: 6, ActionFormat.DEFAULT: 16}


def _float64(value: ArrayLike, last: int, name: str) -> Array:
    array = np.asarray(value, dtype=np.float64)
    if array.ndim == 0 or array.shape[-1] != last:
        raise ValueError(f"{name}: expected a last axis of {last}, found shape {array.shape}")
    return array


def _matrices(value: ArrayLike, name: str) -> Array:
    array = np.asarray(value, dtype=np.float64)
    if array.shape[-2:] != (3, 3):
        raise ValueError(f"{name}: expected [..., 3, 3], found shape {array.shape}")
    return array


def matrix_from_rot6d(rot6d: ArrayLike) -> Array:
    """[..., 6] -> [..., 3, 3] by Gram-Schmidt on the two rows; the third row is row 1 x row 2.

    Rows that are zero or parallel have no rotation: the result is then NaN.
    """
    rows = _float64(rot6d, 6, "rot6d")
    first, second = rows[..., :3], rows[..., 3:]
    with np.errstate(invalid="ignore", divide="ignore"):
        one = first / np.linalg.norm(first, axis=-1, keepdims=True)
        rest = second - np.sum(one * second, axis=-1, keepdims=True) * one
        two = rest / np.linalg.norm(rest, axis=-1, keepdims=True)
    return np.stack([one, two, np.cross(one, two)], axis=-2)


def rot6d_from_matrix(matrix: ArrayLike) -> Array:
    """[..., 3, 3] -> [..., 6]: the first two rows."""
    matrix = _matrices(matrix, "matrix")
    return matrix[..., :2, :].reshape(*matrix.shape[:-2], 6)


def matrix_from_quat(quat: ArrayLike) -> Array:
    """(w, x, y, z) [..., 4], of any non-zero length -> [..., 3, 3]."""
    quat = _float64(quat, 4, "quaternion")
    w, x, y, z = np.moveaxis(quat / np.linalg.norm(quat, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def quat_from_matrix(matrix: ArrayLike) -> Array:
    """[..., 3, 3] -> unit quaternion (w, x, y, z) [..., 4], with the sign scipy chooses.

    Shepperd's method: the largest of (trace, diagonal) is the pivot, so no quotient is ill-conditioned, and
    the pivot's component comes out positive.
    """
    m = _matrices(matrix, "matrix")
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    trace = xx + yy + zz
    wx, wy, wz = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    xy, xz, yz = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    # Four candidates, each 4 * (pivot component) * quaternion.
    candidates = np.stack(
        [
            np.stack([1 - trace + 2 * xx, xy, xz, wx], axis=-1),
            np.stack([xy, 1 - trace + 2 * yy, yz, wy], axis=-1),
            np.stack([xz, yz, 1 - trace + 2 * zz, wz], axis=-1),
            np.stack([wx, wy, wz, 1 + trace], axis=-1),
        ],
        axis=-2,
    )
    pivot = np.argmax(np.stack([xx, yy, zz, trace], axis=-1), axis=-1)
    chosen = np.take_along_axis(candidates, pivot[..., None, None], axis=-2)[..., 0, :]
    xyzw = chosen / np.linalg.norm(chosen, axis=-1, keepdims=True)
    return np.roll(xyzw, 1, axis=-1)


def matrix_from_rotvec(rotvec: ArrayLike) -> Array:
    """Axis times angle (rad) [..., 3] -> [..., 3, 3]."""
    rotvec = _float64(rotvec, 3, "rotation vector")
    angle = np.linalg.norm(rotvec, axis=-1, keepdims=True)
    small = angle < _SMALL_ANGLE
    # sin(a/2)/a, with its series 1/2 - a^2/48 + a^4/3840 near zero
    scale = np.where(
        small,
        0.5 - angle**2 / 48 + angle**4 / 3840,
        np.sin(angle / 2) / np.where(small, 1.0, angle),
    )
    return matrix_from_quat(np.concatenate([np.cos(angle / 2), scale * rotvec], axis=-1))


def rotvec_from_matrix(matrix: ArrayLike) -> Array:
    """[..., 3, 3] -> axis times angle (rad, 0..pi) [..., 3]."""
    quat = quat_from_matrix(matrix)
    quat = np.where(quat[..., :1] < 0, -quat, quat)
    sine = np.linalg.norm(quat[..., 1:], axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, quat[..., :1])
    small = angle < _SMALL_ANGLE
    # a/sin(a/2), with its series 2 + a^2/12 + 7 a^4/2880 near zero
    scale = np.where(small, 2 + angle**2 / 12 + 7 * angle**4 / 2880, angle / np.where(small, 1.0, sine))
    return np.asarray(scale * quat[..., 1:])


def matrix_from_euler(angles: ArrayLike, order: str = "xyz", degrees: bool = False) -> Array:
    """Angles [..., 3] about the axes of `order` -> [..., 3, 3].

    Args:
        angles: rad, or degrees if `degrees`.
        order: three of x, y, z (extrinsic: about the fixed axes) or X, Y, Z (intrinsic: the moving ones).
    """
    axes = "xyz"
    if (
        len(order) != 3
        or any(letter not in axes for letter in order.lower())
        or not (order.islower() or order.isupper())
    ):
        raise ValueError(f"euler order: expected three of 'xyz' or of 'XYZ', found {order!r}")
    angles = _float64(angles, 3, "euler angles")
    radians = np.deg2rad(angles) if degrees else angles
    turns = [
        matrix_from_rotvec(radians[..., i : i + 1] * np.eye(3)[axes.index(letter)])
        for i, letter in enumerate(order.lower())
    ]
    if order.isupper():
        return turns[0] @ turns[1] @ turns[2]
    return turns[2] @ turns[1] @ turns[0]


def euler_from_matrix(matrix: ArrayLike, order: str = "xyz", degrees: bool = False) -> Array:
    """[..., 3, 3] -> angles [..., 3] of 'xyz' (extrinsic) or 'XYZ' (intrinsic), in rad or degrees.

    The middle angle is within +-90 degrees. At those poles only a sum of the outer angles is defined: it goes to the
    first of them, and the third is 0.
    """
    m = _matrices(matrix, "matrix")
    if order == "XYZ":
        # Rx Ry Rz transposed is Rz' Ry' Rx' with negated angles: the extrinsic case.
        return -euler_from_matrix(np.swapaxes(m, -1, -2), "xyz", degrees)
    if order != "xyz":
        raise ValueError(f"euler order: expected 'xyz' or 'XYZ', found {order!r}")
    cosine = np.hypot(m[..., 0, 0], m[..., 1, 0])
    pole = cosine < 1e-9
    first = np.where(
        pole,
        np.arctan2(-m[..., 1, 2], m[..., 1, 1]),
        np.arctan2(m[..., 2, 1], m[..., 2, 2]),
    )
    second = np.arctan2(-m[..., 2, 0], cosine)
    third = np.where(pole, 0.0, np.arctan2(m[..., 1, 0], m[..., 0, 0]))
    angles = np.stack([first, second, third], axis=-1)
    return np.rad2deg(angles) if degrees else angles


def homogeneous(pose: ArrayLike, pose_format: ActionFormat) -> Array:
    """A pose in one of the action formats -> [..., 4, 4].

    Args:
        pose: [..., 9] xyz + rot6d, [..., 6] xyz + rotvec, or [..., 16] a flattened matrix (DEFAULT).
    """
    flat = _float64(pose, POSE_DIMS[pose_format], f"pose in format {pose_format.name}")
    if pose_format is ActionFormat.DEFAULT:
        return flat.reshape(*flat.shape[:-1], 4, 4)
    rotation = (
        matrix_from_rot6d(flat[..., 3:]) if pose_format is ActionFormat.XYZ_ROT6D else matrix_from_rotvec(flat[..., 3:])
    )
    result = np.zeros((*flat.shape[:-1], 4, 4))
    result[..., :3, :3] = rotation
    result[..., :3, 3] = flat[..., :3]
    result[..., 3, 3] = 1.0
    return result


def from_homogeneous(matrix: ArrayLike, pose_format: ActionFormat) -> Array:
    """[..., 4, 4] -> a pose in one of the action formats; the inverse of `homogeneous`."""
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.shape[-2:] != (4, 4):
        raise ValueError(f"matrix: expected [..., 4, 4], found shape {matrix.shape}")
    if pose_format is ActionFormat.DEFAULT:
        return matrix.reshape(*matrix.shape[:-2], 16)
    rotation = matrix[..., :3, :3]
    turn = rot6d_from_matrix(rotation) if pose_format is ActionFormat.XYZ_ROT6D else rotvec_from_matrix(rotation)
    return np.concatenate([matrix[..., :3, 3], turn], axis=-1)


def invert(matrix: ArrayLike) -> Array:
    """Inverse of rigid transforms [..., 4, 4]; the rotation's inverse is its transpose."""
    matrix = np.asarray(matrix, dtype=np.float64)
    transposed = np.swapaxes(matrix[..., :3, :3], -1, -2)
    result = np.zeros_like(matrix)
    result[..., :3, :3] = transposed
    result[..., :3, 3] = -(transposed @ matrix[..., :3, 3:])[..., 0]
    result[..., 3, 3] = 1.0
    return result


def relative_poses(reference: ArrayLike, poses: ArrayLike, pose_format: ActionFormat) -> Array:
    """T_ref^-1 T for every step: reference [..., D], poses [..., H, D] -> [..., H, D] in the same format."""
    base = invert(homogeneous(reference, pose_format))[..., None, :, :]
    return from_homogeneous(base @ homogeneous(poses, pose_format), pose_format)


def absolute_poses(reference: ArrayLike, relative: ArrayLike, pose_format: ActionFormat) -> Array:
    """T_ref T_rel for every step: the inverse of `relative_poses`."""
    base = homogeneous(reference, pose_format)[..., None, :, :]
    return from_homogeneous(base @ homogeneous(relative, pose_format), pose_format)


def delta_poses(reference: ArrayLike, poses: ArrayLike, pose_format: ActionFormat) -> Array:
    """T_{i-1}^-1 T_i, with the reference before the first step: [..., D] and [..., H, D] -> [..., H, D]."""
    steps = homogeneous(poses, pose_format)
    before = np.concatenate([homogeneous(reference, pose_format)[..., None, :, :], steps[..., :-1, :, :]], axis=-3)
    return from_homogeneous(invert(before) @ steps, pose_format)


def droid_eef_9d(cartesian_position: ArrayLike) -> Array:
    """DROID's cartesian position [..., 6] (xyz in m, intrinsic XYZ euler in rad) -> eef_9d [..., 9]."""
    cartesian = _float64(cartesian_position, 6, "cartesian position")
    rotation = matrix_from_euler(cartesian[..., 3:], "XYZ") @ _DROID_TOOL
    return np.concatenate([cartesian[..., :3], rot6d_from_matrix(rotation)], axis=-1)
