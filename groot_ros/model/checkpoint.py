"""NVIDIA's checkpoint directories, in and out: config.json and safetensors, whole or in shards with an index.

Nothing is initialised here: every tensor of the network comes from the files, or loading fails with the names of those
that do not. Tensors are read one at a time into a network without memory, so the peak is near the weights themselves.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from groot_ros.model.config import ConfigError, ModelConfig, read_json_object
from groot_ros.model.groot import GrootModel

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
SHARD_PATTERN = "model-*-of-*.safetensors"
MAX_SHARD_BYTES = 5_000_000_000
LISTED_NAMES = 10


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
        """Tensors of another shape."""


def resolve_checkpoint(source: str | Path) -> Path:
    """The local directory of a checkpoint: a directory as it is, or a hub id (`nvidia/GR00T-N1.7-3B`), downloaded.

    Raises:
        CheckpointError: neither a directory nor an id that the Hugging Face hub, or its local cache, has.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise CheckpointError(f"{path} is a file; give the directory that holds {CONFIG_NAME}")
    text = str(source)
    if text.count("/") != 1 or text.startswith((".", "~", "/")):
        raise CheckpointError(f"{path}: no such directory; give a checkpoint directory or a hub id (owner/name)")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(text, allow_patterns=["*.json", "*.safetensors", "*.txt"]))
    except (OSError, ValueError) as error:  # the hub's errors derive from these, offline mode's too
        raise CheckpointError(
            f"{text}: no such directory here, and the Hugging Face hub did not give it as a checkpoint ({error}); "
            "check the name, the network and `hf auth login`"
        ) from error


def load_config(directory: str | Path) -> ModelConfig:
    """Reads config.json of a checkpoint directory; CheckpointError says what is wrong with which file."""
    directory = Path(directory)
    if not directory.exists():
        raise CheckpointError(f"{directory}: no such directory; give a checkpoint directory")
    if not directory.is_dir():
        raise CheckpointError(f"{directory} is not a directory; give the directory that holds {CONFIG_NAME}")
    path = directory / CONFIG_NAME
    if not path.is_file():
        found = ", ".join(sorted(p.name for p in directory.iterdir())[:LISTED_NAMES]) or "nothing"
        raise CheckpointError(
            f"{path} is missing, so {directory} is no checkpoint directory, or an incomplete one (it holds: {found}); "
            "copy or download the checkpoint again"
        )
    try:
        return ModelConfig.from_file(path)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


def load_model(
    directory: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    keep_unused: bool = True,
    match_reference_bf16: bool = False,
) -> GrootModel:
    """The network of a checkpoint directory, in eval mode.

    Args:
        directory: holds config.json and the weights.
        dtype: of all parameters; None: the config's `model_dtype`.
        device: where they go, tensor by tensor.
        keep_unused: load the tensors that the network never reads where the files have them, for saving them again;
            the parameters of all others are None.
        match_reference_bf16: see `Backbone.match_reference_bf16`.

    Raises:
        CheckpointError: a file is missing or broken, the generation is not supported, or tensors are missing,
            unexpected or of another shape; the message names them.
    """
    directory = Path(directory)
    config = load_config(directory)
    try:
        with torch.device("meta"):
            model = GrootModel(config)
    except ConfigError as error:
        raise CheckpointError(f"{directory / CONFIG_NAME}: {error}") from error
    files = tensor_files(directory)
    tied = model.tied_parameters()
    unused = model.unused_parameters()
    _compare(directory, {name: tuple(p.shape) for name, p in model.state_dict().items()}, files, {*tied, *unused})
    left_out = {name for name in unused if not keep_unused or tied.get(name, name) not in files}
    for name in left_out:
        _remove(model, name)
    dtype = getattr(torch, config.model_dtype) if dtype is None else dtype
    for path, names in _by_file(files).items():
        with safe_open(path, framework="pt") as file:
            for name in names:
                if name not in tied and name not in left_out:
                    _assign(model, name, file.get_tensor(name).to(device=device, dtype=dtype, copy=True))
    for name, source in tied.items():
        if name not in left_out:
            _assign(model, name, model.get_parameter(source))
    model.backbone.match_reference_bf16 = match_reference_bf16
    return model.eval()


