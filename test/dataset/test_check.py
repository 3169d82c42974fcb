"""A clean dataset has no problem; each planted defect is found by its own code, and by no other."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from dataset_maker import make_dataset
from defects import (
    BLACK,
    DEFECTS,
    EPISODES,
    FRONT,
    ROWS,
    Defect,
    edit_columns,
    edit_json,
    edit_table,
    encode,
    numbered,
    put,
)
from pyarrow import parquet

from groot_ros.dataset import paths
from groot_ros.dataset.check import CODES, check


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("check") / "clean", episodes=EPISODES, rows=ROWS)


@pytest.fixture
def copy(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "copy"))


def codes(root: Path, **how: object) -> list[str]:
    return [problem.code for problem in check(root, **how).problems]  # type: ignore[arg-type]


@pytest.mark.parametrize("full", [False, True])
def test_clean_dataset_has_no_problems(clean: Path, full: bool) -> None:
    steps: list[tuple[int, int]] = []
    report = check(clean, full=full, progress=lambda done, of: steps.append((done, of)))
    assert report.problems == [] and report.exit_code(strict=True) == 0
    assert (report.episodes, report.rows, report.videos) == (EPISODES, EPISODES * ROWS, EPISODES * 2)
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert "no problems" in report.summary


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_defect_is_found(copy: Path, defect: Defect) -> None:
    defect.plant(copy)
    report = check(copy)
    assert {problem.code for problem in report.problems} == {defect.code}, "\n".join(report.lines())
    first = report.problems[0]
    assert first.severity == CODES[defect.code][0]
    assert first.episode == defect.episode or first.where.startswith(("meta/", "observation"))
    assert report.exit_code() == int(first.severity == "error")
    assert report.exit_code(strict=True) == int(first.severity != "info")


def test_every_code_has_a_defect() -> None:
    assert {defect.code for defect in DEFECTS} == set(CODES) - {"episode_short", "no_episodes"}


def test_episode_shorter_than_a_chunk(clean: Path) -> None:
    assert codes(clean, horizon=ROWS) == []
    assert codes(clean, horizon=ROWS + 1) == ["episode_short"] * EPISODES


def test_dataset_without_episodes(tmp_path: Path) -> None:
    assert codes(make_dataset(tmp_path / "empty", episodes=0)) == ["no_episodes"]


@pytest.mark.parametrize("damage", [b"", b'{"a": [[1], "b"]}\n', None])
def test_damage_is_told_and_never_raised(clean: Path, tmp_path: Path, damage: bytes | None) -> None:
    root = Path(shutil.copytree(clean, tmp_path / "copy"))
    files = [path for path in clean.rglob("*.json*") if path.name != "statistics.json"]  # the recorder's own note
    for file in [*files, clean / paths.data_path(1), clean / paths.video_path(1, FRONT)]:
        target = root / file.relative_to(clean)
        good = target.read_bytes()
        target.write_bytes(good[: len(good) // 2] if damage is None else damage)
        report = check(root)
        assert report.problems, target
        json.dumps(report.to_dict(), allow_nan=False)
        target.write_bytes(good)


def test_v3_names_the_converter(copy: Path) -> None:
    edit_json(paths.INFO, lambda info: info.update(codebase_version="v3.0"))(copy)
    (problem,) = check(copy).problems
    assert "convert_v3_to_v2.py" in problem.message and "'v3.0'" in problem.message


def test_full_finds_one_black_picture_that_the_sample_misses(copy: Path) -> None:
    pictures = numbered(ROWS)
    pictures[17] = BLACK
    encode(copy / paths.video_path(0, FRONT), pictures)
    assert codes(copy) == []
    assert codes(copy, full=True) == ["camera_black"]


def test_camera_may_stand_still_with_the_robot(copy: Path) -> None:
    encode(copy / paths.video_path(1, FRONT), numbered(1) * ROWS)
    still = edit_columns(
        lambda columns: columns.update(action=still_rows(columns), **{"observation.state": still_rows(columns)})
    )
    assert codes(copy) == ["camera_frozen"]
    still(copy)
    assert "camera_frozen" not in codes(copy)


def still_rows(columns: dict[str, np.ndarray]) -> np.ndarray:
    """The state of row 0 in every row, but for noise."""
    state = columns["observation.state"]
    noise = np.random.default_rng(0).normal(0, 1e-4, state.shape)
    return (state[:1] + noise).astype(np.float32)


def test_message_says_what_was_expected_and_found_and_what_to_do(copy: Path) -> None:
    edit_columns(put("timestamp", 7, 0.5))(copy)
    (problem,) = check(copy).problems
    assert problem.where == "data/chunk-000/episode_000001.parquet: timestamp"
    assert problem.message.startswith(
        "expected frame_index / fps = 0.233333 s, found 0.500000 s in row 7 (1 rows in all"
    )
    assert "groot-ros dataset delete-episodes" in problem.message


def test_report_as_text_and_json(copy: Path, tmp_path: Path) -> None:
    for episode in range(EPISODES):
        (copy / paths.report_path(episode)).unlink()
    (copy / paths.MODALITY).unlink()
    report = check(copy)
    lines = list(report.lines(per_code=1))
    assert [line.split(": ")[:2] for line in lines[:-1]] == [
        ["error", "modality_missing"],
        ["warning", "report_missing"],
        ["warning", "report_missing"],
    ]
    assert lines[2].endswith("2 more") and lines[-1].endswith("1 error, 3 warnings")
    report.to_json(tmp_path / "report.json")
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["ok"] is False and data["counts"] == {"error": 1, "warning": 3, "info": 0}
    assert data["problems"][0].keys() == {"code", "severity", "episode", "where", "message"}


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir, lambda path: path.write_text("x")])
def test_no_dataset(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "x")
    assert codes(tmp_path / "x") == ["no_dataset"]


def test_dataset_of_another_recorder(copy: Path) -> None:
    """As NVIDIA's demonstrations are: v2.0, "channel" and video_info, doubles, no statistics per episode."""

    def older(info: dict) -> None:
        info.update(codebase_version="v2.0", fps=30.0)
        info["features"] = {name: each for name, each in info["features"].items() if not name.startswith("recording.")}
        for name in ("observation.state", "action"):
            info["features"][name].update(dtype="float64", names={"motors": info["features"][name]["names"]})
        for feature in info["features"].values():
            if feature["dtype"] == "video":
                feature["names"][2] = "channel"
                feature["video_info"] = feature.pop("info")

    def rows(table: pa.Table) -> pa.Table:
        table = table.drop_columns([name for name in table.column_names if name.startswith("recording.")])
        for name in ("observation.state", "action"):
            values = table.column(name).to_pylist()
            table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.list_(pa.float64())))
        return table

    edit_json(paths.INFO, older)(copy)
    for episode in range(EPISODES):
        edit_table(rows, episode)(copy)
    (copy / paths.EPISODES_STATS).unlink()
    shutil.rmtree(copy / paths.REPORTS)
    assert parquet.read_schema(copy / paths.data_path(0)).field("action").type == pa.list_(pa.float64())
    assert check(copy).problems == []
