"""The host's work one observation ahead: in another thread, in order, one item at most, the same numbers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest

from groot_ros.observation.types import Observation
from groot_ros.policy.ahead import TwoSteps, ahead
from groot_ros.policy.base import Chunk, Policy, Prefix, TwoStepPolicy

WAIT_S = 30.0
BLANK = Observation(0, {}, {}, "pick up", {}, {})


def test_the_next_item_is_made_while_the_caller_works_on_this_one() -> None:
    """Item 1 is made only once item 0 is being worked on, and the caller goes on only once item 1 is made."""
    working, made = threading.Event(), threading.Event()

    def produce() -> Iterator[int]:
        yield 0
        assert working.wait(WAIT_S)
        made.set()
        yield 1

    items = ahead(produce)
    assert next(items) == 0
    working.set()
    assert made.wait(WAIT_S)
    assert list(items) == [1]


def test_no_more_than_one_item_waits() -> None:
    """The third is begun when there is room for the second, and no fourth before the first was taken."""
    begun: list[int] = []
    third = threading.Event()

    def produce() -> Iterator[int]:
        for number in range(1, 100):
            begun.append(number)
            if number == 3:
                third.set()
            yield number

    items = ahead(produce)
    assert next(items) == 1
    assert third.wait(WAIT_S)
    assert begun == [1, 2, 3]  # 2 waits, 3 was made and has no room
    items.close()
    assert begun == [1, 2, 3]


def test_order_and_thread_are_one() -> None:
    threads = set()

    def produce() -> Iterator[int]:
        for number in range(200):
            threads.add(threading.current_thread())
            yield number

    assert list(ahead(produce)) == list(range(200))
    assert len(threads) == 1 and threading.current_thread() not in threads
    assert not threads.pop().is_alive()


def test_an_error_comes_in_its_turn() -> None:
    def produce() -> Iterator[int]:
        yield 1
        yield 2
        raise FileNotFoundError("the third picture")

    items = ahead(produce)
    assert (next(items), next(items)) == (1, 2)
    with pytest.raises(FileNotFoundError, match="the third picture"):
        next(items)


def test_who_gives_up_ends_the_thread_and_what_it_had_open() -> None:
    closed_in = []

    def produce() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            closed_in.append(threading.current_thread())

    items = ahead(produce)
    assert next(items) == 0
    items.close()
    [thread] = closed_in
    assert thread is not threading.current_thread() and not thread.is_alive()


def test_no_items_are_no_items() -> None:
    assert list(ahead(lambda: iter(()))) == []


class OneStep:
    """The stamp is the answer."""

    def act(self, observation: Observation, *, seed: int | None = None, prefix: Prefix | None = None) -> Chunk:
        actions = {"arm": np.full((2, 1), observation.stamp_ns, np.float32)}
        return Chunk(observation.stamp_ns, 0.1, actions, observation.instruction, seed or 0)


@dataclass(frozen=True)
class Double:
    """An observation with its stamp doubled."""

    observation: Observation


class InTwo(OneStep):
    """The same with the stamp doubled on the host."""

    def encode(self, observation: Observation) -> Double:
        return Double(replace(observation, stamp_ns=2 * observation.stamp_ns))

    def act_encoded(self, encoded: Double, *, seed: int | None = None, prefix: Prefix | None = None) -> Chunk:
        return self.act(encoded.observation, seed=seed)


@pytest.mark.parametrize(("policy", "expected"), [(OneStep(), 3), (InTwo(), 6)])
def test_a_policy_with_one_step_and_one_with_two_are_asked_alike(policy: Policy, expected: int) -> None:
    assert isinstance(policy, TwoStepPolicy) is (expected == 6)
    steps = TwoSteps(policy)
    prepared = steps.prepare(replace(BLANK, stamp_ns=3))
    chunk = steps.act(prepared, seed=5)
    assert (chunk.stamp_ns, chunk.seed, prepared.observation.stamp_ns) == (expected, 5, 3)
    assert prepared.seconds >= 0
