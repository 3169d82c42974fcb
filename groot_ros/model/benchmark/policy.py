"""End to end: uint8 camera pictures to physical actions, plain and with each optimisation, interleaved in one run."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch

from groot_ros.model.benchmark.floors import floor_s, gpu_of, operations, work
from groot_ros.model.benchmark.host import describe_host
from groot_ros.model.benchmark.options import RUNG_NAMES
from groot_ros.model.benchmark.random_model import parameter_count, random_model, weight_bytes
from groot_ros.model.benchmark.robots import Robot, plain_robot, random_processor
from groot_ros.model.benchmark.rungs import RUNGS, Rung, Runner, Unavailable
from groot_ros.model.benchmark.sampler import Progress, text_tokens
from groot_ros.model.benchmark.subject import Subject, load_parts, random_subject
from groot_ros.model.benchmark.timing import Memory, Stopwatch, agreement, difference, spread, threads, worst
from groot_ros.model.groot import GrootModel
from groot_ros.processing.processor import Processor

STAGES = ("data", "backbone", "head", "decode")


@dataclass(frozen=True)
class PolicySettings:
    """What to measure.

    Attributes:
        cameras: how many, one after the other; a checkpoint or a given robot has its own number.
        rungs: names, in the order of `RUNGS`; `plain` is measured in any case.
        camera_size: height and width of the pictures.
        text_tokens: of the prompt beside the images; None: a usual number.
        threads: of torch on the CPU; None: torch's own choice.
        stages: measure backbone and head apart, too. Where programs are compiled, that is a second compilation.
        robots: generation -> robot, in place of an invented one.
    """

    generations: Sequence[str] = ("n1d5", "n1d6", "n1d7")
    cameras: Sequence[int] = (1, 2, 3)
    size: str = "full"
    steps: int | None = None
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    repeats: int = 50
    warmup: int = 5
    camera_size: tuple[int, int] = (480, 640)
    text_tokens: int | None = None
    seed: int = 0
    threads: int | None = None
    rungs: Sequence[str] = RUNG_NAMES
    stages: bool = True
    checkpoint: str | None = None
    tag: str | None = None
    tokenizer: str | None = None
    robots: Mapping[str, Robot] | None = None

    def check(self) -> None:
        """ValueError for what cannot be measured; it names the option."""
        for name, value, least in (("repeats", self.repeats, 1), ("warmup", self.warmup, 0)):
            if value < least:
                raise ValueError(f"{name} is {value}, expected at least {least}")
        if any(count < 1 for count in self.cameras):
            raise ValueError(f"cameras is {list(self.cameras)}, expected numbers from 1 on")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps is {self.steps}, expected at least 1")
        unknown = [name for name in self.rungs if name not in RUNG_NAMES]
        if unknown:
            raise ValueError(f"rung {unknown[0]!r}, expected one of {', '.join(RUNG_NAMES)}")

    def said(self) -> dict[str, Any]:
        """The settings for a report."""
        values = {name: value for name, value in asdict(self).items() if name != "robots"}
        return values | {"dtype": str(self.dtype).removeprefix("torch."), "device": str(self.device)}


def measure_policy(settings: PolicySettings, progress: Progress | None = None) -> dict[str, Any]:
    """All generations, one after the other; in each, all numbers of cameras with one network.

    Returns:
        The report: `host`, `settings`, and per generation and number of cameras an entry of `results`; see
        benchmarks/README.md.

    Raises:
        ValueError: see `PolicySettings.check`, `random_processor`, `load_parts`.
        RuntimeError: the device is out of memory with the plain network.
    """
    settings.check()
    with threads(settings.threads):
        return _report(settings, progress)


def _report(settings: PolicySettings, progress: Progress | None) -> dict[str, Any]:
    host = describe_host(settings.device)
    results: list[dict[str, Any]] = []
    jobs = _jobs(settings)
    total = sum(len(cameras) for _, cameras in jobs)
    for generation, cameras in jobs:

        def tell(text: str, share: float, done: int = 0) -> None:
            if progress is not None:
                progress(text, (done + share) / total)

        tell(f"{generation or settings.checkpoint}: weights", 0.0, len(results))
        model, processor, source = _network(settings, generation)
        for count in cameras:
            subject = _subject(settings, model, processor, source, count)
            start = len(results)

            def tell_row(text: str, share: float, start: int = start) -> None:
                tell(text, share, start)

            results.append(_measure(settings, subject, tell_row, last=count == cameras[-1]))
            del subject
            _free(settings.device)
        del model, processor
        _free(settings.device)
    if progress is not None:
        progress("done", 1.0)
    return {"benchmark": "policy", "format": 1, "host": host, "settings": settings.said(), "results": results}


def _jobs(settings: PolicySettings) -> list[tuple[str | None, Sequence[int]]]:
    """Generation (None: the checkpoint's) and numbers of cameras (0: as many as the robot has)."""
    if settings.checkpoint is not None:
        return [(None, (0,))]
    return [(generation, (0,) if settings.robots else settings.cameras) for generation in settings.generations]


def _network(settings: PolicySettings, generation: str | None) -> tuple[GrootModel, Processor | None, str]:
    """The network, its processor where it does not depend on the number of cameras, and what it is, in words."""
    if generation is None:
        assert settings.checkpoint is not None
        names = {"tag": settings.tag, "tokenizer": settings.tokenizer}
        found = load_parts(settings.checkpoint, settings.dtype, settings.device, **names, robots=settings.robots)  # type: ignore[arg-type]
        return *found, settings.checkpoint
    processor, config = random_processor(_robot(settings, generation, 1), generation, settings.size)
    model = random_model(config, settings.dtype, settings.device, settings.seed)
    return model, processor if settings.robots else None, f"random {settings.size} {generation}"


def _robot(settings: PolicySettings, generation: str, cameras: int) -> Robot:
    given = (settings.robots or {}).get(generation)
    return plain_robot(generation, cameras, settings.camera_size) if given is None else given


def _subject(
    settings: PolicySettings, model: GrootModel, processor: Processor | None, source: str, cameras: int
) -> Subject:
    """`cameras` 0: as many as the processor wants."""
    generation = model.config.generation
    if processor is None:
        processor, _ = random_processor(_robot(settings, generation, cameras), generation, settings.size)
    keys = processor.modality["video"].modality_keys
    given = (settings.robots or {}).get(generation)
    views = dict.fromkeys(keys, settings.camera_size) if given is None else dict(given.views)
    text = text_tokens(generation, len(views)) if settings.text_tokens is None else settings.text_tokens
    return random_subject(source, model, processor, views, text, settings.seed)


def _measure(
    settings: PolicySettings, subject: Subject, tell: Callable[[str, float], None], *, last: bool
) -> dict[str, Any]:
    """One entry of `results`; `last`: the network is not needed any more, so that its memory can be released."""
    config = subject.model.config
    cameras = len(subject.processor.modality["video"].modality_keys)
    title = f"{subject.source}, {cameras} {'camera' if cameras == 1 else 'cameras'}"
    steps = settings.steps or config.num_inference_timesteps
    measured = _Ladder(settings, subject, steps)
    chosen = [rung for rung in RUNGS if rung.name == "plain" or rung.name in settings.rungs]
    for i, rung in enumerate(chosen):
        tell(f"{title}: {rung.name}: preparing", 0.3 * i / len(chosen))
        measured.prepare(rung)
    for i in range(settings.repeats):
        tell(f"{title}: run {i + 1} of {settings.repeats}", 0.3 + 0.6 * i / settings.repeats)
        measured.run(i)
    tell(f"{title}: host work beside the network", 0.9)
    measured.overlap()
    result = {
        "generation": config.generation,
        "source": subject.source,
        "cameras": cameras,
        "pictures": {scene: list(shape) for scene, shape in subject.sizes.items()},
        "steps": steps,
        "horizon": config.action_horizon,
        "dtype": str(settings.dtype).removeprefix("torch."),
        "device": str(settings.device),
        "parameters": parameter_count(subject.model),
        "weight_bytes": weight_bytes(subject.model),
        "tokens": {
            "image": subject.image_tokens,
            "text": subject.text_tokens,
            "prompt": subject.image_tokens + subject.text_tokens,
            "patches": sum(subject.patches),
        },
        "attention": subject.model.backbone.visual.config._attn_implementation,
        "floors": _floors(subject, steps),
        "rungs": measured.rows(),
    }
    result["released"] = measured.released() if last else None
    measured.close()
    return result


class _Ladder:
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
        _free(self._settings.device)
        self._memory.forget_peak()
        before = self._memory.held()
        runners: list[Runner] = []
        try:
            row |= self._first(rung, runners)
        except (RuntimeError, ValueError, ImportError) as error:
            if rung.name == "plain":
                raise
            for runner in runners:
                runner.close()
            row["reason"] = _one_line(error)
            return
        row["memory"] = {
            "of": self._memory.of,
            "weights": runners[0].weight_bytes(),
            "before": before,
            "kept": difference(self._memory.held(), before),
            "peak": difference(self._memory.peak(), before),
            "reserved": self._memory.reserved(),
        }
        row["notes"] = list(runners[0].notes())
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
        first = number % len(names)
        for name in (*names[first:], *names[:first]):
            runner, times = self._runners[name], self._times[name]
            begin = time.process_time()
            _, seconds = self._watch.wall(lambda runner=runner: self._chunk(runner, number))  # type: ignore[misc]
            times["e2e"].append(seconds)
            times["e2e_cpu"].append(time.process_time() - begin)
            for stage, seconds in self._staged(runner, number).items():
                times[stage].append(seconds)

    def overlap(self) -> None:
        """Chunks per second while a thread prepares the next observation."""
        for name, runner in self._runners.items():
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
                seconds = time.perf_counter() - begin
            self._rows[name]["overlapped_hz"] = self._settings.repeats / seconds

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
        name = next((name for name in ("graph", "engine") if name in self._runners), None)
        if name is None:
            return None
        kept = self._runners.pop(name)
        self.close()
        self._runners = {name: kept}
        freed = kept.release()
        _free(self._settings.device)
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


def _floors(subject: Subject, steps: int) -> dict[str, Any]:
    """Bytes and arithmetic of a chunk, and the floors in milliseconds where the GPU is known."""
    gpu = gpu_of(subject.model.action_head.model.proj_out_2.weight)
    found: dict[str, Any] = {"gpu": None if gpu is None else gpu.name}
    for name, exact in (("plain", False), ("engine", True)):
        listed = operations(subject.model, subject.patches, subject.text_tokens, steps=steps, exact=exact)
        found[name] = asdict(work(listed))
        if gpu is not None:
            found[name]["ms"] = 1e3 * floor_s(listed, gpu)
            if exact and gpu.fp8 is not None:
                found["fp8_ms"] = 1e3 * floor_s(listed, gpu, fp8=True)
    return found


def _free(device: torch.device) -> None:
    """Gives back what nobody holds any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _one_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0].strip() if text else type(error).__name__
