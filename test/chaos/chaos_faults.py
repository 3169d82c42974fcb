"""What goes wrong, and what the node has to say about it."""

from __future__ import annotations

import math
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from chaos_rig import INSTRUCTION, Rig

Inject = Callable[[Rig, np.random.Generator], None]


@dataclass(frozen=True)
class Fault:
    """One of them.

    Attributes:
        inject: does it; clearing it is ``Rig.recover`` (and ``clear``).
        reasons: what ``~/status`` says then; empty: nothing has to stop.
        may: what it may say too.
        words: in the message.
        simulated: needs /clock.
        abrupt: what is sent tick by tick stands at once, instead of braking.
        held_s: how long it stays when nothing is to be waited for.
        of: what it takes hold of, which no second fault may.
        alone: no second fault with it: the node cannot be talked to meanwhile.
        clear: undo it, before everything else.
    """

    inject: Inject
    reasons: frozenset[str] = frozenset()
    words: str = ""
    simulated: bool = False
    abrupt: bool = False
    held_s: float = 0.25
    of: str = ""
    may: frozenset[str] = frozenset()
    alone: bool = False
    clear: Callable[[Rig], None] = lambda rig: None


def _edits(change: Callable[[np.random.Generator], Callable[[str, Any], list[Any]]]) -> Inject:
    def inject(rig: Rig, rng: np.random.Generator) -> None:
        before, after = rig.robot.edit, change(rng)
        rig.robot.edit = lambda stream, message: [out for one in before(stream, message) for out in after(stream, one)]

    return inject


def _camera(rng: np.random.Generator) -> str:
    return str(rng.choice(["front", "wrist"]))


def _dropped(rng: np.random.Generator) -> Callable[[str, Any], list[Any]]:
    return lambda stream, message: [] if stream == "joints" else [message]


def _camera_dead(rng: np.random.Generator) -> Callable[[str, Any], list[Any]]:
    camera = _camera(rng)
    return lambda stream, message: [] if stream == camera else [message]


def _cameras_dead(rng: np.random.Generator) -> Callable[[str, Any], list[Any]]:
    return lambda stream, message: [message] if stream == "joints" else []


def _late(streams: tuple[str, ...]) -> Callable[[np.random.Generator], Callable[[str, Any], list[Any]]]:
    def make(rng: np.random.Generator) -> Callable[[str, Any], list[Any]]:
        late_s, waiting = float(rng.uniform(0.25, 0.45)), deque[tuple[float, str, Any]]()

        def edit(stream: str, message: Any) -> list[Any]:
            if stream not in streams:
                return [message]
            waiting.append((time.monotonic() + late_s, stream, message))
            due = [one for one in waiting if one[0] <= time.monotonic() and one[1] == stream]
            for one in due:
                waiting.remove(one)
            return [one[2] for one in due]

        return edit

    return make


def _duplicated(rng: np.random.Generator) -> Callable[[str, Any], list[Any]]:
    return lambda stream, message: [message, message] if stream == "joints" else [message]


def _frozen(rng: np.random.Generator) -> Callable[[str, Any], list[Any]]:
    camera, kept = _camera(rng), []

    def edit(stream: str, message: Any) -> list[Any]:
        if stream == camera:
            kept.append(message.data)
            message.data = kept[0]
        return [message]

    return edit


def _nan(rng: np.random.Generator) -> Callable[[str, Any], list[Any]]:
    joint, number = int(rng.integers(4)), float(rng.choice([math.nan, math.inf, -math.inf]))

    def edit(stream: str, message: Any) -> list[Any]:
        if stream == "joints":
            message.position[joint] = number
        return [message]

    return edit


def _backwards(rng: np.random.Generator) -> Callable[[str, Any], list[Any]]:
    stream_back, seconds = str(rng.choice(["joints", "front", "wrist"])), int(rng.integers(1, 100))

    def edit(stream: str, message: Any) -> list[Any]:
        if stream == stream_back:
            message.header.stamp.sec -= seconds
        return [message]

    return edit


def _far_away(rng: np.random.Generator) -> Callable[[str, Any], list[Any]]:
    joint, way = int(rng.integers(3)), float(rng.choice([-6.0, 6.0]))

    def edit(stream: str, message: Any) -> list[Any]:
        if stream == "joints":
            message.position[joint] = way
        return [message]

    return edit


def _order(text: str) -> Inject:
    return lambda rig, rng: rig.order(text)


def _instructions(rig: Rig, rng: np.random.Generator) -> None:
    texts = ["push the blue cube", INSTRUCTION, "pick it up " * 3000, "", "  ", "x" * 100_000]
    for choice in rng.integers(len(texts), size=int(rng.integers(10, 40))):
        rig.robot.instruct(texts[int(choice)])
    rig.robot.instruct(INSTRUCTION)


