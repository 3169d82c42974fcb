"""Rules about the outputs that carry the action keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from groot_ros.embodiment import vocabulary
from groot_ros.embodiment.problems import Path, Problem, closest, one_of, unknown

if TYPE_CHECKING:
    from groot_ros.embodiment import schema


def outputs(outputs: Mapping[str, schema.Output], action: Mapping[str, schema.ActionKey]) -> Iterator[Problem]:
    """Every action key is carried by one output, whose messages can carry it; one with ``command: false`` by none."""
    owner: dict[str, str] = {}
    for name, output in outputs.items():
        fields: dict[str, str] = {}
        for i, key in enumerate(output.keys):
            path: Path = ("outputs", name, "keys", i)
            if key not in action:
                yield _unknown_key(path, key, action)
            elif not action[key].command:
                yield Problem(
                    path,
                    "an action key that is commanded",
                    f"{key!r}, which says command: false",
                    "remove it from the output, or command: false from the key",
                )
            elif key in owner:
                yield Problem(
                    path,
                    "an action key that no other output carries",
                    f"{key!r}, carried by outputs.{owner[key]}",
                    "remove it from one of the two",
                )
            else:
                yield from _carried(name, output, i, key, action[key], fields)
            owner.setdefault(key, name)
    for key, entry in action.items():
        if entry.command and key not in owner:
            yield Problem(
                ("action", key),
                "an output that carries this key",
                "none",
                f"add {key!r} to the keys of an output, or write command: false: it would never be commanded",
                on_key=True,
            )


def _unknown_key(path: Path, key: str, action: Mapping[str, schema.ActionKey]) -> Problem:
    """An output's key that is no action key: misspelt, or the name of a joint."""
    problem = unknown(path, "action", key, action)
    owner = next((name for name, entry in action.items() if key in entry.names), None)
    if owner is None:
        return problem
    kind = "joint" if action[owner].joints else "field"
    return replace(problem, found=f"{key!r}, which is a {kind} of action.{owner}", do=f"name the key: {owner}")


def _carried(
    name: str, output: schema.Output, index: int, key: str, entry: schema.ActionKey, fields: dict[str, str]
) -> Iterator[Problem]:
    """Whether messages of the output can say the key; ``fields``: field path -> key that commands it already."""
    kind = output.type
    if entry.joints is not None and kind not in vocabulary.JOINT_COMMANDS:
        yield Problem(
            ("outputs", name, "keys", index),
            f"a key with fields, for an output of type {kind}",
            f"{key!r}, which has joints",
            f"carry it on an output of type {', '.join(vocabulary.JOINT_COMMANDS)}",
        )
    known = vocabulary.COMMAND_PATHS.get(kind)
    if entry.fields is not None and known is None:
        yield Problem(
            ("outputs", name, "keys", index),
            f"a key with joints, for an output of type {kind}",
            f"{key!r}, which has fields",
            f"carry it on an output of type {', '.join(vocabulary.COMMAND_PATHS)}",
        )
        return
    for i, path in enumerate(entry.fields or []):
        if not vocabulary.is_command_path(path, kind):
            near = closest(path, known or ())
            yield Problem(
                ("action", key, "fields", i),
                f"a number of {kind}, which outputs.{name} is",
                repr(path),
                f"did you mean {near!r}?" if near else f"choose from {one_of(known or ())}",
            )
        before = fields.setdefault(path, key)
        if before != key:
            yield Problem(
                ("action", key, "fields", i),
                f"a number of outputs.{name} that no other action key commands",
                f"{path!r}, commanded by action.{before}",
                "remove it from one of the two",
            )
