"""Runs on two processes over gloo: the same step as one process makes, one told to stop, one dying.

One pair of processes makes all three runs: starting them is what takes long.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from fake_run import assert_close, assert_same_curve, run, without_dropout
from safetensors.torch import load_file

from groot_ros.training.output import checkpoints

PROGRAM = Path(__file__).with_name("fake_run.py")
SETTINGS = {"state_dropout_prob": 0.0, "learning_rate": 1e-3, "global_batch_size": 4}
EQUAL = {**SETTINGS, "max_steps": 2, "save_steps": 1, "tune_llm": True, "tune_visual": True}


@dataclass
class Told:
    """What a process said and how it ended."""

    code: int
    out: str
    err: str


@dataclass
class Pair:
    folder: Path
    base: Path
    processes: list[Told]


def start(file: Path) -> list[subprocess.Popen]:
    """Two processes as torchrun starts them."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(file)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


@pytest.fixture(scope="module")
def pair(base_n1d7, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    base = without_dropout(base_n1d7, folder)
    six = {**SETTINGS, "base": str(base), "max_steps": 6}
    runs = [
        {**EQUAL, "base": str(base), "output": str(folder / "equal")},
        # Draw 6 is of the second step, of the second process; draw 14 of its fourth.
        {**six, "output": str(folder / "told"), "save_steps": 6, "lethal": {"draw": 6, "signal": signal.SIGTERM}},
        {**six, "output": str(folder / "killed"), "save_steps": 3, "lethal": {"draw": 14, "signal": signal.SIGKILL}},
    ]
    file = folder / "runs.json"
    file.write_text(json.dumps(runs))
    processes = start(file)
    said = [process.communicate(timeout=110) for process in processes]
    return Pair(folder, base, [Told(p.returncode, *text) for p, text in zip(processes, said, strict=True)])


def test_two_processes_are_one(pair, tmp_path):
    """The same global batch, everything trained, so that a parameter without a gradient would show."""
    assert all(told.out.startswith("code 0\n") for told in pair.processes), pair.processes
    run(pair.base, tmp_path / "one", **EQUAL)
    output = pair.folder / "equal"
    assert_close(load_file(tmp_path / "one" / "model.safetensors"), load_file(output / "model.safetensors"))
    assert_same_curve(tmp_path / "one", output)
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= set(os.listdir(output / "checkpoint-2"))
    assert json.loads((output / "training.json").read_text())["processes"] == 2


def test_signal_to_one_process_stops_both_after_the_same_step(pair):
    assert all(told.out.startswith("code 0\ncode 130\n") for told in pair.processes), pair.processes
    output = pair.folder / "told"
    report = json.loads((output / "training.json").read_text())
    assert (report["state"], report["step"]) == ("interrupted", 2)
    assert [step for step, _ in checkpoints(output)] == [2]


def test_signal_to_the_whole_group_leaves_the_workers_alive(base_n1d7, tmp_path):
    """As Slurm and torchrun send it, twice: to the training process and to its worker, which draws the 9th."""
    settings = {**SETTINGS, "base": str(base_n1d7), "max_steps": 6, "save_steps": 6}
    lethal = {"draw": 9, "signal": signal.SIGTERM, "group": True}
    file = tmp_path / "runs.json"
    runs = [
        {**settings, "output": str(tmp_path / str(workers)), "dataloader_num_workers": workers, "lethal": lethal}
        for workers in (1, 0)
    ]
    file.write_text(json.dumps(runs))
    told = subprocess.run(
        [sys.executable, str(PROGRAM), str(file)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=110,
    )
    assert told.stdout == "code 130\ncode 130\n", told
    # It is sent before the third batch is there, so after one of the first three steps.
    assert checkpoints(tmp_path / "1")[0][0] in (1, 2, 3)
    assert checkpoints(tmp_path / "0")[0][0] == 3


def test_process_that_dies_ends_the_other_with_a_message(pair):
    first, second = pair.processes
    assert second.code == -signal.SIGKILL and first.code not in (0, None)
    assert "process 0 lost another process of the run" in first.err
    assert "checkpoint-3 is whole: run the same command with --resume" in first.err
    output = pair.folder / "killed"
    assert [step for step, _ in checkpoints(output)] == [3]
    load_file(output / "checkpoint-3" / "model.safetensors")
