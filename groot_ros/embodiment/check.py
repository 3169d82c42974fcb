"""Does a robot's YAML fit a checkpoint? Asked before anything runs, so that no array is ever mislabelled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from groot_ros.embodiment import commandable
from groot_ros.embodiment.errors import EmbodimentError
from groot_ros.embodiment.generations import SECTION
from groot_ros.embodiment.load import dotted, where
from groot_ros.embodiment.problems import Path, closest, one_of
from groot_ros.embodiment.schema import Embodiment


class ModalityLike(Protocol):
    """One modality of a checkpoint's processor config."""

    @property
    def delta_indices(self) -> Sequence[int]: ...

    @property
    def modality_keys(self) -> Sequence[str]: ...


def check_against_checkpoint(
    embodiment: Embodiment,
    modality: Mapping[str, ModalityLike],
    state_dims: Mapping[str, int],
    action_dims: Mapping[str, int],
    checkpoint_name: str,
    available_tags: Iterable[str] | None = None,
) -> None:
    """Compare keys, their order, ``delta_indices`` and dimensions with those of a checkpoint.

    Args:
        modality: ``video``, ``state``, ``action``, ``language`` -> what the checkpoint was trained with.
        state_dims: state key -> numbers per step in the checkpoint's statistics; action_dims likewise.
        checkpoint_name: file or folder to name in messages.
        available_tags: embodiment tags that the checkpoint knows, where known.

    Raises: EmbodimentError with one line per difference.
    """
    differences: list[tuple[Path, bool, str]] = []
    tags = list(available_tags) if available_tags is not None else None
    if tags is not None and embodiment.embodiment_tag not in tags:
        near = closest(embodiment.embodiment_tag, tags)
        do = f"did you mean {near!r}?" if near else "name a tag of the checkpoint, or use a checkpoint of this robot"
        text = f"expected a tag of {checkpoint_name} ({one_of(tags)}), found {embodiment.embodiment_tag!r}, {do}"
        differences.append((("embodiment_tag",), False, text))
    for name, keys in (
        ("video", list(embodiment.video)),
        ("state", list(embodiment.state)),
        ("action", list(embodiment.action)),
        ("language", [embodiment.language.key]),
    ):
        theirs = modality.get(name)
        if theirs is None:
            text = f"expected {name!r} in {checkpoint_name}, found {one_of(modality)}, use another checkpoint"
            differences.append(((name,), False, text))
            continue
        differences += _keys(name, keys, list(theirs.modality_keys), checkpoint_name)
        if name != "language":
            ours: list[int] = getattr(embodiment.delta_indices, name)
            differences += _deltas(name, ours, list(theirs.delta_indices), checkpoint_name)
    for name, dims in (("state", state_dims), ("action", action_dims)):
        for key, entry in getattr(embodiment, name).items():
            if key in dims and dims[key] != len(entry.names):
                differences.append(_width_difference(name, key, entry.names, dims[key], checkpoint_name))
    _raise(embodiment, differences)


def check_generation(embodiment: Embodiment, generation: str, checkpoint_name: str) -> None:
    """Raise EmbodimentError when the robot was loaded for another generation than the checkpoint's."""
    if embodiment.generation not in (None, generation):
        path: Path = (SECTION, str(embodiment.generation))
        raise EmbodimentError(
            [
                f"{where(embodiment, path, on_key=True)}: {dotted(embodiment, path)}: expected the robot for "
                f"{generation}, which {checkpoint_name} is, found it for {embodiment.generation}, load it with "
                f"load_embodiment(name, {generation!r})"
            ]
        )


def check_against_metadata(embodiment: Embodiment, metadata: Mapping[str, Any], checkpoint_name: str) -> None:
    """Compare a robot with an N1.5 checkpoint, which says what was recorded but not which keys the model takes.

    The robot's keys must be among those of the training data, and its numbers as many.

    Args:
        metadata: tag -> ``statistics`` and ``modalities``, as in experiment_cfg/metadata.json.
        checkpoint_name: the file, to name in messages.

    Raises: EmbodimentError with one line per difference.
    """
    tag = embodiment.embodiment_tag
    own = metadata.get(next((name for name in metadata if name.lower() == tag.lower()), tag))
    if own is None:
        near = closest(tag, metadata)
        do = f"did you mean {near!r}?" if near else "name a tag of the checkpoint, or use a checkpoint of this robot"
        text = f"expected a tag of {checkpoint_name} ({one_of(metadata)}), found {tag!r}, {do}"
        _raise(embodiment, [(("embodiment_tag",), False, text)])
        return
    differences: list[tuple[Path, bool, str]] = []
    recorded = _section(_section(own, "modalities"), "video")
    for key in embodiment.video if recorded else ():
        differences += _recorded("video", key, recorded, checkpoint_name)
    for name in ("state", "action"):
        recorded = _section(_section(own, "statistics"), name)
        for key, entry in getattr(embodiment, name).items():
            differences += _recorded(name, key, recorded, checkpoint_name)
            width = _width(recorded.get(key))
            if width is not None and width != len(entry.names):
                differences.append(_width_difference(name, key, entry.names, width, checkpoint_name))
    _raise(embodiment, differences)


