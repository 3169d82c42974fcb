"""Rules about state and action keys."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from groot_ros.embodiment import vocabulary
from groot_ros.embodiment.problems import Path, Problem, closest, one_of, unknown

if TYPE_CHECKING:
    from groot_ros.embodiment import schema

POSE_WIDTHS = {"XYZ_ROT6D": 9, "XYZ_ROTVEC": 6, "DEFAULT": 16}
N1D5_NORMALIZATIONS = ("q99", "binary", "scale", "none")
# What has no inverse cannot be the normalisation of an action.
ONE_WAY_NORMALIZATIONS = ("sin_cos", "scale")
_UNIT_QUANTITY = {"deg": "angle", "mm": "length"}
_UNIT_NORM_TOLERANCE = 1e-3


def state_sources(
    state: Mapping[str, schema.StateKey], state_streams: Mapping[str, schema.StateStream]
) -> Iterator[Problem]:
    """Every state key has one source, and names what its stream's messages contain."""
    for key, entry in state.items():
        if entry.constant is not None:
            yield from _constant(key, entry)
        elif entry.stream is None:
            yield Problem(
                ("state", key), "stream, or constant", "neither", f"name one of state_streams ({one_of(state_streams)})"
            )
        elif entry.stream not in state_streams:
            yield unknown(("state", key, "stream"), "state_streams", entry.stream, state_streams)
        elif state_streams[entry.stream].type == vocabulary.JOINT_STATE:
            yield from _state_of_joints(key, entry)
        else:
            yield from _state_of_fields(key, entry, state_streams[entry.stream].type)
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


