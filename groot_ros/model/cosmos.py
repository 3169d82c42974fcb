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
from groot_ros.model.attention import TOWER_ATTENTION, tower_attention_name
from groot_ros.model.backbone import Backbone, BackboneOutput
from groot_ros.model.config import ConfigError, ModelConfig

# NVIDIA's checkpoints name the backbone; they do not describe it (spec 1.2).
COSMOS_REASON2_2B: dict[str, Any] = {
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "tie_word_embeddings": True,
    "text_config": {
        "vocab_size": 151936,
        "hidden_size": 2048,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 6144,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 262144,
        "attention_bias": False,
        "rope_theta": 5000000,
        "rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [24, 20, 20]},
    },
    "vision_config": {
        "depth": 24,
        "hidden_size": 1024,
        "num_heads": 16,
        "intermediate_size": 4096,
        "hidden_act": "gelu_pytorch_tanh",
        "in_channels": 3,
        "patch_size": 16,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "num_position_embeddings": 2304,
        "out_hidden_size": 2048,
        "deepstack_visual_indexes": [5, 11, 17],
    },
}
BUILT_IN_BACKBONES = {
    "nvidia/Cosmos-Reason2-2B": COSMOS_REASON2_2B,
    "Qwen/Qwen3-VL-2B-Instruct": COSMOS_REASON2_2B,
}

_TEXT_KEYS = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("intermediate_size", "hidden_act", "rms_norm_eps", "max_position_embeddings", "attention_bias"),
)
_VISION_KEYS = (
    *("depth", "hidden_size", "num_heads", "intermediate_size", "hidden_act", "in_channels", "patch_size"),
    *("temporal_patch_size", "spatial_merge_size", "num_position_embeddings", "out_hidden_size"),
    "deepstack_visual_indexes",
)


def backbone_description(config: ModelConfig) -> dict[str, Any]:
    """The sizes of the backbone: the checkpoint's own if it carries them, else those known by `model_name`."""
    if config.backbone_config is not None:
        return config.backbone_config
    if config.model_name not in BUILT_IN_BACKBONES:
        raise ConfigError(
            f"model_name is {config.model_name!r}, which is none of the known backbones "
            f"({', '.join(BUILT_IN_BACKBONES)}); describe it under the key {config.backbone_config_key}"
        )
    return BUILT_IN_BACKBONES[config.model_name]


def _pick(values: dict[str, Any], section: str, keys: Sequence[str]) -> dict[str, Any]:
    part = values.get(section)
    if not isinstance(part, dict):
        raise ConfigError(f"the backbone's {section} is {part!r}, expected an object")
    missing = [key for key in keys if key not in part]
    if missing:
        raise ConfigError(f"the backbone's {section} lacks {', '.join(missing)}")
    return {key: part[key] for key in keys}


def _rope(text: dict[str, Any]) -> tuple[float, list[int]]:
    """rope_theta and mrope_section, where transformers 4.57 (`rope_scaling`) or 5.x (`rope_parameters`) has them."""
    parameters = text.get("rope_parameters") or text.get("rope_scaling") or {}
    theta = parameters.get("rope_theta", text.get("rope_theta"))
    section = parameters.get("mrope_section")
    if theta is None or section is None:
        raise ConfigError("the backbone's text_config lacks rope_theta or rope_scaling.mrope_section")
    if parameters.get("rope_type", "default") != "default" or not parameters.get("mrope_interleaved", True):
        raise ConfigError(f"the backbone's rope_scaling is {parameters}; only default, interleaved M-RoPE is supported")
    return float(theta), [int(n) for n in section]


