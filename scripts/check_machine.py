"""Say what a machine lacks for building the messages, before anything is downloaded."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import sysconfig
from pathlib import Path


def problems() -> list[str]:
    """What is missing, each with the command that mends it on Debian and Ubuntu."""
    found = []
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        version = ".".join(map(str, sys.version_info[:3]))
        found.append(f"{sys.executable} is Python {version}; expected 3.10 to 3.12: make env PYTHON=python3.11")
    if importlib.util.find_spec("ensurepip") is None:
        found.append("Python has no ensurepip, which a venv needs: apt-get install python3-venv")
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    if not header.is_file():
        found.append(f"{header} is missing, which the messages compile against: apt-get install python3-dev")
    for names, package in ((("c++", "g++", "clang++"), "g++"), (("cc", "gcc", "clang"), "gcc")):
        if not any(map(shutil.which, names)):
            found.append(f"none of {', '.join(names)} on PATH: apt-get install {package}")
    return found


if __name__ == "__main__":
    if found := problems():
        sys.exit("\n".join(["groot_ros cannot be built on this machine:", *(f"  * {line}" for line in found)]))
