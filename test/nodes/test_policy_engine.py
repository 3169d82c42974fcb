"""The policy node whose engine fails while the robot moves: what is said where, and that the node stays up."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from robot_double import RobotDouble

from groot_ros.embodiment.load import load_embodiment
from groot_ros.msg import PolicyStatus
from groot_ros.nodes.convert import RELIABLE_QOS
from groot_ros.nodes.observer import Observer
from groot_ros.processes import Processes, ros_environment

WAIT_S = 40.0
WARMED = "kept warm"  # what failing_engine prints
NODE = Path(__file__).parents[1] / "policy" / "failing_engine.py"
NO_MEMORY = "out of memory on cpu: CUDA out of memory. Tried to allocate 2.00 GiB.; trying once more"


def command(parameters: Mapping[str, object]) -> list[str]:
    words = [sys.executable, str(NODE), "--ros-args"]
    for name, value in parameters.items():
        words += ["-p", f"{name}:={value}"]
    return words


def test_the_device_is_kept_warm_while_the_node_is_active(robot_yaml: Path, checkpoint: Path, tmp_path: Path) -> None:
    """Though nobody asks for a chunk."""
    parameters = {"embodiment": robot_yaml, "checkpoint": checkpoint, "instruction": "go", "keep_warm_s": 0.01}
    with Processes(tmp_path, ros_environment()) as processes, Observer(load_embodiment(robot_yaml)) as observer:

        def wait(condition: Callable[[], bool], what: str) -> None:
            assert observer.wait_until(condition, WAIT_S, processes.check), f"{what}; {observer.statuses[-1:]}"

        def change(transition: int) -> None:
            client = observer.node.create_client(ChangeState, "/groot_policy/change_state")
            assert client.wait_for_service(WAIT_S)
            future = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
            wait(future.done, "the transition")
            assert future.result().success
            observer.node.destroy_client(client)

        def reports(count: int) -> None:
            seen = len(observer.statuses)
            wait(lambda: len(observer.statuses) > seen + count, "reports")

        def warmed() -> int:
            return int(processes.log("policy").read_text().count(WARMED))

        processes.start("policy", command(parameters))
        change(Transition.TRANSITION_CONFIGURE)
        reports(3)
        assert warmed() == 0
        for _ in range(2):
            change(Transition.TRANSITION_ACTIVATE)
            before = warmed()
            wait(lambda before=before: warmed() > before + 2, "runs without effect")  # type: ignore[misc]
            change(Transition.TRANSITION_DEACTIVATE)
            reports(2)  # for the run that was under way
            after = warmed()
            reports(3)
            assert warmed() == after
        assert processes.end() == {"policy": 0}


def test_an_engine_that_fails_while_the_robot_moves_is_told_and_the_node_stays_up(
    robot_yaml: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """Memory that runs out: a slower chunk and a line in the log. An error: the row `exception in the model`."""
    embodiment = load_embodiment(robot_yaml)
    parameters = {"embodiment": robot_yaml, "checkpoint": checkpoint, "autostart": "true", "start_on_activate": "true"}
    parameters |= {"instruction": "go", "inference_timeout_s": WAIT_S, "keep_warm_s": 0.0}
    diagnosed: list[DiagnosticArray] = []
    with (
        Processes(tmp_path, ros_environment()) as processes,
        RobotDouble(embodiment),
        Observer(embodiment) as observer,
    ):
        observer.node.create_subscription(DiagnosticArray, "/diagnostics", diagnosed.append, RELIABLE_QOS)

        def wait(condition: Callable[[], bool], what: str) -> None:
            assert observer.wait_until(condition, WAIT_S, processes.check), f"{what}; {observer.statuses[-1:]}"

        def chunks_for(text: str) -> Callable[[], bool]:
            return lambda: sum(chunk.instruction == text for chunk in observer.chunks) > 2

        processes.start("policy", command(parameters))
        wait(chunks_for("go"), "chunks")
        for text in ("memory 1", "memory 1 again"):
            observer.instruct(text)
            wait(chunks_for(text), "chunks after memory ran out")
        log = processes.log("policy").read_text
        wait(lambda: NO_MEMORY in log(), "a line in the log")
        assert log().count(NO_MEMORY) == 1 and "[WARN]" in next(
            line for line in log().splitlines() if NO_MEMORY in line
        )
        observer.instruct("illegal 1")
        wait(lambda: observer.statuses[-1].state == PolicyStatus.ERROR, "ERROR")
        status = observer.statuses[-1]
        assert status.reason == "exception"
        assert status.message == "RuntimeError: CUDA error: an illegal memory access was encountered"
        observer.instruct("go on")
        wait(lambda: observer.statuses[-1].instruction == "go on", "the instruction")
        assert observer.call("reset_stop")[0] and observer.call("start")[0]
        wait(chunks_for("go on"), "chunks again")
        wait(lambda: any("engine" in entry.name for entry in diagnosed[-1].status), "diagnostics")
        [entry] = [entry for entry in diagnosed[-1].status if entry.name.endswith(": engine")]
        values = {pair.key: pair.value for pair in entry.values}
        assert (entry.message, values["engine"], values["precision"]) == ("eager", "eager", "model")
        assert values["engine against plain model"].startswith("largest difference")
        assert processes.end() == {"policy": 0}
