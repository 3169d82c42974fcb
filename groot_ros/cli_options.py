"""What the commands of ``groot-ros`` share: options, console, and how they give up."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

console = Console(stderr=True, highlight=False)


class Generation(str, Enum):
    """Model generations that a checkpoint can be made for."""

    n1d5 = "n1d5"
    n1d6 = "n1d6"
    n1d7 = "n1d7"


class Size(str, Enum):
    """Sizes of a random checkpoint."""

    tiny = "tiny"
    demo = "demo"
    full = "full"


class LoadDtype(str, Enum):
    """Dtypes that a checkpoint is loaded in."""

    bfloat16 = "bfloat16"
    float32 = "float32"


class Precision(str, Enum):
    """Of the engine's large products."""

    model = "model"
    fp8_weights = "fp8_weights"
    fp8 = "fp8"


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


class DropPolicy(Enum):  # not a str, whose method `split` is something else
    """What a recorder does with a tick that has no good samples."""

    fail = "fail"
    split = "split"
    flag = "flag"


class Codec(str, Enum):
    """H.264 encoders."""

    auto = "auto"
    libx264 = "libx264"
    h264_nvenc = "h264_nvenc"


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
EngineOption = Annotated[
    bool, typer.Option("--engine/--no-engine", help="Compute with the engine, or with the model as it is loaded.")
]
PrecisionOption = Annotated[
    Precision, typer.Option(help="Of the engine's large products; others than model after groot-ros precision.")
]
PrecisionFileOption = Annotated[
    Path | None, typer.Option(help="Result of groot-ros precision. Default: where it writes it.")
]
# Measured, of checkpoints that make-checkpoint wrote.
FULL_SIZES = "5.45 GB (n1d5), 6.57 GB (n1d6), 6.91 GB (n1d7)"


class refusals:
    """Turn the errors that users can mend into one message and exit code 2; bugs keep their traceback."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KeyboardInterrupt):
            give_up("stopped", 130)
        if isinstance(error, ValueError | OSError | RuntimeError):
            if os.environ.get("GROOT_ROS_DEBUG"):
                return
            give_up(str(error), 2)


def give_up(message: str, code: int) -> NoReturn:
    console.print(f"groot-ros: {message}", style="red", markup=False, soft_wrap=True)
    raise typer.Exit(code)
