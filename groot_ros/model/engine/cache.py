"""Recorded programs by key, made in the background: whoever asks never waits."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")

Mode = Literal["waiting", "recording", "graph", "eager"]

DEFAULT_LIMIT = 8
"""A robot has one set of cameras and a handful of prompt lengths."""


@dataclass(frozen=True)
class SlotStatus:
    """How a key is served."""

    mode: Mode
    """`waiting` and `recording`: eagerly until the graph is there; `graph`; `eager`: there will be none."""
    reason: str | None = None
    """Why it is served eagerly."""


class Slots(Generic[K, R]):
    """Recorded programs (`R`) by key (`K`: view grids and padded prompt length, say; not None).

    A thread that lives only while there is something to record makes one after another, in the order in which they
    were asked for. What could not be recorded is not tried again before `clear`. Methods may be called from any thread.

    Args:
        record: key -> program; called in the background, never twice at once; an exception means eager for this key.
        limit: so many programs are kept; beyond it the one that was used longest ago is dropped.
        log: told once per key why it stays eager, and what is dropped.
        name: of the thread.
    """

    def __init__(
        self,
        record: Callable[[K], R],
        *,
        limit: int = DEFAULT_LIMIT,
        log: Callable[[str], None] | None = None,
        name: str = "recorder",
    ) -> None:
        if limit < 1:
            raise ValueError(f"limit is {limit}, expected at least 1")
        self._record, self._limit, self._log, self._name = record, limit, log, name
        self._changed = threading.Condition()
        self._programs: OrderedDict[K, R] = OrderedDict()  # the one used last stands last
        self._failed: dict[K, str] = {}
        self._waiting: deque[K] = deque()
        self._recording: K | None = None
        self._thread: threading.Thread | None = None
        self._era = 0  # a recording that was begun before `clear` is thrown away
        self._closed = False

    def get(self, key: K) -> R | None:
        """The program of a key, or None while or because there is none. Never waits for a recording."""
        with self._changed:
            program = self._programs.get(key)
            if program is not None:
                self._programs.move_to_end(key)
            return program

    def request(self, key: K) -> bool:
        """Has the program of a key recorded; False: it is there, under way or known to fail, or this is closed."""
        with self._changed:
            known = (*self._programs, *self._failed, *self._waiting, self._recording)
            if self._closed or key in known:
                return False
            self._waiting.append(key)
            if self._thread is None:
                # A daemon: a process that ends does not wait for a recording.
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()
            return True

    def fail(self, key: K, reason: str) -> None:
        """Serves a key eagerly from now on: its program, if there is one, is dropped. For failures while replaying."""
        with self._changed:
            new = key not in self._failed and not self._closed
            if new:
                self._failed[key] = reason
            dropped = self._programs.pop(key, None)
        del dropped  # outside of the lock: freeing a graph takes its time
        if new:
            self._say(f"{key}: no graph, {reason}")

    def status(self, key: K) -> SlotStatus | None:
        """How a key is served; None: nobody asked for it, or it was dropped."""
        with self._changed:
            if key in self._failed:
                return SlotStatus("eager", self._failed[key])
            if key in self._programs:
                return SlotStatus("graph")
            if key == self._recording:
                return SlotStatus("recording", "its graph is being recorded")
            if key in self._waiting:
                return SlotStatus("waiting", "its graph is recorded after another one")
            return None

    def statuses(self) -> dict[K, SlotStatus]:
        """All keys that were asked for and not dropped."""
        with self._changed:
            coming = [] if self._recording is None else [self._recording]
            keys = [*self._failed, *self._programs, *coming, *self._waiting]
            return {key: status for key in keys if (status := self.status(key)) is not None}

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until nothing is left to record; False: that took longer than `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._thread is None, timeout)

    def clear(self) -> None:
        """Forgets all programs and failures, also what is being recorded: the network or its precision has changed."""
        with self._changed:
            self._era += 1
            self._recording = None  # what it gives is thrown away, so its key may be asked for again
            programs, self._programs = self._programs, OrderedDict()
            self._failed.clear()
            self._waiting.clear()
        del programs

    def close(self) -> None:
        """Forgets everything, takes no more requests, and waits for a recording under way: it cannot be broken off."""
        with self._changed:
            self._closed = True
        self.clear()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _work(self) -> None:
        """Records what was asked for, until nothing is left."""
        while True:
            with self._changed:
                if not self._waiting:
                    self._thread = None
                    self._changed.notify_all()
                    return
                key = self._recording = self._waiting.popleft()
                era = self._era
            try:
                program, reason = self._record(key), None
            except Exception as error:
                program, reason = None, _reason(error)
            self._keep(key, era, program, reason)
            del program  # one that was thrown away is not held until the next is there

    def _keep(self, key: K, era: int, program: R | None, reason: str | None) -> None:
        """Files what a recording came to."""
        dropped: list[tuple[K, R]] = []
        with self._changed:
            self._recording = None
            if era != self._era or self._closed or key in self._failed:
                return
            if reason is None and program is not None:
                self._programs[key] = program
                while len(self._programs) > self._limit:
                    dropped.append(self._programs.popitem(last=False))
            else:
                reason = self._failed[key] = reason or "nothing was recorded"
        if reason is not None:
            self._say(f"{key}: no graph, {reason}")
        for old, _ in dropped:
            self._say(f"{old}: its graph is dropped, as more than {self._limit} are in use")

    def _say(self, message: str) -> None:
        if self._log is not None:
            with contextlib.suppress(Exception):  # a log that fails must not end the recording
                self._log(message)


def _reason(error: Exception) -> str:
    """One line."""
    lines = str(error).strip().splitlines()
    text = lines[0].strip() if lines else ""
    if type(error).__name__ == "CaptureError" and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
