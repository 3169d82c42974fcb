"""The vision-language backbone of N1.7: Qwen3-VL (Cosmos-Reason2-2B), cut after `select_layer` language layers.

The layers come from `transformers`; the walk over them is written out here, because the features GR00T uses are those
of the last kept layer before the final norm, and which hidden state the wrappers of transformers return has changed
between 4.57 and 5.x. Source: spec groot_n17.md, 3.1.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig, Qwen3VLVisionConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel, Qwen3VLVisionModel

from groot_ros.model import positions
from groot_ros.model.attention import TOWER_ATTENTION
from groot_ros.model.backbone import Backbone, BackboneOutput
from groot_ros.model.config import ConfigError, ModelConfig
from groot_ros.model.descriptions import backbone_description, check_width, pick, pick_text, rope_parameters

_VISION_KEYS = (
    *("depth", "hidden_size", "num_heads", "intermediate_size", "hidden_act", "in_channels", "patch_size"),
    *("temporal_patch_size", "spatial_merge_size", "num_position_embeddings", "out_hidden_size"),
    "deepstack_visual_indexes",
)


def _rope(description: dict[str, Any]) -> tuple[float, list[int]]:
    """rope_theta and mrope_section of the language model."""
    parameters = rope_parameters(description)
    if parameters.get("mrope_section") is None or not parameters.get("mrope_interleaved", True):
        raise ConfigError(
            f"the backbone's rope_scaling is {parameters}; expected interleaved M-RoPE with an mrope_section"
        )
    return parameters["rope_theta"], [int(n) for n in parameters["mrope_section"]]


def _build_towers(description: dict[str, Any], select_layer: int) -> tuple[Qwen3VLVisionModel, Qwen3VLTextModel]:
    text = pick_text(description, select_layer)
    vision = pick(description, "vision_config", _VISION_KEYS)
    theta, section = _rope(description)
    # Both spellings; each transformers release reads its own. The tables are made in `positions`, not by transformers.
    rope = {"rope_type": "default", "mrope_section": section, "mrope_interleaved": True}
    if "rope_scaling" in inspect.signature(Qwen3VLTextConfig.__init__).parameters:
        text.update(rope_theta=theta, rope_scaling=rope)
    else:
        text.update(rope_parameters={**rope, "rope_theta": theta})
    visual = Qwen3VLVisionModel(Qwen3VLVisionConfig(**vision))
    language = Qwen3VLTextModel(Qwen3VLTextConfig(**text))
    del visual.rotary_pos_emb, language.rotary_emb
    return visual, language


class _Towers(nn.Module):
    def __init__(self, visual: Qwen3VLVisionModel, language_model: Qwen3VLTextModel) -> None:
        super().__init__()
        self.visual = visual
        self.language_model = language_model


class _TiedLanguageModel(nn.Module):
    def __init__(self, towers: _Towers) -> None:
        super().__init__()
        self.model = towers
        embedding = towers.language_model.embed_tokens
        self.lm_head = nn.Linear(embedding.embedding_dim, embedding.num_embeddings, bias=False)
        self.lm_head.weight = embedding.weight


class CosmosBackbone(Backbone):
    """Images and prompt -> features of the language model's layer `select_layer - 1`, not normed.

    The nesting `model.model.visual`, `model.model.language_model`, `model.lm_head` is that of NVIDIA's parameter names.
    `lm_head` (tied to the embedding) and the final norm are there because checkpoints hold them; neither is used.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        description = backbone_description(config)
        visual, language = _build_towers(description, config.select_layer)
        check_width(config, language.config.hidden_size)
        self.model = _TiedLanguageModel(_Towers(visual, language))
        self.image_token_id = int(description["image_token_id"])
        self.use_flash_attention = config.use_flash_attention
        self.merge = int(visual.config.spatial_merge_size)
        self._rope_theta, self._mrope_section = _rope(description)

    @property
    def visual(self) -> Qwen3VLVisionModel:
        return self.model.model.visual

    @property
    def language_model(self) -> Qwen3VLTextModel:
        return self.model.model.language_model

    @property
    def patch_values(self) -> int:
        """Channels, frames and pixels of a patch."""
        vision = self.visual.config
        return int(vision.in_channels * vision.temporal_patch_size * vision.patch_size**2)

    @staticmethod
    def tied_parameters() -> dict[str, str]:
        """Parameters that are another one under a second name."""
        return {"model.lm_head.weight": "model.model.language_model.embed_tokens.weight"}

    def unused_parameters(self) -> set[str]:
        """The final norm, which the features are taken before."""
        return {"model.model.language_model.norm.weight"}

    def forward(self, inputs: dict[str, Tensor]) -> BackboneOutput:
        """Runs both towers.

        Args:
            inputs: `input_ids` int64 [B,L], `attention_mask` [B,L] (1 on real tokens), `pixel_values`
                [patches, channels*2*p*p] and `image_grid_thw` int64 [N,3] of all images in batch order.

        Raises:
            ValueError: tokens, patches and grids disagree about the images.
        """
        self.choose_attention()
        device = self.model.lm_head.weight.device
        input_ids = inputs["input_ids"].to(device)
        attention_mask = inputs["attention_mask"].to(device) == 1
        grids = self.read_grids(inputs)
        dtype = self.language_model.embed_tokens.weight.dtype
        rope = self.prompt_rope(input_ids, attention_mask, grids, dtype)
        image_features, taps = self.encode_images(inputs["pixel_values"].to(device), grids)
        image_mask = (input_ids == self.image_token_id) & attention_mask
        embeddings = self.embed(input_ids, image_mask, image_features)
        features = self.read(embeddings, rope, attention_mask, image_mask, taps)
        return BackboneOutput(features, attention_mask, input_ids == self.image_token_id)

    def prompt_rope(
        self, input_ids: Tensor, attention_mask: Tensor, grids: Sequence[positions.Grid], dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Interleaved M-RoPE [B,L,head_dim]; see the base class."""
        for grid in grids:
            if grid[0] != 1 or min(grid) < 1 or grid[1] % self.merge or grid[2] % self.merge:
                raise ValueError(f"image_grid_thw row {grid}: expected 1 frame and sides that {self.merge} divides")
        position_ids = positions.mrope_position_ids(
            input_ids, attention_mask, grids, image_token_id=self.image_token_id, merge=self.merge
        )
        head_dim = self.language_model.config.head_dim
        return positions.mrope_tables(
            position_ids, head_dim, self._rope_theta, self._mrope_section, dtype, self.rope_rounding
        )

    def encode_images(self, pixel_values: Tensor, grids: Sequence[positions.Grid]) -> tuple[Tensor, list[Tensor]]:
        """Patches -> one embedding per merged block [blocks,D], and the same from each deepstack tap."""
        tower = self.visual
        weight, bias = tower.patch_embed.proj.weight, tower.patch_embed.proj.bias
        coordinates = positions.patch_coordinates(grids, self.merge, pixel_values.device)
        # The kernel covers the whole patch, so the convolution is one product per patch.
        hidden = functional.linear(pixel_values.to(weight.dtype), weight.flatten(1), bias)
        indices, weights = positions.position_table_lookup(grids, coordinates, tower.num_grid_per_side)
        table = tower.pos_embed(indices) * weights[..., None].to(hidden.dtype)
        hidden = hidden + table.sum(dim=0)
        head_dim = tower.config.hidden_size // tower.config.num_heads
        rope = positions.vision_rope_tables(coordinates, head_dim, self.rope_rounding)
        lengths = torch.tensor([rows * cols for frames, rows, cols in grids for _ in range(frames)])
        more = {}
        if tower.config._attn_implementation != TOWER_ATTENTION:  # flash attention reads the bounds on its device
            bounds = functional.pad(lengths.cumsum(0), (1, 0)).to(hidden.device, torch.int32)
        elif bool((lengths == lengths[0]).all()):  # one call for all images instead of one for each
            more = {"images": len(lengths)}
            bounds = torch.tensor([0, len(hidden)], dtype=torch.int32)
        else:
            bounds = functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
        taps = []
        tap_layers = list(tower.config.deepstack_visual_indexes)
        for i, block in enumerate(tower.blocks):
            hidden = block(hidden, cu_seqlens=bounds, position_embeddings=rope, **more)
            if i in tap_layers:
                taps.append(tower.deepstack_merger_list[tap_layers.index(i)](hidden))
        return tower.merger(hidden), taps

    def read(
        self,
        embeddings: Tensor,
        rope: tuple[Tensor, Tensor],
        attention_mask: Tensor,
        image_mask: Tensor,
        taps: Sequence[Tensor],
    ) -> Tensor:
        """The kept language layers on embeddings [B,L,D]; tap i is added at the image tokens after layer i."""

        def add_tap(i: int, hidden: Tensor) -> Tensor:
            if i >= len(taps):
                return hidden
            added = torch.zeros_like(hidden).masked_scatter(image_mask[..., None], taps[i].to(hidden.dtype))
            return hidden + added

        return self.walk(embeddings, rope, attention_mask, add_tap)
