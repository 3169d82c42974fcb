"""What a robot's YAML lacks before anything may be commanded: limits, and where a motion starts."""

from __future__ import annotations

from collections.abc import Iterator

from groot_ros.embodiment.motion import interpolation, measured_key, rests_at_zero
from groot_ros.embodiment.problems import Path, Problem, closest, one_of
from groot_ros.embodiment.schema import Embodiment, Output
from groot_ros.embodiment.vocabulary import FLOAT_ARRAY, ORIENTATIONS, POSE_STAMPED, orientation_form, pose_part


def find_problems(embodiment: Embodiment) -> Iterator[Problem]:
    """Everything that keeps the robot from being commanded; nothing when it may move."""
    yield from _joints(embodiment)
    yield from _fields(embodiment)
    for name, output in embodiment.outputs.items():
        if output.type == FLOAT_ARRAY:
            yield from _array(embodiment, name, output)
        elif output.type == POSE_STAMPED:
            yield from _pose(embodiment, name, output)


def _joints(embodiment: Embodiment) -> Iterator[Problem]:
    """A commanded joint has an acceleration, and is measured, so that a motion starts where it stands."""
    measured = [joint for key in embodiment.state.values() if key.field == "position" for joint in key.joints or ()]
    for key, entry in embodiment.action.items():
        for i, joint in enumerate(entry.commanded_joints):
            place: Path = ("action", key, "joints", i)
            if embodiment.limits[joint].acceleration is None:
                # A joint that has its limits from a URDF has no line of its own under limits.
                written = embodiment.source is None or ("limits", joint) in embodiment.source.key_lines
                yield Problem(
                    ("limits", joint) if written else place,
                    f"an acceleration of joint {joint!r} (rad/s^2 or m/s^2)",
                    "none",
                    f"add acceleration to limits.{joint}: without it no stop can be planned",
                    on_key=written,
                )
            if joint not in measured:
                near = closest(joint, measured)
                yield Problem(
                    place,
                    f"a joint whose position a state key holds ({one_of(measured)})",
                    f"{joint!r}, which none does",
                    f"did you mean {near!r}?" if near else "add it to a state key: a motion starts where the joint is",
                )


def _fields(embodiment: Embodiment) -> Iterator[Problem]:
    """A commanded field has a highest change per second, unless it jumps on purpose."""
    of_poses = {key for output in embodiment.outputs.values() if output.type == POSE_STAMPED for key in output.keys}
    for key, entry in embodiment.action.items():
        if entry.fields is None or not entry.command or interpolation(embodiment, key) == "step":
            continue
        if key in of_poses and rests_at_zero(embodiment, key):
            continue  # refused as what it is: _pose
        if entry.bounds is None or entry.bounds.velocity is None:
            yield Problem(
                ("action", key, "bounds"),
                f"velocity, the highest change per second of {one_of(entry.fields)}",
                "none",
                "add velocity: [...] to bounds in ROS units per s, one per field, or interpolation: step to the key if "
                "it is a switch",
            )


def _array(embodiment: Embodiment, name: str, output: Output) -> Iterator[Problem]:
    """An array is joints in order, or fields data.0 ... without a hole."""
    of_joints = [key for key in output.keys if embodiment.action[key].joints is not None]
    of_fields = [key for key in output.keys if embodiment.action[key].fields is not None]
    path: Path = ("outputs", name, "keys")
    if of_joints and of_fields:
        yield Problem(
            path,
            "keys with joints, or keys with fields, in one array",
            f"both ({one_of(of_joints)} with joints, {one_of(of_fields)} with fields)",
            "carry them on two outputs",
        )
        return
    numbers = {int(field.removeprefix("data.")) for key in of_fields for field in embodiment.action[key].fields or ()}
    holes = sorted(set(range(max(numbers, default=-1) + 1)) - numbers)
    if holes:
        yield Problem(
            path,
            f"fields data.0 to data.{max(numbers)} without a hole",
            f"none that is {one_of([f'data.{hole}' for hole in holes])}",
            "number the fields of these keys from 0, or add the key that says the rest",
        )


def _pose(embodiment: Embodiment, name: str, output: Output) -> Iterator[Problem]:
    """A pose has a position, one orientation in one way of writing it, and a measured pose to start from."""
    path: Path = ("outputs", name, "keys")
    owner = {
        part: key
        for key in output.keys
        for part in map(pose_part, embodiment.action[key].fields or ())
        if part is not None
    }
    missing = [part for part in ("position.x", "position.y", "position.z") if part not in owner]
    if missing:
        yield Problem(
            path,
            "a whole position, pose.position.x, y and z",
            f"no {one_of([f'pose.{part}' for part in missing])}",
            "add the fields to an action key of this output: what is not commanded has no place in the message",
        )
    turned = {part: key for part, key in owner.items() if orientation_form(part)}
    forms = {orientation_form(part) for part in turned}
    whole = len(forms) == 1 and set(turned) == set(ORIENTATIONS[str(next(iter(forms)))])
    if not whole or len(set(turned.values())) != 1:
        yield Problem(
            path,
            "one whole orientation in one key: pose.roll, pitch, yaw; pose.rotvec.x, y, z; pose.rot6d.0 to 5; or "
            "pose.orientation.x, y, z, w",
            one_of([f"pose.{part} in action.{key}" for part, key in turned.items()]),
            "list the fields of one of these in one action key of this output",
        )
    for key in output.keys:
        if rests_at_zero(embodiment, key):
            said = embodiment.action[key].at_rest is not None
            yield Problem(
                ("action", key, "at_rest") if said else ("action", key, "unit"),
                "numbers of a pose, which a stop holds",
                "increments (at_rest: zero)" if said else f"a speed ({embodiment.action[key].unit})",
                "command a pose, or carry increments on an output of type TwistStamped",
            )
        elif measured_key(embodiment, key) is None:
            yield Problem(
                ("action", key, "fields"),
                "a state key with the same fields in the same order, from which a motion starts",
                "none",
                f"add one for {one_of(embodiment.action[key].fields or ())}, or name it under representation.state_key",
            )
