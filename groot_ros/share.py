"""Where this package's files beside the code are (config/, launch/, package.xml), and the version."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

_PACKAGE = "groot_ros"


def share_directories() -> Iterator[Path]:
    """Folders that may hold config/ and package.xml, best first: the source tree, then share/groot_ros of each prefix.

    Works without a sourced ROS 2: the prefix that this code is installed in is tried before AMENT_PREFIX_PATH.
    """
    here = Path(__file__).resolve().parent
    yield here.parent
    # .../PREFIX/lib/python3.11/site-packages/groot_ros, on Debian .../PREFIX/local/lib/python3.10/dist-packages/...
    prefixes = [*here.parents[2:6], *map(Path, filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)))]
    for prefix in (*prefixes, Path(sys.prefix)):
        yield prefix / "share" / _PACKAGE


def share_directory() -> Path:
    """The folder with package.xml, config/ and launch/ of the code that runs.

    Raises FileNotFoundError naming the folders looked at when none has a package.xml.
    """
    candidates = list(share_directories())
    for folder in candidates:
        if (folder / "package.xml").is_file():
            return folder
    raise FileNotFoundError(f"no package.xml of {_PACKAGE} in any of: {', '.join(map(str, candidates))}")


def version() -> str:
    """The version of the code that runs, as its package.xml states it; ValueError names a file that states none."""
    path = share_directory() / "package.xml"
    found = re.search(r"<version>\s*([^<\s]+)\s*</version>", path.read_text(encoding="utf-8"))
    if found is None:
        raise ValueError(f"{path}: no <version> element")
    return found.group(1)
