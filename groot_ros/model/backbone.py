"""What every generation's vision-language backbone is to the action head, and the walk over a language model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from groot_ros.model.attention import TOWER_ATTENTION, tower_attention_name
from groot_ros.model.positions import Grid


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
    """Images and prompt -> features.

    Subclasses set the first three attributes and give the two towers; `visual.config` and `language_model.config` are
    configurations of transformers, which the layers of the tower read their attention function from.
    """

    image_token_id: int
    merge: int
    """Patches per side of one image token."""
    use_flash_attention: bool = True
    match_reference_bf16: bool = False
    """Round the rotary embeddings as NVIDIA's policies of N1.6 and N1.7 do, which cast the frequencies to bfloat16 with
    the rest of the model. Only where the model is in bfloat16; off, they are exact."""
    reference_rounds: bool = True
    """False: NVIDIA's policy of this generation does not round them, so there is nothing to match."""

    @abstractmethod
    def forward(self, inputs: dict[str, Tensor]) -> BackboneOutput:
        """Takes the keys of `GrootModel`'s inputs that the generation's processor makes of images and prompt."""

    @abstractmethod
    def prompt_rope(
        self, input_ids: Tensor, attention_mask: Tensor, grids: Sequence[Grid], dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """cos and sin of the language model's rotary embedding, [B or 1,L,head_dim] in `dtype`.

        Args:
            input_ids: int64 [B,L].
            attention_mask: [B,L], 1 on real tokens.
            grids: one per image, in batch order.

        Raises:
            ValueError: tokens and images disagree, or an image has a size that the towers do not take.
        """

    @staticmethod
    @abstractmethod
    def tied_parameters() -> dict[str, str]:
        """State-dict names that are another parameter, and that parameter's name. Checkpoint files may lack them."""

    def unused_parameters(self) -> set[str]:
        """State-dict names of parameters that are never read. Checkpoint files may lack them."""
        return set()

    @property
    @abstractmethod
    def visual(self) -> Any:
        """The vision tower."""

    @property
    @abstractmethod
    def language_model(self) -> Any:
        """The language tower: `embed_tokens`, `layers`, `norm`, `config`."""

    @property
    @abstractmethod
    def patch_values(self) -> int:
        """Numbers in a row of `pixel_values`."""

    @property
    def vocab_size(self) -> int:
        """Rows of the table of tokens: a prompt's ids are below this."""
        return int(self.language_model.config.vocab_size)

    @property
    def max_prompt_tokens(self) -> int:
        """The longest prompt, image tokens included, that the language model has positions for."""
        return int(self.language_model.config.max_position_embeddings)

    @property
    def rope_rounding(self) -> torch.dtype | None:
        """The dtype that rotary frequencies are rounded to, None: they stay exact."""
        half = self.language_model.embed_tokens.weight.dtype == torch.bfloat16
        return torch.bfloat16 if self.match_reference_bf16 and self.reference_rounds and half else None

    def __call__(self, inputs: dict[str, Tensor]) -> BackboneOutput:
        output: BackboneOutput = super().__call__(inputs)
        return output

    def choose_attention(self) -> None:
        """Takes flash attention where it is installed and the parameters' device and dtype allow it, else SDPA."""
        weight = self.language_model.embed_tokens.weight
        name = tower_attention_name(weight.device, weight.dtype) if self.use_flash_attention else TOWER_ATTENTION
        for tower in (self.visual, self.language_model):
            tower.config._attn_implementation = name

    def read_grids(self, inputs: Mapping[str, Tensor]) -> list[Grid]:
        """`image_grid_thw` as tuples; ValueError when it is empty or `pixel_values` are not its patches."""
        grids = [(int(t), int(h), int(w)) for t, h, w in inputs["image_grid_thw"].tolist()]
        if not grids:
            raise ValueError("image_grid_thw is empty: the model needs at least one image")
        shape = tuple(inputs["pixel_values"].shape)
        expected = (sum(t * h * w for t, h, w in grids), self.patch_values)
        if shape != expected:
            raise ValueError(
                f"pixel_values has shape {shape}, but image_grid_thw and the vision tower ask for {expected}"
            )
        return grids

    def embed(self, input_ids: Tensor, image_mask: Tensor, image_features: Tensor) -> Tensor:
        """Token embeddings [B,L,D]; image tokens (bool [B,L]) hold, in order, `image_features` [tokens,D]."""
        embeddings: Tensor = self.language_model.embed_tokens(input_ids)
        return embeddings.masked_scatter(image_mask[..., None], image_features.to(embeddings.dtype))

    def walk(
        self,
        embeddings: Tensor,
        rope: tuple[Tensor, Tensor],
        attention_mask: Tensor,
        after: Callable[[int, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The kept language layers, causal, without the final norm: [B,L,D] -> [B,L,D].

        The attention output of rows of padding is 0, as flash attention leaves it in the reference.

        Args:
            embeddings: [B,L,D].
            rope: cos and sin, [B or 1,L,head_dim].
            attention_mask: bool [B,L], True on real tokens.
            after: called with the number of a layer and its output; what it gives goes on.
        """
        tower = self.language_model
        mask: Tensor | None = None
        if not bool(attention_mask.all()):
            mask = attention_mask  # flash attention takes the padding mask itself
            if tower.config._attn_implementation == TOWER_ATTENTION:
                length = attention_mask.shape[1]
                causal = torch.ones(length, length, dtype=torch.bool, device=attention_mask.device).tril()
                mask = causal & attention_mask[:, None, None, :]
        hidden = embeddings
        for i, layer in enumerate(tower.layers):
            hidden = layer(hidden, position_embeddings=rope, attention_mask=mask)
            if after is not None:
                hidden = after(i, hidden)
        return hidden
