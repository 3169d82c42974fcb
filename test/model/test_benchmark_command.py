"""`python -m groot_ros.model.benchmark`: options, help, reports, and what a bare machine must have."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from groot_ros.model.benchmark.__main__ import _parser, main
from groot_ros.model.benchmark.options import check_output

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("words", [[], ["policy"], ["sampler"]])
def test_help_says_what_every_option_is_and_shows_examples(words: list[str], capsys: Any, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as caught:
        main([*words, "--help"])
    said = capsys.readouterr().out
    assert caught.value.code == 0
    for command in words or ["policy", "sampler"]:
        assert f"python -m groot_ros.model.benchmark {command} --generation" in said
    if words:
        assert f"how many (default: {'1,2,3' if words == ['policy'] else '2'})" in said


def test_defaults_are_read_like_words() -> None:
    found = _parser().parse_args(["policy"])
    assert found.cameras == (1, 2, 3) and found.camera_size == (480, 640)
    assert _parser().parse_args(["sampler"]).cameras == (2,)
    for command in _parser()._subparsers._group_actions[0].choices.values():  # type: ignore[union-attr]
        assert all(action.help for action in command._actions)


def test_an_output_is_tried_before_measuring(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = tmp_path / "old.json"
    there.write_text("{}")
    for path in (None, there, tmp_path / "new.json"):
        check_output(path)
    assert there.read_text() == "{}" and list(tmp_path.iterdir()) == [there]
    for command in ("policy", "sampler"):
        assert main([command, "--size", "tiny", "--steps", "0", "--output", str(tmp_path / "no" / "new.json")]) == 2
        assert "new.json" in capsys.readouterr().err  # not that there are no steps


def test_the_bare_command_prints_a_table_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "policy.json"
    words = ["policy", "--size", "tiny", "--generation", "n1d6", "--cameras", "1", "--repeats", "1", "--warmup", "0"]
    code = main([*words, "--rung", "engine", "--threads", "1", "--device", "cpu", "--output", str(report)])
    assert code == 0
    said = capsys.readouterr().out
    assert "E2E p50" in said and "engine" in said and f"report: {report}" in said
    assert json.loads(report.read_text())["results"][0]["pictures"] == {"camera_1": [640, 480]}


BARE = """
    import builtins, sys
    from importlib.machinery import PathFinder
    OURS_NOT = {"yaml"}  # transformers needs it, we do not
    NOT_THERE = {"pydantic", "typer", "rich", "matplotlib", "PIL", "rclpy", "av", "pyarrow", "rosbags", "mujoco"}

    class Bare(PathFinder):
        @classmethod
        def find_spec(cls, name, path=None, target=None):
            return None if name.split(".")[0] in NOT_THERE else PathFinder.find_spec(name, path, target)

    sys.meta_path = [Bare if finder is PathFinder else finder for finder in sys.meta_path]
    plain_import = builtins.__import__

    def without(name, globals=None, *rest, **named):
        if name.split(".")[0] in OURS_NOT and (globals or {}).get("__name__", "").startswith("groot_ros"):
            raise ImportError(f"a bare machine has no {name}")
        return plain_import(name, globals, *rest, **named)

    builtins.__import__ = without
    import groot_ros.model.benchmark
    assert not {"torch", *OURS_NOT, *NOT_THERE} & set(sys.modules), "the package itself imports nothing"
    from groot_ros.model.benchmark.__main__ import _parser, main
"""


def test_a_bare_machine_is_enough() -> None:
    """torch, transformers, safetensors, NumPy and OpenCV; without Pillow N1.6's pictures take longer, which is said."""
    quick = ["--size", "tiny", "--cameras", "1", "--warmup", "0"]
    runs = [["sampler", *quick, "--generation", "n1d7", "--pairs", "1"], ["policy", *quick, "--repeats", "1"]]
    runs[1] += ["--generation", "n1d7", "--generation", "n1d6", "--device", "cpu", "--rung", "engine"]
    code = f"{textwrap.dedent(BARE)}\nsys.exit(max(main(words) for words in {runs!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("pip install pillow") == 1
