"""One run in virtual time: the node's own cycle, timeline and gate, with inferences that take a given number of ticks.

No ROS, no threads, no clock: the policy lets the control loop go on for as many ticks as its inference takes, then
answers. What is measured is what ``PolicyCycle``, ``ChunkTimeline`` and ``Gate`` do on a robot.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from groot_ros.closed_loop.disagreeing import DisagreeingPolicy
from groot_ros.control.continuity import SEAM_TICKS, Continuity, ContinuitySummary
from groot_ros.control.gate import Gate
from groot_ros.control.handover import Handover
from groot_ros.control.layout import Layout
from groot_ros.control.plans import Accepted, Pace
from groot_ros.control.timeline import ChunkTimeline
from groot_ros.embodiment.control_schema import Chunking, PrefixSchedule
from groot_ros.embodiment.motion import interpolation
from groot_ros.embodiment.schema import Embodiment
from groot_ros.observation.assembler import Assembler
from groot_ros.observation.types import Observation
from groot_ros.policy.base import Chunk, Prefix
from groot_ros.policy.cycle import Planned, PolicyCycle, Rejected

Array = NDArray[np.float64]

INSTRUCTION = "go on"
BEGIN_TICK = 100  # any; 0 would hide an error in the arithmetic of stamps


@dataclass(frozen=True)
class Setting:
    """What one run is about.

    Attributes:
        mode: chunking mode.
        latency: ticks that an inference takes, first and last of the numbers that are drawn from.
        rate_hz: control ticks per second.
        lag_s: time constant of the robot's first-order servo; 0: it is where it is told to be.
        acceleration: factor on the acceleration limits of what moves smoothly. With a limit that the inside of chunks
            reaches, everything is at the limit, and nothing can be told about seams.
        schedule: how guidance fades.
    """

    mode: Chunking
    latency: tuple[int, int]
    rate_hz: float = 50.0
    lag_s: float = 0.0
    acceleration: float = 3.0
    schedule: PrefixSchedule = "cosine"


@dataclass
class Recording:
    """What was commanded, tick by tick, and how chunks took over.

    Attributes:
        first_tick: tick of row 0: the first that a chunk commanded.
        values, velocities: [C] and [V] per tick.
        planned: per tick, whether a chunk asked for it.
        off_way: per tick, how far (task units) the command is from the nearer of the two ways.
        seams: hand-overs, in order.
        rejected: reason -> chunks.
        clamped: ticks, times smooth columns, that the gate changed, of ``shaped``.
        shaped: ticks that were planned, including those that the next chunk planned anew.
        summary: what the node would report.
    """

    first_tick: int = 0
    values: list[Array] = field(default_factory=list)
    velocities: list[Array] = field(default_factory=list)
    planned: list[bool] = field(default_factory=list)
    off_way: list[float] = field(default_factory=list)
    seams: list[Handover] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    clamped: int = 0
    shaped: int = 0
    summary: ContinuitySummary = field(default_factory=ContinuitySummary)


def pace_of(embodiment: Embodiment, setting: Setting) -> Pace:
    """As the node has it, for a camera that sees something new on every tick and the default ``replan_steps``."""
    period_s = 1.0 / setting.rate_hz
    return Pace(
        period_ns=round(period_s * 1e9),
        dt_s=embodiment.dt_s,
        horizon=embodiment.horizon,
        replan_ns=round((embodiment.horizon // 2 * embodiment.dt_s - 0.5 * period_s) * 1e9),
        wait_ns=round(period_s * 1e9),
        first_delay_ticks=math.ceil(1.5 * setting.latency[1]),
    )


def robot_with(embodiment: Embodiment, factor: float) -> Embodiment:
    """The robot with ``factor`` times the acceleration of everything that moves smoothly."""
    action = {}
    limits = dict(embodiment.limits)
    for key, spec in embodiment.action.items():
        if interpolation(embodiment, key) == "cubic":
            for joint in spec.joints or ():
                limit = limits[joint]
                limits[joint] = limit.model_copy(update={"acceleration": (limit.acceleration or math.inf) * factor})
            if spec.bounds is not None and spec.bounds.acceleration is not None:
                accelerations = [factor * value for value in spec.bounds.acceleration]
                spec = spec.model_copy(
                    update={"bounds": spec.bounds.model_copy(update={"acceleration": accelerations})}
                )
        action[key] = spec
    return embodiment.model_copy(update={"limits": limits, "action": action})


class VirtualRobot:
    """A robot that follows its commands, the control loop and the inference, on one thread.

    Args:
        policy: what infers.
        setting: mode and latency.
        seed: of noise and latencies.
    """

    def __init__(self, policy: DisagreeingPolicy, setting: Setting, seed: int) -> None:
        self._policy, self._setting = policy, setting
        self._random = np.random.default_rng([seed, 4])
        robot = robot_with(policy.embodiment, setting.acceleration)
        control = robot.control.model_copy(update={"prefix_schedule": setting.schedule})
        self.layout = Layout(robot.model_copy(update={"control": control}))
        smooth = self.layout.space.smooth
        self._smooth_names = {
            name for name, is_smooth in zip(self.layout.space.names, smooth, strict=True) if is_smooth
        }
        pace = pace_of(policy.embodiment, setting)
        gate = Gate(self.layout, pace.period_ns * 1e-9)
        self.timeline = ChunkTimeline(self.layout, gate, pace, setting.mode)
        self.continuity = Continuity(self.layout.space, pace.period_ns * 1e-9, window=10**6)
        self.recording = Recording()
        self.tick = BEGIN_TICK
        start = policy.observation(self.now_ns, policy.start())
        self._values = self.layout.values(
            {key: np.asarray(rows, dtype=np.float64)[-1:] for key, rows in start.state.items()}
        )[0]
        self._cycle = PolicyCycle(
            self.layout,
            _Eyes(policy.embodiment, self.observe),
            _Thinking(policy, self._think),
            self.timeline,
            None,
            lambda: self.now_ns,
            lambda: self.tick,
            threading.RLock(),
        )

    @property
    def now_ns(self) -> int:
        """Time of the tick that was commanded last."""
        return self.timeline.pace.time_ns(self.tick)

    def run(self, chunks: int) -> Recording:
        """Go on until ``chunks`` chunks were asked for."""
        for _ in range(chunks):
            launched_ns = self.now_ns
            seed = int(self._random.integers(2**31))
            answer = self._cycle.run(INSTRUCTION, seed, executed=self._executed)
            if isinstance(answer, Planned):
                self.continuity.delayed(answer.delay_ticks)
            elif isinstance(answer, Rejected):
                self.recording.rejected[answer.reason] += 1
                self.continuity.rejected(answer.reason)
                if answer.stop:
                    raise RuntimeError(f"the benchmark's own robot was stopped: {answer.message}")
            else:
                raise RuntimeError(f"the benchmark's own observation was refused: {answer.message}")
            while self.now_ns < self.timeline.next_launch_ns(launched_ns):
                self._step()
        return replace(self.recording, summary=self.continuity.summary())

    def observe(self) -> Observation:
        """What the robot reports now; nothing of it is late."""
        near = {key: np.zeros((1, len(spec.names))) for key, spec in self._policy.embodiment.action.items()}
        rows = self.layout.model_rows(self._values[None], near)
        state = {key: rows[key].astype(np.float32) for key in self._policy.embodiment.state}
        stamps = {stream: (self.now_ns,) for stream in self._policy.embodiment.streams}
        return Observation(self.now_ns, {}, state, INSTRUCTION, stamps, dict.fromkeys(stamps, 0.0))

    def _think(self) -> None:
        first, last = self._setting.latency
        for _ in range(int(self._random.integers(first, last + 1))):
            self._step()

    def _executed(self, accepted: Accepted) -> None:
        self.continuity.took_over(accepted.handover)
        self.recording.clamped += sum(
            count for name, count in accepted.clamped.items() if name.rpartition(".")[0] in self._smooth_names
        )
        self.recording.shaped += accepted.track.planned_end - accepted.first_tick + 1
        if accepted.handover is not None:
            self.recording.seams.append(accepted.handover)

    def _step(self) -> None:
        """The control loop's work for the next tick."""
        self.tick += 1
        step = self.timeline.step(self.tick)
        if step is None:
            return
        record, space = self.recording, self.layout.space
        if not record.velocities:
            record.first_tick = self.tick
        observed_ns = self.timeline.observed_ns
        self.continuity.stepped(step, None if observed_ns is None else (self.now_ns - observed_ns) * 1e-9)
        record.values.append(step.motion.values)
        record.velocities.append(step.motion.velocity)
        record.planned.append(step.planned)
        record.off_way.append(self._off_way(step.motion.values))
        lag_s = self._setting.lag_s
        share = 1.0 if lag_s == 0 else -math.expm1(-1.0 / (self._setting.rate_hz * lag_s))
        self._values = space.plus(self._values, share * space.minus(step.motion.values, self._values))

    def _off_way(self, values: Array) -> float:
        """Distance (task units) of a command from the nearer of the two ways at this time."""
        key, task = self._policy.frame.key, self._policy.task
        near = {name: np.zeros((1, len(spec.names))) for name, spec in self._policy.embodiment.action.items()}
        position = self._policy.frame.position(self.layout.model_rows(values[None], near)[key][0])
        now_s = np.full(2, 1e-9 * self.now_ns % task.round_s)
        first = np.floor(now_s / task.move_s).astype(np.int64)
        ways = task.path(now_s, first, np.array([[-1.0, -1.0], [1.0, 1.0]]))
        return float(np.linalg.norm(ways - position, axis=-1).min())


