"""Small datasets for tests: the arm of the simulator with two cameras of 32x24 px whose pictures carry numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import barcode
import numpy as np
from numpy.typing import NDArray

from groot_ros.dataset.spec import DatasetSpec
from groot_ros.dataset.staging import EpisodeWriter
from groot_ros.dataset.writer import DatasetWriter
from groot_ros.embodiment.load import load_embodiment
from groot_ros.embodiment.schema import Embodiment
from groot_ros.observation.images import Frame

HEIGHT, WIDTH = 24, 32
TASKS = ("pick up the cube", "put the cube down")
START_NS = 1_700_000_000_000_000_000


def small_arm() -> Embodiment:
    """``sim_arm`` with small pictures."""
    robot = load_embodiment("sim_arm")
    cameras = {
        name: camera.model_copy(update={"height": HEIGHT, "width": WIDTH}) for name, camera in robot.cameras.items()
    }
    return robot.model_copy(update={"cameras": cameras})


def picture(number: int) -> Frame:
    """``number`` as rgb8, as it would come from a topic."""
    return Frame(barcode.draw(number, HEIGHT, WIDTH).reshape(-1), "rgb8", step=WIDTH * 3)


def frame_number(row: int, camera: int, first: int = 0) -> int:
    """What the picture of a camera shows in a row of an episode: rows of 4 cameras never share a number."""
    return (first + row) * 4 % barcode.LIMIT + camera


def make_rows(spec: DatasetSpec, count: int, seed: int, start_ns: int = START_NS) -> NDArray[np.void]:
    """Smooth random motion, the action one row ahead of the state; ages up to 30 ms."""
    random = np.random.default_rng(seed)
    size = len(spec.state_names)
    phase, speed = random.uniform(0, 2 * np.pi, size), random.uniform(0.5, 2.0, size)
    time = np.arange(count + 1)[:, None] / spec.fps
    motion = (0.5 * np.sin(phase + speed * time)).astype(np.float32)
    rows = np.zeros(count, dtype=spec.row_dtype)
    rows["state"], rows["action"] = motion[:-1], motion[1:]
    rows["stamp_ns"] = start_ns + np.arange(count, dtype=np.int64) * 10**9 // spec.fps
    rows["age_ns"] = random.integers(0, 30_000_000, (count, len(spec.streams)))
    return rows


def record(writer: EpisodeWriter, rows: NDArray[np.void], first: int = 0) -> None:
    """Add rows with pictures of ``frame_number``; waits for the encoders as no robot would."""
    for number, row in enumerate(rows):
        frames: Mapping[str, Frame | None] = {
            key: picture(frame_number(number, camera, first)) for camera, key in enumerate(writer.spec.cameras)
        }
        while not writer.add(row, frames):
            if writer.problem is not None:
                raise RuntimeError(writer.problem)


def make_dataset(root: Path, *, episodes: int = 2, rows: int = 30, seed: int = 0) -> Path:
    """A valid dataset: ``episodes`` of ``rows`` rows, tasks in turn; the numbers in the pictures count all rows."""
    robot = small_arm()
    spec = DatasetSpec.of(robot)
    with DatasetWriter(root, spec, robot.cameras, codec="libx264", min_free_bytes=0) as writer:
        for index in range(episodes):
            episode = writer.begin(TASKS[index % len(TASKS)])
            start_ns = START_NS + index * 60 * 10**9
            record(episode, make_rows(spec, rows, seed + index, start_ns), first=index * rows)
            writer.commit([episode.seal({"source": "test"})])
    return root
