"""Merge, split and delete episodes: each builds a new dataset and leaves those it reads as they are."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from groot_ros.dataset.commit import RECORD
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.lock import DatasetLock
from groot_ros.dataset.read import Dataset
from groot_ros.dataset.rebuild import Built, Piece, Progress, build, replace


@contextmanager
def locked(roots: Sequence[Path]) -> Iterator[list[Dataset]]:
    """Open datasets and keep writers out of them while they are used.

    Raises: DatasetError when one is named twice, is being written, or was left in the middle of a commit.
    """
    found = [root.expanduser().resolve() for root in roots]
    for root in found:
        if found.count(root) > 1:
            raise DatasetError(f"{root}: expected each dataset once, found it {found.count(root)} times")
    with ExitStack() as stack:
        for root in found:
            if not root.is_dir():
                raise DatasetError(
                    f"{root}: expected a dataset's folder, found {'a file' if root.exists() else 'none'}"
                )
            if os.access(root, os.W_OK):  # what cannot be written to needs no lock, and could not hold one
                stack.enter_context(DatasetLock(root))
            if (root / RECORD).exists():
                raise DatasetError(
                    f"{root / RECORD}: expected no commit under way, found one that was interrupted: run "
                    "`groot-ros dataset repair --apply` first"
                )
        yield [Dataset(root) for root in found]


def merge(
    roots: Sequence[Path], output: Path | None, *, in_place: bool = False, progress: Progress | None = None
) -> Built:
    """All episodes of datasets of one robot, in this order; tasks with the same text become one.

    Args:
        output: new folder.
        in_place: the first dataset becomes the result; the old one is kept as ``NAME.before-TIME``.

    Raises: DatasetError when the datasets differ, naming every difference, or cannot be read.
    """
    with locked(roots) as sources:
        pieces = [Piece(source, entry.index) for source in sources for entry in source.episodes]
        return _write(sources[0].root, pieces, output, in_place, progress)


def delete_episodes(
    root: Path,
    episodes: Sequence[int],
    output: Path | None,
    *,
    in_place: bool = False,
    progress: Progress | None = None,
) -> Built:
    """The dataset without some episodes; those that follow move up.

    Raises: DatasetError when there is no such episode, none is left, or the dataset cannot be read.
    """
    with locked([root]) as (source,):
        known = [entry.index for entry in source.episodes]
        _check_known(source, episodes, known)
        pieces = [Piece(source, index) for index in known if index not in set(episodes)]
        return _write(source.root, pieces, output, in_place, progress)


def split(
    root: Path, parts: Mapping[str, Sequence[int]], output: Path, *, progress: Progress | None = None
) -> list[Built]:
    """One new dataset per part, ``output/NAME``; episodes of no part are left out.

    Raises: DatasetError when a part is empty, names no episode, or shares one with another part.
    """
    with locked([root]) as (source,):
        known = [entry.index for entry in source.episodes]
        taken: dict[int, str] = {}
        for name, episodes in parts.items():
            if not episodes:
                raise DatasetError(f"{root}: part {name}: expected at least one episode, found none")
            _check_known(source, episodes, known)
            for episode in episodes:
                if episode in taken:
                    raise DatasetError(
                        f"{root}: expected each episode in one part, found {episode} in two: "
                        f"{taken[episode]} and {name}"
                    )
                taken[episode] = name
            if os.path.lexists(output / name):  # before the first part is written
                raise DatasetError(f"{output / name}: expected a folder that does not exist yet, found one")
        built = []
        for name, episodes in parts.items():
            built.append(build(output / name, [Piece(source, episode) for episode in episodes], progress))
        return built


def parse_episodes(text: str) -> list[int]:
    """``3,7:9`` or ``3,7-8`` -> [3, 7, 8]: numbers, ranges without their end as in info.json's splits, or with it.

    Raises: DatasetError for anything else, or a number twice.
    """
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:([:-])\s*(\d+)\s*)?", part)
        first = int(match[1]) if match is not None else 0
        end = first + 1 if match is None or match[2] is None else int(match[3]) + (match[2] == "-")
        if match is None or end <= first:
            raise DatasetError(f"episodes: expected numbers and ranges such as 3,7:9 or 3,7-8, found {text!r}")
        found += range(first, end)
    if len(set(found)) != len(found):
        raise DatasetError(f"episodes: expected each number once, found {text!r}")
    return found


def parse_parts(texts: Sequence[str], episodes: int, seed: int | None = None) -> dict[str, list[int]]:
    """``train=0.8 val=0.2`` or ``train=0:40 val=40:50`` -> name -> episodes, ascending.

    Args:
        texts: one per part; all fractions (with a point), or all numbers and ranges.
        episodes: of the dataset.
        seed: fractions draw their episodes at random; None: they follow each other.

    Raises: DatasetError for another text, a name twice, or fractions whose sum is more than 1.
    """
    named: dict[str, str] = {}
    for text in texts:
        match = re.fullmatch(r"([A-Za-z0-9_][A-Za-z0-9_.-]*)=(.+)", text)
        if match is None or match[1] in named:
            raise DatasetError(f"part: expected NAME=EPISODES or NAME=FRACTION, each name once, found {text!r}")
        named[match[1]] = match[2]
    fractional = {name: re.fullmatch(r"0?\.\d+|1\.0*", value) is not None for name, value in named.items()}
    if not any(fractional.values()):
        return {name: parse_episodes(value) for name, value in named.items()}
    if not all(fractional.values()):
        raise DatasetError(f"part: expected all fractions (such as 0.8) or all episodes, found {', '.join(texts)}")
    bounds = np.cumsum([0.0, *(float(value) for value in named.values())])
    if bounds[-1] > 1 + 1e-9:
        raise DatasetError(f"part: expected fractions of at most 1 in all, found {bounds[-1]:g}")
    order = np.arange(episodes) if seed is None else np.random.default_rng(seed).permutation(episodes)
    ends = np.round(bounds * episodes).astype(int)
    return {name: sorted(order[ends[i] : ends[i + 1]].tolist()) for i, name in enumerate(named)}


def _write(
    root: Path, pieces: Sequence[Piece], output: Path | None, in_place: bool, progress: Progress | None
) -> Built:
    if (output is None) == (not in_place):
        raise DatasetError(
            f"{root}: expected either an output folder or in-place, found {'both' if output else 'none'}"
        )
    return replace(root, pieces, progress) if output is None else build(output, pieces, progress)


def _check_known(source: Dataset, episodes: Sequence[int], known: Sequence[int]) -> None:
    unknown = sorted(set(episodes) - set(known))
    if unknown:
        there = f"0 to {len(known) - 1}" if known else "none"
        raise DatasetError(f"{source.root}: expected episodes that there are ({there}), found {unknown[:10]}")
