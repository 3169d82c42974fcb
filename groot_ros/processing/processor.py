"""The N1.7 processor: one observation -> model inputs, and the model's chunk -> physical actions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from groot_ros.processing.checks import check_keys, checked_frames, checked_numbers
from groot_ros.processing.config import EMBODIMENT_FILE, ProcessorFiles
from groot_ros.processing.errors import ProcessorError, describe, listing
from groot_ros.processing.images import PREPROCESSOR_FILE, EvalTransform, Frames, PatchLayout
from groot_ros.processing.language import Grid, PromptEncoder, has_tokenizer, load_tokenizer
from groot_ros.processing.modality import ActionRep, ActionType, ModalityConfig, parse_modalities
from groot_ros.processing.pose import from_homogeneous
from groot_ros.processing.state_action import StateActionProcessor
from groot_ros.processing.tags import resolve_tag

Sample = dict[str, Any]
Groups = Mapping[str, NDArray[np.floating[Any]]]

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


class Processor:
    """Encodes observations for, and decodes chunks of, one embodiment of one checkpoint.

    Attributes:
        embodiment_tag: the tag as the checkpoint writes it.
        embodiment_id: index of the embodiment's projector weights.
        modality: "video", "state", "action", "language" -> ModalityConfig.
        state_dims, action_dims: physical width per group, in model order.
        max_state_dim, max_action_dim, max_action_horizon: the network's padded sizes.
    """

    def __init__(
        self,
        files: ProcessorFiles,
        embodiment_tag: str,
        tokenizer: Any,
        patch_layout: PatchLayout | None = None,
    ) -> None:
        """Builds a processor from files already read.

        Args:
            tokenizer: a loaded transformers tokenizer.
            patch_layout: Qwen's image settings; None for the released ones.

        Raises:
            ProcessorError: an unknown tag (the available ones are listed), or settings and statistics that do not fit.
        """
        self._files = files
        self._layout = patch_layout or PatchLayout()
        self._tokenizer_directory: Path | None = None
        self.embodiment_tag = _resolve(files, embodiment_tag)
        self.embodiment_id = files.embodiment_ids[self.embodiment_tag]
        where = f"{files.where}.modality_configs.{self.embodiment_tag}"
        self.modality: dict[str, ModalityConfig] = parse_modalities(files.modality_configs[self.embodiment_tag], where)
        statistics, statistics_where = files.tag_statistics(self.embodiment_tag)
        self._groups = StateActionProcessor(
            self.modality["state"],
            self.modality["action"],
            statistics,
            use_percentiles=files.flag("use_percentiles"),
            clip_outliers=files.flag("clip_outliers"),
            apply_sincos=files.flag("apply_sincos_state_encoding"),
            use_relative_action=files.flag("use_relative_action"),
            where=statistics_where,
        )
        self.state_dims, self.action_dims = self._groups.state_dims, self._groups.action_dims
        self.max_state_dim = files.size("max_state_dim")
        self.max_action_dim = files.size("max_action_dim")
        self.max_action_horizon = files.size("max_action_horizon")
        self._check_capacity()
        self._exclude_state = files.flag("exclude_state") or self.modality["state"].exclude_state
        self._transform = EvalTransform.from_kwargs(files.image_kwargs(), files.where)
        self.prompts = PromptEncoder(tokenizer, self._layout.merge_size, files.flag("formalize_language"))

    @classmethod
    def from_checkpoint(cls, directory: str | Path, embodiment_tag: str, tokenizer: Any | None = None) -> Processor:
        """Reads the processor files of a checkpoint directory.

        Args:
            directory: a local checkpoint: processor_config.json, statistics.json, embodiment_id.json (here or
                in `processor/`), optionally preprocessor_config.json and tokenizer files.
            embodiment_tag: a tag of the checkpoint, or NVIDIA's enum name for it; case does not matter.
            tokenizer: a folder, a hub id, or a loaded tokenizer. None: the directory's own if it has one,
                else the backbone that processor_config.json names in `model_name`.

        Raises:
            ProcessorError: names the file and key, what was expected, what was found and what to do.
        """
        root = Path(directory).expanduser()
        files = ProcessorFiles.read(root)
        own = next((folder for folder in (root, files.directory) if has_tokenizer(folder)), None)
        settings = root if (root / PREPROCESSOR_FILE).is_file() else files.directory
        layout = PatchLayout.from_directory(settings)
        _resolve(files, embodiment_tag)  # a wrong tag must not have to wait for a download
        if tokenizer is None:
            loaded = load_tokenizer(own if own is not None else files.model_name())
        else:
            loaded = load_tokenizer(tokenizer) if isinstance(tokenizer, (str, Path)) else tokenizer
        processor = cls(files, embodiment_tag, loaded, layout)
        if tokenizer is None:
            processor._tokenizer_directory = own
        return processor

    @property
    def action_horizon(self) -> int:
        """Steps of one decoded chunk: the length of the action delta_indices."""
        return self._groups.horizon

    def state_limits(self, key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Training range of a state group: (min, max), float64 [D] each, physical units.

        Raises:
            ProcessorError: no such group.
        """
        return self._groups.state_limits(key)

    def blank_state(self) -> dict[str, NDArray[np.float32]]:
        """A state that can be encoded and decoded, for warming up: zeros, and no rotation where there is a pose.

        Returns:
            group -> float32 [T, D].
        """
        steps = len(self.modality["state"].delta_indices)
        state = {key: np.zeros((steps, dim), dtype=np.float32) for key, dim in self.state_dims.items()}
        action = self.modality["action"]
        for key in action.modality_keys if self._groups.use_relative_action else ():
            config = action.action_config(key)
            if config.rep is ActionRep.RELATIVE and config.type is ActionType.EEF:
                state[config.state_key or key][:] = from_homogeneous(np.eye(4), config.format)
        return state

    def encode(
        self,
        video: Mapping[str, Frames],
        state: Groups,
        instruction: str,
        action: Groups | None = None,
    ) -> Sample:
        """One observation -> one sample.

        Args:
            video: camera -> RGB uint8 [T, H, W, 3], T = len(delta_indices) of video, in that order.
            state: group -> float32 [T, D], physical units (float64 is rounded to float32).
            instruction: what the robot is to do.
            action: for training, group -> float32 [H, D], physical and absolute, H = len(delta_indices) of action.

        Returns:
            numpy arrays: input_ids int64 [L]; pixel_values float32 [patches, 3 * temporal * patch^2]; image_grid_thw
            int64 [images, 3], in the order t0 view0, t0 view1, t1 view0, ...; state float32 [T, max_state_dim];
            embodiment_id int64 []; with `action` also action float32 [max_action_horizon, max_action_dim] and
            action_mask of the same shape, 1 on real steps and dimensions.

        Raises:
            ProcessorError: a missing or unknown key, a wrong type or shape, NaN or infinity, an empty instruction.
        """
        physical = self._checked_state(state)
        sample: Sample = {
            "state": self._state_rows(physical),
            "embodiment_id": np.asarray(self.embodiment_id, dtype=np.int64),
        }
        sample["pixel_values"], grids = self._images(video)
        sample["image_grid_thw"] = np.asarray(grids, dtype=np.int64)
        sample["input_ids"] = self.prompts.encode(instruction, grids)
        if action is not None:
            sample["action"], sample["action_mask"] = self._action_rows(action, physical)
        return sample

    def collate(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """Samples of `encode` -> one batch for the model.

        Prompts are padded on the left. Note that padding changes the result a little: the N1.7 network attends to it.

        Returns:
            input_ids, attention_mask int64 [B, L]; pixel_values float32 [all patches, P] and image_grid_thw
            int64 [all images, 3], sample after sample; state float32 [B, T, S]; embodiment_id int64 [B];
            action, action_mask float32 [B, H, A] if the samples have them.

        Raises:
            ProcessorError: no samples, or only some of them with an action.
        """
        if not samples:
            raise ProcessorError("collate", "at least one sample", "none")
        with_action = sum("action" in sample for sample in samples)
        if with_action not in (0, len(samples)):
            raise ProcessorError("collate", "an action in every sample or in none", f"{with_action} of {len(samples)}")
        length = max(len(sample["input_ids"]) for sample in samples)
        ids = np.full((len(samples), length), self.prompts.pad_token_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, sample in enumerate(samples):
            start = length - len(sample["input_ids"])
            ids[row, start:] = sample["input_ids"]
            mask[row, start:] = 1
        arrays = {
            "input_ids": ids,
            "attention_mask": mask,
            "pixel_values": np.concatenate([sample["pixel_values"] for sample in samples]),
            "image_grid_thw": np.concatenate([sample["image_grid_thw"] for sample in samples]),
        }
        stacked = ("state", "embodiment_id", *(("action", "action_mask") if with_action else ()))
        arrays.update({name: np.stack([sample[name] for sample in samples]) for name in stacked})
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def decode(self, normalized: NDArray[np.floating[Any]], state: Groups) -> dict[str, NDArray[np.float32]]:
        """The model's chunk -> physical, absolute actions.

        Args:
            normalized: [B, H, A] with H >= the action horizon and A >= the sum of the action widths; float32
                or float64.
            state: the physical state groups [B, T, D] the chunk was computed from; only those that relative
                action groups refer to are needed. The last row counts.

        Returns:
            group -> float32 [B, action horizon, D].

        Raises:
            ProcessorError: a wrong shape, NaN or infinity in the chunk or the state, or a rotation that
                cannot be decoded.
        """
        chunk = checked_numbers("model output", normalized, (None, None, None))
        batch, steps, width = chunk.shape
        needed = sum(self.action_dims.values())
        if steps < self.action_horizon or width < needed:
            raise ProcessorError(
                "model output",
                f"at least {self.action_horizon} steps of {needed} numbers",
                f"{steps} steps of {width}",
                "The checkpoint's config.json and processor_config.json do not belong together.",
            )
        references = {
            key: checked_numbers(f"state '{key}'", _required(state, key), (batch, None, self.state_dims[key]))
            for key in self._reference_keys()
        }
        groups: dict[str, NDArray[np.floating[Any]]] = {}
        start = 0
        for key, dim in self.action_dims.items():
            groups[key] = chunk[:, : self.action_horizon, start : start + dim]
            start += dim
        physical = self._groups.unapply_action(groups, references)
        return {
            key: checked_numbers(f"decoded action '{key}'", value, (None, None, None))
            for key, value in physical.items()
        }

    def save(self, directory: str | Path) -> None:
        """Writes the processor's files in NVIDIA's layout.

        processor_config.json, statistics.json and embodiment_id.json always; preprocessor_config.json where
        the image settings are not the released ones; tokenizer files where the processor was read together with them.
        """
        target = Path(directory).expanduser()
        self._files.write(target)
        if self._layout != PatchLayout():
            text = json.dumps(self._layout.to_dict(), indent=2)
            (target / PREPROCESSOR_FILE).write_text(text, encoding="utf-8")
        source = self._tokenizer_directory
        if source is not None and source.resolve() != target.resolve():
            for name in _TOKENIZER_FILES:
                if (source / name).is_file():
                    shutil.copyfile(source / name, target / name)

    def _check_capacity(self) -> None:
        state_width = sum(self._groups.state_width(key) for key in self.state_dims)
        for name, used, limit in (
            ("max_state_dim", state_width, self.max_state_dim),
            ("max_action_dim", sum(self.action_dims.values()), self.max_action_dim),
            ("max_action_horizon", self.action_horizon, self.max_action_horizon),
        ):
            if used > limit:
                raise ProcessorError(
                    f"{self._files.where}.{name}", f"at least {used} for '{self.embodiment_tag}'", str(limit)
                )

    def _checked_state(self, state: Groups) -> dict[str, NDArray[np.float32]]:
        steps = len(self.modality["state"].delta_indices)
        check_keys("state", state, self.state_dims)
        return {
            key: checked_numbers(f"state '{key}'", state[key], (steps, dim)) for key, dim in self.state_dims.items()
        }

    def _state_rows(self, physical: Groups) -> NDArray[np.float32]:
        rows = np.zeros((len(self.modality["state"].delta_indices), self.max_state_dim), dtype=np.float32)
        if not self._exclude_state:
            values = np.concatenate(list(self._groups.apply_state(physical).values()), axis=-1)
            rows[:, : values.shape[-1]] = values
        return rows

    def _action_rows(self, action: Groups, physical_state: Groups) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        check_keys("action", action, self.action_dims)
        checked = {
            key: checked_numbers(f"action '{key}'", action[key], (self.action_horizon, dim))
            for key, dim in self.action_dims.items()
        }
        values = np.concatenate(list(self._groups.apply_action(checked, physical_state).values()), axis=-1)
        if not np.isfinite(values).all():
            raise ProcessorError("action", "poses with a valid rotation", "a rotation that cannot be decoded")
        rows = np.zeros((self.max_action_horizon, self.max_action_dim), dtype=np.float32)
        mask = np.zeros_like(rows)
        rows[: values.shape[0], : values.shape[1]] = values
        mask[: values.shape[0], : values.shape[1]] = 1.0
        return rows, mask

    def _images(self, video: Mapping[str, Frames]) -> tuple[NDArray[np.float32], tuple[Grid, ...]]:
        """Patches of all images, time-major and view-minor, and one grid per image."""
        keys = self.modality["video"].modality_keys
        steps = len(self.modality["video"].delta_indices)
        check_keys("video", video, keys)
        views = [self._transform(checked_frames(f"video '{key}'", video[key], steps)) for key in keys]
        if len({view.shape for view in views}) == 1:
            ordered = np.stack(views, axis=1).reshape(-1, *views[0].shape[1:])
            patches, grid = self._layout.patches(ordered)
            return patches.reshape(-1, patches.shape[-1]), (grid,) * len(ordered)
        # NVIDIA's processor stacks the views and so fails here; the network itself takes images of different sizes.
        cut = [self._layout.patches(view) for view in views]
        parts = [cut[view][0][step] for step in range(steps) for view in range(len(views))]
        return np.concatenate(parts), tuple(cut[view][1] for _ in range(steps) for view in range(len(views)))

    def _reference_keys(self) -> list[str]:
        action = self.modality["action"]
        relative = [key for key in action.modality_keys if action.action_config(key).rep is ActionRep.RELATIVE]
        references = (action.action_config(key).state_key or key for key in relative)
        return list(dict.fromkeys(references)) if self._groups.use_relative_action else []


def _required(state: Any, key: str) -> Any:
    if not isinstance(state, Mapping) or key not in state:
        found = listing(state) if isinstance(state, Mapping) else describe(state)
        raise ProcessorError("state", f"the key '{key}', the reference of a relative action group", found)
    return state[key]


def _resolve(files: ProcessorFiles, embodiment_tag: str) -> str:
    available = list(files.modality_configs)
    tag = resolve_tag(embodiment_tag, available)
    if tag is None:
        raise ProcessorError(
            f"{files.where}.modality_configs",
            f"the embodiment tag '{embodiment_tag}'",
            f"tags {listing(available)}",
            "Set the embodiment's tag to one of these, or use a checkpoint that was trained for it.",
        )
    if tag not in files.embodiment_ids:
        raise ProcessorError(
            f"{files.directory / EMBODIMENT_FILE}",
            f"a projector index for '{tag}'",
            f"entries {listing(files.embodiment_ids)}",
            "Add the tag with the index it was trained with.",
        )
    return tag
