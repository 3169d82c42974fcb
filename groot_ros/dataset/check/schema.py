"""Form of the JSON in meta/. Types are strict: a loader does not turn "30" into 30 either. Fields may be added."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from groot_ros.dataset.check.report import Findings

# Larger ones are damage, and do not fit into an array of int64.
MOST = 10**12
Count = Annotated[int, Field(ge=0, le=MOST)]
Positive = Annotated[int, Field(ge=1, le=MOST)]


class _Form(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", frozen=True)


class Feature(_Form):
    """One feature of info.json; ``video_info`` is what LeRobot v2.0 and NVIDIA's demo call ``info``."""

    dtype: str
    shape: list[Count]
    names: list[str] | dict[str, list[str]] | None = None
    info: dict[str, Any] | None = None
    video_info: dict[str, Any] | None = None

    @property
    def is_video(self) -> bool:
        """It has a video per episode and no column."""
        return self.dtype == "video"

    @property
    def is_image(self) -> bool:
        """It holds pictures."""
        return self.dtype in ("video", "image")

    @property
    def flat_names(self) -> list[str]:
        """Names of its numbers, also from the {"motors": [...]} of older datasets; empty where there are none."""
        names = self.names
        if isinstance(names, dict):
            return [name for part in names.values() for name in part]
        return list(names or [])

    @property
    def width(self) -> int:
        """Numbers per row."""
        return self.shape[0] if len(self.shape) == 1 else 0

    @property
    def picture_size(self) -> tuple[int, int] | None:
        """Height and width (px), in whichever order the shape has them; None where it does not say."""
        if len(self.shape) != 3:
            return None
        names = self.flat_names
        if "height" in names and "width" in names:
            return self.shape[names.index("height")], self.shape[names.index("width")]
        return (self.shape[1], self.shape[2]) if self.shape[0] == 3 else (self.shape[0], self.shape[1])


class Info(_Form):
    """info.json."""

    codebase_version: str
    robot_type: str | None = None
    total_episodes: Count
    total_frames: Count
    total_tasks: Count | None = None
    total_videos: Count | None = None
    total_chunks: Count | None = None
    chunks_size: Positive
    fps: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    splits: dict[str, str] | None = None
    data_path: str
    video_path: str | None = None
    features: dict[str, Any]


class EpisodeLine(_Form):
    """A line of episodes.jsonl."""

    episode_index: Count
    tasks: list[str] = []
    length: Count


class TaskLine(_Form):
    """A line of tasks.jsonl."""

    task_index: Count
    task: str


class EpisodeStatsLine(_Form):
    """A line of episodes_stats.jsonl."""

    episode_index: Count
    stats: dict[str, dict[str, Any]]


class SliceEntry(_Form):
    """A state or action key of modality.json."""

    start: Count
    end: Count
    original_key: str | None = None
    rotation_type: str | None = None


class KeyEntry(_Form):
    """A video or language key of modality.json."""

    original_key: str | None = None


class ReportForm(_Form):
    """What of the recorder's report of an episode (``EpisodeReport``) can be compared with its rows."""

    index: Count
    rows: Count
    fps: Positive
    task: str
    start_ns: int
    end_ns: int
    repeated_rows: Count
    intervention_rows: Count
    salvaged: bool
    streams: dict[str, dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]]
    cameras: dict[str, dict[str, Count]]
    origin: Any = None


Form = TypeVar("Form", bound=BaseModel)


def formed(form: type[Form], data: Any, found: Findings, code: str, where: str) -> Form | None:
    """``data`` as ``form``; else None, and one problem that names every field that is wrong."""
    try:
        return form.model_validate(data)
    except ValidationError as error:
        parts = []
        for line in error.errors(include_url=False, include_context=False):
            field = ".".join(str(part) for part in line["loc"]) or "it"
            got = "" if line["type"] == "missing" else f", found {shortened(line['input'])}"
            parts.append(f"{field}: {line['msg'][:1].lower()}{line['msg'][1:]}{got}")
        found.add(code, where, f"{'; '.join(parts)}: correct it; `groot-ros dataset repair` says what it can")
        return None


def shortened(value: object, limit: int = 60) -> str:
    """``value`` as text, cut at ``limit`` characters."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
