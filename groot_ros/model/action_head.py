"""The action head: flow-matching loss, Euler sampler, in-painting of a previous chunk.

Sources: spec groot_n17.md, 3.2-3.7, and groot_n15_n16.md, 3.1, 3.4-3.6. The three generations are one head; `FLOW`
and the config have what differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from groot_ros.model.backbone import BackboneOutput
from groot_ros.model.config import ModelConfig
from groot_ros.model.dit import DiT, SelfAttentionStack
from groot_ros.model.embodiment_layers import ActionEncoder, CategoryMLP
from groot_ros.model.guidance import Guidance, integrate, ramp_strength


@dataclass(frozen=True)
class FlowRules:
    """What the training objective of a generation has in its code and not in its config."""

    time: Callable[[Tensor, float], Tensor]
    """A draw of the Beta distribution and `noise_s` -> continuous time."""
    loss_epsilon: float
    """Added to the number of unmasked values that the loss is divided by."""
    mask_token: bool
    """A dropped state becomes a learned token, in `eval` mode too; else zeros, in training only."""


FLOW: dict[str, FlowRules] = {
    "n1d7": FlowRules(lambda s, noise_s: (1 - s) * noise_s, 1e-6, mask_token=False),
    "n1d6": FlowRules(lambda s, noise_s: (1 - s) * noise_s, 1e-6, mask_token=True),
    # From just below 0 to 1; the integer time truncates towards 0.
    "n1d5": FlowRules(lambda s, noise_s: (noise_s - s) / noise_s, 0.0, mask_token=False),
}


@dataclass(frozen=True)
class RtcOptions:
    """In-painting of the previous chunk into the start of the next one (N1.7's own real-time chunking)."""

    prev_action: Tensor
    """The previous chunk, normalised and padded, [B,H,A]."""
    action_horizon: int
    """Its number of real steps; the overlap is taken from their end."""
    overlap_steps: int
    """How many of its last steps start the new chunk."""
    frozen_steps: int
    """How many of those come out unchanged."""
    ramp_rate: float = 6.0
    """How fast the velocity grows from 0 to 1 between frozen and overlap."""


@dataclass
class Conditioning:
    """What stays the same over the Euler steps: the features the DiT looks at and which of them are text or image."""

    context: Tensor
    """[B,L,D]."""
    text_mask: Tensor
    """bool [B,L]."""
    image_mask: Tensor
    """bool [B,L]."""

    def repeated(self, times: int) -> Conditioning:
        """Every sample `times` times in a row."""
        return Conditioning(
            self.context.repeat_interleave(times, dim=0),
            self.text_mask.repeat_interleave(times, dim=0),
            self.image_mask.repeat_interleave(times, dim=0),
        )


@dataclass
class LossOutput:
    """The training loss and what it is made of; B counts each noise draw of an observation."""

    loss: Tensor
    """Scalar: sum of `action_loss` over the sum of the mask."""
    action_loss: Tensor
    """[B,H,A], squared error of the velocity, 0 where the action mask is 0."""
    predicted_velocity: Tensor
    """[B,H,A]."""
    timestep: Tensor
    """int64 [B], the discretised time."""


def velocity_strength(horizon: int, overlap: int, frozen: int, rate: float) -> Tensor:
    """float32 [horizon]; see `ramp_strength`."""
    return torch.from_numpy(ramp_strength(horizon, frozen, overlap, rate))


class ActionHead(nn.Module):
    """State and noisy actions, conditioned on vision-language features -> velocity of the actions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.flow = FLOW[config.generation]
        width, context = config.input_embedding_dim, config.backbone_embedding_dim
        count, hidden = config.max_num_embodiments, config.hidden_size
        self.model = DiT(
            config.dit,
            context,
            text_every=config.attend_text_every_n_blocks if config.use_alternate_vl_dit else None,
        )
        self.state_encoder = CategoryMLP(count, config.max_state_dim * config.state_history_length, hidden, width)
        self.action_encoder = ActionEncoder(count, config.max_action_dim, width)
        self.action_decoder = CategoryMLP(count, hidden, hidden, config.max_action_dim)
        if config.num_target_vision_tokens:
            self.future_tokens = nn.Embedding(config.num_target_vision_tokens, width)
        if self.flow.mask_token and config.state_dropout_prob > 0:
            self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.vlln = nn.LayerNorm(context) if config.use_vlln else nn.Identity()
        refine = config.vl_self_attention
        self.vl_self_attention = SelfAttentionStack(refine) if refine is not None else nn.Identity()
        if config.add_pos_embed:
            self.position_embedding = nn.Embedding(config.max_seq_len, width)

    def condition(self, backbone: BackboneOutput) -> Conditioning:
        """Norm and refinement of the features, and the masks of the DiT's cross-attention. Once per chunk."""
        context = self.vl_self_attention(self.vlln(backbone.features))
        image_mask = backbone.image_mask & backbone.attention_mask
        return Conditioning(context, backbone.attention_mask & ~backbone.image_mask, image_mask)

    def encode_state(self, state: Tensor, embodiment_id: Tensor) -> Tensor:
        """state [B,history,S] -> one token [B,1,D]; the history is flattened into it."""
        return self.state_encoder(state.flatten(1)[:, None], embodiment_id)

    def velocity(
        self,
        actions: Tensor,
        timestep: Tensor,
        state_token: Tensor,
        conditioning: Conditioning,
        embodiment_id: Tensor,
    ) -> Tensor:
        """The network itself: actions [B,H,A] at integer time [B] -> their velocity [B,H,A]."""
        tokens = self.action_encoder(actions, timestep, embodiment_id)
        if self.config.add_pos_embed:
            tokens = tokens + self.position_embedding.weight[: tokens.shape[1]]
        before = [state_token]
        if self.config.num_target_vision_tokens:
            before.append(self.future_tokens.weight.expand(len(actions), -1, -1))
        tokens = torch.cat((*before, tokens), dim=1)
        context, text_mask, image_mask = conditioning.context, conditioning.text_mask, conditioning.image_mask
        out = self.model(tokens, context, timestep, text_mask, image_mask)
        return self.action_decoder(out, embodiment_id)[:, -actions.shape[1] :]

    def sample_time(self, batch: int, device: torch.device) -> Tensor:
        """Continuous training times, float32 [batch], from Beta(noise_beta_alpha, noise_beta_beta) and `noise_s`."""
        beta = torch.distributions.Beta(self.config.noise_beta_alpha, self.config.noise_beta_beta)
        return self.flow.time(beta.sample((batch,)), self.config.noise_s).to(device)

    def _drop_states(self, state_token: Tensor) -> Tensor:
        """Training's dropout of whole state tokens [B,1,D], and N1.6's noise on them."""
        probability = self.config.state_dropout_prob
        if probability > 0 and (self.training or self.flow.mask_token):
            dropped = torch.rand(len(state_token), 1, 1, device=state_token.device) < probability
            instead = self.mask_token if self.flow.mask_token else torch.zeros_like(state_token)
            state_token = torch.where(dropped, instead.to(state_token), state_token)
        scale = self.config.state_additive_noise_scale
        if self.training and scale > 0:
            state_token = state_token + scale * torch.randn_like(state_token)
        return state_token

    def loss(
        self, backbone: BackboneOutput, inputs: dict[str, Tensor], noise: Tensor | None = None, t: Tensor | None = None
    ) -> LossOutput:
        """Masked mean squared error of the velocity at x_t = (1-t) noise + t action; the target is action - noise.

        `inputs`, `noise` and `t` as for `GrootModel.loss`.
        """
        action, embodiment_id = inputs["action"], inputs["embodiment_id"]
        mask = inputs["action_mask"].to(action.dtype)
        state_token = self._drop_states(self.encode_state(inputs["state"], embodiment_id))
        conditioning = self.condition(backbone)
        if noise is not None and noise.ndim == 4:
            draws = noise.shape[1]
            action, mask, state_token, embodiment_id = (
                tensor.repeat_interleave(draws, dim=0) for tensor in (action, mask, state_token, embodiment_id)
            )
            conditioning = conditioning.repeated(draws)
            noise, t = noise.flatten(0, 1), None if t is None else t.flatten()
        noise = torch.randn_like(action) if noise is None else noise.to(action)
        t = self.sample_time(action.shape[0], action.device) if t is None else t.to(action.device)
        timestep = (t * self.config.num_timestep_buckets).long()
        mix = t.to(action.dtype)[:, None, None]
        predicted = self.velocity((1 - mix) * noise + mix * action, timestep, state_token, conditioning, embodiment_id)
        action_loss = (predicted - (action - noise)).square() * mask
        loss = action_loss.sum() / (mask.sum() + self.flow.loss_epsilon)
        return LossOutput(loss, action_loss, predicted, timestep)

    def sample(
        self,
        backbone: BackboneOutput,
        inputs: dict[str, Tensor],
        *,
        noise: Tensor | None = None,
        num_steps: int | None = None,
        rtc: RtcOptions | None = None,
        guidance: Guidance | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Euler integration from noise to actions [B,H,A] in `num_steps` equal steps; see `GrootModel.sample`."""
        config = self.config
        steps = config.num_inference_timesteps if num_steps is None else num_steps
        if steps < 1:
            raise ValueError(f"num_steps is {steps}, expected at least 1")
        if rtc is not None and guidance is not None:
            raise ValueError("rtc and guidance are two ways to continue the previous chunk: give one of them")
        features, embodiment_id = backbone.features, inputs["embodiment_id"]
        shape = (features.shape[0], config.action_horizon, config.max_action_dim)
        if noise is None:
            source = features.device if generator is None else generator.device
            noise = torch.randn(shape, generator=generator, device=source)
        elif tuple(noise.shape) != shape:
            raise ValueError(f"noise has shape {tuple(noise.shape)}, expected {shape}")
        actions = noise.to(features, copy=True)
        strength: Tensor | None = None
        if rtc is not None:
            actions, strength = inpainted(actions, rtc)
        if guidance is not None:
            guidance = checked_guidance(actions, guidance)
        conditioning = self.condition(backbone)
        state_token = self.encode_state(inputs["state"], embodiment_id)

        def velocity(current: Tensor, i: int) -> Tensor:
            time = int(i / steps * config.num_timestep_buckets)
            timestep = torch.full(shape[:1], time, device=features.device, dtype=torch.int64)
            return self.velocity(current, timestep, state_token, conditioning, embodiment_id)

        result: Tensor = integrate(velocity, actions, steps, guidance=guidance, strength=strength)
        return result


def inpainted(actions: Tensor, rtc: RtcOptions) -> tuple[Tensor, Tensor]:
    """`actions` [B,H,A] with the end of the previous chunk as their start, and the velocity strength [H,1].

    Raises:
        ValueError: options that do not fit to the actions or to each other; the message says which.
    """
    batch, horizon, dim = actions.shape
    previous = rtc.prev_action
    if previous.ndim != 3 or previous.shape[0] != batch or previous.shape[2] != dim:
        raise ValueError(f"rtc.prev_action has shape {tuple(previous.shape)}, expected ({batch}, steps, {dim})")
    if not 0 <= rtc.frozen_steps <= rtc.overlap_steps <= min(rtc.action_horizon, horizon):
        raise ValueError(
            "rtc: expected 0 <= frozen_steps <= overlap_steps <= action_horizon, and an overlap within the model's "
            f"{horizon} steps; found {rtc.frozen_steps}, {rtc.overlap_steps}, {rtc.action_horizon}"
        )
    if rtc.action_horizon > previous.shape[1]:
        raise ValueError(
            f"rtc.action_horizon is {rtc.action_horizon}, but rtc.prev_action holds {previous.shape[1]} steps"
        )
    if not rtc.ramp_rate > 0:
        raise ValueError(f"rtc.ramp_rate is {rtc.ramp_rate}, expected more than 0")
    end = previous[:, rtc.action_horizon - rtc.overlap_steps : rtc.action_horizon].to(actions)
    actions = torch.cat((end, actions[:, rtc.overlap_steps :]), dim=1)
    strength = velocity_strength(horizon, rtc.overlap_steps, rtc.frozen_steps, rtc.ramp_rate)
    return actions, strength[:, None].to(actions)


def checked_guidance(actions: Tensor, guidance: Guidance) -> Guidance:
    """`guidance` on the device and in the dtype of `actions` [B,H,A].

    Raises:
        ValueError: an array of another shape, or NaN or infinity in it.
    """
    previous, weights = torch.as_tensor(guidance.previous), torch.as_tensor(guidance.weights)
    batch, horizon, dim = actions.shape
    for name, tensor, shapes in (
        ("previous", previous, ((horizon, dim), (batch, horizon, dim))),
        ("weights", weights, ((horizon,), (horizon, dim))),
    ):
        if tuple(tensor.shape) not in shapes:
            expected = " or ".join(str(shape) for shape in shapes)
            raise ValueError(f"guidance.{name} has shape {tuple(tensor.shape)}, expected {expected}")
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"guidance.{name} holds NaN or infinity, expected finite numbers")
    return Guidance(previous.to(actions), weights.to(actions), guidance.beta)
