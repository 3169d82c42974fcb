"""The tensors in a checkpoint's safetensors files: where each one is, and reading them one after another.

The files are read, not mapped: mapped pages count as memory of the process until it unmaps the file, which for a shard
of 5 GB is as much as the weights again. Layout: 8 bytes little-endian length, that many bytes of JSON, then the data,
whose offsets the JSON gives.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groot_ros.model.config import ConfigError, read_json_object

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
SHARD_PATTERN = "model-*-of-*.safetensors"
LEROBOT_PREFIX = "_groot_model."
LISTED_NAMES = 10
# Conversions and copies to another device go through a buffer of this size.
STAGE_BYTES = 4 * 2**20
MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit

FLOAT_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class CheckpointError(ValueError):
    """A checkpoint directory that cannot be used. The message names the file or the tensors and what to do."""

    def __init__(
        self,
        message: str,
        *,
        missing: Sequence[str] = (),
        unexpected: Sequence[str] = (),
        mismatched: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.missing = list(missing)
        """Tensors of the network that no file holds."""
        self.unexpected = list(unexpected)
        """Tensors of the files that the network does not have."""
        self.mismatched = list(mismatched)
        """Tensors of another shape or kind."""


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor is."""

    path: Path
    dtype: str
    """As safetensors names it: F32, BF16, ..."""
    shape: tuple[int, ...]
    offset: int
    """Bytes from the start of the file."""


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - LISTED_NAMES} more" if len(names) > LISTED_NAMES else ""
    return ", ".join(names[:LISTED_NAMES]) + more


def find_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Every tensor of a checkpoint directory, under its name without LeRobot's prefix.

    A name that safetensors left out because its tensor is in the file under another one stands for that one.

    Raises:
        CheckpointError: a file is missing or broken, or index and files disagree; the message names it.
    """
    index_path = directory / INDEX_NAME
    if index_path.is_file():
        if (directory / WEIGHTS_NAME).is_file():
            raise CheckpointError(
                f"{directory} holds both {WEIGHTS_NAME} and {INDEX_NAME}, which are two sets of weights; expected one: "
                "move the stale one away"
            )
        weight_map = _read_index(index_path)
        shards = [directory / file for file in sorted(set(weight_map.values()))]
    elif (directory / WEIGHTS_NAME).is_file():
        weight_map, shards = {}, [directory / WEIGHTS_NAME]
    else:
        hint = "; it holds PyTorch .bin files, which are not read" if list(directory.glob("*.bin")) else ""
        shards = sorted(directory.glob(SHARD_PATTERN))
        hint = f"; it holds shards such as {shards[0].name}, but not their index" if shards else hint
        raise CheckpointError(
            f"{directory} holds neither {WEIGHTS_NAME} nor {INDEX_NAME}{hint}; the checkpoint is incomplete: copy or "
            "download it again"
        )
    raw: dict[str, StoredTensor] = {}
    aliases: dict[str, str] = {}
    for path in shards:
        tensors, metadata = read_header(path)
        aliases.update(metadata)
        raw.update({name: tensor for name, tensor in tensors.items() if weight_map.get(name, path.name) == path.name})
    plain = _without_prefix({*raw, *weight_map}, index_path if weight_map else shards[0])
    stored = {plain[name]: tensor for name, tensor in raw.items()}
    wanted = {plain[name]: file for name, file in weight_map.items()}
    lost = [name for name, file in wanted.items() if name not in stored or stored[name].path.name != file]
    if lost:
        places = [f"{name} (expected in {wanted[name]})" for name in lost]
        raise CheckpointError(
            f"{index_path}: weight_map names tensors that their files do not hold: {listed(places)}; index and "
            "weights are of different checkpoints: copy or download them again",
            missing=lost,
        )
    for name, kept in aliases.items():
        name, kept = name.removeprefix(LEROBOT_PREFIX), kept.removeprefix(LEROBOT_PREFIX)
        if name not in stored and kept in stored:
            stored[name] = stored[kept]
    return stored


def unindexed_shards(directory: Path, read: Collection[Path]) -> dict[Path, set[str]]:
    """The shards in a directory that are not among the files `read`, and the names of their tensors."""
    return {
        path: {name.removeprefix(LEROBOT_PREFIX) for name in read_header(path)[0]}
        for path in sorted(directory.glob(SHARD_PATTERN))
        if path not in read
    }


def read_header(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The tensors of one file, and its metadata; CheckpointError when it is not a whole safetensors file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if start == b"version ":
                raise CheckpointError(
                    f"{path} is a Git LFS pointer ({size} bytes), not the weights: run `git lfs pull` in its directory"
                )
            if len(start) < 8 or length > min(size - 8, MAX_HEADER_BYTES):
                raise _damaged(path, f"its header should have {length} bytes, the whole file has {size}")
            header = json.loads(file.read(length))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error}); check the file and its permissions") from error
    except ValueError as error:
        if isinstance(error, CheckpointError):
            raise
        raise _damaged(path, f"its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise _damaged(path, f"its header is {type(header).__name__}, expected an object")
    metadata = header.pop("__metadata__", None) or {}
    begin = end = 8 + length
    tensors, ends = {}, {}
    for name, entry in header.items():
        tensors[name], ends[name] = _stored(path, name, entry, begin)
    for name in sorted(tensors, key=lambda name: (tensors[name].offset, ends[name])):
        if tensors[name].offset != end:  # as safetensors demands: nothing between tensors, and no byte in two of them
            raise _damaged(path, f"{name} begins at byte {tensors[name].offset}, expected {end}")
        end = ends[name]
    if size != end:
        raise _damaged(path, f"expected {end} bytes, found {size}")
    return tensors, {name: text for name, text in metadata.items() if isinstance(text, str)}


def _stored(path: Path, name: str, entry: Any, begin: int) -> tuple[StoredTensor, int]:
    """A tensor out of its entry in the header, and where it ends in the file."""
    try:
        dtype, shape, (first, last) = str(entry["dtype"]), tuple(entry["shape"]), entry["data_offsets"]
        sound = all(isinstance(n, int) and n >= 0 for n in (*shape, first, last)) and first <= last
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise _damaged(path, f"{name} is described as {entry!r}")
    if dtype in FLOAT_DTYPES and last - first != math.prod(shape) * FLOAT_DTYPES[dtype].itemsize:
        raise _damaged(path, f"{name} is {dtype} {list(shape)}, but has {last - first} bytes")
    return StoredTensor(path, dtype, shape, begin + first), begin + last


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path} is truncated or damaged, or no safetensors file: {what}; copy or download it again")


def _read_index(path: Path) -> dict[str, str]:
    try:
        weight_map = read_json_object(path).get("weight_map")
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path}: weight_map is missing or empty; copy or download the file again")
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise CheckpointError(
                f"{path}: weight_map gives {file!r} for {name}, expected a file name in this directory"
            )
    absent = [file for file in sorted(set(weight_map.values())) if not (path.parent / file).is_file()]
    if absent:
        example = next(name for name, file in weight_map.items() if file == absent[0])
        raise CheckpointError(
            f"{path}: weight_map names weight files that are not there: {listed(absent)} (for {example}, ...); copy or "
            "download them again"
        )
    return weight_map


def _without_prefix(names: Collection[str], path: Path) -> dict[str, str]:
    """Every name and the name without LeRobot's prefix, which all have or none."""
    prefixed = sorted(name for name in names if name.startswith(LEROBOT_PREFIX))
    bare = sorted(set(names) - set(prefixed))
    if prefixed and bare:
        raise CheckpointError(
            f"{path}: {len(prefixed)} tensors have LeRobot's prefix {LEROBOT_PREFIX} (such as {prefixed[0]}) and "
            f"{len(bare)} do not (such as {bare[0]}); expected all or none: the weights are of different checkpoints",
            unexpected=bare,
        )
    return {name: name.removeprefix(LEROBOT_PREFIX) for name in names}


