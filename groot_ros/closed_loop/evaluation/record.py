"""What is kept of an evaluation: a line per episode, durable at once, and the facts of the run, to go on with it."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from groot_ros.closed_loop.evaluation.episode import Played
from groot_ros.dataset.durable import json_line, make_folder, sync_folder, write_json

EPISODES, RUN, VIDEOS = "episodes.jsonl", "run.json", "videos"
AGE = "newest stamp to command"


class EvaluationError(RuntimeError):
    """An evaluation cannot begin or go on; the message names the file or the setting, and what to do."""


@dataclass(frozen=True)
class Episode:
    """One episode that counts. None: not told.

    Attributes:
        instruction: what the policy was given.
        reason: of a failure; empty for a success.
        time_s: ROS time from the start to the end.
        distance_m, closest_m: to the goal, at the end and at least.
        refused, rejected: reason -> ticks refused, chunks not executed.
        ticks, ticks_missed: control ticks that happened, and that did not.
        stalled_ticks: without a planned target after the first chunk.
        jumps: largest distance of two chunks at each hand-over, before it is smoothed (rad or m).
        delay_ticks: control ticks that passed during each inference.
        seam_ratio: acceleration at hand-overs over that inside chunks; over the last minute at the episode's end.
        jitter_p99_ms: how late control ticks begin; over the same.
        latency_ms: stage -> milliseconds of each chunk, and ``AGE``.
        video: path in the folder.
    """

    seed: int
    task: str
    instruction: str
    success: bool
    reason: str
    message: str
    time_s: float
    distance_m: float | None
    closest_m: float | None
    chunks: int
    refused: dict[str, int]
    rejected: dict[str, int]
    ticks: int
    ticks_missed: int
    stalled_ticks: int
    handovers: int
    jumps: list[float]
    delay_ticks: list[int]
    seam_ratio: float | None
    jitter_p99_ms: float | None
    latency_ms: dict[str, list[float]]
    video: str | None = None

    @property
    def outcome(self) -> str:
        """``success``, or the reason of the failure."""
        return "success" if self.success else self.reason

    @classmethod
    def of(cls, played: Played, task: str, video: str | None) -> Episode:
        """What is kept of an episode that was played."""
        chunks, counts, verdict = played.judge.chunks, played.counts, played.verdict
        stages = list(dict.fromkeys(name for chunk in chunks for name in chunk.stages_s))
        latency = {
            name: [round(1e3 * chunk.stages_s[name], 2) for chunk in chunks if name in chunk.stages_s]
            for name in stages
        }
        latency[AGE] = [round(1e3 * chunk.age_s, 2) for chunk in chunks]
        return cls(
            seed=played.seed,
            task=task,
            instruction=played.instruction,
            success=verdict.success,
            reason=verdict.reason,
            message=verdict.message,
            time_s=round(verdict.time_s, 4),
            distance_m=_told(played.judge.distance_m),
            closest_m=_told(played.judge.closest_m),
            chunks=len(chunks),
            refused=dict(counts.refused),
            rejected=dict(counts.rejected),
            ticks=counts.ticks,
            ticks_missed=counts.ticks_missed,
            stalled_ticks=counts.stalled_ticks,
            handovers=counts.handovers,
            jumps=[round(chunk.jump, 6) for chunk in chunks if math.isfinite(chunk.jump)],
            delay_ticks=[chunk.delay_ticks for chunk in chunks],
            seam_ratio=_told(played.after.seam_ratio),
            jitter_p99_ms=_told(1e3 * played.after.jitter_p99_s),
            latency_ms=latency,
            video=video,
        )


class EvaluationFolder:
    """The folder of one evaluation.

    Attributes:
        episodes: those that were played, in order.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.episodes: list[Episode] = []

    @property
    def videos(self) -> Path:
        """Where the videos are."""
        return self.path / VIDEOS

    def begin(self, setting: Mapping[str, Any], facts: Mapping[str, Any], resume: bool) -> None:
        """Start a run, or with ``resume`` go on with the one that is there.

        Args:
            setting: JSON values that have to be the same when a run goes on.
            facts: JSON values that are told in the report; those of the first run are kept.

        Raises:
            EvaluationError: there is a run already, or one of another setting.
            OSError: the folder cannot be written.
        """
        if not (self.path / RUN).exists():
            make_folder(self.videos)
            write_json(self.path / RUN, {"setting": dict(setting), "facts": dict(facts)})
            return
        if not resume:
            raise EvaluationError(
                f"{self.path}: expected a new folder, found an evaluation: give another --output, or --resume to go on"
            )
        before = read_run(self.path)["setting"]
        for name in dict.fromkeys([*before, *setting]):
            if before.get(name) != setting.get(name):
                raise EvaluationError(
                    f"{self.path / RUN}: expected the same {name} as before to go on, {before.get(name)!r}, found "
                    f"{setting.get(name)!r}: give another --output"
                )
        self.episodes = read_episodes(self.path)

    def missing(self, seeds: Iterable[int]) -> list[int]:
        """Those of ``seeds`` that were not played."""
        played = {episode.seed for episode in self.episodes}
        return [seed for seed in seeds if seed not in played]

    def append(self, episode: Episode) -> None:
        """Keep an episode; on the disk when this returns. Raises: OSError."""
        path = self.path / EPISODES
        new = not path.exists()
        with path.open("ab") as file:
            if not new and not _ends_whole(path):
                file.write(b"\n")  # a line that a crash has cut off stays one of its own
            file.write(json_line(asdict(episode)).encode())
            file.flush()
            os.fsync(file.fileno())
        if new:
            sync_folder(self.path)
        self.episodes.append(episode)


