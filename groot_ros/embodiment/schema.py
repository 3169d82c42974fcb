"""Schema of one robot's YAML: what it publishes, how that maps to the model's keys, what it may be told.

This is the robot for one generation of the model; ``generations:`` of a file is merged before (``generations``).

ROS side: SI units and radians, matched by joint name or field path. Model side: the unit of the training
data. ``units.to_model`` and ``units.to_ros`` are the only place where the two meet. Every field's description
names its unit; rules that span fields are in ``rules``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PrivateAttr, model_validator

from groot_ros.embodiment import rules
from groot_ros.embodiment.control_schema import Control, GateRules, Interpolation, Rest
from groot_ros.embodiment.problems import RuleError
from groot_ros.embodiment.recording_schema import CommandType, Recording
from groot_ros.embodiment.strict import FiniteFloat, Name, Names, PositiveFloat, PositiveInt, Strict, Topic

if TYPE_CHECKING:
    from groot_ros.embodiment.yaml_lines import YamlFile

Unit = Literal[
    "rad",
    "deg",
    "m",
    "mm",
    "rad/s",
    "m/s",
    "N",
    "Nm",
    "percent",
    "signed_percent",
    "fraction",
    "signed_fraction",
    "unitless",
]
Generation = Literal["n1d5", "n1d6", "n1d7"]
Normalization = Literal["min_max", "mean_std", "sin_cos", "q99", "binary", "scale", "none"]
EulerReading = Literal["xyz_as_XYZ"]
Rotation = Literal["rotation_6d", "quaternion", "euler_angles_rpy", "axis_angle"]
Numbers = Annotated[list[FiniteFloat], Field(min_length=1)]
PositiveNumbers = Annotated[list[PositiveFloat], Field(min_length=1)]
Qos = Annotated[
    Literal["sensor_data", "reliable"],
    Field(description="Quality of service of the subscription: best effort (sensor_data) or reliable."),
]
CAMERA_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
STATE_TYPES = (
    "sensor_msgs/msg/JointState",
    "geometry_msgs/msg/PoseStamped",
    "geometry_msgs/msg/TwistStamped",
    "geometry_msgs/msg/WrenchStamped",
    "nav_msgs/msg/Odometry",
)


class Camera(Strict):
    """One image topic."""

    topic: Topic = Field(description="Topic name.")
    type: Literal["sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"] = Field(
        description="Message type of the topic."
    )
    encodings: list[Name] = Field(
        default_factory=lambda: ["rgb8", "bgr8"],
        min_length=1,
        description="Accepted values of the message's encoding (Image: rgb8, bgr8, rgba8, bgra8, mono8, "
        "yuv422, uyvy, yuv422_yuy2, yuyv; default rgb8, bgr8) or compression (CompressedImage: jpeg, png; "
        "default both).",
    )
    width: PositiveInt = Field(description="Width that the driver publishes (px); another width is refused.")
    height: PositiveInt = Field(description="Height that the driver publishes (px); another height is refused.")
    rate_hz: PositiveFloat = Field(description="Nominal rate (Hz); sizes the buffer.")
    max_age_s: PositiveFloat = Field(description="Oldest acceptable image (s, header stamp against the tick).")
    frozen_after_s: PositiveFloat | None = Field(
        default=1.0,
        description="A camera whose images stay bytewise identical for this long (s, by header stamps) is "
        "refused. null switches the check off: for a noiseless simulator that may stand still.",
    )
    qos: Qos = "sensor_data"

    @model_validator(mode="before")
    @classmethod
    def _default_encodings(cls, data: Any) -> Any:
        """A compressed topic without ``encodings`` accepts both compressions, not pixel encodings."""
        if isinstance(data, dict) and data.get("type") == CAMERA_TYPES[1] and "encodings" not in data:
            return {**data, "encodings": ["jpeg", "png"]}
        return data


class StateStream(Strict):
    """One topic with numbers: joint states, or another stamped message read by field path."""

    topic: Topic = Field(description="Topic name.")
    type: Literal[
        "sensor_msgs/msg/JointState",
        "geometry_msgs/msg/PoseStamped",
        "geometry_msgs/msg/TwistStamped",
        "geometry_msgs/msg/WrenchStamped",
        "nav_msgs/msg/Odometry",
    ] = Field(description="Message type of the topic.")
    rate_hz: PositiveFloat = Field(description="Nominal rate (Hz); sizes the buffer.")
    max_age_s: PositiveFloat = Field(description="Oldest acceptable sample (s, header stamp against the tick).")
    qos: Qos = "sensor_data"


class VideoKey(Strict):
    """A video key of the checkpoint and the camera that feeds it."""

    camera: Name = Field(description="Name of a camera of this file.")


class VectorKey(Strict):
    """Units and calibration shared by state and action keys.

    ``model = convert(unit, sign * ros + offset)``. ``percent`` (0..100), ``signed_percent`` (-100..100), ``fraction``
    (0..1) and ``signed_fraction`` (-1..1) are linear between ``limits.lower`` and ``limits.upper`` of the joint
    (``bounds`` of a field), downwards where ``sign`` is -1; they take no ``offset``.
    """

    unit: Unit = Field(
        default="rad",
        description="Unit of the training data. ROS side: rad for rad and deg, m for m and mm; percent, "
        "signed_percent, fraction and signed_fraction come from the joint's limits; the others are passed on as they "
        "are.",
    )
    sign: list[Literal[-1, 1]] | None = Field(
        default=None, description="Per joint or field: 1 as in ROS, -1 reversed; all 1 when left out."
    )
    offset: list[FiniteFloat] | None = Field(
        default=None,
        description="Per joint or field, in ROS units (rad, m), added after sign; all 0 when left out.",
    )
    tool_rotation: list[FiniteFloat] | None = Field(
        default=None,
        description="Quaternion [x, y, z, w] from the frame of the ROS pose to the frame of the training data: the "
        "model's orientation is that of the message times this (on the right). For fields that are an orientation.",
    )
    euler_reading: EulerReading | None = Field(
        default=None,
        description="xyz_as_XYZ: training data that took the angles about the fixed axes x, y, z for angles about the "
        "moving axes X, Y, Z; the orientation of the message is turned into that one, before tool_rotation. For fields "
        "that are an orientation.",
    )
    normalization: Normalization = Field(
        default="min_max",
        description="How the checkpoint normalises this key; q99, binary, scale and none exist in N1.5 only. Used "
        "where no checkpoint says it: for random checkpoints and for N1.5.",
    )
    target_rotation: Rotation | None = Field(
        default=None, description="N1.5 only: the form into which the checkpoint turns this key, which is a rotation."
    )


class StateKey(VectorKey):
    """A state key of the checkpoint: named joints of a JointState, field paths of another message, or constants."""

    stream: Name | None = Field(
        default=None, description="Name of a state stream of this file; left out for a constant key."
    )
    joints: Names | None = Field(
        default=None, description="Joint names in the model's order (stream of type JointState)."
    )
    field: Literal["position", "velocity", "effort"] = Field(
        default="position",
        description="Which array of the JointState is read (rad or m, rad/s or m/s, Nm or N).",
    )
    fields: Names | None = Field(
        default=None,
        description="Field paths in the model's order, such as pose.position.x (streams of the other types). A message "
        "with a pose also has roll, pitch, yaw, rotvec.x|y|z (rad) and rot6d.0..5 beside position and orientation.",
    )
    constant: Numbers | None = Field(
        default=None,
        description="Fixed numbers in the unit of the training data, for a padding key that no topic feeds.",
    )

    @property
    def names(self) -> list[str]:
        """Joints, field paths or ``constant.i``, one per dimension of the key."""
        if self.constant is not None:
            return [f"constant.{i}" for i in range(len(self.constant))]
        return self.joints or self.fields or []


class Bounds(Strict):
    """Range of commanded numbers that are not joints, in ROS units."""

    lower: Numbers = Field(description="Lowest value per field (ROS units).")
    upper: Numbers = Field(description="Highest value per field (ROS units).")
    velocity: PositiveNumbers | None = Field(
        default=None,
        description="Highest change per field (ROS units per s; each field of an orientation: of the turn, rad/s). "
        "Needed to command a field that is not interpolation: step.",
    )
    acceleration: PositiveNumbers | None = Field(
        default=None,
        description="Highest change of the velocity per field (ROS units per s^2; orientation: rad/s^2); not limited "
        "when left out.",
    )


class Representation(Strict):
    """How the checkpoint sees an action key; the words of its ``action_configs``."""

    rep: Literal["RELATIVE", "ABSOLUTE", "DELTA"] = Field(
        description="RELATIVE to the state, or ABSOLUTE; DELTA is handled as ABSOLUTE, as NVIDIA's processor does."
    )
    type: Literal["EEF", "NON_EEF"] = Field(
        default="NON_EEF", description="EEF: a pose, relative in SE(3); NON_EEF: numbers, relative by subtraction."
    )
    format: Literal["DEFAULT", "XYZ_ROT6D", "XYZ_ROTVEC"] = Field(
        default="DEFAULT", description="Layout of an EEF key: 16 numbers (a 4x4 matrix), 9 or 6."
    )
    state_key: Name | None = Field(
        default=None, description="State key that a RELATIVE key refers to; the one of the same name when left out."
    )


class ActionKey(VectorKey):
    """An action key of the checkpoint and what it commands: joints, or numbers of the output's message."""

    command: bool = Field(
        default=True,
        description="false: the model gives this key, but nobody is sent it; no output carries it.",
    )

    joints: Names | None = Field(default=None, description="Joint names in the model's order.")
    fields: Names | None = Field(
        default=None,
        description="Field paths of the output's message in the model's order, such as linear.x (Twist), "
        "pose.position.x (PoseStamped, with the derived numbers of a state's pose) or data.0 (Float64MultiArray).",
    )
    bounds: Bounds | None = Field(default=None, description="Range of each field; joints have theirs in limits.")
    representation: Representation | None = Field(
        default=None,
        description="How the checkpoint sees the key. Left out: N1.6 and N1.7 take several joints RELATIVE to the "
        "state key of the same name and joints, all else is ABSOLUTE.",
    )
    interpolation: Interpolation | None = Field(
        default=None,
        description="What is commanded between the steps of a chunk: a curve (cubic), straight lines (linear), or each "
        "value as it is (step). Left out: step for normalization binary, else cubic.",
    )
    at_rest: Rest | None = Field(
        default=None,
        description="What a stop commands: the value it has come to (hold), or 0, for a speed. Left out: zero on "
        "outputs of type Twist or TwistStamped and for units rad/s and m/s, else hold.",
    )

    @property
    def names(self) -> list[str]:
        """Joints or field paths, one per dimension of the key."""
        return self.joints or self.fields or []

    @property
    def commanded_joints(self) -> list[str]:
        """Joints that are sent commands: none for a key with fields, or with ``command: false``."""
        return (self.joints or []) if self.command else []


