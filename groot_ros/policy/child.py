"""The process that infers: makes a policy, warms it up, answers its parent. Started by ``ProcessPolicy`` only."""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from groot_ros.policy.base import Policy
from groot_ros.policy.channel import Channel, described
from groot_ros.policy.news import News, Notices
from groot_ros.policy.process import PolicyFacts

NAME = b"groot-inference"  # what top and ps show; 15 characters at most
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15
ORPHANED_S = 2.0  # for the inference under way, when the parent is gone


class Hosted(Policy, Protocol):
    """What a policy needs beside ``act`` to live in a process of its own; LocalPolicy has it."""

    device: Any
    processor: Any  # .generation, .modality["state"].modality_keys, .state_limits(key)

    def warm_up(self) -> float:
        """Run without effect until the next ``act`` is as quick as all later ones; return the seconds of one."""
        ...

    def check_instruction(self, text: str) -> None:
        """Raise ValueError for an instruction that cannot be taken; called from another thread than ``act``."""
        ...


@runtime_checkable
class Informed(Protocol):
    """A hosted policy that has something to tell beside its chunks."""

    def news(self) -> News:
        """What has changed since the last call."""
        ...


@runtime_checkable
class Coolable(Protocol):
    """A hosted policy whose device slows down when nobody asks it for a while.

    It is kept warm while ``ProcessPolicy.set_active`` says so, and not before.

    Attributes:
        keep_warm_s: time without a request after which ``keep_warm`` is called; 0: never.
    """

    keep_warm_s: float

    def keep_warm(self) -> None:
        """Run without effect, for as long as one inference takes; from the thread that calls ``act``."""
        ...


def local_policy(*, torch_threads: int = 0, **arguments: Any) -> Hosted:
    """LocalPolicy(**arguments) as a ``factory``, with ``torch_threads`` CPU threads (0: torch decides)."""
    import cv2
    import torch

    from groot_ros.policy.local import LocalPolicy

    cv2.setNumThreads(1)  # small images: OpenCV's thread pool costs more than it saves
    if torch_threads:
        torch.set_num_threads(torch_threads)
    return LocalPolicy(**arguments)


def main(work_fd: int, check_fd: int, parent_pid: int) -> None:
    """Entry of the child; does not return.

    Args:
        work_fd: socket for the start and for ``act``.
        check_fd: socket for instructions, which are checked while an inference is under way, and for ``set_active``.
        parent_pid: who started it.
    """
    # Ctrl-C and a group's SIGTERM are for the parent, which brakes the robot and then ends this process. Both were
    # blocked before this process began.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_NAME, NAME)
    libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent_pid:  # it died before the line above
        os._exit(1)
    for fd in (work_fd, check_fd):
        os.set_inheritable(fd, False)
    work, check = (Channel(socket.socket(fileno=fd)) for fd in (work_fd, check_fd))
    code = 1
    try:
        _serve(work, check)
    except (EOFError, OSError):
        code = 0  # the parent has hung up or is gone
    except BaseException:
        traceback.print_exc()
    finally:
        _end(code)


def _serve(work: Channel, check: Channel) -> None:
    factory, arguments, niceness = work.receive()
    os.nice(niceness)
    loaded: list[Hosted] = []
    active = threading.Event()
    arguments_of = check, loaded, active
    threading.Thread(target=_check_instructions, args=arguments_of, name="instructions", daemon=True).start()
    try:
        policy = _load(work, factory, arguments)
        loaded.append(policy)
        facts = facts_of(policy, policy.warm_up())
    except Exception as error:
        _explain(error)
        work.send(("refused", described(error)))
        return
    work.send(("ready", facts))
    idle = _Idle(policy, active)
    while True:
        held_up = idle.wait(work)
        observation, seed, prefix = work.receive()
        try:
            chunk = policy.act(observation, seed=seed, prefix=prefix)
        except Exception as error:
            traceback.print_exc()
            work.send((None, described(error), _news(policy, idle.notices)))
        else:
            # How long that took is no measure of an inference.
            chunk = replace(chunk, usual=False) if held_up else chunk
            work.send((chunk, None, _news(policy, idle.notices)))


class _Idle:
    """Keeps a policy's device warm between requests. What it costs a request is one inference at most."""

    def __init__(self, policy: Hosted, active: threading.Event) -> None:
        self._policy = policy if isinstance(policy, Coolable) and policy.keep_warm_s > 0 else None
        self._active = active
        self.notices = Notices()

    def wait(self, work: Channel) -> bool:
        """Return when a request begins to arrive, or at once where nothing has to be kept warm.

        True: it came in the middle of a run without effect, and waited for it.
        """
        while self._policy is not None and not work.arrived(self._policy.keep_warm_s):
            if not self._active.is_set():
                continue
            try:
                self._policy.keep_warm()
            except Exception as error:
                traceback.print_exc()
                self._policy = None  # the next request says whether more is wrong than this
                self.notices.add(f"keep_warm_s: the device is no longer kept warm: {type(error).__name__}: {error}")
            if work.arrived(0.0):
                return True
        return False


def _news(policy: Hosted, notices: Notices) -> News:
    """What the policy and this module have to tell; an error in telling it is told, too, and ends nothing."""
    others = News()
    try:
        if isinstance(policy, Informed):
            others = policy.news()
    except Exception as error:
        traceback.print_exc()
        notices.add(f"what the policy has to tell is not known: {type(error).__name__}: {error}")
    return News((*others.notices, *notices.take()), others.engine)


def _load(work: Channel, factory: str, arguments: dict[str, object]) -> Hosted:
    module, _, name = factory.partition(":")
    work.send(("stage", f"importing {module}"))
    make: Callable[..., Hosted] = getattr(importlib.import_module(module), name)
    work.send(("stage", "loading the model"))
    policy = make(**arguments)
    work.send(("stage", "warming up"))
    return policy


def facts_of(policy: Hosted, warm_s: float) -> PolicyFacts:
    """What a parent wants to know of a policy that is ready."""
    processor = policy.processor
    keys = processor.modality["state"].modality_keys
    ranges = {key: processor.state_limits(key) for key in keys}
    news = _news(policy, Notices())
    return PolicyFacts(str(policy.device), processor.generation, warm_s, ranges, news.engine, news.notices)


def _check_instructions(check: Channel, loaded: list[Hosted], active: threading.Event) -> None:
    """Texts are judged; True and False say whether the policy is in use."""
    try:
        while True:
            message = check.receive()
            problem = None
            try:
                if isinstance(message, bool):
                    active.set() if message else active.clear()
                else:
                    loaded[0].check_instruction(message)
            except Exception as error:
                _explain(error)
                problem = described(error)
            check.send(problem)
    except (EOFError, OSError):
        # The second of two lines of defence against living on without a parent.
        time.sleep(ORPHANED_S)
        os._exit(1)


def _explain(error: Exception) -> None:
    """Where a bug is. A ValueError is a refusal: its text, which the parent tells, says all."""
    if not isinstance(error, ValueError):
        traceback.print_exception(error)


def _end(code: int) -> None:
    """End now: torch's and CUDA's own tidying up takes longer than a stop may, and frees nothing that exit does not."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
