"""The end-to-end benchmark: what it runs, compares, counts and says; not how fast this machine is."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from groot_ros.model.benchmark import rungs
from groot_ros.model.benchmark.ladder import Ladder
from groot_ros.model.benchmark.options import RUNG_NAMES, camera_size
from groot_ros.model.benchmark.policy import PolicySettings, measure_policy
from groot_ros.model.benchmark.random_model import random_model
from groot_ros.model.benchmark.robots import plain_robot, random_processor
from groot_ros.model.benchmark.rungs import RUNGS, Engined, Pictured, Plain, Unavailable
from groot_ros.model.benchmark.subject import Subject, random_subject
from groot_ros.model.benchmark.tables import policy_tables
from groot_ros.model.benchmark.timing import Memory, Stopwatch, agreement, spread
from groot_ros.model.engine.engine import EngineOptions
from groot_ros.model.make_checkpoint import make_checkpoint
from groot_ros.model.random_networks import default_processor_kwargs

CPU = torch.device("cpu")
QUICK = PolicySettings(size="tiny", repeats=2, warmup=0, threads=1, camera_size=(48, 64))


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    shares: list[float] = []
    found = measure_policy(dataclasses.replace(QUICK, cameras=(1, 2)), lambda text, share: shares.append(share))
    assert shares == sorted(shares) and shares[-1] == 1.0
    return found


def subject_of(generation: str = "n1d7", cameras: int = 2) -> Subject:
    robot = plain_robot(generation, cameras, (48, 64))
    processor, config = random_processor(robot, generation, "tiny")
    model = random_model(config, torch.float32, CPU, 0)
    return random_subject("random", model, processor, robot.views, 40, 0)


def test_every_generation_and_number_of_cameras_has_every_rung(report) -> None:
    rows = [(row["generation"], row["cameras"]) for row in report["results"]]
    assert rows == [(generation, cameras) for generation in ("n1d5", "n1d6", "n1d7") for cameras in (1, 2)]
    for row in report["results"]:
        assert [rung["name"] for rung in row["rungs"]] == list(RUNG_NAMES)


def test_what_does_not_apply_says_why(report) -> None:
    for row in report["results"]:
        reasons = {rung["name"]: rung["reason"] for rung in row["rungs"]}
        assert reasons["plain"] is reasons["engine"] is reasons["fp8_weights"] is None
        for name in ("graph", "pictures", "compile", "fp8"):
            assert "CUDA" in reasons[name] and "found device cpu" in reasons[name]


def test_measured_rungs_have_stages_times_memory_and_agreement(report) -> None:
    for row in report["results"]:
        rung = {rung["name"]: rung for rung in row["rungs"]}
        for name in ("plain", "engine", "fp8_weights"):
            found = rung[name]
            assert set(found["stages_ms"]) == {"data", "backbone", "head", "decode"}
            for times in (*found["stages_ms"].values(), found["e2e_ms"], found["e2e_cpu_ms"]):
                assert times["runs"] == 2 and 0 <= times["min"] <= times["p50"] <= times["p95"] <= times["p99"]
            assert found["overlapped_hz"] > 0 and set(found["first_s"]) == {"build", "inference", "ready"}
            assert found["memory"]["of"] == "process" and found["memory"]["weights"] > 0
        assert rung["plain"]["agreement"] is None and rung["plain"]["speedup"] == 1.0
        assert rung["engine"]["agreement"]["max_difference"] <= 1e-5
        assert rung["fp8_weights"]["agreement"]["cosine"] > 0.99
        assert rung["fp8_weights"]["notes"][0].startswith("precision fp8_weights: ")
        assert row["attention"] == "groot_ros_sdpa"
        assert rung["fp8_weights"]["agreement"]["max_difference"] > 1e-4


def test_after_the_last_cameras_the_engine_alone_is_left(report) -> None:
    for row in report["results"]:
        released = row["released"]
        if row["cameras"] == 1:
            assert released is None
        else:
            assert released["rung"] == "engine" and released["freed"] > 0 and released["reserved"] is None
            assert 0 < released["held"] <= released["peak"] + (1 << 20)


def test_tokens_are_counted_and_the_text_is_as_long_as_asked_for(report) -> None:
    tokens = {(row["generation"], row["cameras"]): row["tokens"] for row in report["results"]}
    assert tokens["n1d6", 1]["text"] == 28 and tokens["n1d6", 2]["text"] == 31
    assert tokens["n1d7", 1]["text"] == 28 and tokens["n1d7", 2]["text"] == 31
    for (generation, cameras), found in tokens.items():
        assert found["prompt"] == found["image"] + found["text"]
        assert found["patches"] == found["image"] * (1 if generation == "n1d5" else 4)
        assert found["image"] == cameras * tokens[generation, 1]["image"]


def test_another_length_of_the_text_than_wanted_is_noted(report) -> None:
    for row in report["results"]:
        wanted = (20 if row["generation"] == "n1d5" else 25) + 3 * row["cameras"]
        found = row["tokens"]["text"]
        said = [f"{found} tokens of text where {wanted} were wanted"] if found != wanted else []
        assert [note.split(":")[0] for note in row["notes"]] == said
        assert bool(said) == (row["generation"] == "n1d5")
        assert all(note in policy_tables({"results": [row]})[0].text() for note in row["notes"])


def test_a_report_is_json_and_its_tables_are_whole(report) -> None:
    again = json.loads(json.dumps(report))
    assert (again["benchmark"], again["format"]) == ("policy", 1)
    assert again["settings"]["camera_size"] == [48, 64] and "robots" not in again["settings"]
    assert again["results"][0]["pictures"] == {"camera_1": [64, 48]}
    tables = policy_tables(again)
    assert len(tables) == 6
    for table in tables:
        assert len(table.rows) == len(RUNG_NAMES) and all(len(row) == len(table.columns) for row in table.rows)
        assert any(note.startswith("graph: not measured: ") for note in table.notes)
        assert any("moved in bfloat16" in note for note in table.notes)
    assert "random tiny n1d5, 1 camera, 16 image + " in tables[0].text()


def test_chosen_rungs_only_and_without_stages() -> None:
    settings = dataclasses.replace(QUICK, generations=("n1d6",), cameras=(1,), rungs=("engine",), stages=False)
    [row] = measure_policy(settings)["results"]
    assert [rung["name"] for rung in row["rungs"]] == ["plain", "engine"]
    assert all(set(rung["stages_ms"]) == {"data"} for rung in row["rungs"])
    assert all(len(line) == len(table.columns) for table in policy_tables({"results": [row]}) for line in table.rows)
    plain = dataclasses.replace(settings, rungs=("plain",))
    assert measure_policy(plain)["results"][0]["released"] is None


def test_a_checkpoint_is_measured_as_it_is(tmp_path: Path) -> None:
    robot = plain_robot("n1d7", 1, (48, 64))
    entries = {robot.tag: robot.statistics}
    make_checkpoint(
        tmp_path,
        generation="n1d7",
        size="tiny",
        processor_kwargs=default_processor_kwargs({robot.tag: robot.modality}, "tiny", "n1d7", entries),
        statistics=entries,
    )
    settings = dataclasses.replace(QUICK, checkpoint=str(tmp_path), rungs=("engine",))
    [row] = measure_policy(settings)["results"]
    assert (row["source"], row["generation"], row["cameras"]) == (str(tmp_path), "n1d7", 1)
    with pytest.raises(ValueError, match="the robot is for n1d6 only"):
        measure_policy(dataclasses.replace(settings, robots={"n1d6": robot}))


class Recorded:
    """Repeats a program on the same memory, as a CUDA graph does."""

    def __init__(self, device: torch.device) -> None:
        assert device == CPU

    def record(self, function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        output = function().clone()
        return lambda: output.copy_(function())


@pytest.mark.parametrize("generation", ["n1d5", "n1d6", "n1d7"])
def test_halves_of_a_recorded_program_give_the_plain_actions(monkeypatch, generation: str) -> None:
    monkeypatch.setattr(rungs, "CudaGraphs", Recorded)
    subject = subject_of(generation)
    plain = Plain(subject, 2)
    runners = Engined(subject, 2, EngineOptions()), Pictured(subject, 2, EngineOptions())
    watch = Stopwatch(CPU)
    for number in (0, 1, 0):
        wanted = plain.sample(subject.encode(number), subject.noise)
        for runner in (plain, *runners):
            inputs = runner.encode(number)
            assert float((runner.sample(inputs, subject.noise) - wanted).abs().max()) <= 1e-5
            found, seconds = runner.staged(inputs, subject.noise, watch)
            assert found.shape == wanted.shape and float((found - wanted).abs().max()) <= 1e-5
            assert set(seconds) == {"backbone", "head"}


def test_parts_of_a_program_are_filled_as_the_engine_is(monkeypatch) -> None:
    """On CUDA by way of pinned memory, in the buffers' dtype; a copy from ordinary memory would hold the host up."""
    filled: list[dict[str, Tensor]] = []

    class Filling(rungs.PinnedCopy):
        def __call__(self, values: Any) -> None:
            filled.append(dict(values))
            super().__call__(values)

    monkeypatch.setattr(rungs, "PinnedCopy", Filling)
    subject = subject_of()
    engined = Engined(subject, 2, EngineOptions(graphs=False))
    inputs = engined.encode(0)
    engined.staged(inputs, subject.noise, Stopwatch(CPU))
    [values] = filled
    assert set(values) == {"pixel_values", "state", "noise"} and values["pixel_values"] is inputs["pixel_values"]


