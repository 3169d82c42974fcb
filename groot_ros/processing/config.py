"""The processor's files in a checkpoint directory of any generation: reading, checking, writing back key for key.

N1.6 and N1.7 have processor_config.json, statistics.json and embodiment_id.json. N1.5 has experiment_cfg/metadata.json,
read by `groot_ros.processing.metadata` into the same form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from groot_ros.processing.errors import ProcessorError, describe, listing, read_json_object
from groot_ros.processing.generations import BY_PROCESSOR_CLASS, N1D7, Generation
from groot_ros.processing.tags import complete_embodiment_ids, resolve_tag

PROCESSOR_FILE = "processor_config.json"
STATISTICS_FILE = "statistics.json"
EMBODIMENT_FILE = "embodiment_id.json"


@dataclass(frozen=True)
class ProcessorFiles:
    """What the files of a checkpoint say, in one form for all generations.

    Attributes:
        generation: conventions and defaults.
        kwargs: settings as processor_config.json has them under `processor_kwargs`.
        modality_configs: tag -> video, state, action, language -> settings. N1.5: only the tags that are known.
        statistics: tag -> state|action|relative_action -> group -> arrays.
        embodiment_ids: tag -> projector id, completed from NVIDIA's table.
        modalities: N1.5: tag -> `modalities` of metadata.json; else empty.
        directory: where the files were read from.
        contents: file name -> content as read, for writing back; `modality_configs` is put in when writing.
        where, modality_where, statistics_where: file and key of kwargs, modality_configs and statistics, for errors.
    """

    generation: Generation
    kwargs: Mapping[str, Any]
    modality_configs: Mapping[str, Any]
    statistics: Mapping[str, Any]
    embodiment_ids: Mapping[str, int]
    directory: Path
    contents: Mapping[str, Any]
    where: str
    modality_where: str
    statistics_where: str
    modalities: Mapping[str, Any]

    @classmethod
    def read(cls, directory: Path) -> ProcessorFiles:
        """Reads the files of the generation that the directory holds.

        Like NVIDIA's policy, from `directory/processor` if the root has no processor_config.json. A directory without
        that file, but with experiment_cfg/metadata.json (or metadata.json), is N1.5's.

        Raises:
            ProcessorError: a file is missing or malformed, or is of an unknown model.
        """
        from groot_ros.processing.metadata import metadata_path, name_missing_files, read_metadata

        root = Path(directory).expanduser()
        if not root.is_dir():
            raise ProcessorError(str(directory), "a checkpoint directory", "no such directory")
        if not (root / PROCESSOR_FILE).is_file():
            if (root / "processor" / PROCESSOR_FILE).is_file():
                root = root / "processor"
            elif metadata_path(root) is not None:
                return read_metadata(root)
            else:
                name_missing_files(root)
        return _read_processor_config(root)

    def with_modality(self, tag: str, modality: Any) -> ProcessorFiles:
        """The same files with another modality object for a tag that has statistics.

        Raises:
            ProcessorError: no statistics for this tag.
        """
        known = resolve_tag(tag, self.statistics, self.generation.tag_names)
        if known is None:
            raise self._unknown_tag(self.statistics_where, tag, self.statistics)
        return replace(
            self,
            modality_configs={**self.modality_configs, known: modality},
            modality_where="the modality configuration that was given",
        )

    def with_training(
        self,
        tag: str,
        *,
        embodiment_id: int,
        modality: Any,
        statistics: Mapping[str, Any],
        modalities: Mapping[str, Any],
        settings: Mapping[str, Any],
    ) -> ProcessorFiles:
        """The files as training on a robot's datasets changes them; `write` writes them so.

        Args:
            tag: of the robot, known or new.
            embodiment_id: its projector index.
            modality, statistics, modalities: what the files have under the tag (`modalities`: N1.5).
            settings: of `processor_kwargs`, in place of what is there.
        """
        from groot_ros.processing.metadata import METADATA_FILE

        contents = dict(self.contents)
        ids = {**self.embodiment_ids, tag: embodiment_id}
        if METADATA_FILE in contents:
            entry = {"statistics": statistics, "modalities": modalities, "embodiment_tag": tag}
            contents[METADATA_FILE] = {**contents[METADATA_FILE], tag: entry}
            own_ids = contents.get(EMBODIMENT_FILE, {})
            if own_ids or self.generation.embodiment_ids.get(tag) != embodiment_id:  # NVIDIA's N1.5 has no such file
                contents[EMBODIMENT_FILE] = {**own_ids, tag: embodiment_id}
        else:
            contents[STATISTICS_FILE] = {**contents[STATISTICS_FILE], tag: statistics}
            contents[EMBODIMENT_FILE] = ids
        return replace(
            self,
            kwargs={**self.kwargs, **settings},
            modality_configs={**self.modality_configs, tag: modality},
            statistics={**self.statistics, tag: statistics},
            embodiment_ids=ids,
            contents=contents,
            modalities={**self.modalities, tag: modalities} if METADATA_FILE in contents else self.modalities,
        )

    def resolve(self, tag: str) -> str:
        """The tag as the files write it.

        Raises:
            ProcessorError: no such tag (the available ones are listed), or it has no projector id.
        """
        by_statistics = self.generation.processor_class is None
        available = self.statistics if by_statistics else self.modality_configs
        known = resolve_tag(tag, available, self.generation.tag_names)
        if known is None:
            raise self._unknown_tag(self.statistics_where if by_statistics else self.modality_where, tag, available)
        if known not in self.embodiment_ids:
            raise ProcessorError(
                f"{self.directory / EMBODIMENT_FILE}",
                f"a projector index for '{known}'",
                f"entries {listing(self.embodiment_ids)}",
                "Add the tag with the index it was trained with.",
            )
        return known

    def write(self, directory: Path) -> None:
        """Writes the files as NVIDIA's processor does (two-space JSON), creating the directory."""
        from groot_ros.processing.metadata import MODALITY_FILE

        contents = dict(self.contents)
        if PROCESSOR_FILE in contents:
            kwargs = {**self.kwargs, "modality_configs": self.modality_configs}
            contents[PROCESSOR_FILE] = {**contents[PROCESSOR_FILE], "processor_kwargs": kwargs}
        elif self.modality_configs:
            contents[MODALITY_FILE] = self.modality_configs
        for name, content in contents.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content, indent=2), encoding="utf-8")

    def modality(self, tag: str) -> tuple[Any, str]:
        """The modality object of one tag, and file and key to name in errors.

        Raises:
            ProcessorError: N1.5 without one.
        """
        if tag not in self.modality_configs:
            raise ProcessorError(
                self.modality_where,
                f"the keys, their order and their steps for '{tag}'",
                f"entries {listing(self.modality_configs)}",
                "N1.5's checkpoints do not carry them: give the argument `modality` (the robot's YAML makes it: "
                "groot_ros.embodiment.modality), or write this file.",
            )
        return self.modality_configs[tag], f"{self.modality_where}.{tag}"

    def tag_statistics(self, tag: str) -> tuple[Mapping[str, Any], str]:
        """Statistics of one tag, and file and key to name in errors."""
        found = self.statistics.get(tag)
        if not isinstance(found, Mapping):
            raise ProcessorError(
                self.statistics_where,
                f"an entry '{tag}'",
                f"entries {listing(self.statistics)}",
                "Use a tag that has statistics, or compute them for this robot's dataset.",
            )
        return found, f"{self.statistics_where}: {tag}{'.statistics' if self.modalities else ''}"

    def flag(self, name: str) -> bool:
        """A boolean setting, or NVIDIA's default."""
        value = self.kwargs.get(name, self.generation.defaults[name])
        if not isinstance(value, bool):
            raise ProcessorError(f"{self.where}.{name}", "true or false", describe(value))
        return value

    def size(self, name: str) -> int:
        """A positive whole number such as max_state_dim, or NVIDIA's default where there is one."""
        value = self.kwargs.get(name, self.generation.defaults.get(name))
        if type(value) is not int or value < 1:
            raise ProcessorError(f"{self.where}.{name}", "a positive integer", describe(value))
        return value

    def image_kwargs(self) -> dict[str, Any]:
        """All settings, the defaults included."""
        return {**self.generation.defaults, **self.kwargs}

    def tokenizer_id(self) -> str:
        """Hub id of the tokenizer that the backbone was trained with."""
        value = self.kwargs.get("model_name", self.generation.defaults.get("model_name"))
        if not isinstance(value, str) or not value:
            raise ProcessorError(f"{self.where}.model_name", "a hub id", describe(value), "Or set `tokenizer`.")
        return self.generation.tokenizers.get(value, value)

    def _unknown_tag(self, where: str, tag: str, available: Mapping[str, Any]) -> ProcessorError:
        return ProcessorError(
            where,
            f"the embodiment tag '{tag}'",
            f"tags {listing(available)}",
            "Set the embodiment's tag to one of these, or use a checkpoint that was trained for it.",
        )


