"""``groot-ros finetune`` and ``open-loop``. Every heavy import is inside the command that needs it."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from pathlib import Path
from typing import Annotated, Any, Optional, get_args, get_type_hints

import typer

from groot_ros.cli_options import (
    CheckpointOption,
    DeviceOption,
    DtypeOption,
    EmbodimentOption,
    EngineOption,
    MatchOption,
    Precision,
    PrecisionFileOption,
    PrecisionOption,
    TokenizerOption,
    console,
    refusals,
)
from groot_ros.training.flags import PANELS, FinetuneFlags, option, own_text, reference_text

HELP = """Finetune a GR00T checkpoint (N1.5, N1.6, N1.7) on recorded demonstrations: on GPUs, or a tiny one on a CPU.

Flags and defaults are those of NVIDIA's launcher for the checkpoint's generation; each says ours, and NVIDIA's beside
it. Ctrl-C saves a checkpoint; the same command with --resume goes on, bit for bit.

Examples:

[bold]groot-ros finetune --base-model-path /tmp/tiny --dataset-path /tmp/pick -e sim_arm --output-dir /tmp/run[/bold]

[bold]groot-ros finetune --base-model-path nvidia/GR00T-N1.7-3B --dataset-path /data/pick -e so101 --num-gpus 8[/bold]
"""


def register(app: typer.Typer) -> None:
    """Adds the commands of this file."""
    app.command("finetune", help=HELP, context_settings={"token_normalize_func": _with_hyphens})(_command())
    app.command("open-loop")(open_loop)


def _with_hyphens(name: str) -> str:
    """NVIDIA's launchers take --tune_llm as well as --tune-llm."""
    return name.replace("_", "-")


def _finetune(**values: Any) -> None:
    given: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    flags = FinetuneFlags(**given)
    with refusals():
        from groot_ros.training.run import finetune, launch

        launch(flags, sys.argv[1:])
        code = finetune(flags, console)
    if code:
        raise typer.Exit(code)


def _command() -> Any:
    """`_finetune` with one parameter per field of `FinetuneFlags`, for typer to read."""
    hints = get_type_hints(FinetuneFlags)
    parameters, panel = [], ""
    for field in dataclasses.fields(FinetuneFlags):
        panel = PANELS.get(field.name, panel)
        parameters.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=list(field.default) if isinstance(field.default, tuple) else field.default,
                annotation=Annotated[_option_type(hints[field.name]), _option(field, panel)],
            )
        )

    def command(**values: Any) -> None:
        _finetune(**values)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _option_type(hint: Any) -> Any:
    inner = [kind for kind in get_args(hint) if kind not in (type(None), ...)]
    if not inner:
        return hint
    return list[inner[0]] if type(None) not in get_args(hint) else Optional[inner[0]]  # type: ignore[valid-type]  # noqa: UP045


def _option(field: dataclasses.Field[Any], panel: str) -> Any:
    name = option(field.name)
    switch = [f"{name}/--no-{name[2:]}"] if "bool" in str(field.type) else [name]
    short = [f"{other}" for other in field.metadata["names"]]
    reference = reference_text(field.name)
    beside = f"NVIDIA: {reference}" if reference else "not NVIDIA's"
    text = f"{field.metadata['help']} \\[{own_text(field.name)}; {beside}]"
    return typer.Option(*switch, *short, help=text, show_default=False, rich_help_panel=panel)


def open_loop(
    checkpoint: CheckpointOption,
    dataset: Annotated[Path, typer.Option("--dataset", "-d", help="LeRobot dataset: v2.0, v2.1 or v3.0.")],
    embodiment: EmbodimentOption = "sim_arm",
    episodes: Annotated[
        str,
        typer.Option(help="Numbers and ranges: 3,7-8, or 3,7:9 without its end. Default: the first five."),
    ] = "",
    execution_horizon: Annotated[
        int | None,
        typer.Option(min=1, help="Rows of each chunk that count, before the next observation. Default: half a chunk."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="At most so many rows of each episode. Default: all."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures and report.json.")] = Path(
        "open_loop"
    ),
    instruction: Annotated[str, typer.Option(help="In place of the recorded instructions.")] = "",
    denoising_steps: Annotated[
        int | None,
        typer.Option(min=1, help="Euler steps per chunk. Default: the checkpoint's."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    tokenizer: TokenizerOption = "",
    match_reference_bf16: MatchOption = False,
    engine: EngineOption = True,
    precision: PrecisionOption = Precision.model,
    precision_file: PrecisionFileOption = None,
) -> None:
    """Show a policy recorded observations, and compare its actions with the recorded ones: a table and plots.

    Example: [bold]groot-ros open-loop -c /tmp/tiny -d /tmp/pick -e sim_arm --episodes 0-4[/bold]
    """
    with refusals():
        from groot_ros.training.open_loop_command import open_loop_command

        open_loop_command(
            dataset,
            checkpoint,
            embodiment,
            output,
            episodes=episodes,
            execution_horizon=execution_horizon,
            options={"steps": steps, "instruction": instruction or None, "seed": seed},
            policy_options={
                "device": device,
                "dtype": dtype,
                "tokenizer": tokenizer or None,
                "num_steps": denoising_steps,
                "match_reference_bf16": match_reference_bf16,
                "engine": engine,
                "precision": precision.value,
                "precision_file": precision_file,
            },
            console=console,
        )
