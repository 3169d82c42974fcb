"""NVIDIA GR00T on ROS 2: from cameras, joints and an instruction to trajectory chunks."""

from __future__ import annotations

from pkgutil import extend_path

# A build puts the generated `groot_ros.msg` and `groot_ros.srv` beside the installed sources. Searching every
# `groot_ros` folder on sys.path lets a source tree, which has neither module, run together with what was built.
__path__ = extend_path(__path__, __name__)


def __getattr__(name: str) -> str:
    """`__version__`, read when asked for: package.xml is where the version is written."""
    if name == "__version__":
        from groot_ros.share import version

        return version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
