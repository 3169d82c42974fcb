"""A robot with every kind of output, its timeline, and a world of virtual time around them: no ROS, no threads."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import yaml

from groot_ros.control.continuity import Continuity
from groot_ros.control.gate import Gate
from groot_ros.control.layout import Layout
from groot_ros.control.limiter import Motion
from groot_ros.control.plans import Accepted, Pace
from groot_ros.control.space import Space
from groot_ros.control.timeline import ChunkTimeline
from groot_ros.control.track import Track
from groot_ros.control.training_range import TrainingRange
from groot_ros.embodiment.schema import Embodiment
from groot_ros.observation.assembler import Assembler
from groot_ros.observation.types import Observation, Refusal
from groot_ros.policy.base import Chunk, Prefix
from groot_ros.policy.commander import Commander
from groot_ros.policy.cycle import Planned, PolicyCycle, Rejected
from groot_ros.policy.supervisor import Supervisor

RATE_HZ = 50.0
PERIOD_NS = 20_000_000
TICK0 = 85_000_000_000
T0 = TICK0 * PERIOD_NS
STEP_TICKS = 5  # a model step of 0.1 s
LEAVES = {
    "rotvec": ["rotvec.x", "rotvec.y", "rotvec.z"],
    "rpy": ["roll", "pitch", "yaw"],
    "rot6d": [f"rot6d.{i}" for i in range(6)],
    "quaternion": ["orientation.z", "orientation.x", "orientation.y", "orientation.w"],
}

ARM = """\
name: bench
embodiment_tag: new_embodiment
step_hz: 10.0
cameras:
  front:
    {topic: /front, type: sensor_msgs/msg/Image, width: 4, height: 4, rate_hz: 50, max_age_s: 0.2, frozen_after_s: null}
state_streams:
  joints: {topic: /joints, type: sensor_msgs/msg/JointState, rate_hz: 100.0, max_age_s: 0.2}
video:
  front: {camera: front}
state:
  arm: {stream: joints, joints: [a, b]}
  grip: {stream: joints, joints: [g], unit: m}
action:
  arm: {joints: [a, b]}
  grip: {joints: [g], unit: m, interpolation: step}
language: {key: task}
delta_indices: {action: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]}
limits:
  a: {lower: -1.0, upper: 3.0, velocity: 1.0, acceleration: 4.0}
  b: {lower: -2.0, upper: 2.0, velocity: 2.0, acceleration: 8.0}
  g: {lower: 0.0, upper: 0.1, velocity: 0.5, acceleration: 20.0}
outputs:
  arm: {topic: /arm, type: trajectory_msgs/msg/JointTrajectory, keys: [arm, grip]}
