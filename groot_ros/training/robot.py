"""Which robot a run trains for: tag, projector and modality configuration, from the YAML and the base checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from groot_ros.dataset.spec import DatasetSpec
from groot_ros.embodiment.modality import modality_configs
from groot_ros.embodiment.schema import Embodiment
from groot_ros.processing.config import EMBODIMENT_FILE, ProcessorFiles
from groot_ros.processing.modality import ModalityConfig, parse_modalities
from groot_ros.processing.tags import resolve_tag
from groot_ros.training.episodes import TrainingDataset
from groot_ros.training.errors import TrainingError

FREE_TAG = "new_embodiment"  # NVIDIA's own, for whatever robot is finetuned


@dataclass(frozen=True)
class Robot:
    """What is trained.

    Attributes:
        tag: embodiment tag, as the checkpoint writes it.
        embodiment_id: index of its projector.
        settings: its modality configuration, as the checkpoint's files have it.
        modality: the same, parsed.
        known: the base checkpoint has a projector for the tag.
    """

    tag: str
    embodiment_id: int
    settings: Mapping[str, Any]
    modality: Mapping[str, ModalityConfig]
    known: bool


def choose_robot(
    files: ProcessorFiles,
    embodiment: Embodiment | None,
    tag: str,
    embodiment_id: int | None,
    max_embodiments: int,
) -> Robot:
    """The robot that a run names.

    Args:
        files: of the base checkpoint.
        embodiment: the YAML; None: what the checkpoint says about the tag.
        tag: empty: the YAML's.
        embodiment_id: for a tag that the checkpoint does not know; None: a free one.
        max_embodiments: projectors of the network.

    Raises:
        TrainingError: no tag, an unknown one without a YAML, one that the checkpoint has for another robot, or a
            projector that is taken.
    """
    wanted = tag or (embodiment.embodiment_tag if embodiment is not None else "")
    if not wanted:
        raise TrainingError("--embodiment or --embodiment-tag: expected one of them, which names the robot, found none")
    available = dict.fromkeys((*files.modality_configs, *files.statistics, *files.embodiment_ids))
    resolved = resolve_tag(wanted, available, files.generation.tag_names) or wanted
    number, known = _projector(files, resolved, embodiment_id, max_embodiments)
    if embodiment is None:
        settings = files.modality_configs.get(resolved)
        if settings is None:
            raise TrainingError(
                f"{files.modality_where}: expected the tag '{resolved}', found {', '.join(files.modality_configs)}: "
                "name one of these (--embodiment-tag), or give the robot's YAML (--embodiment)"
            )
        where = f"{files.modality_where}.{resolved}"
    else:
        settings = modality_configs(embodiment, files.generation.name)[embodiment.embodiment_tag]
        where = f"{embodiment.name}.yaml"
    robot = Robot(resolved, number, settings, parse_modalities(settings, where), known)
    if embodiment is not None:
        _check_not_taken(files, robot)
    return robot


def check_recorded(dataset: TrainingDataset, embodiment: Embodiment) -> None:
    """Whether a dataset was recorded with this YAML, as far as both say.

    Raises:
        TrainingError: another rate, another size of a camera's pictures, or other joints.
    """
    if abs(dataset.fps - embodiment.step_hz) > 1e-6 * embodiment.step_hz:
        raise TrainingError(
            f"{dataset.root}/meta/info.json: fps: expected {embodiment.step_hz:g}, the step_hz of "
            f"{embodiment.name}.yaml, found {dataset.fps:g}: set step_hz to the rate of the recording, or record at "
            f"{embodiment.step_hz:g} Hz"
        )
    for key, entry in embodiment.video.items():
        camera = embodiment.cameras[entry.camera]
        found = dataset.view_sizes.get(key)
        if found is not None and found != (camera.height, camera.width):
            raise TrainingError(
                f"{dataset.root}: video.{key}: expected pictures of {camera.width}x{camera.height} px, as "
                f"{embodiment.name}.yaml has camera {entry.camera}, found {found[1]}x{found[0]}: correct the YAML, or "
                "record again"
            )
    _check_names(dataset, embodiment, own=dataset.robot_type == embodiment.name)


def _check_names(dataset: TrainingDataset, embodiment: Embodiment, *, own: bool) -> None:
    """Joints in another order would be swapped without a word.

    A recording of this very robot (`own`) has its joints by the YAML's names. Another's may have names of its own;
    where they are the YAML's, with or without the key before them, their order is too.
    """
    spec = DatasetSpec.of(embodiment)
    for modality, parts in (("state", spec.state), ("action", spec.action)):
        for part in parts:
            place = dataset.modality.vectors(modality).get(part.key)
            names = dataset.features[place.column].get("names") if place is not None else None
            if place is None or not isinstance(names, list) or len(names) < place.end:
                continue
            found = [str(name) for name in names[place.start : place.end]]
            expected = [f"{part.key}.{name}" for name in part.names]
            bare = [name.removeprefix(f"{part.key}.") for name in found]
            swapped = sorted(bare) == sorted(part.names) and bare != list(part.names)
            if swapped or (own and found != expected):
                raise TrainingError(
                    f"{dataset.root}/meta/info.json: {place.column}: expected {', '.join(expected)} for {modality}."
                    f"{part.key}, as {embodiment.name}.yaml has it, found {', '.join(found)}: use the YAML of the "
                    "recording"
                )


def _projector(files: ProcessorFiles, tag: str, wanted: int | None, count: int) -> tuple[int, bool]:
    """Index of the tag's projector, and whether the checkpoint has it already."""
    own = files.embodiment_ids.get(tag)
    where = f"{files.directory / EMBODIMENT_FILE}"
    if own is not None:
        if wanted not in (None, own):
            raise TrainingError(
                f"--embodiment-id: expected {own}, which '{tag}' has in {where}, found {wanted}: leave it out, or "
                "choose another tag"
            )
        return own, True
    taken: dict[int, list[str]] = {}
    for name, number in files.embodiment_ids.items():
        taken.setdefault(number, []).append(name)
    free = [number for number in range(count) if number not in taken]
    if wanted is None:
        if not free:
            raise TrainingError(
                f"{where}: expected a free projector for '{tag}', all {count} are taken: use {FREE_TAG}"
            )
        return free[0], False
    if wanted not in free:
        owner = f"that of {', '.join(taken[wanted])}" if wanted in taken else f"beyond the network's {count}"
        raise TrainingError(
            f"--embodiment-id: expected a free projector ({_ranges(free)}), found {wanted}, {owner}: leave it out, or "
            "use the tag that it belongs to"
        )
    return wanted, False


