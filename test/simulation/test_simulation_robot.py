"""The running robot: stamps, commands, reset and failures, with real threads and a renderer that draws nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from groot_ros.simulation.arm import SimArm
from groot_ros.simulation.expert import Expert
from groot_ros.simulation.robot import PROGRESS_NS, JointReading, Outlets, Progress, SimRobot
from groot_ros.simulation.schedule import MAX_LAG_NS
from groot_ros.simulation.tasks import find_task
from groot_ros.simulation.trajectory import Point, TrajectoryRefused

S = 1_000_000_000
WAIT_S = 30.0


class FakeView:
    """Draws the arm's pan angle (mrad) instead of pixels."""

    cameras = ("front", "wrist")

    def __init__(self) -> None:
        self.closed = False
        self.thread = threading.current_thread().name

    def render(self, qpos: np.ndarray, camera: str) -> Any:
        return np.array([round(1e3 * qpos[0])])

    def close(self) -> None:
        self.closed = True


class Log:
    """Keeps what comes out and lets a test wait for it."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.readings: list[JointReading] = []
        self.frames: list[tuple[int, str, Any]] = []
        self.ticks: list[int] = []
        self.clamped: list[list[str]] = []
        self.progress: list[Progress] = []
        self.outlets = Outlets(
            self.ticks.append,
            self._keep(self.readings),
            self._frame,
            lambda names: self.clamped.append(list(names)),
            self._keep(self.progress),
        )

    def _keep(self, into: list[Any]) -> Callable[[Any], None]:
        def keep(item: Any) -> None:
            with self.changed:
                into.append(item)
                self.changed.notify_all()

        return keep

    def _frame(self, stamp_ns: int, camera: str, image: Any) -> None:
        with self.changed:
            self.frames.append((stamp_ns, camera, image))
            self.changed.notify_all()

    def wait(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, WAIT_S), "nothing came"


class Running:
    """A started robot with its log."""

    def __init__(self) -> None:
        self.log = Log()
        self.view: FakeView | None = None
        self.arm = SimArm(0)
        self.robot = SimRobot(
            self.arm,
            self._make_view,  # type: ignore[arg-type]
            joint_rate_hz=100.0,
            camera_rate_hz=30.0,
            now_ns=time.monotonic_ns,
            clock_rate=1.0,
            outlets=self.log.outlets,
        )
        self.robot.start()

    def _make_view(self) -> FakeView:
        self.view = FakeView()
        return self.view

    def target(self, **joints: float) -> list[float]:
        return [{**self.arm.positions(), **joints}[name] for name in self.arm.joints]


@pytest.fixture
def running() -> Iterator[Running]:
    made = Running()
    yield made
    made.robot.close()


def test_stamps_are_regular_and_cameras_agree(running: Running) -> None:
    log = running.log
    log.wait(lambda: len(log.readings) > 30 and len(log.frames) > 12)
    stamps = np.array([reading.stamp_ns for reading in log.readings])
    gaps = np.diff(stamps)
    assert (gaps > 0).all()
    # On a loaded machine the grid may start anew, but only after a gap of more than MAX_LAG_NS.
    assert set((gaps[gaps <= MAX_LAG_NS] % 10_000_000).tolist()) <= {0}
    by_camera = {camera: [f[0] for f in log.frames if f[1] == camera] for camera in ("front", "wrist")}
    count = min(map(len, by_camera.values()))
    assert by_camera["front"][:count] == by_camera["wrist"][:count]
    assert set(by_camera["front"]) | set(stamps.tolist()) <= set(log.ticks)


def test_executes_a_command_and_holds(running: Running) -> None:
    goal = running.target(shoulder_pan=0.5)
    running.robot.command(running.arm.joints, [Point(S // 5, goal, [0.0] * 6)], 0)
    running.log.wait(lambda: abs(running.log.readings[-1].position["shoulder_pan"] - 0.5) < 0.01)
    # The frame after it shows it.
    count = len(running.log.frames)
    running.log.wait(lambda: len(running.log.frames) > count + 2)
    assert running.log.frames[-1][2][0] == pytest.approx(500, abs=15)


def test_a_refused_command_moves_nothing(running: Running) -> None:
    log = running.log
    log.wait(lambda: len(log.readings) > 2)
    before = log.readings[-1].position
    with pytest.raises(TrajectoryRefused, match="lacks shoulder_pan"):
        running.robot.command(["gripper"], [Point(S // 10, [1.0])], 0)
    count = len(log.readings)
    log.wait(lambda: len(log.readings) > count + 30)
    assert log.readings[-1].position == pytest.approx(before, abs=2e-3)


def test_reset_forgets_commands_and_time_goes_on(running: Running) -> None:
    log = running.log
    running.robot.command(running.arm.joints, [Point(5 * S, running.target(shoulder_pan=1.5))], 0)
    log.wait(lambda: len(log.readings) > 20)
    running.robot.reset(5)
    count = len(log.readings)
    log.wait(lambda: len(log.readings) > count + 30)
    assert log.readings[-1].position == pytest.approx(SimArm(5).positions(), abs=2e-3)
    stamps = [reading.stamp_ns for reading in log.readings]
    assert stamps == sorted(set(stamps))


def test_after_a_reset_nothing_of_the_old_scene_comes_out(running: Running) -> None:
    """The renderer is held in the middle of a picture of the old scene while the arm is reset."""
    log, view = running.log, running.view
    assert view is not None
    rendering, go_on = threading.Event(), threading.Event()
    render = view.render

    def held(qpos: np.ndarray, camera: str) -> Any:
        image = render(qpos, camera)
        rendering.set()
        assert go_on.wait(WAIT_S)
        return image

    view.render = held  # type: ignore[method-assign]
    assert rendering.wait(WAIT_S)
    running.robot.reset(5, find_task("reach:blue"))
    frames, readings, progress = len(log.frames), len(log.readings), len(log.progress)
    go_on.set()
    log.wait(lambda: len(log.frames) > frames + 4 and len(log.readings) > readings + 4)
    pan = SimArm(5, task=find_task("reach")).positions()["shoulder_pan"]
    assert [frame[2][0] for frame in log.frames[frames:]] == pytest.approx(
        [1e3 * pan] * len(log.frames[frames:]), abs=3
    )
    readings_pan = [reading.position["shoulder_pan"] for reading in log.readings[readings:]]
    assert readings_pan == pytest.approx([pan] * len(readings_pan), abs=3e-3)
    assert log.progress[progress - 1].begins  # said before reset() returned


def test_progress_is_judged_and_told_ten_times_a_second(running: Running) -> None:
    log = running.log
    running.robot.reset(3, find_task("reach_one"))
    arm = SimArm(3, task=find_task("reach_one"))
    expert = Expert(find_task("reach_one"), "red_cube", arm.scene.pose_rad)
    # The joint angles at the end of the expert's only move, as one command.
    expert.step(0.0, arm.cube_poses())
    goal = expert.step(60.0, arm.cube_poses())
    running.robot.command(running.arm.joints, [Point(S, goal.tolist(), [0.0] * 6)], 0)
    begin = next(i for i, progress in enumerate(log.progress) if progress.begins)
    log.wait(lambda: log.progress[-1].verdict.success)
    told = log.progress[begin:]
    assert not told[0].verdict.success and not any(progress.begins for progress in told[1:])
    assert told[-1].verdict.distance_m < told[0].verdict.distance_m
    gaps = np.diff([progress.stamp_ns for progress in told[1:]])
    assert (gaps >= PROGRESS_NS).all()
    assert told[0].cubes["red_cube"][:3] == pytest.approx(arm.cube_positions()["red_cube"], abs=1e-6)


def test_names_what_it_clamps(running: Running) -> None:
    running.robot.command(running.arm.joints, [Point(0, running.target(gripper=3.0))], 0)
    count = len(running.log.readings)
    running.log.wait(lambda: len(running.log.readings) > count + 3)
    assert ["gripper"] in running.log.clamped


def test_close_ends_both_threads_and_the_view() -> None:
    running = Running()
    running.robot.close()
    assert running.view is not None and running.view.closed
    assert running.view.thread == "sim-cameras"
    assert not {"sim-cameras", "sim-physics"} & {thread.name for thread in threading.enumerate()}


def robot_with(
    make_view: Callable[[], Any], joints: Callable[[JointReading], None], wait_for_cameras: bool = False
) -> SimRobot:
    def ignore(*_: Any) -> None:
        return None

    return SimRobot(
        SimArm(0),
        make_view,
        joint_rate_hz=100.0,
        camera_rate_hz=30.0,
        now_ns=time.monotonic_ns,
        clock_rate=1.0,
        outlets=Outlets(ignore, joints, ignore, ignore),
        wait_for_cameras=wait_for_cameras,
    )


def test_start_says_why_there_is_no_renderer() -> None:
    def broken() -> Any:
        raise RuntimeError("no OpenGL")

    with pytest.raises(RuntimeError, match="no OpenGL"):
        robot_with(broken, lambda reading: None).start()


def test_an_exception_in_a_thread_is_reported() -> None:
    def broken(reading: JointReading) -> None:
        raise OSError("wire cut")

    robot = robot_with(FakeView, broken)
    errors: list[Exception] = []
    reported = threading.Event()

    def failed(error: Exception) -> None:
        errors.append(error)
        reported.set()

    robot.failed = failed
    robot.start()
    assert reported.wait(WAIT_S)
    robot.close()
    assert [str(error) for error in errors] == ["wire cut"]


def test_a_renderer_that_breaks_leaves_nobody_waiting() -> None:
    """Physics waits for pictures here, and would hold what a reset needs."""

    class Broken(FakeView):
        def render(self, qpos: np.ndarray, camera: str) -> Any:
            raise OSError("GPU lost")

    robot = robot_with(Broken, lambda reading: None, wait_for_cameras=True)
    errors: list[Exception] = []
    robot.failed = errors.append
    robot.start()
    for thread in robot._threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert [str(error) for error in errors] == ["GPU lost"]
    robot.reset(5)  # returns
    robot.close()


def test_a_clock_that_jumps_does_not_move_the_arm() -> None:
    """Physics advances by one period over the jump, and a trajectory on the old time is dropped."""
    arm = SimArm(0)
    robot = robot_with(FakeView, lambda reading: None)
    robot._arm = arm
    start = 50 * S
    robot._last_ns = start
    robot._now_ns = lambda: start
    robot.command(arm.joints, [Point(10 * S, [0.0] * 6)], 0)
    for jump_ns in (-20 * S, 1000 * S):
        before = arm.time_s
        assert robot._advance(start + jump_ns) == []
        assert arm.time_s == pytest.approx(before + 0.01)
        assert not robot._follower.busy(start + jump_ns)
