"""Ways to damage a dataset: each gives exactly one code of ``dataset check``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import barcode
import numpy as np
import pyarrow as pa
from dataset_maker import HEIGHT, WIDTH
from numpy.typing import NDArray
from pyarrow import parquet

from groot_ros.dataset import paths, statistics
from groot_ros.dataset.commit import RECORD
from groot_ros.dataset.read import Dataset, as_array

FPS, ROWS, EPISODES = 30, 40, 3
FRONT = "observation.images.front"
TICK_NS = 10**9 // FPS
Plant = Callable[[Path], None]


@dataclass(frozen=True)
class Defect:
    """What is done to a dataset, and the one code it gives; ``episode`` where it is reported."""

    name: str
    code: str
    plant: Plant
    episode: int | None = None


def edit_json(file: Path, change: Callable[[dict[str, Any]], object]) -> Plant:
    """Change the object in a JSON file."""

    def plant(root: Path) -> None:
        data = json.loads((root / file).read_text())
        change(data)
        (root / file).write_text(json.dumps(data))

    return plant


def edit_line(file: Path, number: int, change: Callable[[dict[str, Any]], object]) -> Plant:
    """Change one object of a JSON-lines file."""

    def plant(root: Path) -> None:
        lines = [json.loads(line) for line in (root / file).read_text().splitlines()]
        change(lines[number])
        write_lines(root / file, lines)

    return plant


def write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def edit_columns(
    change: Callable[[dict[str, NDArray[Any]]], object], episodes: Sequence[int] = (1,), again: bool = True
) -> Plant:
    """Change columns ([rows] or [rows, D]) of episodes; ``again``: and compute the statistics anew."""

    def plant(root: Path) -> None:
        for episode in episodes:
            path = root / paths.data_path(episode)
            table = parquet.read_table(path, partitioning=None)
            columns = {name: as_array(table.column(name)).copy() for name in table.column_names}
            change(columns)
            arrays = []
            for field in table.schema:
                values = columns[field.name]
                flat = pa.array(values.reshape(-1))
                arrays.append(flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, type=field.type))
            parquet.write_table(pa.Table.from_arrays(arrays, schema=table.schema), path)
        if again:
            statistics_again(root)

    return plant


def statistics_again(root: Path) -> None:
    """stats.json and episodes_stats.jsonl of the rows as they are now; pictures as they were."""
    statistics.refresh(root)
    dataset = Dataset(root)
    lines = []
    for episode, old in dataset.episodes_stats.items():
        table = dataset.table(episode)
        columns = {name: as_array(table.column(name)) for name in table.column_names}
        images = {name: entry for name, entry in old.items() if "images" in name}
        lines.append({"episode_index": episode, "stats": statistics.episode_statistics(columns, images)})
    write_lines(root / paths.EPISODES_STATS, lines)


def edit_table(change: Callable[[pa.Table], pa.Table], episode: int = 1) -> Plant:
    """Change the table of an episode; statistics stay."""

    def plant(root: Path) -> None:
        path = root / paths.data_path(episode)
        parquet.write_table(change(parquet.read_table(path, partitioning=None)), path)

    return plant


def encode(
    path: Path,
    pictures: Sequence[NDArray[np.uint8]],
    fps: int = FPS,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
) -> None:
    """Write a video in place of the one at ``path``."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options or {"g": "2", "bf": "0", "preset": "ultrafast"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def numbered(count: int, height: int = HEIGHT, width: int = WIDTH) -> list[NDArray[np.uint8]]:
    """Pictures that all differ."""
    return [barcode.draw(number, height, width) for number in range(count)]


def video(pictures: Sequence[NDArray[np.uint8]], **how: Any) -> Plant:
    """Put other pictures into episode 1's front camera."""
    return lambda root: encode(root / paths.video_path(1, FRONT), pictures, **how)


def cut_file(file: Path, share: float) -> Plant:
    """Keep only the first part of a file."""

    def plant(root: Path) -> None:
        data = (root / file).read_bytes()
        (root / file).write_bytes(data[: int(len(data) * share)])

    return plant


def remove(file: Path) -> Plant:
    return lambda root: (root / file).unlink()


