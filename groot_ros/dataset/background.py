"""Finished episodes become part of the dataset in a thread of its own: encoders and disks take their time."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from groot_ros.dataset.errors import DatasetError

_STALE = "statistics of the dataset are not up to date"
DEPTH = 8  # saves that may wait; each waits for a disk, so that more than two are a sign of trouble

Report = TypeVar("Report")
Report_co = TypeVar("Report_co", covariant=True)


class Staged(Protocol):
    """A finished episode (``EpisodeWriter``)."""

    def seal(self, more: Mapping[str, Any] | None = None, /) -> Path:
        """Close it. Raises: DatasetError, and then it stays behind as an aborted one."""
        ...


class Target(Protocol[Report_co]):
    """A dataset (``DatasetWriter``)."""

    def commit(self, staged: Sequence[Path]) -> Sequence[Report_co]:
        """Take sealed episodes over, durably. Raises: DatasetError."""
        ...

    def close(self) -> None:
        """Refresh the statistics if they are old, and let others write. Raises: DatasetError."""
        ...


@dataclass(frozen=True)
class Committed(Generic[Report]):
    """What one save came to: reports of what is durable now, and what could not be written, in words."""

    reports: tuple[Report, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class _Save(Generic[Report]):
    episodes: tuple[tuple[Staged, Mapping[str, Any]], ...]
    done: Callable[[Committed[Report]], None]


class Committer(Generic[Report]):
    """Seals and commits saves in the order in which they came, and closes the dataset after the last one.

    The dataset's statistics are refreshed at the end only: every row is read for them, so that after each save memory
    and time would grow with the recording.

    Args:
        target: the dataset.
        failed: told, in this thread, what went wrong beside a save: statistics that could not be refreshed, or an
            answer that nobody took.
    """

    def __init__(self, target: Target[Report], failed: Callable[[str], None]) -> None:
        self._target = target
        self._failed = failed
        self._queue: queue.Queue[_Save[Report] | None] = queue.Queue(DEPTH + 1)  # one more: the end
        self._lock = threading.Lock()
        self._episodes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="commit", daemon=True)
        self._thread.start()

    @property
    def episodes(self) -> int:
        """Episodes that are not durable yet."""
        return self._episodes

    @property
    def full(self) -> bool:
        """``DEPTH`` saves wait; ask before an episode is finished."""
        return self._queue.qsize() >= DEPTH

    def put(
        self, episodes: Sequence[tuple[Staged, Mapping[str, Any]]], done: Callable[[Committed[Report]], None]
    ) -> None:
        """Seal episodes, each with what its report is to say besides, commit them together, and call ``done``.

        ``done`` is called in the thread that commits. Never blocks.

        Raises: queue.Full when ``full`` was not asked, RuntimeError after ``close``.
        """
        if self._ended.is_set():
            raise RuntimeError("put after close")
        if self.full:
            raise queue.Full
        with self._lock:
            self._episodes += len(episodes)
        self._queue.put_nowait(_Save(tuple(episodes), done))

    def close(self, timeout_s: float) -> bool:
        """Finish what waits and close the dataset, for at most ``timeout_s``; whether that is done.

        If it is not: what is not durable stays staged, and the next start ends it and refreshes the statistics.
        """
        deadline_s = time.monotonic() + timeout_s
        if not self._ended.is_set():
            self._ended.set()
            self._queue.put(None)
        self._thread.join(max(deadline_s - time.monotonic(), 0.0))
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (save := self._queue.get()) is not None:
            outcome = self._commit(save)
            with self._lock:
                self._episodes -= len(save.episodes)
            self._try("a save could not be answered", partial(save.done, outcome))
        self._try(_STALE, self._target.close)

    def _try(self, what: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # whoever asks later must not wait for a thread that is gone
            self._failed(f"{what}: {_told(error)}")

    def _commit(self, save: _Save[Report]) -> Committed[Report]:
        staged, problems = [], []
        for episode, more in save.episodes:
            try:
                staged.append(episode.seal(more))
            except Exception as error:  # whatever it is, the other episodes are still to be saved, and it is told
                problems.append(_told(error))
        try:
            reports = tuple(self._target.commit(staged)) if staged else ()
        except Exception as error:
            return Committed((), (*problems, _told(error)))
        return Committed(reports, tuple(problems))


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, DatasetError | OSError) else f"{type(error).__name__}: {error}"
