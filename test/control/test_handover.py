"""How far two chunks are apart where one takes over from the other."""

from __future__ import annotations

import numpy as np
import pytest
from control_rig import PERIOD_NS, STEP_TICKS, TICK0, Bench, arm, mixed

from groot_ros.control import rotation
from groot_ros.control.handover import Handover, handover

AT_ONCE = {"control": {"rate_hz": 50.0, "blend_in_s": 0.0}}


def seam(
    bench: Bench, values: np.ndarray, arrival: int, *, stamp: int = 0, frozen: int = 0, patient: bool = False
) -> Handover:
    """For a chunk of an observation ``stamp`` ticks later than the one that is executed."""
    due_ns = bench.pace.due_ns((TICK0 + stamp) * PERIOD_NS)
    return handover(bench.space, bench.timeline.track, due_ns, values, TICK0 + arrival, frozen, patient)


@pytest.fixture
def bench() -> Bench:
    made = Bench(arm(**AT_ONCE))
    made.accept(made.chunk(TICK0, made.rows(("a", lambda i: 0.02 * i))), TICK0 + 3)
    return made


def test_a_chunk_that_says_the_same_has_no_gap(bench: Bench) -> None:
    same = bench.rows(("a", lambda i: 0.02 * (i + 6)))
    found = seam(bench, same, 33, stamp=6 * STEP_TICKS)
    np.testing.assert_allclose(found.gap, 0.0, atol=1e-6)
    assert found.overlap and found.cosine == pytest.approx(1.0)
    assert found.tick == TICK0 + 34 and found.end_ns == (TICK0 + 80) * PERIOD_NS


@pytest.mark.parametrize(("arrival", "row"), [(33, 0), (35, 1), (36, 1), (47, 3)])
def test_the_gap_is_that_of_the_first_row_that_is_not_past(bench: Bench, arrival: int, row: int) -> None:
    values = bench.rows(("a", lambda i: 0.02 * (i + 6) + 0.01 * i))
    found = seam(bench, values, arrival, stamp=6 * STEP_TICKS)
    assert found.gap[0] == pytest.approx(0.01 * (row + 1), abs=1e-6)


@pytest.mark.parametrize("patient", [False, True])
@pytest.mark.parametrize("frozen", [0, 1, 4])
def test_rows_that_were_restored_are_no_seam(bench: Bench, frozen: int, patient: bool) -> None:
    values = bench.rows(("a", lambda i: 0.02 * (i + 6) + 0.3 * (i > frozen)))
    found = seam(bench, values, 31, stamp=6 * STEP_TICKS, frozen=frozen, patient=patient)
    assert found.gap[0] == pytest.approx(0.3, abs=1e-6)
    assert found.begin_ns >= (TICK0 + 31) * PERIOD_NS
    if frozen:
        assert found.begin_ns >= (TICK0 + (6 + frozen) * STEP_TICKS) * PERIOD_NS
    if patient:
        assert found.begin_ns == (TICK0 + (7 + frozen) * STEP_TICKS) * PERIOD_NS  # the first new row
    assert (found.tick - 1) * PERIOD_NS == found.begin_ns


def test_the_other_way_round_has_a_cosine_of_minus_one_and_standing_still_has_none(bench: Bench) -> None:
    back = bench.rows(("a", lambda i: 0.02 * (6 - i)))
    assert seam(bench, back, 33, stamp=6 * STEP_TICKS).cosine == pytest.approx(-1.0)
    assert np.isnan(seam(bench, bench.rows(), 33, stamp=6 * STEP_TICKS).cosine)


def test_after_the_old_chunks_end_there_is_no_overlap(bench: Bench) -> None:
    assert not seam(bench, bench.rows(), 85, stamp=82).overlap
    assert seam(bench, bench.rows(), 70, stamp=70).overlap


def test_patience_ends_with_the_old_chunk(bench: Bench) -> None:
    found = seam(bench, bench.rows(), 78, stamp=77, patient=True)
    assert found.begin_ns == (TICK0 + 78) * PERIOD_NS and not found.overlap


def test_the_gap_of_an_orientation_is_an_angle() -> None:
    bench = Bench(mixed(**AT_ONCE))
    bench.accept(bench.chunk(TICK0, bench.rows()), TICK0 + 3)
    values = bench.rows()
    values[:, 7:11] = -rotation.exp(np.array([0.0, 0.2, 0.0]))  # the same turn with the other sign
    np.testing.assert_allclose(seam(bench, values, 10, stamp=5).gap[7:10], [0.0, 0.2, 0.0], atol=1e-9)


def test_what_steps_is_no_curve() -> None:
    space = Bench(mixed()).space
    curves = dict(zip(space.names, space.smooth.tolist(), strict=True))
    assert not curves["g"] and not curves["mode.data.0"] and curves["a"] and curves["tool.rotation.y"]
