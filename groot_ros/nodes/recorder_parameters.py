"""Parameters of ``/groot_recorder``."""

from __future__ import annotations

from dataclasses import dataclass

from groot_ros.nodes.parameters import parameter

DROP_POLICIES = ("fail", "split", "flag")
CODECS = ("auto", "libx264", "h264_nvenc")
GENERATIONS = ("", "n1d5", "n1d6", "n1d7")


@dataclass(frozen=True)
class RecorderParameters:
    """Parameters of ``/groot_recorder``; read on configure, ``task`` also on start_episode."""

    embodiment: str = parameter("sim_arm", "Name in config/embodiments, or path of a YAML file")
    generation: str = parameter(
        "", "Model generation to record for; empty: the newest that the YAML lists", choices=GENERATIONS
    )
    dataset: str = parameter("", "Directory of the LeRobot v2.1 dataset: a new one, or one to append to; required")
    task: str = parameter("", "What is done in the episodes, in words; ~/task changes it")
    drop_policy: str = parameter(
        "fail",
        "A tick without good samples of every stream. fail: the episode is aborted; split: it ends, and the next one "
        "begins with the next good tick; flag: its row repeats the one before and is flagged, for at most 1 s",
        choices=DROP_POLICIES,
    )
    codec: str = parameter("auto", "H.264 encoder; auto: NVENC where it works, else libx264", choices=CODECS)
    min_free_gb: float = parameter(
        1.0,
        "Free space below which no episode starts and a running one is aborted",
        unit="GB",
        minimum=0.1,
        maximum=1e4,
    )
    policy: str = parameter(
        "", "Policy node, such as groot_policy: rows are marked as an intervention while it does not move the robot"
    )
    autostart: bool = parameter(False, "Configure and activate by itself when the process starts")
