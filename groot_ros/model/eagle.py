"""The vision-language backbone of N1.5 (Eagle 2.5) and N1.6 (Eagle-Block2A): SigLIP, a connector, a cut Qwen3.

The description decides which of the two it is: the kind of vision tower and the depth of the connector. The layers come
from `transformers`; the walks over them are written out, because images of one batch differ in size, and because rows
of padding must be as flash attention leaves them in the reference. Source: spec groot_n15_n16.md, 1-3.3.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.qwen3.configuration_qwen3 import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, Qwen3RMSNorm
from transformers.models.siglip.configuration_siglip import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer, SiglipMultiheadAttentionPoolingHead

from groot_ros.model import positions
from groot_ros.model.backbone import Backbone, BackboneOutput
from groot_ros.model.config import ConfigError, ModelConfig
from groot_ros.model.descriptions import backbone_description, check_width, pick, pick_text, rope_parameters
from groot_ros.model.positions import Grid

# NVIDIA's parameter names call the whole Eagle this in a generation's checkpoints.
_ROOT_NAMES = {"n1d5": "eagle_model", "n1d6": "model"}
# Vision towers: SigLIP cuts square tiles by a convolution and adds its position table as it is; SigLIP2 takes images of
# any size, cut by a linear layer, stretches the table over each, and joins 2 x 2 patches to one token.
_SIGLIP, _SIGLIP2 = "siglip_vision_model", "siglip2_vision_model"
_VISION_KEYS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act"),
    *("layer_norm_eps", "num_channels", "patch_size"),
)


class _Namespace(nn.Module):
    """Modules under given names, for a nesting that only parameter names need."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


class _Layers(nn.Module):
    """Layers under the name `layers`."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class PatchEmbeddings(nn.Module):
    """Patches to embeddings, and the learned position table with a row per patch of a square image."""

    def __init__(self, config: SiglipVisionConfig, *, table_side: int, any_size: bool) -> None:
        super().__init__()
        size, channels, width = config.patch_size, config.num_channels, config.hidden_size
        self.table_side = table_side
        self.any_size = any_size
        self.patch_embedding: nn.Linear | nn.Conv2d
        if any_size:
            self.patch_embedding = nn.Linear(size * size * channels, width)
        else:
            self.patch_embedding = nn.Conv2d(channels, width, kernel_size=size, stride=size)
        self.position_embedding = nn.Embedding(table_side**2, width)

    def embed(self, patches: Tensor) -> Tensor:
        """[patches, values of one patch] -> [patches,D], without positions."""
        layer = self.patch_embedding
        patches = patches.to(layer.weight.dtype)
        if isinstance(layer, nn.Linear):
            return layer(patches)
        # The kernel covers a whole patch, so a linear layer would do; but it sums in another order than the reference,
        # which the towers enlarge to 1e-5 of the features in float32.
        return layer(patches.view(-1, *layer.weight.shape[1:])).flatten(1)

    def positions(self, rows: int, cols: int) -> Tensor:
        """The position table for an image of rows x cols patches, [rows*cols,D].

        Stretched by bilinear interpolation with antialiasing, in float32 as in the reference; the table itself where
        the sizes are equal.
        """
        table = self.position_embedding.weight
        if not self.any_size:
            return table
        side = self.table_side
        image = table.float().view(1, side, side, -1).permute(0, 3, 1, 2)
        image = functional.interpolate(image, (rows, cols), mode="bilinear", align_corners=False, antialias=True)
        return image[0].flatten(1).T.to(table.dtype)

    def forward(self, patches: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Patches of all images, one after the other, row by row -> [patches,D] with positions."""
        tables = {grid: self.positions(*grid[1:]) for grid in set(grids)}
        return self.embed(patches) + torch.cat([tables[grid] for grid in grids])


