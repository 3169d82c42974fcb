"""Simulator and policy node as separate processes over DDS, watched for a while: the base of the benchmarks."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from groot_ros.closed_loop.summary import Summary, summarize
from groot_ros.embodiment.schema import Embodiment
from groot_ros.policy.generation import embodiment_for
from groot_ros.processes import Processes, node_command, ros_environment, stoppable

if TYPE_CHECKING:
    from groot_ros.msg import ActionChunk, PolicyStatus
    from groot_ros.nodes.observer import JointSample, Observer

START_S = 300.0  # a 3B checkpoint from a slow disk


@dataclass(frozen=True)
class Session:
    """What was seen.

    Attributes:
        embodiment: the robot.
        chunks: every action chunk, in order.
        statuses: every status.
        joints: every joint state.
        instructions: (ROS time ns, text) of every instruction given.
        exit_codes: process -> exit code.
    """

    embodiment: Embodiment
    chunks: list[ActionChunk]
    statuses: list[PolicyStatus]
    joints: list[JointSample]
    instructions: list[tuple[int, str]]
    exit_codes: dict[str, int]

    @property
    def status(self) -> PolicyStatus:
        """The last one."""
        return self.statuses[-1]

    def summary(self) -> Summary:
        """The numbers."""
        return summarize(self.chunks, self.status)


class NotRunning(RuntimeError):
    """The policy node did not come to run; the message holds its own reason."""


def run_session(
    embodiment_name: str,
    checkpoint: Path,
    *,
    instructions: Sequence[str],
    duration_s: float,
    log_dir: Path,
    policy_parameters: dict[str, object] | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
    advance: Callable[[float], None] = lambda seconds: None,
) -> Session:
    """Run for ``duration_s``, giving ``instructions`` in equal shares of the time.

    ``say`` gets a line per step, ``advance`` the seconds since the last call.

    Raises:
        ProcessDied: simulator or policy node ended by itself.
        NotRunning: the policy node refused to configure, or no chunk came.
    """
    environment = ros_environment()
    os.environ.update({name: environment[name] for name in ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE")})
    from groot_ros.nodes.observer import Observer  # imports rclpy, which reads the environment

    embodiment = embodiment_for(embodiment_name, checkpoint)
    parameters = {
        "embodiment": embodiment_name,
        "checkpoint": checkpoint,
        "instruction": instructions[0],
        "autostart": True,
        **(policy_parameters or {}),
    }
    with stoppable(), Processes(log_dir, environment) as processes, Observer(embodiment) as observer:
        say(f"simulator (log: {processes.log('simulator')})")
        processes.start("simulator", node_command("simulator", {"embodiment": embodiment_name, "seed": seed}))
        say(f"policy node (log: {processes.log('policy')})")
        processes.start("policy", node_command("policy", parameters))
        _await_ready(observer, processes)
        started, message = observer.call("start")
        if not started:
            raise NotRunning(f"~/start: {message}")
        given = []
        for text in instructions:
            given.append((int(observer.node.get_clock().now().nanoseconds), text))
            observer.instruct(text)
            say(f"instruction: {text}")
            _watch(observer, processes, duration_s / len(instructions), advance)
        if not observer.chunks:
            last = observer.statuses[-1]
            raise NotRunning(f"no chunk in {duration_s:.0f} s; last reason {last.reason or '-'}: {last.message or '-'}")
        observer.call("stop")
        codes = processes.end()
    return Session(
        embodiment,
        observer.chunks,
        observer.statuses,
        observer.joints,
        given,
        codes,
    )


def _await_ready(observer: Observer, processes: Processes) -> None:
    from groot_ros.msg import PolicyStatus

    def decided() -> bool:
        last = observer.statuses[-1] if observer.statuses else None
        return last is not None and (last.state >= PolicyStatus.READY or bool(last.reason))

    if not observer.wait_until(decided, START_S, processes.check):
        raise NotRunning(f"the policy node was not ready after {START_S:.0f} s; see {processes.log('policy')}")
    status = observer.statuses[-1]
    if status.state < PolicyStatus.READY:
        raise NotRunning(f"the policy node refused: {status.message}")


def _watch(observer: Observer, processes: Processes, duration_s: float, advance: Callable[[float], None]) -> None:
    step_s, passed_s = 0.5, 0.0
    while passed_s < duration_s:
        wait_s = min(step_s, duration_s - passed_s)
        observer.wait_until(lambda: False, wait_s, processes.check)
        passed_s += wait_s
        advance(wait_s)
