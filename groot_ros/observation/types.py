"""What an assembled observation is, and what a refused one says."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from groot_ros.observation.images import Frame


class Reason(enum.Enum):
    """Why no observation exists for a tick. The value is the counter's name on ``~/status``."""

    MISSING_STREAM = "missing_stream"
    SHORT_HISTORY = "short_history"
    STALE = "stale"
    FUTURE_STAMP = "future_stamp"
    OUT_OF_ORDER = "out_of_order"
    SPREAD = "spread"
    NOT_FINITE = "not_finite"
    MISSING_JOINT = "missing_joint"
    DUPLICATE_JOINT = "duplicate_joint"
    MISSING_FIELD = "missing_field"
    WRONG_ENCODING = "wrong_encoding"
    WRONG_SIZE = "wrong_size"
    BAD_LAYOUT = "bad_layout"
    UNDECODABLE = "undecodable"
    FROZEN_CAMERA = "frozen_camera"
    EMPTY_INSTRUCTION = "empty_instruction"
    CLOCK_STOPPED = "clock_stopped"
    OUT_OF_TRAINING_RANGE = "out_of_training_range"
    # Of the recorder.
    SLOW_STREAM = "slow_stream"
    NO_COMMAND = "no_command"
    BAD_COMMAND = "bad_command"
    ENCODER_BEHIND = "encoder_behind"
    WRITER_FAILED = "writer_failed"
    CLOCK_JUMPED = "clock_jumped"
    RECORDER_ENDED = "recorder_ended"


@dataclass(frozen=True)
class Refusal:
    """One refused tick.

    Attributes:
        reason: the rule that refused.
        source: stream name of the YAML, or ``instruction``.
        message: one sentence: topic or key, expected, found, what to do.
    """

    reason: Reason
    source: str
    message: str


class Rejected(Exception):
    """Raised inside this package when a message or a tick is refused; ``Assembler`` returns its ``refusal``."""

    def __init__(self, reason: Reason, source: str, message: str) -> None:
        super().__init__(message)
        self.refusal = Refusal(reason, source, message)

    @classmethod
    def from_refusal(cls, refusal: Refusal) -> Rejected:
        """Raise an earlier refusal again."""
        return cls(refusal.reason, refusal.source, refusal.message)


@dataclass(frozen=True)
class Samples:
    """What a recorder keeps of one tick: pictures as they arrived, and states, without history.

    Attributes:
        frames: camera name of the YAML -> picture, not decoded.
        states: state key -> float32 [D] in model units.
        stamps_ns: stream name -> header stamp of the sample used.
    """

    frames: Mapping[str, Frame]
    states: Mapping[str, NDArray[np.float32]]
    stamps_ns: Mapping[str, int]


@dataclass(frozen=True)
class Observation:
    """Everything the policy sees for one tick, in the model's keys and units.

    Attributes:
        stamp_ns: header stamp of the newest required sample (ROS time).
        video: key -> uint8 [T, H, W, 3], RGB, T = len(delta_indices.video), oldest first as listed there.
        state: key -> float32 [T, D] in model units.
        instruction: task text, not empty.
        sample_stamps_ns: stream name -> header stamp of the sample used per delta index.
        ages_s: stream name -> time from the newest used sample's stamp to the tick for which it was assembled.
    """

    stamp_ns: int
    video: Mapping[str, NDArray[np.uint8]]
    state: Mapping[str, NDArray[np.float32]]
    instruction: str
    sample_stamps_ns: Mapping[str, tuple[int, ...]]
    ages_s: Mapping[str, float]
