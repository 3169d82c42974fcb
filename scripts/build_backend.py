"""PEP 517 backend: setuptools, with the build requirements of setup.cfg's extra `build`.

They depend on the ROS 2 distribution (DISTRO) and on whether one is installed, which a static list cannot say.
"""

from __future__ import annotations

from typing import Any

from requirements import chosen_distro, requirements, ros_is_sourced
from setuptools import build_meta
from setuptools.build_meta import (  # noqa: F401  (the hooks that pip calls)
    build_editable,
    build_sdist,
    build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)


def _build_requirements() -> list[str]:
    return requirements(["build"], chosen_distro(), with_base=False, ros=not ros_is_sourced())


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """What pip installs into the isolated environment of `pip install .`."""
    return build_meta.get_requires_for_build_wheel(config_settings) + _build_requirements()


def get_requires_for_build_editable(config_settings: dict[str, Any] | None = None) -> list[str]:
    """What pip installs into the isolated environment of `pip install -e .`."""
    return build_meta.get_requires_for_build_editable(config_settings) + _build_requirements()


def get_requires_for_build_sdist(config_settings: dict[str, Any] | None = None) -> list[str]:
    """An sdist is packed without building the messages."""
    return build_meta.get_requires_for_build_sdist(config_settings)
