"""Small datasets, a robot and base checkpoints for the tests of training data."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

sys.path.append(str(Path(__file__).resolve().parent.parent / "dataset"))
import barcode
import dataset_maker

from groot_ros.dataset import statistics
from groot_ros.embodiment.load import embodiment_path
from groot_ros.model.checkpoint import load_config
from groot_ros.policy.random_checkpoint import make_random_checkpoint
from groot_ros.training.data import TrainingData, build_data
from groot_ros.training.flags import FinetuneFlags

EPISODES, ROWS = 3, 24
LANGUAGE = "annotation.human.task_description"
make_dataset, frame_number, TASKS = dataset_maker.make_dataset, dataset_maker.frame_number, dataset_maker.TASKS
read_barcode = barcode.read


def write_robot(path: Path, **changes: Any) -> Path:
    """YAML of ``sim_arm`` with cameras of 32x24 px; ``changes`` replace members (``a__b`` is member b of a)."""
    robot = yaml.safe_load(embodiment_path("sim_arm").read_text())
    for camera in robot["cameras"].values():
        camera.update(height=dataset_maker.HEIGHT, width=dataset_maker.WIDTH)
    for name, value in changes.items():
        *parents, last = name.split("__")
        place = robot
        for parent in parents:
            place = place[parent]
        place[last] = value
    path.write_text(yaml.safe_dump(robot, sort_keys=False))
    return path


def write_checkpoint(directory: Path, generation: str, robot: Path) -> Path:
    """A tiny random checkpoint for the robot."""
    make_random_checkpoint(directory, generation, "tiny", str(robot), 0, Console(quiet=True))
    return directory


def data(base: Path, generation: str, datasets: list[Path], robot: Path | None, **flags: Any) -> TrainingData:
    """``build_data`` with the flags of a run."""
    chosen = {"frame_cache_gb": 0.0, "embodiment": str(robot or ""), **flags}
    resolved = FinetuneFlags(base_model_path=str(base), dataset_path=tuple(map(str, datasets)), **chosen).resolved(
        generation
    )
    return build_data(resolved, base, load_config(base))


def copied(dataset: Path, target: Path) -> Path:
    """A copy to damage."""
    shutil.copytree(dataset, target)
    return target


def edit_json(path: Path, **changes: Any) -> None:
    """Replace members of a JSON file's object."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refresh_statistics(root: Path) -> None:
    """stats.json of the rows as they are now."""
    statistics.refresh(root)
