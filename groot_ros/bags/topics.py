"""Which topics of a robot belong in a bag, under which names, and the message definitions to write and read them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from rosbags.typesys import Stores, get_typestore

from groot_ros.embodiment.schema import Camera, Embodiment, StateStream

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

INSTRUCTION_TOPIC = "/groot_policy/instruction"
INSTRUCTION = "instruction"
COMMAND_PREFIX = "command:"
RECORD_PREFIX = "record:"
# What happened to the episode, by the recorder: one JSON object per message, see ``groot_ros.dataset.bag_events``.
EVENTS_TOPIC = "/groot_recorder/episode_events"


class BagError(RuntimeError):
    """A bag cannot be written or read; the message names the path, the topic and what to do."""


@dataclass(frozen=True)
class Topic:
    """One topic of a bag.

    Attributes:
        name: topic name.
        type: message type, ``package/msg/Name``.
        source: stream name of the YAML, ``instruction``, ``command:`` and the output's name, or ``record:``
            and the action key that another topic commands while a person demonstrates.
        required: a bag without it cannot be replayed.
    """

    name: str
    type: str
    source: str
    required: bool = True


def bag_topics(embodiment: Embodiment) -> dict[str, Topic]:
    """Topic name -> topic: every camera and state stream, and, where a bag has them, instruction and commands.

    A topic with several sources has the first one of ``bag_sources`` here.
    """
    topics: dict[str, Topic] = {}
    for topic in bag_sources(embodiment):
        topics.setdefault(topic.name, topic)
    return topics


def bag_sources(embodiment: Embodiment) -> list[Topic]:
    """All of ``bag_topics``, a topic once for each of its sources: a leader arm may be a state and a command."""
    streams: dict[str, Camera | StateStream] = {**embodiment.cameras, **embodiment.state_streams}
    topics = [Topic(absolute(stream.topic), stream.type, name) for name, stream in streams.items()]
    topics.append(Topic(INSTRUCTION_TOPIC, "std_msgs/msg/String", INSTRUCTION, required=False))
    commands = {
        **{f"{COMMAND_PREFIX}{name}": (output.topic, output.type) for name, output in embodiment.outputs.items()},
        **{f"{RECORD_PREFIX}{key}": (told.topic, told.type) for key, told in embodiment.recording.commands.items()},
    }
    topics += [Topic(absolute(topic), kind, source, required=False) for source, (topic, kind) in commands.items()]
    return topics


def absolute(topic: str) -> str:
    """The name that a bag has for a topic of the YAML, for nodes without a namespace."""
    return topic if topic.startswith("/") else f"/{topic}"


@cache
def typestore() -> Typestore:
    """Definitions of ROS 2's message packages, equal in Humble, Jazzy and Kilted for the types used here."""
    return get_typestore(Stores.ROS2_JAZZY)


def deserialize(data: bytes | memoryview, kind: str) -> tuple[Any, int]:
    """Return the message of type ``kind`` at the start of ``data`` (CDR), and how many bytes it takes.

    What follows it is left alone: Fast DDS's ``serialize_message`` hands out up to 30 % more bytes than the message
    has, and so bags exist with such tails.

    Raises:
        ValueError: the bytes are no such message.
    """
    if len(data) < 4 or bytes(data[:2]) not in (b"\x00\x00", b"\x00\x01"):
        raise ValueError("it does not begin as CDR does")
    store = typestore()
    definition = store.get_msgdef(kind)
    read = definition.deserialize_cdr_le if data[1] else definition.deserialize_cdr_be
    try:
        message, size = read(data[4:], 0, definition.cls, store)
    except Exception as error:  # struct.error, UnicodeDecodeError, rosbags' own
        raise ValueError(str(error)) from error
    if size + 4 > len(data):
        raise ValueError(f"it needs {size + 4} bytes, but there are {len(data)}")
    return message, size + 4
