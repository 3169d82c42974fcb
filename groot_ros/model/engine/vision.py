"""The vision towers for pictures of known sizes: SigLIP and its connector (N1.5, N1.6), Qwen3-VL's tower (N1.7).

Where patches stand is worked out once per set of sizes; pictures of one size go through the layers as one batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from groot_ros.model import positions
from groot_ros.model.cosmos import CosmosBackbone
from groot_ros.model.eagle import EagleBackbone
from groot_ros.model.engine.dense import Dense, Norm, attention, dense_of, fuse, rotate, signed
from groot_ros.model.positions import Grid

Rope = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class ViewGroup:
    """The pictures of one size among those of an observation."""

    grid: Grid
    members: tuple[int, ...]
    """Which pictures, in the order of the observation."""
    position_embeddings: Tensor
    """[patches,D], what is added to the embedding of every patch of a picture."""
    rope: Rope | None
    """cos and signed sin, float32 [patches,1,1,d]; None: the tower has none."""


@dataclass(frozen=True)
class Views:
    """All pictures of an observation, by size."""

    grids: tuple[Grid, ...]
    groups: tuple[ViewGroup, ...]


class VisionLayer:
    """Norm, attention within a picture, residual, norm, feed-forward, residual."""

    def __init__(
        self,
        heads: int,
        norms: tuple[nn.LayerNorm, nn.LayerNorm],
        qkv: Dense,
        out: nn.Linear,
        feed: tuple[nn.Linear, Callable[[Tensor], Tensor], nn.Linear],
    ) -> None:
        self.heads = heads
        self.norm, self.norm_up = (Norm.of(norm) for norm in norms)
        self.qkv, self.out = qkv, dense_of(out)
        self.up, self.act, self.down = dense_of(feed[0]), feed[1], dense_of(feed[2])

    def __call__(self, x: Tensor, rope: Rope | None) -> Tensor:
        """x [pictures,patches,D] -> the same."""
        projected = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = projected.unbind(2)
        if rope is not None:
            # In float32, as transformers turns them.
            query, key = rotate(projected[:, :, :2].float(), rope[0], rope[1]).to(x.dtype).unbind(2)
        x = x + self.out(attention(query, key, value))
        return x + self.down(self.act(self.up(self.norm_up(x))))


class FrozenVision(ABC):
    """Patches -> what stands in the prompt's image tokens, and what is added to them after the first layers."""

    layers: list[VisionLayer]

    @abstractmethod
    def views(self, grids: Sequence[Grid]) -> Views:
        """What follows from the sizes of the pictures."""

    @abstractmethod
    def __call__(self, pixel_values: Tensor, views: Views) -> tuple[Tensor, list[Tensor]]:
        """pixel_values [patches,values] -> [I,D] and the taps [I,D]."""

    def denses(self) -> Iterator[tuple[str, object, str]]:
        """`vision.{i}.qkv|out|up|down`."""
        for i, layer in enumerate(self.layers):
            for name in ("qkv", "out", "up", "down"):
                yield f"vision.{i}.{name}", layer, name


class FrozenSiglip(FrozenVision):
    """SigLIP, the joining of patches, and the connector."""

    def __init__(self, backbone: EagleBackbone) -> None:
        tower = backbone.visual
        self.embeddings, self.connector, self.merge = tower.embeddings, backbone.connector, backbone.merge
        self.layers = []
        layers: Any = tower.encoder.layers
        for layer in layers:
            source, mlp = layer.self_attn, layer.mlp
            self.layers.append(
                VisionLayer(
                    source.num_heads,
                    (layer.layer_norm1, layer.layer_norm2),
                    fuse(source.q_proj, source.k_proj, source.v_proj),
                    source.out_proj,
                    (mlp.fc1, mlp.activation_fn, mlp.fc2),
                )
            )
        self.norm = Norm.of(tower.post_layernorm)

    @torch.no_grad()
    def views(self, grids: Sequence[Grid]) -> Views:
        table = self.embeddings.positions
        return _by_size(grids, lambda grid: (table(*grid[1:]).detach().clone(), None))

    def __call__(self, pixel_values: Tensor, views: Views) -> tuple[Tensor, list[Tensor]]:
        def tower(hidden: Tensor, group: ViewGroup) -> tuple[Tensor, ...]:
            hidden = hidden + group.position_embeddings
            for layer in self.layers:
                hidden = layer(hidden, None)
            return (self._joined(self.norm(hidden), group.grid),)

        return self.connector(_each_size(self.embeddings.embed(pixel_values), views, tower)[0]), []

    def _joined(self, pictures: Tensor, grid: Grid) -> Tensor:
        """[N,rows*cols,C] -> [N,tokens,C*m*m]; the values of a joined patch stand in the order (channel, y, x)."""
        if self.merge == 1:
            return pictures
        planes = pictures.unflatten(1, grid[1:]).permute(0, 3, 1, 2)
        return functional.pixel_unshuffle(planes, self.merge).flatten(2).transpose(1, 2)


