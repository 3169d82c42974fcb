"""A robot, its scene and a policy node in virtual time, for tests of the evaluation: scripted, without ROS."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from groot_ros.closed_loop.evaluation.episode import ResetAnswer
from groot_ros.closed_loop.evaluation.judge import ChunkFacts, Counts, EpisodeJudge, PolicyReport
from groot_ros.policy.supervisor import State

STEP_S = 0.05
STATUS_S = 0.2
SUCCESS_S = 0.1


@dataclasses.dataclass
class Script:
    """What happens in one episode, in seconds after the start; None: it does not."""

    success_s: float | None = None
    failure: tuple[float, str] | None = None
    latch: tuple[float, State, str] | None = None
    events: list[tuple[float, Callable[[FakeWorld], None]]] = dataclasses.field(default_factory=list)
    chunk_every_s: float = 0.5


class FakeWorld:
    """A ``World`` that lives only while it is waited for."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = list(scripts)
        self.script = Script()
        self.time_s = 100.0
        self.ros_s = 50.0
        self.log: list[str] = []
        self.state = State.READY
        self.reason = self.message = ""
        self.instruction = "wait"
        self.takes_instructions = True
        self.counts = Counts()
        self.latched_success = False  # what the success topic says of the present scene
        self.success_topic = self.status_topic = self.clock = True
        self.dry_run = False
        self.answers = {"start": (True, ""), "stop": (True, ""), "reset": (True, ""), "reset_stop": (True, "")}
        self.reset_answer = ResetAnswer(True, "a new scene", "reach the red cube")
        self.judge = EpisodeJudge(1.0)
        self.started_s: float | None = None
        self.done: set[Any] = set()
        self.statuses = 0
        self.next_status_s = self.next_success_s = self.next_chunk_s = 0.0

    # World

    def now_ns(self) -> int:
        return round(1e9 * self.ros_s)

    def steady_s(self) -> float:
        return self.time_s

    def policy(self, service: str) -> tuple[bool, str]:
        self.log.append(service)
        if service not in self.answers:
            raise TimeoutError(f"service {service} is not there")
        done, message = self.answers[service]
        if done and service == "start":
            self.state, self.started_s, self.done = State.RUNNING, self.time_s, set()
            self.next_chunk_s = self.time_s + self.script.chunk_every_s
        if done and service in ("stop", "reset") and self.state in (State.RUNNING, State.REFUSING):
            self.state, self.started_s = State.READY, None
        if done and service == "reset_stop":
            self.state = State.READY
        return done, message

    def reset(self, seed: int, task: str) -> ResetAnswer:
        self.log.append(f"reset {seed} {task}".strip())
        self.script = self.scripts.pop(0) if self.scripts else Script()
        self.latched_success = False
        return self.reset_answer

    def instruct(self, text: str) -> None:
        self.log.append(f"instruct {text}")
        if self.takes_instructions:
            self.instruction = text

    def attend(self, judge: EpisodeJudge) -> None:
        self.judge = judge

    def report(self) -> tuple[int, PolicyReport | None]:
        return self.statuses, self.last if self.statuses else None

    def halt(self) -> None:
        self.log.append("halt")
        self.state = State.READY

    def wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        end_s = self.time_s + timeout_s
        while not condition():
            if self.time_s >= end_s:
                return False
            self._step()
        return True

    # its life

    def _step(self) -> None:
        self.time_s += STEP_S
        self.ros_s += STEP_S if self.clock else 0.0
        if self.started_s is not None:
            self._play(self.time_s - self.started_s)
        if self.success_topic and self.time_s >= self.next_success_s:
            self.next_success_s = self.time_s + SUCCESS_S
            self.judge.succeeded(self.latched_success, self.now_ns())
        if self.status_topic and self.time_s >= self.next_status_s:
            self.next_status_s = self.time_s + STATUS_S
            self.tell()

    def _play(self, passed_s: float) -> None:
        script = self.script
        if script.success_s is not None and passed_s >= script.success_s:
            self.latched_success = True
        if script.failure is not None and passed_s >= script.failure[0] and "failure" not in self.done:
            self.done.add("failure")
            self.judge.failed(script.failure[1], self.now_ns())
        if script.latch is not None and passed_s >= script.latch[0]:
            self.started_s, self.state, self.reason = None, *script.latch[1:]
        for index, (at_s, call) in enumerate(script.events):
            if passed_s >= at_s and index not in self.done:
                self.done.add(index)
                call(self)
        if self.state is State.RUNNING and self.time_s >= self.next_chunk_s:
            self.next_chunk_s += script.chunk_every_s
            self.counts = dataclasses.replace(self.counts, chunks=self.counts.chunks + 1)
            self.judge.chunk(ChunkFacts({"assemble": 0.001, "model": 0.02}, 0.03, 2, 0.01))

    def tell(self) -> None:
        """The policy node publishes a status."""
        self.statuses += 1
        self.last = PolicyReport(
            *(self.state, self.reason, self.message, self.instruction, "/ckpt", "sim_arm"),
            counts=self.counts,
            dry_run=self.dry_run,
        )
        self.judge.policy(self.last, self.now_ns())
