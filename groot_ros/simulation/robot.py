"""The running robot: physics on one thread, cameras on another, commands from any. No ROS; callbacks go out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from groot_ros.simulation.arm import ArmView, SimArm
from groot_ros.simulation.schedule import Schedule
from groot_ros.simulation.tasks import Task, Verdict
from groot_ros.simulation.trajectory import Point, TrajectoryFollower

HISTORY_NS = 1_000_000_000  # of commands
PROGRESS_NS = 100_000_000  # from one report on the task to the next
MAX_STEP_NS = 200_000_000  # physics never advances by more at once, whatever the clock does


@dataclass(frozen=True)
class JointReading:
    """What the encoders say at ``stamp_ns``: joint -> rad, rad/s, Nm."""

    stamp_ns: int
    position: Mapping[str, float]
    velocity: Mapping[str, float]
    effort: Mapping[str, float]


@dataclass(frozen=True)
class Progress:
    """How the task stands.

    Attributes:
        stamp_ns: at this time.
        verdict: what the judge says.
        cubes: cube -> centre (m) and quaternion w, x, y, z [7].
        begins: the first of a scene.
    """

    stamp_ns: int
    verdict: Verdict
    cubes: Mapping[str, NDArray[np.float64]]
    begins: bool


def _ignore(progress: Progress) -> None:
    pass


@dataclass(frozen=True)
class Outlets:
    """Where readings go. Called from the robot's threads: ``frame`` from cameras, the others from physics.

    ``progress`` is also called by ``SimRobot.reset``, in its caller's thread. None may call the robot.

    Attributes:
        tick: stamp of every event, before anything else of that instant.
        joints: joint readings.
        frame: stamp, camera, RGB uint8 [H, W, 3].
        clamped: joints whose command was outside their range.
        progress: of the task, ten times a second and on every reset.
    """

    tick: Callable[[int], None]
    joints: Callable[[JointReading], None]
    frame: Callable[[int, str, NDArray[np.uint8]], None]
    clamped: Callable[[Sequence[str]], None]
    progress: Callable[[Progress], None] = field(default=_ignore)


@dataclass
class Counters:
    """Since the start: events and seconds of work. ``dropped`` frames are those that the renderer was too slow for."""

    joints: int = 0
    frames: int = 0
    dropped: int = 0
    render_s: float = 0.0


class SimRobot:
    """Runs a ``SimArm`` against a clock.

    The stamp of a reading is its scheduled instant; physics stands at that instant when it is read.

    Args:
        arm: taken over.
        make_view: makes the renderer; called in the camera thread, where the OpenGL context stays.
        joint_rate_hz: rate of readings and of the controller.
        camera_rate_hz: rate of frames.
        now_ns: the robot's clock.
        clock_rate: seconds of ``now_ns`` per second of waiting.
        outlets: where readings go.
        wait_for_cameras: physics waits when the renderer is too slow, instead of leaving frames out; for a clock that
            waits for physics.
    """

    def __init__(
        self,
        arm: SimArm,
        make_view: Callable[[], ArmView],
        *,
        joint_rate_hz: float,
        camera_rate_hz: float,
        now_ns: Callable[[], int],
        clock_rate: float,
        outlets: Outlets,
        wait_for_cameras: bool = False,
    ) -> None:
        self.counters = Counters()
        self._arm = arm
        self._make_view = make_view
        self._now_ns = now_ns
        self.clock_rate = clock_rate
        self._outlets = outlets
        self._wait_for_cameras = wait_for_cameras
        self._rates_hz = (joint_rate_hz, camera_rate_hz)
        self._period_ns = round(1e9 / joint_rate_hz)
        # Whoever holds `_saying` or `_showing` may hand out what belongs to the present scene: joint readings and
        # progress, or frames. `_lock` guards the arm and what it follows. A reset takes all three, in this order.
        self._saying, self._showing, self._lock = threading.Lock(), threading.Lock(), threading.Lock()
        self._scene = 0
        # Physics may be behind the clock, and then asks what was commanded before the newest arrivals.
        self._follower = TrajectoryFollower(arm.joints, list(arm.positions().values()), history_ns=HISTORY_NS)
        self._last_ns: int | None = None
        self._physics_ns = 0
        self._progress_ns: int | None = None
        self._stop = threading.Event()
        self._frame_wanted = threading.Condition()
        self._frame: tuple[int, int, NDArray[np.float64]] | None = None
        self._view_ready: Future[None] = Future()
        self._threads: list[threading.Thread] = []
        self.failed: Callable[[Exception], None] = lambda error: None

    def start(self) -> None:
        """Make the renderer and start both threads.

        Raises:
            NoRenderer: this machine cannot render.
        """
        self._run("sim-cameras", self._cameras)
        self._view_ready.result()
        self._run("sim-physics", self._physics)

    def close(self) -> None:
        """Stop both threads and free the renderer; returns when they are done."""
        self._stop.set()
        with self._frame_wanted:
            self._frame_wanted.notify_all()
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def command(self, joint_names: Sequence[str], points: Sequence[Point], stamp_ns: int) -> None:
        """Take a trajectory over. Raises TrajectoryRefused; see ``TrajectoryFollower.receive``."""
        with self._lock:
            self._follower.receive(joint_names, points, stamp_ns, self._now_ns())

    def reset(self, seed: int, task: Task | None = None) -> None:
        """New start pose and cubes, drawn from ``seed``; commands are forgotten, time goes on.

        What comes out after this has returned is of the new scene: frames of the old one are dropped.
        """
        with self._saying, self._showing:
            with self._lock:
                self._arm.reset(seed, task)
                self._scene += 1
                self._physics_ns = 0
                self._follower.hold(list(self._arm.positions().values()))
                progress = self._judge(self._now_ns(), begins=True)
            if progress is not None:
                self._outlets.progress(progress)

    def _run(self, name: str, work: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                work()
            except Exception as error:
                # The other thread may wait for this one, with what a reset waits for in its hands.
                self._stop.set()
                with self._frame_wanted:
                    self._frame_wanted.notify_all()
                self.failed(error)

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _physics(self) -> None:
        schedule = Schedule(*self._rates_hz, self._now_ns())
        while not self._stop.is_set():
            event = schedule.take(self._now_ns())
            if event is None:
                self._stop.wait(1e-9 * (schedule.upcoming_ns() - self._now_ns()) / self.clock_rate)
                continue
            self._outlets.tick(event.due_ns)
            with self._saying:
                with self._lock:
                    clamped = self._advance(event.due_ns)
                    reading = self._read(event.due_ns) if event.joints else None
                    state = self._arm.snapshot() if event.frames else None
                    progress = self._judge(event.due_ns)
                if reading is not None:
                    self.counters.joints += 1
                    self._outlets.joints(reading)
                if progress is not None:
                    self._outlets.progress(progress)
                if state is not None:
                    self._ask_for_frame(event.due_ns, state)
            if clamped:
                self._outlets.clamped(clamped)

    def _advance(self, due_ns: int) -> list[str]:
        """Physics up to ``due_ns`` under the command for that instant; returns the joints that were clamped."""
        passed_ns = self._period_ns if self._last_ns is None else due_ns - self._last_ns
        if not 0 <= passed_ns <= MAX_STEP_NS:  # the clock jumped: what was commanded on the old time no longer holds
            passed_ns = self._period_ns
            self._follower.hold(list(self._arm.positions().values()))
        self._last_ns = due_ns
        target, _ = self._follower.sample(due_ns)
        clamped = self._arm.set_targets(dict(zip(self._arm.joints, target.tolist(), strict=True)))
        self._physics_ns += passed_ns
        self._arm.step(1e-9 * self._physics_ns)
        return clamped

    def _read(self, stamp_ns: int) -> JointReading:
        return JointReading(stamp_ns, self._arm.positions(), self._arm.velocities(), self._arm.efforts())

    def _judge(self, stamp_ns: int, begins: bool = False) -> Progress | None:
        """Have the task judged; returns what to report, when it is time to."""
        verdict = self._arm.verdict()
        last_ns = self._progress_ns
        if not begins and last_ns is not None and 0 <= stamp_ns - last_ns < PROGRESS_NS:
            return None
        self._progress_ns = stamp_ns
        return Progress(stamp_ns, verdict, self._arm.cube_poses(), begins)

    def _ask_for_frame(self, stamp_ns: int, state: NDArray[np.float64]) -> None:
        with self._frame_wanted:
            if self._wait_for_cameras:
                self._frame_wanted.wait_for(lambda: self._frame is None or self._stop.is_set())
            elif self._frame is not None:
                self.counters.dropped += 1
            self._frame = (self._scene, stamp_ns, state)
            self._frame_wanted.notify_all()

    def _cameras(self) -> None:
        try:
            view = self._make_view()
        except Exception as error:
            self._view_ready.set_exception(error)
            return
        self._view_ready.set_result(None)
        try:
            while True:
                with self._frame_wanted:
                    self._frame_wanted.wait_for(lambda: self._frame is not None or self._stop.is_set())
                    if self._stop.is_set() or self._frame is None:
                        return
                    (scene, stamp_ns, state), self._frame = self._frame, None
                    self._frame_wanted.notify_all()
                begin = time.perf_counter()
                images = {camera: view.render(state, camera) for camera in view.cameras}
                self.counters.render_s += time.perf_counter() - begin
                self.counters.frames += 1
                for camera, image in images.items():
                    with self._showing:
                        if scene == self._scene:
                            self._outlets.frame(stamp_ns, camera, image)
        finally:
            view.close()
