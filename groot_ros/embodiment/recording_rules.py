"""Rules about where recorded actions come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from groot_ros.embodiment import vocabulary
from groot_ros.embodiment.problems import Path, Problem, one_of, unknown

if TYPE_CHECKING:
    from groot_ros.embodiment import recording_schema, schema


def sources(
    recording: recording_schema.Recording,
    action: Mapping[str, schema.ActionKey],
    state: Mapping[str, schema.StateKey],
) -> Iterator[Problem]:
    """Every key named is an action key, once, and its source can say it."""
    for key, stream in recording.commands.items():
        path: Path = ("recording", "commands", key)
        if key not in action:
            yield unknown(path, "action", key, action)
        else:
            yield from _carries(path, stream, action[key])
    for i, key in enumerate(recording.next_state):
        path = ("recording", "next_state", i)
        if key not in action:
            yield unknown(path, "action", key, action)
        elif key in recording.commands:
            yield Problem(path, "a key with one source", f"{key!r}, in commands too", "remove it from one of the two")
        elif state_of(action[key], state) is None:
            yield Problem(
                path,
                "an action key with a state key of the same joints or fields and the same orientation",
                f"{key!r} with {', '.join(action[key].names)}",
                "add such a state key, or name the topic that commands it under commands",
            )


def state_of(entry: schema.ActionKey, state: Mapping[str, schema.StateKey]) -> str | None:
    """The state key that measures what an action key commands; None: there is none."""
    for name, candidate in state.items():
        same_numbers = candidate.names == entry.names and (not candidate.joints or candidate.field == "position")
        turned_alike = candidate.tool_rotation == entry.tool_rotation and candidate.euler_reading == entry.euler_reading
        if same_numbers and turned_alike:
            return name
    return None


def _carries(path: Path, stream: recording_schema.CommandStream, entry: schema.ActionKey) -> Iterator[Problem]:
    names = stream.names or entry.names
    if len(names) != len(entry.names):
        yield Problem(
            (*path, "names"), f"{len(entry.names)} names, one per number of the key", f"{len(names)}", "list them all"
        )
    if entry.joints is not None and stream.type not in vocabulary.JOINT_COMMANDS:
        yield Problem(
            (*path, "type"),
            f"one of {one_of(vocabulary.JOINT_COMMANDS)}, as the key has joints",
            stream.type,
            "correct it",
        )
    elif entry.fields is not None:
        bad = [name for name in names if not vocabulary.is_command_path(name, stream.type)]
        if bad:
            yield Problem((*path, "names"), f"numbers of {stream.type}", ", ".join(bad), "correct names or type")
