"""Episodes one after the other: rest, reset, instruct, start, watch, stop. Every wait is bounded and says what for.

The robot is behind ``World``, which the node implements with topics and services.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from groot_ros.closed_loop.evaluation.judge import (
    ESTOP,
    Counts,
    EpisodeJudge,
    Interrupted,
    Phase,
    PolicyReport,
    Verdict,
)
from groot_ros.policy.supervisor import LATCHED, MOVING, State

REST_S = 10.0  # until a stopped robot stands
CLEAR_S = 15.0  # until the success topic says false
ANSWER_S = 10.0  # until the policy node has taken an instruction, or runs
SILENT_S = 10.0  # the policy node says something five times a second
CLOCK_S = 10.0  # until ROS time goes on
LOOK_S = 0.05


@dataclass(frozen=True)
class ResetAnswer:
    """What the reset service said; ``instruction`` is empty when it has none to give."""

    done: bool
    message: str = ""
    instruction: str = ""


@dataclass(frozen=True)
class Plan:
    """What every episode is like.

    Attributes:
        task: for the reset service; empty: the simulator's own.
        instruction: given to the policy; empty: the reset's.
        time_limit_s: ROS time from the start until an episode has failed.
    """

    time_limit_s: float
    task: str = ""
    instruction: str = ""
    start_timeout_s: float = 300.0


@dataclass(frozen=True)
class Played:
    """One episode that counts: the verdict, and what was counted while it ran."""

    seed: int
    instruction: str
    verdict: Verdict
    judge: EpisodeJudge
    counts: Counts
    after: PolicyReport


class World(Protocol):
    """The robot, its scene and the policy node, as an evaluation needs them. Times in s are of a steady clock."""

    def now_ns(self) -> int:
        """ROS time."""

    def steady_s(self) -> float:
        """Steady time."""

    def policy(self, service: str) -> tuple[bool, str]:
        """Call a service of the policy node: success and message. Raises TimeoutError."""

    def reset(self, seed: int, task: str) -> ResetAnswer:
        """Change the scene. Raises TimeoutError."""

    def instruct(self, text: str) -> None:
        """Give the policy an instruction."""

    def attend(self, judge: EpisodeJudge) -> None:
        """From now on ``judge`` hears all events."""

    def report(self) -> tuple[int, PolicyReport | None]:
        """How many statuses of the policy node have come, and the last one."""

    def wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until ``condition`` holds, which is looked at on every event; False: it did not in time."""

    def halt(self) -> None:
        """Stop the policy if there is any way to. Raises nothing: it is called on the way out."""


def play(world: World, plan: Plan, seeds: Iterable[int], keep: Callable[[Played], None]) -> None:
    """Play an episode per seed; ``keep`` gets each one that counts, before the next begins.

    The policy is stopped when this returns or raises.

    Raises:
        Interrupted: see there. What was kept before stays valid.
        Whatever ``keep`` raises.
    """
    try:
        await_policy(world, plan.start_timeout_s)
        if not world.wait(lambda: world.now_ns() > 0, CLOCK_S):
            raise Interrupted(
                f"/clock: expected ROS time, found none in {CLOCK_S:g} s: publish it or unset use_sim_time"
            )
        for seed in seeds:
            try:
                played = play_one(world, plan, seed)
            except TimeoutError as error:
                raise Interrupted(f"seed {seed}: {error}") from error
            keep(played)
    finally:
        world.halt()


def await_policy(world: World, timeout_s: float) -> PolicyReport:
    """Wait until the policy node is active.

    Raises:
        Interrupted: it is not there, could not be configured, or commands nothing.
    """

    def decided() -> bool:
        report = world.report()[1]
        return report is not None and (report.state >= State.READY or bool(report.reason))

    known = world.wait(decided, timeout_s)
    report = world.report()[1]
    if report is None:
        raise Interrupted(f"the policy node has said nothing in {timeout_s:g} s: is it running, under that name?")
    if not known or report.state < State.READY:
        state = report.state.name.lower()
        raise Interrupted(
            f"the policy node is {state}, expected it active: {report.message or 'configure and activate'}"
        )
    if report.dry_run:
        raise Interrupted("the policy node is in a dry run: set ~/dry_run to false")
    return report