class VisionTower(nn.Module):
    """SigLIP and SigLIP2, which have the same layers. `head` is in checkpoints and is not used."""

    def __init__(self, description: dict[str, Any]) -> None:
        super().__init__()
        sizes = pick(description, "vision_config", _VISION_KEYS)
        vision = description["vision_config"]
        kind = vision.get("model_type")
        if kind not in (_SIGLIP, _SIGLIP2):
            raise ConfigError(f"the backbone's vision_config.model_type is {kind!r}, expected {_SIGLIP} or {_SIGLIP2}")
        for key in ("use_rope", "use_windows_attn"):
            if vision.get(key):
                raise ConfigError(f"the backbone's vision_config.{key} is true; only false is supported")
        any_size = kind == _SIGLIP2
        side = _table_side(description, "num_patches" if any_size else "image_size", sizes["patch_size"])
        self.config = SiglipVisionConfig(**sizes, image_size=side * sizes["patch_size"], attention_dropout=0.0)
        self.embeddings = PatchEmbeddings(self.config, table_side=side, any_size=any_size)
        self.encoder = _Layers(SiglipEncoderLayer(self.config) for _ in range(self.config.num_hidden_layers))
        self.post_layernorm = nn.LayerNorm(self.config.hidden_size, eps=self.config.layer_norm_eps)
        self.head = SiglipMultiheadAttentionPoolingHead(self.config)

    @property
    def patch_values(self) -> int:
        """Numbers in one patch."""
        return int(self.config.num_channels * self.config.patch_size**2)

    def forward(self, patches: Tensor, grids: Sequence[Grid]) -> list[Tensor]:
        """Patches [patches,values] of all images -> [rows*cols,D] for each; an image sees itself only.

        Images of one size go through the layers together.
        """
        embedded = self.embeddings(patches, grids).split([rows * cols for _, rows, cols in grids])
        out: list[Tensor] = list(embedded)
        for size in dict.fromkeys(grids):
            members = [i for i, grid in enumerate(grids) if grid == size]
            hidden = torch.stack([embedded[i] for i in members])
            for layer in self.encoder.layers:
                hidden = layer(hidden, attention_mask=None)
            for i, image in zip(members, self.post_layernorm(hidden), strict=True):
                out[i] = image
        return out


class LanguageModel(nn.Module):
    """Qwen3's embedding, its first layers and the final norm."""

    def __init__(self, sizes: dict[str, Any]) -> None:
        super().__init__()
        # The rotary tables are made in `positions`, so Qwen3's own rotary settings do not matter.
        self.config = Qwen3Config(**sizes, attention_dropout=0.0, use_sliding_window=False)
        self.embed_tokens = nn.Embedding(self.config.vocab_size, self.config.hidden_size)
        self.layers = nn.ModuleList(Qwen3DecoderLayer(self.config, i) for i in range(self.config.num_hidden_layers))
        self.norm = Qwen3RMSNorm(self.config.hidden_size, eps=self.config.rms_norm_eps)


