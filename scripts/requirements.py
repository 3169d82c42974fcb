"""Python requirements as pip takes them, out of the lists of setup.cfg.

    python scripts/requirements.py [--distro jazzy] [--transformers 5] [EXTRA ...]

prints install_requires and the extras named, one requirement a line. `ros-kilted-` becomes the distribution asked for;
where a ROS 2 installation is sourced, the ros-* ones are left out.
"""

from __future__ import annotations

import argparse
import configparser
import os
import re
from collections.abc import Iterable
from pathlib import Path

SETUP_CFG = Path(__file__).resolve().parents[1] / "setup.cfg"
DISTROS = ("kilted", "jazzy")


def chosen_distro() -> str:
    """The ROS 2 distribution whose wheels are used: the variable DISTRO, else kilted."""
    distro = os.environ.get("DISTRO") or DISTROS[0]
    if distro not in DISTROS:
        raise SystemExit(f"DISTRO={distro}: expected one of {', '.join(DISTROS)}, whose wheels PyPI has")
    return distro


def ros_is_sourced() -> bool:
    """True where a ROS 2 installation is in use, which then brings all ros-* requirements itself.

    An environment with the wheels may be in AMENT_PREFIX_PATH too, but only an installation has setup files.
    """
    prefixes = filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep))
    return any(Path(p, "share", "rclpy").is_dir() and Path(p, "local_setup.sh").is_file() for p in prefixes)


def requirements(extras: Iterable[str], distro: str, with_base: bool = True, ros: bool = True) -> list[str]:
    """Requirements of install_requires (if `with_base`) and of `extras`, in order, each once.

    `groot_ros[a,b]` within an extra means those extras. An extra NAME brings NAME_DISTRO along, for what only that
    distribution has. `ros=False` leaves out the ros-* wheels. SystemExit names an
    extra that setup.cfg does not have.
    """
    config = configparser.ConfigParser()
    config.read(SETUP_CFG, encoding="utf-8")
    lists = config["options.extras_require"]
    found: dict[str, None] = {}

    def add(text: str) -> None:
        for line in filter(None, (line.strip() for line in text.splitlines())):
            nested = re.fullmatch(r"groot_ros\[(.+)\]", line)
            if nested:
                for extra in nested.group(1).split(","):
                    add_extra(extra.strip())
            elif ros or not line.startswith("ros-"):
                found[line.replace("ros-kilted-", f"ros-{distro}-")] = None

    def add_extra(extra: str) -> None:
        if extra not in lists:
            raise SystemExit(f"{SETUP_CFG}: no extra {extra!r}; there are {', '.join(lists)}")
        add(lists[extra])
        add(lists.get(f"{extra}_{distro}", ""))

    if with_base:
        add(config["options"]["install_requires"])
    for extra in extras:
        add_extra(extra)
    return list(found)


def main() -> None:
    """Print the requirements that the command line asks for."""
    parser = argparse.ArgumentParser(description="Requirements of setup.cfg, one a line")
    parser.add_argument("extras", nargs="*", help="extras of setup.cfg to add to install_requires")
    parser.add_argument("--distro", default=chosen_distro(), choices=DISTROS)
    parser.add_argument("--transformers", default="4", choices=("4", "5"), help="major version to pin")
    args = parser.parse_args()
    pins = {"4": "transformers>=4.57,<5", "5": "transformers>=5,<6"}
    for line in requirements(args.extras, args.distro, ros=not ros_is_sourced()):
        print(pins[args.transformers] if re.match(r"transformers\b", line) else line)


if __name__ == "__main__":
    main()