def _build_towers(description: dict[str, Any], select_layer: int) -> tuple[Qwen3VLVisionModel, Qwen3VLTextModel]:
    text = _pick(description, "text_config", _TEXT_KEYS)
    vision = _pick(description, "vision_config", _VISION_KEYS)
    if not 1 <= select_layer <= text["num_hidden_layers"]:
        raise ConfigError(
            f"select_layer is {select_layer}, but the backbone has {text['num_hidden_layers']} language layers"
        )
    text["num_hidden_layers"] = select_layer
    theta, section = _rope(description["text_config"])
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
        if language.config.hidden_size != config.backbone_embedding_dim:
            raise ConfigError(
                f"backbone_embedding_dim is {config.backbone_embedding_dim}, but the backbone's "
                f"text_config.hidden_size is {language.config.hidden_size}"
            )
        self.model = _TiedLanguageModel(_Towers(visual, language))
        self.image_token_id = int(description["image_token_id"])
        self.use_flash_attention = config.use_flash_attention
        self.merge = int(visual.config.spatial_merge_size)
        self._rope_theta, self._mrope_section = _rope(description["text_config"])

    @property
    def visual(self) -> Qwen3VLVisionModel:
        return self.model.model.visual

    @property
    def language_model(self) -> Qwen3VLTextModel:
        return self.model.model.language_model

    @property
    def max_prompt_tokens(self) -> int:
        """Positions of the language model."""
        return int(self.language_model.config.max_position_embeddings)

    @staticmethod
    def tied_parameters() -> dict[str, str]:
        """Parameters that are another one under a second name."""
        return {"model.lm_head.weight": "model.model.language_model.embed_tokens.weight"}

    def _choose_attention(self) -> None:
        """Takes flash attention where it is installed and the parameters' device and dtype allow it, else SDPA."""
        weight = self.model.lm_head.weight
        name = tower_attention_name(weight.device, weight.dtype) if self.use_flash_attention else TOWER_ATTENTION
        for tower in (self.visual, self.language_model):
            tower.config._attn_implementation = name

    def forward(self, inputs: dict[str, Tensor]) -> BackboneOutput:
        """Runs both towers.

        Args:
            inputs: `input_ids` int64 [B,L], `attention_mask` [B,L] (1 on real tokens), `pixel_values`
                [patches, channels*2*p*p] and `image_grid_thw` int64 [N,3] of all images in batch order.

        Raises:
            ValueError: tokens, patches and grids disagree about the images.
        """
        self._choose_attention()
        device = self.model.lm_head.weight.device
        input_ids = inputs["input_ids"].to(device)
        attention_mask = inputs["attention_mask"].to(device) == 1
        grids = [(int(t), int(h), int(w)) for t, h, w in inputs["image_grid_thw"].tolist()]
        self._check_images(inputs["pixel_values"], grids)
        position_ids = positions.mrope_position_ids(
            input_ids, attention_mask, grids, image_token_id=self.image_token_id, merge=self.merge
        )
        image_features, taps = self.encode_images(inputs["pixel_values"].to(device), grids)
        image_mask = (input_ids == self.image_token_id) & attention_mask
        embeddings = self.language_model.embed_tokens(input_ids)
        embeddings = embeddings.masked_scatter(image_mask[..., None], image_features.to(embeddings.dtype))
        features = self.read(embeddings, position_ids, attention_mask, image_mask, taps)
        return BackboneOutput(features, attention_mask, input_ids == self.image_token_id)

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
        rope = positions.vision_rope_tables(coordinates, tower.config.hidden_size // tower.config.num_heads)
        lengths = torch.tensor([rows * cols for frames, rows, cols in grids for _ in range(frames)])
        bounds = functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
        if tower.config._attn_implementation != TOWER_ATTENTION:  # flash attention reads the bounds on its device
            bounds = bounds.to(hidden.device)
        taps = []
        tap_layers = list(tower.config.deepstack_visual_indexes)
        for i, block in enumerate(tower.blocks):
            hidden = block(hidden, cu_seqlens=bounds, position_embeddings=rope)
            if i in tap_layers:
                taps.append(tower.deepstack_merger_list[tap_layers.index(i)](hidden))
        return tower.merger(hidden), taps

    def read(
        self,
        embeddings: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor,
        image_mask: Tensor,
        taps: Sequence[Tensor],
    ) -> Tensor:
        """The kept language layers on embeddings [B,L,D]; tap i is added at the image tokens after layer i."""
        tower = self.language_model
        rope = positions.mrope_tables(
            position_ids, tower.config.head_dim, self._rope_theta, self._mrope_section, embeddings.dtype
        )
        padded = not bool(attention_mask.all())
        mask: Tensor | None = None
        if padded and tower.config._attn_implementation == TOWER_ATTENTION:
            length = attention_mask.shape[1]
            causal = torch.ones(length, length, dtype=torch.bool, device=attention_mask.device).tril()
            mask = causal & attention_mask[:, None, None, :]
        elif padded:
            mask = attention_mask  # flash attention takes the padding mask, and leaves 0 in the rows of padding
        hidden = embeddings
        for i, layer in enumerate(tower.layers):
            hidden = layer(hidden, position_embeddings=rope, attention_mask=mask)
            if i < len(taps):
                added = torch.zeros_like(hidden).masked_scatter(image_mask[..., None], taps[i].to(hidden.dtype))
                hidden = hidden + added
        return hidden

    def _check_images(self, pixel_values: Tensor, grids: Sequence[positions.Grid]) -> None:
        if not grids:
            raise ValueError("image_grid_thw is empty: the model needs at least one image")
        config = self.visual.config
        width = config.in_channels * config.temporal_patch_size * config.patch_size**2
        patches = sum(t * h * w for t, h, w in grids)
        if pixel_values.ndim != 2 or tuple(pixel_values.shape) != (patches, width):
            raise ValueError(
                f"pixel_values has shape {tuple(pixel_values.shape)}, but image_grid_thw and the vision tower ask for "
                f"{(patches, width)}"
            )
        for grid in grids:
            if grid[0] != 1 or grid[1] % self.merge or grid[2] % self.merge:
                raise ValueError(f"image_grid_thw row {grid}: expected 1 frame and sides that {self.merge} divides")
