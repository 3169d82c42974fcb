"""``groot-ros evaluate`` around its processes: what it starts, shows, reports and refuses; the nodes are stand-ins."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

import groot_ros.closed_loop.evaluation.run as run
from groot_ros.cli import app
from groot_ros.closed_loop.evaluation.judge import Interrupted
from groot_ros.closed_loop.evaluation.record import EvaluationError
from groot_ros.closed_loop.evaluation.run import Request, run_evaluation
from groot_ros.embodiment.load import load_embodiment
from groot_ros.processes import stoppable

DRAW = run._draw
# A node that says so and waits; with a folder it is the evaluator: it plays what is missing of 3 episodes.
STAND_IN = """
import json, pathlib, sys, time
name, values, lines = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
if name != "evaluator":
    if name == values["dies"]:
        sys.exit("no renderer")
    time.sleep(60)
output = pathlib.Path(values["output"])
(output / "videos").mkdir(exist_ok=True)
(output / "run.json").write_text(json.dumps({"setting": {"task": values["task"]}, "facts": {"command": "x"}}))
(output / "given.json").write_text(json.dumps(values))
with (output / "episodes.jsonl").open("a") as file:
    file.writelines(lines)
if values["waits"]:
    time.sleep(60)
if values["breaks"]:
    print("[FATAL] [1.0] [groot_evaluator]: seed 2: the policy node has said nothing for 10 s")
sys.exit(1 if values["breaks"] else 0)
"""


def line(seed: int, reason: str = "") -> str:
    from dataclasses import asdict

    from test_evaluation_report import episode

    return json.dumps(asdict(episode(seed, reason, video=None))) + "\n"


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The nodes' parameters by node; keys ``lines``, ``breaks``, ``waits``, ``dies`` say what becomes of them."""
    given: dict[str, object] = {"lines": [line(0), line(1, "time_limit"), line(2)]}

    def command(module: str, parameters: dict[str, object]) -> list[str]:
        given[module] = parameters
        more = {name: given.get(name, "") for name in ("breaks", "waits", "dies")}
        values = json.dumps({**parameters, **more}, default=str)
        return [sys.executable, "-c", STAND_IN, module, values, json.dumps(given["lines"])]

    monkeypatch.setattr(run, "node_command", command)
    monkeypatch.setattr(run, "_draw", lambda *_: None)  # one test draws
    return given


def request(output: Path, **other: object) -> Request:
    given: dict[str, object] = {"embodiment": "sim_tabletop", "checkpoint": "/runs/a", "output": output}
    return Request(**(given | {"task": "reach", "episodes": 3} | other))  # type: ignore[arg-type]


def quiet() -> Console:
    return Console(quiet=True)


