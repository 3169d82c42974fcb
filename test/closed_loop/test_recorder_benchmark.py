"""What the benchmarks of the recorder find: a recording as it should be, and each way in which it can be wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from groot_ros.closed_loop.numbered_robot import Published, Setting
from groot_ros.closed_loop.recorder_benchmark import parse_size
from groot_ros.closed_loop.recorder_identity import Proof, prove
from groot_ros.closed_loop.recorder_memory import published, record_simulated, slope
from groot_ros.closed_loop.recorder_run import run_recorder
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.read import Dataset
from groot_ros.dataset.spec import STAMP
from groot_ros.dataset.staging import EpisodeWriter

SETTING = Setting(cameras=2, width=32, height=24)
SECONDS = 3.0


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recording")
    record_simulated(folder, SECONDS, SECONDS, setting=SETTING, sample_s=0.5)
    return folder / "dataset"


def test_a_recording_is_what_was_sent(recording: Path) -> None:
    proof = prove(recording, published(SETTING, SECONDS))
    assert proof.identical and proof.lost == 0
    assert proof.episodes == 1 and proof.rows > 0.8 * SECONDS * SETTING.rate_hz
    assert proof.missing_rows == proof.late_states == proof.late_actions == 0
    for camera in proof.cameras.values():
        assert camera.published == camera.recorded == camera.rows == camera.frames == proof.rows
        assert camera.late == camera.superseded == 0


Edit = Callable[[Published], Published]


def earlier_numbers(sent: Published) -> Published:
    """Each picture was sent one frame later than the recording says."""
    return replace(sent, cameras={name: stamps[1:] for name, stamps in sent.cameras.items()})


def more_frames(sent: Published) -> Published:
    """Another frame was sent in the middle of every step, which no row has."""

    def doubled(stamps: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.sort(np.concatenate([stamps, stamps + 1_000_000]))

    return replace(sent, cameras={name: doubled(stamps) for name, stamps in sent.cameras.items()})


WRONG: dict[str, tuple[Edit, Callable[[Proof], Any]]] = {
    "pictures one frame late": (earlier_numbers, lambda proof: all(c.wrong == c.rows for c in proof.cameras.values())),
    "cameras exchanged": (
        lambda sent: replace(sent, cameras=dict(reversed(sent.cameras.items()))),
        lambda proof: all(c.wrong == c.rows for c in proof.cameras.values()),
    ),
    "frames lost": (more_frames, lambda proof: all(c.lost > 0 and c.late > 0 for c in proof.cameras.values())),
    "stamps that nobody sent": (
        lambda sent: replace(sent, cameras={name: stamps + 1 for name, stamps in sent.cameras.items()}),
        lambda proof: all(c.wrong == c.rows for c in proof.cameras.values()),
    ),
    "states of another message": (
        lambda sent: replace(sent, joints=sent.joints[1:]),
        lambda proof: proof.wrong_states == proof.rows,
    ),
    "actions of the future": (
        lambda sent: replace(sent, leader=sent.leader + 10**9),
        lambda proof: proof.wrong_actions == proof.rows,
    ),
    "actions that are old": (
        lambda sent: replace(sent, leader=np.sort(np.concatenate([sent.leader, sent.leader + 1]))),
        lambda proof: proof.late_actions == proof.rows,
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_counted(case: str, recording: Path) -> None:
    edit, counted = WRONG[case]
    proof = prove(recording, edit(published(SETTING, SECONDS)))
    assert counted(proof), proof
    assert not proof.identical or proof.lost or proof.late_actions


def test_rows_that_are_missing_at_the_ends_are_counted(recording: Path) -> None:
    stamps = Dataset(recording).column(0, STAMP)
    first_ns, last_ns = int(stamps[0]), int(stamps[-1])
    step_ns = 10**9 // SETTING.rate_hz
    sent = published(SETTING, SECONDS)
    assert prove(recording, sent, (first_ns - step_ns // 2, last_ns + step_ns // 2)).missing_rows == 0
    proof = prove(recording, sent, (first_ns - 5 * step_ns // 2, last_ns + 7 * step_ns // 2))
    assert proof.missing_rows == 2 + 3 and proof.lost == 5 * SETTING.cameras


def test_published_stamps_are_read_as_written(tmp_path: Path) -> None:
    sent = published(SETTING, 1.0)
    sent.write(tmp_path / "published.npz")
    again = Published.read(tmp_path / "published.npz", SETTING.names)
    assert again.cameras.keys() == sent.cameras.keys()
    assert (again.leader == sent.leader).all() and (again.cameras["camera_1"] == sent.cameras["camera_1"]).all()
    assert [path.name for path in tmp_path.iterdir()] == ["published.npz"]


def test_memory_of_a_long_recording_is_flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many short episodes; then the same with a recorder that keeps its pictures, which must show."""
    setting = Setting(cameras=2, width=160, height=120)
    kept: list[Mapping[str, Any]] = []

    def growth(name: str) -> int:
        (tmp_path / name).mkdir()
        found = record_simulated(tmp_path / name, 4.0, 1.0, setting=setting, sample_s=1.0)
        assert found.episodes >= 3 and len(found.used_bytes) == len(found.resident_bytes) == 3
        return found.used_bytes[-1] - found.used_bytes[0]

    growth("first")  # what is imported and allocated once
    whole = 2 * setting.rate_hz * setting.cameras * setting.height * setting.width * 3
    assert growth("second") < 0.25 * whole
    add = EpisodeWriter.add

    def keep(self: EpisodeWriter, row: NDArray[np.void], frames: Mapping[str, Any]) -> bool:
        kept.append(frames)
        return add(self, row, frames)

    monkeypatch.setattr(EpisodeWriter, "add", keep)
    assert growth("leak") > 0.5 * whole


def test_slope_leaves_out_the_beginning() -> None:
    assert slope([0, 10**9, *[5_000_000] * 8], 60.0) == pytest.approx(0.0, abs=1.0)
    assert slope([0, 0, *range(0, 8000, 1000)], 60.0) == pytest.approx(60_000.0)
    with pytest.raises(ValueError, match="record longer"):
        slope([1], 60.0)


@pytest.mark.parametrize("text", ["", "640", "640x", "x480", "640*480", "-640x480"])
def test_a_bad_size_is_refused(text: str) -> None:
    assert parse_size("1280x720") == (1280, 720)
    with pytest.raises(ValueError, match="WIDTHxHEIGHT"):
        parse_size(text)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"encoding": "png"}, "rgb8, jpeg"),
        ({"width": 16}, "at least 20x16"),
        ({"cameras": 0}, "at least one camera"),
        ({"width": 641}, "even width"),
    ],
)
def test_what_cannot_be_recorded_is_refused_before_anything_starts(
    setting: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises((ValueError, DatasetError), match=words):
        run_recorder(Setting(**setting), tmp_path, 1.0)
    assert not (tmp_path / "logs").exists()
