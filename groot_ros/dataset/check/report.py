"""What a check found: problems, and the report that carries them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from groot_ros.dataset.check.codes import CODES

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        code: a key of ``codes.CODES``.
        severity: error: a loader fails or the data is wrong; warning: a person has to look; info: worth knowing.
        episode: its number; None for the dataset as a whole.
        where: file, relative to the dataset, and the column or key in it.
        message: what was expected, what was found, and what to do.
    """

    code: str
    severity: Severity
    episode: int | None
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.code}: {self.where}: {self.message}"


@dataclass
class Findings:
    """Collects problems while a dataset is read.

    Attributes:
        problems: in the order in which they were found.
        damaged: files, relative to the dataset, of which not everything could be read: what follows from that alone
            is not reported a second time.
        unsound: episodes of which not every row could be read or used: sums over the dataset are then not compared.
    """

    problems: list[Problem] = field(default_factory=list)
    damaged: set[str] = field(default_factory=set)
    unsound: set[int] = field(default_factory=set)

    def add(
        self, code: str, where: object, message: str, *, episode: int | None = None, severity: Severity | None = None
    ) -> None:
        """Report a problem, with the severity of its code unless another one is given."""
        self.problems.append(Problem(code, severity or CODES[code][0], episode, str(where), message))


@dataclass(frozen=True)
class CheckReport:
    """Result of a check.

    Attributes:
        root: folder of the dataset.
        problems: errors first, then warnings, then infos, each in the order of the dataset.
        episodes, rows, videos: how many were looked at.
        full: every picture of every video was decoded, not a sample.
    """

    root: str
    problems: list[Problem]
    episodes: int = 0
    rows: int = 0
    videos: int = 0
    full: bool = False

    @property
    def counts(self) -> dict[Severity, int]:
        """Problems per severity."""
        return {severity: sum(problem.severity == severity for problem in self.problems) for severity in SEVERITIES}

    def exit_code(self, strict: bool = False) -> int:
        """1 when there is an error (``strict``: or a warning), else 0."""
        counts = self.counts
        return int(bool(counts["error"] or (strict and counts["warning"])))

    def lines(self, per_code: int = 5) -> Iterator[str]:
        """Text for people: at most ``per_code`` problems of each code, then how many more, then a summary."""
        shown: Counter[str] = Counter()
        totals = Counter(problem.code for problem in self.problems)
        for problem in self.problems:
            shown[problem.code] += 1
            if shown[problem.code] <= per_code:
                yield str(problem)
            elif shown[problem.code] == totals[problem.code]:
                yield f"{problem.severity}: {problem.code}: {totals[problem.code] - per_code} more"
        yield self.summary

    @property
    def summary(self) -> str:
        """One line: what was looked at, and what was found."""
        counts = self.counts
        found = ", ".join(f"{counts[name]} {name}{'s' * (counts[name] != 1)}" for name in SEVERITIES if counts[name])
        pictures = "every picture" if self.full else "a sample of the pictures"
        looked = f"{self.episodes} episodes, {self.rows} rows, {self.videos} videos ({pictures})"
        return f"{self.root}: {looked}: {found or 'no problems'}"

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, texts and numbers."""
        return {
            "root": self.root,
            "ok": not self.counts["error"],
            "counts": dict(self.counts),
            "episodes": self.episodes,
            "rows": self.rows,
            "videos": self.videos,
            "full": self.full,
            "problems": [asdict(problem) for problem in self.problems],
        }

    def to_json(self, path: str | Path) -> None:
        """Write ``to_dict`` to ``path``. Raises OSError."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
