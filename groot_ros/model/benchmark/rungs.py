"""The ladder: the plain network, the engine, and what each further optimisation makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from groot_ros.model.benchmark.random_model import weight_bytes
from groot_ros.model.benchmark.subject import Subject
from groot_ros.model.benchmark.timing import Stopwatch
from groot_ros.model.engine.engine import TEXT_BUCKET, Engine, EngineOptions
from groot_ros.model.engine.fp8 import Calibrator, check_device, quantize
from groot_ros.model.engine.graphs import CudaGraphs
from groot_ros.model.engine.head import ChunkBuffers
from groot_ros.model.engine.prompt import PromptBuffers, prompt_buffers
from groot_ros.model.engine.staging import PinnedCopy
from groot_ros.model.engine.vision import Views
from groot_ros.model.groot import INFERENCE_INPUTS
from groot_ros.processing.device_images import DeviceImages

Inputs = dict[str, Tensor]
_FRAMES = "frames"  # in place of pixel_values


class Unavailable(RuntimeError):
    """A rung that does not apply here; the message says why."""


class Runner(Protocol):
    """One way to compute chunks."""

    def encode(self, number: int) -> Inputs:
        """The host's work for an observation, before the network."""
        ...

    def sample(self, inputs: Inputs, noise: Tensor) -> Tensor:
        """Normalised actions float32 [1,H,A]; `inputs` and `noise` are on the host, the latter in float32."""
        ...

    def staged(self, inputs: Inputs, noise: Tensor, watch: Stopwatch) -> tuple[Tensor, dict[str, float]]:
        """The same in two parts, and the seconds of each: `backbone` (with the copy to the device) and `head`."""
        ...

    def ready(self) -> None:
        """Waits for what is still being made in the background, after the first chunk."""
        ...

    def fallback(self) -> str | None:
        """Why it does not work as it should, but slower; None: it does."""
        ...

    def notes(self) -> list[str]:
        """What it said about itself, a line each."""
        ...

    def weight_bytes(self) -> int:
        """What it reads."""
        ...

    def release(self) -> int:
        """Drops from the network what it does not read itself; bytes. Nothing else can run the network afterwards."""
        ...

    def close(self) -> None:
        """Ends what is being made in the background."""
        ...


@dataclass(frozen=True)
class Rung:
    """A step of the ladder."""

    name: str
    what: str
    make: Callable[[Subject, int, torch.device], Runner]
    """Of a subject, for so many Euler steps. Raises: Unavailable, or what making it raises."""
    cuda: str = ""
    """Why it needs CUDA; empty: it runs anywhere, there without graphs and compilation."""

    def unavailable(self, device: torch.device) -> str | None:
        """Why it does not apply on a device; None: it may."""
        return f"{self.cuda}, found device {device}" if self.cuda and device.type != "cuda" else None


class Plain:
    """`GrootModel.sample`."""

    def __init__(self, subject: Subject, steps: int) -> None:
        self._model, self._steps = subject.model, steps
        self.encode = subject.encode

    def sample(self, inputs: Inputs, noise: Tensor) -> Tensor:
        return self._model.sample(inputs, noise=noise, num_steps=self._steps)

    @torch.no_grad()
    def staged(self, inputs: Inputs, noise: Tensor, watch: Stopwatch) -> tuple[Tensor, dict[str, float]]:
        model = self._model
        moved: Inputs = {}

        def see() -> Any:
            moved.update(model.prepare(inputs, INFERENCE_INPUTS))
            return model.backbone(moved)

        features, backbone = watch.device_time(see)
        actions, head = watch.device_time(
            lambda: model.action_head.sample(features, moved, noise=noise, num_steps=self._steps)
        )
        return actions.float(), {"backbone": backbone, "head": head}

    def ready(self) -> None:
        return None

    def fallback(self) -> str | None:
        return None

    def notes(self) -> list[str]:
        return []

    def weight_bytes(self) -> int:
        return weight_bytes(self._model)

    def release(self) -> int:
        return 0

    def close(self) -> None:
        return None


