"""`groot-ros benchmark policy|sampler|preprocess`: options arrive, reports come out, refusals are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from groot_ros.cli import app


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["benchmark", *words])
    assert "Traceback" not in result.output
    return result.exit_code, result.output


@pytest.mark.parametrize("command", ["policy", "sampler", "preprocess"])
def test_help_shows_an_example(command: str) -> None:
    code, output = run(command, "--help")
    assert code == 0 and f"groot-ros benchmark {command}" in " ".join(output.split())


def test_a_policy_is_measured_for_a_robot(tmp_path: Path) -> None:
    report = tmp_path / "policy.json"
    words = ["policy", "--size", "tiny", "-g", "n1d5", "-e", "sim_arm", "--rung", "engine", "--device", "cpu"]
    code, output = run(*words, "--repeats", "1", "--warmup", "0", "--threads", "1", "--output", str(report))
    assert code == 0, output
    assert "random tiny n1d5, 2 cameras" in output and "no GPU used" in output
    document = json.loads(report.read_text())
    [row] = document["results"]
    assert row["pictures"] == {"front": [224, 224], "wrist": [224, 224]}
    assert [rung["name"] for rung in row["rungs"]] == ["plain", "engine"]
    assert row["rungs"][1]["agreement"]["max_difference"] <= 1e-5


def test_a_checkpoint_is_measured_for_its_robot(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["make-checkpoint", str(tmp_path / "so"), "-e", "so101", "--generation", "n1d7"])
    assert result.exit_code == 0, result.output
    words = ["policy", "-c", str(tmp_path / "so"), "-e", "so101", "--rung", "plain", "--device", "cpu"]
    code, output = run(*words, "--repeats", "1", "--warmup", "0", "--threads", "1")
    assert code == 0, output
    assert "so, 2 cameras" in output


@pytest.mark.parametrize(("least", "expected"), [("0", 0), ("1000", 1)])
def test_a_sampler_is_measured_and_judged(tmp_path: Path, least: str, expected: int) -> None:
    report = tmp_path / "sampler.json"
    words = ["sampler", "--size", "tiny", "-g", "n1d6", "--layers", "2", "--pairs", "1", "--warmup", "0"]
    code, output = run(*words, "--min-ratio", least, "--output", str(report))
    assert code == expected, output
    assert "n1d6, 2 cameras, 2 layers, 4 steps" in output
    assert ("expected at least" in output) == (expected == 1)
    assert json.loads(report.read_text())["results"][0]["tokens"] == {"image": 162, "text": 31}


def test_the_host_side_is_measured(tmp_path: Path) -> None:
    report = tmp_path / "preprocess.json"
    words = [
        "preprocess",
        "-g",
        "n1d6",
        "--cameras",
        "2",
        "--camera-size",
        "64x48",
        "--threads",
        "1",
        "--device",
        "cpu",
    ]
    code, output = run(*words, "--repeats", "1", "--warmup", "0", "--output", str(report))
    assert code == 0, output
    assert "n1d6, 2 x 64x48, 1 thread" in output and "no GPU used" in output
    document = json.loads(report.read_text())
    assert (document["benchmark"], document["format"]) == ("preprocess", 1)
    assert [row["path"] for row in document["results"]] == ["cpu", "device"]
    assert document["host"]["torch_threads"] is None and document["settings"] == {"repeats": 1, "warmup": 0}


REFUSALS = {
    "no number of threads": (["preprocess", "--threads", "many"], "separated by commas"),
    "no device for the pixels": (["preprocess", "--device", "cuda:99"], "cuda:99"),
    "no such device": (["sampler", "--device", "cuda:99"], "cuda:99"),
    "no number of cameras": (["policy", "--size", "tiny", "--cameras", "two"], "separated by commas"),
    "no size": (["policy", "--size", "tiny", "--camera-size", "640"], "WIDTHxHEIGHT"),
    "no robot": (["policy", "--size", "tiny", "-e", "nobody"], "nobody"),
    "nowhere to write to": (["policy", "--size", "tiny", "--output", "/nowhere/at/all.json"], "/nowhere/at/all.json"),
    "a folder to write to": (["sampler", "--size", "tiny", "--output", "/"], "directory"),
    "no folder to write to": (["preprocess", "--output", "/nowhere/at/all.json"], "/nowhere/at/all.json"),
    "no checkpoint": (["policy", "-c", "/nowhere/at/all", "--device", "cpu"], "/nowhere/at/all"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_measured_is_said_in_one_message(case: str) -> None:
    words, said = REFUSALS[case]
    code, output = run(*words)
    assert code == 2 and said in output
