"""One turn of the policy: observation, inference, gate, plan. Clocks are passed in; nothing here knows ROS.

The node calls :meth:`PolicyCycle.run` from its inference thread and publishes what comes back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from groot_ros.control.gate import Gate, GateViolation
from groot_ros.control.plan import JointPlan, entered, plan_chunk, sample, stop_plan, trim_past
from groot_ros.embodiment.schema import Embodiment
from groot_ros.embodiment.units import to_model, to_ros
from groot_ros.observation.assembler import Assembler
from groot_ros.observation.types import Observation, Refusal
from groot_ros.policy.base import Chunk, Policy


@dataclass(frozen=True)
class Planned:
    """A chunk that passed.

    Attributes:
        observation: what the policy saw.
        chunk: what it said.
        plan: gated joint targets, past points trimmed.
        followed: ``plan`` entered from the motion at that time; for :meth:`PolicyCycle.commit`.
        trimmed: leading points of the chunk that were already past.
        clamped: rule -> number of points that the gate changed.
        gated_actions: float64 [H, sum(D)] in model units; rows of trimmed points are NaN, for they were not sent, and
            so are columns of keys that are not joints or not commanded.
        stages_s: stage -> seconds, in order.
    """

    observation: Observation
    chunk: Chunk
    plan: JointPlan
    followed: JointPlan
    trimmed: int
    clamped: Mapping[str, int]
    gated_actions: NDArray[np.float64]
    stages_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Rejected:
    """A chunk that was computed but must not be sent.

    Attributes:
        reason: ``chunk_too_late`` or ``gate``.
        message: what happened, for a person.
        stop: True when the robot has to be stopped because of it.
    """

    reason: str
    message: str
    stop: bool


class PolicyCycle:
    """Turns messages in the assembler into gated joint plans.

    Args:
        embodiment: the robot.
        assembler: filled by the caller.
        policy: asked once per :meth:`run`.
        now_ns: ROS time; simulated when the node runs on ``/clock``.

    Raises:
        ValueError: an action joint is not among the state joints, so that the start of a motion cannot be checked.
    """

    def __init__(self, embodiment: Embodiment, assembler: Assembler, policy: Policy, now_ns: Callable[[], int]) -> None:
        self._embodiment = embodiment
        self._assembler = assembler
        self._policy = policy
        self._now_ns = now_ns
        self._gate = Gate(embodiment.limits)
        self._active: JointPlan | None = None
        unknown = [joint for joint in embodiment.action_joints if joint not in _measured_joints(embodiment)]
        if unknown:
            raise ValueError(
                f"embodiment '{embodiment.name}': action joints {unknown} are in no state key with field 'position', "
                "so where they start is unknown; add them under state:"
            )

    @property
    def active(self) -> JointPlan | None:
        """The plan that the robot is following, if any."""
        return self._active

    def run(self, instruction: str, seed: int | None = None) -> Planned | Rejected | Refusal:
        """Assemble the observation for now, ask the policy, gate the answer. Does not make the plan active."""
        begin = time.perf_counter()
        observation = self._assembler.assemble(self._now_ns(), instruction)
        if isinstance(observation, Refusal):
            return observation
        assembled = time.perf_counter()
        chunk = self._policy.act(observation, seed=seed)
        acted = time.perf_counter()
        now_ns = self._now_ns()
        whole = plan_chunk(self._embodiment, chunk)
        plan, trimmed = trim_past(whole, now_ns)
        if len(plan) == 0:
            late_s = (now_ns - int(whole.due_ns[-1])) * 1e-9
            return Rejected(
                "chunk_too_late",
                f"the chunk's last point was due {late_s:.3f} s before it was ready; the model is slower than the "
                f"chunk is long ({len(whole)} points of {chunk.dt_s:.3f} s)",
                stop=False,
            )
        position, velocity = self._motion(observation, now_ns)
        try:
            gated = self._gate.apply(plan, position, now_ns)
        except GateViolation as violation:
            return Rejected("gate", str(violation), stop=True)
        width = sum(len(spec.names) for spec in self._embodiment.action.values())
        gated_actions = np.full((len(whole), width), np.nan)
        gated_actions[trimmed:] = self._in_model_units(gated.plan.positions)
        stages = {"assemble": assembled - begin, **chunk.timings_s, "gate": time.perf_counter() - acted}
        followed = entered(gated.plan, now_ns, position, velocity)
        return Planned(observation, chunk, gated.plan, followed, trimmed, gated.clamped, gated_actions, stages)

    def commit(self, followed: JointPlan | None) -> None:
        """Note what the robot was told: the next plan starts from it, a stop brakes from it.

        None when it was told nothing (dry run): then the next plan starts from where the robot is measured.
        """
        self._active = followed

    def stop(self) -> JointPlan | None:
        """Return the plan that brakes the robot from what it was last told, and make it the active one.

        None when it was told nothing or has come to rest: a command would only hold it where it may no longer be.
        """
        active = self._active
        now_ns = self._now_ns()
        if active is None or now_ns >= active.due_ns[-1]:
            return None
        position, velocity = sample(active, now_ns)
        plan = stop_plan(active.joints, position, velocity, self._embodiment.limits, now_ns)
        self._active = entered(plan, now_ns, position, velocity)
        return plan

    def reset(self, *, braking: bool = False) -> None:
        """Forget samples and plan: the clock jumped, the robot was moved, or an episode begins.

        With ``braking`` a plan that is under way stays, for the next one must start from it.
        """
        self._assembler.reset()
        active = self._active
        under_way = active is not None and active.due_ns[0] <= self._now_ns() < active.due_ns[-1]
        if not (braking and under_way):
            self._active = None

    def remaining_points(self) -> int:
        """Points of the active plan that are not yet due."""
        active = self._active
        return len(trim_past(active, self._now_ns())[0]) if active is not None else 0

    def _motion(self, observation: Observation, now_ns: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Position and velocity [J] at ``now_ns``: the active plan's, or as measured (at rest) when that is newer."""
        active = self._active
        seen_ns = min(observation.sample_stamps_ns[stream][-1] for stream in self._embodiment.state_streams)
        # What was measured before the end is where the robot was when the inference began, not where it is now.
        if active is not None and seen_ns < active.due_ns[-1]:
            return sample(active, now_ns)
        measured: dict[str, float] = {}
        for key, spec in self._embodiment.state.items():
            if spec.joints is not None and spec.field == "position":
                values = to_ros(self._embodiment, spec, np.asarray(observation.state[key][-1], dtype=np.float64))
                measured.update(zip(spec.joints, values.tolist(), strict=True))
        position = np.array([measured[joint] for joint in self._embodiment.action_joints])
        return position, np.zeros_like(position)

    def _in_model_units(self, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        columns, first = [], 0
        for spec in self._embodiment.action.values():
            if not spec.commanded_joints:
                columns.append(np.full((len(positions), len(spec.names)), np.nan))
                continue
            last = first + len(spec.commanded_joints)
            columns.append(to_model(self._embodiment, spec, positions[:, first:last]))
            first = last
        return np.concatenate(columns, axis=1)


def _measured_joints(embodiment: Embodiment) -> set[str]:
    return {
        joint
        for spec in embodiment.state.values()
        if spec.joints is not None and spec.field == "position"
        for joint in spec.joints
    }
