"""What the evaluator reads from messages, and how it asks each kind of reset service. No decisions here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from groot_ros.closed_loop.evaluation.episode import ResetAnswer
from groot_ros.closed_loop.evaluation.judge import ChunkFacts, Counts, PolicyReport
from groot_ros.msg import ActionChunk, PolicyStatus
from groot_ros.policy.supervisor import State

_RESULT_OK = 1  # simulation_interfaces/msg/Result


@dataclass(frozen=True)
class Reset:
    """A type of reset service.

    Attributes:
        fill: puts seed and task into a request.
        read: what a response says.
        seeded: whether it takes a seed and a task.
    """

    fill: Callable[[Any, int, str], None]
    read: Callable[[Any], ResetAnswer]
    seeded: bool = False


def _fill_episode(request: Any, seed: int, task: str) -> None:
    request.seed, request.task = seed, task


def _fill_nothing(request: Any, seed: int, task: str) -> None:
    return None


RESETS: dict[str, Reset] = {
    "groot_ros/srv/ResetEpisode": Reset(
        _fill_episode, lambda answer: ResetAnswer(answer.success, answer.message, answer.instruction), seeded=True
    ),
    "std_srvs/srv/Trigger": Reset(_fill_nothing, lambda answer: ResetAnswer(answer.success, answer.message)),
    "std_srvs/srv/Empty": Reset(_fill_nothing, lambda answer: ResetAnswer(True)),
    # Isaac Sim 5 and Gazebo; a request as it is made resets all.
    "simulation_interfaces/srv/ResetSimulation": Reset(
        _fill_nothing,
        lambda answer: ResetAnswer(answer.result.result == _RESULT_OK, answer.result.error_message),
    ),
}


def policy_report(message: PolicyStatus) -> PolicyReport:
    """A status of the policy node; a chunk that was not executed is counted as that, and not as a refusal too."""
    rejected = dict(zip(message.rejected_reasons, map(int, message.rejected_counts), strict=True))
    refused = dict(zip(message.refusal_reasons, map(int, message.refusal_counts), strict=True))
    return PolicyReport(
        state=State(message.state),
        reason=message.reason,
        message=message.message,
        instruction=message.instruction,
        checkpoint=message.checkpoint,
        embodiment=message.embodiment,
        braking=message.braking,
        dry_run=message.dry_run,
        counts=Counts(
            chunks=int(message.chunks),
            refused={reason: count for reason, count in refused.items() if reason not in rejected},
            rejected=rejected,
            ticks=int(message.ticks_executed),
            ticks_missed=int(message.ticks_missed),
            stalled_ticks=int(message.stalled_ticks),
            handovers=int(message.handovers),
        ),
        jitter_p99_s=message.tick_jitter_p99_s,
        seam_ratio=message.seam_ratio,
    )


def chunk_facts(message: ActionChunk) -> ChunkFacts:
    """What is kept of a chunk."""
    return ChunkFacts(
        stages_s=dict(zip(message.stage_names, map(float, message.stage_s), strict=True)),
        age_s=float(message.age_at_publish_s),
        delay_ticks=int(message.delay_ticks),
        jump=float(message.handover_jump),
    )