@dataclass
class _Parts:
    """A program in two halves with buffers of their own, recorded where graphs are."""

    prompt: PromptBuffers
    chunk: ChunkBuffers
    see: Callable[[], Tensor]
    act: Callable[[], Tensor]
    fill: PinnedCopy = field(init=False)
    """Puts an observation into the chunk's buffers, as the engine does."""

    def __post_init__(self) -> None:
        chunk = self.chunk
        self.fill = PinnedCopy({"pixel_values": chunk.pixel_values, "state": chunk.state, "noise": chunk.noise})


class Engined:
    """`Engine.sample`, with graphs, compiled or quantised."""

    def __init__(self, subject: Subject, steps: int, options: EngineOptions, precision: str = "model") -> None:
        self._subject = subject
        self._options = EngineOptions(num_steps=steps, graphs=options.graphs, compile=options.compile)
        device = subject.model.device
        check_device(precision, device)
        scales = _scales(subject, steps) if precision == "fp8" else None
        self._said: list[str] = []
        self._engine = Engine(subject.model, subject.processor.embodiment_id, self._options, log=self._said.append)
        if precision != "model":
            self._said.append(str(quantize(self._engine.program, precision, scales)))
        self._parts: _Parts | None = None

    def encode(self, number: int) -> Inputs:
        return self._subject.encode(number)

    def sample(self, inputs: Inputs, noise: Tensor) -> Tensor:
        return self._engine.sample(inputs, noise=noise)

    @torch.no_grad()
    def staged(self, inputs: Inputs, noise: Tensor, watch: Stopwatch) -> tuple[Tensor, dict[str, float]]:
        if self._parts is None:
            self._parts = self._split(self._finished(inputs))
        parts = self._parts

        def see() -> Tensor:
            pixels = self._finished(inputs)["pixel_values"]
            parts.fill({"pixel_values": pixels, "state": inputs["state"], "noise": noise})
            return parts.see()

        _, backbone = watch.device_time(see)
        actions, head = watch.device_time(parts.act)
        return actions.float(), {"backbone": backbone, "head": head}

    def ready(self) -> None:
        self._engine.wait()

    def fallback(self) -> str | None:
        report = self._engine.report()
        uncompiled = [line for line in self._said if line.startswith("torch.compile")]
        if self._options.compile and uncompiled:
            return uncompiled[0]
        if self._options.graphs and report.mode != "graph":
            return report.reason or f"it runs as {report.mode}"
        return None

    def notes(self) -> list[str]:
        return self._said

    def weight_bytes(self) -> int:
        return self._engine.report().weight_bytes

    def release(self) -> int:
        self._parts = None
        return self._engine.release()

    def close(self) -> None:
        self._parts = None
        self._engine.close()

    def _finished(self, inputs: Inputs) -> Inputs:
        """What the host's work left to the device."""
        return inputs

    def _split(self, inputs: Inputs) -> _Parts:
        """Backbone and head apart, in the form in which the engine runs both together."""
        model, program, options = self._subject.model, self._engine.program, self._options
        grids = [(int(t), int(h), int(w)) for t, h, w in inputs["image_grid_thw"].tolist()]
        views: Views = program.vision.views(grids)
        table = model.backbone.language_model.embed_tokens.weight.detach()
        bucket = TEXT_BUCKET if options.graphs else 1
        prompt = prompt_buffers(model.backbone, table, inputs["input_ids"], grids, bucket, model.device)
        config = model.config

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, device=model.device, dtype=model.dtype)

        chunk = ChunkBuffers(
            pixel_values=zeros(*inputs["pixel_values"].shape),
            state=zeros(1, config.state_history_length, config.max_state_dim),
            noise=zeros(1, config.action_horizon, config.max_action_dim),
        )
        backbone: Callable[..., Tensor] = program.backbone
        head: Callable[..., Tensor] = program.head
        if options.compile:
            backbone, head = torch.compile(backbone, dynamic=False), torch.compile(head, dynamic=False)
        features: list[Tensor] = []

        def see() -> Tensor:
            features[:] = [backbone(prompt, chunk.pixel_values, views)]
            return features[0]

        def act() -> Tensor:
            return head(features[0], prompt, chunk)

        if not options.graphs:
            return _Parts(prompt, chunk, see, act)
        recorder = CudaGraphs(model.device)
        replayed = recorder.record(see)  # its output stays held, so the head's graph writes nowhere into it
        features[:] = [replayed()]
        return _Parts(prompt, chunk, replayed, recorder.record(act))


