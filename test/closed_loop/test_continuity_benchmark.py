"""Continuity of every chunking mode with injected latencies, through the node's own cycle, timeline and gate."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from groot_ros.cli import app
from groot_ros.closed_loop import continuity_benchmark
from groot_ros.closed_loop.continuity_benchmark import LATENCIES, MODES, Cell, Plan, cell_of, latency_range
from groot_ros.closed_loop.continuity_run import Recording, Setting, VirtualRobot, accelerations, robot_with
from groot_ros.closed_loop.continuity_table import misses
from groot_ros.closed_loop.disagreeing import DisagreeingPolicy

QUIET = Console(quiet=True)


@cache
def policy(variant: str, seed: int) -> DisagreeingPolicy:
    return DisagreeingPolicy(variant, seed)


@cache
def cell(variant: str, mode: str, latency: str, chunks: int = 60, seeds: int = 3) -> Cell:
    setting = Setting(mode, latency_range(latency))
    robots = [VirtualRobot(policy(variant, seed), setting, seed) for seed in range(seeds)]
    return cell_of(variant, latency, setting, robots, [robot.run(chunks) for robot in robots])


@pytest.mark.parametrize("variant", ["joints_absolute", "joints_relative"])
@pytest.mark.parametrize("latency", LATENCIES)
def test_the_default_mode_meets_every_criterion(variant, latency):
    cells = [cell(variant, mode, latency) for mode in ("guided", "naive")]
    assert misses(cells) == []
    assert cells[0].stalled == 0 and cells[0].handovers >= 70


@pytest.mark.parametrize("variant", ["eef_absolute", "eef_relative"])
def test_the_default_mode_meets_every_criterion_with_poses(variant):
    assert misses([cell(variant, mode, "4") for mode in ("guided", "naive")]) == []


@pytest.mark.parametrize("latency", ["0", "8", "1-8"])
@pytest.mark.parametrize("mode", MODES)
def test_only_sync_stalls(mode, latency):
    found = cell("joints_relative", mode, latency, 20, 1)
    assert (found.stalled > 0) == (mode == "sync")
    assert found.rejected == {}
    assert found.handovers == 19


def test_naive_is_rough_at_hand_overs():
    """Else the benchmark could not tell anything apart."""
    naive, guided = (cell("joints_absolute", mode, "1") for mode in ("naive", "guided"))
    assert naive.seam_p50 > 2.0 * guided.seam_p50
    assert naive.seam_p95 > 0.99 and guided.seam_p95 < 0.7
    assert naive.clamped_share > 10.0 * guided.clamped_share


def test_the_same_seeds_give_the_same_numbers():
    runs = [VirtualRobot(policy("joints_absolute", 0), Setting("guided", (1, 8)), 5).run(8) for _ in range(2)]
    np.testing.assert_array_equal(*(np.array(run.velocities) for run in runs))
    other = VirtualRobot(policy("joints_absolute", 0), Setting("guided", (1, 8)), 6).run(8)
    assert np.shape(other.velocities) != np.shape(runs[0].velocities) or not np.array_equal(
        other.velocities, runs[0].velocities
    )


def test_the_summary_of_the_node_says_the_same():
    robot = VirtualRobot(policy("joints_absolute", 0), Setting("guided", (3, 3)), 0)
    recording = robot.run(20)
    peaks, _, inside = accelerations(recording, robot.layout, 0.02)
    summary = recording.summary
    assert summary.delay_p50 == summary.delay_max == 3
    assert summary.seam_acceleration == pytest.approx(np.median(peaks))
    assert summary.seam_acceleration_max == pytest.approx(peaks.max())
    assert summary.inside_acceleration == pytest.approx(np.percentile(inside, 99))
    assert summary.ticks == len(recording.planned) and summary.stalled == 0


def test_an_inference_that_outlasts_the_chunk_is_rejected_and_the_robot_waits():
    recording = VirtualRobot(policy("joints_absolute", 0), Setting("guided", (40, 40)), 0).run(4)
    assert recording.rejected == {"chunk_too_late": 4}
    assert recording.velocities == [] and recording.seams == []


def test_a_robot_with_a_slow_servo_is_behind_its_command():
    robots = [VirtualRobot(policy("joints_absolute", 0), Setting("guided", (2, 2), lag_s=lag), 0) for lag in (0.0, 0.1)]
    for robot in robots:
        assert robot.run(10).planned.count(False) == 0
    commanded = [robot.timeline.step(robot.tick).motion.values for robot in robots]
    seen = [robot.layout.measured(robot.observe())[0] for robot in robots]
    np.testing.assert_allclose(seen[0][:6], commanded[0][:6], atol=1e-6)
    assert np.abs(seen[1][:6] - commanded[1][:6]).max() > 0.01


@pytest.mark.parametrize("variant", ["joints_absolute", "eef_absolute"])
def test_the_factor_changes_the_acceleration_of_smooth_columns_only(variant):
    embodiment = policy(variant, 0).embodiment
    spaces = [
        VirtualRobot(policy(variant, 0), Setting("naive", (0, 0), acceleration=factor), 0).layout.space
        for factor in (1.0, 5.0)
    ]
    smooth = np.array(spaces[0].interpolation) == "cubic"
    ratio = spaces[1].acceleration / spaces[0].acceleration
    np.testing.assert_allclose(ratio, np.where(smooth, 5.0, 1.0))
    assert robot_with(embodiment, 1.0) == embodiment


def failing(**changes: float) -> list[str]:
    good = cell("joints_absolute", "guided", "4")
    return misses([replace(good, **changes), cell("joints_absolute", "naive", "4")])


def test_every_criterion_is_looked_at():
    good, naive = (cell("joints_absolute", mode, "4") for mode in ("guided", "naive"))
    assert failing(stalled=3) == [f"joints_absolute, 4 ticks: 3 stalled ticks of {good.ticks}"]
    assert "2 hand-overs after the end" in failing(without_overlap=2)[0]
    assert "jump p50 1.90x" in failing(jump_p50=naive.jump_p50 / 1.9)[0]
    assert "jump p95 1.90x" in failing(jump_p95=naive.jump_p95 / 1.9)[0]
    assert "acceleration p50 1.05" in failing(seam_p50=1.05 * good.inside_p99)[0]
    assert "of 95 % of the ticks 1.20" in failing(seam_ticks_p95=1.2 * good.inside_p99)[0]
    assert len(failing(jump_p50=math.nan)) == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--modes", "guided,quick"], "--modes: expected some of guided, native"),
        (["--variants", "legs"], "--variants: expected some of joints_absolute"),
        (["--latencies", "8-1"], "--latencies: expected ticks (4) or a range of ticks (1-8), found '8-1'"),
        (["--latencies", "0,fast"], "found 'fast'"),
    ],
)
def test_options_that_cannot_be_run_are_refused(options, text):
    answer = CliRunner().invoke(app, ["benchmark", "continuity", *options])
    assert answer.exit_code == 2
    assert text in " ".join(answer.output.split())


@pytest.mark.parametrize("stalled", [0, 7])
def test_the_exit_code_tells_whether_all_is_met_and_the_report_is_json(monkeypatch, tmp_path, stalled):
    cells = [cell("joints_absolute", mode, "4") for mode in ("guided", "naive")]
    cells += [cell("joints_relative", "sync", "8", 20, 1), cell("joints_relative", "naive", "8", 20, 1)]
    cells[0] = replace(cells[0], stalled=stalled)
    monkeypatch.setattr(continuity_benchmark, "measure", lambda plan, console: cells)
    answer = CliRunner().invoke(app, ["benchmark", "continuity", "--output", str(tmp_path / "report.json")])
    assert answer.exit_code == (1 if stalled else 0), answer.output
    report = json.loads((tmp_path / "report.json").read_text(), parse_constant=lambda text: pytest.fail(text))
    assert [entry["mode"] for entry in report["cells"]] == ["guided", "naive", "sync", "naive"]
    assert report["cells"][2]["jump_p50"] is None
    assert report["missed"] == ([f"joints_absolute, 4 ticks: 7 stalled ticks of {cells[0].ticks}"] if stalled else [])
    assert ("missed: joints_absolute" in answer.output) == bool(stalled)


def test_naive_is_run_for_the_ratios_even_when_not_asked_for():
    plan = Plan(variants=["joints_absolute"], modes=["guided"], latencies=["2"], seeds=[0], chunks=3)
    cells = continuity_benchmark.measure(plan, QUIET)
    assert [(found.mode, found.latency, found.handovers) for found in cells] == [("guided", "2", 2), ("naive", "2", 2)]


def test_nothing_is_measured_of_a_run_without_motion():
    robot = VirtualRobot(policy("joints_absolute", 0), Setting("guided", (1, 1)), 0)
    peaks, _, inside = accelerations(Recording(), robot.layout, 0.02)
    assert len(peaks) == len(inside) == 0


def test_what_is_sent_obeys_the_limits():
    robot = VirtualRobot(policy("joints_absolute", 1), Setting("naive", (8, 8)), 1)
    velocities = np.array(robot.run(20).velocities)
    space = robot.layout.space
    assert (np.abs(velocities) <= space.velocity + 1e-9).all()
    assert (np.abs(np.diff(velocities, axis=0)) <= 0.02 * space.acceleration + 1e-9).all()


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    from PIL import Image

    from groot_ros.closed_loop.continuity_picture import draw_continuity

    draw_continuity(tmp_path / "motion.png")
    with Image.open(tmp_path / "motion.png") as image:
        assert image.format == "PNG" and image.width > 1000 and len(image.convert("RGB").getcolors(1 << 20) or []) > 20
