"""Joint angles of the simulated arm for a place of its grasp point, in closed form. No MuJoCo.

Shoulder lift, elbow and wrist flex turn about parallel axes, in a plane that shoulder pan turns about the base. So the
arm is three links in a plane, and place and pitch of the hand determine the angles.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

# Of arm.xml; a test compares them.
SHOULDER_M = (0.012, 0.117)  # axis of shoulder_lift: forward and up from the base
UPPER_ARM_M, FOREARM_M, HAND_M = 0.116, 0.135, 0.148
RANGE_RAD = np.array([[-1.91986, 1.91986], [-1.74533, 1.74533], [-1.69, 1.69], [-1.65806, 1.65806]])
# Pitch of the hand (rad below horizontal) by the distance of the grasp point from the base's axis (m), a polynomial:
# about as steep as the arm can hold it from the table to 10 cm above. A corner in it would jerk the arm on a line.
PITCH_OF_RADIUS = np.poly1d([-18.2, 6.65, 0.752])


class OutOfReach(ValueError):
    """The arm cannot get there; the message says which place and why."""


def pitch_for(radius_m: float) -> float:
    """Pitch of the hand (rad below horizontal) for a grasp point so far from the base's axis."""
    return float(PITCH_OF_RADIUS(radius_m))


def joints_for(place: NDArray[np.float64], pitch_rad: float | None = None) -> NDArray[np.float64]:
    """Shoulder pan, lift, elbow flex and wrist flex [4] (rad) that bring the grasp point to ``place`` [3] (m).

    Args:
        place: in the frame of the arm's base.
        pitch_rad: of the hand below horizontal; None: ``pitch_for`` the distance.

    Raises:
        OutOfReach: too far, too near, or beyond a joint's range.
    """
    x, y, z = (float(value) for value in place)
    radius_m = math.hypot(x, y)
    pitch = pitch_for(radius_m) if pitch_rad is None else pitch_rad
    along_m = radius_m - SHOULDER_M[0] - HAND_M * math.cos(pitch)  # of the wrist's axis, from the shoulder's
    up_m = z - SHOULDER_M[1] + HAND_M * math.sin(pitch)
    span_m = math.hypot(along_m, up_m)
    where = f"({x:.3f}, {y:.3f}, {z:.3f}) m with the hand pitched {pitch:.2f} rad"
    if not abs(UPPER_ARM_M - FOREARM_M) < span_m < UPPER_ARM_M + FOREARM_M:
        raise OutOfReach(f"{where}: the wrist would be {span_m:.3f} m from the shoulder")
    opening = math.acos((UPPER_ARM_M**2 + span_m**2 - FOREARM_M**2) / (2 * UPPER_ARM_M * span_m))
    lift = math.atan2(along_m, up_m) - opening  # from vertical; the elbow above the line to the wrist
    # Below horizontal.
    forearm = math.atan2(UPPER_ARM_M * math.cos(lift) - up_m, along_m - UPPER_ARM_M * math.sin(lift))
    joints = np.array([math.atan2(y, x), lift, forearm - lift, pitch - forearm])
    beyond = (joints < RANGE_RAD[:, 0]) | (joints > RANGE_RAD[:, 1])
    if beyond.any():
        raise OutOfReach(f"{where}: joint angles {joints.round(3).tolist()} rad, beyond a range")
    return joints
