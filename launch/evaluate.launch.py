"""Seeded episodes in closed loop, with a report: simulator, policy and evaluator, or the evaluator beside what runs.

    ros2 launch groot_ros evaluate.launch.py checkpoint:=~/runs/reach task:=reach_one output:=~/evaluations/reach

`simulator:=false` leaves out the embedded simulator, an empty `checkpoint` the policy node. docs/evaluation.md.
"""

from __future__ import annotations

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, Shutdown
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution, PythonExpression, ThisLaunchFileDir
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

# name: (default, type, description). Every one is a parameter of the evaluator node, under the same name.
PARAMETERS: dict[str, tuple[str, type, str]] = {
    "output": ("", str, "New folder for report, episodes and videos"),
    "resume": ("false", bool, "true: go on with the evaluation in output: play the seeds that are missing"),
    "embodiment": ("sim_tabletop", str, "Robot: name of a file in config/embodiments, or path of such a YAML file"),
    "episodes": ("100", int, "How many episodes to play"),
    "seed": ("0", int, "Seed of the first episode; each takes the next"),
    "task": ("", str, "For the reset service; empty: the simulator's own"),
    "instruction": ("", str, "Given to the policy; empty: what the reset answers, else what the policy has"),
    "time_limit_s": ("15.0", float, "ROS time (s) until an episode has failed"),
    "reset_service": ("groot_sim/reset_episode", str, "Service that begins an episode anew"),
    "reset_type": ("groot_ros/srv/ResetEpisode", str, "Its type; only this one takes a seed and a task"),
    "success_topic": ("groot_sim/success", str, "std_msgs/Bool, published all the time: false until it is done"),
    "failure_topic": ("groot_sim/failure", str, "std_msgs/String: why the task has failed; empty: none"),
    "distance_topic": ("groot_sim/distance", str, "std_msgs/Float64: to the goal, in m; empty: none"),
    "videos": ("failures", str, "Which episodes get a video: failures (and the first 3 successes), all, none"),
    "use_sim_time": ("true", bool, "true: time comes from /clock, which the embedded simulator publishes then"),
}
# name: (default, description). Handed on to policy.launch.py.
POLICY: dict[str, tuple[str, str]] = {
    "checkpoint": ("", "Checkpoint of the policy: directory or hub id; empty: a policy node runs already"),
    "device": ("auto", "Where the model runs: auto, cpu, cuda or cuda:N"),
}


def generate_launch_description() -> LaunchDescription:
    """The evaluator node /groot_evaluator, which ends everything when it is done; simulator and policy if wanted."""
    descriptions = {name: (default, text) for name, (default, _, text) in PARAMETERS.items()} | POLICY
    arguments = [
        DeclareLaunchArgument("namespace", default_value="", description="Namespace of all nodes and their topics"),
        DeclareLaunchArgument("simulator", default_value="true", description="true: start the embedded simulator"),
    ]
    for name, (default, description) in descriptions.items():
        arguments.append(DeclareLaunchArgument(name, default_value=default, description=description))
    evaluator = Node(
        package="groot_ros",
        executable="evaluator_node",
        name="groot_evaluator",
        namespace=LaunchConfiguration("namespace"),
        output="screen",
        emulate_tty=True,
        parameters=[
            {
                name: ParameterValue(LaunchConfiguration(name), value_type=kind)
                for name, (_, kind, _) in PARAMETERS.items()
            }
        ],
        on_exit=Shutdown(reason="the evaluation has ended"),
    )
    # Not by sim.launch.py: an included file sees the arguments of this one, and it would start a policy too.
    simulator = Node(
        package="groot_ros",
        executable="simulator_node",
        name="groot_sim",
        namespace=LaunchConfiguration("namespace"),
        output="screen",
        emulate_tty=True,
        parameters=[
            {
                "embodiment": ParameterValue(LaunchConfiguration("embodiment"), value_type=str),
                "seed": ParameterValue(LaunchConfiguration("seed"), value_type=int),
                "publish_clock": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
            }
        ],
        condition=IfCondition(LaunchConfiguration("simulator")),
    )
    handed_on = {
        name: LaunchConfiguration(name) for name in ("namespace", "embodiment", "instruction", "use_sim_time", *POLICY)
    }
    policy = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(PathJoinSubstitution([ThisLaunchFileDir(), "policy.launch.py"])),
        # It does not start to move: the evaluator starts and stops it.
        launch_arguments=[*handed_on.items(), ("start_on_activate", "false")],
        condition=IfCondition(PythonExpression(["'", LaunchConfiguration("checkpoint"), "' != ''"])),
    )
    return LaunchDescription([*arguments, simulator, policy, evaluator])
