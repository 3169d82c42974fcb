"""Do a checkpoint's processor and its network belong together? Asked on loading, before the first inference."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from groot_ros.model.groot import GrootModel
    from groot_ros.processing.processor import Processor


class DisagreementError(ValueError):
    """Processor and network of different sizes; the message has a line for each number."""


def check_processor_and_network(processor: Processor, model: GrootModel, checkpoint: str) -> None:
    """Compare every size and id that both files give.

    Raises:
        DisagreementError: file and key, what the network expects and what the processor has, for all that differ.
    """
    config, backbone, prompts = model.config, model.backbone, processor.prompts
    settings = processor.settings_place
    equal = [
        (f"{settings}.max_state_dim", "max_state_dim", config.max_state_dim, processor.max_state_dim),
        (f"{settings}.max_action_dim", "max_action_dim", config.max_action_dim, processor.max_action_dim),
        (
            f"{settings}.modality_configs.{processor.embodiment_tag}.state.delta_indices (their number)",
            *("state_history_length", config.state_history_length, len(processor.modality["state"].delta_indices)),
        ),
        ("the tokenizer's id of the image token", "image token", backbone.image_token_id, prompts.image_token_id),
        ("patches per side of an image token", "merging", backbone.merge, processor.merge_size),
    ]
    problems = [
        f"{where}: expected {wanted}, as config.json's {key}; found {found}"
        for where, key, wanted, found in equal
        if wanted != found
    ]
    limits = [
        (
            f"{settings}.modality_configs.{processor.embodiment_tag}.action.delta_indices (their number)",
            *("action_horizon", config.action_horizon, processor.action_horizon),
        ),
        (
            f"embodiment_id.json: {processor.embodiment_tag}",
            *("max_num_embodiments", config.max_num_embodiments - 1, processor.embodiment_id),
        ),
        ("the tokenizer's highest id", "vocabulary", backbone.vocab_size - 1, prompts.highest_token_id),
    ]
    problems += [
        f"{where}: expected at most {most}, by config.json's {key}; found {found}"
        for where, key, most, found in limits
        if found > most
    ]
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise DisagreementError(
            f"{checkpoint}: processor and network are not of the same checkpoint:{lines}\nCopy or download it again, "
            "or give the tokenizer that it was trained with."
        )
