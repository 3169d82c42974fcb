"""The benchmark of the loader measures what it says, and its report has every figure."""

from __future__ import annotations

import json
from pathlib import Path

import data_rig
import pytest
from rich.console import Console

from groot_ros.training.errors import TrainingError
from groot_ros.training.loader_benchmark import RawSamples, Setting, run_loader_benchmark


def benchmark(recorded: Path, base: Path, robot: Path, output: Path, lerobot: Path | None = None) -> None:
    run_loader_benchmark(
        recorded,
        checkpoint=base,
        generation="n1d7",
        embodiment=str(robot),
        setting=Setting(workers=(0, 1), batch=4, samples=8, cache_gb=0.0),
        lerobot=lerobot,
        output=output,
        console=Console(quiet=True),
    )


def test_report(recorded, random_bases, robot, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark(recorded, random_bases("n1d7"), robot, tmp_path / "loader.json")
    report = json.loads((tmp_path / "loader.json").read_text())
    assert report["rates"].keys() == report["raw_rates"].keys() == {"0", "1"}
    assert all(rate > 0 for rates in (report["rates"], report["raw_rates"]) for rate in rates.values())
    assert 0 < report["stages_ms"]["decode"] < report["stages_ms"]["sample"]
    assert report["decode_share"] == report["stages_ms"]["decode"] / report["stages_ms"]["sample"]
    assert report["views"] == {"front": [24, 32], "wrist": [24, 32]}
    said = capsys.readouterr().out
    assert "groot_ros, samples" in said
    if report["lerobot"] is None:  # this project does not need it
        assert "LeRobot's loader: not measured" in said


def test_lerobots_python_is_asked_for_each_number_of_workers(
    recorded, random_bases, robot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    python = tmp_path / "python"
    answer = '{"loader": "lerobot 9", "rate": 12.0, "cpu_ms": 3.0}'
    python.write_text(f"#!/bin/sh\necho \"$3\" >> {tmp_path}/asked\necho '{answer}'\n")
    python.chmod(0o755)
    benchmark(recorded, random_bases("n1d7"), robot, tmp_path / "loader.json", python)
    found = json.loads((tmp_path / "loader.json").read_text())["lerobot"]
    assert found == {"loader": "lerobot 9", "rates": {"0": 12.0, "1": 12.0}, "cpu_ms": 3.0}
    asked = [json.loads(line) for line in (tmp_path / "asked").read_text().splitlines()]
    assert [line["workers"] for line in asked] == [0, 1]
    assert asked[0] == {"root": str(recorded), "horizon": 16, "batch": 4, "samples": 8, "workers": 0}
    assert "lerobot 9, raw" in capsys.readouterr().out
    with pytest.raises(TrainingError, match="--lerobot: expected a Python with lerobot"):
        benchmark(recorded, random_bases("n1d7"), robot, tmp_path / "loader.json", tmp_path / "none")


def test_raw_samples_are_those_of_the_windows(recorded, random_bases, robot) -> None:

    data = data_rig.data(random_bases("n1d7"), "n1d7", [recorded], robot)
    raw = RawSamples(data)[3]
    window = data.dataset.windows.raw(data.schedule.window(3))
    assert raw.keys() == {f"{part}.{key}" for part in ("state", "action") for key in ("single_arm", "gripper")} | {
        "video.front",
        "video.wrist",
    }
    assert (raw["video.front"].numpy() == window.video["front"]).all()
