"""Checkpoint directories: round trip, what LeRobot writes, optional tensors."""

from __future__ import annotations

import copy
import json
from itertools import chain

import huggingface_hub
import pytest
import torch
from checkpoint_files import INDEX, edit_json, rewrite, shard_of, shards, unlist
from huggingface_hub.utils import filter_repo_objects
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from safetensors.torch import save_model as save_module
from torch import nn

from groot_ros.model.checkpoint import (
    CheckpointError,
    load_config,
    load_model,
    resolve_checkpoint,
    save_model,
)

HEAD = "backbone.model.lm_head.weight"
EMBEDDING = "backbone.model.model.language_model.embed_tokens.weight"
UNUSED = "backbone.model.model.language_model.norm.weight"
NORM = "action_head.vlln.weight"
MASK_TOKEN = "action_head.mask_token"
GENERATIONS = ("n1d5", "n1d6", "n1d7")
# lm_head and the embedding, which LeRobot's models may share.
SHARED = {
    "n1d5": ("backbone.eagle_model.language_model.lm_head", "backbone.eagle_model.language_model.model.embed_tokens"),
    "n1d6": ("backbone.model.language_model.lm_head", "backbone.model.language_model.model.embed_tokens"),
    "n1d7": (HEAD.removesuffix(".weight"), EMBEDDING.removesuffix(".weight")),
}


@pytest.fixture(scope="module")
def small(own_n1d7):
    return own_n1d7.model


@pytest.fixture(scope="module", params=GENERATIONS)
def network(request, own_sets):
    """The network of each generation."""
    return own_sets(request.param).model


@pytest.fixture
def saved(small, tmp_path):
    """N1.7's network, saved in several shards."""
    save_model(small, tmp_path / "checkpoint", max_shard_bytes=600_000)
    return tmp_path / "checkpoint"


def assert_same(model, expected):
    """The same tensors under the same names, none without memory."""
    expected = expected.state_dict()
    assert list(model.state_dict()) == list(expected)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert not any(tensor.is_meta for tensor in chain(model.parameters(), model.buffers()))


@pytest.mark.parametrize("limit", [600_000, 10**9], ids=["shards", "one file"])
def test_round_trip(network, tmp_path, limit):
    save_model(network, tmp_path, max_shard_bytes=limit)
    assert (tmp_path / INDEX).is_file() == (limit < 10**9)
    assert not list(tmp_path.glob("*.partial"))
    loaded = load_model(tmp_path, dtype=torch.float32)
    assert_same(loaded, network)
    assert load_config(tmp_path).to_dict() == network.config.to_dict()
    assert not loaded.training


def test_without_the_unused_tensors(network, tmp_path):
    save_model(network, tmp_path / "all")
    lean = load_model(tmp_path / "all", dtype=torch.float32, keep_unused=False)
    assert set(network.state_dict()) - set(lean.state_dict()) == network.unused_parameters() != set()
    save_model(lean, tmp_path / "lean")
    for keep in (True, False):
        assert_same(load_model(tmp_path / "lean", dtype=torch.float32, keep_unused=keep), lean)


class Policy(nn.Module):
    """How LeRobot holds the network."""

    def __init__(self, model, *, tie):
        super().__init__()
        self._groot_model = copy.deepcopy(model)
        if tie:
            head, embedding = (self._groot_model.get_submodule(n) for n in SHARED[model.config.generation])
            head.weight = embedding.weight


def save_policy(directory, model, *, tie):
    """What LeRobot saves, and the directory of the model it was made from, without weights."""
    directory.mkdir()
    policy = Policy(model, tie=tie)
    save_module(policy, str(directory / "model.safetensors"))
    config = {"type": "groot", "base_model_path": "base", "embodiment_tag": "new_embodiment", "n_obs_steps": 1}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "base").mkdir()
    (directory / "base" / "config.json").write_text(json.dumps(model.config.to_dict()))
    return policy


@pytest.mark.parametrize("tie", [True, False], ids=["tied", "untied"])
def test_what_lerobot_saves_loads(network, tmp_path, tie):
    policy = save_policy(tmp_path / "policy", network, tie=tie)
    with safe_open(tmp_path / "policy" / "model.safetensors", framework="pt") as file:
        assert all(name.startswith("_groot_model.") for name in file.keys())  # noqa: SIM118
    loaded = load_model(tmp_path / "policy", dtype=torch.float32)
    assert_same(loaded, policy._groot_model)
    head, embedding = (loaded.get_submodule(name) for name in SHARED[network.config.generation])
    assert (head.weight is embedding.weight) == (tie or bool(network.tied_parameters()))
    save_model(loaded, tmp_path / "again")
    assert_same(load_model(tmp_path / "again", dtype=torch.float32), loaded)


def prefix_names(directory):
    """LeRobot's names in all shards and in the index."""
    for path in shards(directory):
        save_file({f"_groot_model.{name}": tensor for name, tensor in load_file(path).items()}, path)

    def change(index):
        index["weight_map"] = {f"_groot_model.{name}": file for name, file in index["weight_map"].items()}

    edit_json(directory / INDEX, change)


