"""Floors against the table of spec performance.md, B, which another program computed from layer sizes of its own."""

from __future__ import annotations

import functools

import pytest
import torch

from groot_ros.model.benchmark.floors import GPUS, floor_s, gpu_of, known_gpu, operations, parameter_groups, work
from groot_ros.model.benchmark.random_model import head_config
from groot_ros.model.benchmark.sampler import text_tokens
from groot_ros.model.groot import GrootModel

PATCHES = {"n1d5": 256, "n1d6": 324, "n1d7": 256}
# Millions of weights: vision, language, refiner, DiT, K/V, time, one embodiment.
GROUPS = {
    "n1d5": (414, 604, 201, 417, 50, 83, 10),
    "n1d6": (425, 805, 0, 832, 101, 158, 10),
    "n1d7": (404, 805, 201, 832, 101, 158, 10),
}
# Per 1, 2, 3 cameras: TFLOP plain and exact, GB plain and exact.
WORK = {
    "n1d5": ((0.961, 0.876, 8.0, 6.9), (1.73, 1.57, 8.8, 7.6), (2.52, 2.28, 9.6, 8.3)),
    "n1d6": ((0.894, 0.815, 12.4, 10.3), (1.38, 1.25, 13.0, 10.8), (1.88, 1.68, 13.5, 11.3)),
    "n1d7": ((0.714, 0.648, 12.6, 10.5), (1.08, 0.967, 13.0, 10.9), (1.45, 1.29, 13.4, 11.2)),
}
# Milliseconds, plain / exact / exact in fp8; columns as in GPUS, without the fp8 of Orin, which has none.
FLOORS = {
    ("n1d5", 1): "2.4/2.1/1.2 1.7/1.5/.8 9.2/7.9/4.2 6.3/5.4/2.8 29.5/25.2/14.3 40.8/34.9",
    ("n1d5", 2): "2.9/2.5/1.4 2.5/2.2/1.1 13.9/12.1/6.3 10.0/8.7/4.5 32.2/27.7/16.8 58.7/51.0",
    ("n1d5", 3): "3.7/3.3/1.7 3.3/2.9/1.5 18.7/16.5/8.5 13.7/12.1/6.2 35.0/30.3/19.4 77.4/67.9",
    ("n1d6", 1): "3.7/3.1/1.7 2.6/2.2/1.2 12.8/10.7/5.7 7.6/6.4/3.4 45.5/37.8/20.6 61.4/51.1",
    ("n1d6", 2): "4.0/3.3/1.8 2.9/2.5/1.3 14.8/12.6/6.7 9.7/8.3/4.3 47.5/39.6/22.4 68.8/58.3",
    ("n1d6", 3): "4.3/3.7/2.0 3.3/2.9/1.5 17.8/15.2/7.9 12.1/10.4/5.3 49.5/41.4/24.2 78.0/66.8",
    ("n1d7", 1): "3.7/3.1/1.7 2.6/2.2/1.2 12.6/10.5/5.6 7.3/6.1/3.2 46.0/38.4/20.5 61.3/51.2",
    ("n1d7", 2): "3.9/3.3/1.8 2.8/2.4/1.3 13.8/11.6/6.2 8.6/7.3/3.8 47.5/39.7/21.9 65.7/55.3",
    ("n1d7", 3): "4.1/3.5/1.9 3.0/2.6/1.4 15.6/13.2/6.9 10.3/8.8/4.5 49.1/41.1/23.2 70.4/59.8",
}
# The table's vision attention reads the keys of one image for all cameras; here every image has its own.
MORE_PER_CAMERA = 0.01


@functools.cache
def network(generation: str) -> GrootModel:
    with torch.device("meta"):
        return GrootModel(head_config(generation, "full"))


def chunk(generation: str, cameras: int, *, exact: bool):
    patches = [PATCHES[generation]] * cameras
    return operations(network(generation), patches, text_tokens(generation, cameras), exact=exact)


@pytest.mark.parametrize("generation", GROUPS)
def test_weights_are_those_of_the_network(generation: str) -> None:
    found = parameter_groups(network(generation))
    assert tuple(round(count / 1e6) for count in found.values()) == GROUPS[generation]


@pytest.mark.parametrize("cameras", [1, 2, 3])
@pytest.mark.parametrize("generation", WORK)
def test_bytes_and_arithmetic_of_a_chunk(generation: str, cameras: int) -> None:
    plain, exact = (work(chunk(generation, cameras, exact=exact)) for exact in (False, True))
    found = plain.tflop, exact.tflop, plain.gigabytes, exact.gigabytes
    wanted = WORK[generation][cameras - 1]
    assert found[:2] == pytest.approx(wanted[:2], rel=0.006)
    assert found[2:] == pytest.approx(wanted[2:], abs=0.051 + 0.04 * (cameras - 1))  # see MORE_PER_CAMERA
    assert exact.products < plain.products


@pytest.mark.parametrize(("generation", "cameras"), FLOORS)
def test_floors_of_every_gpu(generation: str, cameras: int) -> None:
    plain, exact = (chunk(generation, cameras, exact=exact) for exact in (False, True))
    for gpu, cell in zip(GPUS, FLOORS[generation, cameras].split(), strict=True):
        found = [floor_s(plain, gpu), floor_s(exact, gpu)]
        found += [] if gpu.fp8 is None else [floor_s(exact, gpu, fp8=True)]
        wanted = [float(number) for number in cell.split("/")]
        for seconds, number in zip(found, wanted, strict=True):
            assert number - 0.051 < 1e3 * seconds < (1 + MORE_PER_CAMERA * (cameras - 1)) * number + 0.051, gpu.name


def test_steps_and_cameras_change_what_they_should() -> None:
    four, eight = (operations(network("n1d6"), [324], 28, steps=steps, exact=True) for steps in (4, 8))

    def weights(part, ops):
        return sum(op.times * op.weights for op in ops if op.part == part)

    assert weights("dit", eight) == 2 * weights("dit", four)
    assert weights("cross_kv", eight) == weights("cross_kv", four)
    assert weights("vision", eight) == weights("vision", four)
    assert not [op for op in four if op.part == "time"]


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H200", "H200"),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 5090", "RTX 5090"),
        ("NVIDIA Thor", "Jetson Thor"),
        ("Orin", "AGX Orin 64"),
        ("NVIDIA GeForce RTX 3060", None),
    ],
)
def test_a_gpu_is_known_by_the_name_that_the_driver_gives(name: str, known: str | None) -> None:
    gpu = known_gpu(name)
    assert (None if gpu is None else gpu.name) == known


def test_fp8_where_there_is_none_is_refused() -> None:
    orin = next(gpu for gpu in GPUS if gpu.fp8 is None)
    with pytest.raises(ValueError, match="Orin"):
        floor_s([], orin, fp8=True)


def test_floors_are_for_weights_of_two_bytes_on_a_gpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")

    class Weight:
        def __init__(self, device: str, dtype: torch.dtype) -> None:
            self.device, self.element_size = torch.device(device), lambda: dtype.itemsize

    found = gpu_of(Weight("cuda:0", torch.bfloat16))
    assert found is not None and found.name == "H200"
    assert gpu_of(Weight("cuda:0", torch.float32)) is None and gpu_of(torch.zeros(1)) is None
