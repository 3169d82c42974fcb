"""An episode is written as it was recorded, or refused with a reason, and what was there stays as it was."""

import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import barcode
import dataset_maker
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from groot_ros.dataset import paths, staging, video
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.read import Dataset
from groot_ros.dataset.spec import FLAG_REPEATED, DatasetSpec
from groot_ros.dataset.staging import EpisodeWriter
from groot_ros.dataset.video import decode_frames
from groot_ros.dataset.writer import DatasetWriter

ROBOT = dataset_maker.small_arm()
SPEC = DatasetSpec.of(ROBOT)
Open = Callable[..., DatasetWriter]


@pytest.fixture
def open_writer(tmp_path: Path) -> Open:
    def make(spec: DatasetSpec = SPEC, root: Path = tmp_path / "set", **arguments: object) -> DatasetWriter:
        options = {"codec": "libx264", "min_free_bytes": 0, **arguments}
        return DatasetWriter(root, spec, ROBOT.cameras, **options)  # type: ignore[arg-type]

    return make


def sealed(writer: DatasetWriter, rows: np.ndarray, task: str = "pick", first: int = 0) -> Path:
    episode = writer.begin(task)
    dataset_maker.record(episode, rows, first)
    return episode.seal({"source": "test"})


def contents(root: Path) -> dict[str, bytes]:
    """Every file outside of staging."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in files
        if not path.relative_to(root).parts[0].startswith(".")
    }


def test_rows_pictures_and_metadata_come_back(open_writer: Open, tmp_path: Path) -> None:
    rows = dataset_maker.make_rows(SPEC, 7, seed=1)
    rows["flags"][3], rows["intervention"][4:] = FLAG_REPEATED, 1
    rows["state"][:, 2] = 0.25
    with open_writer() as writer:
        (report,) = writer.commit([sealed(writer, rows, "  pick ", first=11)])
    dataset = Dataset(tmp_path / "set")
    assert dataset.info == SPEC.info(1, 7, 1) and dataset.modality == SPEC.modality()
    assert dataset.tasks == {0: "pick"} and dataset.episodes[0].tasks == ("pick",)
    for name, field in (("observation.state", "state"), ("action", "action"), ("recording.age_ns", "age_ns")):
        np.testing.assert_array_equal(dataset.column(0, name), rows[field])
    np.testing.assert_array_equal(dataset.column(0, "recording.stamp_ns"), rows["stamp_ns"])
    np.testing.assert_array_equal(dataset.column(0, "timestamp"), np.arange(7, dtype=np.float32) / np.float32(30))
    for camera, key in enumerate(dataset.video_keys):
        numbers = [barcode.read(rgb) for rgb in decode_frames(dataset.video(0, key))]
        assert numbers == [dataset_maker.frame_number(row, camera, 11) for row in range(7)]
    assert report.to_json() == json.loads(json.dumps(dataset.report(0)))
    assert (report.index, report.rows, report.repeated_rows, report.intervention_rows) == (0, 7, 1, 3)
    assert report.constant == ["state single_arm.elbow_flex"] and report.more == {"source": "test"}
    assert report.streams["joints"].age_max_ms == pytest.approx(rows["age_ns"][:, 2].max() / 1e6, abs=1e-3)


def test_parquet_is_as_lerobot_writes_it(tmp_path: Path) -> None:
    root = dataset_maker.make_dataset(tmp_path / "set", episodes=1, rows=4)
    file = pq.ParquetFile(root / paths.data_path(0))
    schema = file.schema_arrow
    assert schema.field("action").type == pa.list_(pa.field("element", pa.float32()), 6)
    assert schema.field("timestamp").type == pa.float32() and schema.field("index").type == pa.int64()
    assert schema.names == [name for name, entry in SPEC.features().items() if entry["dtype"] != "video"]
    assert file.num_row_groups == 1 and file.metadata.row_group(0).column(0).compression == "SNAPPY"
    described = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert described["action"] == {"feature": {"dtype": "float32", "_type": "Value"}, "length": 6, "_type": "Sequence"}
    assert described["index"] == {"dtype": "int64", "_type": "Value"}
    for name in (paths.EPISODES, paths.TASKS, paths.EPISODES_STATS):
        assert (root / name).read_bytes().count(b"\n") == 1


def test_episodes_are_appended_in_order_and_tasks_are_shared(open_writer: Open, tmp_path: Path) -> None:
    with open_writer() as writer:
        first = [
            sealed(writer, dataset_maker.make_rows(SPEC, 3 + n, seed=n), task) for n, task in enumerate(("a", "b"))
        ]
        reports = writer.commit(first[::-1])
        assert [(report.index, report.task, report.rows) for report in reports] == [(0, "b", 4), (1, "a", 3)]
    with open_writer() as writer:
        assert (writer.episodes, writer.frames) == (2, 7)
        assert writer.commit([]) == []
        (report,) = writer.commit([sealed(writer, dataset_maker.make_rows(SPEC, 5, seed=9), "b")])
        assert report.index == 2
    dataset = Dataset(tmp_path / "set")
    assert dataset.tasks == {0: "b", 1: "a"}
    assert [int(dataset.column(episode, "task_index")[0]) for episode in range(3)] == [0, 1, 0]
    assert np.concatenate([dataset.column(episode, "index") for episode in range(3)]).tolist() == list(range(12))
    assert not list((tmp_path / "set/.staging").iterdir())


def test_an_episode_is_recorded_while_another_is_committed(open_writer: Open, tmp_path: Path) -> None:
    rows = dataset_maker.make_rows(SPEC, 8, seed=0)
    at_record, added = threading.Event(), threading.Event()

    def on_step(name: str) -> None:
        if name == "record":
            at_record.set()
            assert added.wait(30)

    with open_writer(on_step=on_step) as writer:
        path = sealed(writer, rows)
        committing = threading.Thread(target=writer.commit, args=([path],))
        committing.start()
        assert at_record.wait(30)
        episode = writer.begin("second")
        dataset_maker.record(episode, rows)
        added.set()
        committing.join()
        writer.commit([episode.seal()])
    assert [entry.length for entry in Dataset(tmp_path / "set").episodes] == [8, 8]


def test_a_repeated_row_repeats_its_pictures(open_writer: Open, tmp_path: Path) -> None:
    rows = dataset_maker.make_rows(SPEC, 3, seed=0)
    with open_writer() as writer:
        episode = writer.begin("pick")
        picture = {key: dataset_maker.picture(5) for key in SPEC.cameras}
        assert episode.add(rows[0], picture) and episode.add(rows[1], dict.fromkeys(SPEC.cameras))
        assert episode.add(rows[2], {key: dataset_maker.picture(6) for key in SPEC.cameras})
        writer.commit([episode.seal()])
    dataset = Dataset(tmp_path / "set")
    for key in dataset.video_keys:
        assert [barcode.read(rgb) for rgb in decode_frames(dataset.video(0, key))] == [5, 5, 6]


class FullEncoder:
    """An encoder that has no room for a second picture."""

    def __init__(self, *arguments: object, **options: object) -> None:
        self.waiting = self.peak = self.frames = 0
        self.error: str | None = None

    @property
    def full(self) -> bool:
        return self.waiting == 1

    def put(self, frame: object) -> None:
        self.waiting += frame is not None

    def abort(self) -> None:
        self.waiting = 0


def test_a_full_queue_takes_nothing_and_is_counted(
    open_writer: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "CameraEncoder", FullEncoder)
    row = dataset_maker.make_rows(SPEC, 1, seed=0)[0]
    frames = {key: dataset_maker.picture(1) for key in SPEC.cameras}
    with open_writer() as writer:
        episode = writer.begin("pick")
        assert episode.add(row, frames) and not episode.add(row, frames)
        assert episode.rows == 1 and episode.problem is None
        assert episode.overflows == {"front": 1, "wrist": 1}
        assert episode.add(row, dict.fromkeys(SPEC.cameras)), "a repeat needs no room"
        assert {key: health.waiting for key, health in episode.health().items()} == {"front": 1, "wrist": 1}
        episode.discard()


def test_what_an_encoder_says_is_the_episode_s_problem(
    open_writer: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "CameraEncoder", FullEncoder)
    with open_writer() as writer:
        episode = writer.begin("pick")
        frames = {key: dataset_maker.picture(1) for key in SPEC.cameras}
        row = dataset_maker.make_rows(SPEC, 1, seed=0)[0]
        assert episode.add(row, frames)
        episode._encoders["wrist"].error = "/wrist: it broke"
        assert episode.problem == "/wrist: it broke" and not episode.add(row, frames)
        with pytest.raises(DatasetError, match="/wrist: it broke"):
            episode.seal()
        assert json.loads((episode.path / "aborted.json").read_bytes())["reason"] == "/wrist: it broke"


def test_another_number_of_frames_is_refused_and_kept(
    open_writer: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "count_frames", lambda path: 4)
    with open_writer() as writer:
        with pytest.raises(DatasetError, match="camera front: expected 5 frames, one per row, found 4"):
            sealed(writer, dataset_maker.make_rows(SPEC, 5, seed=0))
        assert writer.episodes == 0
        (kept,) = writer.staging.iterdir()
        assert (kept / "aborted.json").is_file() and (kept / "front.mkv").is_file()


@pytest.mark.parametrize(
    ("field", "at", "value", "message"),
    [
        ("state", (2, 1), np.nan, r"row 2: expected finite numbers, found nan in state single_arm.shoulder_lift"),
        ("action", (0, 5), np.inf, r"row 0: expected finite numbers, found inf in action gripper.gripper"),
        ("stamp_ns", (3,), 5, r"row 3: expected one step of 1/30 s after the row before, found -"),
    ],
)
def test_bad_rows_are_named(open_writer: Open, field: str, at: tuple[int, ...], value: float, message: str) -> None:
    rows = dataset_maker.make_rows(SPEC, 5, seed=0)
    rows[field][at] = value
    with open_writer() as writer, pytest.raises(DatasetError, match=message):
        sealed(writer, rows)


def test_an_episode_without_rows_leaves_nothing(open_writer: Open) -> None:
    with open_writer() as writer:
        writer.begin("pick").abort("no camera")
        discarded = writer.begin("pick")
        dataset_maker.record(discarded, dataset_maker.make_rows(SPEC, 3, seed=0))
        discarded.discard()
        discarded.discard()
        assert not list(writer.staging.iterdir())
        with pytest.raises(DatasetError, match="expected rows, found none"):
            writer.begin("pick").seal()


def test_empty_task_wrong_keys_and_an_ended_episode(open_writer: Open) -> None:
    row = dataset_maker.make_rows(SPEC, 1, seed=0)[0]
    with open_writer() as writer:
        with pytest.raises(DatasetError, match="task: expected a text"):
            writer.begin("  ")
        episode = writer.begin("pick")
        with pytest.raises(DatasetError, match="expected a picture of front, wrist, found front"):
            episode.add(row, {"front": dataset_maker.picture(0)})
        with pytest.raises(DatasetError, match="in the first row, found a repeat"):
            episode.add(row, {"front": dataset_maker.picture(0), "wrist": None})
        episode.discard()
        with pytest.raises(DatasetError, match="found it ended"):
            episode.add(row, dict.fromkeys(SPEC.cameras))
        with pytest.raises(DatasetError, match="found it ended"):
            episode.seal()


def test_only_sealed_episodes_of_this_dataset_are_committed(open_writer: Open, tmp_path: Path) -> None:
    rows = dataset_maker.make_rows(SPEC, 3, seed=0)
    with open_writer() as writer:
        whole = sealed(writer, rows)
        open_one = writer.begin("pick")
        with pytest.raises(DatasetError, match=r"episode\.json: expected a staged episode's file, found none"):
            writer.commit([whole, open_one.path])
        with pytest.raises(DatasetError, match="found one twice"):
            writer.commit([whole, whole])
        open_one.discard()
        foreign = EpisodeWriter(tmp_path / "other", SPEC, ROBOT.cameras, "pick", codec="libx264")
        dataset_maker.record(foreign, rows)
        with pytest.raises(DatasetError, match="found one of other contents or place"):
            writer.commit([foreign.seal()])
        assert writer.episodes == 0
        assert [report.index for report in writer.commit([whole])] == [0]
        with pytest.raises(DatasetError, match="found none"):
            writer.commit([whole])
    with pytest.raises(DatasetError, match="expected an open writer"):
        writer.commit([whole])
    writer.close()


def test_a_worker_stages_and_another_process_commits(open_writer: Open, tmp_path: Path) -> None:
    """As bags are converted: the folder says all there is to know."""
    with open_writer() as writer:
        code = (
            "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; import dataset_maker as m;"
            "from groot_ros.dataset.staging import EpisodeWriter; from groot_ros.dataset.spec import DatasetSpec;"
            "r = m.small_arm(); s = DatasetSpec.of(r);"
            "w = EpisodeWriter(Path(sys.argv[2]), s, r.cameras, 'pick', codec='libx264', name='bag-0');"
            "m.record(w, m.make_rows(s, 4, seed=2)); print(w.seal())"
        )
        command = [sys.executable, "-c", code, str(Path(__file__).parent), str(writer.staging)]
        staged = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        assert Path(staged) == writer.staging / "bag-0"
        (report,) = writer.commit([Path(staged)])
    assert report.rows == 4


def test_a_second_writer_is_refused_by_name(open_writer: Open) -> None:
    with open_writer() as writer:
        begun = writer.begin("pick")
        with pytest.raises(DatasetError, match=rf"expected no other writer, found process {os.getpid()} on "):
            open_writer()
        (writer.root / paths.LOCK).write_text("")  # as in the moment between taking the lock and saying so
        with pytest.raises(DatasetError, match="found a process that has just begun to write"):
            open_writer()
        begun.discard()
    open_writer().close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fps": 15}, "fps: this robot's is 15, the dataset's is 30"),
        ({"robot_type": "other"}, "robot_type: this robot's is 'other', the dataset's is 'sim_arm'"),
        ({"state": SPEC.state[:1]}, "feature observation.state, shape: "),
        ({"action": SPEC.action[::-1]}, "feature action, names: "),
        ({"streams": SPEC.streams[:2]}, "feature recording.age_ns, shape: "),
        (
            {"cameras": {"front": SPEC.cameras["front"]}},
            "feature observation.images.wrist: this robot does not have it",
        ),
        ({"annotation": "other"}, "modality.json, annotation: "),
    ],
)
def test_another_robot_is_refused_and_nothing_changes(
    tmp_path: Path, change: dict[str, object], message: str, shared_dataset: Path
) -> None:
    before = contents(shared_dataset)
    with pytest.raises(DatasetError, match=message.replace(".", r"\.")):
        DatasetWriter(shared_dataset, dataclasses.replace(SPEC, **change), ROBOT.cameras)  # type: ignore[arg-type]
    assert contents(shared_dataset) == before
    DatasetWriter(shared_dataset, SPEC, ROBOT.cameras).close()


def test_what_others_wrote_into_info_stays_and_other_places_are_refused(open_writer: Open, tmp_path: Path) -> None:
    path = tmp_path / "set" / paths.INFO
    open_writer().close()
    info = {**json.loads(path.read_bytes()), "license": "mine"}
    path.write_text(json.dumps(info))
    with open_writer() as writer:
        writer.commit([sealed(writer, dataset_maker.make_rows(SPEC, 2, seed=0))])
    assert json.loads(path.read_bytes()) == {**SPEC.info(1, 2, 1), "license": "mine"}
    path.write_text(json.dumps({**info, "chunks_size": 50}))
    with pytest.raises(DatasetError, match="chunks_size: the recorder's is 1000, the dataset's is 50"):
        open_writer()


@pytest.fixture(scope="module")
def shared_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset_maker.make_dataset(tmp_path_factory.mktemp("shared") / "set", episodes=1, rows=4)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DatasetError, match=r"expected a dataset or an empty folder, found no meta/info.json but notes"):
        DatasetWriter(tmp_path, SPEC)
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="file"):
        DatasetWriter(tmp_path / "file", SPEC)
