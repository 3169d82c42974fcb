"""Reduced precision: what passes, what a damaged one comes to, and where a policy is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor

from groot_ros.embodiment.load import load_embodiment
from groot_ros.embodiment.schema import Embodiment
from groot_ros.model.engine import fp8
from groot_ros.model.engine.dense import Dense
from groot_ros.model.engine.gate import FEW, Comparison, GateResult
from groot_ros.observation.types import Observation
from groot_ros.policy.base import Chunk, Prefix
from groot_ros.policy.precision_gate import (
    Measurement,
    PrecisionError,
    allowed_precision,
    result_path,
    write_result,
)
from groot_ros.policy.random_checkpoint import make_random_checkpoint

ROBOT: Embodiment = load_embodiment("sim_arm", "n1d7")
WIDTHS = {"single_arm": 5, "gripper": 1}
LOW, HIGH = {"single_arm": -2.0, "gripper": 0.0}, {"single_arm": 2.0, "gripper": 1.0}
ROWS, STEPS, HIDDEN = 16, 4, 64


class Program:
    """Two products, the second at every step, and what they make of an observation and noise."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        weights = [torch.randn(HIDDEN, HIDDEN, generator=generator) / HIDDEN**0.5 for _ in range(3)]
        self.context, self.step, self.last = (Dense(weight, None) for weight in weights)

    def denses(self) -> Iterator[tuple[str, object, str]]:
        yield "language.0.down", self, "context"
        yield "dit.0.up", self, "step"
        yield "decoder.second", self, "last"

    def __call__(self, seen: Tensor, noise: Tensor) -> Tensor:
        context = self.context(seen)
        for step in range(STEPS):
            noise = noise + (torch.tanh(self.step(noise + context, step)) - noise) / STEPS
        return self.last(noise)


class Processor:
    """Every key from -1 to 1."""

    action_widths = WIDTHS

    def action_limits(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        return np.full(WIDTHS[key], LOW[key]), np.full(WIDTHS[key], HIGH[key])

    def encode_action(self, action: Mapping[str, Any], state: Mapping[str, Any]) -> np.ndarray:
        rows = [2 * (action[key] - LOW[key]) / (HIGH[key] - LOW[key]) - 1 for key in WIDTHS]
        return np.concatenate(rows, axis=1).astype(np.float32)


class Policy:
    """As a `LocalPolicy` with an engine."""

    def __init__(self) -> None:
        self.engine, self.processor = SimpleNamespace(program=Program()), Processor()
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.seeds: list[int | None] = []

    def act(self, observation: Observation, *, seed: int | None = None, prefix: Prefix | None = None) -> Chunk:
        self.seeds.append(seed)
        noise = 0.3 * torch.randn(ROWS, HIDDEN, generator=torch.Generator().manual_seed(seed or 0))
        out = self.engine.program(torch.from_numpy(observation.state["all"]), noise)
        if not out.isfinite().all():
            raise ValueError("model output: expected finite numbers; found NaN")
        rows = (torch.tanh(out[:, :6]).numpy() + 1) / 2
        actions = {"single_arm": (rows[:, :5] * 4 - 2).astype(np.float32), "gripper": rows[:, 5:].astype(np.float32)}
        return Chunk(0, 0.05, actions, "", seed or 0)


def observations(count: int = FEW, seed: int = 0) -> list[Observation]:
    rng = np.random.default_rng(seed)
    states = [rng.standard_normal((1, HIDDEN)).astype(np.float32) for _ in range(count)]
    return [Observation(0, {}, {"all": state}, "", {}, {}) for state in states]


def measured(precision: str, policy: Policy | None = None, **options: Any) -> tuple[Measurement, Comparison]:
    measurement = Measurement(policy or Policy(), ROBOT, precision, **options)
    return measurement, measurement.run(observations(), observations(8, seed=1) if precision == "fp8" else [])


@pytest.mark.parametrize("precision", ["fp8_weights", "fp8"])
def test_a_sound_precision_passes_and_says_its_numbers(precision: str) -> None:
    stages: list[tuple[str, int, int]] = []
    policy = Policy()
    measurement, found = measured(precision, policy, progress=lambda *stage: stages.append(stage))
    assert found.passed, found.reasons
    assert 0.99 < found.worst_cosine <= found.cosine < 1
    for key, numbers in found.keys.items():
        assert 0 < numbers.p95 <= numbers.largest < numbers.noise_largest
        assert numbers.unit == ROBOT.action[key].unit
        assert numbers.share_largest == pytest.approx(numbers.largest / (HIGH[key] - LOW[key]))
    assert measurement.report is not None and measurement.report.layers == ("language.0.down", "dit.0.up")
    names = list(dict.fromkeys(name for name, _, _ in stages))
    calibrated = precision == "fp8"
    assert names == ["model", "model, other noise", *(["calibration"] if calibrated else []), precision]
    assert {name: len(scales) for name, scales in measurement.scales.items()} == (
        {"language.0.down": 1, "dit.0.up": STEPS} if calibrated else {}
    )
    assert policy.seeds[:FEW] == policy.seeds[-FEW:]  # same noise
    assert not set(policy.seeds[:FEW]) & set(policy.seeds[FEW:-FEW])


def test_products_can_be_left_out() -> None:
    measurement, _ = measured("fp8_weights", exclude=["language.*"])
    assert measurement.report is not None and measurement.report.layers == ("dit.0.up",)


def coarse(values: Tensor) -> Tensor:
    """As if every number had lost its mantissa and a few their sign."""
    rounded = values.sign() * 2.0 ** values.abs().clamp_min(1e-9).log2().round()
    rounded[..., ::5] *= -1
    return rounded.clamp(-fp8.E4M3_MAX, fp8.E4M3_MAX).to(fp8.E4M3)


@pytest.mark.parametrize("precision", ["fp8_weights", "fp8"])
def test_a_damaged_quantisation_is_refused(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fp8, "saturated", coarse)
    _, found = measured(precision)
    assert not found.passed
    assert any("cosine" in reason for reason in found.reasons)


def test_scales_that_are_too_small_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fp8, "MARGIN", 1 / 32)
    _, found = measured("fp8")
    assert not found.passed


