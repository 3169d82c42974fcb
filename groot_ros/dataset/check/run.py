"""The check of a whole dataset."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from groot_ros.dataset import paths
from groot_ros.dataset.check.contents import Contents, content_counts, read_contents
from groot_ros.dataset.check.modality import Modality
from groot_ros.dataset.check.motion import check_lengths, check_motion
from groot_ros.dataset.check.recording import check_recording
from groot_ros.dataset.check.report import SEVERITIES, CheckReport, Findings
from groot_ros.dataset.check.rows import EpisodeRows, check_counters, check_tasks, read_rows
from groot_ros.dataset.check.statistics import check_episodes_stats, check_relative_stats, check_stats
from groot_ros.dataset.check.structure import check_features, check_files, check_leftovers
from groot_ros.dataset.check.videos import check_video
from groot_ros.dataset.commit import RECORD
from groot_ros.dataset.spec import STATE

HORIZON = 16  # steps of a chunk of N1.5, N1.6 and most robots of N1.7
Progress = Callable[[int, int], None]


def check(
    root: str | Path,
    *,
    full: bool = False,
    horizon: int = HORIZON,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Look through a LeRobot v2.1 or v2.0 dataset; nothing is changed. Damage becomes problems, not exceptions.

    Every number is read. Of the videos every packet is read, and of the pictures a sample (see ``videos``).

    Args:
        root: folder.
        full: decode every picture.
        horizon: rows of an action chunk; a shorter episode gives no training sample.
        jobs: videos that are looked at at once; None: one per processor.
        progress: called with (episodes done, of how many).
    """
    folder = Path(root).expanduser()
    found = Findings()
    if (folder / RECORD).exists():
        # Half of the files are in their places: what else there is to say shows when all are.
        message = (
            "an episode is being taken over, or was when the recorder ended: `groot-ros dataset repair --apply` ends it"
        )
        found.add("commit_pending", RECORD, message)
        return _report(folder, found, full)
    contents = read_contents(folder, found)
    if contents is None:
        return _report(folder, found, full)
    content_counts(contents, found)
    check_features(contents, found)
    check_files(contents, found)
    check_leftovers(contents, found)
    modality = Modality(contents, found)
    if not contents.episodes and str(paths.EPISODES) not in found.damaged:
        found.add("no_episodes", paths.EPISODES, "expected episodes, found none: record some")
        return _report(folder, found, full, contents)
    check_lengths(contents, horizon, found)
    episodes = []
    for entry in contents.episodes:
        rows = read_rows(contents, entry, found)
        if rows is not None:
            check_counters(contents, rows, found)
            check_tasks(contents, rows, modality.annotations, found)
            check_recording(contents, rows, found)
            episodes.append(rows)
    check_motion(contents, episodes, found)
    check_stats(contents, episodes, modality.used, found)
    check_episodes_stats(contents, episodes, found)
    check_relative_stats(contents, modality.action_widths, found)
    _check_videos(contents, episodes, full, jobs, progress, found)
    return _report(folder, found, full, contents, episodes)


def _check_videos(
    contents: Contents,
    episodes: Sequence[EpisodeRows],
    full: bool,
    jobs: int | None,
    progress: Progress | None,
    found: Findings,
) -> None:
    spans = _state_spans(episodes)
    names = list(contents.videos)
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1, thread_name_prefix="check") as pool:
        for done, rows in enumerate(episodes, start=1):

            def look(name: str, rows: EpisodeRows = rows) -> Findings:
                return check_video(contents, rows, name, spans, full)

            for part in pool.map(look, names):
                found.problems += part.problems
            if progress is not None:
                progress(done, len(episodes))


def _state_spans(episodes: Sequence[EpisodeRows]) -> NDArray[np.float64] | None:
    """Range [S] of each number of the state over the dataset."""
    parts = [state for rows in episodes if (state := rows.numbers(STATE)) is not None and len(state)]
    if not parts:
        return None
    low = np.min([part.min(axis=0) for part in parts], axis=0)
    high = np.max([part.max(axis=0) for part in parts], axis=0)
    return high.astype(np.float64) - low.astype(np.float64)


def _report(
    root: Path,
    found: Findings,
    full: bool,
    contents: Contents | None = None,
    episodes: Sequence[EpisodeRows] = (),
) -> CheckReport:
    order = {severity: rank for rank, severity in enumerate(SEVERITIES)}
    problems = sorted(found.problems, key=lambda problem: order[problem.severity])
    videos = len(episodes) * len(contents.videos) if contents is not None else 0
    return CheckReport(str(root), problems, len(episodes), sum(rows.count for rows in episodes), videos, full)
