"""A bag through the same assembler and the same policy as live topics: chunks, and a report about them.

The bag is read, and observations are assembled and encoded, in a thread of their own, one tick ahead of the model.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groot_ros.bags.read import Bag, BagMessage
from groot_ros.bags.report import JointError, ReplayedChunk, ReplayReport, StreamReport, joint_errors, spread
from groot_ros.bags.topics import COMMAND_PREFIX, INSTRUCTION, BagError
from groot_ros.control.layout import Layout
from groot_ros.embodiment.schema import Embodiment
from groot_ros.embodiment.vocabulary import JOINT_TRAJECTORY
from groot_ros.observation.assembler import Assembler
from groot_ros.observation.types import Observation, Refusal
from groot_ros.policy.ahead import Prepared, TwoSteps, ahead
from groot_ros.policy.base import Policy, due_ns
from groot_ros.simulation.trajectory import Point, TrajectoryFollower, TrajectoryRefused

# A bag whose log times and header stamps are this far apart was recorded on two clocks: no tick could be assembled.
MAX_CLOCK_DIFFERENCE_NS = 60_000_000_000


def replay(
    path: str | Path,
    embodiment: Embodiment,
    policy: Policy,
    *,
    instruction: str | None = None,
    every_s: float | None = None,
    seed: int | None = 0,
    progress: Callable[[float, float], None] | None = None,
) -> ReplayReport:
    """Replay ``path``.

    A tick at time t sees exactly the messages with log time <= t, as a node did that received them then.

    Args:
        path: rosbag2 folder or file.
        embodiment: the robot.
        policy: called for every tick that gets an observation.
        instruction: for all ticks; None takes the bag's instruction topic, before its first message the YAML's default.
        every_s: time between ticks; None: half a chunk, as the policy node does.
        seed: of every chunk's noise; None draws a fresh one per chunk.
        progress: called at every tick with seconds done and seconds in all.

    Raises:
        BagError: see ``Bag``; or stamps and log times are of different clocks.
        ValueError: ``every_s`` is not positive, or the policy's chunk is not of this robot.
    """
    period_s = max(1, embodiment.horizon // 2) * embodiment.dt_s if every_s is None else every_s
    if not period_s > 0:
        raise ValueError(f"every_s: expected a positive time, found {period_s}")
    with Bag(path, embodiment) as bag:
        steps = TwoSteps(policy)
        reading = _Reading(bag, embodiment, steps.prepare, instruction, round(period_s * 1e9))
        run = _Run(embodiment, steps, round(period_s * 1e9), seed)
        with closing(ahead(reading.stretches)) as stretches:
            for stretch in stretches:
                run.take(stretch)
                if progress is not None:
                    progress(1e-9 * (stretch.end_ns - bag.start_ns), bag.duration_s)
        if progress is not None:
            progress(bag.duration_s, bag.duration_s)
        return _report(bag, embodiment, reading, run)


def observations(
    path: str | Path, embodiment: Embodiment, *, instruction: str | None, every_s: float
) -> tuple[list[Observation], dict[str, str]]:
    """What ``replay`` would show a policy, and why it would show it nothing: reason -> first message. No inference.

    Raises:
        BagError: as ``replay``.
    """
    with Bag(path, embodiment) as bag:
        reading = _Reading(bag, embodiment, lambda seen: Prepared(seen, None, 0.0), instruction, round(every_s * 1e9))
    found = [stretch.tick.observation for stretch in reading.stretches() if stretch.tick is not None]
    return found, reading.refusal_messages


@dataclass
class _Stretch:
    """What the bag has up to a tick, or to its end.

    Attributes:
        commands, states: messages, in their order; stamps (ns) with the states.
        end_ns: the tick, or the log time of the last message.
        tick: what the tick sees; None at the bag's end, and where it is refused.
    """

    commands: list[BagMessage] = field(default_factory=list)
    states: list[tuple[int, Any]] = field(default_factory=list)
    end_ns: int = 0
    tick: Prepared | None = None


class _Reading:
    """The bag's messages into the assembler, and out of it observations. In one thread."""

    def __init__(
        self,
        bag: Bag,
        embodiment: Embodiment,
        prepare: Callable[[Observation], Prepared],
        instruction: str | None,
        period_ns: int,
    ) -> None:
        self._path, self._embodiment, self._prepare = bag.path, embodiment, prepare
        self._given = instruction
        self._instruction = embodiment.language.default or "" if instruction is None else instruction
        self._period_ns = period_ns
        self._assembler = Assembler(embodiment)
        self._next_tick_ns = bag.start_ns + period_ns
        self.ticks = 0
        self.refused: Counter[str] = Counter()
        self.refusal_messages: dict[str, str] = {}
        self.instructions: list[tuple[int, str]] = []
        self.stamps_ns: dict[str, list[tuple[int, int]]] = {name: [] for name in self._assembler.streams}
        self.rejected: dict[str, Counter[str]] = {name: Counter() for name in self._assembler.streams}
        self._stretch = _Stretch()

    def stretches(self) -> Iterator[_Stretch]:
        """One per tick, and one for what follows the last."""
        with Bag(self._path, self._embodiment) as bag:  # SQLite's files are for the thread that opened them
            for item in bag.messages():
                while self._next_tick_ns < item.log_ns:
                    yield self._tick(self._next_tick_ns)
                    self._next_tick_ns += self._period_ns
                self._stretch.end_ns = item.log_ns
                self._take(item)
        yield self._stretch

    def _take(self, item: BagMessage) -> None:
        if item.source == INSTRUCTION:
            if self._given is None:
                self._instruction = str(item.message.data)
        elif item.source.startswith(COMMAND_PREFIX):
            self._stretch.commands.append(item)
        elif item.source in self.rejected:  # what a person commands while demonstrating is for the recorder only
            self._take_sample(item)

    def _take_sample(self, item: BagMessage) -> None:
        stamp_ns = _nanoseconds(item.message.header.stamp)
        # The first stamp tells the clock; a later one that is far off, or none at all, the assembler refuses.
        first = not self.stamps_ns[item.source]
        if first and stamp_ns > 0 and abs(item.log_ns - stamp_ns) > MAX_CLOCK_DIFFERENCE_NS:
            raise BagError(
                f"{self._path}: {item.topic} has header stamp {stamp_ns} ns but was recorded at {item.log_ns} ns: "
                "two clocks; record simulated time with `ros2 bag record --use-sim-time`"
            )
        self.stamps_ns[item.source].append((stamp_ns, item.log_ns))
        refusal = self._assembler.add(item.source, item.message, item.log_ns)
        if refusal is not None:
            self.rejected[item.source][refusal.reason.value] += 1
        elif item.source in self._embodiment.state_streams:
            self._stretch.states.append((stamp_ns, item.message))

    def _tick(self, tick_ns: int) -> _Stretch:
        done, self._stretch = self._stretch, _Stretch()
        done.end_ns = tick_ns
        self.ticks += 1
        observation = self._assembler.assemble(tick_ns, self._instruction)
        if isinstance(observation, Refusal):
            self.refused[observation.reason.value] += 1
            self.refusal_messages.setdefault(observation.reason.value, observation.message)
            return done
        if not self.instructions or self.instructions[-1][1] != observation.instruction:
            self.instructions.append((tick_ns, observation.instruction))
        done.tick = self._prepare(observation)
        return done


