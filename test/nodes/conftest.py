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


@pytest.fixture(scope="session")
def slow_yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulated arm for a loaded machine: small pictures, late ones are good, half of what it sends is enough."""
    text = embodiment_path("sim_arm").read_text(encoding="utf-8")
    for old, new in (
        ("name: sim_arm", "name: slow_arm"),
        ("step_hz: 30.0", "step_hz: 10.0"),
        ("width: 224", "width: 64"),
        ("height: 224", "height: 64"),
        ("rate_hz: 30.0", "rate_hz: 5.0"),
        ("rate_hz: 100.0", "rate_hz: 5.0"),
        ("max_age_s: 0.2", "max_age_s: 1.5"),
        ("max_age_s: 0.1", "max_age_s: 1.5"),
        ("max_spread_s: 0.1", "max_spread_s: 1.5"),
    ):
        assert old in text
        text = text.replace(old, new)
    path = tmp_path_factory.mktemp("robot") / "slow_arm.yaml"
    path.write_text(text, encoding="utf-8")
    return path
