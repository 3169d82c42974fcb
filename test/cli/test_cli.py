"""The command line: help with examples, refusals in one message with exit code 2."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from groot_ros.cli import app
from groot_ros.embodiment.load import load_embodiment

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = [
    *("benchmark node", "benchmark load", "benchmark control", "benchmark continuity"),
    *("benchmark recorder", "benchmark recorder-hour", "benchmark policy", "benchmark sampler", "benchmark preprocess"),
]
LEARNING = ["open-loop", "evaluate", "precision"]
COMMANDS = ["demo", "make-checkpoint", "sim", "policy", "record", "replay", "embodiments", *LEARNING, *BENCHMARKS]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example(command: str) -> None:
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert f"groot-ros {command}" in " ".join(result.output.split())


def examples() -> list[tuple[str, str]]:
    """(where, command line) of every `groot-ros ...` in the help texts and in the pages for people."""

    def of(name: str, command: Any) -> Iterator[tuple[str, str]]:
        for line in re.findall(r"\[bold\](groot-ros .*?)\[/bold\]", command.help or ""):
            yield name, line
        for word, below in getattr(command, "commands", {}).items():
            yield from of(f"{name} {word}", below)

    pages = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    written = [
        (page.name, line) for page in pages for line in re.findall(r"^    (groot-ros .*)$", page.read_text(), re.M)
    ]
    return [*of("groot-ros", typer.main.get_command(app)), *written]


@pytest.mark.parametrize(("where", "line"), examples(), ids=[f"{where}: {line}" for where, line in examples()])
def test_an_example_names_what_there_is(where: str, line: str) -> None:
    """Options, choices, robots and their generations."""
    command: Any = typer.main.get_command(app)
    _, *words = shlex.split(line, comments=True)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    values = command.make_context(command.name, words).params
    named = values.get("embodiment") or (values.get("name") if command.name == "embodiments" else None)
    if named is None or str(named).endswith(".yaml"):  # a file of the reader's own
        return
    found = values.get("generation")
    for generation in found if isinstance(found, (list, tuple)) else [found]:
        load_embodiment(named, getattr(generation, "value", generation))


def test_there_are_examples_to_look_at() -> None:
    assert {where.split()[0] for where, _ in examples()} >= {"groot-ros", "README.md", "embodiments.md"}
    assert any("--generation n1d6" in line for _, line in examples())


@pytest.mark.parametrize("line", ["policy -c x --tokenise y", "make-checkpoint /tmp/x --generation n1d8"])
def test_a_wrong_example_would_be_found(line: str) -> None:
    with pytest.raises(Exception, match=r"(?i)no such option|n1d8"):
        test_an_example_names_what_there_is("here", f"groot-ros {line}")


def test_replay_hands_its_options_to_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def record(bag: Path, checkpoint: str, *rest: Any, **options: Any) -> None:
        given.update(options, checkpoint=checkpoint)

    monkeypatch.setattr("groot_ros.bags.command.replay_command", record)
    hub_id = "nvidia/GR00T-N1.7-LIBERO/libero_10"
    words = ["replay", "bag", "-c", hub_id, "--tokenizer", "some/tokenizer", "--match-reference-bf16", "--no-engine"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    options = given["policy_options"]
    assert (given["checkpoint"], options["tokenizer"]) == (hub_id, "some/tokenizer")
    assert (options["match_reference_bf16"], options["engine"]) == (True, False)
    assert CliRunner().invoke(app, words[:4]).exit_code == 0
    options = given["policy_options"]
    assert options["tokenizer"] is None and options["match_reference_bf16"] is False
    assert (options["engine"], options["precision"], options["precision_file"]) == (True, "model", None)


def test_policy_hands_its_options_to_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []

    def record(args: list[str], *, give_up: bool) -> None:
        given.extend([*args, f"give_up {give_up}"])

    monkeypatch.setattr("groot_ros.nodes.policy.main", record)
    result = CliRunner().invoke(app, ["policy", "-c", "nvidia/GR00T-N1.7-DROID", "--match-reference-bf16"])
    assert result.exit_code == 0, result.output
    assert 'checkpoint:="nvidia/GR00T-N1.7-DROID"' in given
    assert "match_reference_bf16:=true" in given and "give_up True" in given
    assert "control_rate_hz:=0.0" in given and 'chunking:=""' in given  # as the YAML says
    assert "engine:=true" in given and 'precision:="model"' in given and 'precision_file:=""' in given
    given.clear()
    result = CliRunner().invoke(app, ["policy", "-c", "tiny", "--control-rate", "100", "--chunking", "blend"])
    assert result.exit_code == 0, result.output
    assert "control_rate_hz:=100.0" in given and 'chunking:="blend"' in given


def test_every_precision_is_offered() -> None:
    from groot_ros.cli_options import Precision
    from groot_ros.model.engine.gate import PRECISIONS
    from groot_ros.policy import sampler

    assert [precision.value for precision in Precision] == list(PRECISIONS) == list(sampler.PRECISIONS)


def test_policy_offers_every_way_of_chunking() -> None:
    from typing import get_args

    from groot_ros.cli import ChunkingMode
    from groot_ros.embodiment.control_schema import Chunking

    assert [mode.value for mode in ChunkingMode] == list(get_args(Chunking))


REFUSALS = {
    "unknown embodiment": (["embodiments", "so10"], ["so10", "so101"]),
    "embodiment with an error": (["embodiments", "{bad_yaml}"], ["bad.yaml:1", "camera"]),
    "checkpoint for an unknown embodiment": (["make-checkpoint", "{new}", "-e", "nobody"], ["nobody", "sim_arm"]),
    "directory that is not empty": (["make-checkpoint", "{full}"], ["not empty"]),
    "bag that is not there": (["replay", "{new}", "-c", "{full}"], ["new"]),
    "nothing to load": (["benchmark", "load", "-c", "{full}"], ["config.json is missing"]),
    "no such device": (["benchmark", "load", "-c", "{full}", "--device", "cuda:99"], ["cuda:99"]),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_done_is_said_in_one_message(case: str, tmp_path: Path) -> None:
    arguments, words = REFUSALS[case]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "bad.yaml").write_text("camera: {}\n")
    names = {"bad_yaml": tmp_path / "bad.yaml", "new": tmp_path / "new", "full": tmp_path / "full"}
    result = CliRunner().invoke(app, [argument.format(**names) for argument in arguments])
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    for word in words:
        assert word in result.output


def test_a_checkpoint_is_made_for_a_robot_and_loads(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["make-checkpoint", str(tmp_path / "so"), "--embodiment", "so101", "--seed", "3"])
    assert result.exit_code == 0, result.output
    from groot_ros.embodiment.load import load_embodiment
    from groot_ros.policy.local import LocalPolicy

    policy = LocalPolicy(tmp_path / "so", load_embodiment("so101"), device="cpu")
    policy.warm_up(1)
    low, high = policy.processor.state_limits("gripper")
    assert (low[0], high[0]) == pytest.approx((0.0, 100.0))


def test_the_list_names_every_shipped_robot() -> None:
    result = CliRunner().invoke(app, ["embodiments"])
    assert result.exit_code == 0
    assert {"sim_arm", "so101"} <= {line.split()[0] for line in result.output.splitlines()}


def test_a_yaml_is_checked_for_each_of_its_generations(tmp_path: Path) -> None:
    from groot_ros.embodiment.load import embodiment_path

    path = tmp_path / "arm.yaml"
    text = embodiment_path("sim_arm").read_text(encoding="utf-8")
    path.write_text(f"{text}generations:\n  n1d6:\n  n1d5:\n    embodiment_tag: old\n", encoding="utf-8")
    result = CliRunner().invoke(app, ["embodiments", str(path)])
    assert result.exit_code == 0
    first, second, note = result.output.splitlines()
    assert "valid for n1d5; old," in first and "valid for n1d6; new_embodiment," in second
    assert note.startswith("note: ") and "'old' is none of NVIDIA's tags for n1d5" in note
    path.write_text(path.read_text(encoding="utf-8").replace("embodiment_tag: old", "step_hz: fast"), encoding="utf-8")
    result = CliRunner().invoke(app, ["embodiments", str(path)])
    assert result.exit_code == 2 and "generations.n1d5.step_hz: expected a number, found 'fast'" in result.output


def test_the_list_shows_the_generations_of_every_robot() -> None:
    result = CliRunner().invoke(app, ["embodiments"])
    [line] = [line for line in result.output.splitlines() if line.startswith("sim_arm ")]
    assert line.split()[1:4] == ["n1d5", "n1d6", "n1d7"]


def test_a_good_yaml_is_summed_up() -> None:
    result = CliRunner().invoke(app, ["embodiments", "sim_arm"])
    assert result.exit_code == 0
    assert "2 cameras, 6 commanded joints, chunks of 16 steps at 30 Hz" in result.output


def test_loading_is_measured_once_per_dtype(tmp_path: Path) -> None:
    report = tmp_path / "load.json"
    arguments = ["benchmark", "load", "--generation", "n1d7", "--size", "tiny", "--chunk", "--output", str(report)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "loading random tiny n1d7" in result.output and "peak/weights" in result.output
    document = json.loads(report.read_text())
    assert document["checkpoint"] == "random tiny n1d7" and "cores" in document["machine"]
    loads = {load["dtype"]: load for load in document["loads"]}
    assert list(loads) == ["bfloat16", "float32"]
    for dtype, size in (("bfloat16", 2), ("float32", 4)):
        load = loads[dtype]
        assert load["generation"] == "n1d7" and load["device"] == "cpu"
        assert load["weight_bytes"] == load["parameters"] * size > 1_000_000
        assert load["bytes_read"] >= load["parameters"] * 4  # the file is float32
        assert load["peak_bytes"] > 0 and load["cuda_peak_bytes"] is None
        assert load["peak_ratio"] == load["peak_bytes"] / load["weight_bytes"]
        assert load["chunk"]["finite"] and load["chunk"]["shapes"] == {"single_arm": [16, 5], "gripper": [16, 1]}
        assert load["read_bytes_per_s"] == load["bytes_read"] / load["seconds"]


def test_no_room_for_a_random_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=3_000_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    result = CliRunner().invoke(app, ["benchmark", "load", "--size", "full"])
    assert result.exit_code == 2
    for word in ("size full needs 8.0 GB", "found 3.0 GB free", "TMPDIR", "--checkpoint"):
        assert word in result.output


def test_record_quotes_a_task_whatever_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    monkeypatch.setattr("groot_ros.nodes.recorder.main", lambda args, give_up: given.extend(args))
    task = 'put the robot\'s "cup" away: ünd # more'
    result = CliRunner().invoke(app, ["record", "--dataset", "/tmp/x", "--task", task, "--drop", "split"])
    assert result.exit_code == 0, result.output
    assert {'dataset:="/tmp/x"', 'drop_policy:="split"', "autostart:=true"} <= set(given)
    (text,) = (argument.removeprefix("task:=") for argument in given if argument.startswith("task:="))
    assert yaml.safe_load(text) == task
