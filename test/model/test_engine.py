"""The engine over a robot's day: other instructions, cameras and checkpoints; and what it refuses."""

from __future__ import annotations

import threading

import pytest
import torch
from engine_rig import EMBODIMENT, GENERATIONS, network, noise_for, observation, recorded, same
from torch import Tensor

from groot_ros.model.action_head import RtcOptions
from groot_ros.model.engine import Engine, EngineOptions
from groot_ros.model.engine import engine as engine_module
from groot_ros.model.guidance import Guidance

CLOSE = {"atol": 1e-5, "rtol": 0}

# A robot's day: pictures and words of the prompt.
CHANGES = {
    "instruction": [(2, 6), (2, 6), (2, 6)],
    "length within the bucket": [(2, 6), (2, 7), (2, 4)],
    "length beyond it": [(2, 6), (2, 20), (2, 6), (2, 40)],
    "cameras": [(2, 6), (1, 6), (3, 6), (2, 6)],
}


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("change", CHANGES)
def test_engine_after_a_change(generation, change):
    plain, model = network(generation), network(generation)
    engine, eager = recorded(model), Engine(model, EMBODIMENT)
    for seed, (pictures, words) in enumerate(CHANGES[change]):
        inputs = observation(model, pictures=pictures, words=words, seed=seed)
        for _ in range(2):  # by the graph that is there, or eagerly and then by the new one
            same(engine, plain, inputs, seed)
            same(eager, plain, inputs, seed)
            assert engine.wait(60)
        assert engine.report().mode == "graph"
        assert eager.report().mode == "eager"


@pytest.mark.parametrize("generation", GENERATIONS)
def test_engine_of_a_new_checkpoint(generation):
    """Two engines live side by side; neither has the other's numbers."""
    models = [network(generation, seed) for seed in (0, 1)]
    plains = [network(generation, seed) for seed in (0, 1)]
    engines = [recorded(model) for model in models]
    inputs = observation(models[0])
    for _ in range(2):
        for engine, plain in zip(engines, plains, strict=True):
            same(engine, plain, inputs)
            assert engine.wait(60)
    first, second = (engine.sample(inputs, noise_for(models[0])) for engine in engines)
    assert (first - second).abs().max() > 0.1


def test_engine_with_pictures_of_different_sizes():
    """N1.6's tower takes any size; an observation may mix them."""
    model, plain = network("n1d6"), network("n1d6")
    small, large = (observation(model, pictures=1, grid=grid, words=2) for grid in ((1, 4, 6), (1, 6, 4)))
    large["pixel_values"] = torch.randn(24, model.backbone.patch_values, generator=torch.Generator().manual_seed(9))
    inputs = {
        **small,
        "input_ids": torch.cat((small["input_ids"], large["input_ids"], small["input_ids"]), dim=1),
        "pixel_values": torch.cat([part["pixel_values"] for part in (small, large, small)]),
        "image_grid_thw": torch.tensor([(1, 4, 6), (1, 6, 4), (1, 4, 6)]),
    }
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    engine = recorded(model)
    for _ in range(2):
        same(engine, plain, inputs)
        assert engine.wait(60)
    assert engine.report().mode == "graph"


def test_engine_prepares_an_instruction_beforehand():
    model, plain = network("n1d7"), network("n1d7")
    engine, inputs = recorded(model), observation(model)
    engine.prepare(inputs["input_ids"], [tuple(grid) for grid in inputs["image_grid_thw"].tolist()])
    assert engine.wait(60)
    same(engine, plain, inputs)
    assert engine.report().mode == "graph"


def test_engine_samples_while_an_instruction_is_prepared(monkeypatch):
    """A chunk with a known instruction does not wait for another thread's new one."""
    model, plain = network("n1d7"), network("n1d7")
    engine, inputs, other = Engine(model, EMBODIMENT), observation(model), observation(model, words=20)
    same(engine, plain, inputs)
    begun, go_on, make = threading.Event(), threading.Event(), engine_module.prompt_buffers

    def slow(*arguments):
        begun.set()
        assert go_on.wait(60)
        return make(*arguments)

    monkeypatch.setattr(engine_module, "prompt_buffers", slow)
    grids = [tuple(grid) for grid in other["image_grid_thw"].tolist()]
    thread = threading.Thread(target=engine.prepare, args=(other["input_ids"], grids))
    thread.start()
    assert begun.wait(60)
    same(engine, plain, inputs)
    go_on.set()
    thread.join(60)
    monkeypatch.setattr(engine_module, "prompt_buffers", lambda *_: pytest.fail("it was prepared"))
    same(engine, plain, other)


