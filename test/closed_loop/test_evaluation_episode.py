"""The sequence of an episode, with a robot in virtual time: what is asked for when, and every way it can break."""

from __future__ import annotations

import pytest
from evaluation_world import FakeWorld, Script

from groot_ros.closed_loop.evaluation.episode import Plan, Played, ResetAnswer, play
from groot_ros.closed_loop.evaluation.judge import Interrupted
from groot_ros.policy.supervisor import State

PLAN = Plan(time_limit_s=5.0, task="reach")
NEVER_MOVES = ["halt"]


def evaluate(world: FakeWorld, seeds: range = range(7, 8), plan: Plan = PLAN) -> list[Played]:
    kept: list[Played] = []
    play(world, plan, seeds, kept.append)
    return kept


def interrupted(world: FakeWorld, words: str, seeds: range = range(7, 8), plan: Plan = PLAN) -> list[Played]:
    """Episodes that were kept before the run ended with these words; the policy was stopped."""
    kept: list[Played] = []
    with pytest.raises(Interrupted, match=words):
        play(world, plan, seeds, kept.append)
    assert world.log[-1] == "halt"
    return kept


def test_an_episode_is_asked_for_in_order_and_the_robot_stands_at_its_end() -> None:
    world = FakeWorld(Script(success_s=2.0))
    (played,) = evaluate(world)
    assert world.log == ["stop", "reset 7 reach", "instruct reach the red cube", "reset", "start", "stop", "halt"]
    assert world.state is State.READY
    assert played.verdict.success and played.verdict.time_s == pytest.approx(2.0, abs=0.25)
    assert played.instruction == "reach the red cube"
    assert played.counts.chunks == len(played.judge.chunks) == 4


def test_episodes_of_every_outcome() -> None:
    world = FakeWorld(
        Script(success_s=1.0),
        Script(),
        Script(failure=(1.0, "off_table")),
        Script(latch=(1.0, State.STOPPED, "gate"), chunk_every_s=0.2),
        Script(success_s=3.0),
    )
    outcomes = [played.verdict for played in evaluate(world, range(5))]
    reasons = ["", "time_limit", "off_table", "policy_gate", ""]
    assert [verdict.reason for verdict in outcomes] == reasons
    assert [verdict.success for verdict in outcomes] == [True, False, False, False, True]
    assert world.log.count("reset_stop") == 1  # the gate's stop is cleared, or the next episode could not begin
    assert world.log.count("start") == 5


def test_the_plans_instruction_stands_above_the_resets() -> None:
    world = FakeWorld(Script(success_s=1.0))
    (played,) = evaluate(world, plan=Plan(5.0, instruction="reach the blue cube"))
    assert played.instruction == "reach the blue cube" and "instruct reach the blue cube" in world.log


def test_without_any_instruction_the_policy_keeps_its_own() -> None:
    world = FakeWorld(Script(success_s=1.0))
    world.reset_answer = ResetAnswer(True)
    (played,) = evaluate(world)
    assert played.instruction == "wait" and not any(line.startswith("instruct") for line in world.log)


def test_what_was_played_before_an_interruption_is_kept() -> None:
    world = FakeWorld(Script(success_s=1.0), Script(), Script(latch=(1.0, State.ERROR, "exception")), Script())
    kept = interrupted(world, "seed 2: the policy node stopped .exception", range(4))
    assert [played.seed for played in kept] == [0, 1]


def test_a_policy_that_is_not_there() -> None:
    world = FakeWorld()
    world.status_topic = False
    interrupted(world, "said nothing in 3 s", plan=Plan(5.0, start_timeout_s=3.0))
    assert world.log == NEVER_MOVES


def test_a_policy_that_cannot_be_configured() -> None:
    world = FakeWorld()
    world.state, world.reason, world.message = State.UNCONFIGURED, "CheckpointError", "no such folder"
    interrupted(world, "unconfigured, expected it active: no such folder")
    assert world.log == NEVER_MOVES


def test_a_policy_that_commands_nothing() -> None:
    world = FakeWorld()
    world.dry_run = True
    interrupted(world, "in a dry run: set ~/dry_run to false")
    assert world.log == NEVER_MOVES


