"""``groot-ros benchmark policy|sampler|preprocess``: how fast the network and its host side are on this machine."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from groot_ros.cli_options import Generation, console, refusals


class NetworkSize(str, Enum):
    """Sizes of a random network."""

    full = "full"
    tiny = "tiny"


class RungName(str, Enum):
    """Steps of the ladder of optimisations."""

    plain = "plain"
    engine = "engine"
    graph = "graph"
    pictures = "pictures"
    compile = "compile"
    fp8_weights = "fp8_weights"
    fp8 = "fp8"


class AnyDtype(str, Enum):
    """Dtypes of a network."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


GenerationsOption = Annotated[
    list[Generation] | None, typer.Option("--generation", "-g", help="May be given again; default: all three.")
]
SizeOption = Annotated[NetworkSize, typer.Option(help="Of the random network, which is made in memory.")]
StepsOption = Annotated[int | None, typer.Option(min=1, help="Euler steps; default: the network's, 4.")]
DtypeOption = Annotated[AnyDtype, typer.Option(help="auto: bfloat16 on a GPU, float32 on a CPU.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N.")]
SeedOption = Annotated[int, typer.Option(help="Of weights, pictures and noise.")]
OutputOption = Annotated[Path | None, typer.Option(help="JSON file for the result.")]


def benchmark_policy(
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", "-c", help="Directory or hub id. Default: random weights.")
    ] = None,
    embodiment: Annotated[
        str | None,
        typer.Option("--embodiment", "-e", help="Robot, as name or YAML file. Default: an invented one."),
    ] = None,
    generation: GenerationsOption = None,
    cameras: Annotated[str, typer.Option(help="How many, separated by commas; a robot has its own.")] = "1,2,3",
    size: SizeOption = NetworkSize.full,
    rung: Annotated[
        list[RungName] | None, typer.Option(help="May be given again; default: all. plain is always measured.")
    ] = None,
    steps: StepsOption = None,
    dtype: DtypeOption = AnyDtype.auto,
    device: DeviceOption = "auto",
    repeats: Annotated[int, typer.Option(min=1, help="Measured runs of each rung.")] = 50,
    warmup: Annotated[int, typer.Option(min=0, help="Runs of each rung before, not measured.")] = 5,
    camera_size: Annotated[str, typer.Option(help="WIDTHxHEIGHT (px); a robot has its own.")] = "640x480",
    text_tokens: Annotated[
        int | None, typer.Option(min=1, help="Wanted of the prompt; more where its template alone is longer.")
    ] = None,
    stages: Annotated[bool, typer.Option(help="Backbone and head apart, too; compiles twice.")] = True,
    threads: Annotated[int | None, typer.Option(min=1, help="Of torch on the CPU; default: its own choice.")] = None,
    tag: Annotated[str | None, typer.Option(help="The checkpoint's embodiment, where it has several.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Folder or hub id; default: the checkpoint's own.")] = None,
    seed: SeedOption = 0,
    output: OutputOption = None,
) -> None:
    """From camera pictures to physical actions: the plain network, the engine, and each further optimisation.

    All of them in turn in one run, with the stages data, backbone, head and decode, p50, p95 and p99, memory, and how
    far each is from plain. What does not apply on the device is listed with the reason. Bare GPU machine, without an
    installation: python -m groot_ros.model.benchmark policy.

    Example: [bold]groot-ros benchmark policy --generation n1d7 --cameras 1,2 --device cuda --output policy.json[/bold]

    Example: [bold]groot-ros benchmark policy --size tiny --device cpu --repeats 10[/bold]

    Example: [bold]groot-ros benchmark policy -c ~/runs/pick --embodiment so101 --device cuda[/bold]
    """
    from groot_ros.closed_loop.model_benchmark import robots_of, run_policy_benchmark
    from groot_ros.model.benchmark.options import camera_size as parse_size
    from groot_ros.model.benchmark.options import counts, policy_settings

    with refusals():
        generations = [choice.value for choice in generation or Generation]
        settings = policy_settings(
            generations=generations,
            dtype=dtype.value,
            device=device,
            rungs=[choice.value for choice in rung or RungName],
            cameras=counts(cameras),
            size=size.value,
            steps=steps,
            repeats=repeats,
            warmup=warmup,
            camera_size=parse_size(camera_size),
            text_tokens=text_tokens,
            stages=stages,
            threads=threads,
            seed=seed,
            checkpoint=checkpoint,
            tag=tag,
            tokenizer=tokenizer,
            robots=None if embodiment is None else robots_of(embodiment, generations, checkpoint),
        )
        run_policy_benchmark(settings, output, console)


