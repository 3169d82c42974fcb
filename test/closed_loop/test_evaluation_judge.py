"""Verdicts from recorded events: (seconds, topic, what it said)."""

from __future__ import annotations

from typing import Any

import pytest

from groot_ros.closed_loop.evaluation.judge import ChunkFacts, Counts, EpisodeJudge, Phase, PolicyReport
from groot_ros.policy.supervisor import State

START_S = 1.0
CHUNK = ChunkFacts({"model": 0.02}, 0.03, 1, float("nan"))


def follow(events: list[tuple[float, str, Any]], limit_s: float = 10.0) -> EpisodeJudge:
    """An episode that is reset at 0 and started at ``START_S``."""
    judge = EpisodeJudge(limit_s)
    for at_s, topic, said in sorted([*events, (0.0, "reset", None), (START_S, "start", None)], key=lambda e: e[0]):
        now_ns = round(1e9 * at_s)
        match topic:
            case "reset":
                judge.reset_done()
            case "start":
                assert judge.begin(now_ns), judge.phase
            case "success":
                judge.succeeded(said, now_ns)
            case "failure":
                judge.failed(said, now_ns)
            case "distance":
                judge.distance(said)
            case "chunk":
                judge.chunk(CHUNK)
            case "clock":
                judge.time_is(now_ns)
            case "policy":
                state, reason = said
                judge.policy(PolicyReport(state, reason, f"because of {reason}"), now_ns)
    return judge


CLEAR = (0.5, "success", False)
RUNNING = (1.1, "policy", (State.RUNNING, ""))

VERDICTS = {
    "success": ([CLEAR, (2.0, "success", False), (3.5, "success", True)], (True, "", 2.5)),
    "success of the scene before, then false": (
        [(0.1, "success", True), (0.2, "success", False), (4.0, "success", True)],
        (True, "", 3.0),
    ),
    "the first verdict counts": (
        [CLEAR, (2.0, "failure", "off_table"), (3.0, "success", True)],
        (False, "off_table", 1.0),
    ),
    "success before failure": ([CLEAR, (2.0, "success", True), (2.1, "failure", "off_table")], (True, "", 1.0)),
    "an empty failure is none": ([CLEAR, (2.0, "failure", ""), (3.0, "success", True)], (True, "", 2.0)),
    "a failure of the scene before": ([CLEAR, (0.7, "failure", "off_table"), (3.0, "success", True)], (True, "", 2.0)),
    "time limit": (
        [CLEAR, (2.0, "chunk", None), (10.9, "clock", None), (11.1, "clock", None)],
        (False, "time_limit", 10.0),
    ),
    "success after the limit": (
        [CLEAR, (2.0, "chunk", None), (11.2, "success", True), (11.3, "clock", None)],
        (False, "time_limit", 10.0),
    ),
    "refused at the end, for a moment": (
        [CLEAR, (2.0, "chunk", None), (9.5, "policy", (State.REFUSING, "stale")), (11.1, "clock", None)],
        (False, "time_limit", 10.0),
    ),
    "refused for long, and then no more": (
        [CLEAR, (2.0, "chunk", None), (3.0, "policy", (State.REFUSING, "stale"))]
        + [(8.0, "policy", (State.RUNNING, "")), (11.1, "clock", None)],
        (False, "time_limit", 10.0),
    ),
    "it brought the robot where it never was": (
        [
            CLEAR,
            (2.0, "chunk", None),
            (3.0, "policy", (State.REFUSING, "out_of_training_range")),
            (11.1, "clock", None),
        ],
        (False, "time_limit", 10.0),
    ),
    "the gate stopped it": ([CLEAR, RUNNING, (3.0, "policy", (State.STOPPED, "gate"))], (False, "policy_gate", 2.0)),
    "an old status at the start": (
        [CLEAR, (1.05, "policy", (State.READY, "stop")), RUNNING, (3.0, "success", True)],
        (True, "", 2.0),
    ),
}


@pytest.mark.parametrize("case", VERDICTS)
def test_verdict(case: str) -> None:
    events, (success, reason, time_s) = VERDICTS[case]
    judge = follow(events)
    assert judge.over and judge.verdict is not None and not judge.interruption
    assert (judge.verdict.success, judge.verdict.reason) == (success, reason)
    assert judge.verdict.time_s == pytest.approx(time_s)


INTERRUPTIONS = {
    "e-stop": ([CLEAR, RUNNING, (2.0, "policy", (State.STOPPED, "estop"))], "estop"),
    "machine too slow": ([CLEAR, RUNNING, (2.0, "policy", (State.STOPPED, "control_gap"))], "control_gap"),
    "the model raised": ([CLEAR, RUNNING, (2.0, "policy", (State.ERROR, "exception"))], "because of exception"),
    "somebody stopped it": ([CLEAR, RUNNING, (2.0, "policy", (State.READY, "stop"))], "somebody else"),
    "somebody paused it": ([CLEAR, RUNNING, (2.0, "policy", (State.PAUSED, "pause"))], "paused"),
    "nothing was executed": (
        [CLEAR, RUNNING, (2.0, "policy", (State.REFUSING, "stale")), (12.0, "clock", None)],
        "executed nothing in 10 s; it refused: stale: because of stale",
    ),
    "a stream that stopped": (
        [CLEAR, RUNNING, (2.0, "chunk", None), (5.0, "policy", (State.REFUSING, "no_sample"))]
        + [(6.0, "policy", (State.REFUSING, "stale")), (12.0, "clock", None)],
        "refused every observation for the last 7.0 s: stale: because of stale",
    ),
}


@pytest.mark.parametrize("case", INTERRUPTIONS)
def test_what_is_not_the_policys_fault_is_no_failure(case: str) -> None:
    events, words = INTERRUPTIONS[case]
    judge = follow(events)
    assert judge.over and judge.verdict is None
    assert words in judge.interruption


def test_time_that_goes_back_is_no_failure() -> None:
    judge = follow([CLEAR, RUNNING])
    judge.time_is(round(0.4e9))
    assert judge.verdict is None and "jumped back by 0.600 s" in judge.interruption


def test_a_success_of_the_scene_before_keeps_the_start_back() -> None:
    judge = EpisodeJudge(10.0)
    judge.succeeded(False, 0)
    assert judge.phase is Phase.RESETTING and not judge.begin(0)  # said before the scene was changed
    judge.reset_done()
    assert not judge.begin(0)
    judge.succeeded(False, 1)
    judge.succeeded(True, 2)
    assert not judge.begin(3)
    judge.succeeded(False, 4)
    assert judge.begin(5)


def test_distances_and_chunks_are_of_the_run_alone() -> None:
    nan = float("nan")
    judge = follow(
        [CLEAR, (0.6, "distance", 0.01), (0.7, "chunk", None), (2.0, "distance", 0.3), (3.0, "distance", 0.1)]
        + [(3.5, "distance", nan), (4.0, "distance", 0.2), (4.5, "chunk", None), (5.0, "success", True)]
        + [(6.0, "distance", 9.0), (6.5, "chunk", None)]
    )
    assert (judge.distance_m, judge.closest_m, len(judge.chunks)) == (0.2, 0.1, 1)


def test_counts_of_an_episode() -> None:
    before = Counts(10, {"stale": 3}, {"late": 1}, 100, 1, 5, 9)
    after = Counts(14, {"stale": 3, "no_sample": 2}, {"late": 2}, 200, 1, 6, 12)
    assert after.since(before) == Counts(4, {"no_sample": 2}, {"late": 1}, 100, 0, 1, 3)
