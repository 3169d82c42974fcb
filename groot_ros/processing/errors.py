"""The one error type of `groot_ros.processing`, and the small checks that raise it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class ProcessorError(ValueError):
    """A processor file, an observation or a model output that cannot be used.

    The message says where (file and key, or modality and key), what was expected, what was found and, where there is
    something to do, what to do. The parts are kept as attributes for callers that show them separately.
    """

    def __init__(self, where: str, expected: str, found: str, fix: str = "") -> None:
        self.where = where
        self.expected = expected
        self.found = found
        self.fix = fix
        message = f"{where}: expected {expected}; found {found}."
        super().__init__(f"{message} {fix}" if fix else message)


def describe(value: Any, limit: int = 80) -> str:
    """`repr` of a value, cut to `limit` characters, for error messages."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def listing(names: Any, limit: int = 40) -> str:
    """Names for an error message: comma separated, at most `limit` of them."""
    items = [str(name) for name in names]
    if not items:
        return "none"
    shown = ", ".join(items[:limit])
    return shown if len(items) <= limit else f"{shown}, ... ({len(items)} in all)"


def read_json_object(path: Path) -> dict[str, Any]:
    """Reads one JSON file whose top level is an object.

    Raises:
        ProcessorError: the file is missing, unreadable, not JSON (with line and column), or not an object.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ProcessorError(
            str(path), "a file of the GR00T checkpoint", "no such file", "Check the checkpoint directory."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ProcessorError(str(path), "a readable UTF-8 text file", str(error)) from error
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ProcessorError(
            f"{path}:{error.lineno}:{error.colno}", "valid JSON", error.msg, "The download may be incomplete."
        ) from error
    if not isinstance(value, dict):
        raise ProcessorError(str(path), "a JSON object", type(value).__name__)
    return value
