"""stats.json, episodes_stats.jsonl and relative_stats.json against the rows.

The numbers are computed here once more, on purpose without the code that wrote them. Minimum and maximum must be the
float32 of the rows; quantiles, mean and standard deviation may differ by what float32 sums lose (GR00T computes in
float32, we in float64).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groot_ros.dataset import paths
from groot_ros.dataset.check.contents import Contents
from groot_ros.dataset.check.files import read_json, read_jsonl
from groot_ros.dataset.check.report import Findings
from groot_ros.dataset.check.rows import EpisodeRows
from groot_ros.dataset.check.schema import EpisodeStatsLine, Feature, formed, shortened
from groot_ros.dataset.spec import ACTION, STATE

NAMES = ("mean", "std", "min", "max", "q01", "q99")
EPISODE_NAMES = ("min", "max", "mean", "std")
QUANTILES = ("q01", "q99")
# Largest difference, as a share of the largest size of the number in the rows.
TOLERANCES = {"min": 1e-7, "max": 1e-7, "q01": 1e-5, "q99": 1e-5, "mean": 1e-4, "std": 1e-4}
_AGAIN = "`groot-ros dataset stats` computes them anew"
_REPAIR = "`groot-ros dataset repair` computes them anew"


def check_stats(contents: Contents, episodes: Sequence[EpisodeRows], used: Sequence[str], found: Findings) -> None:
    """stats.json.

    Args:
        used: vectors that modality.json takes keys from, which GR00T normalises.
    """
    data = read_json(contents.root, paths.STATS, found, "stats_missing", f"GR00T reads it; {_AGAIN}")
    if data is None:
        return
    for name in used:
        if name not in data:
            found.add(
                "stats_missing", paths.STATS, f"expected statistics of {name}, which GR00T uses, found none: {_AGAIN}"
            )
    for name, entry in data.items():
        feature = contents.features.get(name)
        where = f"{paths.STATS}: {name}"
        if not isinstance(entry, dict):
            found.add(
                "stats_invalid", where, f"expected mean, std, min, max, q01, q99, found {shortened(entry)}: {_AGAIN}"
            )
            continue
        if "count" in entry:
            found.add("stats_count", where, f"expected no `count`, found one: GR00T N1.5 fails on it; {_AGAIN}")
        if feature is not None and not feature.is_image and feature.dtype.startswith("float"):
            _check_feature(name, feature, entry, contents, episodes, found)


def _check_feature(
    name: str,
    feature: Feature,
    entry: Mapping[str, Any],
    contents: Contents,
    episodes: Sequence[EpisodeRows],
    found: Findings,
) -> None:
    where = f"{paths.STATS}: {name}"
    needed = NAMES if name in (STATE, ACTION) else tuple(key for key in NAMES if key in entry)
    numbers = _numbers(entry, needed, (max(feature.width, 1),), where, "stats_invalid", _AGAIN, found)
    if (
        numbers is None
        or found.unsound
        or len(episodes) != len(contents.episodes)
        or str(paths.EPISODES) in found.damaged
    ):
        return  # without every row there is nothing to compare with
    parts = [rows.columns[name] for rows in episodes if name in rows.columns]
    if parts and sum(map(len, parts)):
        wrong = _difference(numbers, np.concatenate(parts), feature)
        if wrong:
            found.add("stats_wrong", where, f"{wrong}: they are of other rows; {_AGAIN}")


def check_episodes_stats(contents: Contents, episodes: Sequence[EpisodeRows], found: Findings) -> None:
    """episodes_stats.jsonl, which LeRobot needs from v2.1 on."""
    if contents.is_v20 and not (contents.root / paths.EPISODES_STATS).exists():
        return
    lines = read_jsonl(
        contents.root,
        paths.EPISODES_STATS,
        found,
        "episodes_stats_missing",
        f"LeRobot cannot open the dataset; {_REPAIR}",
    )
    stats: dict[int, tuple[str, dict[str, dict[str, Any]]]] = {}
    for where, line in lines:
        good = formed(EpisodeStatsLine, line, found, "episodes_stats_invalid", where)
        if good is not None:
            stats[good.episode_index] = (where, good.stats)
    if str(paths.EPISODES_STATS) in found.damaged:
        return
    known = {rows.index: rows for rows in episodes}
    for episode in contents.episodes:
        number = episode.episode_index
        if number not in stats:
            message = f"expected a line for episode {number}, found none: LeRobot cannot open the dataset; {_REPAIR}"
            found.add("episodes_stats_missing", paths.EPISODES_STATS, message, episode=number)
            continue
        where, entries = stats[number]
        missing = [
            name for name, feature in contents.features.items() if feature.dtype != "string" and name not in entries
        ]
        if missing:
            message = f"expected statistics of every feature, found none of {', '.join(missing)}: {_REPAIR}"
            found.add("episodes_stats_missing", where, message, episode=number)
        for name, entry in entries.items():
            if name in contents.features:
                _check_entry(contents, name, entry, known.get(number), f"{where}: {name}", number, found)
    strange = sorted(set(stats) - {episode.episode_index for episode in contents.episodes})
    if strange and str(paths.EPISODES) not in found.damaged:
        listed = ", ".join(map(str, strange[:5]))
        message = f"expected one line per episode, found lines of {listed}, which do not exist: {_REPAIR}"
        found.add("episodes_stats_invalid", paths.EPISODES_STATS, message)


def _check_entry(
    contents: Contents,
    name: str,
    entry: Mapping[str, Any],
    rows: EpisodeRows | None,
    where: str,
    episode: int,
    found: Findings,
) -> None:
    feature = contents.features[name]
    shape = (3, 1, 1) if feature.is_image else (max(feature.width, 1),)
    names = (*EPISODE_NAMES, *(name for name in entry if name in QUANTILES))
    numbers = _numbers(entry, names, shape, where, "episodes_stats_invalid", _REPAIR, found, episode)
    count = _numbers(entry, ("count",), (1,), where, "episodes_stats_invalid", _REPAIR, found, episode)
    if numbers is None or count is None:
        return
    if feature.is_image:
        low, high, mean = numbers["min"], numbers["max"], numbers["mean"]
        ordered = (low >= 0) & (low <= mean) & (mean <= high) & (high <= 1) & (numbers["std"] >= 0)
        if not ordered.all() or count["count"][0] < 1:
            message = f"expected 0 <= min <= mean <= max <= 1 of at least one picture, found others: {_REPAIR}"
            found.add("episodes_stats_wrong", where, message, episode=episode)
    elif rows is not None and rows.index not in found.unsound and name in rows.columns and rows.count:
        wrong = _difference(numbers, rows.columns[name], feature)
        if not wrong and count["count"][0] != rows.count:
            wrong = f"count: expected {rows.count}, found {count['count'][0]:g}"
        if wrong:
            found.add("episodes_stats_wrong", where, f"{wrong}: they are of other rows; {_REPAIR}", episode=episode)


def check_relative_stats(contents: Contents, widths: Mapping[str, int], found: Findings) -> None:
    """relative_stats.json, where there is one: [horizon][width of the action key].

    Args:
        widths: action key of modality.json -> numbers.
    """
    data = read_json(contents.root, paths.RELATIVE_STATS, found, None)
    again = "`groot-ros dataset stats` or GR00T's training makes it anew"
    for key, entry in (data or {}).items():
        where = f"{paths.RELATIVE_STATS}: {key}"
        if key not in widths or not isinstance(entry, dict):
            keys = ", ".join(widths) or "(none)"
            message = f"expected statistics of the action keys {keys}, found {shortened(entry)}: {again}"
            found.add("stats_invalid", where, message)
            continue
        horizon = len(entry["min"]) if isinstance(entry.get("min"), list) else 1
        _numbers(entry, NAMES, (horizon, widths[key]), where, "stats_invalid", again, found)


def _numbers(
    entry: Mapping[str, Any],
    names: Sequence[str],
    shape: tuple[int, ...],
    where: str,
    code: str,
    do: str,
    found: Findings,
    episode: int | None = None,
) -> dict[str, NDArray[np.float64]] | None:
    """Statistics as float64 arrays of ``shape``; None, and a problem, where one is missing or no finite number."""
    numbers = {}
    for name in names:
        if name not in entry:
            found.add(code, where, f"{name}: expected {_shape_words(shape)}, found none: {do}", episode=episode)
            return None
        try:
            # Text that looks like a number is none to a loader.
            values = np.asarray(entry[name])
            good = values.dtype.kind in "iuf" and values.shape == shape and bool(np.isfinite(values).all())
        except (ValueError, TypeError, OverflowError):
            good = False  # lists of different lengths
        if not good:
            message = f"{name}: expected {_shape_words(shape)}, found {shortened(entry[name])}: {do}"
            found.add(code, where, message, episode=episode)
            return None
        numbers[name] = values.astype(np.float64)
    return numbers


def _shape_words(shape: tuple[int, ...]) -> str:
    return f"finite numbers [{', '.join(map(str, shape))}]"


def _difference(said: Mapping[str, NDArray[np.float64]], values: NDArray[Any], feature: Feature) -> str | None:
    """Where ``said`` is not that of ``values`` [N, D], in words; None where it is."""
    # Counters and times in nanoseconds lose their last digits in float64; their distance from the first does not.
    base = values[0].astype(np.float64) if values.dtype.kind == "f" else values[0]
    above = (values - values[0]).astype(np.float64) if values.dtype.kind in "iu" else values.astype(np.float64)
    offset = base.astype(np.float64) if values.dtype.kind in "iu" else np.zeros(values.shape[1])
    sizes = np.abs(offset) + np.abs(above).max(axis=0)
    spread = sizes if values.dtype.kind == "f" else np.abs(above).max(axis=0)
    right = {
        "min": above.min(axis=0) + offset,
        "max": above.max(axis=0) + offset,
        "mean": above.mean(axis=0) + offset,
        "std": above.std(axis=0),
    }
    if "q01" in said or "q99" in said:
        right["q01"], right["q99"] = np.quantile(above, [0.01, 0.99], axis=0) + offset
    for name, numbers in said.items():
        if name not in right:
            continue
        # The standard deviation does not know the offset.
        scale = spread if name == "std" else sizes
        off = np.abs(numbers - right[name]) > TOLERANCES[name] * scale + 1e-12
        if off.any():
            dimension = int(np.flatnonzero(off)[0])
            names = feature.flat_names
            label = f" {names[dimension]}" if len(names) > dimension else ""
            return f"{name}[{dimension}]{label}: expected {right[name][dimension]:.9g}, found {numbers[dimension]:.9g}"
    return None
