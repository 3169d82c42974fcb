"""What ended a training, in a line, and how to go on from what is kept."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from groot_ros.training.errors import TrainingError
from groot_ros.training.output import checkpoints
from groot_ros.training.preflight import rank
from groot_ros.training.resume import going_on

# torch puts a worker's whole traceback into the message, and makes a RuntimeError of what it cannot build again.
_WORKER = re.compile(r"Caught (\w+) in DataLoader worker process \d+")
_REFUSALS = ("DatasetError", "ProcessorError", "TrainingError")


def explained(error: Exception, folder: Path) -> Exception:
    """The error as a TrainingError that says what is kept, or itself where nobody can say more than its traceback."""
    done = checkpoints(folder)
    kept = f"{done[-1][1]} is whole: {going_on(done[-1][1])}" if done else "there is no checkpoint yet: begin again"
    refusal = _worker_refusal(error)
    if refusal is not None:
        return TrainingError(f"{refusal}; {kept}")
    if isinstance(error, TrainingError):
        return error
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, torch.OutOfMemoryError):
        return TrainingError(
            f"the GPU's memory is full ({first}); use a smaller --global-batch-size with "
            f"--gradient-accumulation-steps, --gradient-checkpointing, or --lora-rank; {kept}"
        )
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if distributed and _is_lost_peer(error):
        return TrainingError(f"process {rank()} lost another process of the run ({first}); {kept}")
    killed = isinstance(error, RuntimeError) and first.startswith("DataLoader worker (pid")
    if isinstance(error, OSError) or type(error).__name__ in _REFUSALS or killed:
        return TrainingError(f"{first if killed else error}; {kept}")
    return error


def _worker_refusal(error: Exception) -> str | None:
    """What a worker of the data loader refused, without its traceback; None: it is something else."""
    text = str(error)
    found = _WORKER.match(text)
    if found is None or found[1] not in _REFUSALS:
        return None
    return text.rpartition(f"{found[1]}: ")[2].strip()


def _is_lost_peer(error: Exception) -> bool:
    words = ("connection closed by peer", "connection reset", "broken pipe", "nccl", "gloo", "timed out")
    return isinstance(error, torch.distributed.DistError) or any(word in str(error).lower() for word in words)
