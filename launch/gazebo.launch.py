"""GR00T and its evaluation beside Gazebo, which runs already, with ros2_control in the simulation and bridged cameras.

    ros2 launch groot_ros gazebo.launch.py embodiment:=my_robot.yaml checkpoint:=~/runs/pick output:=~/report

The robot's YAML names controller and cameras; the task's success comes from a node of yours.
docs/gazebo.md. Not run where this package is tested.
"""

from __future__ import annotations

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution, ThisLaunchFileDir

# name: (default, description). Handed on to evaluate.launch.py.
ARGUMENTS: dict[str, tuple[str, str]] = {
    "namespace": ("", "Namespace of both nodes and their topics"),
    "embodiment": ("my_robot.yaml", "YAML file of the robot with the topics of the simulator"),
    "checkpoint": ("", "Checkpoint of the policy: directory or hub id; empty: a policy node runs already"),
    "device": ("auto", "Where the model runs: auto, cpu, cuda or cuda:N"),
    "output": ("", "New folder for report, episodes and videos"),
    "resume": ("false", "true: go on with the evaluation in output"),
    "episodes": ("20", "How many episodes to play"),
    "instruction": ("", "Given to the policy; empty: the default of the robot's YAML"),
    "time_limit_s": ("30.0", "Simulated time (s) until an episode has failed"),
    "reset_service": ("/gzserver/reset_simulation", "Service that begins an episode anew"),
    "reset_type": ("simulation_interfaces/srv/ResetSimulation", "Its type; groot_ros/srv/ResetEpisode takes a seed"),
    "success_topic": ("/task/success", "std_msgs/Bool, published all the time: false until the task is done"),
    "failure_topic": ("/task/failure", "std_msgs/String: why the task has failed; empty: none"),
    "distance_topic": ("/task/distance", "std_msgs/Float64: to the goal, in m; empty: none"),
    "use_sim_time": ("true", "true: time comes from the simulator's /clock"),
}


def generate_launch_description() -> LaunchDescription:
    """Policy node and evaluator; the simulator runs already."""
    evaluate = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(PathJoinSubstitution([ThisLaunchFileDir(), "evaluate.launch.py"])),
        launch_arguments=[("simulator", "false"), *((name, LaunchConfiguration(name)) for name in ARGUMENTS)],
    )
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*arguments, evaluate])
