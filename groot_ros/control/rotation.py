"""Rotations as quaternions (x, y, z, w), the order of ROS messages: float64, over any leading axes.

Unlike ``processing.pose``, which turns whole trajectories between the model's formats, these run once per control tick
on a handful of rows, so each is only a few numpy calls.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

_SMALL_SINE = 1e-8  # below this angle/sin(angle) is 1 to within float64
_SMALL_ANGLE = 1e-2  # below this two terms of a series are exact to 1e-10, and differences of near numbers are not


def _product_table() -> Array:
    """[16, 4]: what each product a_i * b_j adds to each component of the product of two quaternions."""
    table = np.zeros((4, 4, 4))
    for result, terms in enumerate(
        (
            ((3, 0, 1), (0, 3, 1), (1, 2, 1), (2, 1, -1)),
            ((3, 1, 1), (1, 3, 1), (2, 0, 1), (0, 2, -1)),
            ((3, 2, 1), (2, 3, 1), (0, 1, 1), (1, 0, -1)),
            ((3, 3, 1), (0, 0, -1), (1, 1, -1), (2, 2, -1)),
        )
    ):
        for first, second, sign in terms:
            table[first, second, result] = sign
    return table.reshape(16, 4)


_PRODUCT = _product_table()
_CONJUGATE = np.array([-1.0, -1.0, -1.0, 1.0])


def multiply(a: ArrayLike, b: ArrayLike) -> Array:
    """Hamilton product of [..., 4] and [..., 4], broadcast: first the rotation ``b``, then ``a`` about fixed axes."""
    left, right = _rows(a, 4, "a"), _rows(b, 4, "b")
    outer = left[..., :, None] * right[..., None, :]
    return outer.reshape(*outer.shape[:-2], 16) @ _PRODUCT


def conjugate(q: ArrayLike) -> Array:
    """The opposite rotation of a unit quaternion [..., 4]."""
    return _rows(q, 4, "q") * _CONJUGATE


def exp(rotvec: ArrayLike) -> Array:
    """Rotation vector (rad) [..., 3] -> unit quaternion [..., 4]."""
    vector = _rows(rotvec, 3, "rotvec")
    half = 0.5 * np.sqrt(np.einsum("...i,...i->...", vector, vector))
    result = np.empty((*vector.shape[:-1], 4))
    # np.sinc(x) is sin(pi x) / (pi x), and 1 at 0
    np.multiply(vector, (0.5 * np.sinc(half / np.pi))[..., None], out=result[..., :3])
    np.cos(half, out=result[..., 3])
    return result


def log(q: ArrayLike) -> Array:
    """Unit quaternion [..., 4] -> rotation vector (rad) [..., 3], the short way round: its norm is at most pi.

    ``q`` and ``-q`` are the same rotation. At exactly half a turn both signs of the vector are right; the one of
    ``q``'s own x, y, z is returned.
    """
    quaternion = _rows(q, 4, "q")
    vector, w = quaternion[..., :3], quaternion[..., 3]
    sine = np.sqrt(np.einsum("...i,...i->...", vector, vector))
    small = sine < _SMALL_SINE
    factor = np.where(small, 2.0, 2.0 * np.arctan2(sine, np.abs(w)) / np.where(small, 1.0, sine))
    return vector * np.where(w < 0.0, -factor, factor)[..., None]


def angular_velocity(rotvec: ArrayLike, rate: ArrayLike) -> Array:
    """Angular velocity about the fixed axes [..., 3] of a rotation vector [..., 3] that changes by ``rate`` [..., 3].

    The left Jacobian of SO(3): with r = |rotvec|, rate + (1 - cos r)/r^2 rotvec x rate
    + (r - sin r)/r^3 rotvec x (rotvec x rate).
    """
    vector, change = _rows(rotvec, 3, "rotvec"), _rows(rate, 3, "rate")
    angle = np.sqrt(np.einsum("...i,...i->...", vector, vector))[..., None]
    one = 0.5 * np.sinc(0.5 * angle / np.pi) ** 2
    small = angle < _SMALL_ANGLE
    safe = np.where(small, 1.0, angle)
    two = np.where(small, (1.0 - angle**2 / 20.0) / 6.0, (safe - np.sin(safe)) / safe**3)
    across = np.cross(vector, change)
    return change + one * across + two * np.cross(vector, across)


def rate(rotvec: ArrayLike, angular: ArrayLike) -> Array:
    """The inverse of ``angular_velocity`` for |rotvec| < 2 pi: how a rotation vector changes at an angular velocity.

    angular - rotvec x angular / 2 + (1 - r/2 cot(r/2))/r^2 rotvec x (rotvec x angular).
    """
    vector, velocity = _rows(rotvec, 3, "rotvec"), _rows(angular, 3, "angular")
    angle = np.sqrt(np.einsum("...i,...i->...", vector, vector))[..., None]
    small = angle < _SMALL_ANGLE
    half = 0.5 * np.where(small, 1.0, angle)
    two = np.where(small, (1.0 + angle**2 / 60.0) / 12.0, (1.0 - half / np.tan(half)) / (4.0 * half**2))
    across = np.cross(vector, velocity)
    return velocity - 0.5 * across + two * np.cross(vector, across)


def unit(q: ArrayLike) -> Array:
    """Quaternion [..., 4] of any length but 0 -> the unit quaternion of the same rotation.

    Raises:
        ValueError: a quaternion has length 0 or is not finite.
    """
    quaternion = _rows(q, 4, "q")
    largest = np.max(np.abs(quaternion), axis=-1, keepdims=True)
    if not np.all((largest > 0.0) & np.isfinite(largest)):  # NaN and inf come through np.max
        row = np.argwhere(~((largest > 0.0) & np.isfinite(largest)))[0][:-1]
        raise ValueError(
            f"quaternion {quaternion[tuple(row)].tolist()} at {row.tolist()} is no rotation: expected finite numbers "
            "of a length other than 0"
        )
    scaled = quaternion / largest  # so that neither tiny nor huge numbers are lost in the squares
    return scaled / np.sqrt(np.einsum("...i,...i->...", scaled, scaled))[..., None]


def _rows(value: ArrayLike, last: int, name: str) -> Array:
    array = np.asarray(value, dtype=np.float64)
    if array.ndim == 0 or array.shape[-1] != last:
        raise ValueError(f"{name}: expected a last axis of {last}, found shape {array.shape}")
    return array
