"""Between requests the child keeps the device warm; what that costs, when it ends, and what comes of an error."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import scripted_policy
from scripted_policy import observation

from groot_ros.policy.base import Chunk
from groot_ros.policy.child import _Idle
from groot_ros.policy.process import PolicyGone, ProcessPolicy

WAIT_S = 30.0
SOON_S = 0.01  # without a request
NEVER_S = 3600.0


@contextmanager
def running(active: bool = True, **arguments: object) -> Iterator[ProcessPolicy]:
    policy = ProcessPolicy("scripted_policy:make_cooling", arguments, start_timeout_s=WAIT_S)
    try:
        if active:
            policy.set_active(True)
        yield policy
    finally:
        policy.close()


@pytest.fixture
def bell(tmp_path: Path) -> Path:
    path = tmp_path / "bell"
    os.mkfifo(path)
    return path


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


@contextmanager
def listening(bell: Path) -> Iterator[None]:
    """Lets whoever rings go on."""
    end = os.open(bell, os.O_RDWR | os.O_NONBLOCK)
    try:
        yield
    finally:
        os.close(end)


def times(policy: ProcessPolicy) -> int:
    """How often it was kept warm, as of the last answer."""
    assert policy.facts.engine is not None
    return int(policy.facts.engine.buckets[0][1].split()[1])


def test_without_requests_it_is_kept_warm_again_and_again_and_answers_all_the_same(bell: Path) -> None:
    with running(keep_warm_s=SOON_S, bell=bell) as policy:
        assert times(policy) == 0
        assert [bell.read_bytes() for _ in range(3)] == [b"w"] * 3
        with listening(bell):
            assert policy.act(observation(stamp_ns=5)).stamp_ns == 5
        assert times(policy) >= 3


def test_a_request_that_comes_meanwhile_waits_for_that_one_run(
    bell: Path, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its time is not taken for that of an inference."""
    chunks: list[Chunk] = []
    sent = threading.Event()
    with running(keep_warm_s=SOON_S, warm="wait", bell=bell, gate=gate) as policy:
        assert bell.read_bytes() == b"w"
        send = policy._work.send
        monkeypatch.setattr(policy._work, "send", lambda message: (send(message), sent.set()))
        acting = threading.Thread(target=lambda: chunks.append(policy.act(observation(stamp_ns=5))))
        acting.start()
        assert sent.wait(WAIT_S)
        policy.check_instruction("pick up")  # not held up by it
        policy.set_active(False)
        assert acting.is_alive()  # it is waiting in keep_warm, which nobody has let go on
        gate.write_bytes(b"!")
        acting.join(WAIT_S)
        assert [(chunk.stamp_ns, chunk.usual) for chunk in chunks] == [(5, False)]
        assert policy.act(observation()).usual
        assert times(policy) == 1


def test_only_a_policy_that_is_in_use_is_kept_warm(bell: Path) -> None:
    with running(active=False, keep_warm_s=SOON_S, bell=bell) as policy:
        for _ in range(2):
            for _ in range(3):
                assert policy.act(observation()).usual
            before = times(policy)
            policy.set_active(True)
            assert [bell.read_bytes() for _ in range(2)] == [b"w"] * 2
            policy.set_active(False)
            with listening(bell):
                policy.act(observation())
            assert times(policy) >= before + 2
            after = times(policy)
            policy.act(observation())
            assert times(policy) == after


def test_a_policy_that_is_not_in_use_only_waits() -> None:
    """A channel on which nothing arrives three times: a run without effect would raise."""
    arrivals = [False, False, False, True]
    channel = SimpleNamespace(arrived=lambda timeout_s: arrivals.pop(0))
    policy = scripted_policy.Cooling(SOON_S, "raise")
    assert not _Idle(policy, threading.Event()).wait(channel)
    assert arrivals == [] and policy.news().engine.buckets == (("48", "warmed 0 times"),)


