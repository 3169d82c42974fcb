"""``groot-ros embodiments``: which robots there are, and whether one is valid for each of its generations."""

from __future__ import annotations

import os
from collections.abc import Iterator

from groot_ros.embodiment.errors import EmbodimentError
from groot_ros.embodiment.load import available_embodiments, embodiment_generations, load_embodiment
from groot_ros.embodiment.schema import Embodiment
from groot_ros.embodiment.vocabulary import COMMANDED_TYPES, GENERATIONS


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
    """A line per generation that the file lists, or one for all.

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
    return [_line(robot) for robot in robots]


def _line(robot: Embodiment) -> str:
    which = f" for {robot.generation}" if robot.generation else ""
    fields = sum(len(key.fields or []) for key in robot.action.values() if key.command)
    commanded = f"{len(robot.action_joints)} commanded joints" + (f" and {fields} numbers" if fields else "")
    later = [name for name, output in robot.outputs.items() if output.type not in COMMANDED_TYPES]
    note = f"; not commanded yet (dry_run only): {', '.join(later)}" if later else ""
    unsent = [key for key, entry in robot.action.items() if not entry.command]
    note += f"; given but not sent (command: false): {', '.join(unsent)}" if unsent else ""
    return (
        f"{robot.name}: valid{which}; {robot.embodiment_tag}, {len(robot.cameras)} cameras, "
        f"{commanded}, chunks of {robot.horizon} steps at {robot.step_hz:g} Hz{note}"
    )
