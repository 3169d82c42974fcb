"""The kept layers of the language model for one prompt: Qwen3, as in Qwen3-VL (N1.7) and in Eagle (N1.5, N1.6)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from groot_ros.model.engine.dense import attention, dense_of, fuse, rotate
from groot_ros.model.engine.prompt import PromptBuffers


class RmsNorm:
    """x / rms(x), rounded, times the weight, as transformers' Qwen3 has it."""

    def __init__(self, module: Any) -> None:
        self.weight: Tensor = module.weight.detach()
        self.eps = float(module.variance_epsilon)

    def __call__(self, x: Tensor) -> Tensor:
        return self.weight * functional.rms_norm(x, x.shape[-1:], None, self.eps)


class LanguageLayer:
    """Norm, attention, residual, norm, gated feed-forward, residual."""

    def __init__(self, layer: Any) -> None:
        source, mlp = layer.self_attn, layer.mlp
        self.head_dim = int(source.head_dim)
        self.norm, self.norm_up = RmsNorm(layer.input_layernorm), RmsNorm(layer.post_attention_layernorm)
        self.qkv = fuse(source.q_proj, source.k_proj, source.v_proj)
        heads, kv_heads = (linear.out_features // self.head_dim for linear in (source.q_proj, source.k_proj))
        self.heads, self.kv_heads = heads, kv_heads
        # Queries and keys are normed and turned together: one kernel instead of two.
        query, key = source.q_norm.weight.detach(), source.k_norm.weight.detach()
        self.qk_norm_weight = torch.cat((query.expand(heads, -1), key.expand(kv_heads, -1)))
        self.eps = float(source.q_norm.variance_epsilon)
        self.out = dense_of(source.o_proj)
        self.gate_up = fuse(mlp.gate_proj, mlp.up_proj)
        self.act: Callable[[Tensor], Tensor] = mlp.act_fn
        self.down = dense_of(mlp.down_proj)

    def __call__(self, x: Tensor, prompt: PromptBuffers) -> Tensor:
        """x [1,L,D] -> [1,L,D]."""
        projected = self.qkv(self.norm(x)).unflatten(-1, (-1, self.head_dim))
        both, value = projected.split((self.heads + self.kv_heads, self.kv_heads), dim=2)
        both = self.qk_norm_weight * functional.rms_norm(both, both.shape[-1:], None, self.eps)
        query, key = rotate(both, prompt.cos, prompt.sin).split((self.heads, self.kv_heads), dim=2)
        x = x + self.out(attention(query, key, value, causal=True))
        gate, up = self.gate_up(self.norm_up(x)).chunk(2, dim=-1)
        return x + self.down(self.act(gate) * up)


class FrozenLanguage:
    """Embeddings [1,L,D] -> features [1,L,D]: the kept layers and, where the generation has them, norm and projection.

    Args:
        tower: `layers`, `norm`.
        normed: whether the features are those after the final norm.
        projection: what follows, or None.
    """

    def __init__(self, tower: Any, *, normed: bool, projection: nn.Linear | None) -> None:
        self.layers = [LanguageLayer(layer) for layer in tower.layers]
        self.norm = RmsNorm(tower.norm) if normed else None
        self.projection = None if projection is None else dense_of(projection)

    def __call__(self, embeddings: Tensor, prompt: PromptBuffers, taps: list[Tensor]) -> Tensor:
        """embeddings [1,L,D]; tap i [I,D] is added at the image tokens after layer i."""
        hidden = embeddings
        for i, layer in enumerate(self.layers):
            hidden = layer(hidden, prompt)
            if i < len(taps):
                hidden = hidden.index_add(1, prompt.image_index, taps[i][None])
        if self.norm is not None:
            hidden = self.norm(hidden)
        return hidden if self.projection is None else self.projection(hidden)

    def denses(self) -> Iterator[tuple[str, object, str]]:
        """`language.{i}.qkv|out|gate_up|down`, `language.projection`."""
        for i, layer in enumerate(self.layers):
            for name in ("qkv", "out", "gate_up", "down"):
                yield f"language.{i}.{name}", layer, name
        if self.projection is not None:
            yield "language.projection", self, "projection"
