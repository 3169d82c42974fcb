"""NVIDIA's checkpoint directories, in and out: config.json and safetensors, whole or in shards with an index.

Every tensor of the network comes from the files, or loading fails with the names of those that do not; the exceptions
are in `load_model`. Tensors are read one at a time into a network without memory, so the peak is near the weights
themselves. What LeRobot saves loads too: its tensor names have a prefix, its config.json names the model it is of.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from groot_ros.model.config import ConfigError, ModelConfig, is_lerobot_policy, read_json_object
from groot_ros.model.groot import GrootModel
from groot_ros.model.tensor_files import (
    CONFIG_NAME,
    FLOAT_DTYPES,
    INDEX_NAME,
    LISTED_NAMES,
    SHARD_PATTERN,
    WEIGHTS_NAME,
    CheckpointError,
    StoredTensor,
    TensorReader,
    by_place,
    find_tensors,
    listed,
    unindexed_shards,
)

__all__ = [
    "CONFIG_NAME",
    "CheckpointError",
    "load_config",
    "load_model",
    "resolve_checkpoint",
    "save_model",
    "save_state",
    "write_json",
    "write_weights",
]

MAX_SHARD_BYTES = 5_000_000_000
LEROBOT_TYPE = "groot"
STEPS_KEY = "num_inference_timesteps"
MASK_TOKEN = "action_head.mask_token"
# Only training reads it: a table in checkpoints of NVIDIA's GR00T-H (spec groot_n17.md, 1.3).
TRAINING_TENSORS = ("action_head.dropout_prob_by_embodiment",)
_MASK_TOKEN_SEED = 0

# What the tensor names of each generation, and of no other, begin with.
_NAME_SIGNS = {
    "n1d5": "backbone.eagle_model.",
    "n1d6": "backbone.model.vision_model.",
    "n1d7": "backbone.model.model.",
}


def resolve_checkpoint(source: str | Path) -> Path:
    """The local directory of a checkpoint: a directory as it is, or a hub id, downloaded.

    Args:
        source: a directory; `nvidia/GR00T-N1.7-3B`; or, where a repository holds several checkpoints,
            `nvidia/GR00T-N1.7-LIBERO/libero_10`, of which only that folder is downloaded.

    Raises:
        CheckpointError: neither a directory nor an id that the Hugging Face hub, or its local cache, has.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise CheckpointError(f"{path} is a file; give the directory that holds {CONFIG_NAME}")
    owner, _, rest = str(source).partition("/")
    name, _, folder = rest.partition("/")
    if not owner or not name or owner.startswith((".", "~")) or ".." in folder:
        raise CheckpointError(
            f"{path}: no such directory; give a checkpoint directory or a hub id (owner/name, or owner/name/folder)"
        )
    from huggingface_hub import snapshot_download

    prefix = f"{folder.rstrip('/')}/" if folder else ""
    # Patterns also match in the folders below, which may be other checkpoints: those are large, so they are left out.
    wanted = [f"{prefix}{pattern}" for pattern in ("*.json", "*.safetensors", "*.txt")]
    unwanted = [f"{prefix}*/{pattern}" for pattern in ("*.safetensors", "checkpoint-*")]
    try:
        found = Path(snapshot_download(f"{owner}/{name}", allow_patterns=wanted, ignore_patterns=unwanted)) / folder
    except (OSError, ValueError) as error:  # the hub's errors derive from these, offline mode's too
        raise CheckpointError(
            f"{source}: no such directory here, and the Hugging Face hub did not give it as a checkpoint ({error}); "
            "check the name, the network and `hf auth login`"
        ) from error
    if not found.is_dir():
        raise CheckpointError(f"{source}: the repository {owner}/{name} has no folder {folder}")
    return found


def load_config(directory: str | Path) -> ModelConfig:
    """Reads config.json of a checkpoint directory; of one that LeRobot saved, the one of its `base_model_path`.

    Raises:
        CheckpointError: it says what is wrong with which file.
    """
    directory = Path(directory)
    if not directory.exists():
        raise CheckpointError(f"{directory}: no such directory; give a checkpoint directory")
    if not directory.is_dir():
        raise CheckpointError(f"{directory} is not a directory; give the directory that holds {CONFIG_NAME}")
    path = directory / CONFIG_NAME
    if not path.is_file():
        found = ", ".join(sorted(p.name for p in directory.iterdir())[:LISTED_NAMES]) or "nothing"
        below = [p.parent.name for p in sorted(directory.glob(f"*/{CONFIG_NAME}"))]
        fix = f"name one of its folders: {listed(below)}" if below else "copy or download the checkpoint again"
        raise CheckpointError(
            f"{path} is missing, so {directory} is no checkpoint directory, or an incomplete one (it holds: {found}); "
            f"{fix}"
        )
    try:
        values = read_json_object(path)
        return _base_config(path, values) if is_lerobot_policy(values) else ModelConfig.from_file_content(path, values)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