def read_embodiment_ids(path: Path) -> dict[str, int]:
    """Tag -> index as embodiment_id.json has them; empty if there is no such file.

    Raises:
        ProcessorError: an index that is not a whole number >= 0.
    """
    ids = read_json_object(path) if path.exists() else {}
    for tag, number in ids.items():
        if type(number) is not int or number < 0:
            raise ProcessorError(f"{path}: {tag}", "a projector index >= 0", describe(number))
    return ids


def _read_processor_config(root: Path) -> ProcessorFiles:
    path = root / PROCESSOR_FILE
    document = read_json_object(path)
    found = document.get("processor_class", N1D7.processor_class)
    generation = BY_PROCESSOR_CLASS.get(found) if isinstance(found, str) else None
    if generation is None:
        raise ProcessorError(
            f"{path}: processor_class",
            " or ".join(str(name) for name in BY_PROCESSOR_CLASS),
            describe(found),
            "Use a checkpoint of GR00T N1.6 or N1.7, or of N1.5, which has experiment_cfg/metadata.json instead.",
        )
    kwargs = document.get("processor_kwargs")
    if not isinstance(kwargs, Mapping):
        raise ProcessorError(f"{path}: processor_kwargs", "an object", "none" if kwargs is None else describe(kwargs))
    where = f"{path}: processor_kwargs"
    configs = kwargs.get("modality_configs")
    if not isinstance(configs, Mapping) or not configs:
        raise ProcessorError(f"{where}.modality_configs", "an object with one entry per tag", describe(configs))
    ids = complete_embodiment_ids(read_embodiment_ids(root / EMBODIMENT_FILE), generation.name)
    statistics = read_json_object(root / STATISTICS_FILE)
    return ProcessorFiles(
        generation=generation,
        kwargs=kwargs,
        modality_configs=configs,
        statistics=statistics,
        embodiment_ids=ids,
        directory=root,
        contents={PROCESSOR_FILE: document, STATISTICS_FILE: statistics, EMBODIMENT_FILE: ids},
        where=where,
        modality_where=f"{where}.modality_configs",
        statistics_where=str(root / STATISTICS_FILE),
        modalities={},
    )
