"""Which column of the command space carries which joint or number of an action key, and the way there and back.

The only place where the model's rows become what is commanded: units, signs, offsets (``embodiment.units``), and the
orientation of a pose, however the key writes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groot_ros.control import rotation
from groot_ros.control.space import Array, Space
from groot_ros.embodiment import motion
from groot_ros.embodiment.schema import ActionKey, Embodiment, StateKey
from groot_ros.embodiment.units import to_model, to_ros
from groot_ros.embodiment.vocabulary import POSE_OF, orientation_leaf
from groot_ros.observation.orientation import message_orientation, orientation_numbers
from groot_ros.observation.types import Observation
from groot_ros.processing.pose import matrix_from_euler, matrix_from_quat, matrix_from_rot6d, quat_from_matrix

_ORIENTATIONS = (
    ("roll", "pitch", "yaw"),
    ("rotvec.x", "rotvec.y", "rotvec.z"),
    tuple(f"rot6d.{i}" for i in range(6)),
    ("orientation.x", "orientation.y", "orientation.z", "orientation.w"),
)


@dataclass(frozen=True)
class KeyColumns:
    """Where one action key is in the command space.

    Attributes:
        output: name of the output that carries it.
        lines: value column of every number that is no orientation, with its place in the key.
        orientation: (first value column, first tangent column, place in the key -> leaf, in the order of the
            formula); None without one.
    """

    output: str
    lines: tuple[tuple[int, int], ...]
    orientation: tuple[int, int, Mapping[int, str]] | None


class Layout:
    """Columns of all commanded action keys of a robot, outputs in order, keys in the order of each output.

    Attributes:
        embodiment: the robot.
        space: the command space.
        keys: commanded action key -> its columns.
        joint_columns: commanded joint -> value column.
    """

    def __init__(self, embodiment: Embodiment) -> None:
        self.embodiment = embodiment
        self.keys: dict[str, KeyColumns] = {}
        self.joint_columns: dict[str, int] = {}
        columns = _Columns()
        for name, output in embodiment.outputs.items():
            for key in output.keys:
                self.keys[key] = self._add(columns, name, key)
        self.space = columns.space()

    def values(self, actions: Mapping[str, NDArray[np.floating]]) -> Array:
        """Rows of a chunk, action key -> [H, D] in model units -> what they command, [H, C].

        Keys with ``command: false`` are checked and left out. NaN and infinity go through.

        Raises:
            ValueError: a key is missing, has another shape than [H, number of joints or fields], or an orientation
                that is none.
        """
        height = {len(rows) for rows in actions.values() if np.ndim(rows) == 2}
        for key, spec in self.embodiment.action.items():
            rows = actions.get(key)
            if rows is None:
                raise ValueError(f"the chunk lacks action key '{key}'; it has {sorted(actions)}")
            if np.ndim(rows) != 2 or rows.shape[1] != len(spec.names) or len(height) != 1:
                raise ValueError(
                    f"action key '{key}': expected [H, {len(spec.names)}] for {spec.names}, found {list(rows.shape)}"
                )
        result = np.zeros((height.pop(), self.space.value_count))
        for key in self.keys:
            self._fill(result, key, self.embodiment.action[key], actions[key])
        return result

    def model_rows(self, values: Array, near: Mapping[str, NDArray[np.floating]]) -> dict[str, Array]:
        """What is commanded, [N, C] -> rows in model units of every commanded key, float64 [N, D]; undoes ``values``.

        Args:
            near: key -> [N, D]: of the ways to write one orientation (sign of a quaternion, turns of an angle), the one
                nearest to these numbers is taken.
        """
        return {key: self._rows(values, key, np.asarray(near[key], dtype=np.float64)) for key in self.keys}

    def measured(self, observation: Observation) -> tuple[Array, NDArray[np.bool_]]:
        """Where the robot is: values [C], and per tangent column [V] whether that is known. Speeds count as 0."""
        values = np.zeros(self.space.value_count)
        known = self.space.rests_at_zero.copy()
        positions = self._positions(observation)
        for joint, column in self.joint_columns.items():
            if joint in positions:
                values[column] = positions[joint]
                known[self.space.tangent_of[column]] = True
        for key, columns in self.keys.items():
            source = motion.measured_key(self.embodiment, key)
            if columns.orientation is not None:
                values[columns.orientation[0] + 3] = 1.0
            if source is None:
                continue
            self._fill(values[None], key, self.embodiment.state[source], observation.state[source][-1:])
            known[[self.space.tangent_of[column] for column, _ in columns.lines]] = True
            if columns.orientation is not None:
                known[columns.orientation[1] : columns.orientation[1] + 3] = True
        return values, known

    def _positions(self, observation: Observation) -> dict[str, float]:
        """Measured joint positions in ROS units."""
        found: dict[str, float] = {}
        for key, spec in self.embodiment.state.items():
            if spec.joints is not None and spec.field == "position":
                values = to_ros(self.embodiment, spec, np.asarray(observation.state[key][-1], dtype=np.float64))
                found.update(zip(spec.joints, values.tolist(), strict=True))
        return found

    def _add(self, columns: _Columns, output: str, key: str) -> KeyColumns:
        spec = self.embodiment.action[key]
        pose = POSE_OF.get(self.embodiment.outputs[output].type)
        smooth = motion.interpolation(self.embodiment, key)
        zero = motion.rests_at_zero(self.embodiment, key)
        lines, leaves = [], {}
        # Part of an orientation stays numbers: check_commandable lets that through for a dry run only.
        order = _order([leaf for name in spec.names if (leaf := orientation_leaf(name))]) if pose is not None else None
        for place, name in enumerate(spec.names):
            leaf = orientation_leaf(name) if order else None
            if leaf is not None:
                leaves[place] = leaf
                continue
            limits = _limits(self.embodiment, spec, place)
            lines.append((columns.line(name if spec.joints else f"{output}.{name}", limits, smooth, zero), place))
            if spec.joints:
                self.joint_columns[name] = lines[-1][0]
        orientation = None
        if leaves:
            speeds = [_limits(self.embodiment, spec, place)[2:] for place in leaves]
            fastest, hardest = (min(values) for values in zip(*speeds, strict=True))
            in_order = {place: leaf for leaf in order or () for place in leaves if leaves[place] == leaf}
            orientation = (*columns.rotation(output, fastest, hardest, smooth), in_order)
        return KeyColumns(output, tuple(lines), orientation)

    def _fill(self, result: Array, key: str, spec: StateKey | ActionKey, rows: NDArray[np.floating]) -> None:
        """Write ``rows`` [H, D] in model units, of an action key or of the state key that measures it, into [H, C]."""
        columns = self.keys[key]
        ros = to_ros(self.embodiment, spec, np.asarray(rows, dtype=np.float64))
        for column, place in columns.lines:
            result[:, column] = ros[:, place]
        if columns.orientation is not None:
            first, _, leaves = columns.orientation
            result[:, first : first + 4] = _message_quaternions(ros, leaves, spec)

    def _rows(self, values: Array, key: str, near: Array) -> Array:
        spec, columns = self.embodiment.action[key], self.keys[key]
        ros = np.empty((len(values), len(spec.names)))
        for column, place in columns.lines:
            ros[:, place] = values[:, column]
        if columns.orientation is not None:
            first, _, leaves = columns.orientation
            places = list(leaves)
            wanted = to_ros(self.embodiment, spec, near)[:, places]
            for row, quaternion, like in zip(ros, values[:, first : first + 4].tolist(), wanted, strict=True):
                numbers = orientation_numbers(quaternion, spec.tool_rotation, spec.euler_reading)
                row[places] = _nearest(np.array([numbers[leaf] for leaf in leaves.values()]), like, leaves[places[0]])
        return to_model(self.embodiment, spec, ros)


class _Columns:
    """Collects columns until the space is made."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.rotations: list[tuple[int, int]] = []
        self.limits: list[tuple[float, float, float, float]] = []
        self.smooth: list[str] = []
        self.zero: list[bool] = []

    def line(self, name: str, limits: tuple[float, float, float, float], smooth: str, zero: bool) -> int:
        self._tangent(name, limits, smooth, zero)
        return len(self.names) + len(self.rotations) - 1

    def rotation(self, output: str, velocity: float, acceleration: float, smooth: str) -> tuple[int, int]:
        tangent = len(self.names)
        value = tangent + len(self.rotations)
        for axis in "xyz":
            self._tangent(f"{output}.rotation.{axis}", (-np.inf, np.inf, velocity, acceleration), smooth, False)
        self.rotations.append((value, tangent))
        return value, tangent

    def _tangent(self, name: str, limits: tuple[float, float, float, float], smooth: str, zero: bool) -> None:
        self.names.append(name)
        self.limits.append(limits)
        self.smooth.append(smooth)
        self.zero.append(zero)

    def space(self) -> Space:
        lower, upper, velocity, acceleration = np.array(self.limits, dtype=np.float64).reshape(-1, 4).T
        return Space(
            names=tuple(self.names),
            rotations=tuple(self.rotations),
            lower=lower,
            upper=upper,
            velocity=velocity,
            acceleration=acceleration,
            interpolation=tuple(self.smooth),
            rests_at_zero=np.array(self.zero, dtype=np.bool_),
        )


