"""GR00T in this process: checkpoint directory in, action chunks out. torch is imported when a policy is made."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from groot_ros.embodiment.check import check_against_checkpoint, check_against_metadata, check_generation
from groot_ros.embodiment.errors import EmbodimentError
from groot_ros.embodiment.load import dotted, where
from groot_ros.embodiment.modality import modality_configs
from groot_ros.embodiment.ranges import check_training_ranges
from groot_ros.embodiment.schema import Embodiment
from groot_ros.model.config import read_json_object
from groot_ros.observation.types import Observation
from groot_ros.policy.agreement import check_processor_and_network
from groot_ros.policy.base import Chunk, Prefix
from groot_ros.policy.news import EngineFacts, News, Notices
from groot_ros.policy.pictures import FRAMES, ON_HOST, DevicePictures, Pictures, device_pictures
from groot_ros.policy.prefix import guidance_of, native_options, restore
from groot_ros.policy.sampler import Choice, Sampler, telling_what_memory_is_there

if TYPE_CHECKING:
    import torch

    from groot_ros.model.engine.engine import Engine
    from groot_ros.model.engine.gate import GateResult
    from groot_ros.processing.processor import Processor

_log = logging.getLogger(__name__)

WARM_UP_RUNS = 3
DTYPES = ("auto", "float32", "bfloat16")
NATIVE_GENERATION = "n1d7"
PACKAGE = "groot_ros"  # of the loggers
ON_CPU = "device 'auto': the CPU, many times slower than a GPU"
WARM_UP = "warm up"  # what a robot without a default instruction is told by nobody


@dataclass(frozen=True)
class Encoded:
    """What the model needs of an observation, on the host.

    Attributes:
        inputs: for ``GrootModel.sample``, a batch of one; raw frames where pictures are transformed on the device.
        seconds: it took.
    """

    observation: Observation
    inputs: dict[str, torch.Tensor]
    seconds: float


class LocalPolicy:
    """The model and its processor, checked against the robot.

    Args:
        checkpoint: directory in NVIDIA's layout, or hub id.
        embodiment: the robot; its keys, delta indices and dimensions must be the checkpoint's.
        device: ``cuda``, ``cuda:N``, ``cpu`` or ``auto``: cuda where there is one and the model fits.
        dtype: ``float32``, ``bfloat16``, or ``auto``: bfloat16 on a GPU, float32 on a CPU, where bfloat16 is slower.
        tokenizer: folder or hub id of the backbone's tokenizer; None takes the checkpoint's own.
        num_steps: Euler steps; None takes the checkpoint's.
        match_reference_bf16: round the rotary frequencies as NVIDIA's policies of N1.6 and N1.7 do, which cast the
            model to bfloat16.
        engine: compute with ``groot_ros.model.engine`` if it says what the model says on a blank observation; else, and
            with False, by the model itself. Which one it is, and why, ``news`` tells.
        graphs: the engine records CUDA graphs; no effect on a CPU.
        compile: the engine is compiled by torch.compile before that. Without graphs, and so on a CPU, it is not, and a
            notice says so.
        precision: of the engine's large products: ``model``, ``fp8_weights`` or ``fp8``.
        precision_file: the measurement that allows another than ``model``; None: the user's cache.
        keep_warm_s: see ``child.Coolable``; 0 on a CPU, whatever is given.
        pictures_on_device: transform them there if that gives what the host's libraries give; see ``DevicePictures``;
            not on a CPU, where there is nothing to win.

    Raises:
        CheckpointError, ProcessorError: the directory is incomplete or of something else, or the cameras' sizes do
            not suit it.
        EmbodimentError: the checkpoint is of another robot, by its keys, its sizes or its training ranges, or of
            another generation than ``embodiment``, or the YAML's default instruction is too long.
        DisagreementError: the processor's sizes and ids are not the network's.
        PrecisionError: no measurement allows the precision.
        DeviceMemoryError: the GPU is too small, and with ``auto`` the host, too; the message says what is needed, what
            is there and what would fit.
        ValueError: unknown device or dtype; a precision that needs the engine, without it, or that the device lacks.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        embodiment: Embodiment,
        *,
        device: str = "auto",
        dtype: str = "auto",
        tokenizer: str | None = None,
        num_steps: int | None = None,
        match_reference_bf16: bool = False,
        engine: bool = True,
        graphs: bool = True,
        compile: bool = False,
        precision: str = "model",
        precision_file: str | Path | None = None,
        keep_warm_s: float = 0.0,
        pictures_on_device: bool = False,
    ) -> None:
        from groot_ros.model.checkpoint import load_config, load_model, resolve_checkpoint

        self._embodiment = embodiment
        self._notices = Notices()
        with self._notices.of_warnings(PACKAGE):
            self.device = _torch_device(device)
        self.dtype = _torch_dtype(dtype, self.device)
        self._told: EngineFacts | None = None
        self._last: Encoded | None = None
        directory = resolve_checkpoint(checkpoint)
        generation = load_config(directory).generation
        check_generation(embodiment, generation, str(checkpoint))
        self.processor = _processor(directory, embodiment, generation, tokenizer, str(checkpoint))
        check_training_ranges(embodiment, self.processor.state_limits, str(checkpoint))
        gate = _allowed(directory, embodiment, precision, num_steps, precision_file, engine)
        cameras = {key: embodiment.cameras[spec.camera] for key, spec in embodiment.video.items()}
        sizes = {key: (camera.height, camera.width) for key, camera in cameras.items()}
        self.processor.check_views(sizes)
        self._check_memory(directory, device, dtype)
        self.keep_warm_s = keep_warm_s if self.device.type == "cuda" else 0.0
        with self._notices.of_warnings(PACKAGE), telling_what_memory_is_there(self.device):
            self.model = load_model(
                directory,
                dtype=self.dtype,
                device=self.device,
                keep_unused=False,
                match_reference_bf16=match_reference_bf16,
            )
        check_processor_and_network(self.processor, self.model, str(directory))
        self._max_prompt_tokens = self.model.max_prompt_tokens
        on_device = self._device_pictures(sizes) if pictures_on_device else None
        self._pictures = Pictures(self.processor, self._notices, on_device)
        choice = Choice(engine, graphs, compile, num_steps)
        self._sampler = Sampler(self.model, self.processor.embodiment_id, choice, self._notices)
        if embodiment.language.default is not None:
            self._check_default(embodiment.language.default)
        with self._notices.of_warnings(PACKAGE):  # attention is chosen at the first inference
            self._sampler.start(self._inputs(self.encode(self.blank_observation())), self._noise(0), gate)
        self.check_instruction(self._blank_text)

    @property
    def engine(self) -> Engine | None:
        """What computes the chunks; None: the plain model."""
        return self._sampler.engine

    def check_instruction(self, text: str) -> None:
        """Refuse an instruction that the model cannot take, and prepare its text side for the first chunk with it.

        May be called from another thread than ``act``, which waits for no more than the tokenizer.

        Raises:
            ProcessorError: the prompt of ``text`` is longer than the model takes, or nothing is left of it.
        """
        import torch

        self.processor.check_instruction(text, self._max_prompt_tokens)
        ids, grids = self.processor.prompt(text)
        self._sampler.prepare(torch.from_numpy(ids)[None], grids)

    def news(self) -> News:
        """Notices, and how chunks are computed where that has changed."""
        facts = replace(self._sampler.facts(), pictures=self._pictures.where)
        changed, self._told = facts != self._told, facts
        return News(self._notices.take(), facts if changed else None)

    def _check_memory(self, directory: Path, device: str, dtype: str) -> None:
        """Before loading; ``device`` and ``dtype`` as asked for. ``auto`` takes the CPU where the GPU is too small."""
        from groot_ros.model.engine import memory

        if self.device.type != "cuda":
            return
        try:
            tight = memory.check_fits(memory.needed_bytes(directory, self.dtype), memory.device_memory(self.device))
        except memory.DeviceMemoryError as error:
            cpu = _torch_device("cpu")
            on_host = _torch_dtype(dtype, cpu)
            if device != "auto" or not memory.fits_on_host(memory.needed_bytes(directory, on_host)):
                raise
            self.device, self.dtype = cpu, on_host
            tight = f"{ON_CPU}; {error}"
        if tight is not None:
            self._notices.add(tight)

    def _check_default(self, text: str) -> None:
        try:
            self.check_instruction(text)
        except ValueError as error:
            path = ("language", "default")
            place = f"{where(self._embodiment, path)}: {dotted(self._embodiment, path)}"
            raise EmbodimentError([f"{place}: {error}"]) from error

    def act(self, observation: Observation, *, seed: int | None = None, prefix: Prefix | None = None) -> Chunk:
        """Return the chunk for ``observation``; the same seed, observation, prefix and device give the same numbers.

        Args:
            seed: of the initial noise; None draws a fresh one and records it in the chunk.
            prefix: the chunk continues it; see ``Prefix``.

        Raises:
            ProcessorError: an observation or prefix that the checkpoint's processor refuses.
            ValueError: a native prefix for another generation than N1.7.
        """
        return self.act_encoded(self.encode(observation), seed=seed, prefix=prefix)

    def encode(self, observation: Observation) -> Encoded:
        """The work on the host: pictures, state and prompt; from any thread, also while an inference is under way.

        Raises:
            ProcessorError: an observation that the checkpoint's processor refuses.
        """
        begin = time.perf_counter()
        inputs = self._pictures.encode(observation)
        return Encoded(observation, inputs, time.perf_counter() - begin)

    def act_encoded(self, encoded: Encoded, *, seed: int | None = None, prefix: Prefix | None = None) -> Chunk:
        """The rest of ``act``.

        Raises:
            ProcessorError: a prefix that the checkpoint's processor refuses.
            ValueError: a native prefix for another generation than N1.7.
        """
        observation = encoded.observation
        seed = secrets.randbits(31) if seed is None else seed
        begin = time.perf_counter()
        continuation = self._continuation(prefix, observation)
        continued = time.perf_counter()
        normalized, usual = self._sampler.sample(self._inputs(encoded), self._noise(seed), **continuation)
        normalized = normalized.float().cpu()
        usual &= FRAMES not in encoded.inputs or self._pictures.on_device is not None
        self._last = encoded
        sampled = time.perf_counter()
        state = {key: value[None] for key, value in observation.state.items()}
        actions = {key: value[0] for key, value in self.processor.decode(normalized.numpy(), state).items()}
        return Chunk(
            stamp_ns=observation.stamp_ns,
            dt_s=self._embodiment.dt_s,
            actions=actions if prefix is None else restore(actions, prefix),
            instruction=observation.instruction,
            seed=seed,
            timings_s={
                "processing": encoded.seconds + continued - begin,
                "model": sampled - continued,
                "decode": time.perf_counter() - sampled,
            },
            frozen=0 if prefix is None else prefix.frozen,
            usual=usual,
        )

    def _inputs(self, encoded: Encoded) -> dict[str, torch.Tensor]:
        return self._pictures.finish(encoded.inputs, encoded.observation)

    def _device_pictures(self, sizes: Mapping[str, tuple[int, int]]) -> DevicePictures | None:
        if self.device.type == "cuda":
            return device_pictures(self.processor, sizes, self.device, self._notices)
        self._notices.add(f"pictures_on_device: expected a GPU, found device {self.device}; {ON_HOST} instead")
        return None

    def keep_warm(self) -> None:
        """Run once on what was seen last, or a blank observation; the chunk is thrown away."""
        self.act_encoded(self._last or self.encode(self.blank_observation()), seed=0)

    def _noise(self, seed: int) -> torch.Tensor:
        """float32 [1,H,A] on the CPU, the same on every device."""
        import torch

        config = self.model.config
        generator = torch.Generator("cpu").manual_seed(seed)
        return torch.randn(1, config.action_horizon, config.max_action_dim, generator=generator)

    def _continuation(self, prefix: Prefix | None, observation: Observation) -> dict[str, Any]:
        """The arguments of ``GrootModel.sample`` that make the chunk continue ``prefix``, seen from the new state."""
        if prefix is None:
            return {}
        config = self.model.config
        if prefix.native and config.generation != NATIVE_GENERATION:
            raise ValueError(
                f"prefix.native: expected a checkpoint of {NATIVE_GENERATION}, whose network knows in-painting, found "
                f"{config.generation}; use guidance (control.chunking: guided)"
            )
        rows = self.processor.encode_action(prefix.actions, observation.state)
        if prefix.native:
            return {"rtc": native_options(rows, prefix, config.max_action_dim)}
        return {"guidance": guidance_of(rows, prefix, config.action_horizon, config.max_action_dim)}

    def warm_up(self, runs: int = WARM_UP_RUNS) -> float:
        """Run on an invented observation, whose chunk is thrown away; return the seconds of the last run."""
        observation = self.blank_observation()
        seconds = 0.0
        for _ in range(runs):
            begin = time.perf_counter()
            self.act(observation, seed=0)
            seconds = time.perf_counter() - begin
        return seconds

    def blank_observation(self) -> Observation:
        """Right shapes, no content; only for warming up, never for a command."""
        steps = len(self._embodiment.delta_indices.video)
        video = {}
        for key, spec in self._embodiment.video.items():
            camera = self._embodiment.cameras[spec.camera]
            video[key] = np.full((steps, camera.height, camera.width, 3), 127, dtype=np.uint8)
        return Observation(0, video, self.processor.blank_state(), self._blank_text, {}, {})

    @property
    def _blank_text(self) -> str:
        return self._embodiment.language.default or WARM_UP


