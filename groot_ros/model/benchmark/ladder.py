"""The rungs of one setting: made one after the other, measured in turn."""

from __future__ import annotations

import gc
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from groot_ros.model.benchmark.rungs import Rung, Runner, Unavailable
from groot_ros.model.benchmark.subject import Subject
from groot_ros.model.benchmark.timing import Memory, Stopwatch, agreement, difference, spread, worst

if TYPE_CHECKING:
    from groot_ros.model.benchmark.policy import PolicySettings

BROKEN = (RuntimeError, ValueError, OSError, ImportError, MemoryError)
STAGES = ("data", "backbone", "head", "decode")


class Ladder:
    """The rungs of one setting: made one after the other, run in turn."""

    def __init__(self, settings: PolicySettings, subject: Subject, steps: int) -> None:
        self._settings, self._subject, self._steps = settings, subject, steps
        self._watch, self._memory = Stopwatch(settings.device), Memory(settings.device)
        self._runners: dict[str, Runner] = {}
        self._rows: dict[str, dict[str, Any]] = {}
        self._times: dict[str, dict[str, list[float]]] = {}
        self._expected: list[torch.Tensor] = []

    def prepare(self, rung: Rung) -> None:
        """Makes a rung, runs it for the first time and to warm up, and compares it with the plain network."""
        row: dict[str, Any] = {"name": rung.name, "what": rung.what, "reason": None}
        self._rows[rung.name] = row
        row["reason"] = rung.unavailable(self._settings.device)
        if row["reason"] is not None:
            return
        free(self._settings.device)
        self._memory.forget_peak()
        before = self._memory.held()
        runners: list[Runner] = []
        try:
            row |= self._first(rung, runners)
        except BROKEN as error:
            if rung.name == "plain":
                raise
            for runner in runners:
                runner.close()
            row["reason"] = one_line(error)
            return
        row["memory"] = {
            "of": self._memory.of,
            "weights": runners[0].weight_bytes(),
            "before": before,
            "kept": difference(self._memory.held(), before),
            "peak": difference(self._memory.peak(), before),
            "reserved": self._memory.reserved(),
        }
        row |= {"notes": list(runners[0].notes()), "overlapped_hz": None}
        self._runners[rung.name] = runners[0]
        self._times[rung.name] = {name: [] for name in (*STAGES, "e2e", "e2e_cpu")}

    def _first(self, rung: Rung, runners: list[Runner]) -> dict[str, Any]:
        """The first chunks of a rung, which goes to `runners`: how long they take, and how near to plain they are."""
        runner, build_s = self._watch.wall(partial(rung.make, self._subject, self._steps, self._settings.device))
        runners.append(runner)
        first_s, ready_s = self._begin(runner)
        for i in range(1 + self._settings.warmup):
            self._chunk(runner, i)
        reason = runner.fallback()
        if reason is not None:
            raise Unavailable(reason)
        self._staged(runner, 0)
        chunks = self._actions(runner)
        self._expected = self._expected or chunks
        same = [agreement(chunk, wanted) for chunk, wanted in zip(chunks, self._expected, strict=True)]
        return {
            "agreement": None if rung.name == "plain" else worst(same),
            "first_s": {"build": build_s, "inference": first_s, "ready": ready_s},
        }

    def _begin(self, runner: Runner) -> tuple[float, float]:
        """Seconds of the first chunk, and until what it set off in the background is done.

        Nothing here waits for the whole device: that would end the recording of a graph in the other thread.
        """
        begin = time.perf_counter()
        self._chunk(runner, 0)
        first = time.perf_counter()
        runner.ready()
        return first - begin, time.perf_counter() - first

    def run(self, number: int) -> None:
        """Every rung once end to end and once stage by stage; who begins changes from run to run."""
        names = list(self._runners)
        if not names:
            return
        first = number % len(names)
        for name in (*names[first:], *names[:first]):
            try:
                for column, seconds in self._once(self._runners[name], number).items():
                    self._times[name][column].append(seconds)
            except BROKEN as error:
                self._leave(name, f"ended in run {number + 1} of {self._settings.repeats}: {one_line(error)}")

    def _once(self, runner: Runner, number: int) -> dict[str, float]:
        begin = time.process_time()
        _, whole = self._watch.wall(lambda: self._chunk(runner, number))
        spent = time.process_time() - begin
        return {"e2e": whole, "e2e_cpu": spent, **self._staged(runner, number)}

    def _leave(self, name: str, why: str) -> None:
        """Goes on without a rung that broke; what was measured of it stays.

        Raises:
            RuntimeError: nothing was measured of the plain network, which all others are compared with.
        """
        self._runners.pop(name).close()
        if self._times[name]["e2e"]:
            self._rows[name]["notes"].append(why)
            return
        if name == "plain":
            raise RuntimeError(f"plain: {why}")
        del self._times[name]
        self._rows[name]["reason"] = why

    def overlap(self) -> None:
        """Chunks per second while a thread prepares the next observation."""
        for name, runner in list(self._runners.items()):
            try:
                self._rows[name]["overlapped_hz"] = self._overlapped(runner)
            except BROKEN as error:
                self._leave(name, f"ended beside host work: {one_line(error)}")

    def _overlapped(self, runner: Runner) -> float:
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(runner.encode, 0)
            ahead.result()
            self._watch.wait()
            begin = time.perf_counter()
            for i in range(self._settings.repeats):
                inputs = ahead.result()
                ahead = pool.submit(runner.encode, i + 1)
                self._subject.decode(runner.sample(inputs, self._subject.noise), i)
            self._watch.wait()
            return self._settings.repeats / (time.perf_counter() - begin)

    def rows(self) -> list[dict[str, Any]]:
        """What a report holds of each rung, times included."""
        plain = spread(self._times["plain"]["e2e"])["p50"]
        for name, times in self._times.items():
            e2e = spread(times["e2e"])
            self._rows[name] |= {
                "stages_ms": {stage: spread(times[stage]) for stage in STAGES if times[stage]},
                "e2e_ms": e2e,
                "e2e_cpu_ms": spread(times["e2e_cpu"]),
                "speedup": plain / e2e["p50"],
            }
        return list(self._rows.values())

    def released(self) -> dict[str, Any] | None:
        """What is held where only the engine is left, as on a robot. None: no engine was measured. The last call."""
        try:
            return self._released()
        except BROKEN as error:
            self._rows["plain"]["notes"].append(f"memory of an engine alone: not measured: {one_line(error)}")
            return None

    def _released(self) -> dict[str, Any] | None:
        name = next((name for name in ("graph", "engine") if name in self._runners), None)
        if name is None:
            return None
        kept = self._runners.pop(name)
        self.close()
        self._runners = {name: kept}
        freed = kept.release()
        free(self._settings.device)
        self._memory.forget_peak()
        self._chunk(kept, 0)
        return {
            "rung": name,
            "of": self._memory.of,
            "freed": freed,
            "held": self._memory.held(),
            "peak": self._memory.peak(),
            "reserved": self._memory.reserved(),
        }

    def close(self) -> None:
        """Gives back what the rungs hold."""
        for runner in self._runners.values():
            runner.close()
        self._runners.clear()

    def _chunk(self, runner: Runner, number: int) -> Any:
        """Pictures to actions, as a policy does it."""
        inputs = runner.encode(number)
        return self._subject.decode(runner.sample(inputs, self._subject.noise), number)

    def _staged(self, runner: Runner, number: int) -> dict[str, float]:
        inputs, data = self._watch.wall(lambda: runner.encode(number))
        if not self._settings.stages:
            return {"data": data}
        actions, inner = runner.staged(inputs, self._subject.noise, self._watch)
        _, decode = self._watch.wall(lambda: self._subject.decode(actions, number))
        return {"data": data, **inner, "decode": decode}

    def _actions(self, runner: Runner) -> list[torch.Tensor]:
        """Normalised actions of every observation, on the CPU."""
        numbers = range(len(self._subject.scenes))
        return [runner.sample(runner.encode(i), self._subject.noise).float().cpu() for i in numbers]


def free(device: torch.device) -> None:
    """Gives back what nobody holds any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def one_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0].strip() if text else type(error).__name__
