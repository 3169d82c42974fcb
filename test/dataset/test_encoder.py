"""The encoder of a camera: right colours, every picture once, a bounded queue, and failures that are told."""

import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import barcode
import cv2
import numpy as np
import pytest
from pictures import FPS, HEIGHT, WIDTH, camera, encoder, numbered, rgb_frame

from groot_ros.dataset import encoder as module
from groot_ros.dataset.encoder import NVENC, CameraEncoder, choose_codec, problem_of
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.image_statistics import ImageStatistics
from groot_ros.dataset.video import count_frames, decode_frames, image_statistics, video_facts
from groot_ros.dataset.yuv import PictureMaker
from groot_ros.embodiment.vocabulary import IMAGE_ENCODINGS
from groot_ros.observation.images import Frame, decode

COLOURS = [(230, 30, 30), (30, 220, 40), (20, 40, 210), (250, 250, 250), (5, 5, 5), (128, 128, 128), (200, 110, 50)]
COLOURS += [(250, 240, 10)]
CELL = 16  # px; a block of H.264, so that a colour does not touch the next


def palette(rows: int = 2) -> np.ndarray:
    """Fields of ``COLOURS``, uint8 [32, 64, 3]."""
    cells = np.array(COLOURS, np.uint8).reshape(rows, -1, 3)
    return cells.repeat(CELL, axis=0).repeat(CELL, axis=1)


def padded(pixels: np.ndarray, encoding: str) -> Frame:
    rows = pixels.reshape(pixels.shape[0], -1)
    wide = np.pad(rows, ((0, 0), (0, 5)), constant_values=200)
    return Frame(wide.reshape(-1), encoding, wide.shape[1])


def raw(encoding: str) -> Frame:
    rgb = palette()
    code = {
        "bgr8": cv2.COLOR_RGB2BGR,
        "rgba8": cv2.COLOR_RGB2RGBA,
        "bgra8": cv2.COLOR_RGB2BGRA,
        "mono8": cv2.COLOR_RGB2GRAY,
        "yuv422": cv2.COLOR_RGB2YUV_UYVY,
        "uyvy": cv2.COLOR_RGB2YUV_UYVY,
        "yuv422_yuy2": cv2.COLOR_RGB2YUV_YUY2,
        "yuyv": cv2.COLOR_RGB2YUV_YUY2,
    }.get(encoding)
    return padded(rgb if code is None else cv2.cvtColor(rgb, code), encoding)


def file(extension: str, *options: int, swapped: bool = False, grey: bool = False) -> Frame:
    image = palette() if swapped else palette()[..., ::-1]
    if grey:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    _, data = cv2.imencode(extension, image, options)
    return Frame(data.reshape(-1), "png" if extension == ".png" else "jpeg", swapped=swapped)


def jpeg(subsampling: int) -> Frame:
    return file(".jpg", cv2.IMWRITE_JPEG_SAMPLING_FACTOR, subsampling, cv2.IMWRITE_JPEG_QUALITY, 95)


