"""The host's work on the next observation while the model works on this one, where observations are known ahead.

For bags and datasets only. Live, the next observation does not exist yet (docs/engine.md).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from groot_ros.observation.types import Observation
from groot_ros.policy.base import Chunk, Policy, TwoStepPolicy

T = TypeVar("T")


@dataclass(frozen=True)
class Prepared:
    """An observation with the host's work on it done.

    Attributes:
        observation: what the policy is shown.
        encoded: for ``TwoStepPolicy.act_encoded``; the observation itself where a policy has one step only.
        seconds: the host's work took, beside the model's.
    """

    observation: Observation
    encoded: Any
    seconds: float


class TwoSteps:
    """A policy as two functions, whether it has them or not. ``prepare`` may run in another thread than ``act``."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def prepare(self, observation: Observation) -> Prepared:
        """Do what needs no model.

        Raises:
            Exception: what ``TwoStepPolicy.encode`` raises.
        """
        begin = time.perf_counter()
        encoded = self._policy.encode(observation) if isinstance(self._policy, TwoStepPolicy) else observation
        return Prepared(observation, encoded, time.perf_counter() - begin)

    def act(self, prepared: Prepared, *, seed: int | None = None) -> Chunk:
        """The same numbers as ``policy.act(prepared.observation, seed=seed)``."""
        if isinstance(self._policy, TwoStepPolicy):
            return self._policy.act_encoded(prepared.encoded, seed=seed)
        return self._policy.act(prepared.observation, seed=seed)


def ahead(produce: Callable[[], Iterator[T]]) -> Generator[T, None, None]:
    """The items of ``produce()``, made in one other thread while the caller works on the item before.

    One item waits and one is being made, no more. An exception of ``produce`` is raised here in its turn, after all
    items that came before it. When this iterator is closed, or the caller gives up, the thread ends after the item
    that it is making; ``produce``'s iterator is closed in the thread that ran it.
    """
    slot: _Slot[T] = _Slot()
    thread = threading.Thread(target=_make, args=(produce, slot), name="ahead", daemon=True)
    thread.start()
    try:
        while (item := slot.take()) is not None:
            yield item.value
    finally:
        slot.close()
        thread.join()


@dataclass(frozen=True)
class _Item(Generic[T]):
    value: T


class _Slot(Generic[T]):
    """Room for one item between two threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: _Item[T] | None = None
        self._error: BaseException | None = None
        self._ended = self._closed = False

    def put(self, value: T) -> bool:
        """Wait for room; False when nobody takes items any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._item is None or self._closed)
            self._item = _Item(value)
            self._changed.notify_all()
            return not self._closed

    def end(self, error: BaseException | None = None) -> None:
        """No more items; ``error``: why."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def take(self) -> _Item[T] | None:
        """Wait for the next item; None at the end. Raises the error that the items ended with."""
        with self._changed:
            self._changed.wait_for(lambda: self._item is not None or self._ended)
            item, self._item = self._item, None
            self._changed.notify_all()
            if item is None and self._error is not None:
                raise self._error
            return item

    def close(self) -> None:
        """Nobody takes items any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def _make(produce: Callable[[], Iterator[T]], slot: _Slot[T]) -> None:
    try:
        items = produce()
        try:
            for item in items:
                if not slot.put(item):
                    return
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()
    except BaseException as error:
        slot.end(error)
    else:
        slot.end()