def _base_config(path: Path, policy: Mapping[str, object]) -> ModelConfig:
    """The config of the model that a LeRobot policy, whose config.json is `path`, was made from.

    The number of Euler steps is the policy's where it says one.
    """
    if policy["type"] != LEROBOT_TYPE:
        raise CheckpointError(f"{path}: type is {policy['type']!r}: a LeRobot policy, expected {LEROBOT_TYPE!r}")
    base = policy.get("base_model_path")
    if not isinstance(base, str) or not base:
        raise CheckpointError(
            f"{path}: base_model_path is {base!r}, expected the directory or the hub id of the GR00T model that the "
            f"policy was made from; its {CONFIG_NAME} describes the network"
        )
    for folder in (path.parent / base, Path(base).expanduser()):
        if (folder / CONFIG_NAME).is_file():
            return _with_steps(ModelConfig.from_file(folder / CONFIG_NAME), path, policy)
    from huggingface_hub import hf_hub_download

    try:
        found = Path(hf_hub_download(base, CONFIG_NAME))
    except (OSError, ValueError) as error:  # as in resolve_checkpoint
        raise CheckpointError(
            f"{path}: base_model_path is {base!r}: neither a directory with a {CONFIG_NAME} here or beside the "
            f"checkpoint, nor did the Hugging Face hub give that file ({error}); set base_model_path to a copy of the "
            "model's directory (its weights are not read), or check the network and `hf auth login`"
        ) from error
    return _with_steps(ModelConfig.from_file(found), path, policy)


def _with_steps(config: ModelConfig, path: Path, policy: Mapping[str, object]) -> ModelConfig:
    steps = policy.get(STEPS_KEY)
    if steps is None:
        return config
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise CheckpointError(f"{path}: {STEPS_KEY} is {steps!r}, expected a positive whole number")
    return dataclasses.replace(config, num_inference_timesteps=steps)


def load_model(
    directory: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    keep_unused: bool = True,
    match_reference_bf16: bool = False,
    state_dropout_prob: float | None = None,
) -> GrootModel:
    """The network of a checkpoint directory, in eval mode.

    Tied tensors are one parameter and are read once. `TRAINING_TENSORS` and a `mask_token` that the config has no use
    for are ignored; a `mask_token` that it wants and no file holds is drawn anew, 0.02 times normal as in NVIDIA's
    code, but always the same.

    Args:
        directory: holds config.json and the weights.
        dtype: of all parameters; None: the config's `model_dtype`.
        device: where they go, tensor by tensor.
        keep_unused: load the tensors that the network never reads where the files have them, for saving them again;
            the parameters of all others are None.
        match_reference_bf16: see `Backbone.match_reference_bf16`.
        state_dropout_prob: for training, in place of the config's; None: the config's.

    Raises:
        CheckpointError: a file is missing or broken, config and weights are of different generations, or tensors are
            missing, unexpected or of another shape; the message names them.
    """
    directory = Path(directory)
    config = load_config(directory)
    if state_dropout_prob is not None:
        config = dataclasses.replace(config, state_dropout_prob=state_dropout_prob)
    stored = find_tensors(directory)
    _check_generation(directory, config, stored)
    try:
        with torch.device("meta"):
            model = GrootModel(config)
    except ConfigError as error:
        raise CheckpointError(f"{directory / CONFIG_NAME}: {error}") from error
    tied, unused = model.tied_parameters(), model.unused_parameters()
    for name, source in tied.items():
        if source not in stored and name in stored:
            stored[source] = stored[name]
    shapes = {name: tuple(p.shape) for name, p in model.state_dict().items()}
    for name in (MASK_TOKEN, *TRAINING_TENSORS):
        if name not in shapes:
            stored.pop(name, None)
    _compare(directory, shapes, stored, {*tied, *model.optional_parameters()})
    left_out = {name for name in unused if not keep_unused or tied.get(name, name) not in stored}
    for name in left_out:
        _remove(model, name)
    dtype = getattr(torch, config.model_dtype) if dtype is None else dtype
    device = torch.device(device)
    _read_into(model, stored, set(shapes) - set(tied) - left_out, dtype, device)
    if MASK_TOKEN in shapes and MASK_TOKEN not in stored:
        generator = torch.Generator().manual_seed(_MASK_TOKEN_SEED)
        _assign(model, MASK_TOKEN, 0.02 * torch.randn(shapes[MASK_TOKEN], generator=generator).to(device, dtype))
    for name, source in tied.items():
        if name not in left_out:
            _assign(model, name, model.get_parameter(source))
    model.backbone.match_reference_bf16 = match_reference_bf16
    return model.eval()


