"""Do the ranges that a checkpoint was trained on belong to this robot's joints?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from groot_ros.embodiment.errors import EmbodimentError
from groot_ros.embodiment.load import dotted, where
from groot_ros.embodiment.schema import Embodiment, StateKey
from groot_ros.embodiment.units import ros_range, to_model

Array = NDArray[np.float64]

# Of the width of a joint's limits: how far beyond them recorded positions may lie. Zero points are set by hand and
# limits are rounded; another unit (57 degrees to a radian) or another robot's joints lie much further out.
SLACK = 1.0


def check_training_ranges(
    embodiment: Embodiment, trained: Callable[[str], tuple[Array, Array]], checkpoint_name: str
) -> None:
    """Compare the positions in the training data with the limits of the joints, in the units of the model.

    Args:
        trained: state key -> lowest and highest training value, float64 [D] each.
        checkpoint_name: file or folder to name in messages.

    Raises: EmbodimentError with one line per joint whose training range leaves its limits by more than their width.
    """
    lines = []
    for key, entry in embodiment.state.items():
        limits = position_limits(embodiment, entry)
        if limits is None:
            continue
        low, high = trained(key)
        slack = SLACK * (limits[1] - limits[0])
        for i, joint in enumerate(entry.names):
            if limits[0][i] - slack[i] <= low[i] and high[i] <= limits[1][i] + slack[i]:
                continue
            path = ("state", key)
            lines.append(
                f"{where(embodiment, path)}: {dotted(embodiment, path)}: expected training data of {joint} near its "
                f"limits, {limits[0][i]:.4g} .. {limits[1][i]:.4g} {entry.unit}, found {low[i]:.4g} .. "
                f"{high[i]:.4g} in the statistics of {checkpoint_name}, which are of another robot or in another unit: "
                "correct unit, sign, offset or limits, or use a checkpoint of this robot"
            )
    if lines:
        raise EmbodimentError(lines)


def position_limits(embodiment: Embodiment, entry: StateKey) -> tuple[Array, Array] | None:
    """Limits [D] of a key's joints in model units, the lower first; None where it holds no positions with limits."""
    if entry.joints is None or entry.field != "position" or not set(entry.joints) <= set(embodiment.limits):
        return None
    ends = to_model(embodiment, entry, np.stack(ros_range(embodiment, entry)))
    return ends.min(axis=0), ends.max(axis=0)
