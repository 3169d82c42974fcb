"""Bags become episodes: the session of the live recorder, told the log times of a bag.

Each bag is read by one process; episodes are sealed there and committed here, in the order of the bags.
"""

from __future__ import annotations

import multiprocessing
import queue
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from groot_ros.dataset import paths
from groot_ros.dataset.bag_session import BagJob, Progress, SealedBag, convert_bag
from groot_ros.dataset.episode_report import EpisodeReport
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.read import Dataset
from groot_ros.dataset.session_types import DropPolicy
from groot_ros.dataset.spec import DatasetSpec
from groot_ros.dataset.writer import MIN_FREE_BYTES, DatasetWriter
from groot_ros.embodiment.schema import Embodiment

_POLL_S = 0.2


@dataclass(frozen=True)
class BagOutcome:
    """What became of one bag.

    Attributes:
        bag: its path.
        episodes: that are part of the dataset now, in the order of the bag.
        messages: what was refused, dropped or aborted, one sentence each with its time in the bag (s).
        rejected: source -> messages of it that were refused.
        delay_ms: stream -> mean time from a message's stamp to its log time.
        error: why the bag was not converted, or not to its end; empty if it was.
    """

    bag: str
    episodes: tuple[EpisodeReport, ...]
    messages: tuple[str, ...]
    rejected: Mapping[str, int]
    delay_ms: Mapping[str, float]
    error: str = ""


@dataclass(frozen=True)
class Conversion:
    """What became of all bags, in their order."""

    bags: tuple[BagOutcome, ...]

    @property
    def episodes(self) -> list[EpisodeReport]:
        """All that were added."""
        return [episode for bag in self.bags for episode in bag.episodes]

    @property
    def ok(self) -> bool:
        """Every bag was converted and gave at least one episode."""
        return all(bag.episodes and not bag.error for bag in self.bags)

    def to_json(self) -> dict[str, Any]:
        """For a report file."""
        return {"ok": self.ok, "bags": [asdict(bag) for bag in self.bags]}


def convert(
    bags: Sequence[str | Path],
    root: str | Path,
    embodiment: Embodiment,
    task: str | None = None,
    *,
    event_topic: str | None = None,
    drop: DropPolicy | None = None,
    min_rows: int | None = None,
    jobs: int = 1,
    codec: str = "auto",
    min_free_bytes: int = MIN_FREE_BYTES,
    progress: Progress | None = None,
) -> Conversion:
    """Append the episodes of ``bags`` to the dataset at ``root``, which is made when missing.

    A dataset that is made here and gets nothing, not even what a salvage could take over, is removed again.

    Args:
        bags: rosbag2 folders or files.
        root: of the dataset.
        embodiment: the robot.
        task: of all episodes; None: what the events say, else the instruction topic, else the YAML's default.
        event_topic: where episodes begin and end, see ``bag_events``; None: the recorder's own topic, in bags that
            have it; ``none``: nowhere. Without one the whole bag is one episode per instruction.
        drop: what an incomplete tick does, see ``Session``; None: ``split``, with events ``fail`` as the recorder.
        min_rows: shorter segments are dropped; 1 s when left out.
        jobs: bags that are read at the same time, each in a process of its own if more than 1.
        codec: ``auto``, ``libx264`` or ``h264_nvenc``.
        min_free_bytes: see ``DatasetWriter``.
        progress: called in this thread.

    Returns: what became of each bag; a bag that cannot be converted does not stop the others.
    Raises:
        DatasetError: the dataset cannot be written to, or the robot cannot be recorded.
        ValueError: no bags, one given twice, or ``jobs`` below 1.
    """
    if not bags or jobs < 1:
        raise ValueError(f"expected bags and at least one job, found {len(bags)} bags and {jobs} jobs")
    twice = [path for path, count in Counter(Path(bag).expanduser().resolve() for bag in bags).items() if count > 1]
    if twice:
        raise ValueError(f"expected each bag once, found {', '.join(map(str, twice))} more than once")
    spec = DatasetSpec.of(embodiment)
    root = Path(root).expanduser()
    with (
        _NewDataset(root),
        DatasetWriter(root, spec, embodiment.cameras, codec=codec, min_free_bytes=min_free_bytes) as dataset,
    ):
        todo = [
            BagJob(
                number=number,
                bag=Path(bag).expanduser(),
                staging=dataset.staging,
                embodiment=embodiment,
                task=task,
                event_topic=event_topic,
                drop=drop,
                min_rows=min_rows,
                codec=codec,
                min_free_bytes=min_free_bytes,
            )
            for number, bag in enumerate(bags)
        ]
        if jobs == 1 or len(todo) == 1:
            results: Iterator[SealedBag] = (convert_bag(job, progress or _no_progress) for job in todo)
        else:
            results = _in_processes(todo, jobs, progress or _no_progress)
        return Conversion(tuple(_commit(dataset, job, sealed) for job, sealed in zip(todo, results, strict=True)))


