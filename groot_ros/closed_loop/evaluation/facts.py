"""What an evaluation was made with: versions, machine, revision of the code."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from groot_ros.closed_loop.summary import machine_name
from groot_ros.share import share_directory
from groot_ros.share import version as own_version

PACKAGES = ("torch", "transformers", "numpy", "mujoco", "rclpy")


def made_with() -> dict[str, Any]:
    """Date, machine and versions; what is not installed is left out."""
    versions = {"groot_ros": own_version(), "python": platform.python_version()}
    revision = _revision(share_directory())
    if revision:
        versions["groot_ros"] += f" ({revision})"
    for name in PACKAGES:
        found = _version(name)
        if found:
            versions[name] = found
    if os.environ.get("ROS_DISTRO"):
        versions["ROS 2"] = os.environ["ROS_DISTRO"]
    return {
        "begun": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "machine": machine_name(),
        "versions": ", ".join(f"{name} {text}" for name, text in versions.items()),
    }


def _version(package: str) -> str:
    for name in (package, f"ros-{os.environ.get('ROS_DISTRO', 'kilted')}-{package}"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return ""


def _revision(folder: Path) -> str:
    """Of the source tree, with -dirty when it was changed; empty outside of one."""
    if not (folder / ".git").exists():
        return ""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