class _Eyes(Assembler):
    """Shows the virtual robot as it is."""

    def __init__(self, embodiment: Embodiment, look: Callable[[], Observation]) -> None:
        super().__init__(embodiment)
        self._look = look

    def assemble(self, now_ns: int, instruction: str) -> Observation:
        return self._look()


class _Thinking:
    """A policy during whose inference time goes on."""

    def __init__(self, policy: DisagreeingPolicy, think: Callable[[], None]) -> None:
        self._policy, self._think = policy, think

    def act(self, observation: Observation, *, seed: int | None = None, prefix: Prefix | None = None) -> Chunk:
        chunk = self._policy.act(observation, seed=seed, prefix=prefix)
        self._think()
        return chunk


def accelerations(recording: Recording, layout: Layout, period_s: float) -> tuple[Array, Array, Array]:
    """Mean acceleration over a tick as a share of the limit, the largest of all columns that move smoothly.

    Returns:
        The largest within ``SEAM_TICKS`` of every hand-over [S], that of every tick within ``SEAM_TICKS`` of one, and
        that of every other tick.
    """
    space = layout.space
    scale = 1.0 / (space.smooth_acceleration * period_s)
    if len(recording.velocities) < 2:
        return np.empty(0), np.empty(0), np.empty(0)
    values = (np.abs(np.diff(np.array(recording.velocities), axis=0)) * scale).max(axis=1)
    ticks = recording.first_tick + 1 + np.arange(len(values))
    seams = np.array([seam.tick for seam in recording.seams], dtype=np.int64)
    near = np.abs(ticks[None] - seams[:, None]) <= SEAM_TICKS  # [S, T]
    peaks = [float(values[row].max()) for row in near if row.any()]
    at_seam = near.any(axis=0)
    return np.array(peaks), values[at_seam], values[~at_seam]
