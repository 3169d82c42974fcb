"""What a subscriber may find fault with: limits, commands after a stop, a stop without a reason."""

from __future__ import annotations

import bisect
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from chaos_rig import LATCHED, MOVING
from chaos_robot import ChaosRobot, Heard, as_points, stamp_of

from groot_ros.control.layout import Layout
from groot_ros.msg import PolicyStatus
from groot_ros.simulation.trajectory import TrajectoryFollower, TrajectoryRefused

FINE_NS = 1_000_000  # between looks at the trajectory that is being executed
SLACK = 1e-3  # of a limit: times are whole nanoseconds, velocities are compared over a millisecond
# A robot that is seen at its limit, in float32, is told to stand where it is seen.
POSITION_SLACK = 1e-6
BASE = ["base.linear.x", "base.angular.z"]
ROUNDING_S = 2e-6  # of the times in messages, and of the time of publication
MARGIN_TICKS = 3  # one for the tick that was commanded, one until the first changed one, one for the robot's clock
STAMP_NS = 2_000_000  # a command may have been on its way while the status was written


@dataclass
class Findings:
    """What came of some looks.

    Attributes:
        wrong: violations, in words.
        commands: checked, per output.
        stops: reason -> times the robot was stopped or refused for it.
        late: trajectories that were published after their second point, from where on they may differ from the last.
    """

    wrong: list[str] = field(default_factory=list)
    commands: Counter[str] = field(default_factory=Counter)
    stops: Counter[str] = field(default_factory=Counter)
    late: int = 0


@dataclass
class _Stream:
    """Where a stream of values stands: stamp, values, and how fast they were going; None: not known."""

    stamp_ns: int
    values: np.ndarray
    speed: np.ndarray | None
    ticks: float = 1.0  # that ``speed`` is the mean of


