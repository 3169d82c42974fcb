"""The buffer of one stream: look-ups as by brute force, memory bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groot_ros.observation.buffer import StreamBuffer


@given(
    steps=st.lists(st.integers(1, 40), min_size=1, max_size=60),
    window=st.integers(1, 200),
    back=st.integers(0, 300),
)
def test_as_of_is_what_brute_force_finds(steps: list[int], window: int, back: int) -> None:
    buffer: StreamBuffer[int] = StreamBuffer(window, rate_hz=1e9)  # stamps in ns: never overflows
    stamps: list[int] = []
    for step in steps:
        stamps.append((stamps[-1] if stamps else 1000) + step)
        buffer.append(stamps[-1], -stamps[-1])
    assert buffer.overflow == 0
    target = stamps[-1] - min(back, window)
    older = [stamp for stamp in stamps if stamp <= target]
    assert buffer.as_of(target) == ((older[-1], -older[-1]) if older else None)


@pytest.mark.parametrize(("speed", "overflows"), [(1, False), (2, False), (10, True)])
def test_memory_is_bounded_and_what_is_lost_is_counted(speed: int, overflows: bool) -> None:
    buffer: StreamBuffer[int] = StreamBuffer(10**9, rate_hz=100)
    for i in range(1, 5001):
        buffer.append(i * 10**7 // speed, i)
        assert len(buffer) <= buffer.capacity
    assert buffer.capacity <= 2 * 100 + 2
    assert (buffer.overflow > 0) == overflows
    assert buffer.newest == 5000 and buffer.newest_ns == 5000 * 10**7 // speed


def test_a_gap_keeps_the_sample_before_it() -> None:
    buffer: StreamBuffer[str] = StreamBuffer(100, rate_hz=1e9)
    for stamp in (10, 20, 1000):
        buffer.append(stamp, str(stamp))
    assert buffer.as_of(999) == (20, "20")
    assert buffer.oldest_ns == 20


@pytest.mark.parametrize("stamp", [10, 9])
def test_stamps_have_to_rise(stamp: int) -> None:
    buffer: StreamBuffer[None] = StreamBuffer(100, rate_hz=10)
    buffer.append(10, None)
    with pytest.raises(ValueError, match=f"stamp {stamp} ns is not after 10 ns"):
        buffer.append(stamp, None)


def test_clear_forgets() -> None:
    buffer: StreamBuffer[None] = StreamBuffer(100, rate_hz=10)
    buffer.append(10, None)
    buffer.clear()
    assert len(buffer) == 0 and buffer.newest is None and buffer.newest_ns is None and buffer.as_of(99) is None
    buffer.append(5, None)
    assert buffer.newest_ns == 5
