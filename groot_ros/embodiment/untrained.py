"""Statistics for a random checkpoint of a robot, derived from its YAML.

A trained checkpoint has these from its data. A random one gets ranges that keep the robot inside its limits, so
that the whole chain can run before any training.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from groot_ros.embodiment.modality import representation
from groot_ros.embodiment.schema import ActionKey, Embodiment, StateKey
from groot_ros.embodiment.units import ros_range, to_model
from groot_ros.embodiment.vocabulary import quantity, rotation_type

Array = NDArray[np.float64]

RELATIVE_SPEED = 0.1  # of the velocity limit: how far a relative action may go per step
RELATIVE_SWEEP_HZ = 0.1  # of its bounds per second, for a relative action that is no joint
POSE_SPEED_M_S = 0.05  # how far a relative pose may go
POSE_SPEED_RAD_S = 0.2
_WIDEST_TURN_RAD = 0.3  # with less than 0.5 in each number, the two rows of a rot6d cannot become parallel


def statistics(embodiment: Embodiment, generation: str) -> dict[str, dict[str, dict[str, list[Any]]]]:
    """Return the robot's entry of statistics.json, uniform over the range of each number, in model units.

    Ranges: limits of joints, bounds of commanded fields, +-pi for angles, +-1 for other fields; a constant is one
    value. Relative keys also get per-step rows [H, D] under ``relative_action``: step ``i`` reaches
    ``RELATIVE_SPEED * velocity * dt * (i + 1)`` either way, and a pose goes as slowly from the identity.
    """
    relative = {}
    for key, spec in embodiment.action.items():
        said = representation(embodiment, key, generation)
        if said["rep"] == "RELATIVE":
            pose = said["type"] == "EEF"
            low, high = _relative_poses(embodiment, said["format"]) if pose else _relative_numbers(embodiment, spec)
            relative[key] = _uniform(low, high)
    return {
        "state": {key: _uniform(*_state_range(embodiment, spec)) for key, spec in embodiment.state.items()},
        "action": {key: _uniform(*_action_range(embodiment, spec)) for key, spec in embodiment.action.items()},
        "relative_action": relative,
    }


def metadata_modalities(embodiment: Embodiment) -> dict[str, dict[str, dict[str, Any]]]:
    """Return ``modalities`` of N1.5's experiment_cfg/metadata.json: the sizes of the views, the shapes of the keys."""
    video = {}
    for key, spec in embodiment.video.items():
        camera = embodiment.cameras[spec.camera]
        video[key] = {"resolution": [camera.width, camera.height], "channels": 3, "fps": embodiment.step_hz}

    def vector(spec: StateKey | ActionKey) -> dict[str, Any]:
        turn = rotation_type(spec.fields or []) if spec.target_rotation else None
        return {"absolute": True, "rotation_type": turn, "shape": [len(spec.names)], "continuous": True}

    return {
        "video": video,
        "state": {key: vector(spec) for key, spec in embodiment.state.items()},
        "action": {key: vector(spec) for key, spec in embodiment.action.items()},
    }


def _state_range(embodiment: Embodiment, spec: StateKey) -> tuple[Array, Array]:
    """Lowest and highest model value [D] of a state key."""
    if spec.constant is not None:
        values = np.array(spec.constant)
        return values, values
    if spec.joints is None:
        reach = np.array([np.pi if quantity(path) == "angle" else 1.0 for path in spec.fields or []])
        ends = np.stack([-reach, reach])
    else:
        bounds = [embodiment.limits.get(joint) for joint in spec.joints]
        if spec.field == "position":
            ends = np.array([[b.lower, b.upper] if b else [-np.pi, np.pi] for b in bounds]).T
        elif spec.field == "velocity":
            ends = np.array([[-b.velocity, b.velocity] if b else [-1.0, 1.0] for b in bounds]).T
        else:
            ends = np.array([[-1.0, 1.0] for _ in bounds]).T
    return _ordered(embodiment, spec, ends)


def _action_range(embodiment: Embodiment, spec: ActionKey) -> tuple[Array, Array]:
    return _ordered(embodiment, spec, np.stack(ros_range(embodiment, spec)))


def _ordered(embodiment: Embodiment, spec: StateKey | ActionKey, ends: Array) -> tuple[Array, Array]:
    """Model values of the two ends [2, D] in ROS units, the lower first: a sign of -1 swaps them."""
    values = to_model(embodiment, spec, ends)
    return values.min(axis=0), values.max(axis=0)


def _relative_numbers(embodiment: Embodiment, spec: ActionKey) -> tuple[Array, Array]:
    """Rows [H, D] of differences to the state, in model units."""
    if spec.joints is not None:
        speed = RELATIVE_SPEED * np.array([embodiment.limits[joint].velocity for joint in spec.joints])
    else:
        lower, upper = ros_range(embodiment, spec)
        speed = RELATIVE_SWEEP_HZ * (upper - lower)
    zero = to_model(embodiment, spec, np.zeros((1, len(spec.names))))
    reach = np.abs(to_model(embodiment, spec, speed * _times_s(embodiment)) - zero)
    return -reach, reach


def _relative_poses(embodiment: Embodiment, pose_format: str) -> tuple[Array, Array]:
    """Rows [H, D] of poses around the identity; the numbers that a rigid motion cannot change have no range."""
    steps = _times_s(embodiment)
    metres = np.repeat(POSE_SPEED_M_S * steps, 3, axis=1)
    turn = np.minimum(POSE_SPEED_RAD_S * steps, _WIDEST_TURN_RAD)
    if pose_format == "DEFAULT":
        centre = np.eye(4).reshape(1, 16)
        reach = np.zeros((len(steps), 4, 4))
        reach[:, :3, :3] = turn[:, :, None]
        reach[:, :3, 3] = metres
        return centre - reach.reshape(-1, 16), centre + reach.reshape(-1, 16)
    numbers = 6 if pose_format == "XYZ_ROT6D" else 3
    centre = np.concatenate([np.zeros(3), np.eye(3)[:2].reshape(-1) if numbers == 6 else np.zeros(3)])
    reach = np.concatenate([metres, np.repeat(turn, numbers, axis=1)], axis=1)
    return centre - reach, centre + reach


def _times_s(embodiment: Embodiment) -> Array:
    """Time of each step of a chunk [H, 1]."""
    return embodiment.dt_s * np.arange(1, embodiment.horizon + 1, dtype=np.float64)[:, None]


def _uniform(low: Array, high: Array) -> dict[str, list[Any]]:
    span = high - low
    return {
        "min": low.tolist(),
        "max": high.tolist(),
        "mean": (low + 0.5 * span).tolist(),
        "std": (span / np.sqrt(12.0)).tolist(),
        "q01": (low + 0.01 * span).tolist(),
        "q99": (low + 0.99 * span).tolist(),
    }
