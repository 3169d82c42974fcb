"""The policy node as its own process over DDS: chunks come, bad input is refused by name, a stop stops."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from robot_double import RobotDouble
from scipy.interpolate import CubicHermiteSpline
from std_msgs.msg import Bool

from groot_ros.embodiment.load import load_embodiment
from groot_ros.msg import PolicyStatus
from groot_ros.nodes.observer import Observer
from groot_ros.processes import Processes, node_command, ros_environment

WAIT_S = 30.0
INSTRUCTION = "pick up the red cube"


class Rig:
    """Robot double, observer and the running node."""

    def __init__(self, robot: RobotDouble, observer: Observer, processes: Processes) -> None:
        self.robot, self.observer, self.processes = robot, observer, processes

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        if not self.observer.wait_until(condition, WAIT_S, self.processes.check):
            last = self.observer.statuses[-1]
            log = self.processes.log("policy").read_text()[-2000:]
            pytest.fail(f"not within {WAIT_S} s: {what}; last status {last.state} {last.reason} {last.message}\n{log}")

    def status(self) -> PolicyStatus:
        """A status that the node made after now."""
        seen = len(self.observer.statuses)
        self.wait(lambda: len(self.observer.statuses) > seen + 1, "another status")
        return self.observer.statuses[-1]

    def wait_state(self, state: int) -> PolicyStatus:
        self.wait(lambda: self.observer.statuses[-1].state == state, f"state {state}")
        return self.observer.statuses[-1]

    def wait_chunks(self, more: int = 2) -> None:
        seen = len(self.observer.chunks)
        self.wait(lambda: len(self.observer.chunks) >= seen + more, f"{more} more chunks")

    def no_commands_while(self, condition: Callable[[], bool], what: str) -> None:
        seen = len(self.observer.commands)
        self.wait(condition, what)
        assert len(self.observer.commands) == seen

    def start(self) -> None:
        assert self.observer.call("start") == (True, "running")
        self.wait_chunks(1)


@pytest.fixture(scope="module")
def node(robot_yaml: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    embodiment = load_embodiment(robot_yaml)
    logs = tmp_path_factory.mktemp("logs")
    parameters = {"embodiment": robot_yaml, "checkpoint": checkpoint, "autostart": True, "inference_timeout_s": WAIT_S}
    with (
        Processes(logs, ros_environment()) as processes,
        RobotDouble(embodiment) as robot,
        Observer(embodiment) as observer,
    ):
        processes.start("policy", node_command("policy", {**parameters, "instruction": INSTRUCTION}))
        rig = Rig(robot, observer, processes)
        rig.wait(lambda: bool(observer.statuses) and observer.statuses[-1].state == PolicyStatus.READY, "READY")
        yield rig
        assert processes.end() == {"policy": 0}
        assert "Traceback" not in processes.log("policy").read_text()


@pytest.fixture
def rig(node: Rig) -> Iterator[Rig]:
    """The node, ready and with a good robot."""
    node.robot.edit = lambda stream, message: message
    node.robot.estop.publish(Bool(data=False))
    node.observer.call("dry_run", False)
    node.observer.instruct(INSTRUCTION)
    node.observer.call("reset_stop")
    assert node.observer.call("reset")[0]
    node.wait(
        lambda: (
            (last := node.observer.statuses[-1]).state == PolicyStatus.READY
            and last.instruction == INSTRUCTION
            and not last.dry_run
            and all(rate > 0 for rate in last.stream_rate_hz)
        ),
        "READY with all streams",
    )
    return node


def test_chunks_carry_what_the_model_said_and_commands_what_the_gate_let_through(rig: Rig) -> None:
    first_command, first_chunk = len(rig.observer.commands), len(rig.observer.chunks)
    rig.start()
    rig.wait_chunks(3)
    rig.wait(lambda: len(rig.observer.commands) > first_command + 2, "commands")
    robot = rig.robot.embodiment
    for chunk in rig.observer.chunks[first_chunk:]:
        assert chunk.instruction == INSTRUCTION
        assert list(chunk.keys) == list(robot.action)
        assert chunk.horizon == robot.horizon
        said = np.asarray(chunk.model_actions).reshape(chunk.horizon, sum(chunk.key_dims))
        sent = np.asarray(chunk.gated_actions).reshape(said.shape)
        assert np.isfinite(said).all()
        assert np.isnan(sent[: chunk.points_trimmed]).all()
        assert np.isfinite(sent[chunk.points_trimmed :]).all()
        assert chunk.age_at_publish_s > chunk.model_s > 0
        assert math.isclose(chunk.overhead_s, chunk.age_at_publish_s - chunk.model_s)
    by_stamp = {stamp_ns(c): c for c in rig.observer.chunks[first_chunk:]}
    period_ns = round(1e9 / robot.control.rate_hz)
    compared = 0
    for command in rig.observer.commands[first_command:]:
        assert list(command.joint_names) == robot.action_joints
        offsets_ns = [point.time_from_start.sec * 10**9 + point.time_from_start.nanosec for point in command.points]
        at_ns = stamp_ns(command) + np.array(offsets_ns)
        assert not (at_ns % period_ns).any() and set(np.diff(at_ns)) == {period_ns}
        assert not any(command.points[-1].velocities)
        positions = np.array([point.positions for point in command.points])
        limits = [robot.limits[joint] for joint in command.joint_names]
        assert (positions >= [limit.lower - 1e-9 for limit in limits]).all()
        assert (positions <= [limit.upper + 1e-9 for limit in limits]).all()
        chunk = by_stamp.get(stamp_ns(command))
        if chunk is None:
            continue  # the first one is stamped with its first point when the robot was seen later than that
        compared += 1
        due_ns = stamp_ns(chunk) + np.rint((np.arange(chunk.horizon) + 1) * chunk.dt_s * 1e9).astype(np.int64)
        sent = np.asarray(chunk.gated_actions).reshape(chunk.horizon, -1)
        inside = (due_ns >= at_ns[0]) & ~np.isnan(sent[:, 0])
        assert inside.sum() >= chunk.horizon - chunk.points_trimmed - 1
        velocities = [point.velocities for point in command.points]
        executed = CubicHermiteSpline((at_ns - at_ns[0]) * 1e-9, positions, velocities)
        arm = [0, 1, 2, 3, 4]  # the gripper goes in straight lines between the chunk's points, not between the ticks
        np.testing.assert_allclose(
            executed((due_ns[inside] - at_ns[0]) * 1e-9)[:, arm], sent[inside][:, arm], atol=2e-3
        )
    assert compared >= 2


def stamp_ns(message) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def hold_back(name: str):
    return lambda stream, message: None if stream == name else message


def joints(change: Callable):
    def edit(stream: str, message):
        if stream == "joints":
            change(message)
        return message

    return edit


def shift_stamps(stream_name: str, seconds: int):
    def edit(stream: str, message):
        if stream == stream_name:
            message.header.stamp.sec += seconds
        return message

    return edit


def other_encoding(stream: str, message):
    if stream == "front":
        message.encoding = "16UC1"
    return message


def freeze(stream: str, message):
    if stream == "wrist":
        message.data = type(message.data)("B", bytes(len(message.data)))
    return message


def drop_joint(message) -> None:
    message.name, message.position = message.name[:-1], message.position[:-1]


def not_a_number(message) -> None:
    message.position[2] = math.nan


FAULTS = {
    "camera stops": (hold_back("front"), "stale", ["/front/image_raw"]),
    "joints stop": (hold_back("joints"), "stale", ["/joint_states"]),
    "joint missing": (joints(drop_joint), "missing_joint", ["/joint_states", "gripper"]),
    "NaN": (joints(not_a_number), "not_finite", ["/joint_states", "elbow_flex"]),
    "stamp from the future": (shift_stamps("front", 100), "future_stamp", ["/front/image_raw"]),
    "stamp going backwards": (shift_stamps("joints", -100), "out_of_order", ["/joint_states"]),
    "wrong encoding": (other_encoding, "wrong_encoding", ["/front/image_raw", "16UC1"]),
    "frozen camera": (freeze, "frozen_camera", ["/wrist/image_raw"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_refused_by_name_and_no_command_follows_until_it_is_gone(rig: Rig, fault: str) -> None:
    edit, reason, words = FAULTS[fault]
    rig.start()
    logged = len(rig.processes.log("policy").read_text())
    rig.robot.edit = edit
    rig.wait(lambda: rig.observer.statuses[-1].reason == reason, f"refusal {reason}")
    status = rig.observer.statuses[-1]
    assert status.state == PolicyStatus.REFUSING
    assert all(word in status.message for word in words), status.message
    refused = status.refused
    rig.no_commands_while(lambda: rig.observer.statuses[-1].refused > refused + 3, "more refused ticks")
    log = rig.processes.log("policy").read_text()
    assert sum(f"refused ({reason})" in line for line in log[logged:].splitlines()) == 1, log[logged:]
    counts = dict(zip(rig.observer.statuses[-1].refusal_reasons, rig.observer.statuses[-1].refusal_counts, strict=True))
    assert counts[reason] >= 3
    rig.robot.edit = lambda stream, message: message
    rig.wait_chunks(1)


def test_a_topic_that_never_came_is_named(rig: Rig) -> None:
    rig.robot.edit = hold_back("wrist")
    rig.observer.call("reset")
    rig.no_commands_while(lambda: True, "nothing")
    assert rig.observer.call("start")[0]
    rig.no_commands_while(lambda: rig.observer.statuses[-1].reason == "missing_stream", "missing stream")
    assert "/wrist/image_raw" in rig.observer.statuses[-1].message


def test_joints_in_another_order_give_the_same_chunk_order(rig: Rig) -> None:
    def reverse(message) -> None:
        message.name, message.position = message.name[::-1], message.position[::-1]

    rig.robot.edit = joints(reverse)
    rig.start()
    rig.wait_chunks(1)
    rig.wait_state(PolicyStatus.RUNNING)


def test_an_empty_instruction_is_refused_and_a_new_one_takes_effect(rig: Rig) -> None:
    rig.start()
    rig.observer.instruct("   ")
    rig.wait(lambda: rig.observer.statuses[-1].reason == "empty_instruction", "empty instruction")
    assert "~/instruction" in rig.observer.statuses[-1].message
    rig.observer.instruct("push the blue cube")
    rig.wait_chunks(1)
    rig.wait(lambda: rig.observer.chunks[-1].instruction == "push the blue cube", "the new instruction in a chunk")


def test_a_new_instruction_mid_run_starts_from_no_prefix_and_the_robot_moves_on(rig: Rig) -> None:
    rig.start()
    begin = len(rig.observer.chunks)
    rig.wait(
        lambda: any(chunk.frozen_points > 0 for chunk in rig.observer.chunks[begin:]), "a chunk that continues one"
    )
    rig.observer.instruct("push the blue cube")
    rig.wait_chunks(1)
    rig.wait(lambda: rig.observer.chunks[-1].instruction == "push the blue cube", "the new instruction in a chunk")
    rig.wait(lambda: rig.observer.chunks[-1].frozen_points > 0, "a chunk that continues one again")
    chunks = rig.observer.chunks[begin:]
    [first, *later] = [chunk for chunk in chunks if chunk.instruction == "push the blue cube"]
    assert first.frozen_points == 0, "the prefix says what the old instruction asked for"
    assert math.isfinite(first.handover_jump), "it takes over from the old one all the same"
    assert later and rig.status().state == PolicyStatus.RUNNING


def test_the_status_says_how_well_it_runs(rig: Rig) -> None:
    first = len(rig.observer.chunks)
    rig.start()
    rig.wait_chunks(4)
    rig.status()
    running = rig.wait_state(PolicyStatus.RUNNING)  # it holds for a moment where the machine of the tests is busy
    assert not running.braking
    assert running.reason in ("", "underrun")
    assert running.control_rate_hz == 50.0 and running.chunking == "guided"
    assert running.ticks_executed > 10 and running.ticks_missed < running.ticks_executed
    assert 0.0 < running.tick_jitter_p50_s <= running.tick_jitter_p99_s <= running.tick_jitter_max_s
    assert running.handovers >= 3
    assert 0.0 <= running.handover_jump_p50 <= running.handover_jump_p95 <= running.handover_jump_max
    assert 0.0 < running.seam_acceleration <= running.seam_acceleration_max <= 1.0 + 1e-6
    assert 0.0 < running.inside_acceleration <= 1.0 + 1e-6
    assert math.isclose(running.seam_ratio, running.seam_acceleration / running.inside_acceleration, rel_tol=1e-6)
    assert -1.0 <= running.boundary_cosine_p50 <= 1.0
    assert 0.0 < running.observation_age_p50_s <= running.observation_age_p95_s
    assert 0.0 <= running.delay_ticks_p50 <= running.delay_ticks_p95 <= running.delay_ticks_max
    assert 0 <= running.queue_points <= rig.robot.embodiment.horizon * 50 // 30 + 1
    assert running.stage_names[0] == "assemble" and {"model", "transfer", "plan"} <= set(running.stage_names)
    assert len(running.stage_p50_s) == len(running.stage_p95_s) == len(running.stage_names)
    assert all(0.0 <= p50 <= p95 for p50, p95 in zip(running.stage_p50_s, running.stage_p95_s, strict=True))
    assert len(running.rejected_reasons) == len(running.rejected_counts)
    for chunk in rig.observer.chunks[first:]:
        assert chunk.chunking == "guided" and chunk.delay_ticks <= running.delay_ticks_max + 1
        assert chunk.frozen_points < chunk.horizon
        assert list(chunk.stage_names) == list(running.stage_names)
    assert math.isnan(rig.observer.chunks[first].handover_jump), "there is nothing to take over from at the start"


def test_an_instruction_that_is_too_long_is_refused_by_name_and_the_old_one_stays(rig: Rig) -> None:
    rig.start()
    logged = len(rig.processes.log("policy").read_text())
    rig.observer.instruct("pick it up " * 3000)
    rig.wait(lambda: "refused" in rig.processes.log("policy").read_text()[logged:], "a line in the log")
    [line] = [line for line in rig.processes.log("policy").read_text()[logged:].splitlines() if "refused" in line]
    assert "~/instruction" in line and "4096" in line and f"going on with '{INSTRUCTION}'" in line
    seen = len(rig.observer.chunks)
    rig.wait_chunks(2)
    assert {chunk.instruction for chunk in rig.observer.chunks[seen:]} == {INSTRUCTION}
    rig.wait_state(PolicyStatus.RUNNING)


def test_stop_brakes_to_rest_and_nothing_follows(rig: Rig) -> None:
    rig.start()
    rig.wait_chunks(1)
    done, _ = rig.observer.call("stop")
    assert done
    rig.status()
    last = rig.observer.commands[-1]
    assert not any(last.points[-1].velocities)
    seen = len(rig.observer.statuses)
    rig.no_commands_while(lambda: len(rig.observer.statuses) > seen + 3, "more statuses")
    assert rig.observer.statuses[-1].state == PolicyStatus.READY


def test_an_estop_latches_until_released_and_reset(rig: Rig) -> None:
    rig.start()
    rig.robot.estop.publish(Bool(data=True))
    rig.wait_state(PolicyStatus.STOPPED)
    assert rig.observer.call("start")[0] is False
    done, message = rig.observer.call("reset_stop")
    assert not done and "still pressed" in message
    rig.robot.estop.publish(Bool(data=False))
    seen = len(rig.observer.statuses)
    rig.no_commands_while(lambda: len(rig.observer.statuses) > seen + 2, "more statuses")
    assert rig.observer.statuses[-1].state == PolicyStatus.STOPPED
    assert rig.observer.call("reset_stop")[0]
    rig.start()


def test_pause_holds_and_resume_goes_on(rig: Rig) -> None:
    rig.start()
    assert rig.observer.call("pause", True)[0]
    rig.wait_state(PolicyStatus.PAUSED)
    seen = len(rig.observer.statuses)
    rig.no_commands_while(lambda: len(rig.observer.statuses) > seen + 2, "more statuses")
    assert rig.observer.call("pause", False)[0]
    rig.wait_chunks(1)


def test_a_dry_run_publishes_chunks_and_no_commands(rig: Rig) -> None:
    assert rig.observer.call("dry_run", True)[0]
    rig.start()
    seen = len(rig.observer.chunks)
    rig.no_commands_while(lambda: len(rig.observer.chunks) > seen + 2, "chunks")
    assert rig.observer.statuses[-1].dry_run


def change_state(rig: Rig, transition: int) -> bool:
    client = rig.observer.node.create_client(ChangeState, "/groot_policy/change_state")
    try:
        assert client.wait_for_service(WAIT_S)
        answered = threading.Event()
        future = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
        future.add_done_callback(lambda _: answered.set())
        assert answered.wait(WAIT_S)
        return bool(future.result().success)
    finally:
        rig.observer.node.destroy_client(client)


def test_the_lifecycle_goes_down_while_running_and_up_again(rig: Rig) -> None:
    rig.start()
    rig.wait_chunks(1)
    assert change_state(rig, Transition.TRANSITION_DEACTIVATE)
    rig.wait_state(PolicyStatus.INACTIVE)
    assert not any(rig.observer.commands[-1].points[-1].velocities)
    seen = len(rig.observer.statuses)
    rig.no_commands_while(lambda: len(rig.observer.statuses) > seen + 2, "more statuses")
    assert rig.observer.call("start")[0] is False
    assert change_state(rig, Transition.TRANSITION_CLEANUP)
    rig.wait_state(PolicyStatus.UNCONFIGURED)
    assert change_state(rig, Transition.TRANSITION_CONFIGURE)
    rig.wait_state(PolicyStatus.INACTIVE)
    assert change_state(rig, Transition.TRANSITION_ACTIVATE)
    rig.wait_state(PolicyStatus.READY)
    rig.wait(lambda: all(rate > 0 for rate in rig.observer.statuses[-1].stream_rate_hz), "all streams")
    chunks = len(rig.observer.chunks)
    rig.start()
    assert rig.observer.chunks[chunks].sequence == 0
