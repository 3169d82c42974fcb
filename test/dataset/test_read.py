"""Reading names the file, the line or the column that is not as it should be."""

import json
from collections.abc import Callable
from pathlib import Path

import dataset_maker
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from groot_ros.dataset import paths
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.read import Dataset


@pytest.mark.parametrize(
    ("name", "text", "read", "message"),
    [
        (paths.TASKS, None, lambda d: d.tasks, r"tasks\.jsonl: expected a file .* found none: name a dataset's folder"),
        (paths.TASKS, "[]\n", lambda d: d.tasks, r"tasks\.jsonl:1: expected a JSON object, found list"),
        (paths.EPISODES, '{"episode_index": 0}\n', lambda d: d.episodes, r"jsonl:1: expected a member 'tasks', found"),
        (
            paths.EPISODES,
            '{"episode_index": "0", "tasks": [], "length": 3}\n',
            lambda d: d.episodes,
            r"episodes\.jsonl:1: episode_index: expected int, found '0': `groot-ros dataset repair`",
        ),
        (paths.INFO, '{"codebase_version": "v2.1", "fps": "30"}', lambda d: d.fps, r"info\.json: fps: expected int"),
        (paths.INFO, '{"codebase_version": "v3.0"}', lambda d: d.fps, r"found 'v3\.0': it has been converted already"),
        (
            paths.data_path(0),
            "PAR1",
            lambda d: d.table(0),
            r"000\.parquet: expected a parquet file .* delete-episodes",
        ),
    ],
)
def test_what_cannot_be_read_is_named(
    tmp_path: Path, name: Path, text: str | None, read: Callable[[Dataset], object], message: str
) -> None:
    info = {"codebase_version": "v2.1", "chunks_size": 1000, "data_path": paths.DATA_PATTERN}
    for path, content in ((paths.INFO, json.dumps(info)), (name, text)):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            (tmp_path / path).write_text(content)
    with pytest.raises(DatasetError, match=message):
        read(Dataset(tmp_path))


def test_columns_name_file_and_column(tmp_path: Path) -> None:
    root = dataset_maker.make_dataset(tmp_path / "set", episodes=1, rows=3)
    path = root / paths.data_path(0)
    pq.write_table(pa.table({"action": [[1.0], [1.0, 2.0], [3.0]], "index": [0, None, 2]}), path)
    for name, message in (
        ("action", "action: expected lists of one length"),
        ("index", "index: expected a value in every row, found 1 without"),
        ("timestamp", "timestamp: expected such a column, found none"),
    ):
        with pytest.raises(DatasetError, match=rf"000\.parquet: {message}.*`groot-ros dataset delete-episodes`"):
            Dataset(root).column(0, name)