class Pictured(Engined):
    """`Engine.sample` behind `DeviceImages`: raw frames go to the device, and all arithmetic on them is there."""

    def __init__(self, subject: Subject, steps: int, options: EngineOptions) -> None:
        super().__init__(subject, steps, options)
        sizes = set(subject.sizes.values())
        if len(sizes) != 1:
            raise Unavailable(f"pictures of one size are needed, found {sorted(sizes)}")
        [(width, height)] = sizes
        self._device = subject.model.device
        self._shape = (len(subject.patches), height, width, 3)
        self._images = DeviceImages(subject.processor.images, (height, width)).to(self._device)

    def encode(self, number: int) -> Inputs:
        frames = torch.empty(self._shape, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        return {**self._subject.encode(number, raw=frames.numpy()), _FRAMES: frames}

    def sample(self, inputs: Inputs, noise: Tensor) -> Tensor:
        return super().sample(self._finished(inputs), noise)

    def _finished(self, inputs: Inputs) -> Inputs:
        rest = {name: value for name, value in inputs.items() if name != _FRAMES}
        return {**rest, "pixel_values": self._images(inputs[_FRAMES].to(self._device, non_blocking=True))}


def _scales(subject: Subject, steps: int) -> Any:
    """Of activations, calibrated on the observations that are measured."""
    options = EngineOptions(num_steps=steps, graphs=False)
    engine = Engine(subject.model, subject.processor.embodiment_id, options, log=lambda line: None)
    with Calibrator(engine.program) as calibrator:
        for number in range(len(subject.scenes)):
            engine.sample(subject.encode(number), noise=subject.noise)
        return calibrator.scales()


@dataclass(frozen=True)
class _EngineRung:
    """Makes an `Engined`; elsewhere than on CUDA without graphs and compilation."""

    options: EngineOptions = field(default_factory=EngineOptions)
    precision: str = "model"
    pictures: bool = False
    """Processed on the device."""

    def __call__(self, subject: Subject, steps: int, device: torch.device) -> Runner:
        options = self.options if device.type == "cuda" else EngineOptions(graphs=False)
        if options.compile:
            # Of one function torch keeps a few compiled forms only, and runs further ones uncompiled. What was
            # compiled for other rungs is in their graphs by now.
            torch.compiler.reset()
        if self.pictures:
            return Pictured(subject, steps, options)
        return Engined(subject, steps, options, self.precision)


_COMPILED = EngineOptions(compile=True)
RUNGS = (
    Rung("plain", "GrootModel.sample", lambda subject, steps, device: Plain(subject, steps)),
    Rung("engine", "exact rewrites, eager", _EngineRung(EngineOptions(graphs=False))),
    Rung("graph", "and CUDA graphs", _EngineRung(), "CUDA graphs need a CUDA device"),
    Rung(
        "pictures",
        "as graph, pictures processed on the device",
        _EngineRung(pictures=True),
        "pictures go to a CUDA device",
    ),
    Rung(
        "compile",
        "as graph, and torch.compile",
        _EngineRung(_COMPILED),
        "compiled for CUDA only, where launches cost",
    ),
    Rung(
        "fp8_weights",
        "as compile (elsewhere as engine), weights of language model and DiT in fp8",
        _EngineRung(_COMPILED, "fp8_weights"),
    ),
    Rung(
        "fp8",
        "as compile, language model and DiT computed in fp8",
        _EngineRung(_COMPILED, "fp8"),
        "fp8 arithmetic needs a CUDA device from 8.9 on",
    ),
)
