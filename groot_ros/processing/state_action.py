"""State and action groups <-> normalised groups: representation (relative, absolute) and scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groot_ros.processing.errors import ProcessorError, describe, listing
from groot_ros.processing.modality import ActionConfig, ActionRep, ActionType, ModalityConfig
from groot_ros.processing.normalization import (
    Array,
    Floats,
    Normalizer,
    bounds_from,
    moments_from,
    sin_cos,
    statistic,
)
from groot_ros.processing.pose import POSE_DIMS, absolute_poses, relative_poses


class StateActionProcessor:
    """Normalises and un-normalises the state and action groups of one embodiment.

    All methods take groups with any leading axes ([T, D] or [B, T, D]) and return new arrays.

    Attributes:
        state_dims: physical width of every state group, in model order.
        action_dims: physical width of every action group, in model order (from the absolute action statistics).
    """

    def __init__(
        self,
        state: ModalityConfig,
        action: ModalityConfig,
        statistics: Mapping[str, Any],
        *,
        use_percentiles: bool,
        clip_outliers: bool,
        apply_sincos: bool,
        use_relative_action: bool,
        where: str = "statistics",
    ) -> None:
        """Reads the statistics of every group.

        Args:
            statistics: `{state, action, relative_action}` of one embodiment tag, as in statistics.json.
            where: file and tag, for errors.

        Raises:
            ProcessorError: statistics missing or malformed, widths that contradict each other or the action
                format, or relative statistics whose number of steps is not the action horizon.
        """
        self.state, self.action = state, action
        self.clip_outliers, self.use_relative_action = clip_outliers, use_relative_action
        self._where, self._statistics = where, statistics
        self._sincos = set(state.sin_cos_embedding_keys or ()) if apply_sincos else set()
        self.state_dims = {key: self._width("state", key) for key in state.modality_keys}
        self.action_dims = {key: self._width("action", key) for key in action.modality_keys}
        self._state_normalizers = {
            key: self._absolute_normalizer("state", key, state, use_percentiles) for key in state.modality_keys
        }
        self._action_normalizers = {
            key: self._relative_normalizer(key)
            if self._is_relative(key)
            else self._absolute_normalizer("action", key, action, use_percentiles)
            for key in action.modality_keys
        }
        for key in action.modality_keys:
            self._check_representation(key)

    @property
    def horizon(self) -> int:
        """Steps of one action chunk."""
        return len(self.action.delta_indices)

    def state_width(self, key: str) -> int:
        """Width of a state group as the model gets it: twice the physical width with [sin, cos]."""
        return self.state_dims[key] * (2 if key in self._sincos else 1)

    def state_limits(self, key: str) -> tuple[Array, Array]:
        """Smallest and largest value of a state group in the training data, float64 [D] each, physical units."""
        if key not in self.state_dims:
            raise ProcessorError("state", f"one of {listing(self.state_dims)}", f"'{key}'")
        group, where = self._group("state", key)
        return statistic(group, "min", where).copy(), statistic(group, "max", where).copy()

    def apply_state(self, state: Mapping[str, Floats]) -> dict[str, Floats]:
        """Physical -> normalised state groups; [sin, cos] groups get twice the width. dtype is kept."""
        result: dict[str, Floats] = {}
        for key in self.state.modality_keys:
            normalizer = self._state_normalizers[key]
            if key in self._sincos:
                result[key] = sin_cos(state[key])
            else:
                # The reference limits mean/std groups of the action, but not of the state.
                limited = key not in (self.state.mean_std_embedding_keys or ())
                result[key] = normalizer.normalize(state[key], self.clip_outliers and limited)
        return result

    def unapply_state(self, normalized: Mapping[str, Floats]) -> dict[str, Floats]:
        """Normalised -> physical state groups, leaving out [sin, cos] groups, which have no inverse."""
        return {
            key: self._state_normalizers[key].unnormalize(normalized[key])
            for key in self.state.modality_keys
            if key not in self._sincos
        }

    def apply_action(self, action: Mapping[str, Floats], state: Mapping[str, Floats]) -> dict[str, Floats]:
        """Physical absolute -> normalised action groups.

        Args:
            action: [..., H, D] per group.
            state: [..., T, D] physical state groups; the last row is the reference of relative groups.

        Returns:
            [..., H, D] per group: float64 for relative groups (NVIDIA's pose code works so), else the input's dtype.
        """
        result: dict[str, Floats] = {}
        for key in self.action.modality_keys:
            value = self._to_relative(key, action[key], state) if self._is_relative(key) else action[key]
            result[key] = self._action_normalizers[key].normalize(value, self.clip_outliers)
        return result

    def unapply_action(self, normalized: Mapping[str, Floats], state: Mapping[str, Floats]) -> dict[str, Floats]:
        """Normalised -> physical absolute action groups; the inverse of `apply_action` inside the training range."""
        result: dict[str, Floats] = {}
        for key in self.action.modality_keys:
            value = self._action_normalizers[key].unnormalize(normalized[key])
            result[key] = self._to_absolute(key, value, state) if self._is_relative(key) else value
        return result

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

    def _group(self, section: str, key: str) -> tuple[Any, str]:
        groups = self._statistics.get(section)
        where = f"{self._where}.{section}"
        if not isinstance(groups, Mapping):
            found = "no such key" if groups is None else describe(groups)
            raise ProcessorError(where, "an object with one entry per group", found)
        if key not in groups:
            raise ProcessorError(
                where,
                f"statistics of group '{key}', which processor_config.json names",
                f"groups {listing(groups)}",
                "Compute the statistics of the dataset again, or use the checkpoint of this robot.",
            )
        return groups[key], f"{where}.{key}"

    def _width(self, section: str, key: str) -> int:
        group, where = self._group(section, key)
        low = statistic(group, "min", where)
        if low.ndim != 1:
            raise ProcessorError(f"{where}.min", "a list [D]", f"shape {low.shape}")
        return int(low.shape[0])

    def _absolute_normalizer(self, section: str, key: str, modality: ModalityConfig, percentiles: bool) -> Normalizer:
        group, where = self._group(section, key)
        normalizer: Normalizer
        if key in (modality.mean_std_embedding_keys or ()):
            normalizer = moments_from(group, where)
            shape = normalizer.mean.shape
        else:
            normalizer = bounds_from(group, percentiles, where)
            shape = normalizer.low.shape
        width = self._width(section, key)
        if shape != (width,):
            raise ProcessorError(where, f"arrays of {width} numbers, as 'min' has", f"shape {shape}")
        return normalizer

    def _relative_normalizer(self, key: str) -> Normalizer:
        """Per-step statistics; the reference takes min and max here even where percentiles are on."""
        group, where = self._group("relative_action", key)
        normalizer: Normalizer
        if key in (self.action.mean_std_embedding_keys or ()):
            normalizer = moments_from(group, where)
            shape = normalizer.mean.shape
        else:
            normalizer = bounds_from(group, False, where)
            shape = normalizer.low.shape
        width = self.action_dims[key]
        if shape not in ((self.horizon, width), (width,)):
            raise ProcessorError(
                where,
                f"one row per chunk step, [{self.horizon}][{width}]",
                f"shape {shape}",
                "The statistics belong to another horizon: compute them again for these delta_indices.",
            )
        return normalizer

    def _check_representation(self, key: str) -> None:
        if not self._is_relative(key):
            return
        config, width = self._config(key), self.action_dims[key]
        reference = config.state_key or key
        if config.type is ActionType.EEF and width != POSE_DIMS[config.format]:
            raise ProcessorError(
                f"{self._where}.action.{key}",
                f"{POSE_DIMS[config.format]} numbers for EEF format {config.format.name}",
                f"{width}",
            )
        if self.state_dims.get(reference) != width:
            raise ProcessorError(
                f"{self._where}.state.{reference}",
                f"{width} numbers, as the relative action group '{key}' that refers to it",
                f"{self.state_dims.get(reference, 'no such state group')}",
            )
