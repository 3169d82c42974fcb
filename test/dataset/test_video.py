"""Video files of a dataset: exact times, no picture lost, pictures by number."""

from fractions import Fraction
from pathlib import Path

import av
import barcode
import pytest
from pictures import FPS, HEIGHT, WIDTH, encoder, record

from groot_ros.dataset.encoder import configure
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.video import count_frames, decode_frames, remux, video_facts


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two recordings, of 0..10 and of 11..15."""
    folder = tmp_path_factory.mktemp("staged")
    return [record(folder / "a.mkv", range(11)), record(folder / "b.mkv", range(11, 16))]


def numbers(path: Path) -> list[int]:
    return [barcode.read(rgb) for rgb in decode_frames(path)]


@pytest.mark.parametrize("fps", [7, 10, 30, 50])
def test_times_are_exact(fps: int, tmp_path: Path) -> None:
    target = tmp_path / "a.mp4"
    assert remux([record(tmp_path / "a.mkv", range(23), fps=fps)], target, fps) == 23
    with av.open(str(target)) as container:
        stream = container.streams.video[0]
        times = [packet.pts * stream.time_base for packet in container.demux(stream) if packet.size]
    assert times == [Fraction(index, fps) for index in range(23)]
    facts = video_facts(target)
    assert (facts.fps, facts.frames, facts.exact, facts.key_distance) == (fps, 23, True, 2)
    assert (facts.codec, facts.pixels, facts.width, facts.height) == ("h264", "yuv420p", WIDTH, HEIGHT)
    assert numbers(target) == list(range(23))


def test_recording_itself_is_not_exact(staged: list[Path]) -> None:
    assert not video_facts(staged[0]).exact  # Matroska counts in milliseconds


def test_index_stands_at_the_beginning(staged: list[Path], tmp_path: Path) -> None:
    remux(staged[:1], tmp_path / "a.mp4", FPS)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_several_become_one(staged: list[Path], tmp_path: Path) -> None:
    episodes = [tmp_path / f"{path.stem}.mp4" for path in staged]
    for source, target in zip(staged, episodes):
        remux([source], target, FPS)
    for sources in (staged, episodes):  # of recordings, and of finished episodes
        target = tmp_path / "all.mp4"
        assert remux(sources, target, FPS) == count_frames(target) == 16
        assert video_facts(target).exact
        assert numbers(target) == list(range(16))


@pytest.mark.parametrize("limit", [1, 5, 11, 13, 99])
def test_limit_cuts(limit: int, staged: list[Path], tmp_path: Path) -> None:
    assert remux(staged, tmp_path / "a.mp4", FPS, limit=limit) == min(limit, 16)
    assert numbers(tmp_path / "a.mp4") == list(range(min(limit, 16)))


def test_same_recording_gives_the_same_bytes(staged: list[Path], tmp_path: Path) -> None:
    again = record(tmp_path / "a.mkv", range(11))
    for source, name in ((staged[0], "a.mp4"), (again, "b.mp4")):
        remux([source], tmp_path / name, FPS)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_whole_part_of_a_cut_file(staged: list[Path], tmp_path: Path) -> None:
    data, cut, target = staged[0].read_bytes(), tmp_path / "cut.mkv", tmp_path / "a.mp4"
    seen = set()
    for size in range(len(data) // 3, len(data), 97):
        cut.write_bytes(data[:size])
        frames = count_frames(cut)
        if not frames:
            continue
        assert remux([cut], target, FPS) == frames
        assert numbers(target) == list(range(frames))
        seen.add(frames)
    assert len(seen) > 5


def test_what_cannot_be_one_file_is_refused(staged: list[Path], tmp_path: Path) -> None:
    target = tmp_path / "a.mp4"
    other = record(tmp_path / "other.mkv", range(3), height=48)
    with pytest.raises(DatasetError, match=r"other.mkv: expected the codec parameters of .*a.mkv, found others"):
        remux([staged[0], other], target, FPS)
    assert not target.exists()
    reordered = tmp_path / "reordered.mp4"
    with av.open(str(reordered), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        configure(stream.codec_context, WIDTH, HEIGHT, FPS)
        stream.codec_context.max_b_frames, stream.codec_context.gop_size = 3, 12
        for index in range(12):
            picture = av.VideoFrame.from_ndarray(barcode.draw(index, HEIGHT, WIDTH), "rgb24").reformat(format="yuv420p")
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    with pytest.raises(DatasetError, match=r"reordered.mp4: expected pictures in the order of their times"):
        remux([reordered], target, FPS)
    assert not video_facts(reordered).exact
    assert not target.exists()


def test_what_cannot_be_read_or_written_is_named(staged: list[Path], tmp_path: Path) -> None:
    junk, target = tmp_path / "junk.mp4", tmp_path / "a.mp4"
    junk.write_bytes(bytes(1000))
    for action in (count_frames, video_facts, lambda path: list(decode_frames(path)), lambda p: remux([p], target, 30)):
        with pytest.raises(DatasetError, match=r"junk.mp4: expected a video file that can be read"):
            action(junk)
        with pytest.raises(DatasetError, match=r"none.mp4: expected a video file that can be read, found No such file"):
            action(tmp_path / "none.mp4")
    empty = encoder(tmp_path / "empty.mkv")
    empty.close(30.0)
    for sources in ([], [tmp_path / "empty.mkv"]):
        with pytest.raises(DatasetError):
            remux(sources, target, FPS)
    full = tmp_path / "full.mp4"
    full.symlink_to("/dev/full")
    with pytest.raises(DatasetError, match=r"full.mp4: expected .*, found No space left on device"):
        remux(staged, full, FPS)


def test_pictures_by_number(staged: list[Path], tmp_path: Path) -> None:
    target = tmp_path / "a.mp4"
    remux(staged, target, FPS)
    for path, count in ((target, 16), (staged[0], 11)):
        wanted = [count - 1, 0, 0, 1, 5, 4, 9, 2]
        assert [barcode.read(rgb) for rgb in decode_frames(path, wanted)] == wanted
        with pytest.raises(DatasetError, match=f"expected a picture {count}, found none"):
            list(decode_frames(path, [0, count]))
