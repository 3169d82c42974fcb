"""Statistics of pixels from histograms are those of the pixels."""

import numpy as np
import pytest

from groot_ros.dataset.image_statistics import ImageStatistics


def test_statistics_are_exact_and_add_up() -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(low, high, (7, 9, 3), dtype=np.uint8) for low, high in ((0, 50), (20, 256), (90, 91))]
    parts = [ImageStatistics(), ImageStatistics()]
    parts[0].add(pictures[0], times=3)
    parts[1].add(pictures[1])
    parts[1].add(pictures[2])
    parts[0].merge(parts[1])
    stats = parts[0].stats()
    pixels = np.stack([pictures[0]] * 3 + pictures[1:]).reshape(-1, 3) / 255
    expected = {
        "min": pixels.min(axis=0),
        "max": pixels.max(axis=0),
        "mean": pixels.mean(axis=0),
        "std": pixels.std(axis=0),
        "q01": np.quantile(pixels, 0.01, axis=0),
        "q99": np.quantile(pixels, 0.99, axis=0),
    }
    assert stats.pop("count") == [5]
    assert stats.keys() == expected.keys()
    for name, value in expected.items():
        assert np.shape(stats[name]) == (3, 1, 1)
        np.testing.assert_allclose(np.ravel(stats[name]), value, atol=1e-12)


def test_nothing_has_no_statistics() -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        ImageStatistics().stats()
    with pytest.raises(ValueError, match=r"\[3, 256\], found \[256\]"):
        ImageStatistics(np.zeros(256, np.int64))
