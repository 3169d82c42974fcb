"""``generations:`` of an embodiment YAML: which sections another generation of the model replaces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from groot_ros.embodiment.problems import Problem, closest, one_of
from groot_ros.embodiment.vocabulary import GENERATIONS

SECTION = "generations"
# Sections that a generation may replace as a whole.
REPLACEABLE = (
    *("embodiment_tag", "step_hz", "cameras", "state_streams", "sync", "video", "state", "action", "language"),
    *("delta_indices", "limits", "urdf", "outputs", "control", "gate", "recording"),
)
# What feeds the model: section of the keys, its attribute that names a source, section of the sources.
_SOURCES = (("video", "camera", "cameras"), ("state", "stream", "state_streams"))


def find_problems(data: Any) -> Iterator[Problem]:
    """What is wrong with the section itself; what it contains is judged once it is merged."""
    if not isinstance(data, Mapping) or SECTION not in data:
        return
    section = data[SECTION]
    if not isinstance(section, Mapping) or not section:
        found = repr(section) if not isinstance(section, Mapping) else "an empty one"
        yield Problem((SECTION,), f"a mapping with some of {one_of(GENERATIONS)}", found, "list them, or remove it")
        return
    for name, content in section.items():
        if name not in GENERATIONS:
            near = closest(str(name), GENERATIONS)
            do = f"did you mean {near!r}?" if near else "correct it"
            yield Problem((SECTION, name), f"one of {one_of(GENERATIONS)}", repr(name), do, on_key=True)
        if content is None:
            continue
        if not isinstance(content, Mapping):
            yield Problem(
                (SECTION, name), "a mapping of sections, or nothing", repr(content), "list the sections that differ"
            )
            continue
        for key in content:
            if key not in REPLACEABLE:
                near = closest(str(key), REPLACEABLE)
                do = f"did you mean {near!r}?" if near else "remove it"
                yield Problem(
                    (SECTION, name, key), f"one of {one_of(REPLACEABLE)}", f"unknown key {str(key)!r}", do, on_key=True
                )


def listed(data: Any) -> tuple[str, ...]:
    """The generations that a file lists, oldest first; empty: it has no such section and holds for every generation."""
    section = data.get(SECTION) if isinstance(data, Mapping) else None
    return tuple(name for name in GENERATIONS if name in section) if isinstance(section, Mapping) else ()


def merged(data: Mapping[str, Any], generation: str) -> tuple[dict[str, Any], dict[str, tuple[str, str, str]]]:
    """The sections for ``generation``, which the file lists, and where those that it replaces stand.

    A camera or stream of the shared sections that only other generations use is left out.
    """
    own = data[SECTION][generation] or {}
    result = {**{key: value for key, value in data.items() if key != SECTION}, **own}
    for keys, attribute, sources in _SOURCES:
        shared = result.get(sources)
        if sources in own or not isinstance(shared, Mapping):
            continue
        here = _named(result.get(keys), attribute)
        if not here <= set(shared):  # a misspelt name: its error is to list them all
            continue
        elsewhere: set[str] = set()
        for other in data[SECTION].values():
            elsewhere |= _named((other or {}).get(keys, data.get(keys)), attribute)
        result[sources] = {name: value for name, value in shared.items() if name in here or name not in elsewhere}
    return result, {name: (SECTION, generation, name) for name in own}


def _named(entries: Any, attribute: str) -> set[str]:
    """The sources that the entries of a section name, as far as it is well formed."""
    if not isinstance(entries, Mapping):
        return set()
    found = {entry.get(attribute) for entry in entries.values() if isinstance(entry, Mapping)}
    return {name for name in found if isinstance(name, str)}
