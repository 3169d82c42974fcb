"""The folder of a staged episode: its files, how it is proved whole, and how it is read again.

``begin.json`` says task and contents, ``rows.bin`` holds records of ``DatasetSpec.row_dtype``. ``episode.json`` says
that the episode is whole and may be committed, ``aborted.json`` why it is not.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groot_ros.dataset import durable, video
from groot_ros.dataset.episode_report import EpisodeReport, report
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.spec import DatasetSpec

BEGIN, SEALED, ABORTED, ROWS = "begin.json", "episode.json", "aborted.json", "rows.bin"


def seal_folder(
    path: Path,
    spec: DatasetSpec,
    task: str,
    rows: NDArray[np.void],
    images: Mapping[str, Any],
    cameras: Mapping[str, Mapping[str, int]],
    more: Mapping[str, Any],
    frames: int | None = None,
) -> None:
    """Make the mp4 files of a staged episode, check them against its rows, and mark it whole.

    Args:
        images: video feature -> statistics.
        cameras: video key -> numbers for the report.
        frames: take only so many of each video; all when left out.

    Raises:
        DatasetError: rows and frames differ, or a row is not what it should be.
        OSError: the disk.
    """
    check_rows(path, spec, rows)
    facts = {}
    for key in spec.cameras:
        mp4 = path / f"{key}.mp4"
        video.remux([path / f"{key}.mkv"], mp4, spec.fps, frames)
        durable.sync_file(mp4)
        found = video.count_frames(mp4)
        if found != len(rows):
            raise DatasetError(
                f"{path}: camera {key}: expected {len(rows)} frames, one per row, found {found}: record again, or take "
                "over what agrees with `groot-ros dataset salvage`"
            )
        facts[key] = {**cameras.get(key, {}), "frames": found, "bytes": mp4.stat().st_size}
    content = {
        "rows": len(rows),
        "images": dict(images),
        "report": report(spec, rows, task, facts, more).to_json(),
    }
    durable.write_json(path / SEALED, content)


def check_rows(path: Path, spec: DatasetSpec, rows: NDArray[np.void]) -> None:
    """Rows exist, lie on the grid and are finite. Raises: DatasetError naming the first that does not."""
    if not len(rows):
        raise DatasetError(f"{path}: expected rows, found none: record longer")
    for field, names in (("state", spec.state_names), ("action", spec.action_names)):
        bad = np.argwhere(~np.isfinite(rows[field]))
        if len(bad):
            row, column = bad[0]
            value = rows[field][row, column]
            raise DatasetError(
                f"{path}: row {row}: expected finite numbers, found {value} in {field} {names[column]}: correct what "
                "publishes it"
            )
    grid = np.arange(len(rows), dtype=np.int64) * 1_000_000_000 // spec.fps
    # The first row need not be the first of the grid, so that a step may be rounded the other way.
    off = np.flatnonzero(np.abs(rows["stamp_ns"] - rows["stamp_ns"][0] - grid) > 1)
    if len(off):
        row = int(off[0])
        found = int(rows["stamp_ns"][row] - rows["stamp_ns"][row - 1])
        raise DatasetError(
            f"{path}: row {row}: expected one step of 1/{spec.fps} s after the row before, found {found} ns"
        )


def remove(path: Path) -> None:
    """Remove a staging folder. Raises: OSError."""
    # First what makes it an episode: interrupted after that, it is rubbish and not an episode without rows.
    (path / BEGIN).unlink(missing_ok=True)
    shutil.rmtree(path)


def note_abort(path: Path, reason: str) -> None:
    """Mark a staged episode as aborted. Raises: OSError."""
    durable.write_json(path / ABORTED, {"reason": reason})


def read_begin(path: Path) -> tuple[DatasetSpec, str]:
    """Contents and task of a staged episode. Raises: DatasetError."""
    begin = _read(path / BEGIN)
    try:
        return DatasetSpec.from_json(begin["spec"]), str(begin["task"])
    except (KeyError, TypeError) as error:
        raise DatasetError(
            f"{path / BEGIN}: expected contents and task of an episode, found {error}: move {path} elsewhere"
        ) from error


def read_rows(path: Path, spec: DatasetSpec) -> NDArray[np.void]:
    """The whole rows [N] of a staged episode; half a row, as a crash leaves it, is left out. Raises: OSError."""
    data = (path / ROWS).read_bytes()
    size = spec.row_dtype.itemsize
    return np.frombuffer(data, dtype=spec.row_dtype, count=len(data) // size)


@dataclass(frozen=True)
class SealedEpisode:
    """A whole episode in its staging folder: rows [N], report, and statistics of its images by video feature."""

    path: Path
    spec: DatasetSpec
    rows: NDArray[np.void]
    images: Mapping[str, Any]
    report: EpisodeReport


def read_sealed(path: Path) -> SealedEpisode:
    """A staged episode that ``seal`` proved. Raises: DatasetError when it is not one."""
    content = _read(path / SEALED)
    spec, _ = read_begin(path)
    try:
        rows = read_rows(path, spec)[: content["rows"]]
        if len(rows) != content["rows"]:
            raise DatasetError(f"{path / ROWS}: expected {content['rows']} rows, found {len(rows)}: the disk lost some")
        found = EpisodeReport.from_json(content["report"])
        for key in spec.cameras:
            size, expected = (path / f"{key}.mp4").stat().st_size, found.cameras[key]["bytes"]
            if size != expected:
                raise DatasetError(
                    f"{path / key}.mp4: expected {expected} bytes, found {size}: it was changed, record again"
                )
        return SealedEpisode(path, spec, rows, content["images"], found)
    except (KeyError, TypeError, OSError) as error:
        raise DatasetError(f"{path}: expected a sealed episode, found {error}: record again") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: expected a staged episode's file, found none: seal it first") from error
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: expected a staged episode's file: {error}") from error
    return dict(content)
