"""Every defect of a checkpoint directory is refused by name."""

from __future__ import annotations

import json

import pytest
import torch
from checkpoint_files import INDEX, edit_json, rewrite, shard_of, shards, unlist

from groot_ros.model.checkpoint import CheckpointError, load_model, save_model

HEAD = "backbone.model.lm_head.weight"
UNUSED = "backbone.model.model.language_model.norm.weight"
NORM = "action_head.vlln.weight"
GENERATIONS = ("n1d5", "n1d6", "n1d7")


@pytest.fixture
def saved(own_n1d7, tmp_path):
    """N1.7's network, saved in several shards."""
    save_model(own_n1d7.model, tmp_path / "checkpoint", max_shard_bytes=600_000)
    return tmp_path / "checkpoint"


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


def put(name, tensor):
    """A defect: another tensor under this name, in the shard that holds it or else the norm."""

    def change(directory):
        names = json.loads((directory / INDEX).read_text())["weight_map"]
        path = shard_of(directory, name if name in names else NORM)
        rewrite(path, lambda tensors: tensors.update({name: tensor}))

    return change


def unlist_shard(directory):
    def change(index):
        index["weight_map"] = {n: file for n, file in index["weight_map"].items() if "00002-of" not in file}

    edit_json(directory / INDEX, change)


def rotate_index(directory):
    def change(index):
        files = sorted(set(index["weight_map"].values()))
        after = dict(zip(files, [*files[1:], files[0]], strict=True))
        index["weight_map"] = {name: after[file] for name, file in index["weight_map"].items()}

    edit_json(directory / INDEX, change)


def lose_index(directory):
    (directory / INDEX).unlink()


def prefix_one(directory):
    name = f"_groot_model.{NORM}"
    rewrite(shard_of(directory, NORM), lambda tensors: tensors.update({name: tensors.pop(NORM)}))

    def change(index):
        index["weight_map"][name] = index["weight_map"].pop(NORM)

    edit_json(directory / INDEX, change)


def another_architecture(directory):
    edit_json(directory / "config.json", lambda config: config["diffusion_model_cfg"].update(num_layers=8))


def leave_old_weights(directory):
    (directory / "model.safetensors").write_bytes(shards(directory)[0].read_bytes())


def nest(directory):
    inner = directory / "checkpoint-1000"
    inner.mkdir()
    (directory / "config.json").rename(inner / "config.json")


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


def claim_n1d6(directory):
    edit_json(
        directory / "config.json", lambda config: config.update(model_type="Gr00tN1d6", architectures=["Gr00tN1d6"])
    )


def lerobot(**policy):
    """A defect: a LeRobot policy's config.json."""

    def change(directory):
        (directory / "config.json").write_text(json.dumps(policy))

    return change


def no_groot(directory):
    edit_json(directory / "config.json", lambda config: config.update(model_type="qwen3_vl", architectures=[]))


def wrong_value(directory):
    edit_json(directory / "config.json", lambda config: config.update(action_horizon="8"))


DEFECTS = {
    "a shard is not there": (lose_shard, [INDEX, "model-00002-of-", "for backbone.", "again"]),
    "a shard is cut": (cut_shard, ["model-00001-of-", "truncated", "bytes, found", "again"]),
    "a shard is not in the index": (
        unlist_shard,
        ["missing", "model-00002-of-", "of the missing ones", INDEX, "does not name"],
    ),
    "no index beside shards": (lose_index, ["shards such as model-00001-of-", INDEX]),
    "the index is of other weights": (rotate_index, [INDEX, "weight_map", "expected in model-", "different"]),
    "a tensor is missing": (lose_tensor, ["1 missing", NORM]),
    "an indexed tensor is missing": (lose_indexed_tensor, [INDEX, NORM, "expected in model-"]),
    "a tensor too many": (put("action_head.more", torch.zeros(1)), ["1 unexpected", "action_head.more (model-"]),
    "another shape": (put(NORM, torch.zeros(65)), ["1 of another shape", f"{NORM} (model-", "[65]", "[64]"]),
    "another shape, tied": (put(HEAD, torch.zeros(3, 64)), ["1 of another shape", HEAD, "[3, 64]"]),
    "another shape, unused": (put(UNUSED, torch.zeros(65)), ["1 of another shape", UNUSED, "[65]", "[64]"]),
    "no floats": (put(NORM, torch.zeros(64, dtype=torch.int8)), ["1 of another dtype", NORM, "I8", "BF16"]),
    "one name with LeRobot's prefix": (prefix_one, ["1 tensors", f"_groot_model.{NORM}", "all or none"]),
    "another architecture": (
        another_architecture,
        ["missing", "action_head.model.transformer_blocks.6.", "and 18 more"],
    ),
    "two sets of weights": (leave_old_weights, ["both model.safetensors and", INDEX, "stale"]),
    "checkpoints in folders": (nest, ["config.json is missing", "one of its folders: checkpoint-1000"]),
    "no weights": (lose_weights, ["model.safetensors", INDEX, "incomplete"]),
    "weights in .bin": (pickle_weights, [".bin", "model.safetensors"]),
    "no config": (lose_config, ["config.json is missing", INDEX]),
    "broken config": (break_config, ["config.json", "not valid JSON"]),
    "config is a list": (list_config, ["config.json", "list"]),
    "broken index": (break_index, [INDEX, "not valid JSON"]),
    "empty index": (empty_index, [INDEX, "weight_map"]),
    "index names a file elsewhere": (index_outside, [INDEX, NORM, "../other.safetensors"]),
    "config of another generation": (claim_n1d6, ["config.json", "Gr00tN1d6", "n1d6", "n1d7", "backbone.model."]),
    "no GR00T": (no_groot, ["config.json", "qwen3_vl", "GR00T"]),
    "a value of another type": (wrong_value, ["config.json", "action_horizon", "'8'", "int"]),
    "LeRobot: another policy": (lerobot(type="act"), ["config.json", "type", "'act'", "'groot'"]),
    "LeRobot: no base": (lerobot(type="groot"), ["config.json", "base_model_path", "None", "hub id"]),
    "LeRobot: base not there": (
        lerobot(type="groot", base_model_path="nvidia/no-such-model"),
        ["config.json", "base_model_path", "'nvidia/no-such-model'", "set base_model_path"],
    ),
}


@pytest.mark.parametrize("case", DEFECTS)
def test_defect_is_refused_by_name(saved, case):
    defect, words = DEFECTS[case]
    defect(saved)
    with pytest.raises(CheckpointError) as error:
        load_model(saved)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("weights", GENERATIONS)
@pytest.mark.parametrize("config", GENERATIONS)
def test_config_and_weights_of_different_generations(own_sets, tmp_path, config, weights):
    save_model(own_sets(weights).model, tmp_path)
    text = json.dumps(own_sets(config).model.config.to_dict())
    (tmp_path / "config.json").write_text(text)
    if config == weights:
        load_model(tmp_path)
        return
    with pytest.raises(CheckpointError) as error:
        load_model(tmp_path)
    assert f"is of generation {config}, but the tensors look like those of {weights}" in str(error.value)


def test_error_carries_every_name(saved):
    another_architecture(saved)
    with pytest.raises(CheckpointError) as error:
        load_model(saved)
    assert len(error.value.missing) == 28
    assert (error.value.unexpected, error.value.mismatched) == ([], [])
