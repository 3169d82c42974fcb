"""State and action groups <-> normalised groups: representation (relative, absolute) and scale."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from groot_ros.processing.codecs import Codec
from groot_ros.processing.errors import ProcessorError, listing
from groot_ros.processing.modality import ActionConfig, ActionRep, ActionType, ModalityConfig
from groot_ros.processing.normalization import Array, Floats
from groot_ros.processing.pose import POSE_DIMS, absolute_poses, from_homogeneous, relative_poses
from groot_ros.processing.statistics import TagStatistics


class StateActionProcessor:
    """Normalises and un-normalises the state and action groups of one embodiment.

    How one group is scaled is its codec's business (`groot_ros.processing.scaling` makes them for each generation);
    this class adds the relative actions. All methods take groups with any leading axes ([T, D] or [B, T, D]) and
    return new arrays.

    Attributes:
        state_dims: physical width of every state group, in model order.
        action_dims: physical width of every action group, in model order (from the absolute action statistics).
    """

    def __init__(
        self,
        state: ModalityConfig,
        action: ModalityConfig,
        statistics: TagStatistics,
        state_codecs: Mapping[str, Codec],
        action_codecs: Mapping[str, Codec],
        use_relative_action: bool,
    ) -> None:
        """Checks that relative groups and their references fit.

        Args:
            state_codecs, action_codecs: one per modality key.
            use_relative_action: whether RELATIVE groups are made relative; if not they are absolute.

        Raises:
            ProcessorError: widths that contradict each other or the action format, or an action that the model could
                predict but nobody could turn back.
        """
        self.state, self.action, self.use_relative_action = state, action, use_relative_action
        self._statistics = statistics
        self._state_codecs, self._action_codecs = dict(state_codecs), dict(action_codecs)
        self.state_dims = {key: statistics.width("state", key) for key in state.modality_keys}
        self.action_dims = {key: statistics.width("action", key) for key in action.modality_keys}
        for key in action.modality_keys:
            self._check_representation(key)

    @property
    def horizon(self) -> int:
        """Steps of one action chunk."""
        return len(self.action.delta_indices)

    @property
    def state_widths(self) -> dict[str, int]:
        """Width of every state group as the model gets it: twice the physical one with [sin, cos]."""
        return {key: codec.width for key, codec in self._state_codecs.items()}

    @property
    def action_widths(self) -> dict[str, int]:
        """Width of every action group as the model gives it; another than the physical one for converted rotations."""
        return {key: codec.width for key, codec in self._action_codecs.items()}

    def state_limits(self, key: str) -> tuple[Array, Array]:
        """Smallest and largest value of a state group in the training data, float64 [D] each, physical units."""
        if key not in self.state_dims:
            raise ProcessorError("state", f"one of {listing(self.state_dims)}", f"'{key}'")
        return self._statistics.extremes("state", key)

    def action_limits(self, key: str) -> tuple[Array, Array]:
        """As `state_limits`, of an action group, absolute also where the model sees it relative."""
        if key not in self.action_dims:
            raise ProcessorError("action", f"one of {listing(self.action_dims)}", f"'{key}'")
        return self._statistics.extremes("action", key)

    def neutral_state(self, steps: int) -> dict[str, NDArray[np.float32]]:
        """A state that can be encoded and referred to: zeros, and no rotation where there is a pose; [steps, D]."""
        state = {key: np.zeros((steps, dim), dtype=np.float32) for key, dim in self.state_dims.items()}
        for key, codec in self._state_codecs.items():
            if codec.neutral is not None:
                state[key][:] = codec.neutral
        for key in self.action.modality_keys:
            config = self._config(key)
            if self._is_relative(key) and config.type is ActionType.EEF:
                state[config.state_key or key][:] = from_homogeneous(np.eye(4), config.format)
        return state

    def reference_keys(self) -> list[str]:
        """State groups that relative action groups refer to."""
        relative = [key for key in self.action.modality_keys if self._is_relative(key)]
        return list(dict.fromkeys(self._config(key).state_key or key for key in relative))

    def apply_state(self, state: Mapping[str, Floats]) -> dict[str, Floats]:
        """Physical -> normalised state groups; [sin, cos] groups get twice the width. dtype is kept."""
        return {key: codec.encode(state[key]) for key, codec in self._state_codecs.items()}

    def unapply_state(self, normalized: Mapping[str, Floats]) -> dict[str, Floats]:
        """Normalised -> physical state groups, leaving out those without a way back, such as [sin, cos]."""
        return {key: codec.decode(normalized[key]) for key, codec in self._state_codecs.items() if codec.invertible}

    def apply_action(
        self, action: Mapping[str, Floats], state: Mapping[str, Floats], *, limit: bool = True
    ) -> dict[str, Floats]:
        """Physical absolute -> normalised action groups.

        Args:
            action: [..., H, D] per group.
            state: [..., T, D] physical state groups; the last row is the reference of relative groups.
            limit: whether values outside [-1, 1] are limited to it where the model's training did so.

        Returns:
            [..., H, width] per group: float64 for relative groups (NVIDIA's pose code works so), else the input's
            dtype.
        """
        result: dict[str, Floats] = {}
        for key, codec in self._action_codecs.items():
            value = self._to_relative(key, action[key], state) if self._is_relative(key) else action[key]
            result[key] = codec.encode(value, limit=limit)
        return result

    def unapply_action(self, normalized: Mapping[str, Floats], state: Mapping[str, Floats]) -> dict[str, Floats]:
        """Normalised -> physical absolute action groups; the inverse of `apply_action` inside the training range."""
        result: dict[str, Floats] = {}
        for key, codec in self._action_codecs.items():
            value = codec.decode(normalized[key])
            result[key] = self._to_absolute(key, value, state) if self._is_relative(key) else value
        return result

    def encode_rows(self, action: Mapping[str, Floats], state: Mapping[str, Floats]) -> NDArray[np.float32]:
        """Physical absolute actions -> rows as the model has them, the groups side by side.

        Never limited to [-1, 1]: where a target lies outside the range around a new state, it is still that target.

        Args:
            action: [..., H, D] per group, H the horizon: relative groups have one scale per step.
            state: as for `apply_action`; only `reference_keys` are needed.

        Returns:
            float32 [..., H, sum of `action_widths`]; NaN where a rotation is none.
        """
        return np.concatenate(list(self.apply_action(action, state, limit=False).values()), axis=-1).astype(np.float32)

    def decode_rows(self, rows: Floats, state: Mapping[str, Floats]) -> dict[str, Floats]:
        """The inverse of `encode_rows`: [..., H or more, width or more] -> physical absolute groups [..., H, D].

        What lies outside the normalised range comes back limited to it, as far as the codecs limit.
        """
        groups: dict[str, Floats] = {}
        start = 0
        for key, width in self.action_widths.items():
            groups[key] = rows[..., : self.horizon, start : start + width]
            start += width
        return self.unapply_action(groups, state)

    def _config(self, key: str) -> ActionConfig:
        return self.action.action_config(key)

    def _is_relative(self, key: str) -> bool:
        return self.use_relative_action and self._config(key).rep is ActionRep.RELATIVE

    def _reference(self, key: str, state: Mapping[str, Floats]) -> NDArray[np.float64]:
        return np.asarray(state[self._config(key).state_key or key][..., -1, :], dtype=np.float64)

    def _to_relative(self, key: str, value: Floats, state: Mapping[str, Floats]) -> Array:
        config, reference = self._config(key), self._reference(key, state)
        if config.type is ActionType.EEF:
            return relative_poses(reference, value, config.format)
        return np.asarray(value, dtype=np.float64) - reference[..., None, :]

    def _to_absolute(self, key: str, value: Floats, state: Mapping[str, Floats]) -> Array:
        config, reference = self._config(key), self._reference(key, state)
        if config.type is ActionType.EEF:
            return absolute_poses(reference, value, config.format)
        return reference[..., None, :] + value

    def _check_representation(self, key: str) -> None:
        if not self._is_relative(key):
            return
        config, width = self._config(key), self.action_dims[key]
        reference = config.state_key or key
        if config.type is ActionType.EEF and width != POSE_DIMS[config.format]:
            raise ProcessorError(
                f"{self._statistics.where}.action.{key}",
                f"{POSE_DIMS[config.format]} numbers for EEF format {config.format.name}",
                f"{width}",
            )
        if self.state_dims.get(reference) != width:
            raise ProcessorError(
                f"{self._statistics.where}.state.{reference}",
                f"{width} numbers, as the relative action group '{key}' that refers to it",
                f"{self.state_dims.get(reference, 'no such state group')}",
            )
