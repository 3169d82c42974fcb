"""``groot-ros dataset``: options reach the functions, results go to stdout as JSON, exit codes tell."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from dataset_maker import make_dataset, make_rows, record, small_arm
from typer.testing import CliRunner, Result

from groot_ros.cli import app
from groot_ros.dataset import paths
from groot_ros.dataset.from_bag import BagOutcome, Conversion
from groot_ros.dataset.read import Dataset
from groot_ros.dataset.salvage import aborted_episodes
from groot_ros.dataset.spec import DatasetSpec
from groot_ros.dataset.staging import EpisodeWriter

COMMANDS = ["from-bag", "check", "repair", "merge", "split", "delete-episodes", "stats", "show", "salvage", "export"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("cli") / "pick", episodes=3, rows=18)


@pytest.fixture
def root(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "pick"))


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["dataset", *map(str, words)])


def said(result: Result) -> Any:
    """The JSON on stdout."""
    return json.loads(result.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0 and f"groot-ros dataset {command}" in " ".join(result.output.split())


def test_check_tells_by_its_exit_code(root: Path) -> None:
    good = run("check", root, "--json")
    assert good.exit_code == 0 and said(good)["ok"] is True and said(good)["episodes"] == 3
    (root / paths.STATS).unlink()
    bad = run("check", root, "--json")
    assert bad.exit_code == 1 and [problem["code"] for problem in said(bad)["problems"]] == ["stats_missing"]
    assert "error: stats_missing" in bad.stderr


def test_check_is_strict_on_demand(root: Path) -> None:
    words = ["check", root, "--horizon", "30"]  # longer than the episodes
    assert run(*words).exit_code == 0 and run(*words, "--strict").exit_code == 1


def test_repair_looks_then_mends(root: Path) -> None:
    (root / paths.STATS).unlink()
    told = run("repair", root, "--json")
    assert told.exit_code == 1 and "to mend: meta/stats.json" in told.stderr and not (root / paths.STATS).exists()
    assert said(told)["applied"] is False and len(said(told)["mends"]) == 1
    done = run("repair", root, "--apply")
    assert done.exit_code == 0 and "mended: meta/stats.json" in done.stderr
    assert "nothing to mend" in run("repair", root).stderr


def test_repair_takes_a_robot(root: Path) -> None:
    (root / paths.MODALITY).unlink()
    refused = run("repair", root, "--apply")
    assert refused.exit_code == 1 and "cannot be mended: meta/modality.json" in refused.stderr
    other = run("repair", root, "--apply", "-e", "so101")
    assert other.exit_code == 1 and "robot so101 is another" in other.stderr


def test_merge_split_and_delete(root: Path, source: Path, tmp_path: Path) -> None:
    merged = run("merge", root, source, "-o", tmp_path / "both")
    assert merged.exit_code == 0 and merged.stdout == f"{tmp_path / 'both'}\n" and "108" in merged.stderr
    parts = run("split", tmp_path / "both", "-p", "a=0.5", "-p", "b=0.5", "--seed", 3, "-o", tmp_path, "--json")
    assert [(part["dataset"], part["episodes"]) for part in said(parts)] == [
        (str(tmp_path / "a"), 3),
        (str(tmp_path / "b"), 3),
    ]
    deleted = run("delete-episodes", tmp_path / "a", "--episodes", "0,2:3", "--in-place", "--json")
    assert said(deleted)["episodes"] == 1 and "the dataset as it was" in deleted.stderr
    assert len(Dataset(tmp_path / "a").episodes) == 1


def test_stats_writes_and_dry_run_does_not(root: Path) -> None:
    (root / paths.STATS).write_text("{}")
    dry = run("stats", root, "--dry-run", "--json")
    assert dry.exit_code == 0 and "q99" in said(dry)["stats"]["action"] and (root / paths.STATS).read_text() == "{}"
    done = run("stats", root, "--relative", "-g", "n1d6", "--horizon", 4)
    assert done.exit_code == 0 and "single_arm, relative, step 3" in done.stderr
    assert json.loads((root / paths.STATS).read_text()) == said(dry)["stats"]
    assert len(json.loads((root / paths.RELATIVE_STATS).read_text())["single_arm"]["mean"]) == 4
    none = run("stats", root, "--relative", "-e", "libero_panda", "-g", "n1d5", "--dry-run")
    assert none.exit_code == 0 and "no action key of this robot is RELATIVE" in " ".join(none.stderr.split())


def test_export_writes_v30(root: Path, tmp_path: Path) -> None:
    result = run("export", root, tmp_path / "v30", "--image-frames", 2, "--json")
    assert result.exit_code == 0 and said(result)["frames"] == 54
    assert json.loads((tmp_path / "v30" / paths.INFO).read_text())["codebase_version"] == "v3.0"


def test_salvage_lists_appends_and_removes(root: Path) -> None:
    assert "no aborted episodes" in run("salvage", root).stderr
    leave_episode(root)
    listed = run("salvage", root, "--json")
    [entry] = said(listed)["aborted"]
    assert listed.exit_code == 0 and (entry["rows"], entry["task"]) == (6, "stack")
    assert "6 rows of 'stack'" in listed.stderr and len(Dataset(root).episodes) == 3
    assert run("salvage", root, "--apply", "--remove").exit_code == 2
    done = run("salvage", root, "--apply", "--json")
    assert done.exit_code == 0 and [report["index"] for report in said(done)["salvaged"]] == [3]
    leave_episode(root)
    assert "removed" in run("salvage", root, "--remove").stderr and not aborted_episodes(root)
    assert len(Dataset(root).episodes) == 4


def test_salvage_tells_what_it_could_not_append(root: Path) -> None:
    leave_episode(root, whole=False)
    failed = run("salvage", root, "--apply")
    assert failed.exit_code == 1 and "expected rows with a frame of every camera" in failed.stderr


def leave_episode(root: Path, whole: bool = True) -> None:
    """Of a recorder that stopped before its commit, or before a picture was encoded."""
    robot = small_arm()
    spec = DatasetSpec.of(robot)
    episode = EpisodeWriter(root / paths.STAGING, spec, robot.cameras, "stack", codec="libx264", min_free_bytes=0)
    record(episode, make_rows(spec, 6, 1))
    if whole:
        episode.seal({})
        return
    episode.abort("tripped")
    for video in episode.path.glob("*.mkv"):
        video.write_bytes(b"")


def test_show_hands_its_options_on(monkeypatch: pytest.MonkeyPatch, root: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {}

    def show(root: Path, output: Path, **options: Any) -> Path:
        options.pop("progress")(1, 2)
        given.update(options)
        return output / "index.html"

    monkeypatch.setattr("groot_ros.dataset.show.show", show)
    result = run("show", root, "-o", tmp_path / "look", "--episodes", "0:2", "--pictures", 3)
    assert result.exit_code == 0 and result.stdout == f"{tmp_path / 'look' / 'index.html'}\n"
    assert given == {"episodes": [0, 1], "pictures": 3}


def test_from_bag_hands_its_options_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: dict[str, Any] = {}

    def convert(bags: list[Path], root: Path, embodiment: Any, task: str | None, **options: Any) -> Conversion:
        options.pop("progress")(0, 1.0, 2.0)
        given.update(options, bags=bags, root=root, robot=embodiment.name, task=task)
        error = "" if task else "expected a task, found none"
        return Conversion((BagOutcome("run", (), ("1.0 s: refused",), {"front": 2}, {}, error),))

    monkeypatch.setattr("groot_ros.dataset.from_bag.convert", convert)
    words = ["from-bag", "run", "-d", tmp_path / "new", "-e", "so101", "-g", "n1d6"]
    result = run(*words, "--task", "pick", "--drop", "flag", "-j", 3, "--event-topic", "/events", "--json")
    assert result.exit_code == 1 and said(result)["ok"] is False, "a bag without an episode is told"
    assert "run: 1.0 s: refused" in result.stderr and "front: 2" in result.stderr
    assert given == {
        **{"bags": [Path("run")], "root": tmp_path / "new", "robot": "so101", "task": "pick", "drop": "flag"},
        **{"jobs": 3, "event_topic": "/events", "codec": "auto", "min_rows": None},
    }
    result = run(*words)
    assert given["task"] is given["event_topic"] is given["drop"] is None and given["jobs"] >= 1
    assert "expected a task, found none" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "{none}"], "error: no_dataset"),
        (["merge", "{none}", "-o", "x"], "expected a dataset's folder, found none"),
        (["split", "{root}", "-p", "a", "-o", "x"], "NAME=EPISODES"),
        (["delete-episodes", "{root}", "--episodes", "9", "-o", "x"], "found [9]"),
        (["delete-episodes", "{root}", "--episodes", "0"], "either an output folder or in-place, found none"),
        (["export", "{root}", "{root}"], "does not exist yet"),
        (["stats", "{root}", "--relative", "-e", "nobody"], "nobody"),
        (["repair", "{none}"], "expected a dataset's folder"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_message(source: Path, words: list[str], message: str) -> None:
    result = run(*(word.format(root=source, none=source / "none") for word in words))
    assert result.exit_code == (1 if words[0] == "check" else 2)
    assert "Traceback" not in result.output and message in " ".join(result.stderr.split())
