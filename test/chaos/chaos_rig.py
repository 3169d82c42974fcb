"""The policy node as a process with ``chaos_policy`` inside, brought back to RUNNING after whatever was done to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from chaos_policy import ORDER
from chaos_robot import YAML, ChaosRobot
from lifecycle_msgs.msg import Transition
from rich.console import Console

from groot_ros.msg import PolicyStatus
from groot_ros.policy.random_checkpoint import make_random_checkpoint
from groot_ros.processes import Processes, ros_environment

HERE = Path(__file__).resolve().parent
WAIT_S = 20.0
START_S = 90.0
MOVING = (PolicyStatus.RUNNING, PolicyStatus.REFUSING)
LATCHED = (PolicyStatus.STOPPED, PolicyStatus.ERROR)
INSTRUCTION = "pick up the red cube"
TIMEOUT_S = 0.9  # of an inference; a loaded machine may need half of it


class Failed(AssertionError):
    """A run did not do what it must."""


def checkpoint_of(folder: Path, yaml: Path = YAML) -> Path:
    """A tiny random checkpoint of the robot, made once per folder."""
    path = folder / "tiny"
    if not path.exists():
        make_random_checkpoint(path, "n1d7", "tiny", str(yaml), 0, Console(quiet=True))
    return path


class Rig:
    """Robot and node.

    Args:
        folder: for checkpoint, log and order file.
        simulated: the node runs on the robot's /clock.
        yaml: the robot.
        parameters: more of the node.
    """

    def __init__(self, folder: Path, *, simulated: bool = False, yaml: Path = YAML, **parameters: object) -> None:
        self.folder, self.simulated, self._yaml, self._parameters = folder, simulated, yaml, parameters
        self._order = folder / "order"
        self._checkpoint = checkpoint_of(folder, yaml)
        self.robot = ChaosRobot(yaml)
        self.process: subprocess.Popen[bytes] | None = None
        self._processes: Processes | None = None
        self.starts = 0

    def __enter__(self) -> Rig:
        self.robot.__enter__()
        self.steady_clock()
        self.restart()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._processes is not None:
            self._processes.end()
        self.robot.__exit__(kind, error, trace)

    # --- the process --------------------------------------------------------------------------------------------------

    def restart(self) -> None:
        """A new node, configured and READY."""
        if self._processes is not None:
            self._processes.end()
        self.order("")
        seen = len(self.robot.statuses)
        self.starts += 1
        environment = {**ros_environment(), ORDER: str(self._order)}
        environment["PYTHONPATH"] = os.pathsep.join([str(HERE), environment.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        self._processes = Processes(self.folder, environment)
        parameters: dict[str, object] = {
            "embodiment": self._yaml,
            "checkpoint": self._checkpoint,
            "autostart": True,
            "inference_timeout_s": TIMEOUT_S,
            "torch_threads": 1,
            "use_sim_time": self.simulated,
            **self._parameters,
        }
        command = [sys.executable, str(HERE / "chaos_node.py"), "--ros-args"]
        for name, value in parameters.items():
            command += ["-p", f"{name}:={str(value).lower() if isinstance(value, bool) else value}"]
        self.process = self._processes.start("policy", command)
        self.wait(
            lambda: len(self.robot.statuses) > seen and self.robot.status.state == PolicyStatus.READY, "READY", START_S
        )

    @property
    def alive(self) -> bool:
        """Whether the node's process is."""
        return self.process is not None and self.process.poll() is None

    def log(self) -> str:
        """What the node printed."""
        return (self.folder / "policy.log").read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """To the node's process."""
        assert self.process is not None
        self.process.send_signal(number)

    def inference_pid(self) -> int:
        """Of the inference process: the node's only child.

        Raises: Failed when there is none.
        """
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        pids = [int(pid) for listed in children for pid in listed.read_text().split()]
        if len(pids) != 1:
            raise Failed(f"expected one inference process, found {pids}")
        return pids[0]

    def order(self, text: str) -> None:
        """What the policy has to do from its next chunk on; empty: behave."""
        new = self._order.with_suffix(".new")
        new.write_text(text)
        new.rename(self._order)

    # --- waiting ------------------------------------------------------------------------------------------------------

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
        """Wait, or raise Failed with the last status and the end of the log."""
        if not self.robot.wait_for(lambda: condition() or not self.alive, timeout_s) or not condition():
            last = self.robot.status if self.robot.statuses else None
            told = f"state {last.state} {last.reason}: {last.message}" if last is not None else "no status"
            dead = "" if self.alive else "; the node has ended"
            raise Failed(f"not within {timeout_s} s: {what}; last status: {told}{dead}\n{self.log()[-3000:]}")

    def wait_status(self, condition: Callable[[PolicyStatus], bool], what: str, timeout_s: float = WAIT_S) -> Any:
        """Wait for a status made from now on."""
        seen = len(self.robot.statuses)
        found: list[PolicyStatus] = []

        def there() -> bool:
            found[:] = [heard.message for heard in self.robot.statuses[seen:] if condition(heard.message)]
            return bool(found)

        self.wait(there, what, timeout_s)
        return found[0]

    def wait_chunks(self, more: int, what: str) -> None:
        """Wait for chunks that are executed."""
        seen = len(self.robot.chunks)
        self.wait(lambda: len(self.robot.chunks) >= seen + more, what)

    # --- what makes it good again -------------------------------------------------------------------------------------

    def steady_clock(self) -> None:
        """Time goes on, from where it is (a first time: from 1000 s)."""
        if self.simulated:
            base_ns = self.robot.clock() if self.robot.clock is not None else 1000 * 10**9
            self.set_clock(base_ns)

    def set_clock(self, base_ns: int, speed: float = 1.0) -> None:
        """Time jumps to ``base_ns`` and goes on; with speed 0 it stands."""
        begin_ns = time.monotonic_ns()
        back = self.robot.clock is not None and base_ns < self.robot.clock()
        self.robot.set_clock(lambda: base_ns + round(speed * (time.monotonic_ns() - begin_ns)), jumped=back)

    def recover(self) -> None:
        """As a person would: release, reset, start; until chunks are executed without a complaint.

        Raises: Failed when that does not help.
        """
        robot = self.robot
        self.order("")
        robot.edit = lambda stream, message: [message]
        robot.estop(False)
        if robot.status.instruction != INSTRUCTION:
            robot.instruct(INSTRUCTION)
        status = self.wait_status(lambda _: True, "a status")
        if status.state == PolicyStatus.ERROR and "cleanup and configure" in status.message:
            self.configure_again()
            status = robot.status
        if status.state in (PolicyStatus.UNCONFIGURED, PolicyStatus.INACTIVE):
            self.configure_again()
        if status.dry_run:
            robot.call("dry_run", False)
        if status.state == PolicyStatus.PAUSED:
            robot.call("pause", False)
        self._start(status.state in LATCHED)

    def _start(self, latched: bool) -> None:
        robot = self.robot
        if latched:
            self.reset_stop()
        done, message = robot.call("start")
        if not done:
            raise Failed(f"start is refused: {message}")
        seen = len(robot.chunks)

        def runs() -> bool:
            status = robot.status
            running = status.state == PolicyStatus.RUNNING and not status.reason
            return running and len(robot.chunks) > seen and status.instruction == INSTRUCTION

        self.wait(runs, "running again")

    def reset_stop(self) -> None:
        """Clear a latched stop; it is refused while a released e-stop is on its way, or an inference still hangs."""
        deadline_s = time.monotonic() + WAIT_S
        while not (answer := self.robot.call("reset_stop"))[0]:
            if time.monotonic() > deadline_s:
                raise Failed(f"a latched stop cannot be cleared: {answer[1]}")
            self.robot.dwell(0.01)

    def configure_again(self) -> None:
        """Down to unconfigured and up to READY."""
        robot = self.robot
        for transition, states in (
            (Transition.TRANSITION_DEACTIVATE, None),
            (Transition.TRANSITION_CLEANUP, (PolicyStatus.UNCONFIGURED,)),
            (Transition.TRANSITION_CONFIGURE, (PolicyStatus.INACTIVE,)),
            (Transition.TRANSITION_ACTIVATE, (PolicyStatus.READY,)),
        ):
            if not robot.change_state(transition, START_S) and states is not None and states != (0,):
                raise Failed(f"lifecycle transition {transition} failed; {robot.status.message}\n{self.log()[-2000:]}")
        self.wait(lambda: robot.status.state == PolicyStatus.READY, "READY")
