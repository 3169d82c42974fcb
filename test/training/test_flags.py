"""The flags: defaults of each generation beside NVIDIA's, help, refusals, and the page that lists them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from typer.testing import CliRunner

from groot_ros.cli import app
from groot_ros.training.errors import TrainingError
from groot_ros.training.flags import REFERENCE, FinetuneFlags, markdown_table, option, own_text, reference_text

ROOT = Path(__file__).resolve().parents[2]
FLAGS = FinetuneFlags(base_model_path="base", dataset_path=("data",))
NAMES = [field.name for field in dataclasses.fields(FinetuneFlags)]


@pytest.fixture
def asked(monkeypatch):
    """What the command asks for, instead of doing it."""
    seen = []
    monkeypatch.setattr("groot_ros.training.run.launch", lambda flags, argv: None)
    monkeypatch.setattr("groot_ros.training.run.finetune", lambda flags, console: seen.append(flags) or 0)
    return seen


def test_defaults_by_generation():
    """NVIDIA's numbers (spec groot_n15_n16.md, 6.2 and 6.3, groot_n17.md, 7), where they are not the machine's."""
    resolved = {generation: FLAGS.resolved(generation) for generation in ("n1d5", "n1d6", "n1d7")}
    own = {"batch_size", "bf16", "dataloader_num_workers", "deepspeed", "resume_from_checkpoint", "use_wandb"}
    own |= {"base_model_path", "dataset_path", "embodiment_tag", "output_dir", "wandb_project"}
    own |= {"override_pretraining_statistics", "tune_vlln", "tune_top_llm_layers", "color_jitter_params"}
    for name in REFERENCE.keys() - own:
        for flags, reference in zip(resolved.values(), REFERENCE[name], strict=True):
            assert reference == "-" or getattr(flags, name) == reference, name
    assert resolved["n1d5"].micro_batch(1) == resolved["n1d5"].micro_batch(8) == REFERENCE["batch_size"][0] == 32
    assert dataclasses.replace(FLAGS, global_batch_size=16).resolved("n1d5").micro_batch(8) == 2
    assert dataclasses.replace(FLAGS, batch_size=16).resolved("n1d7").micro_batch(8) == 16


def test_every_reference_flag_is_a_flag():
    assert set(NAMES) >= REFERENCE.keys()


def test_help_shows_both_defaults():
    result = CliRunner().invoke(app, ["finetune", "--help"], env={"COLUMNS": "400", "TERM": "dumb"})
    assert result.exit_code == 0
    for name in NAMES:
        assert option(name) in result.output
    assert f"[{own_text('state_dropout_prob')}; NVIDIA: {reference_text('state_dropout_prob')}]" in result.output
    assert reference_text("state_dropout_prob") == "N1.6 0, N1.7 0.2"


def test_command_line(asked):
    line = (
        "finetune --base_model_path base --dataset-path a:b --dataset-path c -e sim_arm --tune-llm --no-tune-projector"
    )
    more = "--color-jitter-params hue=0.1 --color-jitter-params contrast=0.4 --lora-rank 8 --resume --dataset-weights 1"
    result = CliRunner().invoke(app, [*line.split(), *more.split(), "--dataset-weights", "2", "--dataset-weights", "3"])
    assert result.exit_code == 0, result.output
    flags = asked[0].resolved("n1d7")
    assert flags.dataset_path == ("a", "b", "c") and flags.dataset_weights == (1, 2, 3)
    assert (flags.tune_llm, flags.tune_projector, flags.tune_visual) == (True, False, False)
    assert flags.color_jitter() == {"hue": 0.1, "contrast": 0.4}
    assert flags.resume_from_checkpoint and flags.lora_rank == 8 and flags.embodiment == "sim_arm"


def test_command_without_flags_is_the_dataclass(asked):
    assert CliRunner().invoke(app, ["finetune"]).exit_code == 0
    assert asked == [FinetuneFlags()]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset_path": ()}, "--dataset-path: expected at least one"),
        ({"batch_size": 4, "global_batch_size": 8}, "--batch-size is 4, per GPU, and --global-batch-size 8"),
        ({"max_steps": 0}, "--max-steps is 0, expected 1"),
        ({"learning_rate": float("nan")}, "--learning-rate is nan"),
        ({"state_dropout_prob": 1.5}, "--state-dropout-prob is 1.5, expected 0 to 1"),
        ({"color_jitter_params": ("hue:0.1",)}, "--color-jitter-params: 'hue:0.1'"),
        ({"color_jitter_params": ("gloss=0.1",)}, "--color-jitter-params: 'gloss=0.1'"),
        ({"dataset_weights": (1.0, 2.0)}, "--dataset-weights: expected 1, one per dataset, found 2"),
        ({"save_only_model": True, "resume_from_checkpoint": True}, "such checkpoints hold no optimizer"),
    ],
)
def test_refusals_name_the_flag(change, message):
    with pytest.raises(TrainingError, match=message):
        dataclasses.replace(FLAGS, **change).resolved("n1d7")


def test_batches_over_processes():
    flags = FLAGS.resolved("n1d7")
    assert [flags.micro_batch(count) for count in (1, 2, 64)] == [64, 32, 1]
    with pytest.raises(TrainingError, match="--global-batch-size is 64, expected a multiple of the 3 processes"):
        flags.micro_batch(3)
    assert dataclasses.replace(flags, batch_size=5).micro_batch(3) == 5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--base-model-path: expected a checkpoint directory"),
        (["--base-model-path", "/nowhere/base"], "/nowhere/base: no such directory"),
        (["--base-model-path", str(ROOT / "docs")], "config.json is missing"),
    ],
)
def test_command_refuses_in_one_line(flags, message):
    result = CliRunner().invoke(app, ["finetune", *flags, "--dataset-path", "d"])
    assert result.exit_code == 2
    assert message in result.output and "Traceback" not in result.output


def test_page_lists_the_flags():
    page = (ROOT / "docs" / "finetuning.md").read_text(encoding="utf-8")
    assert markdown_table() in page, "docs/finetuning.md: put in what groot_ros.training.flags.markdown_table() gives"
