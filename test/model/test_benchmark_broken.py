"""The end-to-end benchmark where something breaks: what is said, and what is measured all the same."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from torch import Tensor

from groot_ros.model.benchmark import policy
from groot_ros.model.benchmark.policy import PolicySettings, measure_policy
from groot_ros.model.benchmark.rungs import RUNGS, Engined, Plain, Rung
from groot_ros.model.benchmark.subject import Subject
from groot_ros.model.benchmark.tables import policy_tables

QUICK = PolicySettings(size="tiny", repeats=2, warmup=0, threads=1, camera_size=(48, 64))


def test_a_rung_that_breaks_is_listed_and_the_others_go_on(monkeypatch) -> None:
    closed: list[str] = []

    class Breaking(Plain):
        def sample(self, inputs: dict[str, Tensor], noise: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore lines")

        def close(self) -> None:
            closed.append("closed")

    broken = Rung("engine", "", lambda subject, steps, device: Breaking(subject, steps))
    later = dataclasses.replace(next(rung for rung in RUNGS if rung.name == "engine"), name="fp8_weights")
    monkeypatch.setattr(policy, "RUNGS", (RUNGS[0], broken, later))
    settings = dataclasses.replace(QUICK, generations=("n1d6",), cameras=(1,))
    [row] = measure_policy(settings)["results"]
    reasons = [rung["reason"] for rung in row["rungs"]]
    assert reasons == [None, "CUDA out of memory. Tried to allocate 2 GiB", None] and closed == ["closed"]


ONE = dataclasses.replace(QUICK, generations=("n1d6",), cameras=(1,), rungs=("engine",))


def breaking(chunks: int) -> type[Plain]:
    """A plain network that breaks after so many chunks end to end or in parts."""
    left = [chunks]

    class Breaking(Plain):
        def sample(self, inputs: dict[str, Tensor], noise: Tensor) -> Tensor:
            if not left[0]:
                raise torch.OutOfMemoryError("CUDA out of memory")
            left[0] -= 1
            return super().sample(inputs, noise)

    return Breaking


def test_a_setting_that_breaks_is_an_entry_with_the_reason(monkeypatch) -> None:
    made = policy._subject

    def subject(settings: Any, model: Any, processor: Any, source: str, cameras: int) -> Subject:
        if cameras == 2:
            raise torch.OutOfMemoryError("CUDA out of memory\nmore")
        return made(settings, model, processor, source, cameras)

    monkeypatch.setattr(policy, "_subject", subject)
    report = measure_policy(dataclasses.replace(ONE, cameras=(1, 2, 3)))
    assert [row["reason"] for row in report["results"]] == [None, "CUDA out of memory", None]
    expected = {"generation": "n1d6", "source": "random tiny n1d6", "cameras": 2, "reason": "CUDA out of memory"}
    assert report["results"][1] == expected
    text = policy_tables(json.loads(json.dumps(report)))[1].text()
    assert text == "random tiny n1d6, 2 cameras\nnot measured: CUDA out of memory"


def test_a_network_that_cannot_be_made_leaves_the_other_generations(monkeypatch) -> None:
    made = policy._network

    def network(settings: PolicySettings, generation: str) -> Any:
        if generation == "n1d5":
            raise MemoryError("no memory for weights")
        return made(settings, generation)

    monkeypatch.setattr(policy, "_network", network)
    rows = measure_policy(dataclasses.replace(ONE, generations=("n1d5", "n1d6"), cameras=(1, 2)))["results"]
    assert [row["reason"] for row in rows] == ["no memory for weights"] * 2 + [None] * 2
    with pytest.raises(RuntimeError, match="no memory for weights"):
        measure_policy(dataclasses.replace(ONE, generations=("n1d5",)))


def test_where_nothing_is_measured_every_reason_is_said(monkeypatch) -> None:
    def subject(settings: Any, model: Any, processor: Any, source: str, cameras: int) -> Subject:
        raise ValueError(f"{cameras} are too many")

    monkeypatch.setattr(policy, "_subject", subject)
    with pytest.raises(RuntimeError, match=r"^random tiny n1d6, 1 camera: 1 are .*; random tiny n1d6, 2 cameras: 2 "):
        measure_policy(dataclasses.replace(ONE, cameras=(1, 2)))


@pytest.mark.parametrize("chunks", [7, 8])  # 2 + 4 before the runs, 2 of the runs, 2 beside host work
@pytest.mark.parametrize("name", ["plain", "engine"])
def test_what_was_measured_of_a_rung_that_breaks_later_stays(monkeypatch, name: str, chunks: int) -> None:
    later = breaking(chunks)
    found = [rung for rung in RUNGS if rung.name in ("plain", "engine")]
    kinds = [
        dataclasses.replace(rung, make=lambda subject, steps, device: later(subject, steps))
        if rung.name == name
        else rung
        for rung in found
    ]
    monkeypatch.setattr(policy, "RUNGS", kinds)
    [row] = measure_policy(ONE)["results"]
    rungs_ = {rung["name"]: rung for rung in row["rungs"]}
    broken = rungs_.pop(name)
    assert row["reason"] is None and broken["reason"] is None and broken["overlapped_hz"] is None
    assert broken["e2e_ms"]["runs"] == chunks - 6
    where = "ended in run 2 of 2" if chunks == 7 else "ended beside host work"
    assert broken["notes"] == [f"{where}: CUDA out of memory"]
    [whole] = rungs_.values()
    assert whole["e2e_ms"]["runs"] == 2 and whole["overlapped_hz"] > 0
    assert f"{name}: {where}: CUDA out of memory" in policy_tables({"results": [row]})[0].text()


def test_a_rung_that_breaks_in_its_first_run_is_not_measured(monkeypatch) -> None:
    later = breaking(6)
    engine = Rung("engine", "", lambda subject, steps, device: later(subject, steps))
    monkeypatch.setattr(policy, "RUNGS", (RUNGS[0], engine))
    [row] = measure_policy(ONE)["results"]
    assert [rung["reason"] for rung in row["rungs"]] == [None, "ended in run 1 of 2: CUDA out of memory"]
    assert "engine: not measured: ended in run 1 of 2" in policy_tables({"results": [row]})[0].text()


def test_an_engine_that_cannot_be_left_alone_costs_only_that_number(monkeypatch) -> None:
    def release(self: Engined) -> int:
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(Engined, "release", release)
    [row] = measure_policy(ONE)["results"]
    assert row["released"] is None and row["rungs"][1]["reason"] is None
    assert "memory of an engine alone: not measured: CUDA error" in row["rungs"][0]["notes"][0]
