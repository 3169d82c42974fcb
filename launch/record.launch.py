"""Demonstrations into a LeRobot dataset, with or without a policy that moves the robot.

    ros2 launch groot_ros record.launch.py embodiment:=so101 dataset:=~/demos/pick task:="pick up the red cube"

A launched process has no keyboard: `ros2 run groot_ros record_keys` in another terminal starts and saves episodes, or
a joystick does with `joy_topic:=/joy`. Beside a policy that runs, or that `checkpoint:=DIR` starts here, rows are
marked as an intervention while the policy does not move the robot.
"""

from __future__ import annotations

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution, PythonExpression, ThisLaunchFileDir
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterValue

# name: (default, type, description). Every one is a parameter of the recorder node, under the same name.
PARAMETERS: dict[str, tuple[str, type, str]] = {
    "embodiment": ("sim_arm", str, "Robot: name of a file in config/embodiments, or path of such a YAML file"),
    "dataset": ("", str, "Directory of the dataset: a new one, or one to append to"),
    "task": ("", str, "What is done in the episodes, in words; ~/task changes it"),
    "drop_policy": ("fail", str, "A tick without good samples: fail (abort the episode), split (begin another), flag"),
    "codec": ("auto", str, "H.264 encoder: auto (NVENC where it works), libx264 or h264_nvenc"),
    "min_free_gb": ("1.0", float, "Free space (GB) below which nothing is recorded"),
    "policy": ("groot_policy", str, "Policy node whose status marks interventions, once it is seen; empty: none"),
    "autostart": ("true", bool, "true: configure and activate by itself; false: a lifecycle manager does"),
    "use_sim_time": ("false", bool, "true: time comes from /clock, as with a simulator or a bag"),
}
# name: (default, description). Handed on to policy.launch.py.
POLICY: dict[str, tuple[str, str]] = {
    "checkpoint": ("", "Checkpoint of a policy to start beside the recorder; empty: none is started"),
    "device": ("auto", "Where the model runs: auto, cpu, cuda or cuda:N"),
}


def generate_launch_description() -> LaunchDescription:
    """The recorder node /groot_recorder and, when asked for, the joystick helper and the policy node."""
    descriptions = {name: (default, text) for name, (default, _, text) in PARAMETERS.items()} | POLICY
    arguments = [
        DeclareLaunchArgument("namespace", default_value="", description="Namespace of all nodes and their topics"),
        DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn, error or fatal"),
        DeclareLaunchArgument("joy_topic", default_value="", description="Joystick topic, such as joy; empty: none"),
    ]
    for name, (default, description) in descriptions.items():
        arguments.append(DeclareLaunchArgument(name, default_value=default, description=description))
    recorder = LifecycleNode(
        package="groot_ros",
        executable="recorder_node",
        name="groot_recorder",
        namespace=LaunchConfiguration("namespace"),
        output="screen",
        emulate_tty=True,
        parameters=[
            {
                name: ParameterValue(LaunchConfiguration(name), value_type=kind)
                for name, (_, kind, _) in PARAMETERS.items()
            }
        ],
        arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
    )
    joystick = Node(
        package="groot_ros",
        executable="record_keys",
        name="record_keys",
        namespace=LaunchConfiguration("namespace"),
        output="screen",
        parameters=[{"joy_topic": ParameterValue(LaunchConfiguration("joy_topic"), value_type=str)}],
        condition=_given("joy_topic"),
    )
    names = ("namespace", "log_level", "embodiment", "autostart", "use_sim_time", *POLICY)
    handed_on = {name: LaunchConfiguration(name) for name in names}
    policy = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(PathJoinSubstitution([ThisLaunchFileDir(), "policy.launch.py"])),
        launch_arguments=[*handed_on.items(), ("instruction", LaunchConfiguration("task"))],
        condition=_given("checkpoint"),
    )
    return LaunchDescription([*arguments, recorder, joystick, policy])


def _given(argument: str) -> IfCondition:
    return IfCondition(PythonExpression(["'", LaunchConfiguration(argument), "' != ''"]))
