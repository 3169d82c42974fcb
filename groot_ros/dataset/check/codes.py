"""Every problem that a check can find: code -> (severity, what it means)."""

from __future__ import annotations

from typing import Literal

CODES: dict[str, tuple[Literal["error", "warning", "info"], str]] = {
    # files
    "no_dataset": ("error", "the folder holds no LeRobot dataset"),
    "version": ("error", "the layout is not LeRobot v2.x, the one that GR00T trains on"),
    "missing_file": ("error", "a file that the dataset names does not exist"),
    "json_damaged": ("error", "a JSON file cannot be read"),
    "jsonl_damaged": ("error", "a line of a JSON-lines file cannot be read, such as one torn by a crash"),
    "parquet_damaged": ("error", "the rows of an episode cannot be read"),
    "video_damaged": ("error", "a video cannot be read or decoded"),
    "stray_file": ("error", "a file under data/ that belongs to no episode: LeRobot loads every file there"),
    "stray_video": ("warning", "a file under videos/ that belongs to no episode"),
    "commit_pending": ("error", "an episode that was about to be taken over when the recorder ended"),
    "leftover_staging": ("info", "an unfinished episode, which salvage can take over, or what repair moved away"),
    # meta/
    "info_invalid": ("error", "info.json lacks a field, or one has the wrong type"),
    "feature_invalid": ("error", "a feature that loaders refuse"),
    "count_mismatch": ("error", "totals of info.json are not those of the dataset"),
    "no_episodes": ("warning", "a dataset without episodes"),
    "episode_order": ("error", "episodes are not numbered 0, 1, 2, ..."),
    "episode_short": ("warning", "an episode shorter than an action chunk gives no training sample"),
    "episode_duplicate": ("warning", "two episodes with the same numbers"),
    "task_blank": ("error", "a task without a text, or two with the same"),
    "task_unknown": ("error", "rows or episodes with a task that tasks.jsonl does not have"),
    "task_mismatch": ("error", "rows with a task that their episode does not have"),
    # rows
    "length_mismatch": ("error", "an episode has other rows than episodes.jsonl says"),
    "column_missing": ("error", "a feature without a column"),
    "column_undeclared": ("error", "a column without a feature: LeRobot refuses it"),
    "column_type": ("error", "a column of another type or width than its feature"),
    "not_finite": ("error", "NaN, infinity or nothing in place of a number"),
    "index_wrong": ("error", "frame_index, episode_index or index does not count"),
    "timestamp_wrong": ("error", "timestamp is not frame_index / fps"),
    # what the recorder noted
    "stamp_step": ("error", "rows are not 1 / fps apart in real time"),
    "slow_stream": ("warning", "a camera or state stream was slower than the dataset's fps"),
    "stream_gap": ("warning", "one sample was used for many rows"),
    "future_sample": ("error", "a sample from after its row"),
    "sample_backwards": ("error", "a sample older than that of the row before"),
    "rows_repeated": ("warning", "rows that repeat the one before, after a refused tick"),
    "rows_salvaged": ("info", "an episode that was aborted and taken over by salvage"),
    "mark_invalid": ("error", "recording.intervention or recording.flags has a value without a meaning"),
    "report_missing": ("warning", "the recorder's report of an episode is missing"),
    "report_invalid": ("error", "the recorder's report of an episode lacks a field, or one has the wrong type"),
    "report_mismatch": ("error", "the recorder's report tells of other rows"),
    # motion
    "constant_dimension": ("warning", "a number that never changes"),
    "joint_jump": ("warning", "a number that jumps from one row to the next"),
    "angle_wrap": ("warning", "an angle that jumps by a full turn"),
    "action_is_state": ("warning", "actions that equal the state of their own row"),
    "action_lags_state": ("error", "actions that follow the state: the columns are shifted"),
    # videos
    "video_frames": ("error", "a video has more or fewer pictures than its episode has rows"),
    "video_size": ("error", "pictures of another size than the feature says"),
    "video_times": ("error", "picture k of a video is not at k / fps"),
    "video_codec": ("warning", "a codec that a decoder of GR00T cannot open, or another than the feature says"),
    "camera_black": ("error", "pictures without light, or of one colour"),
    "camera_frozen": ("error", "pictures that stay the same while the robot moves"),
    # meta/stats.json and its relatives
    "stats_missing": ("error", "stats.json, or a feature in it, is missing"),
    "stats_invalid": ("error", "statistics of the wrong form"),
    "stats_count": ("error", "stats.json with `count`: GR00T N1.5 fails on it"),
    "stats_wrong": ("error", "stats.json is not that of the rows"),
    "episodes_stats_missing": ("error", "episodes_stats.jsonl lacks an episode or a feature: LeRobot needs it"),
    "episodes_stats_invalid": ("error", "statistics of an episode of the wrong form"),
    "episodes_stats_wrong": ("error", "statistics of an episode that are not those of its rows"),
    # meta/modality.json
    "modality_missing": ("error", "modality.json, or a part that GR00T needs, is missing"),
    "modality_invalid": ("error", "an entry of modality.json of the wrong form"),
    "modality_range": ("error", "a slice that ends beyond its vector: GR00T shortens it without a word"),
    "modality_gap": ("warning", "numbers that no key of modality.json takes"),
    "modality_overlap": ("warning", "numbers that two keys of modality.json take"),
    "modality_original_key": ("error", "an original_key that is no feature of the right kind"),
    "modality_names": ("error", "a slice with the names of another key"),
    "modality_rotation": ("error", "a rotation_type that does not fit the width of its slice"),
}
