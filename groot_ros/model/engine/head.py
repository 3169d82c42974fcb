"""The action head for one embodiment and a fixed number of Euler steps.

The same function as `ActionHead.sample`, with everything that does not depend on the observation computed once (spec
performance.md, C): time embedding and modulation as tables, one embodiment's weights, keys and values of the
cross-attention once per chunk and only of the tokens that a layer may see. Products that follow each other without
anything between are one. Only the order of roundings differs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from groot_ros.model.action_head import ActionHead
from groot_ros.model.dit import Attention, Block, DiT, SelfAttentionStack
from groot_ros.model.embodiment_layers import CategoryLinear, action_time_embedding
from groot_ros.model.engine.dense import Dense, Norm, attention, dense_of, fuse, product
from groot_ros.model.engine.prompt import PromptBuffers
from groot_ros.model.guidance import guidance_factor

Found = Iterator[tuple[str, object, str]]
"""Name of a product, the object that holds it and the attribute in which."""


@dataclass
class GuidanceBuffers:
    """A pull towards the previous chunk; see `groot_ros.model.guidance.guided`."""

    previous: Tensor
    """[1,H,A], in the model's dtype."""
    weights: Tensor
    """[H,1] or [H,A], in the model's dtype; 0 changes nothing."""
    factors: Tensor
    """float32 [steps], the factor of the correction at each Euler step."""

    def to(self, device: torch.device, dtype: torch.dtype) -> GuidanceBuffers:
        """On a device; all but the factors in `dtype`."""
        return GuidanceBuffers(self.previous.to(device, dtype), self.weights.to(device, dtype), self.factors.to(device))


@dataclass
class ChunkBuffers:
    """What changes from chunk to chunk, in the model's dtype on its device. A batch of one."""

    pixel_values: Tensor
    """[patches,values]."""
    state: Tensor
    """[1,history,S]."""
    noise: Tensor
    """[1,H,A], where the integration starts; with in-painting its start is the end of the previous chunk."""
    strength: Tensor | None = None
    """[H,1], factor on the velocity (`ramp_strength`); 1 changes nothing."""
    guidance: GuidanceBuffers | None = None

    def to(self, device: torch.device, dtype: torch.dtype) -> ChunkBuffers:
        """On a device, in `dtype`."""
        return ChunkBuffers(
            self.pixel_values.to(device, dtype),
            self.state.to(device, dtype),
            self.noise.to(device, dtype),
            None if self.strength is None else self.strength.to(device, dtype),
            None if self.guidance is None else self.guidance.to(device, dtype),
        )


@dataclass
class FeedForward:
    """Two products with a tanh-GELU between."""

    up: Dense
    down: Dense

    @classmethod
    def of(cls, block: Block) -> FeedForward:
        net: Any = block.ff.net
        return cls(dense_of(net[0].proj), dense_of(net[2]))

    def __call__(self, x: Tensor, step: int = 0) -> Tensor:
        return self.down(functional.gelu(self.up(x, step), approximate="tanh"), step)


@dataclass
class Modulation:
    """A norm whose scale and shift follow the time: one row per Euler step, so that one kernel does all of it."""

    scale: Tensor
    """[steps,D], 1 added."""
    shift: Tensor
    """[steps,D]."""
    eps: float

    def __call__(self, x: Tensor, step: int) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], self.scale[step], self.shift[step], self.eps)


class SelfBlock:
    """A block that looks at its own tokens: of the DiT (`norm` follows the time) or of the refinement."""

    def __init__(self, block: Block, norm: Modulation | None) -> None:
        self.heads = block.attn1.heads
        self.modulated = norm
        self.norm = None if norm is not None else Norm.of(block.norm1)  # type: ignore[arg-type]
        self.qkv = fuse(block.attn1.to_q, block.attn1.to_k, block.attn1.to_v)
        self.out = _out(block.attn1)
        self.norm_up = Norm.of(block.norm3)
        self.feed = FeedForward.of(block)

    def __call__(self, x: Tensor, step: int = 0, mask: Tensor | None = None) -> Tensor:
        """x [1,T,D], mask bool [1,1,1,T] -> [1,T,D]."""
        normed = self.modulated(x, step) if self.modulated is not None else self.norm(x)  # type: ignore[misc]
        query, key, value = self.qkv(normed, step).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        x = x + self.out(attention(query, key, value, mask), step)
        return x + self.feed(self.norm_up(x), step)


