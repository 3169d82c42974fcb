"""Pictures by their place in the file: exactly those that a decoder of the whole file gives."""

from __future__ import annotations

import os
from pathlib import Path

import av
import numpy as np
import pytest

from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.video import decode_frames
from groot_ros.training import video_index
from groot_ros.training.video_index import FrameReader, read_index

HEIGHT, WIDTH, COUNT = 48, 64, 23


def make_video(path: Path, codec: str = "libx264", **options: str) -> Path:
    random = np.random.default_rng(0)
    container_options = {"movflags": "+faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=container_options) as container:
        stream = container.add_stream(codec, rate=20, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(COUNT):
            picture = np.full((HEIGHT, WIDTH, 3), number * 10, np.uint8)
            picture[number : number + 8, 10:30] = random.integers(0, 255, (8, 20, 3))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("name", "options", "direct"),
    [
        ("recorder.mp4", {"g": "2", "bf": "0"}, True),
        ("one_key_frame.mp4", {"g": "250", "bf": "0"}, True),
        ("reordered.mp4", {"g": "12", "bf": "3"}, False),
        ("matroska.mkv", {"g": "2", "bf": "0"}, False),
    ],
)
def test_pictures_are_exact_in_any_order(tmp_path: Path, name: str, options: dict[str, str], direct: bool) -> None:
    index = read_index(make_video(tmp_path / name, **options))
    all_of_them = np.stack(list(decode_frames(index.path)))
    order = np.random.default_rng(1).integers(0, COUNT, 40).tolist()
    reader = FrameReader()
    assert (index.frames, index.fps, index.is_direct) == (COUNT, 20.0, direct)
    np.testing.assert_array_equal(reader.read(index, order), all_of_them[order])
    np.testing.assert_array_equal(reader.read(index, range(COUNT)), all_of_them)


def test_videos_of_one_header_take_turns_in_one_decoder(tmp_path: Path) -> None:
    indices = [read_index(make_video(tmp_path / f"{n}.mp4", g="2", bf="0", crf=str(20 + 10 * n))) for n in range(3)]
    expected = [list(decode_frames(index.path)) for index in indices]
    reader = FrameReader()
    for frame in (3, 4, 5, 4, 11, 0):
        for index, pictures in zip(indices, expected):
            np.testing.assert_array_equal(reader.read(index, [frame])[0], pictures[frame])


def test_open_files_and_decoders_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_index, "OPEN_FILES", 2)
    monkeypatch.setattr(video_index, "OPEN_DECODERS", 1)
    indices = [read_index(make_video(tmp_path / f"{n}.mp4", g="2", bf="0", crf=str(20 + n))) for n in range(4)]
    before = len(os.listdir("/proc/self/fd"))
    reader = FrameReader()
    for _ in range(2):
        for index in indices:
            reader.read(index, [1])
    assert len(os.listdir("/proc/self/fd")) == before + 2
    assert len(reader._decoders) == 1
    reader.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_damaged_bytes_are_named_and_the_next_picture_is_read(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", g="2", bf="0")
    index = read_index(path)
    expected = list(decode_frames(path))
    content = bytearray(path.read_bytes())
    start, size = int(index.positions[10]), int(index.sizes[10])
    content[start : start + size] = bytes(size)
    path.write_bytes(content)
    reader = FrameReader()
    with pytest.raises(DatasetError, match=r"a\.mp4: picture 11: expected one that decodes.*delete-episodes"):
        reader.read(index, [11])
    np.testing.assert_array_equal(reader.read(index, [12])[0], expected[12])


def test_refusals_name_the_file(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", g="2", bf="0")
    index = read_index(path)
    with pytest.raises(DatasetError, match=r"a\.mp4: expected a picture 23, the file has 23"):
        FrameReader().read(index, [COUNT])
    with pytest.raises(DatasetError, match=r"b\.mp4: expected a video, found no such file"):
        read_index(tmp_path / "b.mp4")
    (tmp_path / "c.mp4").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match=r"c\.mp4: expected a video file that can be read"):
        read_index(tmp_path / "c.mp4")
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(DatasetError, match=r"a\.mp4: expected \d+ bytes, found \d+, the file was cut off"):
        read_index(path)
