"""Random checkpoints in NVIDIA's directory layout, so that everything runs without a download.

Sizes: `groot_ros.model.random_networks`. They are the same code with other numbers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groot_ros.model.checkpoint import CONFIG_NAME, write_json, write_weights
from groot_ros.model.config import ModelConfig
from groot_ros.model.groot import GrootModel
from groot_ros.model.random_networks import check_size, network_config, random_moments
from groot_ros.model.tokenizer import FIRST_SPECIAL_ID_QWEN, FIRST_SPECIAL_ID_TINY, write_tokenizer
from groot_ros.processing.config import EMBODIMENT_FILE, PROCESSOR_FILE, STATISTICS_FILE
from groot_ros.processing.generations import GENERATIONS as CONVENTIONS
from groot_ros.processing.metadata import METADATA_FILE, MODALITY_FILE
from groot_ros.processing.patches import PREPROCESSOR_FILE, PatchLayout
from groot_ros.processing.tags import complete_embodiment_ids

# One shard in memory at a time. NVIDIA writes 5 GB ones; smaller ones keep the peak of this command low.
SHARD_BYTES = 1_500_000_000


# Weights whose product is added to a block's input.
_ADDED = (
    *("o_proj.weight", "down_proj.weight", "to_out.0.weight", "net.2.weight"),
    *("attn.proj.weight", "mlp.linear_fc2.weight"),
)


def make_checkpoint(
    directory: str | Path,
    *,
    generation: str,
    size: str,
    processor_kwargs: Mapping[str, Any],
    statistics: Mapping[str, Any],
    modalities: Mapping[str, Any] | None = None,
    embodiment_ids: Mapping[str, int] | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Writes a random checkpoint: config.json, weights, processor files, statistics, embodiment ids and a tokenizer.

    The same seed gives the same weights, whatever else is written. N1.5's processor files are
    experiment_cfg/metadata.json and, beside what NVIDIA publishes, experiment_cfg/modality_config.json.

    Args:
        directory: made if it is not there.
        generation: `n1d5`, `n1d6` or `n1d7`.
        size: `tiny`, `demo` (N1.7 only) or `full` (5.4, 6.6 and 6.9 GB, bfloat16, written shard by shard).
        processor_kwargs: as `default_processor_kwargs` gives them; the network's state, action and history sizes
            follow them.
        statistics: tag -> `state`/`action`/`relative_action` -> group -> arrays.
        modalities: N1.5 only: tag -> `modalities` of metadata.json (sizes of views, shapes of keys).
        embodiment_ids: tag -> projector index; tags of NVIDIA's table that are not named are added, and a tag that is
            in neither gets the first free index.
        progress: called with the share of the weights that is written, 0 to 1.

    Raises:
        ValueError: unknown generation or size, a size that the generation does not have, embodiments whose state
            histories differ, or no free projector index.
        OSError: the directory cannot be written.
    """
    check_size(size, generation)
    config = network_config(generation, size, processor_kwargs)
    tags = list(processor_kwargs["modality_configs"])
    own_ids = _with_free_ids(tags, embodiment_ids or {}, generation, config.max_num_embodiments)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_tokenizer(directory, FIRST_SPECIAL_ID_QWEN if size == "full" else FIRST_SPECIAL_ID_TINY)
    write_json(directory / CONFIG_NAME, config.to_dict())
    if generation == "n1d5":
        _write_metadata(directory, processor_kwargs["modality_configs"], statistics, modalities or {})
        if own_ids:
            write_json(directory / EMBODIMENT_FILE, own_ids)
    else:
        document = {"processor_class": CONVENTIONS[generation].processor_class, "processor_kwargs": processor_kwargs}
        write_json(directory / PROCESSOR_FILE, document)
        write_json(directory / STATISTICS_FILE, statistics)
        write_json(directory / EMBODIMENT_FILE, complete_embodiment_ids(own_ids, generation))
    if generation == "n1d7":
        write_json(directory / PREPROCESSOR_FILE, patch_layout(config, size).to_dict())
    # N1.5's config names the dtype of its code; NVIDIA's files are bfloat16 all the same.
    dtype = torch.bfloat16 if size == "full" else torch.float32
    values = trainable_tensor if size == "demo" else random_tensor
    _write_random_weights(directory, config, dtype, lambda name, shape: values(name, shape, seed), progress)


