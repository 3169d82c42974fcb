"""pip's way to build: the CMakeLists.txt that colcon uses builds the messages, and its installed files are packed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

NAME = "groot_ros"
HERE = Path(__file__).resolve().parent
PREFIX_PTH = 'import os, sys; os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)\n'
sys.path.insert(0, str(HERE / "scripts"))

from requirements import chosen_distro, requirements, ros_is_sourced  # noqa: E402


def version() -> str:
    """The version that package.xml states."""
    return re.search(r"<version>(.+?)</version>", (HERE / "package.xml").read_text(encoding="utf-8")).group(1)


def ros_prefixes() -> list[str]:
    """Prefixes that hold ROS 2: of a sourced installation first, then of the wheels on sys.path."""
    found = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    for entry in map(Path, sys.path):
        if entry.name == "site-packages":
            prefix = str(entry.parents[2])
            if os.path.isdir(os.path.join(prefix, "share", "ament_index")) and prefix not in found:
                found.append(prefix)
    if not found:
        raise SystemExit(
            f"{NAME}: no ROS 2 found. Source an installation, or let pip build in isolation (the default)."
        )
    return found


def cmake_install(build_dir: Path, stage: Path) -> None:
    """Build CMakeLists.txt in `build_dir` and install it into `stage`."""
    prefixes = ros_prefixes()
    # The interpreter's own cmake, ninja and rosidl before those of the machine, also when its venv is not activated.
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    env = dict(os.environ, AMENT_PREFIX_PATH=os.pathsep.join(prefixes), PATH=path)
    configure = [
        "cmake", "-S", HERE, "-B", build_dir,
        f"-DCMAKE_INSTALL_PREFIX={stage}",
        f"-DCMAKE_PREFIX_PATH={';'.join(prefixes)}",
        f"-DPython3_EXECUTABLE={sys.executable}",
        "-DCMAKE_BUILD_TYPE=Release",
        "-DBUILD_TESTING=OFF",
    ]  # fmt: skip
    if shutil.which("ninja", path=path):
        configure += ["-G", "Ninja"]
    for command in (configure, ["cmake", "--build", build_dir, "--target", "install"]):
        words = [shutil.which("cmake", path=path) or "cmake", *map(str, command[1:])]
        status = subprocess.run(words, env=env, check=False).returncode
        if status:  # SystemExit, because setuptools hides other exceptions of an editable build
            raise SystemExit(f"{NAME}: exit status {status} of: {' '.join(words)}")


class BuildWithMessages(build_py):
    """build_py that adds groot_ros.msg and groot_ros.srv, their libraries and share/ to what is packed.

    An editable install (`pip install -e .`) packs the generated files only: the sources are found in the source tree,
    and `extend_path` in groot_ros/__init__.py joins the two.
    """

    def run(self) -> None:
        super().run()
        with tempfile.TemporaryDirectory(prefix="groot_ros_build_") as work:
            stage = Path(work, "stage")
            cmake_install(Path(work, "build"), stage)
            (messages,) = stage.glob(f"l*/**/{NAME}/msg/__init__.py")
            generated = messages.parents[1]
            # Data files are copied after this method has returned, so they need a place that lives on.
            kept = Path(self.get_finalized_command("build").build_temp).resolve() / "data"
            shutil.rmtree(kept, ignore_errors=True)
            for pattern in ("lib/*.so", f"lib/{NAME}/*", "share/**/*"):
                for path in filter(Path.is_file, stage.glob(pattern)):
                    copy(path, kept / path.relative_to(stage))
            if self.editable_mode:
                paths = sysconfig.get_paths()
                site = kept / os.path.relpath(paths["platlib"], paths["data"])
                package = site / NAME
                # Without sourcing anything, share/ look-ups of this environment's processes work.
                site.mkdir(parents=True)
                (site / f"{NAME}_prefix.pth").write_text(PREFIX_PTH, encoding="utf-8")
                packed = [*generated.glob("*.so"), *generated.glob("msg/**/*.py"), *generated.glob("srv/**/*.py")]
            else:
                package = Path(self.build_lib, NAME)
                packed = [path for path in generated.rglob("*") if path.suffix != ".c"]
            for path in filter(Path.is_file, packed):
                copy(path, package / path.relative_to(generated))
        data: dict[str, list[str]] = {}
        for path in sorted(filter(Path.is_file, kept.rglob("*"))):
            data.setdefault(str(path.parent.relative_to(kept)), []).append(str(path))
        self.distribution.data_files[:] = sorted(data.items())


def copy(source: Path, target: Path) -> None:
    """Copy a file with its mode, making the folders above it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


class CompiledDistribution(Distribution):
    """A distribution with compiled code, so that the wheel is for one platform and Python version."""

    def has_ext_modules(self) -> bool:
        return True

    def has_data(self) -> bool:
        """Asked by setuptools' editable_wheel only, before it runs install_data."""
        return bool(self.data_files)


setup(
    version=version(),
    # Read from setup.cfg as well, but for the distribution asked for and without what a sourced ROS 2 brings.
    install_requires=requirements([], chosen_distro(), ros=not ros_is_sourced()),
    cmdclass={"build_py": BuildWithMessages},
    distclass=CompiledDistribution,
    data_files=[],
)
