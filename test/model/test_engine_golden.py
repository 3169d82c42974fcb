"""The engine is the plain network: every golden set and sample, with and without graphs, real-time chunking, steps."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
import torch
from golden_set import COSMOS_SETS, EAGLE_SETS, Golden
from tape import TapeRecorder
from torch import Tensor

from groot_ros.model.action_head import RtcOptions
from groot_ros.model.engine import Engine, EngineOptions
from groot_ros.model.guidance import Guidance, cosine_weights

CLOSE = {"atol": 1e-5, "rtol": 0}
# How an engine may work: call by call, with packed weights, with a padded prompt, recorded.
WAYS = {
    "eager": (EngineOptions(pack=False), False),
    "packed": (EngineOptions(), False),
    "padded": (EngineOptions(pack=False, text_bucket=16), False),
    "recorded": (EngineOptions(pack=False, text_bucket=8), True),
}


@dataclass
class Subject:
    """A golden set whose model the engines of this module may change."""

    golden: Golden
    plain: Golden
    """The same, untouched."""

    def samples(self) -> list[dict[str, Tensor]]:
        return [self.golden.alone(self.golden.inputs, i) for i in range(len(self.golden.inputs["input_ids"]))]

    def noise(self, sample: int) -> Tensor:
        return self.golden["initial noise"][sample : sample + 1]


@pytest.fixture(scope="module", params=(*EAGLE_SETS, *COSMOS_SETS))
def subject(request, load_golden, goldens) -> Subject:
    return Subject(load_golden(request.param), goldens(request.param))


def engine_of(subject: Subject, inputs: dict[str, Tensor], way: str, steps: int | None = None) -> Engine:
    options, recorded = WAYS[way]
    options = EngineOptions(num_steps=steps, text_bucket=options.text_bucket, pack=options.pack)
    return Engine(
        subject.golden.model,
        int(inputs["embodiment_id"]),
        options,
        recorder=TapeRecorder() if recorded else None,
        log=pytest.fail,
    )


def continuations(subject: Subject, sample: int) -> dict[str, dict[str, object]]:
    """Real-time chunking of each kind, and none after each: what one chunk used must not stay for the next."""
    config = subject.golden.model.config
    horizon, width = config.action_horizon, config.max_action_dim
    previous = torch.randn(1, horizon, width, generator=torch.Generator().manual_seed(sample))
    per_number = torch.linspace(0, 1, horizon * width).view(horizon, width)
    return {
        "none": {},
        "guided": {"guidance": Guidance(previous[0], torch.from_numpy(cosine_weights(horizon, 2, horizon // 2)))},
        "none after it": {},
        "guided per number": {"guidance": Guidance(previous.numpy(), per_number.numpy(), beta=2.0)},
        "in-painted": {"rtc": RtcOptions(previous, horizon, horizon // 2, 2)},
        "none at last": {},
    }


def check(engine: Engine, subject: Subject, inputs: dict[str, Tensor], sample: int, steps: int | None = None) -> None:
    for name, continuation in continuations(subject, sample).items():
        expected = subject.plain.model.sample(inputs, subject.noise(sample), steps, **continuation)
        got = engine.sample(inputs, subject.noise(sample), **continuation)
        assert got.dtype == torch.float32 and got.device.type == "cpu"
        torch.testing.assert_close(got, expected, **CLOSE, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("way", WAYS)
def test_engine_is_the_plain_network(subject, way):
    for i, inputs in enumerate(subject.samples()):
        engine = engine_of(subject, inputs, way)
        if WAYS[way][1]:
            engine.sample(inputs, subject.noise(i))
            assert engine.report().mode == "eager"
            assert engine.wait(60)
        check(engine, subject, inputs, i)
        assert engine.report().mode == ("graph" if WAYS[way][1] else "eager")


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_engine_with_other_numbers_of_steps(subject, steps):
    inputs = subject.samples()[0]
    check(engine_of(subject, inputs, "eager", steps), subject, inputs, 0, steps)


@pytest.mark.parametrize("way", ["eager", "recorded"])
def test_engine_gives_the_golden_actions(subject, way):
    """NVIDIA's numbers, where they are of a prompt without padding."""
    golden = subject.golden
    found = {}
    whole = bool(golden.inputs["attention_mask"].all())
    for name, expected in golden.io.items():
        single = re.fullmatch(r"out\.single(\d+)\.action_pred", name)
        run = re.fullmatch(r"(infer|out\.get_action(?:_steps(\d+))?|variant\.steps(\d+)\.infer)\.action_pred", name)
        if single:
            found[name] = (int(single[1]), None, expected)
        elif run and whole:
            found[name] = (0, int(run[2] or run[3] or 0) or None, expected[:1])
    if golden.model.config.generation in ("n1d5", "n1d7"):
        assert found
    for name, (sample, steps, expected) in found.items():
        inputs = subject.samples()[sample]
        engine = engine_of(subject, inputs, way, steps)
        engine.sample(inputs, subject.noise(sample))
        engine.wait(60)
        got = engine.sample(inputs, subject.noise(sample))
        torch.testing.assert_close(got, expected, **CLOSE, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(
    "changes", [{"use_alternate_vl_dit": False}, {"attend_text_every_n_blocks": 1}], ids=["plain_dit", "text_every_1"]
)
def test_engine_with_other_settings_of_the_dit(load_golden, changes):
    golden = load_golden("n1d6", **changes)
    plain = load_golden("n1d6", **changes)
    subject = Subject(golden, plain)
    for i, inputs in enumerate(subject.samples()):
        check(engine_of(subject, inputs, "padded"), subject, inputs, i)


def test_engine_in_bfloat16(load_golden):
    """Another order of roundings: as near to the plain network as that is to float32, and nearer."""
    for name in (*EAGLE_SETS, *COSMOS_SETS):
        exact, plain, golden = load_golden(name), load_golden(name, dtype=torch.bfloat16), None
        golden = load_golden(name, dtype=torch.bfloat16)
        subject = Subject(golden, plain)
        for i, inputs in enumerate(subject.samples()):
            got = engine_of(subject, inputs, "padded").sample(inputs, subject.noise(i)).flatten()
            of_plain = plain.model.sample(inputs, subject.noise(i)).flatten()
            of_exact = exact.model.sample(inputs, subject.noise(i)).flatten()
            assert torch.cosine_similarity(got, of_plain, dim=0) >= 0.9999, (name, i)
            rounding = (of_plain - of_exact).norm()
            assert (got - of_exact).norm() <= 1.5 * rounding, (name, i)
