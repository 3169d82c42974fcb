"""Schema of one robot's YAML: what it publishes, how that maps to the model's keys, what it may be told.

ROS side: SI units and radians, matched by joint name or field path. Model side: the unit that the training data used.
``to_model`` and ``to_ros`` of a key are the only place where the two meet.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1)]
Topic = Annotated[str, Field(pattern=r"^(~/|/)?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*$")]
Unit = Literal["rad", "deg", "m", "mm", "rad/s", "m/s", "N", "Nm", "percent", "signed_percent", "unitless"]
CAMERA_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
STATE_TYPES = (
    "sensor_msgs/msg/JointState",
    "geometry_msgs/msg/PoseStamped",
    "geometry_msgs/msg/TwistStamped",
    "geometry_msgs/msg/WrenchStamped",
    "nav_msgs/msg/Odometry",
)


class Strict(BaseModel):
    """Unknown keys are errors: a misspelt limit must not be a missing limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Camera(Strict):
    """One image topic. ``width`` and ``height`` (px) are what the driver publishes; another size is refused."""

    topic: Topic
    type: Literal["sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"]
    encodings: list[Name] = Field(default_factory=lambda: ["rgb8", "bgr8"], min_length=1)
    width: Annotated[int, Field(gt=0)]
    height: Annotated[int, Field(gt=0)]
    rate_hz: PositiveFloat
    max_age_s: PositiveFloat
    frozen_after_s: PositiveFloat = 1.0
    qos: Literal["sensor_data", "reliable"] = "sensor_data"


class StateStream(Strict):
    """One topic with numbers: joint states, or a stamped message read by field path."""

    topic: Topic
    type: Literal[
        "sensor_msgs/msg/JointState",
        "geometry_msgs/msg/PoseStamped",
        "geometry_msgs/msg/TwistStamped",
        "geometry_msgs/msg/WrenchStamped",
        "nav_msgs/msg/Odometry",
    ]
    rate_hz: PositiveFloat
    max_age_s: PositiveFloat
    qos: Literal["sensor_data", "reliable"] = "sensor_data"


class VideoKey(Strict):
    """A video key of the checkpoint and the camera that feeds it."""

    camera: Name


class VectorKey(Strict):
    """Units and calibration shared by state and action keys.

    ``model = convert(unit, sign * ros + offset)``; ``offset`` in ROS units (rad, m). ``percent`` (0..100) and
    ``signed_percent`` (-100..100) are linear between ``limits.lower`` and ``limits.upper`` of the joint.
    """

    unit: Unit = "rad"
    sign: list[Literal[-1, 1]] | None = None
    offset: list[FiniteFloat] | None = None


class StateKey(VectorKey):
    """A state key of the checkpoint: named joints of a JointState, or field paths of another stamped message."""

    stream: Name
    joints: list[Name] | None = None
    field: Literal["position", "velocity", "effort"] = "position"
    fields: list[Name] | None = None


class ActionKey(VectorKey):
    """An action key of the checkpoint and the joints that it commands, in the model's order."""

    joints: Annotated[list[Name], Field(min_length=1)]


class DeltaIndices(Strict):
    """Steps relative to now, in units of ``1 / step_hz``; checked against the checkpoint's modality config."""

    video: list[int] = Field(default_factory=lambda: [0])
    state: list[int] = Field(default_factory=lambda: [0])
    action: list[int]


class JointLimit(Strict):
    """Bounds of one joint: rad (or m), rad/s, rad/s^2."""

    lower: FiniteFloat
    upper: FiniteFloat
    velocity: PositiveFloat
    acceleration: PositiveFloat | None = None


class Sync(Strict):
    """How far apart (s) the samples of one observation may be, and how far a stamp may lie ahead of the clock."""

    max_spread_s: PositiveFloat = 0.1
    max_future_s: PositiveFloat = 0.02


class Output(Strict):
    """One command topic and the action keys whose joints it carries, in this order."""

    topic: Topic
    type: Literal["trajectory_msgs/msg/JointTrajectory"]
    keys: Annotated[list[Name], Field(min_length=1)]
    frame_id: str = ""


class Language(Strict):
    """The checkpoint's language key and an optional instruction for the start."""

    key: Name
    default: str | None = None


class Embodiment(Strict):
    """One robot. Field order of ``state`` and ``action`` is the checkpoint's ``modality_keys`` order."""

    name: Name
    description: str = ""
    embodiment_tag: Name
    step_hz: PositiveFloat
    cameras: Annotated[dict[Name, Camera], Field(min_length=1)]
    state_streams: Annotated[dict[Name, StateStream], Field(min_length=1)]
    video: Annotated[dict[Name, VideoKey], Field(min_length=1)]
    state: Annotated[dict[Name, StateKey], Field(min_length=1)]
    action: Annotated[dict[Name, ActionKey], Field(min_length=1)]
    language: Language
    delta_indices: DeltaIndices
    limits: Annotated[dict[Name, JointLimit], Field(min_length=1)]
    outputs: Annotated[dict[Name, Output], Field(min_length=1)]
    sync: Sync = Sync()

    @property
    def dt_s(self) -> float:
        """Length of one model step in seconds."""
        return 1.0 / self.step_hz

    @property
    def horizon(self) -> int:
        """Number of steps in one action chunk."""
        return len(self.delta_indices.action)

    @property
    def action_joints(self) -> list[str]:
        """All commanded joints in the order of the action keys."""
        return [joint for key in self.action.values() for joint in key.joints]
