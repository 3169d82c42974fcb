"""What every generation's vision-language backbone is to the action head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass
class BackboneOutput:
    """What the action head reads of the backbone."""

    features: Tensor
    """[B,L,D], in the model's dtype; rows of padding hold finite values."""
    attention_mask: Tensor
    """bool [B,L], True on real tokens."""
    image_mask: Tensor
    """bool [B,L], True on image tokens."""


class Backbone(nn.Module, ABC):
    """Images and prompt -> features."""

    @abstractmethod
    def forward(self, inputs: dict[str, Tensor]) -> BackboneOutput:
        """Takes the keys of `GrootModel`'s inputs that the generation's processor makes of images and prompt."""

    @staticmethod
    @abstractmethod
    def tied_parameters() -> dict[str, str]:
        """State-dict names that are another parameter, and that parameter's name. Checkpoint files may lack them."""

    def unused_parameters(self) -> set[str]:
        """State-dict names of parameters that are never read. Checkpoint files may lack them."""
        return set()

    @property
    @abstractmethod
    def max_prompt_tokens(self) -> int:
        """The longest prompt, image tokens included, that the language model has positions for."""

    def __call__(self, inputs: dict[str, Tensor]) -> BackboneOutput:
        output: BackboneOutput = super().__call__(inputs)
        return output
