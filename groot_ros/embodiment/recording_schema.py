"""``recording`` of one robot's YAML: where a demonstration's actions come from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from groot_ros.embodiment.strict import Name, Names, PositiveFloat, Strict, Topic

CommandType = Literal[
    "trajectory_msgs/msg/JointTrajectory",
    "sensor_msgs/msg/JointState",
    "std_msgs/msg/Float64MultiArray",
    "geometry_msgs/msg/Twist",
    "geometry_msgs/msg/TwistStamped",
    "geometry_msgs/msg/PoseStamped",
]


class CommandStream(Strict):
    """The topic that says what an action key is told while a person demonstrates, such as a leader arm's."""

    topic: Topic = Field(description="Topic name.")
    type: CommandType = Field(description="Message type of the topic.")
    names: Names | None = Field(
        default=None,
        description="Joint names or field paths on this topic in the order of the action key's; the key's own when "
        "left out.",
    )
    field: Literal["position", "velocity", "effort"] = Field(
        default="position", description="Which array of a JointState is read."
    )
    max_age_s: PositiveFloat = Field(
        default=0.5,
        description="How long a message is the command in force (s); a JointTrajectory is until the next one.",
    )


class Recording(Strict):
    """Where the recorder takes each action key from: the topic of the output that carries it, unless said here."""

    commands: dict[Name, CommandStream] = Field(
        default_factory=dict, description="Action keys that another topic commands, such as that of a leader arm."
    )
    next_state: list[Name] = Field(
        default_factory=list,
        description="Action keys that are recorded as the state one step later: where nobody publishes a command. Each "
        "needs a state key with the same joints or fields.",
    )
