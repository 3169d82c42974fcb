"""``groot-ros demonstrate``: the expert does a task in the simulator, many times, and the recorder keeps it."""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from groot_ros.closed_loop.recorder_run import NotRecorded
from groot_ros.dataset.read import Dataset
from groot_ros.embodiment.load import load_embodiment
from groot_ros.processes import Processes, node_command, ros_environment, stoppable
from groot_ros.simulation.tasks import Task, find_task

if TYPE_CHECKING:
    from groot_ros.msg import RecorderStatus
    from groot_ros.nodes.demonstrator import Demonstrator
    from groot_ros.nodes.recorder_client import RecorderClient

START_S = 60.0  # until the nodes have started, on a machine with much else to do
SAVE_S = 120.0
LIMIT_S = 15.0  # simulated time of one demonstration
HOLD_S = 0.3  # simulated time that is recorded after the task is done
MORE_SEEDS = 10  # beside a fifth of the episodes: so many may fail
# A recorder that is kept from its work by others loses samples at a high speed, not at a low one.
SLOWER, SLOWEST, FASTER, AFTER_GOOD = 0.7, 0.5, 1.2, 5
MISSING_ROWS = 3  # at both ends together: up to the first command's tick, and what is not settled at the end
LATE_COMMANDS = 8
MOST_STRAYED_RAD = 0.15  # its servos are 0.06 rad behind at the speed of the expert
MOST_REPEATS = 8  # of one scene


@dataclass
class Demonstrations:
    """What was recorded.

    Attributes:
        wanted: episodes asked for.
        saved: episodes in the dataset.
        failed: reason -> demonstrations that did not do the task.
        repeated: reason -> episodes that the recorder lost, as the machine was too busy, done again more slowly.
        first_seed, next_seed: the seeds tried lie from the first to before the next.
        sim_s: simulated time of the saved demonstrations.
        wall_s: time since the first reset.
        rows: of the saved episodes.
        refused: reason -> ticks that the recorder refused in them.
    """

    wanted: int
    first_seed: int
    saved: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    repeated: Counter[str] = field(default_factory=Counter)
    next_seed: int = 0
    sim_s: float = 0.0
    wall_s: float = 0.0
    rows: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    def line(self) -> str:
        """All of it in a sentence."""
        return (
            f"{self.saved} of {self.wanted} episodes, {self.rows} rows, seeds {self.first_seed} to "
            f"{self.next_seed - 1}; {self.sim_s:.0f} s simulated in {self.wall_s:.0f} s; "
            f"demonstrations that failed: {_counted(self.failed)}; lost by the recorder and repeated: "
            f"{_counted(self.repeated)}; ticks refused: {_counted(self.refused)}"
        )


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in counts.items()) or "none"


class Pace:
    """The simulator's speed: slower after an episode that was lost, faster again after some that were not."""

    def __init__(self, most: float, set_speed: Callable[[float], None]) -> None:
        self._most = self.speed = most
        self._set_speed = set_speed
        self._good = 0

    def lost(self) -> None:
        """An episode was."""
        self._good = 0
        self._change(max(min(SLOWEST, self._most), SLOWER * self.speed))

    def kept(self) -> None:
        """An episode was."""
        self._good += 1
        if self._good >= AFTER_GOOD:
            self._good = 0
            self._change(min(self._most, FASTER * self.speed))

    def _change(self, speed: float) -> None:
        if speed != self.speed:
            self.speed = speed
            self._set_speed(speed)