def random_tensor(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """float32 values for the parameter `name`, normal (`random_moments`), depending on name, shape and seed alone."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    values = torch.randn(shape, generator=generator)
    mean, deviation = random_moments(name, shape)
    values.mul_(deviation)
    return values.add_(mean) if mean else values


def trainable_tensor(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """float32 values for the parameter `name` of a network that is to learn from nothing, quickly.

    As `random_tensor`, but places start as sines and cosines, so that what is near in the picture or in time is near
    for the network, too: with random tables it learned nothing in the time in which it learns the task with these. And
    what a block adds to its input starts small.
    """
    if name.endswith("pos_embed.weight"):
        return 0.5 * _waves_of_grid(*shape)
    if name.endswith("position_embedding.weight"):
        return 0.5 * _waves(torch.arange(shape[0]), 2 * math.pi / torch.logspace(0.5, 1.8, shape[1] // 2))
    values = random_tensor(name, shape, seed)
    return values.mul_(0.3) if name.endswith(_ADDED) and ".merger." not in name else values


def _waves(places: Tensor, frequencies: Tensor) -> Tensor:
    """Places [N] -> sines, then cosines [N, 2 * frequencies]."""
    angles = places[:, None].float() * frequencies
    return torch.cat((angles.sin(), angles.cos()), dim=1)


def _waves_of_grid(places: int, width: int) -> Tensor:
    """A quarter of the columns each: sines and cosines of the row, of the column. [places, width]"""
    side = math.isqrt(places)
    line = torch.linspace(0, 1, side)
    waves = _waves(line, math.pi * torch.linspace(1, side / 2, width // 4))
    return torch.cat((waves.repeat_interleave(side, dim=0), waves.repeat(side, 1)), dim=1)


def patch_layout(config: ModelConfig, size: str) -> PatchLayout:
    """N1.7's image settings: the released ones, or of a small network's own tower, from 1024 pixels per image on."""
    if size == "full" or config.backbone_config is None:
        return PatchLayout()
    vision = config.backbone_config["vision_config"]
    return PatchLayout(1024, patch_size=vision["patch_size"], merge_size=vision["spatial_merge_size"])


def _with_free_ids(tags: Sequence[str], given: Mapping[str, int], generation: str, count: int) -> dict[str, int]:
    """The given ids, and a free one for every tag that neither they nor the generation's table have."""
    ids = dict(given)
    for tag in tags:
        known = complete_embodiment_ids(ids, generation)
        if tag not in known:
            free = [number for number in range(count) if number not in known.values()]
            if not free:
                raise ValueError(f"{tag} has no projector index, and all {count} are taken")
            ids[tag] = free[0]
    return ids


def _write_metadata(
    directory: Path, modality_configs: Mapping[str, Any], statistics: Mapping[str, Any], modalities: Mapping[str, Any]
) -> None:
    """N1.5's files. It knows no relative actions, so their statistics are left out."""
    entries = {
        tag: {
            "statistics": {name: groups for name, groups in content.items() if name != "relative_action"},
            "modalities": modalities.get(tag, {}),
            "embodiment_tag": tag,
        }
        for tag, content in statistics.items()
    }
    for name, content in ((METADATA_FILE, entries), (MODALITY_FILE, modality_configs)):
        (directory / name).parent.mkdir(exist_ok=True)
        write_json(directory / name, content)


def _write_random_weights(
    directory: Path,
    config: ModelConfig,
    dtype: torch.dtype,
    values: Callable[[str, tuple[int, ...]], Tensor],
    progress: Callable[[float], None] | None,
) -> None:
    with torch.device("meta"):
        model = GrootModel(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = model.tied_parameters()
    sizes = {name: math.prod(shape) * dtype.itemsize for name, shape in shapes.items()}
    total, done = sum(sizes.values()), 0

    def tensor(name: str) -> Tensor:
        nonlocal done
        result = values(tied.get(name, name), shapes[name]).to(dtype)
        done += sizes[name]
        if progress is not None:
            progress(done / total)
        return result

    write_weights(directory, sizes, tensor, max_shard_bytes=SHARD_BYTES)
