"""Reel and video of an episode."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from groot_ros.closed_loop.evaluation.video import (
    BAR,
    FPS,
    HOLD_S,
    MOST_FRAMES,
    MUTED,
    Reel,
    caption,
    frames_of,
    write_mp4,
)
from groot_ros.dataset.video import decode_frames, video_facts

SECOND = 1_000_000_000
BEGIN = 5 * SECOND


def grey(value: int, height: int = 96, width: int = 96) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def filled(rate_hz: float, seconds: float) -> Reel:
    """Pictures whose brightness is 20 per second."""
    reel = Reel()
    for number in range(round(rate_hz * seconds)):
        reel.add(BEGIN + round(number * SECOND / rate_hz), grey(round(20 * number / rate_hz)))
    return reel


@pytest.mark.parametrize(("rate_hz", "expected"), [(30.0, FPS), (20.0, FPS), (15.0, FPS), (10.0, 10), (100.0, FPS)])
def test_a_reel_keeps_at_most_so_many_per_second(rate_hz: float, expected: int) -> None:
    assert len(filled(rate_hz, 4.0)) == pytest.approx(4 * expected, abs=4)


def test_a_reel_stays_small_however_long_the_episode() -> None:
    reel = Reel()
    for number in range(5 * MOST_FRAMES):
        reel.add(BEGIN + number * SECOND // FPS + 1, grey(number % 250, 8, 8))
        assert len(reel) <= MOST_FRAMES
    assert len(reel) > MOST_FRAMES // 2 and reel.fps == Fraction(FPS, 8)
    reel.clear()
    assert len(reel) == 0 and reel.fps == FPS


def test_pictures_of_the_past_are_not_taken() -> None:
    reel = filled(15.0, 1.0)
    assert not reel.wants(BEGIN) and reel.wants(BEGIN + 2 * SECOND)


def test_a_video_plays_everywhere_and_shows_the_episode_in_its_time(tmp_path: Path) -> None:
    path = tmp_path / "episode.mp4"
    assert filled(20.0, 4.0).write(path, BEGIN, BEGIN + 4 * SECOND, ("seed 3: reach", "time_limit after 4.0 s"), False)
    facts = video_facts(path)
    assert (facts.codec, facts.pixels, facts.fps, facts.exact) == ("h264", "yuv420p", FPS, True)
    assert facts.frames == 4 * FPS + 1 + round(HOLD_S * FPS)
    assert (facts.width, facts.height) == (384, 384 + BAR)
    data = path.read_bytes()
    assert 0 < data.find(b"moov") < data.find(b"mdat"), "the index comes first, or a browser waits for the whole file"
    seen = [picture[BAR + 50, 200].mean() for picture in decode_frames(path, [0, 15, 30, 45, facts.frames - 1])]
    assert seen == pytest.approx([0, 20, 40, 60, 80], abs=4)
    assert not list(tmp_path.glob("*.partial"))


def test_large_pictures_are_made_small_and_odd_ones_even(tmp_path: Path) -> None:
    reel = Reel()
    reel.add(BEGIN, grey(100, 721, 1281))
    assert reel.write(tmp_path / "a.mp4", BEGIN, BEGIN, ("", ""), True)
    facts = video_facts(tmp_path / "a.mp4")
    assert facts.width == 384 and facts.height == 216 + BAR


def test_no_picture_no_video(tmp_path: Path) -> None:
    assert not Reel().write(tmp_path / "a.mp4", BEGIN, BEGIN + SECOND, ("", ""), True)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def pictures():
        yield grey(0)
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        write_mp4(tmp_path / "a.mp4", pictures(), Fraction(15))
    assert not list(tmp_path.iterdir())
    with pytest.raises((OSError, av.FFmpegError)):
        write_mp4(tmp_path / "missing" / "a.mp4", iter([grey(0)]), Fraction(15))


def test_a_caption_is_written_and_never_too_long() -> None:
    plain = caption(grey(90, 320, 320), "", "", MUTED)
    short = caption(grey(90, 320, 320), "seed 1", "", MUTED)
    long = caption(grey(90, 320, 320), "seed 1: " + "reach " * 40, "", MUTED)
    assert plain.shape == short.shape == long.shape == (320 + BAR, 320, 3)
    assert (short != plain).any() and (long[:, -6:] == plain[:, -6:]).all()
    assert (long[BAR:] == 90).all()


def test_frames_for_a_picture_leave_the_end_card_out(tmp_path: Path) -> None:
    path = tmp_path / "episode.mp4"
    filled(15.0, 4.0).write(path, BEGIN, BEGIN + 4 * SECOND, ("", "done"), True)
    frames = frames_of(path, 5)
    assert [frame[BAR + 50, 200].mean() for frame in frames] == pytest.approx([0, 20, 40, 60, 79], abs=4)
