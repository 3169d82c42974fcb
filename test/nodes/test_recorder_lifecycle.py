"""``/groot_recorder`` up and down in this process, without a robot: what it refuses to open, and opening again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter

from groot_ros.dataset.bag_events import EpisodeEvent
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.lock import DatasetLock
from groot_ros.dataset.session import Session
from groot_ros.dataset.session_types import Answer, Finished, SessionEvent
from groot_ros.dataset.spec import DatasetSpec
from groot_ros.dataset.writer import DatasetWriter
from groot_ros.embodiment.load import load_embodiment
from groot_ros.msg import PolicyStatus, RecorderStatus
from groot_ros.nodes.recorder import RecorderNode
from groot_ros.nodes.recorder_client import RecorderClient

WAIT_S = 30.0
DONE, FAILED = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


@pytest.fixture
def node() -> Iterator[RecorderNode]:
    rclpy.init(args=[])
    made = RecorderNode()
    yield made
    made.close()
    made.destroy_node()
    rclpy.try_shutdown()


def configure(node: RecorderNode, **parameters: object) -> TransitionCallbackReturn:
    node.set_parameters([Parameter(name, value=value) for name, value in parameters.items()])
    return node.trigger_configure()


def dataset_of(name: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        embodiment = load_embodiment(name)
        DatasetWriter(root, DatasetSpec.of(embodiment), embodiment.cameras, min_free_bytes=0).close()

    return make


def locked(root: Path) -> DatasetLock:
    root.mkdir()
    return DatasetLock(root)


def occupied(root: Path) -> None:
    root.mkdir()
    (root / "thesis.tex").touch()


BAD: dict[str, tuple[dict[str, object], Callable[[Path], DatasetLock | None], list[str]]] = {
    "no dataset": ({"dataset": ""}, lambda root: None, ["parameter 'dataset' is empty", "dataset:=DIR"]),
    "no such robot": ({"embodiment": "sim_amr"}, lambda root: None, ["'sim_amr'", "sim_arm"]),
    "no such codec": ({"codec": "av1"}, lambda root: None, ["parameter 'codec'", "libx264", "'av1'"]),
    "no such policy": ({"drop_policy": "drop"}, lambda root: None, ["parameter 'drop_policy'", "fail, split, flag"]),
    "another robot's": ({}, dataset_of("so101"), ["slow_arm", "so101", "record into another folder"]),
    "another writer": ({}, locked, ["expected no other writer", "process"]),
    "no dataset at all": ({}, occupied, ["thesis.tex", "choose another folder"]),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_opened_is_said_and_the_node_can_be_configured_again(
    case: str, node: RecorderNode, slow_yaml: Path, tmp_path: Path
) -> None:
    changes, prepare, words = BAD[case]
    held = prepare(tmp_path / "data")
    good = {"embodiment": str(slow_yaml), "dataset": str(tmp_path / "data"), "codec": "auto", "drop_policy": "fail"}
    assert configure(node, **{**good, **changes}) is FAILED
    status = node.status()
    assert status.state == RecorderStatus.UNCONFIGURED and status.reason.endswith("Error")
    assert all(word in status.message for word in words), status.message
    assert configure(node, **{**good, "dataset": str(tmp_path / "other")}) is DONE
    assert node.status().state == RecorderStatus.INACTIVE and node.status().message == ""
    if held is not None:
        held.release()


@pytest.fixture
def client(node: RecorderNode) -> Iterator[RecorderClient]:
    """Of the node, which a thread spins."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin)
    thread.start()
    with RecorderClient() as made:
        yield made
    executor.shutdown()
    thread.join()


def test_the_lock_is_given_back_on_cleanup_and_taken_again(
    node: RecorderNode, client: RecorderClient, slow_yaml: Path, tmp_path: Path
) -> None:
    done, message = client.call("save_episode", timeout_s=WAIT_S)
    assert not done and message == "not configured"
    for _ in range(2):
        assert configure(node, embodiment=str(slow_yaml), dataset=str(tmp_path / "data")) is DONE
        done, message = client.call("start_episode", timeout_s=WAIT_S)
        assert not done and "activate" in message
        assert node.trigger_activate() is DONE
        for on in (True, False):  # a person says it, with no policy
            assert client.call("intervention", on, timeout_s=WAIT_S)[0]
            assert node.status().intervention is on
        assert node.trigger_deactivate() is DONE
        assert node.trigger_cleanup() is DONE
        assert node.status().state == RecorderStatus.UNCONFIGURED
        DatasetLock(tmp_path / "data").release()


class SlowEpisode:
    """Waits for ``go`` until it is sealed, and then is not."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def seal(self, more: object = None) -> Path:
        self.begun.set()
        assert self.go.wait(WAIT_S)
        raise DatasetError("camera front: expected 3 frames, found 2")


def test_a_save_that_waits_for_the_disk_holds_up_nothing_and_says_what_failed(
    node: RecorderNode, client: RecorderClient, slow_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(node, embodiment=str(slow_yaml), dataset=str(tmp_path / "data"))
    node.trigger_activate()
    episode = SlowEpisode()
    monkeypatch.setattr(Session, "save", lambda self, now_ns: (Answer(True, ""), [Finished(episode, {})]))
    answers: list[tuple[bool, str]] = []
    saving = threading.Thread(target=lambda: answers.append(client.call("save_episode", timeout_s=WAIT_S)))
    saving.start()
    assert episode.begun.wait(WAIT_S)
    assert client.call("intervention", True, timeout_s=WAIT_S)[0]
    assert client.wait_for(lambda status: status.intervention and status.committing == 1, WAIT_S)
    assert not answers
    episode.go.set()
    saving.join(WAIT_S)
    assert answers == [(False, "NOT saved: camera front: expected 3 frames, found 2")]
    assert client.wait_for(lambda status: status.last_result == answers[0][1] and status.saved == 0, WAIT_S)


@pytest.fixture
def opened(node: RecorderNode, slow_yaml: Path, tmp_path: Path) -> RecorderNode:
    """A recorder beside a policy."""
    assert configure(node, embodiment=str(slow_yaml), dataset=str(tmp_path / "data"), policy="groot_policy") is DONE
    node.trigger_activate()
    return node


def test_a_policy_that_refuses_a_tick_is_no_intervention(opened: RecorderNode) -> None:
    marked = {}
    for state in ("RUNNING", "REFUSING", "UNCONFIGURED", "INACTIVE", "READY", "PAUSED", "STOPPED", "ERROR"):
        opened._on_policy(PolicyStatus(state=getattr(PolicyStatus, state)))
        marked[state] = opened.status().intervention
    assert [state for state, on in marked.items() if not on] == ["RUNNING", "REFUSING"]


def test_an_episode_that_ends_by_itself_is_an_event_too(opened: RecorderNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stamped when it happened: the next start may have been granted before this is told."""
    aborted = SessionEvent(opened._now_ns() - 1_000_000, "aborted", "/front: expected ..., found ...")
    monkeypatch.setattr(Session, "events", lambda session: [aborted])
    told: list[EpisodeEvent] = []
    monkeypatch.setattr(opened, "_event", told.append)
    opened._on_tick()
    assert told == [EpisodeEvent("discard", aborted.time_ns)]
    assert opened.status().aborted == 1
