"""Reading JSON that may be damaged: what cannot be read becomes a problem, never an exception."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from groot_ros.dataset.check.report import Findings


def read_text(root: Path, file: Path, found: Findings, missing: str | None, hint: str = "") -> str | None:
    """Text of ``file``; None, and a problem, when that is impossible.

    Args:
        missing: code of the problem when there is no such file; None when it may be absent.
        hint: what to do when it is missing.
    """
    try:
        return (root / file).read_text(encoding="utf-8")
    except FileNotFoundError:
        if missing:
            found.add(missing, file, f"expected the file, found none{hint and ': '}{hint}")
    except UnicodeDecodeError as error:
        found.add("json_damaged", file, f"expected UTF-8 text, found byte {error.start} that is none: {_RESTORE}")
    except OSError as error:
        found.add("json_damaged", file, f"expected a readable file, found {error.strerror or error}: {_RESTORE}")
    found.damaged.add(str(file))
    return None


def read_json(root: Path, file: Path, found: Findings, missing: str | None = "missing_file", hint: str = "") -> Any:
    """The object in ``file``; None, and a problem, when there is none. The rest as ``read_text``."""
    text = read_text(root, file, found, missing, hint)
    if text is None:
        return None
    data = _parsed(text, lambda what: found.add("json_damaged", file, f"expected a JSON object, {what}: {_RESTORE}"))
    if data is None:
        found.damaged.add(str(file))
    return data


def read_jsonl(
    root: Path, file: Path, found: Findings, missing: str | None = "missing_file", hint: str = ""
) -> list[tuple[str, dict[str, Any]]]:
    """(``file:line``, object) of every line that can be read; each other line is a problem."""
    text = read_text(root, file, found, missing, hint)
    if text is None:
        return []
    lines = text.split("\n")
    rows = []
    ended = lines[-1] == ""
    for number, line in enumerate(lines[:-1] if ended else lines, start=1):
        where = f"{file}:{number}"
        torn = not ended and number == len(lines)

        def damaged(what: str, where: str = where, torn: bool = torn) -> None:
            do = "remove what a crash left of it with `groot-ros dataset repair`" if torn else _RESTORE
            found.add("jsonl_damaged", where, f"expected a JSON object, {what}: {do}")

        data = _parsed(line, damaged)
        if data is None:
            found.damaged.add(str(file))
        else:
            rows.append((where, data))
    return rows


_RESTORE = "restore it from a copy; `groot-ros dataset repair` says what it can make anew"


def _parsed(text: str, damaged: Callable[[str], None]) -> dict[str, Any] | None:
    if not text.strip():
        damaged("found nothing")
        return None
    try:
        data = json.loads(text)
    except RecursionError:
        damaged("found lists within lists without end")
        return None
    except ValueError as error:
        damaged(f"found text that is none ({error})")
        return None
    if not isinstance(data, dict):
        damaged(f"found {type(data).__name__}")
        return None
    return data
