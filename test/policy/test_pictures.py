"""Pictures that are transformed on the device: the host's values, or the host's way with the reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from groot_ros.embodiment.load import embodiment_path
from groot_ros.embodiment.vocabulary import GENERATIONS
from groot_ros.observation.types import Observation
from groot_ros.policy.base import Chunk
from groot_ros.policy.generation import embodiment_for
from groot_ros.policy.local import LocalPolicy
from groot_ros.policy.pictures import FRAMES, device_pictures
from groot_ros.policy.random_checkpoint import make_random_checkpoint
from groot_ros.processing.device_images import DeviceImages

OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 20.00 MiB."
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


def sizes_of(policy: LocalPolicy) -> dict[str, tuple[int, int]]:
    return {key: frames.shape[1:3] for key, frames in policy.blank_observation().video.items()}  # type: ignore[misc]


def on_device(policy: LocalPolicy) -> tuple[LocalPolicy, tuple[str, ...]]:
    """As on a GPU; what was told."""
    policy._pictures.on_device = device_pictures(policy.processor, sizes_of(policy), policy.device, policy._notices)
    return policy, policy.news().notices


def same(found: Chunk, expected: Chunk) -> None:
    for key, values in expected.actions.items():
        np.testing.assert_array_equal(found.actions[key], values)


def seen(policy: LocalPolicy, number: int) -> Observation:
    rng, blank = np.random.default_rng(number), policy.blank_observation()
    video = {key: rng.integers(0, 256, frames.shape, dtype=np.uint8) for key, frames in blank.video.items()}
    return replace(blank, video=video, instruction="pick up the red cube")


@pytest.mark.parametrize("engine", [True, False])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_chunks_are_the_same(checkpoints: Path, robots: dict[str, Path], generation: str, engine: bool) -> None:
    """On a CPU the arithmetic is the libraries' own, to the bit."""
    host = make(checkpoints / generation, robots["one"], engine=engine)
    device, notices = on_device(make(checkpoints / generation, robots["one"], engine=engine))
    device._told = None
    facts = device.news().engine
    assert notices == () and facts is not None and (facts.mode != "plain") is engine
    assert facts.pictures == "cpu, largest difference from the host's 0 of 255 levels"
    assert host.news().engine == replace(facts, pictures="host")
    waiting = [device.encode(seen(device, number)) for number in range(3)]  # each with memory of its own
    for number, encoded in enumerate(waiting):
        assert "pixel_values" not in encoded.inputs and encoded.inputs[FRAMES].dtype.itemsize == 1
        same(device.act_encoded(encoded, seed=1), host.act(seen(host, number), seed=1))


def test_on_a_cpu_the_device_is_not_used(checkpoints: Path, robots: dict[str, Path]) -> None:
    policy = make(checkpoints / "n1d6", robots["one"], pictures_on_device=True)
    news = policy.news()
    assert news.notices == (
        "pictures_on_device: expected a GPU, found device cpu; they are transformed on the host instead",
    )
    assert news.engine is not None and news.engine.pictures == "host"
    assert "pixel_values" in policy.encode(seen(policy, 0)).inputs


def test_cameras_of_several_sizes_stay_on_the_host(checkpoints: Path, robots: dict[str, Path]) -> None:
    policy, notices = on_device(make(checkpoints / "n1d6", robots["two"]))
    assert notices == (
        "pictures_on_device: expected cameras of one size, found front 80x64, wrist 80x224; they are transformed on "
        "the host instead",
    )
    assert policy.act(seen(policy, 0)).actions


def test_other_values_than_the_hosts_are_not_used(
    checkpoints: Path, robots: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = DeviceImages.forward
    monkeypatch.setattr(DeviceImages, "forward", lambda self, frames: forward(self, frames) + 2 / 127.5)
    policy, notices = on_device(make(checkpoints / "n1d7", robots["one"]))
    assert notices == (
        "pictures_on_device: largest difference from the host's 2 of 255 levels, expected at most 1; they are "
        "transformed on the host instead",
    )
    assert "pixel_values" in policy.encode(seen(policy, 0)).inputs


def test_one_level_is_rounding(checkpoints: Path, robots: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    forward = DeviceImages.forward
    monkeypatch.setattr(DeviceImages, "forward", lambda self, frames: forward(self, frames) + 1 / 127.5)
    policy, _ = on_device(make(checkpoints / "n1d7", robots["one"]))
    assert policy._pictures.where == "cpu, largest difference from the host's 1 of 255 levels"


@pytest.mark.parametrize("text", [OUT_OF_MEMORY, "CUDA error: no kernel image is available"])
def test_an_error_at_the_start_leaves_the_host(
    checkpoints: Path, robots: dict[str, Path], monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    def fail(*_: Any) -> torch.Tensor:
        raise RuntimeError(text)

    monkeypatch.setattr(DeviceImages, "forward", fail)
    policy, notices = on_device(make(checkpoints / "n1d7", robots["one"]))
    assert notices == (f"pictures_on_device: RuntimeError: {text}; they are transformed on the host instead",)
    assert policy.act(seen(policy, 0)).actions


@pytest.mark.parametrize("place", ["encode", "finish"])
def test_memory_that_runs_out_in_a_run_leaves_the_host_and_the_chunk_is_the_same(
    checkpoints: Path, robots: dict[str, Path], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """So is that of an observation that was encoded before."""
    host = make(checkpoints / "n1d7", robots["one"])
    policy, _ = on_device(make(checkpoints / "n1d7", robots["one"]))
    host.warm_up(1), policy.warm_up(1)
    before = policy.encode(seen(policy, 1))
    monkeypatch.setattr(policy._pictures.on_device, place, out_of_memory)
    chunk = policy.act(seen(policy, 0), seed=1)
    same(chunk, host.act(seen(host, 0), seed=1))
    assert policy.news().notices == (
        f"pictures_on_device: OutOfMemoryError: {OUT_OF_MEMORY}; they are transformed on the host from now on",
    )
    same(policy.act_encoded(before, seed=2), host.act(seen(host, 1), seed=2))
    assert "pixel_values" in policy.encode(seen(policy, 2)).inputs and policy._pictures.where == "host"
    policy.keep_warm()
    assert policy.news().notices == ()


def test_another_error_in_a_run_is_raised(
    checkpoints: Path, robots: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> torch.Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    policy, _ = on_device(make(checkpoints / "n1d7", robots["one"]))
    monkeypatch.setattr(policy._pictures.on_device, "finish", fail)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        policy.act(seen(policy, 0))
    assert policy._pictures.on_device is not None


def out_of_memory(*_: Any) -> torch.Tensor:
    raise torch.OutOfMemoryError(OUT_OF_MEMORY)
