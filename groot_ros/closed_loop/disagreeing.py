"""A policy whose chunks disagree: what the benchmark of continuity runs instead of a network.

It is a flow-matching policy of a known set of demonstrations (``two_ways``): its velocity field is exact (``mixture``)
but for an error of fit. All else is what a GR00T checkpoint has: statistics of the demonstrations, NVIDIA's
normalisation, absolute or relative actions, four Euler steps from N(0, I), decoding. Prefixes go through the code of
``LocalPolicy``. Which of the two ways a chunk takes depends on the noise, unless the position already tells.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groot_ros.closed_loop.disagreeing_robots import GRIPPER, HORIZON, embodiment_of
from groot_ros.closed_loop.mixture import FitError, FlowMixture, Spread
from groot_ros.closed_loop.two_ways import DIMS, TwoWays
from groot_ros.embodiment.modality import modality_configs
from groot_ros.embodiment.schema import Embodiment
from groot_ros.model.guidance import Guidance, integrate
from groot_ros.observation.types import Observation
from groot_ros.policy.base import Chunk, Prefix
from groot_ros.policy.prefix import guidance_of, native_start, restore
from groot_ros.processing.modality import ActionFormat, ActionType, parse_modalities
from groot_ros.processing.pose import (
    homogeneous,
    matrix_from_rotvec,
    relative_poses,
    rot6d_from_matrix,
    rotvec_from_matrix,
)
from groot_ros.processing.scaling import by_flags
from groot_ros.processing.state_action import StateActionProcessor
from groot_ros.processing.statistics import TagStatistics

Array = NDArray[np.float64]
Floats = NDArray[np.floating[Any]]
Groups = dict[str, Array]

EULER_STEPS = 4  # as GR00T
DEMONSTRATIONS = 4096
# Error of fit (see `DisagreeingPolicy`). A small network of GR00T's kind, trained on a reach task, had accelerations
# of about 14 rad/s^2 inside its chunks (spec performance.md, D2); this gives 12 (median of the largest joint), and the
# exact field 2: four Euler steps leave nothing of what is white in the demonstrations.
ROUGHNESS = 0.02
# Task units -> physical units, and where task 0 is. Joints: rad. Pose: m, and rotation vector (rad) from _HOME_TURN.
_JOINT_SCALE, _JOINT_HOME = np.full(DIMS, 1.0), np.array([0.0, -0.6, 0.9, 0.0, 0.5, 0.0])
_POSE_SCALE, _POSE_HOME = np.array([0.25, 0.25, 0.25, 0.6, 0.6, 0.6]), np.array([0.45, 0.0, 0.35, 0.0, 0.0, 0.0])
_HOME_TURN = np.diag([1.0, -1.0, -1.0])  # the tool points down
# Demonstrations close and open at once; a network does not quite: standard deviation, 0 open and 1 closed.
_GRIPPER_WHITE = 0.02
# Smallest standard deviation in normalised units: an entry of a rotation matrix may hardly vary at all.
_SMALLEST_DEVIATION = 1e-3


@dataclass(frozen=True)
class Frame:
    """Task coordinates <-> the state and action groups of one robot."""

    key: str
    pose: bool

    def groups(self, position: Array, closed: Array) -> Groups:
        """Position [..., 6] in task units and the gripper [...] -> physical groups [..., D]."""
        if not self.pose:
            return {self.key: _JOINT_HOME + _JOINT_SCALE * position, GRIPPER: closed[..., None]}
        numbers = _POSE_HOME + _POSE_SCALE * position
        turn = rot6d_from_matrix(matrix_from_rotvec(numbers[..., 3:]) @ _HOME_TURN)
        return {self.key: np.concatenate([numbers[..., :3], turn], axis=-1), GRIPPER: closed[..., None]}

    def position(self, physical: Floats) -> Array:
        """The group ``key`` [..., D] -> position [..., 6] in task units."""
        numbers = np.asarray(physical, dtype=np.float64)
        if not self.pose:
            return (numbers - _JOINT_HOME) / _JOINT_SCALE
        matrix = homogeneous(numbers, ActionFormat.XYZ_ROT6D)[..., :3, :3]
        turn = rotvec_from_matrix(matrix @ _HOME_TURN.T)
        return (np.concatenate([numbers[..., :3], turn], axis=-1) - _POSE_HOME) / _POSE_SCALE


class DisagreeingPolicy:
    """The policy of the demonstrations of ``two_ways``.

    Args:
        variant: one of ``disagreeing_robots.VARIANTS``: what is commanded, and whether the model sees it relative to
            the state.
        seed: of the task, of its statistics, and not of the noise: that is ``act``'s.
        task: None: ``TwoWays.drawn(seed)``.
        roughness: standard deviation (task units per unit of flow time) of the error of fit, row by row. 0: exact.

    Attributes:
        embodiment: the robot; ``step_hz`` 25, 16 steps, no camera is looked at.
        processor: state and action groups, as of N1.7.
    """

    def __init__(self, variant: str, seed: int = 0, task: TwoWays | None = None, roughness: float = ROUGHNESS) -> None:
        self.embodiment = embodiment_of(variant)
        self.task = TwoWays.drawn(seed) if task is None else task
        self.frame = Frame(next(iter(self.embodiment.action)), variant.startswith("eef"))
        self._ahead_s: Array = np.arange(1.0, HORIZON + 1.0) * self.embodiment.dt_s
        self.processor, self._spread, unit = _trained(self.task, self.frame, self.embodiment, self._ahead_s, seed)
        self._error = FitError.drawn(np.random.default_rng([seed, 2]), roughness * unit, EULER_STEPS)

    def act(self, observation: Observation, *, seed: int | None = None, prefix: Prefix | None = None) -> Chunk:
        """Return the chunk for ``observation``; the same seed, observation and prefix give the same numbers.

        Of the observation the state and the stamp count: the stamp is what a camera would see of the target.
        """
        seed = secrets.randbits(31) if seed is None else seed
        begin = time.perf_counter()
        field = self.field(observation)
        actions: Floats = np.random.default_rng(seed).standard_normal(field.means.shape[1:])
        guidance: Guidance | None = None
        strength: NDArray[np.float32] | None = None
        if prefix is not None:
            rows = self.processor.encode_rows(prefix.actions, observation.state)
            if prefix.native:
                actions, strength = native_start(actions, rows, prefix)
            else:
                guidance = guidance_of(rows, prefix, *actions.shape)
        actions = integrate(
            lambda x, i: field.velocity(x, i / EULER_STEPS) + self._error.velocity(x, i),
            actions,
            EULER_STEPS,
            guidance=guidance,
            strength=strength,
        )
        decoded = self.processor.decode_rows(actions, observation.state)
        chunk = {key: value.astype(np.float32) for key, value in decoded.items()}
        return Chunk(
            stamp_ns=observation.stamp_ns,
            dt_s=self.embodiment.dt_s,
            actions=chunk if prefix is None else restore(chunk, prefix),
            instruction=observation.instruction,
            seed=seed,
            timings_s={"model": time.perf_counter() - begin},
            frozen=0 if prefix is None else prefix.frozen,
        )

    def field(self, observation: Observation) -> FlowMixture:
        """What a perfect network would have learnt for ``observation``: the chunks to come, in normalised numbers."""
        now_s = np.asarray(1e-9 * observation.stamp_ns % self.task.round_s)
        position = self.frame.position(observation.state[self.frame.key][-1])
        paths = self.task.chunks(position, now_s, self._ahead_s)
        closed = np.broadcast_to(self.task.closed(now_s + self._ahead_s), paths.shape[:-1])
        state = {key: np.asarray(value, dtype=np.float64) for key, value in observation.state.items()}
        means = self.processor.encode_rows(self.frame.groups(paths, closed), state).astype(np.float64)
        return FlowMixture(means, self.task.log_weights(position, now_s), self._spread)

    def observation(self, stamp_ns: int, position: Array) -> Observation:
        """What a robot at ``position`` [6] (task units) reports; nothing of it is late."""
        now_s = np.asarray(1e-9 * stamp_ns % self.task.round_s)
        groups = self.frame.groups(np.asarray(position, dtype=np.float64), self.task.closed(now_s))
        state = {key: value.astype(np.float32)[None] for key, value in groups.items()}
        return Observation(stamp_ns, {}, state, "go on", {}, {})

    def start(self) -> Array:
        """Where the first motion begins, [6] in task units."""
        return self.task.targets[0].copy()


def _trained(
    task: TwoWays, frame: Frame, embodiment: Embodiment, ahead_s: Array, seed: int
) -> tuple[StateActionProcessor, Spread, Array]:
    """What training leaves: statistics of demonstrations as a dataset has them, the scatter of chunks around their mean
    (normalised), and how large a task unit is in normalised numbers, [H, A].
    """
    rng = np.random.default_rng([seed, 1])
    time_s, position = task.starts(rng, DEMONSTRATIONS)
    ways = task.chunks(position, time_s, ahead_s)
    log = task.log_weights(position, time_s)
    weights = np.exp(log - log.max(axis=-1, keepdims=True))
    picked = (np.cumsum(weights, axis=-1) < rng.uniform(0, weights.sum(axis=-1))[:, None]).sum(axis=-1)
    mean = ways[np.arange(len(ways)), picked]
    wandering = task.wandering(ahead_s)
    scatter = np.einsum("ij,njd->nid", np.linalg.cholesky(wandering), rng.standard_normal(mean.shape))
    closed = task.closed(time_s[:, None] + ahead_s)
    state = {key: value[:, None] for key, value in frame.groups(position, task.closed(time_s)).items()}
    unsure = closed + _GRIPPER_WHITE * rng.standard_normal(closed.shape)
    processor = _processor(embodiment, state, frame.groups(mean + scatter, closed))
    off = processor.encode_rows(frame.groups(mean + scatter, unsure), state).astype(np.float64)
    off -= processor.encode_rows(frame.groups(mean, closed), state)
    deviations = np.maximum(off.std(axis=0), _SMALLEST_DEVIATION)
    own = np.sqrt(np.diag(wandering))
    correlations = np.repeat((wandering / np.outer(own, own))[None], deviations.shape[1], axis=0)
    correlations[-1] = np.eye(len(ahead_s))  # the gripper scatters row by row
    unit = deviations / own[:, None]
    unit[:, -1] = deviations[:, -1] / _GRIPPER_WHITE
    return processor, Spread.of(deviations, correlations), unit


def _processor(embodiment: Embodiment, state: Groups, action: Groups) -> StateActionProcessor:
    """NVIDIA's processor of N1.7 with the statistics of demonstrations: state [N, 1, D], action [N, H, D] per key."""
    tag = embodiment.embodiment_tag
    modalities = parse_modalities(modality_configs(embodiment, "n1d7")[tag], "disagreeing policy")
    sections: dict[str, dict[str, Any]] = {
        "state": {key: _statistics(value.reshape(-1, value.shape[-1])) for key, value in state.items()},
        "action": {key: _statistics(value.reshape(-1, value.shape[-1])) for key, value in action.items()},
        "relative_action": {},
    }
    for key, value in action.items():
        config = modalities["action"].action_config(key)
        if config.type is ActionType.EEF:
            relative = relative_poses(state[key][:, -1], value, config.format)
        else:
            relative = value - state[key]
        sections["relative_action"][key] = _statistics(relative)
    return by_flags(
        modalities["state"],
        modalities["action"],
        TagStatistics(sections, "demonstrations of the disagreeing policy"),
        use_percentiles=True,
        clip_outliers=True,
        apply_sincos=False,
        use_relative_action=True,
    )


def _statistics(values: Array) -> dict[str, Any]:
    """Over the first axis, as statistics.json has them."""
    low, high = np.quantile(values, [0.01, 0.99], axis=0)
    result = {"min": values.min(axis=0), "max": values.max(axis=0), "q01": low, "q99": high}
    result |= {"mean": values.mean(axis=0), "std": values.std(axis=0)}
    return {name: value.tolist() for name, value in result.items()}
