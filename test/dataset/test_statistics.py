"""Statistics are those of the rows, not means of means."""

import json
from pathlib import Path

import dataset_maker
import numpy as np
import pyarrow.parquet as pq
import pytest

from groot_ros.dataset import paths, statistics
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.read import Dataset


def test_vector_statistics_are_numpy_s() -> None:
    values = np.random.default_rng(3).normal(2.0, 5.0, (501, 3)).astype(np.float32)
    found = statistics.vector_statistics(values)
    exact = values.astype(np.float64)
    expected = {
        "mean": exact.mean(axis=0),
        "std": exact.std(axis=0),
        "min": exact.min(axis=0),
        "max": exact.max(axis=0),
        "q01": np.quantile(exact, 0.01, axis=0),
        "q99": np.quantile(exact, 0.99, axis=0),
    }
    assert found.keys() == expected.keys()
    for name, numbers in expected.items():
        np.testing.assert_allclose(found[name], numbers, rtol=1e-12)


def test_float32_sums_do_not_drift() -> None:
    values = np.full((300_000, 1), 0.1, np.float32)
    found = statistics.vector_statistics(values)
    assert found["mean"] == [pytest.approx(float(np.float32(0.1)), rel=1e-12)]
    assert found["std"] == [pytest.approx(0.0, abs=1e-9)]


def test_times_in_nanoseconds_keep_their_spread() -> None:
    start, step = 1_763_000_000_123_456_789, 33_333_333
    stamps = start + np.arange(100, dtype=np.int64) * step
    (entry,) = statistics.episode_statistics({"stamp": stamps}, {}).values()
    assert entry["min"] == [start] and entry["max"] == [start + 99 * step] and entry["count"] == [100]
    assert entry["std"] == [pytest.approx(np.arange(100).std() * step, rel=1e-12)]


def test_unsigned_and_small_vectors() -> None:
    found = statistics.episode_statistics({"a": np.array([[3.0], [5.0]], np.float32)}, {"image": {"count": [1]}})
    assert found == {
        "a": {"min": [3.0], "max": [5.0], "mean": [4.0], "std": [1.0], "count": [2]},
        "image": {"count": [1]},
    }


def test_stats_json_is_exact_over_all_episodes(tmp_path: Path) -> None:
    root = dataset_maker.make_dataset(tmp_path / "set", episodes=3, rows=12)
    dataset = Dataset(root)
    assert set(dataset.stats) == {"observation.state", "action", "timestamp"}
    for name, entry in dataset.stats.items():
        assert set(entry) == {"mean", "std", "min", "max", "q01", "q99"}  # GR00T N1.5 fails over a `count`
        values = np.concatenate([dataset.column(episode, name) for episode in range(3)]).reshape(36, -1)
        np.testing.assert_allclose(entry["q99"], np.quantile(values.astype(np.float64), 0.99, axis=0), rtol=1e-12)
        np.testing.assert_allclose(entry["std"], values.astype(np.float64).std(axis=0), rtol=1e-12)
    for episode in range(3):
        entry = dataset.episodes_stats[episode]
        assert set(entry) == set(dataset.features)
        images = entry["observation.images.front"]
        assert np.shape(images["mean"]) == (3, 1, 1) and images["count"] == [12]
        assert 0.0 <= images["min"][0][0][0] < 0.1 < 0.9 < images["max"][0][0][0] <= 1.0


def test_stale_until_refreshed(tmp_path: Path) -> None:
    root = dataset_maker.make_dataset(tmp_path / "set", episodes=1, rows=4)
    assert not statistics.is_stale(root)
    info = json.loads((root / paths.INFO).read_bytes())
    (root / statistics.BASIS).write_text(json.dumps({"episodes": 0, "frames": 0}))
    assert statistics.is_stale(root)
    statistics.refresh(root)
    assert not statistics.is_stale(root)
    assert json.loads((root / statistics.BASIS).read_bytes()) == {"episodes": 1, "frames": info["total_frames"]}
    (root / paths.STATS).unlink()
    assert statistics.is_stale(root)


def test_not_finite_and_missing_columns_are_named(tmp_path: Path) -> None:
    root = dataset_maker.make_dataset(tmp_path / "set", episodes=1, rows=4)
    path = root / paths.data_path(0)
    table = pq.read_table(path, partitioning=None)
    at = table.column_names.index("timestamp")
    broken = table.set_column(at, "timestamp", [np.array([0.0, np.nan, 0.1, 0.2], np.float32)])
    pq.write_table(broken, path)
    with pytest.raises(DatasetError, match=r"episode_000000.parquet: expected finite numbers in timestamp"):
        statistics.refresh(root)
    pq.write_table(table.drop_columns(["action"]), path)
    with pytest.raises(DatasetError, match=r"episode_000000.parquet: action: expected such a column"):
        statistics.refresh(root)
