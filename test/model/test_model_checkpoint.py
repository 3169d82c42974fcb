"""Checkpoint directories: round trip, and every defect refused by name."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from groot_ros.model.checkpoint import (
    CheckpointError,
    load_config,
    load_model,
    resolve_checkpoint,
    save_model,
)

INDEX = "model.safetensors.index.json"
HEAD = "backbone.model.lm_head.weight"
NORM = "action_head.vlln.weight"


@pytest.fixture(scope="module")
def small(golden_n1d7):
    return golden_n1d7.model


@pytest.fixture
def saved(small, tmp_path):
    """The golden network, saved in several shards."""
    save_model(small, tmp_path / "checkpoint", max_shard_bytes=600_000)
    return tmp_path / "checkpoint"


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


@pytest.mark.parametrize("limit", [600_000, 10**9], ids=["shards", "one file"])
def test_round_trip(small, tmp_path, limit):
    save_model(small, tmp_path, max_shard_bytes=limit)
    assert (tmp_path / INDEX).is_file() == (limit < 10**9)
    assert not list(tmp_path.glob("*.partial"))
    loaded = load_model(tmp_path)
    expected = small.state_dict()
    assert list(loaded.state_dict()) == list(expected)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert load_config(tmp_path) == small.config
    assert not loaded.training


def test_saving_again_leaves_nothing_of_the_old_weights(small, saved):
    assert len(shards(saved)) > 1
    save_model(small, saved)
    assert sorted(p.name for p in saved.iterdir()) == ["config.json", "model.safetensors"]
    save_model(small, saved, max_shard_bytes=600_000)
    assert not (saved / "model.safetensors").exists()


def test_a_loaded_model_can_be_saved_over_its_own_files(saved):
    model = load_model(saved)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_model(model, saved, max_shard_bytes=900_000)
    assert all(torch.equal(tensor, before[name]) for name, tensor in load_model(saved).state_dict().items())


def test_shards_are_within_the_limit_and_indexed(saved):
    index = json.loads((saved / INDEX).read_text())
    held = {}
    for path in shards(saved):
        with safe_open(path, framework="pt") as file:
            held.update(dict.fromkeys(file.keys(), path.name))
        assert path.stat().st_size < 650_000
    assert held == index["weight_map"]
    total = sum(tensor.numel() * 4 for tensor in load_model(saved).state_dict().values())
    assert index["metadata"]["total_size"] == total


@pytest.mark.parametrize(("dtype", "expected"), [(None, torch.float32), (torch.bfloat16, torch.bfloat16)])
def test_dtype(saved, dtype, expected):
    assert {p.dtype for p in load_model(saved, dtype=dtype).parameters()} == {expected}


def test_the_tied_head_may_be_absent(saved):
    rewrite(shard_of(saved, HEAD), lambda tensors: tensors.pop(HEAD))
    unlist(saved, HEAD)
    model = load_model(saved)
    assert model.get_parameter(HEAD) is model.get_parameter("backbone.model.model.language_model.embed_tokens.weight")


def lose_shard(directory):
    shards(directory)[1].unlink()


def cut_shard(directory):
    path = shards(directory)[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lose_tensor(directory):
    rewrite(shard_of(directory, NORM), lambda tensors: tensors.pop(NORM))
    unlist(directory, NORM)


def lose_indexed_tensor(directory):
    rewrite(shard_of(directory, NORM), lambda tensors: tensors.pop(NORM))


def add_tensor(directory):
    def add(tensors):
        tensors["action_head.more"] = torch.zeros(1, 1, 48)

    rewrite(shard_of(directory, NORM), add)


def reshape_tensor(directory):
    def change(tensors):
        tensors[NORM] = torch.zeros(65)

    rewrite(shard_of(directory, NORM), change)


def another_architecture(directory):
    edit_json(directory / "config.json", lambda config: config["diffusion_model_cfg"].update(num_layers=8))


def lose_weights(directory):
    for path in [*shards(directory), directory / INDEX]:
        path.unlink()


def pickle_weights(directory):
    lose_weights(directory)
    (directory / "pytorch_model.bin").write_bytes(b"x")


def lose_config(directory):
    (directory / "config.json").unlink()


def break_config(directory):
    (directory / "config.json").write_text('{"model_type": "Gr00tN1d7",')


def list_config(directory):
    (directory / "config.json").write_text("[]")


def break_index(directory):
    (directory / INDEX).write_text("{")


def empty_index(directory):
    (directory / INDEX).write_text("{}")


def index_outside(directory):
    edit_json(directory / INDEX, lambda index: index["weight_map"].update({NORM: "../other.safetensors"}))


def other_generation(directory):
    edit_json(
        directory / "config.json", lambda config: config.update(model_type="Gr00tN1d6", architectures=["Gr00tN1d6"])
    )


def no_groot(directory):
    edit_json(directory / "config.json", lambda config: config.update(model_type="qwen3_vl", architectures=[]))


def wrong_value(directory):
    edit_json(directory / "config.json", lambda config: config.update(action_horizon="8"))


DEFECTS = {
    lose_shard: [INDEX, "model-00002-of-", "again"],
    cut_shard: ["model-00001-of-", "damaged", "again"],
    lose_tensor: ["1 missing", NORM],
    lose_indexed_tensor: [INDEX, NORM],
    add_tensor: ["1 unexpected", "action_head.more"],
    reshape_tensor: ["1 of another shape", NORM, "[65]", "[64]"],
    another_architecture: ["missing", "action_head.model.transformer_blocks.6.", "and 18 more"],
    lose_weights: ["model.safetensors", INDEX, "incomplete"],
    pickle_weights: [".bin", "model.safetensors"],
    lose_config: ["config.json is missing", INDEX],
    break_config: ["config.json", "not valid JSON"],
    list_config: ["config.json", "list"],
    break_index: [INDEX, "not valid JSON"],
    empty_index: [INDEX, "weight_map"],
    index_outside: [INDEX, NORM, "../other.safetensors"],
    other_generation: ["config.json", "n1d6", "n1d7"],
    no_groot: ["config.json", "qwen3_vl", "GR00T"],
    wrong_value: ["config.json", "action_horizon", "'8'", "int"],
}


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.__name__)
def test_defect_is_refused_by_name(saved, defect):
    defect(saved)
    with pytest.raises(CheckpointError) as error:
        load_model(saved)
    for word in DEFECTS[defect]:
        assert word in str(error.value)


def test_error_carries_every_name(saved):
    another_architecture(saved)
    with pytest.raises(CheckpointError) as error:
        load_model(saved)
    assert len(error.value.missing) == 28
    assert (error.value.unexpected, error.value.mismatched) == ([], [])


def test_no_directory(tmp_path):
    (tmp_path / "file").write_text("x")
    for path, word in ((tmp_path / "absent", "no such directory"), (tmp_path / "file", "not a directory")):
        with pytest.raises(CheckpointError, match=word):
            load_model(path)


def test_resolve(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert resolve_checkpoint(str(tmp_path)) == tmp_path
    (tmp_path / "config.json").write_text("{}")
    for source in (tmp_path / "absent", tmp_path / "config.json", "./nvidia/model"):
        with pytest.raises(CheckpointError, match="directory"):
            resolve_checkpoint(source)


def test_resolve_offline_names_the_hub_id(tmp_path):
    with pytest.raises(CheckpointError, match="nvidia/no-such-checkpoint"):
        resolve_checkpoint("nvidia/no-such-checkpoint")


def test_parameters_do_not_live_in_the_file(saved):
    # A checkpoint replaced on disk while a node runs must not change, or crash, the running model.
    model = load_model(saved)
    before = model.get_parameter(NORM).clone()
    path = shard_of(saved, NORM)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(model.get_parameter(NORM), before)
