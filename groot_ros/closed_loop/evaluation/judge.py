"""What an episode came to, decided from what topics said and when. No ROS: events in, a verdict out."""

from __future__ import annotations

import enum
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from groot_ros.policy.supervisor import LATCHED, MOVING, State

TIME_LIMIT = "time_limit"
ESTOP = "estop"
# Latched stops that say nothing about what the policy can do: a person, or the machine.
NOT_THE_POLICYS = frozenset({ESTOP, "control_gap", "inference_timeout"})
# Of the refusals, this one is where the policy has brought the robot; the others are of streams, clock and machine.
OUT_OF_RANGE = "out_of_training_range"
REFUSED_NS = 2_000_000_000  # for so long up to the time limit: the policy had no say any more


class Interrupted(RuntimeError):
    """Something failed that is not the policy's skill: no episode is counted, the run ends and can be resumed."""


class Phase(enum.Enum):
    """Where an episode is."""

    RESETTING = "resetting"  # what the topics say may be of the scene before
    CLEARING = "clearing"  # the new scene stands, and its success is not yet known to be false
    READY = "ready"
    RUNNING = "running"
    OVER = "over"


@dataclass(frozen=True)
class Counts:
    """Counters of the policy node since it was activated or configured."""

    chunks: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    rejected: Mapping[str, int] = field(default_factory=dict)
    ticks: int = 0
    ticks_missed: int = 0
    stalled_ticks: int = 0
    handovers: int = 0

    def since(self, before: Counts) -> Counts:
        """What was counted between ``before`` and now."""
        return Counts(
            self.chunks - before.chunks,
            _grown(self.refused, before.refused),
            _grown(self.rejected, before.rejected),
            self.ticks - before.ticks,
            self.ticks_missed - before.ticks_missed,
            self.stalled_ticks - before.stalled_ticks,
            self.handovers - before.handovers,
        )


@dataclass(frozen=True)
class PolicyReport:
    """What ``~/status`` of the policy node said.

    Attributes:
        braking: still coming to rest.
        jitter_p99_s: how late control ticks begin; NaN: not known, as below.
        seam_ratio: acceleration at hand-overs over that inside chunks.
        dry_run: no command goes to the robot.
    """

    state: State
    reason: str = ""
    message: str = ""
    instruction: str = ""
    checkpoint: str = ""
    embodiment: str = ""
    braking: bool = False
    counts: Counts = field(default_factory=Counts)
    jitter_p99_s: float = float("nan")
    seam_ratio: float = float("nan")
    dry_run: bool = False


@dataclass(frozen=True)
class ChunkFacts:
    """What is kept of an action chunk: seconds per stage, age at publishing (s), delay (ticks), jump (rad or m)."""

    stages_s: Mapping[str, float]
    age_s: float
    delay_ticks: int
    jump: float


@dataclass(frozen=True)
class Verdict:
    """How an episode ended.

    Attributes:
        reason: of a failure; empty for a success.
        message: the same for a person, where there is more to say.
        time_s: ROS time from ``~/start`` to the end.
    """

    success: bool
    reason: str
    time_s: float
    message: str = ""