def _allowed(
    directory: Path,
    embodiment: Embodiment,
    precision: str,
    num_steps: int | None,
    precision_file: str | Path | None,
    engine: bool,
) -> GateResult | None:
    """The measurement that allows ``precision``, before any weight is read."""
    if precision == "model":
        return None
    if not engine:
        raise ValueError(
            f"precision '{precision}': expected the engine, which has it, found engine: false; set engine to true, or "
            "precision to model"
        )
    from groot_ros.policy.precision_gate import allowed_precision

    return allowed_precision(directory, embodiment, precision, num_steps=num_steps, path=precision_file)


def _processor(directory: Path, embodiment: Embodiment, generation: str, tokenizer: str | None, name: str) -> Processor:
    """The checkpoint's processor, once the robot is known to fit.

    NVIDIA's N1.5 checkpoints do not say which keys a robot has: the YAML does, and they must be among those of its
    training metadata. All others say it, and must say the same.
    """
    from groot_ros.processing.metadata import MODALITY_FILE, metadata_path
    from groot_ros.processing.processor import Processor

    tag, modality = embodiment.embodiment_tag, None
    if generation == "n1d5" and not (directory / MODALITY_FILE).is_file():
        path = metadata_path(directory)
        if path is not None:  # without it, from_checkpoint says what is missing
            check_against_metadata(embodiment, read_json_object(path), str(path))
        modality = modality_configs(embodiment, generation)[tag]
    processor = Processor.from_checkpoint(directory, tag, tokenizer=tokenizer, modality=modality)
    check_against_checkpoint(embodiment, processor.modality, processor.state_dims, processor.action_dims, name)
    return processor


def _torch_device(name: str) -> torch.device:
    import torch

    from groot_ros.model.engine.device import device_problem

    try:
        device = torch.device("cuda" if name == "auto" else name)
    except RuntimeError as error:
        raise ValueError(f"device '{name}': expected cuda, cuda:N, cpu or auto ({error})") from error
    problem = device_problem(device.index) if device.type == "cuda" else None
    if problem is None:
        return device
    if name != "auto":
        raise ValueError(f"device '{name}': {problem}; or use device:=cpu")
    _log.warning("%s; %s", ON_CPU, problem)
    return torch.device("cpu")


def _torch_dtype(name: str, device: torch.device) -> torch.dtype:
    import torch

    if name not in DTYPES:
        raise ValueError(f"dtype '{name}': expected one of {', '.join(DTYPES)}")
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" else "float32"
    return torch.float32 if name == "float32" else torch.bfloat16