def _constant(key: str, entry: schema.StateKey) -> Iterator[Problem]:
    for attribute in ("stream", "joints", "fields", "sign", "offset", "tool_rotation", "euler_reading"):
        value = getattr(entry, attribute)
        if value is not None:
            yield Problem(
                ("state", key, attribute),
                f"no {attribute} for a constant key",
                f"{value}",
                "remove it: the numbers of constant are in the unit of the training data; or remove constant",
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
    if entry.unit in vocabulary.SPAN_UNITS:
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


def _entries(
    state: Mapping[str, schema.StateKey], action: Mapping[str, schema.ActionKey]
) -> Iterator[tuple[str, str, schema.StateKey | schema.ActionKey]]:
    yield from (("state", key, entry) for key, entry in state.items())
    yield from (("action", key, entry) for key, entry in action.items())


def vectors(state: Mapping[str, schema.StateKey], action: Mapping[str, schema.ActionKey]) -> Iterator[Problem]:
    """One sign and offset per number, each number once, and units that its fields can have."""
    for section, key, entry in _entries(state, action):
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
        if entry.unit in vocabulary.SPAN_UNITS and entry.offset is not None:
            yield Problem(
                (section, key, "offset"),
                f"no offset with unit {entry.unit}",
                f"{entry.offset}",
                "remove it and set the joint's limits: they are the ends of the scale",
            )
        for name, count in Counter(names).items():
            if count > 1:
                kind = "fields" if name not in (entry.joints or []) else "joints"
                last = len(names) - 1 - names[::-1].index(name)
                yield Problem(
                    (section, key, kind, last),
                    "each name once",
                    f"{name!r} {count} times",
                    "remove the repeat",
                )
        wanted = _UNIT_QUANTITY.get(entry.unit)
        for path in (entry.fields or []) if wanted else []:
            if vocabulary.quantity(path) not in (wanted, "any"):
                text = "the unit as it is in ROS, or a key of its own for each quantity"
                yield Problem((section, key, "unit"), f"a unit that {path} can have", repr(entry.unit), f"write {text}")
                break


def rotations(state: Mapping[str, schema.StateKey], action: Mapping[str, schema.ActionKey]) -> Iterator[Problem]:
    """``tool_rotation``, a unit quaternion, and ``euler_reading`` turn an orientation."""
    for section, key, entry in _entries(state, action):
        turn = entry.tool_rotation
        if turn is not None and (len(turn) != 4 or abs(math.hypot(*turn) - 1.0) > _UNIT_NORM_TOLERANCE):
            yield Problem(
                (section, key, "tool_rotation"),
                "four numbers x, y, z, w of length 1",
                f"{turn}",
                "write a unit quaternion; no rotation is [0, 0, 0, 1]",
            )
        if any(vocabulary.orientation_leaf(name) for name in entry.fields or []):
            continue
        for attribute in ("tool_rotation", "euler_reading"):
            if getattr(entry, attribute) is not None:
                yield Problem(
                    (section, key, attribute),
                    "it at a key with an orientation among its fields",
                    "none there",
                    "remove it, or add the orientation's fields",
                )


def normalizations(
    state: Mapping[str, schema.StateKey], action: Mapping[str, schema.ActionKey], generation: str | None
) -> Iterator[Problem]:
    """What only N1.5 knows stands under its generation, and actions can be un-normalised."""
    for section, key, entry in _entries(state, action):
        mode, target = entry.normalization, entry.target_rotation
        path: Path = (section, key, "normalization")
        if mode in N1D5_NORMALIZATIONS and generation != "n1d5":
            yield Problem(
                path,
                f"min_max, mean_std or sin_cos ({_for(generation)})",
                repr(mode),
                "move this section under generations: n1d5, which alone has it",
            )
        if section == "action" and mode in ONE_WAY_NORMALIZATIONS:
            yield Problem(path, "a normalisation with an inverse", repr(mode), "choose another: an action is decoded")
        if target is None:
            continue
        if mode not in ("min_max", "none"):
            do = "remove it, or remove target_rotation: a rotation that is written in another way has a fixed range"
            yield Problem(path, "min_max or none beside target_rotation", repr(mode), do)
        path = (section, key, "target_rotation")
        if generation != "n1d5":
            yield Problem(path, f"none ({_for(generation)})", repr(target), "move this section under generations: n1d5")
        if vocabulary.rotation_type(entry.fields or []) is None:
            yield Problem(
                path,
                "it at a key whose fields are one whole rotation: orientation.w|x|y|z in this order, "
                "roll|pitch|yaw, rotvec.x|y|z or rot6d.0..5",
                one_of(entry.names),
                "list the rotation's fields in this order, or remove it",
            )


def _for(generation: str | None) -> str:
    return f"for {generation}" if generation else "for a file that holds for every generation"


def commands(action: Mapping[str, schema.ActionKey]) -> Iterator[Problem]:
    """An action key commands joints, or fields within bounds."""
    owner: dict[str, str] = {}
    for key, entry in action.items():
        if (entry.joints is None) == (entry.fields is None):
            found = "neither" if entry.joints is None else "both"
            yield Problem(("action", key), "joints, or fields", found, "list the joint names or the field paths")
        if entry.fields is not None:
            yield from _field_command(key, entry)
            continue
        units = vocabulary.UNITS_OF_FIELD["position"]
        if entry.unit not in units:
            yield Problem(
                ("action", key, "unit"),
                f"a unit of position ({one_of(units)})",
                repr(entry.unit),
                "correct the unit",
            )
        if entry.bounds is not None:
            yield Problem(
                ("action", key, "bounds"), "none for joints", "bounds", "write them under limits, by joint name"
            )
        for i, joint in enumerate(entry.commanded_joints):
            before = owner.setdefault(joint, key)
            if before != key:
                yield Problem(
                    ("action", key, "joints", i),
                    "a joint that no other action key commands",
                    f"{joint!r}, commanded by action.{before}",
                    "remove it from one of the two",
                )


def _field_command(key: str, entry: schema.ActionKey) -> Iterator[Problem]:
    if entry.bounds is None:
        yield Problem(
            ("action", key),
            "bounds of the fields",
            "none",
            "add bounds: {lower: [...], upper: [...]} in ROS units",
        )
        return
    lower, upper = entry.bounds.lower, entry.bounds.upper
    for name, values in (("lower", lower), ("upper", upper)):
        if len(values) != len(entry.names):
            yield Problem(
                ("action", key, "bounds", name),
                f"{len(entry.names)} numbers, one per field",
                f"{len(values)}",
                "give one per field, in the same order",
            )
    for i, (low, high) in enumerate(zip(lower, upper, strict=False)):
        if not low < high:
            yield Problem(
                ("action", key, "bounds", "lower", i),
                f"less than upper ({high:g})",
                f"{low:g}",
                "swap or correct the two",
            )


def action_limits(action: Mapping[str, schema.ActionKey], limits: Mapping[str, schema.JointLimit]) -> Iterator[Problem]:
    """Every joint of an action has limits."""
    for key, entry in action.items():
        for i, joint in enumerate(entry.joints or []):
            if joint not in limits:
                yield _no_limit(("action", key, "joints", i), joint, limits, "lower, upper, velocity and acceleration")


def span_limits(state: Mapping[str, schema.StateKey], limits: Mapping[str, schema.JointLimit]) -> Iterator[Problem]:
    """A unit that is a share of the joint's range needs that range."""
    for key, entry in state.items():
        if entry.unit in vocabulary.SPAN_UNITS:
            for i, joint in enumerate(entry.joints or []):
                if joint not in limits:
                    yield _no_limit(
                        ("state", key, "joints", i),
                        joint,
                        limits,
                        "lower and upper",
                        f" (unit {entry.unit} needs them)",
                    )


def _no_limit(path: Path, joint: str, limits: Mapping[str, schema.JointLimit], needed: str, why: str = "") -> Problem:
    near = closest(joint, limits)
    hint = f" (limits has {near!r}: one of the two may be misspelt)" if near else ""
    return Problem(
        path, f"a joint with limits{why}", f"{joint!r}, which has none", f"add limits.{joint} with {needed}{hint}"
    )


def representations(
    state: Mapping[str, schema.StateKey], action: Mapping[str, schema.ActionKey], generation: str | None
) -> Iterator[Problem]:
    """A relative key has a state to refer to, of its width and in its unit."""
    for key, entry in action.items():
        if entry.representation is None:
            continue
        path: Path = ("action", key, "representation")
        named = entry.representation.state_key
        if named is not None and named not in state:
            yield unknown((*path, "state_key"), "state", named, state)
            continue
        if entry.representation.rep != "RELATIVE":
            continue
        if generation == "n1d5":
            yield Problem(
                (*path, "rep"), "ABSOLUTE (n1d5 has no other)", "'RELATIVE'", "correct it, or remove representation"
            )
        yield from _relative(key, entry, entry.representation, state)


def _relative(
    key: str, entry: schema.ActionKey, said: schema.Representation, state: Mapping[str, schema.StateKey]
) -> Iterator[Problem]:
    path: Path = ("action", key, "representation")
    reference = said.state_key or key
    if reference not in state:
        yield Problem(path, f"a state key to refer to ({one_of(state)})", "no state_key", "name it under state_key")
        return
    width, theirs = len(entry.names), len(state[reference].names)
    if width != theirs:
        yield Problem(
            path,
            f"{width} numbers in state.{reference}, as in this key, which is relative to it",
            f"{theirs}",
            "correct state_key or the names of one of the two",
        )
    if said.type == "EEF" and width != POSE_WIDTHS[said.format]:
        yield Problem(
            path,
            f"{POSE_WIDTHS[said.format]} numbers for EEF format {said.format}",
            f"{width}",
            "correct format, or list the numbers of a pose",
        )
    if entry.unit != state[reference].unit:
        yield Problem(
            ("action", key, "unit"),
            f"the unit of state.{reference} ({state[reference].unit}), to which this key is relative",
            repr(entry.unit),
            "write the same unit in both",
        )
    for attribute in ("tool_rotation", "euler_reading"):
        ours, theirs_said = getattr(entry, attribute), getattr(state[reference], attribute)
        if ours != theirs_said:
            yield Problem(
                ("action", key, attribute) if ours is not None else ("action", key),
                f"the {attribute} of state.{reference} ({theirs_said or 'none'}), to which this key is relative",
                f"{ours or 'none'}",
                "write the same in both",
                on_key=ours is None,
            )
