"""GR00T on a robot.

    ros2 launch groot_ros policy.launch.py embodiment:=oxe_droid checkpoint:=nvidia/GR00T-N1.7-DROID dry_run:=true

The checkpoint must know the robot's tag: a base model knows its own only (docs/embodiments.md, Robots).
"""

from __future__ import annotations

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue

# name: (default, type, description). Every one is a parameter of the node, under the same name. The node brings
# itself up: with `autostart` it configures and activates, with `start_on_activate` it also starts to move the robot.
PARAMETERS: dict[str, tuple[str, type, str]] = {
    "embodiment": ("sim_arm", str, "Robot: name of a file in config/embodiments, or path of such a YAML file"),
    "checkpoint": ("", str, "Checkpoint: a directory in NVIDIA's layout, or a hub id"),
    "instruction": ("", str, "First instruction; empty: the embodiment's default, else what comes on ~/instruction"),
    "device": ("auto", str, "Where the model runs: auto, cpu, cuda or cuda:N"),
    "dtype": ("auto", str, "Precision: auto (bfloat16 on a GPU, float32 on a CPU), bfloat16 or float32"),
    "tokenizer": ("", str, "Folder or hub id of the backbone's tokenizer; empty: the checkpoint's own"),
    "match_reference_bf16": ("false", bool, "true: round rotary frequencies as NVIDIA's N1.6 and N1.7 do"),
    "engine": ("true", bool, "true: the engine, where it agrees with the model; false: the model as it is loaded"),
    "graphs": ("true", bool, "true: the engine records CUDA graphs and replays them (on a GPU)"),
    "compile": ("false", bool, "true: torch.compile before that: a longer start (on a GPU)"),
    "precision": ("model", str, "model; fp8_weights or fp8 where `groot-ros precision` said that they passed"),
    "precision_file": ("", str, "Result of `groot-ros precision`; empty: the user's cache"),
    "pictures_on_device": ("false", bool, "true: resize and cut pictures on the GPU"),
    "keep_warm_s": ("1.0", float, "Run without effect after this time (s) without a request (on a GPU); 0.0: never"),
    "control_rate_hz": ("0.0", float, "Control ticks per second (Hz); 0.0: the YAML's control.rate_hz"),
    "chunking": ("", str, "guided, native, blend, ensemble, naive or sync; empty: the YAML's control.chunking"),
    "dry_run": ("false", bool, "true: infer and publish chunks, but send no command to the robot"),
    "autostart": ("true", bool, "true: configure and activate by itself; false: a lifecycle manager does"),
    "start_on_activate": ("false", bool, "true: move as soon as active; false: wait for the service ~/start"),
    "use_sim_time": ("false", bool, "true: time comes from /clock, as with a simulator or a bag"),
}


def generate_launch_description() -> LaunchDescription:
    """The policy node /groot_policy, or /NAMESPACE/groot_policy."""
    arguments = [
        DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node and its topics"),
        DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn, error or fatal"),
    ]
    for name, (default, _, description) in PARAMETERS.items():
        arguments.append(DeclareLaunchArgument(name, default_value=default, description=description))
    node = LifecycleNode(
        package="groot_ros",
        executable="policy_node",
        name="groot_policy",
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
    return LaunchDescription([*arguments, node])