class _NewDataset:
    """Removes a dataset that did not exist before and has nothing in it afterwards."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folder_was_there = root.is_dir()
        self._before = {path.name for path in root.iterdir()} if self._folder_was_there else set()

    def __enter__(self) -> None:
        """Nothing is made here."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        root = self._root
        if not (root / paths.INFO).is_file() or paths.META.name in self._before:
            return
        if Dataset(root).episodes or any((root / paths.STAGING).iterdir()):
            return
        for name in (paths.META, paths.STAGING):
            if name.name not in self._before:
                shutil.rmtree(root / name)
        if paths.LOCK.name not in self._before:
            (root / paths.LOCK).unlink(missing_ok=True)
        if not self._folder_was_there:
            root.rmdir()


def _commit(dataset: DatasetWriter, job: BagJob, sealed: SealedBag) -> BagOutcome:
    reports: list[EpisodeReport] = []
    error = sealed.error
    try:
        reports = dataset.commit(sealed.staged)
    except DatasetError as failure:
        error = f"{error}; {failure}" if error else str(failure)
    return BagOutcome(str(job.bag), tuple(reports), sealed.messages, sealed.rejected, sealed.delay_ms, error)


# --- processes -------------------------------------------------------------------------------------------------------

_reports: Any = None  # of a worker process: where its progress goes


def _in_processes(todo: Sequence[BagJob], jobs: int, progress: Progress) -> Iterator[SealedBag]:
    """Results in the order of ``todo``, each as soon as it and those before it are there."""
    context = multiprocessing.get_context("spawn")  # a forked process would have the locks of FFmpeg's threads
    reports = context.Queue(maxsize=1000)
    with ProcessPoolExecutor(min(jobs, len(todo)), context, _begin_worker, (reports,)) as pool:
        futures: list[Future[SealedBag]] = [pool.submit(_work, job) for job in todo]
        try:
            for future in futures:
                while not future.done():
                    wait([future], _POLL_S)
                    _pass_on(reports, progress)
                yield _result(future)
        finally:
            for future in futures:
                future.cancel()
        _pass_on(reports, progress)


def _result(future: Future[SealedBag]) -> SealedBag:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise DatasetError(
            f"a process that read a bag was ended ({error}): is there too little memory? Take fewer jobs; the bags "
            "before it are in the dataset"
        ) from error


def _pass_on(reports: Any, progress: Progress) -> None:
    while True:
        try:
            progress(*reports.get_nowait())
        except queue.Empty:
            return


def _begin_worker(reports: Any) -> None:
    global _reports
    _reports = reports
    reports.cancel_join_thread()  # nobody waits for the last of it


def _work(job: BagJob) -> SealedBag:
    return convert_bag(job, _report)


def _report(number: int, done_s: float, total_s: float) -> None:
    try:
        _reports.put_nowait((number, done_s, total_s))
    except queue.Full:
        return  # the next one says more


def _no_progress(number: int, done_s: float, total_s: float) -> None:
    """Nobody wants to know."""