class TensorReader:
    """Reads stored tensors into memory of their final dtype, on their final device. A context manager.

    Beside the tensors it holds `STAGE_BYTES`, and only where dtypes differ or the device is not the CPU; for CUDA the
    buffer is pinned.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype, self._device = dtype, device
        self._file: FileIO | None = None
        self._path: Path | None = None
        self._stage: Tensor | None = None

    def __enter__(self) -> TensorReader:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def read(self, name: str, stored: StoredTensor) -> Tensor:
        """The tensor; CheckpointError when the file ends before it does or cannot be read. `name` is for the error."""
        source = FLOAT_DTYPES[stored.dtype]
        target = torch.empty(stored.shape, dtype=self._dtype, device=self._device)
        flat = target.view(-1)
        try:
            file = self._open(stored.path)
            file.seek(stored.offset)
            if source == self._dtype and self._device.type == "cpu":
                self._fill(file, flat, name)
                return target
            if self._stage is None:
                pinned = self._device.type == "cuda"
                self._stage = torch.empty(STAGE_BYTES, dtype=torch.uint8, pin_memory=pinned)
            for part in flat.split(STAGE_BYTES // source.itemsize):
                staged = self._stage[: part.numel() * source.itemsize].view(source)
                self._fill(file, staged, name)
                part.copy_(staged.to(self._device))
        except OSError as error:
            raise CheckpointError(f"{stored.path}: {name} cannot be read ({error}); check the disk") from error
        return target

    def _open(self, path: Path) -> FileIO:
        if self._file is None or self._path != path:
            if self._file is not None:
                self._file.close()
            self._file, self._path = FileIO(path, "rb"), path
        return self._file

    def _fill(self, file: FileIO, values: Tensor, name: str) -> None:
        """Reads as many bytes as `values`, contiguous and on the CPU, has."""
        view = values.view(torch.uint8).numpy().data
        done = 0
        while done < len(view):
            count = file.readinto(view[done:])
            if not count:
                raise CheckpointError(
                    f"{self._path} ends within {name}: expected {len(view)} bytes, found {done}; it changed while it "
                    "was read: copy or download it again"
                )
            done += count


def by_place(stored: Mapping[str, StoredTensor], names: Collection[str]) -> list[str]:
    """`names` in the order in which their tensors lie on the disk."""
    return sorted(names, key=lambda name: (stored[name].path.name, stored[name].offset, name))