class DeltaIndices(Strict):
    """Steps relative to now, in units of ``1 / step_hz``; the checkpoint's modality config has the same."""

    video: Annotated[list[int], Field(min_length=1)] = Field(
        default_factory=lambda: [0],
        description="Steps of the video history, ascending, the last one 0 (now).",
    )
    state: Annotated[list[int], Field(min_length=1)] = Field(
        default_factory=lambda: [0],
        description="Steps of the state history, ascending, the last one 0 (now).",
    )
    action: Annotated[list[int], Field(min_length=1)] = Field(
        description="Steps of the action chunk: 0, 1, 2, ... one per point of the chunk."
    )


class JointLimit(Strict):
    """Bounds of one joint; all but ``acceleration`` may come from ``urdf``."""

    lower: FiniteFloat = Field(description="Lowest position (rad or m).")
    upper: FiniteFloat = Field(description="Highest position (rad or m).")
    velocity: PositiveFloat = Field(description="Highest speed (rad/s or m/s).")
    acceleration: PositiveFloat | None = Field(
        default=None, description="Highest acceleration (rad/s^2 or m/s^2); needed to command the joint."
    )


class Sync(Strict):
    """How far apart the samples of one observation may be, and how far a stamp may lie ahead of the clock."""

    max_spread_s: PositiveFloat = Field(
        default=0.1,
        description="Largest time (s) between the newest samples of the streams of one observation.",
    )
    max_future_s: PositiveFloat = Field(
        default=0.02, description="How far (s) a header stamp may lie ahead of the node's clock."
    )


