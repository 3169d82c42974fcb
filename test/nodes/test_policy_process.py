"""The life of the policy node's process: signals end it cleanly, a bad start is said once and leaves it up."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rich.console import Console
from robot_double import RobotDouble
from std_msgs.msg import Bool

from groot_ros.embodiment.load import load_embodiment
from groot_ros.msg import PolicyStatus
from groot_ros.nodes.observer import Observer
from groot_ros.policy.random_checkpoint import make_random_checkpoint
from groot_ros.processes import Processes, node_command, ros_environment

WAIT_S = 30.0
INSTRUCTION = "pick up the red cube"


def moving(embodiment: Path, checkpoint: Path, **more: object) -> dict[str, Any]:
    """Parameters of a policy node that moves as soon as it can."""
    always = {"instruction": INSTRUCTION, "autostart": True, "start_on_activate": True, "inference_timeout_s": WAIT_S}
    return {"embodiment": embodiment, "checkpoint": checkpoint, **always, **more}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_while_running_brakes_and_ends_cleanly(
    robot_yaml: Path, checkpoint: Path, tmp_path: Path, number: signal.Signals
) -> None:
    embodiment = load_embodiment(robot_yaml)
    parameters = moving(robot_yaml, checkpoint, dtype="float32")
    with (
        Processes(tmp_path, ros_environment()) as processes,
        RobotDouble(embodiment),
        Observer(embodiment) as observer,
    ):
        process = processes.start("policy", node_command("policy", parameters))
        assert observer.wait_until(lambda: len(observer.commands) > 1, WAIT_S, processes.check)
        process.send_signal(number)
        process.send_signal(number)
        assert process.wait(2.0) == 0
        log = processes.log("policy").read_text()
        assert "Traceback" not in log, log
        assert observer.wait_until(lambda: not any(observer.commands[-1].points[-1].velocities), 5.0)


def test_the_death_of_the_inference_process_stops_the_robot_and_configuring_again_helps(
    robot_yaml: Path, checkpoint: Path, tmp_path: Path
) -> None:
    embodiment = load_embodiment(robot_yaml)
    with (
        Processes(tmp_path, ros_environment()) as processes,
        RobotDouble(embodiment),
        Observer(embodiment) as observer,
    ):

        def wait(condition: Callable[[], bool], what: str) -> None:
            assert observer.wait_until(condition, WAIT_S, processes.check), f"{what}; {observer.statuses[-1:]}"

        def change(transition: int) -> None:
            request = ChangeState.Request(transition=Transition(id=transition))
            assert ask(observer, ChangeState, "/groot_policy/change_state", request).success

        process = processes.start("policy", node_command("policy", moving(robot_yaml, checkpoint)))
        wait(lambda: len(observer.chunks) > 2, "chunks")
        [child] = inference_processes(process.pid)
        os.kill(child, signal.SIGKILL)
        wait(lambda: observer.statuses[-1].state == PolicyStatus.ERROR, "ERROR")
        wait(lambda: not observer.statuses[-1].braking, "rest")
        status = observer.statuses[-1]
        assert status.reason == "exception"
        assert all(word in status.message for word in ("PolicyGone", str(child), "SIGKILL", "configure")), (
            status.message
        )
        assert not any(observer.commands[-1].points[-1].velocities)
        commands, seen = len(observer.commands), len(observer.statuses)
        wait(lambda: len(observer.statuses) > seen + 2, "more reports")
        assert len(observer.commands) == commands
        done, message = observer.call("start")
        assert not done and "SIGKILL" in message

        # Reset without a new process it says the same again, before anybody starts it.
        assert observer.call("reset_stop")[0]
        wait(lambda: observer.statuses[-1].state == PolicyStatus.ERROR, "ERROR again")
        assert len(observer.commands) == commands

        change(Transition.TRANSITION_DEACTIVATE)
        change(Transition.TRANSITION_CLEANUP)
        change(Transition.TRANSITION_CONFIGURE)
        chunks = len(observer.chunks)
        change(Transition.TRANSITION_ACTIVATE)  # start_on_activate
        wait(lambda: len(observer.chunks) > chunks + 1 and len(observer.commands) > commands, "chunks again")
        assert inference_processes(process.pid) not in ([], [child])
        assert processes.end() == {"policy": 0}
        log = processes.log("policy").read_text()
        assert "Traceback" not in log and log.count("stopped (exception)") == 2


def test_instructions_to_a_policy_that_hangs_do_not_hold_up_the_e_stop(
    robot_yaml: Path, checkpoint: Path, tmp_path: Path
) -> None:
    embodiment = load_embodiment(robot_yaml)
    with (
        Processes(tmp_path, ros_environment()) as processes,
        RobotDouble(embodiment) as robot,
        Observer(embodiment) as observer,
    ):
        process = processes.start("policy", node_command("policy", moving(robot_yaml, checkpoint)))
        assert observer.wait_until(lambda: len(observer.chunks) > 2, WAIT_S, processes.check)
        [child] = inference_processes(process.pid)
        os.kill(child, signal.SIGSTOP)
        for number in range(8):
            observer.instruct(f"pick up cube {number}")
        time.sleep(0.3)
        pressed_s = time.monotonic()
        robot.estop.publish(Bool(data=True))
        assert observer.wait_until(lambda: observer.statuses[-1].reason == "estop", WAIT_S, processes.check)
        assert time.monotonic() - pressed_s < 5.0  # the eight would wait 1 s each
        assert processes.end() == {"policy": 0}


def test_an_e_stop_brakes_while_nobody_reads_what_the_node_prints(robot_yaml: Path, checkpoint: Path) -> None:
    embodiment = load_embodiment(robot_yaml)
    reader, writer = os.pipe()  # a terminal that was paused with Ctrl-S
    printed = node_command("policy", moving(robot_yaml, checkpoint))
    with (
        RobotDouble(embodiment) as robot,
        Observer(embodiment) as observer,
        subprocess.Popen(printed, stdout=writer, stderr=writer, env=ros_environment()) as process,
    ):
        try:
            assert observer.wait_until(lambda: len(observer.chunks) > 2, WAIT_S)
            full = os.open(f"/proc/self/fd/{writer}", os.O_WRONLY | os.O_NONBLOCK)
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(full, b"x")
            robot.estop.publish(Bool(data=True))
            assert observer.wait_until(lambda: observer.statuses[-1].reason == "estop", 5.0)
            assert observer.wait_until(lambda: len(observer.commands) > len(observer.chunks), 5.0), "no brake"
        finally:
            process.kill()
            for end in (reader, writer):
                os.close(end)


def test_a_parameter_that_does_not_fit_leaves_no_inference_process(
    robot_yaml: Path, checkpoint: Path, tmp_path: Path
) -> None:
    with Processes(tmp_path, ros_environment()) as processes, Observer(load_embodiment(robot_yaml)) as observer:
        process = processes.start("policy", node_command("policy", moving(robot_yaml, checkpoint, replan_steps=900)))
        refused = "parameter 'replan_steps' is 900"
        assert observer.wait_until(
            lambda: bool(observer.statuses) and refused in observer.statuses[-1].message, WAIT_S, processes.check
        )
        assert inference_processes(process.pid) == []


def inference_processes(parent: int) -> list[int]:
    """Children of ``parent`` that infer."""
    found = []
    for task in Path(f"/proc/{parent}/task").iterdir():
        for child in (task / "children").read_text().split():
            if Path(f"/proc/{child}/comm").read_text().startswith("groot-infer"):
                found.append(int(child))
    return found


def test_with_simulated_time_a_stopped_clock_is_refused_and_a_jump_back_is_survived(
    robot_yaml: Path, checkpoint: Path, tmp_path: Path
) -> None:
    embodiment = load_embodiment(robot_yaml)
    parameters = moving(robot_yaml, checkpoint, use_sim_time=True)
    begin_ns = time.monotonic_ns()
    with (
        Processes(tmp_path, ros_environment()) as processes,
        RobotDouble(embodiment) as robot,
        Observer(embodiment) as observer,
    ):

        def wait(condition: Callable[[], bool]) -> bool:
            return observer.wait_until(condition, WAIT_S, processes.check)

        processes.start("policy", node_command("policy", parameters))
        assert wait(lambda: bool(observer.statuses))  # reports and autostart need no /clock
        robot.clock = lambda: 1000 * 10**9 + time.monotonic_ns() - begin_ns
        assert wait(lambda: len(observer.chunks) > 2), observer.statuses[-1]
        frozen_ns = robot.clock()
        robot.clock = lambda: frozen_ns
        assert wait(lambda: observer.statuses[-1].reason == "clock_stopped")
        assert "/clock" in observer.statuses[-1].message
        commands, refused = len(observer.commands), observer.statuses[-1].refused
        assert wait(lambda: observer.statuses[-1].refused > refused)
        assert len(observer.commands) == commands
        again_ns = time.monotonic_ns()
        robot.clock = lambda: 10 * 10**9 + time.monotonic_ns() - again_ns
        assert wait(lambda: observer.chunks[-1].header.stamp.sec < 1000)
        assert observer.statuses[-1].state in (PolicyStatus.RUNNING, PolicyStatus.REFUSING)
        assert processes.end() == {"policy": 0}
        assert "Traceback" not in processes.log("policy").read_text()


def test_a_signal_while_the_model_is_loading_ends_the_process_in_time(
    robot_yaml: Path, checkpoint: Path, tmp_path: Path
) -> None:
    parameters = {"embodiment": robot_yaml, "checkpoint": checkpoint, "autostart": True}
    with Processes(tmp_path, ros_environment()) as processes, Observer(load_embodiment(robot_yaml)) as observer:
        process = processes.start("policy", node_command("policy", parameters))
        log = processes.log("policy")
        assert observer.wait_until(lambda: "loading" in log.read_text(), WAIT_S, processes.check)
        process.send_signal(signal.SIGTERM)
        assert process.wait(3.0) == 0
        assert "Traceback" not in log.read_text()


def ask(observer: Observer, kind: type, service: str, request: object) -> Any:
    client = observer.node.create_client(kind, service)
    try:
        assert client.wait_for_service(WAIT_S)
        answered = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: answered.set())
        assert answered.wait(WAIT_S)
        return future.result()
    finally:
        observer.node.destroy_client(client)


def test_configure_after_a_failure_and_again_takes_the_parameters_as_they_are_then(
    robot_yaml: Path, checkpoint: Path, tmp_path: Path
) -> None:
    with Processes(tmp_path, ros_environment()) as processes, Observer(load_embodiment(robot_yaml)) as observer:

        def configure() -> bool:
            request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE))
            return bool(ask(observer, ChangeState, "/groot_policy/change_state", request).success)

        def cleanup() -> None:
            request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CLEANUP))
            assert ask(observer, ChangeState, "/groot_policy/change_state", request).success

        def set_text(name: str, text: str) -> None:
            value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=text)
            request = SetParameters.Request(parameters=[Parameter(name=name, value=value)])
            assert ask(observer, SetParameters, "/groot_policy/set_parameters", request).results[0].successful

        def wait_instruction(text: str) -> None:
            assert observer.wait_until(
                lambda: (last := observer.statuses[-1]).state == PolicyStatus.INACTIVE and last.instruction == text,
                WAIT_S,
                processes.check,
            ), observer.statuses[-1]

        parameters = {"embodiment": robot_yaml, "checkpoint": "/nowhere/at/all", "instruction": "first"}
        processes.start("policy", node_command("policy", parameters))
        assert not configure()
        set_text("checkpoint", str(checkpoint))
        assert configure()
        wait_instruction("first")
        cleanup()
        set_text("instruction", "second")
        assert configure()
        wait_instruction("second")
        observer.instruct("said by a person")
        wait_instruction("said by a person")
        cleanup()
        assert configure()
        wait_instruction("said by a person")
        assert processes.end() == {"policy": 0}


BAD_STARTS = {
    "unknown embodiment": ({"embodiment": "sim_arn"}, ["sim_arn", "sim_arm"]),
    "no checkpoint": ({"checkpoint": ""}, ["checkpoint", "make-checkpoint"]),
    "checkpoint is not there": ({"checkpoint": "/nowhere/at/all"}, ["/nowhere/at/all"]),
    "checkpoint of another robot": ({"embodiment": "other"}, ["other.yaml", "claw", "gripper"]),
    "incomplete checkpoint": ({"checkpoint": "incomplete"}, ["incomplete", "statistics.json"]),
    "checkpoint without its weights": ({"checkpoint": "weightless"}, ["weightless", "safetensors"]),
    "bad dtype": ({"dtype": "float8"}, ["dtype", "float32"]),
    "instruction that is too long": ({"instruction": "pick it up " * 3000}, ["parameter 'instruction'", "4096"]),
    "joint without acceleration": (
        {"embodiment": "unstoppable"},
        ["unstoppable.yaml:LINE", "limits.gripper", "add acceleration", "dry_run:=true"],
    ),
    "action key of an unknown joint": (
        {"embodiment": "stranger"},
        ["stranger.yaml:LINE", "action.gripper.joints.0", "'gripperr'", "add limits.gripperr", "misspelt"],
    ),
    "output of an unknown key": (
        {"embodiment": "stray"},
        ["stray.yaml:LINE", "outputs.arm.keys", "'griper'", "did you mean 'gripper'?"],
    ),
    "control rate below the chunk rate": (
        {"embodiment": "slow"},
        ["slow.yaml:LINE", "control.rate_hz", "30 Hz", "25 Hz", "raise control.rate_hz to 30"],
    ),
    "parameter control_rate_hz below the chunk rate": (
        {"control_rate_hz": 25.0},
        ["parameter 'control_rate_hz'", "30 Hz", "found 25", "raise it"],
    ),
    "native chunks of N1.6": (
        {"embodiment": "native", "checkpoint": "n1d6"},
        ["native.yaml:LINE", "control.chunking", "'native'", "n1d7", "write guided"],
    ),
    "parameter chunking: native of N1.6": (
        {"chunking": "native", "checkpoint": "n1d6"},
        ["parameter 'chunking'", "'native'", "n1d6", "n1d7", "set it to guided"],
    ),
    "parameter chunking of no known way": ({"chunking": "smooth"}, ["parameter 'chunking'", "guided", "'smooth'"]),
    "other generation": ({"embodiment": "older"}, ["older.yaml:", "generations", "n1d7", "n1d5"]),
}
# The robot's YAML changed: old text, new text; an addition where there is no old text.
OTHER_YAMLS = {
    "other": [("  gripper:\n", "  claw:\n"), (", gripper]\n", ", claw]\n")],
    "unstoppable": [("1.74533, velocity: 3.0, acceleration: 30.0}\n\n", "1.74533, velocity: 3.0}\n\n")],
    "stranger": [
        ("    joints: [gripper]\n    unit: rad\n    inter", "    joints: [gripperr]\n    unit: rad\n    inter")
    ],
    "stray": [("keys: [single_arm, gripper]", "keys: [single_arm, griper]")],
    "slow": [("rate_hz: 50.0", "rate_hz: 25.0")],
    "native": [("rate_hz: 50.0", "rate_hz: 50.0, chunking: native")],
    "older": [("", "generations:\n  n1d5:\n")],
}


def other_yaml(robot_yaml: Path, folder: Path, name: str) -> tuple[Path, int]:
    """The changed file, and the number of its first line that changed."""
    before = text = robot_yaml.read_text()
    for old, new in OTHER_YAMLS[name]:
        assert old in text
        text = text.replace(old, new) if old else text + new
    path = folder / f"{name}.yaml"
    path.write_text(text)
    pairs = zip(before.splitlines(), text.splitlines(), strict=False)
    changed = [number for number, (old, new) in enumerate(pairs, start=1) if old != new]
    return path, changed[0] if changed else len(before.splitlines()) + 1


@pytest.fixture(scope="module")
def older_checkpoint(robot_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of N1.6, for the same robot."""
    path = tmp_path_factory.mktemp("older") / "tiny"
    make_random_checkpoint(path, "n1d6", "tiny", str(robot_yaml), 0, Console(quiet=True))
    return path