class _Run:
    """What the policy says, and what became of it in the bag."""

    def __init__(self, embodiment: Embodiment, steps: TwoSteps, period_ns: int, seed: int | None) -> None:
        self._embodiment, self._steps = embodiment, steps
        self.period_ns, self._seed = period_ns, seed
        self._layout = Layout(embodiment)
        self.chunks: list[ReplayedChunk] = []
        self.commands = _Commands(embodiment)
        self.states = _States(embodiment)

    def take(self, stretch: _Stretch) -> None:
        for item in stretch.commands:
            self.commands.take(item)
        for stamp_ns, message in stretch.states:
            self.states.take(stamp_ns, message)
        if stretch.tick is not None:
            self._tick(stretch.end_ns, stretch.tick)

    def _tick(self, tick_ns: int, prepared: Prepared) -> None:
        begin = time.perf_counter()
        chunk = self._steps.act(prepared, seed=self._seed)
        latency_s = prepared.seconds + time.perf_counter() - begin
        self.chunks.append(ReplayedChunk(tick_ns, latency_s, dict(prepared.observation.ages_s), chunk))
        values = self._layout.values(chunk.actions)
        positions = values[:, [self._layout.joint_columns[joint] for joint in self._embodiment.action_joints]]
        times_ns = due_ns(chunk.stamp_ns, chunk.dt_s, len(values))
        # Points after the next tick's would have been replaced: every instant is judged once.
        executed = times_ns <= chunk.stamp_ns + self.period_ns
        self.commands.expect(times_ns[executed], positions[executed])
        self.states.expect(times_ns[executed], positions[executed])


def _report(bag: Bag, embodiment: Embodiment, reading: _Reading, run: _Run) -> ReplayReport:
    stages = {stage for item in run.chunks for stage in item.chunk.timings_s}
    return ReplayReport(
        bag=str(bag.path),
        embodiment=embodiment.name,
        duration_s=bag.duration_s,
        every_s=1e-9 * run.period_ns,
        ticks=reading.ticks,
        refused=dict(reading.refused),
        refusal_messages=reading.refusal_messages,
        streams={name: _stream_report(name, bag, reading, run.chunks) for name in reading.stamps_ns},
        chunks=run.chunks,
        latency_s=spread([item.latency_s for item in run.chunks]),
        stages_s={
            stage: spread([item.chunk.timings_s[stage] for item in run.chunks if stage in item.chunk.timings_s])
            for stage in sorted(stages)
        },
        instructions=reading.instructions,
        command_errors=run.commands.errors(bag.start_ns + round(1e9 * bag.duration_s)),
        state_errors=run.states.errors(),
        commands=(run.commands.count, run.commands.refused),
    )


