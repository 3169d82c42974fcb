"""Rules of an embodiment that span fields. Each finds all its problems; none stops at the first."""

from __future__ import annotations

import difflib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from groot_ros.embodiment import vocabulary

if TYPE_CHECKING:
    from groot_ros.embodiment import schema

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """One thing wrong with an embodiment.

    Attributes:
        path: keys and list indices from the root of the YAML to the value.
        expected: what the value should be.
        found: what it is.
        do: what to change.
        on_key: the name itself is wrong, not its value: report the line of the key.
    """

    path: Path
    expected: str
    found: str
    do: str
    on_key: bool = False

    def __str__(self) -> str:
        place = ".".join(map(str, self.path)) or "(top)"
        return f"{place}: expected {self.expected}, found {self.found}, {self.do}"


class RuleError(ValueError):
    """Problems that ``find_problems`` found."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def closest(name: str, names: Iterable[str]) -> str | None:
    """The known name that a misspelt one most resembles, if any does."""
    matches = difflib.get_close_matches(name, list(names), n=1)
    return matches[0] if matches else None


def one_of(names: Iterable[str]) -> str:
    """Names for a message, in the order given."""
    return ", ".join(names) or "(none)"


def _unknown(path: Path, what: str, name: str, names: Iterable[str]) -> Problem:
    names = list(names)
    near = closest(name, names)
    do = f"did you mean {near!r}?" if near else f"name one of these or add {name!r} to {what}"
    return Problem(path, f"a name from {what} ({one_of(names)})", repr(name), do)


def _rate_and_age(
    cameras: Mapping[str, schema.Camera], state_streams: Mapping[str, schema.StateStream]
) -> Iterator[Problem]:
    for section, streams in (("cameras", cameras), ("state_streams", state_streams)):
        for name, stream in streams.items():
            period_s = 1.0 / stream.rate_hz
            if stream.max_age_s <= period_s:
                yield Problem(
                    (section, name, "max_age_s"),
                    f"more than one period of the stream, {period_s:.4g} s at rate_hz {stream.rate_hz:g}",
                    f"{stream.max_age_s:g}",
                    "raise max_age_s to 2 or 3 periods or correct rate_hz",
                )
    for name in state_streams:
        if name in cameras:
            yield Problem(
                ("state_streams", name),
                "a name that no camera has",
                repr(name),
                "rename the stream",
                on_key=True,
            )


def _spread(
    cameras: Mapping[str, schema.Camera], state_streams: Mapping[str, schema.StateStream], sync: schema.Sync
) -> Iterator[Problem]:
    rates = {name: camera.rate_hz for name, camera in cameras.items()}
    rates |= {name: stream.rate_hz for name, stream in state_streams.items()}
    slowest = min(rates, key=lambda name: rates[name])
    period_s = 1.0 / rates[slowest]
    if sync.max_spread_s <= period_s:
        yield Problem(
            ("sync", "max_spread_s"),
            f"more than the period of the slowest stream, {period_s:.4g} s ({slowest})",
            f"{sync.max_spread_s:g}",
            "raise it: streams that do not trigger together differ by up to that period",
        )


def _encodings(cameras: Mapping[str, schema.Camera]) -> Iterator[Problem]:
    for name, camera in cameras.items():
        compressed = camera.type.endswith("CompressedImage")
        allowed = vocabulary.COMPRESSIONS if compressed else vocabulary.IMAGE_ENCODINGS
        for i, encoding in enumerate(camera.encodings):
            if encoding not in allowed:
                kind = "a compression" if compressed else "an 8-bit encoding with a known channel order"
                near = closest(encoding, allowed)
                yield Problem(
                    ("cameras", name, "encodings", i),
                    f"{kind} ({one_of(allowed)})",
                    repr(encoding),
                    f"did you mean {near!r}?" if near else "set the driver to publish one of these and name it here",
                )


def _topics(
    cameras: Mapping[str, schema.Camera],
    state_streams: Mapping[str, schema.StateStream],
    outputs: Mapping[str, schema.Output],
) -> Iterator[Problem]:
    first: dict[str, str] = {}
    for section, entries in (("cameras", cameras), ("state_streams", state_streams), ("outputs", outputs)):
        for name, entry in entries.items():
            here = f"{section}.{name}"
            before = first.setdefault(entry.topic, here)
            if before != here:
                yield Problem(
                    (section, name, "topic"),
                    "a topic of its own",
                    f"{entry.topic}, already used by {before}",
                    "correct the topic (several keys may share one stream)",
                )


def _video(video: Mapping[str, schema.VideoKey], cameras: Mapping[str, schema.Camera]) -> Iterator[Problem]:
    for key, entry in video.items():
        if entry.camera not in cameras:
            yield _unknown(("video", key, "camera"), "cameras", entry.camera, cameras)
    used = {entry.camera for entry in video.values()}
    for name in cameras:
        if name not in used:
            yield Problem(
                ("cameras", name),
                "a camera that a video key names",
                "none that does",
                f"point a key of video at {name!r} or remove the camera",
                on_key=True,
            )


def _state(state: Mapping[str, schema.StateKey], state_streams: Mapping[str, schema.StateStream]) -> Iterator[Problem]:
    for key, entry in state.items():
        stream = state_streams.get(entry.stream)
        if stream is None:
            yield _unknown(("state", key, "stream"), "state_streams", entry.stream, state_streams)
        elif stream.type == vocabulary.JOINT_STATE:
            yield from _state_of_joints(key, entry)
        else:
            yield from _state_of_fields(key, entry, stream.type)
    used = {entry.stream for entry in state.values()}
    for name in state_streams:
        if name not in used:
            yield Problem(
                ("state_streams", name),
                "a stream that a state key names",
                "none that does",
                f"point a key of state at {name!r} or remove the stream",
                on_key=True,
            )


def _state_of_joints(key: str, entry: schema.StateKey) -> Iterator[Problem]:
    if entry.fields is not None:
        yield Problem(
            ("state", key, "fields"),
            "joints, for a stream of type JointState",
            "fields",
            "list joint names under joints",
        )
    elif entry.joints is None:
        yield Problem(("state", key), "joints, for a stream of type JointState", "none", "list the joint names")
    units = vocabulary.UNITS_OF_FIELD[entry.field]
    if entry.unit not in units:
        yield Problem(
            ("state", key, "unit"),
            f"a unit of {entry.field} ({one_of(units)})",
            repr(entry.unit),
            "correct unit or field",
        )


def _state_of_fields(key: str, entry: schema.StateKey, message_type: str) -> Iterator[Problem]:
    known = vocabulary.FIELD_PATHS[message_type]
    if entry.joints is not None:
        yield Problem(
            ("state", key, "joints"),
            f"fields, for a stream of type {message_type}",
            "joints",
            f"list field paths under fields, such as {known[0]}",
        )
    elif entry.fields is None:
        yield Problem(
            ("state", key),
            f"fields, for a stream of type {message_type}",
            "none",
            f"list field paths, such as {known[0]}",
        )
    if entry.field != "position":
        yield Problem(
            ("state", key, "field"),
            "no field for this type of stream",
            repr(entry.field),
            "remove it; fields says it all",
        )
    if entry.unit in vocabulary.PERCENT_UNITS:
        yield Problem(
            ("state", key, "unit"),
            "a unit that needs no joint limits",
            repr(entry.unit),
            "choose another unit",
        )
    for i, path in enumerate(entry.fields or []):
        if path not in known:
            near = closest(path, known)
            yield Problem(
                ("state", key, "fields", i),
                f"a number of {message_type}",
                repr(path),
                f"did you mean {near!r}?" if near else f"choose from {one_of(known)}",
            )


def _vectors(state: Mapping[str, schema.StateKey], action: Mapping[str, schema.ActionKey]) -> Iterator[Problem]:
    entries: list[tuple[str, str, schema.StateKey | schema.ActionKey]]
    entries = [("state", k, e) for k, e in state.items()] + [("action", k, e) for k, e in action.items()]
    for section, key, entry in entries:
        names = entry.names
        for attribute in ("sign", "offset"):
            values = getattr(entry, attribute)
            if values is not None and len(values) != len(names):
                yield Problem(
                    (section, key, attribute),
                    f"{len(names)} numbers, one per joint or field",
                    f"{len(values)}",
                    "give one per name, in the same order",
                )
        if entry.unit in vocabulary.PERCENT_UNITS and entry.offset is not None:
            yield Problem(
                (section, key, "offset"),
                f"no offset with unit {entry.unit}",
                f"{entry.offset}",
                "remove it and set the joint's limits: they are the ends of the scale",
            )
        for name, count in Counter(names).items():
            if count > 1:
                kind = "fields" if name not in (getattr(entry, "joints", None) or []) else "joints"
                last = len(names) - 1 - names[::-1].index(name)
                yield Problem(
                    (section, key, kind, last),
                    "each name once",
                    f"{name!r} {count} times",
                    "remove the repeat",
                )


def _commands(action: Mapping[str, schema.ActionKey]) -> Iterator[Problem]:
    owner: dict[str, str] = {}
    units = vocabulary.UNITS_OF_FIELD["position"]
    for key, entry in action.items():
        if entry.unit not in units:
            yield Problem(
                ("action", key, "unit"),
                f"a unit of position ({one_of(units)})",
                repr(entry.unit),
                "correct the unit",
            )
        for i, joint in enumerate(entry.joints):
            before = owner.setdefault(joint, key)
            if before != key:
                yield Problem(
                    ("action", key, "joints", i),
                    "a joint that no other action key commands",
                    f"{joint!r}, commanded by action.{before}",
                    "remove it from one of the two",
                )


def _action_limits(
    action: Mapping[str, schema.ActionKey], limits: Mapping[str, schema.JointLimit]
) -> Iterator[Problem]:
    for key, entry in action.items():
        for i, joint in enumerate(entry.joints):
            if joint not in limits:
                yield _no_limit(("action", key, "joints", i), joint, limits)


def _percent_limits(state: Mapping[str, schema.StateKey], limits: Mapping[str, schema.JointLimit]) -> Iterator[Problem]:
    for key, entry in state.items():
        if entry.unit in vocabulary.PERCENT_UNITS:
            for i, joint in enumerate(entry.joints or []):
                if joint not in limits:
                    yield _no_limit(("state", key, "joints", i), joint, limits, f" (unit {entry.unit} needs them)")


def _no_limit(path: Path, joint: str, limits: Mapping[str, schema.JointLimit], why: str = "") -> Problem:
    near = closest(joint, limits)
    hint = f" (limits has {near!r}: one of the two may be misspelt)" if near else ""
    return Problem(path, f"a joint with limits{why}", f"{joint!r}, which has none", f"add limits.{joint}{hint}")


def _bounds(limits: Mapping[str, schema.JointLimit]) -> Iterator[Problem]:
    for joint, limit in limits.items():
        if not limit.lower < limit.upper:
            yield Problem(
                ("limits", joint, "lower"),
                f"less than upper ({limit.upper:g})",
                f"{limit.lower:g}",
                "swap or correct the two",
            )


def _outputs(outputs: Mapping[str, schema.Output], action: Mapping[str, schema.ActionKey]) -> Iterator[Problem]:
    owner: dict[str, str] = {}
    for name, output in outputs.items():
        for i, key in enumerate(output.keys):
            path: Path = ("outputs", name, "keys", i)
            if key not in action:
                yield _unknown(path, "action", key, action)
            elif key in owner:
                yield Problem(
                    path,
                    "an action key that no other output carries",
                    f"{key!r}, carried by outputs.{owner[key]}",
                    "remove it from one of the two",
                )
            owner.setdefault(key, name)
    for key in action:
        if key not in owner:
            yield Problem(
                ("action", key),
                "an output that carries this key",
                "none",
                f"add {key!r} to the keys of an output: its joints would never be commanded",
                on_key=True,
            )


def _deltas(delta_indices: schema.DeltaIndices) -> Iterator[Problem]:
    for name in ("video", "state"):
        steps: list[int] = getattr(delta_indices, name)
        ascending = all(a < b for a, b in itertools.pairwise(steps))
        if not ascending or steps[-1] != 0:
            yield Problem(
                ("delta_indices", name),
                "steps of the past in ascending order, the last one 0 (now)",
                f"{steps}",
                "list them as [-15, 0] or [0]",
            )
    action = delta_indices.action
    if action != list(range(len(action))):
        shown = f"{action}" if len(action) <= 20 else f"[{', '.join(map(str, action[:20]))}, ...]"
        yield Problem(
            ("delta_indices", "action"),
            "0, 1, 2, ... without gaps, because point i of a chunk is due (i + 1) / step_hz after its stamp",
            shown,
            "list every step up to the horizon; a checkpoint with another spacing cannot be run",
        )


# The sections that a rule reads, and the rule: it runs when all of them are well formed.
_RULES: tuple[tuple[tuple[str, ...], Callable[..., Iterator[Problem]]], ...] = (
    (("cameras", "state_streams"), _rate_and_age),
    (("cameras", "state_streams", "sync"), _spread),
    (("cameras",), _encodings),
    (("cameras", "state_streams", "outputs"), _topics),
    (("video", "cameras"), _video),
    (("state", "state_streams"), _state),
    (("state", "action"), _vectors),
    (("action",), _commands),
    (("action", "limits"), _action_limits),
    (("state", "limits"), _percent_limits),
    (("limits",), _bounds),
    (("outputs", "action"), _outputs),
    (("delta_indices",), _deltas),
)


def find_problems(sections: Mapping[str, Any]) -> list[Problem]:
    """All problems across ``sections`` (top-level key -> parsed value), each well formed by itself.

    A rule that reads a section which is not given is left out, so that one malformed section does not hide
    the problems of the others.
    """
    return [
        problem
        for needs, rule in _RULES
        if all(section in sections for section in needs)
        for problem in rule(*(sections[section] for section in needs))
    ]
