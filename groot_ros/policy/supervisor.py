"""What the policy is allowed to do now. Every transition is here; the node only asks and obeys."""

from __future__ import annotations

import enum
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from groot_ros.observation.types import Reason, Refusal

LATENCY_WINDOW = 200
# Still true when it has been released: the stop stays latched.
ESTOPPED = "e-stop was pressed: release it (false on ~/estop), then call ~/reset_stop and ~/start"


class State(enum.IntEnum):
    """The states of ``groot_ros/msg/PolicyStatus``, same numbers."""

    UNCONFIGURED = 0
    INACTIVE = 1
    READY = 2
    RUNNING = 3
    REFUSING = 4
    PAUSED = 5
    STOPPED = 6
    ERROR = 7


ACTIVE = frozenset({State.READY, State.RUNNING, State.REFUSING, State.PAUSED, State.STOPPED, State.ERROR})
MOVING = frozenset({State.RUNNING, State.REFUSING})
LATCHED = frozenset({State.STOPPED, State.ERROR})


@dataclass(frozen=True)
class Answer:
    """Result of a request: ``done`` is true only when it was, ``message`` says why or why not."""

    done: bool
    message: str


@dataclass(frozen=True)
class Snapshot:
    """A consistent copy for ``~/status``; counts since activation, latencies in s (NaN before a chunk).

    ``stages_s``: stage of a chunk -> median and 95th percentile, in order.
    """

    state: State
    reason: str
    message: str
    ticks: int
    chunks: int
    refusals: dict[str, int]
    model_s: tuple[float, float]
    overhead_s: tuple[float, float]
    stages_s: dict[str, tuple[float, float]] = field(default_factory=dict)


