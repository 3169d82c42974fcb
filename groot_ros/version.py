"""The version of this package, from the one place it is written: `package.xml`."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

_PACKAGE = "groot_ros"


def read_package_xml(path: Path) -> str:
    """The `<version>` of a package.xml; ValueError names the file when there is none."""
    found = re.search(r"<version>\s*([^<\s]+)\s*</version>", path.read_text(encoding="utf-8"))
    if found is None:
        raise ValueError(f"{path}: no <version> element")
    return found.group(1)


def version() -> str:
    """Version of the code that runs: a source tree's package.xml, else the installed share/groot_ros/package.xml.

    Raises FileNotFoundError naming the places looked at when there is no package.xml.
    """
    here = Path(__file__).resolve().parent
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    # .../lib/python3.11/site-packages/groot_ros: the prefix is four folders up, the same with dist-packages.
    candidates = [here.parent / "package.xml"]
    candidates += [p / "share" / _PACKAGE / "package.xml" for p in (*here.parents[2:6], *prefixes, Path(sys.prefix))]
    for path in candidates:
        if path.is_file():
            return read_package_xml(path)
    raise FileNotFoundError(f"no package.xml of {_PACKAGE} in any of: {', '.join(map(str, candidates))}")
