"""Which streams count as too slow: half-rate ones always, bursts and jitter never."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from demonstration import MS, S, robot

from groot_ros.dataset.stream_watch import FEWEST, StreamWatch


def watch(rate_hz: float, max_age_s: float, stamps_ns: Iterable[int] = ()) -> StreamWatch:
    stream = robot().state_streams["joints"].model_copy(update={"rate_hz": rate_hz, "max_age_s": max_age_s})
    found = StreamWatch("joints", stream)
    for stamp_ns in stamps_ns:
        found.add(stamp_ns)
    return found


def even(rate_hz: float, count: int, start_ns: int = S) -> list[int]:
    return [start_ns + round(k * S / rate_hz) for k in range(count)]


@pytest.mark.parametrize("max_age_s", [0.05, 0.1])
def test_half_the_rate_is_refused_whether_its_intervals_count_as_gaps_or_not(max_age_s: float) -> None:
    """A camera of 15 Hz that is declared as 30: at the start, and when it slows down while recording."""
    for at_start, stamps_ns in ((True, even(15, 20)), (False, [*even(30, 40), *even(15, 20, start_ns=3 * S)])):
        refusal = watch(30.0, max_age_s, stamps_ns).refusal(at_start)
        assert refusal is not None
        assert "found 15.0 Hz" in refusal.message


@pytest.mark.parametrize("rate_hz", [29.97, 24.0, 31.0, 300.0])
def test_rates_that_will_do(rate_hz: float) -> None:
    assert watch(30.0, 0.1, even(rate_hz, 400)).refusal(at_start=True) is None


def test_a_gap_is_forgiven_while_recording_and_asks_for_a_new_rate_before_a_segment() -> None:
    found = watch(30.0, 0.1, even(30, 40))
    for stamp_ns in even(30, FEWEST, start_ns=4 * S):
        found.add(stamp_ns)
        assert found.refusal(at_start=False) is None
        refusal = found.refusal(at_start=True)
        assert refusal is not None and "too few samples in a row" in refusal.message
    assert found.gaps == 1


@pytest.mark.parametrize("rate_hz", [100.0, 1000.0])
def test_hiccups_shorter_than_the_age_that_is_allowed_are_none(rate_hz: float) -> None:
    """A publisher that is kept waiting for 90 ms now and then, and sends on at its rate."""
    found, stamp_ns = watch(rate_hz, 0.1), S
    for k in range(round(3 * rate_hz)):
        stamp_ns += round(S / rate_hz) + (90 * MS if k % rate_hz == rate_hz // 2 else 0)
        found.add(stamp_ns)
        assert k < 0.3 * rate_hz or found.refusal(at_start=True) is None


def test_bursts_and_jitter_are_no_lack_of_rate() -> None:
    random = np.random.default_rng(0)
    bursts = [S + 40 * MS * (k // 4) + k for k in range(400)]  # four at a time, 100 Hz in all
    jitter = np.cumsum(random.uniform(0.2, 1.8, 400) * 10 * MS).astype(int)
    for stamps_ns in (bursts, jitter.tolist()):
        found = watch(100.0, 0.1, stamps_ns[:50])
        for stamp_ns in stamps_ns[50:]:
            found.add(stamp_ns)
            assert found.refusal(at_start=True) is None
