"""What is measured end to end: a network, its processor, and observations for both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from groot_ros.model.benchmark.robots import Robot, Scene, instruction_of, random_scenes
from groot_ros.model.checkpoint import load_model, resolve_checkpoint
from groot_ros.model.groot import GrootModel
from groot_ros.processing.config import ProcessorFiles
from groot_ros.processing.processor import Processor

SCENES = 4  # observations that differ, taken in turn
Views = Mapping[str, tuple[int, int]]
"""View -> (height, width)."""


@dataclass
class Subject:
    """A network with its processor and observations.

    Attributes:
        source: what it is, in words.
        patches: of each image of an observation.
        text_tokens: of the prompt beside the image tokens.
        seed: of the noise.
    """

    source: str
    model: GrootModel
    processor: Processor
    scenes: list[Scene]
    patches: list[int]
    text_tokens: int
    seed: int

    @property
    def noise(self) -> Tensor:
        """The start of every chunk, float32 [1,H,A] on the CPU; made anew each time, as a policy does it."""
        config = self.model.config
        generator = torch.Generator("cpu").manual_seed(self.seed)
        return torch.randn(1, config.action_horizon, config.max_action_dim, generator=generator)

    @property
    def image_tokens(self) -> int:
        return sum(self.patches) // self.model.backbone.merge**2

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """View -> (width, height) of its pictures."""
        return {key: (frames.shape[2], frames.shape[1]) for key, frames in self.scenes[0].video.items()}

    def encode(self, number: int, raw: NDArray[np.uint8] | None = None) -> dict[str, Tensor]:
        """The host's work before the network: pictures and state to its inputs, on the CPU; see `Processor.encode`."""
        scene = self._scene(number)
        sample = self.processor.encode(scene.video, scene.state, scene.instruction, raw=raw)
        return self.processor.collate([sample])

    def decode(self, actions: Tensor, number: int) -> dict[str, NDArray[np.float32]]:
        """The host's work after it: [1,H,A] on the device to physical actions."""
        state = {key: value[None] for key, value in self._scene(number).state.items()}
        return self.processor.decode(actions.cpu().numpy(), state)

    def _scene(self, number: int) -> Scene:
        return self.scenes[number % len(self.scenes)]


def random_subject(
    source: str, model: GrootModel, processor: Processor, views: Views, text_tokens: int, seed: int
) -> Subject:
    """Noise pictures of these sizes, and an instruction of which the prompt gets so many tokens of text."""
    processor.check_views(views)
    limit = model.max_prompt_tokens
    blank = random_scenes(processor, views, "go", 1, seed)[0]
    sample = processor.encode(blank.video, blank.state, blank.instruction)
    patches = [int(t * h * w) for t, h, w in sample["image_grid_thw"].tolist()]
    image_tokens = sum(patches) // model.backbone.merge**2
    instruction = instruction_of(processor, text_tokens, image_tokens, limit)
    return Subject(
        source=source,
        model=model,
        processor=processor,
        scenes=list(random_scenes(processor, views, instruction, SCENES, seed)),
        patches=patches,
        text_tokens=processor.check_instruction(instruction, limit) - image_tokens,
        seed=seed,
    )


def load_parts(
    checkpoint: str,
    dtype: torch.dtype,
    device: torch.device,
    *,
    tag: str | None,
    tokenizer: str | None,
    robots: Mapping[str, Robot] | None,
) -> tuple[GrootModel, Processor]:
    """Network and processor of a checkpoint.

    Args:
        checkpoint: directory, or hub id.
        tag: of the embodiment; None: that of the robot, or the only one that there is.
        tokenizer: folder or hub id; None: the checkpoint's own.
        robots: generation -> robot. N1.5's checkpoints need one, unless they say what theirs is.

    Raises:
        ValueError: several embodiments and no tag, or none of the checkpoint's generation in `robots`; see also
            `load_model` and `Processor.from_checkpoint`.
    """
    directory = resolve_checkpoint(checkpoint)
    files = ProcessorFiles.read(directory)
    generation = files.generation.name
    known = sorted(files.statistics if files.generation.processor_class is None else files.modality_configs)
    modality = None
    if robots is not None:
        if generation not in robots:
            raise ValueError(f"{checkpoint} is of {generation}, but the robot is for {', '.join(robots)} only")
        tag = robots[generation].tag if tag is None else tag
        modality = robots[generation].modality if tag not in files.modality_configs else None
    if tag is None and len(known) != 1:
        raise ValueError(f"{checkpoint} is of {len(known)} embodiments: choose one by its tag: {', '.join(known)}")
    processor = Processor.from_checkpoint(
        directory, known[0] if tag is None else tag, tokenizer, modality if generation == "n1d5" else None, files=files
    )
    return load_model(directory, dtype=dtype, device=device, keep_unused=False), processor