def test_engine_draws_noise_as_the_plain_network_does():
    model, plain = network("n1d7"), network("n1d7")
    inputs = observation(model)
    expected = plain.sample(inputs, generator=torch.Generator().manual_seed(5))
    got = Engine(model, EMBODIMENT).sample(inputs, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(got, expected, **CLOSE)


def changed(inputs: dict[str, Tensor], **changes: Tensor | None) -> dict[str, Tensor]:
    return {name: value for name, value in {**inputs, **changes}.items() if value is not None}


REFUSED = {
    "another embodiment": (lambda i: changed(i, embodiment_id=torch.tensor([11])), "11.*made for 10"),
    "an unknown embodiment": (lambda i: changed(i, embodiment_id=torch.tensor([99])), "99.*expected 0"),
    "no state": (lambda i: changed(i, state=None), "lack state"),
    "a state of another width": (lambda i: changed(i, state=torch.zeros(1, 1, 3)), r"state has shape \(1, 1, 3\)"),
    "padding": (
        lambda i: changed(i, attention_mask=torch.zeros_like(i["attention_mask"])),
        "attention_mask marks padding",
    ),
    "two prompts": (
        lambda i: {
            **changed(i, embodiment_id=torch.tensor([10, 10]), state=i["state"].repeat(2, 1, 1)),
            "input_ids": i["input_ids"].repeat(2, 1),
            "attention_mask": i["attention_mask"].repeat(2, 1),
        },
        "one prompt",
    ),
    "no pictures": (lambda i: changed(i, image_grid_thw=torch.zeros(0, 3, dtype=torch.int64)), "at least one image"),
    "a picture of no height": (
        lambda i: changed(i, image_grid_thw=torch.tensor([(1, 0, 4)]), pixel_values=i["pixel_values"][:0]),
        "numbers from 1 on",
    ),
    "a picture of negative sides": (
        lambda i: changed(i, image_grid_thw=torch.tensor([(1, -2, -2)]), pixel_values=i["pixel_values"][:4]),
        "numbers from 1 on",
    ),
    "a picture that cannot be merged": (
        lambda i: changed(
            i, image_grid_thw=torch.tensor([(1, 5, 7)]), pixel_values=i["pixel_values"][:1].repeat(35, 1)
        ),
        "image_grid_thw row",
    ),
    "too few patches": (lambda i: changed(i, pixel_values=i["pixel_values"][:-1]), "pixel_values has shape"),
    "pictures without tokens": (
        lambda i: changed(
            i,
            image_grid_thw=i["image_grid_thw"].repeat(2, 1),
            pixel_values=i["pixel_values"].repeat(2, 1),
        ),
        "input_ids hold",
    ),
    "an id beyond the table": (
        lambda i: changed(i, input_ids=torch.where(i["input_ids"] == 7, 100000, i["input_ids"])),
        "100000",
    ),
}


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("case", REFUSED)
def test_engine_refuses(generation, case):
    change, words = REFUSED[case]
    model = network(generation)
    engine, inputs = Engine(model, EMBODIMENT), observation(model)
    with pytest.raises(ValueError, match=words):
        engine.sample(change(inputs), noise_for(model))
    same(engine, network(generation), inputs)


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (torch.tensor([5, 6, 7]), "one prompt"),
        (torch.zeros(1, 0, dtype=torch.int64), "one prompt"),
        (torch.zeros(2, 3, dtype=torch.int64), "one prompt"),
        (torch.full((1, 5000), 5), "5000 tokens, expected at most 4096"),
        (torch.tensor([[5, 6, 7]]), "hold"),
    ],
)
def test_engine_refuses_to_prepare(ids, words):
    model = network("n1d7")
    with pytest.raises(ValueError, match=words):
        Engine(model, EMBODIMENT).prepare(ids, [(1, 6, 6)])


def test_engine_refuses_continuations():
    model = network("n1d7")
    engine, inputs, noise = Engine(model, EMBODIMENT), observation(model), noise_for(model)
    rtc, pull = RtcOptions(noise, 16, 4, 2), Guidance(noise[0], torch.ones(16))
    for words, keywords in (
        ("give one of them", {"rtc": rtc, "guidance": pull}),
        ("frozen_steps", {"rtc": RtcOptions(noise, 16, 2, 4)}),
        ("guidance.previous", {"guidance": Guidance(noise[0, :3], torch.ones(16))}),
        ("guidance.beta is 0", {"guidance": Guidance(noise[0], torch.ones(16), beta=0)}),
    ):
        with pytest.raises(ValueError, match=words):
            engine.sample(inputs, noise, **keywords)
    with pytest.raises(ValueError, match="noise has shape"):
        engine.sample(inputs, noise[:, :3])


@pytest.mark.parametrize(
    ("embodiment", "steps", "words"), [(32, None, "embodiment_id is 32"), (10, 0, "num_steps is 0")]
)
def test_engine_refuses_to_be_made(embodiment, steps, words):
    with pytest.raises(ValueError, match=words):
        Engine(network("n1d6"), embodiment, EngineOptions(num_steps=steps))


def test_engine_refuses_a_bucket_below_one():
    with pytest.raises(ValueError, match="text_bucket is 0, expected at least 1"):
        Engine(network("n1d6"), EMBODIMENT, EngineOptions(text_bucket=0))


def test_engine_refuses_a_model_that_another_one_took_over():
    model = network("n1d6")
    Engine(model, EMBODIMENT).release()
    with pytest.raises(ValueError, match=r"weights are gone.*load the checkpoint again"):
        Engine(model, EMBODIMENT)
