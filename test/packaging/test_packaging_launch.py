"""The launch files: arguments, executables, and parameters that the nodes have.

ROS 2's launch is in no package registry, so the files are also run against stand-ins that record what is asked of it.
"""

from __future__ import annotations

import ast
import configparser
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAUNCH_FILES = sorted((ROOT / "launch").glob("*.launch.py"))
# What launch_ros.actions calls a process that is a node.
NODES = ("Node", "LifecycleNode")
# Node parameters that have another launch argument than the one of their name: the simulator's clock is for all.
RENAMED = {"publish_clock": "use_sim_time"}


class Recorded:
    """Stands for any class of launch: keeps what it was made with."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs


class StandIn(ModuleType):
    """A module whose every capitalised attribute is a class of that name."""

    def __getattr__(self, name: str) -> type[Recorded]:
        if not name[0].isupper():
            raise AttributeError(name)
        kind = type(name, (Recorded,), {})
        setattr(self, name, kind)
        return kind


def imported(path: Path) -> Iterator[str]:
    """Dotted names of the modules a launch file imports from."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.name.replace(".", "_"), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=LAUNCH_FILES, ids=lambda path: path.name)
def launch_file(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def entities(launch_file: Path, monkeypatch: pytest.MonkeyPatch) -> list[Recorded]:
    """What the launch file puts into its LaunchDescription, of stand-ins."""
    names = {name for path in LAUNCH_FILES for name in imported(path)}  # of those that it includes too
    modules = {name for name in names if name.split(".")[0] in ("launch", "launch_ros")}
    for name in modules | {name.split(".")[0] for name in modules}:
        monkeypatch.setitem(sys.modules, name, StandIn(name))
    (description,) = load(launch_file).generate_launch_description().args
    return description


def of_kind(entities: list[Recorded], *names: str) -> list[Recorded]:
    return [entity for entity in entities if type(entity).__name__ in names]


def declared(entities: list[Recorded]) -> dict[str, dict[str, Any]]:
    return {entity.args[0]: entity.kwargs for entity in of_kind(entities, "DeclareLaunchArgument")}


def handed_on(include: Recorded) -> set[str]:
    return {argument for argument, _ in include.kwargs["launch_arguments"]}


def included_by(include: Recorded) -> list[Recorded]:
    """What the included launch file puts into its LaunchDescription."""
    (_, name) = include.args[0].args[0].args[0]
    (description,) = load(ROOT / "launch" / name).generate_launch_description().args
    return description


def declared_below(entities: list[Recorded]) -> set[str]:
    """Arguments of a launch file and of all that it includes, without those that it gives these itself."""
    names = set(declared(entities))
    for include in of_kind(entities, "IncludeLaunchDescription"):
        names |= declared_below(included_by(include)) - handed_on(include)
    return names


def configurations(value: Any) -> set[str]:
    """Names of the launch configurations that a value refers to."""
    if isinstance(value, Recorded):
        own = {value.args[0]} if type(value).__name__ == "LaunchConfiguration" else set()
        return own | configurations(list(value.args)) | configurations(value.kwargs)
    if isinstance(value, dict):
        return configurations(list(value.items()))
    if isinstance(value, (list, tuple)):
        return set().union(*map(configurations, value))
    return set()


def node_parameters(module: str) -> dict[str, ast.expr]:
    """Parameter name -> default of the `*Parameters` dataclass in groot_ros/nodes/MODULE.py, or in
    MODULE_parameters.py beside it, read without rclpy."""
    nodes = ROOT / "groot_ros" / "nodes"
    files = [path for path in (nodes / f"{module}.py", nodes / f"{module}_parameters.py") if path.exists()]
    classes = [node for path in files for node in ast.parse(path.read_text(encoding="utf-8")).body]
    (kind,) = (n for n in classes if isinstance(n, ast.ClassDef) and n.name.endswith("Parameters"))
    found = {}
    for field in kind.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.value, ast.Call):
            found[field.target.id] = field.value.args[0]
    return found


