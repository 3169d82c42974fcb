"""Numbers, records and reports of an evaluation."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.stats import binomtest

from groot_ros.closed_loop.evaluation.record import (
    AGE,
    EPISODES,
    Episode,
    EvaluationError,
    EvaluationFolder,
    checkpoint_identity,
    read_episodes,
)
from groot_ros.closed_loop.evaluation.report import JSON, MARKDOWN, PAGE, PICTURE, read_folder, write_report
from groot_ros.closed_loop.evaluation.summary import summarize_episodes, wilson

SETTING = {"task": "reach", "time_limit_s": 10.0, "checkpoint": "/runs/a", "checkpoint_identity": "sha256:1"}
FACTS = {"command": "groot-ros evaluate --checkpoint '/runs/a'", "versions": "groot_ros 0.1.0"}


def episode(seed: int, reason: str = "", **other: object) -> Episode:
    """A success unless there is a reason."""
    values: dict[str, object] = {
        "seed": seed,
        "task": "reach",
        "instruction": "reach the red cube",
        "success": not reason,
        "reason": reason,
        "message": "",
        "time_s": 2.0 + seed,
        "distance_m": 0.01 if not reason else 0.2,
        "closest_m": 0.01,
        "chunks": 2,
        "refused": {"stale": 1},
        "rejected": {},
        "ticks": 100,
        "ticks_missed": 0,
        "stalled_ticks": 3,
        "handovers": 1,
        "jumps": [0.01 * (seed + 1)],
        "delay_ticks": [2, 3],
        "seam_ratio": 0.5,
        "jitter_p99_ms": 1.0 + seed,
        "latency_ms": {"model": [20.0, 30.0], AGE: [40.0, 50.0]},
        "video": f"videos/{seed}.mp4" if reason else None,
    }
    return Episode(**(values | other))  # type: ignore[arg-type]


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (0, 20), (83, 100), (100, 100), (8, 10), (1, 1000)])
def test_wilsons_interval_is_scipys(successes: int, trials: int) -> None:
    other = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert wilson(successes, trials) == pytest.approx((other.low, other.high), abs=1e-12)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (2, 1), (-1, 3)])
def test_no_interval_without_trials(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson(successes, trials)


def test_a_summary_of_episodes() -> None:
    episodes = [episode(0), episode(1), episode(2, "time_limit"), episode(3, "off_table"), episode(4, "time_limit")]
    summary = summarize_episodes(episodes, 10)
    assert (summary.successes, summary.episodes, summary.planned, summary.complete) == (2, 5, 10, False)
    assert summary.rate == pytest.approx(0.4) and summary.interval == pytest.approx(wilson(2, 5))
    assert (summary.time_p50_s, summary.time_p90_s) == (pytest.approx(2.5), pytest.approx(2.9))
    assert list(summary.failures.items()) == [("time_limit", 2), ("off_table", 1)]
    assert summary.failed_distance_p50_m == pytest.approx(0.2)
    assert summary.refused == {"stale": 5} and summary.stalled_share == pytest.approx(15 / 500)
    assert (summary.jump_p50, summary.jump_max) == (pytest.approx(0.03), pytest.approx(0.05))
    assert (summary.delay_ticks_max, summary.jitter_p99_ms) == (3.0, 5.0)
    assert summary.latency["model"].p50_ms == pytest.approx(25.0)
    assert list(summary.latency)[-1] == AGE


def test_nothing_is_made_up_where_nothing_was_told() -> None:
    assert summarize_episodes([], 3).rate is None
    quiet = episode(0, "time_limit", distance_m=None, seam_ratio=None, jitter_p99_ms=None, jumps=[], delay_ticks=[])
    summary = summarize_episodes([quiet], 1)
    told = (summary.time_p50_s, summary.distance_p50_m, summary.seam_ratio, summary.jump_max, summary.jitter_p99_ms)
    assert told == (None,) * 5 and summary.complete


@pytest.fixture
def folder(tmp_path: Path) -> EvaluationFolder:
    made = EvaluationFolder(tmp_path / "out")
    made.begin(SETTING, FACTS, resume=False)
    return made


def test_episodes_come_back_as_they_were(folder: EvaluationFolder) -> None:
    episodes = [episode(3), episode(4, "time_limit", message="a\u2028b")]
    for one in episodes:
        folder.append(one)
    assert read_folder(folder.path).episodes == episodes == folder.episodes
    assert folder.missing(range(2, 7)) == [2, 5, 6]


def test_a_line_that_a_crash_cut_off_is_played_again(folder: EvaluationFolder) -> None:
    folder.append(episode(0))
    folder.append(episode(1))
    path = folder.path / EPISODES
    path.write_bytes(path.read_bytes()[:-40])
    again = EvaluationFolder(folder.path)
    again.begin(SETTING, FACTS, resume=True)
    assert again.missing(range(3)) == [1, 2]
    again.append(episode(2))
    assert [one.seed for one in read_episodes(folder.path)] == [0, 2]


def test_a_run_is_not_written_over(folder: EvaluationFolder) -> None:
    with pytest.raises(EvaluationError, match=r"found an evaluation: give another --output, or --resume"):
        EvaluationFolder(folder.path).begin(SETTING, FACTS, resume=False)


def test_a_run_goes_on_only_as_it_was(folder: EvaluationFolder) -> None:
    EvaluationFolder(folder.path).begin(SETTING, {"command": "another"}, resume=True)
    assert json.loads((folder.path / "run.json").read_text())["facts"] == FACTS
    with pytest.raises(EvaluationError, match="same checkpoint_identity as before to go on, 'sha256:1', found 'sha"):
        EvaluationFolder(folder.path).begin({**SETTING, "checkpoint_identity": "sha256:2"}, FACTS, resume=True)
    with pytest.raises(EvaluationError, match="same control as before to go on, None, found 'joints'"):
        EvaluationFolder(folder.path).begin({**SETTING, "control": "joints"}, FACTS, resume=True)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no run.json": lambda path: (path / "run.json").unlink(),
    "not JSON": lambda path: (path / "run.json").write_text("{"),
    "not a run": lambda path: (path / "run.json").write_text("[1]"),
    "lines of something else": lambda path: (path / EPISODES).write_text('{"seed": 1}\n'),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_folder_of_something_else_is_refused_by_name(damage: str, folder: EvaluationFolder) -> None:
    DAMAGE[damage](folder.path)
    with pytest.raises(EvaluationError, match=re.escape(str(folder.path))):
        read_folder(folder.path)


def test_a_checkpoint_is_known_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "processor").mkdir()
    for name in ("config.json", "model.safetensors", "processor/statistics.json", "training.log"):
        (tmp_path / name).write_bytes(name.encode())
    first = checkpoint_identity(str(tmp_path))
    (tmp_path / "training.log").write_bytes(b"longer")
    assert re.fullmatch("sha256:[0-9a-f]{64}", first) and checkpoint_identity(str(tmp_path)) == first
    (tmp_path / "processor" / "statistics.json").write_bytes(b"others")
    assert checkpoint_identity(str(tmp_path)) != first
    assert checkpoint_identity("nobody/has-this") == "" == checkpoint_identity("/not/there")
    assert checkpoint_identity("../runs/reach") == ""  # no name of the hub's


class Page(HTMLParser):
    """Videos, cells of the strip, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.videos: list[str] = []
        self.classes: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "video":
            self.videos.append(str(given["src"]))
        self.classes.append(str(given.get("class")))
        if tag not in ("meta", "rect", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("meta", "rect", "path"):
            assert self.open.pop() == tag


def test_the_reports_say_the_same(folder: EvaluationFolder) -> None:
    for one in (episode(0), episode(1), episode(2, "time_limit"), episode(3, "wrong_cube", instruction="<red> & blue")):
        folder.append(one)
    summary = write_report(folder, 6, note="the policy node is gone")
    content = json.loads((folder.path / JSON).read_text())
    assert content["summary"]["successes"] == summary.successes == 2
    assert content["summary"]["failures"] == {"time_limit": 1, "wrong_cube": 1}
    assert [row["seed"] for row in content["episodes"]] == [0, 1, 2, 3] and content["run"]["setting"] == SETTING
    text = (folder.path / MARKDOWN).read_text()
    html = (folder.path / PAGE).read_text()
    page = Page(html)
    assert not page.open
    assert page.videos == ["videos/2.mp4", "videos/3.mp4"]
    assert (page.classes.count("good"), page.classes.count("bad")) == (2, 2)
    assert html.count("not played") == 2
    assert "<red>" not in html and "&lt;red&gt; &amp; blue" in html
    for told in ("2 of 4 successes: 50 %", "the policy node is gone", "sha256:1", "time_limit", "wrong_cube"):
        assert told in text and told in html, told
    assert "groot-ros evaluate --checkpoint" in text and "groot-ros evaluate --checkpoint" in html
    assert not list(folder.path.glob(".*")), "temporary files"


def test_a_complete_run_says_nothing_of_resuming(folder: EvaluationFolder) -> None:
    folder.append(episode(0))
    write_report(folder, 1)
    html = (folder.path / PAGE).read_text()
    assert "--resume" not in html and "Not complete" not in html + (folder.path / MARKDOWN).read_text()


def test_the_picture_shows_outcomes_and_episodes(folder: EvaluationFolder) -> None:
    from groot_ros.closed_loop.evaluation.picture import draw_evaluation
    from groot_ros.closed_loop.evaluation.video import write_mp4

    films = [episode(seed, reason, video=f"videos/{seed}.mp4") for seed, reason in enumerate(["", "time_limit"])]
    rng = np.random.default_rng(0)
    for one in films:
        pictures = (rng.integers(0, 256, (64, 96, 3), dtype=np.uint8) for _ in range(20))
        write_mp4(folder.path / str(one.video), pictures, Fraction(10))
    many = [*films, *(dataclasses.replace(films[0], seed=seed, video=None) for seed in range(2, 70))]
    path = folder.path / PICTURE
    draw_evaluation(path, folder.path, summarize_episodes(many, 70), many, "reach", 10.0)
    picture = cv2.imread(str(path))
    assert picture is not None and picture.shape[1] == 1300
    strip = picture[:150].astype(int)
    green = (abs(strip - (0x43, 0xA0, 0x2E)).sum(axis=2) < 30).sum()
    red = (abs(strip - (0x41, 0x45, 0xD6)).sum(axis=2) < 30).sum()
    assert green > 40 * red > 0  # 69 to 1
    for one in (films[0], dataclasses.replace(films[1], video=None)):  # none failed, none succeeded
        draw_evaluation(path, folder.path, summarize_episodes([one], 1), [one], "reach", 10.0)
