"""Samples depend on seed and draw alone; noise and times are the generation's."""

from __future__ import annotations

import json
from pathlib import Path

import data_rig
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from groot_ros.training.samples import Samples


@pytest.fixture
def made(recorded, robot, random_bases):
    """Generation and flags -> training data of the recording."""
    return lambda generation, **flags: data_rig.data(random_bases(generation), generation, [recorded], robot, **flags)


def assert_same(found, expected) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_a_sample_is_the_same_alone_in_a_batch_cached_and_in_a_worker(made) -> None:
    data = made("n1d7", state_dropout_prob=0.5)
    draws = [5, 3, 30, 3, 11, 8]
    alone = [data.dataset[draw] for draw in draws]
    cached = made("n1d7", state_dropout_prob=0.5, frame_cache_gb=0.01)
    for other in (data, cached, cached):
        for found, expected in zip(other.dataset.__getitems__(draws), alone):
            assert_same(found, expected)
    batches = [draws[:2], draws[2:4], draws[4:]]
    loader = DataLoader(
        cached.dataset,
        batch_sampler=batches,
        collate_fn=cached.collate,
        num_workers=2,
        multiprocessing_context="fork",
    )
    for batch, place in zip(loader, (0, 2, 4)):
        assert_same(batch, data.collate(alone[place : place + 2]))


def test_seeds_and_epochs_differ(made) -> None:
    first, second = made("n1d7"), made("n1d7", seed=43)
    length = first.windows
    assert length == 3 * 9
    assert not torch.equal(first.collate([first.dataset[0]])["noise"], second.collate([second.dataset[0]])["noise"])
    by_window = {first.schedule.window(draw): draw for draw in range(length, 2 * length)}
    again = by_window[first.schedule.window(0)]
    one, other = first.dataset[0], first.dataset[again]
    np.testing.assert_array_equal(one["action"], other["action"])
    assert not np.array_equal(one["noise"], other["noise"])
    assert one["t"] != other["t"]
    assert not np.array_equal(one["pixel_values"], other["pixel_values"])  # another crop, other colours


@pytest.mark.parametrize("generation", ["n1d5", "n1d6", "n1d7"])
def test_shapes_noise_and_prompt_of_a_batch(made, generation: str) -> None:
    data = made(generation)
    batch = data.collate(data.dataset.__getitems__([0, 1, 2]))
    horizon, width = data.processor.max_action_horizon, data.processor.max_action_dim
    assert batch["action"].shape == batch["noise"].shape == batch["action_mask"].shape == (3, horizon, width)
    assert (batch["noise"].dtype, batch["t"].dtype, batch["t"].shape) == (torch.float32, torch.float32, (3,))
    assert set(batch["embodiment_id"].tolist()) == {data.processor.embodiment_id}
    window = data.dataset.windows.raw(data.schedule.window(0))
    plain = data.processor.encode(window.video, window.state, window.instruction, window.action)
    np.testing.assert_array_equal(data.dataset[0]["input_ids"], plain["input_ids"])
    np.testing.assert_array_equal(data.dataset[0]["action"], plain["action"])


def draw_noise(data, count: int) -> tuple[np.ndarray, np.ndarray]:
    noise, times = zip(*(data.dataset._noise(draw) for draw in range(count)))
    return np.array(noise), np.array(times)


@pytest.mark.parametrize(
    ("generation", "mean", "low", "high"),
    # s ~ Beta(1.5, 1) has mean 0.6; N1.5: t = (0.999 - s) / 0.999, else t = 0.999 (1 - s).
    [("n1d5", 1 - 0.6 / 0.999, -0.0011, 1.0), ("n1d6", 0.999 * 0.4, 0.0, 0.999), ("n1d7", 0.999 * 0.4, 0.0, 0.999)],
)
def test_distributions(made, generation: str, mean: float, low: float, high: float) -> None:
    noise, times = draw_noise(made(generation), 2000)
    assert abs(times.mean() - mean) < 0.015
    assert abs(times.std() - np.sqrt(1.5 / (2.5**2 * 3.5))) < 0.01
    assert low <= times.min()
    assert times.max() <= high
    values = noise[:300].ravel()
    assert abs(values.mean()) < 0.01
    assert abs(values.std() - 1) < 0.01
    assert abs(np.corrcoef(noise[:-1, 0, 0], noise[1:, 0, 0])[0, 1]) < 0.06


def test_several_noises_per_sample(made) -> None:
    data = made("n1d7", noise_draws=3)
    batch = data.collate([data.dataset[0], data.dataset[1]])
    horizon, width = data.processor.max_action_horizon, data.processor.max_action_dim
    assert batch["noise"].shape == (2, 3, horizon, width)
    assert batch["t"].shape == (2, 3)
    assert len(np.unique(batch["t"].numpy())) == 6


def test_state_dropout_is_n1d7s_and_leaves_the_action(made) -> None:
    kept, dropped, half = (made("n1d7", state_dropout_prob=p) for p in (0.0, 1.0, 0.5))
    assert kept.dataset[0]["state"].any()
    assert not dropped.dataset[0]["state"].any()
    np.testing.assert_array_equal(dropped.dataset[0]["action"], kept.dataset[0]["action"])
    zeros = [not half.dataset[draw]["state"].any() for draw in range(60)]
    assert 15 < sum(zeros) < 45
    assert made("n1d6", state_dropout_prob=1.0).dataset[0]["state"].any()


def test_a_task_of_several_is_chosen_by_the_draw(recorded, random_bases, tmp_path: Path) -> None:
    root = data_rig.copied(recorded, tmp_path / "dataset")
    lines = [json.loads(line) for line in (root / "meta/episodes.jsonl").read_text().splitlines()]
    text = "".join(json.dumps({**line, "tasks": ["wipe it", "sweep the whole table"]}) + "\n" for line in lines)
    (root / "meta/episodes.jsonl").write_text(text)
    robot = data_rig.write_robot(tmp_path / "robot.yaml", language={"key": "task"})
    first, again = (data_rig.data(random_bases("n1d7"), "n1d7", [root], robot).dataset for _ in range(2))
    lengths = [len(first[draw]["input_ids"]) for draw in range(20)]
    assert len(set(lengths)) == 2
    assert lengths == [len(again[draw]["input_ids"]) for draw in range(20)]


def test_the_global_generators_are_left_alone(made) -> None:
    torch.manual_seed(7)
    np.random.seed(7)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(7)
    np.random.seed(7)
    data = made("n1d7")
    data.collate([data.dataset[0]])
    assert isinstance(data.dataset, Samples)
    assert torch.equal(torch.rand(3), expected[0])
    np.testing.assert_array_equal(np.random.rand(3), expected[1])


def test_pictures_are_augmented_unless_told_otherwise(made) -> None:
    data = made("n1d7")
    raw = data.dataset.windows.raw(data.schedule.window(0))
    plain = data.processor.encode(raw.video, raw.state, raw.instruction, raw.action)
    np.testing.assert_array_equal(made("n1d7", augment=False).dataset[0]["pixel_values"], plain["pixel_values"])
    assert not np.array_equal(data.dataset[0]["pixel_values"], plain["pixel_values"])
    assert data.dataset[0]["pixel_values"].shape == plain["pixel_values"].shape