def save_model(model: GrootModel, directory: str | Path, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """Writes config.json and the weights in NVIDIA's layout, in the parameters' dtypes, in place of older weights.

    Raises:
        OSError: the directory cannot be written.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    state = model.state_dict()
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in state.items()}
    # A tied tensor is written on its own, as NVIDIA's checkpoints have it: safetensors stores no aliases.
    tied = model.tied_parameters()

    def tensor(name: str) -> Tensor:
        value = state[name].detach().to("cpu").contiguous()
        return value.clone() if name in tied else value

    write_weights(directory, sizes, tensor, max_shard_bytes=max_shard_bytes)
    write_json(directory / CONFIG_NAME, model.config.to_dict())


def write_weights(
    directory: Path,
    sizes: Mapping[str, int],
    tensor: Callable[[str], Tensor],
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Callable[[str], None] | None = None,
) -> None:
    """Writes the tensors that `tensor(name)` gives, holding one shard in memory at a time.

    Args:
        sizes: bytes of each tensor, in the order to write.
        progress: called with each file's name once it is written.
    """
    shards: list[list[str]] = [[]]
    used = 0
    for name, size in sizes.items():
        if shards[-1] and used + size > max_shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    count = len(shards)
    files = [WEIGHTS_NAME] if count == 1 else [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    for file, names in zip(files, shards, strict=True):
        # Written beside and renamed: an interrupted save leaves no half file under the real name.
        partial = directory / f"{file}.partial"
        save_file({name: tensor(name) for name in names}, partial, metadata={"format": "pt"})
        partial.chmod(0o644)  # safetensors makes files that only their owner may read
        os.replace(partial, directory / file)
        if progress is not None:
            progress(file)
    if count > 1:
        weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        write_json(directory / INDEX_NAME, {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map})
    else:
        (directory / INDEX_NAME).unlink(missing_ok=True)
    for stale in (directory / WEIGHTS_NAME, *directory.glob(SHARD_PATTERN)):
        if stale.name not in files:
            stale.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Writes an object as indented JSON, whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def tensor_files(directory: Path) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """File and shape of every tensor of a checkpoint directory; CheckpointError names a missing or broken file."""
    index_path = directory / INDEX_NAME
    if index_path.is_file():
        weight_map = _read_index(index_path)
        shards = [directory / file for file in sorted(set(weight_map.values()))]
        absent = [path.name for path in shards if not path.is_file()]
        if absent:
            raise CheckpointError(
                f"{index_path} names weight files that are not there: {', '.join(absent)}; copy or download them again"
            )
    elif (directory / WEIGHTS_NAME).is_file():
        weight_map, shards = {}, [directory / WEIGHTS_NAME]
    else:
        hint = "; it holds PyTorch .bin files, which are not read" if list(directory.glob("*.bin")) else ""
        raise CheckpointError(
            f"{directory} holds neither {WEIGHTS_NAME} nor {INDEX_NAME}{hint}; the checkpoint is incomplete: copy or "
            "download it again"
        )
    files: dict[str, tuple[Path, tuple[int, ...]]] = {}
    for path in shards:
        files.update(_read_header(path))
    lost = [name for name, file in weight_map.items() if name not in files or files[name][0].name != file]
    if lost:
        raise CheckpointError(
            f"{index_path} names tensors that their files do not hold: {_listed(lost)}; index and weights are of "
            "different checkpoints",
            missing=lost,
        )
    return files


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
    return weight_map


def _read_header(path: Path) -> dict[str, tuple[Path, tuple[int, ...]]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: (path, tuple(file.get_slice(name).get_shape())) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read as safetensors ({error}); it is truncated or damaged: copy or download it again"
        ) from error


def _compare(
    directory: Path,
    expected: Mapping[str, tuple[int, ...]],
    files: Mapping[str, tuple[Path, tuple[int, ...]]],
    optional: Iterable[str],
) -> None:
    missing = [name for name in expected if name not in files and name not in set(optional)]
    unexpected = [name for name in files if name not in expected]
    mismatched = [name for name in expected if name in files and files[name][1] != tuple(expected[name])]
    if not (missing or unexpected or mismatched):
        return
    shapes = [f"{name} (file {list(files[name][1])}, config {list(expected[name])})" for name in mismatched]
    parts = [
        f"{len(names)} {label}: {_listed(names)}"
        for label, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    raise CheckpointError(
        f"{directory}: the tensors do not match {CONFIG_NAME}: {'; '.join(parts)}. Config and weights must be of the "
        "same checkpoint",
        missing=missing,
        unexpected=unexpected,
        mismatched=mismatched,
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED_NAMES} more" if len(names) > LISTED_NAMES else ""
    return ", ".join(names[:LISTED_NAMES]) + more


def _by_file(files: Mapping[str, tuple[Path, tuple[int, ...]]]) -> dict[Path, list[str]]:
    grouped: dict[Path, list[str]] = {}
    for name, (path, _) in files.items():
        grouped.setdefault(path, []).append(name)
    return grouped


def _assign(model: nn.Module, name: str, value: Tensor) -> None:
    """Puts a tensor in the place of a parameter; a parameter is put as it is, so that tied names share it."""
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, value if isinstance(value, nn.Parameter) else nn.Parameter(value))


def _remove(model: nn.Module, name: str) -> None:
    """Leaves a module without one of its parameters."""
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, None)