class EpisodeJudge:
    """Follows one episode. Events come in the order of their arrival, from any thread; times are ROS time in ns.

    Attributes:
        phase: where the episode is.
        verdict: how it ended; None while it has not, or when it was interrupted.
        interruption: why the episode does not count; empty while it does.
        distance_m, closest_m: to the goal, last and least while running; None: not told.
        chunks: what was executed while running.
        began_ns: when it began.
        said: how often the success topic has said something, whatever the phase.
    """

    def __init__(self, time_limit_s: float) -> None:
        self.phase = Phase.RESETTING
        self.verdict: Verdict | None = None
        self.interruption = ""
        self.distance_m: float | None = None
        self.closest_m: float | None = None
        self.chunks: list[ChunkFacts] = []
        self._lock = threading.RLock()
        self._limit_ns = round(time_limit_s * 1e9)
        self.began_ns = 0
        self.said = 0
        self._moved = False
        self._refused = ""
        self._refusing_ns: int | None = None  # since when it has refused without a break

    @property
    def over(self) -> bool:
        """Nothing more is waited for."""
        return self.phase is Phase.OVER

    @property
    def moved(self) -> bool:
        """The policy was seen running since the episode began."""
        return self._moved

    def reset_done(self) -> None:
        """The reset service has answered: what comes now may be of the new scene."""
        with self._lock:
            self.phase = Phase.CLEARING

    def begin(self, now_ns: int) -> bool:
        """``~/start`` is called now; False when the scene is not ready, for a success was heard again."""
        with self._lock:
            if self.phase is not Phase.READY:
                return False
            self.phase, self.began_ns = Phase.RUNNING, now_ns
            return True

    def elapsed_s(self, now_ns: int) -> float:
        """Since the episode began (s)."""
        return 1e-9 * (now_ns - self.began_ns)

    def succeeded(self, value: bool, now_ns: int) -> None:
        """The success topic said ``value``."""
        with self._lock:
            self.said += 1
            if self.phase in (Phase.CLEARING, Phase.READY):
                # A true of the scene before may still be under way: it takes another false to begin.
                self.phase = Phase.CLEARING if value else Phase.READY
            elif self.phase is Phase.RUNNING and value and self._in_time(now_ns):
                self._end(Verdict(True, "", self.elapsed_s(now_ns)))

    def failed(self, reason: str, now_ns: int) -> None:
        """The failure topic said ``reason``; empty: nothing has failed."""
        if self.phase is Phase.RUNNING and reason and self._in_time(now_ns):
            self._end(Verdict(False, reason, self.elapsed_s(now_ns)))

    def distance(self, metres: float) -> None:
        """The distance topic said so."""
        if self.phase is Phase.RUNNING and metres == metres:
            self.distance_m = metres
            self.closest_m = metres if self.closest_m is None else min(self.closest_m, metres)

    def chunk(self, facts: ChunkFacts) -> None:
        """A chunk was executed."""
        if self.phase is Phase.RUNNING:
            self.chunks.append(facts)

    def policy(self, report: PolicyReport, now_ns: int) -> None:
        """The policy node said how it is."""
        if self.phase is not Phase.RUNNING:
            return
        if report.state in MOVING:
            self._moved = True
            self._refuses(report, now_ns)
        elif report.state in LATCHED:
            if report.state is State.ERROR or report.reason in NOT_THE_POLICYS:
                self._interrupt(f"the policy node stopped ({report.reason}): {report.message}")
            elif self._in_time(now_ns):
                self._end(Verdict(False, f"policy_{report.reason}", self.elapsed_s(now_ns), report.message))
        elif self._moved:  # before, it may be a status from before the start
            state = report.state.name.lower()
            self._interrupt(f"the policy node is {state} in the middle of an episode: somebody else stopped it")

    def time_is(self, now_ns: int) -> None:
        """ROS time goes on."""
        if self.phase is not Phase.RUNNING:
            return
        if now_ns < self.began_ns:
            self._interrupt(f"ROS time jumped back by {1e-9 * (self.began_ns - now_ns):.3f} s during an episode")
        elif self._in_time(now_ns):
            return
        elif not self.chunks:
            why = self._refused or "it gave no reason"
            self._interrupt(f"the policy executed nothing in {1e-9 * self._limit_ns:g} s; it refused: {why}")
        elif self._refusing_ns is not None and now_ns - self._refusing_ns >= REFUSED_NS:
            lasted_s = 1e-9 * (now_ns - self._refusing_ns)
            self._interrupt(f"the policy refused every observation for the last {lasted_s:.1f} s: {self._refused}")
        else:
            self._end(Verdict(False, TIME_LIMIT, 1e-9 * self._limit_ns))

    def _refuses(self, report: PolicyReport, now_ns: int) -> None:
        if report.state is State.REFUSING:
            self._refused = f"{report.reason}: {report.message}"
        if report.state is not State.REFUSING or report.reason == OUT_OF_RANGE:
            self._refusing_ns = None
        elif self._refusing_ns is None:
            self._refusing_ns = now_ns

    def _in_time(self, now_ns: int) -> bool:
        return now_ns - self.began_ns <= self._limit_ns

    def _end(self, verdict: Verdict) -> None:
        with self._lock:
            if self.phase is Phase.RUNNING:  # the first one counts
                self.verdict, self.phase = verdict, Phase.OVER

    def _interrupt(self, why: str) -> None:
        with self._lock:
            if self.phase is Phase.RUNNING:
                self.interruption, self.phase = why, Phase.OVER


def _grown(now: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    grown = {name: count - before.get(name, 0) for name, count in now.items()}
    return {name: count for name, count in grown.items() if count > 0}
