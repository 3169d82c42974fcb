"""Two programs at once do not meet in one ROS domain."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from groot_ros.processes import own_domain, ros_environment

CHILD = "import sys; from groot_ros.processes import own_domain; print(own_domain(), flush=True); sys.stdin.read()"


@contextmanager
def another_program(folder: Path) -> Iterator[int]:
    """A process that has taken a domain, and lives until the block ends."""
    environment = {**os.environ, "TMPDIR": str(folder)}
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as child:
        assert child.stdout is not None
        yield int(child.stdout.readline())


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    own_domain.cache_clear()
    yield
    own_domain.cache_clear()


def test_a_domain_that_is_taken_is_left_to_who_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with another_program(tmp_path) as theirs:
        assert 1 <= theirs <= 101
        monkeypatch.setattr("os.getpid", lambda: theirs - 1)  # the number that they began their search with
        ours = own_domain()
        assert ours == theirs % 101 + 1
        assert own_domain() == ours
    monkeypatch.setattr("os.getpid", lambda: theirs - 1)
    own_domain.cache_clear()
    assert own_domain() == theirs  # they have ended


def test_a_domain_that_is_given_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", "17")
    assert ros_environment()["ROS_DOMAIN_ID"] == "17"


def test_without_a_folder_for_locks_there_is_still_a_domain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "groot_ros_domains").touch()
    monkeypatch.setattr("os.getpid", lambda: 5)
    assert own_domain() == 6
