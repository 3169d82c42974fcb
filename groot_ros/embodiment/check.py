"""Does a robot's YAML fit a checkpoint? Asked before anything runs, so that no array is ever mislabelled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from groot_ros.embodiment.errors import EmbodimentError
from groot_ros.embodiment.load import dotted, where
from groot_ros.embodiment.problems import Path, closest, one_of
from groot_ros.embodiment.schema import Embodiment
from groot_ros.embodiment.vocabulary import COMMANDED_TYPES


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
                text = (
                    f"expected {dims[key]} numbers as in {checkpoint_name}, "
                    f"found {len(entry.names)} ({one_of(entry.names)}), list those of the training data"
                )
                differences.append(((name, key), True, text))
    if differences:
        lines = [
            f"{where(embodiment, path, on_key=on_key)}: {dotted(embodiment, path)}: {text}"
            for path, on_key, text in differences
        ]
        raise EmbodimentError(lines)


def check_commandable(embodiment: Embodiment) -> None:
    """Raise EmbodimentError, with a line per output, when the robot has outputs that cannot be commanded yet."""
    lines = []
    for name, output in embodiment.outputs.items():
        if output.type not in COMMANDED_TYPES:
            path: Path = ("outputs", name, "type")
            lines.append(
                f"{where(embodiment, path)}: {dotted(embodiment, path)}: expected {one_of(COMMANDED_TYPES)}, found "
                f"{output.type}, which the policy node cannot command yet: set dry_run:=true to run without commands"
            )
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
