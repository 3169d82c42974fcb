"""``groot-ros precision``. Every heavy import is inside the command that needs it."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from groot_ros.cli_options import (
    CheckpointOption,
    DeviceOption,
    DtypeOption,
    EmbodimentOption,
    MatchOption,
    TokenizerOption,
    console,
    refusals,
)


class Reduced(str, Enum):
    """Precisions that have to be measured."""

    fp8_weights = "fp8_weights"
    fp8 = "fp8"


def register(app: typer.Typer) -> None:
    """Adds the command of this file."""
    app.command("precision")(precision)


def precision(
    checkpoint: CheckpointOption,
    embodiment: EmbodimentOption = "sim_arm",
    dataset: Annotated[
        Path | None, typer.Option("--dataset", "-d", help="LeRobot dataset with your observations: v2.0, v2.1 or v3.0.")
    ] = None,
    bag: Annotated[Path | None, typer.Option(help="rosbag2 directory with your observations, instead.")] = None,
    precision: Annotated[
        Reduced,
        typer.Option(help="fp8_weights: half the memory, any device; fp8: math too, compute capability 8.9 and above."),
    ] = Reduced.fp8_weights,
    observations: Annotated[
        int, typer.Option(min=16, help="How many are judged, evenly spread; fp8 takes as many again to calibrate.")
    ] = 32,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Result file. Default: where the policy looks for it.")
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Products that stay as they are, such as 'language.*.down'; may be given again."),
    ] = None,
    instruction: Annotated[str, typer.Option(help="In place of the recorded instructions.")] = "",
    denoising_steps: Annotated[
        int | None, typer.Option(min=1, help="Euler steps per chunk. Default: the checkpoint's.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    tokenizer: TokenizerOption = "",
    match_reference_bf16: MatchOption = False,
) -> None:
    """May this checkpoint run in fp8? Compares its chunks with the model's own, on your observations, same noise.

    Prints cosine and differences per action key, next to what other noise changes, and writes the result that the
    policy asks for. Exit code 1 when it is refused.

    Example: [bold]groot-ros precision -c /tmp/run -e sim_arm --dataset /tmp/pick --precision fp8_weights[/bold]
    """
    with refusals():
        from groot_ros.training.precision_command import precision_command

        result = precision_command(
            checkpoint,
            embodiment,
            precision.value,
            dataset_path=dataset,
            bag=bag,
            observations=observations,
            output=output,
            exclude=exclude or (),
            instruction=instruction or None,
            seed=seed,
            policy_options={
                "device": device,
                "dtype": dtype,
                "tokenizer": tokenizer or None,
                "num_steps": denoising_steps,
                "match_reference_bf16": match_reference_bf16,
            },
            console=console,
        )
    if not result.passed:
        raise typer.Exit(1)
