"""The processor's files in a GR00T N1.7 checkpoint directory: reading, checking, writing back key for key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from groot_ros.processing.errors import ProcessorError, describe, listing, read_json_object
from groot_ros.processing.tags import complete_embodiment_ids

PROCESSOR_FILE = "processor_config.json"
STATISTICS_FILE = "statistics.json"
EMBODIMENT_FILE = "embodiment_id.json"
PROCESSOR_CLASS = "Gr00tN1d7Processor"

# Defaults of NVIDIA's constructor for keys an older file does not have. The sizes below have none: they must
# fit the network.
_FLAGS = {
    "formalize_language": True,
    "use_percentiles": False,
    "clip_outliers": True,
    "apply_sincos_state_encoding": False,
    "use_relative_action": False,
    "exclude_state": False,
}
_SIZES = ("max_state_dim", "max_action_dim", "max_action_horizon")
_IMAGE_DEFAULTS = {"shortest_image_edge": 256, "crop_fraction": 0.95}


@dataclass(frozen=True)
class ProcessorFiles:
    """Contents of processor_config.json, statistics.json and embodiment_id.json.

    Attributes:
        document: processor_config.json as read; `processor_kwargs` inside it.
        statistics: statistics.json: tag -> state|action|relative_action -> group -> arrays.
        embodiment_ids: tag -> projector id, completed from NVIDIA's table.
        directory: where they were read from; named in errors.
    """

    document: Mapping[str, Any]
    statistics: Mapping[str, Any]
    embodiment_ids: Mapping[str, int]
    directory: Path = field(default=Path("."))

    @classmethod
    def read(cls, directory: Path) -> ProcessorFiles:
        """Reads the three files; like NVIDIA's policy, from `directory/processor` if the root has no
        processor_config.json.

        Raises:
            ProcessorError: a file is missing or malformed, or is of another model generation.
        """
        root = Path(directory).expanduser()
        if not root.is_dir():
            raise ProcessorError(str(directory), "a checkpoint directory", "no such directory")
        if not (root / PROCESSOR_FILE).is_file() and (root / "processor" / PROCESSOR_FILE).is_file():
            root = root / "processor"
        document = read_json_object(root / PROCESSOR_FILE)
        found = document.get("processor_class", PROCESSOR_CLASS)
        if found != PROCESSOR_CLASS:
            raise ProcessorError(
                f"{root / PROCESSOR_FILE}: processor_class",
                PROCESSOR_CLASS,
                describe(found),
                "Use a GR00T N1.7 checkpoint.",
            )
        if not isinstance(document.get("processor_kwargs"), Mapping):
            raise ProcessorError(f"{root / PROCESSOR_FILE}: processor_kwargs", "an object", "none")
        ids_path = root / EMBODIMENT_FILE
        ids = read_json_object(ids_path) if ids_path.exists() else {}
        for tag, number in ids.items():
            if type(number) is not int or number < 0:
                raise ProcessorError(f"{ids_path}: {tag}", "a projector index >= 0", describe(number))
        return cls(document, read_json_object(root / STATISTICS_FILE), complete_embodiment_ids(ids), root)

    def write(self, directory: Path) -> None:
        """Writes the three files as NVIDIA's processor does (two-space JSON), creating the directory."""
        directory.mkdir(parents=True, exist_ok=True)
        contents = {
            PROCESSOR_FILE: self.document,
            STATISTICS_FILE: self.statistics,
            EMBODIMENT_FILE: dict(self.embodiment_ids),
        }
        for name, content in contents.items():
            (directory / name).write_text(json.dumps(content, indent=2), encoding="utf-8")

    @property
    def kwargs(self) -> Mapping[str, Any]:
        """`processor_kwargs` of processor_config.json."""
        kwargs: Mapping[str, Any] = self.document["processor_kwargs"]
        return kwargs

    @property
    def where(self) -> str:
        """File and key of `kwargs`, for errors."""
        return f"{self.directory / PROCESSOR_FILE}: processor_kwargs"

    @property
    def modality_configs(self) -> Mapping[str, Any]:
        """tag -> modality -> settings, as read."""
        configs = self.kwargs.get("modality_configs")
        if not isinstance(configs, Mapping) or not configs:
            raise ProcessorError(
                f"{self.where}.modality_configs", "an object with one entry per tag", describe(configs)
            )
        return configs

    def tag_statistics(self, tag: str) -> tuple[Mapping[str, Any], str]:
        """Statistics of one tag, and file and key to name in errors."""
        path = self.directory / STATISTICS_FILE
        found = self.statistics.get(tag)
        if not isinstance(found, Mapping):
            raise ProcessorError(
                str(path),
                f"an entry '{tag}'",
                f"entries {listing(self.statistics)}",
                "Use a tag that has statistics, or compute them for this robot's dataset.",
            )
        return found, f"{path}: {tag}"

    def flag(self, name: str) -> bool:
        """A boolean setting, or NVIDIA's default."""
        value = self.kwargs.get(name, _FLAGS[name])
        if not isinstance(value, bool):
            raise ProcessorError(f"{self.where}.{name}", "true or false", describe(value))
        return value

    def size(self, name: str) -> int:
        """One of max_state_dim, max_action_dim, max_action_horizon."""
        assert name in _SIZES
        value = self.kwargs.get(name)
        if type(value) is not int or value < 1:
            raise ProcessorError(f"{self.where}.{name}", "a positive integer", describe(value))
        return value

    def image_kwargs(self) -> dict[str, Any]:
        """The settings `EvalTransform.from_kwargs` reads."""
        return {**_IMAGE_DEFAULTS, **self.kwargs}

    def model_name(self) -> str:
        """Hub id of the backbone, whose tokenizer the model was trained with."""
        value = self.kwargs.get("model_name")
        if not isinstance(value, str) or not value:
            raise ProcessorError(f"{self.where}.model_name", "a hub id", describe(value), "Or set `tokenizer`.")
        return value
