"""Plain values to ROS messages. No decisions here."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from builtin_interfaces.msg import Duration, Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from groot_ros.control.plan import JointPlan
from groot_ros.embodiment.schema import Embodiment, Output
from groot_ros.msg import ActionChunk, PolicyStatus
from groot_ros.policy.cycle import Planned
from groot_ros.policy.supervisor import Snapshot, State

LATCHED_QOS = QoSProfile(
    depth=1,
    history=HistoryPolicy.KEEP_LAST,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
RELIABLE_QOS = QoSProfile(depth=10, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE)


def stream_qos(kind: str, rate_hz: float, window_s: float) -> QoSProfile:
    """QoS of a stream: best effort for ``sensor_data``, deep enough for a callback thread that is busy ``window_s``."""
    reliable = kind == "reliable"
    return QoSProfile(
        depth=max(5, math.ceil(rate_hz * window_s)),
        history=HistoryPolicy.KEEP_LAST,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
    )


def message_class(name: str) -> Any:
    """``sensor_msgs/msg/Image`` to the class.

    Raises:
        ImportError: the package is not installed; the message names it.
    """
    package, kind, cls = name.split("/")
    return getattr(importlib.import_module(f"{package}.{kind}"), cls)


def to_time(stamp_ns: int) -> Time:
    """Nanoseconds to ``builtin_interfaces/Time``."""
    return Time(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)


def to_duration(ns: int) -> Duration:
    """Nanoseconds to ``builtin_interfaces/Duration``."""
    return Duration(sec=ns // 1_000_000_000, nanosec=ns % 1_000_000_000)


def trajectory_message(plan: JointPlan, output: Output, embodiment: Embodiment) -> JointTrajectory:
    """The joints of ``output`` out of ``plan``; ``time_from_start`` counts from the observation's stamp."""
    joints = [joint for key in output.keys for joint in embodiment.action[key].names]
    columns = [plan.joints.index(joint) for joint in joints]
    message = JointTrajectory(joint_names=joints)
    message.header.stamp = to_time(plan.stamp_ns)
    message.header.frame_id = output.frame_id
    message.points = [
        JointTrajectoryPoint(
            positions=plan.positions[row, columns].tolist(),
            velocities=plan.velocities[row, columns].tolist(),
            time_from_start=to_duration(int(plan.due_ns[row]) - plan.stamp_ns),
        )
        for row in range(len(plan))
    ]
    return message


def chunk_message(
    planned: Planned, embodiment: Embodiment, sequence: int, age_s: float, stages_s: Mapping[str, float]
) -> ActionChunk:
    """``~/action_chunk`` for a plan that was published ``age_s`` after its observation's stamp."""
    chunk = planned.chunk
    keys = list(embodiment.action)
    horizon = len(chunk.actions[keys[0]])
    model_actions = [float(value) for row in range(horizon) for key in keys for value in chunk.actions[key][row]]
    message = ActionChunk(
        sequence=sequence,
        instruction=chunk.instruction,
        embodiment=embodiment.name,
        seed=chunk.seed,
        dt_s=chunk.dt_s,
        horizon=horizon,
        keys=keys,
        key_dims=[chunk.actions[key].shape[1] for key in keys],
        model_actions=model_actions,
        gated_actions=planned.gated_actions.reshape(-1).tolist(),
        points_trimmed=planned.trimmed,
        age_at_publish_s=age_s,
        model_s=stages_s["model"],
        overhead_s=age_s - stages_s["model"],
        stage_names=list(stages_s),
        stage_s=list(stages_s.values()),
    )
    message.header.stamp = to_time(chunk.stamp_ns)
    return message


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
) -> PolicyStatus:
    """``~/status`` for one instant."""
    message = PolicyStatus(
        state=int(snapshot.state),
        reason=snapshot.reason,
        message=snapshot.message,
        instruction=instruction,
        embodiment=embodiment,
        checkpoint=checkpoint,
        dry_run=dry_run,
        paused=snapshot.state is State.PAUSED,
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
    )
    message.header.stamp = to_time(now_ns)
    return message


def diagnostics_message(status: PolicyStatus, max_ages_s: Mapping[str, float], node: str) -> DiagnosticArray:
    """``/diagnostics``: one entry for the policy, one for every stream."""
    level = {
        State.REFUSING: DiagnosticStatus.WARN,
        State.STOPPED: DiagnosticStatus.ERROR,
        State.ERROR: DiagnosticStatus.ERROR,
    }.get(State(status.state), DiagnosticStatus.OK)
    if status.state == PolicyStatus.UNCONFIGURED and status.reason:
        level = DiagnosticStatus.ERROR
    entries = [
        _entry(
            level,
            f"{node}: policy",
            status.message or State(status.state).name.lower(),
            [
                ("state", State(status.state).name.lower()),
                ("reason", status.reason),
                ("chunks", status.chunks),
                ("refused ticks", status.refused),
                ("model p50 [ms]", f"{1e3 * status.model_p50_s:.1f}"),
                ("overhead p50 [ms]", f"{1e3 * status.overhead_p50_s:.1f}"),
            ],
        )
    ]
    for name, age_s, rate_hz in zip(status.stream_names, status.stream_age_s, status.stream_rate_hz, strict=True):
        alive = age_s <= max_ages_s[name]  # false for NaN: never received
        entries.append(
            _entry(
                DiagnosticStatus.OK if alive else DiagnosticStatus.WARN,
                f"{node}: stream {name}",
                "alive" if alive else ("never received" if math.isnan(age_s) else f"{age_s:.2f} s old"),
                [
                    ("age [s]", f"{age_s:.3f}"),
                    ("rate [Hz]", f"{rate_hz:.1f}"),
                    ("max age [s]", max_ages_s[name]),
                ],
            )
        )
    message = DiagnosticArray(status=entries)
    message.header.stamp = status.header.stamp
    return message


def _entry(level: bytes, name: str, text: str, values: Sequence[tuple[str, Any]]) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values]
    return DiagnosticStatus(level=level, name=name, message=text, hardware_id="", values=pairs)
