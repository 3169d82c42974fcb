"""What is wrong with an embodiment, in one form: path, expected, found, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """One thing wrong with an embodiment.

    Attributes:
        path: keys and list indices from the root of the YAML to the value.
        expected: what the value should be.
        found: what it is.
        do: what to change.
        on_key: the name itself is wrong, not its value: report the line of the key.
    """

    path: Path
    expected: str
    found: str
    do: str
    on_key: bool = False

    def __str__(self) -> str:
        place = ".".join(map(str, self.path)) or "(top)"
        return f"{place}: expected {self.expected}, found {self.found}, {self.do}"


class RuleError(ValueError):
    """Problems that ``rules.find_problems`` found."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def closest(name: str, names: Iterable[str]) -> str | None:
    """The known name that a misspelt one most resembles, if any does."""
    matches = difflib.get_close_matches(name, list(names), n=1)
    return matches[0] if matches else None


def one_of(names: Iterable[str]) -> str:
    """Names for a message, in the order given."""
    return ", ".join(names) or "(none)"


def unknown(path: Path, what: str, name: str, names: Iterable[str]) -> Problem:
    """``name`` is none of ``names``, which stand in section ``what``."""
    names = list(names)
    near = closest(name, names)
    do = f"did you mean {near!r}?" if near else f"name one of these or add {name!r} to {what}"
    return Problem(path, f"a name from {what} ({one_of(names)})", repr(name), do)
