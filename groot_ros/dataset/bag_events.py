"""What happened to an episode, as one text message per request: the recorder publishes them, bags keep them.

With them a bag of a live recording gives the episodes that were recorded. Other bags may have a Bool instead: one that
becomes true starts an episode, false saves it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from groot_ros.bags.read import Bag
from groot_ros.bags.topics import EVENTS_TOPIC, BagError

EventKind = Literal["start", "save", "discard", "pause", "resume", "intervention"]
KINDS: tuple[EventKind, ...] = ("start", "save", "discard", "pause", "resume", "intervention")
NO_EVENTS = "none"  # as the name of a topic: there are none, whatever the bag has
STRING, BOOL = "std_msgs/msg/String", "std_msgs/msg/Bool"
# An event cannot have happened long before it was published, or after.
_LONGEST_NS = 10_000_000_000


@dataclass(frozen=True)
class EpisodeEvent:
    """One request that was granted.

    Attributes:
        kind: what was asked for.
        stamp_ns: the time that the session was told (ROS time); 0: when the message was recorded.
        task: text of a start; empty: not said.
        on: of an intervention: begun or over.
    """

    kind: EventKind
    stamp_ns: int = 0
    task: str = ""
    on: bool = True

    def to_text(self) -> str:
        """JSON object for a String message."""
        content: dict[str, Any] = {"event": self.kind, "stamp_ns": self.stamp_ns}
        if self.kind == "start":
            content["task"] = self.task
        if self.kind == "intervention":
            content["on"] = self.on
        return json.dumps(content, ensure_ascii=False)

    @classmethod
    def from_text(cls, text: str) -> EpisodeEvent:
        """Inverse of ``to_text``. Raises: ValueError saying what is wrong."""
        try:
            content = json.loads(text)
        except ValueError as error:
            raise ValueError(f"expected a JSON object, found {text[:80]!r}") from error
        kind = content.get("event") if isinstance(content, dict) else None
        if kind not in KINDS:
            raise ValueError(f"expected an object with event {', '.join(KINDS)}, found {text[:80]!r}")
        stamp_ns, task, on = content.get("stamp_ns", 0), content.get("task", ""), content.get("on", True)
        if type(stamp_ns) is not int or not isinstance(task, str) or not isinstance(on, bool):
            raise ValueError(f"expected an integer stamp_ns, a text as task and a bool as on, found {text[:80]!r}")
        return cls(kind, stamp_ns, task, on)


def read_events(bag: Bag, topic: str | None = None) -> list[EpisodeEvent] | None:
    """All events of a bag by their time, each with its ``stamp_ns``.

    Args:
        bag: open.
        topic: String (JSON) or Bool; None: the recorder's own, if the bag has it; ``none``: not even those.

    Returns: None without ``topic`` and without the recorder's own.
    Raises: BagError when the topic named is not there, is of another type, or a message is no event.
    """
    if topic == NO_EVENTS:
        return None
    name = topic or EVENTS_TOPIC
    kind = bag.type_of(name)
    if kind is None:
        if topic is None:
            return None
        raise BagError(
            f"{bag.path}: expected episode events on {name}, found no message of it: name another topic, or leave it "
            "out to split by gaps"
        )
    if kind not in (STRING, BOOL):
        raise BagError(f"{bag.path}: {name}: expected {STRING} (JSON) or {BOOL} as episode events, found {kind}")
    messages = bag.read(name)
    if kind == BOOL:
        return _switched(messages)
    events = [_event(bag.path, name, message, log_ns) for log_ns, message in messages]
    return sorted(events, key=lambda event: event.stamp_ns)


def _switched(messages: Iterable[tuple[int, Any]]) -> list[EpisodeEvent]:
    """Changes of a Bool, which may be published again and again; false at the beginning is none."""
    events, on = [], False
    for log_ns, message in messages:
        if bool(message.data) != on:
            on = not on
            events.append(EpisodeEvent("start" if on else "save", log_ns))
    return events


def _event(path: Path, topic: str, message: Any, log_ns: int) -> EpisodeEvent:
    try:
        event = EpisodeEvent.from_text(str(message.data))
    except ValueError as error:
        raise BagError(f"{path}: {topic} at {log_ns} ns: {error}") from error
    if event.stamp_ns == 0:
        return EpisodeEvent(event.kind, log_ns, event.task, event.on)
    if not -_LONGEST_NS < event.stamp_ns - log_ns < _LONGEST_NS:
        raise BagError(
            f"{path}: {topic} at {log_ns} ns: expected a stamp_ns of that time, found {event.stamp_ns}: two clocks; "
            "record simulated time with `ros2 bag record --use-sim-time`"
        )
    return event
