"""Parameters of ``/groot_evaluator``."""

from __future__ import annotations

from dataclasses import dataclass

from groot_ros.nodes.evaluator_inputs import RESETS
from groot_ros.nodes.parameters import parameter

VIDEOS = ("failures", "all", "none")


@dataclass(frozen=True)
class EvaluatorParameters:
    """Parameters of ``/groot_evaluator``; read once at the start. Names are in its namespace."""

    output: str = parameter("", "New folder for report, episodes and videos; required")
    resume: bool = parameter(False, "Go on with the evaluation in output: play the seeds that are missing")
    embodiment: str = parameter("sim_arm", "Robot whose camera is filmed: name in config/embodiments, or YAML file")
    episodes: int = parameter(100, "How many to play", unit="episodes", minimum=1, maximum=100000)
    seed: int = parameter(0, "Seed of the first one; each takes the next", minimum=0, maximum=2**31 - 1)
    task: str = parameter("", "For the reset service; empty: the simulator's own")
    instruction: str = parameter("", "Given to the policy; empty: what the reset answers, else what the policy has")
    time_limit_s: float = parameter(15.0, "ROS time until an episode has failed", unit="s", minimum=0.1, maximum=3600.0)
    reset_service: str = parameter("groot_sim/reset_episode", "Service that begins an episode anew")
    reset_type: str = parameter(
        "groot_ros/srv/ResetEpisode", "Its type; only the first one takes a seed", choices=(*RESETS,)
    )
    reset_timeout_s: float = parameter(60.0, "Until it has to answer", unit="s", minimum=0.1, maximum=3600.0)
    success_topic: str = parameter(
        "groot_sim/success", "std_msgs/Bool, published all the time: false until the task is done"
    )
    failure_topic: str = parameter(
        "groot_sim/failure", "std_msgs/String: why the task has failed; empty: no such topic"
    )
    distance_topic: str = parameter("groot_sim/distance", "std_msgs/Float64: to the goal, in m; empty: no such topic")
    policy: str = parameter("groot_policy", "Name of the policy node")
    start_timeout_s: float = parameter(
        300.0, "Until the policy node has to be active", unit="s", minimum=1.0, maximum=86400.0
    )
    camera: str = parameter(
        "", "Camera of the YAML that is filmed; empty: the last one, those of scene_cameras after all others"
    )
    videos: str = parameter("failures", "Which episodes get one; failures: and the first 3 successes", choices=VIDEOS)
    about: str = parameter(
        "", "JSON file with more facts for the report, as `groot-ros evaluate` writes it; empty: none"
    )
