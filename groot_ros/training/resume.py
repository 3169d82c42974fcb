"""Where a run begins: in a new folder, or at the last checkpoint of the same run."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from groot_ros.model.groot import GrootModel
from groot_ros.model.tensor_files import TensorReader, by_place, find_tensors
from groot_ros.training.errors import TrainingError
from groot_ros.training.flags import FinetuneFlags, option
from groot_ros.training.lora import has_adapters, load_adapters
from groot_ros.training.output import checkpoints, read_report


def starting_point(flags: FinetuneFlags) -> Path | None:
    """The checkpoint to resume, or None for a run from the beginning.

    Raises:
        TrainingError: the folder holds something else, another run, a finished one, or checkpoints that cannot be
            resumed.
    """
    output = Path(flags.output_dir)
    if output.exists() and not output.is_dir():
        raise TrainingError(f"--output-dir {output} is a file; name a folder")
    held = sorted(path.name for path in output.iterdir()) if output.is_dir() else []
    if not held:
        if flags.resume_from_checkpoint:
            raise TrainingError(f"--resume-from-checkpoint: {output} holds no run; leave the flag out to begin one")
        return None
    report = read_report(output)
    found = checkpoints(output)
    if report is None:
        raise TrainingError(
            f"--output-dir {output} is not empty and holds no run of groot-ros finetune (it holds: "
            f"{', '.join(held[:5])}); name a new folder"
        )
    done = found[-1][0] if found else 0
    if not flags.resume_from_checkpoint:
        raise TrainingError(
            f"--output-dir {output} holds a run with a checkpoint at step {done}; give --resume to continue it, or "
            "name a new folder"
        )
    changed = flags.changed_since(report["flags"])
    if changed:
        raise TrainingError(
            f"--resume-from-checkpoint: {output} was begun with other flags: {'; '.join(changed)}. Give the same "
            "flags, or name a new --output-dir"
        )
    if not found:
        return None
    if done >= flags.max_steps:
        raise TrainingError(
            f"{output}: the run is finished: {found[-1][1].name} of {flags.max_steps} steps. For more training, begin "
            f"a new run with {option('base_model_path')} {output}"
        )
    return _resumable(found[-1][1])


def _resumable(checkpoint: Path) -> Path:
    held = {path.name for path in checkpoint.iterdir()}
    if not held & {"optimizer.pt", "optimizer.bin", "latest"} and not any(
        name.startswith("optimizer_") for name in held
    ):
        raise TrainingError(
            f"{checkpoint} holds no optimizer (was it written with --save-only-model?), so it cannot be resumed; begin "
            f"a new run with {option('base_model_path')} {checkpoint}"
        )
    return checkpoint


def load_weights(model: GrootModel, checkpoint: Path) -> None:
    """The weights of a checkpoint of this run, exactly, into a model that has them already under the same names.

    Raises:
        CheckpointError: the files are damaged.
        TrainingError: they are of another model.
    """
    stored = find_tensors(checkpoint)
    adapters = has_adapters(model)
    adapted = {name.replace(".base_layer.", ".") for name, _ in model.named_parameters() if ".base_layer." in name}
    parameters: dict[str, nn.Parameter] = {
        name: parameter
        for name, parameter in model.named_parameters()
        if ".lora_" not in name and ".base_layer." not in name
    }
    missing = [name for name in parameters if name not in stored]
    shapes = [
        name for name, parameter in parameters.items() if name in stored and stored[name].shape != parameter.shape
    ]
    strange = set(stored) - set(parameters) - adapted - set(model.tied_parameters())
    if missing or shapes or strange:
        raise TrainingError(
            f"{checkpoint} is of another model: lacking {missing[:3]}, of another shape {shapes[:3]}, unknown "
            f"{sorted(strange)[:3]}; resume with the base checkpoint that the run was begun with"
        )
    with torch.no_grad(), TensorReader(torch.float32, torch.device("cpu")) as reader:
        for name in by_place(stored, list(parameters)):
            parameters[name].copy_(reader.read(name, stored[name]))
    if adapters:
        load_adapters(model, checkpoint)