def test_the_noise_is_drawn_on_the_host_in_every_chunk_as_a_policy_does(monkeypatch) -> None:
    subject = subject_of()
    subject.model.to(torch.bfloat16)
    noise = subject.noise
    config = subject.model.config
    assert (noise.dtype, noise.device) == (torch.float32, CPU) and noise is not subject.noise
    expected = torch.randn(1, config.action_horizon, config.max_action_dim, generator=torch.Generator().manual_seed(0))
    assert torch.equal(noise, expected) and torch.equal(noise, subject.noise)
    drawn: list[int] = []
    plain = torch.randn

    def randn(*shape: int, **named: Any) -> Tensor:
        drawn.append(1)
        return plain(*shape, **named)

    ladder = Ladder(QUICK, subject_of(), 2)
    ladder.prepare(RUNGS[0])
    monkeypatch.setattr(torch, "randn", randn)
    ladder.run(0)
    assert len(drawn) == 2  # end to end, and in parts


def test_pictures_of_several_sizes_are_not_processed_on_the_device() -> None:
    subject = subject_of()
    first, second = subject.scenes[0].video.values()
    subject.scenes[0] = dataclasses.replace(subject.scenes[0], video={"camera_1": first, "camera_2": second[:, :40]})
    with pytest.raises(Unavailable, match="one size"):
        Pictured(subject, 2, EngineOptions(graphs=False))