@pytest.mark.parametrize("case", BAD_STARTS)
def test_a_bad_start_is_said_once_and_the_node_stays_up(
    case: str, robot_yaml: Path, checkpoint: Path, older_checkpoint: Path, tmp_path: Path
) -> None:
    changes, words = BAD_STARTS[case]
    if changes.get("checkpoint") == "n1d6":
        changes = {**changes, "checkpoint": older_checkpoint}
    if changes.get("embodiment") in OTHER_YAMLS:
        path, line = other_yaml(robot_yaml, tmp_path, str(changes["embodiment"]))
        changes = {**changes, "embodiment": path}
        words = [word.replace("LINE", f"{line}:") for word in words]
    missing = {"incomplete": "statistics.json", "weightless": "model.safetensors"}.get(str(changes.get("checkpoint")))
    if missing:
        broken = tmp_path / str(changes["checkpoint"])
        shutil.copytree(checkpoint, broken)
        (broken / missing).unlink()
        changes = {"checkpoint": broken}
    parameters = {"embodiment": robot_yaml, "checkpoint": checkpoint, "autostart": True, **changes}
    with Processes(tmp_path, ros_environment()) as processes, Observer(load_embodiment(robot_yaml)) as observer:
        processes.start("policy", node_command("policy", parameters))
        assert observer.wait_until(lambda: any(s.reason for s in observer.statuses), WAIT_S, processes.check)
        status = observer.statuses[-1]
        assert status.state == PolicyStatus.UNCONFIGURED
        assert all(word in status.message for word in words), status.message
        assert observer.call("start")[0] is False
        assert processes.end() == {"policy": 0}
        log = processes.log("policy").read_text()
        assert "Traceback" not in log
        assert log.count("not configured:") == 1


