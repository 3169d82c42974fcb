"""A robot with an output of every type at once, over DDS: what is commanded when, and how it comes to rest."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from robot_double import RobotDouble
from scipy.spatial.transform import Rotation
from scripted_motion import DISAGREE, motion

from groot_ros.embodiment.load import load_embodiment
from groot_ros.msg import PolicyStatus
from groot_ros.nodes.observer import Observer
from groot_ros.processes import Processes, ros_environment
from groot_ros.simulation.trajectory import Point, TrajectoryFollower

HERE = Path(__file__).parent
ROBOT = HERE / "many_outputs.yaml"
PERIOD_NS = 20_000_000
MS = 1_000_000
WAIT_S = 40.0
BLEND_NS = 400 * MS
ARM = ["shoulder", "elbow"]
SPEED, ACCELERATION = 2.0, 20.0
Array = NDArray[np.float64]


class Rig:
    """The running node and what it said."""

    def __init__(self, observer: Observer, processes: Processes, process: Any) -> None:
        self.observer, self.processes, self.process = observer, processes, process

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        if not self.observer.wait_until(condition, WAIT_S, self.processes.check):
            last = self.observer.statuses[-1:]
            log = self.processes.log("policy").read_text()[-2000:]
            pytest.fail(f"not within {WAIT_S} s: {what}; {[(s.state, s.reason, s.message) for s in last]}\n{log}")

    def wait_chunks(self, more: int) -> None:
        seen = len(self.observer.chunks)
        self.wait(lambda: len(self.observer.chunks) >= seen + more, f"{more} more chunks")

    def sent(self, output: str) -> list[Any]:
        return [message for _, message in self.observer.streams[output]]

    def stop(self) -> PolicyStatus:
        """Stop, and wait until the robot rests and two more reports have come."""
        assert self.observer.call("stop")[0]
        self.wait(lambda: (s := self.observer.statuses[-1]).state == PolicyStatus.READY and not s.braking, "rest")
        seen = len(self.observer.statuses)
        self.wait(lambda: len(self.observer.statuses) > seen + 1, "reports")
        return self.observer.statuses[-1]


@pytest.fixture
def rig(checkpoint: Path, tmp_path: Path) -> Iterator[Rig]:
    """The node, waiting for ~/start. Its policy is scripted; the checkpoint only has to be there."""
    embodiment = load_embodiment(ROBOT)
    command = [sys.executable, str(HERE / "scripted_motion.py"), "--ros-args"]
    parameters = {"embodiment": ROBOT, "checkpoint": checkpoint, "autostart": "true", "instruction": "go"}
    for name, value in {**parameters, "inference_timeout_s": WAIT_S}.items():  # the machine may be busy
        command += ["-p", f"{name}:={value}"]
    with (
        Processes(tmp_path, ros_environment()) as processes,
        RobotDouble(embodiment) as robot,
        Observer(embodiment) as observer,
    ):
        robot.edit = at_zero
        rig = Rig(observer, processes, processes.start("policy", command))
        rig.wait(
            lambda: (
                bool(observer.statuses)
                and observer.statuses[-1].state == PolicyStatus.READY
                and all(rate > 0 for rate in observer.statuses[-1].stream_rate_hz)
            ),
            "READY with all streams",
        )
        yield rig
        assert "Traceback" not in processes.log("policy").read_text()


def at_zero(stream: str, message: Any) -> Any:
    if stream == "joints":
        message.position = [0.0] * len(message.name)
    return message


def stamp_ns(message: Any) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def times_ns(trajectory: Any) -> NDArray[np.int64]:
    offsets = [point.time_from_start.sec * 10**9 + point.time_from_start.nanosec for point in trajectory.points]
    return stamp_ns(trajectory) + np.array(offsets, dtype=np.int64)


def positions(trajectory: Any) -> Array:
    return np.array([point.positions for point in trajectory.points])


def undisturbed(at_ns: NDArray[np.int64], settling_ns: int = BLEND_NS + 1000 * MS) -> NDArray[np.bool_]:
    """Messages that follow the motion: past the start, and past ticks that a busy machine missed.

    A chunk that comes while the blend-in is under way eases in from what has been reached by then.
    """
    gaps = np.concatenate([[at_ns[0]], at_ns[1:][np.diff(at_ns) > PERIOD_NS]])
    return np.array([all(not 0 <= now - gap < settling_ns for gap in gaps) for now in at_ns])


def columns(message: Any) -> list[float]:
    """Numbers of a PoseStamped: position and the orientation as a rotation vector."""
    place, turn = message.pose.position, message.pose.orientation
    return [place.x, place.y, place.z, *Rotation.from_quat([turn.x, turn.y, turn.z, turn.w]).as_rotvec()]


def assert_follows(said: Array, due: Array, calm: bool, typical: float = 1.5e-3) -> None:
    """Commands are what is due: one tick early or late would be 10e-3 most of the time.

    After a hand-over there may be more for a while: the speed at a chunk's first point is known from one side only.

    Args:
        calm: no tick was missed and no chunk was late; else the robot is led back, which takes its time.
    """
    away = np.abs(said - due)
    assert np.median(away, axis=0).max() < typical, np.median(away, axis=0)
    assert away.max() < 3e-2 or not calm, away.max(axis=0)


def test_every_output_says_what_is_due_at_its_time_and_rests_after_a_stop(rig: Rig) -> None:
    assert rig.observer.call("start")[0]
    rig.wait_chunks(8)
    before_stop_ns = time.time_ns()
    status = rig.stop()
    waist, tool = rig.sent("waist"), rig.sent("tool")
    base, hand = rig.sent("base"), rig.sent("hand")

    at_ns = np.array([stamp_ns(message) for message in waist])
    assert len(at_ns) > 100
    assert not (at_ns % PERIOD_NS).any() and (np.diff(at_ns) > 0).all()
    skipped = (at_ns[-1] - at_ns[0]) // PERIOD_NS + 1 - len(at_ns)
    assert skipped <= status.ticks_missed, "a tick without its command that was not counted as missed"
    assert [stamp_ns(message) for message in tool] == at_ns.tolist()
    assert len(base) == len(hand) == len(waist)  # these have no stamp: one per tick, in the same order

    steady = undisturbed(at_ns) & (at_ns < before_stop_ns)
    calm = status.ticks_missed == 0 and status.stalled_ticks == 0
    assert steady.sum() > 50
    due = motion(at_ns[steady])
    told = {
        "waist": [message.position for message in waist],
        "drive": [[message.linear.x, message.angular.z] for message in base],
        "hand": [message.data[1:] for message in hand],
        "pose": [columns(message) for message in tool],
    }
    said = {name: np.array(rows)[steady] for name, rows in told.items()}
    assert_follows(said["waist"], due["waist"], calm)
    assert_follows(said["drive"], due["drive"], calm)
    assert_follows(said["pose"][:, :3], due["place"], calm)
    assert_follows(said["pose"][:, 3:], due["turn"], calm)
    assert_follows(said["hand"], due["hand"], calm, typical=3e-3)  # straight lines between points 0.1 s apart
    assert {message.data[0] for message in hand} == {0.0, 1.0}, "a switch is never half way"

    assert {tuple(message.name) for message in waist} == {("waist",)}
    assert {message.header.frame_id for message in tool} == {"base"}
    for message in base:
        assert (message.linear.y, message.linear.z, message.angular.x, message.angular.y) == (0.0, 0.0, 0.0, 0.0)

    for trajectory in rig.sent("arm"):
        assert list(trajectory.joint_names) == ARM and trajectory.header.frame_id == "base"
        points_ns = times_ns(trajectory)
        assert not (points_ns % PERIOD_NS).any() and set(np.diff(points_ns)) <= {PERIOD_NS}
        assert points_ns[0] >= stamp_ns(trajectory)
        assert not any(trajectory.points[-1].velocities)
    at_start = len([chunk for chunk in rig.observer.chunks if stamp_ns(chunk) < at_ns[0] + BLEND_NS + 1000 * MS])
    for chunk, trajectory in zip(rig.observer.chunks, rig.sent("arm"), strict=False):
        if rig.observer.chunks.index(chunk) <= at_start:
            continue
        points_ns = times_ns(trajectory)
        inside = points_ns <= stamp_ns(chunk) + round(chunk.horizon * chunk.dt_s * 1e9)
        assert_follows(positions(trajectory)[inside], motion(points_ns[inside])["arm"], calm)

    # At rest: speeds are 0, all else stands where it came to rest, and nothing follows.
    assert (base[-1].linear.x, base[-1].angular.z) == (0.0, 0.0)
    assert abs(waist[-1].position[0] - waist[-2].position[0]) < 0.5 * ACCELERATION * 0.02**2
    counts = {output: len(messages) for output, messages in rig.observer.streams.items()}
    seen = len(rig.observer.statuses)
    rig.wait(lambda: len(rig.observer.statuses) > seen + 2, "more reports")
    assert {output: len(messages) for output, messages in rig.observer.streams.items()} == counts


def followed(trajectories: list[Any], start: list[float]) -> tuple[NDArray[np.int64], Array, Array]:
    """What a joint_trajectory_controller does with them: times (every ms), positions and velocities [T, J].

    Each is received at its first point, the tick on which it was sent.
    """
    follower = TrajectoryFollower(ARM, start)
    begin_ns = int(times_ns(trajectories[0])[0])
    end_ns = int(times_ns(trajectories[-1])[-1]) + 100 * MS
    waiting, rows, at_ns = list(trajectories), [], np.arange(begin_ns, end_ns, MS)
    for now_ns in at_ns.tolist():
        while waiting and times_ns(waiting[0])[0] <= now_ns:
            message = waiting.pop(0)
            offsets = times_ns(message) - stamp_ns(message)
            points = [
                Point(int(offset), list(point.positions), list(point.velocities))
                for offset, point in zip(offsets, message.points, strict=True)
            ]
            follower.receive(list(message.joint_names), points, stamp_ns(message), now_ns)
        rows.append(follower.sample(now_ns))
    assert not waiting
    return at_ns, np.array([row[0] for row in rows]), np.array([row[1] for row in rows])


def test_a_controller_that_replaces_trajectories_moves_smoothly_though_chunks_disagree(rig: Rig) -> None:
    rig.observer.instruct(f"go and {DISAGREE}")
    rig.wait(lambda: rig.observer.statuses[-1].instruction.endswith(DISAGREE), "the instruction")
    assert rig.observer.call("start")[0]
    rig.wait_chunks(8)
    status = rig.stop()
    trajectories = rig.sent("arm")
    assert len(trajectories) >= 9  # a chunk each, and the way to rest
    assert status.handovers >= 6 and status.handover_jump_p50 > 0.05, (
        "the chunks should disagree by 0.16 rad, less what is left of the last time"
    )
    at_ns, values, velocities = followed(trajectories, [0.0, 0.0])

    assert np.abs(velocities).max() <= SPEED + 1e-6
    # Half a microradian: double precision has 1e-7 of a millisecond at this time of the day.
    np.testing.assert_array_less(np.abs(np.diff(values, axis=0)), SPEED * 1e-3 + 1e-6)
    np.testing.assert_array_less(np.abs(np.diff(velocities, axis=0)), ACCELERATION * 1e-3 + 1e-4)
    assert not velocities[-1].any()

    # On every tick it is where the node says that it is: the waist has the same limits and is told the same.
    streamed = {stamp_ns(message): message.position[0] for message in rig.sent("waist")}
    ticks = [i for i, now_ns in enumerate(at_ns.tolist()) if now_ns in streamed]
    same = np.array([abs(values[i, 0] - streamed[int(at_ns[i])]) for i in ticks])
    gaps = np.flatnonzero(np.diff(sorted(streamed)) > PERIOD_NS)  # a stream that missed a tick comes after, for a while
    whole = same[: gaps[0] + 1] if len(gaps) else same
    assert len(whole) > 100 or len(gaps)
    assert whole.max() < 1e-3


def test_a_sigterm_while_streaming_brings_everything_to_rest(rig: Rig) -> None:
    assert rig.observer.call("start")[0]
    rig.wait_chunks(3)
    rig.process.send_signal(signal.SIGTERM)
    begin_s = time.monotonic()
    assert rig.process.wait(WAIT_S) == 0
    assert time.monotonic() - begin_s < 5.0  # promised: 2 s, on a machine that is not overloaded
    assert rig.observer.wait_until(lambda: rig.sent("base")[-1].linear.x == 0.0, 5.0)
    assert rig.sent("base")[-1].angular.z == 0.0
    assert not any(rig.sent("arm")[-1].points[-1].velocities)
    last = [message.position[0] for message in rig.sent("waist")[-2:]]
    assert abs(last[1] - last[0]) < 0.5 * ACCELERATION * 0.02**2
