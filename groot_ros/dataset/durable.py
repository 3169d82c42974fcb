"""Files that are on the disk when the function returns, whole or not at all.

A new file is durable once its content and its folder are synced; a rename once both folders are.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def sync_file(path: Path) -> None:
    """Wait until the content of a file is on the disk. Raises: OSError."""
    _sync(path, os.O_RDONLY)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk. Raises: OSError."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def make_folder(path: Path) -> None:
    """Make a folder and the missing ones above it. Raises: OSError."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir()
        sync_folder(folder.parent)


def write_file(path: Path, data: bytes, via: Path | None = None) -> None:
    """Replace a file at once: a reader sees the old content or the new, also after a crash.

    Args:
        via: folder on the same file system in which the new content, ``NAME.tmp``, is written before the rename, where
            no loader may meet a half file; made when missing, as that of ``path`` is then. Left out: beside it. The
            caller removes what a crash left there.

    Raises: OSError.
    """
    temporary = (via or path.parent) / f"{path.name}.tmp"
    for folder in () if via is None else (path.parent, via):
        make_folder(folder)
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)
    if temporary.parent != path.parent:
        sync_folder(temporary.parent)


def write_json(path: Path, content: Any, via: Path | None = None) -> None:
    """``write_file`` of ``json_bytes``. Raises: OSError, ValueError."""
    write_file(path, json_bytes(content), via)


def json_bytes(content: Any) -> bytes:
    """Content of a JSON file, indented. Raises: ValueError (a number is not finite)."""
    return (json.dumps(content, indent=4, allow_nan=False) + "\n").encode()


def json_line(content: Any) -> str:
    """One line of a jsonl file. ASCII only, so that no line break of Unicode is in it."""
    return json.dumps(content, allow_nan=False) + "\n"


def sync_tree(root: Path) -> None:
    """Wait until everything under a folder is on the disk. Raises: OSError."""
    for folder, _, names in os.walk(root):
        for name in names:
            sync_file(Path(folder, name))
        sync_folder(Path(folder))


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
