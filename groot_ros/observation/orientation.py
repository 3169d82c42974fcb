"""The numbers that a YAML may derive from the orientation of a pose, for one message at a time.

The same formulas as ``processing.pose``, which does whole trajectories; here a call takes microseconds, because poses
come at the rate of a controller.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Quaternion = tuple[float, float, float, float]

_TINY = 1e-12  # below this a quaternion has no direction, and a pole of the euler angles no horizontal part
_SMALL_SINE = 1e-6  # below this angle/sin is its limit to within float64


def turned(quaternion: Sequence[float], tool: Sequence[float]) -> Quaternion:
    """The product of two quaternions (x, y, z, w): the rotation ``tool`` seen from the frame of the first."""
    x1, y1, z1, w1 = quaternion
    x2, y2, z2, w2 = tool
    return (
        w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
        w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
        w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
        w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
    )


def fixed_read_as_moving(quaternion: Sequence[float]) -> Quaternion:
    """The rotation that comes of an orientation's angles about the fixed x, y, z when read as about the moving X, Y, Z.

    With a, b, c as in ``orientation_numbers`` the orientation is Rz(c) Ry(b) Rx(a); this is Rx(a) Ry(b) Rz(c). Where
    the tool points so that b is a quarter of a turn, a and c are not defined one by one, and the result jumps.

    Raises: ValueError when the quaternion has length 0 or is not finite.
    """
    a, b, c = (0.5 * angle for angle in _euler(_rows(_unit(quaternion))))
    about_x = (math.sin(a), 0.0, 0.0, math.cos(a))
    about_y = (0.0, math.sin(b), 0.0, math.cos(b))
    about_z = (0.0, 0.0, math.sin(c), math.cos(c))
    return turned(turned(about_x, about_y), about_z)


def moving_read_as_fixed(quaternion: Sequence[float]) -> Quaternion:
    """The inverse of ``fixed_read_as_moving``, but for its poles: Rx(a) Ry(b) Rz(c) -> Rz(c) Ry(b) Rx(a).

    Raises: ValueError when the quaternion has length 0 or is not finite.
    """
    # The transpose of Rx(a) Ry(b) Rz(c) has the fixed angles -a, -b, -c.
    return _conjugate(fixed_read_as_moving(_conjugate(quaternion)))


def model_orientation(quaternion: Sequence[float], tool: Sequence[float] | None, reading: str | None) -> Quaternion:
    """The orientation that the model sees (unit x, y, z, w) for that of a message.

    Args:
        quaternion: x, y, z, w of the message, of any length but 0.
        tool: ``tool_rotation`` of the key, if it has one.
        reading: ``euler_reading`` of the key, if it has one.

    Raises: ValueError when the quaternion has length 0 or is not finite.
    """
    if reading is not None:
        quaternion = fixed_read_as_moving(quaternion)
    return _unit(turned(quaternion, tool) if tool is not None else quaternion)


def message_orientation(quaternion: Sequence[float], tool: Sequence[float] | None, reading: str | None) -> Quaternion:
    """The inverse of ``model_orientation``: what a message is to say (unit x, y, z, w) for the model's orientation.

    Raises: ValueError when the quaternion has length 0 or is not finite.
    """
    if tool is not None:
        quaternion = turned(quaternion, _conjugate(tool))
    return _unit(moving_read_as_fixed(quaternion) if reading is not None else quaternion)


def orientation_numbers(
    quaternion: Sequence[float], tool: Sequence[float] | None = None, reading: str | None = None
) -> dict[str, float]:
    """All numbers of ``vocabulary.DERIVED`` and the unit quaternion, by the last part of their field paths.

    Args:
        quaternion: x, y, z, w of the message, of any length but 0.
        tool: quaternion x, y, z, w to multiply on the right.
        reading: ``xyz_as_XYZ`` to apply ``fixed_read_as_moving`` before the tool.

    Returns:
        ``orientation.x|y|z|w``; ``roll``, ``pitch``, ``yaw`` (rad, about the fixed axes x, y, z in this order; pitch
        within +-pi/2, and yaw 0 at the poles); ``rotvec.x|y|z`` (rad, of length 0..pi); ``rot6d.0..5``, the first two
        rows of the rotation matrix.

    Raises: ValueError when the quaternion has length 0 or is not finite.
    """
    x, y, z, w = unit = model_orientation(quaternion, tool, reading)
    rows = _rows(unit)
    numbers = {"orientation.x": x, "orientation.y": y, "orientation.z": z, "orientation.w": w}
    numbers.update(zip(("roll", "pitch", "yaw"), _euler(rows), strict=True))
    numbers.update(zip(("rotvec.x", "rotvec.y", "rotvec.z"), _rotation_vector(x, y, z, w), strict=True))
    numbers.update((f"rot6d.{i}", value) for i, value in enumerate((*rows[0], *rows[1])))
    return numbers


def _unit(quaternion: Sequence[float]) -> Quaternion:
    length = math.hypot(*quaternion)
    if not _TINY < length < math.inf:
        raise ValueError(f"a quaternion of length {length}")
    x, y, z, w = quaternion
    return x / length, y / length, z / length, w / length


def _conjugate(quaternion: Sequence[float]) -> Quaternion:
    x, y, z, w = quaternion
    return -x, -y, -z, w


def _rows(unit: Quaternion) -> tuple[tuple[float, float, float], ...]:
    """The rotation matrix of a unit quaternion."""
    x, y, z, w = unit
    return (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )


def _euler(rows: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    horizontal = math.hypot(rows[0][0], rows[1][0])
    pitch = math.atan2(-rows[2][0], horizontal)
    if horizontal < 1e-9:  # only the sum of roll and yaw is defined
        return math.atan2(-rows[1][2], rows[1][1]), pitch, 0.0
    return math.atan2(rows[2][1], rows[2][2]), pitch, math.atan2(rows[1][0], rows[0][0])


def _rotation_vector(x: float, y: float, z: float, w: float) -> tuple[float, float, float]:
    if w < 0:  # the same rotation, by at most pi
        x, y, z, w = -x, -y, -z, -w
    sine = math.hypot(x, y, z)
    scale = 2.0 if sine < _SMALL_SINE else 2.0 * math.atan2(sine, w) / sine
    return scale * x, scale * y, scale * z