def _read_into(
    model: GrootModel,
    stored: Mapping[str, StoredTensor],
    names: Collection[str],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Reads the named tensors that are stored; names of one and the same stored tensor share a parameter."""
    done: dict[StoredTensor, nn.Parameter] = {}
    with TensorReader(dtype, device) as reader:
        for name in by_place(stored, set(names) & set(stored)):
            place = stored[name]
            if place not in done:
                done[place] = nn.Parameter(reader.read(name, place))
            _assign(model, name, done[place])


def save_model(model: GrootModel, directory: str | Path, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """Writes config.json and the weights in NVIDIA's layout, in the parameters' dtypes, in place of older weights.

    Raises:
        OSError: the directory cannot be written.
    """
    save_state(model.state_dict(), directory, max_shard_bytes=max_shard_bytes)
    write_json(Path(directory) / CONFIG_NAME, model.config.to_dict())


def save_state(state: Mapping[str, Tensor], directory: str | Path, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """Writes the tensors of a state dict in NVIDIA's layout, in their dtypes, in place of older weights.

    Raises:
        OSError: the directory cannot be written.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in state.items()}
    first = {tensor.data_ptr(): name for name, tensor in reversed(list(state.items()))}

    def tensor(name: str) -> Tensor:
        value = state[name].detach().to("cpu").contiguous()
        # A tied tensor is written on its own, as NVIDIA's checkpoints have it: safetensors stores no aliases.
        return value if first[state[name].data_ptr()] == name else value.clone()

    write_weights(directory, sizes, tensor, max_shard_bytes=max_shard_bytes)


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


def _check_generation(directory: Path, config: ModelConfig, names: Collection[str]) -> None:
    """CheckpointError when the tensors are those of another generation than the config's."""
    for generation, sign in _NAME_SIGNS.items():
        example = next((name for name in names if name.startswith(sign)), None)
        if example is not None and generation != config.generation:
            raise CheckpointError(
                f"{directory / CONFIG_NAME}: model_type {config.model_type!r} is of generation {config.generation}, "
                f"but the tensors look like those of {generation} (such as {example}); {CONFIG_NAME} and weights must "
                "be of the same checkpoint"
            )


def _compare(
    directory: Path,
    expected: Mapping[str, tuple[int, ...]],
    stored: Mapping[str, StoredTensor],
    optional: Collection[str],
) -> None:
    missing = [name for name in expected if name not in stored and name not in optional]
    unexpected = [name for name in stored if name not in expected]
    present = [name for name in expected if name in stored]
    mismatched = [name for name in present if stored[name].shape != expected[name]]
    strange = [name for name in present if stored[name].dtype not in FLOAT_DTYPES]
    if not (missing or unexpected or mismatched or strange):
        return
    shapes = [
        f"{name} ({stored[name].path.name} {list(stored[name].shape)}, config {list(expected[name])})"
        for name in mismatched
    ]
    kinds = [
        f"{name} ({stored[name].path.name} {stored[name].dtype}, expected {' or '.join(FLOAT_DTYPES)})"
        for name in strange
    ]
    places = [f"{name} ({stored[name].path.name})" for name in unexpected]
    parts = [
        f"{len(names)} {label}: {listed(names)}"
        for label, names in (
            ("missing", missing),
            ("unexpected", places),
            ("of another shape", shapes),
            ("of another dtype", kinds),
        )
        if names
    ]
    others = unindexed_shards(directory, {tensor.path for tensor in stored.values()}) if missing else {}
    for path, names in others.items():
        held = names & set(missing)
        if held:
            parts.append(f"{path.name} holds {len(held)} of the missing ones, but {INDEX_NAME} does not name that file")
    raise CheckpointError(
        f"{directory}: the tensors do not match {CONFIG_NAME}: {'; '.join(parts)}. Config and weights must be of the "
        "same checkpoint",
        missing=missing,
        unexpected=unexpected,
        mismatched=[*mismatched, *strange],
    )


def _assign(model: nn.Module, name: str, value: Tensor) -> None:
    """Puts a tensor in the place of a parameter; a parameter is put as it is, so that tied names share it."""
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, value if isinstance(value, nn.Parameter) else nn.Parameter(value))


def _remove(model: nn.Module, name: str) -> None:
    """Leaves a module without one of its parameters."""
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, None)
