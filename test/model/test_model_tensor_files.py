"""Single safetensors files: headers refused by name, and reading in slices, in any dtype, without a map of the file."""

from __future__ import annotations

import copy
import functools
import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from groot_ros.model import tensor_files
from groot_ros.model.checkpoint import write_json, write_weights
from groot_ros.model.config import ModelConfig
from groot_ros.model.groot import GrootModel
from groot_ros.model.tensor_files import CheckpointError, StoredTensor, TensorReader, find_tensors, read_header

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
CPU = torch.device("cpu")


@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.parametrize("target", [torch.float32, torch.bfloat16, torch.float16])
def test_values_in_every_dtype(tmp_path, monkeypatch, source, target):
    monkeypatch.setattr(tensor_files, "STAGE_BYTES", 40)  # so that slices do not divide the tensors
    generator = torch.Generator().manual_seed(0)
    shapes = {"matrix": (7, 11), "vector": (5,), "scalar": (), "empty": (0,), "one": (1, 1, 1)}
    tensors = {name: torch.randn(shape, generator=generator).to(DTYPES[source]) for name, shape in shapes.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    stored = find_tensors(tmp_path)
    with TensorReader(target, CPU) as reader:
        for name, tensor in tensors.items():
            found = reader.read(name, stored[name])
            assert found.dtype == target and torch.equal(found, tensor.to(target)), name


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(100))
    with TensorReader(torch.float32, CPU) as reader, pytest.raises(CheckpointError) as error:
        reader.read("weight", StoredTensor(path, "F32", (10,), 80))
    for word in (str(path), "weight", "expected 40 bytes, found 20"):
        assert word in str(error.value)


def header(document, data=b"", length=None):
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"weight": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


BROKEN = {
    "nothing": (b"", ["0"]),
    "a few bytes": (b"abc", ["has 3"]),
    "header longer than the file": (header({}, length=50), ["50 bytes", "has 10"]),
    "no JSON": (header(b"{{"), ["not JSON"]),
    "no text": (header(b"\xff\xff"), ["not JSON"]),
    "a list": (header([]), ["list", "object"]),
    "no offsets": (header({"weight": {"dtype": "F32", "shape": [2]}}, bytes(8)), ["weight", "described as"]),
    "negative shape": (header(entry(shape=[-2]), bytes(8)), ["weight", "-2"]),
    "offsets the wrong way": (header(entry(offsets=[8, 0]), bytes(8)), ["weight", "[8, 0]"]),
    "shape and bytes disagree": (header(entry(shape=[3]), bytes(8)), ["weight", "F32 [3]", "8 bytes"]),
    "bytes of two tensors": (
        header({**entry(), "other": entry(offsets=(4, 12))["weight"]}, bytes(12)),
        ["other begins at byte", "expected"],
    ),
    "bytes of none": (
        header({**entry(), "other": entry(offsets=(12, 20))["weight"]}, bytes(20)),
        ["other begins at byte", "expected"],
    ),
    "one tensor twice": (header({**entry(), "other": entry()["weight"]}, bytes(8)), ["begins at byte", "expected"]),
    "data cut": (header(entry(), bytes(5)), ["bytes, found"]),
    "more data than tensors": (header(entry(), bytes(9)), ["bytes, found"]),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", ["git lfs pull"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_file_is_refused_by_name(tmp_path, case):
    content, words = BROKEN[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        read_header(path)
    for word in (str(path), *words):
        assert word in str(error.value)


def ones(name, *, shapes, dtype):
    return torch.ones(shapes[name], dtype=dtype)


@pytest.fixture(scope="module")
def big(own_n1d7, tmp_path_factory):
    """Checkpoints of 137 million parameters in several shards, one tensor by far the largest: dtype -> directory."""
    config = own_n1d7.model.config
    document = copy.deepcopy(config.to_dict())
    document.update(hidden_size=1024, max_num_embodiments=64)
    document["diffusion_model_cfg"]["output_dim"] = 1024
    document[config.backbone_config_key]["text_config"]["vocab_size"] = 1_000_000
    with torch.device("meta"):
        model = GrootModel(ModelConfig.from_dict(document))
    shapes = {name: tensor.shape for name, tensor in model.named_parameters()}
    directories = {dtype: tmp_path_factory.mktemp("big") for dtype in (torch.bfloat16, torch.float32)}
    for dtype, directory in directories.items():
        sizes = {name: shape.numel() * dtype.itemsize for name, shape in shapes.items()}
        write_weights(
            directory, sizes, functools.partial(ones, shapes=shapes, dtype=dtype), max_shard_bytes=200_000_000
        )
        write_json(directory / "config.json", document)
    yield directories
    for directory in directories.values():
        shutil.rmtree(directory)


@pytest.mark.parametrize(
    ("stored", "loaded"),
    [(torch.float32, "bfloat16"), (torch.bfloat16, "bfloat16"), (torch.bfloat16, "float32")],
    ids=["fp32 to bf16", "bf16 to bf16", "bf16 to fp32"],
)
def test_peak_memory_is_near_the_weights(big, stored, loaded):
    command = [sys.executable, "-m", "groot_ros.model.load_measure", str(big[stored]), "--dtype", loaded]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    cost = json.loads(done.stdout)
    assert cost["parameters"] > 130_000_000
    assert cost["weight_bytes"] == cost["parameters"] * (2 if loaded == "bfloat16" else 4)
    assert 0.95 <= cost["peak_bytes"] / cost["weight_bytes"] <= 1.15