def test_an_e_stop_is_not_cleared_by_a_program() -> None:
    world = FakeWorld(Script(success_s=1.0))
    world.state, world.reason, world.message = State.STOPPED, "estop", "pressed on the panel"
    interrupted(world, "e-stop: pressed on the panel; a person has to clear it, then go on with --resume")
    assert world.log == ["stop", "halt"]


def test_a_failure_without_a_success_topic_does_not_count() -> None:
    world = FakeWorld(Script(success_s=1.0), Script(events=[(1.0, lambda w: setattr(w, "success_topic", False))]))
    kept = interrupted(world, "seed 1: the success topic says nothing any more: is the simulator running", range(3))
    assert [played.seed for played in kept] == [0]


def test_a_clock_that_never_came() -> None:
    world = FakeWorld()
    world.clock, world.ros_s = False, 0.0
    interrupted(world, "/clock: expected ROS time")
    assert world.log == NEVER_MOVES


def test_a_reset_that_refuses() -> None:
    world = FakeWorld()
    world.reset_answer = ResetAnswer(False, "no task 'reach'")
    interrupted(world, "seed 7: the reset service refused: no task 'reach'")
    assert "start" not in world.log


@pytest.mark.parametrize("says", ["nothing", "true"])
def test_a_scene_whose_success_is_not_known_to_be_false(says: str) -> None:
    world = FakeWorld(Script(success_s=1.0))
    world.success_topic = says == "true"

    def reset(seed: int, task: str) -> ResetAnswer:
        world.latched_success = True  # as of a simulator that forgets to take it back
        return world.reset_answer

    world.reset = reset  # type: ignore[method-assign]
    interrupted(world, "seed 7: the success topic did not say false within 15 s")
    assert "start" not in world.log


def test_an_instruction_that_is_not_taken() -> None:
    world = FakeWorld()
    world.takes_instructions = False
    interrupted(world, "did not take the instruction 'reach the red cube': it has 'wait'")
    assert "start" not in world.log


@pytest.mark.parametrize("service", ["stop", "reset", "start"])
def test_a_service_that_is_gone(service: str) -> None:
    world = FakeWorld()
    del world.answers[service]
    interrupted(world, f"seed 7: service {service} is not there")


@pytest.mark.parametrize("service", ["reset", "start"])
def test_a_service_that_refuses(service: str) -> None:
    world = FakeWorld()
    world.answers[service] = (False, "not now")
    interrupted(world, f"seed 7: ~/{service} of the policy node: not now")


def test_a_start_that_starts_nothing() -> None:
    world = FakeWorld()
    world.scripts = [Script(events=[(0.0, lambda w: setattr(w, "state", State.READY))])]
    interrupted(world, "has not run 10 s after its ~/start")


def test_a_robot_that_does_not_come_to_rest() -> None:
    world = FakeWorld(Script(success_s=1.0))
    world.state = State.RUNNING
    world.answers["stop"] = (False, "")
    interrupted(world, "did not bring the robot to rest .10 s.: it is running")


def test_a_policy_that_falls_silent() -> None:
    world = FakeWorld(Script(events=[(1.0, lambda w: setattr(w, "status_topic", False))]))
    interrupted(world, "said nothing for 10 s", plan=Plan(60.0))


def test_a_clock_that_stands_still() -> None:
    world = FakeWorld(Script(events=[(1.0, lambda w: setattr(w, "clock", False))]))
    interrupted(world, "ROS time has stood still for 10 s", plan=Plan(60.0))


def test_an_episode_without_a_chunk_does_not_count() -> None:
    world = FakeWorld(Script(chunk_every_s=1e9))
    assert interrupted(world, "the policy executed nothing in 5 s") == []


def test_an_error_while_keeping_stops_the_policy_too() -> None:
    world = FakeWorld(Script(success_s=1.0))

    def full(played: Played) -> None:
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        play(world, PLAN, range(3), full)
    assert world.log[-1] == "halt" and world.log.count("start") == 1
