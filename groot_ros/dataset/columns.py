"""Rows of an episode as the columns of its parquet file, as LeRobot 0.3.3 writes it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from groot_ros.dataset.spec import (
    ACTION,
    AGES,
    EPISODE_INDEX,
    FLAGS,
    FRAME_INDEX,
    INDEX,
    INTERVENTION,
    STAMP,
    STATE,
    TASK_INDEX,
    TIMESTAMP,
    DatasetSpec,
)

Columns = dict[str, NDArray[Any]]


def columns(
    spec: DatasetSpec, rows: NDArray[np.void], episode_index: int, first_index: int, task_index: int
) -> Columns:
    """Columns of one episode, [N] or [N, D] each, in the order of ``spec.features()``.

    Args:
        rows: [N] of ``spec.row_dtype``.
        first_index: rows of the dataset before this episode.
    """
    count = len(rows)
    frame = np.arange(count, dtype=np.int64)
    return {
        STATE: rows["state"],
        ACTION: rows["action"],
        STAMP: rows["stamp_ns"],
        AGES: rows["age_ns"],
        INTERVENTION: rows["intervention"],
        FLAGS: rows["flags"],
        # LeRobot compares this with the frames' times in the video to 1e-4 s, so it is never measured.
        TIMESTAMP: (frame / spec.fps).astype(np.float32),
        FRAME_INDEX: frame,
        EPISODE_INDEX: np.full(count, episode_index, dtype=np.int64),
        INDEX: frame + first_index,
        TASK_INDEX: np.full(count, task_index, dtype=np.int64),
    }


def arrow_schema(features: Mapping[str, Mapping[str, Any]]) -> pa.Schema:
    """Schema of the parquet files of a dataset with these ``features`` of info.json; videos have no column."""
    fields, described = [], {}
    for name, feature in features.items():
        if feature["dtype"] == "video":
            continue
        (length,) = feature["shape"]
        kind = pa.from_numpy_dtype(np.dtype(feature["dtype"]))
        value = {"dtype": feature["dtype"], "_type": "Value"}
        if length == 1:  # LeRobot takes a vector of one for a scalar
            fields.append(pa.field(name, kind))
            described[name] = value
        else:
            fields.append(pa.field(name, pa.list_(pa.field("element", kind), length)))
            described[name] = {"feature": value, "length": length, "_type": "Sequence"}
    metadata = json.dumps({"info": {"features": described}})
    return pa.schema(fields, metadata={"huggingface": metadata})


def arrow_table(features: Mapping[str, Mapping[str, Any]], values: Mapping[str, NDArray[Any]]) -> pa.Table:
    """Columns [N] or [N, D] as a table of ``arrow_schema(features)``."""
    schema = arrow_schema(features)
    arrays = []
    for field in schema:
        column = values[field.name]
        flat = pa.array(np.ascontiguousarray(column).reshape(-1))
        is_list = pa.types.is_fixed_size_list(field.type)
        arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=field.type) if is_list else flat)
    return pa.Table.from_arrays(arrays, schema=schema)


def write_parquet(table: pa.Table, path: Path) -> None:
    """One row group, as GR00T and LeRobot write it, on the disk when this returns. Raises: OSError."""
    with path.open("wb") as file:
        pq.write_table(table, file, compression="snappy", row_group_size=max(table.num_rows, 1))
        file.flush()
        os.fsync(file.fileno())
