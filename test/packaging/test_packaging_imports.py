"""The rules of the house about who imports what, read from the sources and tried in fresh interpreters."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "groot_ros"

# Rooms that work without ROS 2 and without PyTorch.
PURE = ("embodiment", "observation", "control", "dataset")
# Rooms of the model, and all that they may import beside the standard library.
MODEL = ("model", "processing")
MODEL_MAY_IMPORT = {
    *("torch", "transformers", "safetensors", "tokenizers", "huggingface_hub", "flash_attn"),
    *("numpy", "cv2", "PIL", "groot_ros"),
}


def sources(*rooms: str) -> list[Path]:
    return sorted(path for room in rooms for path in (PACKAGE / room).rglob("*.py"))


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of all imports in a file, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module


def found(paths: list[Path], forbidden: set[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line}: imports {module}"
        for path in paths
        for line, module in imported_modules(path)
        if module.split(".")[0] in forbidden
    ]


def test_only_nodes_import_rclpy() -> None:
    elsewhere = [path for path in PACKAGE.rglob("*.py") if "nodes" not in path.relative_to(PACKAGE).parts]
    assert elsewhere and not found(elsewhere, {"rclpy"})
    assert found(sources("nodes"), {"rclpy"}), "the check itself: no import of rclpy found in nodes/"


@pytest.mark.parametrize("room", PURE)
def test_pure_rooms_import_neither_ros_nor_torch(room: str) -> None:
    assert not found(sources(room), {"rclpy", "torch"})


@pytest.mark.parametrize("room", MODEL)
def test_model_rooms_import_only_what_a_model_needs(room: str) -> None:
    paths = sources(room)
    assert paths
    modules = {module.split(".")[0] for path in paths for _, module in imported_modules(path)}
    assert not found(paths, modules - MODEL_MAY_IMPORT - sys.stdlib_module_names)


@pytest.mark.parametrize("room", MODEL)
def test_model_rooms_use_no_other_room(room: str) -> None:
    rooms = {f"groot_ros.{name}" for name in MODEL}
    for path in sources(room):
        for line, module in imported_modules(path):
            if module.startswith("groot_ros."):
                assert ".".join(module.split(".")[:2]) in rooms, f"{path.relative_to(ROOT)}:{line}: imports {module}"


def modules_of(*rooms: str) -> list[str]:
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in sources(*rooms)
    ]


def loaded_after_import(modules: list[str]) -> set[str]:
    """Top-level modules that are loaded in a fresh interpreter once `modules` are imported."""
    code = "\n".join(
        [*(f"import {module}" for module in modules), "import sys", "print(*{n.split('.')[0] for n in sys.modules})"]
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        (modules_of(*PURE), {"rclpy", "torch", "transformers"}),
        (modules_of(*MODEL), {"rclpy", "pydantic", "mujoco"}),
        (["groot_ros.cli"], {"torch", "transformers", "rclpy", "mujoco", "matplotlib"}),
        (["groot_ros.nodes.policy"], {"torch", "transformers"}),
        (["groot_ros.nodes.simulator"], {"torch", "transformers"}),
    ],
    ids=["pure rooms", "model rooms", "command line", "policy node", "simulator node"],
)
def test_import_loads_no(modules: list[str], absent: set[str]) -> None:
    """Importing is quick and possible where those libraries are missing: they load when they are needed."""
    assert not loaded_after_import(modules) & absent