def run_demonstrations(
    embodiment_name: str,
    dataset: Path,
    task_name: str,
    *,
    episodes: int,
    seed: int = 0,
    speed: float = 3.0,
    log_dir: Path,
    say: Callable[[str], None] = lambda text: None,
    advance: Callable[[Demonstrations], None] = lambda so_far: None,
) -> Demonstrations:
    """Record ``episodes`` demonstrations into ``dataset``, of the scenes ``seed``, ``seed + 1`` and so on.

    One that fails, or that the recorder aborts, is thrown away, and the next seed is taken.

    Raises:
        ValueError: task or robot refuse.
        ProcessDied: simulator or recorder ended by itself.
        NotRecorded, NotDemonstrated: recorder or simulator do not do what is asked, or too many failed.
    """
    task, embodiment = find_task(task_name), load_embodiment(embodiment_name)
    environment = ros_environment()
    os.environ.update({name: environment[name] for name in ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE")})
    from groot_ros.nodes.demonstrator import Demonstrator  # imports rclpy, which reads the environment
    from groot_ros.nodes.recorder_client import RecorderClient

    simulator = {"embodiment": embodiment_name, "publish_clock": True, "real_time_factor": float(speed)}
    recorder = {"embodiment": embodiment_name, "dataset": dataset, "autostart": True, "use_sim_time": True}
    with stoppable(), Processes(log_dir, environment) as processes, RecorderClient() as client:
        say(f"simulator (log: {processes.log('simulator')})")
        processes.start("simulator", node_command("simulator", simulator))
        say(f"recorder (log: {processes.log('recorder')})")
        processes.start("recorder", node_command("recorder", recorder))
        with Demonstrator(embodiment, processes.check) as demonstrator:
            _await_recorder(client, processes)
            demonstrator.await_listeners(START_S)
            before = client.status.episodes if client.status is not None else 0
            done = Demonstrations(episodes, seed, next_seed=seed)
            pace = Pace(float(speed), demonstrator.set_speed)
            _record_all(done, task, demonstrator, client, processes, pace, advance)
        processes.end()
    _add_rows(done, dataset, before)
    return done


def _await_recorder(client: RecorderClient, processes: Processes) -> None:
    from groot_ros.msg import RecorderStatus

    def decided(status: RecorderStatus) -> bool:
        return bool(status.state >= RecorderStatus.IDLE or status.reason)

    client.wait_for(decided, START_S, processes.check)
    if client.status is None or client.status.state < RecorderStatus.IDLE:
        why = client.status.message if client.status is not None else f"it said nothing in {START_S:.0f} s"
        raise NotRecorded(f"the recorder is not ready: {why}; see {processes.log('recorder')}")


def _record_all(
    done: Demonstrations,
    task: Task,
    demonstrator: Demonstrator,
    client: RecorderClient,
    processes: Processes,
    pace: Pace,
    advance: Callable[[Demonstrations], None],
) -> None:
    most = done.wanted // 5 + MORE_SEEDS
    begin = time.monotonic()
    while done.saved < done.wanted:
        target = task.scene(done.next_seed).target
        for repeat in range(MOST_REPEATS + 1):
            failure, lost, sim_s = _record_one(done.next_seed, task, target, demonstrator, client, processes)
            if not lost:
                pace.kept()
                break
            done.repeated[lost] += 1
            pace.lost()
            if repeat == MOST_REPEATS:
                raise NotRecorded(f"seed {done.next_seed}: the recorder lost it {repeat + 1} times: {done.line()}")
        done.next_seed += 1
        if failure:
            done.failed[failure] += 1
        else:
            done.saved += 1
            done.sim_s += sim_s
        done.wall_s = time.monotonic() - begin
        advance(done)
        if done.failed.total() > most:
            raise NotRecorded(f"too many demonstrations failed: {done.line()}; see {processes.log('recorder')}")


def _record_one(
    seed: int, task: Task, target: str, demonstrator: Demonstrator, client: RecorderClient, processes: Processes
) -> tuple[str, str, float]:
    """Why the task was not done, why the recorder does not have it (both empty: it has), and its simulated seconds."""
    instruction = demonstrator.reset(seed, task)
    client.set_task(instruction)
    # Commands of the episode before may still be on their way, and would be the first ones of this.
    sent = demonstrator.sent

    def ready(status: RecorderStatus) -> bool:
        return bool(status.task == instruction and received_commands(status) >= sent)

    if not client.wait_for(ready, START_S, processes.check):
        raise NotRecorded(
            f"the recorder does not take the task {instruction!r} or the commands; see {processes.log('recorder')}"
        )
    _start_episode(client, processes)
    ending = demonstrator.run(task, target, limit_s=LIMIT_S, hold_s=HOLD_S)
    if ending.failure:
        client.call("discard_episode", alive=processes.check)
        return ending.failure, "", ending.duration_s
    # What it has recorded is looked at before it is kept: in a status from after the pause.
    client.call("pause", True, alive=processes.check)
    if not client.wait_for(_paused, START_S, processes.check):
        raise NotRecorded(f"the recorder does not pause; see {processes.log('recorder')}")
    lost = not_kept(client.status, demonstrator.sent, ending.duration_s * demonstrator.step_hz)
    if not lost and ending.strayed_rad > MOST_STRAYED_RAD:
        lost = "arm_strayed"
    if not lost:
        saved, message = client.call("save_episode", timeout_s=SAVE_S, alive=processes.check)
        if saved:
            return "", "", ending.duration_s
        lost = message
    client.call("discard_episode", alive=processes.check)  # refused when it is aborted already
    return "", lost, ending.duration_s


def not_kept(status: RecorderStatus | None, sent: int, steps: float) -> str:
    """Why the recorder, paused now, does not have the episode as it was; empty: it has.

    Args:
        status: of the recorder.
        sent: commands published.
        steps: of the dataset, that the demonstration took.
    """
    if status is None or status.reason:
        return status.reason if status is not None else "no status"
    if status.rows < steps - MISSING_ROWS:
        return "rows_missing"
    return "commands_late" if received_commands(status) < sent - LATE_COMMANDS else ""


def received_commands(status: RecorderStatus) -> int:
    """Messages of commands that the recorder has received."""
    counts = zip(status.stream_names, status.stream_received, strict=True)
    return sum(int(count) for name, count in counts if name.startswith("command:"))


def _paused(status: RecorderStatus) -> bool:
    """It records no more: told to pause, or it has ended by itself."""
    return bool(status.state == status.PAUSED or status.reason)


def _start_episode(client: RecorderClient, processes: Processes) -> None:
    """Refused until the recorder has measured the streams, and after a gap in them: asked again at every status."""
    deadline = time.monotonic() + START_S
    while True:
        asked = client.status
        started, message = client.call("start_episode", alive=processes.check)
        if started:
            return
        if time.monotonic() > deadline:
            raise NotRecorded(f"~/start_episode: {message}; see {processes.log('recorder')}")
        client.wait_for(lambda status, asked=asked: status is not asked, START_S, processes.check)  # type: ignore[misc]


def _add_rows(done: Demonstrations, root: Path, before: int) -> None:
    """What the dataset itself says about the episodes since ``before``."""
    dataset = Dataset(root)
    for entry in dataset.episodes[before:]:
        done.rows += entry.length
        report = dataset.report(entry.index) or {}
        done.refused.update(report.get("refused_ticks", {}))


@contextmanager
def shown(console: Console, episodes: int) -> Iterator[Callable[[Demonstrations], None]]:
    """A progress bar over the episodes; yields what moves it on."""
    columns = (
        TextColumn("episodes"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[failed]} failed"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("demonstrate", total=episodes, failed=0)
        yield lambda done: progress.update(bar, completed=done.saved, failed=done.failed.total())


def demonstrate_command(
    dataset: Path,
    task: str,
    episodes: int,
    seed: int,
    speed: float,
    embodiment: str,
    log_dir: Path | None,
    console: Console,
) -> Demonstrations:
    """Record, with a progress bar; logs of the nodes in ``log_dir``, or in a folder that is removed when all went well.

    Raises: see ``run_demonstrations``.
    """
    logs = log_dir or Path(tempfile.mkdtemp(prefix="groot_ros_logs_"))
    with shown(console, episodes) as advance:
        done = run_demonstrations(
            embodiment,
            dataset,
            task,
            episodes=episodes,
            seed=seed,
            speed=speed,
            log_dir=logs,
            say=lambda text: console.print(f"  {text}"),
            advance=advance,
        )
    if log_dir is None:
        for path in logs.iterdir():
            path.unlink()
        logs.rmdir()
    return done
