"""An episode while it is recorded: a folder of its own under ``.staging``, out of every loader's sight.

It holds rows, locked while a process writes them, and one Matroska file per camera, of which a killed process leaves a
readable beginning. ``seal`` proves that all agree and turns the videos into mp4.
"""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groot_ros.dataset import durable
from groot_ros.dataset.encoder import CameraEncoder, EncoderResult
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.image_statistics import ImageStatistics
from groot_ros.dataset.lock import unwritable
from groot_ros.dataset.spec import IMAGES, DatasetSpec
from groot_ros.dataset.staged import BEGIN, ROWS, note_abort, read_rows, remove, seal_folder
from groot_ros.embodiment.schema import Camera
from groot_ros.observation.images import Frame

_CLOSE_S = 60.0  # for the encoders to take what waits
_numbers = itertools.count()
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CameraHealth:
    """Encoder of one camera: pictures waiting, the most that ever waited, pictures encoded."""

    waiting: int
    peak: int
    frames: int


class EpisodeWriter:
    """Writes one episode. One thread adds; ``problem`` and ``health`` may be read from others.

    Args:
        staging_root: the dataset's ``.staging``, on the file system of the dataset.
        spec: what the dataset contains.
        cameras: the robot's cameras by their names in the YAML.
        task: its text.
        codec: ``auto``, ``libx264`` or ``h264_nvenc``.
        name: of its folder; made of time, process and a number when left out.
        min_free_bytes: with less space on the disk than this the episode has a problem.
        on_event: told what nobody asked for, as one sentence.

    Raises:
        DatasetError: the task is empty, or the folder cannot be made.
    """

    def __init__(
        self,
        staging_root: Path,
        spec: DatasetSpec,
        cameras: Mapping[str, Camera],
        task: str,
        *,
        codec: str = "auto",
        name: str | None = None,
        min_free_bytes: int = 0,
        on_event: Callable[[str], None] = _log.warning,
    ) -> None:
        self.spec = spec
        self.task = task.strip()
        if not self.task:
            raise DatasetError("task: expected a text that says what is done, found an empty one: set it")
        self.path = staging_root / (name or _new_name())
        self.rows = 0
        self.overflows: Counter[str] = Counter()
        self._min_free_bytes = min_free_bytes
        self._on_event = on_event
        self._buffer = bytearray()
        self._failed: str | None = None
        self._encoders: dict[str, CameraEncoder] = {}
        self._descriptor = -1
        try:
            self._make_folder()
            for key, camera in spec.cameras.items():
                self._encoders[key] = CameraEncoder(
                    self.path / f"{key}.mkv",
                    camera.height,
                    camera.width,
                    spec.fps,
                    cameras[camera.camera],
                    camera.camera,
                    codec=codec,
                )
        except Exception as error:
            self._stop()
            if self.path.is_dir():
                self._remove()
            if isinstance(error, OSError):
                raise unwritable(self.path, error) from error
            raise

    def add(self, row: NDArray[np.void], frames: Mapping[str, Frame | None]) -> bool:
        """Add a row and its pictures: all or none of them. Never waits for an encoder.

        Args:
            row: shape (), of ``spec.row_dtype``.
            frames: video key -> picture, or None to repeat the last one.

        Returns:
            False when nothing was added: the queue of an encoder is full (counted in ``overflows``), or the episode
            has a ``problem``.

        Raises:
            DatasetError: a video key is missing, the first row repeats a picture, or the episode has ended.
        """
        if self._descriptor < 0:
            raise DatasetError(f"{self.path}: expected an episode that is recorded, found it ended: begin another")
        if frames.keys() != self._encoders.keys():
            raise DatasetError(
                f"{self.path}: expected a picture of {', '.join(self._encoders)}, found {', '.join(frames) or 'none'}"
            )
        if not self.rows and None in frames.values():
            raise DatasetError(f"{self.path}: expected a picture of every camera in the first row, found a repeat")
        if self.problem is not None:
            return False
        full = [key for key, encoder in self._encoders.items() if frames[key] is not None and encoder.full]
        if full:
            self.overflows.update(full)
            return False
        for key, encoder in self._encoders.items():
            encoder.put(frames[key])
        self._buffer += row.tobytes()
        self.rows += 1
        if self.rows % self.spec.fps == 0:
            self._flush()
            self._look_at_disk()
        return True

    @property
    def problem(self) -> str | None:
        """Why the episode cannot go on; None while it can."""
        if self._failed is not None:
            return self._failed
        return next((encoder.error for encoder in self._encoders.values() if encoder.error is not None), None)

    def health(self) -> dict[str, CameraHealth]:
        """Video key -> state of its encoder."""
        return {
            key: CameraHealth(encoder.waiting, encoder.peak, encoder.frames) for key, encoder in self._encoders.items()
        }

    def end(self) -> None:
        """There are no more rows: the encoders' threads end when they are through. Does not wait for them."""
        for encoder in self._encoders.values():
            encoder.end()
        if self._descriptor >= 0:
            self._flush()

    def seal(self, report_extra: Mapping[str, Any] | None = None) -> Path:
        """End the episode and prove it: rows, and as many frames of every camera, on the disk. Takes a while.

        Args:
            report_extra: what the report is to say besides: source, refusals by reason.

        Returns:
            The folder, for ``DatasetWriter.commit``.

        Raises:
            DatasetError: it is not whole. The folder stays, aborted, for ``groot-ros dataset salvage``.
        """
        if self._descriptor < 0:
            raise DatasetError(f"{self.path}: expected an episode that is recorded, found it ended")
        try:
            results = self._close()
            images, cameras = {}, {}
            for key, result in results.items():
                images[f"{IMAGES}.{key}"] = ImageStatistics(result.histogram, result.sampled).stats()
                cameras[key] = {"frames": result.frames, "queue_peak": result.peak}
            rows = read_rows(self.path, self.spec)
            seal_folder(self.path, self.spec, self.task, rows, images, cameras, report_extra or {})
            for key in self._encoders:
                (self.path / f"{key}.mkv").unlink()
            self._release()
        except (DatasetError, OSError) as error:
            self._stop()  # with the last rows, of which salvage takes those that have their pictures
            found = unwritable(self.path, error) if isinstance(error, OSError) else error
            if self.rows:
                self._note_abort(str(found))
            else:
                self.discard()
            raise found from error
        return self.path

    def abort(self, reason: str) -> None:
        """Stop. What was recorded stays for ``groot-ros dataset salvage`` unless it is nothing."""
        self._stop()
        if self.rows == 0:
            self.discard()
        else:
            self._note_abort(reason)

    def discard(self) -> None:
        """Stop, and remove what was recorded; a disk that does not let it is told of."""
        self._stop()
        if self.path.is_dir():
            self._remove()

    def _make_folder(self) -> None:
        self.path.parent.mkdir(exist_ok=True)
        self.path.mkdir()
        durable.sync_folder(self.path.parent)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(self.path / ROWS, flags, 0o644)
        # Whoever recovers the dataset leaves this episode alone while the lock is held.
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        begin = {
            "task": self.task,
            "spec": self.spec.to_json(),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "begun": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        durable.write_json(self.path / BEGIN, begin)

    def _close(self) -> dict[str, EncoderResult]:
        """Videos and rows complete in their files."""
        problem = self.problem
        if problem is not None:
            raise DatasetError(problem)
        if not self.rows:
            raise DatasetError(f"{self.path}: expected rows, found none: record longer")
        results = {key: encoder.close(_CLOSE_S) for key, encoder in self._encoders.items()}
        self._flush()
        problem = self.problem
        if problem is not None:
            raise DatasetError(problem)
        durable.sync_file(self.path / ROWS)
        return results

    def _flush(self) -> None:
        """Hand the rows to the system, which keeps them when this process is killed."""
        try:
            while self._buffer:
                del self._buffer[: os.write(self._descriptor, self._buffer)]
        except OSError as error:
            self._failed = str(unwritable(self.path / ROWS, error))

    def _look_at_disk(self) -> None:
        try:
            free = shutil.disk_usage(self.path).free
        except OSError as error:
            self._failed = str(unwritable(self.path, error))
            return
        if free < self._min_free_bytes:
            self._failed = low_disk(self.path, free, self._min_free_bytes)

    def _remove(self) -> None:
        try:
            remove(self.path)
        except OSError as error:
            self._on_event(f"{self.path}: could not be removed: {error.strerror or error}: remove it by hand")

    def _release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _stop(self) -> None:
        for encoder in self._encoders.values():
            encoder.abort()
        if self._descriptor >= 0:
            self._flush()
        self._release()

    def _note_abort(self, reason: str) -> None:
        try:
            note_abort(self.path, reason)
        except OSError as error:
            # On a full disk there is no room for the note; the next start writes it.
            self._on_event(f"{self.path}: aborted ({reason}), which could not be noted there: {error.strerror}")


def low_disk(path: Path, free: int, least: int) -> str:
    """What is said when the disk is nearly full."""
    return (
        f"{path}: expected at least {least / 1e9:.2f} GB free on the disk, found {free / 1e9:.2f} GB: free some, or "
        "lower min_free_gb"
    )


def _new_name() -> str:
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}-{next(_numbers)}"