def _limits(embodiment: Embodiment, spec: ActionKey, place: int) -> tuple[float, float, float, float]:
    """Lower, upper, velocity, acceleration of one number of a key; inf where the YAML sets no limit."""
    if spec.joints is not None:
        limit = embodiment.limits[spec.joints[place]]
        return limit.lower, limit.upper, limit.velocity, limit.acceleration or np.inf
    if spec.bounds is None:
        return -np.inf, np.inf, np.inf, np.inf
    bounds = spec.bounds
    velocity, acceleration = (
        np.inf if values is None else values[place] for values in (bounds.velocity, bounds.acceleration)
    )
    return bounds.lower[place], bounds.upper[place], velocity, acceleration


def _message_quaternions(ros: Array, leaves: Mapping[int, str], spec: StateKey | ActionKey) -> Array:
    """The message's quaternions (x, y, z, w) [H, 4] for the orientation numbers of a key; NaN stays NaN.

    Raises: ValueError for a row without an orientation: a quaternion of zeros, or parallel rows.
    """
    numbers = ros[:, list(leaves)]
    if not np.isfinite(numbers).all():
        return np.full((len(ros), 4), np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        model = _model_quaternions(numbers, next(iter(leaves.values())))
    if not np.isfinite(model).all():
        row = int(np.argwhere(~np.isfinite(model))[0, 0])
        raise ValueError(f"{[spec.names[place] for place in leaves]}: {numbers[row].tolist()} is no orientation")
    if spec.tool_rotation is None and spec.euler_reading is None:
        return model
    turned = [message_orientation(q, spec.tool_rotation, spec.euler_reading) for q in model.tolist()]
    return np.array(turned)


def _order(leaves: Sequence[str]) -> tuple[str, ...] | None:
    """The leaves of one whole orientation in the order of its formula; None: they are not one."""
    for order in _ORIENTATIONS:
        if sorted(order) == sorted(leaves):
            return order
    return None


def _nearest(numbers: Array, like: Array, leaf: str) -> Array:
    """Another way to write the orientation ``numbers`` if that is nearer to ``like``; ``leaf`` tells the form."""
    if not np.isfinite(like).all() or leaf.startswith("rot6d"):
        return numbers
    if leaf.startswith("orientation"):
        return -numbers if float(numbers @ like) < 0 else numbers
    if leaf == "roll":
        return numbers + 2 * np.pi * np.rint((like - numbers) / (2 * np.pi))
    angle = float(np.linalg.norm(numbers))
    if angle < 1e-9:
        return numbers
    turns = np.rint(float((like - numbers) @ numbers) / angle / (2 * np.pi))
    return numbers * (1 + 2 * np.pi * turns / angle)


def _model_quaternions(numbers: Array, leaf: str) -> Array:
    """[H, 3 | 4 | 6] -> unit quaternions (x, y, z, w) [H, 4]; NaN where there is none."""
    if leaf.startswith("rotvec"):
        return rotation.exp(numbers)
    if leaf.startswith("orientation"):
        matrix = matrix_from_quat(numbers[:, [3, 0, 1, 2]])
    elif leaf.startswith("rot6d"):
        matrix = matrix_from_rot6d(numbers)
    else:
        matrix = matrix_from_euler(numbers, "xyz")
    return np.asarray(quat_from_matrix(matrix))[:, [1, 2, 3, 0]]