class EagleBackbone(Backbone):
    """Images and prompt -> features: the cut language model's output after the final norm.

    Parameters are named `R.vision_model.vision_model`, `R.language_model.model`, `R.language_model.lm_head` and
    `R.mlp1`, where R is `eagle_model` in N1.5 and `model` in N1.6. Where `project_to_dim` (N1.5) is a number,
    `eagle_linear` follows.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        description = backbone_description(config)
        sizes = pick_text(description, config.select_layer)
        self._rope_theta: float = rope_parameters(description)["rope_theta"]
        if description["text_config"].get("use_sliding_window"):
            raise ConfigError("the backbone's text_config.use_sliding_window is true; only false is supported")
        if description.get("select_layer", -1) != -1:
            raise ConfigError(f"the backbone's select_layer is {description['select_layer']}; only -1 is supported")
        if "image_token_index" not in description:
            raise ConfigError("the backbone's description lacks image_token_index")
        self.image_token_id = int(description["image_token_index"])
        self.use_flash_attention = config.use_flash_attention
        # N1.5's policy loads the weights as bfloat16 and casts no module, so its frequencies stay exact.
        self.reference_rounds = config.generation != "n1d5"
        vision, language = VisionTower(description), LanguageModel(sizes)
        width = language.config.hidden_size
        self.merge = _merge(description, vision)
        eagle = _Namespace(
            vision_model=_Namespace(vision_model=vision),
            language_model=_Namespace(model=language, lm_head=nn.Linear(width, language.config.vocab_size, bias=False)),
            mlp1=_connector(description, vision.config.hidden_size * self.merge**2, width),
        )
        self._root_name = _ROOT_NAMES[config.generation]
        self.add_module(self._root_name, eagle)
        self.eagle_linear: nn.Linear | None = None
        if config.project_to_dim is None:
            check_width(config, width)
        else:
            self.eagle_linear = nn.Linear(width, config.project_to_dim)
        self._unused = frozenset(
            name for name, _ in self.named_parameters() if ".lm_head." in name or ".vision_model.head." in name
        )

    @property
    def _root(self) -> Any:
        return getattr(self, self._root_name)

    @property
    def visual(self) -> VisionTower:
        """The vision tower."""
        return self._root.vision_model.vision_model

    @property
    def language_model(self) -> LanguageModel:
        """The language tower, cut after `select_layer` layers."""
        return self._root.language_model.model

    @property
    def connector(self) -> nn.Sequential:
        """`mlp1`: from what the vision tower sees to the language model's embeddings."""
        return self._root.mlp1

    @property
    def patch_values(self) -> int:
        """Channels and pixels of a patch."""
        return self.visual.patch_values

    @staticmethod
    def tied_parameters() -> dict[str, str]:
        """None: `lm_head` has values of its own in NVIDIA's module tree."""
        return {}

    def unused_parameters(self) -> set[str]:
        """The pooling head of the vision tower and `lm_head`."""
        return set(self._unused)

    def forward(self, inputs: dict[str, Tensor]) -> BackboneOutput:
        """Runs both towers.

        Args:
            inputs: `input_ids` int64 [B,L], `attention_mask` [B,L] (1 on real tokens), `image_grid_thw` int64 [N,3] and
                `pixel_values` [patches, 3*p*p] of all images in batch order, patches row by row. The values of a patch
                stand in the order (channel, y, x) for N1.5 and (y, x, channel) for N1.6.

        Raises:
            ValueError: tokens, patches and grids disagree about the images.
        """
        self.choose_attention()
        device = self.language_model.embed_tokens.weight.device
        input_ids = inputs["input_ids"].to(device)
        attention_mask = inputs["attention_mask"].to(device) == 1
        image_mask = input_ids == self.image_token_id
        grids = self.read_grids(inputs)
        dtype = self.language_model.embed_tokens.weight.dtype
        rope = self.prompt_rope(input_ids, attention_mask, grids, dtype)
        image_features = self.encode_images(inputs["pixel_values"].to(device), grids)
        embeddings = self.embed(input_ids, image_mask & attention_mask, image_features)
        features = self.language_model.norm(self.walk(embeddings, rope, attention_mask))
        if self.eagle_linear is not None:
            features = self.eagle_linear(features)
        return BackboneOutput(features, attention_mask, image_mask)

    def prompt_rope(
        self, input_ids: Tensor, attention_mask: Tensor, grids: Sequence[Grid], dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """[1,L,head_dim], counted over padding too; see the base class."""
        self._check_sizes(grids)
        self._check_tokens((input_ids == self.image_token_id) & (attention_mask == 1), grids)
        length, head_dim = input_ids.shape[1], self.language_model.config.head_dim
        return positions.rope_tables(length, head_dim, self._rope_theta, dtype, input_ids.device, self.rope_rounding)

    def encode_images(self, pixel_values: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Patches of all images -> one embedding per image token [tokens,D], image by image, row by row."""
        images = self.visual(pixel_values, grids)
        if self.merge > 1:
            images = [self._join(image, grid) for image, grid in zip(images, grids, strict=True)]
        return self.connector(torch.cat(images))

    def _join(self, image: Tensor, grid: Grid) -> Tensor:
        """[rows*cols,C] -> [rows/m*cols/m, C*m*m]; the values of a joined patch stand in the order (channel, y, x)."""
        image = image.view(*grid[1:], -1).permute(2, 0, 1)
        return functional.pixel_unshuffle(image, self.merge).flatten(1).T

    def _check_sizes(self, grids: Sequence[Grid]) -> None:
        side, merge = self.visual.embeddings.table_side, self.merge
        for grid in grids:
            if not self.visual.embeddings.any_size and grid != (1, side, side):
                raise ValueError(f"image_grid_thw row {grid}: this model takes tiles of {side} x {side} patches only")
            if grid[0] != 1 or min(grid) < 1 or grid[1] % merge or grid[2] % merge:
                raise ValueError(f"image_grid_thw row {grid}: expected 1 frame and sides that {merge} divides")

    def _check_tokens(self, image_mask: Tensor, grids: Sequence[Grid]) -> None:
        """ValueError unless each sample's image tokens (`image_mask` bool [B,L]) are those of whole images, in order.

        The reference cuts off what is too much and warns.
        """
        per_image = [rows * cols // self.merge**2 for _, rows, cols in grids]
        at = 0
        for b, tokens in enumerate(image_mask.sum(dim=1).tolist()):
            first = at
            while tokens > 0 and at < len(grids):
                tokens -= per_image[at]
                at += 1
            if tokens != 0:
                raise ValueError(
                    f"input_ids of sample {b} hold {int(image_mask[b].sum())} image tokens, but the images from number "
                    f"{first} of image_grid_thw on have {per_image[first:]}: the processor and the model disagree "
                    "about the images"
                )
        if at < len(grids):
            raise ValueError(f"image_grid_thw holds {len(grids)} images, input_ids hold tokens for {at}")


def _table_side(description: dict[str, Any], key: str, patch_size: int) -> int:
    """Rows (and columns) of the position table, from its length or from the edge of a tile in pixels."""
    value: int = pick(description, "vision_config", [key])[key]
    side, is_whole = math.isqrt(value), math.isqrt(value) ** 2 == value
    if key == "image_size":
        side, is_whole = value // patch_size, value % patch_size == 0
    if not is_whole:
        expected = f"a multiple of {patch_size}" if key == "image_size" else "a square number"
        raise ConfigError(f"the backbone's vision_config.{key} is {value}, expected {expected}")
    return side


def _merge(description: dict[str, Any], vision: VisionTower) -> int:
    """How many patches, along one side, become one token."""
    if not vision.embeddings.any_size:
        if description.get("use_pixel_shuffle"):
            raise ConfigError(f"the backbone's use_pixel_shuffle is true, which is not supported with {_SIGLIP}")
        return 1
    ratio = description.get("downsample_ratio", 0.5)
    if not isinstance(ratio, float) or not 0 < ratio <= 1 or 1 / ratio != round(1 / ratio):
        raise ConfigError(f"the backbone's downsample_ratio is {ratio!r}, expected 1 divided by a whole number")
    return round(1 / ratio)


def _connector(description: dict[str, Any], inputs: int, width: int) -> nn.Sequential:
    """`mlp1`: one linear layer, or norm, linear layer, GELU, linear layer."""
    depth = description.get("mlp_connector_layers")
    if depth == 1:
        return nn.Sequential(nn.Linear(inputs, width))
    if depth == 2:
        return nn.Sequential(nn.LayerNorm(inputs), nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width))
    raise ConfigError(f"the backbone's mlp_connector_layers is {depth!r}, expected 1 or 2")
