"""Merge, split, delete: new datasets that pass the check, sources that stay as they are."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import barcode
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_maker import HEIGHT, WIDTH, frame_number, make_dataset, make_rows, record, small_arm

from groot_ros.dataset import edit, paths, rebuild
from groot_ros.dataset.check import check
from groot_ros.dataset.commit import RECORD
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.lock import DatasetLock
from groot_ros.dataset.read import Dataset
from groot_ros.dataset.rebuild import Built
from groot_ros.dataset.spec import DatasetSpec
from groot_ros.dataset.video import decode_frames
from groot_ros.dataset.writer import DatasetWriter

CAMERAS = ("observation.images.front", "observation.images.wrist")
A, B = (3, 16), (2, 18)  # episodes, rows of each


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("edit")
    first = make_dataset(folder / "monday", episodes=A[0], rows=A[1])
    second = make_dataset(folder / "tuesday", episodes=B[0], rows=B[1], seed=50)
    return first, second


@pytest.fixture
def copy(sources: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(sources[0], tmp_path / "copy"))


def contents(root: Path) -> dict[str, str]:
    """Hash of every file, but of the lock."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != paths.LOCK.name
    }


def assert_sound(root: Path) -> None:
    problems = [problem for problem in check(root, horizon=8).problems if problem.severity != "info"]
    assert not problems, problems


def numbers(root: Path, episode: int, camera: int) -> list[int]:
    video = Dataset(root).video(episode, CAMERAS[camera])
    return [barcode.read(picture) for picture in decode_frames(video)]


def test_merge_keeps_every_row_and_every_picture(sources: tuple[Path, Path], tmp_path: Path) -> None:
    before = [contents(source) for source in sources]
    steps: list[tuple[int, int]] = []
    built = edit.merge(sources, tmp_path / "both", progress=lambda done, total: steps.append((done, total)))
    assert (built.episodes, built.frames, built.tasks) == (5, 3 * 16 + 2 * 18, 2)
    assert steps == [(done, 5) for done in range(1, 6)]
    assert [contents(source) for source in sources] == before
    root = built.root
    assert_sound(root)
    places = [(sources[0], episode) for episode in range(3)] + [(sources[1], episode) for episode in range(2)]
    for number, (source, episode) in enumerate(places):
        rows = Dataset(source).episodes[episode].length
        for name in ("observation.state", "action", "timestamp", "recording.stamp_ns"):
            np.testing.assert_array_equal(Dataset(root).column(number, name), Dataset(source).column(episode, name))
        for camera in range(2):
            expected = [frame_number(k, camera, episode * rows) for k in range(rows)]
            assert numbers(root, number, camera) == expected
    assert Dataset(root).column(4, "index").tolist() == list(range(66, 84))


def test_videos_are_linked_not_copied(sources: tuple[Path, Path], tmp_path: Path) -> None:
    root = edit.merge(sources, tmp_path / "both").root
    assert Dataset(root).video(3, CAMERAS[0]).samefile(Dataset(sources[1]).video(0, CAMERAS[0]))


