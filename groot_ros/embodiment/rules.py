"""Rules of an embodiment that span fields. Each finds all its problems; none stops at the first."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from groot_ros.embodiment import key_rules, motion_rules, output_rules, recording_rules, vocabulary
from groot_ros.embodiment.problems import Problem, closest, one_of, unknown

if TYPE_CHECKING:
    from groot_ros.embodiment import schema


def _rate_and_age(
    cameras: Mapping[str, schema.Camera], state_streams: Mapping[str, schema.StateStream]
) -> Iterator[Problem]:
    for section, streams in (("cameras", cameras), ("state_streams", state_streams)):
        for name, stream in streams.items():
            period_s = 1.0 / stream.rate_hz
            if stream.max_age_s <= period_s:
                yield Problem(
                    (section, name, "max_age_s"),
                    f"more than one period of the stream, {period_s:.4g} s at rate_hz {stream.rate_hz:g}",
                    f"{stream.max_age_s:g}",
                    "raise max_age_s to 2 or 3 periods or correct rate_hz",
                )
    for name in state_streams:
        if name in cameras:
            yield Problem(
                ("state_streams", name),
                "a name that no camera has",
                repr(name),
                "rename the stream",
                on_key=True,
            )


def _spread(
    cameras: Mapping[str, schema.Camera], state_streams: Mapping[str, schema.StateStream], sync: schema.Sync
) -> Iterator[Problem]:
    rates = {name: camera.rate_hz for name, camera in cameras.items()}
    rates |= {name: stream.rate_hz for name, stream in state_streams.items()}
    slowest = min(rates, key=lambda name: rates[name])
    period_s = 1.0 / rates[slowest]
    if sync.max_spread_s <= period_s:
        yield Problem(
            ("sync", "max_spread_s"),
            f"more than the period of the slowest stream, {period_s:.4g} s ({slowest})",
            f"{sync.max_spread_s:g}",
            "raise it: streams that do not trigger together differ by up to that period",
        )


def _encodings(cameras: Mapping[str, schema.Camera]) -> Iterator[Problem]:
    for name, camera in cameras.items():
        compressed = camera.type.endswith("CompressedImage")
        allowed = vocabulary.COMPRESSIONS if compressed else vocabulary.IMAGE_ENCODINGS
        for i, encoding in enumerate(camera.encodings):
            if encoding not in allowed:
                kind = "a compression" if compressed else "an 8-bit encoding with a known channel order"
                near = closest(encoding, allowed)
                yield Problem(
                    ("cameras", name, "encodings", i),
                    f"{kind} ({one_of(allowed)})",
                    repr(encoding),
                    f"did you mean {near!r}?" if near else "set the driver to publish one of these and name it here",
                )


def _topics(
    cameras: Mapping[str, schema.Camera],
    state_streams: Mapping[str, schema.StateStream],
    outputs: Mapping[str, schema.Output],
) -> Iterator[Problem]:
    first: dict[str, str] = {}
    for section, entries in (("cameras", cameras), ("state_streams", state_streams), ("outputs", outputs)):
        for name, entry in entries.items():
            here = f"{section}.{name}"
            before = first.setdefault(entry.topic, here)
            if before != here:
                yield Problem(
                    (section, name, "topic"),
                    "a topic of its own",
                    f"{entry.topic}, already used by {before}",
                    "correct the topic (several keys may share one stream)",
                )


def _video(video: Mapping[str, schema.VideoKey], cameras: Mapping[str, schema.Camera]) -> Iterator[Problem]:
    for key, entry in video.items():
        if entry.camera not in cameras:
            yield unknown(("video", key, "camera"), "cameras", entry.camera, cameras)
    used = {entry.camera for entry in video.values()}
    for name in cameras:
        if name not in used:
            yield Problem(
                ("cameras", name),
                "a camera that a video key names",
                "none that does",
                f"point a key of video at {name!r} or remove the camera",
                on_key=True,
            )


def _bounds(limits: Mapping[str, schema.JointLimit]) -> Iterator[Problem]:
    for joint, limit in limits.items():
        if not limit.lower < limit.upper:
            yield Problem(
                ("limits", joint, "lower"),
                f"less than upper ({limit.upper:g})",
                f"{limit.lower:g}",
                "swap or correct the two",
            )


def _deltas(delta_indices: schema.DeltaIndices) -> Iterator[Problem]:
    for name in ("video", "state"):
        steps: list[int] = getattr(delta_indices, name)
        ascending = all(a < b for a, b in itertools.pairwise(steps))
        if not ascending or steps[-1] != 0:
            yield Problem(
                ("delta_indices", name),
                "steps of the past in ascending order, the last one 0 (now)",
                f"{steps}",
                "list them as [-15, 0] or [0]",
            )
    action = delta_indices.action
    if action != list(range(len(action))):
        shown = f"{action}" if len(action) <= 20 else f"[{', '.join(map(str, action[:20]))}, ...]"
        yield Problem(
            ("delta_indices", "action"),
            "0, 1, 2, ... without gaps, because point i of a chunk is due (i + 1) / step_hz after its stamp",
            shown,
            "list every step up to the horizon; a checkpoint with another spacing cannot be run",
        )


# The sections that a rule reads, and the rule: it runs when all of them are well formed.
_RULES: tuple[tuple[tuple[str, ...], Callable[..., Iterator[Problem]]], ...] = (
    (("cameras", "state_streams"), _rate_and_age),
    (("cameras", "state_streams", "sync"), _spread),
    (("cameras",), _encodings),
    (("cameras", "state_streams", "outputs"), _topics),
    (("video", "cameras"), _video),
    (("state", "state_streams"), key_rules.state_sources),
    (("state", "action"), key_rules.vectors),
    (("state", "action"), key_rules.rotations),
    (("state", "action", "generation"), key_rules.normalizations),
    (("action",), key_rules.commands),
    (("action", "limits"), key_rules.action_limits),
    (("state", "action", "generation"), key_rules.representations),
    (("state", "limits"), key_rules.span_limits),
    (("limits",), _bounds),
    (("outputs", "action"), output_rules.outputs),
    (("recording", "action", "state"), recording_rules.sources),
    (("delta_indices",), _deltas),
    (("control", "step_hz"), motion_rules.control_rate),
    (("control", "generation"), motion_rules.chunking),
    (("action",), motion_rules.speeds),
    (("action", "outputs"), motion_rules.rests),
)


def find_problems(sections: Mapping[str, Any]) -> list[Problem]:
    """All problems across ``sections`` (top-level key -> parsed value), each well formed by itself.

    A rule that reads a section which is not given is left out, so that one malformed section does not hide
    the problems of the others.
    """
    return [
        problem
        for needs, rule in _RULES
        if all(section in sections for section in needs)
        for problem in rule(*(sections[section] for section in needs))
    ]
