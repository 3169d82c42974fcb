"""Damage that the rest of a dataset can mend, and damage that it cannot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import barcode
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_maker import TASKS, frame_number, make_dataset, make_rows, record, small_arm
from test_edit import CAMERAS, contents, edit_json

from groot_ros.dataset import paths
from groot_ros.dataset.check import check
from groot_ros.dataset.commit import Totals, commit
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.lock import DatasetLock
from groot_ros.dataset.read import Dataset
from groot_ros.dataset.repair import repair
from groot_ros.dataset.spec import DatasetSpec
from groot_ros.dataset.video import decode_frames, remux
from groot_ros.dataset.writer import DatasetWriter
from groot_ros.embodiment.load import load_embodiment

EPISODES, ROWS = 3, 12


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("repair") / "whole", episodes=EPISODES, rows=ROWS)


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "broken"))


def problems(root: Path) -> list[str]:
    return [problem.code for problem in check(root, horizon=4).problems if problem.severity != "info"]


def cut(name: Path, end: int) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[:end])

    return damage


def add(name: Path, text: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        with (root / name).open("a") as file:
            file.write(text)

    return damage


def change(name: Path, how: Callable[[Any], Any]) -> Callable[[Path], None]:
    return lambda root: edit_json(root / name, how)


def change_line(name: Path, number: int, how: Callable[[Any], Any]) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        lines = (root / name).read_text().splitlines()
        content = json.loads(lines[number])
        how(content)
        lines[number] = json.dumps(content)
        (root / name).write_text("\n".join(lines) + "\n")

    return damage


def shorten(root: Path, episode: int = 1, frames: int = ROWS - 1) -> None:
    video = Dataset(root).video(episode, CAMERAS[0])
    short = root / "short.mp4"
    remux([video], short, 30, frames)
    short.replace(video)


def delete_files(root: Path) -> None:
    """An episode, taken out by hand."""
    for path in root.rglob("episode_000001.*"):
        path.unlink()
    lines = (root / paths.EPISODES).read_text().splitlines(keepends=True)
    (root / paths.EPISODES).write_text(lines[0] + lines[2])


def copy_rows(root: Path) -> None:
    shutil.copy(Dataset(root).data(0), root / paths.data_path(9))
    shutil.copy(Dataset(root).video(0, CAMERAS[1]), root / paths.video_path(9, CAMERAS[1]))


@dataclass(frozen=True)
class Damage:
    """What is broken, words of the message, and what is mended besides: robot given, episodes cut."""

    do: Callable[[Path], None]
    says: str
    robot: bool = False
    truncate: bool = False
    identical: bool = True  # afterwards the metadata are what they were before; pictures change when they are encoded
    seen: bool = True  # by the check


MENDED = {
    "torn episodes.jsonl": Damage(cut(paths.EPISODES, -9), "no line for episode 2: made anew from its files"),
    "half a line more": Damage(add(paths.EPISODES, '{"episode_ind'), "line 4 is damaged"),
    "line without end": Damage(cut(paths.EPISODES, -1), "line 3 has no end", seen=False),
    "blank line": Damage(add(paths.TASKS, "\n"), "line 3 is blank"),
    "bytes of a lost block": Damage(add(paths.EPISODES_STATS, "\0" * 40), "line 4 is damaged"),
    "no episodes.jsonl": Damage(lambda root: (root / paths.EPISODES).unlink(), "no line for episode 0"),
    "torn tasks.jsonl": Damage(cut(paths.TASKS, -4), "no text for task 1: 'put the cube down'"),
    "line twice": Damage(
        lambda root: add(paths.TASKS, (root / paths.TASKS).read_text().splitlines()[0] + "\n")(root),
        "line 3 has the index of an earlier line",
    ),
    "torn statistics": Damage(
        cut(paths.EPISODES_STATS, -20), "not those of episodes 2: computed anew", identical=False
    ),
    "statistics of other rows": Damage(
        change_line(paths.EPISODES_STATS, 1, lambda line: line["stats"]["action"]["max"].__setitem__(0, 9.0)),
        "not those of episodes 1",
    ),
    "statistics without a camera": Damage(
        change_line(paths.EPISODES_STATS, 0, lambda line: line["stats"].pop(CAMERAS[0])),
        "not those of episodes 0",
        identical=False,
    ),
    "flat statistics of a camera": Damage(
        change_line(paths.EPISODES_STATS, 0, lambda line: line["stats"][CAMERAS[0]].update(min=[0, 0, 0])),
        "not those of episodes 0",
        identical=False,
    ),
    "statistics of no episode": Damage(
        add(paths.EPISODES_STATS, '{"episode_index": 8, "stats": {}}\n'), r"do not exist ([8]): removed"
    ),
    "no episodes_stats.jsonl": Damage(
        lambda root: (root / paths.EPISODES_STATS).unlink(), "episodes 0, 1, 2", identical=False
    ),
    "no stats.json": Damage(lambda root: (root / paths.STATS).unlink(), "meta/stats.json: there is no such file"),
    "stats.json of other rows": Damage(
        change(paths.STATS, lambda stats: stats["action"]["q99"].__setitem__(2, 7.0)), "not those of the rows"
    ),
    "stats.json with count": Damage(
        change(paths.STATS, lambda stats: stats["action"].update(count=[36])), "not those of the rows"
    ),
    "torn stats.json": Damage(cut(paths.STATS, 50), "meta/stats.json: it is damaged"),
    "totals": Damage(
        change(paths.INFO, lambda info: info.update(total_frames=7, total_episodes=9, splits={})),
        "total_episodes: 9, but 3; total_frames: 7, but 36",
    ),
    "length": Damage(change_line(paths.EPISODES, 0, lambda line: line.update(length=11)), "length 11, but 12 rows"),
    "no modality.json": Damage(
        lambda root: (root / paths.MODALITY).unlink(), "made anew for robot sim_arm", robot=True
    ),
    "torn info.json": Damage(cut(paths.INFO, 300), "info.json: it is damaged: made anew", robot=True),
    "info.json without features": Damage(
        change(paths.INFO, lambda info: info.pop("features")), "it lacks features", robot=True
    ),
    "stray files": Damage(copy_rows, "episode_000009.parquet: it belongs to no episode: moved to .staging"),
    "taken out by hand": Damage(delete_files, "counted again", identical=False),
    "a video too short": Damage(shorten, "cut to the first 11", truncate=True, identical=False),
}


@pytest.mark.parametrize("name", MENDED)
def test_damage_is_told_then_mended(root: Path, name: str) -> None:
    damage = MENDED[name]
    original = contents(root)
    damage.do(root)
    assert bool(problems(root)) == damage.seen
    broken = contents(root)
    robot = small_arm() if damage.robot else None
    told = repair(root, embodiment=robot, truncate=damage.truncate)
    assert contents(root) == broken, "looking changes nothing"
    assert not told.applied and not told.refused and any(damage.says in mend for mend in told.mends), told
    done = repair(root, embodiment=robot, truncate=damage.truncate, apply=True)
    assert (done.mends, done.refused) == (told.mends, [])
    assert problems(root) == []
    again = repair(root)
    assert not again.mends and not again.refused
    if damage.identical:
        after = contents(root)
        assert {path: hash_ for path, hash_ in after.items() if path in original} == original
        kept = [path for path in after if path.startswith("meta.before-")]
        assert kept or name == "stray files"


def test_nothing_to_mend(root: Path) -> None:
    before = contents(root)
    result = repair(root, apply=True)
    assert (result.mends, result.refused, result.notes) == ([], [], [])
    assert contents(root) == before


def test_an_interrupted_commit_is_ended_first(root: Path) -> None:
    robot = small_arm()
    spec = DatasetSpec.of(robot)
    with DatasetWriter(root, spec, robot.cameras, codec="libx264", min_free_bytes=0) as writer:
        episode = writer.begin(TASKS[0])
        record(episode, make_rows(spec, ROWS, 5))
        staged = episode.seal({})

    def stop(step: str) -> None:
        if step == "episodes.jsonl":
            raise InterruptedError

    with pytest.raises(InterruptedError):
        commit(root, spec, Totals.of(root), [staged], stop)
    told = repair(root)
    assert told.mends == [".staging/COMMIT.json: a commit was interrupted: ended"] and "--apply" in told.notes[0]
    assert not repair(root, apply=True).refused
    assert problems(root) == [] and len(Dataset(root).episodes) == EPISODES + 1


def test_stray_files_are_kept(root: Path) -> None:
    copy_rows(root)
    repair(root, apply=True)
    [kept] = (root / paths.STAGING).glob("stray-*/data/chunk-000/episode_000009.parquet")
    assert kept.read_bytes() == Dataset(root).data(0).read_bytes()


def test_an_episode_that_was_never_finished_is_a_stray(root: Path) -> None:
    """Its line is torn, and a video is missing: it does not come back, and its files are kept."""
    cut(paths.EPISODES, -9)(root)
    Dataset(root).video(2, CAMERAS[0]).unlink()
    repair(root, apply=True)
    assert problems(root) == [] and len(Dataset(root).episodes) == 2
    assert len(list((root / paths.STAGING).glob("stray-*/**/episode_000002.*"))) == 3


@pytest.mark.parametrize("frames", [ROWS - 1, ROWS - 4])
def test_cut_to_the_shorter_keeps_what_belongs_together(root: Path, frames: int) -> None:
    shorten(root, 1, frames)
    before = contents(root)
    done = repair(root, truncate=True, apply=True)
    [old] = root.parent.glob("broken.before-*")
    assert contents(old) == before and str(old) in done.notes[-1]
    dataset = Dataset(root)
    assert [entry.length for entry in dataset.episodes] == [ROWS, frames, ROWS]
    for camera, feature in enumerate(CAMERAS):
        pictures = [barcode.read(picture) for picture in decode_frames(dataset.video(1, feature))]
        assert pictures == [frame_number(k, camera, ROWS) for k in range(frames)]
    assert dataset.column(2, "index").tolist() == list(range(ROWS + frames, 2 * ROWS + frames))
    report = dataset.report(1)
    assert report is not None and report["rows"] == frames and report["cameras"]["front"]["frames"] == frames
    assert report["end_ns"] == dataset.column(1, "recording.stamp_ns")[-1]


def test_what_cannot_be_mended_is_refused_with_what_to_do(root: Path) -> None:
    shorten(root)
    (root / paths.MODALITY).unlink()
    add(paths.EPISODES, "\n")(root)
    done = repair(root, apply=True)
    assert any("11 pictures" in line and "--truncate cuts it to the first 11" in line for line in done.refused)
    assert any("modality.json" in line and "--embodiment" in line for line in done.refused)
    assert "line 4 is blank" in done.mends[0], "the rest is mended all the same"
    assert set(problems(root)) == {"video_frames", "modality_missing"}


def test_lost_rows_are_refused(root: Path) -> None:
    Dataset(root).data(1).write_bytes(b"PAR1")
    [line] = repair(root, apply=True, truncate=True).refused
    assert "episode_000001.parquet" in line and "delete-episodes" in line


def test_a_task_that_nothing_else_says_is_refused(root: Path) -> None:
    cut(paths.TASKS, -4)(root)
    change_line(paths.EPISODES, 1, lambda line: line.update(tasks=["one", "two"]))(root)
    [line] = repair(root, apply=True).refused
    assert "text of task 1" in line and '{"task_index": 1, "task": "..."}' in line


def test_an_episode_whose_task_is_lost_too_is_not_given_up(root: Path) -> None:
    """Not even its line may be tidied away: it is what keeps the files from being strays."""
    (root / paths.EPISODES).write_bytes((root / paths.EPISODES).read_bytes().splitlines(keepends=True)[0])
    cut(paths.TASKS, -4)(root)
    before = contents(root)
    refused = repair(root, apply=True)
    assert contents(root) == before and not refused.mends
    assert "text of task 1 (episodes [1])" in refused.refused[0] and "nothing is mended before" in refused.notes[0]
    (root / paths.TASKS).write_text(
        "".join(json.dumps({"task_index": i, "task": text}) + "\n" for i, text in enumerate(TASKS))
    )
    assert not repair(root, apply=True).refused and problems(root) == []
    assert [entry.tasks for entry in Dataset(root).episodes] == [(TASKS[0],), (TASKS[1],), (TASKS[0],)]


def test_files_of_swapped_episodes_are_refused(root: Path) -> None:
    """Counting the rows again would give them the pictures of another episode."""
    one, two = (Dataset(root).data(episode) for episode in (0, 2))
    rows = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(rows)
    [line] = repair(root, apply=True).refused
    assert "rising, found [2, 1, 0]" in line


def test_rows_that_are_not_finite_are_refused(root: Path) -> None:
    path = Dataset(root).data(1)
    table = pq.read_table(path)
    at = table.column_names.index("action")
    values = table.column("action").combine_chunks().flatten().to_numpy().copy()
    values[3] = np.nan
    column = pa.FixedSizeListArray.from_arrays(pa.array(values), type=table.schema.field(at).type)
    pq.write_table(table.set_column(at, table.schema.field(at), column), path)
    assert any("finite numbers in action" in line for line in repair(root).refused)


def test_another_robot_makes_no_metadata(root: Path) -> None:
    (root / paths.MODALITY).unlink()
    [line] = repair(root, embodiment=load_embodiment("so101")).refused
    assert "robot so101 is another" in line and "robot_type" in line
    (root / paths.INFO).unlink()
    with pytest.raises(DatasetError, match="name the robot with --embodiment"):
        repair(root)
    with pytest.raises(DatasetError, match=r"expected the columns of robot gr1, found others: .*action"):
        repair(root, embodiment=load_embodiment("gr1"))


def test_no_dataset_no_repair(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="expected a dataset's folder"):
        repair(tmp_path)
    with DatasetLock(root), pytest.raises(DatasetError, match="expected no other writer"):
        repair(root)
    edit_json(root / paths.INFO, lambda info: info.update(codebase_version="v3.0"))
    with pytest.raises(DatasetError, match=r"codebase_version: expected v2.0 or v2.1, found 'v3.0'"):
        repair(root)