def _check_not_taken(files: ProcessorFiles, robot: Robot) -> None:
    """A tag other than NVIDIA's free one belongs to the robot that it was trained with."""
    theirs = files.modality_configs.get(robot.tag)
    if robot.tag == FREE_TAG:
        return
    if not isinstance(theirs, Mapping):
        _check_described(files, robot)
        return
    before = parse_modalities(theirs, f"{files.modality_where}.{robot.tag}")
    for name in ("state", "action"):
        old, new = before[name].modality_keys, robot.modality[name].modality_keys
        if old != new:
            raise TrainingError(
                f"embodiment tag '{robot.tag}' is taken: {files.modality_where} has it for a robot with the {name} "
                f"keys {', '.join(old)}, the YAML has {', '.join(new)}: set embodiment_tag to {FREE_TAG}, or to a name "
                "of your own"
            )


def _check_described(files: ProcessorFiles, robot: Robot) -> None:
    """N1.5 does not say which keys a robot was trained with, but which its datasets had (metadata.json)."""
    described = files.modalities.get(robot.tag, {})
    for name in ("state", "action"):
        theirs = described.get(name)
        lacking = [
            key for key in robot.modality[name].modality_keys if isinstance(theirs, Mapping) and key not in theirs
        ]
        if lacking:
            raise TrainingError(
                f"embodiment tag '{robot.tag}' is taken: {files.statistics_where} has it for a robot with the {name} "
                f"keys {', '.join(theirs)}, the YAML has {', '.join(lacking)}: set embodiment_tag to {FREE_TAG}, or to "
                "a name of your own"
            )


def _ranges(numbers: Sequence[int]) -> str:
    """``0-3, 7`` of 0, 1, 2, 3, 7."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts) or "none"
