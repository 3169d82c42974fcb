"""Where a run begins: in a new folder, or at the last checkpoint of the same run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from groot_ros.model.groot import GrootModel
from groot_ros.model.tensor_files import CONFIG_NAME, TensorReader, by_place, find_tensors
from groot_ros.training.errors import TrainingError
from groot_ros.training.flags import FinetuneFlags, option
from groot_ros.training.lora import has_adapters, load_adapters
from groot_ros.training.output import EXPERIMENT, STATISTICS, checkpoints, publish_root, read_report
from groot_ros.training.preflight import rank


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
            f"--output-dir {output} holds a run with a checkpoint at step {done}; {_to_continue(found)}, or name a new "
            "folder"
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
        if not (output / CONFIG_NAME).is_file() and rank() == 0:  # interrupted after its last checkpoint
            publish_root(found[-1][1], output)
        raise TrainingError(
            f"{output}: the run is finished: {found[-1][1].name} of {flags.max_steps} steps. For more training, begin "
            f"a new run with {option('base_model_path')} {output}"
        )
    return _resumable(found[-1][1])


def going_on(checkpoint: Path) -> str:
    """How training goes on from a checkpoint, in words."""
    if _has_optimizer(checkpoint):
        return "run the same command with --resume"
    return (
        f"it holds no optimizer (--save-only-model): begin a new run with {option('base_model_path')} {checkpoint}, in "
        "a new --output-dir"
    )


def _to_continue(found: list[tuple[int, Path]]) -> str:
    if not found or _has_optimizer(found[-1][1]):
        return "give --resume to continue it"
    return going_on(found[-1][1])


def earlier_report(flags: FinetuneFlags, start: Path | None) -> dict[str, Any] | None:
    """What training.json says of the run to be resumed. To be read before the processes meet: the first writes it anew.

    Raises:
        TrainingError: see `read_report`.
    """
    return None if start is None else read_report(Path(flags.output_dir))


def check_same_samples(
    start: Path, before: Mapping[str, Any], now: Mapping[str, Any], statistics: Mapping[str, Any]
) -> None:
    """Whether a resumed run has the samples that it was begun with.

    Args:
        start: its checkpoint.
        before, now: reports, of the run so far and of this one. What an older run did not write down is not compared.
        statistics: of the datasets, now.

    Raises:
        TrainingError: they differ; it names everything that does.
    """
    changed = []
    for name, old, new in (
        ("samples_per_step", before.get("samples_per_step"), now.get("samples_per_step")),
        *(
            (f"data.{key}", (before.get("data") or {}).get(key), (now.get("data") or {}).get(key))
            for key in ("embodiment_tag", "embodiment_id", "horizon", "fps", "windows", "datasets")
        ),
    ):
        if old is not None and not _same(old, new):
            changed.append(f"{name} was {old}, is {new}")
    path = start / EXPERIMENT / STATISTICS
    if path.is_file():
        try:
            trained = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise TrainingError(f"{path} is no JSON ({error}); restore it") from error
        if not _same(trained, json.loads(json.dumps(statistics))):
            changed.append(f"the statistics of the datasets are not those of {path}")
    if changed:
        raise TrainingError(
            f"--resume-from-checkpoint: the samples are not those that the run was begun with: {'; '.join(changed)}. "
            f"Restore them, or begin a new run with {option('base_model_path')} {start}, in a new --output-dir"
        )


def _same(old: Any, new: Any) -> bool:
    """Equal, numbers but for what another machine's arithmetic rounds."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return old.keys() == new.keys() and all(_same(value, new[key]) for key, value in old.items())
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(_same, old, new))
    if isinstance(old, float) and isinstance(new, (int, float)):
        return math.isclose(old, new, rel_tol=1e-6, abs_tol=1e-9)
    return bool(old == new)


def _has_optimizer(checkpoint: Path) -> bool:
    held = {path.name for path in checkpoint.iterdir()}
    return bool(held & {"optimizer.pt", "optimizer.bin", "latest"}) or any(
        name.startswith("optimizer_") for name in held
    )


def _resumable(checkpoint: Path) -> Path:
    if not _has_optimizer(checkpoint):
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
