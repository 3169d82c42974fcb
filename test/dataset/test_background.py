"""Saves are sealed and committed in order and off the caller's thread; what fails is told and holds up nothing else."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from groot_ros.dataset.background import DEPTH, Committed, Committer
from groot_ros.dataset.errors import DatasetError

WAIT_S = 20.0


class Staged:
    """An episode that seals, or says why not."""

    def __init__(self, name: str, error: Exception | None = None) -> None:
        self.name, self.error = name, error
        self.more: Mapping[str, Any] | None = None

    def seal(self, more: Mapping[str, Any] | None = None) -> Path:
        if self.error is not None:
            raise self.error
        self.more = more
        return Path(self.name)


class Target:
    """A dataset whose report of an episode is its name; commits wait for ``go``."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.committed: list[str] = []
        self.threads: set[str] = set()
        self.error: Exception | None = None
        self.stale: Exception | None = None
        self.closed = False

    def commit(self, staged: Sequence[Path]) -> list[str]:
        assert self.go.wait(WAIT_S)
        self.threads.add(threading.current_thread().name)
        if self.error is not None:
            raise self.error
        names = [path.name for path in staged]
        self.committed += names
        return names

    def close(self) -> None:
        self.closed = True
        if self.stale is not None:
            raise self.stale


def run(target: Target, saves: list[list[Staged]]) -> list[Committed[str]]:
    outcomes: list[Committed[str]] = []
    committer = Committer(target, pytest.fail)
    for episodes in saves:
        committer.put([(episode, {}) for episode in episodes], outcomes.append)
    assert committer.close(WAIT_S)
    assert committer.episodes == 0
    return outcomes


def test_saves_are_committed_in_order_by_another_thread() -> None:
    target = Target()
    target.go.clear()
    committer: Committer[str] = Committer(target, pytest.fail)
    outcomes: list[Committed[str]] = []
    first = Staged("a")
    committer.put([(first, {"segment": 0}), (Staged("b"), {})], outcomes.append)
    committer.put([(Staged("c"), {})], outcomes.append)
    assert committer.episodes == 3 and not outcomes
    target.go.set()
    assert committer.close(WAIT_S)
    assert target.committed == ["a", "b", "c"]
    assert outcomes == [Committed(("a", "b"), ()), Committed(("c",), ())]
    assert first.more == {"segment": 0}
    assert target.threads == {"commit"} and target.closed
    with pytest.raises(RuntimeError, match="after close"):
        committer.put([(first, {})], outcomes.append)


def test_an_episode_that_does_not_seal_leaves_the_others_of_its_save() -> None:
    target = Target()
    outcomes = run(target, [[Staged("a"), Staged("b", DatasetError("b: 3 rows, 2 frames")), Staged("c")]])
    assert outcomes == [Committed(("a", "c"), ("b: 3 rows, 2 frames",))]


@pytest.mark.parametrize("error", [DatasetError("disk full"), OSError(28, "No space left"), ZeroDivisionError("bug")])
def test_a_commit_that_fails_is_told_and_the_next_save_is_made(error: Exception) -> None:
    target = Target()
    target.error = error
    outcomes = run(target, [[Staged("a")], [Staged("b", error)]])
    for outcome in outcomes:
        assert outcome.reports == ()
        assert len(outcome.problems) == 1 and str(error) in outcome.problems[0]


@pytest.mark.parametrize("stale", [None, DatasetError("stats.json: read-only")])
def test_statistics_that_cannot_be_refreshed_are_told(stale: Exception | None) -> None:
    target = Target()
    target.stale = stale
    failed: list[str] = []
    outcomes: list[Committed[str]] = []
    committer = Committer(target, failed.append)
    committer.put([(Staged("a"), {})], outcomes.append)
    assert not target.closed
    assert committer.close(WAIT_S)
    assert outcomes == [Committed(("a",), ())]
    assert len(failed) == (stale is not None) and all("stats.json: read-only" in text for text in failed)


def test_the_queue_is_bounded_and_a_disk_that_hangs_does_not_hang_the_end() -> None:
    target = Target()
    target.go.clear()
    committer: Committer[str] = Committer(target, pytest.fail)
    done: list[Committed[str]] = []
    with pytest.raises(queue.Full):
        for number in range(DEPTH + 2):  # one of them is out of the queue at once
            committer.put([(Staged(str(number)), {})], done.append)
    assert committer.full
    assert not committer.close(0.01) and not target.closed
    target.go.set()
    assert committer.close(WAIT_S)
    assert len(target.committed) >= DEPTH


def test_an_answer_that_nobody_takes_does_not_end_the_commits() -> None:
    target, failed = Target(), list[str]()
    committer: Committer[str] = Committer(target, failed.append)

    def gone(outcome: Committed[str]) -> None:
        raise RuntimeError("the context is shut down")

    committer.put([(Staged("a"), {})], gone)
    committer.put([(Staged("b"), {})], gone)
    assert committer.close(WAIT_S)
    assert target.committed == ["a", "b"] and target.closed
    assert failed == ["a save could not be answered: RuntimeError: the context is shut down"] * 2
