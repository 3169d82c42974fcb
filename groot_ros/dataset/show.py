"""Look at a dataset: a contact sheet of every camera, a plot of every number, one page with both.

Needs matplotlib (extra ``plot``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.read import Dataset, EpisodeEntry
from groot_ros.dataset.show_view import Curve, EpisodeView, Strip, spans
from groot_ros.dataset.spec import ACTION, FLAGS, IMAGES, INTERVENTION, STATE
from groot_ros.dataset.video import count_frames, decode_frames
from groot_ros.embodiment.load import available_embodiments, load_embodiment

FIRST = 12  # episodes that are shown when none are named
PICTURES = 8
PAGE, SHEET = "index.html", "contact_sheet.png"
Progress = Callable[[int, int], None]
Units = dict[tuple[str, str], str]  # (vector, name of a number) -> unit


def show(
    root: str | Path,
    output: str | Path,
    *,
    episodes: Sequence[int] | None = None,
    pictures: int = PICTURES,
    progress: Progress | None = None,
) -> Path:
    """Write ``contact_sheet.png``, ``joints_000000.png`` per episode and ``index.html``, which holds them all.

    Args:
        root: dataset, LeRobot v2.1 or v2.0.
        output: folder for the files, made if needed; those of an earlier look are replaced.
        episodes: numbers; None: the first few.
        pictures: per camera and episode, evenly over time, the first and the last included.
        progress: called with (episodes done, of how many).

    Returns:
        The page, which needs no other file.

    Raises:
        DatasetError: the dataset cannot be read, an episode does not exist, ``output`` is inside the dataset, or
            matplotlib is missing. A video that cannot be read is shown as such.
        OSError: ``output`` cannot be written.
    """
    try:
        from groot_ros.dataset.show_drawing import draw_joints, draw_sheet
    except ImportError as error:
        raise DatasetError(
            f"dataset show draws with matplotlib, which cannot be imported ({error}): install the extra `plot`, "
            "pip install 'groot_ros[plot]'"
        ) from error
    from groot_ros.dataset.show_page import page

    dataset, folder = Dataset(root), Path(output).expanduser()
    if dataset.root.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise DatasetError(
            f"{folder}: expected a folder outside of the dataset, found one in {dataset.root}: name another"
        )
    if pictures < 1:
        raise DatasetError(f"pictures: expected at least 1 per camera, found {pictures}")
    chosen = _chosen(dataset, episodes)
    units = _units(dataset)
    folder.mkdir(parents=True, exist_ok=True)
    views, plots = [], []
    for done, entry in enumerate(chosen, start=1):
        view = _view(dataset, entry, pictures, units)
        plot = folder / f"joints_{entry.index:06d}.png"
        draw_joints(view, plot)
        views.append(view)
        plots.append(plot)
        if progress is not None:
            progress(done, len(chosen))
    draw_sheet(views, folder / SHEET)
    (folder / PAGE).write_text(page(dataset, views, folder / SHEET, plots), encoding="utf-8")
    return folder / PAGE


def _chosen(dataset: Dataset, episodes: Sequence[int] | None) -> list[EpisodeEntry]:
    known = {entry.index: entry for entry in dataset.episodes}
    if not known:
        raise DatasetError(f"{dataset.root}: expected episodes to show, found none")
    if episodes is None:
        return list(known.values())[:FIRST]
    missing = [number for number in episodes if number not in known]
    if missing or not episodes:
        raise DatasetError(
            f"{dataset.root}: expected episodes from {min(known)} to {max(known)}, found "
            f"{', '.join(map(str, missing)) or 'none named'}"
        )
    return [known[number] for number in episodes]


def _view(dataset: Dataset, entry: EpisodeEntry, pictures: int, units: Units) -> EpisodeView:
    columns = {name: dataset.column(entry.index, name) for name in (STATE, ACTION) if name in dataset.features}
    marks = {}
    for name, label in ((INTERVENTION, "intervention"), (FLAGS, "flagged")):
        if name in dataset.features:
            marks[label] = spans(dataset.column(entry.index, name) != 0)
    return EpisodeView(
        index=entry.index,
        tasks=entry.tasks,
        fps=dataset.fps,
        rows=max((len(values) for values in columns.values()), default=entry.length),
        strips=[_strip(dataset, entry, name, pictures) for name in dataset.video_keys],
        curves=_curves(dataset, columns, units),
        marks=marks,
        report=dataset.report(entry.index),
    )


def _strip(dataset: Dataset, entry: EpisodeEntry, feature: str, pictures: int) -> Strip:
    path = dataset.video(entry.index, feature)
    name = feature.removeprefix(f"{IMAGES}.")
    try:
        count = count_frames(path)
        indices = sorted({round(i) for i in np.linspace(0, max(count - 1, 0), min(pictures, max(count, 1)))})
        return Strip(name, indices, list(decode_frames(path, indices)))
    except DatasetError as error:
        return Strip(name, [], [], str(error))


def _curves(dataset: Dataset, columns: dict[str, NDArray[Any]], units: Units) -> list[Curve]:
    """One per name, state and action of the same name together, in the order of the state."""
    curves: dict[str, Curve] = {}
    for vector, values in columns.items():
        table = values.reshape(len(values), -1)
        for position, name in enumerate(_names(dataset, vector, table.shape[1])):
            curve = curves.setdefault(name, Curve(name))
            curve.unit = curve.unit or units.get((vector, name), "")
            curve.values[vector] = table[:, position].astype(np.float64)
    return list(curves.values())


def _names(dataset: Dataset, vector: str, width: int) -> list[str]:
    names = dataset.features[vector].get("names")
    if isinstance(names, dict):
        names = [name for part in names.values() for name in part]
    if isinstance(names, list) and len(names) == width:
        return [str(name) for name in names]
    # Without names, state and action need not be the same numbers.
    return [f"{vector}[{position}]" for position in range(width)]


def _units(dataset: Dataset) -> Units:
    """Units of the numbers, where the robot that recorded them has a YAML here; datasets themselves do not say."""
    robot = dataset.info.get("robot_type")
    if not isinstance(robot, str) or robot not in available_embodiments():
        return {}
    embodiment = load_embodiment(robot)
    return {
        (vector, f"{key}.{name}"): entry.unit
        for vector, entries in ((STATE, embodiment.state), (ACTION, embodiment.action))
        for key, entry in entries.items()
        for name in entry.names
    }
