"""GR00T in this process: checkpoint directory in, action chunks out. torch is imported when a policy is made."""

from __future__ import annotations

import logging
import secrets
import threading
import time
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
from groot_ros.policy.prefix import guidance_of, native_options, restore

if TYPE_CHECKING:
    import torch

    from groot_ros.processing.processor import Processor

_log = logging.getLogger(__name__)

WARM_UP_RUNS = 3
DTYPES = ("auto", "float32", "bfloat16")
NATIVE_GENERATION = "n1d7"


class LocalPolicy:
    """The model and its processor, checked against the robot.

    Args:
        checkpoint: directory in NVIDIA's layout, or hub id.
        embodiment: the robot; its keys, delta indices and dimensions must be the checkpoint's.
        device: ``cuda``, ``cuda:N``, ``cpu`` or ``auto`` (cuda where there is one).
        dtype: ``float32``, ``bfloat16``, or ``auto``: bfloat16 on a GPU, float32 on a CPU, where bfloat16 is slower.
        tokenizer: folder or hub id of the backbone's tokenizer; None takes the checkpoint's own.
        num_steps: Euler steps; None takes the checkpoint's.
        match_reference_bf16: round the rotary frequencies as NVIDIA's policies of N1.6 and N1.7 do, which cast the
            model to bfloat16.

    Raises:
        CheckpointError, ProcessorError: the directory is incomplete or of something else, or the cameras' sizes do
            not suit it.
        EmbodimentError: the checkpoint is of another robot, by its keys, its sizes or its training ranges, or of
            another generation than ``embodiment``, or the YAML's default instruction is too long.
        DisagreementError: the processor's sizes and ids are not the network's.
        ValueError: unknown device or dtype.
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
    ) -> None:
        from groot_ros.model.checkpoint import load_config, load_model, resolve_checkpoint

        self._embodiment = embodiment
        self.device = _torch_device(device)
        self.dtype = _torch_dtype(dtype, self.device)
        self._num_steps = num_steps
        self._tokenizing = threading.Lock()  # the inference thread and one that checks an instruction
        directory = resolve_checkpoint(checkpoint)
        generation = load_config(directory).generation
        check_generation(embodiment, generation, str(checkpoint))
        self.processor = _processor(directory, embodiment, generation, tokenizer, str(checkpoint))
        check_training_ranges(embodiment, self.processor.state_limits, str(checkpoint))
        cameras = {key: embodiment.cameras[spec.camera] for key, spec in embodiment.video.items()}
        self.processor.check_views({key: (camera.height, camera.width) for key, camera in cameras.items()})
        self.model = load_model(
            directory,
            dtype=self.dtype,
            device=self.device,
            keep_unused=False,
            match_reference_bf16=match_reference_bf16,
        )
        check_processor_and_network(self.processor, self.model, str(directory))
        if embodiment.language.default is not None:
            self._check_default(embodiment.language.default)

    def check_instruction(self, text: str) -> None:
        """Refuse an instruction that the model cannot take. May be called from another thread than ``act``.

        Raises:
            ProcessorError: the prompt of ``text`` is longer than the model takes, or nothing is left of it.
        """
        with self._tokenizing:
            self.processor.check_instruction(text, self.model.max_prompt_tokens)

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
        import torch

        seed = secrets.randbits(31) if seed is None else seed
        begin = time.perf_counter()
        continuation = self._continuation(prefix, observation)
        with self._tokenizing:
            sample = self.processor.encode(observation.video, observation.state, observation.instruction)
        inputs = {name: tensor.to(self.device) for name, tensor in self.processor.collate([sample]).items()}
        encoded = time.perf_counter()
        with torch.inference_mode():
            generator = torch.Generator("cpu").manual_seed(seed)
            config = self.model.config
            noise = torch.randn(1, config.action_horizon, config.max_action_dim, generator=generator)
            normalized = self.model.sample(
                inputs, noise=noise.to(self.device, self.dtype), num_steps=self._num_steps, **continuation
            )
            normalized = normalized.float().cpu()
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
                "processing": encoded - begin,
                "model": sampled - encoded,
                "decode": time.perf_counter() - sampled,
            },
            frozen=0 if prefix is None else prefix.frozen,
        )

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
        return Observation(0, video, self.processor.blank_state(), "warm up", {}, {})


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
    _log.warning("device 'auto': the CPU, many times slower than a GPU; %s", problem)
    return torch.device("cpu")


def _torch_dtype(name: str, device: torch.device) -> torch.dtype:
    import torch

    if name not in DTYPES:
        raise ValueError(f"dtype '{name}': expected one of {', '.join(DTYPES)}")
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" else "float32"
    return torch.float32 if name == "float32" else torch.bfloat16
