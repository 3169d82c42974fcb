"""Measuring of what comes before the network: what is reported, and what is refused. No time is judged."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import pytest
import torch

from groot_ros.processing import patches
from groot_ros.processing.benchmark import STAGES, main, measure_preprocess, preprocess_table

SIZE = (48, 64)


def test_rows_of_both_paths() -> None:
    threads, done = (torch.get_num_threads(), cv2.getNumThreads()), []
    rows = measure_preprocess(
        ("n1d5", "n1d7"),
        (2,),
        (SIZE,),
        2,
        threads=(1, 2),
        devices=("cpu",),
        warmup=1,
        tell=lambda text, share: done.append((text, share)),
    )
    assert [(row.generation, row.path, row.device, row.threads) for row in rows] == [
        (generation, *way)
        for generation in ("n1d5", "n1d7")
        for way in (("cpu", None, 1), ("cpu", None, 2), ("device", "cpu", 1))
    ]
    for row in rows:
        expected = STAGES if row.path == "cpu" else ("upload", "pixels", "prompt", "state", "collate")
        assert list(row.stages_ms) == [*expected, "total"]
        assert row.patches == {"n1d5": 2 * 256, "n1d7": 2 * 16 * 22}[row.generation]
        for numbers in (*row.stages_ms.values(), row.cpu_ms):
            assert numbers["runs"] == 2
            assert 0 <= numbers["p50"] <= numbers["p95"] <= numbers["p99"] <= numbers["max"]
    assert done == [("n1d5, 2 x 64x48", 0.0), ("n1d7, 2 x 64x48", 0.5), ("done", 1.0)]
    assert (torch.get_num_threads(), cv2.getNumThreads()) == threads
    table = preprocess_table(rows).text().splitlines()
    assert len(table) == 2 + len(rows)
    assert table[3].startswith("n1d5, 2 x 64x48, 2 threads")
    assert table[4].startswith("n1d5, 2 x 64x48, cpu")


def test_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "pictures.json"
    words = ["--generation", "n1d6", "--cameras", "1", "--camera-size", "64x48", "--threads", "1", "--repeats", "1"]
    assert main([*words, "--warmup", "0", "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "n1d6, 1 x 64x48, 1 thread" in printed
    assert "no GPU used" in printed
    report = json.loads(output.read_text())
    assert report["host"]["torch"] == torch.__version__
    assert (report["benchmark"], report["format"]) == ("preprocess", 1)
    assert report["settings"] == {"repeats": 1, "warmup": 0}
    [row] = report["results"]
    assert (row["size"], row["threads"], row["stages_ms"]["total"]["runs"]) == ([48, 64], 1, 1)
    # The process has another number of threads than the row.
    assert report["host"]["torch_threads"] is None and "of torch" not in printed


def test_n1d6_is_not_measured_without_pillow(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(patches, "has_pillow", lambda: False)
    assert main(["--generation", "n1d6"]) == 2
    assert "pip install pillow" in capsys.readouterr().err


def test_a_library_that_is_not_there_is_said(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.delitem(sys.modules, "groot_ros.model.benchmark.timing", raising=False)  # as in a new process
    assert main(["--generation", "n1d7", "--cameras", "1", "--repeats", "1"]) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("benchmark: import of cv2")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--device", "tpu"], "tpu"),
        (["--output", "/nowhere/at/all.json", "--repeats", "0"], "/nowhere/at/all.json"),
        (["--repeats", "0"], "repeats: expected numbers from 1 on, found [0]"),
    ],
)
def test_what_cannot_be_measured_is_said(words: list[str], found: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert found in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--camera-size", "640"], ["--cameras", "one"], ["--generation", "n2"]])
def test_words_that_are_none_are_refused_by_the_parser(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2


def test_numbers_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match=r"threads: expected numbers from 1 on, found \[0\]"):
        measure_preprocess(("n1d7",), (1,), (SIZE,), 1, threads=(0,))
    with pytest.raises(ValueError, match="generation: expected one of n1d5, n1d6, n1d7, found 'n2'"):
        measure_preprocess(("n2",), (1,), (SIZE,), 1)
