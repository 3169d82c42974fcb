"""The picture of a run: loss, gradient norm and learning rate over the steps."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_RAW, _SMOOTH, _OTHER = "#c6d3e3", "#1f5fa8", "#e07a1f"


def series(history: Sequence[dict[str, Any]], name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps and values of one entry of the log."""
    points = [(entry["step"], entry[name]) for entry in history if name in entry and "step" in entry]
    values = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    return values[:, 0], values[:, 1]


def smoothed(values: NDArray[np.float64], share: float = 0.05) -> NDArray[np.float64]:
    """Running mean over the last `share` of all values, at least one."""
    window = max(1, round(len(values) * share))
    total = np.cumsum(np.concatenate(([0.0], values)))
    last = np.arange(1, len(values) + 1)
    first = np.maximum(0, last - window)
    result: NDArray[np.float64] = (total[last] - total[first]) / (last - first)
    return result


def draw_loss(history: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Writes a PNG; nothing where the log holds no loss. Raises: OSError."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    steps, loss = series(history, "loss")
    if not len(steps):
        return
    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(9, 5.2), sharex=True, layout="constrained", height_ratios=(3, 1.2)
    )
    upper.plot(steps, loss, color=_RAW, linewidth=1)
    upper.plot(steps, smoothed(loss), color=_SMOOTH, linewidth=2)
    upper.set_ylabel("loss")
    if loss.min() > 0 and loss.max() / loss.min() > 5:
        upper.set_yscale("log")
    upper.grid(alpha=0.3, which="both")
    upper.set_title("\n".join(textwrap.wrap(title, 110)), loc="left", fontsize=9)
    lower.plot(*series(history, "grad_norm"), color=_OTHER, linewidth=1)
    lower.set_ylabel("gradient norm", color=_OTHER)
    lower.set_xlabel("optimizer step")
    rate = lower.twinx()
    rate.plot(*series(history, "learning_rate"), color=_SMOOTH, linewidth=1)
    rate.set_ylabel("learning rate", color=_SMOOTH)
    partial = path.with_name(f"{path.name}.partial")
    figure.savefig(partial, dpi=100, format="png")
    plt.close(figure)
    partial.replace(path)