FRAMES: dict[str, Callable[[], Frame]] = {
    **{encoding: (lambda encoding=encoding: raw(encoding)) for encoding in IMAGE_ENCODINGS},
    "jpeg 4:2:0": lambda: jpeg(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420),
    "jpeg 4:2:2": lambda: jpeg(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422),
    "jpeg 4:4:4": lambda: jpeg(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
    "jpeg 4:1:1, which OpenCV has to decode": lambda: jpeg(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411),
    "jpeg progressive": lambda: file(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "jpeg grey": lambda: file(".jpg", grey=True),
    "jpeg swapped": lambda: file(".jpg", swapped=True),
    "png": lambda: file(".png"),
    "png swapped": lambda: file(".png", swapped=True),
}


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """An encoder that sets the first event when it begins a picture, and goes on when the second is set."""
    begun, go = threading.Event(), threading.Event()
    convert = PictureMaker.picture

    def wait(maker: PictureMaker, frame: Frame) -> object:
        begun.set()
        assert go.wait(30)
        return convert(maker, frame)

    monkeypatch.setattr(PictureMaker, "picture", wait)
    yield begun, go
    go.set()


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("encode")]


@pytest.mark.parametrize("kind", FRAMES)
def test_colours_are_those_that_the_policy_sees(kind: str, tmp_path: Path) -> None:
    frame, path = FRAMES[kind](), tmp_path / "a.mkv"
    height, width = palette().shape[:2]
    expected = decode(frame, "front", camera(height, width)).astype(int)
    recorder = encoder(path, height, width)
    recorder.put(frame)
    recorder.put(None)
    recorder.close(30.0)
    for rgb in decode_frames(path):
        fields = (rgb - expected).reshape(2, CELL, 4, CELL, 3)[:, 4:-4, :, 4:-4]
        assert abs(fields.mean(axis=(1, 3))).max() <= 4
        assert abs(fields.mean()) <= 1.5
    counted = recorder.statistics.histogram
    # Statistics are taken before H.264 loses anything.
    mean = counted @ np.arange(256) / counted.sum(axis=1)
    assert abs(mean - expected.mean(axis=(0, 1))).max() < 1.5


def test_video_is_tagged_for_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    recorder = encoder(path)
    for number in range(4):
        recorder.put(numbered(number))
    recorder.close(30.0)
    with module.av.open(str(path)) as container:
        picture = next(container.decode(video=0))
        assert (picture.colorspace, picture.color_range, picture.format.name) == (6, 1, "yuv420p")
    facts = video_facts(path)
    assert (facts.codec, facts.width, facts.height, facts.key_distance) == ("h264", WIDTH, HEIGHT, 2)


def test_every_picture_is_there_once_and_repeats_as_often_as_asked(tmp_path: Path) -> None:
    path, shown = tmp_path / "a.mkv", []
    recorder = encoder(path, depth=100)
    rng = np.random.default_rng(0)
    for number in range(40):
        frame = numbered(number)
        recorder.put(frame)
        repeats = int(rng.integers(0, 3))
        for _ in range(repeats):
            # The very same object is a repeat too: a camera slower than the rows.
            recorder.put([None, frame][int(rng.integers(0, 2))])
        shown += [number] * (1 + repeats)
    result = recorder.close(30.0)
    assert [barcode.read(rgb) for rgb in decode_frames(path)] == shown
    assert (result.frames, result.sampled, result.bytes) == (len(shown), len(shown), path.stat().st_size)
    assert recorder.frames == count_frames(path) == len(shown)


def test_statistics_count_repeats_and_match_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    recorder = encoder(path)
    dark, bright = np.full((HEIGHT, WIDTH, 3), 30, np.uint8), np.full((HEIGHT, WIDTH, 3), (250, 150, 90), np.uint8)
    recorder.put(rgb_frame(dark))
    recorder.put(rgb_frame(bright))
    recorder.put(None)
    recorder.put(None)
    result = recorder.close(30.0)
    stats = ImageStatistics(result.histogram, result.sampled).stats()
    mean = np.array(stats["mean"]).ravel() * 255
    assert stats["count"] == [4]
    assert abs(mean - (np.array([30] * 3) + 3 * np.array([250, 150, 90])) / 4).max() < 1
    assert abs(np.array(image_statistics(path, 4).stats()["mean"]).ravel() * 255 - mean).max() < 2
    assert image_statistics(path, 4, count=2).frames == 2


def test_queue_is_bounded_and_repeats_take_no_room(stuck: tuple[threading.Event, ...], tmp_path: Path) -> None:
    begun, go = stuck
    recorder = encoder(tmp_path / "a.mkv", depth=2)
    recorder.put(numbered(0))
    assert begun.wait(30)
    assert (recorder.waiting, recorder.full) == (0, False)
    for number in (1, 2):
        assert not recorder.full
        recorder.put(numbered(number))
        for _ in range(5):
            recorder.put(None)
    assert (recorder.waiting, recorder.full) == (2, True)
    with pytest.raises(DatasetError, match=r"/front/image: expected room .* found 2 pictures waiting"):
        recorder.put(numbered(3))
    go.set()
    assert recorder.close(30.0).peak == 2
    assert [barcode.read(rgb) for rgb in decode_frames(recorder.path)] == [0] + [1] * 6 + [2] * 6


def test_close_gives_up_in_time(stuck: tuple[threading.Event, ...], monkeypatch, tmp_path: Path) -> None:
    begun, go = stuck
    monkeypatch.setattr(module, "_STOP_S", 0.01)
    recorder = encoder(tmp_path / "a.mkv")
    for number in range(3):
        recorder.put(numbered(number))
    assert begun.wait(30)
    with pytest.raises(DatasetError, match=r"/front/image: .* is busy .* within 0.01 s, found 2 waiting"):
        recorder.close(0.01)
    go.set()
    recorder._thread.join(30)
    assert threads() == []


def test_abort_ends_the_thread_and_keeps_the_file(stuck: tuple[threading.Event, ...], tmp_path: Path) -> None:
    begun, go = stuck
    go.set()
    recorder = encoder(tmp_path / "a.mkv")
    for number in range(20):
        recorder.put(numbered(number))
    assert begun.wait(30)
    recorder.abort()
    assert threads() == [] and recorder.error is None
    numbers = [barcode.read(rgb) for rgb in decode_frames(recorder.path)]
    assert numbers == list(range(recorder.frames)) and numbers
    with pytest.raises(DatasetError, match="found it closed"):
        recorder.put(numbered(0))


def test_disk_full_is_told_and_nothing_hangs(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    path.symlink_to("/dev/full")
    recorder = encoder(path, depth=3)
    recorder.put(numbered(0))
    recorder._thread.join(30)
    assert recorder.error is not None
    assert recorder.error.startswith(f"/front/image: recording of camera front to {path} failed after 0 pictures")
    assert "No space left on device" in recorder.error
    for number in range(10):  # what comes later is thrown away, so the recorder can ask once per row
        recorder.put(numbered(number))
    assert not recorder.full
    with pytest.raises(DatasetError, match="No space left on device"):
        recorder.close(30.0)
    assert threads() == []


def test_missing_folder_is_told(tmp_path: Path) -> None:
    recorder = encoder(tmp_path / "none" / "a.mkv")
    with pytest.raises(DatasetError, match=r"none/a.mkv failed .* No such file"):
        recorder.close(30.0)


def test_unusable_jpeg_is_told(tmp_path: Path) -> None:
    good = cv2.imencode(".jpg", palette())[1].reshape(-1)
    other = cv2.imencode(".jpg", palette()[:, :CELL])[1].reshape(-1)
    junk = np.r_[good[:20], np.zeros(50, np.uint8), good[-30:]]
    for data, said in (
        (good[:-20], "bytes without the end of the file"),
        (other, "expected 64x32 px, found 16x32, set"),
        (junk, "bytes that do not decode"),
    ):
        recorder = encoder(tmp_path / "a.mkv", 2 * CELL, 4 * CELL)
        recorder.put(Frame(good, "jpeg"))
        recorder.put(Frame(data, "jpeg"))
        with pytest.raises(DatasetError, match=f"/front/image: .* failed after 1 pictures: Rejected: .*{said}"):
            recorder.close(30.0)


def test_misuse_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    recorder = encoder(path)
    with pytest.raises(DatasetError, match="expected a picture before its repeat"):
        recorder.put(None)
    assert recorder.close(30.0).frames == 0
    with pytest.raises(DatasetError, match=r"even width and height, found 33x24 px"):
        encoder(path, 24, 33)
    with pytest.raises(DatasetError, match=r"the camera's size, 32x24 px, .* found 64x48 px"):
        CameraEncoder(path, 48, 64, FPS, camera(), "front")
    with pytest.raises(DatasetError, match="expected one of auto, libx264, h264_nvenc, found 'av1'"):
        CameraEncoder(path, HEIGHT, WIDTH, FPS, camera(), "front", codec="av1")


def test_graphics_card_is_used_only_where_it_encodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "problem_of", lambda codec, *size: "no device" if codec == NVENC else None)
    assert choose_codec("auto", 480, 640) == "libx264"
    with pytest.raises(DatasetError, match=r"expected h264_nvenc to encode 640x480 px .* found no device"):
        choose_codec(NVENC, 480, 640)
    monkeypatch.setattr(module, "problem_of", lambda *_: None)
    assert choose_codec("auto", 480, 640) == NVENC


def test_probe_encodes_for_real() -> None:
    assert problem_of("libx264", HEIGHT, WIDTH) is None
    assert problem_of("h264_nothing", HEIGHT, WIDTH) is not None


@pytest.mark.skipif(problem_of(NVENC, 480, 640) is not None, reason="no graphics card that encodes")
def test_graphics_card_gives_every_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    recorder = CameraEncoder(path, 480, 640, FPS, camera(480, 640), "front", codec=NVENC, depth=20)
    for number in range(20):
        recorder.put(numbered(number, 480, 640))
    recorder.close(30.0)
    assert [barcode.read(rgb) for rgb in decode_frames(path)] == list(range(20))
    assert video_facts(path).key_distance == 2


KILLED = """
import os, signal, sys
from pathlib import Path
from pictures import encoder, numbered
recorder = encoder(Path(sys.argv[1]))
for number in range(9):
    recorder.put(numbered(number))
while recorder.frames < 9:
    os.sched_yield()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_kill_costs_one_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    process = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=Path(__file__).parent, timeout=60)
    assert process.returncode == -9
    assert [barcode.read(rgb) for rgb in decode_frames(path)] == list(range(8))


def test_an_ended_encoder_holds_no_picture(tmp_path: Path) -> None:
    """An episode may have many segments that wait to be sealed."""
    target = encoder(tmp_path / "a.mkv")
    frame = rgb_frame(palette()[:HEIGHT, :WIDTH])
    seen = weakref.ref(frame)
    target.put(frame)
    del frame
    target.close(10.0)
    gc.collect()
    assert seen() is None
