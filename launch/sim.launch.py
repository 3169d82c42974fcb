"""The simulated arm: `ros2 launch groot_ros sim.launch.py`, and with `checkpoint:=DIR` GR00T that moves it."""

from __future__ import annotations

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution, PythonExpression, ThisLaunchFileDir
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

# name: (default, type, description). Every one is a parameter of the simulator node, under the same name.
PARAMETERS: dict[str, tuple[str, type, str]] = {
    "embodiment": ("sim_arm", str, "Robot to be: name of a file in config/embodiments, or path of such a YAML file"),
    "seed": ("0", int, "Seed of the scene"),
    "publish_clock": ("true", bool, "true: publish /clock, and the policy node takes its time from it"),
}
# name: (default, description). Handed on to policy.launch.py.
POLICY: dict[str, tuple[str, str]] = {
    "checkpoint": ("", "Checkpoint of the policy: directory or hub id; empty: the simulator alone"),
    "instruction": ("", "First instruction; empty: the embodiment's default"),
    "device": ("auto", "Where the model runs: auto, cpu, cuda or cuda:N"),
    "start_on_activate": ("true", "true: move as soon as active; false: wait for the service ~/start"),
}


def generate_launch_description() -> LaunchDescription:
    """The simulator node /groot_sim and, with a checkpoint, the policy node."""
    descriptions = {name: (default, text) for name, (default, _, text) in PARAMETERS.items()} | POLICY
    arguments = [
        DeclareLaunchArgument("namespace", default_value="", description="Namespace of both nodes and their topics"),
    ]
    for name, (default, description) in descriptions.items():
        arguments.append(DeclareLaunchArgument(name, default_value=default, description=description))
    simulator = Node(
        package="groot_ros",
        executable="simulator_node",
        name="groot_sim",
        namespace=LaunchConfiguration("namespace"),
        output="screen",
        emulate_tty=True,
        parameters=[
            {
                name: ParameterValue(LaunchConfiguration(name), value_type=kind)
                for name, (_, kind, _) in PARAMETERS.items()
            }
        ],
    )
    handed_on = {name: LaunchConfiguration(name) for name in ("namespace", "embodiment", *POLICY)}
    policy = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(PathJoinSubstitution([ThisLaunchFileDir(), "policy.launch.py"])),
        launch_arguments=[*handed_on.items(), ("use_sim_time", LaunchConfiguration("publish_clock"))],
        condition=IfCondition(PythonExpression(["'", LaunchConfiguration("checkpoint"), "' != ''"])),
    )
    return LaunchDescription([*arguments, simulator, policy])
