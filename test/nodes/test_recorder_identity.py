"""The recorder node over real DDS: every row of every camera holds the picture, state and action that it says."""

from __future__ import annotations

from pathlib import Path

from groot_ros.closed_loop.numbered_robot import Setting
from groot_ros.closed_loop.recorder_run import run_recorder
from groot_ros.dataset.read import Dataset


def test_every_row_of_every_camera_is_what_was_sent(tmp_path: Path) -> None:
    # A machine that is busy with other tests may be late, but what it records is still what was sent.
    setting = Setting(cameras=2, width=64, height=48, rate_hz=20, max_age_s=1.0)
    run = run_recorder(setting, tmp_path, 2.5, codec="libx264")
    assert run.proof is not None, run.ended
    assert run.identical and not run.ended, run
    proof = run.proof
    assert proof.rows >= setting.rate_hz
    for camera in proof.cameras.values():
        assert camera.frames == camera.rows == proof.rows
        assert camera.recorded > 0 and camera.wrong == 0
    dataset = Dataset(tmp_path / "dataset")
    assert sum(entry.length for entry in dataset.episodes) == proof.rows
    assert run.cost.recorder_cores > 0.0 and run.cost.recorder_peak_bytes > 0