def test_a_run_starts_three_nodes_and_ends_with_all_reports(
    stand_ins: dict, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    monkeypatch.setattr(run, "_draw", DRAW)
    summary = run_evaluation(request(output, speed=2.0, policy={"replan_steps": 4}), quiet(), "as typed")
    assert (summary.successes, summary.episodes, summary.complete) == (2, 3, True)
    assert {path.name for path in output.iterdir()} >= {"report.json", "report.md", "report.html", "report.png"}
    assert "![outcomes](report.png)" in (output / "report.md").read_text()
    assert "2 of 3 successes: 67 %" in capsys.readouterr().out
    assert stand_ins["simulator"] == {
        **{"embodiment": "sim_tabletop", "seed": 0, "publish_clock": True, "real_time_factor": 2.0}
    }
    policy, evaluator = stand_ins["policy"], stand_ins["evaluator"]
    assert (policy["checkpoint"], policy["replan_steps"], policy["autostart"]) == ("/runs/a", 4, True)
    assert "start_on_activate" not in policy  # only the evaluator lets the robot move
    assert policy["use_sim_time"] is evaluator["use_sim_time"] is True
    assert (evaluator["task"], evaluator["episodes"], evaluator["output"]) == ("reach", 3, output)
    about = json.loads((output / "about.json").read_text())
    assert about["facts"]["command"] == "as typed"
    assert about["setting"] == {"control": "", "speed": 2.0, "policy replan_steps": "4"}


def test_in_real_time_nobody_needs_a_clock(stand_ins: dict, tmp_path: Path) -> None:
    run_evaluation(request(tmp_path / "out"), quiet())
    assert "use_sim_time" not in stand_ins["policy"] and "publish_clock" not in stand_ins["simulator"]


def test_beside_a_simulator_that_runs_only_what_is_missing_is_started(stand_ins: dict, tmp_path: Path) -> None:
    run_evaluation(request(tmp_path / "out", external=True, sim_time=True, checkpoint=""), quiet())
    assert "simulator" not in stand_ins and "policy" not in stand_ins
    assert stand_ins["evaluator"]["use_sim_time"] is True


def test_a_control_is_for_the_policy_alone(stand_ins: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groot_ros.policy.generation.checkpoint_generation", lambda checkpoint: "n1d7")
    run_evaluation(request(tmp_path / "out", control="cameras"), quiet())
    wired = load_embodiment(stand_ins["policy"]["embodiment"])
    right = load_embodiment("sim_tabletop")
    assert {spec.camera for spec in wired.video.values()} == set(right.scene_cameras)
    assert stand_ins["simulator"]["embodiment"] == stand_ins["evaluator"]["embodiment"] == "sim_tabletop"
    assert json.loads((tmp_path / "out" / "about.json").read_text())["setting"]["control"] == "cameras"


def test_what_was_measured_before_it_broke_is_reported(stand_ins: dict, tmp_path: Path) -> None:
    output = tmp_path / "out"
    stand_ins |= {"lines": [line(0), line(1, "time_limit")], "breaks": True}
    with pytest.raises(Interrupted, match=r"^seed 2: the policy node has said nothing for 10 s$"):
        run_evaluation(request(output), quiet())
    assert "said nothing for 10 s" in (output / "report.html").read_text()
    with pytest.raises(EvaluationError, match="--resume to go on"):
        run_evaluation(request(output), quiet())
    stand_ins |= {"lines": [line(2)], "breaks": False}
    summary = run_evaluation(request(output, resume=True), quiet())
    assert stand_ins["evaluator"]["resume"] is True and (summary.episodes, summary.successes) == (3, 2)
    assert "Not complete" not in (output / "report.html").read_text()


@pytest.mark.parametrize("node", ["simulator", "policy"])
def test_a_node_that_dies_ends_the_run_with_its_last_words(node: str, stand_ins: dict, tmp_path: Path) -> None:
    stand_ins |= {"dies": node, "waits": True}
    with pytest.raises(Interrupted, match=f"(?s){node} ended with code 1.*no renderer"):
        run_evaluation(request(tmp_path / "out"), quiet())


def test_an_evaluator_that_ends_too_early_is_no_evaluation(stand_ins: dict, tmp_path: Path) -> None:
    stand_ins |= {"lines": [line(0)]}
    with pytest.raises(Interrupted, match=r"^the evaluator ended with 2 episodes to play$"):
        run_evaluation(request(tmp_path / "out"), quiet())
    assert "ended with 2 episodes to play" in (tmp_path / "out" / "report.md").read_text()


def test_a_run_goes_on_with_other_seeds(stand_ins: dict, tmp_path: Path) -> None:
    run_evaluation(request(tmp_path / "out"), quiet())
    stand_ins |= {"lines": [line(10)]}
    summary = run_evaluation(request(tmp_path / "out", resume=True, seed=10, episodes=1), quiet())
    assert (summary.episodes, summary.successes) == (1, 1)


def test_without_a_picture_there_is_a_report_that_says_why_it_broke(
    stand_ins: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError("video 2 is cut off")

    monkeypatch.setattr(run, "_draw", broken)
    stand_ins |= {"breaks": True}
    shown = io.StringIO()
    with pytest.raises(Interrupted, match="said nothing for 10 s"):
        run_evaluation(request(tmp_path / "out"), Console(file=shown))
    assert "no picture: video 2 is cut off" in shown.getvalue()
    assert "said nothing for 10 s" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_nodes_and_leaves_a_report(number: signal.Signals, tmp_path: Path) -> None:
    output, here = tmp_path / "out", Path(__file__).parent
    script = (
        f"import sys; sys.path[:0] = [{str(here)!r}]; import test_evaluation_run as t\n"
        f"lines = {json.dumps([line(0)])!r}\n"
        "def command(module, parameters):\n"
        "    values = t.json.dumps({**parameters, 'breaks': '', 'waits': True, 'dies': ''}, default=str)\n"
        "    return [sys.executable, '-c', t.STAND_IN, module, values, lines]\n"
        "t.run.node_command, t.run._draw = command, lambda *_: None\n"
        f"t.run_evaluation(t.request(t.Path({str(output)!r})), t.quiet())\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 60.0
    while not (output / "episodes.jsonl").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)  # until the stand-in has begun
    process.send_signal(number)
    _, errors = process.communicate(timeout=60.0)
    assert b"KeyboardInterrupt" in errors, errors
    assert "stopped by a signal" in (output / "report.md").read_text()
    held = subprocess.run(["pgrep", "-f", str(output)], capture_output=True, text=True, check=False).stdout.split()
    assert not [pid for pid in held if int(pid) != os.getpid()]


def test_a_signal_that_is_ignored_stays_so() -> None:
    """As ``nohup`` has it; the others end, once."""
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM)}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt), stoppable():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)  # while it ends: no second exception
        assert signal.getsignal(signal.SIGTERM) is before[signal.SIGTERM]
    finally:
        signal.signal(signal.SIGHUP, before[signal.SIGHUP])


REFUSALS = {
    "nothing to evaluate": ([], "expected --checkpoint, or --external"),
    "speed of another's simulator": (["--external", "--speed", "2"], "--speed is of the embedded simulator"),
    "control of another's policy": (["--external", "--control", "joints"], "--control changes the policy's robot"),
    "no task": (["-c", "/runs/a"], "expected --task, such as reach_one or reach"),
    "a task that is not there": (["-c", "/runs/a", "--task", "fly"], "--task: no task 'fly': there are reach_one"),
    "a setting without a value": (["-c", "/runs/a", "--set", "replan_steps"], "--set: expected NAME=VALUE"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_evaluated_is_refused_before_anything_starts(case: str, tmp_path: Path) -> None:
    words, message = REFUSALS[case]
    result = CliRunner().invoke(app, ["evaluate", *words, "--output", str(tmp_path / "out")])
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert message in result.output
    assert not (tmp_path / "out").exists()


def test_parameters_reach_the_nodes_as_what_they_are() -> None:
    from groot_ros.processes import node_command

    values = {"task": "reach:blue", "name": "1e3", "empty": "", "on": True, "limit": 2.0, "path": Path("/a b")}
    assert node_command("policy", values)[5::2] == [
        *('task:="reach:blue"', 'name:="1e3"', 'empty:=""', "on:=true", "limit:=2.0", 'path:="/a b"')
    ]