class Checks:
    """Looks at what came since the last look; the state of the robot is carried on.

    Args:
        robot: what it heard.
    """

    def __init__(self, robot: ChaosRobot) -> None:
        self._robot = robot
        embodiment = robot.embodiment
        self._period_ns = round(1e9 / embodiment.control.rate_hz)
        self._period_s = self._period_ns * 1e-9
        space = Layout(embodiment).space
        self._limits = {
            name: (space.lower[i], space.upper[i], space.velocity[i], space.acceleration[i])
            for i, name in enumerate(space.names)
        }
        self._follower: TrajectoryFollower | None
        self._state: tuple[np.ndarray, np.ndarray] | None
        self._at_ns = 0
        self._streams: dict[str, _Stream] = {}
        self.forget()

    def look(self, *, abrupt: bool) -> Findings:
        """Everything since the last look.

        Args:
            abrupt: what is sent tick by tick may have been told to stand at once (control gap, clock).
        """
        found = Findings()
        with self._robot.changed:
            heard = {name: kept[self._seen[name] :] for name, kept in self._robot.commands.items()}
            statuses = self._robot.statuses[self._statuses :]
            # What is sent on every tick goes to one output after the other: half a tick waits for the next look.
            whole = min(len(kept) for name, kept in heard.items() if name != "arm")
            heard = {name: kept if name == "arm" else kept[:whole] for name, kept in heard.items()}
            self._seen = {name: self._seen[name] + len(kept) for name, kept in heard.items()}
            self._statuses = len(self._robot.statuses)
        found.commands.update({name: len(kept) for name, kept in heard.items()})
        speeds = self._trajectories(heard["arm"], found)
        self._stream("gripper", ["gripper"], heard["gripper"], heard["gripper"], abrupt, found)
        self._stream("base", BASE, heard["base"], heard["gripper"], abrupt, found)
        self._stops(heard, statuses, speeds, abrupt, found)
        return found

    def forget(self) -> None:
        """Leave out what has come since the last look; what comes next begins in the middle of things."""
        with self._robot.changed:
            # Half a tick that has come belongs to what comes next, else the streams stay out of step.
            whole = min(len(kept) for name, kept in self._robot.commands.items() if name != "arm")
            self._seen = {name: len(kept) if name == "arm" else whole for name, kept in self._robot.commands.items()}
            self._statuses = len(self._robot.statuses)
        self._follower = self._state = None
        self._streams.clear()
        self._was_moving = False

    # --- limits -------------------------------------------------------------------------------------------------------

    def _ros_ns(self, sent_ns: int) -> int:
        """The robot's time at a system time."""
        log = self._robot.clock_log
        if not log:
            return sent_ns
        return log[max(bisect.bisect_right(log, (sent_ns, 1 << 62)) - 1, 0)][1]

    def _before_the_jump(self, sent_ns: int) -> int:
        """The robot's time right before the last one at which it was set back."""
        log = self._robot.clock_log
        end = bisect.bisect_right(log, (sent_ns, 1 << 62))
        back = [i for i in range(max(end - 2000, 1), end) if log[i][1] < log[i - 1][1]]
        return log[back[-1] - 1][1] if back else self._at_ns

    def _trajectories(self, heard: list[Heard], found: Findings) -> list[tuple[int, float]]:
        """Execute them as a joint_trajectory_controller does; (system time, speed/acceleration left) on the way."""
        speeds: list[tuple[int, float]] = []
        joints = self._robot.arm
        for one in heard:
            now_ns, points = self._ros_ns(one.sent_ns), as_points(one.message)
            stamp_ns = stamp_of(one.message)
            if self._state is not None and now_ns < self._at_ns - FINE_NS:  # the clock was set back
                self._advance(self._before_the_jump(one.sent_ns), one.sent_ns, speeds, found)
            if self._follower is None or now_ns < self._at_ns - FINE_NS:
                held = self._state[0] if self._state is not None else points[0].positions
                self._follower, self._at_ns = TrajectoryFollower(joints, held), now_ns
                if self._state is not None:
                    self._state = self._follower.sample(now_ns)
            if self._state is not None:
                self._advance(now_ns, one.sent_ns, speeds, found)
            try:
                self._follower.receive(one.message.joint_names, points, stamp_ns, now_ns)
            except TrajectoryRefused as error:
                found.wrong.append(f"a controller refuses a trajectory: {error}")
                continue
            if self._state is None:  # where it was going before is not known
                self._at_ns, self._state = now_ns, self._follower.sample(now_ns)
            # The first point is the one under way, and the way to the second is the old one, but for a start from rest.
            starts = not any(points[0].velocities)
            changed_ns = stamp_ns + points[0 if starts else min(1, len(points) - 1)].time_from_start_ns
            late_s = (now_ns - changed_ns) * 1e-9
            self._spliced(now_ns, late_s, found)
        return speeds

    def _spliced(self, now_ns: int, late_s: float, found: Findings) -> None:
        """A trajectory that comes in time starts from where the robot is; one that is late is off by its lateness."""
        assert self._follower is not None and self._state is not None
        late_s = max(late_s, 0.0)
        found.late += late_s > 0
        position, velocity = self._follower.sample(now_ns)
        for i, joint in enumerate(self._robot.arm):
            acceleration = self._limits[joint][3]
            jump, kink = abs(position[i] - self._state[0][i]), abs(velocity[i] - self._state[1][i])
            if jump > acceleration * late_s**2 + 1e-7 or kink > 2 * acceleration * (late_s + ROUNDING_S):
                found.wrong.append(
                    f"arm: a trajectory, {late_s:.4f} s late, takes {joint} over with a jump of {jump:.3g} rad and "
                    f"{kink:.3g} rad/s"
                )
        self._state = (position, velocity)

    def _advance(self, until_ns: int, sent_ns: int, speeds: list[tuple[int, float]], found: Findings) -> None:
        assert self._follower is not None and self._state is not None
        low, high, fastest, hardest = np.array([self._limits[joint] for joint in self._robot.arm]).T
        position, velocity = self._state
        while self._at_ns < until_ns:
            step_ns = min(FINE_NS, until_ns - self._at_ns)
            if not self._follower.busy(self._at_ns) and not velocity.any():
                step_ns = until_ns - self._at_ns
            self._at_ns += step_ns
            now, speed = self._follower.sample(self._at_ns)
            step_s = step_ns * 1e-9
            bad = {
                "position": (now < low - POSITION_SLACK) | (now > high + POSITION_SLACK),
                "velocity": (abs(speed) > fastest * (1 + SLACK))
                | (abs(now - position) > fastest * step_s * (1 + SLACK) + 1e-9),
                "acceleration": abs(speed - velocity) > hardest * step_s * (1 + SLACK) + 1e-6,
            }
            for rule, columns in bad.items():
                for i in np.flatnonzero(columns):
                    found.wrong.append(
                        f"arm: {rule} of {self._robot.arm[i]} at {self._at_ns}: {position[i]:.9f} rad "
                        f"{velocity[i]:.6f} rad/s -> {now[i]:.9f} rad {speed[i]:.6f} rad/s in {step_s:.4f} s"
                    )
            position, velocity = now, speed
            speeds.append((sent_ns - (until_ns - self._at_ns), float((abs(speed) / hardest).max())))
        self._state = (position, velocity)

    def _stream(
        self, output: str, names: list[str], heard: list[Heard], stamped: list[Heard], abrupt: bool, found: Findings
    ) -> None:
        """Neighbouring values of one output; ``stamped`` are the messages of the same ticks that have a stamp."""
        low, high, fastest, hardest = np.array([self._limits[name] for name in names]).T
        for one, other in zip(heard, stamped, strict=True):
            stamp_ns = stamp_of(other.message)
            values = _values(one.message)
            rests_at_zero = output == "base"
            if (
                (values < low - POSITION_SLACK).any()
                or (values > high + POSITION_SLACK).any()
                or not np.isfinite(values).all()
            ):
                found.wrong.append(f"{output}: {values} outside {low} .. {high}")
            last = self._streams.get(output)
            if last is None or stamp_ns < last.stamp_ns:
                self._streams[output] = _Stream(stamp_ns, values, None)
                continue
            ticks = (stamp_ns - last.stamp_ns) / self._period_ns
            standing = not values.any() if rests_at_zero else (values == last.values).all()
            if standing and abrupt:
                self._streams[output] = _Stream(stamp_ns, values, np.zeros(len(names)))
                continue
            # A simulated clock may skip ticks: then time did not pass without commands, it jumped.
            skipped = max(ticks, 1.0) if self._robot.clock_log else 1.0
            before = last.speed if ticks == skipped else np.zeros(len(names))
            speed = (values - last.values) / (skipped * self._period_s)
            apart_s = 0.5 * (skipped + last.ticks) * self._period_s  # from the middle of one mean to that of the other
            if ticks == 0:
                found.wrong.append(f"{output}: two commands for one tick, {last.values} and {values}")
            if (abs(speed) > fastest * (1 + SLACK) + 1e-9).any():
                found.wrong.append(f"{output}: {last.values} -> {values} on the next of {ticks:g} ticks, too fast")
            if before is not None and (abs(speed - before) > hardest * apart_s * (1 + SLACK) + 1e-9).any():
                found.wrong.append(
                    f"{output}: {before} per s -> {speed} per s after {ticks:g} ticks, above the acceleration limit"
                )
            self._streams[output] = _Stream(stamp_ns, values, speed, skipped)

    # --- stops --------------------------------------------------------------------------------------------------------

    def _stops(
        self,
        heard: dict[str, list[Heard]],
        statuses: list[Heard],
        speeds: list[tuple[int, float]],
        abrupt: bool,
        found: Findings,
    ) -> None:
        sent = sorted((one.sent_ns, name) for name, kept in heard.items() for one in kept)
        moments = [moment for moment, _ in sent]
        for i, one in enumerate(statuses):
            status: PolicyStatus = one.message
            moving = status.state in MOVING
            if self._was_moving and not moving:
                found.stops[status.reason] += 1
                if not (status.reason and status.message):
                    found.wrong.append(f"the robot was stopped without a reason: state {status.state}")
                self._comes_to_rest(one.sent_ns, speeds, found)
                self._streams_come_to_rest(one.sent_ns, heard, found)
            if status.state == PolicyStatus.REFUSING and (i == 0 or statuses[i - 1].message.reason != status.reason):
                found.stops[status.reason] += 1
            if status.state in (*LATCHED, PolicyStatus.REFUSING, PolicyStatus.PAUSED) and not (
                status.reason and status.message
            ):
                found.wrong.append(f"state {status.state} is not explained")
            self._was_moving = moving
            if not moving and not status.braking:
                until_ns = statuses[i + 1].sent_ns if i + 1 < len(statuses) else one.sent_ns
                allowed = [moment for moment in self._robot.allowed if moment > one.sent_ns - 10**9]
                until_ns = min([until_ns, *(moment for moment in allowed if moment >= one.sent_ns)])
                first = bisect.bisect_right(moments, one.sent_ns + STAMP_NS)
                # A start that was asked for shortly before may be in force already.
                asked = any(one.sent_ns - 10**8 <= moment <= one.sent_ns for moment in allowed)
                if first < len(moments) and moments[first] < until_ns and not asked:
                    found.wrong.append(
                        f"a command to {sent[first][1]} {1e-9 * (moments[first] - one.sent_ns):.3f} s after a status "
                        f"that says stopped (state {status.state}, {status.reason}) and not braking"
                    )

    def _streams_come_to_rest(self, stopped_ns: int, heard: dict[str, list[Heard]], found: Findings) -> None:
        """After a stop, speeds only fall, and the last command comes as soon as the slowest can rest."""
        allowed = min((m for m in self._robot.allowed if m >= stopped_ns), default=1 << 62)
        after = [one for one in heard["base"] if stopped_ns < one.sent_ns < allowed]
        _, high, fastest, hardest = np.array([self._limits[name] for name in BASE]).T
        # A speed changes by `fastest` per s at most, and that takes fastest / hardest to begin and to end.
        rest_s = float((high / fastest + 2 * fastest / hardest).max()) + MARGIN_TICKS * self._period_s
        if after and after[-1].sent_ns - stopped_ns > rest_s * 1e9:
            found.wrong.append(f"commands for {1e-9 * (after[-1].sent_ns - stopped_ns):.3f} s after a stop")
        turn_s = float((fastest / hardest).max()) + MARGIN_TICKS * self._period_s
        falling = np.abs([_values(one.message) for one in after if one.sent_ns - stopped_ns > turn_s * 1e9])
        if len(falling) > 1 and (np.diff(falling, axis=0) > 1e-9).any():
            found.wrong.append(f"the base gets faster after a stop: {falling.tolist()}")

    def _comes_to_rest(self, stopped_ns: int, speeds: list[tuple[int, float]], found: Findings) -> None:
        """After the first status of a stop the arm only slows down, for as long as it has to."""
        begin_ns = stopped_ns + 2 * self._period_ns
        allowed = min((m for m in self._robot.allowed if m >= stopped_ns), default=1 << 62)
        after = [(moment, left) for moment, left in speeds if begin_ns <= moment < allowed]
        if not after:
            return
        for (_, before), (moment, left) in pairwise(after):
            if left > before + 1e-4:
                found.wrong.append(
                    f"the arm gets faster {1e-9 * (moment - stopped_ns):.3f} s after a stop: "
                    f"{before:.4f} s to rest, then {left:.4f} s"
                )
                break
        deadline_ns = begin_ns + round(after[0][1] * 1e9) + MARGIN_TICKS * self._period_ns
        late = [moment for moment, left in after if left > 1e-6 and moment > deadline_ns]
        if late:
            found.wrong.append(f"the arm still moves {1e-9 * (late[0] - stopped_ns):.3f} s after a stop")


def _values(message: object) -> np.ndarray:
    if hasattr(message, "linear"):
        return np.array([message.linear.x, message.angular.z])
    return np.array(message.position)
