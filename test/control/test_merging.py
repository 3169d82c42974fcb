"""How one path leads into another: values and velocities that belong together, and no more acceleration than asked."""

from __future__ import annotations

import numpy as np
import pytest
from control_rig import PERIOD_NS, TICK0, Bench, arm, column, home, mixed
from hypothesis import given, settings
from hypothesis import strategies as st

from groot_ros.control.merging import ENSEMBLE_DECAY, Path, eased, ensemble, faded, gentle_ticks, minimum_jerk
from groot_ros.control.space import Space

PERIOD_S = PERIOD_NS * 1e-9
SPACE: Space = Bench(mixed()).space
ROWS = 60
LINES = [
    index for index, kind in enumerate(SPACE.interpolation) if kind == "cubic" and "rotation" not in SPACE.names[index]
]


def path(seed: int, rows: int = ROWS) -> Path:
    """A smooth random motion: sines of a few columns; the tool's orientation stays."""
    rng = np.random.default_rng(seed)
    times = np.arange(rows) * PERIOD_S
    values = np.repeat(home(SPACE)[None], rows, axis=0)
    velocities = np.zeros((rows, SPACE.tangent_count))
    columns, tangents = SPACE.lines
    for value, tangent in zip(columns, tangents, strict=True):
        size, rate, phase = rng.uniform(0.1, 0.5), rng.uniform(1.0, 4.0), rng.uniform(0, 6)
        values[:, value] = size * np.sin(rate * times + phase)
        velocities[:, tangent] = size * rate * np.cos(rate * times + phase)
    return Path(values, velocities)


def assert_belong_together(merged: Path) -> None:
    """Velocities are the derivatives of values, in columns that are curves."""
    columns = dict(zip(SPACE.lines[1].tolist(), SPACE.lines[0].tolist(), strict=True))
    for tangent in LINES:
        slope = np.gradient(merged.values[:, columns[tangent]], PERIOD_S)[2:-2]
        scale = 1.0 + np.abs(np.diff(merged.velocities[:, tangent])).max()
        np.testing.assert_allclose(slope, merged.velocities[2:-2, tangent], atol=0.2 * scale)


def test_minimum_jerk_goes_from_0_to_1_at_rest_at_both_ends() -> None:
    u = np.linspace(-0.5, 1.5, 401)
    share, rate = minimum_jerk(u)
    assert np.all(np.diff(share) >= 0) and share[0] == 0.0 and share[-1] == 1.0
    np.testing.assert_allclose(np.gradient(share, u)[5:-5], rate[5:-5], atol=0.02)
    assert rate[0] == rate[-1] == 0.0 and rate.max() == pytest.approx(1.875)


@pytest.mark.parametrize(("start", "length"), [(0.0, 20.0), (-1.0, 30.0), (7.5, 12.3), (0.0, 0.0), (0.0, -3.0)])
def test_a_fade_begins_as_the_old_path_and_ends_as_the_new_one(start: float, length: float) -> None:
    old, new = path(1), path(2)
    merged = faded(SPACE, old, new, start, length, PERIOD_S)
    ticks = np.arange(ROWS)
    after = ticks >= start + max(length, 0.0)
    np.testing.assert_allclose(merged.values[after], new.values[after], atol=1e-12)
    np.testing.assert_allclose(merged.velocities[after], new.velocities[after], atol=1e-12)
    if length > 0:
        before = ticks <= start
        curves = [column(SPACE, SPACE.names[tangent]) for tangent in LINES]
        np.testing.assert_allclose(merged.values[before][:, curves], old.values[before][:, curves], atol=1e-12)
        assert_belong_together(merged)


def test_what_is_no_curve_does_not_fade() -> None:
    old, new = path(1), path(2)
    for merged in (
        faded(SPACE, old, new, 0.0, 40.0, PERIOD_S),
        eased(SPACE, old, new, 5, np.ones(SPACE.tangent_count), PERIOD_S, 3, 50),
    ):
        for name in ("g", "mode.data.0"):
            at = column(SPACE, name)
            np.testing.assert_allclose(merged.values[:, at], new.values[:, at], atol=1e-15)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), start=st.integers(0, 30), least=st.integers(-5, 10), reference=st.floats(0.01, 50.0))
