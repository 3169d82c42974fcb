"""Record, check, finetune and evaluate with the commands of the README, and judge what came out: ``make e2e``.

About half an hour on 2 cores. ``e2e/report.md`` has every command, what it took and what it came to; exit code 1 when
a line missed its bound. ``make e2e ARGS=--resume`` goes on where a run broke off: what is done is not done again.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

GROOT_ROS = str(Path(sys.executable).with_name("groot-ros"))
ROBOT, TASK = "sim_tabletop", "reach_one"
FIRST_UNSEEN = 1000  # the demonstrations' seeds begin at 0
LEARNT, UNTRAINED = 0.80, 0.05
TRAINING_S = 600.0
TRIES = 4
FINETUNE = (
    "--tune-llm --tune-visual --allow-padding --no-augment --global-batch-size 32 --noise-draws 4 "
    "--learning-rate 2e-3 --adam-beta2 0.95 --max-steps 1000 --save-steps 500 "
    "--torch-threads 1 --dataloader-num-workers 1"
)


@dataclass(frozen=True)
class Line:
    """A line of the report: what was to be shown, what was found, and whether that is enough."""

    what: str
    found: str
    good: bool


@dataclass(frozen=True)
class Step:
    """A command that was run."""

    command: str
    wall_s: float


class Report:
    """Commands and lines, written after each of them, so that a run that breaks off leaves what it had."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps: list[Step] = []
        self.lines: list[Line] = []
        if (folder / "report.json").exists():
            self.steps = [Step(**step) for step in json.loads((folder / "report.json").read_text())["steps"]]

    def run(self, *words: object, tries: int = 1) -> float:
        """Run ``groot-ros`` with these words, if that is not done; its wall time in seconds.

        After a failure it is tried again with ``--resume``. SystemExit when the last try fails.
        """
        command = [GROOT_ROS, *map(str, words)]
        shown = shlex.join(["groot-ros", *command[1:]])
        done = next((step for step in self.steps if step.command == shown), None)
        if done is not None:
            print(f"\ndone: {shown}", flush=True)
            return done.wall_s
        print(f"\n$ {shown}", flush=True)
        begun = time.monotonic()
        code = subprocess.run(command, check=False).returncode
        for _ in range(tries - 1):
            if code:
                print(f"exit code {code}; again with --resume", flush=True)
                code = subprocess.run([*command, "--resume"], check=False).returncode
        wall_s = time.monotonic() - begun
        if code:
            raise SystemExit(f"e2e: exit code {code} of: {shown}")
        self.steps.append(Step(shown, wall_s))
        self.write()
        return wall_s

    def judge(self, what: str, found: str, good: bool) -> None:
        """Add a line."""
        self.lines.append(Line(what, found, good))
        print(f"{'ok  ' if good else 'MISS'} {what}: {found}", flush=True)
        self.write()

    def write(self) -> None:
        """report.json and report.md."""
        content = {"lines": [asdict(line) for line in self.lines], "steps": [asdict(step) for step in self.steps]}
        (self.folder / "report.json").write_text(json.dumps(content, indent=2) + "\n")
        rows = ["# Learn and prove it", "", "| to be shown | found | |", "|---|---|---|"]
        rows += [f"| {line.what} | {line.found} | {'ok' if line.good else '**missed**'} |" for line in self.lines]
        rows += ["", "| command | s |", "|---|---|"]
        rows += [f"| `{step.command}` | {step.wall_s:.0f} |" for step in self.steps]
        (self.folder / "report.md").write_text("\n".join(rows) + "\n")


def evaluate(report: Report, checkpoint: Path, name: str, episodes: int, speed: float, *more: str) -> tuple[int, int]:
    """Successes and episodes of a checkpoint on the unseen seeds."""
    output = report.folder / name
    resumed = ("--resume",) if (output / "run.json").exists() else ()
    # A machine that stalls ends an evaluation, for it says nothing about the policy; what was measured stays.
    report.run(
        *("evaluate", "-c", checkpoint, "-e", ROBOT, "--task", TASK, "--episodes", episodes, "--seed", FIRST_UNSEEN),
        *("--time-limit", 6, "--speed", speed, "-o", output, "--set", "torch_threads=1", *more, *resumed),
        tries=TRIES,
    )
    summary = json.loads((output / "report.json").read_text())["summary"]
    if summary["episodes"] != episodes:
        raise SystemExit(f"e2e: {name}: {summary['episodes']} of {episodes} episodes")
    return summary["successes"], summary["episodes"]


def learn(report: Report, demonstrations: int, speed: float) -> tuple[Path, Path]:
    """Base checkpoint and the one finetuned on fresh demonstrations."""
    folder = report.folder
    base, dataset, run = folder / "base", folder / "dataset", folder / "run"
    report.run("make-checkpoint", base, "--size", "demo", "-e", ROBOT)
    record = ("--task", TASK, "--episodes", demonstrations, "--seed", 0, "--speed", speed, "--logs", folder / "logs")
    took_s = report.run("demonstrate", "--dataset", dataset, *record)
    info = json.loads((dataset / "meta" / "info.json").read_text())
    found = f"{info['total_episodes']} episodes, {info['total_frames']} rows in {took_s:.0f} s"
    report.judge(f"{demonstrations} demonstrations", found, info["total_episodes"] == demonstrations)
    report.run("dataset", "check", dataset)
    report.judge("dataset check", "exit code 0", True)
    took_s = report.run(
        *("finetune", "--base-model-path", base, "--dataset-path", dataset, "-e", ROBOT, "--output-dir", run),
        *shlex.split(FINETUNE),
    )
    report.judge(f"finetuned in at most {TRAINING_S:.0f} s", f"{took_s:.0f} s", took_s <= TRAINING_S)
    return base, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("e2e"), help="new folder for all that is made")
    parser.add_argument("--demonstrations", type=int, default=150)
    parser.add_argument("--episodes", type=int, default=100, help="of the finetuned and of the untrained model")
    parser.add_argument("--controls", type=int, default=40, help="episodes with wrong cameras, and with wrong joints")
    parser.add_argument("--speed", type=float, default=2.0, help="simulated seconds per second")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output that broke off")
    chosen = parser.parse_args(arguments)
    if chosen.output.exists() != chosen.resume:
        parser.error(
            f"--output {chosen.output}: expected the folder of a run that broke off, found none: leave --resume out"
            if chosen.resume
            else f"--output {chosen.output}: expected a new folder, found one: remove it, name another, or --resume"
        )
    chosen.output.mkdir(parents=True, exist_ok=True)
    report = Report(chosen.output.resolve())
    base, run = learn(report, chosen.demonstrations, chosen.speed)
    good, played = evaluate(report, run, "finetuned", chosen.episodes, chosen.speed)
    report.judge(f"finetuned, unseen seeds: at least {LEARNT:.0%}", f"{good} of {played}", good >= LEARNT * played)
    good, played = evaluate(report, base, "untrained", chosen.episodes, chosen.speed)
    report.judge(f"untrained, same seeds: at most {UNTRAINED:.0%}", f"{good} of {played}", good <= UNTRAINED * played)
    for control in ("cameras", "joints"):
        good, played = evaluate(report, run, control, chosen.controls, chosen.speed, "--control", control)
        found, least = f"{good} of {played}", UNTRAINED * played
        report.judge(f"finetuned, {control} swapped: at most {UNTRAINED:.0%}", found, good <= least)
    print(f"\nreport: {report.folder / 'report.md'}")
    return 0 if all(line.good for line in report.lines) else 1


if __name__ == "__main__":
    raise SystemExit(main())
