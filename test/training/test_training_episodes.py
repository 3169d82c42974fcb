"""Datasets opened for training: both layouts give the same rows and exactly the pictures asked for; damage is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import data_rig
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.read import Dataset
from groot_ros.training.episodes import open_training_dataset

KEYS = ("state.single_arm", "state.gripper", "action.single_arm", "action.gripper")


def test_both_layouts_give_the_rows_and_pictures_of_the_recording(recorded: Path, recorded_v30: Path) -> None:
    source = Dataset(recorded)
    rows = [0, 7, 8, 3, 23, 7]
    for root, version in ((recorded, "v2.1"), (recorded_v30, "v3.0")):
        dataset = open_training_dataset(root)
        assert (dataset.version, dataset.fps, dataset.total_rows) == (version, 30, data_rig.EPISODES * data_rig.ROWS)
        assert dataset.view_sizes == {"front": (24, 32), "wrist": (24, 32)}
        for episode in dataset.episodes:
            assert episode.tasks == (data_rig.TASKS[episode.index % 2],)
            assert dataset.instructions(episode, data_rig.LANGUAGE) == list(episode.tasks) * data_rig.ROWS
            found = dataset.rows(episode.index, KEYS)
            for modality, column in (("state", "observation.state"), ("action", "action")):
                together = np.concatenate([found[f"{modality}.{key}"] for key in ("single_arm", "gripper")], axis=1)
                np.testing.assert_array_equal(together, source.column(episode.index, column))
            for camera, key in enumerate(("front", "wrist")):
                pictures = dataset.frames(episode.index, key, rows)
                numbers = [data_rig.read_barcode(picture) for picture in pictures]
                first = episode.index * data_rig.ROWS
                assert numbers == [data_rig.frame_number(row, camera, first) for row in rows]


def test_only_what_there_is_can_be_asked_for(recorded: Path) -> None:
    dataset = open_training_dataset(recorded)
    with pytest.raises(DatasetError, match="expected an episode of 0 to 2, found 3"):
        dataset.rows(3, KEYS)
    with pytest.raises(
        DatasetError, match=r"modality\.json: state: expected the key 'hand', found single_arm, gripper"
    ):
        dataset.rows(0, ["state.hand"])
    with pytest.raises(DatasetError, match="expected a row of it, found 24"):
        dataset.frames(0, "front", [24])
    with pytest.raises(DatasetError, match="expected a video feature, found 'top'"):
        dataset.frames(0, "top", [0])
    with pytest.raises(DatasetError, match=r"expected 'annotation\.goal'.*found annotation\.human\.task_description"):
        dataset.instructions(dataset.episodes[0], "annotation.goal")


def video(root: Path, episode: int = 1) -> Path:
    return Dataset(root).video(episode, "observation.images.front")


def cut_video(root: Path) -> None:
    video(root).write_bytes(video(root).read_bytes()[:-100])


def exchange_video(root: Path) -> None:
    short = data_rig.make_dataset(root.parent / "short", episodes=1, rows=20)
    video(root).write_bytes(video(short, 0).read_bytes())


def change_rows(root: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    path = Dataset(root).data(1)
    pq.write_table(change(pq.read_table(path)), path)


def with_nan(table: pa.Table) -> pa.Table:
    values = np.array(table.column("action").to_pylist(), np.float32)
    values[5, 2] = np.nan
    place = table.schema.get_field_index("action")
    rows = pa.array(values.tolist(), type=table.schema.field("action").type)
    return table.set_column(place, table.schema.field("action"), rows)


def with_task_7(table: pa.Table) -> pa.Table:
    place = table.schema.get_field_index("task_index")
    return table.set_column(place, table.schema.field("task_index"), pa.array([7] * len(table), pa.int64()))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no video": (lambda root: video(root).unlink(), r"episode_000001\.mp4: expected a video, found no such file"),
    "cut video": (cut_video, r"episode_000001\.mp4: expected .*(cut off|can be read)"),
    "short video": (exchange_video, r"episode_000001\.mp4: episode 1: expected 24 pictures.*found 20"),
    "no rows": (lambda root: Dataset(root).data(1).unlink(), r"expected the rows of episode 1, found no such file"),
    "torn rows": (lambda root: Dataset(root).data(1).write_bytes(b"PAR1"), r"expected a parquet file.*episode 1"),
    "few rows": (lambda root: change_rows(root, lambda t: t.slice(0, 20)), r"episode 1: expected 24 rows.*found 20"),
    "not a number": (lambda root: change_rows(root, with_nan), r"episode 1: action: expected finite.* in row 5"),
    "unknown task": (lambda root: change_rows(root, with_task_7), r"episode 1: task_index: expected indices.*found 7"),
    "no modality": (lambda root: (root / "meta/modality.json").unlink(), r"modality\.json: expected.*repair DIR -e"),
    "other rate": (
        lambda root: data_rig.edit_json(root / "meta/info.json", fps=15),
        r"expected 15 pictures per second, the fps of info\.json, found 30",
    ),
    "slice too wide": (
        lambda root: data_rig.edit_json(root / "meta/modality.json", action={"arm": {"start": 0, "end": 9}}),
        r"modality\.json: action\.arm: expected 0 <= start < end <= 6, the width of action, found start 0, end 9",
    ),
    "unknown feature": (
        lambda root: data_rig.edit_json(root / "meta/modality.json", video={"top": {"original_key": "x"}}),
        r"modality\.json: video\.top: expected a video feature of info\.json .*front.*, found 'x'",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_before_training(recorded: Path, tmp_path: Path, name: str) -> None:
    root = data_rig.copied(recorded, tmp_path / "dataset")
    break_it, message = DAMAGE[name]
    break_it(root)
    with pytest.raises(DatasetError, match=message):
        open_training_dataset(root)


def test_several_damaged_episodes_are_named_together(recorded: Path, tmp_path: Path) -> None:
    root = data_rig.copied(recorded, tmp_path / "dataset")
    for episode in range(3):
        for feature in ("front", "wrist"):
            Dataset(root).video(episode, f"observation.images.{feature}").unlink()
    with pytest.raises(DatasetError) as caught:
        open_training_dataset(root)
    text = str(caught.value)
    assert text.count("no such file") == 5
    assert "and 1 more" in text


def test_damage_of_v30_is_named(recorded_v30: Path, tmp_path: Path) -> None:
    def opened(damage: Callable[[Path], object], name: str) -> str:
        root = data_rig.copied(recorded_v30, tmp_path / name)
        damage(root)
        with pytest.raises(DatasetError) as caught:
            open_training_dataset(root)
        return str(caught.value)

    movie, rows = "videos/observation.images.front/chunk-000/file-000.mp4", "data/chunk-000/file-000.parquet"
    assert "file-000.mp4: expected a video, found no such file" in opened(lambda r: (r / movie).unlink(), "a")
    assert "file-000.parquet: expected the rows" in opened(lambda r: (r / rows).unlink(), "b")
    few = opened(lambda r: pq.write_table(pq.read_table(r / rows).slice(0, 60), r / rows), "c")
    assert "episode 2: expected 24 rows, as the metadata say, found 12" in few
    assert "tasks.parquet" in opened(lambda r: (r / "meta/tasks.parquet").unlink(), "d")
    assert "copy that of the v2.1" in opened(lambda r: (r / "meta/modality.json").unlink(), "e")


def test_sizes_of_pictures_go_by_their_names(recorded: Path, tmp_path: Path) -> None:
    root = data_rig.copied(recorded, tmp_path / "dataset")
    info = json.loads((root / "meta/info.json").read_text())
    for shape, names in (([3, 24, 32], ["channels", "height", "width"]), ([24, 32, 3], None)):
        info["features"]["observation.images.front"].update(shape=shape, names=names)
        data_rig.edit_json(root / "meta/info.json", **info)
        assert open_training_dataset(root).view_sizes["front"] == (24, 32)
    info["features"]["observation.images.front"].update(shape=[32, 24, 3])
    data_rig.edit_json(root / "meta/info.json", **info)
    with pytest.raises(DatasetError, match=r"expected pictures of \[32, 24\] px .* found \[24, 32\]"):
        open_training_dataset(root)


def test_row_groups_need_not_be_episodes(recorded_v30: Path, tmp_path: Path) -> None:
    root = data_rig.copied(recorded_v30, tmp_path / "dataset")
    rows = root / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(rows), rows, row_group_size=10)
    before, after = open_training_dataset(recorded_v30), open_training_dataset(root)
    for episode in range(data_rig.EPISODES):
        for key in KEYS:
            np.testing.assert_array_equal(after.rows(episode, [key])[key], before.rows(episode, [key])[key])


def test_task_as_language_and_the_default_column(recorded: Path, tmp_path: Path) -> None:
    root = data_rig.copied(recorded, tmp_path / "dataset")
    lines = [json.loads(line) for line in (root / "meta/episodes.jsonl").read_text().splitlines()]
    lines[0]["tasks"] = ["wipe", "sweep"]
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    dataset = open_training_dataset(root)
    random = np.random.default_rng(0)
    assert {dataset.instruction(dataset.episodes[0], 0, "task", random) for _ in range(40)} == {"wipe", "sweep"}
    data_rig.edit_json(root / "meta/modality.json", annotation={"goal": {}})
    with pytest.raises(DatasetError, match=r"annotation: expected a feature, found 'annotation\.goal'"):
        open_training_dataset(root)
