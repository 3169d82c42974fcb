"""Where tokens and patches stand: M-RoPE ids and tables of the text, position tables and rotary tables of the patches.

Written out here, in float32 and without buffers, for two reasons: rotary frequencies must not be rounded when a model
is cast to bfloat16, and transformers moves these functions between releases. Source: spec groot_n17.md, 1.2 and 3.1.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

Grid = tuple[int, int, int]
"""Frames, rows and columns of patches of one image (`image_grid_thw`)."""

VISION_ROPE_THETA = 10000.0


def inverse_frequencies(dim: int, theta: float, device: torch.device, rounding: torch.dtype | None = None) -> Tensor:
    """theta^(-2k/dim), k = 0..dim/2-1, float32; the values are first rounded to `rounding` if that is given."""
    exact = 1.0 / theta ** (torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim)
    return exact if rounding is None else exact.to(rounding).float()


def rope_tables(
    length: int,
    head_dim: int,
    theta: float,
    dtype: torch.dtype,
    device: torch.device,
    rounding: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """cos and sin [1,length,head_dim] of one position per token, counted over padding too (spec groot_n15_n16.md, 3.1).

    `rounding`: see `inverse_frequencies`.
    """
    steps = torch.arange(length, device=device, dtype=torch.float32)
    angles = torch.outer(steps, inverse_frequencies(head_dim, theta, device, rounding))
    angles = torch.cat((angles, angles), dim=-1)[None]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def mrope_position_ids(
    input_ids: Tensor, attention_mask: Tensor, grids: Sequence[Grid], *, image_token_id: int, merge: int
) -> Tensor:
    """Position ids of every token on the axes time, height and width.

    A text token stands at one id on all axes. The tokens of an image share the time id `s` and stand at `s + row`,
    `s + column` of the merged grid; the next token follows at the largest id + 1. Padding holds 1.

    Args:
        input_ids: int64 [B,L].
        attention_mask: [B,L], 1 on real tokens.
        grids: one per image, in batch order.
        image_token_id: the id that stands for one merged patch.
        merge: edge of a merged block of patches.

    Returns:
        int64 [3,B,L] on the device of `input_ids`.

    Raises:
        ValueError: the image tokens do not match the grids.
    """
    ids = input_ids.tolist()
    real = attention_mask.tolist()
    out = torch.ones(3, *input_ids.shape, dtype=torch.int64)
    index = 0
    # A batch for training is many prompts of few kinds: rows like one before are copied.
    known: dict[tuple[tuple[int, ...], tuple[int, ...]], tuple[int, Sequence[Grid]]] = {}
    for b, (row_ids, row_real) in enumerate(zip(ids, real, strict=True)):
        kind = tuple(row_ids), tuple(row_real)
        same, images = known.get(kind, (-1, ()))
        if same >= 0 and grids[index : index + len(images)] == images:
            out[:, b] = out[:, same]
            index += len(images)
            continue
        first = index
        columns = [i for i, r in enumerate(row_real) if r]
        start = at = 0
        while at < len(columns):
            if row_ids[columns[at]] != image_token_id:
                out[:, b, columns[at]] = start
                start, at = start + 1, at + 1
                continue
            if index == len(grids):
                raise ValueError(f"input_ids of sample {b} hold more images than the {len(grids)} of image_grid_thw")
            grid = grids[index]
            rows, cols = grid[1] // merge, grid[2] // merge
            block = columns[at : at + rows * cols]
            if len(block) < rows * cols or any(row_ids[c] != image_token_id for c in block):
                raise ValueError(
                    f"image {index} has grid {tuple(grid)} and so {rows * cols} tokens, but input_ids of sample {b} "
                    "hold fewer in a row: the processor and the model disagree about the image"
                )
            out[0, b, block] = start
            out[1, b, block] = start + torch.arange(rows).repeat_interleave(cols)
            out[2, b, block] = start + torch.arange(cols).repeat(rows)
            start, at, index = start + max(rows, cols), at + rows * cols, index + 1
        known[kind] = b, grids[first:index]
    if index < len(grids):
        raise ValueError(f"image_grid_thw holds {len(grids)} images, input_ids hold tokens for {index}")
    return out.to(input_ids.device)


def mrope_tables(
    position_ids: Tensor,
    head_dim: int,
    theta: float,
    section: Sequence[int],
    dtype: torch.dtype,
    rounding: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """cos and sin [B,L,head_dim] of interleaved M-RoPE.

    Frequencies 3k+1 turn with the height id and 3k+2 with the width id, as many as `section` says; the rest with time.
    `rounding`: see `inverse_frequencies`.
    """
    frequencies = inverse_frequencies(head_dim, theta, position_ids.device, rounding)
    axis = torch.zeros(head_dim // 2, dtype=torch.int64)
    axis[1 : 3 * section[1] : 3] = 1
    axis[2 : 3 * section[2] : 3] = 2
    positions = position_ids.float()[axis.to(position_ids.device)].permute(1, 2, 0)  # [B,L,head_dim/2]
    angles = positions * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def patch_coordinates(grids: Sequence[Grid], merge: int, device: torch.device) -> Tensor:
    """Row and column of every patch, int64 [patches,2], in the order of `pixel_values`: one merged block by another."""
    return torch.cat([_image_coordinates(tuple(grid), merge) for grid in grids]).to(device)


@functools.lru_cache(maxsize=64)
def _image_coordinates(grid: Grid, merge: int) -> Tensor:
    """Of one image; not to be written to."""
    frames, rows, cols = grid
    places = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij"), dim=-1)
    blocks = places.view(rows // merge, merge, cols // merge, merge, 2).transpose(1, 2).reshape(-1, 2)
    return blocks.repeat(frames, 1)


def vision_rope_tables(
    coordinates: Tensor, head_dim: int, rounding: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """cos and sin, float32 [patches,head_dim]: a quarter of the angles from row, one from column; both twice.

    With `rounding`, frequencies, angles, cos and sin are each rounded to that dtype: transformers 4.57 computes these
    tables in the dtype of its frequencies, other than those of the text.
    """
    frequencies = inverse_frequencies(head_dim // 2, VISION_ROPE_THETA, coordinates.device, rounding)
    dtype = rounding or torch.float32
    angles = (coordinates[..., None].float() * frequencies).flatten(1).to(dtype)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().float(), angles.sin().float()


def position_table_lookup(grids: Sequence[Grid], coordinates: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Bilinear look-up of the learned `side` x `side` position table, stretched over each image (corners on corners).

    Returns:
        indices int64 [4,patches] into the flattened table and weights float32 [4,patches].
    """
    # float32 linspace, as the reference has it: an exact quotient would differ in the last bits of the weights.
    counts = [frames * rows * cols for frames, rows, cols in grids]
    if len({tuple(grid[1:]) for grid in grids}) == 1:
        grids, counts = grids[:1], [sum(counts)]
    lines = [(torch.linspace(0, side - 1, rows), torch.linspace(0, side - 1, cols)) for _, rows, cols in grids]
    at = coordinates.cpu().split(counts)
    place = [torch.stack((r[c[:, 0]], s[c[:, 1]]), dim=-1) for (r, s), c in zip(lines, at, strict=True)]
    places = torch.cat(place).to(coordinates.device)
    low = places.long()
    fraction = places - low
    high = (low + 1).clamp(max=side - 1)
    (row0, col0), (row1, col1) = low.unbind(1), high.unbind(1)
    (up, left), (down, right) = (1 - fraction).unbind(1), fraction.unbind(1)
    indices = torch.stack((row0 * side + col0, row0 * side + col1, row1 * side + col0, row1 * side + col1))
    weights = torch.stack((up * left, up * right, down * left, down * right))
    return indices, weights
