"""``groot-ros benchmark recorder``: whether every frame that is sent is in the dataset, and what that costs."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from groot_ros.closed_loop.demo import watched
from groot_ros.closed_loop.numbered_robot import Setting
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
    return run.proof.identical and (run.setting != PROMISED or (run.lost == 0 and not run.ended))


def to_json(run: RecorderRun) -> dict[str, object]:
    """All numbers of a run."""
    totals = {"lost": run.lost, "identical": run.proof.identical, "holds": holds(run)}
    return {"machine": machine_name(), **totals, **asdict(run)}


def camera_table(run: RecorderRun) -> Table:
    """One row per camera."""
    table = Table(title=f"recorder: {run.setting}, {run.cost.seconds:.1f} s", title_justify="left")
    table.add_column("camera")
    for name in ("sent", "received", "of the rows", "recorded", "lost", "wrong", "late", "age max ms", "queue", "MB"):
        table.add_column(name, justify="right")
    for name, camera in run.proof.cameras.items():
        received = run.received[name]
        table.add_row(
            name,
            str(run.sent[name]),
            "?" if received is None else str(received),
            str(camera.published - camera.superseded),
            str(camera.recorded),
            str(camera.lost),
            str(camera.wrong),
            str(camera.late),
            f"{camera.age_max_ms:.0f}",
            str(run.queue_peaks[name]),
            f"{run.video_bytes[name] / 1e6:.1f}",
        )
    return table


def facts(run: RecorderRun) -> list[str]:
    """The rest in lines."""
    proof, cost = run.proof, run.cost
    frames = ", ".join(str(camera.frames) for camera in proof.cameras.values())
    refused = ", ".join(f"{reason} {count}" for reason, count in run.refused.items()) or "none"
    gaps = ", ".join(f"{name} {count}" for name, count in run.gaps.items() if count) or "none"
    sent_late = max(camera.sent_late_max_ms for camera in proof.cameras.values())
    sent_p99 = max(camera.sent_late_p99_ms for camera in proof.cameras.values())
    lines = [
        f"rows {proof.rows} in {proof.episodes} episode(s), frames {frames}; rows missing {proof.missing_rows}, "
        f"off the grid {proof.off_grid}",
        f"wrong states {proof.wrong_states}, wrong actions {proof.wrong_actions}; not the newest sent before the row: "
        f"states {proof.late_states}, actions {proof.late_actions}",
        f"ticks refused: {refused}; full queues {run.overflows}; gaps: {gaps}",
        f"CPU of one core: recorder {100 * cost.recorder_cores:.0f} %, publisher {100 * cost.publisher_cores:.0f} %; "
        f"all cores {100 * cost.machine_busy:.0f} % busy",
        f"recorder {cost.recorder_peak_bytes / 1e6:.0f} MB at most; saved in {cost.save_s:.2f} s",
        f"the publisher sent {sent_p99:.0f} ms late at p99, {sent_late:.0f} ms at most",
        f"frames lost: {run.lost}; every picture, state and action is the one its row says: "
        f"{'yes' if proof.identical else 'NO'}",
    ]
    if run.ended:
        lines.insert(0, f"the recording ended {run.ended}")
    return lines