class FrozenQwenVision(FrozenVision):
    """Qwen3-VL's vision tower with its mergers."""

    def __init__(self, backbone: CosmosBackbone) -> None:
        tower = backbone.visual
        config = tower.config
        self.merge, self.rounding = backbone.merge, backbone.rope_rounding
        self.head_dim = config.hidden_size // config.num_heads
        self.table, self.table_side = tower.pos_embed.weight.detach(), int(tower.num_grid_per_side)
        projection = tower.patch_embed.proj
        # The kernel covers the whole patch, so the convolution is one product per patch.
        self.patch = Dense(projection.weight.detach().flatten(1), projection.bias.detach())
        self.layers = []
        for block in tower.blocks:
            source: Any = block.attn
            feed = (block.mlp.linear_fc1, block.mlp.act_fn, block.mlp.linear_fc2)
            norms = (block.norm1, block.norm2)
            self.layers.append(VisionLayer(source.num_heads, norms, dense_of(source.qkv), source.proj, feed))
        self.merger = tower.merger
        self.taps = dict(zip(config.deepstack_visual_indexes, tower.deepstack_merger_list, strict=True))

    @torch.no_grad()
    def views(self, grids: Sequence[Grid]) -> Views:
        return _by_size(grids, self._positions)

    def _positions(self, grid: Grid) -> tuple[Tensor, Rope]:
        coordinates = positions.patch_coordinates([grid], self.merge, self.table.device)
        indices, weights = positions.position_table_lookup([grid], coordinates, self.table_side)
        table = (self.table[indices] * weights[..., None].to(self.table.dtype)).sum(dim=0)
        cos, sin = positions.vision_rope_tables(coordinates, self.head_dim, self.rounding)
        return table, (cos[:, None, None], signed(sin)[:, None, None])

    def __call__(self, pixel_values: Tensor, views: Views) -> tuple[Tensor, list[Tensor]]:
        def tower(hidden: Tensor, group: ViewGroup) -> tuple[Tensor, ...]:
            hidden, taps = hidden + group.position_embeddings, []
            for i, layer in enumerate(self.layers):
                hidden = layer(hidden, group.rope)
                if i in self.taps:
                    taps.append(self._merged(self.taps[i], hidden))
            return (self._merged(self.merger, hidden), *taps)

        features, *taps = _each_size(self.patch(pixel_values), views, tower)
        return features, taps

    @staticmethod
    def _merged(merger: nn.Module, hidden: Tensor) -> Tensor:
        """[N,patches,D] -> [N,tokens,out]; patches of one token stand next to each other."""
        merged: Tensor = merger(hidden.flatten(0, 1))
        return merged.unflatten(0, (len(hidden), -1))


def frozen_vision(backbone: EagleBackbone | CosmosBackbone) -> FrozenVision:
    """The tower of a backbone."""
    return FrozenSiglip(backbone) if isinstance(backbone, EagleBackbone) else FrozenQwenVision(backbone)


def _by_size(grids: Sequence[Grid], positions_of: Callable[[Grid], tuple[Tensor, Rope | None]]) -> Views:
    groups = []
    for grid in dict.fromkeys(grids):
        members = tuple(i for i, other in enumerate(grids) if other == grid)
        groups.append(ViewGroup(grid, members, *positions_of(grid)))
    return Views(tuple(grids), tuple(groups))


def _each_size(patches: Tensor, views: Views, tower: Callable[[Tensor, ViewGroup], tuple[Tensor, ...]]) -> list[Tensor]:
    """Runs `tower` on each group of pictures and puts what it gives in the order of the pictures.

    Args:
        patches: [patches,D] of all pictures.
        tower: [N,patches,D] of one size -> tensors [N,tokens,D].

    Returns:
        One [tokens,D] per tensor of `tower`.
    """
    if len(views.groups) == 1:
        group = views.groups[0]
        return [out.flatten(0, 1) for out in tower(patches.unflatten(0, (len(group.members), -1)), group)]
    split = patches.split([frames * rows * cols for frames, rows, cols in views.grids])
    found: dict[int, tuple[Tensor, ...]] = {}
    for group in views.groups:
        outs = tower(torch.stack([split[i] for i in group.members]), group)
        found.update({member: tuple(out[i] for out in outs) for i, member in enumerate(group.members)})
    ordered = [found[i] for i in range(len(views.grids))]
    return [torch.cat(parts) for parts in zip(*ordered, strict=True)]
