"""A policy in a process of its own: inference takes neither Python's lock nor, by its niceness, a core from the control
loop, and when it hangs or dies the robot can still be stopped. Nothing here imports torch."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from groot_ros.observation.types import Observation
from groot_ros.policy.base import Chunk, Prefix
from groot_ros.policy.channel import Channel, rebuilt
from groot_ros.policy.news import EngineFacts, News

CHECK_S = 1.0  # how long a caller waits for the answer about an instruction
TELL_S = 0.2  # and that the child has heard whether it is in use
INSTRUCTION_BYTES = 65536  # far above any prompt, and surely room for it in a socket whose reader hangs
TAIL_LINES, TAIL_LINE = 20, 300  # of the child's stderr that an error shows, and the characters of a line
LINE_BYTES = 4096  # of an unfinished line that are kept: a progress bar never ends one
LAST_WORDS_S = 0.2  # for what an ended child has written, which its own children may keep open
NO_ANSWER = "the inference process does not answer"
AGAIN = "cleanup and configure again"

# The child never sees the parent's __main__, as it would with `multiprocessing`: no script needs a guard for it, and a
# node's modules with rclpy are not imported a second time.
_BOOTSTRAP = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from groot_ros.policy.child import main; main(*map(int, sys.argv[2:]))"
)


class PolicyGone(RuntimeError):
    """The inference process has ended: how, its last lines on stderr, what to do."""


@dataclass(frozen=True)
class PolicyFacts:
    """What is known of a policy that is ready.

    Attributes:
        device: torch's name of the device.
        generation: ``n1d5``, ``n1d6`` or ``n1d7``.
        warm_s: seconds of one chunk, in the process that infers.
        state_ranges: state key -> (lowest, highest) of the training data, float64 [D] each, model units.
        engine: how it computes chunks, as far as is known now; None: it does not say.
        notices: what the start had to say to a person.
    """

    device: str
    generation: str
    warm_s: float
    state_ranges: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
    engine: EngineFacts | None = None
    notices: tuple[str, ...] = ()


class ProcessPolicy:
    """A ``Policy`` whose model lives in a child process, which ends with this one however this one ends.

    Returns when the policy is loaded and warm, which takes minutes for a large model; ``close`` from another thread, or
    an exception in this one (Ctrl-C), ends the start and the child. What the child prints, on stdout too, goes to this
    process's stderr.

    Args:
        factory: ``package.module:callable``, imported and called in the child; returns what ``child.Hosted`` says.
            For the model: ``groot_ros.policy.child:local_policy``.
        arguments: its keyword arguments, picklable and without torch.
        start_timeout_s: None waits for as long as it takes.
        niceness: 0..19, added to this process's own.
        started: called with the new object as soon as the child runs, before it loads: for whoever may have to
            ``close`` it meanwhile.

    Attributes:
        facts: what the child said when it was ready; ``facts.engine`` is kept up to date by every ``act``.
        pid: the child's.
        stage: what a child that is not ready yet is doing, in words; ``ready`` when it is.

    Raises:
        PolicyGone: the child ended, or was closed, before it was ready.
        TimeoutError: it was not ready after ``start_timeout_s``, and has been ended.
        ValueError: ``factory`` or ``niceness``.
        Exception: what the factory raised, of the same class (see ``channel.rebuilt``) and with the same text.
    """

    facts: PolicyFacts

    def __init__(
        self,
        factory: str,
        arguments: Mapping[str, object],
        *,
        start_timeout_s: float | None = None,
        niceness: int = 5,
        started: Callable[[ProcessPolicy], None] | None = None,
    ) -> None:
        if not all(factory.partition(":")):
            raise ValueError(f"factory: expected 'package.module:callable', found '{factory}'")
        if not 0 <= niceness <= 19:
            raise ValueError(f"niceness: expected 0..19, found {niceness}")
        self.stage = "starting"
        self._ready = self._closed = False
        self._acting, self._checking = threading.Lock(), threading.Lock()
        self._telling = threading.Lock()
        self._notices: list[str] = []
        self._unanswered = 0  # messages sent whose answers nobody waited for
        (work, work_end), (check, check_end) = socket.socketpair(), socket.socketpair()
        self._work, self._check = Channel(work), Channel(check)
        self._child = _Child([work_end, check_end], self._hang_up)
        self.pid = self._child.pid
        try:
            if started is not None:
                started(self)
            self._start((factory, dict(arguments), niceness), start_timeout_s)
        except BaseException:
            self.close()
            raise

    def act(self, observation: Observation, *, seed: int | None = None, prefix: Prefix | None = None) -> Chunk:
        """As LocalPolicy's, in the child. Waits for as long as the child takes, or until ``close``.

        Raises:
            PolicyGone: the child has ended, or ends meanwhile.
            RuntimeError: another thread is in here.
            Exception: what the policy raised, as for the factory; the policy can be asked again.
        """
        if not self._acting.acquire(blocking=False):
            raise RuntimeError("ProcessPolicy.act: another thread's call has not returned; one caller at a time")
        try:
            self._work.send((observation, seed, prefix))
            chunk, problem, news = self._work.receive()
        except (EOFError, OSError):
            raise self._gone() from None
        except Exception:
            raise  # the observation cannot be pickled; nothing was sent
        except BaseException:
            self.close()  # interrupted: the next call must not get this one's answer
            raise
        finally:
            self._acting.release()
        self._take(news)
        if problem is not None:
            raise rebuilt(problem)
        assert isinstance(chunk, Chunk)
        return chunk

    def take_notices(self) -> list[str]:
        """What the child had to say to a person since the last call, each sentence once; from any thread."""
        with self._telling:
            told, self._notices = self._notices, []
            return told

    def _take(self, news: News) -> None:
        if news:
            with self._telling:
                self._notices.extend(news.notices)
                if news.engine is not None:
                    self.facts = replace(self.facts, engine=news.engine)

    def check_instruction(self, text: str) -> None:
        """Refuse an instruction that the model cannot take; from any thread, also while ``act`` waits.

        Waits ``CHECK_S`` at most.

        Raises:
            ValueError: as LocalPolicy's; or the child is not ready, does not answer or has ended.
        """
        deadline_s = time.monotonic() + CHECK_S
        size = len(text.encode(errors="surrogatepass"))
        if size > INSTRUCTION_BYTES:
            raise ValueError(f"instruction: expected at most {INSTRUCTION_BYTES} bytes, found {size}; shorten it")
        if not self._ready:
            raise ValueError(f"the inference process is not ready (now: {self.stage})")
        problem = self._ask(text, deadline_s)
        if problem is not None:
            raise rebuilt(problem)

    def set_active(self, active: bool) -> None:
        """Have the child keep its device warm between requests (``child.Coolable``), or not, as at first.

        From any thread; waits ``TELL_S`` at most. A run that is under way ends by itself.

        Raises:
            ValueError: the child does not answer or has ended.
        """
        self._ask(active, time.monotonic() + TELL_S)

    def _ask(self, message: str | bool, deadline_s: float) -> dict[str, Any] | None:
        """What the child's other thread says to ``message``: a problem, or None."""
        if not self._checking.acquire(timeout=max(0.0, deadline_s - time.monotonic())):
            raise ValueError(NO_ANSWER)
        try:
            # Nothing is sent to a child that has not taken the last one: sending must not block either.
            while self._unanswered:
                self._check.receive(deadline_s)
                self._unanswered -= 1
            self._check.send(message, deadline_s)
            self._unanswered += 1
            problem: dict[str, Any] | None = self._check.receive(deadline_s)
            self._unanswered -= 1
        except TimeoutError:
            raise ValueError(NO_ANSWER) from None
        except (EOFError, OSError):
            raise ValueError(str(self._gone(deadline_s))) from None
        finally:
            self._checking.release()
        return problem

    @property
    def gone(self) -> PolicyGone | None:
        """Why it cannot be asked any more; None while the child lives."""
        return self._gone() if self._child.ended.is_set() else None

    def close(self, timeout_s: float = 1.0) -> None:
        """End the child and return when it is gone, or after ``timeout_s``. From any thread, any number of times.

        A call of ``act`` that waits raises PolicyGone at once. The child gets half of the time to finish the inference
        that is under way, and is killed then; while it is loading, at once. It is gone afterwards unless the kernel
        cannot end it (a driver that hangs); then it ends as soon as the kernel can.
        """
        deadline_s = time.monotonic() + timeout_s
        self._closed = True
        self._hang_up()
        if not (self._ready and self._child.ended.wait(timeout_s / 2)):
            self._child.kill()
        self._child.ended.wait(max(0.0, deadline_s - time.monotonic()))

    def _start(self, request: tuple[str, dict[str, object], int], timeout_s: float | None) -> None:
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            self._work.send(request, deadline_s)
            while (message := self._work.receive(deadline_s))[0] == "stage":
                self.stage = message[1]
        except TimeoutError:
            raise TimeoutError(
                f"the inference process was not ready after {timeout_s} s, it was {self.stage}; allow it more "
                f"(start_timeout_s){self._child.last_words()}"
            ) from None
        except (EOFError, OSError):
            raise self._gone() from None
        what, value = message
        if what == "refused":
            raise rebuilt(value)
        self.facts, self.stage, self._ready = value, "ready", True
        self._notices = list(value.notices)

    def _gone(self, deadline_s: float | None = None) -> PolicyGone:
        during = "" if self._ready else f" while {self.stage}"
        if self._closed:
            return PolicyGone(f"the inference process was ended by close(){during}; {AGAIN}")
        left_s = CHECK_S if deadline_s is None else max(0.0, deadline_s - time.monotonic())
        if not self._child.ended.wait(left_s):
            return PolicyGone(f"{NO_ANSWER}{during}; {AGAIN}")
        how = self._child.end()
        return PolicyGone(f"the inference process (pid {self.pid}) {how}{during}; {AGAIN}{self._child.last_words()}")

    def _hang_up(self) -> None:
        self._work.hang_up()
        self._check.hang_up()