def module_of(executable: str) -> str:
    """policy for policy_node, as setup.cfg maps it."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    scripts = dict(
        line.replace(" ", "").split("=")
        for line in config["options.entry_points"]["console_scripts"].strip().splitlines()
    )
    assert executable in scripts, f"{executable} is no executable; setup.cfg has {', '.join(scripts)}"
    return scripts[executable].split(":")[0].split(".")[-1]


def test_there_are_launch_files() -> None:
    assert {path.name for path in LAUNCH_FILES} >= {
        *("policy.launch.py", "record.launch.py", "sim.launch.py"),
        *("evaluate.launch.py", "isaac_sim.launch.py", "gazebo.launch.py"),
    }


def test_every_argument_is_described_and_used(entities: list[Recorded]) -> None:
    arguments = declared(entities)
    assert arguments
    for name, kwargs in arguments.items():
        assert isinstance(kwargs["default_value"], str), name
        assert len(kwargs["description"]) > 10, name
    others = [entity for entity in entities if type(entity).__name__ != "DeclareLaunchArgument"]
    assert configurations(others) == set(arguments)


def test_nodes_are_executables_with_those_parameters(launch_file: Path, entities: list[Recorded]) -> None:
    nodes = of_kind(entities, *NODES)
    assert nodes or of_kind(entities, "IncludeLaunchDescription")
    for node in nodes:
        assert node.kwargs["package"] == "groot_ros"
        module = module_of(node.kwargs["executable"])
        (parameters,) = node.kwargs["parameters"]
        known = set(node_parameters(module)) | {"use_sim_time"}
        assert set(parameters) <= known, f"{launch_file.name}: not parameters of nodes/{module}.py"
        for name, value in parameters.items():
            assert configurations(value) in ({name}, {RENAMED.get(name)}), name


def test_defaults_are_of_the_stated_type(entities: list[Recorded]) -> None:
    arguments = declared(entities)
    for node in of_kind(entities, *NODES):
        for name, value in node.kwargs["parameters"][0].items():
            (argument,) = configurations(value)
            default, kind = arguments[argument]["default_value"], value.kwargs["value_type"]
            if kind is bool:
                assert default in ("true", "false"), name
            else:
                kind(default)


OWN_DEFAULTS = {
    "policy": ("embodiment", "device", "dtype", "control_rate_hz", "chunking", "dry_run", "start_on_activate"),
    "recorder": ("embodiment", "dataset", "task", "drop_policy", "codec", "min_free_gb"),
    "evaluator": (
        *("output", "resume", "episodes", "seed", "task", "instruction", "time_limit_s", "videos"),
        *("reset_service", "reset_type", "success_topic", "failure_topic", "distance_topic"),
    ),
}


@pytest.mark.parametrize(("node", "name"), [(node, name) for node, names in OWN_DEFAULTS.items() for name in names])
def test_a_launch_file_has_the_nodes_own_defaults(node: str, name: str) -> None:
    files = {"policy": "policy.launch.py", "recorder": "record.launch.py", "evaluator": "evaluate.launch.py"}
    file = files[node]
    tree = ast.parse((ROOT / "launch" / file).read_text(encoding="utf-8"))
    (table,) = (n.value for n in tree.body if isinstance(n, ast.AnnAssign) and n.target.id == "PARAMETERS")
    rows = {key.value: row.elts[0].value for key, row in zip(table.keys, table.values, strict=True)}
    default = ast.literal_eval(node_parameters(node)[name])
    assert rows[name] == (str(default).lower() if isinstance(default, bool) else str(default))


def test_included_launch_files_exist_and_know_what_they_are_given(entities: list[Recorded]) -> None:
    for include in of_kind(entities, "IncludeLaunchDescription"):
        assert handed_on(include) <= set(declared(included_by(include)))


def test_no_included_file_takes_what_it_was_not_given(entities: list[Recorded]) -> None:
    """Launch arguments are seen by all included files: one of the same name would be taken over silently."""
    includes = of_kind(entities, "IncludeLaunchDescription")
    for include in includes:
        seen = set(declared(entities)).union(*(handed_on(other) for other in includes if other is not include))
        assert declared_below(included_by(include)) & seen <= handed_on(include)


@pytest.mark.parametrize("launch_file", [ROOT / "launch" / "evaluate.launch.py"], indirect=True)
def test_an_evaluation_starts_one_policy_that_does_not_move_by_itself(entities: list[Recorded]) -> None:
    (policy,) = of_kind(entities, "IncludeLaunchDescription")
    assert dict(policy.kwargs["launch_arguments"])["start_on_activate"] == "false"
    assert {node.kwargs["executable"] for node in of_kind(entities, *NODES)} == {"simulator_node", "evaluator_node"}


def test_with_ros_launch(launch_file: Path) -> None:
    """Where ROS 2's launch is installed: the real classes take what the file gives them."""
    pytest.importorskip("launch_ros")
    description = load(launch_file).generate_launch_description()
    arguments = {argument.name: argument for argument in description.get_launch_arguments()}
    assert {"namespace", "embodiment", "checkpoint"} <= set(arguments)
    assert all(argument.description for argument in arguments.values())
