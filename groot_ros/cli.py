"""``groot-ros SUBCOMMAND``. Every heavy import is inside the command that needs it."""

from __future__ import annotations

import os
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

app = typer.Typer(
    name="groot-ros",
    help="NVIDIA Isaac GR00T on ROS 2: run the policy, the simulated robot, bags and benchmarks.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
benchmark_app = typer.Typer(help="Measure, with machine and stages named.", no_args_is_help=True)
docs_app = typer.Typer(help="Write the generated pages of docs/.", no_args_is_help=True)
app.add_typer(benchmark_app, name="benchmark")
app.add_typer(docs_app, name="docs")
console = Console(stderr=True, highlight=False)

DEMO_INSTRUCTIONS = ("pick up the red cube", "pick up the blue cube")


class Generation(str, Enum):
    """Model generations that a checkpoint can be made for."""

    n1d5 = "n1d5"
    n1d6 = "n1d6"
    n1d7 = "n1d7"


class Size(str, Enum):
    """Sizes of a random checkpoint."""

    tiny = "tiny"
    full = "full"


class LoadDtype(str, Enum):
    """Dtypes that a checkpoint is loaded in."""

    bfloat16 = "bfloat16"
    float32 = "float32"


class ChunkingMode(str, Enum):
    """Ways in which a chunk follows the one before."""

    guided = "guided"
    native = "native"
    blend = "blend"
    ensemble = "ensemble"
    naive = "naive"
    sync = "sync"


class Storage(str, Enum):
    """rosbag2 storage plugins."""

    mcap = "mcap"
    sqlite3 = "sqlite3"


EmbodimentOption = Annotated[
    str, typer.Option("--embodiment", "-e", help="Name in config/embodiments, or path of a YAML file.")
]
CheckpointOption = Annotated[
    str, typer.Option("--checkpoint", "-c", help="Directory in NVIDIA's layout, or hub id (owner/name\\[/folder]).")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N.")]
DtypeOption = Annotated[str, typer.Option(help="auto (bfloat16 on a GPU, float32 on a CPU), bfloat16 or float32.")]
TokenizerOption = Annotated[
    str, typer.Option(help="Folder or hub id of the backbone's tokenizer; default: the checkpoint's own.")
]
MatchOption = Annotated[
    bool,
    typer.Option(
        "--match-reference-bf16",
        help="Round the rotary frequencies to bfloat16, as NVIDIA's policies of N1.6 and N1.7 do; else float32.",
    ),
]
# Measured, of checkpoints that make-checkpoint wrote.
FULL_SIZES = "5.45 GB (n1d5), 6.57 GB (n1d6), 6.91 GB (n1d7)"


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from groot_ros.share import version as read_version

        typer.echo(f"groot_ros {read_version()}")
        raise typer.Exit


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the picture, the report and the logs.")] = Path("demo"),
    duration: Annotated[float, typer.Option(min=2.0, help="Seconds to run.")] = 30.0,
    seed: Annotated[int, typer.Option(help="Seed of checkpoint and simulator.")] = 0,
) -> None:
    """Simulated arm and a tiny random GR00T in closed loop over DDS: a table, a report and a picture.

    Example: [bold]groot-ros demo --duration 30[/bold]
    """
    from groot_ros.closed_loop.demo import run_demo

    with _refusals():
        picture = run_demo(output, DEMO_INSTRUCTIONS, duration, seed, console)
    typer.echo(f"picture: {picture}")


@app.command("make-checkpoint")
def make_checkpoint(
    directory: Annotated[Path, typer.Argument(help="New directory.")],
    generation: Annotated[
        Generation, typer.Option("--generation", "-g", help="n1d5: GR00T N1.5; n1d6: N1.6; n1d7: N1.7.")
    ] = Generation.n1d7,
    size: Annotated[
        Size, typer.Option(help=f"tiny: runs on a CPU; full: the released 3B sizes, {FULL_SIZES}.")
    ] = Size.tiny,
    embodiment: EmbodimentOption = "sim_arm",
    seed: Annotated[int, typer.Option(help="Seed of the weights.")] = 0,
) -> None:
    """Write a random checkpoint in NVIDIA's directory layout, so that everything runs without a download.

    Examples:

    [bold]groot-ros make-checkpoint /tmp/tiny --size tiny --embodiment sim_arm --seed 0[/bold]

    [bold]groot-ros make-checkpoint /tmp/gr1 --generation n1d6 --embodiment gr1[/bold]
    """
    from groot_ros.policy.random_checkpoint import make_random_checkpoint

    with _refusals():
        make_random_checkpoint(directory, generation.value, size.value, embodiment, seed, console)
    typer.echo(f"{directory}")


@app.command()
def sim(
    embodiment: EmbodimentOption = "sim_arm",
    seed: Annotated[int, typer.Option(help="Seed of the scene.")] = 0,
    clock: Annotated[bool, typer.Option("--clock", help="Publish /clock, for nodes with use_sim_time.")] = False,
    bag: Annotated[Path | None, typer.Option(help="Record everything into a new rosbag2 directory.")] = None,
    storage: Annotated[Storage, typer.Option(help="Storage of --bag.")] = Storage.mcap,
    duration: Annotated[float, typer.Option(min=0.0, help="Seconds until it ends; 0: until Ctrl-C.")] = 0.0,
) -> None:
    """Run the simulated arm as node /groot_sim.

    Example: [bold]groot-ros sim --bag /tmp/run --duration 20[/bold]
    """
    from groot_ros.nodes.simulator import main as simulator_main

    parameters: dict[str, Any] = {
        "embodiment": embodiment,
        "seed": seed,
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
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
) -> None:
    """Send a bag through the same assembler and the same policy; report chunks, ages, refusals and errors.

    Example: [bold]groot-ros replay /tmp/run -c /tmp/tiny -e sim_arm --instruction "pick up the red cube"[/bold]
    """
    from groot_ros.bags.command import replay_command

    with _refusals():
        replay_command(
            bag,
            checkpoint,
            embodiment,
            report,
            instruction=instruction,
            device=device,
            dtype=dtype,
            tokenizer=tokenizer or None,
            match_reference_bf16=match_reference_bf16,
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

    with _refusals():
        for line in list_lines() if name is None else check_lines(name):
            typer.echo(line)


@benchmark_app.command("node")
def benchmark_node(
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", "-c", help="Default: a tiny random checkpoint.")
    ] = None,
    embodiment: EmbodimentOption = "sim_arm",
    duration: Annotated[float, typer.Option(min=2.0, help="Seconds to measure.")] = 30.0,
    output: Annotated[Path | None, typer.Option(help="JSON file for the result.")] = None,
) -> None:
    """Time from the newest stamp used to the command, outside the model, with simulator and node as own processes.

    Example: [bold]groot-ros benchmark node --duration 30 --output node.json[/bold]
    """
    from groot_ros.closed_loop.benchmark import run_node_benchmark

    with _refusals():
        run_node_benchmark(checkpoint, embodiment, duration, output, console)


@benchmark_app.command("control")
def benchmark_control(
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", "-c", help="Default: a tiny random checkpoint.")
    ] = None,
    embodiment: EmbodimentOption = "sim_arm",
    rate: Annotated[
        list[float] | None, typer.Option(min=1.0, help="Control rate (Hz); may be given again. Default: 50 and 100.")
    ] = None,
    duration: Annotated[float, typer.Option(min=2.0, help="Seconds to measure per rate.")] = 60.0,
    denoising_steps: Annotated[
        int, typer.Option(min=1, max=100, help="Euler steps; many keep a tiny model busy from frame to frame.")
    ] = 16,
    output: Annotated[Path | None, typer.Option(help="JSON file for the result.")] = None,
) -> None:
    """How late control ticks begin, and how many are missed, while the model infers without pause.

    Exit code 1 when a tick is missed at 50 Hz, or one in a hundred begins more than 5 ms late.

    Example: [bold]groot-ros benchmark control --rate 50 --duration 60[/bold]
    """
    from groot_ros.closed_loop.control_benchmark import run_control_benchmark

    with _refusals():
        kept = run_control_benchmark(
            checkpoint, embodiment, rate or [50.0, 100.0], duration, denoising_steps, output, console
        )
    if not kept:
        raise typer.Exit(1)


