"""Reading and changing the files of a checkpoint directory."""

from __future__ import annotations

import json

from safetensors.torch import load_file, save_file

INDEX = "model.safetensors.index.json"


def shards(directory):
    return sorted(directory.glob("model-*-of-*.safetensors"))


def shard_of(directory, name):
    return directory / json.loads((directory / INDEX).read_text())["weight_map"][name]


def rewrite(path, change):
    """Changes the tensors of one file in place."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def edit_json(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def unlist(directory, name):
    edit_json(directory / INDEX, lambda index: index["weight_map"].pop(name))
