"""The reference page of all ROS parameters, out of the dataclasses that declare them."""

from __future__ import annotations

from typing import Any

from groot_ros.nodes.evaluator_parameters import EvaluatorParameters
from groot_ros.nodes.parameters import reference_rows
from groot_ros.nodes.policy_parameters import PolicyParameters
from groot_ros.nodes.record_keys import RecordKeysParameters
from groot_ros.nodes.recorder_parameters import RecorderParameters
from groot_ros.nodes.simulator import SimulatorParameters

PAGES: dict[str, type[Any]] = {
    "/groot_policy": PolicyParameters,
    "/groot_recorder": RecorderParameters,
    "/record_keys": RecordKeysParameters,
    "/groot_evaluator": EvaluatorParameters,
    "/groot_sim": SimulatorParameters,
}
HEAD = """# Parameters

    ros2 run groot_ros policy_node --ros-args -p embodiment:=sim_arm -p checkpoint:=/tmp/tiny -p autostart:=true

Generated from the code by `groot-ros docs parameters`. `/groot_policy` and `/groot_recorder` read theirs on
configure, `task` on every start.
"""


def parameters_page() -> str:
    """Markdown with one table per node."""
    parts = [HEAD]
    for node, kind in PAGES.items():
        parts.append(f"\n## `{node}`\n\n| name | type | default | range, unit | meaning |\n|---|---|---|---|---|\n")
        for name, type_name, default, bounds, text in reference_rows(kind):
            parts.append(f"| `{name}` | {type_name} | `{default}` | {bounds} | {text} |\n")
    return "".join(parts)