def test_the_command_line_ends_when_the_first_configure_fails(tmp_path: Path) -> None:
    """A person at a terminal is not left with a node that waits; the launched node of above waits."""
    command = [sys.executable, "-m", "groot_ros.cli", "policy", "--checkpoint", "/nowhere/at/all"]
    with Processes(tmp_path, ros_environment()) as processes:
        process = processes.start("policy", command)
        assert process.wait(WAIT_S) == 2
        log = processes.log("policy").read_text()
    assert log.count("not configured:") == 1 and "/nowhere/at/all" in log
    assert "Traceback" not in log


def test_the_command_line_goes_on_when_a_pose_that_nobody_is_sent_is_all_that_cannot_be_commanded(
    tmp_path: Path,
) -> None:
    """DROID for N1.7: the model gives poses and joints, and the joints alone are sent, so that it needs no dry run."""
    make_random_checkpoint(tmp_path / "droid", "n1d7", "tiny", "oxe_droid", 0, Console(quiet=True))
    embodiment = load_embodiment("oxe_droid", "n1d7")
    command = [sys.executable, "-m", "groot_ros.cli", "policy", "-c", str(tmp_path / "droid"), "-e", "oxe_droid"]
    with Processes(tmp_path, ros_environment()) as processes, Observer(embodiment) as observer:
        processes.start("policy", command)
        assert observer.wait_until(
            lambda: any(status.state == PolicyStatus.READY for status in observer.statuses), WAIT_S, processes.check
        ), observer.statuses[-1:]
        assert not observer.statuses[-1].dry_run and observer.call("dry_run", False)[0]
        assert processes.end() == {"policy": 0}


def test_a_robot_that_cannot_be_commanded_yet_runs_dry_and_only_dry(
    robot_yaml: Path, checkpoint: Path, tmp_path: Path
) -> None:
    path, line = other_yaml(robot_yaml, tmp_path, "unstoppable")
    embodiment = load_embodiment(path)
    parameters = moving(path, checkpoint, dry_run=True)
    with (
        Processes(tmp_path, ros_environment()) as processes,
        RobotDouble(embodiment),
        Observer(embodiment) as observer,
    ):
        processes.start("policy", node_command("policy", parameters))
        assert observer.wait_until(lambda: len(observer.chunks) > 1, WAIT_S, processes.check)
        done, message = observer.call("dry_run", False)
        assert not done and f"unstoppable.yaml:{line}: limits.gripper" in message and "acceleration" in message
        assert observer.statuses[-1].dry_run
        assert processes.end() == {"policy": 0}
        assert "Traceback" not in processes.log("policy").read_text()
