"""A policy for a child process that does what the observation's instruction says; no torch."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from groot_ros.embodiment.errors import EmbodimentError
from groot_ros.observation.types import Observation
from groot_ros.policy.base import Chunk, Prefix
from groot_ros.policy.news import EngineFacts, News, Notices
from groot_ros.processing.errors import ProcessorError

LOWEST, HIGHEST = np.array([-1.5, 0.1]), np.array([np.pi, 0.3])


class SpecialError(ValueError):
    """An error that the parent knows only while it has this module loaded."""


ERRORS: dict[str, Exception] = {
    "EmbodimentError": EmbodimentError(["robot.yaml:3: limits: one", "robot.yaml:4: limits: two"]),
    "ProcessorError": ProcessorError("state.arm", "6 numbers", "5", "Look at the YAML."),
    "KeyError": KeyError("front"),
    "FileNotFoundError": FileNotFoundError(2, "No such file or directory", "weights.safetensors"),
    "UnicodeDecodeError": UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    "MemoryError": MemoryError("cannot allocate 20 GiB"),
}


def hold_the_lock() -> NoReturn:
    """Never come back, with Python's lock: no other thread of this process gets on."""
    while True:
        ctypes.PyDLL(None).sleep(1000)


class Scripted:
    """See the module. ``bell``: a FIFO that gets a byte when ``act`` has begun."""

    def __init__(self, bell: Path | None = None) -> None:
        self.device = "cpu"
        self.processor = SimpleNamespace(
            generation="n1d7",
            modality={"state": SimpleNamespace(modality_keys=["arm"])},
            state_limits=lambda key: {"arm": (LOWEST, HIGHEST)}[key],
        )
        self._bell = bell

    def warm_up(self) -> float:
        return 0.125

    def check_instruction(self, text: str) -> None:
        if text == "hang":
            threading.Event().wait()
        if "refused" in text:
            raise ProcessorError("instruction", "at most 5 tokens", text, "Shorten it.")

    def act(self, observation: Observation, *, seed: int | None = None, prefix: Prefix | None = None) -> Chunk:
        if self._bell is not None:
            self._bell.write_bytes(b"!")
        what, _, name = observation.instruction.partition(" ")
        if what == "raise":
            raise ERRORS[name] if name in ERRORS else SpecialError("so special")
        if what == "print":
            print(f"{name} on stdout")
            print(f"{name} on stderr", file=sys.stderr)
        if what == "hang":
            threading.Event().wait()
        if what == "lock":
            hold_the_lock()
        if what == "exit":
            print("the very last line", file=sys.stderr)
            os._exit(3)
        actions: dict[str, Any] = {**observation.video, **observation.state}
        if prefix is not None:
            actions |= {f"prefix.{key}": value for key, value in prefix.actions.items()}
        return Chunk(observation.stamp_ns, 0.05, actions, observation.instruction, -1 if seed is None else seed)


def observation(instruction: str = "echo", side: int = 32, stamp_ns: int = 7) -> Observation:
    """Two cameras and a state of random numbers."""
    random = np.random.default_rng(0)
    video: dict[str, NDArray[np.uint8]] = {
        key: random.integers(0, 256, (1, side, side, 3), dtype=np.uint8) for key in ("front", "wrist")
    }
    state = {"arm": random.normal(size=(1, 6)).astype(np.float32)}
    return Observation(stamp_ns, video, state, instruction, {"front": (1,)}, {"front": 0.01})


def make(start: str = "", bell: Path | None = None) -> Scripted:
    """The factory; ``start`` is what goes wrong before the policy is ready."""
    if start in ERRORS:
        raise ERRORS[start]
    if start == "exit":
        print("no such driver", file=sys.stderr)
        os._exit(3)
    if start == "sys.exit":
        sys.exit("cannot go on")
    if start == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if start == "hang":
        print("hanging", file=sys.stderr)
        threading.Event().wait()
    if start == "lock":
        print("hanging", file=sys.stderr)
        hold_the_lock()
    return Scripted(bell)


class Cooling(Scripted):
    """Is kept warm, and tells how often.

    Args:
        keep_warm_s: see ``Coolable``.
        warm: what ``keep_warm`` does: ``raise``, ``exit``, or ``wait`` for a byte in ``gate``.
        bell, gate: FIFOs; ``bell`` gets a byte when ``keep_warm`` has begun.
        notice: what it has to say at the start.
        dumb: ``news`` raises, after so many times.
    """

    def __init__(
        self,
        keep_warm_s: float = 0.0,
        warm: str = "",
        bell: Path | None = None,
        gate: Path | None = None,
        notice: str = "",
        dumb: int | None = None,
    ) -> None:
        super().__init__()
        self._news_left = dumb
        self.keep_warm_s = keep_warm_s
        self._warm, self._warm_bell, self._gate = warm, bell, gate
        self._runs = 0
        self._notices = Notices()
        if notice:
            self._notices.add(notice)

    def keep_warm(self) -> None:
        self._runs += 1
        self._notices.add("it was cold")
        if self._warm_bell is not None:
            self._warm_bell.write_bytes(b"w")
        if self._warm == "raise":
            raise RuntimeError("CUDA error: unspecified launch failure")
        if self._warm == "exit":
            os._exit(4)
        if self._warm == "wait" and self._gate is not None:
            self._gate.read_bytes()

    def news(self) -> News:
        if self._news_left is not None:
            self._news_left -= 1
            if self._news_left < 0:
                raise RuntimeError("CUDA error: unspecified launch failure")
        return News(self._notices.take(), EngineFacts("graph", buckets=(("48", f"warmed {self._runs} times"),)))


def make_cooling(**arguments: Any) -> Cooling:
    """The factory of a policy that is kept warm."""
    return Cooling(**arguments)