def test_an_easing_continues_the_old_path_and_becomes_the_new_one(
    seed: int, start: int, least: int, reference: float
) -> None:
    old, new = path(seed), path(seed + 1000)
    longest = ROWS - 1 - start
    merged = eased(SPACE, old, new, start, np.full(SPACE.tangent_count, reference), PERIOD_S, least, longest)
    curves = [column(SPACE, SPACE.names[tangent]) for tangent in LINES]
    np.testing.assert_allclose(merged.values[: start + 1, curves], old.values[: start + 1, curves], atol=1e-9)
    np.testing.assert_allclose(merged.velocities[: start + 1, LINES], old.velocities[: start + 1, LINES], atol=1e-9)
    np.testing.assert_allclose(merged.values[-1], new.values[-1], atol=1e-9)
    np.testing.assert_allclose(merged.velocities[-1], new.velocities[-1], atol=1e-9)
    # Position and velocity go on without a jump: the row after follows from the row at the seam.
    step = merged.values[start + 1, curves] - merged.values[start, curves]
    mean = 0.5 * (merged.velocities[start + 1, LINES] + merged.velocities[start, LINES])
    added = np.abs(merged.velocities[start + 1, LINES] - merged.velocities[start, LINES]).max()
    np.testing.assert_allclose(step, mean * PERIOD_S, atol=PERIOD_S * (0.1 + 0.4 * added))


def test_an_easing_takes_as_long_as_the_acceleration_asks() -> None:
    old, new = path(3), path(3)
    new.values[:, column(SPACE, "a")] += 0.1
    taken = []
    for reference in (20.0, 4.0, 1.0):
        merged = eased(SPACE, old, new, 0, np.full(SPACE.tangent_count, reference), PERIOD_S, 3, 59)
        extra = np.diff(merged.velocities[:, 0] - new.velocities[:, 0]) / PERIOD_S
        assert np.abs(extra).max() <= 1.05 * reference
        taken.append(int(np.argmax(np.abs(merged.values[:, 0] - new.values[:, 0]) < 1e-9)))
    assert taken == sorted(taken) and taken[0] < taken[-1]


def test_a_gentle_fade_is_the_shortest_within_the_limits() -> None:
    bench = Bench(arm())
    gaps = np.array([[0.3, 0.0, 9.0], [0.1, 0.2, 9.0]])  # the gripper steps
    ticks = gentle_ticks(bench.space, gaps, PERIOD_S)
    assert ticks * PERIOD_S == pytest.approx(np.sqrt(5.7735 * 0.3 / 4.0), rel=1e-3)
    span_s = ticks * PERIOD_S
    u = np.linspace(0.0, 1.0, 2001)
    _, rate = minimum_jerk(u)
    assert (rate * 0.3 / span_s).max() <= 1.0 and (np.gradient(rate, u) * 0.3 / span_s**2).max() <= 4.0 * 1.01
    assert gentle_ticks(bench.space, np.array([[2.0, 0.0, 0.0]]), PERIOD_S) * PERIOD_S == pytest.approx(3.75)  # 1 rad/s
    assert gentle_ticks(bench.space, np.zeros((1, 3)), PERIOD_S) == 0.0


def test_an_ensemble_is_the_weighted_mean_of_what_covers_a_tick() -> None:
    bench = Bench(arm())
    space, dt = bench.space, bench.pace.dt_ns
    chunks = []
    for number, value in enumerate((0.0, 0.3, 0.6)):
        due = bench.pace.due_ns(TICK0 * PERIOD_NS + 4 * number * dt)
        values = np.repeat(home(space)[None], 16, axis=0)
        values[:, 0], values[:, 2] = value, value / 10
        chunks.append((due, values))
    at_ns = np.array([chunks[2][0][0], chunks[2][0][8], chunks[2][0][15]])
    merged = ensemble(space, chunks, at_ns)
    weights = np.exp(-ENSEMBLE_DECAY * np.arange(3))
    mean = [
        (weights @ [0.0, 0.3, 0.6]) / weights.sum(),
        (weights[1:] @ [0.3, 0.6]) / weights[1:].sum(),  # the oldest has ended
        0.6,
    ]
    np.testing.assert_allclose(merged.values[:, 0], mean, atol=1e-9)
    np.testing.assert_array_equal(merged.values[:, 2], 0.06)  # steps: the newest alone
    np.testing.assert_allclose(merged.velocities, 0.0, atol=1e-9)


def test_an_ensemble_of_one_is_itself() -> None:
    bench = Bench(mixed())
    due = bench.pace.due_ns(0)
    values = bench.rows(("a", lambda i: 0.02 * i), ("mode.data.0", lambda i: i > 4))
    merged = ensemble(bench.space, [(due, values)], due)
    np.testing.assert_allclose(bench.space.minus(merged.values, values), 0.0, atol=1e-12)
