"""Where a LeRobot v2.1 dataset has its files, relative to its folder (spec/lerobot.md section 1.1)."""

from __future__ import annotations

from pathlib import Path

CHUNKS_SIZE = 1000  # episodes per folder
DATA_PATTERN = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO_PATTERN = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"

META = Path("meta")
INFO = META / "info.json"
EPISODES = META / "episodes.jsonl"
TASKS = META / "tasks.jsonl"
EPISODES_STATS = META / "episodes_stats.jsonl"
STATS = META / "stats.json"
RELATIVE_STATS = META / "relative_stats.json"
MODALITY = META / "modality.json"
REPORTS = META / "recording"
# A running episode, and what a crash leaves, is in here: loaders read every file under data/.
STAGING = Path(".staging")
LOCK = Path(".lock")


def data_path(episode: int) -> Path:
    """Rows of an episode."""
    return Path(DATA_PATTERN.format(episode_chunk=episode // CHUNKS_SIZE, episode_index=episode))


def video_path(episode: int, feature: str) -> Path:
    """Video of an episode; ``feature`` is its whole name, such as ``observation.images.front``."""
    chunk = episode // CHUNKS_SIZE
    return Path(VIDEO_PATTERN.format(episode_chunk=chunk, video_key=feature, episode_index=episode))


def report_path(episode: int) -> Path:
    """What the recorder noted about an episode."""
    return REPORTS / f"episode_{episode:06d}.json"