@benchmark_app.command("load")
def benchmark_load(
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", "-c", help="Directory or hub id. Default: a random checkpoint.")
    ] = None,
    generation: Annotated[
        Generation, typer.Option("--generation", "-g", help="Generation of the random checkpoint.")
    ] = Generation.n1d7,
    size: Annotated[
        Size, typer.Option(help=f"Its size. full: {FULL_SIZES} in the folder for temporary files, for the time.")
    ] = Size.tiny,
    dtype: Annotated[
        list[LoadDtype] | None, typer.Option(help="Load in this dtype; may be given twice. Default: both.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N.")] = "cpu",
    cold: Annotated[bool, typer.Option("--cold", help="Read from the disk, not from Linux's memory of it.")] = False,
    chunk: Annotated[bool, typer.Option("--chunk", help="Also compute one action chunk per dtype.")] = False,
    embodiment: EmbodimentOption = "sim_arm",
    output: Annotated[Path | None, typer.Option(help="JSON file for the result.")] = None,
) -> None:
    """Time, read rate and peak memory of loading a checkpoint, each load in a process of its own.

    Example: [bold]groot-ros benchmark load --generation n1d7 --size full --dtype bfloat16 --chunk[/bold]
    """
    from groot_ros.closed_loop.load_benchmark import run_load_benchmark

    with _refusals():
        names = [choice.value for choice in dtype or LoadDtype]
        run_load_benchmark(
            checkpoint,
            generation=generation.value,
            size=size.value,
            dtypes=names,
            device=device,
            cold=cold,
            chunk=chunk,
            embodiment=embodiment,
            output=output,
            console=console,
        )


