"""The training loop: resuming, accumulation, adapters, what a run leaves."""

from __future__ import annotations

import json

import pytest
import torch
from fake_run import FakeData, run
from safetensors.torch import load_file

from groot_ros.training.errors import TrainingError
from groot_ros.training.output import checkpoints

STEPS = {"max_steps": 6, "save_steps": 3, "global_batch_size": 4, "learning_rate": 1e-3}


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_same(left, right):
    assert left.keys() == right.keys()
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert not different


def optimizer_of(folder):
    return torch.load(folder / "optimizer.pt")["state"]


@pytest.fixture(scope="module")
def whole(base_n1d7, tmp_path_factory):
    """A run of six steps that nothing interrupted."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    data = run(base_n1d7, output, **STEPS)
    assert data.code == 0
    return output, data


def test_resuming_is_exact(base_n1d7, whole, tmp_path):
    uninterrupted, _ = whole
    output = tmp_path / "run"
    run(base_n1d7, output, **STEPS)
    for path in (output / "checkpoint-6",):
        path.rename(tmp_path / "unused")
    data = run(base_n1d7, output, resume_from_checkpoint=True, **STEPS)
    assert sorted(data.seen) == list(range(12, 24))
    assert_same(weights(output), weights(uninterrupted))
    mine, other = (optimizer_of(folder / "checkpoint-6") for folder in (output, uninterrupted))
    assert mine.keys() == other.keys()
    for number, moments in mine.items():
        for name, value in moments.items():
            assert torch.equal(value, other[number][name])