def benchmark_sampler(
    generation: GenerationsOption = None,
    cameras: Annotated[str, typer.Option(help="How many, separated by commas: so many tokens.")] = "2",
    size: SizeOption = NetworkSize.full,
    layers: Annotated[int | None, typer.Option(min=1, help="Of the DiT; default: the network's.")] = None,
    steps: StepsOption = None,
    dtype: DtypeOption = AnyDtype.float32,
    device: DeviceOption = "cpu",
    pairs: Annotated[int, typer.Option(min=1, help="Measured pairs.")] = 5,
    warmup: Annotated[int, typer.Option(min=0, help="Pairs before, not measured.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Of torch on the CPU.")] = 1,
    min_ratio: Annotated[float | None, typer.Option(help="Exit code 1 when a median ratio is lower.")] = None,
    seed: SeedOption = 0,
    output: OutputOption = None,
) -> None:
    """The action head alone: plain against the engine's, alternately in one process, on random features.

    A full head in float32 takes 10 GB of memory and a quarter of a minute per pair on a CPU.

    Example: [bold]groot-ros benchmark sampler --generation n1d6 --min-ratio 1.25 --output sampler.json[/bold]
    """
    from groot_ros.closed_loop.model_benchmark import run_sampler_benchmark
    from groot_ros.model.benchmark.options import counts, sampler_settings

    with refusals():
        settings = sampler_settings(
            generations=[choice.value for choice in generation or Generation],
            dtype=dtype.value,
            device=device,
            cameras=counts(cameras),
            size=size.value,
            layers=layers,
            steps=steps,
            pairs=pairs,
            warmup=warmup,
            threads=threads,
            seed=seed,
        )
        fast = run_sampler_benchmark(settings, min_ratio, output, console)
    if not fast:
        raise typer.Exit(1)


def benchmark_preprocess(
    generation: GenerationsOption = None,
    cameras: Annotated[str, typer.Option(help="How many, separated by commas.")] = "1,2,3",
    camera_size: Annotated[
        list[str] | None, typer.Option(help="WIDTHxHEIGHT (px), may be given again. Default: 640x480 and 256x256.")
    ] = None,
    threads: Annotated[str, typer.Option(help="Of torch and the views, separated by commas.")] = "1,2",
    device: Annotated[
        list[str] | None, typer.Option(help="Also with the pixels made there: cpu, cuda, cuda:N; may be given again.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Measured runs.")] = 50,
    warmup: Annotated[int, typer.Option(min=0, help="Runs before, not measured.")] = 5,
    output: OutputOption = None,
) -> None:
    """The host's work before the network: camera pictures, instruction and state to the network's inputs.

    Released sizes and settings; neither a network nor a checkpoint is needed.

    Example: [bold]groot-ros benchmark preprocess --generation n1d7 --cameras 1,2 --threads 1 --output pre.json[/bold]
    """
    from groot_ros.closed_loop.model_benchmark import run_preprocess_benchmark
    from groot_ros.model.benchmark.options import camera_size as parse_size
    from groot_ros.model.benchmark.options import counts

    with refusals():
        run_preprocess_benchmark(
            [choice.value for choice in generation or Generation],
            counts(cameras),
            [parse_size(text) for text in camera_size or ("640x480", "256x256")],
            threads=counts(threads),
            devices=device or [],
            repeats=repeats,
            warmup=warmup,
            output=output,
            console=console,
        )


def register(app: typer.Typer) -> None:
    """Adds the commands to ``groot-ros benchmark``."""
    app.command("policy")(benchmark_policy)
    app.command("sampler")(benchmark_sampler)
    app.command("preprocess")(benchmark_preprocess)
