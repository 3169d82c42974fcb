"""Statistics of one embodiment tag, checked as they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from groot_ros.processing.errors import ProcessorError, describe, listing
from groot_ros.processing.normalization import STATISTICS, Array, statistic


class TagStatistics:
    """`{state, action, relative_action}` of one tag.

    Attributes:
        where: file and tag, for errors.
    """

    def __init__(self, sections: Mapping[str, Any], where: str) -> None:
        self._sections = sections
        self.where = where

    def group(self, section: str, key: str) -> tuple[Any, str]:
        """The arrays of one group, and file and key to name in errors.

        Raises:
            ProcessorError: there is none.
        """
        groups = self._sections.get(section)
        where = f"{self.where}.{section}"
        if not isinstance(groups, Mapping):
            found = "no such key" if groups is None else describe(groups)
            raise ProcessorError(where, "an object with one entry per group", found)
        if key not in groups:
            raise ProcessorError(
                where,
                f"statistics of group '{key}', which the modality configuration names",
                f"groups {listing(groups)}",
                "Compute the statistics of the dataset again, or use the checkpoint of this robot.",
            )
        return groups[key], f"{where}.{key}"

    def width(self, section: str, key: str) -> int:
        """Numbers per step of a group.

        Raises:
            ProcessorError: no such group, or its arrays are not one-dimensional and of one length.
        """
        group, where = self.group(section, key)
        low = statistic(group, "min", where)
        if low.ndim != 1:
            raise ProcessorError(f"{where}.min", "a list [D]", f"shape {low.shape}")
        for name in STATISTICS:
            if name in group and statistic(group, name, where).shape != low.shape:
                shape = statistic(group, name, where).shape
                raise ProcessorError(f"{where}.{name}", f"{low.shape[0]} numbers, as 'min' has", f"shape {shape}")
        return int(low.shape[0])

    def extremes(self, section: str, key: str) -> tuple[Array, Array]:
        """min and max of a group, float64 [D] each, copies."""
        group, where = self.group(section, key)
        return statistic(group, "min", where).copy(), statistic(group, "max", where).copy()
