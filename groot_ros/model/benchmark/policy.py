"""End to end: uint8 camera pictures to physical actions, plain and with each optimisation, interleaved in one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch

from groot_ros.model.benchmark.floors import floor_s, gpu_of, operations, work
from groot_ros.model.benchmark.host import describe_host
from groot_ros.model.benchmark.ladder import BROKEN, Ladder, free, one_line
from groot_ros.model.benchmark.options import RUNG_NAMES
from groot_ros.model.benchmark.random_model import parameter_count, random_model, weight_bytes
from groot_ros.model.benchmark.robots import Robot, plain_robot, random_processor
from groot_ros.model.benchmark.rungs import RUNGS
from groot_ros.model.benchmark.sampler import Progress, text_tokens
from groot_ros.model.benchmark.subject import Subject, load_parts, random_subject
from groot_ros.model.benchmark.tables import setting_title
from groot_ros.model.benchmark.timing import check_counts, threads
from groot_ros.model.groot import GrootModel
from groot_ros.processing.patches import has_pillow
from groot_ros.processing.processor import Processor

Result = TypeVar("Result")


@dataclass(frozen=True)
class PolicySettings:
    """What to measure.

    Attributes:
        cameras: how many, one after the other; a checkpoint or a given robot has its own number.
        rungs: names, in the order of `RUNGS`; `plain` is measured in any case.
        camera_size: height and width of the pictures.
        text_tokens: wanted of the prompt beside the images; None: as in spec performance.md, B. What the template
            says by itself may be more, which is noted.
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
        check_counts({"repeats": self.repeats, "steps": self.steps}, self.warmup, self.cameras)
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
        benchmarks/README.md. A setting that cannot be measured is an entry with the `reason`.

    Raises:
        ValueError: see `PolicySettings.check`.
        Exception: nothing could be measured. Where it is for one reason everywhere, that error (ValueError: see
            `random_processor`, `load_parts`; OSError; RuntimeError: out of memory with the plain network, and
            anything else), else a RuntimeError with all reasons.
    """
    settings.check()
    with threads(settings.threads):
        return _report(settings, progress)


def _report(settings: PolicySettings, progress: Progress | None) -> dict[str, Any]:
    host = describe_host(settings.device)
    results: list[dict[str, Any]] = []
    errors: list[Exception] = []
    jobs = _jobs(settings)
    total = sum(len(cameras) for _, cameras in jobs)
    for generation, cameras in jobs:

        def tell(text: str, share: float) -> None:
            if progress is not None:
                progress(text, (len(results) + share) / total)

        tell(f"{generation or settings.checkpoint}: weights", 0.0)
        network = _tried(partial(_network, settings, generation))
        for count in cameras:
            made: dict[str, Any] | Exception
            if isinstance(network, Exception):
                made = network
            else:
                made = _tried(partial(_measured, settings, network, count, tell, last=count == cameras[-1]))
            if isinstance(made, Exception):
                errors.append(made)
                made = _not_measured(settings, generation, count, made)
            results.append(made)
        del network
        _tried(partial(free, settings.device))
    if len(errors) == len(results):
        raise _nothing(results, errors)
    if progress is not None:
        progress("done", 1.0)
    return {"benchmark": "policy", "format": 1, "host": host, "settings": settings.said(), "results": results}


def _tried(call: Callable[[], Result]) -> Result | Exception:
    """What the call gives, or the error that it ends with, which holds nothing of what the call had made."""
    try:
        return call()
    except BROKEN as error:
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)


def _measured(
    settings: PolicySettings,
    network: tuple[GrootModel, Processor | None, str],
    cameras: int,
    tell: Callable[[str, float], None],
    *,
    last: bool,
) -> dict[str, Any]:
    free(settings.device)
    return _measure(settings, _subject(settings, *network, cameras), tell, last=last)


def _not_measured(settings: PolicySettings, generation: str | None, cameras: int, error: Exception) -> dict[str, Any]:
    """The entry of a setting that could not be measured."""
    source = settings.checkpoint if generation is None else _source(settings, generation)
    return {"generation": generation, "source": source, "cameras": cameras or None, "reason": one_line(error)}


def _nothing(results: Sequence[dict[str, Any]], errors: Sequence[Exception]) -> Exception:
    """The error of a run that measured nothing: the only one, or a list of them."""
    if len({row["reason"] for row in results}) == 1:
        return errors[0] if isinstance(errors[0], (RuntimeError, ValueError, OSError)) else RuntimeError(str(errors[0]))
    where = (setting_title(row) for row in results)
    return RuntimeError("; ".join(f"{title}: {row['reason']}" for title, row in zip(where, results, strict=True)))


def _source(settings: PolicySettings, generation: str) -> str:
    return f"random {settings.size} {generation}"


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
    return model, processor if settings.robots else None, _source(settings, generation)


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
    text = _wanted_text(settings, generation, len(views))
    return random_subject(source, model, processor, views, text, settings.seed)


def _wanted_text(settings: PolicySettings, generation: str, cameras: int) -> int:
    return text_tokens(generation, cameras) if settings.text_tokens is None else settings.text_tokens


def _measure(
    settings: PolicySettings, subject: Subject, tell: Callable[[str, float], None], *, last: bool
) -> dict[str, Any]:
    """One entry of `results`; `last`: the network is not needed any more, so that its memory can be released."""
    config = subject.model.config
    cameras = len(subject.processor.modality["video"].modality_keys)
    title = setting_title({"source": subject.source, "cameras": cameras})
    steps = settings.steps or config.num_inference_timesteps
    measured = Ladder(settings, subject, steps)
    chosen = [rung for rung in RUNGS if rung.name == "plain" or rung.name in settings.rungs]
    try:
        for i, rung in enumerate(chosen):
            tell(f"{title}: {rung.name}: preparing", 0.3 * i / len(chosen))
            measured.prepare(rung)
        for i in range(settings.repeats):
            tell(f"{title}: run {i + 1} of {settings.repeats}", 0.3 + 0.6 * i / settings.repeats)
            measured.run(i)
        tell(f"{title}: host work beside the network", 0.9)
        measured.overlap()
        result = _described(settings, subject, steps) | {"rungs": measured.rows()}
        result["released"] = measured.released() if last else None
    finally:
        measured.close()
    return result


def _described(settings: PolicySettings, subject: Subject, steps: int) -> dict[str, Any]:
    """What was measured."""
    config = subject.model.config
    return {
        "generation": config.generation,
        "source": subject.source,
        "cameras": len(subject.processor.modality["video"].modality_keys),
        "reason": None,
        "notes": _notes(settings, subject),
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
    }


def _notes(settings: PolicySettings, subject: Subject) -> list[str]:
    """What makes the numbers others than a reader would think."""
    notes = []
    generation = subject.model.config.generation
    wanted = _wanted_text(settings, generation, len(subject.processor.modality["video"].modality_keys))
    if subject.text_tokens != wanted:
        notes.append(
            f"{subject.text_tokens} tokens of text where {wanted} were wanted: no instruction that the benchmark makes "
            "comes nearer"
        )
    if generation == "n1d6" and not has_pillow():
        notes.append(
            "there is no Pillow: data, and with it E2E, is with the package's own resizing, which is slower; pip "
            "install pillow"
        )
    return notes


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
