"""The contact sheet, the plots, and the page that carries them."""

import base64
import re
import shutil
import sys
from pathlib import Path

import barcode
import cv2
import numpy as np
import pytest
from dataset_maker import make_dataset
from defects import FRONT, add, edit_columns, edit_json, put

from groot_ros.dataset import paths
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.show import show
from groot_ros.dataset.show_drawing import GAP, LEFT, THUMB, TITLE, TOP
from groot_ros.dataset.show_view import spans

ROWS = 12


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes; in the second a person commands, a row is flagged, a number is none and a video is gone."""
    root = make_dataset(tmp_path_factory.mktemp("show") / "data", episodes=2, rows=ROWS)
    edit_columns(put("recording.intervention", slice(3, 6), 1), (1,))(root)
    edit_columns(put("recording.flags", 8, 1), (1,))(root)
    edit_columns(put("observation.state", (2, 0), np.nan), (1,), again=False)(root)
    (root / paths.video_path(1, FRONT)).unlink()
    return root


@pytest.fixture(scope="module")
def look(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, int]]]:
    steps: list[tuple[int, int]] = []
    page = show(
        dataset, tmp_path_factory.mktemp("look") / "new", pictures=4, progress=lambda done, of: steps.append((done, of))
    )
    return page, steps


def test_files(look: tuple[Path, list[tuple[int, int]]]) -> None:
    page, steps = look
    assert sorted(path.name for path in page.parent.iterdir()) == [
        "contact_sheet.png",
        "index.html",
        "joints_000000.png",
        "joints_000001.png",
    ]
    assert steps == [(1, 2), (2, 2)]


def test_sheet_has_the_pictures_in_their_order(look: tuple[Path, list[tuple[int, int]]]) -> None:
    sheet = cv2.imread(str(look[0].parent / "contact_sheet.png"))[:, :, ::-1]
    height = THUMB * 24 // 32
    for column, row in enumerate((0, 4, 7, 11)):  # the first, the last, and what is evenly between
        for camera in range(2):
            x, y = LEFT + column * (THUMB + GAP), TOP + TITLE + camera * (height + GAP)
            assert barcode.read(sheet[y : y + height, x : x + THUMB]) == row * 4 + camera


def test_plots_have_the_colours_of_what_they_show(look: tuple[Path, list[tuple[int, int]]]) -> None:
    folder = look[0].parent
    plain, marked = (cv2.imread(str(folder / f"joints_00000{n}.png"))[:, :, ::-1].astype(int) for n in range(2))

    def pixels(plot: np.ndarray, colour: tuple[int, int, int]) -> int:
        return int((np.abs(plot - colour).max(axis=2) <= 4).sum())

    state, action, shade = (0x2A, 0x78, 0xD6), (0xEB, 0x68, 0x34), (0xE7, 0xE3, 0xF4)
    assert min(pixels(plot, colour) for plot in (plain, marked) for colour in (state, action)) > 500
    assert pixels(plain, shade) == 0 and pixels(marked, shade) > 5000


def test_page_needs_no_other_file(look: tuple[Path, list[tuple[int, int]]], dataset: Path) -> None:
    page = look[0]
    text = page.read_text(encoding="utf-8")
    pictures = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', text)]
    names = ("contact_sheet.png", "joints_000000.png", "joints_000001.png")
    assert pictures == [(page.parent / name).read_bytes() for name in names]
    assert "http" not in text and text.count("<img") == 3
    assert "pick up the cube" in text and "put the cube down" in text and str(dataset) in text
    assert "front: " in text and "episode_000001.mp4: expected a video file" in text
    assert "rows commanded by a person" in text and "largest age [ms]" in text


def test_text_of_a_dataset_is_text(dataset: Path, tmp_path: Path) -> None:
    """Neither HTML nor mathematics, however it looks; and no units for a robot that nobody knows."""
    root = Path(shutil.copytree(dataset, tmp_path / "copy"))
    task = "<script>alert(1)</script> $\\frac{1}{ & " + "long " * 60
    edit_json(paths.INFO, lambda info: info.update(robot_type="$x_"))(root)
    (root / paths.EPISODES).write_text("")
    add(
        paths.EPISODES,
        '{"episode_index": 0, "tasks": ["TASK"], "length": 12}\n'.replace("TASK", task.replace("\\", "\\\\")),
    )(root)
    text = show(root, tmp_path / "look", pictures=1).read_text(encoding="utf-8")
    assert "<script>" not in text and "&lt;script&gt;alert(1)" in text and "$x_" in text


def test_refusals(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DatasetError, match="expected episodes from 0 to 1, found 7"):
        show(dataset, tmp_path, episodes=[0, 7])
    with pytest.raises(DatasetError, match="outside of the dataset"):
        show(dataset, dataset / "look")
    with pytest.raises(DatasetError, match="expected a file of a LeRobot"):
        show(tmp_path, tmp_path / "look")
    with pytest.raises(DatasetError, match="at least 1"):
        show(dataset, tmp_path, pictures=0)
    monkeypatch.delitem(sys.modules, "groot_ros.dataset.show_drawing")
    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    with pytest.raises(DatasetError, match="install the extra `plot`"):
        show(dataset, tmp_path)


@pytest.mark.parametrize(
    ("marked", "expected"), [([], []), ([0, 1, 1, 0, 1], [(1, 3), (4, 5)]), ([1, 1], [(0, 2)]), ([0], [])]
)
def test_spans(marked: list[int], expected: list[tuple[int, int]]) -> None:
    assert spans(np.array(marked, dtype=bool)) == expected