class CrossBlock:
    """A block of the DiT that looks at the context, whose keys and values it is given."""

    def __init__(self, block: Block, norm: Modulation) -> None:
        self.heads = block.attn1.heads
        self.modulated = norm
        self.q = dense_of(block.attn1.to_q)
        self.out = _out(block.attn1)
        self.norm_up = Norm.of(block.norm3)
        self.feed = FeedForward.of(block)

    def __call__(self, x: Tensor, step: int, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """x [1,T,D], key and value [1,keys,heads,d], mask bool [1,1,1,keys] -> [1,T,D]."""
        query = self.q(self.modulated(x, step), step).unflatten(-1, (self.heads, -1))
        x = x + self.out(attention(query, key, value, mask), step)
        return x + self.feed(self.norm_up(x), step)


class CrossContext:
    """Keys and values, once per chunk, of all blocks that look at the same tokens."""

    def __init__(self, blocks: list[Block]) -> None:
        self.heads = blocks[0].attn1.heads if blocks else 1
        self.blocks = len(blocks)
        self.kv = fuse(*(linear for block in blocks for linear in (block.attn1.to_k, block.attn1.to_v)))

    def __call__(self, context: Tensor) -> list[tuple[Tensor, Tensor]]:
        """context [1,keys,C] -> per block key and value [1,keys,heads,d]."""
        both = self.kv(context).unflatten(-1, (self.blocks, 2, self.heads, -1))
        return [(both[:, :, i, 0], both[:, :, i, 1]) for i in range(self.blocks)]


class Encoder:
    """Actions and step -> tokens, W3 silu(W2 [W1 a ; time]).

    The time's half of W2 gives a bias per step; W1 and the other half are one product.
    """

    def __init__(self, head: ActionHead, category: int, times: Tensor) -> None:
        source = head.action_encoder
        (w1, b1), (w2, b2), (w3, b3) = (_chosen(layer, category) for layer in (source.W1, source.W2, source.W3))
        hidden = source.hidden
        time = action_time_embedding(times, hidden).to(w1.dtype)
        self.first = Dense(product(w1, w2[:, :hidden]), None)
        self.biases = functional.linear(time, w2[:, hidden:], b2) + functional.linear(b1, w2[:, :hidden])
        """[steps,hidden]"""
        self.second = Dense(w3.contiguous(), b3.clone())
        horizon = head.config.action_horizon
        positions = head.position_embedding.weight[:horizon].detach() if head.config.add_pos_embed else None
        self.positions = None if positions is None else positions.clone()

    def __call__(self, actions: Tensor, step: int) -> Tensor:
        """[1,H,A] -> [1,H,D]."""
        tokens = self.second(functional.silu(self.first(actions, step) + self.biases[step]), step)
        return tokens if self.positions is None else tokens + self.positions


class Decoder:
    """The DiT's last norm and product and the embodiment's two layers; only rows of actions come here."""

    def __init__(self, head: ActionHead, category: int, norm: Modulation) -> None:
        layers = (head.action_decoder.layer1, head.action_decoder.layer2)
        (w1, b1), (w2, b2) = (_chosen(layer, category) for layer in layers)
        last = head.model.proj_out_2
        self.modulated = norm
        self.first = Dense(product(last.weight.detach(), w1), functional.linear(last.bias.detach(), w1, b1))
        self.second = Dense(w2.contiguous(), b2.clone())

    def __call__(self, x: Tensor, step: int) -> Tensor:
        """[1,H,D] -> velocity [1,H,A]."""
        return self.second(functional.relu(self.first(self.modulated(x, step), step)), step)


class FrozenHead:
    """`ActionHead.sample` for one embodiment.

    Args:
        head: stays as it is; attention weights that are fused become views.
        embodiment_id: whose weights.
        steps: Euler steps.
    """

    @torch.no_grad()
    def __init__(self, head: ActionHead, embodiment_id: int, steps: int) -> None:
        config, dit = head.config, head.model
        self.steps, self.horizon = steps, config.action_horizon
        device = dit.proj_out_2.weight.device
        times = [int(i / steps * config.num_timestep_buckets) for i in range(steps)]
        timesteps = torch.tensor(times, device=device)
        self.norm = Norm.of(head.vlln) if config.use_vlln else None  # type: ignore[arg-type]
        refiner = head.vl_self_attention
        blocks: Any = refiner.transformer_blocks if isinstance(refiner, SelfAttentionStack) else ()
        self.refiner = [SelfBlock(block, None) for block in blocks]
        layers = (head.state_encoder.layer1, head.state_encoder.layer2)
        self.state = [Dense(w.contiguous(), b.clone()) for w, b in (_chosen(layer, embodiment_id) for layer in layers)]
        self.future = head.future_tokens.weight.detach()[None] if config.num_target_vision_tokens else None
        temb = functional.silu(dit.timestep_encoder(timesteps))
        self._freeze_blocks(dit, temb)
        self.encoder = Encoder(head, embodiment_id, timesteps)
        # Here shift is the first half: the other way round than in the blocks.
        shift, scale = dit.proj_out_1(temb).chunk(2, dim=-1)
        last = Modulation((1 + scale).contiguous(), shift.contiguous(), dit.norm_out.eps)
        self.decoder = Decoder(head, embodiment_id, last)

    def _freeze_blocks(self, dit: DiT, temb: Tensor) -> None:
        self.blocks: list[SelfBlock | CrossBlock] = []
        self.sees: list[str] = []
        """Per block: `self`, `text`, `image` or `all`."""
        looking: dict[str, list[Block]] = {}
        blocks: Any = dit.transformer_blocks
        for i, block in enumerate(blocks):
            scale, shift = block.norm1.linear(temb).chunk(2, dim=-1)
            norm = Modulation((1 + scale).contiguous(), shift.contiguous(), block.norm1.norm.eps)
            sees = dit.sees(i)
            self.sees.append(sees)
            self.blocks.append(SelfBlock(block, norm) if sees == "self" else CrossBlock(block, norm))
            if sees != "self":
                looking.setdefault(sees, []).append(block)
        self.contexts = {sees: CrossContext(blocks) for sees, blocks in looking.items()}

    def condition(self, features: Tensor, prompt: PromptBuffers) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """features [1,L,C] -> key, value and mask of every block that looks at them, in order."""
        context = features if self.norm is None else self.norm(features)
        for block in self.refiner:
            context = block(context, mask=prompt.key_mask)
        parts: dict[str, Tensor] = {}
        masks = {"all": prompt.key_mask, "text": prompt.text_mask, "image": None}
        for sees in self.contexts:
            index = {"text": prompt.text_index, "image": prompt.image_index}.get(sees)
            parts[sees] = context if index is None else context.index_select(1, index)
        seen = {sees: iter(of(parts[sees])) for sees, of in self.contexts.items()}
        return [(*next(seen[sees]), masks[sees]) for sees in self.sees if sees != "self"]

    def velocity(
        self, actions: Tensor, step: int, before: Tensor, seen: list[tuple[Tensor, Tensor, Tensor | None]]
    ) -> Tensor:
        """actions [1,H,A] at Euler step `step` -> velocity [1,H,A].

        Args:
            before: [1,K,D], the tokens in front of the actions.
            seen: of `condition`.
        """
        hidden = torch.cat((before, self.encoder(actions, step)), dim=1)
        looking = iter(seen)
        for block in self.blocks:
            hidden = block(hidden, step, *next(looking)) if isinstance(block, CrossBlock) else block(hidden, step)
        return self.decoder(hidden[:, -self.horizon :], step)

    def __call__(self, features: Tensor, prompt: PromptBuffers, chunk: ChunkBuffers) -> Tensor:
        """features [1,L,C] -> actions [1,H,A], as `ActionHead.sample`."""
        seen = self.condition(features, prompt)
        token = self.state[1](functional.relu(self.state[0](chunk.state.flatten(1)[:, None])))
        before = token if self.future is None else torch.cat((token, self.future), dim=1)
        actions = chunk.noise
        for step in range(self.steps):
            velocity = self.velocity(actions, step, before, seen)
            if chunk.strength is not None:
                velocity = velocity * chunk.strength
            if (pull := chunk.guidance) is not None:
                away = pull.previous - (actions + (1 - step / self.steps) * velocity)
                velocity = velocity + pull.factors[step] * pull.weights * away
            actions = actions + velocity / self.steps
        return actions

    def denses(self) -> Found:
        """Every product by name: `refiner.{i}.*`, `dit.{i}.*`, `dit.kv.*`, `encoder.*`, `decoder.*`."""
        for stack, blocks in (("refiner", self.refiner), ("dit", self.blocks)):
            for i, block in enumerate(blocks):
                first = "qkv" if isinstance(block, SelfBlock) else "q"
                yield f"{stack}.{i}.{first}", block, first
                yield f"{stack}.{i}.out", block, "out"
                yield f"{stack}.{i}.up", block.feed, "up"
                yield f"{stack}.{i}.down", block.feed, "down"
        for sees, context in self.contexts.items():
            yield f"dit.kv.{sees}", context, "kv"
        for name, part in (("encoder", self.encoder), ("decoder", self.decoder)):
            yield f"{name}.first", part, "first"
            yield f"{name}.second", part, "second"


def guidance_factors(steps: int, beta: float | None) -> Tensor:
    """float32 [steps]: the factor of the correction at each Euler step; see `guided`."""
    limit = float(steps) if beta is None else beta
    return torch.tensor([guidance_factor(i / steps, limit) for i in range(steps)])


def _chosen(layer: CategoryLinear, category: int) -> tuple[Tensor, Tensor]:
    """Weight [out,in] and bias [out] of one embodiment; views."""
    return layer.W.detach()[category].T, layer.b.detach()[category]


def _out(source: Attention) -> Dense:
    return dense_of(source.to_out[0])  # type: ignore[arg-type]
