"""A small checkpoint, a robot and a policy node in its own process, shared by the node tests of one module."""

from __future__ import annotations

from pathlib import Path

import pytest

from groot_ros.embodiment.load import embodiment_path

SIZE = 64


@pytest.fixture(scope="session")
def robot_yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulated arm with small images, for quick tests."""
    text = embodiment_path("sim_arm").read_text(encoding="utf-8")
    path = tmp_path_factory.mktemp("robot") / "small_arm.yaml"
    small = text.replace("width: 224", f"width: {SIZE}").replace("height: 224", f"height: {SIZE}")
    path.write_text(small.replace("name: sim_arm", "name: small_arm"), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, robot_yaml: Path) -> Path:
    """A tiny random checkpoint of that robot."""
    from rich.console import Console

    from groot_ros.policy.random_checkpoint import make_random_checkpoint

    path = tmp_path_factory.mktemp("checkpoint") / "tiny"
    make_random_checkpoint(path, "n1d7", "tiny", str(robot_yaml), 0, Console(quiet=True))
    return path
