"""Do state and action move as a robot does: jumps, numbers that never change, actions that follow the state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groot_ros.dataset import paths
from groot_ros.dataset.check.contents import Contents
from groot_ros.dataset.check.report import Findings, Severity
from groot_ros.dataset.check.rows import EpisodeRows
from groot_ros.dataset.spec import ACTION, STATE

# A jump is a step that is larger than this share of all that the number ever covers, and this many times larger than
# 95 % of the steps that the number makes.
JUMP_RANGE, JUMP_USUAL, USUAL_QUANTILE = 0.2, 5.0, 0.95
# Steps beside a jump are this much smaller: a quick motion takes several rows, a jump one (or two: there and back).
JUMP_ALONE = 4.0
# Fewer different values than this are switch positions, which may jump.
DISCRETE = 8
TURNS = (2 * np.pi, 360.0)
TURN_TOLERANCE = 0.05
# Rows by which actions may follow the state, and the share of the error of leading it that this may leave.
LAGS, LAG_FIT = 5, 0.2
LAG_ROWS = 12  # an episode shorter than this does not tell
Array = NDArray[np.float64]


def check_lengths(contents: Contents, horizon: int, found: Findings) -> None:
    """Episodes shorter than a chunk of ``horizon`` rows."""
    for episode in contents.episodes:
        if 0 < episode.length < horizon:
            found.add(
                "episode_short",
                f"{paths.EPISODES}: episode {episode.episode_index}",
                f"expected at least {horizon} rows, one action chunk, found {episode.length}: GR00T takes no training "
                "sample from it; take it out, or record longer",
                episode=episode.episode_index,
            )


def check_motion(contents: Contents, episodes: Sequence[EpisodeRows], found: Findings) -> None:
    """Constant numbers over the dataset; per episode jumps, and actions that equal or follow the state."""
    for feature in (STATE, ACTION):
        if contents.vector(feature) is None:
            continue
        parts = {rows.index: (rows, _numbers(rows, feature)) for rows in episodes}
        good = {
            number: (rows, values) for number, (rows, values) in parts.items() if values is not None and len(values)
        }
        if good:
            low, high = _range([values for _, values in good.values()])
            _check_constant(contents, feature, low, high, len(good) == len(contents.episodes), found)
            _check_jumps(contents, feature, good, high - low, found)
    if contents.vector(STATE) is not None and contents.vector(ACTION) is not None:
        pairs = _pairs(contents)
        for rows in episodes:
            state, action = _numbers(rows, STATE), _numbers(rows, ACTION)
            if state is not None and action is not None and pairs:
                _check_following(rows, state[:, [s for s, _ in pairs]], action[:, [a for _, a in pairs]], found)
    _check_duplicates(episodes, found)


def _numbers(rows: EpisodeRows, feature: str) -> Array | None:
    values = rows.numbers(feature)
    return None if values is None else values.astype(np.float64)


def _range(parts: Sequence[Array]) -> tuple[Array, Array]:
    return np.min([part.min(axis=0) for part in parts], axis=0), np.max([part.max(axis=0) for part in parts], axis=0)


def _check_constant(contents: Contents, feature: str, low: Array, high: Array, whole: bool, found: Findings) -> None:
    if not whole:
        return
    for dimension in np.flatnonzero(low == high):
        name = contents.names(feature)[dimension]
        if ".constant." in f".{name}":
            continue  # a padding key of the robot's YAML
        message = (
            f"expected numbers that change, found {low[dimension]:g} in every row of the dataset: GR00T cannot scale "
            "it. Look whether the joint is connected; a joint that is never used is better left out of the robot's YAML"
        )
        found.add("constant_dimension", f"{feature}[{dimension}] {name}", message)


def _check_jumps(
    contents: Contents,
    feature: str,
    episodes: dict[int, tuple[EpisodeRows, Array]],
    spans: Array,
    found: Findings,
) -> None:
    steps = {number: np.diff(values, axis=0) for number, (_, values) in episodes.items()}
    for dimension, name in enumerate(contents.names(feature)):
        if spans[dimension] <= 0 or _is_discrete([values[:, dimension] for _, values in episodes.values()]):
            continue
        sizes = np.abs(np.concatenate([each[:, dimension] for each in steps.values()]))
        sizes = sizes[sizes > 0]
        if not len(sizes):
            continue
        usual = float(np.quantile(sizes, USUAL_QUANTILE))
        limit = max(JUMP_RANGE * float(spans[dimension]), JUMP_USUAL * usual)
        jumps = {number: _jumps(each[:, dimension], limit) for number, each in steps.items()}
        jumps = {number: rows for number, rows in jumps.items() if rows}
        # What nearly every episode does is how this joint moves, such as a fast gripper.
        usual_motion = len(episodes) > 2 and len(jumps) > 0.5 * len(episodes)
        for number, rows in jumps.items():
            step = float(steps[number][rows[0], dimension])
            turned = any(abs(abs(step) - turn) < TURN_TOLERANCE * turn for turn in TURNS)
            code, what = ("angle_wrap", _WRAP) if turned else ("joint_jump", _JUMP)
            message = (
                f"expected small steps (95 % are below {usual:.4g}), found {step:+.4g} from row {rows[0]} to "
                f"{rows[0] + 1} ({len(rows)} in all): {what}"
            )
            where = f"{episodes[number][0].where}: {feature}[{dimension}] {name}"
            severity: Severity | None = "info" if usual_motion and not turned else None
            found.add(code, where, message, episode=number, severity=severity)


_JUMP = "rows are missing in between, or the sensor gave a wrong value; look at it, and take the episode out"
_WRAP = "an angle went over its full turn; let the driver count on, or use another form of the rotation"


def _is_discrete(parts: Sequence[Array]) -> bool:
    seen: set[float] = set()
    for part in parts:
        seen.update(np.unique(part)[: DISCRETE + 1].tolist())
        if len(seen) > DISCRETE:
            return False
    return True


def _jumps(steps: Array, limit: float) -> list[int]:
    """Rows before which-to-next a single step, or one there and back, is larger than ``limit``."""
    sizes = np.abs(steps)
    jumps = []
    for row in np.flatnonzero(sizes > limit):
        before = sizes[row - 1] if row > 0 else 0.0
        after = sizes[row + 1] if row + 1 < len(sizes) else 0.0
        alone = max(before, after) * JUMP_ALONE < sizes[row]
        back = (
            row + 1 < len(sizes)
            and steps[row] * steps[row + 1] < 0
            and abs(steps[row] + steps[row + 1]) < sizes[row] / 2
        )
        if alone or back:
            jumps.append(int(row))
    return jumps


def _pairs(contents: Contents) -> list[tuple[int, int]]:
    """(position in the state, position in the action) of the numbers with the same name."""
    state, action = contents.features[STATE], contents.features[ACTION]
    if not state.flat_names and not action.flat_names:
        return [(i, i) for i in range(state.width)] if state.width == action.width else []
    places = {name: position for position, name in enumerate(contents.names(STATE))}
    return [(places[name], i) for i, name in enumerate(contents.names(ACTION)) if name in places]


def _check_following(rows: EpisodeRows, state: Array, action: Array, found: Findings) -> None:
    """Are actions those of their own row's state, or of an earlier one? [N, D] each, the same joints."""
    spans = np.ptp(state, axis=0)
    moving = spans > 1e-9
    if len(state) < LAG_ROWS or not moving.any():
        return
    state, action = state[:, moving] / spans[moving], action[:, moving] / spans[moving]
    where = f"{rows.where}: {ACTION}"
    if np.array_equal(state, action):
        message = (
            f"expected commands, found the state of the same row in all {len(state)} rows: the policy learns to stay "
            "where it is. Record the commanded topic, or the next state (recording.commands of the robot's YAML)"
        )
        found.add("action_is_state", where, message, episode=rows.index)
        return
    rows_used = np.arange(LAGS, len(state) - LAGS)  # those for which every shift has a row
    shifts = range(-LAGS, LAGS + 1)
    errors = np.array([np.abs(action[rows_used] - state[rows_used + shift]).mean(axis=0) for shift in shifts])
    behind, leading = errors[:LAGS].min(axis=0), errors[LAGS:].min(axis=0)
    late = (leading > 0) & (behind < LAG_FIT * leading)
    # By joint: a switch beside them, such as a gripper that is slow to follow, fits no row.
    if late.sum() > 0.5 * len(late):
        by = LAGS - int(np.median(np.argmin(errors[:LAGS, late], axis=0)))
        better = float(np.median(leading[late] / np.maximum(behind[late], 1e-12)))
        message = (
            f"expected commands that the state follows, found actions of {late.sum()} of {len(late)} joints that fit "
            f"the state of {by} rows before {better:.3g} times better than that of their own or of later rows: the "
            "columns are shifted, or the clock of the command is late"
        )
        found.add("action_lags_state", where, message, episode=rows.index)


def _check_duplicates(episodes: Sequence[EpisodeRows], found: Findings) -> None:
    seen: dict[tuple[bytes, bytes], int] = {}
    for rows in episodes:
        state, action = rows.numbers(STATE), rows.numbers(ACTION)
        if state is None or action is None or not rows.count:
            continue
        key = (_digest(state), _digest(action))
        if key in seen:
            message = (
                f"expected other numbers than in any other episode, found those of episode {seen[key]}: it weighs "
                "twice in training; take one out with `groot-ros dataset delete-episodes`"
            )
            found.add("episode_duplicate", rows.where, message, episode=rows.index)
        seen.setdefault(key, rows.index)


def _digest(values: NDArray[Any]) -> bytes:
    import hashlib

    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).digest()
