"""What only our recorder keeps: the real time of each row and the age of each sample. They say whether fps is true."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from groot_ros.dataset import paths
from groot_ros.dataset.check.contents import Contents
from groot_ros.dataset.check.files import read_json
from groot_ros.dataset.check.report import Findings
from groot_ros.dataset.check.rows import EpisodeRows
from groot_ros.dataset.check.schema import ReportForm, formed
from groot_ros.dataset.spec import AGES, FLAG_REPEATED, FLAG_SALVAGED, FLAGS, INTERVENTION, STAMP

NS = 10**9
# Two times on the grid t0 + k * 10**9 // fps may each be rounded down by up to 1 ns.
GRID_NS = 1
# A stream that gives fewer new samples than this share of fps is slower than the dataset says; less is jitter.
TRUE_RATE = 0.9
# A sample that is used for longer than this, and for three rows more than usual, is a gap.
GAP_S = 0.15
GAP_ROWS = 3


def check_recording(contents: Contents, rows: EpisodeRows, found: Findings) -> None:
    """Grid of the rows, true rate and gaps of each stream, marks, report; nothing for data of other recorders."""
    if not contents.is_recording or not rows.count:
        return
    stamps = rows.numbers(STAMP)
    flags = _flags(rows, found)
    if stamps is not None:
        _check_grid(contents, rows, stamps[:, 0], found)
        ages = rows.numbers(AGES)
        if ages is not None:
            for column, name in enumerate(contents.names(AGES)):
                _check_stream(contents, rows, name, stamps[:, 0], ages[:, column], flags, found)
        _check_report(contents, rows, stamps[:, 0], found)


def _check_grid(contents: Contents, rows: EpisodeRows, stamps: NDArray[Any], found: Findings) -> None:
    steps = np.diff(stamps)
    expected = NS / contents.fps
    wrong = np.flatnonzero(np.abs(steps - expected) > GRID_NS + 1)
    if len(wrong):
        row = int(wrong[0])
        message = (
            f"expected rows {expected / 1e6:.3f} ms apart (fps {contents.fps:g}), found {steps[row] / 1e6:.3f} ms "
            f"between rows {row} and {row + 1} ({len(wrong)} steps in all): rows are missing, or fps is not the true "
            "one; take the episode out with `groot-ros dataset delete-episodes`"
        )
        found.add("stamp_step", f"{rows.where}: {STAMP}", message, episode=rows.index)


def _check_stream(
    contents: Contents,
    rows: EpisodeRows,
    name: str,
    stamps: NDArray[Any],
    ages: NDArray[Any],
    flags: NDArray[Any],
    found: Findings,
) -> None:
    where = f"{rows.where}: {AGES}: {name}"
    early = np.flatnonzero(ages < 0)
    if len(early):
        row = int(early[0])
        message = (
            f"expected samples from before their row, found one {-ages[row] / 1e6:.3f} ms after row {row} "
            f"({len(early)} rows in all): the clock of the sensor was ahead; take the episode out"
        )
        found.add("future_sample", where, message, episode=rows.index)
        return
    samples = stamps - ages
    steps = np.diff(samples)
    back = np.flatnonzero(steps < 0)
    if len(back):
        row = int(back[0])
        message = (
            f"expected samples in the order of time, found the one of row {row + 1} {-steps[row] / 1e6:.3f} ms before "
            f"that of row {row} ({len(back)} rows in all): a clock jumped; take the episode out"
        )
        found.add("sample_backwards", where, message, episode=rows.index)
        return
    # Rows that say themselves that they repeat the one before are reported as such.
    own = flags & FLAG_REPEATED == 0
    _check_rate(contents, rows, where, samples[own], found)
    _check_gaps(contents, rows, where, samples, own, found)


def _check_rate(contents: Contents, rows: EpisodeRows, where: str, samples: NDArray[Any], found: Findings) -> None:
    distinct = np.unique(samples)
    steps = np.diff(distinct) / NS
    # A gap is reported as such, and says nothing about the rate beside it.
    steps = steps[steps <= GAP_S] if (steps <= GAP_S).any() else steps
    if not len(steps):
        return  # a single sample for all rows is a gap
    # One sample more or less at either end is chance.
    if (len(steps) + 2) / steps.sum() < TRUE_RATE * contents.fps:
        rate = len(steps) / steps.sum()
        message = (
            f"expected a new sample in each row ({contents.fps:g} a second), found {rate:.1f} a second: "
            f"{len(samples) - len(distinct)} of {len(samples)} rows repeat a sample. Correct the driver's rate, or "
            "record with a step_hz that the stream reaches"
        )
        found.add("slow_stream", where, message, episode=rows.index)


def _check_gaps(
    contents: Contents, rows: EpisodeRows, where: str, samples: NDArray[Any], own: NDArray[Any], found: Findings
) -> None:
    starts = np.flatnonzero(np.concatenate([[True], np.diff(samples) != 0]))
    lengths = np.diff(np.concatenate([starts, [len(samples)]]))
    usual = float(np.median(lengths))
    # A row that is flagged belongs to a run, but does not make it longer.
    counted = np.array([int(own[start : start + length].sum()) for start, length in zip(starts, lengths)])
    gaps = np.flatnonzero(
        (counted / contents.fps > GAP_S) & ((counted >= usual + GAP_ROWS) | (counted == len(samples)))
    )
    if len(gaps):
        worst = gaps[np.argmax(counted[gaps])]
        message = (
            f"expected new samples at the stream's rate, found one sample used for {counted[worst]} rows "
            f"({counted[worst] / contents.fps:.2f} s) from row {starts[worst]} ({len(gaps)} gaps in all): look whether "
            "the motion in there matters"
        )
        found.add("stream_gap", where, message, episode=rows.index)


def _flags(rows: EpisodeRows, found: Findings) -> NDArray[Any]:
    """flags [rows]; says how many rows are marked, and complains about marks without a meaning."""
    values = rows.numbers(FLAGS)
    flags = values[:, 0].astype(np.int64) if values is not None else np.zeros(rows.count, np.int64)
    marks = rows.numbers(INTERVENTION)
    _check_mark(rows, FLAGS, flags, flags & ~(FLAG_REPEATED | FLAG_SALVAGED) != 0, "bits 1 and 2", found)
    marks = rows.numbers(INTERVENTION)
    if marks is not None:
        _check_mark(rows, INTERVENTION, marks[:, 0], (marks[:, 0] != 0) & (marks[:, 0] != 1), "0 or 1", found)
    repeated = np.flatnonzero(flags & FLAG_REPEATED)
    if len(repeated):
        message = (
            f"{len(repeated)} of {rows.count} rows repeat the one before after a refused tick (first: row "
            f"{repeated[0]}): {paths.report_path(rows.index)} says why; look whether the motion in there matters"
        )
        found.add("rows_repeated", f"{rows.where}: {FLAGS}", message, episode=rows.index)
    if (flags & FLAG_SALVAGED).any():
        message = "this episode was aborted and taken over by `groot-ros dataset salvage`: its end may be missing"
        found.add("rows_salvaged", f"{rows.where}: {FLAGS}", message, episode=rows.index)
    return flags


def _check_mark(
    rows: EpisodeRows, name: str, values: NDArray[Any], bad: NDArray[np.bool_], expected: str, found: Findings
) -> None:
    strange = np.flatnonzero(bad)
    if len(strange):
        message = (
            f"expected {expected}, found {values[strange[0]]} in row {strange[0]} ({len(strange)} rows in all): "
            "correct the column"
        )
        found.add("mark_invalid", f"{rows.where}: {name}", message, episode=rows.index)


def _check_report(contents: Contents, rows: EpisodeRows, stamps: NDArray[Any], found: Findings) -> None:
    path = paths.report_path(rows.index)
    data = read_json(contents.root, path, found, "report_missing", "the recorder writes one per episode; restore it")
    if data is None:
        return
    report = formed(ReportForm, data, found, "report_invalid", str(path))
    if report is None or rows.index in found.unsound:
        return
    expected: dict[str, object] = {"index": rows.index}
    if report.origin is None:  # a part of an episode that merge or split took over keeps the report of the whole
        expected |= {"rows": rows.count, "start_ns": int(stamps[0]), "end_ns": int(stamps[-1])}
    for name, right in expected.items():
        if getattr(report, name) != right:
            message = (
                f"expected {right}, as the rows say, found {getattr(report, name)!r}: the report belongs to another "
                "episode; restore it from a copy"
            )
            found.add("report_mismatch", f"{path}: {name}", message, episode=rows.index)
            return
