"""Which checkpoint is this? A number that follows weights and settings, and neither path nor time.

All of the settings, and of each tensor its name, dtype, shape and some of its bytes: the headers alone are the same for
every finetuning of one model, file times change when a checkpoint is copied, and reading 7 GB at every start of a
node is too slow. Training changes nearly every number of a tensor that it trains, so some bytes of each tell. One
embodiment's weights are one slice of a table, and of such tables every slice is looked at.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

from groot_ros.model.tensor_files import FLOAT_DTYPES, StoredTensor, find_tensors

SETTINGS = (
    "config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "statistics.json",
    "embodiment_id.json",
    "metadata.json",
    "modality_config.json",
)
FOLDERS = ("", "processor", "experiment_cfg")
SPOTS = 8
"""Places in a tensor, evenly spread; of a tensor of three dimensions, one per slice."""
SPOT_BYTES = 64


def fingerprint(directory: Path) -> str:
    """64 hexadecimal digits.

    Raises:
        CheckpointError: the weights are incomplete or damaged.
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for folder in FOLDERS:
        for name in SETTINGS:
            path = directory / folder / name
            if path.is_file():
                digest.update(f"{folder}/{name}\n".encode())
                digest.update(path.read_bytes())
    tensors = find_tensors(directory)
    files: dict[Path, int] = {}
    try:
        for name in sorted(tensors):
            stored = tensors[name]
            digest.update(f"{name} {stored.dtype} {stored.shape}\n".encode())
            if stored.path not in files:
                files[stored.path] = os.open(stored.path, os.O_RDONLY)
            for place in _places(stored):
                digest.update(os.pread(files[stored.path], SPOT_BYTES, place))
    finally:
        for handle in files.values():
            os.close(handle)
    return digest.hexdigest()


def _places(stored: StoredTensor) -> Iterator[int]:
    """Where to read; the last bytes may be those of the next tensor, which is as good."""
    width = FLOAT_DTYPES[stored.dtype].itemsize if stored.dtype in FLOAT_DTYPES else 1
    size = math.prod(stored.shape) * width
    spots = stored.shape[0] if len(stored.shape) == 3 else SPOTS
    for spot in range(max(1, spots)):
        yield stored.offset + (2 * spot + 1) * size // (2 * max(1, spots))