def play_one(world: World, plan: Plan, seed: int) -> Played:
    """One episode; the robot stands when this returns.

    Raises:
        Interrupted: the episode does not count.
        TimeoutError: a service is gone or does not answer.
    """
    come_to_rest(world)
    judge = EpisodeJudge(plan.time_limit_s)
    world.attend(judge)
    answer = world.reset(seed, plan.task)
    if not answer.done:
        raise Interrupted(f"seed {seed}: the reset service refused: {answer.message}")
    judge.reset_done()
    _await_clear(world, judge, seed)
    instruction = plan.instruction or answer.instruction
    _instruct(world, instruction, seed)
    _demand(world, "reset", seed)
    before = _fresh(world, lambda report: report.state is State.READY, ANSWER_S, "is not ready after ~/reset")
    while not judge.begin(world.now_ns()):
        _await_clear(world, judge, seed)
    _demand(world, "start", seed)
    _watch(world, judge, seed)
    if judge.verdict is None:
        raise Interrupted(f"seed {seed}: {judge.interruption}")
    after = come_to_rest(world)
    if not judge.verdict.success:
        _await_word(world, judge, seed)
    return Played(seed, before.instruction, judge.verdict, judge, after.counts.since(before.counts), after)


def come_to_rest(world: World) -> PolicyReport:
    """Stop the policy, wait until the robot stands, and clear a stop that has latched; the status after that.

    Raises:
        Interrupted: it does not come to rest, or the stop cannot be cleared; an e-stop is a person's to clear.
        TimeoutError: a service does not answer.
    """
    world.policy("stop")
    report = _fresh(
        world,
        lambda report: not report.braking and report.state not in MOVING,
        REST_S,
        "did not bring the robot to rest",
    )
    if report.state is State.STOPPED and report.reason == ESTOP:
        raise Interrupted(f"e-stop: {report.message}; a person has to clear it, then go on with --resume")
    if report.state is State.STOPPED:
        done, message = world.policy("reset_stop")
        if not done:
            raise Interrupted(f"~/reset_stop: {message}")
        # What was counted is as before; only the state is another one.
        _fresh(world, lambda report: report.state not in LATCHED, ANSWER_S, "did not clear the stop")
    elif report.state is not State.READY:
        raise Interrupted(f"the policy node is {report.state.name.lower()} ({report.reason}): {report.message}")
    return report


def _fresh(world: World, good: Callable[[PolicyReport], bool], timeout_s: float, what: str) -> PolicyReport:
    """A status that came after this was called, and is ``good``."""
    seen, _ = world.report()

    def found() -> bool:
        count, report = world.report()
        return count > seen and report is not None and good(report)

    came = world.wait(found, timeout_s)
    count, report = world.report()
    if not came or report is None:
        said = (
            "it says nothing more" if count == seen else f"it is {report.state.name.lower() if report else 'unknown'}"
        )
        raise Interrupted(f"the policy node {what} ({timeout_s:g} s): {said}")
    return report


def _await_clear(world: World, judge: EpisodeJudge, seed: int) -> None:
    if not world.wait(lambda: judge.phase is Phase.READY, CLEAR_S):
        raise Interrupted(
            f"seed {seed}: the success topic did not say false within {CLEAR_S:g} s after the reset: it has to be "
            "published all the time, false until the task is done"
        )


def _await_word(world: World, judge: EpisodeJudge, seed: int) -> None:
    """A failure counts only where a success would have been told: the success topic still speaks."""
    said = judge.said
    if not world.wait(lambda: judge.said > said, CLEAR_S):
        raise Interrupted(f"seed {seed}: the success topic says nothing any more: is the simulator running?")


def _instruct(world: World, text: str, seed: int) -> None:
    if not text:
        return  # the policy's own
    world.instruct(text)

    def taken() -> bool:
        report = world.report()[1]
        return report is not None and report.instruction == text

    if not world.wait(taken, ANSWER_S):
        report = world.report()[1]
        found = report.instruction if report is not None else ""
        raise Interrupted(f"seed {seed}: the policy node did not take the instruction {text!r}: it has {found!r}")


def _demand(world: World, service: str, seed: int) -> None:
    done, message = world.policy(service)
    if not done:
        raise Interrupted(f"seed {seed}: ~/{service} of the policy node: {message}")


def _watch(world: World, judge: EpisodeJudge, seed: int) -> None:
    """Until the judge is done, the clock stands still or the policy node is silent."""
    if not world.wait(lambda: judge.moved or judge.over, ANSWER_S):
        raise Interrupted(f"seed {seed}: the policy node has not run {ANSWER_S:g} s after its ~/start")
    heard_s = moved_s = world.steady_s()
    count, now_ns = world.report()[0], world.now_ns()
    while not judge.over:
        world.wait(lambda: judge.over, LOOK_S)
        steady_s = world.steady_s()
        if world.now_ns() != now_ns:
            moved_s, now_ns = steady_s, world.now_ns()
        if world.report()[0] != count:
            heard_s, count = steady_s, world.report()[0]
        judge.time_is(now_ns)
        if steady_s - moved_s > CLOCK_S:
            raise Interrupted(f"seed {seed}: ROS time has stood still for {CLOCK_S:g} s: is the simulator running?")
        if steady_s - heard_s > SILENT_S:
            raise Interrupted(f"seed {seed}: the policy node has said nothing for {SILENT_S:g} s: is it running?")
