"""Demonstrations: simulator, expert and recorder over DDS give a dataset that shows the task; losses are done again."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from groot_ros.closed_loop import demonstrate
from groot_ros.closed_loop.demonstrate import Pace, not_kept, run_demonstrations
from groot_ros.dataset.read import Dataset
from groot_ros.msg import RecorderStatus
from groot_ros.nodes.demonstrator import Demonstrator
from groot_ros.simulation.arm import SimArm
from groot_ros.simulation.expert import Expert
from groot_ros.simulation.tasks import find_task


def test_demonstrations_are_recorded_as_they_were_done(tmp_path: Path) -> None:
    root, told = tmp_path / "dataset", []
    done = run_demonstrations(
        "sim_tabletop",
        root,
        "reach:blue",
        episodes=2,
        seed=40,
        speed=2.0,
        log_dir=tmp_path / "logs",
        advance=lambda so_far: told.append(so_far.saved),
    )
    assert (done.saved, done.failed.total(), done.next_seed) == (2, 0, 42)
    assert told == [1, 2]
    dataset = Dataset(root)
    assert [entry.tasks for entry in dataset.episodes] == [("reach the blue cube",)] * 2
    assert done.rows == sum(entry.length for entry in dataset.episodes)
    for episode, seed in enumerate((40, 41)):
        rows = pq.read_table(root / f"data/chunk-000/episode_{episode:06d}.parquet").to_pydict()
        state, action = np.array(rows["observation.state"]), np.array(rows["action"])
        arm = SimArm(seed, task=find_task("reach:blue"))
        assert state[0] == pytest.approx(arm.scene.pose_rad, abs=0.02)  # from the start of this scene,
        assert action[0] == pytest.approx(arm.scene.pose_rad, abs=0.02)  # and no command of the one before
        expert = Expert(find_task("reach:blue"), "blue_cube", arm.scene.pose_rad)
        expert.step(0.0, arm.cube_poses())
        assert action[-1] == pytest.approx(expert.step(60.0, arm.cube_poses()), abs=1e-3)  # to its end
        assert len(state) >= 14


def test_unknown_tasks_are_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no task 'dance'"):
        run_demonstrations("sim_tabletop", tmp_path / "d", "dance", episodes=1, log_dir=tmp_path / "logs")
    assert not list(tmp_path.iterdir())


def test_what_went_wrong_first_is_what_is_raised() -> None:
    node = SimpleNamespace(changed=threading.Condition(), _error=None, _alive=lambda: None)
    receive = Demonstrator._guarded(node, lambda message: [1.0][message])  # type: ignore[arg-type]
    receive("front")
    receive(7)
    with pytest.raises(TypeError):
        Demonstrator._go_on(node)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "reason", "paused"),
    [
        (RecorderStatus.RECORDING, "", False),  # a status from before the pause
        (RecorderStatus.PAUSED, "", True),
        (RecorderStatus.IDLE, "stale", True),  # aborted before it could be paused
    ],
)
def test_counts_are_read_from_a_status_after_the_pause(state: int, reason: str, paused: bool) -> None:
    assert demonstrate._paused(RecorderStatus(state=state, reason=reason)) is paused


def test_pace_goes_down_at_once_and_up_slowly() -> None:
    speeds: list[float] = []
    pace = Pace(3.0, speeds.append)
    pace.kept()
    assert speeds == []  # at its most already
    pace.lost()
    assert speeds == pytest.approx([2.1])
    for _ in range(demonstrate.AFTER_GOOD):
        pace.kept()
    assert speeds == pytest.approx([2.1, 2.52])
    for _ in range(20):
        pace.lost()
    assert pace.speed == demonstrate.SLOWEST
    slow = Pace(0.2, speeds.append)
    slow.lost()
    assert slow.speed == 0.2  # never faster than asked for


@pytest.mark.parametrize(
    ("rows", "received", "reason", "lost"),
    [
        (18, 100, "", ""),
        (14, 100, "", "rows_missing"),
        (18, 80, "", "commands_late"),
        (18, 100, "stale", "stale"),
    ],
)
def test_what_the_recorder_lost_is_told(rows: int, received: int, reason: str, lost: str) -> None:
    status = RecorderStatus(rows=rows, reason=reason)
    status.stream_names, status.stream_received = ["front", "command:arm"], [7, received]
    assert not_kept(status, sent=100, steps=19.0) == lost
    assert not_kept(None, sent=100, steps=19.0)
