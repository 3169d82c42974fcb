"""Take over what is whole of an aborted episode. Only when somebody asks: such a demonstration may lack its end."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from groot_ros.dataset import durable, paths, video
from groot_ros.dataset.episode_report import EpisodeReport
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.lock import DatasetLock, unwritable
from groot_ros.dataset.recovery import StagedEpisode, staged_episodes
from groot_ros.dataset.spec import FLAG_SALVAGED, IMAGES, DatasetSpec
from groot_ros.dataset.staged import (
    ABORTED,
    ROWS,
    SEALED,
    read_begin,
    read_rows,
    read_sealed,
    remove,
    seal_folder,
)
from groot_ros.dataset.writer import DatasetWriter

_log = logging.getLogger(__name__)


def aborted_episodes(root: str | Path) -> list[StagedEpisode]:
    """What could be salvaged, oldest first. Changes nothing. Raises: DatasetError."""
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise DatasetError(f"{folder}: expected a dataset's folder, found none: name another")
    try:
        return [episode for episode in staged_episodes(folder) if episode.state == "aborted"]
    except OSError as error:
        raise DatasetError(
            f"{root}: expected staged episodes that can be read, found {error}: check the disk"
        ) from error


def salvage(
    root: str | Path, name: str | None = None, *, on_event: Callable[[str], None] = _log.warning
) -> list[EpisodeReport]:
    """Append aborted episodes to their dataset, as many rows as every camera has frames, flagged as salvaged.

    Args:
        root: the dataset.
        name: of one folder under ``.staging``; all of them when left out.
        on_event: told what was found when the dataset was opened, and which of all have nothing that is whole.

    Returns:
        Reports of the episodes appended.

    Raises:
        DatasetError: the dataset cannot be written to, no episode has the name, or that one has nothing that is
            whole. It stays where it is; so does one of all of which a commit failed, and those after it.
    """
    episodes = _named(Path(root).expanduser(), name)
    if not episodes:
        return []
    spec, _ = read_begin(episodes[0].path)
    reports = []
    with DatasetWriter(root, spec, min_free_bytes=0, on_event=on_event) as writer:
        for episode in episodes:
            # Opening the dataset may have ended a commit that this one was part of, or removed it as empty.
            if not episode.path.is_dir():
                continue
            try:
                _mend(episode.path)
            except OSError as error:
                raise unwritable(episode.path, error) from error
            except DatasetError as error:
                if name is not None:
                    raise
                on_event(str(error))
                continue
            reports += writer.commit([episode.path])
    return reports


def remove_aborted(root: str | Path, name: str | None = None) -> list[StagedEpisode]:
    """Remove aborted episodes for good, one by its name or all; what was removed.

    Raises: DatasetError: the dataset cannot be written to, or no episode has the name.
    """
    folder = Path(root).expanduser()
    with DatasetLock(folder):
        episodes = _named(folder, name)
        for episode in episodes:
            try:
                remove(episode.path)
            except OSError as error:
                raise unwritable(episode.path, error) from error
    return episodes


def _named(root: Path, name: str | None) -> list[StagedEpisode]:
    episodes = aborted_episodes(root)
    if name is None:
        return episodes
    chosen = [episode for episode in episodes if episode.path.name == name]
    if not chosen:
        there = ", ".join(episode.path.name for episode in episodes) or "none"
        raise DatasetError(f"{root / paths.STAGING}: expected an aborted episode {name}, found {there}")
    return chosen


def _mend(folder: Path) -> None:
    """Make a sealed episode of an aborted one; from any point of itself it can be done again."""
    spec, task = read_begin(folder)
    rows = read_rows(folder, spec)
    note = json.loads((folder / ABORTED).read_bytes()) if (folder / ABORTED).is_file() else {}
    if (folder / SEALED).is_file():
        # It is whole, only nobody was told so.
        sealed = read_sealed(folder)
        _write_rows(folder, sealed.rows)
        report = replace(sealed.report, salvaged=True, more={**sealed.report.more, **note})
        content = {"rows": len(sealed.rows), "images": sealed.images, "report": report.to_json()}
        durable.write_json(folder / SEALED, content)
        return
    count = _whole(folder, spec, len(rows))
    rows = _write_rows(folder, rows[:count])
    images = {f"{IMAGES}.{key}": video.image_statistics(folder / f"{key}.mkv", count).stats() for key in spec.cameras}
    seal_folder(folder, spec, task, rows, images, {}, note, frames=count)


def _whole(folder: Path, spec: DatasetSpec, rows: int) -> int:
    """Rows that have a frame of every camera."""
    counts, reasons = {"rows": rows}, []
    for key in spec.cameras:
        try:
            counts[key] = video.count_frames(folder / f"{key}.mkv")
        except DatasetError as error:  # a file of which not even the header was written
            counts[key] = 0
            reasons.append(f" ({error})")
    if min(counts.values()) < 1:
        found = ", ".join(f"{count} of {name}" for name, count in counts.items()) + "".join(reasons)
        raise DatasetError(f"{folder}: expected rows with a frame of every camera, found {found}: remove the episode")
    return min(counts.values())


def _write_rows(folder: Path, rows: NDArray[np.void]) -> NDArray[np.void]:
    flagged = rows.copy()
    flagged["flags"] |= FLAG_SALVAGED
    durable.write_file(folder / ROWS, flagged.tobytes())
    return flagged
