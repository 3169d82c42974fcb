"""Features, missing files and files that should not be there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from groot_ros.dataset import paths
from groot_ros.dataset.check.contents import ALWAYS, Contents
from groot_ros.dataset.check.report import Findings
from groot_ros.dataset.check.schema import Feature, shortened
from groot_ros.dataset.staged import ABORTED, BEGIN, ROWS, SEALED


def check_features(contents: Contents, found: Findings) -> None:
    """What LeRobot 0.3.3 and GR00T N1.5 refuse in ``features`` (spec/lerobot.md sections 1.1 and 1.3)."""
    for name in ALWAYS:
        if name not in contents.info.features:
            found.add("feature_invalid", paths.INFO, f"features: expected {name}, which every dataset has, found none")
    for name, feature in contents.features.items():
        for what in _feature_faults(name, feature, contents.fps):
            found.add("feature_invalid", f"{paths.INFO}: features.{name}", what)
    if contents.info.video_path is None and contents.videos:
        found.add("info_invalid", paths.INFO, f"video_path: expected {paths.VIDEO_PATTERN}, found none")


def _feature_faults(name: str, feature: Feature, fps: float) -> Iterator[str]:
    if "/" in name:
        yield "expected a name without '/', which LeRobot refuses, found one: use '.'"
    if feature.is_video:
        yield from _video_faults(feature, fps)
        return
    if feature.dtype == "image":
        return
    if "image" in name and feature.dtype != "string":
        yield "expected 'image' only in names of pictures: LeRobot takes this for one; rename it"
    names = feature.flat_names
    if len(feature.shape) != 1:
        yield f"shape: expected one number, such as [6], found {feature.shape}"
    elif names and len(names) != feature.width:
        yield f"names: expected {feature.width}, as many as its shape says, found {len(names)}"
    elif len(set(names)) != len(names):
        twice = sorted({each for each in names if names.count(each) > 1})
        yield f"names: expected each name once, found {', '.join(twice)} again: which number is which joint is unclear"


def _video_faults(feature: Feature, fps: float) -> Iterator[str]:
    if feature.picture_size is None:
        yield f"shape: expected [height, width, 3], found {feature.shape}"
        return
    # GR00T N1.5 reads (channels, info) or (channel, video_info), and fails on any other pair.
    last = feature.flat_names[-1] if len(feature.flat_names) == 3 else None
    if last not in ("channels", "channel"):
        yield f"names: expected ['height', 'width', 'channels'], which GR00T N1.5 reads, found {feature.names}"
    for names_it, section, other in (("channels", feature.info, "info"), ("channel", feature.video_info, "video_info")):
        if last == names_it and section is None:
            yield f"expected {other!r} beside names that end with {names_it!r}, as GR00T N1.5 reads it, found none"
        elif last == names_it and section is not None and "video.fps" not in section:
            yield f"{other}: expected video.fps, which GR00T N1.5 reads, found none: add it"
    height, width = feature.picture_size
    for field, right in (("video.fps", fps), ("video.height", height), ("video.width", width)):
        for section in (feature.info or {}, feature.video_info or {}):
            if section.get(field, right) != right:
                yield f"{field}: expected {right:g}, found {shortened(section[field])}: correct it"


def check_files(contents: Contents, found: Findings) -> None:
    """Every file that the metadata name is there, and none that it does not name."""
    rows, videos = set(), set()
    for episode in contents.episodes:
        number = episode.episode_index
        data = contents.data_path(number)
        rows.add(data)
        if not (contents.root / data).is_file():
            found.unsound.add(number)
            found.add(
                "missing_file", data, f"expected the rows of episode {number}, found no file: {_GONE}", episode=number
            )
        for feature in contents.videos:
            video = contents.video_path(number, feature)
            videos.add(video)
            if not (contents.root / video).is_file():
                found.add(
                    "missing_file",
                    video,
                    f"expected the video of episode {number}, found no file: {_GONE}",
                    episode=number,
                )
    if str(paths.EPISODES) in found.damaged:
        return  # which files are strays is not known
    for folder, expected, code, why in (
        ("data", rows, "stray_file", "LeRobot loads every file under data/"),
        ("videos", videos, "stray_video", "it takes space and may hide a lost episode"),
    ):
        for file in _files(contents.root, folder):
            if file not in expected:
                message = (
                    f"expected only files of the {len(contents.episodes)} episodes, found this one: {why}; move it out"
                )
                found.add(code, file, message)


_GONE = "restore it from a copy, or take the episode out with `groot-ros dataset delete-episodes`"


def _files(root: Path, folder: str) -> Iterator[Path]:
    """Files below a folder, relative to ``root``; loaders skip those whose name begins with a dot."""
    for path in sorted((root / folder).rglob("*")):
        if not path.is_dir() and not path.name.startswith("."):
            yield path.relative_to(root)


def check_leftovers(contents: Contents, found: Findings) -> None:
    """Unfinished episodes, and what repair moved away, in ``.staging``."""
    staging = contents.root / paths.STAGING
    if not staging.is_dir():
        return
    for folder in sorted(path for path in staging.iterdir() if path.is_dir()):
        if any((folder / name).exists() for name in (BEGIN, ROWS, SEALED, ABORTED)):
            what = "an episode that was not saved, or one that is being recorded: `groot-ros dataset salvage` lists it"
        else:
            what = "no episode, such as what `groot-ros dataset repair` moved here: look, and remove the folder"
        found.add("leftover_staging", folder.relative_to(contents.root), what)