def test_lerobots_names_beside_a_groot_config_load(saved, small):
    prefix_names(saved)
    assert_same(load_model(saved), small)


# dropout of the config, whether the file has the token -> what becomes of it
MASK_TOKENS = [
    ("n1d5", None, True, "ignored"),
    ("n1d6", 0.0, True, "ignored"),
    ("n1d6", 0.3, True, "read"),
    ("n1d6", 0.3, False, "drawn"),
    ("n1d7", 0.3, True, "ignored"),
]


@pytest.mark.parametrize(("generation", "dropout", "stored", "outcome"), MASK_TOKENS)
def test_mask_token(own_sets, tmp_path, generation, dropout, stored, outcome):
    model = own_sets(generation).model
    save_model(model, tmp_path)
    token = torch.linspace(0.5, 1.5, model.config.input_embedding_dim).view(1, 1, -1)
    if stored:
        rewrite(tmp_path / "model.safetensors", lambda tensors: tensors.update({MASK_TOKEN: token}))
    if dropout is not None:
        edit_json(tmp_path / "config.json", lambda config: config.update(state_dropout_prob=dropout))
    found = [load_model(tmp_path, dtype=torch.float32).state_dict().get(MASK_TOKEN) for _ in range(2)]
    if outcome == "ignored":
        assert found == [None, None]
        return
    assert torch.equal(*found) and found[0].shape == token.shape
    if outcome == "read":
        assert torch.equal(found[0], token)
    else:
        assert 0.01 < float(found[0].std()) < 0.03


def test_a_table_that_only_training_reads_is_ignored(saved, small):
    table = {"action_head.dropout_prob_by_embodiment": torch.zeros(32)}  # GR00T-H has it
    rewrite(shard_of(saved, NORM), lambda tensors: tensors.update(table))
    assert_same(load_model(saved), small)


@pytest.mark.parametrize(("steps", "expected"), [(None, 4), (8, 8)])
def test_a_policy_may_say_how_many_steps_it_takes(small, tmp_path, steps, expected):
    save_policy(tmp_path / "policy", small, tie=True)
    edit_json(tmp_path / "policy" / "config.json", lambda config: config.update(num_inference_timesteps=steps))
    edit_json(tmp_path / "policy" / "base" / "config.json", lambda config: config.update(num_inference_timesteps=4))
    assert load_model(tmp_path / "policy").config.num_inference_timesteps == expected


@pytest.mark.parametrize("steps", [0, "4", True, 2.5])
def test_a_wrong_number_of_steps_is_named(small, tmp_path, steps):
    save_policy(tmp_path / "policy", small, tie=True)
    edit_json(tmp_path / "policy" / "config.json", lambda config: config.update(num_inference_timesteps=steps))
    with pytest.raises(CheckpointError, match="num_inference_timesteps"):
        load_model(tmp_path / "policy")


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
    assert model.get_parameter(HEAD) is model.get_parameter(EMBEDDING)


def test_the_tied_head_may_be_there_alone(saved, small):
    # What safetensors keeps of two names of one tensor is the first in the alphabet.
    rewrite(shard_of(saved, EMBEDDING), lambda tensors: tensors.pop(EMBEDDING))
    unlist(saved, EMBEDDING)
    assert_same(load_model(saved), small)


def test_what_is_not_used_is_not_read(saved, small):
    for name in (HEAD, UNUSED):
        broken = torch.full_like(small.get_parameter(name), float("nan"))
        rewrite(shard_of(saved, name), lambda tensors, name=name, broken=broken: tensors.update({name: broken}))
    model = load_model(saved, keep_unused=False)
    assert all(bool(p.isfinite().all()) for p in model.parameters())


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


HUB_FILES = [
    *("config.json", "model-00001-of-00001.safetensors", "README.md", "experiment_cfg/metadata.json", "merges.txt"),
    *("libero_10/config.json", "libero_10/model.safetensors", "libero_10/checkpoint-9/model.safetensors"),
]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "nvidia/GR00T",
            ["config.json", "experiment_cfg/metadata.json", "merges.txt", "model-00001-of-00001.safetensors"],
        ),
        ("nvidia/GR00T/libero_10", ["config.json", "model.safetensors"]),
    ],
)
def test_a_hub_id_may_name_a_folder_and_brings_no_other_weights(tmp_path, monkeypatch, source, expected):
    def download(repository, allow_patterns, ignore_patterns):
        assert repository == "nvidia/GR00T"
        chosen = filter_repo_objects(HUB_FILES, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns)
        for name in chosen:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    found = resolve_checkpoint(source)
    files = sorted(str(path.relative_to(found)) for path in found.rglob("*") if path.is_file())
    assert [name for name in files if not name.startswith("libero_10/config.json")] == expected
    with pytest.raises(CheckpointError, match="no folder libero_90"):
        resolve_checkpoint("nvidia/GR00T/libero_90")


def test_parameters_do_not_live_in_the_file(saved):
    # A checkpoint replaced on disk while a node runs must not change, or crash, the running model.
    model = load_model(saved)
    before = model.get_parameter(NORM).clone()
    path = shard_of(saved, NORM)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(model.get_parameter(NORM), before)
