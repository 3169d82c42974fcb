"""Layers with one set of weights per embodiment, chosen per sample by `embodiment_id`."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class CategoryLinear(nn.Module):
    """x[b] @ W[category[b]] + b[category[b]]. The parameters are called `W` [E,in,out] and `b` [E,out], as NVIDIA's."""

    def __init__(self, categories: int, in_features: int, out_features: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(categories, in_features, out_features) / math.sqrt(in_features))
        self.b = nn.Parameter(torch.zeros(categories, out_features))

    def forward(self, x: Tensor, category: Tensor) -> Tensor:
        """x [B,T,in], category int64 [B] -> [B,T,out]."""
        return torch.bmm(x, self.W[category]) + self.b[category][:, None, :]


class CategoryMLP(nn.Module):
    """Two `CategoryLinear` with a ReLU between: the state encoder and the action decoder."""

    def __init__(self, categories: int, in_features: int, hidden: int, out_features: int) -> None:
        super().__init__()
        self.layer1 = CategoryLinear(categories, in_features, hidden)
        self.layer2 = CategoryLinear(categories, hidden, out_features)

    def forward(self, x: Tensor, category: Tensor) -> Tensor:
        """x [B,T,in], category int64 [B] -> [B,T,out]."""
        return self.layer2(functional.relu(self.layer1(x, category)), category)


def action_time_embedding(timestep: Tensor, dim: int) -> Tensor:
    """Integer times [B] -> float32 [B,dim]: sin, then cos, of t * 10000^(-k/(dim/2)) (spec 3.4)."""
    half = dim // 2
    exponent = -torch.arange(half, device=timestep.device, dtype=torch.float32) * (math.log(10000.0) / half)
    angles = timestep.float()[:, None] * exponent.exp()
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


class ActionEncoder(nn.Module):
    """Noisy actions and their time -> one token per step: W3 silu(W2 [W1 a ; time])."""

    def __init__(self, categories: int, action_dim: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.W1 = CategoryLinear(categories, action_dim, hidden)
        self.W2 = CategoryLinear(categories, 2 * hidden, hidden)
        self.W3 = CategoryLinear(categories, hidden, hidden)

    def forward(self, actions: Tensor, timestep: Tensor, category: Tensor) -> Tensor:
        """actions [B,H,A], timestep int64 [B], category int64 [B] -> [B,H,hidden]."""
        tokens = self.W1(actions, category)
        time = action_time_embedding(timestep, self.hidden).to(tokens.dtype)
        time = time[:, None, :].expand(-1, actions.shape[1], -1)
        return self.W3(functional.silu(self.W2(torch.cat((tokens, time), dim=-1), category)), category)
