"""``/groot_recorder`` over real DDS, with the simulated arm, a joystick and keys in processes of their own."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from builtin_interfaces.msg import Duration
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from sensor_msgs.msg import Joy
from sim_process import WAIT_S, Listener, NodeProcess
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from groot_ros.dataset import encoder, session_types
from groot_ros.dataset.bag_events import EpisodeEvent
from groot_ros.dataset.paths import video_path
from groot_ros.dataset.read import Dataset
from groot_ros.dataset.salvage import aborted_episodes, salvage
from groot_ros.dataset.spec import INTERVENTION, STAMP
from groot_ros.dataset.video import count_frames
from groot_ros.msg import PolicyStatus, RecorderStatus
from groot_ros.nodes.convert import RELIABLE_QOS
from groot_ros.nodes.recorder_client import RecorderClient
from groot_ros.nodes.recorder_parameters import CODECS, DROP_POLICIES
from groot_ros.simulation.arm import JOINTS

COMMAND = "/arm_controller/joint_trajectory"
START, DISCARD, PAUSE, INTERVENE = range(4)  # buttons of the joystick


@dataclass
class Rig:
    """A recorder, a robot, keys and a joystick, and who watches."""

    root: Path
    yaml: Path
    recorder: NodeProcess
    keys: NodeProcess
    client: RecorderClient
    listener: Listener
    events: list[String]

    def wait(self, condition: object, what: str) -> RecorderStatus:
        """The first status for which ``condition`` holds."""
        assert self.client.wait_for(condition, WAIT_S), f"{what}; {self.client.status}; {self.keys.output}"
        return self.client.status

    def kinds(self) -> list[str]:
        return [EpisodeEvent.from_text(message.data).kind for message in self.events]


@pytest.fixture(scope="module")
def rig(slow_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    root = tmp_path_factory.mktemp("recordings") / "pick"
    parameters = {"embodiment": str(slow_yaml), "dataset": str(root), "policy": "groot_policy", "autostart": True}
    with (
        NodeProcess(["-m", "groot_ros.nodes.recorder"], **parameters) as recorder,
        NodeProcess(["-m", "groot_ros.nodes.record_keys"]) as keys,
        RecorderClient() as client,
        Listener() as listener,
    ):
        events = listener.listen(String, "/groot_recorder/episode_events", RELIABLE_QOS)
        yield Rig(root, slow_yaml, recorder, keys, client, listener, events)


@pytest.fixture(scope="module")
def sim(rig: Rig) -> Iterator[NodeProcess]:
    rates = {"camera_rate_hz": 10.0, "joint_rate_hz": 20.0}
    with NodeProcess(["-m", "groot_ros.nodes.simulator"], embodiment=str(rig.yaml), seed=3, **rates) as node:
        rig.wait(at_rate, "rates")
        yield node


def at_rate(status: RecorderStatus) -> bool:
    """Everything comes as it should, now."""
    rates = zip(status.stream_rate_hz, status.stream_expected_hz, status.stream_age_s, strict=True)
    return all(
        rate_hz >= 0.9 * expected_hz and age_s < 1.0 for rate_hz, expected_hz, age_s in rates if expected_hz > 0.0
    )


def start_recording(rig: Rig, rows: int) -> None:
    """Command the robot, and wait for so many rows of the episode that has been started."""
    rig.wait(lambda status: status.state == RecorderStatus.WAITING, "WAITING")
    point = JointTrajectoryPoint(positions=[0.3] * 6, velocities=[0.0] * 6, time_from_start=Duration(sec=3))
    publisher = rig.listener.publisher(JointTrajectory, COMMAND, subscribers=2)  # robot and recorder
    publisher.publish(JointTrajectory(joint_names=list(JOINTS), points=[point]))
    rig.wait(lambda status: status.rows >= rows, f"{rows} rows")


def test_choices_are_those_of_the_room_that_records() -> None:
    assert CODECS == encoder.CODECS and DROP_POLICIES == session_types.DROP_POLICIES


def test_without_a_robot_nothing_starts_and_the_message_says_what_is_missing(rig: Rig) -> None:
    status = rig.wait(lambda status: status.state == RecorderStatus.IDLE, "IDLE")
    assert status.dataset == str(rig.root) and status.episodes == 0 and status.disk_free_gb > 0
    assert status.stream_names == ["front", "wrist", "joints", "command:arm"]
    assert math.isnan(status.spread_s)
    done, message = rig.client.call("start_episode")
    assert not done and "task" in message
    rig.listener.publisher(String, "/groot_recorder/task").publish(String(data="push the robot's cube"))
    rig.wait(lambda status: status.task == "push the robot's cube", "task")
    done, message = rig.client.call("start_episode")
    assert not done and "/front/image_raw: expected messages, found none" in message
    for service, data in (("save_episode", None), ("discard_episode", None), ("pause", True)):
        done, message = rig.client.call(service, data)
        assert not done and "no episode" in message
    assert rig.events == []


def test_a_second_recorder_on_the_dataset_is_refused_and_ends(rig: Rig) -> None:
    command = [sys.executable, "-m", "groot_ros.cli", "record", "-e", str(rig.yaml), "--dataset", str(rig.root)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert result.returncode == 2
    assert f"expected no other writer, found process {rig.recorder.process.pid}" in result.stderr + result.stdout
    assert "Traceback" not in result.stderr


def test_an_episode_by_services_is_durable_when_the_save_is_answered(rig: Rig, sim: NodeProcess) -> None:
    publisher = rig.listener.publisher(PolicyStatus, "/groot_policy/status")
    policy = PolicyStatus(state=PolicyStatus.READY)
    alive = rig.listener.node.create_timer(0.1, lambda: publisher.publish(policy))
    rig.wait(lambda status: status.intervention, "the policy does not move the robot")
    policy.state = PolicyStatus.RUNNING
    rig.wait(lambda status: not status.intervention, "the policy moves the robot")
    assert rig.client.call("start_episode") == (True, "episode started: push the robot's cube")
    done, message = rig.client.call("start_episode")
    assert not done and "already" in message
    start_recording(rig, 8)
    alive.cancel()  # a policy that is silent for a second does not move the robot
    rows = rig.wait(lambda status: status.intervention, "silence").rows
    status = rig.wait(lambda status: status.rows >= rows + 8, "more rows")
    assert status.encoder_names == ["front", "wrist"] and min(status.encoder_frames) > 0
    assert status.state == RecorderStatus.RECORDING and status.segments == 1 and status.refused == 0
    done, message = rig.client.call("save_episode")
    assert done and "saved episode 0" in message

    dataset = Dataset(rig.root)
    (entry,) = dataset.episodes
    assert entry.length >= rows + 8 and entry.tasks == ("push the robot's cube",)
    for name in dataset.video_keys:
        assert count_frames(rig.root / video_path(0, name)) == entry.length
    stamps = dataset.column(0, STAMP)
    assert len(stamps) == entry.length and (np.abs(np.diff(stamps) - 100_000_000) <= 1).all()
    marks = dataset.column(0, INTERVENTION)
    assert marks[0] == 0 and marks[-1] == 1 and np.count_nonzero(np.diff(marks)) == 1
    assert (np.diff(dataset.column(0, "action")[:, 0]) > 0).any()  # where the trajectory is, not its last point
    report = dataset.report(0)
    assert report["rows"] == entry.length and report["more"]["source"] == "/groot_recorder"
    begun = EpisodeEvent.from_text(next(m.data for m in rig.events if json.loads(m.data)["event"] == "start"))
    assert begun.task == "push the robot's cube" and 0 <= stamps[0] - begun.stamp_ns < 60e9


def test_an_episode_by_joystick_has_a_pause_and_a_discarded_one_is_gone(rig: Rig, sim: NodeProcess) -> None:
    joystick = rig.listener.publisher(Joy, "/joy")

    def press(button: int, shown: str = "") -> None:
        """Press and let go; ``shown``: what record_keys then says, by which it also knows the state for the next."""
        before = len(rig.keys.output)
        for held in (None, button, None):
            joystick.publish(Joy(buttons=[int(number == held) for number in range(4)]))
        if shown:
            rig.keys.wait_for(shown, before)

    rig.keys.wait_for("saved episode 0")  # what comes after it is of this test
    press(START, "WAITING |")
    start_recording(rig, 3)
    press(DISCARD, "IDLE |")
    press(START, "WAITING |")
    start_recording(rig, 10)
    press(PAUSE, "PAUSED |")
    press(PAUSE, "RECORDING |")
    before = rig.wait(lambda status: status.segments == 2, "the second segment").rows
    press(INTERVENE)
    rig.wait(lambda status: status.rows >= before + 11, "more rows")
    press(START)
    status = rig.wait(lambda status: status.saved == 3, "saved")
    assert "saved episodes 1 to 2" in status.last_result
    dataset = Dataset(rig.root)
    lengths = [entry.length for entry in dataset.episodes]
    assert len(lengths) == 3 and min(lengths) >= 10
    for index, length in enumerate(lengths):
        assert {count_frames(rig.root / video_path(index, name)) for name in dataset.video_keys} == {length}
    assert [path for path in (rig.root / ".staging").iterdir() if path.is_dir()] == []
    rig.keys.wait_for("save_episode: saved episodes 1 to 2")
    assert "start_episode: episode started" in rig.keys.output and "no keys any more" in rig.keys.output
    kinds = rig.kinds()
    assert [kind for kind in kinds if kind != "intervention"] == [
        *("start", "save", "start", "discard", "start", "pause", "resume", "save")
    ]


def test_diagnostics_name_a_stream_that_stopped_and_the_episode_is_aborted(rig: Rig, sim: NodeProcess) -> None:
    diagnostics = rig.listener.listen(DiagnosticArray, "/diagnostics", RELIABLE_QOS)
    assert rig.client.call("start_episode")[0]
    start_recording(rig, 3)
    sim.process.send_signal(signal.SIGSTOP)
    status = rig.wait(lambda status: status.aborted == 1, "aborted")
    assert status.state == RecorderStatus.IDLE and status.reason == "stale" and "max_age_s" in status.message
    assert rig.client.call("save_episode")[0] is False

    def levels() -> dict[str, bytes]:
        return {entry.name: entry.level for message in diagnostics[-1:] for entry in message.status}

    rig.listener.wait(
        lambda: levels().get("groot_recorder: recorder") == DiagnosticStatus.ERROR, "the recorder's diagnostics"
    )
    assert {"groot_recorder: encoders", "groot_recorder: stream front"} <= set(levels())
    sim.process.send_signal(signal.SIGCONT)
    rig.wait(at_rate, "rates")


def test_sigterm_leaves_the_running_episode_to_be_salvaged(rig: Rig, sim: NodeProcess) -> None:
    assert [episode.state for episode in aborted_episodes(rig.root)] == ["aborted"]
    assert rig.client.call("start_episode")[0]
    start_recording(rig, 3)
    code, _ = rig.recorder.end(signal.SIGTERM)
    assert code == 0
    assert "the recorder was stopped" in rig.recorder.output and "Traceback" not in rig.recorder.output
    assert [kind for kind in rig.kinds() if kind != "intervention"][-2:] == ["start", "discard"]
    aborted = aborted_episodes(rig.root)
    assert len(aborted) == 2 and aborted[-1].rows >= 3
    assert [report.index for report in salvage(rig.root)] == [3, 4]
    assert rig.keys.end(signal.SIGINT)[0] == 0
