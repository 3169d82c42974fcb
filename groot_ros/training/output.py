"""What a run leaves: checkpoints under their name only when they are whole, and a root that the policy loads.

Layout as NVIDIA's (spec groot_n15_n16.md, 4.4):

| place | content |
|---|---|
| `checkpoint-N/` | the model as below, optimizer, scheduler, random states, trainer_state.json |
| root | config.json, weights, processor files, experiment_cfg/: those of the last checkpoint, by hard links |
| `processor/` | the processor's files |
| `runs/` | TensorBoard |
| `training.json`, `loss.png` | what was run and how it went |

`partial/` holds what is being written.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from groot_ros.dataset.durable import sync_folder, sync_tree, write_file
from groot_ros.model.tensor_files import CONFIG_NAME, INDEX_NAME, SHARD_PATTERN, WEIGHTS_NAME
from groot_ros.training.errors import TrainingError

PARTIAL = "partial"
REPORT = "training.json"
STATE = "trainer_state.json"
EXPERIMENT, STATISTICS = "experiment_cfg", "dataset_statistics.json"
_NAME = re.compile(r"checkpoint-(\d+)")
# What only resuming reads; everything else of a checkpoint is the model's.
_RESUMING = re.compile(
    r"optimizer.*|scheduler\.pt|scaler\.pt|rng_state.*|global_step\d+|latest|zero_to_fp32\.py|.*fsdp.*"
)


def checkpoints(output: Path) -> list[tuple[int, Path]]:
    """Whole checkpoints of a run by step, oldest first."""
    found = [(int(match[1]), path) for path in output.glob("checkpoint-*") if (match := _NAME.fullmatch(path.name))]
    return sorted((step, path) for step, path in found if (path / STATE).is_file())


def publish(written: Path, output: Path) -> Path:
    """Gives a checkpoint folder under `partial/` its final name, once all of it is on the disk.

    Raises:
        OSError: the disk does not take it.
    """
    final = output / written.name
    sync_tree(written)
    if final.exists():  # the same step once more, after resuming
        final.rename(written.parent / f"{final.name}.old")
    written.rename(final)
    sync_folder(output)
    shutil.rmtree(written.parent, ignore_errors=True)
    return final


def keep_newest(output: Path, limit: int) -> None:
    """Removes the oldest checkpoints beyond `limit`; each loses its name first."""
    for _, path in checkpoints(output)[:-limit]:
        doomed = output / f"{path.name}.removed"
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def clear_leftovers(output: Path) -> None:
    """Removes what an interrupted save left."""
    for path in (output / PARTIAL, *output.glob("checkpoint-*.removed")):
        shutil.rmtree(path, ignore_errors=True)


def publish_root(checkpoint: Path, output: Path) -> None:
    """Puts the model of a checkpoint into the run's root: hard links where the file system knows them, else copies.

    config.json goes first and comes last: without it, nothing loads a root that is half new.

    Raises:
        OSError: the disk does not take it.
    """
    (output / CONFIG_NAME).unlink(missing_ok=True)
    for stale in (output / INDEX_NAME, output / WEIGHTS_NAME, *output.glob(SHARD_PATTERN)):
        stale.unlink(missing_ok=True)
    files = [
        path.relative_to(checkpoint)
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and not _RESUMING.fullmatch(path.relative_to(checkpoint).parts[0])
    ]
    for name in sorted(files, key=lambda file: file == Path(CONFIG_NAME)):
        target = output / name
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.partial")
        partial.unlink(missing_ok=True)
        try:
            os.link(checkpoint / name, partial)
        except OSError:  # another file system, or one without links
            shutil.copyfile(checkpoint / name, partial)
        os.replace(partial, target)
    sync_folder(output)


def write_experiment(directory: Path, flags: Mapping[str, Any], statistics: Mapping[str, Any]) -> None:
    """experiment_cfg/ of a checkpoint folder whose other files are there. Raises: OSError."""
    folder = directory / EXPERIMENT
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(dict(flags), sort_keys=False, allow_unicode=True)
    for name in ("config.yaml", "conf.yaml"):
        (folder / name).write_text(text, encoding="utf-8")
    for name, copy in (
        (CONFIG_NAME, "final_model_config.json"),
        ("processor_config.json", "final_processor_config.json"),
    ):
        if (directory / name).is_file():
            shutil.copyfile(directory / name, folder / copy)
    content = json.dumps(statistics, indent=2)
    (folder / STATISTICS).write_text(content, encoding="utf-8")


def write_report(output: Path, report: Mapping[str, Any]) -> None:
    """training.json, whole or not at all. Raises: OSError."""
    write_file(output / REPORT, (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode())


def read_report(output: Path) -> dict[str, Any] | None:
    """training.json; None: there is none.

    Raises:
        TrainingError: not what `write_report` writes.
    """
    path = output / REPORT
    if not path.is_file():
        return None
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TrainingError(f"{path} is no JSON ({error}); restore it, or name another --output-dir") from error
    if not isinstance(report, dict) or not isinstance(report.get("flags"), dict):
        raise TrainingError(f"{path}: expected the report of a run, with its flags; name another --output-dir")
    return report