class Output(Strict):
    """One command topic and the action keys whose joints or numbers it carries, in this order."""

    topic: Topic = Field(description="Topic name.")
    type: CommandType = Field(description="Message type of the topic.")
    keys: Annotated[list[Name], Field(min_length=1)] = Field(description="Action keys of this file.")
    frame_id: str = Field(default="", description="frame_id of the command's header.")


class Language(Strict):
    """The checkpoint's language key and an optional instruction for the start."""

    key: Name = Field(description="The checkpoint's language key.")
    default: Annotated[str, Field(pattern=r"\S")] | None = Field(
        default=None, description="Instruction until another one arrives; none when left out."
    )


class Embodiment(Strict):
    """One robot. Order of ``video``, ``state`` and ``action`` is the checkpoint's ``modality_keys`` order."""

    name: Name = Field(description="Name of the robot; names the file.")
    description: str = Field(default="", description="One line for people.")
    embodiment_tag: Name = Field(description="Embodiment tag of the checkpoint.")
    step_hz: PositiveFloat = Field(description="Model steps per second (Hz): the frame rate of the training data.")
    cameras: Annotated[dict[Name, Camera], Field(min_length=1)] = Field(description="Image topics by name.")
    scene_cameras: dict[Name, Camera] = Field(
        default_factory=dict,
        description="More image topics, which no policy and no recording uses: for evaluations that people look at.",
    )
    state_streams: Annotated[dict[Name, StateStream], Field(min_length=1)] = Field(description="State topics by name.")
    video: Annotated[dict[Name, VideoKey], Field(min_length=1)] = Field(description="Video keys.")
    state: Annotated[dict[Name, StateKey], Field(min_length=1)] = Field(description="State keys.")
    action: Annotated[dict[Name, ActionKey], Field(min_length=1)] = Field(description="Action keys.")
    language: Language = Field(description="Language key.")
    delta_indices: DeltaIndices = Field(description="History and horizon in steps.")
    limits: dict[Name, JointLimit] = Field(default_factory=dict, description="Bounds by joint name.")
    urdf: Name | None = Field(
        default=None,
        description="URDF whose <limit> gives lower, upper and velocity of joints for which limits does not: a path "
        "relative to the YAML file, absolute, or package://PKG/PATH. load_embodiment reads it.",
    )
    outputs: Annotated[dict[Name, Output], Field(min_length=1)] = Field(description="Command topics by name.")
    sync: Sync = Field(default_factory=Sync, description="Agreement of the streams' stamps.")
    control: Control = Field(default_factory=Control, description="Pace of the commands, and how chunks follow.")
    gate: GateRules = Field(default_factory=GateRules, description="What happens outside the limits.")
    recording: Recording = Field(default_factory=Recording, description="Where recorded actions come from.")
    generation: Generation | None = Field(
        default=None,
        description="Model generation that this is for; None: a file without generations holds for all. Set by "
        "load_embodiment, not written in the file.",
    )

    _source: YamlFile | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _check_rules(self) -> Embodiment:
        problems = rules.find_problems({name: getattr(self, name) for name in type(self).model_fields})
        if problems:
            raise RuleError(problems)
        return self

    @property
    def source(self) -> YamlFile | None:
        """The YAML file it was read from, with its line numbers; None when built in Python."""
        return self._source

    @property
    def streams(self) -> dict[str, Camera | StateStream]:
        """All topics that the robot publishes, by stream name: cameras, then state streams."""
        return {**self.cameras, **self.state_streams}

    @property
    def dt_s(self) -> float:
        """Length of one model step in seconds."""
        return 1.0 / self.step_hz

    @property
    def horizon(self) -> int:
        """Number of steps in one action chunk."""
        return len(self.delta_indices.action)

    @property
    def all_cameras(self) -> dict[str, Camera]:
        """``cameras``, then ``scene_cameras``."""
        return {**self.cameras, **self.scene_cameras}

    @property
    def action_joints(self) -> list[str]:
        """All commanded joints in the order of the action keys; keys that command fields or nothing have none."""
        return [joint for key in self.action.values() for joint in key.commanded_joints]