class _Child:
    """The process itself: started, its stderr passed on, its end noticed and reaped.

    Args:
        ends: sockets that the child gets and this process closes.
        on_end: called from another thread when it has ended.
    """

    def __init__(self, ends: Sequence[socket.socket], on_end: Callable[[], None]) -> None:
        self._on_end = on_end
        self._code: int | None = None
        self._lock = threading.Lock()
        self._lines: deque[str] = deque([""], maxlen=TAIL_LINES)
        self.ended = threading.Event()
        spawned: Future[int] = Future()
        # The kernel ends the child when the *thread* that started it ends (PR_SET_PDEATHSIG in the child): so it is a
        # thread that lives for as long as the child does.
        threading.Thread(target=self._keep, args=(ends, spawned), name="inference-process", daemon=True).start()
        self.pid = spawned.result()

    def kill(self) -> None:
        """SIGKILL, unless it has been reaped: then the number may be another process's."""
        with self._lock:
            if self._code is None:
                os.kill(self.pid, signal.SIGKILL)

    def end(self) -> str:
        """How it ended."""
        if self._code is None or self._code >= 0:
            return f"ended with exit code {self._code}"
        if self._code == -signal.SIGKILL:
            return "was killed by SIGKILL (if nobody did: the machine was out of memory, see `dmesg`)"
        return f"was killed by signal {-self._code} ({signal.strsignal(-self._code)})"

    def last_words(self) -> str:
        """The last lines it printed, for the end of a message; empty when there were none."""
        lines = [line.rstrip().rsplit("\r", 1)[-1][:TAIL_LINE] for line in list(self._lines)]
        return "".join(f"\n  {line}" for line in ["its last lines:", *lines] if line) if any(lines) else ""

    def _keep(self, ends: Sequence[socket.socket], spawned: Future[int]) -> None:
        # The child inherits this thread's mask: between its birth and its own handlers a Ctrl-C must not end it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        fds = [end.fileno() for end in ends]
        numbers = [*map(str, fds), str(os.getpid())]
        try:
            # The same session and process group: a new session would have its own share of the CPU, whatever the
            # niceness.
            process = subprocess.Popen(
                [sys.executable, "-u", "-c", _BOOTSTRAP, json.dumps(sys.path), *numbers],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=fds,
            )
        except BaseException as error:
            spawned.set_exception(error)
            return
        finally:
            for end in ends:
                end.close()
        assert process.stdout is not None
        reader = threading.Thread(target=self._forward, args=(process.stdout,), name="inference-stderr", daemon=True)
        reader.start()
        spawned.set_result(process.pid)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            self._code = process.wait()
        reader.join(LAST_WORDS_S)
        self.ended.set()
        self._on_end()

    def _forward(self, stream: IO[bytes]) -> None:
        with stream:
            while data := os.read(stream.fileno(), 65536):
                *whole, rest = (self._lines.pop() + data.decode(errors="replace")).split("\n")
                self._lines.extend(line for line in whole if line.strip())
                self._lines.append(rest[-LINE_BYTES:])
                _write_all(2, data)


def _write_all(fd: int, data: bytes) -> None:
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        return  # our own stderr is closed; the child must be read all the same
