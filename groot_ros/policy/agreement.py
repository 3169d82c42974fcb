"""Do a checkpoint's processor and its network belong together? Asked on loading, before the first inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from groot_ros.model.groot import GrootModel
    from groot_ros.processing.processor import Processor

COPY = "copy or download the checkpoint again"
TOKENIZER = "give the tokenizer that the checkpoint was trained with"
IDS = "give the id that the tag was trained with"


class DisagreementError(ValueError):
    """Processor and network of different sizes; the message has a line for each number."""


@dataclass(frozen=True)
class Check:
    """A number of the processor's that must be the network's, or with `most` not above it."""

    where: str
    key: str
    network: int
    processor: int
    most: bool = False
    fix: str = COPY

    @property
    def holds(self) -> bool:
        return self.processor <= self.network if self.most else self.processor == self.network

    @property
    def problem(self) -> str:
        wanted = f"at most {self.network}" if self.most else f"{self.network}"
        return f"{self.where}: expected {wanted}, by config.json's {self.key}; found {self.processor}; {self.fix}"


def check_processor_and_network(processor: Processor, model: GrootModel, checkpoint: str) -> None:
    """Compare every size and id that both files give.

    Raises:
        DisagreementError: file and key, what the network expects and what the processor has, for all that differ.
    """
    config, backbone, prompts = model.config, model.backbone, processor.prompts
    settings, tag = processor.settings_place, processor.embodiment_tag
    if processor.generation != config.generation:
        raise DisagreementError(
            f"{checkpoint}: the processor ({settings}) is of generation {processor.generation}, config.json is of "
            f"{config.generation}; {COPY}"
        )
    state, action = (
        f"{settings}.modality_configs.{tag}.{name}.delta_indices (their number)" for name in ("state", "action")
    )
    history = len(processor.modality["state"].delta_indices)
    image, token, last_token = prompts.image_token_id, prompts.highest_token_id, backbone.vocab_size - 1
    embodiment, last_embodiment = processor.embodiment_id, config.max_num_embodiments - 1
    checks = [
        Check(f"{settings}.max_state_dim", "max_state_dim", config.max_state_dim, processor.max_state_dim),
        Check(f"{settings}.max_action_dim", "max_action_dim", config.max_action_dim, processor.max_action_dim),
        Check(state, "state_history_length", config.state_history_length, history),
        Check(action, "action_horizon", config.action_horizon, processor.action_horizon, most=True),
        Check("patches per side of an image token", "merging", backbone.merge, processor.merge_size),
        Check("the tokenizer's id of the image token", "image token", backbone.image_token_id, image, fix=TOKENIZER),
        Check("the tokenizer's highest id", "vocabulary", last_token, token, most=True, fix=TOKENIZER),
        Check(f"embodiment_id.json: {tag}", "max_num_embodiments", last_embodiment, embodiment, most=True, fix=IDS),
    ]
    problems = [check.problem for check in checks if not check.holds]
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise DisagreementError(f"{checkpoint}: processor and network do not fit:{lines}")
