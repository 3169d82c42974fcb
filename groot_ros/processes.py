"""Nodes as child processes: started with a log file each, watched, and always ended."""

from __future__ import annotations

import fcntl
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

END_S = 3.0
DOMAINS = 101  # from 1 on; the ports of higher ones are in Linux's ephemeral range


class ProcessDied(RuntimeError):
    """A node ended by itself; the message holds the end of its log."""


def ros_environment() -> dict[str, str]:
    """The environment for nodes that only talk on this machine, in a domain of their own unless one is given."""
    environment = dict(os.environ)
    if "ROS_DOMAIN_ID" not in environment:
        environment["ROS_DOMAIN_ID"] = str(own_domain())
    environment.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    environment.setdefault("OMP_NUM_THREADS", "1")
    environment["PYTHONUNBUFFERED"] = "1"
    return environment


@functools.cache
def own_domain() -> int:
    """A ROS domain that no other process has taken here, as long as this one lives.

    Taken is a domain whose file in the folder for temporary files is locked. Where all are, or none can be, it is one
    by the process's number.
    """
    folder = Path(tempfile.gettempdir()) / "groot_ros_domains"
    first = os.getpid() % DOMAINS
    with suppress(OSError):
        folder.mkdir(mode=0o777, exist_ok=True)
    for domain in ((first + i) % DOMAINS + 1 for i in range(DOMAINS)):
        try:
            handle = os.open(folder / str(domain), os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            continue  # another user's
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
        else:
            return domain  # the file stays open, and with it the lock, until this process ends
    return first + 1


def node_command(module: str, parameters: Mapping[str, object]) -> list[str]:
    """Command line of ``groot_ros.nodes.<module>`` with ROS parameters."""
    command = [sys.executable, "-m", f"groot_ros.nodes.{module}", "--ros-args"]
    for name, value in parameters.items():
        # A text is quoted as YAML: an empty one, or one like a number, would be read as another type.
        text = json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)
        command += ["-p", f"{name}:={text}"]
    return command


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM and SIGHUP end as Ctrl-C does, and a second signal does not keep the processes from being ended.

    A signal that is ignored stays so (``nohup``). In another thread than the main one this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stopped = False

    def stop(number: int, frame: object) -> None:
        nonlocal stopped
        if not stopped:
            stopped = True
            raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    taken = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, stop) for number in taken}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class Processes:
    """Context manager around child processes; on exit all get SIGTERM, and SIGKILL after ``END_S``."""

    def __init__(self, log_dir: Path, environment: Mapping[str, str]) -> None:
        self._log_dir = log_dir
        self._environment = dict(environment)
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Processes:
        self._log_dir.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def log(self, name: str) -> Path:
        """Where the output of ``name`` goes."""
        return self._log_dir / f"{name}.log"

    def start(self, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start ``command`` in a process group of its own, so that Ctrl-C reaches it only through :meth:`end`."""
        with self.log(name).open("wb") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=self._environment, start_new_session=True
            )
        self._running[name] = process
        return process

    def ended(self, name: str) -> int | None:
        """Exit code of a process; None while it runs."""
        return self._running[name].poll()

    def check(self, but: str = "") -> None:
        """Raise ProcessDied if a process has ended, other than ``but``."""
        for name, process in self._running.items():
            if name != but and process.poll() is not None:
                raise ProcessDied(self.last_words(name))

    def last_words(self, name: str) -> str:
        """The exit code of a process that has ended, and the end of its log."""
        tail = "\n".join(self.log(name).read_text(errors="replace").splitlines()[-15:])
        return f"{name} ended with code {self.ended(name)}; the end of {self.log(name)}:\n{tail}"

    def end_first(self, name: str) -> None:
        """End one process before the others, which it may still need for that; at most ``END_S``."""
        process = self._running[name]
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):  # then it is ended with the others
                process.wait(END_S)

    def end(self) -> dict[str, int]:
        """End all, last started first; return the exit codes (negative: killed by that signal)."""
        codes = {}
        for process in reversed(self._running.values()):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + END_S
        for name, process in self._running.items():
            try:
                codes[name] = process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                codes[name] = process.wait()
        self._running.clear()
        return codes
