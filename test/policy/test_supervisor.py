"""Who may start, stop and clear what: every transition, and that its answer is true."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groot_ros.observation.types import Reason, Refusal
from groot_ros.policy.supervisor import LATCHED, State, Supervisor

REFUSAL = Refusal(Reason.STALE, "front", "topic /front is 0.9 s old")

STEPS = {
    "activate": lambda s: s.activated(),
    "deactivate": lambda s: s.deactivated(),
    "start": lambda s: s.start(),
    "stop": lambda s: s.stop(),
    "pause": lambda s: s.pause(True),
    "resume": lambda s: s.pause(False),
    "latch": lambda s: s.latch("gate", "too fast"),
    "error": lambda s: s.latch("exception", "boom", error=True),
    "press": lambda s: s.estop(True),
    "release": lambda s: s.estop(False),
    "reset_stop": lambda s: s.reset_stop(),
    "refuse": lambda s: s.refused(REFUSAL),
    "send": lambda s: s.sent(0.01, {"model": 0.002}),
    "run empty": lambda s: s.underrun("no chunk in time"),
}


def after(*steps: str) -> Supervisor:
    supervisor = Supervisor()
    supervisor.configured()
    for step in steps:
        STEPS[step](supervisor)
    return supervisor


@pytest.mark.parametrize(
    ("steps", "state"),
    [
        ((), State.INACTIVE),
        (("activate",), State.READY),
        (("activate", "start"), State.RUNNING),
        (("activate", "start", "refuse"), State.REFUSING),
        (("activate", "start", "refuse", "send"), State.RUNNING),
        (("activate", "start", "stop"), State.READY),
        (("activate", "start", "pause"), State.PAUSED),
        (("activate", "start", "pause", "stop"), State.READY),
        (("activate", "start", "pause", "resume"), State.RUNNING),
        (("activate", "start", "latch"), State.STOPPED),
        (("activate", "start", "error"), State.ERROR),
        (("activate", "start", "press"), State.STOPPED),
        (("activate", "start", "press", "release"), State.STOPPED),
        (("activate", "start", "press", "reset_stop"), State.STOPPED),
        (("activate", "start", "press", "release", "reset_stop"), State.READY),
        (("activate", "start", "latch", "reset_stop", "start"), State.RUNNING),
        (("activate", "start", "latch", "start"), State.STOPPED),
        (("activate", "press", "deactivate", "activate"), State.STOPPED),
        (("press", "activate", "start"), State.STOPPED),
        (("activate", "latch", "error"), State.STOPPED),
        (("activate", "start", "deactivate", "start"), State.INACTIVE),
    ],
)
def test_where_steps_lead(steps: tuple[str, ...], state: State) -> None:
    assert after(*steps).state is state


@pytest.mark.parametrize(
    ("steps", "request_name", "done", "words"),
    [
        ((), "start", False, "configure and activate"),
        (("activate",), "start", True, "running"),
        (("activate", "start", "pause"), "start", False, "~/pause"),
        (("activate", "start", "latch"), "start", False, "too fast"),
        (("activate", "start", "press"), "reset_stop", False, "still pressed"),
        (("activate",), "reset_stop", False, "no stop is latched"),
        (("activate",), "pause", False, "ready"),
        (("activate",), "resume", False, "ready"),
        (("activate",), "stop", True, "not running"),
    ],
)
def test_answers_are_true_and_say_what_to_do(steps: tuple[str, ...], request_name: str, done: bool, words: str) -> None:
    answer = STEPS[request_name](after(*steps))
    assert answer.done is done
    assert words in answer.message


@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=30))
def test_after_a_latch_only_reset_stop_and_deactivation_lead_away(steps: list[str]) -> None:
    supervisor = after("activate", "start")
    for step in steps:
        before = supervisor.state
        STEPS[step](supervisor)
        if before in LATCHED and supervisor.state is not before:
            assert step in ("reset_stop", "deactivate", "activate")
        if supervisor.moving and before not in (State.RUNNING, State.REFUSING):
            assert step in ("start", "resume")


@pytest.mark.parametrize("between", [("stop", "start"), ("pause", "resume"), ("latch", "reset_stop", "start")])
def test_a_chunk_begun_before_an_interruption_belongs_to_another_epoch(between: tuple[str, ...]) -> None:
    supervisor = after("activate", "start")
    epoch = supervisor.epoch
    STEPS["refuse"](supervisor)
    STEPS["send"](supervisor)
    assert supervisor.epoch == epoch  # refused ticks interrupt nothing
    for step in between:
        STEPS[step](supervisor)
    assert supervisor.moving and supervisor.epoch != epoch
    epoch = supervisor.epoch
    supervisor.new_epoch()
    assert supervisor.epoch != epoch


def test_refusals_are_counted_by_reason_and_announced_once() -> None:
    supervisor = after("activate", "start")
    older = Refusal(Reason.STALE, "front", "topic /front is 1.0 s old")
    wrist = Refusal(Reason.STALE, "wrist", "topic /wrist is 1.0 s old")
    other = Refusal(Reason.MISSING_JOINT, "joints", "joint 'x' is missing")
    refusals = (REFUSAL, older, wrist, other, REFUSAL)
    assert [supervisor.refused(r) for r in refusals] == [True, False, True, True, True]
    assert supervisor.sent(0.004, {"model": 0.02}) is True
    assert supervisor.sent(0.006, {"model": 0.04, "plan": 0.001}) is False
    assert supervisor.refused(REFUSAL) is True
    assert supervisor.sent(0.005, {"model": 0.03}) is True
    seen = supervisor.snapshot()
    assert (seen.ticks, seen.chunks, seen.refusals) == (9, 3, {"stale": 5, "missing_joint": 1})
    assert seen.model_s[0] == pytest.approx(0.03)
    assert seen.overhead_s[0] == pytest.approx(0.005)
    assert list(seen.stages_s) == ["model", "plan"] and seen.stages_s["plan"] == (0.001, 0.001)
    assert seen.reason == ""
    supervisor.activated()
    assert supervisor.snapshot().ticks == 0


def test_an_unusual_chunk_is_counted_and_its_times_are_not() -> None:
    supervisor = after("activate", "start")
    supervisor.sent(0.004, {"model": 0.02})
    supervisor.sent(0.5, {"model": 9.0, "compile": 8.0}, False)
    seen = supervisor.snapshot()
    assert (seen.chunks, seen.model_s, seen.overhead_s[1]) == (2, (0.02, 0.02), 0.004)
    assert list(seen.stages_s) == ["model"]


def test_a_queue_that_ran_empty_is_said_until_the_next_chunk() -> None:
    supervisor = after("activate", "start", "run empty")
    assert (supervisor.state, supervisor.snapshot().reason) == (State.RUNNING, "underrun")
    assert supervisor.sent(0.01, {"model": 0.002}) is False
    assert supervisor.snapshot().reason == ""
    for steps in (("activate",), ("activate", "start", "refuse"), ("activate", "start", "pause")):
        other = after(*steps)
        before = other.snapshot()
        other.underrun("no chunk in time")
        now = other.snapshot()  # whatever else is the matter says more
        assert (now.state, now.reason, now.message) == (before.state, before.reason, before.message)


def test_chunks_that_were_not_executed_are_counted_by_reason() -> None:
    supervisor = after("activate", "start")
    supervisor.rejected("chunk_too_late")
    supervisor.rejected("chunk_too_late")
    seen = supervisor.snapshot()
    assert (seen.ticks, seen.chunks, seen.refusals) == (2, 0, {"chunk_too_late": 2})


def test_the_numbers_are_those_of_the_message() -> None:
    message = pytest.importorskip("groot_ros.msg", reason="the messages are not built (make env)").PolicyStatus
    assert {state.name: int(state) for state in State} == {name: getattr(message, name) for name in State.__members__}
