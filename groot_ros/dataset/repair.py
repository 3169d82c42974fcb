"""Mend what of a damaged dataset follows from the rest of it; nothing is invented.

Metadata is written again from rows, videos and the lines that are left, and a copy of the old is kept. What changes an
episode itself (cutting it to the shorter of rows and pictures, counting rows again) builds a new dataset and puts it in
the place of the old one, which is kept too. The rest is refused, with what a person can do.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from groot_ros.dataset import durable, paths
from groot_ros.dataset.columns import arrow_schema
from groot_ros.dataset.commit import RECORD, roll_forward
from groot_ros.dataset.errors import DatasetError
from groot_ros.dataset.lock import DatasetLock
from groot_ros.dataset.read import Dataset, read_json
from groot_ros.dataset.rebuild import Piece, Progress, number_columns, replace, statistics_of
from groot_ros.dataset.recovery import move_strays
from groot_ros.dataset.repair_metadata import Draft, EpisodeFacts, Files
from groot_ros.dataset.repair_statistics import is_episode_statistics, is_statistics, well_formed_images
from groot_ros.dataset.spec import VERSION, DatasetSpec, totals
from groot_ros.dataset.statistics import refresh
from groot_ros.embodiment.schema import Embodiment

# Members of info.json without which nothing else can be found.
_NEEDED = ("codebase_version", "fps", "features", "chunks_size", "data_path", "video_path")


@dataclass
class Repair:
    """What is, or would be, mended.

    Attributes:
        root: the dataset.
        applied: it was done; else it was only looked at.
        mends: what was found and what is done about it, one sentence each, in order.
        refused: what cannot be mended, and what to do.
        notes: where old files are kept.
    """

    root: Path
    applied: bool = False
    mends: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**vars(self), "root": str(self.root)}


def repair(
    root: Path,
    *,
    embodiment: Embodiment | None = None,
    truncate: bool = False,
    apply: bool = False,
    progress: Progress | None = None,
) -> Repair:
    """Look for what can be mended, and mend it if ``apply``.

    Args:
        embodiment: the robot that the dataset is of, for a missing info.json or modality.json.
        truncate: cut episodes whose videos and rows are not equally long to the shortest.
        progress: called with episodes looked at, and their number.

    Raises:
        DatasetError: no dataset, another program writes it, or info.json is damaged and no robot is given.
        OSError: the disk; to be tried again.
    """
    root = root.expanduser().resolve()
    if not (root / paths.META).is_dir():
        raise DatasetError(f"{root}: expected a dataset's folder with {paths.META} in it, found none: name another")
    with DatasetLock(root):
        result = Repair(root, applied=apply)
        if (root / RECORD).exists():
            result.mends.append(f"{RECORD}: a commit was interrupted: ended")
            if not apply:
                result.notes.append("what else there is to mend shows when the commit is ended: use --apply")
                return result
            roll_forward(root)
        work = _Work(result, embodiment, truncate)
        work.look(progress)
        if apply:
            work.apply()
        return result


class _Work:
    """One repair: ``look`` finds what should be, ``apply`` writes it."""

    def __init__(self, result: Repair, embodiment: Embodiment | None, truncate: bool) -> None:
        self._root, self._result, self._truncate = result.root, result, truncate
        self._spec = None if embodiment is None else DatasetSpec.of(embodiment)
        self._time = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
        self._writes: dict[Path, Callable[[], bytes]] = {}
        self._strays: list[Path] = []
        self._stale: list[int] = []  # episodes whose statistics are to be computed
        self._refresh = False  # stats.json too
        self._edits: list[str] = []  # what needs a new dataset
        self._cuts: dict[int, int] = {}

    def look(self, progress: Progress | None) -> None:
        self._draft = Draft(self._root, self._info())
        for name, problems in self._draft.problems.items():
            self._rewrite(name, f"{'; '.join(problems)}: written again from what is left")
        facts = self._look_at_files(progress)
        self._look_at_tasks(facts)
        if set(facts) - set(self._draft.episodes):
            # Their lines are what says that they belong here: without those, the next repair takes them for strays.
            self._result.notes.append(f"nothing is mended before that: {'; '.join(self._result.mends)}")
            self._result.mends.clear()
            self._writes.clear()
            return
        self._look_at_rows(facts)
        self._look_at_totals()
        self._look_for_strays(facts)
        if not self._result.refused:
            self._look_at_statistics()
            self._result.mends += self._edits
        else:
            self._result.refused += [f"{edit}: not while something is refused" for edit in self._edits]
            self._result.notes.append("statistics need every episode: they were not looked at")
            self._edits.clear()
        self._look_at_modality()

    def apply(self) -> None:
        if self._writes or self._refresh:
            backup = self._root / f"{paths.META}.before-{self._time}"
            shutil.copytree(self._root / paths.META, backup)
            durable.sync_tree(backup)
            durable.sync_folder(self._root)
            self._result.notes.append(f"the metadata as they were are in {backup.name}")
        for episode in self._stale:
            files, stats = self._draft.files, self._draft.stats
            columns = number_columns(files, episode, files.table(episode))
            stats[episode] = statistics_of(files, episode, columns, well_formed_images(files, stats.get(episode)))
        for name, content in self._writes.items():
            durable.write_file(self._root / name, content(), self._root / paths.STAGING)
        move_strays(self._root, self._strays)
        if self._refresh and not self._edits:  # a new dataset has its own
            refresh(self._root)
        if self._edits:
            dataset = Dataset(self._root)
            pieces = [Piece(dataset, entry.index, self._cuts.get(entry.index)) for entry in dataset.episodes]
            self._result.notes += replace(self._root, pieces).notes

    def _rewrite(self, name: Path, why: str) -> None:
        """Note a change of a jsonl file, which is written once."""
        self._result.mends.append(f"{name}: {why}")
        self._writes[name] = lambda: self._draft.text(name)

    def _info(self) -> dict[str, Any]:
        """info.json, or one made from the robot. Raises: DatasetError."""
        try:
            info = read_json(self._root, paths.INFO)
        except DatasetError:
            problem = self._damage(paths.INFO)
        else:
            missing = [key for key in _NEEDED if key not in info]
            if not missing:
                return Dataset(self._root).info  # which refuses other versions
            problem = f"it lacks {', '.join(missing)}"
        if self._spec is None:
            raise DatasetError(
                f"{self._root / paths.INFO}: {problem}: name the robot with --embodiment to make it anew"
            )
        files = Files(self._root, self._spec.info(0, 0, 0))
        table = files.table(0)
        widths = {name: table.schema.field(name).type for name in table.column_names}
        expected = {field.name: field.type for field in arrow_schema(files.features)}
        if widths != expected:
            different = sorted(name for name in {*widths, *expected} if widths.get(name) != expected.get(name))
            raise DatasetError(
                f"{files.data(0)}: expected the columns of robot {self._spec.robot_type}, found others: "
                f"{', '.join(different)}: name the robot that was recorded"
            )
        self._result.mends.append(f"{paths.INFO}: {problem}: made anew for robot {self._spec.robot_type}")
        self._writes[paths.INFO] = lambda: durable.json_bytes({**self._draft.files.info, **self._totals()})
        return files.info

    def _look_at_files(self, progress: Progress | None) -> dict[int, EpisodeFacts]:
        facts = {}
        candidates = list(self._draft.candidates())
        for done, episode in enumerate(candidates, 1):
            try:
                facts[episode] = EpisodeFacts.read(self._draft.files, episode)
            except DatasetError as error:
                if episode in self._draft.episodes:  # one without a line was never finished: its files are strays
                    self._result.refused.append(f"episode {episode}: {error}")
            if progress is not None:
                progress(done, len(candidates))
        return facts

    def _look_at_tasks(self, facts: dict[int, EpisodeFacts]) -> None:
        for index, text in self._draft.find_tasks(facts):
            if text is not None:
                self._rewrite(paths.TASKS, f"no text for task {index}: {text!r}, as episodes.jsonl says")
            else:
                used = [episode for episode, fact in facts.items() if index in fact.tasks]
                line = durable.json_line({"task_index": index, "task": "..."}).strip()
                self._result.refused.append(
                    f"{paths.TASKS}: the text of task {index} (episodes {used[:5]}) is lost: write the line {line} "
                    "yourself"
                )
        for episode in self._draft.find_episodes(facts):
            self._rewrite(paths.EPISODES, f"no line for episode {episode}: made anew from its files")

    def _look_at_rows(self, facts: dict[int, EpisodeFacts]) -> None:
        first = 0
        uncounted = None if list(self._draft.episodes) == list(range(len(self._draft.episodes))) else "a gap"
        for episode, line in self._draft.episodes.items():
            fact = facts.get(episode)
            if fact is None:  # refused
                first += line["length"]
                continue
            if not fact.whole:
                self._look_at_lengths(episode, fact)
            if line["length"] != fact.rows:
                self._rewrite(paths.EPISODES, f"episode {episode}: length {line['length']}, but {fact.rows} rows")
                line["length"] = fact.rows
            if uncounted is None and not fact.counts(episode, first):
                uncounted = f"episode {episode}"
            first += fact.rows
        numbers = [fact.number for _, fact in sorted(facts.items())]
        if -1 in numbers or numbers != sorted(set(numbers)):  # not what deleting episodes leaves
            self._result.refused.append(
                f"episode_index: expected one number per episode, rising, found {numbers[:10]}: files were swapped or "
                "joined; restore them from a copy"
            )
        elif uncounted is not None:
            self._edits.append(f"frame_index, episode_index and index do not count ({uncounted}): counted again")

    def _look_at_lengths(self, episode: int, fact: EpisodeFacts) -> None:
        pictures = ", ".join(f"{count} pictures of {feature}" for feature, count in fact.frames.items())
        found = f"episode {episode}: {fact.rows} rows, but {pictures}"
        if not fact.shortest:
            self._result.refused.append(f"{found}: delete it with `groot-ros dataset delete-episodes`")
        elif self._truncate:
            self._cuts[episode] = fact.shortest
            self._edits.append(f"{found}: cut to the first {fact.shortest}")
        else:
            self._result.refused.append(f"{found}: --truncate cuts it to the first {fact.shortest}")

    def _totals(self) -> dict[str, Any]:
        info, episodes = self._draft.files.info, self._draft.episodes
        frames = sum(line["length"] for line in episodes.values())
        cameras = len(self._draft.files.video_keys)
        return totals(len(episodes), frames, len(self._draft.tasks), cameras, int(info["chunks_size"]))

    def _look_at_totals(self) -> None:
        info = self._draft.files.info
        wrong = [
            f"{key}: {info.get(key)}, but {value}" for key, value in self._totals().items() if info.get(key) != value
        ]
        if wrong and paths.INFO not in self._writes:
            self._result.mends.append(f"{paths.INFO}: {'; '.join(wrong)}: corrected")
            self._writes[paths.INFO] = lambda: durable.json_bytes({**info, **self._totals()})

    def _look_at_modality(self) -> None:
        try:
            read_json(self._root, paths.MODALITY)
            return
        except DatasetError:
            problem = self._damage(paths.MODALITY)
        if self._spec is None:
            self._result.refused.append(
                f"{paths.MODALITY}: {problem}, but GR00T needs it: name the robot with --embodiment to make it"
            )
            return
        found = self._spec.differences({**self._draft.files.info, "codebase_version": VERSION})
        if found:
            self._result.refused.append(
                f"{paths.MODALITY}: {problem}, and robot {self._spec.robot_type} is another: {'; '.join(found[:5])}"
            )
            return
        modality = self._spec.modality()
        self._result.mends.append(f"{paths.MODALITY}: {problem}: made anew for robot {self._spec.robot_type}")
        self._writes[paths.MODALITY] = lambda: durable.json_bytes(modality)

    def _look_for_strays(self, facts: dict[int, EpisodeFacts]) -> None:
        files = self._draft.files
        ours = set()
        for episode in {*self._draft.episodes, *facts}:
            videos = [files.video(episode, feature) for feature in files.video_keys]
            ours |= {files.data(episode), *videos, self._root / paths.report_path(episode)}
        there = [
            *(self._root / "data").rglob("*"),
            *(self._root / "videos").rglob("*"),
            *(self._root / paths.REPORTS).glob("episode_*.json"),
        ]
        strays = sorted(path for path in there if path.is_file() and path not in ours)
        self._strays = [path.relative_to(self._root) for path in strays]
        for name in self._strays:
            self._result.mends.append(f"{name}: it belongs to no episode: moved to {paths.STAGING}")

    def _look_at_statistics(self) -> None:
        draft, files = self._draft, self._draft.files
        episodes = [episode for episode in draft.episodes if episode not in self._cuts]  # a cut computes them anew
        if draft.has_stats:
            strange = sorted(set(draft.stats) - set(draft.episodes))
            if strange:
                self._rewrite(paths.EPISODES_STATS, f"lines of episodes that do not exist ({strange[:5]}): removed")
                for episode in strange:
                    del draft.stats[episode]
            self._stale = [
                episode
                for episode in episodes
                if not is_episode_statistics(
                    files, number_columns(files, episode, files.table(episode)), draft.stats.get(episode)
                )
            ]
            if self._stale:
                self._rewrite(paths.EPISODES_STATS, f"not those of episodes {_listed(self._stale)}: computed anew")
        try:
            said, problem = read_json(self._root, paths.STATS), "not those of the rows"
        except DatasetError:
            said, problem = {}, self._damage(paths.STATS)
        try:
            right = is_statistics(files, list(draft.episodes), said)
        except DatasetError as error:
            self._result.refused.append(str(error))
            return
        if not right:
            self._result.mends.append(f"{paths.STATS}: {problem}: computed anew")
            self._refresh = True

    def _damage(self, name: Path) -> str:
        return "it is damaged" if (self._root / name).exists() else "there is no such file"


def _listed(numbers: list[int]) -> str:
    more = f" and {len(numbers) - 10} more" if len(numbers) > 10 else ""
    return f"{', '.join(map(str, numbers[:10]))}{more}"
