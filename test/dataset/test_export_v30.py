"""LeRobot v3.0 of a recorded dataset: files, times, statistics; the real loader opens it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import barcode
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_maker import frame_number, make_dataset

from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.export_v30 import QUANTILES, export, grouped
from groot_ros.dataset.read import Dataset
from groot_ros.dataset.rebuild import Piece, build
from groot_ros.dataset.spec import ACTION, STAMP, STATE
from groot_ros.dataset.statistics import column_statistics
from groot_ros.dataset.video import decode_frames, image_statistics, remux, video_facts

EPISODES, ROWS, FPS = 4, 12, 30
CAMERAS = ("observation.images.front", "observation.images.wrist")
LOADERS = Path.home() / ".cache" / "lerobot-loaders"
# Tools that lie beside this repository where it is developed.
LOADER = Path(__file__).resolve().parents[3] / "shared" / "tools" / "load_lerobot_v30.py"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("v21") / "source", episodes=EPISODES, rows=ROWS)


@pytest.fixture(scope="module")
def exported(source: Path) -> Path:
    """In several files: about two episodes each."""
    target = source.with_name("exported")
    sizes = [Dataset(source).data(episode).stat().st_size for episode in range(EPISODES)]
    built = export(source, target, data_mb=2.5 * max(sizes) / 2**20, video_mb=0.006, image_frames=4)
    assert (built.episodes, built.frames, built.tasks) == (EPISODES, EPISODES * ROWS, 2)
    return target


def rows_of(root: Path) -> list[dict[str, object]]:
    [file] = (root / "meta" / "episodes").rglob("*.parquet")
    return list(pq.read_table(file).to_pylist())


def test_data_have_a_row_group_per_episode_and_all_rows(source: Path, exported: Path) -> None:
    files = sorted((exported / "data").rglob("*.parquet"))
    assert [file.relative_to(exported).as_posix() for file in files] == [
        f"data/chunk-000/file-00{number}.parquet" for number in range(2)
    ]
    parts = [pq.ParquetFile(file) for file in files]
    sizes = [part.metadata.row_group(i).num_rows for part in parts for i in range(part.num_row_groups)]
    assert sizes == [ROWS] * EPISODES
    whole = pa.concat_tables([part.read() for part in parts])
    dataset = Dataset(source)
    for name in whole.column_names:
        before = pa.concat_tables([dataset.table(episode, [name]) for episode in range(EPISODES)])
        assert whole.column(name).equals(before.column(name)), name


def test_episodes_say_where_their_rows_are(exported: Path) -> None:
    for number, row in enumerate(rows_of(exported)):
        assert row["episode_index"] == number and row["length"] == ROWS
        assert (row["dataset_from_index"], row["dataset_to_index"]) == (number * ROWS, (number + 1) * ROWS)
        assert row["meta/episodes/chunk_index"] == row["meta/episodes/file_index"] == 0
        file = exported / f"data/chunk-000/file-{row['data/file_index']:03d}.parquet"
        table = pq.read_table(file)
        assert table.column("episode_index").to_pylist().count(number) == ROWS


@pytest.mark.parametrize("camera", range(2))
def test_every_picture_is_where_its_episode_says(exported: Path, camera: int) -> None:
    feature = CAMERAS[camera]
    files = set()
    for number, row in enumerate(rows_of(exported)):
        file = exported / f"videos/{feature}/chunk-000/file-{row[f'videos/{feature}/file_index']:03d}.mp4"
        files.add(file)
        start, end = (row[f"videos/{feature}/{name}_timestamp"] for name in ("from", "to"))
        assert isinstance(start, float) and isinstance(end, float) and end - start == pytest.approx(ROWS / FPS)
        first = round(start * FPS)
        pictures = list(decode_frames(file, range(first, first + ROWS)))
        expected = [frame_number(k, camera, number * ROWS) for k in range(ROWS)]
        assert [barcode.read(picture) for picture in pictures] == expected
    assert len(files) > 1 and all(video_facts(file).exact for file in files)


def test_statistics_are_exact(source: Path, exported: Path) -> None:
    dataset, stats = Dataset(source), json.loads((exported / "meta" / "stats.json").read_text())
    assert set(stats) == set(dataset.features)
    values = np.concatenate([dataset.column(episode, ACTION) for episode in range(EPISODES)]).astype(np.float64)
    for name, quantile in QUANTILES.items():
        np.testing.assert_allclose(stats[ACTION][name], np.quantile(values, quantile, axis=0), atol=1e-7)
    np.testing.assert_allclose(stats[ACTION]["std"], values.std(axis=0), atol=1e-7)
    assert stats[ACTION]["count"] == [EPISODES * ROWS]
    row = rows_of(exported)[1]
    state = dataset.column(1, STATE)
    np.testing.assert_allclose(row[f"stats/{STATE}/q90"], np.quantile(state.astype(np.float64), 0.9, axis=0), atol=1e-6)
    assert row[f"stats/{STAMP}/min"] == [int(dataset.column(1, STAMP).min())]  # to the nanosecond


def test_statistics_have_the_types_of_lerobot(exported: Path) -> None:
    [file] = (exported / "meta" / "episodes").rglob("*.parquet")
    types = {field.name: str(field.type).replace("item", "element") for field in pq.read_schema(file)}
    assert types["tasks"] == "list<element: string>" and types["data/file_index"] == "int64"
    assert types[f"stats/{STATE}/min"] == types[f"stats/{STATE}/q50"] == "list<element: double>"
    assert types["stats/index/max"] == types[f"stats/{STATE}/count"] == "list<element: int64>"
    assert types[f"stats/{CAMERAS[0]}/mean"] == "list<element: list<element: list<element: double>>>"


def test_image_statistics_are_those_of_a_few_pictures(source: Path, exported: Path) -> None:
    stats = json.loads((exported / "meta" / "stats.json").read_text())[CAMERAS[0]]
    assert stats["count"] == [4 * EPISODES] and np.asarray(stats["q10"]).shape == (3, 1, 1)
    dataset = Dataset(source)
    parts = [image_statistics(dataset.video(episode, CAMERAS[0]), ROWS, 4) for episode in range(EPISODES)]
    for part in parts[1:]:
        parts[0].merge(part)
    assert parts[0].stats(QUANTILES) == stats


def test_tasks_are_a_pandas_frame_in_order(exported: Path) -> None:
    table = pq.read_table(exported / "meta" / "tasks.parquet")
    assert table.column("task_index").to_pylist() == [0, 1]
    assert table.column("__index_level_0__").to_pylist() == ["pick up the cube", "put the cube down"]
    assert json.loads(table.schema.metadata[b"pandas"])["index_columns"] == ["__index_level_0__"]


def test_the_rest_of_the_metadata_follows(source: Path, exported: Path) -> None:
    info = json.loads((exported / "meta" / "info.json").read_text())
    assert info["codebase_version"] == "v3.0" and info["total_frames"] == EPISODES * ROWS
    assert not {"total_videos", "total_chunks"} & set(info)
    assert (exported / "meta" / "modality.json").read_bytes() == (source / "meta" / "modality.json").read_bytes()
    assert len(list((exported / "meta" / "recording").glob("episode_*.json"))) == EPISODES


def test_nanoseconds_keep_their_digits() -> None:
    stamps = 1_700_000_000_000_000_000 + np.arange(5, dtype=np.int64) * 33_333_333
    found = column_statistics(stamps, QUANTILES)
    assert found["min"] == [int(stamps[0])] and found["max"] == [int(stamps[-1])]
    assert found["std"][0] == pytest.approx(33_333_333 * np.sqrt(2))


def test_a_file_ends_when_it_is_full_or_another_encoder_begins() -> None:
    assert list(grouped([4, 4, 4, 9, 1], 8)) == [[0, 1], [2], [3], [4]]
    assert list(grouped([1, 1, 1, 1], 8, ["a", "a", "b", "a"])) == [[0, 1], [2], [3]]


def test_what_is_not_sound_is_refused_and_nothing_is_left(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist yet"):
        export(source, source)
    work = tmp_path / "work"
    build(work, [Piece(Dataset(source), episode) for episode in (0, 1)])
    video = Dataset(work).video(1, CAMERAS[0])
    short = tmp_path / "short.mp4"
    remux([video], short, FPS, ROWS - 1)
    short.replace(video)  # not over the linked file
    with pytest.raises(DatasetError, match=r"episode_000001.mp4: expected 12 pictures.*found 11.*--truncate"):
        export(work, tmp_path / "target")
    video.unlink()
    with pytest.raises(DatasetError, match=r"episode_000001.mp4: expected a file of the dataset, found none"):
        export(work, tmp_path / "target")
    data = Dataset(work).data(1)
    table = pq.read_table(data)
    at = table.column_names.index("index")
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array(np.arange(ROWS))), data)
    with pytest.raises(DatasetError, match="index: expected 12 in row 0, found 0"):
        export(work, tmp_path / "target")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["work"]


@pytest.mark.slow
@pytest.mark.skipif(not (LOADERS / "v30").is_dir() or not LOADER.is_file(), reason="needs lerobot's own loader")
def test_lerobot_opens_it(exported: Path) -> None:
    result = subprocess.run(["python3", str(LOADER), str(exported)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-500:]
    report = json.loads(next(line for line in result.stdout.splitlines() if line.startswith("{")))
    assert report["n_frames"] == EPISODES * ROWS and report["errors"] == []
