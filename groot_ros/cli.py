"""``groot-ros SUBCOMMAND``. Every heavy import is inside the command that needs it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from groot_ros.cli_benchmark import benchmark_app
from groot_ros.cli_closed_loop import register as register_closed_loop
from groot_ros.cli_dataset import dataset_app
from groot_ros.cli_evaluate import register as register_evaluate
from groot_ros.cli_options import (
    FULL_SIZES,
    CheckpointOption,
    ChunkingMode,
    Codec,
    DeviceOption,
    DropPolicy,
    DtypeOption,
    EmbodimentOption,
    EngineOption,
    Generation,
    MatchOption,
    Precision,
    PrecisionFileOption,
    PrecisionOption,
    Size,
    Storage,
    TokenizerOption,
    console,
    give_up,
    refusals,
)
from groot_ros.cli_precision import register as register_precision
from groot_ros.cli_training import register as register_training

app = typer.Typer(
    name="groot-ros",
    help="NVIDIA Isaac GR00T on ROS 2: run the policy, the simulated robot, bags and benchmarks.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
docs_app = typer.Typer(help="Write the generated pages of docs/.", no_args_is_help=True)
app.add_typer(benchmark_app, name="benchmark")
app.add_typer(dataset_app, name="dataset")
app.add_typer(docs_app, name="docs")
register_training(app)
register_evaluate(app)
register_precision(app)
register_closed_loop(app)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from groot_ros.share import version as read_version

        typer.echo(f"groot_ros {read_version()}")
        raise typer.Exit


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for page, videos and logs; an earlier demo is replaced.")] = Path(
        "demo"
    ),
    episodes: Annotated[int, typer.Option(min=1, help="Scenes to play.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first scene; each takes the next.")] = 20_000,
) -> None:
    """A small GR00T that learnt to reach the named cube, on scenes it has not seen: successes, videos, a page.

    Simulator, policy node and evaluator run in real time over DDS. Exit code 1 when fewer than 80 % succeed.

    Example: [bold]groot-ros demo --episodes 10[/bold]
    """
    from groot_ros.closed_loop.demo import EXPECTED, run_demo

    with refusals():
        summary = run_demo(output, episodes, seed, console)
    if summary.successes < EXPECTED * summary.episodes:
        give_up(f"expected at least {EXPECTED:.0%} successes; videos of the failures are in {output}", 1)


@app.command("make-checkpoint")
def make_checkpoint(
    directory: Annotated[Path, typer.Argument(help="New directory.")],
    generation: Annotated[
        Generation, typer.Option("--generation", "-g", help="n1d5: GR00T N1.5; n1d6: N1.6; n1d7: N1.7.")
    ] = Generation.n1d7,
    size: Annotated[
        Size,
        typer.Option(
            help="tiny: runs on a CPU; demo (n1d7): learns on a CPU, for groot-ros finetune; "
            f"full: the released 3B sizes, {FULL_SIZES}."
        ),
    ] = Size.tiny,
    embodiment: EmbodimentOption = "sim_arm",
    seed: Annotated[int, typer.Option(help="Seed of the weights.")] = 0,
) -> None:
    """Write a random checkpoint in NVIDIA's directory layout, so that everything runs without a download.

    Examples:

    [bold]groot-ros make-checkpoint /tmp/tiny --size tiny --embodiment sim_arm --seed 0[/bold]

    [bold]groot-ros make-checkpoint /tmp/gr1 --generation n1d6 --embodiment gr1[/bold]

    [bold]groot-ros make-checkpoint /tmp/base --size demo --embodiment sim_tabletop[/bold]
    """
    from groot_ros.policy.random_checkpoint import make_random_checkpoint

    with refusals():
        make_random_checkpoint(directory, generation.value, size.value, embodiment, seed, console)
    typer.echo(f"{directory}")


@app.command()
def sim(
    embodiment: EmbodimentOption = "sim_arm",
    seed: Annotated[int, typer.Option(help="Seed of the scene.")] = 0,
    task: Annotated[
        str, typer.Option(help="What is judged: reach_one, reach, push or pick, with :red or :blue for one cube only.")
    ] = "",
    clock: Annotated[bool, typer.Option("--clock", help="Publish /clock, for nodes with use_sim_time.")] = False,
    bag: Annotated[Path | None, typer.Option(help="Record everything into a new rosbag2 directory.")] = None,
    storage: Annotated[Storage, typer.Option(help="Storage of --bag.")] = Storage.mcap,
    duration: Annotated[float, typer.Option(min=0.0, help="Seconds until it ends; 0: until Ctrl-C.")] = 0.0,
) -> None:
    """Run the simulated arm as node /groot_sim.

    Examples:

    [bold]groot-ros sim --bag /tmp/run --duration 20[/bold]

    [bold]groot-ros sim -e sim_tabletop --task reach:blue[/bold]
    """
    from groot_ros.nodes.simulator import main as simulator_main

    parameters: dict[str, Any] = {
        "embodiment": embodiment,
        "seed": seed,
        "task": task,
        "publish_clock": clock,
        "bag": str(bag or ""),
        "storage": storage.value,
        "duration_s": duration,
    }
    sys.exit(simulator_main(_ros_arguments("groot-ros sim", parameters)))


@app.command()
def policy(
    checkpoint: CheckpointOption,
    embodiment: EmbodimentOption = "sim_arm",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    tokenizer: TokenizerOption = "",
    match_reference_bf16: MatchOption = False,
    engine: EngineOption = True,
    precision: PrecisionOption = Precision.model,
    precision_file: PrecisionFileOption = None,
    instruction: Annotated[str, typer.Option(help="Instruction at the start.")] = "",
    control_rate: Annotated[
        float, typer.Option(min=0.0, help="Control ticks per second (Hz); 0: the YAML's control.rate_hz.")
    ] = 0.0,
    chunking: Annotated[
        ChunkingMode | None, typer.Option(help="How a chunk follows the one before; default: the YAML's.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Publish everything but commands.")] = False,
    start: Annotated[bool, typer.Option("--start", help="Start at once instead of waiting for ~/start.")] = False,
    sim_time: Annotated[bool, typer.Option("--sim-time", help="Follow /clock.")] = False,
) -> None:
    """Run the policy node /groot_policy, configured and activated. Exit code 2 when it cannot be configured.

    Example: [bold]groot-ros policy -c /tmp/tiny -e sim_arm --dry-run[/bold]
    """
    from groot_ros.nodes.policy import main as policy_main

    parameters: dict[str, Any] = {
        "checkpoint": checkpoint,
        "embodiment": embodiment,
        "device": device,
        "dtype": dtype,
        "tokenizer": tokenizer,
        "match_reference_bf16": match_reference_bf16,
        "engine": engine,
        "precision": precision.value,
        "precision_file": str(precision_file or ""),
        "instruction": instruction,
        "control_rate_hz": control_rate,
        "chunking": chunking.value if chunking else "",
        "dry_run": dry_run,
        "start_on_activate": start,
        "use_sim_time": sim_time,
        "autostart": True,
    }
    policy_main(_ros_arguments("groot-ros policy", parameters), give_up=True)


@app.command()
def record(
    dataset: Annotated[Path, typer.Option("--dataset", "-d", help="New directory, or a dataset to append to.")],
    embodiment: EmbodimentOption = "sim_arm",
    task: Annotated[str, typer.Option(help="What is done in the episodes, in words.")] = "",
    generation: Annotated[
        Generation | None, typer.Option("--generation", "-g", help="Record for this one; default: the YAML's newest.")
    ] = None,
    drop: Annotated[
        DropPolicy, typer.Option(help="A tick without good samples: fail (abort), split, or flag the row.")
    ] = DropPolicy.fail,
    codec: Annotated[Codec, typer.Option(help="H.264 encoder; auto: NVENC where it works, else libx264.")] = Codec.auto,
    min_free_gb: Annotated[float, typer.Option(min=0.0, help="Free space (GB) below which nothing is recorded.")] = 1.0,
    policy: Annotated[
        str, typer.Option(help="Policy node, such as groot_policy, whose pauses are marked as interventions.")
    ] = "",
    sim_time: Annotated[bool, typer.Option("--sim-time", help="Follow /clock.")] = False,
) -> None:
    """Run the recorder node /groot_recorder, configured and activated. Exit code 2 when it cannot be configured.

    Example: [bold]groot-ros record -e sim_arm --dataset /tmp/pick --task "pick up the red cube"[/bold]
    """
    from groot_ros.nodes.recorder import main as recorder_main

    parameters: dict[str, Any] = {
        "embodiment": embodiment,
        "generation": generation.value if generation else "",
        "dataset": str(dataset),
        "task": task,
        "drop_policy": drop.value,
        "codec": codec.value,
        "min_free_gb": min_free_gb,
        "policy": policy,
        "use_sim_time": sim_time,
        "autostart": True,
    }
    recorder_main(_ros_arguments("groot-ros record", parameters), give_up=True)


@app.command()
def replay(
    bag: Annotated[Path, typer.Argument(help="rosbag2 directory (mcap or sqlite3).")],
    checkpoint: CheckpointOption,
    embodiment: EmbodimentOption = "sim_arm",
    report: Annotated[Path, typer.Option(help="JSON report.")] = Path("report.json"),
    instruction: Annotated[str | None, typer.Option(help="Instruction; default: the bag's, else the YAML's.")] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    tokenizer: TokenizerOption = "",
    match_reference_bf16: MatchOption = False,
    engine: EngineOption = True,
    precision: PrecisionOption = Precision.model,
    precision_file: PrecisionFileOption = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
) -> None:
    """Send a bag through the same assembler and the same policy; report chunks, ages, refusals and errors.

    Example: [bold]groot-ros replay /tmp/run -c /tmp/tiny -e sim_arm --instruction "pick up the red cube"[/bold]
    """
    from groot_ros.bags.command import replay_command

    with refusals():
        replay_command(
            bag,
            checkpoint,
            embodiment,
            report,
            instruction=instruction,
            policy_options={
                "device": device,
                "dtype": dtype,
                "tokenizer": tokenizer or None,
                "match_reference_bf16": match_reference_bf16,
                "engine": engine,
                "precision": precision.value,
                "precision_file": precision_file,
            },
            seed=seed,
            console=console,
        )


@app.command()
def embodiments(
    name: Annotated[str | None, typer.Argument(help="Check this one: a name, or the path of a YAML file.")] = None,
) -> None:
    """List the robots that have a YAML and their generations, or check one for all of its generations.

    Example: [bold]groot-ros embodiments my_robot.yaml[/bold]
    """
    from groot_ros.embodiment.summary import check_lines, list_lines

    with refusals():
        for line in list_lines() if name is None else check_lines(name):
            typer.echo(line)


@docs_app.command("parameters")
def docs_parameters(
    path: Annotated[Path, typer.Argument(help="Markdown file to write.")] = Path("docs/parameters.md"),
) -> None:
    """Write the reference page of the nodes' parameters."""
    from groot_ros.nodes.reference import parameters_page

    path.write_text(parameters_page(), encoding="utf-8")
    typer.echo(f"{path}")


def _ros_arguments(program: str, parameters: dict[str, Any]) -> list[str]:
    arguments = [program, "--ros-args"]
    for name, value in parameters.items():
        # A text is quoted as YAML: an empty one, or one like a number, would be read as another type.
        text = json.dumps(value, ensure_ascii=False)
        arguments += ["-p", f"{name}:={text}"]
    return arguments


def main() -> None:
    """Entry point of ``groot-ros``."""
    app()


if __name__ == "__main__":
    main()
