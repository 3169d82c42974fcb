"""One turn of the policy: observation, inference, gate, timeline. Clocks are passed in; nothing here knows ROS.

The node calls :meth:`PolicyCycle.run` from its inference thread; the control loop executes what it commits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from groot_ros.control.gate import GateViolation
from groot_ros.control.layout import Layout
from groot_ros.control.plans import Accepted, Unusable
from groot_ros.control.timeline import ChunkTimeline
from groot_ros.control.training_range import TrainingRange
from groot_ros.observation.assembler import Assembler
from groot_ros.observation.types import Observation, Refusal
from groot_ros.policy.base import Chunk, Policy

ATTEMPTS = 4
# A controller of trajectories is on its way to the next tick, and must not be told otherwise in between: a chunk takes
# over there.
LEAD_TICKS = 1
DISOWNED = "disowned"


@dataclass(frozen=True)
class Planned:
    """A chunk that is being executed.

    Attributes:
        observation: what the policy saw.
        accepted: the chunk, the commands that follow from it, and how it took over.
        gated_actions: float64 [H, sum(D)] in model units, what is commanded at the time of every row; rows that were
            past are NaN, for they were not sent, and so are columns of keys that are not commanded.
        delay_ticks: control ticks that passed while the inference ran.
        age_s: of the observation, when the chunk became what is executed.
        stages_s: stage -> seconds, in order.
    """

    observation: Observation
    accepted: Accepted
    gated_actions: NDArray[np.float64]
    delay_ticks: int
    age_s: float
    stages_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Rejected:
    """A chunk, or an observation, of which nothing is executed.

    Attributes:
        reason: ``chunk_too_late``, ``chunk_older``, ``disowned``, ``gate`` or ``out_of_training_range``.
        message: what happened, for a person.
        stop: True when the robot has to be stopped because of it.
    """

    reason: str
    message: str
    stop: bool


_DISOWNED = Rejected(DISOWNED, "the policy was stopped, restarted or told otherwise while the model ran", stop=False)


class PolicyCycle:
    """Turns messages in the assembler into commands on the timeline.

    Args:
        layout: the robot's commands.
        assembler: filled by the caller.
        policy: asked once per :meth:`run`.
        timeline: where chunks are executed.
        training: ranges of the training data; None: the state is not compared with them.
        now_ns: ROS time; simulated when the node runs on ``/clock``.
        tick: the control tick that was commanded last.
        lock: held by the control loop while it commands.
    """

    def __init__(
        self,
        layout: Layout,
        assembler: Assembler,
        policy: Policy,
        timeline: ChunkTimeline,
        training: TrainingRange | None,
        now_ns: Callable[[], int],
        tick: Callable[[], int],
        lock: threading.RLock,
    ) -> None:
        self._layout, self._assembler, self._policy = layout, assembler, policy
        self._timeline, self._training = timeline, training
        self._now_ns, self._tick, self.lock = now_ns, tick, lock

    def run(
        self,
        instruction: str,
        seed: int | None = None,
        *,
        alone: bool = False,
        permitted: Callable[[], bool] = lambda: True,
        executed: Callable[[Accepted], None] = lambda accepted: None,
    ) -> Planned | Rejected | Refusal:
        """Assemble the observation for now, ask the policy, gate the answer and make it what is executed.

        Args:
            alone: every chunk starts from where the robot is measured: in a dry run nobody follows the one before.
            permitted: asked under the lock, right before the chunk is executed; False drops it.
            executed: called under the lock, right after.
        """
        begin = time.perf_counter()
        with self.lock:
            if alone:
                self._timeline.forget()
            version, launched = self._timeline.version, self._tick()
        observation = self._assembler.assemble(self._now_ns(), instruction)
        if isinstance(observation, Refusal):
            return observation
        outside = self._outside(observation)
        if outside is not None:
            return outside
        assembled = time.perf_counter()
        with self.lock:
            prefix = self._timeline.prefix(observation.stamp_ns, self._tick() + LEAD_TICKS, instruction)
        chunk = self._policy.act(observation, seed=seed, prefix=prefix)
        acted = time.perf_counter()

        def owned() -> bool:
            with self.lock:
                return version == self._timeline.version and permitted()

        with self.lock:
            delay = self._tick() - launched
            if not owned():  # ticks are no delay where the clock jumped
                return _DISOWNED
            self._timeline.counted(delay, chunk.usual)
        try:
            accepted = self._commit(chunk, observation, owned, executed)
        except GateViolation as violation:
            return Rejected("gate", str(violation), stop=True) if owned() else _DISOWNED
        if accepted is None:
            return _DISOWNED
        if isinstance(accepted, Unusable):
            return Rejected(accepted.reason, accepted.message, stop=False)
        transfer_s = max(acted - assembled - sum(chunk.timings_s.values()), 0.0)
        stages = {
            "assemble": assembled - begin,
            **chunk.timings_s,
            "transfer": transfer_s,
            "plan": time.perf_counter() - acted,
        }
        age_s = (self._now_ns() - chunk.stamp_ns) * 1e-9
        return Planned(observation, accepted, self._gated(accepted), delay, age_s, stages)

    def _outside(self, observation: Observation) -> Refusal | Rejected | None:
        refusal = self._training.refusal(observation) if self._training is not None else None
        if refusal is not None and self._layout.embodiment.gate.training_range == "stop":
            return Rejected(refusal.reason.value, refusal.message, stop=True)
        return refusal

    def _commit(
        self,
        chunk: Chunk,
        observation: Observation,
        owned: Callable[[], bool],
        executed: Callable[[Accepted], None],
    ) -> Accepted | Unusable | None:
        """Plan beside the control loop, and execute if it has not come to the plan's first tick meanwhile.

        None: the chunk belongs to a run that was interrupted.
        """
        measured = self._layout.measured(observation)
        streams = self._layout.embodiment.state_streams
        seen_ns = min(observation.sample_stamps_ns[stream][-1] for stream in streams)
        for attempt in range(ATTEMPTS):
            accepted = self._timeline.plan(chunk, self._tick() + LEAD_TICKS + attempt, measured, seen_ns)
            if isinstance(accepted, Unusable):
                return accepted
            with self.lock:
                if not owned():
                    return None
                if self._timeline.commit(accepted, self._tick() + LEAD_TICKS):
                    executed(accepted)
                    return accepted
        return Unusable(
            "chunk_too_late",
            f"expected a chunk to be planned within {ATTEMPTS} control ticks, found that it takes longer: lower "
            "control.rate_hz, or free a core (stage plan on ~/status)",
        )

    def _gated(self, accepted: Accepted) -> NDArray[np.float64]:
        chunk = accepted.chunk
        rows = {key: np.asarray(values, dtype=np.float64) for key, values in chunk.actions.items()}
        due_ns = self._timeline.pace.due_ns(accepted.stamp_ns)[accepted.trimmed :]
        near = {key: values[accepted.trimmed :] for key, values in rows.items()}
        commanded = self._layout.model_rows(accepted.track.sample(due_ns), near)
        result = {key: np.full_like(rows[key], np.nan) for key in self._layout.embodiment.action}
        for key, values in commanded.items():
            result[key][accepted.trimmed :] = values
        return np.concatenate(list(result.values()), axis=1)
