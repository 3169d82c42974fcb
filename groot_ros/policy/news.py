"""What a policy tells about itself beside its chunks: how it computes them, and why not in a faster way. No torch."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_BYTES = re.compile(r"\d+(\.\d+)?(?= ?([KMGT]i?B|[Bb]ytes)\b)")


@dataclass(frozen=True)
class EngineFacts:
    """How chunks are computed.

    Attributes:
        mode: ``graph`` (the engine, replayed), ``eager`` (the engine, call by call) or ``plain`` (the model itself).
        reason: why it is not what was asked for; empty where it is.
        precision: of the large products: ``model``, ``fp8_weights`` or ``fp8``.
        agreement: how far engine and plain model were apart on a blank observation, in words; empty: not compared.
        buckets: prompt length -> mode, and the reason where it is not the one asked for.
        memory: what the engine holds, in words.
        pictures: where they are transformed, and how far from the host's way that is.
        out_of_memory: how often an inference ran out of memory and was tried once more.
    """

    mode: str
    reason: str = ""
    precision: str = "model"
    agreement: str = ""
    buckets: tuple[tuple[str, str], ...] = ()
    memory: str = ""
    pictures: str = "host"
    out_of_memory: int = 0

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Name and value, for diagnostics."""
        yield "engine", self.mode
        yield "reason", self.reason
        yield "precision", self.precision
        yield "engine against plain model", self.agreement
        yield "memory", self.memory
        yield "pictures", self.pictures
        yield "out of memory, tried once more", str(self.out_of_memory)
        for length, mode in self.buckets:
            yield f"prompt of {length}", mode


@dataclass(frozen=True)
class News:
    """What has changed since the last time it was asked for.

    Attributes:
        notices: sentences for the log, each once.
        engine: None: unchanged, or not known.
    """

    notices: tuple[str, ...] = ()
    engine: EngineFacts | None = None

    def __bool__(self) -> bool:
        return bool(self.notices) or self.engine is not None


class Notices:
    """Sentences for the log, from any thread; one that was told before is not told again, whatever bytes it counts.

    Attributes:
        count: how often one was added.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: set[str] = set()
        self._waiting: list[str] = []
        self.count = 0

    def add(self, text: str) -> None:
        """Tell ``text`` with the next :meth:`take`, unless it was added before."""
        with self._lock:
            self.count += 1
            kind = _BYTES.sub("0", text)
            if kind not in self._told:
                self._told.add(kind)
                self._waiting.append(text)

    @contextmanager
    def of_warnings(self, logger: str) -> Iterator[None]:
        """Meanwhile, add what is logged as a warning by ``logger`` and those below it, too."""
        listener = _Listener(self)
        logging.getLogger(logger).addHandler(listener)
        try:
            yield
        finally:
            logging.getLogger(logger).removeHandler(listener)

    def take(self) -> tuple[str, ...]:
        """What was added since the last call."""
        with self._lock:
            waiting, self._waiting = tuple(self._waiting), []
            return waiting


class _Listener(logging.Handler):
    def __init__(self, notices: Notices) -> None:
        super().__init__(logging.WARNING)
        self._notices = notices

    def emit(self, record: logging.LogRecord) -> None:
        self._notices.add(record.getMessage())
