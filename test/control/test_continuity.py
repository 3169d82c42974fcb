"""The numbers that say how continuous the motion was, against motions whose numbers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from control_rig import PERIOD_NS, Bench, arm, home

from groot_ros.control.continuity import Continuity, ContinuitySummary
from groot_ros.control.handover import Handover
from groot_ros.control.limiter import Motion
from groot_ros.control.plans import Step

SPACE = Bench(arm()).space
PERIOD_S = PERIOD_NS * 1e-9


def step(tick: int, speed: float, *, planned: bool = True) -> Step:
    """``a`` (4 rad/s^2 at most) moves with ``speed``."""
    return Step(tick, Motion(home(SPACE), np.array([speed, 0.0, 0.0])), planned, False)


def seam(tick: int, *gap: float, overlap: bool = True, cosine: float = 0.5) -> Handover:
    return Handover(tick, 0, 0, np.array(gap), overlap, 0, np.zeros(len(gap)), cosine)


def continuity(**options: int) -> Continuity:
    return Continuity(SPACE, PERIOD_S, **options)


def test_nothing_is_nan_and_not_zero() -> None:
    summary = continuity().summary()
    assert (summary.ticks, summary.stalled, summary.handovers, summary.rejected) == (0, 0, 0, {})
    for name in ("jump_p50", "seam_acceleration", "inside_acceleration", "age_p50_s", "delay_max", "seam_ratio"):
        assert math.isnan(getattr(summary, name)), name


def test_accelerations_are_shares_of_the_limit_and_seams_are_told_apart() -> None:
    counted = continuity()
    for tick in range(100):
        # 1 rad/s^2 everywhere, 2 within two ticks of the hand-over on tick 50
        counted.stepped(step(tick, 0.0 if tick % 2 else (0.04 if 49 <= tick <= 51 else 0.02)), 0.1)
    counted.took_over(seam(50, 0.01, -0.03, 0.1))
    summary = counted.summary()
    assert summary.inside_acceleration == pytest.approx(0.25)
    assert summary.seam_acceleration == summary.seam_acceleration_max == pytest.approx(0.5)
    assert summary.seam_ratio == pytest.approx(2.0)
    assert (summary.ticks, summary.handovers, summary.stalled) == (100, 1, 0)


def test_the_median_and_the_worst_seam() -> None:
    counted = continuity()
    for tick in range(100):
        speed = {20: 0.008, 50: 0.016, 80: 0.04}.get(tick, 0.0)
        counted.stepped(step(tick, speed), None)
    for tick in (20, 50, 80):
        counted.took_over(seam(tick, 0.0, 0.0, 0.0))
    summary = counted.summary()
    assert summary.seam_acceleration == pytest.approx(0.2) and summary.seam_acceleration_max == pytest.approx(0.5)
    assert math.isnan(summary.age_p50_s)


def test_jumps_are_those_of_motions_and_only_where_both_chunks_had_a_target() -> None:
    counted = continuity()
    for gap in (0.01, 0.02, 0.03):
        counted.took_over(seam(0, 0.0, -gap, 0.1))  # the gripper steps
    counted.took_over(seam(0, 9.0, 9.0, 9.0, overlap=False, cosine=-1.0))
    counted.took_over(None)
    counted.took_over(seam(0, 0.02, 0.0, 0.0, cosine=float("nan")))
    summary = counted.summary()
    assert (summary.jump_p50, summary.jump_max) == (pytest.approx(0.02), pytest.approx(0.03))
    assert summary.handovers == 5 and summary.cosine_p50 == 0.5


def test_a_tick_that_was_missed_is_no_acceleration() -> None:
    counted = continuity()
    counted.stepped(step(0, 0.0), None)
    counted.stepped(step(5, 0.9), None)
    assert math.isnan(counted.summary().inside_acceleration)


def test_braking_without_a_target_is_no_inside_of_a_chunk() -> None:
    counted = continuity()
    for tick in range(100):  # 1 rad/s^2 while planned, all of the 4 rad/s^2 while it runs out
        planned = tick % 50 < 40
        counted.stepped(step(tick, (0.02 if planned else 0.08) * (tick % 2), planned=planned), None)
    counted.took_over(seam(50, 0.0, 0.0, 0.0))
    assert counted.summary().inside_acceleration == pytest.approx(0.25)


def test_hand_overs_before_the_window_cost_nothing_and_count_for_nothing() -> None:
    counted = continuity(window=100)
    for tick in range(1000):
        counted.stepped(step(tick, 0.08 if tick == 500 else 0.0), None)
        if tick % 10 == 0:
            counted.took_over(seam(tick, 0.0, 0.0, 0.0))
    summary = counted.summary()
    assert summary.handovers == 100 and summary.seam_acceleration_max == 0.0


def test_stalls_ages_delays_and_rejections_are_counted() -> None:
    counted = continuity()
    for tick in range(10):
        counted.stepped(step(tick, 0.0, planned=tick < 7), 0.1 * tick if tick < 7 else None)
    for delay in (1, 2, 9):
        counted.delayed(delay)
    counted.rejected("gate")
    counted.rejected("chunk_older")
    counted.rejected("gate")
    summary = counted.summary()
    assert (summary.ticks, summary.stalled) == (10, 3)
    assert summary.age_p50_s == pytest.approx(0.3)
    assert (summary.delay_p50, summary.delay_max) == (2.0, 9.0)
    assert summary.rejected == {"gate": 2, "chunk_older": 1}


def test_old_ticks_are_forgotten_and_counts_are_not() -> None:
    counted = continuity(window=20)
    for tick in range(100):
        counted.stepped(step(tick, 0.08 * (tick == 50)), 1.0 if tick < 80 else 0.0)
    summary = counted.summary()
    assert summary.ticks == 100 and summary.inside_acceleration == 0.0 and summary.age_p95_s == 0.0
    assert isinstance(summary, ContinuitySummary)