def add(file: Path, text: str = "") -> Plant:
    """Write a new file, or append to one."""

    def plant(root: Path) -> None:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        with (root / file).open("a") as stream:
            stream.write(text)

    return plant


def copy_rows(root: Path) -> None:
    """Episode 2 gets the numbers of episode 0."""
    first = parquet.read_table(root / paths.data_path(0), partitioning=None)
    names = ("observation.state", "action")
    edit_columns(lambda c: c.update({name: as_array(first.column(name)) for name in names}), (2,))(root)


def held(start: int, rows: int) -> Callable[[dict[str, NDArray[Any]]], None]:
    """Front camera: the sample of row ``start`` serves for ``rows`` rows."""

    def change(columns: dict[str, NDArray[Any]]) -> None:
        stamps, ages = columns["recording.stamp_ns"], columns["recording.age_ns"]
        sample = stamps[start] - ages[start, 0]
        ages[start : start + rows, 0] = stamps[start : start + rows] - sample

    return change


def half_rate(columns: dict[str, NDArray[Any]]) -> None:
    for row in range(0, ROWS - 1, 2):
        held(row, 2)(columns)


def later(name: str, row: int, by: Any) -> Callable[[dict[str, NDArray[Any]]], None]:
    """Add ``by`` to a column from a row on."""

    def change(columns: dict[str, NDArray[Any]]) -> None:
        columns[name][row:] += np.asarray(by).astype(columns[name].dtype)

    return change


def put(name: str, where: Any, value: Any) -> Callable[[dict[str, NDArray[Any]]], None]:
    """Set numbers of a column."""

    def change(columns: dict[str, NDArray[Any]]) -> None:
        columns[name][where] = value

    return change


def lagging(columns: dict[str, NDArray[Any]]) -> None:
    state = columns["observation.state"]
    columns["action"] = np.concatenate([state[:1], state[:1], state[:-2]])


def mixture(info: dict[str, Any]) -> None:
    feature = info["features"][FRONT]
    feature["names"] = ["height", "width", "channel"]


def slice_of(part: str, key: str, **entry: Any) -> Plant:
    """Change a slice of modality.json."""
    return edit_json(paths.MODALITY, lambda data: data[part][key].update(entry))


def stats_of(name: str, **entry: Any) -> Plant:
    """Change statistics of a feature in stats.json."""
    return edit_json(paths.STATS, lambda data: data[name].update(entry))


def info_of(change: Callable[[dict[str, Any]], object]) -> Plant:
    return edit_json(paths.INFO, change)


def reverse(root: Path) -> None:
    lines = (root / paths.EPISODES).read_text().splitlines(keepends=True)
    (root / paths.EPISODES).write_text("".join(reversed(lines)))


def all_plants(*plants: Plant) -> Plant:
    def plant(root: Path) -> None:
        for each in plants:
            each(root)

    return plant


STATE, ACTION, STAMP, AGES, FLAGS = (
    "observation.state",
    "action",
    "recording.stamp_ns",
    "recording.age_ns",
    "recording.flags",
)
PARQUET, MP4 = paths.data_path(1), paths.video_path(1, FRONT)
BLACK = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
LAST = EPISODES - 1

