"""Joint limits from a URDF, for the numbers that the YAML does not give.

URDF: <limit lower upper velocity> of a joint, rad and rad/s (revolute, continuous) or m and m/s (prismatic); it has no
accelerations (http://wiki.ros.org/urdf/XML/joint).
"""

from __future__ import annotations

import math
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from groot_ros.embodiment.problems import Path as KeyPath
from groot_ros.embodiment.problems import Problem, closest, one_of

_NUMBERS = ("lower", "upper", "velocity")
_MOVING = ("revolute", "prismatic", "continuous")
_PACKAGE = "package://"


def filled(data: Mapping[str, Any], folder: Path) -> tuple[dict[str, Any], list[Problem]]:
    """The sections of a robot with ``limits`` filled from the file that ``urdf`` names, and what it cannot give.

    Asked for: every joint of ``action`` and of ``limits``. Joints of ``state`` alone get what the URDF has.

    Args:
        data: the sections as they are written; what is malformed in them is left for the schema to refuse.
        folder: where the YAML file is; a relative path of ``urdf`` starts there.
    """
    said = data.get("urdf")
    limits = data.get("limits") if "limits" in data else {}
    if not isinstance(said, str) or not said or not isinstance(limits, Mapping):
        return dict(data), []
    try:
        file = _find(said, folder)
        joints = _joints(file)
    except _UrdfError as error:
        return dict(data), [Problem(("urdf",), error.expected, error.found, error.do)]
    result: dict[Any, Any] = dict(limits)
    problems = []
    for joint, place, needed in _asked(data, limits):
        given = result.get(joint, {})
        lacking = [name for name in _NUMBERS if isinstance(given, Mapping) and name not in given]
        if not lacking:
            continue
        numbers, faults = _limit(joints, joint, lacking, place, file)
        if not faults:
            result[joint] = {**given, **numbers}
        elif needed:
            problems += faults
    return {**data, "limits": result}, problems


class _UrdfError(ValueError):
    """A URDF that cannot be read; the attributes are those of a Problem."""

    def __init__(self, expected: str, found: str, do: str) -> None:
        super().__init__(f"expected {expected}, found {found}, {do}")
        self.expected, self.found, self.do = expected, found, do


def _asked(data: Mapping[str, Any], limits: Mapping[Any, Any]) -> Iterator[tuple[str, KeyPath, bool]]:
    """Joint, where the YAML names it, and whether it must have limits; each joint once."""
    seen: set[str] = set()
    for joint in limits:
        if isinstance(joint, str):
            seen.add(joint)
            yield joint, ("limits", joint), True
    for section in ("action", "state"):
        entries = data.get(section)
        for key, entry in entries.items() if isinstance(entries, Mapping) else ():
            names = entry.get("joints") if isinstance(entry, Mapping) else None
            for i, joint in enumerate(names if isinstance(names, list) else ()):
                if isinstance(joint, str) and joint not in seen:
                    seen.add(joint)
                    yield joint, (section, key, "joints", i), section == "action"


def _find(said: str, folder: Path) -> Path:
    """The file that ``said`` means. Raises: _UrdfError that says where it was looked for."""
    if not said.startswith(_PACKAGE):
        path = folder / Path(said).expanduser()
        if path.is_file():
            return path
        do = "correct the path; a relative one starts in the folder of this YAML file"
        raise _UrdfError("an existing URDF file", f"{path}, which is none", do)
    package, _, rest = said.removeprefix(_PACKAGE).partition("/")
    prefixes = [Path(entry) for entry in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if entry]
    for prefix in prefixes:
        path = prefix / "share" / package / rest
        if path.is_file():
            return path
    looked = one_of([str(prefix / "share" / package) for prefix in prefixes])
    do = "correct it, or source the workspace that has the package (AMENT_PREFIX_PATH)"
    raise _UrdfError("an existing URDF file package://PKG/PATH", f"{said!r}, which is not in {looked}", do)


def _joints(file: Path) -> dict[str, ElementTree.Element]:
    """Joint name -> element. Raises: _UrdfError."""
    try:
        root = ElementTree.parse(file).getroot()
    except ElementTree.ParseError as error:
        raise _UrdfError(f"XML in {file}", f"{error}", "correct the file") from error
    except (OSError, UnicodeError, LookupError) as error:
        raise _UrdfError(f"a readable file {file}", f"{error}", "correct the file, or the path") from error
    if root.tag != "robot":
        raise _UrdfError(f"a URDF with <robot> at its root in {file}", f"<{root.tag}>", "name the robot's URDF")
    if any("xacro" in element.tag for element in root.iter()):
        do = "expand it (`xacro FILE > robot.urdf`) and name the result"
        raise _UrdfError(f"a plain URDF in {file}", "xacro", do)
    return {str(element.get("name")): element for element in root.iter("joint") if element.find("parent") is not None}


def _limit(
    joints: Mapping[str, ElementTree.Element], joint: str, lacking: list[str], place: KeyPath, file: Path
) -> tuple[dict[str, float], list[Problem]]:
    """The numbers that ``lacking`` names, and what is wrong with them."""
    missing = f"{' and '.join(lacking)} of joint {joint!r}"
    by_hand = f"write {' and '.join(lacking)} under limits.{joint}"
    element = joints.get(joint)
    if element is None:
        near = closest(joint, joints)
        hint = f"did you mean {near!r}? Else " if near else ""
        return {}, [Problem(place, f"{missing} in {file}", "no such joint", f"{hint}{by_hand}")]
    kind = str(element.get("type"))
    if kind not in _MOVING:
        do = f"correct the name, or {by_hand}"
        return {}, [Problem(place, f"{missing} in {file}", f"a joint of type {kind}", do)]
    said = element.find("limit")
    attributes = said.attrib if said is not None else {}
    numbers, problems = {}, []
    for name in lacking:
        text = attributes.get(name)
        ends = kind == "continuous" and name != "velocity"
        number = _number(text)
        if ends or text is None:
            found = f"a {kind} joint, whose <limit> has none"
        elif number is None or (name == "velocity" and number <= 0.0):
            found = repr(text)
        else:
            numbers[name] = number
            continue
        what = "a velocity above 0" if name == "velocity" else f"a finite {name}"
        problems.append(
            Problem(place, f"{what} of joint {joint!r} in {file}", found, f"write {name} under limits.{joint}")
        )
    return numbers, problems


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