def test_a_graph_that_is_none_is_no_measurement() -> None:
    subject = subject_of()
    engined = Engined(subject, 2, EngineOptions(graphs=True))  # on a CPU there are none
    engined.sample(subject.encode(0), subject.noise)
    engined.ready()
    assert engined.fallback() == "it runs as eager"
    plain = Engined(subject, 2, EngineOptions(graphs=False))
    assert plain.fallback() is None and plain.notes() == []


def test_a_program_that_could_not_be_compiled_is_no_measurement() -> None:
    engined = Engined(subject_of(), 2, EngineOptions(graphs=False, compile=True))
    engined.notes().append("torch.compile: CppCompileError: no compiler; the engine runs uncompiled")
    assert engined.fallback() == engined.notes()[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"repeats": 0}, "repeats is 0"),
        ({"warmup": -1}, "warmup is -1"),
        ({"cameras": (0,)}, "cameras"),
        ({"steps": 0}, "steps is 0"),
        ({"rungs": ("fp4",)}, "rung 'fp4', expected one of plain"),
        ({"checkpoint": "/nowhere/at/all"}, "/nowhere"),
    ],
)
def test_bad_settings_are_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        measure_policy(dataclasses.replace(QUICK, **change))


def test_picture_sizes_are_read() -> None:
    assert camera_size("640x480") == (480, 640)
    for text in ("640", "0x480", "640x", "axb", "640x480x3"):
        with pytest.raises(ValueError, match="expected WIDTHxHEIGHT"):
            camera_size(text)


def test_cuda_is_timed_between_events_on_an_idle_device(monkeypatch) -> None:
    done: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            done.append("record")

        def synchronize(self) -> None:
            done.append("wait for event")

        def elapsed_time(self, other: Event) -> float:
            return 12.5

    class Chosen:
        def __init__(self, device: torch.device) -> None:
            pass

        def __enter__(self) -> None:
            done.append("enter")

        def __exit__(self, *_: object) -> None:
            done.append("leave")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "device", Chosen)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: done.append("wait"))
    watch = Stopwatch(torch.device("cuda", 0))
    result, seconds = watch.device_time(lambda: done.append("call"))
    assert (result, seconds) == (None, 0.0125)
    assert done == ["wait", "enter", "record", "call", "record", "leave", "wait for event"]
    done.clear()
    watch.wall(lambda: done.append("call"))
    assert done == ["wait", "call", "wait"]


def test_percentiles_are_in_milliseconds() -> None:
    found = spread([0.001 * i for i in range(1, 101)])
    assert found["runs"] == 100 and found["p50"] == pytest.approx(50.5) and found["max"] == pytest.approx(100.0)
    assert found["p95"] == pytest.approx(95.05) and found["p99"] == pytest.approx(99.01)


def test_agreement_of_equal_and_of_opposite_tensors() -> None:
    one = torch.tensor([1.0, -2.0])
    assert agreement(one, one) == {"cosine": pytest.approx(1.0), "max_difference": 0.0}
    assert agreement(one, -one) == {"cosine": pytest.approx(-1.0), "max_difference": 4.0}


def test_memory_of_the_process_is_known_on_linux() -> None:
    memory = Memory(CPU)
    memory.forget_peak()
    held, peak = memory.held(), memory.peak()
    assert held is not None and peak is not None and 0 < held <= peak + (1 << 20)


def test_a_compiled_rung_begins_without_what_was_compiled_for_others(monkeypatch) -> None:
    """torch keeps eight compiled forms of a function; the ninth would run uncompiled without a word here."""
    forgotten: list[str] = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: forgotten.append("all"))
    subject = subject_of()
    for rung in RUNGS[1:]:
        if rung.name != "fp8":
            rung.make(subject, 2, torch.device("cuda", 0))  # the network is on the CPU, so nothing is recorded
    assert forgotten == ["all", "all"]  # compile and fp8_weights