def test_videos_are_copied_where_links_cannot_be(
    sources: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    root = edit.merge(sources, tmp_path / "both").root
    video = Dataset(root).video(0, CAMERAS[0])
    assert not video.samefile(Dataset(sources[0]).video(0, CAMERAS[0]))
    assert_sound(root)


def test_reports_follow_with_their_origin(sources: tuple[Path, Path], tmp_path: Path) -> None:
    merged = edit.merge(sources, tmp_path / "both").root
    root = edit.delete_episodes(merged, [0, 1, 2], tmp_path / "late").root
    report = Dataset(root).report(1)
    assert report is not None and report["index"] == 1 and report["rows"] == 18
    assert report["more"]["origin"] == [
        {"dataset": str(sources[1].resolve()), "episode": 1, "rows": 18},
        {"dataset": str(merged), "episode": 4, "rows": 18},
    ]
    assert report["more"]["source"] == "test"


def test_tasks_are_numbered_again(sources: tuple[Path, Path], tmp_path: Path) -> None:
    """Only the second task is left; annotation columns that hold a task's index move with it."""
    root = Path(shutil.copytree(sources[0], tmp_path / "annotated"))
    name = "annotation.human.validity"
    feature = {"dtype": "int64", "shape": [1], "names": None}
    edit_json(root / paths.INFO, lambda info: info["features"].update({name: feature}))
    edit_json(root / paths.MODALITY, lambda modality: modality["annotation"].update({"human.validity": {}}))
    with (root / paths.TASKS).open("a") as file:
        file.write(json.dumps({"task_index": 2, "task": "valid"}) + "\n")
    for episode in range(3):
        path = Dataset(root).data(episode)
        table = pq.read_table(path)
        pq.write_table(table.append_column(name, pa.array(np.full(table.num_rows, 2))), path)
    built = edit.delete_episodes(root, [0, 2], tmp_path / "one")
    dataset = Dataset(built.root)
    assert dataset.tasks == {0: "put the cube down", 1: "valid"}
    assert set(dataset.column(0, "task_index")) == {0} and set(dataset.column(0, name)) == {1}
    assert dataset.episodes_stats[0]["task_index"]["max"] == [0]


def edit_json(path: Path, change: Any) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_delete_moves_the_rest_up(sources: tuple[Path, Path], tmp_path: Path) -> None:
    built = edit.delete_episodes(sources[0], [1], tmp_path / "fewer")
    assert (built.episodes, built.tasks) == (2, 1)
    assert_sound(built.root)
    assert numbers(built.root, 1, 1) == [frame_number(k, 1, 2 * 16) for k in range(16)]
    assert not list((built.root / "data").rglob("episode_000002*"))
    assert not list((built.root / "meta" / "recording").glob("episode_000002*"))


def test_an_episode_with_lost_files_can_be_deleted(copy: Path, tmp_path: Path) -> None:
    Dataset(copy).data(1).unlink()
    Dataset(copy).video(1, CAMERAS[0]).unlink()
    with pytest.raises(DatasetError, match=r"episode_000001.parquet: expected the rows"):
        edit.merge([copy], tmp_path / "all")
    assert_sound(edit.delete_episodes(copy, [1], tmp_path / "fewer").root)


def test_in_place_keeps_the_old(copy: Path) -> None:
    (copy / "README.md").write_text("Recorded on Monday.\n")
    (copy / paths.RELATIVE_STATS).write_text("{}")
    before = contents(copy)
    built = edit.delete_episodes(copy, [0], None, in_place=True)
    assert built.root == copy and len(Dataset(copy).episodes) == 2
    assert_sound(copy)
    [old] = copy.parent.glob("copy.before-*")
    assert contents(old) == before
    assert (copy / "README.md").exists() and not (copy / paths.RELATIVE_STATS).exists()
    assert built.notes[0].startswith("not carried over from copy: meta/relative_stats.json")
    assert built.notes[-1] == f"the dataset as it was is {old}"


def test_merge_in_place_and_records_on(copy: Path, sources: tuple[Path, Path]) -> None:
    """A writer takes the result for its own."""
    edit.merge([copy, sources[1]], None, in_place=True)
    robot = small_arm()
    spec = DatasetSpec.of(robot)
    with DatasetWriter(copy, spec, robot.cameras, codec="libx264", min_free_bytes=0) as writer:
        episode = writer.begin("pick up the cube")
        record(episode, make_rows(spec, 10, 9))
        writer.commit([episode.seal({})])
    assert len(Dataset(copy).episodes) == 6
    assert_sound(copy)


def test_split_by_fractions_takes_every_episode_once(sources: tuple[Path, Path], tmp_path: Path) -> None:
    merged = edit.merge(sources, tmp_path / "both").root
    parts = edit.parse_parts(["train=0.6", "val=0.4"], 5, seed=1)
    assert sorted(parts["train"] + parts["val"]) == list(range(5)) and len(parts["train"]) == 3
    built = edit.split(merged, parts, tmp_path / "parts")
    assert [one.root.name for one in built] == ["train", "val"]
    assert sum(one.frames for one in built) == 84
    for one in built:
        assert_sound(one.root)


def test_texts_of_episodes_and_parts() -> None:
    assert edit.parse_episodes("3,7:9") == [3, 7, 8]
    assert edit.parse_episodes("3, 7-9, 0-0") == [3, 7, 8, 9, 0]
    assert edit.parse_parts(["a=0:2", "b=4"], 5) == {"a": [0, 1], "b": [4]}
    assert edit.parse_parts(["a=0.5", "b=.25"], 8) == {"a": [0, 1, 2, 3], "b": [4, 5]}
    assert edit.parse_parts(["all=1.0"], 3, seed=4) == {"all": [0, 1, 2]}


@pytest.mark.parametrize("text", ["", "a", "3:3", "5:2", "5-4", "1-", "1:3-4", "-1", "1,,2", "1,0:3"])
def test_episodes_that_are_none(text: str) -> None:
    with pytest.raises(DatasetError, match="episodes: expected"):
        edit.parse_episodes(text)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (["0:3"], "NAME=EPISODES"),
        (["a=1", "a=2"], "each name once"),
        (["../a=1"], "NAME=EPISODES"),
        (["a=0.5", "b=3"], "all fractions"),
        (["a=0.7", "b=0.4"], "at most 1 in all, found 1.1"),
    ],
)
def test_parts_that_are_none(parts: list[str], words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        edit.parse_parts(parts, 5)


def test_what_cannot_be_done_is_refused_by_name(copy: Path, sources: tuple[Path, Path], tmp_path: Path) -> None:
    target = tmp_path / "target"
    with pytest.raises(DatasetError, match=r"episodes that there are \(0 to 2\), found \[7\]"):
        edit.delete_episodes(copy, [1, 7], target)
    with pytest.raises(DatasetError, match="at least one episode"):
        edit.delete_episodes(copy, [0, 1, 2], target)
    with pytest.raises(DatasetError, match="found 1 in two: a and b"):
        edit.split(copy, {"a": [0, 1], "b": [1]}, target)
    with pytest.raises(DatasetError, match="part b: expected at least one episode"):
        edit.split(copy, {"a": [0], "b": []}, target)
    with pytest.raises(DatasetError, match="each dataset once"):
        edit.merge([copy, copy / ".." / "copy"], target)
    with pytest.raises(DatasetError, match="either an output folder or in-place, found none"):
        edit.merge([copy], None)
    with pytest.raises(DatasetError, match="either an output folder or in-place, found both"):
        edit.merge([copy], target, in_place=True)
    with pytest.raises(DatasetError, match="does not exist yet"):
        edit.merge([copy], sources[0])
    with pytest.raises(DatasetError, match="expected a folder outside of"):
        edit.merge([copy], copy / "inside")
    with pytest.raises(DatasetError, match="expected a dataset's folder, found none"):
        edit.merge([tmp_path / "nowhere"], target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy"]


def test_datasets_of_two_robots_are_not_merged(copy: Path, sources: tuple[Path, Path], tmp_path: Path) -> None:
    def change(info: dict[str, Any]) -> None:
        info["fps"] = 25
        info["features"]["action"]["names"][0] = "other.pan"
        info["features"][CAMERAS[0]]["shape"] = [2 * HEIGHT, 2 * WIDTH, 3]
        del info["features"]["recording.flags"]

    edit_json(copy / paths.INFO, change)
    with pytest.raises(DatasetError) as refused:
        edit.merge([sources[0], copy], tmp_path / "both")
    for words in (
        "fps: the first's is 30, the second's is 25",
        "action, names",
        "front, shape",
        "flags: the second does not",
    ):
        assert words in str(refused.value)


def test_a_dataset_that_is_written_or_in_a_commit_is_left_alone(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DatasetLock(copy), pytest.raises(DatasetError, match="expected no other writer"):
        edit.delete_episodes(copy, [0], None, in_place=True)
    real = fcntl.flock

    def replaced(descriptor: int, operation: int) -> None:
        (copy / paths.LOCK).unlink()
        (copy / paths.LOCK).touch()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", replaced)
    with pytest.raises(DatasetError, match="found it replaced meanwhile: try again"):
        DatasetLock(copy)
    monkeypatch.undo()
    (copy / RECORD).write_text("{}")
    with pytest.raises(DatasetError, match=r"COMMIT.json: expected no commit under way.*repair --apply"):
        edit.merge([copy], tmp_path / "target")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_what_is_interrupted_leaves_nothing_behind(
    copy: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException] | OSError
) -> None:
    def stop(root: Path) -> Built:
        raise error

    monkeypatch.setattr(rebuild, "refresh", stop)
    before = contents(copy)
    with pytest.raises(error if isinstance(error, type) else type(error)):
        edit.delete_episodes(copy, [0], None, in_place=True)
    assert contents(copy) == before and [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_rows_that_contradict_the_metadata_are_refused(copy: Path, tmp_path: Path) -> None:
    path = Dataset(copy).data(2)
    pq.write_table(pq.read_table(path).slice(0, 10), path)
    with pytest.raises(DatasetError, match=r"episode_000002.parquet: expected 16 rows.*found 10.*repair"):
        edit.delete_episodes(copy, [0], tmp_path / "target")
