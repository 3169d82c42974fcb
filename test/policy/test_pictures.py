"""Pictures that are transformed on the device: the host's values, or the host's way with the reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from groot_ros.embodiment.load import embodiment_path
from groot_ros.embodiment.vocabulary import GENERATIONS
from groot_ros.observation.types import Observation
from groot_ros.policy.generation import embodiment_for
from groot_ros.policy.local import LocalPolicy
from groot_ros.policy.pictures import FRAMES
from groot_ros.policy.random_checkpoint import make_random_checkpoint
from groot_ros.processing.device_images import DeviceImages

TEXT = embodiment_path("sim_arm").read_text(encoding="utf-8").replace("width: 224", "width: 80")
SIZES = {"one": ("height: 224", "height: 64", -1), "two": ("height: 224", "height: 64", 1)}


@pytest.fixture(scope="module")
def robots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The simulated arm, its cameras of one size or of two."""
    folder = tmp_path_factory.mktemp("robots")
    for name, (old, new, count) in SIZES.items():
        (folder / f"{name}.yaml").write_text(TEXT.replace(old, new, count))
    return {name: folder / f"{name}.yaml" for name in SIZES}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory, robots: dict[str, Path]) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    for generation in GENERATIONS:
        path = folder / generation
        make_random_checkpoint(path, generation, "tiny", str(robots["one"]), 0, Console(quiet=True))
    return folder


def make(checkpoint: Path, robot: Path, **arguments: Any) -> LocalPolicy:
    return LocalPolicy(checkpoint, embodiment_for(robot, checkpoint), device="cpu", **arguments)


def seen(policy: LocalPolicy, number: int) -> Observation:
    rng, blank = np.random.default_rng(number), policy.blank_observation()
    video = {key: rng.integers(0, 256, frames.shape, dtype=np.uint8) for key, frames in blank.video.items()}
    return replace(blank, video=video, instruction="pick up the red cube")


@pytest.mark.parametrize("engine", [True, False])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_chunks_are_the_same(checkpoints: Path, robots: dict[str, Path], generation: str, engine: bool) -> None:
    """On a CPU the arithmetic is the libraries' own, to the bit."""
    host, device = (
        make(checkpoints / generation, robots["one"], engine=engine, pictures_on_device=on) for on in (False, True)
    )
    news = device.news()
    assert news.notices == () and news.engine is not None and (news.engine.mode != "plain") is engine
    assert news.engine.pictures == "cpu, largest difference from the host's 0 of 255 levels"
    assert host.news().engine == replace(news.engine, pictures="host")
    waiting = [device.encode(seen(device, number)) for number in range(3)]  # each with memory of its own
    for number, encoded in enumerate(waiting):
        assert "pixel_values" not in encoded.inputs and encoded.inputs[FRAMES].dtype.itemsize == 1
        expected, found = host.act(seen(host, number), seed=1), device.act_encoded(encoded, seed=1)
        for key, values in expected.actions.items():
            np.testing.assert_array_equal(found.actions[key], values)


def test_cameras_of_several_sizes_stay_on_the_host(checkpoints: Path, robots: dict[str, Path]) -> None:
    policy = make(checkpoints / "n1d6", robots["two"], pictures_on_device=True)
    [notice] = policy.news().notices
    assert notice == (
        "pictures_on_device: expected cameras of one size, found front 80x64, wrist 80x224; they are transformed on "
        "the host instead"
    )
    assert policy.act(seen(policy, 0)).actions


def test_other_values_than_the_hosts_are_not_used(
    checkpoints: Path, robots: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = DeviceImages.forward
    monkeypatch.setattr(DeviceImages, "forward", lambda self, frames: forward(self, frames) + 2 / 127.5)
    policy = make(checkpoints / "n1d7", robots["one"], pictures_on_device=True)
    [notice] = policy.news().notices
    assert notice == (
        "pictures_on_device: largest difference from the host's 2 of 255 levels, expected at most 1; they are "
        "transformed on the host instead"
    )
    assert "pixel_values" in policy.encode(seen(policy, 0)).inputs


def test_one_level_is_rounding(checkpoints: Path, robots: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    forward = DeviceImages.forward
    monkeypatch.setattr(DeviceImages, "forward", lambda self, frames: forward(self, frames) + 1 / 127.5)
    policy = make(checkpoints / "n1d7", robots["one"], pictures_on_device=True)
    engine = policy.news().engine
    assert engine is not None and engine.pictures == "cpu, largest difference from the host's 1 of 255 levels"
