"""What a program holds, and dropping what it does not read of the model that it was made of."""

from __future__ import annotations

import torch
from torch import Tensor

from groot_ros.model.engine.dense import tensors_of
from groot_ros.model.groot import GrootModel


def bytes_held(part: object) -> int:
    """Of the tensors of an engine's part; what several views show counts once."""
    held: dict[int, int] = {}
    for tensor in tensors_of(part):
        held[_memory(tensor)] = tensor.nbytes if tensor.is_mkldnn else tensor.untyped_storage().nbytes()
    return sum(held.values())


def drop_unread(model: GrootModel, program: object) -> tuple[int, Tensor | None]:
    """Empties the parameters of a model whose memory a program does not read; the model refuses work afterwards.

    The embeddings of tokens, of which an instruction reads a few rows, go to the host.

    Returns:
        Bytes that were freed on the model's device, and the embeddings [vocabulary,D] where they were moved.
    """
    table = model.backbone.language_model.embed_tokens.weight
    kept = {_memory(tensor) for tensor in tensors_of(program)}
    moved: Tensor | None = None
    freed, seen = 0, set[int]()
    for parameter in model.parameters():
        if parameter.is_meta or (memory := _memory(parameter)) in kept:
            continue
        if parameter is table:
            if parameter.device.type == "cpu":
                continue
            moved = parameter.detach().cpu()
        if memory not in seen:  # of fused weights, several are views of one memory: it is free when all are gone
            seen.add(memory)
            freed += parameter.untyped_storage().nbytes()
        parameter.data = torch.empty(0, dtype=parameter.dtype, device=parameter.device)
    model.released = "an engine that took them over has dropped what it does not need"
    return freed, moved


def _memory(tensor: Tensor) -> int:
    """Where the memory of a tensor begins: equal for views of one another."""
    return id(tensor) if tensor.is_mkldnn else tensor.untyped_storage().data_ptr()
