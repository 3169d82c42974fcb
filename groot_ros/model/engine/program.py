"""Everything between an observation's tensors and the actions, reading nothing but buffers and weights."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from groot_ros.model.cosmos import CosmosBackbone
from groot_ros.model.eagle import EagleBackbone
from groot_ros.model.engine.head import ChunkBuffers, FrozenHead
from groot_ros.model.engine.language import FrozenLanguage
from groot_ros.model.engine.prompt import PromptBuffers
from groot_ros.model.engine.vision import Views, frozen_vision
from groot_ros.model.groot import GrootModel


class Program:
    """`GrootModel.sample` for one embodiment and a batch of one.

    No part of it waits for the device or looks at numbers, and the sizes of all that is computed follow from those of
    the buffers: so a CUDA graph can be made of a call.

    Args:
        model: its weights are shared, not copied; those of one embodiment and the tables of the time are new.
        embodiment_id: whose weights.
        steps: Euler steps.
    """

    def __init__(self, model: GrootModel, embodiment_id: int, steps: int) -> None:
        backbone = model.backbone
        if not isinstance(backbone, (EagleBackbone, CosmosBackbone)):
            raise TypeError(f"backbone {type(backbone).__name__}: expected one of N1.5, N1.6 or N1.7")
        eagle = isinstance(backbone, EagleBackbone)
        self.vision = frozen_vision(backbone)
        projection = backbone.eagle_linear if isinstance(backbone, EagleBackbone) else None
        self.language = FrozenLanguage(backbone.language_model, normed=eagle, projection=projection)
        self.head = FrozenHead(model.action_head, embodiment_id, steps)

    def backbone(self, prompt: PromptBuffers, pixel_values: Tensor, views: Views) -> Tensor:
        """Patches [patches,values] -> features [1,L,D]."""
        pictures, taps = self.vision(pixel_values, views)
        embeddings = prompt.words.index_copy(1, prompt.image_index, pictures[None].to(prompt.words.dtype))
        return self.language(embeddings, prompt, taps)

    @torch.no_grad()
    def __call__(self, prompt: PromptBuffers, chunk: ChunkBuffers, views: Views) -> Tensor:
        """-> actions float32 [1,H,A], normalised and padded."""
        return self.head(self.backbone(prompt, chunk.pixel_values, views), prompt, chunk).float()

    def denses(self) -> Iterator[tuple[str, object, str]]:
        """Name of every big product, the object that holds it and the attribute in which: `setattr` replaces it."""
        yield from self.vision.denses()
        yield from self.language.denses()
        yield from self.head.denses()