def test_numbers_that_are_none_are_refused_and_not_a_crash(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fp8, "saturated", lambda values: (values * float("nan")).to(fp8.E4M3))
    measurement, found = measured("fp8_weights")
    assert found.reasons == ("fp8_weights: model output: expected finite numbers; found NaN",)
    path = write_result(measurement.result(found, checkpoint, "tiny", STEPS), tmp_path / "result.json")
    assert json.loads(path.read_text())["numbers"]["cosine"] is None
    with pytest.raises(PrecisionError, match=r"refused .*found NaN"):
        allowed_precision(checkpoint, ROBOT, "fp8_weights", path=path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("precision") / "tiny"
    make_random_checkpoint(path, "n1d7", "tiny", "sim_arm", 0, Console(quiet=True))
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "groot_ros" / "precision"


@pytest.fixture
def passed(checkpoint: Path) -> GateResult:
    measurement, found = measured("fp8")
    return measurement.result(found, checkpoint, str(checkpoint), STEPS)


def test_what_passed_is_allowed_for_this_checkpoint_wherever_it_lies(
    passed: GateResult, checkpoint: Path, cache: Path, tmp_path: Path
) -> None:
    path = write_result(passed)
    assert path.parent == cache and path.name == f"{passed.fingerprint[:16]}-sim_arm-fp8.json"
    shutil.copytree(checkpoint, tmp_path / "copy")
    for place in (checkpoint, tmp_path / "copy"):
        allowed = allowed_precision(place, ROBOT, "fp8")
        assert allowed is not None and allowed.passed
        assert (allowed.scales, allowed.layers) == (passed.scales, passed.layers)
    assert allowed_precision(checkpoint, ROBOT, "model") is None
    assert allowed is not None
    engine = SimpleNamespace(program=Program(), wait=lambda: True, changed=lambda: None)
    assert fp8.apply_precision(engine, allowed).layers == passed.layers
    document = json.loads(path.read_text())
    assert document["machine"] == {"device": "cpu", "dtype": "float32", "torch": torch.__version__}
    assert document["numbers"]["cosine"] > 0.99 and document["numbers"]["keys"]["gripper"]["unit"]
    assert document["numbers"]["weight_bytes"][1] < document["numbers"]["weight_bytes"][0]


def test_a_path_of_the_users_own(passed: GateResult, checkpoint: Path, cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "results" / "fp8.json"
    assert write_result(passed, path) == path and not cache.exists()
    with pytest.raises(PrecisionError, match="found none at"):
        allowed_precision(checkpoint, ROBOT, "fp8")
    assert allowed_precision(checkpoint, ROBOT, "fp8", path=path) is not None


def test_without_a_measurement_the_command_is_said(checkpoint: Path, cache: Path) -> None:
    with pytest.raises(PrecisionError) as caught:
        allowed_precision(checkpoint, ROBOT, "fp8_weights")
    text = str(caught.value)
    assert str(cache) in text
    assert f"groot-ros precision --checkpoint {checkpoint} --embodiment sim_arm --dataset DIR" in text
    assert "--precision fp8_weights" in text


def test_another_precision_is_unknown(checkpoint: Path) -> None:
    with pytest.raises(PrecisionError, match=r"precision 'int8': expected one of model, fp8_weights, fp8"):
        allowed_precision(checkpoint, ROBOT, "int8")


def test_a_checkpoint_that_was_trained_on_is_another(passed: GateResult, checkpoint: Path, tmp_path: Path) -> None:
    path = write_result(passed)
    trained = tmp_path / "trained"
    shutil.copytree(checkpoint, trained)
    tensors = load_file(trained / "model.safetensors")
    name = next(name for name in tensors if name.startswith("action_head.model."))
    tensors[name] += 1e-3
    save_file(tensors, trained / "model.safetensors")
    with pytest.raises(PrecisionError, match="found none at"):
        allowed_precision(trained, ROBOT, "fp8")
    with pytest.raises(PrecisionError, match=r"fingerprint: .*another checkpoint, or its weights"):
        allowed_precision(trained, ROBOT, "fp8", path=path)


def changed(passed: GateResult, path: Path, **changes: Any) -> Path:
    write_result(passed, path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "robot": ({"embodiment": "so101"}, "embodiment: expected sim_arm, found so101"),
    "tag": ({"embodiment_tag": "gr1"}, "embodiment_tag: expected new_embodiment, found gr1"),
    "precision": ({"precision": "fp8_weights"}, "precision: expected fp8, found fp8_weights"),
    "steps": ({"num_steps": 8}, "num_steps: expected 4, found 8"),
    "verdict": ({"verdict": "refused", "reasons": ["cosine 0.5"]}, r"refused \(cosine 0.5\): use precision model"),
    "no verdict": ({"verdict": "perhaps"}, "no reason given"),
    "format": ({"format": 0}, "format: expected 1, found 0"),
}


@pytest.mark.parametrize(("changes", "words"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_result_of_something_else_is_refused(
    passed: GateResult, checkpoint: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    path = changed(passed, tmp_path / "result.json", **changes)
    with pytest.raises(PrecisionError, match=words):
        allowed_precision(checkpoint, ROBOT, "fp8", path=path)


def test_weights_do_not_depend_on_the_number_of_steps(passed: GateResult, checkpoint: Path, tmp_path: Path) -> None:
    path = changed(passed, tmp_path / "result.json", precision="fp8_weights", num_steps=8, scales={})
    assert allowed_precision(checkpoint, ROBOT, "fp8_weights", path=path) is not None
    with pytest.raises(PrecisionError, match="num_steps: expected 7, found 4"):
        allowed_precision(checkpoint, ROBOT, "fp8", path=changed(passed, path), num_steps=7)


def test_a_relative_cache_home_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert result_path("ab" * 32, "my arm/2", "fp8") == (
        Path.home() / ".cache" / "groot_ros" / "precision" / "abababababababab-my_arm_2-fp8.json"
    )
