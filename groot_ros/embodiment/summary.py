"""``groot-ros embodiments``: which robots there are, and whether one is valid for each of its generations."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from groot_ros.embodiment.check import check_commandable
from groot_ros.embodiment.errors import EmbodimentError
from groot_ros.embodiment.load import (
    available_embodiments,
    dotted,
    embodiment_generations,
    load_embodiment,
    where,
)
from groot_ros.embodiment.problems import closest, one_of
from groot_ros.embodiment.schema import Embodiment
from groot_ros.embodiment.vocabulary import GENERATIONS
from groot_ros.processing.tags import EMBODIMENT_IDS

NEW_EMBODIMENT = "new_embodiment"


def list_lines() -> Iterator[str]:
    """A line per robot: name, a column per generation (``-``: not listed in its file), path."""
    for name, path in available_embodiments().items():
        try:
            listed = embodiment_generations(path) or GENERATIONS
            columns = " ".join(generation if generation in listed else f"{'-':4}" for generation in GENERATIONS)
        except EmbodimentError:
            columns = f"{'broken: check it':14}"
        yield f"{name:22} {columns}  {path}"


def check_lines(name_or_path: str | os.PathLike[str]) -> list[str]:
    """A line per generation that the file lists, or one for all; then notes: what keeps it from moving, foreign tags.

    Raises: EmbodimentError with the problems of all generations, each once.
    """
    generations = embodiment_generations(name_or_path) or (None,)
    robots, problems = [], []
    for generation in generations:
        try:
            robots.append(load_embodiment(name_or_path, generation))
        except EmbodimentError as error:
            problems += [line for line in error.lines if line not in problems]
    if problems:
        raise EmbodimentError(problems)
    unmoved = dict.fromkeys(line for robot in robots for line in _unmoved(robot))
    return [*map(_line, robots), *(f"note: {line}" for line in unmoved), *_notes_on_tags(robots)]


def _unmoved(robot: Embodiment) -> list[str]:
    """What keeps the robot from being commanded, a line each."""
    try:
        check_commandable(robot)
    except EmbodimentError as error:
        return error.lines
    return []


def _notes_on_tags(robots: Sequence[Embodiment]) -> Iterator[str]:
    """A tag of one's own is right for a checkpoint that was finetuned under it, but a misspelt one looks the same."""
    foreign: dict[str, list[Embodiment]] = {}
    for robot in robots:
        if robot.embodiment_tag.lower() not in _published(robot):
            foreign.setdefault(robot.embodiment_tag, []).append(robot)
    for tag, those in foreign.items():
        path = ("embodiment_tag",)
        near = closest(tag, sorted({known for robot in those for known in _published(robot)})) or NEW_EMBODIMENT
        others = f" or {NEW_EMBODIMENT!r}" if near != NEW_EMBODIMENT else ""
        asked = one_of([robot.generation for robot in those if robot.generation] or GENERATIONS)
        yield (
            f"note: {where(those[0], path)}: {dotted(those[0], path)}: {tag!r} is none of NVIDIA's tags for {asked}; "
            f"did you mean {near!r}{others}? It is right for a checkpoint that was finetuned under it"
        )


def _published(robot: Embodiment) -> set[str]:
    """NVIDIA's tags in the generations that the robot was loaded for."""
    generations = [robot.generation] if robot.generation else GENERATIONS
    return {tag for generation in generations for tag in EMBODIMENT_IDS[generation]}


def _line(robot: Embodiment) -> str:
    which = f" for {robot.generation}" if robot.generation else ""
    fields = sum(len(key.fields or []) for key in robot.action.values() if key.command)
    commanded = f"{len(robot.action_joints)} commanded joints" + (f" and {fields} numbers" if fields else "")
    note = "; only with dry_run:=true" if _unmoved(robot) else ""
    unsent = [key for key, entry in robot.action.items() if not entry.command]
    note += f"; given but not sent (command: false): {', '.join(unsent)}" if unsent else ""
    return (
        f"{robot.name}: valid{which}; {robot.embodiment_tag}, {len(robot.cameras)} cameras, "
        f"{commanded}, chunks of {robot.horizon} steps at {robot.step_hz:g} Hz{note}"
    )
