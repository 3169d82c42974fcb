"""The golden networks, as the tests of the networks have them, and base checkpoints for small runs."""

from __future__ import annotations

from pathlib import Path

import data_rig
import pytest
from fake_run import model_conftest, write_base

from groot_ros.dataset.export_v30 import export

_golden = model_conftest()
load_golden, goldens = _golden.load_golden, _golden.goldens


@pytest.fixture(params=("n1d5", "n1d6", "n1d7"))
def generation(request: pytest.FixtureRequest) -> str:
    """Every generation."""
    return request.param


@pytest.fixture(scope="session")
def base_n1d7(goldens, tmp_path_factory) -> Path:
    """A base checkpoint of N1.7 with dropout in it."""
    return write_base(goldens("n1d7"), tmp_path_factory.mktemp("n1d7"))


@pytest.fixture(scope="session")
def recorded(tmp_path_factory) -> Path:
    """A v2.1 dataset of 3 episodes of 24 rows; pictures show their number."""
    root = tmp_path_factory.mktemp("recorded") / "v21"
    data_rig.make_dataset(root, episodes=data_rig.EPISODES, rows=data_rig.ROWS)
    data_rig.refresh_statistics(root)
    return root


@pytest.fixture(scope="session")
def recorded_v30(recorded, tmp_path_factory) -> Path:
    """The same as v3.0."""
    root = tmp_path_factory.mktemp("recorded_v30") / "v30"
    export(recorded, root)
    return root


@pytest.fixture(scope="session")
def robot(tmp_path_factory) -> Path:
    """YAML of the robot that was recorded."""
    return data_rig.write_robot(tmp_path_factory.mktemp("robot") / "sim_arm.yaml")


@pytest.fixture(scope="session")
def random_bases(tmp_path_factory, robot):
    """Generation -> a tiny random checkpoint of the robot."""
    made: dict[str, Path] = {}

    def base(generation: str) -> Path:
        if generation not in made:
            directory = tmp_path_factory.mktemp(generation) / "base"
            made[generation] = data_rig.write_checkpoint(directory, generation, robot)
        return made[generation]

    return base
