"""What the policy node says about itself: chunks, status, diagnostics."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from groot_ros.control.continuity import ContinuitySummary
from groot_ros.control.handover import Handover
from groot_ros.control.layout import Layout
from groot_ros.control.loop import LoopTiming
from groot_ros.control.plans import Accepted
from groot_ros.control.track import resting
from groot_ros.embodiment.load import load_embodiment
from groot_ros.msg import ActionChunk, PolicyStatus
from groot_ros.nodes.convert import to_time
from groot_ros.nodes.reports import chunk_message, diagnostics_message, status_message
from groot_ros.policy.base import Chunk
from groot_ros.policy.news import EngineFacts
from groot_ros.policy.supervisor import Snapshot, State

T0 = 1_700_000_000_999_999_999
STAGES = {"assemble": 0.002, "model": 0.05, "plan": 0.001}
TIMING = LoopTiming(50.0, 900, 0, 1e-4, 2e-3, 4e-3)
SUMMARY = ContinuitySummary(
    ticks=800,
    stalled=0,
    handovers=20,
    jump_p50=0.01,
    jump_p95=0.02,
    jump_max=0.03,
    seam_acceleration=0.2,
    seam_acceleration_max=0.5,
    inside_acceleration=0.4,
    cosine_p50=0.98,
    age_p50_s=0.21,
    age_p95_s=0.34,
    delay_p50=3.0,
    delay_p95=4.0,
    delay_max=5.0,
    rejected={"chunk_too_late": 2, "disowned": 1},
)


@pytest.fixture(scope="module")
def layout() -> Layout:
    return Layout(load_embodiment("sim_arm"))


def accepted(layout: Layout, handover: Handover | None) -> Accepted:
    rng = np.random.default_rng(0)
    embodiment = layout.embodiment
    actions = {
        key: rng.normal(size=(embodiment.horizon, len(spec.names))).astype(np.float32)
        for key, spec in embodiment.action.items()
    }
    chunk = Chunk(T0, embodiment.dt_s, actions, "stack", 7, {}, frozen=3)
    rows = layout.values(actions)
    still = resting(layout.space, 20_000_000, 5, rows[0])
    return Accepted(
        chunk=chunk,
        base=None,
        track=still,
        first_tick=6,
        trimmed=4,
        clamped={},
        stamp_ns=T0,
        rows=rows,
        handover=handover,
    )


def seam(layout: Layout, gap: np.ndarray, *, overlap: bool = True) -> Handover:
    return Handover(6, 100, 200, gap, overlap, 0, np.zeros(len(gap)), 0.5)


def said(layout: Layout, handover: Handover | None = None) -> ActionChunk:
    taken = accepted(layout, handover)
    width = sum(rows.shape[1] for rows in taken.chunk.actions.values())
    gated = np.full((layout.embodiment.horizon, width), np.nan)
    gated[4:] = 0.25
    return chunk_message(taken, layout, 12, 0.08, STAGES, gated, delay_ticks=3)


def test_a_chunk_is_a_table_of_what_the_model_said_and_what_is_executed(layout: Layout) -> None:
    message, embodiment = said(layout), layout.embodiment
    actions = accepted(layout, None).chunk.actions
    assert (message.sequence, message.instruction, message.seed) == (12, "stack", 7)
    assert message.header.stamp == to_time(T0), "the observation's stamp, whatever the due times count from"
    assert (list(message.keys), list(message.key_dims)) == (list(embodiment.action), [5, 1])
    table = np.array(message.model_actions).reshape(message.horizon, sum(message.key_dims))
    np.testing.assert_array_equal(table[:, :5], actions["single_arm"])
    np.testing.assert_array_equal(table[:, 5:], actions["gripper"])
    sent = np.array(message.gated_actions).reshape(table.shape)
    assert np.isnan(sent[: message.points_trimmed]).all() and (sent[message.points_trimmed :] == 0.25).all()
    assert (message.points_trimmed, message.frozen_points, message.delay_ticks) == (4, 3, 3)
    assert message.chunking == embodiment.control.chunking
    assert message.overhead_s == pytest.approx(0.08 - STAGES["model"])
    assert dict(zip(message.stage_names, message.stage_s, strict=True)) == STAGES


def test_the_jump_of_a_chunk_is_of_what_moves_on_a_curve(layout: Layout) -> None:
    gap = np.linspace(0.01, -0.05, layout.space.tangent_count)
    curved = np.array([kind == "cubic" for kind in layout.space.interpolation])
    assert curved.any() and not curved.all(), "the gripper of the arm is no curve"
    assert said(layout, seam(layout, gap)).handover_jump == np.abs(gap[curved]).max() < np.abs(gap).max()
    assert math.isnan(said(layout).handover_jump)
    assert math.isnan(said(layout, seam(layout, gap, overlap=False)).handover_jump)


def status(
    state: State = State.RUNNING,
    timing: LoopTiming | None = TIMING,
    summary: ContinuitySummary | None = SUMMARY,
    reason: str = "",
) -> PolicyStatus:
    snapshot = Snapshot(
        state,
        reason,
        f"because of {reason}" if reason else "",
        50,
        20,
        {"stream_stale": 4, "chunk_too_late": 2},
        (0.05, 0.07),
        (0.01, 0.02),
        {"assemble": (0.002, 0.003), "model": (0.05, 0.07)},
    )
    return status_message(
        snapshot,
        now_ns=T0,
        instruction="stack",
        embodiment="sim_arm",
        checkpoint="there",
        dry_run=False,
        ages_s={"front": 0.02, "joints": math.inf},
        rates_hz={"front": 30.0, "joints": 0.0},
        queue_points=9,
        timing=timing,
        continuity=summary,
        chunking="guided",
        braking=True,
    )


def test_status_tells_every_number_of_the_loop_and_of_continuity() -> None:
    message = status()
    assert (message.chunking, message.braking, message.queue_points, message.refused) == ("guided", True, 9, 6)
    told = {
        "rate_hz": message.control_rate_hz,
        "ticks": message.ticks_executed,
        "missed": message.ticks_missed,
        "jitter_p50_s": message.tick_jitter_p50_s,
        "jitter_p99_s": message.tick_jitter_p99_s,
        "jitter_max_s": message.tick_jitter_max_s,
    }
    assert told == dataclasses.asdict(TIMING)
    told = {
        "stalled": message.stalled_ticks,
        "handovers": message.handovers,
        "jump_p50": message.handover_jump_p50,
        "jump_p95": message.handover_jump_p95,
        "jump_max": message.handover_jump_max,
        "seam_acceleration": message.seam_acceleration,
        "seam_acceleration_max": message.seam_acceleration_max,
        "inside_acceleration": message.inside_acceleration,
        "cosine_p50": message.boundary_cosine_p50,
        "age_p50_s": message.observation_age_p50_s,
        "age_p95_s": message.observation_age_p95_s,
        "delay_p50": message.delay_ticks_p50,
        "delay_p95": message.delay_ticks_p95,
        "delay_max": message.delay_ticks_max,
        "rejected": dict(zip(message.rejected_reasons, message.rejected_counts, strict=True)),
        "ticks": SUMMARY.ticks,  # part of the loop's
    }
    assert told == dataclasses.asdict(SUMMARY)
    assert message.seam_ratio == 0.5
    stages = zip(message.stage_names, message.stage_p50_s, message.stage_p95_s, strict=True)
    assert list(stages) == [("assemble", 0.002, 0.003), ("model", 0.05, 0.07)]
    assert message.stream_age_s[0] == 0.02 and math.isnan(message.stream_age_s[1])


def test_status_before_a_robot_is_configured_has_no_numbers() -> None:
    message = status(State.UNCONFIGURED, None, None)
    assert (message.control_rate_hz, message.ticks_executed, message.handovers) == (0.0, 0, 0)
    numbers = (message.tick_jitter_p99_s, message.handover_jump_p95, message.seam_ratio, message.delay_ticks_max)
    assert all(math.isnan(number) for number in numbers)


def diagnosed(message: PolicyStatus, previous: PolicyStatus | None = None) -> dict[str, tuple[bytes, str]]:
    array = diagnostics_message(message, {"front": 0.1, "joints": 0.1}, "policy", previous)
    assert array.header.stamp == message.header.stamp
    return {entry.name.removeprefix("policy: "): (entry.level, entry.message) for entry in array.status}


def values(message: PolicyStatus, name: str) -> dict[str, str]:
    array = diagnostics_message(message, {"front": 0.1, "joints": 0.1}, "policy")
    (entry,) = (entry for entry in array.status if entry.name == f"policy: {name}")
    return {pair.key: pair.value for pair in entry.values}


def test_diagnostics_of_a_policy_that_does_well() -> None:
    found = diagnosed(status(), status())
    assert list(found) == ["policy", "control loop", "continuity", "latency", "stream front", "stream joints"]
    assert found.pop("stream joints") == (DiagnosticStatus.WARN, "never received")
    assert {level for level, _ in found.values()} == {DiagnosticStatus.OK}
    assert values(status(), "latency") == {
        "assemble p50 / p95 [ms]": "2.0 / 3.0",
        "model p50 / p95 [ms]": "50.0 / 70.0",
    }
    loop = values(status(), "control loop")
    assert (loop["jitter p99 [ms]"], loop["rate [Hz]"], loop["missed ticks"]) == ("2.0", "50", "0")
    continuity = values(status(), "continuity")
    assert (continuity["jump p95 [rad or m]"], continuity["seam ratio"]) == ("0.0200", "0.50")
    assert (continuity["rejected chunks"], continuity["rejected: chunk_too_late"]) == ("3", "2")
    assert continuity["delay p50 / p95 / max [ticks]"] == "3 / 4 / 5"


@pytest.mark.parametrize(
    ("engine", "level", "text"),
    [
        (EngineFacts("graph", buckets=(("80", "graph"),)), DiagnosticStatus.OK, "graph"),
        (EngineFacts("eager", "out of GPU memory"), DiagnosticStatus.WARN, "eager: out of GPU memory"),
    ],
)
def test_how_chunks_are_computed_is_told_and_a_slower_way_warns(engine: EngineFacts, level: bytes, text: str) -> None:
    array = diagnostics_message(status(), {"front": 0.1, "joints": 0.1}, "policy", None, engine)
    (entry,) = (entry for entry in array.status if entry.name == "policy: engine")
    assert (entry.level, entry.message) == (level, text)
    pairs = {pair.key: pair.value for pair in entry.values}
    assert (pairs["engine"], pairs["reason"], pairs["precision"]) == (engine.mode, engine.reason, "model")
    assert pairs.get("prompt of 80") == ("graph" if engine.buckets else None)


def test_missed_and_stalled_ticks_warn_once() -> None:
    bad = status(timing=dataclasses.replace(TIMING, missed=3), summary=dataclasses.replace(SUMMARY, stalled=7))
    assert diagnosed(bad, status())["control loop"] == (
        DiagnosticStatus.WARN,
        "3 ticks missed, 7 ticks without a target",
    )
    assert diagnosed(bad)["control loop"][0] == DiagnosticStatus.WARN, "the first message counts from 0"
    assert diagnosed(bad, bad)["control loop"][0] == DiagnosticStatus.OK
    assert diagnosed(status(), bad)["control loop"][0] == DiagnosticStatus.OK, "counted anew since then"


def test_a_late_loop_and_a_hand_over_that_can_be_felt_warn() -> None:
    late = status(timing=dataclasses.replace(TIMING, jitter_p99_s=6e-3))
    assert diagnosed(late, late)["control loop"] == (DiagnosticStatus.WARN, "jitter p99 6.0 ms")
    rough = status(summary=dataclasses.replace(SUMMARY, seam_acceleration=0.5))
    level, text = diagnosed(rough, rough)["continuity"]
    assert level == DiagnosticStatus.WARN and "1.25 times" in text


def test_a_motion_at_its_limits_throughout_is_not_called_smooth() -> None:
    full = status()
    full.seam_acceleration = full.inside_acceleration = full.seam_ratio = 1.0
    level, text = diagnosed(full, full)["continuity"]
    assert level == DiagnosticStatus.OK and "limits throughout" in text


def test_nothing_to_tell_is_no_warning() -> None:
    found = diagnosed(status(State.READY, None, None))
    assert found["control loop"] == (DiagnosticStatus.OK, "not running")
    assert found["continuity"] == (DiagnosticStatus.OK, "no hand-over yet")


@pytest.mark.parametrize(
    ("state", "reason", "level"),
    [
        (State.RUNNING, "", DiagnosticStatus.OK),
        (State.REFUSING, "stream_stale", DiagnosticStatus.WARN),
        (State.STOPPED, "gate", DiagnosticStatus.ERROR),
        (State.ERROR, "exception", DiagnosticStatus.ERROR),
        (State.UNCONFIGURED, "", DiagnosticStatus.OK),
        (State.UNCONFIGURED, "CheckpointError", DiagnosticStatus.ERROR),
    ],
)
def test_the_policys_own_entry_has_the_cause(state: State, reason: str, level: bytes) -> None:
    text = f"because of {reason}" if reason else state.name.lower()
    assert diagnosed(status(state, reason=reason))["policy"] == (level, text)
