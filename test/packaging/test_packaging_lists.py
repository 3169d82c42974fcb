"""The version, the executables and the requirements each stand in one place, and what is built agrees with it."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import groot_ros
from groot_ros.share import share_directories

ROOT = Path(__file__).resolve().parents[2]
SETUP_CFG = configparser.ConfigParser()
SETUP_CFG.read(ROOT / "setup.cfg", encoding="utf-8")

# Requirements of setup.cfg that rosdep knows, with the key that package.xml names. Ubuntu's opencv comes with
# python3-opencv whatever the wheel is called.
ROSDEP_KEYS = {"numpy": "python3-numpy", "opencv-python-headless": "python3-opencv", "pyyaml": "python3-yaml"}
# Those that a ROS machine gets from pip too: rosdep has no key, or the distribution's version is too old.
FROM_PIP = {
    "accelerate",
    "av",
    "huggingface-hub",
    "matplotlib",
    "mujoco",
    "peft",
    "pillow",
    "pyarrow",
    "pydantic",
    "rich",
    "rosbags",
    "safetensors",
    "tensorboard",
    "tokenizers",
    "torch",
    "transformers",
    "typer",
}
# Module that a distribution is imported as, where the names differ.
IMPORT_NAMES = {
    "huggingface-hub": "huggingface_hub",
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "pyyaml": "yaml",
}
# ROS packages that come with others of the list: interfaces that rclpy itself is built on.
WITH_RCLPY = {"builtin_interfaces", "rcl_interfaces"}
# Used where it is installed, never required.
OPTIONAL = {"cv_bridge", "flash_attn"}


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def runtime_requirements() -> list[Requirement]:
    """install_requires and the extras that `all` names."""
    extras = SETUP_CFG["options.extras_require"]
    names = re.fullmatch(r"groot_ros\[(.+)\]", extras["all"].strip()).group(1).split(",")
    texts = lines(SETUP_CFG["options"]["install_requires"]) + [line for n in names for line in lines(extras[n])]
    return [Requirement(text) for text in texts]


def python_and_ros_names() -> tuple[set[str], set[str]]:
    """Runtime requirements: PyPI names, and names of ROS packages."""
    names = [requirement.name for requirement in runtime_requirements()]
    ros = {name.removeprefix("ros-kilted-").replace("-", "_") for name in names if name.startswith("ros-kilted-")}
    return {canonicalize_name(name) for name in names if not name.startswith("ros-")}, ros


def package_xml() -> ElementTree.Element:
    return ElementTree.parse(ROOT / "package.xml").getroot()


def third_party_imports() -> Iterator[tuple[Path, str]]:
    """(file, top-level module) of every import in groot_ros that is neither the standard library nor groot_ros."""
    for path in sorted((ROOT / "groot_ros").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                modules = [node.module]
            for module in modules:
                top = module.split(".")[0]
                if top != "groot_ros" and top not in sys.stdlib_module_names:
                    yield path.relative_to(ROOT), top


# --- version ---------------------------------------------------------------------------------------------------


def test_version_is_package_xmls() -> None:
    stated = package_xml().findtext("version")
    assert re.fullmatch(r"\d+\.\d+\.\d+", stated)
    assert groot_ros.__version__ == stated
    assert importlib.metadata.version("groot_ros") == stated


@pytest.mark.parametrize("file", ["setup.py", "setup.cfg", "pyproject.toml", "CMakeLists.txt", "groot_ros/__init__.py"])
def test_version_is_not_repeated(file: str) -> None:
    assert package_xml().findtext("version") not in (ROOT / file).read_text(encoding="utf-8")


def test_unknown_attribute_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'groot_ros' has no attribute 'nothing'"):
        _ = groot_ros.nothing


# --- executables -----------------------------------------------------------------------------------------------


def console_scripts() -> dict[str, str]:
    return dict(
        re.fullmatch(r"([\w-]+) *= *([\w.:]+)", line).groups()
        for line in lines(SETUP_CFG["options.entry_points"]["console_scripts"])
    )


@pytest.mark.parametrize("name", console_scripts())
def test_executable_is_a_function_of_the_package(name: str) -> None:
    module, _, function = console_scripts()[name].partition(":")
    path = ROOT / (module.replace(".", "/") + ".py")
    assert path.is_file(), f"setup.cfg: {name} is {module}, and there is no {path.relative_to(ROOT)}"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (
        f"no {function}() in {path}"
    )


def test_every_node_module_with_a_main_is_an_executable() -> None:
    with_main = {
        f"groot_ros.nodes.{path.stem}:main"
        for path in (ROOT / "groot_ros" / "nodes").glob("*.py")
        if re.search(r"^def main\(", path.read_text(encoding="utf-8"), re.M)
    }
    assert with_main == {target for target in console_scripts().values() if ".nodes." in target}


def test_installed_executables_are_those_of_setup_cfg() -> None:
    """CMake reads the list out of setup.cfg."""
    folders = [share.parents[1] / "lib" / "groot_ros" for share in share_directories() if share.name == "groot_ros"]
    folder = next(folder for folder in folders if folder.is_dir())
    built = {path.name: path for path in folder.iterdir()}
    assert set(built) == set(console_scripts())
    assert all(os.access(path, os.X_OK) for path in built.values())


def test_pips_commands_are_those_of_setup_cfg() -> None:
    installed = [d for d in importlib.metadata.distributions(name="groot_ros") if d.read_text("entry_points.txt")]
    if not installed:
        pytest.skip("groot_ros is installed by colcon only, which makes no entry points")
    for distribution in installed:
        assert {point.name: point.value for point in distribution.entry_points} == console_scripts()


# --- requirements ----------------------------------------------------------------------------------------------


def test_every_import_is_required() -> None:
    python, ros = python_and_ros_names()
    known = {IMPORT_NAMES.get(name, name) for name in python} | ros | WITH_RCLPY | OPTIONAL
    unknown = sorted({f"{path}: {module}" for path, module in third_party_imports() if module not in known})
    assert not unknown, "imported, but in none of setup.cfg's lists"


def test_package_xml_names_the_same_requirements() -> None:
    python, ros = python_and_ros_names()
    depends = {e.text for e in package_xml() if e.tag in ("depend", "exec_depend")}
    launch = {"launch", "launch_ros", "ros2launch"}  # a ROS installation's only: PyPI has none of them
    assert python == set(ROSDEP_KEYS) | FROM_PIP
    assert depends == ros | launch | set(ROSDEP_KEYS.values())


def test_requirements_stand_in_setup_cfg_only() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert "ros-kilted" not in pyproject and "dependencies" not in pyproject
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "ros-kilted" not in makefile
    # The Makefile fetches PyTorch first, in one fixed version, which has to suit the list.
    pin = Requirement(re.search(r"^TORCH \?= (\S+?)#", makefile, re.M).group(1))
    (version,) = (specifier.version for specifier in pin.specifier)
    (wanted,) = (r for r in runtime_requirements() if r.name == pin.name)
    assert wanted.specifier.contains(version)


def requirements_script(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "requirements.py"), *arguments]
    env = {**os.environ, **environment}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("distro", ["kilted", "jazzy"])
def test_requirements_follow_the_distribution(distro: str) -> None:
    listed = requirements_script("all", "test", "build", "colcon", DISTRO=distro)
    assert listed.returncode == 0, listed.stderr
    texts = listed.stdout.splitlines()
    ros = [text for text in texts if text.startswith("ros-")]
    assert len(ros) > 30 and all(text.startswith(f"ros-{distro}-") for text in ros)
    assert len(set(texts)) == len(texts)
    names = {Requirement(text).name for text in texts}
    assert {"numpy", "torch", "mujoco", "pytest", "cmake", "colcon-core"} <= names


@pytest.mark.parametrize(("major", "accepted", "refused"), [("4", "4.57.6", "5.0.0"), ("5", "5.0.0", "4.57.6")])
def test_requirements_pin_one_transformers(major: str, accepted: str, refused: str) -> None:
    texts = requirements_script("model", "--transformers", major).stdout.splitlines()
    (pin,) = (r for r in map(Requirement, texts) if r.name == "transformers")
    assert pin.specifier.contains(accepted) and not pin.specifier.contains(refused)


@pytest.mark.parametrize(("is_installation", "wheels"), [(True, False), (False, True)])
def test_requirements_leave_out_what_a_sourced_ros_brings(tmp_path: Path, is_installation: bool, wheels: bool) -> None:
    """An environment with the wheels may be in AMENT_PREFIX_PATH too; only an installation has setup files."""
    (tmp_path / "share" / "rclpy").mkdir(parents=True)
    if is_installation:
        (tmp_path / "local_setup.sh").touch()
    names = requirements_script("build", AMENT_PREFIX_PATH=str(tmp_path)).stdout.splitlines()
    assert "numpy" in names
    assert any(name.startswith("ros-") for name in names) is wheels


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ([], {"DISTRO": "humble"}, "DISTRO=humble: expected one of kilted, jazzy"),
        (["modle"], {}, "no extra 'modle'; there are model, sim"),
    ],
)
def test_requirements_refuse_by_name(arguments: list[str], environment: dict[str, str], message: str) -> None:
    result = requirements_script(*arguments, **environment)
    assert result.returncode != 0
    assert message in result.stderr


# --- make ------------------------------------------------------------------------------------------------------


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`make` in the project folder, without the variables of a make that runs these tests."""
    env = {
        k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "DISTRO", "TRANSFORMERS")
    }
    return subprocess.run(["make", "-C", str(ROOT), *arguments], env=env, capture_output=True, text=True, check=False)


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"^\.PHONY: (.+)$", makefile, re.M).group(1).split()
    printed = make("help").stdout
    for target in targets:
        assert re.search(rf"^  {target} +\S", printed, re.M), f"`make help` does not tell what {target} does"


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        (["DISTRO=jazzy"], ".venv-jazzy"),
        (["TRANSFORMERS=5"], ".venv-transformers5"),
        (["DISTRO=jazzy", "TRANSFORMERS=5"], ".venv-jazzy-transformers5"),
    ],
)
def test_make_uses_an_environment_per_choice(variables: list[str], folder: str) -> None:
    planned = make("-n", "test", "ARGS=-k golden", *variables)
    assert planned.returncode == 0, planned.stderr
    assert f"{ROOT}/{folder}/bin/python -m pytest -k golden" in planned.stdout


@pytest.mark.parametrize("variable", ["DISTRO=humble", "TRANSFORMERS=3"])
def test_make_refuses_an_unknown_choice(variable: str) -> None:
    result = make("env", variable)
    assert result.returncode != 0
    assert f"{variable}: expected" in result.stderr
