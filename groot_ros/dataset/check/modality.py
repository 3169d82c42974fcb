"""modality.json: which part of which column is which key of the model. GR00T itself notices little of what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from groot_ros.dataset import paths
from groot_ros.dataset.check.contents import Contents
from groot_ros.dataset.check.files import read_json
from groot_ros.dataset.check.report import Findings, Severity
from groot_ros.dataset.check.schema import KeyEntry, SliceEntry, formed, shortened
from groot_ros.dataset.spec import ACTION, IMAGES, STATE, TASK_INDEX

# Numbers of each rotation that N1.5 names; euler_angles_* are three in whatever order.
ROTATION_WIDTHS = {"quaternion": 4, "axis_angle": 3, "rotation_6d": 6, "matrix": 9}
VECTORS = {"state": STATE, "action": ACTION}
_ANEW = "correct it, or remove the file and let `groot-ros dataset repair -e ROBOT` make it anew"


class Modality:
    """What could be read of modality.json, checked.

    Attributes:
        slices: ``state``, ``action`` -> key -> good entry.
        annotations: columns that hold task numbers.
    """

    def __init__(self, contents: Contents, found: Findings) -> None:
        self.slices: dict[str, dict[str, SliceEntry]] = {"state": {}, "action": {}}
        self.annotations: list[str] = [TASK_INDEX]
        self._contents, self._found = contents, found
        data = read_json(
            contents.root,
            paths.MODALITY,
            found,
            "modality_missing",
            "GR00T reads it; `groot-ros dataset repair -e ROBOT` makes it",
        )
        if data is None:
            return
        for part, vector in VECTORS.items():
            for key, entry in self._part(data, part).items():
                self._slice(part, key, entry, vector)
            self._check_cover(part, vector)
        self._check_videos(self._part(data, "video") if contents.videos or "video" in data else {})
        self._check_language(self._part(data, "annotation"))

    @property
    def used(self) -> list[str]:
        """Vectors that keys are taken from."""
        return sorted(
            {entry.original_key or VECTORS[part] for part, keys in self.slices.items() for entry in keys.values()}
        )

    @property
    def action_widths(self) -> dict[str, int]:
        """Action key -> numbers."""
        return {key: entry.end - entry.start for key, entry in self.slices["action"].items()}

    def _part(self, data: Mapping[str, Any], part: str) -> dict[str, Any]:
        entries = data.get(part)
        if isinstance(entries, dict) and entries:
            return entries
        if entries is None or entries == {}:
            # Without one, the newer generations can still take the task from episodes.jsonl.
            severity: Severity | None = "warning" if part == "annotation" else None
            message = f"expected keys of {part}, which GR00T needs, found none: {_ANEW}"
            self._found.add("modality_missing", f"{paths.MODALITY}: {part}", message, severity=severity)
        else:
            self._add("modality_invalid", part, f"expected keys, found {shortened(entries)}: {_ANEW}")
        return {}

    def _slice(self, part: str, key: str, data: Any, default: str) -> None:
        where = f"{part}.{key}"
        entry = formed(SliceEntry, data, self._found, "modality_invalid", f"{paths.MODALITY}: {where}")
        if entry is None:
            return
        vector = entry.original_key or default
        feature = self._contents.vector(vector)
        if feature is None:
            message = f"expected a vector of {paths.INFO} ({', '.join(self._vectors())}), found {vector!r}: correct it"
            self._add("modality_original_key", where, message)
            return
        if not entry.start < entry.end <= feature.width:
            message = (
                f"expected 0 <= start < end <= {feature.width}, the numbers of {vector}, found start {entry.start}, "
                f"end {entry.end}: GR00T would take fewer numbers without a word; {_ANEW}"
            )
            self._add("modality_range", where, message)
            return
        self.slices[part][key] = entry
        self._check_rotation(where, entry)
        self._check_names(part, key, entry, vector)

    def _vectors(self) -> list[str]:
        return [name for name in self._contents.features if self._contents.vector(name) is not None]

    def _check_rotation(self, where: str, entry: SliceEntry) -> None:
        rotation = entry.rotation_type
        if rotation is None:
            return
        width = 3 if rotation.startswith("euler_angles") else ROTATION_WIDTHS.get(rotation)
        if width != entry.end - entry.start:
            message = (
                f"rotation_type: expected one of {entry.end - entry.start} numbers, found {rotation!r}"
                f"{f', which has {width}' if width else ''}: correct one of them"
            )
            self._add("modality_rotation", where, message)

    def _check_names(self, part: str, key: str, entry: SliceEntry, vector: str) -> None:
        """Where numbers are named ``key.joint``, a slice holds those of its own key."""
        names = self._contents.features[vector].flat_names
        keys = {name.partition(".")[0] for name in names}
        if not names or not all("." in name for name in names) or key not in keys:
            return
        others = [name for name in names[entry.start : entry.end] if name.partition(".")[0] != key]
        if others:
            part_of = f"{vector}[{entry.start}:{entry.end}]"
            message = f"expected numbers named {key}.*, found {', '.join(others[:4])} in {part_of}: {_ANEW}"
            self._add("modality_names", f"{part}.{key}", message)

    def _check_cover(self, part: str, vector: str) -> None:
        """Every number of the vector is in exactly one slice."""
        feature = self._contents.vector(vector)
        entries = {key: entry for key, entry in self.slices[part].items() if (entry.original_key or vector) == vector}
        if feature is None or not entries or len(self.slices[part]) != len(entries):
            return
        if any(
            problem.code.startswith("modality_") and f": {part}." in problem.where and problem.severity == "error"
            for problem in self._found.problems
        ):
            return  # a slice that is wrong makes gaps and overlaps, too
        takers: list[list[str]] = [[] for _ in range(feature.width)]
        for key, entry in entries.items():
            for position in range(entry.start, entry.end):
                takers[position].append(key)
        names = self._contents.names(vector)
        free = [names[i] for i, keys in enumerate(takers) if not keys]
        twice = {tuple(keys) for keys in takers if len(keys) > 1}
        if free:
            message = f"expected a key for every number of {vector}, found none for {', '.join(free[:6])}: {_ANEW}"
            self._add("modality_gap", part, message)
        for keys in sorted(twice):
            message = f"expected each number of {vector} in one key, found some in {' and '.join(keys)}: {_ANEW}"
            self._add("modality_overlap", part, message)

    def _check_videos(self, entries: Mapping[str, Any]) -> None:
        videos = self._contents.videos
        taken = set()
        for key, data in entries.items():
            where = f"video.{key}"
            entry = formed(KeyEntry, data, self._found, "modality_invalid", f"{paths.MODALITY}: {where}")
            if entry is None:
                continue
            name = entry.original_key or f"{IMAGES}.{key}"
            taken.add(name)
            if name not in videos:
                message = (
                    f"expected a video of {paths.INFO} ({', '.join(videos) or 'none'}), found {name!r}: correct it"
                )
                self._add("modality_original_key", where, message)

        unused = [name for name in videos if name not in taken]
        if unused and taken <= set(videos):
            message = (
                f"expected a key for every video, found none for {', '.join(unused)}: GR00T does not see it; {_ANEW}"
            )
            self._add("modality_gap", "video", message)

    def _check_language(self, entries: Mapping[str, Any]) -> None:
        for key, data in entries.items():
            where = f"annotation.{key}"
            entry = formed(KeyEntry, data, self._found, "modality_invalid", f"{paths.MODALITY}: {where}")
            if entry is None:
                continue
            name = entry.original_key or f"annotation.{key}"
            feature = self._contents.features.get(name)
            if feature is None or not feature.dtype.startswith(("int", "uint")):
                message = f"expected a column of task numbers, such as {TASK_INDEX}, found {name!r}: correct it"
                self._add("modality_original_key", where, message)
            elif name not in self.annotations:
                self.annotations.append(name)

    def _add(self, code: str, key: str, message: str) -> None:
        self._found.add(code, f"{paths.MODALITY}: {key}", message)