def read_run(folder: Path) -> dict[str, dict[str, Any]]:
    """``setting`` and ``facts`` as ``begin`` was given them. Raises: EvaluationError when there are none."""
    path = folder / RUN
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path}: expected the facts of an evaluation, found {error}") from error
    if not isinstance(run, dict) or not all(isinstance(run.get(name), dict) for name in ("setting", "facts")):
        raise EvaluationError(f"{path}: expected an object with setting and facts, found something else")
    return run


def read_episodes(folder: Path) -> list[Episode]:
    """All whole lines; one that a crash has cut off is left out, and its seed is played again.

    Raises: EvaluationError when a whole line is none of ours.
    """
    path = folder / EPISODES
    if not path.exists():
        return []
    episodes: dict[int, Episode] = {}
    names = {item.name for item in fields(Episode)}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            content = json.loads(line)
        except ValueError:
            continue
        if not isinstance(content, dict) or set(content) != names:
            raise EvaluationError(f"{path}:{number}: expected an episode, found other fields: of another version?")
        episode = Episode(**content)
        episodes[episode.seed] = episode
    return list(episodes.values())


def checkpoint_identity(checkpoint: str) -> str:
    """A digest of the files of a checkpoint, or the revision of one from the hub; empty when it is not on this machine.

    What is read: all .json and .safetensors files, and the names of those.
    """
    folder = Path(checkpoint).expanduser()
    if not folder.is_dir():
        return _hub_revision(checkpoint)
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors")):
        digest.update(f"{path.relative_to(folder)}\n{path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def _hub_revision(checkpoint: str) -> str:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    words = checkpoint.split("/")
    if len(words) < 2 or not all(words):
        return ""
    try:
        found = try_to_load_from_cache("/".join(words[:2]), "/".join([*words[2:], "config.json"]))
    except HFValidationError:  # no name of the hub's: a folder of another machine
        return ""
    if not isinstance(found, str):
        return ""
    parts = Path(found).parts
    return f"revision:{parts[parts.index('snapshots') + 1]}" if "snapshots" in parts else ""


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, 2) == 0:
            return True
        file.seek(-1, 2)
        return file.read(1) == b"\n"


def _told(value: float | None) -> float | None:
    return round(value, 6) if value is not None and math.isfinite(value) else None
