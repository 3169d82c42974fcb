"""What is known to go wrong before anything is loaded: libraries, GPUs, space, flags that an engine cannot take."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

from rich.console import Console

from groot_ros.share import share_directories
from groot_ros.training.errors import TrainingError
from groot_ros.training.flags import FinetuneFlags


def check_libraries(flags: FinetuneFlags) -> None:
    """TrainingError for a library that a flag needs and that is not there, before anything is loaded."""
    wanted = {name: f"pip install {name}" for name in ("accelerate", "tensorboard", "matplotlib")}
    if flags.lora_rank:
        wanted["peft"] = "--lora-rank needs it: pip install peft"
    if flags.use_wandb:
        wanted["wandb"] = "--use-wandb needs it: pip install wandb"
    if flags.deepspeed:
        wanted["deepspeed"] = "--deepspeed needs it: pip install deepspeed"
    for name, how in wanted.items():
        if importlib.util.find_spec(name) is None:
            raise TrainingError(f"the package {name} is not installed; {how}")
    if flags.use_wandb:
        os.environ.setdefault("WANDB_PROJECT", flags.wandb_project)


def check_gpus(flags: FinetuneFlags) -> None:
    """TrainingError for more processes than GPUs, or for adapters on an engine that shards the weights."""
    if flags.lora_rank and sharded(flags):
        raise TrainingError(
            "--lora-rank with --deepspeed or FSDP: adapters are merged into whole weights at every checkpoint, which "
            "sharded ones are not: leave one out; plain processes (--num-gpus) take adapters"
        )
    if flags.num_gpus < 2 or flags.device == "cpu":
        return
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found and flags.num_gpus > found:
        raise TrainingError(
            f"--num-gpus is {flags.num_gpus}, expected at most {found}, the GPUs that torch sees (CUDA_VISIBLE_DEVICES "
            "chooses among them)"
        )


def check_space(flags: FinetuneFlags, trainer: Any, console: Console) -> None:
    """TrainingError where not even one checkpoint fits beside what is there; a warning where not all do."""
    from groot_ros.training.output import checkpoints

    folder = Path(flags.output_dir)
    weights = sum(p.numel() * p.element_size() for p in trainer.model.parameters())
    moments = (
        0 if flags.save_only_model else 2 * sum(p.numel() * 4 for p in trainer.model.parameters() if p.requires_grad)
    )
    needed, free = weights + moments, shutil.disk_usage(folder).free
    saves = min(flags.save_total_limit, -(-flags.max_steps // flags.save_steps)) - len(checkpoints(folder)) + 1
    if free < needed:
        raise TrainingError(
            f"{folder}: a checkpoint needs {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free; free space, or "
            "name an --output-dir on another disk"
        )
    if free < needed * saves:
        console.print(
            f"warning: {saves} checkpoints of {needed / 1e9:.1f} GB do not fit into the {free / 1e9:.1f} GB that are "
            "free; lower --save-total-limit or free space",
            style="yellow",
            soft_wrap=True,
        )


def deepspeed_file(name: str) -> Path | None:
    """The JSON file of `--deepspeed`: one of ours by name, or a path."""
    if not name:
        return None
    for path in (Path(name), *(root / "config" / "training" / f"{name}.json" for root in share_directories())):
        if path.is_file():
            return path
    raise TrainingError(f"--deepspeed is {name!r}, expected zero2, zero3, or a JSON file")


def sharded(flags: FinetuneFlags) -> bool:
    """Whether an engine of DeepSpeed or FSDP places the weights."""
    return bool(flags.deepspeed) or os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true")


def rank() -> int:
    """The number of this process, before and without torch.distributed."""
    return int(os.environ.get("RANK", "0"))