DEFECTS = (
    # files
    Defect("meta folder gone", "no_dataset", lambda root: (root / "meta").rename(root / "atem")),
    Defect("LeRobot v3.0", "version", info_of(lambda info: info.update(codebase_version="v3.0"))),
    Defect("no video", "missing_file", remove(MP4), 1),
    Defect("no parquet", "missing_file", remove(PARQUET), 1),
    Defect("no tasks.jsonl", "missing_file", remove(paths.TASKS)),
    Defect("info.json cut off", "json_damaged", cut_file(paths.INFO, 0.5)),
    Defect("modality.json is a list", "json_damaged", lambda root: (root / paths.MODALITY).write_text("[]")),
    Defect("last episode line torn", "jsonl_damaged", cut_file(paths.EPISODES, 0.9)),
    Defect("blank line in tasks", "jsonl_damaged", add(paths.TASKS, "\n")),
    Defect("episode line without length", "jsonl_damaged", edit_line(paths.EPISODES, LAST, lambda e: e.pop("length"))),
    Defect("parquet cut off", "parquet_damaged", cut_file(PARQUET, 0.5), 1),
    Defect("video cut off", "video_damaged", cut_file(MP4, 0.5), 1),
    Defect("video is text", "video_damaged", lambda root: (root / MP4).write_text("no video"), 1),
    Defect("a parquet too many", "stray_file", add(Path("data/chunk-000/episode_000003.parquet"))),
    Defect("a video too many", "stray_video", add(Path(f"videos/chunk-000/{FRONT}/episode_000003.mp4"))),
    Defect("recorder killed in a commit", "commit_pending", add(RECORD, "{}")),
    Defect("unfinished episode", "leftover_staging", add(Path(".staging/20260101-1-0/rows.bin"))),
    # meta/
    Defect("no fps", "info_invalid", info_of(lambda info: info.pop("fps"))),
    Defect("data outside", "info_invalid", info_of(lambda i: i.update(data_path="../{episode_index}.parquet"))),
    Defect("width as text", "feature_invalid", info_of(lambda i: i["features"]["recording.flags"].update(shape="1"))),
    Defect("channel without video_info", "feature_invalid", info_of(mixture)),
    Defect("names too few", "feature_invalid", info_of(lambda info: info["features"][STATE]["names"].pop())),
    Defect("frames miscounted", "count_mismatch", info_of(lambda info: info.update(total_frames=119))),
    Defect("episodes out of order", "episode_order", reverse),
    Defect("same numbers twice", "episode_duplicate", copy_rows, 2),
    Defect(
        "blank task",
        "task_blank",
        all_plants(add(paths.TASKS, '{"task_index": 2, "task": " "}\n'), info_of(lambda i: i.update(total_tasks=3))),
    ),
    Defect("task of no line", "task_unknown", edit_columns(put("task_index", slice(None), 7)), 1),
    Defect("task of another episode", "task_mismatch", edit_columns(put("task_index", slice(None), 0)), 1),
    # rows
    Defect("last row gone", "length_mismatch", edit_table(lambda table: table.slice(0, ROWS - 1)), 1),
    Defect("column gone", "column_missing", edit_table(lambda table: table.drop_columns([STAMP])), 1),
    Defect(
        "column too many",
        "column_undeclared",
        edit_table(lambda table: table.append_column("more", pa.array(range(ROWS)))),
        1,
    ),
    Defect(
        "integers as text",
        "column_type",
        edit_table(lambda t: t.set_column(t.column_names.index("index"), "index", pa.array(["0"] * ROWS))),
        1,
    ),
    Defect("NaN", "not_finite", edit_columns(put(STATE, (5, 2), np.nan), again=False), 1),
    Defect("frame_index from 1", "index_wrong", edit_columns(later("frame_index", 0, 1)), 1),
    Defect("index of the episode", "index_wrong", edit_columns(later("index", 0, -ROWS)), 1),
    Defect("a frame 3 ms late", "timestamp_wrong", edit_columns(put("timestamp", 7, 7 / FPS + 0.003)), 1),
    # what the recorder noted
    Defect(
        "a tick left out",
        "stamp_step",
        all_plants(
            edit_columns(later(STAMP, 20, TICK_NS)),
            edit_json(paths.report_path(1), lambda report: report.update(end_ns=report["end_ns"] + TICK_NS)),
        ),
        1,
    ),
    Defect("camera at half rate", "slow_stream", edit_columns(half_rate), 1),
    Defect("camera silent for 8 rows", "stream_gap", edit_columns(held(10, 8)), 1),
    Defect("sample of the future", "future_sample", edit_columns(put(AGES, (3, 2), -5_000_000)), 1),
    Defect("sample before the last", "sample_backwards", edit_columns(put(AGES, (3, 2), 100_000_000)), 1),
    Defect("repeated rows", "rows_repeated", edit_columns(put(FLAGS, slice(4, 6), 1)), 1),
    Defect("salvaged", "rows_salvaged", edit_columns(put(FLAGS, slice(None), 2)), 1),
    Defect("intervention 2", "mark_invalid", edit_columns(put("recording.intervention", 3, 2)), 1),
    Defect("no report", "report_missing", remove(paths.report_path(1)), 1),
    Defect("report without rows", "report_invalid", edit_json(paths.report_path(1), lambda report: report.pop("rows"))),
    Defect("report of less", "report_mismatch", edit_json(paths.report_path(1), lambda r: r.update(rows=39)), 1),
    # motion
    Defect(
        "joint not connected", "constant_dimension", edit_columns(put(STATE, (slice(None), 3), 0.25), range(EPISODES))
    ),
    Defect("encoder glitch", "joint_jump", edit_columns(put(STATE, (12, 2), 3.0)), 1),
    Defect("rows cut out", "joint_jump", edit_columns(later(STATE, 20, [0, 0, 1.5, 0, 0, 0])), 1),
    Defect("angle over its turn", "angle_wrap", edit_columns(later(STATE, 20, [0, 0, 2 * np.pi, 0, 0, 0])), 1),
    Defect("action = state", "action_is_state", edit_columns(lambda c: c.update({ACTION: c[STATE].copy()})), 1),
    Defect("action two rows late", "action_lags_state", edit_columns(lagging), 1),
    # videos
    Defect("one picture short", "video_frames", video(numbered(ROWS - 1)), 1),
    Defect("other size", "video_size", video(numbered(ROWS, 48, 64)), 1),
    Defect("25 pictures a second", "video_times", video(numbered(ROWS), fps=25), 1),
    Defect("AV1", "video_codec", video(numbered(ROWS), codec="libsvtav1", options={"preset": "12"}), 1),
    Defect("black camera", "camera_black", video([BLACK] * ROWS), 1),
    Defect("grey camera", "camera_black", video([BLACK + 100] * ROWS), 1),
    Defect("camera froze", "camera_frozen", video(numbered(ROWS - 32) + numbered(ROWS - 32)[-1:] * 32), 1),
    # statistics
    Defect("no stats.json", "stats_missing", remove(paths.STATS)),
    Defect("no stats of the action", "stats_missing", edit_json(paths.STATS, lambda data: data.pop(ACTION))),
    Defect("stats too few", "stats_invalid", stats_of(STATE, mean=[0.0])),
    Defect("stats with count", "stats_count", stats_of(STATE, count=[EPISODES * ROWS])),
    Defect("stats of other rows", "stats_wrong", stats_of(STATE, q99=[0.4] * 6)),
    Defect("no episodes_stats.jsonl", "episodes_stats_missing", remove(paths.EPISODES_STATS)),
    Defect(
        "camera without stats",
        "episodes_stats_missing",
        edit_line(paths.EPISODES_STATS, 1, lambda line: line["stats"].pop(FRONT)),
        1,
    ),
    Defect(
        "pictures' stats flat",
        "episodes_stats_invalid",
        edit_line(paths.EPISODES_STATS, 1, lambda line: line["stats"][FRONT].update(mean=[0.5, 0.5, 0.5])),
        1,
    ),
    Defect(
        "episode's stats of other rows",
        "episodes_stats_wrong",
        edit_line(paths.EPISODES_STATS, 1, lambda line: line["stats"][ACTION].update(max=[9.0] * 6)),
        1,
    ),
    # modality.json
    Defect("no modality.json", "modality_missing", remove(paths.MODALITY)),
    Defect("no action keys", "modality_missing", edit_json(paths.MODALITY, lambda data: data.pop("action"))),
    Defect("start as text", "modality_invalid", slice_of("state", "gripper", start="5")),
    Defect("slice beyond the vector", "modality_range", slice_of("action", "gripper", end=7)),
    Defect("joint of no key", "modality_gap", slice_of("state", "single_arm", end=4)),
    Defect("video of no key", "modality_gap", edit_json(paths.MODALITY, lambda data: data["video"].pop("wrist"))),
    Defect(
        "joint of two keys",
        "modality_overlap",
        edit_json(paths.MODALITY, lambda m: m["state"].update(more={"start": 4, "end": 6})),
    ),
    Defect(
        "column that is none", "modality_original_key", slice_of("state", "gripper", original_key="observation.gripper")
    ),
    Defect(
        "keys exchanged",
        "modality_names",
        edit_json(
            paths.MODALITY,
            lambda m: m["state"].update(gripper={"start": 0, "end": 1}, single_arm={"start": 1, "end": 6}),
        ),
    ),
    Defect("quaternion of one", "modality_rotation", slice_of("state", "gripper", rotation_type="quaternion")),
)