def _freeze_inference(rig: Rig, rng: np.random.Generator) -> None:
    os.kill(rig.inference_pid(), signal.SIGSTOP)


def _thaw_inference(rig: Rig) -> None:
    os.kill(rig.inference_pid(), signal.SIGCONT)


def _freeze_node(longest_s: tuple[float, float]) -> Inject:
    def inject(rig: Rig, rng: np.random.Generator) -> None:
        rig.signal(signal.SIGSTOP)
        rig.robot.dwell(float(rng.uniform(*longest_s)))
        rig.signal(signal.SIGCONT)

    return inject


def _clock_back(rig: Rig, rng: np.random.Generator) -> None:
    rig.set_clock(rig.robot.now_ns() - round(rng.uniform(0.5, 20.0) * 1e9))


def _calls(rig: Rig, rng: np.random.Generator) -> None:
    calls = [
        ("start", None),
        ("stop", None),
        ("reset", None),
        ("reset_stop", None),
        ("pause", True),
        ("pause", False),
        ("dry_run", True),
        ("dry_run", False),
    ]
    for choice in rng.integers(len(calls), size=int(rng.integers(6, 16))):
        rig.robot.call(*calls[int(choice)])
        rig.robot.dwell(float(rng.choice([0.0, 0.0, 0.03, 0.1])))


FAULTS: dict[str, Fault] = {
    "joints dropped": Fault(_edits(_dropped), frozenset({"stale"}), "/joint_states"),
    "camera dead": Fault(_edits(_camera_dead), frozenset({"stale", "spread"}), "/image_raw"),
    "cameras dead": Fault(_edits(_cameras_dead), frozenset({"stale", "spread"}), "/image_raw"),
    "joints late": Fault(_edits(_late(("joints",))), frozenset({"stale", "spread"}), "/joint_states"),
    "cameras late": Fault(_edits(_late(("front", "wrist"))), frozenset({"stale", "spread"}), "/image_raw"),
    "joints twice": Fault(_edits(_duplicated), frozenset({"out_of_order"}), "/joint_states"),
    "camera frozen": Fault(_edits(_frozen), frozenset({"frozen_camera"}), "/image_raw"),
    "joints NaN": Fault(_edits(_nan), frozenset({"not_finite"}), "/joint_states"),
    "stamps backwards": Fault(_edits(_backwards), frozenset({"out_of_order"})),
    "joints far away": Fault(_edits(_far_away), frozenset({"out_of_training_range"}), "state.arm"),
    "instruction spam": Fault(_instructions, may=frozenset({"empty_instruction"}), of="instruction"),
    "instruction empty": Fault(
        lambda rig, rng: rig.robot.instruct(" "),
        frozenset({"empty_instruction"}),
        "~/instruction",
        of="instruction",
    ),
    "model exception": Fault(_order("raise"), frozenset({"exception"}), "device-side assert", of="policy"),
    "chunk NaN": Fault(_order("nan"), frozenset({"gate"}), "nan", of="policy"),
    "chunks wild": Fault(_order("wild"), held_s=0.8, of="policy"),
    "model slow": Fault(_order("slow 0.35"), held_s=1.2, of="policy"),
    "model hangs": Fault(_order("hang"), frozenset({"inference_timeout"}), "inference_timeout_s", of="policy"),
    "inference SIGSTOP": Fault(
        _freeze_inference, frozenset({"inference_timeout"}), "inference_timeout_s", clear=_thaw_inference
    ),
    "inference kill -9": Fault(
        lambda rig, rng: os.kill(rig.inference_pid(), signal.SIGKILL), frozenset({"exception"}), "SIGKILL", alone=True
    ),
    "node SIGSTOP long": Fault(
        _freeze_node((0.6, 1.0)), frozenset({"control_gap"}), "reset_stop", abrupt=True, alone=True
    ),
    "node SIGSTOP short": Fault(_freeze_node((0.02, 0.25)), alone=True),
    "clock stands": Fault(
        lambda rig, rng: rig.set_clock(rig.robot.now_ns(), 0.0),
        frozenset({"clock_stopped"}),  # what is stamped with it has the same stamp again
        "/clock",
        may=frozenset({"out_of_order"}),
        simulated=True,
        abrupt=True,
        alone=True,
        clear=lambda rig: rig.steady_clock(),
    ),
    "clock jumps back": Fault(
        _clock_back, simulated=True, abrupt=True, may=frozenset({"future_stamp", "out_of_order"})
    ),
    "e-stop": Fault(lambda rig, rng: rig.robot.estop(True), frozenset({"estop"}), "e-stop"),
    "calls": Fault(_calls),
}
