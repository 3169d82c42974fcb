"""What the recorder node says about itself: ``~/status``, ``/diagnostics``, answers. No decisions here."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from groot_ros.msg import RecorderStatus
from groot_ros.nodes.convert import to_time
from groot_ros.observation.types import Reason

if TYPE_CHECKING:
    from groot_ros.dataset.background import Committed
    from groot_ros.dataset.episode_report import EpisodeReport
    from groot_ros.dataset.session_types import SessionQuality
    from groot_ros.dataset.writer import DatasetWriter
    from groot_ros.nodes.recorder_parameters import RecorderParameters
    from groot_ros.nodes.recording import Recording

STATES = {
    getattr(RecorderStatus, name): name.lower()
    for name in ("UNCONFIGURED", "INACTIVE", "IDLE", "WAITING", "RECORDING", "PAUSED")
}
SLOW = 0.75  # of the declared rate, as the session judges
FULL = 0.5  # of an encoder's queue of 30 frames
_QUEUE_FRAMES = 30


@dataclass(frozen=True)
class Problem:
    """What is wrong with the node itself: a reason or the name of an error, and the sentence for a person."""

    reason: str = ""
    message: str = ""


@dataclass
class Counts:
    """Since the node was activated."""

    saved: int = 0
    discarded: int = 0
    aborted: int = 0
    last_result: str = ""


def status_message(
    recording: Recording | None,
    *,
    now_ns: int,
    active: bool,
    settings: RecorderParameters,
    task: str,
    problem: Problem,
    counts: Counts,
) -> RecorderStatus:
    """``~/status`` for one instant; ``recording`` is None while the node is not configured."""
    message = RecorderStatus(
        state=RecorderStatus.UNCONFIGURED,
        reason=problem.reason,
        message=problem.message,
        task=task,
        embodiment=settings.embodiment,
        dataset=settings.dataset,
        drop_policy=settings.drop_policy,
        policy=settings.policy,
        saved=counts.saved,
        discarded=counts.discarded,
        aborted=counts.aborted,
        last_result=counts.last_result,
        disk_free_gb=math.nan,
        spread_s=math.nan,
    )
    message.header.stamp = to_time(now_ns)
    if recording is not None:
        quality = recording.session.quality(now_ns)
        message.state = getattr(RecorderStatus, quality.state.name) if active else RecorderStatus.INACTIVE
        message.committing = recording.committer.episodes
        _add_dataset(message, recording.dataset)
        _add_episode(message, quality)
        _add_streams(message, quality)
        _add_encoders(message, quality)
    return message


def result_text(outcome: Committed[EpisodeReport]) -> str:
    """What a save came to, in a sentence."""
    texts = []
    if outcome.reports:
        rows, first, last = sum(r.rows for r in outcome.reports), outcome.reports[0], outcome.reports[-1]
        which = f"episode {first.index}" if first is last else f"episodes {first.index} to {last.index}"
        seconds = sum(report.duration_s for report in outcome.reports)
        texts.append(f"saved {which}: {rows} rows, {seconds:.2f} s")
        still = sorted({name for report in outcome.reports for name in report.constant})
        if still:
            texts.append(f"never changed: {', '.join(still[:8])}{' and more' if len(still) > 8 else ''}")
    texts += [f"NOT saved: {problem}" for problem in outcome.problems]
    return "; ".join(texts)


def diagnostics_message(status: RecorderStatus, node: str) -> DiagnosticArray:
    """``/diagnostics``: the recorder, its encoders, and every stream."""
    message = DiagnosticArray(status=[_recorder(status, node), _encoders(status, node), *_streams(status, node)])
    message.header.stamp = status.header.stamp
    return message


def status_line(status: RecorderStatus) -> str:
    """The status in one line for a terminal."""
    parts = [STATES[status.state].upper()]
    if status.state in (RecorderStatus.WAITING, RecorderStatus.RECORDING, RecorderStatus.PAUSED):
        parts.append(f"{status.rows} rows {status.duration_s:.1f} s")
        if status.segments > 1 or status.dropped_segments:
            parts.append(f"{status.segments} segments, {status.dropped_segments} dropped")
        if status.refused:
            parts.append(f"{status.refused} ticks refused")
    if status.intervention:
        parts.append("INTERVENTION")
    if status.message:
        parts.append(status.message)
    elif status.last_result:
        parts.append(status.last_result)
    else:
        parts.append(f"'{status.task}'" if status.task else "no task")
    rates = zip(status.stream_names, status.stream_rate_hz, status.stream_expected_hz, strict=True)
    parts.append(
        " ".join(
            f"{name} {rate_hz:.0f}{'!' if rate_hz < SLOW * expected_hz else ''}"
            for name, rate_hz, expected_hz in rates
            if expected_hz > 0.0  # not for commands, which have none
        )
        + " Hz"
    )
    if status.frozen_cameras:
        parts.append(f"FROZEN {' '.join(status.frozen_cameras)}")
    if status.encoder_names:
        parts.append(f"queue {max(status.encoder_waiting)} peak {max(status.encoder_peak)}")
    parts.append(f"{status.episodes} episodes, {status.disk_free_gb:.0f} GB free")
    return " | ".join(parts)


def _add_dataset(message: RecorderStatus, dataset: DatasetWriter) -> None:
    message.dataset = str(dataset.root)
    message.episodes, message.frames = dataset.episodes, dataset.frames
    try:
        message.disk_free_gb = dataset.disk_free / 1e9
    except OSError as error:  # the folder was taken away: NaN, and why
        message.message = f"{dataset.root}: {error.strerror}"


def _add_episode(message: RecorderStatus, quality: SessionQuality) -> None:
    message.reason, message.message = message.reason or quality.reason, message.message or quality.message
    message.task = quality.task or message.task
    message.intervention = quality.intervention
    message.rows, message.segments, message.duration_s = quality.rows, quality.segments, quality.duration_s
    message.flagged_rows, message.dropped_segments = quality.flagged, quality.dropped_segments
    message.refused = sum(quality.refused.values())
    message.refusal_reasons, message.refusal_counts = list(quality.refused), list(quality.refused.values())


def _add_streams(message: RecorderStatus, quality: SessionQuality) -> None:
    streams = quality.streams.values()
    message.stream_names = list(quality.streams)
    message.stream_topics = [stream.topic for stream in streams]
    message.stream_age_s = [stream.age_s if math.isfinite(stream.age_s) else math.nan for stream in streams]
    message.stream_rate_hz = [_or_nan(stream.rate_hz) for stream in streams]
    message.stream_expected_hz = [_or_nan(stream.expected_hz) for stream in streams]
    message.stream_gaps = [stream.gaps for stream in streams]
    message.stream_received = [stream.received for stream in streams]
    message.stream_rejected = [stream.rejected for stream in streams]
    message.spread_s = quality.spread_s
    message.frozen_cameras = [name for name, stream in quality.streams.items() if stream.frozen]


def _add_encoders(message: RecorderStatus, quality: SessionQuality) -> None:
    encoders = quality.encoders.values()
    message.encoder_names = list(quality.encoders)
    message.encoder_waiting = [encoder.waiting for encoder in encoders]
    message.encoder_peak = [encoder.peak for encoder in encoders]
    message.encoder_frames = [encoder.frames for encoder in encoders]
    message.encoder_overflows = quality.refused.get(Reason.ENCODER_BEHIND.value, 0)


def _recorder(status: RecorderStatus, node: str) -> DiagnosticStatus:
    level = DiagnosticStatus.OK
    if status.refused or (status.state == RecorderStatus.WAITING and status.reason):
        level = DiagnosticStatus.WARN
    if status.reason and status.state in (RecorderStatus.UNCONFIGURED, RecorderStatus.IDLE):
        level = DiagnosticStatus.ERROR  # not configured, or the last episode ended by itself
    return _entry(
        level,
        f"{node}: recorder",
        status.message or STATES[status.state],
        {
            "state": STATES[status.state],
            "reason": status.reason,
            "rows": status.rows,
            "segments": status.segments,
            "flagged rows": status.flagged_rows,
            "refused ticks": status.refused,
            **{f"refused: {k}": n for k, n in zip(status.refusal_reasons, status.refusal_counts, strict=True)},
            "saved": status.saved,
            "discarded": status.discarded,
            "aborted": status.aborted,
            "being written": status.committing,
            "episodes": status.episodes,
            "disk free [GB]": f"{status.disk_free_gb:.1f}",
            "spread [ms]": f"{1e3 * status.spread_s:.1f}",
        },
    )


def _encoders(status: RecorderStatus, node: str) -> DiagnosticStatus:
    peak = max(status.encoder_peak, default=0)
    behind = peak > FULL * _QUEUE_FRAMES
    values: dict[str, Any] = {}
    for name, waiting, most, frames in zip(
        status.encoder_names, status.encoder_waiting, status.encoder_peak, status.encoder_frames, strict=True
    ):
        values |= {f"{name}: waiting": waiting, f"{name}: peak": most, f"{name}: frames": frames}
    text = f"{peak} of {_QUEUE_FRAMES} frames waited" if behind else "keep up" if values else "not running"
    return _entry(DiagnosticStatus.WARN if behind else DiagnosticStatus.OK, f"{node}: encoders", text, values)


def _streams(status: RecorderStatus, node: str) -> Iterator[DiagnosticStatus]:
    for place, name in enumerate(status.stream_names):
        age_s, rate_hz = status.stream_age_s[place], status.stream_rate_hz[place]
        least_hz = SLOW * status.stream_expected_hz[place]
        troubles = [
            *(["never received"] if math.isnan(age_s) and not math.isnan(least_hz) else []),
            *([f"{rate_hz:.1f} Hz, expected {least_hz:.1f} Hz at least"] if rate_hz < least_hz else []),
            *(["frozen"] if name in status.frozen_cameras else []),
        ]
        yield _entry(
            DiagnosticStatus.WARN if troubles else DiagnosticStatus.OK,
            f"{node}: stream {name}",
            ", ".join(troubles) or "alive",
            {
                "topic": status.stream_topics[place],
                "age [s]": f"{age_s:.3f}",
                "rate [Hz]": f"{rate_hz:.1f}",
                "gaps": status.stream_gaps[place],
                "received": status.stream_received[place],
                "refused": status.stream_rejected[place],
            },
        )


def _or_nan(number: float | None) -> float:
    return math.nan if number is None else number


def _entry(level: bytes, name: str, text: str, values: dict[str, Any]) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(level=level, name=name, message=text, values=pairs)