class Supervisor:
    """State, cause and counters of the policy; safe to call from several threads.

    ``lock`` is held while a command goes out, so that after :meth:`stop` has returned no older command follows.

    Args:
        latched: called with reason and message of every stop that latches, under the lock.
    """

    def __init__(self, latched: Callable[[str, str], None] = lambda reason, message: None) -> None:
        self._latched = latched
        self.lock = threading.RLock()
        self._state = State.UNCONFIGURED
        self._reason = self._message = ""
        self._estop = False
        self._epoch = self._changes = 0
        self._refused_for: tuple[Reason, str] | None = None
        self._clear_counters()

    @property
    def epoch(self) -> int:
        """Number of the present run; a chunk that was begun in an earlier one must not be sent."""
        return self._epoch

    def new_epoch(self) -> None:
        """Disown the inference that is under way: samples and plan were forgotten."""
        with self.lock:
            self._epoch += 1

    @property
    def changes(self) -> int:
        """How often state or reason have changed."""
        return self._changes

    @property
    def state(self) -> State:
        """The state now."""
        return self._state

    @property
    def moving(self) -> bool:
        """Whether commands may go out."""
        return self._state in MOVING

    def configured(self) -> None:
        """The model is loaded and warm."""
        self._set(State.INACTIVE, "", "")

    def unconfigured(self, reason: str = "", message: str = "") -> None:
        """No model: never loaded, cleaned up, or refused for ``reason``."""
        self._set(State.UNCONFIGURED, reason, message)

    def activated(self) -> None:
        """The node was activated: ready to be started, unless the e-stop is pressed."""
        with self.lock:
            self._clear_counters()
            if self._estop:
                self._set(State.STOPPED, "estop", ESTOPPED)
            else:
                self._set(State.READY, "", "")

    def deactivated(self) -> None:
        """The node was deactivated. A latched stop stays latched over it only through the e-stop itself."""
        with self.lock:
            if self._state in ACTIVE:
                self._set(State.INACTIVE, "deactivate", "deactivated; activate the node and call ~/start to go on")

    def start(self) -> Answer:
        """READY -> RUNNING."""
        with self.lock:
            if self._state in MOVING:
                return Answer(True, "running already")
            if self._state is State.PAUSED:
                return Answer(False, "paused; call ~/pause with data: false")
            if self._state in LATCHED:
                first = "" if "~/reset_stop" in self._message else "; call ~/reset_stop first"
                return Answer(False, f"stopped because of {self._reason}: {self._message}{first}")
            if self._state is not State.READY:
                return Answer(False, f"the node is {self._state.name.lower()}; configure and activate it first")
            self._set(State.RUNNING, "", "")
            return Answer(True, "running")

    def stop(self) -> Answer:
        """Any moving state or PAUSED -> READY. Asked for by a person, so a person's ``~/start`` is enough to go on."""
        with self.lock:
            if self._state in MOVING or self._state is State.PAUSED:
                self._set(State.READY, "stop", "stopped by ~/stop or ~/reset; call ~/start to go on")
                return Answer(True, "stopped")
            return Answer(True, f"not running ({self._state.name.lower()}); nothing is sent")

    def pause(self, on: bool) -> Answer:
        """RUNNING <-> PAUSED."""
        with self.lock:
            if on and self._state in MOVING:
                self._set(State.PAUSED, "pause", "paused by ~/pause; call it with data: false to go on")
                return Answer(True, "paused")
            if not on and self._state is State.PAUSED:
                self._set(State.RUNNING, "", "")
                return Answer(True, "running")
            name = self._state.name.lower()
            if on and self._state is State.PAUSED:
                return Answer(True, "paused already")
            return Answer(False, f"{'nothing to pause' if on else 'not paused'}: the policy is {name}")

    def latch(self, reason: str, message: str, *, error: bool = False) -> None:
        """Stop until ``~/reset_stop``: gate violation, model exception, e-stop. The first cause is kept."""
        with self.lock:
            if self._state in ACTIVE and self._state not in LATCHED:
                self._set(State.ERROR if error else State.STOPPED, reason, message)
                self._latched(reason, message)

    def estop(self, pressed: bool) -> None:
        """Follow the e-stop topic. Pressing latches; releasing alone clears nothing."""
        with self.lock:
            self._estop = pressed
            if pressed:
                self.latch("estop", ESTOPPED)

    def reset_stop(self) -> Answer:
        """Latched -> READY, unless the e-stop is still pressed."""
        with self.lock:
            if self._state not in LATCHED:
                return Answer(False, f"no stop is latched; the policy is {self._state.name.lower()}")
            if self._estop:
                return Answer(False, "e-stop is still pressed; publish false on ~/estop first")
            self._set(State.READY, "", "")
            return Answer(True, "stop cleared; call ~/start to go on")

    def refused(self, refusal: Refusal) -> bool:
        """Count a refused tick; True when the cause is new (worth a log line)."""
        with self.lock:
            self._ticks += 1
            self._refusals[refusal.reason.value] += 1
            if self._state not in MOVING:
                return False
            # The message counts up ages; the cause is the rule and the stream.
            cause = (refusal.reason, refusal.source)
            new = self._state is not State.REFUSING or self._refused_for != cause
            self._refused_for = cause
            self._set(State.REFUSING, refusal.reason.value, refusal.message)
            return new

    def rejected(self, reason: str) -> None:
        """Count a chunk that was computed and not sent."""
        with self.lock:
            self._ticks += 1
            self._refusals[reason] += 1

    def underrun(self, message: str) -> None:
        """The queue has run empty and the robot comes to rest; the next chunk goes on. Says so while RUNNING."""
        with self.lock:
            if self._state is State.RUNNING and not self._reason:
                self._set(State.RUNNING, "underrun", message)

    def sent(self, overhead_s: float, stages_s: Mapping[str, float], usual: bool = True) -> bool:
        """Count a chunk that is executed; True when it ended a time of refusals (worth a log line).

        Args:
            overhead_s: newest stamp to now, without the model.
            stages_s: stage -> seconds, ``model`` among them.
            usual: ``Chunk.usual``; False: its times are in no median and no percentile.
        """
        with self.lock:
            self._ticks += 1
            self._chunks += 1
            if usual:
                self._overhead_s.append(overhead_s)
                for stage, seconds in stages_s.items():
                    self._stages_s.setdefault(stage, deque(maxlen=LATENCY_WINDOW)).append(seconds)
            recovered = self._state is State.REFUSING
            if self._state in MOVING and self._reason:
                self._set(State.RUNNING, "", "")
            return recovered

    def snapshot(self) -> Snapshot:
        """Everything at one instant."""
        with self.lock:
            return Snapshot(
                self._state,
                self._reason,
                self._message,
                self._ticks,
                self._chunks,
                dict(self._refusals),
                _percentiles(self._stages_s.get("model", deque())),
                _percentiles(self._overhead_s),
                {stage: _percentiles(seconds) for stage, seconds in self._stages_s.items()},
            )

    def _set(self, state: State, reason: str, message: str) -> None:
        with self.lock:
            if (state in MOVING) != (self._state in MOVING):
                self._epoch += 1
            self._changes += (state, reason) != (self._state, self._reason)
            self._state, self._reason, self._message = state, reason, message

    def _clear_counters(self) -> None:
        self._ticks = self._chunks = 0
        self._refusals: Counter[str] = Counter()
        self._stages_s: dict[str, deque[float]] = {}
        self._overhead_s: deque[float] = deque(maxlen=LATENCY_WINDOW)


def _percentiles(values: deque[float]) -> tuple[float, float]:
    if not values:
        return float("nan"), float("nan")
    p50, p95 = np.percentile(np.array(values), [50.0, 95.0])
    return float(p50), float(p95)
