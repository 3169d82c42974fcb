"""What the policy node says about itself: ``~/action_chunk``, ``~/status``, ``/diagnostics``. No decisions here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from numpy.typing import NDArray

from groot_ros.control.continuity import ContinuitySummary
from groot_ros.control.handover import Handover
from groot_ros.control.layout import Layout
from groot_ros.control.loop import JITTER_LIMIT_S, LoopTiming
from groot_ros.control.plans import Accepted
from groot_ros.msg import ActionChunk, PolicyStatus
from groot_ros.nodes.convert import to_time
from groot_ros.policy.news import EngineFacts
from groot_ros.policy.supervisor import Snapshot, State

SATURATED = 0.99  # of the acceleration limit


def chunk_message(
    accepted: Accepted,
    layout: Layout,
    sequence: int,
    age_s: float,
    stages_s: Mapping[str, float],
    gated_actions: NDArray[np.float64],
    *,
    delay_ticks: int,
) -> ActionChunk:
    """``~/action_chunk`` for a chunk that took over ``age_s`` after its observation's stamp.

    Args:
        stages_s: stage -> seconds in order, ``model`` among them.
        gated_actions: [H, sum D] in model units: what is executed; NaN for trimmed rows and keys not commanded.
        delay_ticks: control ticks that passed while the policy inferred.
    """
    chunk = accepted.chunk
    keys = list(layout.embodiment.action)
    model_actions = np.concatenate([np.asarray(chunk.actions[key], np.float64) for key in keys], axis=1)
    message = ActionChunk(
        sequence=sequence,
        instruction=chunk.instruction,
        embodiment=layout.embodiment.name,
        seed=chunk.seed,
        dt_s=chunk.dt_s,
        horizon=len(model_actions),
        keys=keys,
        key_dims=[chunk.actions[key].shape[1] for key in keys],
        model_actions=model_actions.reshape(-1).tolist(),
        gated_actions=gated_actions.reshape(-1).tolist(),
        points_trimmed=accepted.trimmed,
        chunking=layout.embodiment.control.chunking,
        frozen_points=chunk.frozen,
        delay_ticks=delay_ticks,
        handover_jump=_jump(accepted.handover, layout),
        age_at_publish_s=age_s,
        model_s=stages_s["model"],
        overhead_s=age_s - stages_s["model"],
        stage_names=list(stages_s),
        stage_s=list(stages_s.values()),
    )
    message.header.stamp = to_time(chunk.stamp_ns)
    return message


def _jump(seam: Handover | None, layout: Layout) -> float:
    """As ``Continuity`` counts it: where the old chunk still had a target."""
    return seam.jump(layout.space) if seam is not None and seam.overlap else math.nan


def status_message(
    snapshot: Snapshot,
    *,
    now_ns: int,
    instruction: str,
    embodiment: str,
    checkpoint: str,
    dry_run: bool,
    ages_s: Mapping[str, float],
    rates_hz: Mapping[str, float],
    queue_points: int,
    timing: LoopTiming | None,
    continuity: ContinuitySummary | None,
    chunking: str = "",
    braking: bool = False,
) -> PolicyStatus:
    """``~/status`` for one instant; ``timing`` and ``continuity`` are None while the robot is not configured."""
    message = PolicyStatus(
        state=int(snapshot.state),
        reason=snapshot.reason,
        message=snapshot.message,
        instruction=instruction,
        embodiment=embodiment,
        checkpoint=checkpoint,
        dry_run=dry_run,
        paused=snapshot.state is State.PAUSED,
        braking=braking,
        chunking=chunking,
        ticks=snapshot.ticks,
        chunks=snapshot.chunks,
        refused=sum(snapshot.refusals.values()),
        refusal_reasons=list(snapshot.refusals),
        refusal_counts=list(snapshot.refusals.values()),
        stream_names=list(ages_s),
        stream_age_s=[age_s if math.isfinite(age_s) else math.nan for age_s in ages_s.values()],
        stream_rate_hz=[rates_hz[name] for name in ages_s],
        model_p50_s=snapshot.model_s[0],
        model_p95_s=snapshot.model_s[1],
        overhead_p50_s=snapshot.overhead_s[0],
        overhead_p95_s=snapshot.overhead_s[1],
        queue_points=queue_points,
        stage_names=list(snapshot.stages_s),
        stage_p50_s=[p50_s for p50_s, _ in snapshot.stages_s.values()],
        stage_p95_s=[p95_s for _, p95_s in snapshot.stages_s.values()],
    )
    message.header.stamp = to_time(now_ns)
    _add_timing(message, timing or LoopTiming(0.0, 0, 0, math.nan, math.nan, math.nan))
    _add_continuity(message, continuity or ContinuitySummary())
    return message


def _add_timing(message: PolicyStatus, timing: LoopTiming) -> None:
    message.control_rate_hz = timing.rate_hz
    message.ticks_executed = timing.ticks
    message.ticks_missed = timing.missed
    message.tick_jitter_p50_s = timing.jitter_p50_s
    message.tick_jitter_p99_s = timing.jitter_p99_s
    message.tick_jitter_max_s = timing.jitter_max_s


def _add_continuity(message: PolicyStatus, summary: ContinuitySummary) -> None:
    message.rejected_reasons = list(summary.rejected)
    message.rejected_counts = list(summary.rejected.values())
    message.stalled_ticks = summary.stalled
    message.handovers = summary.handovers
    message.handover_jump_p50 = summary.jump_p50
    message.handover_jump_p95 = summary.jump_p95
    message.handover_jump_max = summary.jump_max
    message.seam_acceleration = summary.seam_acceleration
    message.seam_acceleration_max = summary.seam_acceleration_max
    message.inside_acceleration = summary.inside_acceleration
    message.seam_ratio = summary.seam_ratio
    message.boundary_cosine_p50 = summary.cosine_p50
    message.observation_age_p50_s = summary.age_p50_s
    message.observation_age_p95_s = summary.age_p95_s
    message.delay_ticks_p50 = summary.delay_p50
    message.delay_ticks_p95 = summary.delay_p95
    message.delay_ticks_max = summary.delay_max


def diagnostics_message(
    status: PolicyStatus,
    max_ages_s: Mapping[str, float],
    node: str,
    previous: PolicyStatus | None = None,
    engine: EngineFacts | None = None,
) -> DiagnosticArray:
    """``/diagnostics``: the policy, its control loop, continuity, latency and engine, and every stream.

    Args:
        max_ages_s: stream -> age (s) above which it is stale.
        previous: the status of the message before, which counters are compared with; None: they began at 0.
        engine: how chunks are computed; None: there is no model, or it does not say.
    """
    before = previous or PolicyStatus()
    entries = [
        _policy(status, node),
        _control_loop(status, before, node),
        _continuity(status, before, node),
        _latency(status, node),
        *([_engine(engine, node)] if engine is not None else []),
        *_streams(status, max_ages_s, node),
    ]
    message = DiagnosticArray(status=entries)
    message.header.stamp = status.header.stamp
    return message


def _policy(status: PolicyStatus, node: str) -> DiagnosticStatus:
    level = {
        State.REFUSING: DiagnosticStatus.WARN,
        State.STOPPED: DiagnosticStatus.ERROR,
        State.ERROR: DiagnosticStatus.ERROR,
    }.get(State(status.state), DiagnosticStatus.OK)
    if status.state == PolicyStatus.UNCONFIGURED and status.reason:
        level = DiagnosticStatus.ERROR
    return _entry(
        level,
        f"{node}: policy",
        status.message or State(status.state).name.lower(),
        [
            ("state", State(status.state).name.lower()),
            ("reason", status.reason),
            ("chunking", status.chunking),
            ("chunks", status.chunks),
            ("refused ticks", status.refused),
            ("model p50 [ms]", _ms(status.model_p50_s)),
            ("overhead p50 [ms]", _ms(status.overhead_p50_s)),
        ],
    )


def _control_loop(status: PolicyStatus, before: PolicyStatus, node: str) -> DiagnosticStatus:
    missed = _grown(status.ticks_missed, before.ticks_missed)
    stalled = _grown(status.stalled_ticks, before.stalled_ticks)
    late = status.tick_jitter_p99_s > JITTER_LIMIT_S  # false for NaN: no tick yet
    troubles = [
        *([f"{missed} ticks missed"] if missed else []),
        *([f"{stalled} ticks without a target"] if stalled else []),
        *([f"jitter p99 {_ms(status.tick_jitter_p99_s)} ms"] if late else []),
    ]
    return _entry(
        DiagnosticStatus.WARN if troubles else DiagnosticStatus.OK,
        f"{node}: control loop",
        ", ".join(troubles) or ("on time" if status.ticks_executed else "not running"),
        [
            ("rate [Hz]", f"{status.control_rate_hz:g}"),
            ("ticks", status.ticks_executed),
            ("missed ticks", status.ticks_missed),
            ("stalled ticks", status.stalled_ticks),
            ("jitter p50 [ms]", _ms(status.tick_jitter_p50_s)),
            ("jitter p99 [ms]", _ms(status.tick_jitter_p99_s)),
            ("jitter max [ms]", _ms(status.tick_jitter_max_s)),
            ("braking", status.braking),
        ],
    )


def _continuity(status: PolicyStatus, before: PolicyStatus, node: str) -> DiagnosticStatus:
    rejected = sum(status.rejected_counts)
    felt = status.seam_ratio > 1.0  # false for NaN: no hand-over yet
    text = "no hand-over yet" if not status.handovers else "smooth"
    if status.inside_acceleration >= SATURATED:
        text = "the motion is at its acceleration limits throughout: a hand-over cannot be told from it"
    if felt:
        text = f"acceleration at hand-overs is {status.seam_ratio:.2f} times that inside chunks"
    return _entry(
        DiagnosticStatus.WARN if felt else DiagnosticStatus.OK,
        f"{node}: continuity",
        text,
        [
            ("hand-overs", status.handovers),
            ("jump p95 [rad or m]", f"{status.handover_jump_p95:.4f}"),
            ("seam ratio", f"{status.seam_ratio:.2f}"),
            ("boundary cosine p50", f"{status.boundary_cosine_p50:.3f}"),
            ("delay p50 / p95 / max [ticks]", " / ".join(f"{ticks:g}" for ticks in _delays(status))),
            ("observation age p50 [ms]", _ms(status.observation_age_p50_s)),
            ("observation age p95 [ms]", _ms(status.observation_age_p95_s)),
            ("rejected chunks", rejected),
            ("rejected since the last message", _grown(rejected, sum(before.rejected_counts))),
            *zip([f"rejected: {reason}" for reason in status.rejected_reasons], status.rejected_counts, strict=True),
        ],
    )


def _delays(status: PolicyStatus) -> tuple[float, float, float]:
    return status.delay_ticks_p50, status.delay_ticks_p95, status.delay_ticks_max


def _latency(status: PolicyStatus, node: str) -> DiagnosticStatus:
    stages = list(zip(status.stage_names, status.stage_p50_s, status.stage_p95_s, strict=True))
    text = "no chunk yet"
    if stages:
        text = f"newest stamp to command {_ms(status.model_p50_s + status.overhead_p50_s)} ms (medians)"
    pairs = [(f"{name} p50 / p95 [ms]", f"{_ms(p50_s)} / {_ms(p95_s)}") for name, p50_s, p95_s in stages]
    return _entry(DiagnosticStatus.OK, f"{node}: latency", text, pairs)


def _engine(engine: EngineFacts, node: str) -> DiagnosticStatus:
    """A slower way than the one asked for is worth a warning."""
    level = DiagnosticStatus.WARN if engine.reason else DiagnosticStatus.OK
    text = f"{engine.mode}: {engine.reason}" if engine.reason else engine.mode
    return _entry(level, f"{node}: engine", text, list(engine.pairs()))


def _streams(status: PolicyStatus, max_ages_s: Mapping[str, float], node: str) -> Iterator[DiagnosticStatus]:
    for name, age_s, rate_hz in zip(status.stream_names, status.stream_age_s, status.stream_rate_hz, strict=True):
        alive = age_s <= max_ages_s[name]  # false for NaN: never received
        yield _entry(
            DiagnosticStatus.OK if alive else DiagnosticStatus.WARN,
            f"{node}: stream {name}",
            "alive" if alive else ("never received" if math.isnan(age_s) else f"{age_s:.2f} s old"),
            [
                ("age [s]", f"{age_s:.3f}"),
                ("rate [Hz]", f"{rate_hz:.1f}"),
                ("max age [s]", max_ages_s[name]),
            ],
        )


def _grown(count: int, before: int) -> int:
    """By how much a counter has grown; one that is smaller than before was set to 0 in between."""
    return count - before if count >= before else count


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.1f}"


def _entry(level: bytes, name: str, text: str, values: Sequence[tuple[str, Any]]) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values]
    return DiagnosticStatus(level=level, name=name, message=text, hardware_id="", values=pairs)
