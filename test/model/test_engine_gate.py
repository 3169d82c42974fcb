"""The verdict on a reduced precision, the file it is written to, and which checkpoint the file is of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from groot_ros.model.engine.fingerprint import fingerprint
from groot_ros.model.engine.gate import FEW, Answer, Comparison, GateFileError, GateResult, compare, cosine

RANGES = {"arm": (np.array([-1.0, 0.0, 2.0]), np.array([1.0, 4.0, 2.0])), "grip": (np.array([0.0]), np.array([100.0]))}
UNITS = {"arm": "rad", "grip": "percent"}
CENTRE = {key: (low + high) / 2 for key, (low, high) in RANGES.items()}
HALF = {key: np.where(high > low, (high - low) / 2, 1.0) for key, (low, high) in RANGES.items()}


def answer(shares: dict[str, np.ndarray]) -> Answer:
    """From shares of half the range around the middle."""
    moves = {key: high > low for key, (low, high) in RANGES.items()}
    physical = {key: CENTRE[key] + rows * np.where(moves[key], HALF[key], 0) for key, rows in shares.items()}
    return Answer(physical, shares)


def answers(count: int, error: float, *, spread: float = 0.1, seed: int = 0) -> tuple[list[Answer], ...]:
    """Chunks of the model, with other noise, and of a reduced model that is off by `error` of half the range."""
    rng = np.random.default_rng(seed)
    kinds: tuple[list[Answer], ...] = ([], [], [])
    for _ in range(count):
        base = {key: rng.uniform(-0.8, 0.8, (8, len(low))) for key, (low, _) in RANGES.items()}
        for kind, size in zip(kinds, (0.0, spread, error), strict=True):
            kind.append(answer({key: rows + size * rng.uniform(-1, 1, rows.shape) for key, rows in base.items()}))
    return kinds


def judge(count: int = FEW, error: float = 0.02, spread: float = 0.1) -> Comparison:
    model, noise, reduced = answers(count, error, spread=spread)
    return compare(model, noise, reduced, RANGES, UNITS)


def test_what_changes_less_than_the_noise_passes() -> None:
    found = judge()
    assert found.passed and found.reasons == ()
    assert 0.99 < found.worst_cosine <= found.cosine < 1
    arm = found.keys["arm"]
    assert arm.unit == "rad"
    assert arm.share_largest == pytest.approx(0.01, rel=0.05) and arm.noise_share_largest == pytest.approx(
        0.05, rel=0.05
    )
    assert arm.largest == pytest.approx(0.04, rel=0.05)  # the joint with the range of 4
    assert arm.p95 < arm.largest and arm.noise_p95 > arm.p95
    assert found.keys["grip"].largest == pytest.approx(1.0, rel=0.05)


def test_what_changes_more_than_the_noise_is_refused_by_key() -> None:
    found = judge(error=0.1, spread=0.02)
    assert not found.passed
    assert any(reason.startswith("arm: 95 % |difference|") for reason in found.reasons)
    assert any(reason.startswith("grip: largest |difference|") and "other noise" in reason for reason in found.reasons)


def test_a_model_without_any_spread_passes_what_is_negligible() -> None:
    assert judge(error=0.0015, spread=0.0).passed
    refused = judge(error=0.01, spread=0.0)
    assert "0.100%, which passes in any case" in refused.reasons[0]


def test_another_direction_is_refused_even_within_the_noise() -> None:
    found = judge(error=0.6, spread=5.0)
    assert any("all chunks together, expected at least 0.99" in reason for reason in found.reasons)
    assert any("worst observation" in reason for reason in found.reasons)
    assert not any("|difference|" in reason for reason in found.reasons)


def test_one_bad_observation_is_enough() -> None:
    model, noise, reduced = answers(100, 0.005, spread=2.0)
    reduced[7] = answer({key: -rows for key, rows in model[7].normalized.items()})
    found = compare(model, noise, reduced, RANGES, UNITS)
    assert found.worst_cosine == pytest.approx(-1) and any("worst observation" in reason for reason in found.reasons)


def test_nan_is_refused() -> None:
    model, noise, reduced = answers(FEW, 0.01)
    reduced[3] = answer({key: np.full_like(rows, np.nan) for key, rows in model[3].normalized.items()})
    found = compare(model, noise, reduced, RANGES, UNITS)
    assert not found.passed and any(reason.startswith("arm: ") for reason in found.reasons)


def test_few_observations_are_no_verdict() -> None:
    found = judge(count=FEW - 1)
    assert found.reasons == (f"{FEW - 1} observations, expected at least {FEW}",)
    with pytest.raises(ValueError, match="one chunk of each kind"):
        compare([], [], [], RANGES, UNITS)


def test_cosines_at_the_edges() -> None:
    zero, one = np.zeros(3), np.ones(3)
    assert cosine(zero, zero) == 1 and cosine(zero, one) == 0 and cosine(one, -one) == pytest.approx(-1)
    assert np.isnan(cosine(one, np.full(3, np.nan)))


RESULT = GateResult(
    precision="fp8",
    verdict="passed",
    reasons=(),
    fingerprint="ab" * 32,
    checkpoint="/data/run",
    embodiment="arm",
    embodiment_tag="new_embodiment",
    generation="n1d7",
    num_steps=4,
    layers=("dit.0.q",),
    scales={"dit.0.q": (0.25, 0.5, 0.5, 0.5)},
    machine={"device": "NVIDIA H100", "dtype": "bfloat16", "torch": "2.9.1"},
    date="2026-11-21T21:00:00+00:00",
    numbers={"cosine": float("nan")},
)


def written(path: Path, **changes: object) -> Path:
    path.write_text(json.dumps({**RESULT.to_document(), **changes}))
    return path


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    read = GateResult.read(written(tmp_path / "r.json"))
    assert read.source == str(tmp_path / "r.json") and read.passed
    assert (read.scales, read.layers, read.numbers) == (RESULT.scales, RESULT.layers, {"cosine": None})


def test_a_result_says_what_is_otherwise_here() -> None:
    here = {"device": "NVIDIA L4", "dtype": "bfloat16", "torch": "2.9.1"}
    assert RESULT.notices(here) == ["precision fp8 was measured with device NVIDIA H100, here it is NVIDIA L4"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "format: expected 1, found 2"),
        ({"scales": {"dit.0.q": [0.0]}}, "scales.dit.0.q: expected positive numbers"),
        ({"scales": {"dit.0.q": ["x"]}}, "scales, num_steps or machine"),
        ({"machine": 3}, "scales, num_steps or machine"),
    ],
)
def test_a_broken_result_is_refused(tmp_path: Path, change: dict[str, object], words: str) -> None:
    with pytest.raises(GateFileError, match=words):
        GateResult.read(written(tmp_path / "r.json", **change))


def test_a_result_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    for text in ("", "[1]", '{"format": 1}'):
        path.write_text(text)
        with pytest.raises(GateFileError, match=r"r.json: .*measure again with `groot-ros precision`"):
            GateResult.read(path)
    with pytest.raises(GateFileError, match="cannot be read"):
        GateResult.read(tmp_path / "none.json")


def make_weights(folder: Path, change: tuple[str, tuple[int, ...]] | None = None) -> Path:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "matrix": torch.randn(64, 32, generator=generator),
        "table": torch.randn(32, 16, 8, generator=generator),
        "bias": torch.randn(3, generator=generator),
    }
    if change is not None:
        name, where = change
        tensors[name][where] += 1e-3
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    (folder / "statistics.json").write_text("{}")
    return folder


def test_a_copy_has_the_same_fingerprint(tmp_path: Path) -> None:
    first = make_weights(tmp_path / "a")
    shutil.copytree(first, tmp_path / "b")
    (tmp_path / "b" / "README.md").write_text("a copy")
    assert fingerprint(first) == fingerprint(tmp_path / "b") and len(fingerprint(first)) == 64


@pytest.mark.parametrize("change", [("matrix", ()), ("bias", ()), *(("table", (slot,)) for slot in (0, 15, 16, 31))])
def test_training_of_one_tensor_or_of_one_embodiment_changes_it(
    tmp_path: Path, change: tuple[str, tuple[int, ...]]
) -> None:
    assert fingerprint(make_weights(tmp_path / "a")) != fingerprint(make_weights(tmp_path / "b", change))


@pytest.mark.parametrize("name", ["config.json", "statistics.json"])
def test_settings_change_it(tmp_path: Path, name: str) -> None:
    folder = make_weights(tmp_path / "a")
    before = fingerprint(folder)
    (folder / name).write_text('{"changed": 1}')
    assert fingerprint(folder) != before