def test_a_child_that_does_not_hear_is_told_of_soon() -> None:
    with running() as policy:
        with pytest.raises(ValueError, match="does not answer"):
            policy.check_instruction("hang")
        with pytest.raises(ValueError, match="does not answer"):
            policy.set_active(False)
        os.kill(policy.pid, signal.SIGKILL)
        with pytest.raises(PolicyGone):
            policy.act(observation())
        with pytest.raises(ValueError, match="was killed by SIGKILL"):
            policy.set_active(True)


def test_zero_is_never_and_a_request_in_time_comes_first() -> None:
    """To be kept warm would end the process."""
    for keep_warm_s in (0.0, NEVER_S):
        with running(keep_warm_s=keep_warm_s, warm="exit") as policy:
            for _ in range(3):
                policy.act(observation())
            assert times(policy) == 0


def test_an_error_is_told_once_and_ends_keeping_warm_not_the_policy(bell: Path) -> None:
    with running(keep_warm_s=SOON_S, warm="raise", bell=bell) as policy:
        assert bell.read_bytes() == b"w"
        policy.act(observation())
        assert policy.take_notices() == [
            "it was cold",
            "keep_warm_s: the device is no longer kept warm: RuntimeError: CUDA error: unspecified launch failure",
        ]
        for _ in range(3):
            policy.act(observation())
        assert (policy.take_notices(), times(policy)) == ([], 1)


def test_after_an_error_it_only_waits_for_requests() -> None:
    """A channel on which nothing arrives twice, then something does."""
    arrivals = [False, False, False, True]
    channel = SimpleNamespace(arrived=lambda timeout_s: arrivals.pop(0))
    policy, active = scripted_policy.Cooling(SOON_S, "raise"), threading.Event()
    active.set()
    idle = _Idle(policy, active)
    idle.wait(channel)
    idle.wait(channel)
    assert arrivals == [False, True]  # not asked any more: receiving waits
    assert policy.news().engine.buckets == (("48", "warmed 1 times"),)
    assert len(idle.notices.take()) == 1


@pytest.mark.parametrize("signalled", [False, True])
def test_a_child_that_is_being_kept_warm_ends_with_close(bell: Path, gate: Path, signalled: bool) -> None:
    with running(keep_warm_s=SOON_S, warm="wait", bell=bell, gate=gate) as policy:
        assert bell.read_bytes() == b"w"
        if signalled:
            os.kill(policy.pid, signal.SIGKILL)
        else:
            policy.close()
        with pytest.raises(PolicyGone):
            policy.act(observation())


def test_notices_come_with_the_answer_that_follows_them_also_with_an_error(bell: Path) -> None:
    with running(keep_warm_s=SOON_S, bell=bell) as policy:
        assert bell.read_bytes() == b"w"
        with listening(bell), pytest.raises(LookupError):
            policy.act(observation("raise KeyError"))
        assert policy.take_notices() == ["it was cold"]


def test_what_the_start_had_to_say_is_told_once() -> None:
    with running(notice="the plain model runs instead") as policy:
        assert policy.facts.notices == ("the plain model runs instead",)
        assert policy.facts.engine is not None and policy.facts.engine.mode == "graph"
        assert policy.take_notices() == ["the plain model runs instead"]
        policy.act(observation())
        assert policy.take_notices() == []


@pytest.mark.parametrize("dumb", [0, 1])
def test_a_policy_that_cannot_tell_its_news_answers_all_the_same(dumb: int) -> None:
    """From the start on, or later; what is wrong is told, then once more at most."""
    told = ["what the policy has to tell is not known: RuntimeError: CUDA error: unspecified launch failure"]
    with running(dumb=dumb) as policy:
        assert policy.take_notices() == (told if dumb == 0 else [])
        for number in range(3):
            assert policy.act(observation(stamp_ns=number)).stamp_ns == number
        with pytest.raises(LookupError):
            policy.act(observation("raise KeyError"))
        assert policy.take_notices() == told
        assert policy.gone is None