@benchmark_app.command("continuity")
def benchmark_continuity(
    modes: Annotated[str, typer.Option(help="Chunking modes; naive runs in any case.")] = (
        "guided,native,blend,ensemble,naive,sync"
    ),
    latencies: Annotated[str, typer.Option(help="Control ticks of an inference; a-b: drawn.")] = "0,1,2,4,8,1-8",
    variants: Annotated[
        str, typer.Option(help="Of joints_absolute, joints_relative, eef_absolute, eef_relative.")
    ] = "joints_absolute,joints_relative",
    seeds: Annotated[int, typer.Option(min=1, help="Runs per cell, each with a task of its own.")] = 3,
    chunks: Annotated[int, typer.Option(min=2, help="Chunks per run.")] = 60,
    control_rate: Annotated[float, typer.Option(min=25.0, help="Control ticks per second.")] = 50.0,
    lag: Annotated[float, typer.Option(min=0.0, help="Time constant of the robot's servo (s); 0: ideal.")] = 0.0,
    acceleration: Annotated[
        float, typer.Option(min=0.1, help="Acceleration limits as a multiple of 20 rad/s^2 (a pose: 8 m/s^2).")
    ] = 3.0,
    output: Annotated[Path | None, typer.Option(help="JSON file for the result.")] = None,
) -> None:
    """Stalls, jumps and accelerations where chunks meet, in virtual time, for a policy whose chunks disagree.

    Exit code 1 when mode guided stalls, jumps more than half of naive, or accelerates more at hand-overs than inside
    chunks.

    Example: [bold]groot-ros benchmark continuity --modes guided,naive --latencies 0,4,8 --output continuity.json[/bold]
    """
    from groot_ros.closed_loop.continuity_benchmark import Plan, run_continuity_benchmark

    with _refusals():
        plan = Plan(
            variants=variants.split(","),
            modes=modes.split(","),
            latencies=latencies.split(","),
            seeds=list(range(seeds)),
            chunks=chunks,
            rate_hz=control_rate,
            lag_s=lag,
            acceleration=acceleration,
        )
        met = run_continuity_benchmark(plan, output, console)
    if not met:
        raise typer.Exit(1)


@docs_app.command("parameters")
def docs_parameters(
    path: Annotated[Path, typer.Argument(help="Markdown file to write.")] = Path("docs/parameters.md"),
) -> None:
    """Write the reference page of the nodes' parameters."""
    from groot_ros.nodes.reference import parameters_page

    path.write_text(parameters_page(), encoding="utf-8")
    typer.echo(f"{path}")


class _refusals:
    """Turn the errors that users can mend into one message and exit code 2; bugs keep their traceback."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KeyboardInterrupt):
            _quit("stopped", 130)
        if isinstance(error, ValueError | OSError | RuntimeError):
            if os.environ.get("GROOT_ROS_DEBUG"):
                return
            _quit(str(error), 2)


def _quit(message: str, code: int) -> NoReturn:
    console.print(f"groot-ros: {message}", style="red", markup=False, soft_wrap=True)
    raise typer.Exit(code)


def _ros_arguments(program: str, parameters: dict[str, Any]) -> list[str]:
    arguments = [program, "--ros-args"]
    for name, value in parameters.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        # An empty text or one like a number would be read as another YAML type.
        arguments += ["-p", f"{name}:='{text}'" if isinstance(value, str) else f"{name}:={text}"]
    return arguments


def main() -> None:
    """Entry point of ``groot-ros``."""
    app()


if __name__ == "__main__":
    main()
