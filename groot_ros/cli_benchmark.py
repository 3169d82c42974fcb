"""``groot-ros benchmark SUBCOMMAND``. Every heavy import is inside the command that needs it."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from groot_ros.cli_benchmark_model import register as register_model
from groot_ros.cli_options import FULL_SIZES, Codec, EmbodimentOption, Generation, LoadDtype, Size, console, refusals

benchmark_app = typer.Typer(help="Measure, with machine and stages named.", no_args_is_help=True)
register_model(benchmark_app)


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

    with refusals():
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

    Exit code 1 when at 50 Hz a tick is missed, or more than one in a hundred begins more than 5 ms late; other rates
    are reported only.

    Example: [bold]groot-ros benchmark control --rate 50 --duration 60[/bold]
    """
    from groot_ros.closed_loop.control_benchmark import run_control_benchmark

    with refusals():
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

    with refusals():
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


class Schedule(str, Enum):
    """How guidance fades (``control.prefix_schedule``)."""

    cosine = "cosine"
    exponential = "exponential"


@benchmark_app.command("continuity")
def benchmark_continuity(
    modes: Annotated[str, typer.Option(help="Chunking modes, separated by commas; naive runs in any case.")] = (
        "guided,native,blend,ensemble,naive,sync"
    ),
    latencies: Annotated[
        str, typer.Option(help="Control ticks of an inference, separated by commas; a-b: drawn anew for each.")
    ] = "0,1,2,4,8,1-8",
    variants: Annotated[
        str, typer.Option(help="Of joints_absolute, joints_relative, eef_absolute, eef_relative, separated by commas.")
    ] = "joints_absolute,joints_relative",
    seeds: Annotated[int, typer.Option(min=1, help="Runs per cell, each with a task of its own.")] = 3,
    chunks: Annotated[int, typer.Option(min=2, help="Chunks per run.")] = 60,
    control_rate: Annotated[float, typer.Option(min=25.0, help="Control ticks per second.")] = 50.0,
    lag: Annotated[float, typer.Option(min=0.0, help="Time constant of the robot's servo (s); 0: ideal.")] = 0.0,
    acceleration: Annotated[
        float, typer.Option(min=0.1, help="Acceleration limits as a multiple of 20 rad/s^2 (a pose: 8 m/s^2).")
    ] = 3.0,
    schedule: Annotated[
        Schedule, typer.Option(help="How guidance fades over the rest of the chunk before.")
    ] = Schedule.cosine,
    picture: Annotated[
        Path | None, typer.Option(help="PNG file: one joint across hand-overs, naive and guided.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="JSON file for the result.")] = None,
) -> None:
    """Stalls, jumps and accelerations where chunks meet, in virtual time, for a policy whose chunks disagree.

    Exit code 1 when mode guided stalls, jumps more than half of naive, or accelerates more at hand-overs than inside
    chunks. Jump: between two chunks, before it is smoothed. Seam: acceleration at hand-overs; "in": on all other ticks.
    Every column: docs/motion.md.

    Example: [bold]groot-ros benchmark continuity --modes guided,naive --latencies 0,4,8 --output continuity.json[/bold]
    """
    from groot_ros.closed_loop.continuity_benchmark import Plan, run_continuity_benchmark

    with refusals():
        plan = Plan(
            variants=variants.split(","),
            modes=modes.split(","),
            latencies=latencies.split(","),
            seeds=list(range(seeds)),
            chunks=chunks,
            rate_hz=control_rate,
            lag_s=lag,
            acceleration=acceleration,
            schedule=schedule.value,
        )
        met = run_continuity_benchmark(plan, output, console)
        if picture is not None:
            from groot_ros.closed_loop.continuity_picture import draw_continuity

            draw_continuity(picture)
            typer.echo(f"picture: {picture}")
    if not met:
        raise typer.Exit(1)


class Pictures(str, Enum):
    """How the pictures of a recorder's benchmark are sent."""

    rgb8 = "rgb8"
    jpeg = "jpeg"


@benchmark_app.command("recorder")
def benchmark_recorder(
    cameras: Annotated[int, typer.Option(min=1, max=16, help="How many.")] = 3,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT (px), both even.")] = "640x480",
    encoding: Annotated[Pictures, typer.Option(help="rgb8, or jpeg on compressed topics.")] = Pictures.rgb8,
    rate: Annotated[int, typer.Option(min=1, max=120, help="Frames of every camera, and rows, per second.")] = 30,
    duration: Annotated[float, typer.Option(min=2.0, help="Seconds to record.")] = 60.0,
    codec: Annotated[Codec, typer.Option(help="H.264 encoder; auto: NVENC where it works, else libx264.")] = Codec.auto,
    keep: Annotated[
        Path | None, typer.Option(help="New folder for dataset and logs; default: removed at the end.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="JSON file for the result.")] = None,
) -> None:
    """Whether every frame that cameras send is recorded: robot and recorder as own processes, every picture compared.

    Pictures carry their number as a barcode, joint states and commands (100 Hz) theirs as a position. Exit code 1 when
    a row holds anything but what it says, or, with cameras, size, encoding and rate left out, a frame was lost.

    Example: [bold]groot-ros benchmark recorder --duration 60 --output recorder.json[/bold]
    """
    from groot_ros.closed_loop.numbered_robot import Setting
    from groot_ros.closed_loop.recorder_benchmark import parse_size, run_recorder_benchmark

    with refusals():
        setting = Setting(cameras, *parse_size(size), encoding.value, rate)
        held = run_recorder_benchmark(setting, duration, codec=codec.value, keep=keep, output=output, console=console)
    if not held:
        raise typer.Exit(1)


@benchmark_app.command("recorder-hour")
def benchmark_recorder_hour(
    minutes: Annotated[float, typer.Option(min=1.0, help="To record, in simulated time.")] = 60.0,
    episode: Annotated[float, typer.Option(min=1.0, help="Seconds per episode, in simulated time.")] = 60.0,
    output: Annotated[Path | None, typer.Option(help="JSON file for the result.")] = None,
) -> None:
    """Memory of a recorder over a long time, faster than real: two small cameras, joints and commands, many episodes.

    Without ROS; all else is the recorder's own. Exit code 1 when the memory grows.

    Example: [bold]groot-ros benchmark recorder-hour --minutes 60[/bold]
    """
    from groot_ros.closed_loop.recorder_memory import run_recorder_hour

    with refusals():
        flat = run_recorder_hour(minutes, episode, output, console)
    if not flat:
        raise typer.Exit(1)


@benchmark_app.command("loader")
def benchmark_loader(
    dataset: Annotated[Path, typer.Option("--dataset", "-d", help="LeRobot dataset, v2.x or v3.0.")],
    embodiment: EmbodimentOption = "sim_arm",
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", "-c", help="Directory. Default: a processor with the sizes of the released ones."),
    ] = None,
    generation: Annotated[
        Generation, typer.Option("--generation", "-g", help="Generation of the default's processor.")
    ] = Generation.n1d7,
    workers: Annotated[
        list[int] | None, typer.Option(min=0, max=256, help="Processes; may be given again. Default: 0, 1 and 2.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples per batch.")] = 32,
    samples: Annotated[int, typer.Option(min=1, help="Samples per figure.")] = 512,
    frame_cache_gb: Annotated[float, typer.Option(min=0.0, help="Memory for decoded pictures (GB).")] = 0.0,
    lerobot: Annotated[
        Path | None, typer.Option(help="A Python that has lerobot, to measure its loader too. Default: this one.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="JSON file for the result.")] = None,
) -> None:
    """Samples per second of the training loader, the share of decoding, and LeRobot's loader on the same dataset.

    Samples: as the network gets them. Raw: pictures and numbers, which is what LeRobot's loader gives.

    Example: [bold]groot-ros benchmark loader --dataset /tmp/pick --workers 0 --workers 2 --output loader.json[/bold]
    """
    from groot_ros.training.loader_benchmark import Setting, run_loader_benchmark

    with refusals():
        run_loader_benchmark(
            dataset,
            checkpoint=checkpoint,
            generation=generation.value,
            embodiment=embodiment,
            setting=Setting(workers or [0, 1, 2], batch_size, samples, frame_cache_gb),
            lerobot=lerobot,
            output=output,
            console=console,
        )
