"""``control`` and ``gate`` of one robot's YAML: how its commands are paced, and what may reach it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from groot_ros.embodiment.strict import NotNegativeFloat, PositiveFloat, Strict

Chunking = Literal["guided", "native", "blend", "ensemble", "naive", "sync"]
PrefixSchedule = Literal["cosine", "exponential"]
Interpolation = Literal["cubic", "linear", "step"]
Rest = Literal["hold", "zero"]
ClampOrStop = Literal["clamp", "stop"]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


class Control(Strict):
    """How commands are paced, and how one chunk follows another."""

    rate_hz: PositiveFloat = Field(default=50.0, description="Control ticks per second (Hz); step_hz or more.")
    chunking: Chunking = Field(
        default="guided",
        description="How a chunk takes over from the one before. guided: the model is led along what will still be "
        "executed; native: N1.7's own way of doing so; blend: fade from one to the other; ensemble: mean of all chunks "
        "that cover a step; naive: switch; sync: execute a chunk, stop, infer.",
    )
    prefix_schedule: PrefixSchedule = Field(
        default="cosine",
        description="guided only: how the pull towards the chunk before fades over what is left of it. cosine: the "
        "first free row is still led; exponential: as published (arXiv 2506.07339), lets go earlier.",
    )
    blend_in_s: NotNegativeFloat = Field(
        default=0.5,
        description="After a start the motion from where the robot stands to the chunk grows over this time (s); "
        "0: at once.",
    )


class GateRules(Strict):
    """What happens to a command or an observation outside what is allowed: changed, refused, or the robot stops."""

    position: ClampOrStop = Field(default="clamp", description="A target outside the limits or bounds.")
    velocity: ClampOrStop = Field(default="clamp", description="A motion faster than the velocity limit.")
    acceleration: ClampOrStop = Field(default="clamp", description="A motion above the acceleration limit.")
    start_jump: ClampOrStop = Field(
        default="stop",
        description="The first target after a start, further away than start_jump_share: stop, or go there within the "
        "limits (clamp).",
    )
    start_jump_share: Share = Field(
        default=0.25, description="How far the first target may be, as a share (0 to 1) of the joint's range."
    )
    training_range: Literal["refuse", "stop", "off"] = Field(
        default="refuse",
        description="A state outside the range of the checkpoint's training data: infer nothing from it (refuse), stop "
        "the robot, or do not look (off).",
    )
    training_slack: NotNegativeFloat = Field(
        default=0.5,
        description="How far a state may lie beyond either end of that range, as a share of the range's width.",
    )

    @field_validator("training_range", mode="before")
    @classmethod
    def _bare_off(cls, said: Any) -> Any:
        """YAML 1.1 reads a bare ``off`` as false."""
        return "off" if said is False else said
