"""``groot-ros benchmark recorder``: whether every frame that is sent is in the dataset, and what that costs."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from groot_ros.closed_loop.numbered_robot import Setting
from groot_ros.closed_loop.progress import watched
from groot_ros.closed_loop.recorder_identity import Proof
from groot_ros.closed_loop.recorder_run import RecorderRun, run_recorder
from groot_ros.closed_loop.summary import machine_name

PROMISED = Setting()  # for which no frame may be lost; others are reported


def parse_size(text: str) -> tuple[int, int]:
    """``1280x720`` to width and height. Raises: ValueError."""
    width, _, height = text.partition("x")
    if not width.isdecimal() or not height.isdecimal():
        raise ValueError(f"--size: expected WIDTHxHEIGHT such as 1280x720, found {text!r}")
    return int(width), int(height)


def run_recorder_benchmark(
    setting: Setting,
    duration_s: float,
    *,
    codec: str,
    keep: Path | None,
    output: Path | None,
    console: Console,
) -> bool:
    """Record once, print tables, write them to ``output``; the dataset is kept in the new folder ``keep``.

    Returns: whether every row holds what it says, and, for the promised setting, no frame was lost.
    Raises: ProcessDied, NotRecorded: see ``run_recorder``; FileExistsError: ``keep`` is there already.
    """
    if keep is not None:
        keep.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="groot_ros_") as temporary, watched(console, duration_s) as advance:
        run = run_recorder(
            setting,
            keep or Path(temporary),
            duration_s,
            codec=codec,
            say=lambda text: console.print(f"  {text}"),
            advance=advance,
        )
    out = Console(highlight=False)
    out.print(camera_table(run))
    for line in facts(run):
        out.print(line, markup=False)
    out.print(machine_name(), markup=False)
    if output is not None:
        output.write_text(json.dumps(to_json(run), indent=2) + "\n", encoding="utf-8")
        out.print(f"report: {output}", markup=False)
    return holds(run)


def holds(run: RecorderRun) -> bool:
    """What the exit code says."""
    return run.identical and (run.setting != PROMISED or (run.lost == 0 and not run.ended))


def to_json(run: RecorderRun) -> dict[str, object]:
    """All numbers of a run."""
    totals = {"lost": run.lost, "identical": run.identical, "holds": holds(run)}
    return {"machine": machine_name(), **totals, **asdict(run)}


def camera_table(run: RecorderRun) -> Table:
    """A column per camera: narrow enough for any terminal."""
    table = Table(title=f"recorder: {run.setting}, {run.cost.seconds:.1f} s", title_justify="left")
    table.add_column("")
    for name in run.setting.names:
        table.add_column(name, justify="right")
    rows: dict[str, Iterable[object]] = {
        "sent since the start": (run.sent[name] for name in run.setting.names),
        "received": (run.received[name] for name in run.setting.names),
    }
    if run.proof is not None:
        cameras = run.proof.cameras.values()
        rows |= {
            "sent for the rows": (camera.published - camera.superseded for camera in cameras),
            "recorded": (camera.recorded for camera in cameras),
            "lost": (camera.lost for camera in cameras),
            "frames in the videos": (camera.frames for camera in cameras),
            "wrong pictures": (camera.wrong for camera in cameras),
            "rows without the newest": (camera.late for camera in cameras),
            "age at most, ms": (f"{camera.age_max_ms:.1f}" for camera in cameras),
            "waited for the encoder": (run.queue_peaks[name] for name in run.setting.names),
            "video, MB": (f"{run.video_bytes[name] / 1e6:.1f}" for name in run.setting.names),
        }
    for name, cells in rows.items():
        table.add_row(name, *map(str, cells))
    return table


def facts(run: RecorderRun) -> list[str]:
    """The rest in lines."""
    cost = run.cost
    refused = ", ".join(f"{reason} {count}" for reason, count in run.refused.items()) or "none"
    gaps = ", ".join(f"{name} {count}" for name, count in run.gaps.items() if count) or "none"
    return [
        *([f"not as asked: {run.ended}"] if run.ended else []),
        *(_proof_lines(run.proof) if run.proof is not None else []),
        f"ticks refused: {refused}; for a full queue {run.overflows}; gaps: {gaps}",
        f"CPU, % of one core: recorder {100 * cost.recorder_cores:.0f}, publisher {100 * cost.publisher_cores:.0f}; "
        f"of all cores were in use: {100 * cost.machine_busy:.0f}",
        f"recorder: {cost.recorder_peak_bytes / 1e6:.0f} MB at most; saved in {cost.save_s:.2f} s",
        f"frames lost: {run.lost}; each row holds what it says: {'yes' if run.identical else 'NO'}",
    ]


def _proof_lines(proof: Proof) -> list[str]:
    cameras = proof.cameras.values()
    return [
        f"rows {proof.rows}, episodes {proof.episodes}; missing {proof.missing_rows}, off the grid {proof.off_grid}",
        f"wrong states {proof.wrong_states}, wrong actions {proof.wrong_actions}; not the newest sent: states "
        f"{proof.late_states}, actions {proof.late_actions}",
        f"pictures were sent late by {max(camera.sent_late_p99_ms for camera in cameras):.0f} ms (p99), "
        f"{max(camera.sent_late_max_ms for camera in cameras):.0f} ms (max)",
    ]
