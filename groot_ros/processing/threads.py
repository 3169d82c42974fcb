"""A few threads for work that leaves Python alone (OpenCV, PIL), made when first needed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class Threads:
    """Runs a function for several numbers, beside each other where there is more than one thread.

    Copies (pickle, deepcopy) and forked processes make threads of their own.
    """

    def __init__(self) -> None:
        self._made: tuple[int, int, ThreadPoolExecutor] | None = None
        self._lock = threading.Lock()

    def each(self, function: Callable[[int], None], count: int, threads: int) -> None:
        """`function(0)` ... `function(count - 1)`; returns when all are done.

        Args:
            threads: at most so many at once, the caller's among them.

        Raises:
            What the function raises, of the smallest number that did.
        """
        helpers = min(count, threads) - 1
        if helpers < 1:
            for number in range(count):
                function(number)
            return
        pool = self._pool(helpers)
        others = [pool.submit(function, number) for number in range(1, count)]
        try:
            function(0)
        finally:  # nothing goes on behind the caller's back
            errors = [other.exception() for other in others]
        for error in errors:
            if error is not None:
                raise error

    def _pool(self, threads: int) -> ThreadPoolExecutor:
        with self._lock:
            if self._made is None or self._made[0] != os.getpid() or self._made[1] < threads:
                # One that is too small ends by itself when nobody uses it any more.
                self._made = os.getpid(), threads, ThreadPoolExecutor(threads, thread_name_prefix="images")
            return self._made[2]

    def __reduce__(self) -> tuple[type[Threads], tuple[()]]:
        return Threads, ()
