"""What tests of the writer share: opening one, episodes, a disk that is full, and whether a dataset is consistent."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dataset_maker

from groot_ros.dataset import statistics
from groot_ros.dataset.read import Dataset
from groot_ros.dataset.spec import DatasetSpec
from groot_ros.dataset.writer import DatasetWriter

ROBOT = dataset_maker.small_arm()
SPEC = DatasetSpec.of(ROBOT)


def open_writer(root: Path, spec: DatasetSpec = SPEC, **arguments: Any) -> DatasetWriter:
    options = {"codec": "libx264", "min_free_bytes": 0, **arguments}
    return DatasetWriter(root, spec, ROBOT.cameras, **options)


def sealed(target: DatasetWriter, count: int = 4, seed: int = 0) -> Path:
    episode = target.begin("pick")
    dataset_maker.record(episode, dataset_maker.make_rows(SPEC, count, seed))
    return episode.seal()


def lengths(root: Path) -> list[int]:
    """Of a dataset that is consistent; of every episode all columns and videos are there."""
    dataset = Dataset(root)
    counts = [entry.length for entry in dataset.episodes]
    assert dataset.info == SPEC.info(len(counts), sum(counts), len(dataset.tasks))
    assert [dataset.table(episode).num_rows for episode in range(len(counts))] == counts
    assert all(dataset.video(episode, key).is_file() for episode in range(len(counts)) for key in dataset.video_keys)
    assert sorted(dataset.episodes_stats) == list(range(len(counts)))
    assert dataset.stats == statistics.dataset_statistics(root)
    return counts


class Full:
    """A disk that is full from the n-th call on."""

    def __init__(self, real: Callable[..., Any], works: int = 0) -> None:
        self.real, self.works = real, works

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.works -= 1
        if self.works < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.real(*arguments, **options)


def aborted_episode(root: Path, rows: int, reason: str = "camera lost") -> Path:
    with open_writer(root) as target:
        episode = target.begin("pick the cup")
        dataset_maker.record(episode, dataset_maker.make_rows(SPEC, rows, seed=3), first=50)
        # All pictures are in the file, as they are a moment later in a recording.
        for encoder in episode._encoders.values():
            encoder.close(10.0)
        episode.abort(reason)
        return episode.path