control: {rate_hz: 50.0}
"""


def arm(**changes: Any) -> Embodiment:
    """Two joints and a gripper that a JointTrajectory moves; ``changes`` replace sections of the YAML."""
    return Embodiment.model_validate({**yaml.safe_load(ARM), **changes})


def mixed(form: str = "rotvec", turn: dict[str, Any] | None = None, **changes: Any) -> Embodiment:
    """The arm, a joint ``c`` as a JointState stream, a tool's pose, a base's speed, and an array with a switch.

    Args:
        form: how the model writes the tool's orientation, see ``LEAVES``.
        turn: more fields of the orientation's state and action key.
    """
    data = yaml.safe_load(ARM)
    place = [f"pose.position.{axis}" for axis in "xyz"]
    leaves = [f"pose.{leaf}" for leaf in LEAVES[form]]
    unit = "rad" if form in ("rotvec", "rpy") else "unitless"
    many = len(leaves)
    bounds = {"lower": [-7] * many, "upper": [7] * many, "velocity": [2] * many, "acceleration": [8] * many}
    data["state_streams"]["tool"] = {
        "topic": "/tool", "type": "geometry_msgs/msg/PoseStamped", "rate_hz": 100.0, "max_age_s": 0.2,
    }  # fmt: skip
    data["limits"]["c"] = {"lower": -1.0, "upper": 1.0, "velocity": 1.5, "acceleration": 6.0}
    data["state"] |= {
        "wrist": {"stream": "joints", "joints": ["c"], "unit": "deg", "sign": [-1], "offset": [0.1]},
        "place": {"stream": "tool", "fields": place, "unit": "m"},
        "turn": {"stream": "tool", "fields": leaves, "unit": unit, **(turn or {})},
    }
    data["action"] |= {
        "wrist": {"joints": ["c"], "unit": "deg", "sign": [-1], "offset": [0.1]},
        "place": {
            "fields": place, "unit": "mm",
            "bounds": {"lower": [-1] * 3, "upper": [1] * 3, "velocity": [0.5] * 3, "acceleration": [3] * 3},
        },
        "turn": {"fields": leaves, "unit": unit, "bounds": bounds, **(turn or {})},
        "drive": {
            "fields": ["linear.x"], "unit": "m/s",
            "bounds": {"lower": [-1], "upper": [1], "velocity": [2], "acceleration": [20]},
        },
        "mode": {
            "fields": ["data.0"], "unit": "unitless", "bounds": {"lower": [-1], "upper": [1]}, "interpolation": "step",
        },
    }  # fmt: skip
    data["outputs"] |= {
        "wrist": {"topic": "/wrist", "type": "sensor_msgs/msg/JointState", "keys": ["wrist"]},
        "tool": {"topic": "/target", "type": "geometry_msgs/msg/PoseStamped", "keys": ["place", "turn"]},
        "base": {"topic": "/cmd_vel", "type": "geometry_msgs/msg/Twist", "keys": ["drive"]},
        "mode": {"topic": "/mode", "type": "std_msgs/msg/Float64MultiArray", "keys": ["mode"]},
    }
    return Embodiment.model_validate({**data, **changes})


def column(space: Space, name: str) -> int:
    """Value column of a joint or number."""
    values, tangents = space.lines
    return int(values[list(tangents).index(space.names.index(name))])


def home(space: Space) -> np.ndarray:
    """All zeros, orientations without a turn [C]."""
    values = np.zeros(space.value_count)
    values[[first + 3 for first, _ in space.rotations]] = 1.0
    return values


def chunk_of(layout: Layout, stamp_ns: int, values: np.ndarray, *, frozen: int = 0, instruction: str = "go") -> Chunk:
    """A chunk that commands ``values`` [H, C]."""
    near = {key: np.zeros((len(values), len(spec.names))) for key, spec in layout.embodiment.action.items()}
    actions = {**near, **layout.model_rows(values, near)}
    rows = {key: row.astype(np.float32) for key, row in actions.items()}
    return Chunk(stamp_ns, layout.embodiment.dt_s, rows, instruction, 0, {"model": 0.01}, frozen)


class Bench:
    """A timeline with the numbers of the node, without its threads."""

    def __init__(self, embodiment: Embodiment, mode: str = "guided", first_delay_ticks: int = 3) -> None:
        self.layout = Layout(embodiment)
        self.space = self.layout.space
        self.gate = Gate(self.layout, PERIOD_NS * 1e-9)
        horizon = embodiment.horizon
        replan_ns = round(horizon // 2 * embodiment.dt_s * 1e9)
        self.pace = Pace(PERIOD_NS, embodiment.dt_s, horizon, replan_ns, PERIOD_NS, first_delay_ticks)
        self.timeline = ChunkTimeline(self.layout, self.gate, self.pace, mode)  # type: ignore[arg-type]

    def rows(self, *targets: tuple[str, Callable[[np.ndarray], np.ndarray]]) -> np.ndarray:
        """[H, C]: home, but for the columns named, which are functions of the row's number 1..H."""
        values = np.repeat(home(self.space)[None], self.pace.horizon, axis=0)
        for name, of_row in targets:
            values[:, column(self.space, name)] = of_row(np.arange(1, self.pace.horizon + 1))
        return values

    def chunk(self, tick: int, values: np.ndarray, **fields: Any) -> Chunk:
        """Of an observation on ``tick``."""
        return chunk_of(self.layout, tick * PERIOD_NS, values, **fields)

    def seen(self, values: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Everything measured, at home by default."""
        known = np.ones(self.space.tangent_count, dtype=np.bool_)
        return home(self.space) if values is None else values, known

    def accept(self, chunk: Chunk, tick: int, seen: np.ndarray | None = None, seen_tick: int | None = None) -> Accepted:
        """Plan and commit on ``tick``."""
        accepted = self.timeline.plan(
            chunk, tick, self.seen(seen), (tick if seen_tick is None else seen_tick) * PERIOD_NS
        )
        assert isinstance(accepted, Accepted), accepted
        assert self.timeline.commit(accepted, tick)
        return accepted


def assert_in_limits(
    space: Space, values: np.ndarray, velocities: np.ndarray, period_s: float = PERIOD_NS * 1e-9
) -> None:
    """Rows [T, C], [T, V]: the cubic between neighbours obeys every limit; what has none may do what it likes."""
    assert np.isfinite(values).all() and np.isfinite(velocities).all()
    columns, tangents = space.lines
    ways = space.minus(values[1:], values[:-1])
    first = (6 * ways / period_s - 4 * velocities[:-1] - 2 * velocities[1:]) / period_s
    last = (2 * velocities[:-1] + 4 * velocities[1:] - 6 * ways / period_s) / period_s
    free = np.isinf(space.velocity)
    with np.errstate(invalid="ignore"):
        assert (np.where(free, 0, np.maximum(np.abs(first), np.abs(last))) <= space.acceleration + 1e-6).all()
    for s in np.linspace(0.0, 1.0, 9):
        time = s * period_s
        speed = velocities[:-1] + first * time + 0.5 * (last - first) * s * time
        assert (np.where(free, 0, np.abs(speed)) <= space.velocity + 1e-7).all()
        way = time * (velocities[:-1] + time * (0.5 * first + (last - first) * s / 6.0))
        at = values[:-1, columns] + way[:, tangents]
        assert (at >= space.lower[tangents] - 1e-7).all() and (at <= space.upper[tangents] + 1e-7).all()
    for value, tangent in space.rotations:
        np.testing.assert_allclose(np.linalg.norm(values[:, value : value + 4], axis=1), 1.0, atol=1e-9)
        turning = np.linalg.norm(velocities[:, tangent : tangent + 3], axis=1)
        assert (turning <= space.velocity[tangent] + 1e-7).all()


class Recorder:
    """Keeps what goes out, and knows where a robot that does as it is told is."""

    def __init__(self) -> None:
        self.tracks: list[tuple[int, int, Track]] = []
        self.steps: list[tuple[int, Motion]] = []

    def send_track(self, track: Track, tick: int, stamp_ns: int) -> None:
        assert stamp_ns <= (tick + 1) * PERIOD_NS
        self.tracks.append((tick, stamp_ns, track))

    def send_step(self, motion: Motion, time_ns: int) -> None:
        self.steps.append((time_ns, motion))


class World:
    """The parts of the node on a clock that the test turns; the robot follows its commands ideally.

    Args:
        say: given the observation and the prefix, the values [H, C] that the model asks for.
        latency_ticks: control ticks that pass while the model runs.
    """

    def __init__(
        self,
        embodiment: Embodiment,
        say: Callable[[Observation, Prefix | None], np.ndarray] | None = None,
        *,
        mode: str = "guided",
        latency_ticks: int = 3,
        training: TrainingRange | None = None,
    ) -> None:
        self.bench = Bench(embodiment, mode)
        self.layout, self.space, self.timeline = self.bench.layout, self.bench.space, self.bench.timeline
        self.say = say or (lambda observation, prefix: self.bench.rows())
        self.latency_ticks = latency_ticks
        self.now_tick, self.busy_s, self.instruction = TICK0, 0.0, "go"
        self.where = home(self.space)
        self.prefixes: list[Prefix | None] = []
        self.inside: list[Callable[[], None]] = []  # one is done in the middle of the next inference
        self.supervisor, self.sender = Supervisor(), Recorder()
        self.assembler = Assembler(embodiment)
        self.continuity = Continuity(self.space, PERIOD_NS * 1e-9)
        self.commander = Commander(
            self.layout, self.timeline, self.continuity, self.supervisor, self.sender,
            tick=lambda: self.now_tick, busy_s=lambda: self.busy_s, timeout_s=1.0, patience_s=0.5,
        )  # fmt: skip
        self.cycle = PolicyCycle(
            self.layout, self.assembler, self, self.timeline, training,
            lambda: self.now_ns, lambda: self.now_tick, self.supervisor.lock,
        )  # fmt: skip
        self._shade = 0
        self.supervisor.configured()
        self.supervisor.activated()
        self.feed()

    @property
    def now_ns(self) -> int:
        return self.now_tick * PERIOD_NS

    def start(self) -> None:
        assert self.supervisor.start().done

    def stop(self) -> None:
        self.commander.brake(self.supervisor.stop)

    def ticks(self, count: int = 1, missed: int = 0) -> None:
        """Control ticks, the first after ``missed`` ones that nobody saw; then the robot is where it was told to be."""
        for number in range(count):
            gone = missed if number == 0 else 0
            self.now_tick += 1 + gone
            self.commander.work(self.now_tick, gone)
            self._follow()
            self.feed()

    def _follow(self) -> None:
        streamed = self.commander._streamed
        target = sent = self.where
        if self.sender.steps and self.sender.steps[-1][0] == self.now_ns:
            target = self.sender.steps[-1][1].values
        if self.sender.tracks and self.now_tick <= self.sender.tracks[-1][2].last_tick:
            sent = self.sender.tracks[-1][2].motion(self.now_tick).values
        for value, tangent in zip(*self.space.lines, strict=True):
            self.where[value] = target[value] if streamed[tangent] else sent[value]
        for value, _ in self.space.rotations:
            self.where[value : value + 4] = target[value : value + 4]

    def feed(self, stamp_ns: int | None = None) -> None:
        """One message of every stream, stamped now: what the robot's sensors say about ``where``."""
        stamp_ns = self.now_ns if stamp_ns is None else stamp_ns
        header = SimpleNamespace(stamp=SimpleNamespace(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9), frame_id="")
        self._shade = (self._shade + 1) % 250
        image = SimpleNamespace(
            header=header, height=4, width=4, encoding="rgb8", step=12, data=np.full(48, self._shade, np.uint8)
        )
        assert self.assembler.add("front", image, self.now_ns) is None
        joints = list(self.layout.joint_columns)
        positions = [float(self.where[self.layout.joint_columns[joint]]) for joint in joints]
        state = SimpleNamespace(header=header, name=joints, position=positions, velocity=[], effort=[])
        assert self.assembler.add("joints", state, self.now_ns) is None
        if self.space.rotations:
            x, y, z = (float(self.where[column(self.space, f"tool.pose.position.{axis}")]) for axis in "xyz")
            first = self.space.rotations[0][0]
            turn = dict(zip("xyzw", self.where[first : first + 4].tolist(), strict=True))
            pose = SimpleNamespace(position=SimpleNamespace(x=x, y=y, z=z), orientation=SimpleNamespace(**turn))
            assert self.assembler.add("tool", SimpleNamespace(header=header, pose=pose), self.now_ns) is None

    def act(self, observation: Observation, *, seed: int | None = None, prefix: Prefix | None = None) -> Chunk:
        """The model: time passes while it thinks."""
        self.prefixes.append(prefix)
        before, after = self.latency_ticks // 2, self.latency_ticks - self.latency_ticks // 2
        self.ticks(before)
        if self.inside:
            self.inside.pop(0)()
        self.ticks(after)
        values = self.say(observation, prefix)
        chunk = chunk_of(self.layout, observation.stamp_ns, values, instruction=observation.instruction)
        if prefix is None or not prefix.frozen:
            return chunk
        rows = {key: value.copy() for key, value in chunk.actions.items()}
        for key in rows:
            rows[key][: prefix.frozen] = prefix.actions[key][: prefix.frozen]
        return Chunk(chunk.stamp_ns, chunk.dt_s, rows, chunk.instruction, 0, chunk.timings_s, prefix.frozen)

    def infer(self, **options: Any) -> Planned | Rejected | Refusal:
        """One turn, as the node does it."""
        epoch = self.supervisor.epoch
        result = self.cycle.run(
            self.instruction,
            alone=self.commander.dry_run,
            permitted=lambda: self.supervisor.moving and self.supervisor.epoch == epoch,
            executed=self.commander.executed,
            **options,
        )
        if isinstance(result, Planned):
            self.supervisor.sent(0.0, result.stages_s)
        elif isinstance(result, Rejected) and result.stop:
            self.commander.brake(lambda: self.supervisor.latch(result.reason, result.message))
        return result

    def run(self, ticks: int) -> None:
        """As the node for so long: control ticks, and a turn whenever one is due."""
        end, due_ns = self.now_tick + ticks, self.now_ns
        while self.now_tick < end:
            if self.supervisor.moving and self.now_ns >= due_ns:
                launched_ns = self.now_ns
                due_ns = launched_ns
                braking = self.commander.dry_run and not self.commander.settled
                if not braking and isinstance(self.infer(), Planned):
                    due_ns = self.timeline.next_launch_ns(launched_ns)
                    continue
            self.ticks()
