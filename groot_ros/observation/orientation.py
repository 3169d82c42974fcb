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


def orientation_numbers(quaternion: Sequence[float], tool: Sequence[float] | None = None) -> dict[str, float]:
    """All numbers of ``vocabulary.DERIVED`` and the unit quaternion, by the last part of their field paths.

    Args:
        quaternion: x, y, z, w of the message, of any length but 0.
        tool: quaternion x, y, z, w to multiply on the right.

    Returns:
        ``orientation.x|y|z|w``; ``roll``, ``pitch``, ``yaw`` (rad, about the fixed axes x, y, z in this order; pitch
        within +-pi/2, and yaw 0 at the poles); ``rotvec.x|y|z`` (rad, of length 0..pi); ``rot6d.0..5``, the first two
        rows of the rotation matrix.

    Raises: ValueError when the quaternion has length 0 or is not finite.
    """
    if tool is not None:
        quaternion = turned(quaternion, tool)
    length = math.hypot(*quaternion)
    if not _TINY < length < math.inf:
        raise ValueError(f"a quaternion of length {length}")
    x, y, z, w = (value / length for value in quaternion)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    numbers = {"orientation.x": x, "orientation.y": y, "orientation.z": z, "orientation.w": w}
    numbers.update(zip(("roll", "pitch", "yaw"), _euler(rows), strict=True))
    numbers.update(zip(("rotvec.x", "rotvec.y", "rotvec.z"), _rotation_vector(x, y, z, w), strict=True))
    numbers.update((f"rot6d.{i}", value) for i, value in enumerate((*rows[0], *rows[1])))
    return numbers


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
