"""``groot-ros evaluate``. Every heavy import is inside the command that needs it."""

from __future__ import annotations

import shlex
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from groot_ros.cli_options import (
    ChunkingMode,
    DeviceOption,
    DtypeOption,
    EmbodimentOption,
    TokenizerOption,
    console,
    refusals,
)


class Control(str, Enum):
    """Ways to wire the policy's robot wrongly."""

    cameras = "cameras"
    joints = "joints"


class Videos(str, Enum):
    """Episodes that get a video."""

    failures = "failures"
    all = "all"
    none = "none"


class ResetType(str, Enum):
    """Types of reset service."""

    episode = "groot_ros/srv/ResetEpisode"
    trigger = "std_srvs/srv/Trigger"
    empty = "std_srvs/srv/Empty"
    simulation = "simulation_interfaces/srv/ResetSimulation"


def register(app: typer.Typer) -> None:
    """Adds the command of this file."""
    app.command("evaluate")(evaluate)


def evaluate(
    checkpoint: Annotated[
        str, typer.Option("--checkpoint", "-c", help="Directory or hub id; with --external: empty if a policy runs.")
    ] = "",
    embodiment: EmbodimentOption = "sim_tabletop",
    task: Annotated[
        str, typer.Option(help="Such as reach_one, reach, reach:blue, push, pick; not needed with --external.")
    ] = "",
    episodes: Annotated[int, typer.Option(min=1, help="How many, each with a seed of its own.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first one; each takes the next.")] = 1000,
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder for report and videos.")] = Path(
        "evaluation"
    ),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on in that folder with the seeds that are missing.")
    ] = False,
    speed: Annotated[float, typer.Option(min=0.1, max=10.0, help="Simulated seconds per second.")] = 1.0,
    time_limit: Annotated[float, typer.Option(min=0.1, help="ROS time (s) until an episode has failed.")] = 15.0,
    instruction: Annotated[str, typer.Option(help="For the policy; default: the task's.")] = "",
    control: Annotated[
        Control | None, typer.Option(help="Swap the policy's cameras, or permute its joints: it has to fail.")
    ] = None,
    videos: Annotated[Videos, typer.Option(help="failures: and the first 3 successes.")] = Videos.failures,
    camera: Annotated[
        str, typer.Option(help="That is filmed; default: the last of the YAML, scene_cameras after cameras.")
    ] = "",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    tokenizer: TokenizerOption = "",
    chunking: Annotated[
        ChunkingMode | None, typer.Option(help="How a chunk follows the one before; default: the YAML's.")
    ] = None,
    parameters: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE of the policy node, such as replan_steps=4.")
    ] = None,
    external: Annotated[
        bool, typer.Option("--external", help="A robot or simulator runs already; docs/isaac_sim.md, docs/gazebo.md.")
    ] = False,
    sim_time: Annotated[bool, typer.Option("--sim-time", help="Follow the /clock of an external simulator.")] = False,
    reset_service: Annotated[str, typer.Option(help="Service that begins an episode.")] = "/groot_sim/reset_episode",
    reset_type: Annotated[ResetType, typer.Option(help="Its type.")] = ResetType.episode,
    success_topic: Annotated[str, typer.Option(help="std_msgs/Bool.")] = "/groot_sim/success",
    failure_topic: Annotated[str, typer.Option(help="std_msgs/String; empty: none.")] = "/groot_sim/failure",
    distance_topic: Annotated[str, typer.Option(help="std_msgs/Float64; empty: none.")] = "/groot_sim/distance",
) -> None:
    """Play seeded episodes in closed loop; success rate with its 95 % interval, failures by reason, videos, a page.

    Ctrl-C keeps what was measured; the same command with --resume goes on. Exit code 2 when it did not come to its end.

    Examples:

    [bold]groot-ros evaluate -c /tmp/run -e sim_tabletop --task reach_one --episodes 100 --speed 2[/bold]

    [bold]groot-ros evaluate -c /tmp/run -e sim_tabletop --task reach_one --control cameras -o /tmp/control[/bold]

    [bold]groot-ros evaluate -c /tmp/run -e so101 --external --sim-time --success-topic /task/success[/bold]
    """
    from groot_ros.closed_loop.evaluation.run import Request, run_evaluation

    with refusals():
        policy: dict[str, object] = {"device": device, "dtype": dtype}
        policy |= {"tokenizer": tokenizer} if tokenizer else {}
        policy |= {"chunking": chunking.value} if chunking else {}
        request = Request(
            embodiment=embodiment,
            checkpoint=checkpoint,
            output=output,
            task=task,
            instruction=instruction,
            episodes=episodes,
            seed=seed,
            time_limit_s=time_limit,
            speed=speed,
            control=control.value if control else "",
            external=external,
            sim_time=sim_time,
            resume=resume,
            policy={**policy, **dict(_setting(text) for text in parameters or [])},
            evaluator={
                "videos": videos.value,
                "camera": camera,
                "reset_service": reset_service,
                "reset_type": reset_type.value,
                "success_topic": success_topic,
                "failure_topic": failure_topic,
                "distance_topic": distance_topic,
            },
        )
        run_evaluation(request, console, shlex.join(["groot-ros", *sys.argv[1:]]))


def _setting(text: str) -> tuple[str, Any]:
    """``NAME=VALUE``, the value as YAML has it. Raises: ValueError."""
    import yaml

    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ValueError(f"--set: expected NAME=VALUE, found {text!r}")
    return name, yaml.safe_load(value)
