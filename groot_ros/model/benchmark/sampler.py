"""The action head alone, plain against the engine's, in pairs: one after the other in one process, on one input."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from groot_ros.model.action_head import ActionHead
from groot_ros.model.backbone import BackboneOutput
from groot_ros.model.benchmark.floors import floor_s, gpu_of, head_operations, work
from groot_ros.model.benchmark.host import describe_host
from groot_ros.model.benchmark.random_model import head_config, parameter_count, random_head, weight_bytes
from groot_ros.model.benchmark.timing import (
    Memory,
    Stopwatch,
    agreement,
    check_counts,
    difference,
    middle,
    spread,
    threads,
)
from groot_ros.model.engine.head import ChunkBuffers, FrozenHead
from groot_ros.model.engine.packed import can_pack, pack_products
from groot_ros.model.engine.prompt import PromptBuffers
from groot_ros.model.engine.release import bytes_held

# Image tokens per camera, and text tokens without a camera; each adds some words around it (spec performance.md, B).
IMAGE_TOKENS = {"n1d5": 256, "n1d6": 81, "n1d7": 64}
TEXT_TOKENS = {"n1d5": 20, "n1d6": 25, "n1d7": 25}
TEXT_TOKENS_PER_CAMERA = 3
EMBODIMENT = 3  # any: all are random

Progress = Callable[[str, float], None]
"""What is being done, and the share of all that is done."""


@dataclass(frozen=True)
class SamplerSettings:
    """What to measure; `pairs` counts plain and engine, one each."""

    generations: Sequence[str] = ("n1d5", "n1d6", "n1d7")
    cameras: Sequence[int] = (2,)
    size: str = "full"
    layers: int | None = None
    steps: int | None = None
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    pairs: int = 5
    warmup: int = 1
    threads: int | None = 1
    seed: int = 0

    def check(self) -> None:
        """ValueError for what cannot be measured; it names the option."""
        check_counts({"pairs": self.pairs, "steps": self.steps}, self.warmup, self.cameras)


def text_tokens(generation: str, cameras: int) -> int:
    """Tokens of a usual prompt beside those of the images."""
    return TEXT_TOKENS[generation] + TEXT_TOKENS_PER_CAMERA * cameras


def measure_sampler(settings: SamplerSettings, progress: Progress | None = None) -> dict[str, Any]:
    """`ActionHead.sample` and the engine's head on random features, alternately.

    Returns:
        The report: `host`, `settings`, and per generation and number of cameras an entry of `results`; see
        benchmarks/README.md.

    Raises:
        ValueError: see `SamplerSettings.check` and `head_config`.
        RuntimeError: the device is out of memory.
    """
    settings.check()
    with threads(settings.threads):
        return _report(settings, progress)


def _report(settings: SamplerSettings, progress: Progress | None) -> dict[str, Any]:
    host = describe_host(settings.device)
    results: list[dict[str, Any]] = []
    total = len(settings.generations) * len(settings.cameras)
    for generation in settings.generations:
        for cameras in settings.cameras:
            start = len(results) / total

            def tell(text: str, share: float, start: float = start) -> None:
                if progress is not None:
                    progress(text, start + share / total)

            with torch.inference_mode():
                results.append(_measure(settings, generation, cameras, tell))
            gc.collect()
    if progress is not None:
        progress("done", 1.0)
    said = asdict(settings) | {"dtype": str(settings.dtype).removeprefix("torch."), "device": str(settings.device)}
    return {"benchmark": "sampler", "format": 1, "host": host, "settings": said, "results": results}


def too_slow(report: dict[str, Any], least: float) -> list[str]:
    """One line for every result whose median ratio is below `least`."""
    return [
        f"{row['generation']}, {row['cameras']} cameras: the engine's head is {row['ratio']['median']:.3f} times as "
        f"fast as the plain one, expected at least {least}"
        for row in report["results"]
        if row["ratio"]["median"] < least
    ]


def _measure(settings: SamplerSettings, generation: str, cameras: int, tell: Progress) -> dict[str, Any]:
    config = head_config(generation, settings.size, settings.layers)
    steps = settings.steps or config.num_inference_timesteps
    image, text = IMAGE_TOKENS[generation] * cameras, text_tokens(generation, cameras)
    title = f"{generation}, {image} + {text} tokens"
    watch, memory = Stopwatch(settings.device), Memory(settings.device)
    gc.collect()
    memory.forget_peak()
    before = memory.held()
    tell(f"{title}: random weights", 0.0)
    head = random_head(config, settings.dtype, settings.device, settings.seed)
    weights, parameters = weight_bytes(head), parameter_count(head)
    case = _Case(head, image, text, settings.seed)
    with_weights = memory.held()
    tell(f"{title}: first chunk", 0.05)
    plain, first_plain_s = watch.wall(lambda: case.plain(steps))
    plain_peak = memory.peak()
    memory.forget_peak()
    tell(f"{title}: the engine's head", 0.1)
    frozen, freeze_s = watch.wall(partial(_freeze, head, steps))
    result, first_s = watch.wall(lambda: case.engine(frozen))
    engine_peak = memory.peak()
    same = agreement(result, plain)
    pairs = _pairs(settings, watch, lambda: case.plain(steps), lambda: case.engine(frozen), title, tell)
    floors = _floors(head, image, text, steps)
    del head, result, plain
    case.forget_head()
    gc.collect()
    return {
        "generation": generation,
        "size": settings.size,
        "layers": config.dit.num_layers,
        "cameras": cameras,
        "tokens": {"image": image, "text": text},
        "horizon": config.action_horizon,
        "steps": steps,
        "parameters": parameters,
        **pairs,
        "agreement": same,
        "first_s": {"plain": first_plain_s, "freeze": freeze_s, "engine": first_s},
        "memory": {
            "of": memory.of,
            "plain_weights": weights,
            "engine_weights": bytes_held(frozen),
            "before": before,
            "with_plain_weights": difference(with_weights, before),
            "plain_peak": difference(plain_peak, before),
            "both_peak": difference(engine_peak, before),
            "engine_alone": difference(memory.held(), before),
        },
        "floors": floors,
    }


def _freeze(head: ActionHead, steps: int) -> FrozenHead:
    """The head as an engine runs it on this device."""
    frozen = FrozenHead(head, EMBODIMENT, steps)
    weight = head.model.proj_out_2.weight
    if can_pack(weight.device, weight.dtype):
        pack_products(frozen.denses())
    return frozen


class _Case:
    """One input for both heads: random features of so many image and text tokens, a state and noise."""

    def __init__(self, head: ActionHead, image: int, text: int, seed: int) -> None:
        config = head.config
        weight = head.model.proj_out_2.weight
        generator = torch.Generator("cpu").manual_seed(seed)

        def numbers(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(weight)

        self._head: ActionHead | None = head
        self._features = numbers(1, image + text, config.backbone_embedding_dim)
        self._state = numbers(1, config.state_history_length, config.max_state_dim)
        self._noise = numbers(1, config.action_horizon, config.max_action_dim)
        # As in a prompt, some text stands before the images.
        places = torch.arange(image + text, device=weight.device)
        is_image = (places >= text // 2) & (places < text // 2 + image)
        self._backbone = BackboneOutput(self._features, torch.ones_like(is_image)[None], is_image[None])
        ids = torch.full((1,), EMBODIMENT, device=weight.device)
        self._inputs = {"state": self._state, "embodiment_id": ids}
        nothing = weight.new_zeros(0)
        self._prompt = PromptBuffers(
            *(nothing, nothing, nothing), is_image.nonzero()[:, 0], (~is_image).nonzero()[:, 0], None, None
        )
        self._chunk = ChunkBuffers(nothing, self._state, self._noise)

    def plain(self, steps: int) -> Tensor:
        assert self._head is not None
        return self._head.sample(self._backbone, self._inputs, noise=self._noise, num_steps=steps)

    def engine(self, frozen: FrozenHead) -> Tensor:
        return frozen(self._features, self._prompt, self._chunk)

    def forget_head(self) -> None:
        self._head = None


def _pairs(
    settings: SamplerSettings,
    watch: Stopwatch,
    plain: Callable[[], Tensor],
    engine: Callable[[], Tensor],
    title: str,
    tell: Progress,
) -> dict[str, Any]:
    """Wall and processor times of both, alternately, and how many times faster the engine was in each pair."""
    calls = {"plain": plain, "engine": engine}
    wall: dict[str, list[float]] = {name: [] for name in calls}
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    rounds = settings.warmup + settings.pairs
    for i in range(rounds):
        tell(f"{title}: {'warm-up' if i < settings.warmup else 'pair'} {i + 1} of {rounds}", 0.15 + 0.85 * i / rounds)
        for name, call in calls.items():
            begin = time.process_time()
            _, seconds = watch.wall(call)
            if i >= settings.warmup:
                wall[name].append(seconds)
                cpu[name].append(time.process_time() - begin)

    def ratios(times: dict[str, list[float]]) -> dict[str, Any]:
        found = [a / b for a, b in zip(times["plain"], times["engine"], strict=True)]
        return {**middle(found), "pairs": found}

    return {
        "wall_ms": {name: spread(times) for name, times in wall.items()},
        "cpu_ms": {name: spread(times) for name, times in cpu.items()},
        "ratio": ratios(wall),
        "cpu_ratio": ratios(cpu),
    }


def _floors(head: ActionHead, image: int, text: int, steps: int) -> dict[str, Any]:
    """Bytes and arithmetic of a chunk, and the floors in milliseconds where the GPU is known."""
    found: dict[str, Any] = {}
    gpu = gpu_of(head.model.proj_out_2.weight)
    for name, exact in (("plain", False), ("engine", True)):
        operations = head_operations(head, image, text, steps=steps, exact=exact)
        found[name] = asdict(work(operations))
        if gpu is not None:
            found[name]["ms"] = 1e3 * floor_s(operations, gpu)
    return found | {"gpu": None if gpu is None else gpu.name}
