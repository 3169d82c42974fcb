"""What an observation must look like before any arithmetic: presence, type, shape, finite numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groot_ros.processing.errors import ProcessorError, describe, listing


def check_keys(modality: str, given: Any, expected: Iterable[str]) -> None:
    """Raises ProcessorError unless the mapping `given` has exactly the expected keys."""
    expected = list(expected)
    if not isinstance(given, Mapping):
        raise ProcessorError(modality, f"a mapping with {listing(expected)}", describe(given))
    missing = [key for key in expected if key not in given]
    unknown = [key for key in given if key not in expected]
    if missing or unknown:
        found = "; ".join(
            part
            for part in (
                f"missing {listing(missing)}" if missing else "",
                f"unknown {listing(unknown)}" if unknown else "",
            )
            if part
        )
        raise ProcessorError(
            modality,
            f"the keys {listing(expected)}",
            found,
            "The keys must be those of the checkpoint's modality config for this embodiment.",
        )


def checked_numbers(where: str, value: Any, shape: tuple[int | None, ...]) -> NDArray[np.float32]:
    """A finite floating point array of `shape` (None: any length), as float32.

    Raises:
        ProcessorError: another type, shape, or NaN or infinity (with the index of the first).
    """
    if not isinstance(value, np.ndarray) or value.dtype not in (np.float32, np.float64):
        found = f"dtype {value.dtype}" if isinstance(value, np.ndarray) else describe(value)
        raise ProcessorError(where, "a float32 array", found)
    wanted = "[" + ", ".join("any" if length is None else str(length) for length in shape) + "]"
    fits = value.ndim == len(shape) and all(
        want is None or have == want for want, have in zip(shape, value.shape, strict=True)
    )
    if not fits:
        raise ProcessorError(where, f"shape {wanted}", f"shape {list(value.shape)}")
    # Checked after the cast: a float64 value may be too large for float32.
    with np.errstate(over="ignore"):
        numbers = value.astype(np.float32, copy=False)
    finite = np.isfinite(numbers)
    if not finite.all():
        index = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise ProcessorError(where, "finite numbers", f"{value[index]} at index {list(index)}")
    return numbers


def checked_groups(modality: str, given: Any, dims: Mapping[str, int], steps: int) -> dict[str, NDArray[np.float32]]:
    """Finite numbers [steps, D] per key of `dims`, in its order, as float32.

    Raises:
        ProcessorError: missing or unknown keys, or see `checked_numbers`.
    """
    check_keys(modality, given, dims)
    return {key: checked_numbers(f"{modality} '{key}'", given[key], (steps, dim)) for key, dim in dims.items()}


def checked_frames(where: str, value: Any, steps: int) -> NDArray[np.uint8]:
    """RGB frames uint8 [steps, H, W, 3], C-contiguous.

    Raises:
        ProcessorError: another type or shape, or an empty image.
    """
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8:
        found = f"dtype {value.dtype}" if isinstance(value, np.ndarray) else describe(value)
        raise ProcessorError(where, "a uint8 array of RGB frames", found)
    if value.ndim != 4 or value.shape[0] != steps or value.shape[3] != 3 or 0 in value.shape:
        raise ProcessorError(
            where,
            f"shape [{steps}, height, width, 3], one frame per delta index",
            f"shape {list(value.shape)}",
        )
    return np.ascontiguousarray(value)
