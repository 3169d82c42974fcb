"""From a prefix to what the sampler takes, and back: shared by every policy that integrates a flow. No torch here.

`rows` are the prefix as `encode_action` gives it: normalised against the state of the new observation, float32
[H, sum of the action widths].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from groot_ros.model.guidance import Guidance, cosine_weights, exponential_weights, ramp_strength
from groot_ros.policy.base import Prefix

if TYPE_CHECKING:
    from groot_ros.model.action_head import RtcOptions

Rows = NDArray[np.float32]

_SCHEDULES = {"cosine": cosine_weights, "exponential": exponential_weights}

RAMP_RATE = 6.0
"""NVIDIA's default of `rtc_ramp_rate`."""


def guidance_of(rows: Rows, prefix: Prefix, horizon: int, width: int, beta: float | None = None) -> Guidance:
    """What `integrate` and `GrootModel.sample` are led by.

    Args:
        horizon, width: the network's padded sizes; at least those of `rows`.
        beta: see `Guidance`.

    Returns:
        previous and weights, numpy float32 [horizon, width]; both 0 on padding, so that it forms as without a prefix.

    Raises:
        ValueError: a prefix or rows of other sizes.
    """
    _check_rows(rows, prefix, horizon, width)
    weights = np.zeros((horizon, width), dtype=np.float32)
    weights[: len(rows), : rows.shape[1]] = _SCHEDULES[prefix.schedule](len(rows), prefix.frozen, prefix.length)[
        :, None
    ]
    return Guidance(_padded(rows, horizon, width), weights, beta)


def native_options(rows: Rows, prefix: Prefix, width: int, ramp_rate: float = RAMP_RATE) -> RtcOptions:
    """N1.7's own in-painting. It takes the overlap from the end of the previous chunk, so only known rows are given.

    Args:
        width: the network's padded action width.

    Raises:
        ValueError: a prefix or rows of other sizes.
    """
    import torch

    from groot_ros.model.action_head import RtcOptions

    _check_rows(rows, prefix, prefix.horizon, width)
    known = torch.from_numpy(_padded(rows[: prefix.length], prefix.length, width))[None]
    return RtcOptions(
        prev_action=known,
        action_horizon=prefix.length,
        overlap_steps=prefix.length,
        frozen_steps=prefix.frozen,
        ramp_rate=ramp_rate,
    )


def native_start(
    noise: NDArray[np.floating[Any]], rows: Rows, prefix: Prefix, ramp_rate: float = RAMP_RATE
) -> tuple[NDArray[np.floating[Any]], Rows]:
    """The same in-painting for a flow in numpy: what `integrate` starts from, and the strength of its velocity.

    Args:
        noise: [H, A], A at least the width of `rows`; not changed.

    Returns:
        start [H, A] in the dtype of `noise`, strength float32 [H, 1].

    Raises:
        ValueError: a prefix, rows or noise of other sizes.
    """
    _check_rows(rows, prefix, *noise.shape)
    start = noise.copy()
    start[: prefix.length] = _padded(rows[: prefix.length], prefix.length, noise.shape[1])
    return start, ramp_strength(len(noise), prefix.frozen, prefix.length, ramp_rate)[:, None]


def restore(actions: Mapping[str, NDArray[np.floating[Any]]], prefix: Prefix) -> dict[str, NDArray[np.float32]]:
    """A decoded chunk with the prefix's own numbers in its frozen rows, so that nothing is lost in scaling and back.

    Args:
        actions: key -> [H, D], physical and absolute.

    Returns:
        key -> float32 [H, D], new arrays.

    Raises:
        ValueError: other keys or shapes than the prefix has.
    """
    found = {key: value.shape for key, value in actions.items()}
    expected = {key: value.shape for key, value in prefix.actions.items()}
    if found != expected:
        raise ValueError(f"prefix: expected actions of the shapes that the chunk has, {found}, found {expected}")
    result = {key: value.astype(np.float32) for key, value in actions.items()}
    for key, value in result.items():
        value[: prefix.frozen] = prefix.actions[key][: prefix.frozen]
    return result


def _check_rows(rows: Rows, prefix: Prefix, horizon: int, width: int) -> None:
    if rows.ndim != 2 or len(rows) != prefix.horizon or len(rows) > horizon or rows.shape[1] > width:
        raise ValueError(
            f"prefix: expected {prefix.horizon} normalised rows, which fit into the network's {horizon} rows of "
            f"{width} numbers; found shape {rows.shape}"
        )


def _padded(rows: Rows, horizon: int, width: int) -> Rows:
    result = np.zeros((horizon, width), dtype=np.float32)
    result[: len(rows), : rows.shape[1]] = rows
    return result
