"""modality.json of a dataset, read strictly: which part of which column is which key of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from groot_ros.dataset import paths
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.read import Dataset
from groot_ros.dataset.spec import ACTION, IMAGES, STATE

VECTORS = {"state": STATE, "action": ACTION}


@dataclass(frozen=True)
class Slice:
    """A key of state or action: numbers ``start`` to ``end`` - 1 of ``column``.

    Attributes:
        absolute: N1.5: numbers are positions; else they are changes, and nothing happens beyond an episode's end.
        rotation_type: N1.5: the rotation that the numbers are.
    """

    column: str
    start: int
    end: int
    absolute: bool = True
    rotation_type: str | None = None

    @property
    def width(self) -> int:
        """Numbers of the key."""
        return self.end - self.start


@dataclass(frozen=True)
class DatasetModality:
    """modality.json.

    Attributes:
        state, action: key -> place in a column.
        video: key -> feature.
        annotation: language key without ``annotation.`` -> column of task indices.
    """

    state: Mapping[str, Slice]
    action: Mapping[str, Slice]
    video: Mapping[str, str]
    annotation: Mapping[str, str]

    def vectors(self, modality: str) -> Mapping[str, Slice]:
        """Those of ``state`` or ``action``."""
        return self.state if modality == "state" else self.action

    @property
    def columns(self) -> list[str]:
        """Columns of numbers that the keys need."""
        return list(dict.fromkeys(part.column for parts in (self.state, self.action) for part in parts.values()))


def read_modality(dataset: Dataset) -> DatasetModality:
    """modality.json, checked against the features of info.json.

    Raises:
        DatasetError: the file is missing, or an entry is malformed or names what the dataset does not have.
    """
    path = dataset.root / paths.MODALITY
    if not path.is_file():
        how = (
            "copy that of the v2.1 dataset it was made of, or write it (docs/datasets.md)"
            if dataset.info.get("codebase_version") == "v3.0"
            else "`groot-ros dataset repair DIR -e ROBOT --apply` writes it"
        )
        raise DatasetError(f"{path}: expected the keys of state, action and video, found no such file: {how}")
    document = dataset.modality
    vectors = {name: _slices(dataset, name, document, f"{path}: {name}") for name in VECTORS}
    return DatasetModality(
        state=vectors["state"],
        action=vectors["action"],
        video=_videos(dataset, document, f"{path}: video"),
        annotation={
            key: str(entry.get("original_key", f"annotation.{key}"))
            for key, entry in _entries(document, "annotation", f"{path}: annotation").items()
        },
    )


def _entries(document: Mapping[str, Any], name: str, where: str) -> dict[str, Mapping[str, Any]]:
    entries = document.get(name, {})
    if not isinstance(entries, Mapping) or not all(isinstance(entry, Mapping) for entry in entries.values()):
        raise DatasetError(f"{where}: expected an object with an object per key, found {str(entries)[:80]}")
    return dict(entries)


def _slices(dataset: Dataset, name: str, document: Mapping[str, Any], where: str) -> dict[str, Slice]:
    found = {}
    for key, entry in _entries(document, name, where).items():
        column = str(entry.get("original_key", VECTORS[name]))
        start, end = entry.get("start"), entry.get("end")
        feature = dataset.features.get(column)
        if feature is None or not str(feature.get("dtype")).startswith("float"):
            raise DatasetError(f"{where}.{key}.original_key: expected a feature of floats, found {column!r}")
        width = int((feature.get("shape") or [1])[0])
        if type(start) is not int or type(end) is not int or not 0 <= start < end <= width:
            raise DatasetError(
                f"{where}.{key}: expected 0 <= start < end <= {width}, the width of {column}, found start {start}, "
                f"end {end}"
            )
        turn = entry.get("rotation_type")
        found[key] = Slice(column, start, end, bool(entry.get("absolute", True)), None if turn is None else str(turn))
    return found


def _videos(dataset: Dataset, document: Mapping[str, Any], where: str) -> dict[str, str]:
    found = {}
    for key, entry in _entries(document, "video", where).items():
        # N1.6 and N1.7 take the first for the default, N1.5 the second.
        names = [entry["original_key"]] if "original_key" in entry else [f"{IMAGES}.{key}", key]
        feature = next((name for name in names if name in dataset.video_keys), None)
        if feature is None:
            raise DatasetError(
                f"{where}.{key}: expected a video feature of info.json ({', '.join(dataset.video_keys) or 'none'}), "
                f"found {' or '.join(map(repr, names))}"
            )
        found[key] = str(feature)
    return found
