"""The diffusion transformer of the action head and the self-attention over vision-language features (spec 3.2, 3.5)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from groot_ros.model.attention import attend
from groot_ros.model.config import TransformerConfig

TIME_FREQUENCIES = 256


def time_sinusoid(timestep: Tensor, dim: int = TIME_FREQUENCIES) -> Tensor:
    """Integer times [B] -> float32 [B,dim]: cos, then sin, of t * 10000^(-k/(dim/2 - 1))."""
    half = dim // 2
    # In this order of operations: times reach 1000, so a last-bit change of a frequency shows in the fifth decimal.
    exponent = -math.log(10000.0) * torch.arange(half, device=timestep.device, dtype=torch.float32) / (half - 1)
    angles = timestep.float()[:, None] * exponent.exp()
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


class TimestepEmbedder(nn.Module):
    """Linear, SiLU, Linear on the sinusoid of the time."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(TIME_FREQUENCIES, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, timestep: Tensor) -> Tensor:
        """timestep int64 [B] -> [B,dim]."""
        sinusoid = time_sinusoid(timestep).to(self.linear_1.weight.dtype)
        return self.linear_2(functional.silu(self.linear_1(sinusoid)))


class TimestepEncoder(nn.Module):
    """Holds the embedder under NVIDIA's parameter name."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.timestep_embedder = TimestepEmbedder(dim)

    def forward(self, timestep: Tensor) -> Tensor:
        return self.timestep_embedder(timestep)


class AdaptiveNorm(nn.Module):
    """LayerNorm without parameters, then scale and shift from the time embedding; scale is the first half."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 2 * dim)
        self.norm = nn.LayerNorm(dim, eps=1e-5, elementwise_affine=False)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        scale, shift = self.linear(functional.silu(temb)).chunk(2, dim=-1)
        return self.norm(x) * (1 + scale[:, None]) + shift[:, None]


class Attention(nn.Module):
    """Multi-head attention with biases everywhere; keys and values from `context`, or from x itself."""

    def __init__(self, dim: int, context_dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(context_dim, dim)
        self.to_v = nn.Linear(context_dim, dim)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim), nn.Dropout(dropout)])

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """x [B,T,dim], context [B,L,context_dim], mask bool [B,1,1,L] (True: may be seen) -> [B,T,dim]."""
        context = x if context is None else context

        def heads(projected: Tensor) -> Tensor:
            return projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        out = attend(heads(self.to_q(x)), heads(self.to_k(context)), heads(self.to_v(context)), mask)
        return self.to_out[1](self.to_out[0](out.transpose(1, 2).flatten(2)))


class GeluProjection(nn.Module):
    """Linear and tanh-GELU, under the name `net.0.proj`."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return functional.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    """Four times wider inside; dropout after the GELU and, where configured, at the end."""

    def __init__(self, dim: int, dropout: float, final_dropout: bool) -> None:
        super().__init__()
        layers = [GeluProjection(dim, 4 * dim), nn.Dropout(dropout), nn.Linear(4 * dim, dim)]
        self.net = nn.ModuleList([*layers, nn.Dropout(dropout)] if final_dropout else layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net:
            x = layer(x)
        return x


class Block(nn.Module):
    """Norm, attention, residual, norm, feed-forward, residual. With `adaptive`, the first norm follows the time."""

    def __init__(self, config: TransformerConfig, context_dim: int, *, adaptive: bool) -> None:
        super().__init__()
        dim = config.inner_dim
        self.adaptive = adaptive
        self.norm1 = AdaptiveNorm(dim) if adaptive else nn.LayerNorm(dim, eps=1e-5)
        self.attn1 = Attention(dim, context_dim, config.num_attention_heads, config.dropout)
        self.norm3 = nn.LayerNorm(dim, eps=1e-5, elementwise_affine=not adaptive)
        self.ff = FeedForward(dim, config.dropout, config.final_dropout)
        self.final_dropout = nn.Dropout(config.dropout if config.final_dropout else 0.0)

    def forward(
        self, x: Tensor, temb: Tensor | None = None, context: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """x [B,T,dim], temb [B,dim], context [B,L,context_dim], mask bool [B,1,1,L] -> [B,T,dim]."""
        normed = self.norm1(x, temb) if self.adaptive else self.norm1(x)
        x = x + self.final_dropout(self.attn1(normed, context, mask))
        return x + self.ff(self.norm3(x))


class SelfAttentionStack(nn.Module):
    """Refines vision-language features. No mask: padding takes part, as in the reference."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList(
            Block(config, config.inner_dim, adaptive=False) for _ in range(config.num_layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x [B,L,dim] -> [B,L,dim]."""
        for block in self.transformer_blocks:
            x = block(x)
        return x


class DiT(nn.Module):
    """Even blocks look at the vision-language features, odd blocks at the tokens themselves.

    Without `interleave_self_attention`, every block looks at the features. With `text_every`, even blocks see text only
    or image only: block 0, 2*text_every, 4*text_every, ... the text, the others the images. Without, they see every
    position, padding too.
    """

    def __init__(self, config: TransformerConfig, context_dim: int, *, text_every: int | None) -> None:
        super().__init__()
        dim = config.inner_dim
        self.text_every = text_every
        self.interleaved = config.interleave_self_attention
        self.timestep_encoder = TimestepEncoder(dim)
        self.transformer_blocks = nn.ModuleList(
            Block(config, context_dim if self._looks_at_context(i) else dim, adaptive=True)
            for i in range(config.num_layers)
        )
        self.norm_out = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.proj_out_1 = nn.Linear(dim, 2 * dim)
        self.proj_out_2 = nn.Linear(dim, config.output_dim or dim)

    def _looks_at_context(self, block: int) -> bool:
        return block % 2 == 0 or not self.interleaved

    def sees(self, block: int) -> Literal["self", "text", "image", "all"]:
        """What a block looks at: the tokens themselves, or text, images or all positions of the features."""
        if not self._looks_at_context(block):
            return "self"
        if self.text_every is None:
            return "all"
        return "text" if block % (2 * self.text_every) == 0 else "image"

    def forward(
        self, tokens: Tensor, context: Tensor, timestep: Tensor, text_mask: Tensor, image_mask: Tensor
    ) -> Tensor:
        """tokens [B,T,dim], context [B,L,context_dim], timestep int64 [B], masks bool [B,L] -> [B,T,output_dim]."""
        temb = self.timestep_encoder(timestep)
        masks = {"text": text_mask[:, None, None, :], "image": image_mask[:, None, None, :]}
        hidden = tokens
        for i, block in enumerate(self.transformer_blocks):
            sees = self.sees(i)
            hidden = block(hidden, temb) if sees == "self" else block(hidden, temb, context, masks.get(sees))
        # Here shift is the first half: the other way round than in the blocks.
        shift, scale = self.proj_out_1(functional.silu(temb)).chunk(2, dim=-1)
        return self.proj_out_2(self.norm_out(hidden) * (1 + scale[:, None]) + shift[:, None])
