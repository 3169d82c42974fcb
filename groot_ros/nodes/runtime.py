"""The life of a node's process: init, spin, Ctrl-C and SIGTERM, and an end without a traceback.

Every executable's ``main`` is ``return run(MyNode, args)``; ``setup.cfg`` and CMake wrap it in ``sys.exit``.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import rclpy
from rclpy.executors import Executor, ExternalShutdownException, MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2

# A stop that was asked for ends the process within 2 s; what is not closed by then is named and cut off.
STOP_WITHIN_S = 1.8
_WATCHER, _WATCHDOG = "signal-watch", "stop-watchdog"


class StartError(Exception):
    """A node cannot start. The message is all the user sees (no traceback); the exit code is 2."""


_active_stop: Future | None = None


def request_stop(exit_code: int = EXIT_OK) -> None:
    """End this process's ``run`` in order and with ``exit_code``, from any thread (for example: time is over)."""
    if _active_stop is not None and not _active_stop.done():
        _active_stop.set_result(exit_code)


def on_stop(call: Callable[[], None]) -> None:
    """Have ``call`` called, in whatever thread asks, as soon as the end of this process's ``run`` is asked for."""
    if _active_stop is not None:
        _active_stop.add_done_callback(lambda _: call())


def run(factory: Callable[[], Node], args: Sequence[str] | None = None, *, threads: int = 1) -> int:
    """Make a node, spin it until SIGINT, SIGTERM or shutdown, and take it down.

    Signals are handled here and not by rclpy, whose handlers shut the context down at once: a node must still be
    able to publish a last command. Order at the end: ``node.close()`` if the node has one (publishing still works),
    executor, ``destroy_node()``, context. Further signals meanwhile change nothing.

    Args:
        factory: called after ``rclpy.init``; raises ``StartError`` to refuse with a message.
        args: command line with or without ROS arguments, the program's name first (None: ``sys.argv``).
        threads: 1 for a ``SingleThreadedExecutor``, more for a ``MultiThreadedExecutor`` of that many.

    Returns:
        Exit code: 0 after a requested end, 1 after an exception, 2 after ``StartError`` or bad ROS arguments.
        If a node is not down ``STOP_WITHIN_S`` after a signal, the process ends by itself: with 0 when it was still
        in ``factory``, else with 1 and the names of the threads that held it up.
    """
    global _active_stop
    program = os.path.basename((args or sys.argv or ["node"])[0])
    stop = _active_stop = Future()
    started = threading.Event()
    with _signals(stop, started, program):
        try:
            rclpy.init(
                args=list(args) if args is not None else None,
                signal_handler_options=SignalHandlerOptions.NO,
            )
        except Exception as error:
            print(f"{program}: ROS arguments refused: {error}", file=sys.stderr)
            return EXIT_USAGE
        node: Node | None = None
        executor: Executor | None = None
        try:
            node = factory()
            started.set()
            executor = SingleThreadedExecutor() if threads == 1 else MultiThreadedExecutor(threads)
            executor.add_node(node)
            executor.spin_until_future_complete(stop)
        except ExternalShutdownException:
            return EXIT_OK
        except StartError as error:
            print(f"{program}: {error}", file=sys.stderr)
            return EXIT_USAGE
        finally:
            _take_down(node, executor)
    return int(stop.result()) if stop.done() else EXIT_OK


def leave(code: int) -> NoReturn:
    """End the process now, with everything printed.

    For processes that hold torch: their interpreter's own tidying up was measured at 1.8 s on a loaded machine, which
    is the time a stop may take altogether. Call it after ``run`` has taken the node down; nothing is left to tidy.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _take_down(node: Node | None, executor: Executor | None) -> None:
    try:
        if node is not None and callable(close := getattr(node, "close", None)):
            try:
                close()
            except Exception:
                if rclpy.ok():
                    raise
                # Someone else has shut the context down: what a node still wanted to publish cannot go out.
    finally:
        if executor is not None:
            executor.shutdown(timeout_sec=1.0)
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()


@contextmanager
def _signals(stop: Future, started: threading.Event, program: str) -> Iterator[None]:
    """Complete ``stop`` on SIGINT or SIGTERM.

    Python runs its handlers between bytecodes of the main thread, which sleeps in ``rcl_wait`` while spinning. So
    the handler does nothing, and the signal's number goes through ``set_wakeup_fd`` to a thread that acts at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # the signals belong to the main thread's owner
        return
    signalled = threading.Event()

    def ignore(signum: int, frame: FrameType | None) -> None:
        pass

    def watch() -> None:
        while data := os.read(reader, 1):
            if data[0] in (signal.SIGINT, signal.SIGTERM) and not signalled.is_set():
                signalled.set()
                watchdog = threading.Thread(target=_end_late, args=(started, program), name=_WATCHDOG, daemon=True)
                watchdog.start()
                request_stop()

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    previous_fd = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    previous = {number: signal.signal(number, ignore) for number in (signal.SIGINT, signal.SIGTERM)}
    watcher = threading.Thread(target=watch, name=_WATCHER, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous_fd)
        os.close(writer)
        watcher.join()
        os.close(reader)
        for number, handler in previous.items():
            # After a signal the process is ending: another one must not raise on the way out.
            signal.signal(number, signal.SIG_IGN if signalled.is_set() else handler)


def _end_late(started: threading.Event, program: str) -> None:
    """Bound the end: a thread that does not come back must not keep a stopped robot's process alive."""
    time.sleep(STOP_WITHIN_S)
    sys.stdout.flush()
    if not started.is_set():
        os._exit(EXIT_OK)
    known = {"MainThread", _WATCHER, _WATCHDOG}
    busy = [thread.name for thread in threading.enumerate() if thread.name not in known] or ["MainThread"]
    message = f"{program}: not closed {STOP_WITHIN_S} s after the signal, ending now; busy: {busy}"
    print(message, file=sys.stderr, flush=True)
    os._exit(EXIT_FAILED)
