"""The sampler's benchmark: what it compares, counts and says; not how fast this machine is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from groot_ros.model.action_head import ActionHead
from groot_ros.model.benchmark.__main__ import main
from groot_ros.model.benchmark.options import find_device, find_dtype, sampler_settings
from groot_ros.model.benchmark.random_model import head_config, parameter_count, random_head, random_model
from groot_ros.model.benchmark.sampler import SamplerSettings, measure_sampler, too_slow
from groot_ros.model.benchmark.tables import sampler_tables
from groot_ros.model.groot import GrootModel

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def report():
    settings = SamplerSettings(cameras=(1, 2), size="tiny", pairs=2, warmup=0)
    steps: list[float] = []
    found = measure_sampler(settings, lambda text, share: steps.append(share))
    assert steps == sorted(steps) and steps[-1] == 1.0
    return found


def test_both_heads_give_the_same_for_every_generation_and_number_of_cameras(report) -> None:
    rows = [(row["generation"], row["cameras"]) for row in report["results"]]
    assert rows == [(generation, cameras) for generation in ("n1d5", "n1d6", "n1d7") for cameras in (1, 2)]
    for row in report["results"]:
        assert row["agreement"]["max_difference"] <= 1e-5 and row["agreement"]["cosine"] > 0.999999


def test_tokens_are_those_of_the_released_networks(report) -> None:
    tokens = {(row["generation"], row["cameras"]): row["tokens"] for row in report["results"]}
    assert tokens["n1d6", 2] == {"image": 162, "text": 31}
    assert tokens["n1d7", 2] == {"image": 128, "text": 31}
    assert tokens["n1d5", 1] == {"image": 256, "text": 23}
    assert [head_config(g, "full").action_horizon for g in ("n1d5", "n1d6", "n1d7")] == [16, 50, 40]


def test_ratios_are_of_pairs(report) -> None:
    for row in report["results"]:
        for times, ratio in (("wall_ms", "ratio"), ("cpu_ms", "cpu_ratio")):
            assert {side: row[times][side]["runs"] for side in row[times]} == {"plain": 2, "engine": 2}
            pairs = row[ratio]["pairs"]
            assert len(pairs) == 2
            assert min(pairs) == row[ratio]["min"] <= row[ratio]["median"] <= row[ratio]["max"] == max(pairs)


def test_a_report_is_json_with_a_named_host_and_the_settings(report) -> None:
    again = json.loads(json.dumps(report))
    assert (again["benchmark"], again["format"]) == ("sampler", 1)
    assert again["host"]["torch"] == torch.__version__ and again["host"]["gpu"] is None
    assert again["host"]["cpu"] and again["host"]["date"].endswith("Z")
    assert again["settings"]["dtype"] == "float32" and again["settings"]["device"] == "cpu"
    memory = again["results"][0]["memory"]
    assert memory["of"] == "process" and memory["engine_weights"] < memory["plain_weights"]
    assert again["results"][0]["floors"]["engine"]["gigabytes"] < again["results"][0]["floors"]["plain"]["gigabytes"]


def test_the_table_has_a_row_per_result(report) -> None:
    [table] = sampler_tables(report)
    assert len(table.rows) == 6 and all(len(row) == len(table.columns) for row in table.rows)
    assert "162+31" in table.text() and "n1d7, 1 camera, 4 layers" in table.text()


def test_a_slow_ratio_is_said(report) -> None:
    assert too_slow(report, 0.0) == []
    lines = too_slow(report, 1e9)
    assert len(lines) == 6 and "n1d5, 1 cameras" in lines[0] and "expected at least 1000000000.0" in lines[0]


def test_layers_and_steps_can_be_chosen() -> None:
    settings = SamplerSettings(generations=("n1d6",), size="tiny", layers=2, steps=2, pairs=1, warmup=0)
    [row] = measure_sampler(settings)["results"]
    assert (row["layers"], row["steps"]) == (2, 2)
    assert row["agreement"]["max_difference"] <= 1e-5


@pytest.mark.parametrize(
    ("change", "words"),
    [({"pairs": 0}, "pairs is 0"), ({"cameras": (0,)}, "cameras"), ({"steps": 0}, "steps"), ({"layers": 0}, "layers")],
)
def test_bad_settings_are_named(change, words) -> None:
    with pytest.raises(ValueError, match=words):
        measure_sampler(dataclasses.replace(SamplerSettings(size="tiny"), **change))


@pytest.mark.parametrize("least", ["0", "1000"])
def test_the_bare_command_writes_a_report_and_judges(tmp_path: Path, capsys, least: str) -> None:
    report = tmp_path / "sampler.json"
    words = ["sampler", "--size", "tiny", "--generation", "n1d7", "--pairs", "1", "--warmup", "0"]
    code = main([*words, "--min-ratio", least, "--output", str(report)])
    assert code == (1 if least == "1000" else 0)
    said = capsys.readouterr()
    assert "milliseconds per chunk" in said.out and "no GPU used" in said.out
    assert ("expected at least 1000.0" in said.err) == (least == "1000")
    assert json.loads(report.read_text())["results"][0]["generation"] == "n1d7"


def test_a_device_that_is_not_there_is_refused(capsys) -> None:
    assert main(["sampler", "--device", "cuda:99"]) == 2
    assert "sampler: device cuda:99: " in capsys.readouterr().err
    for name in ("gpu", "mps"):
        with pytest.raises(ValueError, match="expected auto, cpu, cuda or cuda:N"):
            find_device(name)


def test_dtypes_follow_the_device() -> None:
    assert find_dtype("auto", CPU) is torch.float32
    assert find_dtype("auto", torch.device("cuda", 0)) is torch.bfloat16
    assert sampler_settings(generations=None, dtype="bfloat16", device="cpu").dtype is torch.bfloat16


@pytest.mark.parametrize("text", ["", "0", "1,", "two", "-1"])
def test_numbers_of_cameras_are_checked(capsys, text: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["sampler", f"--cameras={text}"])
    assert stopped.value.code == 2 and "separated by commas" in capsys.readouterr().err


@pytest.mark.parametrize("generation", ["n1d5", "n1d6", "n1d7"])
def test_random_networks_are_whole_seeded_and_of_moderate_output(generation: str) -> None:
    config = head_config(generation, "tiny")
    one, same, other = (random_model(config, torch.float32, CPU, seed) for seed in (0, 0, 1))
    values = {name: value for name, value in one.state_dict().items()}
    assert all(value.device == CPU and bool(value.isfinite().all()) for value in values.values())
    again = same.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in values.items())
    changed = other.state_dict()
    assert not any(torch.equal(value, changed[name]) for name, value in values.items())
    read = set(GrootModel(config).state_dict()) - one.unused_parameters() | set(one.tied_parameters())
    assert set(values) == read
    for name, source in one.tied_parameters().items():
        assert one.get_parameter(name) is one.get_parameter(source)


def test_a_random_head_is_of_the_config_and_dtype() -> None:
    config = head_config("n1d6", "tiny", layers=2)
    head = random_head(config, torch.bfloat16, CPU, 0)
    assert len(head.model.transformer_blocks) == 2 and not head.training
    assert {parameter.dtype for parameter in head.parameters()} == {torch.bfloat16}
    assert parameter_count(head) == parameter_count(ActionHead(config))
