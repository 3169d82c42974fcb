"""Which codec each group gets: by flags in N1.6 and N1.7, by modes in N1.5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from groot_ros.processing.codecs import Codec, Scaled, SinCos
from groot_ros.processing.config import ProcessorFiles
from groot_ros.processing.errors import ProcessorError, describe, listing
from groot_ros.processing.modality import ActionRep, ModalityConfig
from groot_ros.processing.modes import DEFAULT_MODE, MODES, ROTATIONS, key_options, mode_codec, rotation_codec
from groot_ros.processing.normalization import Normalizer, bounds_from, moments_from
from groot_ros.processing.state_action import StateActionProcessor
from groot_ros.processing.statistics import TagStatistics


def state_action_processor(
    files: ProcessorFiles, tag: str, modality: Mapping[str, ModalityConfig]
) -> StateActionProcessor:
    """The state and action groups of one tag of a checkpoint.

    Raises:
        ProcessorError: see `by_flags` and `by_modes`; N1.5: a camera that metadata.json does not have.
    """
    statistics = TagStatistics(*files.tag_statistics(tag))
    if tag in files.modalities:
        about_where = f"{files.statistics_where}: {tag}.modalities"
        _check_cameras(modality["video"], files.modalities[tag], about_where)
        _, where = files.modality(tag)
        return by_modes(modality["state"], modality["action"], statistics, files.modalities[tag], about_where, where)
    return by_flags(
        modality["state"],
        modality["action"],
        statistics,
        use_percentiles=files.flag("use_percentiles"),
        clip_outliers=files.flag("clip_outliers"),
        apply_sincos=files.flag("apply_sincos_state_encoding"),
        use_relative_action=files.flag("use_relative_action"),
    )


def by_flags(
    state: ModalityConfig,
    action: ModalityConfig,
    statistics: TagStatistics,
    *,
    use_percentiles: bool,
    clip_outliers: bool,
    apply_sincos: bool,
    use_relative_action: bool,
) -> StateActionProcessor:
    """N1.6 and N1.7: min/max or percentiles, mean/std for mean_std_embedding_keys, sine and cosine for states.

    Raises:
        ProcessorError: statistics missing or malformed, widths that contradict each other or the action format, or
            relative statistics whose number of steps is not the action horizon.
    """
    state_codecs: dict[str, Codec] = {}
    for key in state.modality_keys:
        width = statistics.width("state", key)
        if apply_sincos and key in (state.sin_cos_embedding_keys or ()):
            state_codecs[key] = SinCos(width)
        else:
            # The reference limits mean/std groups of the action, but not of the state.
            limit = clip_outliers and key not in (state.mean_std_embedding_keys or ())
            state_codecs[key] = Scaled(_normalizer("state", key, state, statistics, use_percentiles), width, limit)
    action_codecs: dict[str, Codec] = {}
    for key in action.modality_keys:
        if use_relative_action and action.action_config(key).rep is ActionRep.RELATIVE:
            normalizer = _relative_normalizer(key, action, statistics)
        else:
            normalizer = _normalizer("action", key, action, statistics, use_percentiles)
        action_codecs[key] = Scaled(normalizer, statistics.width("action", key), clip_outliers)
    return StateActionProcessor(state, action, statistics, state_codecs, action_codecs, use_relative_action)


def by_modes(
    state: ModalityConfig,
    action: ModalityConfig,
    statistics: TagStatistics,
    about: Mapping[str, Any],
    about_where: str,
    modality_where: str,
) -> StateActionProcessor:
    """N1.5: a normalisation mode and perhaps another way to write a rotation per key; nothing is relative.

    Args:
        about: `modalities` of metadata.json: state, action -> key -> absolute, rotation_type, shape, continuous.
        about_where, modality_where: file and key of `about` and of the modality configuration, for errors.

    Raises:
        ProcessorError: statistics missing or malformed, a width other than metadata.json's shape, a mode or rotation
            that does not exist or cannot be had for the key, or an action without a way back.
    """
    codecs: dict[str, dict[str, Codec]] = {"state": {}, "action": {}}
    for section, config in (("state", state), ("action", action)):
        where = f"{modality_where}.{section}"
        keys = config.modality_keys
        modes = key_options(config.extra, "normalization_modes", keys, MODES, where)
        targets = key_options(config.extra, "target_rotations", keys, ROTATIONS, where)
        for key in keys:
            width = statistics.width(section, key)
            facts = _facts(about, section, key, width, about_where)
            mode, target = modes.get(key, DEFAULT_MODE), targets.get(key)
            if target is not None and target != facts.get("rotation_type"):
                source_where = f"{about_where}.{section}.{key}.rotation_type"
                codec: Codec = _turned(facts, mode, target, width, source_where, f"{where}.normalization_modes.{key}")
            elif facts.get("continuous", True) is False and mode not in ("binary", "none"):
                raise ProcessorError(
                    f"{where}.normalization_modes.{key}", "'binary' for a key that is not continuous", f"'{mode}'"
                )
            else:
                codec = mode_codec(mode, *statistics.group(section, key), width)
            codecs[section][key] = codec
    for key, codec in codecs["action"].items():
        if not codec.invertible:
            raise ProcessorError(
                f"{modality_where}.action.normalization_modes.{key}", "a mode with a way back", "one without"
            )
        if action.action_config(key).rep is ActionRep.RELATIVE:
            raise ProcessorError(
                f"{modality_where}.action.action_configs of '{key}'", "rep ABSOLUTE, all that N1.5 knows", "RELATIVE"
            )
    return StateActionProcessor(state, action, statistics, codecs["state"], codecs["action"], False)


def _turned(facts: Mapping[str, Any], mode: str, target: str, width: int, source_where: str, mode_where: str) -> Codec:
    source, absolute = facts.get("rotation_type"), facts.get("absolute", True)
    if source not in ROTATIONS or ROTATIONS[source].width != width:
        raise ProcessorError(
            source_where,
            f"one of {listing(ROTATIONS)}, of {width} numbers, to be written as {target}",
            describe(source),
        )
    if mode != "none" and (mode != "min_max" or absolute is False):
        raise ProcessorError(
            mode_where,
            "'min_max' for an absolute rotation that is written in another way, 'none' for a relative one",
            f"'{mode}', absolute {absolute}",
        )
    return rotation_codec(source, target, mode)


def _facts(about: Mapping[str, Any], section: str, key: str, width: int, where: str) -> Mapping[str, Any]:
    """What metadata.json says about a key, its shape checked."""
    entries = about.get(section)
    facts = entries.get(key) if isinstance(entries, Mapping) else None
    if not isinstance(facts, Mapping):
        found = f"keys {listing(entries)}" if isinstance(entries, Mapping) else describe(entries)
        expected = f"an entry '{key}', which the modality configuration names"
        raise ProcessorError(f"{where}.{section}", expected, found)
    if facts.get("shape", [width]) != [width]:
        raise ProcessorError(
            f"{where}.{section}.{key}.shape",
            f"[{width}], as the statistics have",
            describe(facts["shape"]),
            "The statistics are of another robot or dataset: compute them again.",
        )
    return facts


def _normalizer(
    section: str, key: str, modality: ModalityConfig, statistics: TagStatistics, percentiles: bool
) -> Normalizer:
    group, where = statistics.group(section, key)
    if key in (modality.mean_std_embedding_keys or ()):
        return moments_from(group, where)
    return bounds_from(group, percentiles, where)


def _relative_normalizer(key: str, action: ModalityConfig, statistics: TagStatistics) -> Normalizer:
    """Per-step statistics; the reference takes min and max here even where percentiles are on."""
    group, where = statistics.group("relative_action", key)
    normalizer: Normalizer
    if key in (action.mean_std_embedding_keys or ()):
        normalizer = moments_from(group, where)
        shape = normalizer.mean.shape
    else:
        normalizer = bounds_from(group, False, where)
        shape = normalizer.low.shape
    width, horizon = statistics.width("action", key), len(action.delta_indices)
    if shape not in ((horizon, width), (width,)):
        raise ProcessorError(
            where,
            f"one row per chunk step, [{horizon}][{width}]",
            f"shape {shape}",
            "The statistics belong to another horizon: compute them again for these delta_indices.",
        )
    return normalizer


def _check_cameras(video: ModalityConfig, about: Mapping[str, Any], where: str) -> None:
    cameras = about.get("video")
    for key in video.modality_keys:
        if not isinstance(cameras, Mapping) or key not in cameras:
            found = listing(cameras) if isinstance(cameras, Mapping) else describe(cameras)
            raise ProcessorError(
                f"{where}.video",
                f"the camera '{key}', which the modality configuration names",
                found,
                "Use the names of the cameras that the checkpoint was trained with.",
            )
