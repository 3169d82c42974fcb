"""What goes out to the robot, and when nothing does any more. Knows neither ROS nor the model.

Everything that commands holds the supervisor's lock: after a stop has returned, all that follows is the way to rest.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from groot_ros.control.continuity import Continuity
from groot_ros.control.layout import Layout
from groot_ros.control.limiter import Motion
from groot_ros.control.plans import Accepted
from groot_ros.control.timeline import ChunkTimeline
from groot_ros.control.track import Track
from groot_ros.embodiment.vocabulary import JOINT_TRAJECTORY
from groot_ros.policy.supervisor import Supervisor

T = TypeVar("T")


class Sender(Protocol):
    """Where commands go (``nodes.commands.CommandPublishers``)."""

    def send_track(self, track: Track, tick: int, stamp_ns: int) -> None:
        """To outputs that take whole trajectories: the rows after ``tick``.

        The commander begins with the row under way: a controller that goes to a first point that lies ahead begins
        at the measured joint, which lags, and would jump.
        """
        ...

    def send_step(self, motion: Motion, time_ns: int) -> None:
        """To outputs that take what is to be now."""
        ...


class Commander:
    """Executes the timeline on control ticks, and stops it.

    Args:
        layout, timeline, continuity, supervisor: the parts of one robot.
        sender: where commands go.
        tick: the control tick that was worked on last.
        busy_s: how long the inference under way has taken.
        timeout_s: an inference that takes longer stops the robot.
        patience_s: control ticks missed for longer stop the robot.
    """

    def __init__(
        self,
        layout: Layout,
        timeline: ChunkTimeline,
        continuity: Continuity,
        supervisor: Supervisor,
        sender: Sender,
        *,
        tick: Callable[[], int],
        busy_s: Callable[[], float],
        timeout_s: float,
        patience_s: float,
    ) -> None:
        self.dry_run = False
        self._layout, self._timeline, self._continuity = layout, timeline, continuity
        self._supervisor, self._sender, self._tick, self._busy_s = supervisor, sender, tick, busy_s
        self._timeout_s, self._patience_s = timeout_s, patience_s
        self._streamed = _streamed(layout)
        self._sent: Motion | None = None
        self._worked: int | None = None
        self._settled = True
        self._stood = False  # streams stand while trajectories wait for ROS time to go on
        self._changed = threading.Condition(supervisor.lock)

    @property
    def settled(self) -> bool:
        """Whether the robot was told to stand still, or nothing."""
        return self._settled

    @property
    def hung_s(self) -> float:
        """How long the inference under way has taken, when that is more than it may; else 0."""
        busy_s = self._busy_s()
        return busy_s if busy_s > self._timeout_s else 0.0

    def wait_settled(self, timeout_s: float) -> bool:
        """Wait until it is, ``timeout_s`` at most."""
        with self._changed:
            return self._changed.wait_for(lambda: self._settled, timeout_s)

    def work(self, tick: int, missed: int) -> None:
        """One control tick; ``missed`` of them passed before it without one."""
        with self._supervisor.lock:
            if self._worked is not None and tick <= self._worked:
                self.stand()  # the clock was set back: what was planned is for other times
            self._worked = tick
            if self._supervisor.moving and self.hung_s:
                text = (
                    f"an inference has taken {self._busy_s():.1f} s, more than inference_timeout_s {self._timeout_s:g}"
                )
                self.brake(lambda: self._supervisor.latch("inference_timeout", text, error=True))
            if missed * self._period_s >= self._patience_s:
                self.held_up(missed * self._period_s)
                return
            if self.dry_run and self._settled:
                return
            track = self._timeline.track
            stood, self._stood = self._stood, False
            if (missed or stood) and self._streamed.any() and track is not None:
                # A run whose first ticks were missed begins where it was to begin.
                begun = self._sent if self._sent is not None and not self._settled else track.motion(tick - missed - 1)
                self._timeline.resume(tick - 1, begun, self._streamed)
            self._step(tick)

    def executed(self, accepted: Accepted) -> None:
        """A chunk has become what is executed: tell the outputs that take trajectories. Called under the lock."""
        if self.dry_run:
            return
        tick = self._tick()
        self._sender.send_track(accepted.track, tick - 1, min(accepted.stamp_ns, self._timeline.pace.time_ns(tick)))
        self._continuity.took_over(accepted.handover)

    def brake(self, transition: Callable[[], T]) -> T:
        """Change state; if that ends the right to move, bring the robot to rest. No chunk can come in between."""
        with self._supervisor.lock:
            moving = self._supervisor.moving
            answer = transition()
            if moving and not self._supervisor.moving:
                self._brake()
            return answer

    def set_dry_run(self, on: bool) -> None:
        """Stop commanding, after braking, or command again; what was planned meanwhile is no longer valid."""
        with self._supervisor.lock:
            if on and not self.dry_run:
                self._brake()
            elif not on and self.dry_run and self._settled:
                self._timeline.forget()  # while it still brakes, the way to rest is what is executed
            self.dry_run = on
            self._supervisor.new_epoch()

    def held_up(self, away_s: float) -> None:
        """The control loop did not run for ``away_s``: where the robot is by now is unknown.

        Streams have stood since, and go on doing so. A controller of trajectories went on alone, and is told to brake.
        """
        with self._supervisor.lock:
            if self._supervisor.moving:
                self._supervisor.latch(
                    "control_gap",
                    f"the control loop did not run for {away_s:.1f} s: the process was stopped, the machine slept or "
                    "is overloaded; look at the robot, then call ~/reset_stop",
                )
                self._brake()
            self.stand()

    def clock_stopped(self) -> None:
        """ROS time stands still: what is sent tick by tick stands at once, and a controller on the same clock has the
        way to rest for when it goes on.
        """
        with self._supervisor.lock:
            if not self._settled and not self._stood:
                self._brake()
                self._send_standing()
                self._stood = True

    def stand(self) -> None:
        """Forget what was planned; what is sent tick by tick stands still where it is (speeds: 0)."""
        with self._supervisor.lock:
            self._timeline.forget()
            self._stood = False
            if not self._settled:
                self._send_standing()
            self._settle()

    def _send_standing(self) -> None:
        if self._sent is None:
            return
        space = self._layout.space
        motion = Motion(space.at_rest(self._sent.values), np.zeros(space.tangent_count))
        self._sender.send_step(motion, self._timeline.pace.time_ns(self._tick()))
        self._sent = motion

    @property
    def _period_s(self) -> float:
        return self._timeline.pace.period_ns * 1e-9

    def _brake(self) -> None:
        tick = self._tick()
        # From the next tick on: a controller is on its way to that one, and to turn off in between would be a kink.
        track = self._timeline.brake(tick + 1)
        if track is not None and not (self.dry_run and self._settled):
            self._sender.send_track(track, tick - 1, self._timeline.pace.time_ns(tick))

    def _step(self, tick: int) -> None:
        step = self._timeline.step(tick)
        observed_ns = self._timeline.observed_ns
        # Without a chunk in force nobody asks for a motion: it may be braking; at rest, someone may have moved it.
        driven = self._supervisor.moving and observed_ns is not None
        if step is None or (step.resting and self._settled and not driven):
            return
        time_ns = self._timeline.pace.time_ns(tick)
        self._sender.send_step(step.motion, time_ns)
        self._sent = step.motion
        if step.resting:
            self._settle()
        else:
            self._settled = False
        if not driven or observed_ns is None:
            return
        self._continuity.stepped(step, (time_ns - observed_ns) * 1e-9 if step.planned else None)
        if not step.planned and self._timeline.mode != "sync":
            self._supervisor.underrun("no chunk in time: the robot comes to rest and waits for the next one")

    def _settle(self) -> None:
        self._settled = True
        self._changed.notify_all()


def _streamed(layout: Layout) -> NDArray[np.bool_]:
    """bool [V]: tangent columns that are sent tick by tick, not as trajectories."""
    result = np.ones(layout.space.tangent_count, dtype=np.bool_)
    for columns in layout.keys.values():
        if layout.embodiment.outputs[columns.output].type == JOINT_TRAJECTORY:
            result[[layout.space.tangent_of[column] for column, _ in columns.lines]] = False
    return result