def _recorded(name: str, key: str, recorded: Mapping[str, Any], checkpoint: str) -> Iterator[tuple[Path, bool, str]]:
    if key not in recorded:
        near = closest(key, recorded)
        do = f"did you mean {near!r}?" if near else "rename or remove it"
        yield (name, key), True, f"expected a key of {checkpoint} ({one_of(recorded)}), found {key!r}, {do}"


def _section(data: Any, name: str) -> Mapping[str, Any]:
    """An object inside an object; empty where the file has it not (the processor names what it lacks)."""
    found = data.get(name) if isinstance(data, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _width(statistics: Any) -> int | None:
    low = statistics.get("min") if isinstance(statistics, Mapping) else None
    return len(low) if isinstance(low, list) else None


def _width_difference(name: str, key: str, names: list[str], width: int, checkpoint: str) -> tuple[Path, bool, str]:
    text = f"expected {width} numbers as in {checkpoint}, found {len(names)} ({one_of(names)})"
    return (name, key), True, f"{text}, list those of the training data"


def _raise(embodiment: Embodiment, differences: list[tuple[Path, bool, str]]) -> None:
    if differences:
        raise EmbodimentError(
            [
                f"{where(embodiment, path, on_key=on_key)}: {dotted(embodiment, path)}: {text}"
                for path, on_key, text in differences
            ]
        )


def check_commandable(embodiment: Embodiment) -> None:
    """Raise EmbodimentError, with a line per problem, when the YAML does not say enough to command the robot.

    Asked before anything moves, not for a dry run: limits of every commanded number, and where its motion starts.
    """
    lines = []
    for problem in commandable.find_problems(embodiment):
        text = (
            f"expected {problem.expected}, found {problem.found}, {problem.do}; or run without commands (dry_run:=true)"
        )
        place = where(embodiment, problem.path, on_key=problem.on_key)
        lines.append(f"{place}: {dotted(embodiment, problem.path)}: {text}")
    if lines:
        raise EmbodimentError(lines)


def _keys(name: str, ours: list[str], theirs: list[str], checkpoint: str) -> Iterator[tuple[Path, bool, str]]:
    if name == "language":
        if ours[0] not in theirs:
            text = f"expected {one_of(theirs)} as in {checkpoint}, found {ours[0]!r}, write {theirs[0]!r}"
            yield ("language", "key"), False, text
        return
    for key in ours:
        if key not in theirs:
            near = closest(key, [other for other in theirs if other not in ours])
            do = f"did you mean {near!r}?" if near else "rename or remove it"
            yield (name, key), True, f"expected a key of {checkpoint} ({one_of(theirs)}), found {key!r}, {do}"
    missing = [key for key in theirs if key not in ours]
    if missing:
        yield (
            (name,),
            True,
            (f"expected {one_of(theirs)} as in {checkpoint}, found {one_of(ours)}, add {one_of(missing)}"),
        )
    if sorted(ours) == sorted(theirs) and ours != theirs:
        yield (
            (name,),
            True,
            (f"expected the order {one_of(theirs)} as in {checkpoint}, found {one_of(ours)}, reorder them"),
        )


def _deltas(name: str, ours: list[int], theirs: list[int], checkpoint: str) -> Iterator[tuple[Path, bool, str]]:
    if ours != theirs:
        yield (
            ("delta_indices", name),
            False,
            (
                f"expected {_shown(theirs)} as in {checkpoint}, found {_shown(ours)}, "
                "write the checkpoint's list (it was trained with these steps)"
            ),
        )


def _shown(steps: list[int]) -> str:
    if len(steps) > 4 and steps == list(range(steps[0], steps[0] + len(steps))):
        return f"[{steps[0]}, {steps[1]}, ... {steps[-1]}] ({len(steps)} steps)"
    return str(steps)
