"""Statistics of the pictures of a video file, decoded again: where the recorder's own are missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from groot_ros.dataset.image_statistics import STRIDE, ImageStatistics
from groot_ros.dataset.video import decode_frames


def video_statistics(path: Path, frames: int, sample: int | None = None) -> ImageStatistics:
    """Histogram of pictures 0 to ``frames`` - 1 of a video, every fourth pixel each way as in a recording.

    Args:
        sample: count only so many of them, evenly spaced; None: all.

    Raises: DatasetError when the file cannot be read or has fewer pictures.
    """
    chosen = np.linspace(0, frames - 1, frames if sample is None else min(sample, frames)).round().astype(int)
    statistics = ImageStatistics()
    for rgb in decode_frames(path, chosen.tolist()):
        statistics.add(np.ascontiguousarray(rgb[::STRIDE, ::STRIDE]))
    return statistics
