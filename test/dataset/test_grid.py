"""The grid of rows: exact integers, away from the stamps of pictures."""

from __future__ import annotations

import dataclasses

import demonstration as demo
import numpy as np
import pytest
from demonstration import MS, T0, S, robot
from hypothesis import given, settings
from hypothesis import strategies as st

from groot_ros.dataset.grid import Grid, quiet_shift
from groot_ros.dataset.segment import Segment, Tick
from groot_ros.dataset.spec import DatasetSpec
from groot_ros.observation.images import read_frame
from groot_ros.observation.types import Samples

SPEC = DatasetSpec.of(robot())


@settings(max_examples=60, deadline=None)
@given(fps=st.integers(1, 240), rows=st.integers(1, 300))
def test_rows_lie_on_the_grid_and_never_drift(fps: int, rows: int) -> None:
    spec = dataclasses.replace(SPEC, fps=fps)
    writer, still = demo.FakeWriter("task"), {"arm": np.zeros(2, np.float32)}
    picture = read_frame(demo.image(T0, 1), "front", robot().cameras["front"])
    samples = Samples(dict.fromkeys(demo.CAMERAS, picture), still, dict.fromkeys(spec.streams, T0))
    grid = Grid(fps)
    grid.restart(T0 + 17)
    segment = Segment(spec, writer, grid.next_ns)
    assert segment.put(Tick(grid.next_ns, samples, still))
    expected = [grid.next_ns]
    for _ in range(rows):
        grid.step()
        expected.append(grid.next_ns)
        assert segment.repeat()
    assert writer.column("stamp_ns").tolist() == expected == [T0 + 17 + k * S // fps for k in range(rows + 1)]
    assert (writer.column("stamp_ns")[:, None] - writer.column("age_ns") == T0).all()


@given(fps=st.integers(1, 240), start=st.integers(0, 10**10), time=st.integers(0, 10**13))
def test_a_skip_lands_on_the_grid(fps: int, start: int, time: int) -> None:
    grid = Grid(fps)
    grid.restart(start)
    before_ns = grid.next_ns
    grid.skip_to(time)
    assert before_ns <= grid.next_ns <= max(time, before_ns)
    assert max(time, before_ns) - grid.next_ns <= S // fps + 1


@given(
    fps=st.integers(5, 60),
    tick_ns=st.integers(10**9, 2 * 10**9),
    stamp_ns=st.integers(8 * 10**8, 10**9),
    ratio=st.sampled_from((0.25, 0.5, 1, 2, 3)),
)
def test_one_camera_gets_its_margin_and_young_pictures(fps: int, tick_ns: int, stamp_ns: int, ratio: float) -> None:
    rate_hz = fps * ratio
    shift_ns = quiet_shift(tick_ns, fps, [([stamp_ns], rate_hz)])
    period_ns = S / max(fps, rate_hz)
    age = (tick_ns + shift_ns - stamp_ns) % period_ns / period_ns
    assert 0 <= shift_ns < S // fps
    assert 0.25 - 1e-3 <= age < 0.25 + max(ratio, 1) / 16 + 1e-3


@given(tick_ns=st.integers(10**9, 2 * 10**9), other_ns=st.integers(0, S // 30))
def test_two_cameras_share_the_margin(tick_ns: int, other_ns: int) -> None:
    stamps = [8 * 10**8, 8 * 10**8 + other_ns]
    shift_ns = quiet_shift(tick_ns, 30, [([stamp_ns], 30.0) for stamp_ns in stamps])
    for stamp_ns in stamps:
        phase = (tick_ns + shift_ns - stamp_ns) % (S / 30) / (S / 30)
        assert 0.24 - 1 / 16 < phase < 0.81 or 0.5 - abs(0.5 - phase) > 0.24 - 1 / 16


@pytest.mark.parametrize("rates", [[], [25.0], [29.0, 17.0]])
def test_cameras_that_drift_past_the_grid_have_no_say(rates: list[float]) -> None:
    assert quiet_shift(T0, 30, [([T0 - 7 * MS], rate_hz) for rate_hz in rates]) == 0


def test_alignment_happens_once() -> None:
    grid = Grid(30)
    grid.restart(T0)
    assert grid.align(T0, [([T0 - MS], 30.0)])
    assert T0 < grid.next_ns < T0 + S // 30
    assert not grid.align(grid.next_ns, [([T0 - 20 * MS], 30.0)])
