"""``/groot_evaluator`` as a process over DDS, with a scripted robot and a scripted policy node."""

from __future__ import annotations

import array
import json
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import Image
from sim_process import WAIT_S, NodeProcess
from std_msgs.msg import Bool, Float64, String
from std_srvs.srv import Trigger

import groot_ros.nodes.evaluator as evaluator_node
from groot_ros.closed_loop.evaluation.record import read_episodes
from groot_ros.dataset.video import video_facts
from groot_ros.embodiment.load import load_embodiment
from groot_ros.msg import ActionChunk, PolicyStatus
from groot_ros.nodes.convert import RELIABLE_QOS, to_time
from groot_ros.nodes.side_node import SideNode
from groot_ros.srv import ResetEpisode

COMMAND = ["-m", "groot_ros.nodes.evaluator"]
RUN_S = 0.4  # of an episode, until what is scripted happens


class Stage(SideNode):
    """Robot, scene and policy node in one: ``script`` says what becomes of each seed.

    success, an error that latches, nothing, or the reason of a failure. All that is asked is in ``log``.
    """

    def __init__(self, robot: Path, script: dict[int, str]) -> None:
        super().__init__("stage")
        self.script, self.log = script, []
        self._seed, self._began_s, self._chunks = 0, 0.0, 0
        self._success = False
        self.state, self._reason, self._instruction = PolicyStatus.READY, "", ""
        node, (*_, camera) = self.node, load_embodiment(robot).all_cameras.values()  # the one that is filmed
        self._camera = node.create_publisher(Image, camera.topic, RELIABLE_QOS)
        self._picture = Image(height=camera.height, width=camera.width, encoding="rgb8", step=3 * camera.width)
        self._picture.data = array.array("B", bytes(3 * camera.height * camera.width))
        self._topics = {
            name: node.create_publisher(kind, f"/groot_sim/{name}", RELIABLE_QOS)
            for name, kind in (("success", Bool), ("failure", String), ("distance", Float64))
        }
        self._status = node.create_publisher(PolicyStatus, "/groot_policy/status", RELIABLE_QOS)
        self._chunk = node.create_publisher(ActionChunk, "/groot_policy/action_chunk", RELIABLE_QOS)
        node.create_subscription(String, "/groot_policy/instruction", self._on_instruction, RELIABLE_QOS)
        node.create_service(ResetEpisode, "/groot_sim/reset_episode", self._on_reset)
        for name in ("start", "stop", "reset", "reset_stop"):
            node.create_service(Trigger, f"/groot_policy/{name}", self._on_call(name))
        node.create_timer(0.05, self._play)

    def _on_reset(self, request: ResetEpisode.Request, response: ResetEpisode.Response) -> ResetEpisode.Response:
        self._note(f"seed {request.seed} {request.task}")
        self._seed, self._success = request.seed, False
        response.success, response.instruction = True, "reach the red cube"
        return response

    def _on_call(self, name: str) -> Callable[[Any, Any], Any]:
        def serve(request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            self._note(name)
            response.success = True
            if name == "start":
                self.state, self._began_s = PolicyStatus.RUNNING, time.monotonic()
            elif name == "reset_stop" or self.state != PolicyStatus.ERROR:
                self.state, self._reason = PolicyStatus.READY, ""
            return response

        return serve

    def _on_instruction(self, message: String) -> None:
        self._instruction = message.data

    def _note(self, line: str) -> None:
        with self.changed:
            self.log.append(line)
            self.changed.notify_all()

    def _play(self) -> None:
        if self.state == PolicyStatus.RUNNING:
            self._camera.publish(self._picture)
            self._chunks += 1
            chunk = ActionChunk(stage_names=["model"], stage_s=[0.02], age_at_publish_s=0.05, handover_jump=0.01)
            chunk.header.stamp = to_time(self.node.get_clock().now().nanoseconds)
            self._chunk.publish(chunk)
            if time.monotonic() - self._began_s > RUN_S:
                self._happen(self.script.get(self._seed, "nothing"))
        self._topics["success"].publish(Bool(data=self._success))
        self._topics["distance"].publish(Float64(data=0.25))
        self._status.publish(
            PolicyStatus(
                state=self.state,
                reason=self._reason,
                message=self._reason and "the model raised",
                instruction=self._instruction,
                checkpoint="/not/on/this/machine",
                chunks=self._chunks,
            )
        )

    def _happen(self, what: str) -> None:
        if what == "success":
            self._success = True
        elif what == "error":
            self.state, self._reason = PolicyStatus.ERROR, "exception"
        elif what != "nothing":
            self._topics["failure"].publish(String(data=what))


def evaluator(robot: Path, output: Path, **more: object) -> NodeProcess:
    given = {"embodiment": str(robot), "output": str(output), "task": "reach", "episodes": 4, "time_limit_s": 60.0}
    return NodeProcess(COMMAND, **{**given, **more})


def outcomes(output: Path) -> dict[int, str]:
    return {episode.seed: episode.outcome for episode in read_episodes(output)}


def test_an_evaluation_that_is_stopped_and_breaks_goes_on_to_its_end(robot_yaml: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with Stage(robot_yaml, {0: "success", 1: "off_table"}) as stage:
        with evaluator(robot_yaml, output) as process:
            process.wait_for("2 so far")
            assert stage.wait_until(lambda: stage.log[-1] == "start", WAIT_S), stage.log
            begun = len(stage.log)
            code, _ = process.end(signal.SIGTERM)
        assert code == 0, process.output
        assert stage.log[begun:] == ["stop"] and stage.state == PolicyStatus.READY
        assert outcomes(output) == {0: "success", 1: "off_table"}
        report = json.loads((output / "report.json").read_text())
        assert (report["summary"]["successes"], report["summary"]["complete"]) == (1, False)
        assert "stopped by a signal" in (output / "report.md").read_text()

        stage.script[2] = "error"
        with evaluator(robot_yaml, output, resume=True) as process:
            code, _ = process.end()
        assert code == 1 and "seed 2: the policy node stopped (exception): the model raised" in process.output
        assert stage.log[-1] == "stop" and outcomes(output) == {0: "success", 1: "off_table"}

        stage.script |= {2: "wrong_cube", 3: "success"}
        stage.state, again = PolicyStatus.READY, len(stage.log)
        with evaluator(robot_yaml, output, resume=True) as process:
            code, _ = process.end()
        assert code == 0, process.output
        assert [line for line in stage.log[again:] if line.startswith("seed")] == ["seed 2 reach", "seed 3 reach"]
        assert stage.log[-1] == "stop" and stage.state == PolicyStatus.READY
    episodes = read_episodes(output)
    assert [episode.outcome for episode in episodes] == ["success", "off_table", "wrong_cube", "success"]
    for episode in episodes:
        assert episode.chunks >= 2 and episode.distance_m == 0.25 and episode.instruction == "reach the red cube"
        assert episode.latency_ms["model"] == [20.0] * episode.chunks
        assert video_facts(output / str(episode.video)).frames > 15
    assert "Not complete" not in (output / "report.html").read_text()
    assert threading.active_count() < 20


def test_what_cannot_begin_is_said_in_one_message(robot_yaml: Path, tmp_path: Path) -> None:
    with evaluator(robot_yaml, tmp_path / "out", reset_type="std_srvs/srv/Trigger", camera="rear") as process:
        code, _ = process.end()
    assert code == 2 and "Traceback" not in process.output
    assert "parameter 'task': expected none, for std_srvs/srv/Trigger takes none, found 'reach'" in process.output


def test_the_task_node_of_the_docs_serves_an_evaluation(robot_yaml: Path, tmp_path: Path) -> None:
    """The page's node as it stands there judges; the stage is robot and policy."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "task.py").write_text(code, encoding="utf-8")
    topics = {"reset_service": "/task/reset_episode", "success_topic": "/task/success", "failure_topic": ""}
    with Stage(robot_yaml, {}) as stage, NodeProcess([str(tmp_path / "task.py")]):
        cube = stage.node.create_publisher(PoseStamped, "/cube/pose", RELIABLE_QOS)
        lifted = PoseStamped()
        lifted.pose.position.z = 0.2

        def lift() -> None:  # while the policy runs; before, the poses are of the scene before
            if stage.state == PolicyStatus.RUNNING:
                lifted.header.stamp = to_time(stage.node.get_clock().now().nanoseconds)
            cube.publish(lifted)

        stage.node.create_timer(0.05, lift)
        output = tmp_path / "out"
        with evaluator(robot_yaml, output, **topics, episodes=2, videos="none") as process:
            status, _ = process.end()
    assert status == 0, process.output
    episodes = read_episodes(output)
    assert [episode.seed for episode in episodes] == [0, 1]
    for episode in episodes:
        assert (episode.outcome, episode.instruction, episode.video) == ("success", "lift the cube", None)


def test_two_simulators_in_one_domain_are_not_evaluated(robot_yaml: Path, tmp_path: Path) -> None:
    impatient = "import groot_ros.nodes.evaluator as e; e.ALONE_S = 0.5; raise SystemExit(e.main())"
    with Stage(robot_yaml, {0: "success"}) as stage:
        stage.node.create_publisher(Bool, "/groot_sim/success", RELIABLE_QOS)
        given = {"embodiment": str(robot_yaml), "output": str(tmp_path / "out"), "videos": "none"}
        with NodeProcess(["-c", impatient], **given) as process:
            status, _ = process.end()
    assert status == 1 and "groot_sim/success: expected one publisher, found 2" in process.output
    assert "start" not in stage.log and stage.log[-1] == "stop"


def test_a_bug_ends_the_process_and_can_be_found(robot_yaml: Path, tmp_path: Path) -> None:
    broken = (
        "import groot_ros.nodes.evaluator as e\n"
        "def wrong(*_): raise LookupError('a bug')\n"
        "e.play = e.EvaluatorNode._finish = wrong\n"
        "raise SystemExit(e.main())"
    )
    given = {"embodiment": str(robot_yaml), "output": str(tmp_path / "out"), "videos": "none"}
    with NodeProcess(["-c", broken], **given) as process:
        status, _ = process.end()
    assert status == 1 and "LookupError: a bug" in process.output
    assert process.output.count("Traceback (most recent call last)") == 2, process.output  # of each


@pytest.mark.parametrize(("cancelled", "timeout_s"), [(False, evaluator_node.ANSWER_S), (True, evaluator_node.HALT_S)])
def test_the_policy_has_time_to_stop_unless_the_process_ends(
    cancelled: bool, timeout_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, float]] = []
    monkeypatch.setattr(evaluator_node, "ask", lambda client, data, wait_s: asked.append((client, wait_s)))
    node = SimpleNamespace(_statuses=1, _policy_calls={"stop": "stop"}, _cancelled=cancelled)
    evaluator_node.EvaluatorNode.halt(node)  # type: ignore[arg-type]
    assert asked == [("stop", timeout_s)]