def _stream_report(name: str, bag: Bag, reading: _Reading, chunks: list[ReplayedChunk]) -> StreamReport:
    times = np.array(reading.stamps_ns[name], dtype=np.int64).reshape(-1, 2)
    stamps, logs = times[:, 0], times[:, 1]
    span_s = 1e-9 * float(stamps.max() - stamps.min()) if len(stamps) > 1 else 0.0
    return StreamReport(
        topic=bag.sources()[name].name,
        messages=len(times),
        rejected=dict(reading.rejected[name]),
        rate_hz=(len(times) - 1) / span_s if span_s > 0 else None,
        age_s=spread([item.ages_s[name] for item in chunks if name in item.ages_s]),
        delay_s=spread(1e-9 * (logs - stamps)),
    )


class _Commands:
    """The recorded joint trajectories, followed as a trajectory controller does, against what the chunks say."""

    def __init__(self, embodiment: Embodiment) -> None:
        self._outputs = {
            f"{COMMAND_PREFIX}{name}": [joint for key in output.keys for joint in embodiment.action[key].names]
            for name, output in embodiment.outputs.items()
            if output.type == JOINT_TRAJECTORY
        }
        carried = {joint for joints in self._outputs.values() for joint in joints}
        self._columns = [i for i, joint in enumerate(embodiment.action_joints) if joint in carried]
        self._joints = [embodiment.action_joints[i] for i in self._columns]
        self._followers: dict[str, TrajectoryFollower] = {}
        self._expected: list[tuple[int, NDArray[np.float64]]] = []
        self._differences: list[NDArray[np.float64]] = []
        self.count = 0
        self.refused = 0

    def expect(self, due_ns: NDArray[np.int64], positions: NDArray[np.float64]) -> None:
        """Points (times [N], positions [N, J]) to compare as soon as all commands up to then are known."""
        self._expected += [(int(due), row) for due, row in zip(due_ns, positions[:, self._columns], strict=True)]

    def take(self, item: BagMessage) -> None:
        self._settle(item.log_ns)
        self.count += 1
        joints = self._outputs.get(item.source)
        if joints is None:  # a command of another type says nothing about joints by name
            return
        message = item.message
        points = [
            Point(_nanoseconds(point.time_from_start), point.positions.tolist(), point.velocities.tolist())
            for point in message.points
        ]
        follower = self._followers.get(item.source) or TrajectoryFollower(joints, np.full(len(joints), np.nan).tolist())
        try:
            follower.receive(list(message.joint_names), points, _nanoseconds(message.header.stamp), item.log_ns)
        except TrajectoryRefused:
            self.refused += 1
            return
        self._followers[item.source] = follower

    def errors(self, end_ns: int) -> list[JointError]:
        """Points due after the end of the bag are left out: what was commanded then is not known."""
        self._settle(end_ns)
        return joint_errors(self._joints, self._differences)

    def _settle(self, before_ns: int) -> None:
        """Compare all points due before ``before_ns`` with what was commanded at their time."""
        later = []
        for time_ns, predicted in self._expected:
            if time_ns >= before_ns:
                later.append((time_ns, predicted))
            elif self._outputs and len(self._followers) == len(self._outputs):
                commanded = {
                    joint: value
                    for follower in self._followers.values()
                    for joint, value in zip(follower.joints, follower.sample(time_ns)[0], strict=True)
                }
                self._differences.append(predicted - np.array([commanded[joint] for joint in self._joints]))
        self._expected = later


class _States:
    """The recorded joint positions, interpolated at the due times of the chunks' points."""

    def __init__(self, embodiment: Embodiment) -> None:
        self._joints = embodiment.action_joints
        self._positions: dict[str, list[tuple[int, float]]] = {joint: [] for joint in self._joints}
        self._due_ns: list[NDArray[np.int64]] = []
        self._predicted: list[NDArray[np.float64]] = []

    def take(self, stamp_ns: int, message: Any) -> None:
        for joint, position in zip(getattr(message, "name", ()), getattr(message, "position", ()), strict=False):
            if joint in self._positions:
                self._positions[joint].append((stamp_ns, float(position)))

    def expect(self, due_ns: NDArray[np.int64], positions: NDArray[np.float64]) -> None:
        self._due_ns.append(due_ns)
        self._predicted.append(positions)

    def errors(self) -> list[JointError]:
        if not self._due_ns or not all(self._positions.values()):
            return []
        due_ns = np.concatenate(self._due_ns)
        start_ns = int(due_ns.min())
        recorded = []
        for joint in self._joints:
            stamps_ns, positions = zip(*self._positions[joint], strict=True)
            # Differences to one instant are exact as float64; nanoseconds since 1970 are not.
            times_s = 1e-9 * (np.array(stamps_ns, dtype=np.int64) - start_ns)
            recorded.append(np.interp(1e-9 * (due_ns - start_ns), times_s, positions, left=np.nan, right=np.nan))
        return joint_errors(self._joints, np.concatenate(self._predicted) - np.stack(recorded, axis=1))


def _nanoseconds(value: Any) -> int:
    return int(value.sec) * 1_000_000_000 + int(value.nanosec)
