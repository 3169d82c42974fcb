"""kill -9 of a process that writes a dataset, at seeded moments and at every named step of a commit; then a check.

    python test/dataset/kill_writer.py --runs 200 --seed 0

Each run forks a child that records and commits episodes without end, one to three at a time, and is killed. Another
child then opens the dataset, which recovers it, and compares every row, every picture and every file with what had been
reported as committed. A commit that was under way may be there as a whole or not at all. One line of JSON says what
happened; the exit code is 1 when anything was wrong.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
import barcode
import dataset_maker

from groot_ros.dataset import paths, statistics
from groot_ros.dataset.columns import columns
from groot_ros.dataset.commit import STEPS
from groot_ros.dataset.read import Dataset, as_array
from groot_ros.dataset.recovery import staged_episodes
from groot_ros.dataset.salvage import salvage
from groot_ros.dataset.spec import FLAG_SALVAGED, FLAGS, DatasetSpec
from groot_ros.dataset.video import decode_frames
from groot_ros.dataset.writer import DatasetWriter

ROBOT = dataset_maker.small_arm()
# Rows reach the disk once per "second": with four of them a killed episode has something to salvage.
SPEC = replace(DatasetSpec.of(ROBOT), fps=4)
KILLS_PER_DATASET = 10
# When a run is killed by the clock: so many words of the child after its first, and then so long.
MOST_WORDS, LONGEST_S = 60, 0.03


@dataclass(frozen=True)
class Episode:
    """Everything about an episode follows from its token: rows, pictures, task."""

    token: int

    @property
    def count(self) -> int:
        return 3 + self.token % 11

    @property
    def task(self) -> str:
        return f"task {self.token % 5}"

    @property
    def first(self) -> int:
        return self.token * 16 % 16000

    def rows(self) -> np.ndarray[Any, np.dtype[np.void]]:
        return dataset_maker.make_rows(SPEC, self.count, self.token, 10**18 + self.token * 10**11)


@dataclass(frozen=True)
class Kill:
    """When a child is killed: at a step of a commit, by itself; or so many words after its first and so long."""

    words: int = 0
    delay_s: float = 0.0
    step: str | None = None


NEVER = Kill()


@dataclass
class Outcome:
    """What one killed child had told."""

    committed: list[int] = field(default_factory=list)  # tokens, in order
    under_way: list[int] = field(default_factory=list)
    step: str = "opening"
    error: str | None = None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200, help="kills at seeded moments")
    parser.add_argument("--steps", type=int, default=2, help="kills at each named step of a commit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the datasets are made; the system's folder when left out")
    parser.add_argument("--keep", action="store_true", help="leave the datasets there, for the real loaders")
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    plan = [Kill(step=step) for step in STEPS for _ in range(arguments.steps)]
    plan += [Kill(chance.randint(0, MOST_WORDS), chance.uniform(0.0, LONGEST_S)) for _ in range(arguments.runs)]
    chance.shuffle(plan)
    summary = Summary()
    begun = time.monotonic()
    for start in range(0, len(plan), KILLS_PER_DATASET):
        folder = Path(tempfile.mkdtemp(prefix="kill_writer_", dir=arguments.folder))
        one_dataset(folder / "dataset", plan[start : start + KILLS_PER_DATASET], arguments.seed + start, summary)
        if summary.problems:
            summary.problems.append(f"kept: {folder}")
            break
        if not arguments.keep:
            shutil.rmtree(folder)
    print(json.dumps({**summary.to_json(), "seed": arguments.seed, "wall_s": round(time.monotonic() - begun, 1)}))
    return 1 if summary.problems or sum(summary.kills.values()) != len(plan) else 0


@dataclass
class Summary:
    """Counts over all runs."""

    kills: Counter[str] = field(default_factory=Counter)
    committed: int = 0
    rolled_forward: int = 0
    rolled_back: int = 0
    recoveries_killed: int = 0
    salvaged: int = 0
    rows_checked: int = 0
    frames_checked: int = 0
    open_ms: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        opened = self.open_ms or [0.0]
        return {
            **{name: value for name, value in vars(self).items() if name not in ("open_ms", "kills")},
            "kills": dict(sorted(self.kills.items())),
            "open_ms": {"mean": round(sum(opened) / len(opened), 1), "max": round(max(opened), 1)},
        }


def one_dataset(root: Path, plan: list[Kill], seed: int, summary: Summary) -> None:
    """Kills one after the other on one dataset, with a check after each, and a salvage at the end."""
    there: list[int] = []
    chance = random.Random(seed)
    for number, kill in enumerate(plan):
        outcome = run_and_kill(root, seed * 1000 + number, kill)
        # Recovery may be killed as well; the next one ends it.
        while chance.random() < 0.4:
            in_child(partial(only_open, root), Kill(delay_s=chance.uniform(0.0, LONGEST_S)))
            summary.recoveries_killed += 1
        summary.kills[f"at {kill.step}" if kill.step else f"by the clock, in {outcome.step}"] += 1
        summary.committed += len(outcome.committed)
        found = in_child(partial(_told, verify, root, there, outcome))[-1]
        if "error" in found or outcome.error or found["problems"]:
            texts = [text for text in (outcome.error, found.get("error")) if text] + found.get("problems", [])
            summary.problems += [f"{kill}: {text}" for text in texts]
            return
        extra = len(found["tokens"]) - len(there) - len(outcome.committed)
        there = found["tokens"]
        summary.rolled_forward += bool(extra)
        summary.rolled_back += bool(outcome.under_way and not extra)
        summary.rows_checked += found["rows"]
        summary.frames_checked += found["frames"]
        summary.open_ms.append(found["open_ms"])
    found = in_child(partial(_told, salvage_all, root, there))[-1]
    summary.problems += [found["error"]] if "error" in found else found["problems"]
    summary.salvaged += found.get("salvaged", 0)


def run_and_kill(root: Path, seed: int, kill: Kill) -> Outcome:
    """Let a child write until it is killed; what it had told by then."""
    outcome = Outcome()
    for told in in_child(lambda write: write_forever(root, seed, kill.step, write), kill):
        if "under_way" in told:
            outcome.under_way = told["under_way"]
        elif "committed" in told:
            outcome.committed += outcome.under_way
            outcome.under_way = []
            outcome.step = "after a commit"
        elif "recording" in told or "sealing" in told:
            outcome.step = next(iter(told))
        elif "step" in told:
            outcome.step = f"commit, {told['step']}"
        elif "error" in told:
            outcome.error = told["error"]
    return outcome


def write_forever(root: Path, seed: int, kill_at: str | None, write: Callable[[dict[str, Any]], None]) -> None:
    """Record and commit without end. With ``kill_at`` the process kills itself at a later visit of that step."""
    chance = random.Random(seed)
    visits = chance.randint(1, 3)

    def on_step(name: str) -> None:
        nonlocal visits
        write({"step": name})
        visits -= name == kill_at
        if not visits:
            os.kill(os.getpid(), signal.SIGKILL)

    write({"ready": True})
    while True:
        with DatasetWriter(
            root, SPEC, ROBOT.cameras, codec="libx264", min_free_bytes=0, on_event=lambda text: None, on_step=on_step
        ) as writer:
            going_on = True
            while going_on:
                _save_some(writer, chance, write)
                going_on = chance.random() < 0.7  # else it is closed, which refreshes the statistics, and opened again


def _save_some(writer: DatasetWriter, chance: random.Random, write: Callable[[dict[str, Any]], None]) -> None:
    """A commit of one to three episodes while another is under way, which is not wanted."""
    batch = [Episode(chance.randrange(1 << 20)) for _ in range(chance.randint(1, 3))]
    staged = []
    for episode in batch:
        staging = writer.begin(episode.task)
        write({"recording": episode.count})
        dataset_maker.record(staging, episode.rows(), first=episode.first)
        write({"sealing": True})
        staged.append(staging.seal({"token": episode.token}))
    # The recorder goes on with the next episode while one is committed.
    other = writer.begin("another")
    write({"recording": 13})
    dataset_maker.record(other, Episode(10).rows())
    write({"under_way": [episode.token for episode in batch]})
    writer.commit(staged)
    write({"committed": True})
    if chance.random() < 0.2:
        other.abort("not wanted")
    else:
        other.discard()
    write({"discarded": True})


def only_open(root: Path, write: Callable[[dict[str, Any]], None]) -> None:
    """Recover the dataset and wait to be killed."""
    write({"ready": True})
    DatasetWriter(root, SPEC, min_free_bytes=0, on_event=lambda text: None)
    signal.pause()


def verify(root: Path, before: list[int], outcome: Outcome) -> dict[str, Any]:
    """Open the dataset, which recovers it, and compare all that is in it."""
    problems: list[str] = []
    begun = time.monotonic()
    writer = DatasetWriter(root, SPEC, min_free_bytes=0, on_event=lambda text: None)
    open_ms = (time.monotonic() - begun) * 1e3
    if statistics.is_stale(root):
        problems.append("stats.json: old after recovery")
    running = [episode.path.name for episode in staged_episodes(root) if episode.state == "running"]
    writer.close()
    dataset = Dataset(root)
    tokens = [int(dataset.report(entry.index)["more"]["token"]) for entry in dataset.episodes]
    certain = before + outcome.committed
    if tokens not in (certain, certain + outcome.under_way):
        problems.append(f"episodes {tokens}, expected {certain} and perhaps {outcome.under_way}")
    problems += [f"still locked: {name}" for name in running]
    rows, frames = compare(dataset, tokens, problems, since=len(before))
    return {"tokens": tokens, "problems": problems, "rows": rows, "frames": frames, "open_ms": open_ms}


def compare(dataset: Dataset, tokens: list[int], problems: list[str], since: int) -> tuple[int, int]:
    """Values of every episode, pictures of those from ``since`` on, and the names of all files."""
    first, frames = 0, 0
    tasks = {text: index for index, text in dataset.tasks.items()}
    for index, token in enumerate(tokens):
        episode = Episode(token)
        expected = columns(SPEC, episode.rows(), index, first, tasks[episode.task])
        table = dataset.table(index)
        for name, values in expected.items():
            if not np.array_equal(as_array(table.column(name)), values):
                problems.append(f"episode {index}: {name} is not what was recorded")
        if table.num_rows != episode.count or dataset.episodes[index].length != episode.count:
            problems.append(f"episode {index}: {table.num_rows} rows, expected {episode.count}")
        first += episode.count
        for camera, key in enumerate(dataset.video_keys if index >= since else []):
            found = [barcode.read(rgb) for rgb in decode_frames(dataset.video(index, key))]
            if found != [dataset_maker.frame_number(row, camera, episode.first) for row in range(episode.count)]:
                problems.append(f"episode {index}: frames of {key} are {found}")
            frames += len(found)
    problems += compare_files(dataset, len(tokens), first)
    return first, frames


def compare_files(dataset: Dataset, episodes: int, frames: int) -> list[str]:
    """What is wrong about metadata and about the names of files."""
    root, problems = dataset.root, []
    if dataset.info != SPEC.info(episodes, frames, len(dataset.tasks)):
        problems.append(f"info.json: {dataset.info}")
    if sorted(dataset.episodes_stats) != list(range(episodes)) or sorted(dataset.tasks) != list(
        range(len(dataset.tasks))
    ):
        problems.append("episodes_stats.jsonl or tasks.jsonl: not numbered from 0")
    for name in (paths.EPISODES, paths.EPISODES_STATS, paths.TASKS):
        data = (root / name).read_bytes()
        if data and not data.endswith(b"\n"):
            problems.append(f"{name}: torn")
    if dataset.stats != statistics.dataset_statistics(root):
        problems.append("stats.json: old")
    meta = {"info.json", "episodes.jsonl", "tasks.jsonl", "episodes_stats.jsonl", "stats.json", "modality.json"}
    expected = {Path(".lock"), statistics.BASIS} | {paths.META / name for name in meta}
    for index in range(episodes):
        expected |= {paths.data_path(index), paths.report_path(index)}
        expected |= {paths.video_path(index, key) for key in dataset.video_keys}
    there = {path.relative_to(root) for path in root.rglob("*") if path.is_file()}
    outside = {path for path in there if path.parts[0] != paths.STAGING.name}
    problems += [f"stray file {path}" for path in sorted(outside - expected)]
    problems += [f"missing file {path}" for path in sorted(expected - outside)]
    loose = [path for path in there - outside if len(path.parts) < 3 or path.suffix == ".tmp"]
    return problems + [f"left over {path}" for path in loose]


def salvage_all(root: Path, tokens: list[int]) -> dict[str, Any]:
    """Take over every aborted episode: rows and pictures belong together, and nothing else changes."""
    problems: list[str] = []
    events: list[str] = []
    reports = salvage(root, on_event=events.append)
    dataset = Dataset(root)
    for report in reports:
        index = report.index
        assert index is not None
        if not (dataset.column(index, FLAGS) & FLAG_SALVAGED).all() or not report.salvaged:
            problems.append(f"salvaged episode {index}: not flagged")
        for key in dataset.video_keys:
            numbers = [barcode.read(rgb) for rgb in decode_frames(dataset.video(index, key))]
            steps = {(after - before) % barcode.LIMIT for before, after in itertools.pairwise(numbers)}
            if len(numbers) != report.rows or steps - {4}:
                problems.append(f"salvaged episode {index}: {report.rows} rows, frames of {key} are {numbers}")
    if [entry.index for entry in dataset.episodes] != list(range(len(tokens) + len(reports))):
        problems.append("salvage: episodes are not numbered from 0")
    left = [path.name for path in (root / paths.STAGING).iterdir()]
    problems += [
        f"salvage left {name}: {events}"
        for name in left
        if not any(name in text and "expected rows with a frame" in text for text in events)
    ]
    return {"problems": problems, "salvaged": len(reports)}


def in_child(work: Callable[[Callable[[dict[str, Any]], None]], None], kill: Kill = NEVER) -> list[Any]:
    """What a forked process writes, as far as it comes. This one stays without threads, so that it can be forked."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        os.close(read_end)
        code = 0
        try:
            work(lambda told: _write(write_end, told))
        except BaseException:
            _write(write_end, {"error": traceback.format_exc()})
            code = 1
        os._exit(code)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        lines = [pipe.readline() for _ in range(kill.words + 1)]
        if kill is not NEVER and kill.step is None:
            time.sleep(kill.delay_s)
            os.kill(child, signal.SIGKILL)
        lines += pipe.readlines()
    os.waitpid(child, 0)
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def _told(work: Callable[..., dict[str, Any]], *arguments: Any) -> None:
    *rest, write = arguments
    write(work(*rest))


def _write(descriptor: int, told: dict[str, Any]) -> None:
    # One call: what the pipe holds is whole lines, whenever the process is killed.
    os.write(descriptor, json.dumps(told).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
