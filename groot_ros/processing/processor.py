"""The processor of all generations: one observation -> model inputs, and the model's chunk -> physical actions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from groot_ros.processing.batch import collate
from groot_ros.processing.checks import checked_groups, checked_numbers
from groot_ros.processing.config import ProcessorFiles
from groot_ros.processing.errors import ProcessorError, describe, listing
from groot_ros.processing.images import Frames
from groot_ros.processing.language import Grid, PromptEncoder, copy_tokenizer, has_tokenizer, load_tokenizer
from groot_ros.processing.modality import ModalityConfig, parse_modalities
from groot_ros.processing.patches import PREPROCESSOR_FILE, Layout, PatchLayout
from groot_ros.processing.scaling import state_action_processor
from groot_ros.processing.vision import check_aspects, image_encoder

Sample = dict[str, Any]
Groups = Mapping[str, NDArray[np.floating[Any]]]


class Processor:
    """Encodes observations for, and decodes chunks of, one embodiment of one checkpoint.

    Attributes:
        generation: `n1d5`, `n1d6` or `n1d7`.
        embodiment_tag: the tag as the checkpoint writes it.
        embodiment_id: index of the embodiment's projector weights.
        modality: "video", "state", "action", "language" -> ModalityConfig.
        state_dims, action_dims: physical width per group, in model order.
        max_state_dim, max_action_dim, max_action_horizon: the network's padded sizes.
        images: frames -> patches.
        prompts: instruction -> token ids.
    """

    def __init__(
        self,
        files: ProcessorFiles,
        embodiment_tag: str,
        tokenizer: Any,
        layout: Layout | None = None,
        *,
        image_settings: Path | None = None,
        reference_prompt: bool = True,
    ) -> None:
        """Builds a processor from files already read.

        Args:
            tokenizer: a loaded transformers tokenizer.
            layout: patch geometry; None: that of `image_settings` or of the generation.
            image_settings: folder that may hold N1.7's preprocessor_config.json; None for the released settings.
            reference_prompt: N1.5 only. NVIDIA's policy writes the instruction as the text of a list (`['pick up']`),
                its training as plain text. True follows both: encoding without an action is the policy's, with one
                the training's. False: plain text always.

        Raises:
            ProcessorError: an unknown tag (the available ones are listed), or settings and statistics that do not fit.
        """
        self._files = files
        self._tokenizer_directory: Path | None = None
        self.generation = files.generation.name
        self.embodiment_tag = files.resolve(embodiment_tag)
        self.embodiment_id = files.embodiment_ids[self.embodiment_tag]
        self.modality: dict[str, ModalityConfig] = parse_modalities(*files.modality(self.embodiment_tag))
        self._groups = state_action_processor(files, self.embodiment_tag, self.modality)
        self.state_dims, self.action_dims = self._groups.state_dims, self._groups.action_dims
        self.max_state_dim = files.size("max_state_dim")
        self.max_action_dim = files.size("max_action_dim")
        self.max_action_horizon = files.size("max_action_horizon")
        self._check_capacity()
        excluded = "exclude_state" in files.generation.defaults and files.flag("exclude_state")
        self._exclude_state = excluded or self.modality["state"].exclude_state
        self.images = image_encoder(files, self.modality["video"], layout, image_settings)
        self._view_sizes: dict[str, tuple[int, int]] | None = None
        chat = files.generation.chat
        self._quoted = reference_prompt and chat.quoted
        self.prompts = PromptEncoder(tokenizer, chat, self.images.layout.merge_size, files.flag("formalize_language"))

    @classmethod
    def from_checkpoint(
        cls,
        directory: str | Path,
        embodiment_tag: str,
        tokenizer: Any | None = None,
        modality: Mapping[str, Any] | None = None,
        *,
        reference_prompt: bool = True,
        files: ProcessorFiles | None = None,
    ) -> Processor:
        """Reads the processor files of a checkpoint directory of any generation.

        Args:
            directory: a local checkpoint: processor_config.json, statistics.json, embodiment_id.json (here or
                in `processor/`), optionally preprocessor_config.json and tokenizer files; N1.5: config.json and
                experiment_cfg/metadata.json, optionally experiment_cfg/modality_config.json and embodiment_id.json.
            embodiment_tag: a tag of the checkpoint, or NVIDIA's enum name for it; case does not matter.
            tokenizer: a folder, a hub id, or a loaded tokenizer. None: the directory's own if it has one,
                else the backbone's: the one that processor_config.json names in `model_name`, or Qwen3's for Eagle.
                A Qwen3 tokenizer without Eagle's tokens gets them (`groot_ros.processing.language`).
            modality: what processor_config.json has under `modality_configs[tag]`, in its place. N1.5's checkpoints
                have none, so there it is needed, unless experiment_cfg/modality_config.json is there. For N1.5, state
                and action have `normalization_modes` (key -> min_max, q99, mean_std, binary, scale, sin_cos or none;
                absent: min_max) and `target_rotations` (key -> rotation_6d, quaternion, euler_angles_rpy, axis_angle).
            reference_prompt: see the constructor.
            files: the directory's files, changed, in place of what is in it.

        Raises:
            ProcessorError: names the file and key, what was expected, what was found and what to do.
        """
        root = Path(directory).expanduser()
        files = ProcessorFiles.read(root) if files is None else files
        if modality is not None:
            files = files.with_modality(embodiment_tag, modality)
        own = next((folder for folder in (root, files.directory) if has_tokenizer(folder)), None)
        settings = root if (root / PREPROCESSOR_FILE).is_file() else files.directory
        files.modality(files.resolve(embodiment_tag))  # a wrong tag must not have to wait for a download
        if tokenizer is None:
            loaded = load_tokenizer(own if own is not None else files.tokenizer_id())
        else:
            loaded = load_tokenizer(tokenizer) if isinstance(tokenizer, (str, Path)) else tokenizer
        processor = cls(files, embodiment_tag, loaded, image_settings=settings, reference_prompt=reference_prompt)
        if tokenizer is None:
            processor._tokenizer_directory = own
        return processor

    @property
    def settings_place(self) -> str:
        """File and key of the settings, for errors."""
        return self._files.where

    @property
    def merge_size(self) -> int:
        """Patches per side of one image token."""
        return self.images.layout.merge_size

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

    def action_limits(self, key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Training range of an action group: (min, max), float64 [D] each, physical and absolute units.

        Raises:
            ProcessorError: no such group.
        """
        return self._groups.action_limits(key)

    @property
    def action_widths(self) -> dict[str, int]:
        """Numbers per step of every action group in the model's own units, in model order."""
        return dict(self._groups.action_widths)

    def blank_state(self) -> dict[str, NDArray[np.float32]]:
        """A state that can be encoded and decoded, for warming up: zeros, and no rotation where there is a pose.

        Returns:
            group -> float32 [T, D].
        """
        return self._groups.neutral_state(len(self.modality["state"].delta_indices))

    def check_views(self, sizes: Mapping[str, tuple[int, int]]) -> None:
        """Checks the robot's views before the first observation, and remembers them for `check_instruction`.

        Args:
            sizes: camera -> (height, width) in pixels.

        Raises:
            ProcessorError: a missing or unknown camera, a size that the images cannot have, another aspect ratio than
                in training (N1.5, whose files say it), or different sizes: of the views (N1.5), or of what the
                transform leaves of them (all).
        """
        self.images.grids(sizes)
        check_aspects(self._files, self.embodiment_tag, sizes)
        self._view_sizes = dict(sizes)

    def check_instruction(self, text: str, max_tokens: int) -> int:
        """Checks an instruction before the first inference with it.

        Args:
            max_tokens: longest prompt that the model takes (`GrootModel.max_prompt_tokens`).

        Returns:
            Tokens of its prompt, those of the images included; the views are those of the last `check_views`, else
            square.

        Raises:
            ProcessorError: an instruction without words, or a prompt that is too long.
        """
        ids, grids = self.prompt(text)
        count = len(ids)
        if count > max_tokens:
            words = count - sum(t * h * w for t, h, w in grids) // self.images.layout.merge_size**2
            raise ProcessorError(
                "instruction",
                f"a prompt of at most {max_tokens} tokens, all that the model takes",
                f"{count} tokens, {words} of them text, for {describe(text)}",
                "Say it in fewer words.",
            )
        return count

    def prompt(self, text: str) -> tuple[NDArray[np.int64], tuple[Grid, ...]]:
        """What an observation with this instruction has beside its pictures and its state. From any thread.

        Returns:
            token ids int64 [L], as `encode` gives them, and a grid (1, rows, columns) in patches per image; the views
            are those of the last `check_views`, else square.

        Raises:
            ProcessorError: an instruction without words.
        """
        grids = self.images.grids(self._view_sizes)
        return self.prompts.encode(text, grids, quoted=self._quoted), grids

    def encode(
        self,
        video: Mapping[str, Frames],
        state: Groups,
        instruction: str,
        action: Groups | None = None,
        augment: np.random.Generator | None = None,
        *,
        raw: Frames | None = None,
    ) -> Sample:
        """One observation -> one sample.

        Args:
            video: camera -> RGB uint8 [T, H, W, 3], T = len(delta_indices) of video, in that order.
            state: group -> float32 [T, D], physical units (float64 is rounded to float32).
            instruction: what the robot is to do.
            action: for training, group -> float32 [H, D], physical and absolute, H = len(delta_indices) of action.
            augment: for training, crops, turns and colours the frames (`groot_ros.processing.augmentation`): one draw
                from it for all views and steps; None: the transform of evaluation.
            raw: uint8 [images, H, W, 3], filled with the frames as they are, in the order of the images, for
                `groot_ros.processing.device_images`; the sample has no pixel_values then.

        Returns:
            numpy arrays: input_ids int64 [L]; pixel_values float32 [patches, P]; image_grid_thw int64 [images, 3],
            (1, rows, columns) in patches, in the order t0 view0, t0 view1, t1 view0, ...; state float32
            [T, max_state_dim]; embodiment_id int64 []; with `action` also action float32
            [max_action_horizon, max_action_dim] and action_mask of the same shape, float32, 1 on real steps and
            dimensions. N1.5: action_mask is bool, and there is state_mask, bool [T, max_state_dim].

        Raises:
            ProcessorError: a missing or unknown key, a wrong type or shape, NaN or infinity, a rotation that is none,
                an empty instruction, or views of different sizes where one is needed.
        """
        physical = self._checked_state(state)
        sample: Sample = {"embodiment_id": np.asarray(self.embodiment_id, dtype=np.int64)}
        sample["state"], state_mask = self._state_rows(physical)
        if self._files.generation.bool_masks:
            sample["state_mask"] = state_mask
        if raw is None:
            sample["pixel_values"], grids = self.images.encode(video, augment)
        else:
            grids = self.images.stack(video, raw)
        sample["image_grid_thw"] = np.asarray(grids, dtype=np.int64)
        sample["input_ids"] = self.prompts.encode(instruction, grids, quoted=self._quoted and action is None)
        if action is not None:
            sample["action"], sample["action_mask"] = self._action_rows(action, physical)
        return sample

    def encode_state(self, state: Groups) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The numbers of an observation alone: float32 [T, max_state_dim], and True where they are.

        Raises:
            ProcessorError: see `encode`.
        """
        return self._state_rows(self._checked_state(state))

    def collate(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """Samples of `encode` -> one batch for the model.

        Prompts are padded on the left. Note that padding changes the result a little: the networks of N1.5 and N1.7
        attend to it. The pictures of a single sample are not copied: the batch shares their memory with it.

        Returns:
            input_ids, attention_mask int64 [B, L]; pixel_values float32 [all patches, P] and image_grid_thw
            int64 [all images, 3], sample after sample; state float32 [B, T, S]; embodiment_id int64 [B];
            action, action_mask [B, H, A]; N1.5: state_mask bool [B, T, S]. pixel_values, action and action_mask if the
            samples have them.

        Raises:
            ProcessorError: no samples, or only some of them with an action.
        """
        return collate(samples, self.prompts.pad_token_id)

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
        batch, steps, found = chunk.shape
        needed = sum(self._groups.action_widths.values())
        if steps < self.action_horizon or found < needed:
            raise ProcessorError(
                "model output",
                f"at least {self.action_horizon} steps of {needed} numbers",
                f"{steps} steps of {found}",
                "The checkpoint's config.json and processor_config.json do not belong together.",
            )
        physical = self._groups.decode_rows(chunk, self._references(state, (batch,)))
        return {
            key: checked_numbers(f"decoded action '{key}'", value, (None, None, None))
            for key, value in physical.items()
        }

    def encode_action(self, action: Groups, state: Groups) -> NDArray[np.float32]:
        """A chunk in physical, absolute units -> rows as the model would have given them; the inverse of `decode`.

        Relative groups are referred to `state`, which may be another than the chunk was computed from. Not limited to
        [-1, 1]: a target outside the range around a new state stays the target that it is.

        Args:
            action: group -> float32 or float64 [action horizon, D].
            state: physical state groups [T, D]; only those that relative action groups refer to are needed. The last
                row counts.

        Returns:
            float32 [action horizon, sum of the action widths].

        Raises:
            ProcessorError: a missing or unknown key, a wrong shape, NaN or infinity, or a rotation that is none.
        """
        checked_groups("action", action, self.action_dims, self.action_horizon)
        exact = {key: np.asarray(value, dtype=np.float64) for key, value in action.items()}
        rows = self._groups.encode_rows(exact, self._references(state, ()))
        if not np.isfinite(rows).all():
            raise ProcessorError("action", "poses with a valid rotation", "a rotation that cannot be encoded")
        return rows

    def save(self, directory: str | Path) -> None:
        """Writes the processor's files in NVIDIA's layout.

        N1.6, N1.7: processor_config.json, statistics.json and embodiment_id.json always; preprocessor_config.json where
        N1.7's image settings are not the released ones. N1.5: metadata.json and modality_config.json in experiment_cfg,
        and embodiment_id.json if there was one; the sizes of the network are in config.json, which is not written here.
        Tokenizer files where the processor was read together with them.
        """
        target = Path(directory).expanduser()
        self._files.write(target)
        layout = self.images.layout
        if isinstance(layout, PatchLayout) and layout != PatchLayout():
            text = json.dumps(layout.to_dict(), indent=2)
            (target / PREPROCESSOR_FILE).write_text(text, encoding="utf-8")
        source = self._tokenizer_directory
        if source is not None and source.resolve() != target.resolve():
            copy_tokenizer(source, target)

    def _check_capacity(self) -> None:
        state_width = 0 if self._files.generation.truncates_state else sum(self._groups.state_widths.values())
        for name, used, limit in (
            ("max_state_dim", state_width, self.max_state_dim),
            ("max_action_dim", sum(self._groups.action_widths.values()), self.max_action_dim),
            ("max_action_horizon", self.action_horizon, self.max_action_horizon),
        ):
            if used > limit:
                raise ProcessorError(
                    f"{self._files.where}.{name}", f"at least {used} for '{self.embodiment_tag}'", str(limit)
                )

    def _references(self, state: Groups, batch: tuple[int, ...]) -> dict[str, NDArray[np.float32]]:
        """The state groups [*batch, T, D] that relative action groups refer to."""
        return {
            key: checked_numbers(f"state '{key}'", _required(state, key), (*batch, None, self.state_dims[key]))
            for key in self._groups.reference_keys()
        }

    def _checked_state(self, state: Groups) -> dict[str, NDArray[np.float32]]:
        return checked_groups("state", state, self.state_dims, len(self.modality["state"].delta_indices))

    def _state_rows(self, physical: Groups) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        steps = len(self.modality["state"].delta_indices)
        if self._exclude_state:
            values = np.zeros((steps, 0), dtype=np.float32)
        else:
            values = np.concatenate(list(self._groups.apply_state(physical).values()), axis=-1)
            if not np.isfinite(values).all():
                raise ProcessorError("state", "numbers with a valid rotation", "a rotation that cannot be converted")
        return _padded(values[:, : self.max_state_dim], (steps, self.max_state_dim))

    def _action_rows(self, action: Groups, physical_state: Groups) -> tuple[NDArray[np.float32], NDArray[Any]]:
        checked = checked_groups("action", action, self.action_dims, self.action_horizon)
        values = np.concatenate(list(self._groups.apply_action(checked, physical_state).values()), axis=-1)
        if not np.isfinite(values).all():
            raise ProcessorError("action", "poses with a valid rotation", "a rotation that cannot be decoded")
        rows, mask = _padded(values, (self.max_action_horizon, self.max_action_dim))
        return rows, mask if self._files.generation.bool_masks else mask.astype(np.float32)


def _padded(values: NDArray[np.floating[Any]], shape: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """`values` in the corner of zeros of `shape`, and True where they are."""
    rows, mask = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.bool_)
    rows[: values.shape[0], : values.shape[1]] = values
    mask[: values.shape[0], : values.shape[1]] = True
    return rows, mask


def _required(state: Any, key: str) -> Any:
    if not isinstance(state, Mapping) or key not in state:
        found = listing(state) if isinstance(state, Mapping) else describe(state)
        raise ProcessorError("state", f"the key '{key}', the reference of a relative action group", found)
    return state[key]
