"""The shipped configurations of DeepSpeed and accelerate, as far as they can be read without a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig
from accelerate.utils import FullyShardedDataParallelPlugin

from groot_ros.training.errors import TrainingError
from groot_ros.training.flags import FinetuneFlags
from groot_ros.training.parts import LAYER_CLASSES, Choice, TrainingModel, freeze
from groot_ros.training.preflight import deepspeed_file

FOLDER = Path(__file__).resolve().parents[2] / "config" / "training"


@pytest.mark.parametrize(("name", "stage"), [("zero2", 2), ("zero3", 3)])
def test_deepspeed(name, stage):
    path = deepspeed_file(name)
    assert path == FOLDER / f"{name}.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["zero_optimization"]["stage"] == stage
    # What the flags decide is left to them: the Trainer fills it in.
    for key in (
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "gradient_clipping",
        "train_batch_size",
    ):
        assert content[key] == "auto"
    # Sizes that transformers would have to read from a config that our module does not have.
    assert "auto" not in content["zero_optimization"].values()


def test_deepspeed_of_another_name():
    with pytest.raises(TrainingError, match="--deepspeed is 'zero9', expected zero2, zero3, or a JSON file"):
        deepspeed_file("zero9")


@pytest.mark.parametrize("name", ["fsdp", "ddp"])
def test_accelerate_reads_it(name):
    config = ClusterConfig.from_yaml_file(str(FOLDER / f"{name}.yaml"))
    assert config.num_processes == 8 and config.mixed_precision == "bf16"


def test_fsdp_wraps_our_layers(load_golden, generation, monkeypatch):
    for key, value in yaml.safe_load((FOLDER / "fsdp.yaml").read_text(encoding="utf-8"))["fsdp_config"].items():
        monkeypatch.setenv(key.upper() if key.startswith("fsdp") else f"FSDP_{key}".upper(), str(value))
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and "FULL" in str(plugin.state_dict_type)
    model = load_golden(generation).model
    flags = FinetuneFlags(base_model_path="b", dataset_path=("d",)).resolved(generation)
    wrapped = TrainingModel(model, freeze(model, Choice.of(flags, model)))
    there = {type(module).__name__ for module in wrapped.modules()} & set(LAYER_CLASSES)
    assert {"Block"} < there
    plugin.set_auto_wrap_policy(wrapped)
    assert {cls.__name__ for cls in plugin.auto_wrap_policy.keywords["transformer_layer_cls"]} == there
