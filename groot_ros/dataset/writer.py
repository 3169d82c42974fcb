"""Writes a dataset: begins episodes and commits them. One writer per dataset, at any time."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from groot_ros.dataset import durable, paths, statistics
from groot_ros.dataset.commit import RECORD, Step, Totals, commit, roll_forward
from groot_ros.dataset.episode_report import EpisodeReport
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.lock import DatasetLock, unwritable
from groot_ros.dataset.read import read_json
from groot_ros.dataset.recovery import Recovery, create, recover
from groot_ros.dataset.spec import DatasetSpec
from groot_ros.dataset.staging import EpisodeWriter, low_disk
from groot_ros.embodiment.schema import Camera

MIN_FREE_BYTES = 1 << 30
_log = logging.getLogger(__name__)


class DatasetWriter:
    """Creates a dataset, or opens it and first ends what a crash interrupted; then episodes can be appended.

    ``commit`` may run in another thread than ``begin``.

    Args:
        root: the dataset's folder; made when missing.
        spec: what its episodes contain.
        cameras: the robot's cameras by their names in the YAML; only ``begin`` needs them.
        codec: ``auto``, ``libx264`` or ``h264_nvenc``.
        min_free_bytes: with less space on the disk no episode begins, and one that runs has a problem.
        on_event: told what was found or done unasked, one sentence each.
        on_step: told before each step of a commit (``commit.STEPS``).

    Attributes:
        recovered: what was found at the start.

    Raises:
        DatasetError: another writer has the dataset, it is of another robot, rate or features, it is damaged, or it
            cannot be written to.
    """

    def __init__(
        self,
        root: str | Path,
        spec: DatasetSpec,
        cameras: Mapping[str, Camera] | None = None,
        *,
        codec: str = "auto",
        min_free_bytes: int = MIN_FREE_BYTES,
        on_event: Callable[[str], None] = _log.warning,
        on_step: Step = lambda name: None,
    ) -> None:
        self.root = Path(root).expanduser()
        self.spec = spec
        self._cameras = dict(cameras or {})
        self._codec = codec
        self._min_free_bytes = min_free_bytes
        self._on_event = on_event
        self._on_step = on_step
        self._commit_lock = threading.Lock()
        self._closed = False
        try:
            durable.make_folder(self.root)
        except OSError as error:
            raise unwritable(self.root, error) from error
        self._lock = DatasetLock(self.root)
        try:
            self._totals, self.recovered = self._open()
        except OSError as error:
            self._lock.release()
            raise unwritable(self.root, error) from error
        except BaseException:
            self._lock.release()
            raise

    @property
    def episodes(self) -> int:
        """Episodes of the dataset."""
        return self._totals.episodes

    @property
    def frames(self) -> int:
        """Rows of the dataset."""
        return self._totals.frames

    @property
    def staging(self) -> Path:
        """Where episodes are staged."""
        return self.root / paths.STAGING

    @property
    def disk_free(self) -> int:
        """Bytes. Raises: OSError."""
        return shutil.disk_usage(self.root).free

    def begin(self, task: str) -> EpisodeWriter:
        """A new episode, which becomes part of the dataset by ``seal`` and ``commit``.

        Raises:
            DatasetError: the disk is nearly full, the task is empty, or the folder cannot be made.
        """
        try:
            free = self.disk_free
        except OSError as error:
            raise unwritable(self.root, error) from error
        if free < self._min_free_bytes:
            kept = len(self.recovered.aborted)
            more = f" ({kept} aborted episodes are in {self.staging})" if kept else ""
            raise DatasetError(low_disk(self.root, free, self._min_free_bytes) + more)
        return EpisodeWriter(
            self.staging,
            self.spec,
            self._cameras,
            task,
            codec=self._codec,
            min_free_bytes=self._min_free_bytes,
            on_event=self._on_event,
        )

    def commit(self, staged: Sequence[Path]) -> list[EpisodeReport]:
        """Append sealed episodes in this order, all or none; they are on the disk when this returns.

        Raises:
            DatasetError: an episode is not sealed or not of this dataset, and none is part of it; or the disk failed,
                and the message says whether they are.
        """
        if not staged:
            return []
        with self._commit_lock:
            self._check_open()
            try:
                self._end_commit()
                self._totals, reports = commit(self.root, self.spec, self._totals, staged, self._on_step)
            except OSError as error:
                raise self._failed_commit(error) from error
            if self._totals.episodes == len(reports):
                # With the first episodes stats.json stops being empty, which some loaders ask for.
                try:
                    self._refresh()
                except DatasetError as error:  # the episodes are safe, and the next chance to refresh comes
                    self._on_event(f"{error}; stats.json is not up to date")
            return reports

    def close(self) -> None:
        """Refresh old statistics (about 2 ms per episode), and let others write. Raises: DatasetError."""
        with self._commit_lock:
            if self._closed:
                return
            try:
                self._end_commit()
                if statistics.is_stale(self.root):
                    self._refresh()
            except OSError as error:
                raise unwritable(self.root, error) from error
            finally:
                self._closed = True
                self._lock.release()

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> tuple[Totals, Recovery]:
        if not (self.root / paths.INFO).exists() and not (self.root / RECORD).exists():
            create(self.root, self.spec)
        else:
            self._check_fits()
        return recover(self.root, self._on_event)

    def _check_fits(self) -> None:
        info, ours = read_json(self.root, paths.INFO), self.spec.info(0, 0, 0)
        differences = self.spec.differences(info) + [
            f"{key}: the recorder's is {ours[key]}, the dataset's is {info.get(key)}"
            for key in ("chunks_size", "data_path", "video_path")
            if info.get(key) != ours[key] and (key != "video_path" or self.spec.cameras)
        ]
        if (self.root / paths.MODALITY).exists() and not differences:
            modality, expected = read_json(self.root, paths.MODALITY), self.spec.modality()
            differences = [
                f"modality.json, {part}: this robot's is {expected[part]}, the dataset's is {modality.get(part)}"
                for part in expected
                if modality.get(part) != expected[part]
            ]
        if differences:
            more = f" and {len(differences) - 5} more" if len(differences) > 5 else ""
            raise DatasetError(
                f"{self.root}: expected a dataset of robot {self.spec.robot_type} at {self.spec.fps} Hz, found "
                f"differences: {'; '.join(differences[:5])}{more}: record into another folder"
            )

    def _end_commit(self) -> None:
        """Of an earlier commit that the disk stopped. Raises: OSError, DatasetError."""
        count = roll_forward(self.root)
        if count:
            self._totals = Totals.of(self.root)
            self._on_event(f"{self.root}: ended the commit of {count} episode(s) that the disk had stopped")

    def _failed_commit(self, error: OSError) -> DatasetError:
        why = unwritable(self.root, error)
        if (self.root / RECORD).exists():
            return DatasetError(
                f"{why}. The episodes are safe: the next save or the next start puts them in their places"
            )
        return DatasetError(f"{why}. The episodes are not part of the dataset; they stay in {self.staging}")

    def _refresh(self) -> None:
        try:
            statistics.refresh(self.root)
        except OSError as error:
            raise unwritable(self.root, error) from error

    def _check_open(self) -> None:
        if self._closed:
            raise DatasetError(f"{self.root}: expected an open writer, found it closed")
