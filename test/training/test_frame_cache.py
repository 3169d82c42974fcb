"""Pictures that forked workers share."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from groot_ros.training.frame_cache import FrameCache

SIZES = [{"front": (4, 6), "wrist": (2, 2)}, {"front": (4, 6)}]
ROWS = [10, 20]
BYTES = 10 * (24 + 4) * 3 + 20 * 24 * 3


def picture(number: int) -> np.ndarray:
    return np.full((4, 6, 3), number, np.uint8)


def test_a_worker_stores_for_all() -> None:
    cache = FrameCache(ROWS, SIZES, BYTES)
    child = os.fork()
    if not child:
        cache.put(1, "front", 19, picture(7))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    np.testing.assert_array_equal(cache.get(1, "front", 19), picture(7))
    assert cache.get(0, "front", 9) is None
    assert cache.get(1, "front", 18) is None


@pytest.mark.parametrize(("limit", "share"), [(BYTES, 1.0), (BYTES // 2, 0.5), (0, 0.0), (10 * BYTES, 1.0)])
def test_memory_is_bounded_and_the_same_share_of_every_dataset(limit: int, share: float) -> None:
    cache = FrameCache(ROWS, SIZES, limit)
    assert cache.share == pytest.approx(share)
    held = 0
    for dataset, views in enumerate(SIZES):
        for feature, (height, width) in views.items():
            kept = []
            for row in range(ROWS[dataset]):
                cache.put(dataset, feature, row, np.zeros((height, width, 3), np.uint8))
                kept.append(cache.get(dataset, feature, row) is not None)
            assert kept == [row < int(ROWS[dataset] * share) for row in range(ROWS[dataset])]
            held += sum(kept) * height * width * 3
    assert held <= limit


def test_a_pickled_copy_holds_nothing() -> None:
    cache = FrameCache(ROWS, SIZES, BYTES)
    cache.put(0, "front", 0, picture(3))
    copy = pickle.loads(pickle.dumps(cache))
    copy.put(0, "front", 0, picture(4))
    assert copy.get(0, "front", 0) is None
    np.testing.assert_array_equal(cache.get(0, "front", 0), picture(3))
