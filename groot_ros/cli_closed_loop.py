"""``groot-ros demonstrate``. Every heavy import is inside the command that needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from groot_ros.cli_options import EmbodimentOption, console, refusals


def register(app: typer.Typer) -> None:
    """Adds the commands of this file."""
    app.command("demonstrate")(demonstrate)


def demonstrate(
    dataset: Annotated[Path, typer.Option(help="Folder of the LeRobot dataset: a new one, or one to append to.")],
    task: Annotated[
        str, typer.Option(help="reach_one, reach, push or pick; with :red or :blue (reach:blue) for one cube only.")
    ] = "reach_one",
    episodes: Annotated[int, typer.Option(min=1, help="Demonstrations to record.")] = 150,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first scene; each takes the next.")] = 0,
    speed: Annotated[float, typer.Option(min=0.1, max=10.0, help="Simulated seconds per second.")] = 3.0,
    embodiment: EmbodimentOption = "sim_tabletop",
    logs: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder for the logs of simulator and recorder; default: removed when all went well."),
    ] = None,
) -> None:
    """Have an expert do a task in the simulator, over and over, and record it: demonstrations to finetune on.

    Simulator and recorder run as nodes of their own; the expert sees where the cubes are and commands the arm as a
    teleoperator would. A demonstration that fails is not recorded, and the next seed is taken.

    Example: [bold]groot-ros demonstrate --dataset /tmp/reach --task reach_one --episodes 150 --seed 0[/bold]
    """
    from groot_ros.closed_loop.demonstrate import demonstrate_command

    with refusals():
        done = demonstrate_command(dataset, task, episodes, seed, speed, embodiment, logs, console)
    typer.echo(f"{dataset}: {done.line()}")
