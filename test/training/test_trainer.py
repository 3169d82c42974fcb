"""The training loop: resuming, accumulation, adapters, what a run leaves, and what ends it early."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal

import pytest
import torch
from fake_run import FakeData, Lethal, assert_close, assert_same_curve, run, without_dropout
from safetensors.torch import load_file

import groot_ros.training.trainer as trainer_module
from groot_ros.dataset.errors import DatasetError
from groot_ros.model.checkpoint import load_config, load_model
from groot_ros.training.errors import TrainingError
from groot_ros.training.flags import FinetuneFlags
from groot_ros.training.output import checkpoints, publish_root
from groot_ros.training.resume import check_same_samples
from groot_ros.training.run import launch

STEPS = {"max_steps": 6, "save_steps": 3, "global_batch_size": 4, "learning_rate": 1e-3}


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_same(left, right):
    assert left.keys() == right.keys()
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert not different


def assert_same_optimizer(left, right):
    mine, other = (torch.load(folder / "optimizer.pt")["state"] for folder in (left, right))
    assert mine.keys() == other.keys()
    for number, moments in mine.items():
        assert all(torch.equal(value, other[number][name]) for name, value in moments.items())


@pytest.fixture(scope="module")
def whole(base_n1d7, tmp_path_factory):
    """A run of six steps that nothing interrupted."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    data = run(base_n1d7, output, **STEPS)
    assert data.code == 0
    assert sorted(data.seen) == list(range(24))
    return output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_stopped_by_a_signal_and_resumed_is_exact(base_n1d7, whole, tmp_path, number):
    """Weights and optimizer, with dropout and state dropout on."""
    assert load_config(base_n1d7).dit.dropout > 0
    output = tmp_path / "run"
    before = signal.getsignal(number)
    stopped = run(base_n1d7, output, data=Lethal(base_n1d7.parent / "data.pt", 9, number), **STEPS)
    assert stopped.code == 130
    assert signal.getsignal(number) is before
    # Draw 9 is of the third step, which ends with a checkpoint.
    assert [step for step, _ in checkpoints(output)] == [3]
    report = json.loads((output / "training.json").read_text())
    assert (report["state"], report["step"]) == ("interrupted", 3)
    assert not (output / "config.json").exists()
    data = run(base_n1d7, output, resume_from_checkpoint=True, **STEPS)
    assert data.code == 0
    assert sorted(data.seen) == list(range(12, 24))
    assert_same(weights(output), weights(whole))
    assert_same_optimizer(output / "checkpoint-6", whole / "checkpoint-6")
    history = json.loads((output / "training.json").read_text())["history"]
    assert [entry["step"] for entry in history if "loss" in entry] == [1, 2, 3, 4, 5, 6]


def test_output_is_a_checkpoint_in_nvidias_layout(whole):
    assert [step for step, _ in checkpoints(whole)] == [3, 6]
    for folder in (whole, whole / "checkpoint-3", whole / "checkpoint-6"):
        assert load_model(folder).config.state_dropout_prob == 0.2
        assert json.loads((folder / "config.json").read_text())["tune_projector"] is True
        assert (folder / "processor_config.json").is_file()
        assert {"config.yaml", "conf.yaml", "final_model_config.json", "dataset_statistics.json"} <= set(
            os.listdir(folder / "experiment_cfg")
        )
    assert (whole / "processor" / "processor_config.json").is_file()
    assert (whole / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert any((whole / "runs").iterdir())
    assert not (whole / "optimizer.pt").exists() and not (whole / "partial").exists()
    # The weights of the last checkpoint, without a second copy on the disk.
    assert (whole / "model.safetensors").samefile(whole / "checkpoint-6" / "model.safetensors")


def test_only_what_is_trained_changes(base_n1d7, whole):
    before, after = weights(base_n1d7), weights(whole)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("action_head.") for name in changed)


def test_learning(whole):
    history = json.loads((whole / "training.json").read_text())["history"]
    norms = [entry["grad_norm"] for entry in history if "grad_norm" in entry]
    rates = [entry["learning_rate"] for entry in history if "learning_rate" in entry]
    assert all(norm > 0 for norm in norms)
    # One step of warm-up (5 % of 6), then down the cosine.
    assert rates[0] == pytest.approx(0) and rates[1:] == sorted(rates[1:], reverse=True) and rates[1] == 1e-3


def test_accumulated_batches_are_one_batch(base_n1d7, tmp_path):
    """Of samples with equal masks and without dropout; the same draws in both ways."""
    settings = {"state_dropout_prob": 0.0, "max_steps": 2, "save_steps": 2, "learning_rate": 1e-3}
    base = without_dropout(base_n1d7, tmp_path / "plain")
    run(base, tmp_path / "one", global_batch_size=4, **settings)
    data = run(base, tmp_path / "two", global_batch_size=2, gradient_accumulation_steps=2, **settings)
    assert sorted(data.seen) == list(range(8))
    assert_close(weights(tmp_path / "one"), weights(tmp_path / "two"))
    assert_same_curve(tmp_path / "one", tmp_path / "two")


def test_adapters_resume_exactly_and_leave_a_plain_checkpoint(base_n1d7, tmp_path):
    flags = {**STEPS, "lora_rank": 2}
    run(base_n1d7, tmp_path / "whole", **flags)
    stopping = Lethal(base_n1d7.parent / "data.pt", 9, signal.SIGTERM)
    assert run(base_n1d7, tmp_path / "run", data=stopping, **flags).code == 130
    run(base_n1d7, tmp_path / "run", resume_from_checkpoint=True, **flags)
    assert_same(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    adapters = [load_file(tmp_path / name / "checkpoint-6" / "adapter_model.safetensors") for name in ("run", "whole")]
    assert_same(*adapters)
    assert any(value.abs().max() > 0 for name, value in adapters[0].items() if "lora_B" in name)
    assert weights(tmp_path / "run").keys() == weights(base_n1d7).keys()
    load_model(tmp_path / "run")


def test_bfloat16_gradient_checkpointing_and_noise_draws_together(base_n1d7, tmp_path):
    flags = {"bf16": True, "gradient_checkpointing": True, "noise_draws": 3, "max_steps": 2, "save_total_limit": 1}
    data = run(base_n1d7, tmp_path / "run", **flags, save_steps=1, global_batch_size=2, tune_visual=True)
    assert data.code == 0
    assert [step for step, _ in checkpoints(tmp_path / "run")] == [2]
    state = torch.load(tmp_path / "run" / "checkpoint-2" / "optimizer.pt")["state"]
    assert all(moments["exp_avg"].dtype == torch.float32 for moments in state.values())


def test_workers_give_the_same_samples(base_n1d7, whole, tmp_path):
    run(base_n1d7, tmp_path / "run", **STEPS, dataloader_num_workers=2)
    assert_same(weights(tmp_path / "run"), weights(whole))


def full_disk(after):
    """`save_state` on a disk that is full after the given number of saves, with half a file written."""
    real, saves = trainer_module.save_state, []

    def save(state, directory, **options):
        saves.append(directory)
        if len(saves) <= after:
            return real(state, directory, **options)
        (directory / "model.safetensors.partial").write_bytes(b"half a file")
        raise OSError(errno.ENOSPC, "No space left on device")

    return save


def test_full_disk_leaves_the_checkpoint_before(base_n1d7, whole, tmp_path, monkeypatch):
    output = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(trainer_module, "save_state", full_disk(1))
        with pytest.raises(TrainingError, match=r"step 6 .*No space left.*checkpoint-3 is untouched.*--resume"):
            run(base_n1d7, output, **STEPS)
    assert sorted(path.name for path in output.iterdir()) == ["checkpoint-3", "runs", "training.json"]
    assert_same(weights(output / "checkpoint-3"), weights(whole / "checkpoint-3"))
    assert run(base_n1d7, output, resume_from_checkpoint=True, **STEPS).code == 0
    assert_same(weights(output), weights(whole))


def test_full_disk_in_the_optimizer(base_n1d7, tmp_path, monkeypatch):
    """torch says it in another way than the system does."""

    def save(*_, **__):
        raise RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")

    monkeypatch.setattr("transformers.trainer.torch.save", save)
    with pytest.raises(TrainingError, match=r"step 3 could not be written .*there is none before it"):
        run(base_n1d7, tmp_path / "run", **STEPS)
    assert not checkpoints(tmp_path / "run")
    assert not (tmp_path / "run" / "partial").exists()


def test_too_little_space_is_said_before_training(base_n1d7, tmp_path, monkeypatch):
    free = trainer_module.shutil.disk_usage("/")._replace(free=10_000)
    monkeypatch.setattr("groot_ros.training.preflight.shutil.disk_usage", lambda _: free)
    data = FakeData(base_n1d7.parent / "data.pt")
    with pytest.raises(TrainingError, match=r"a checkpoint needs 0\.\d+ GB, and 0\.00 GB are free"):
        run(base_n1d7, tmp_path / "run", data=data, **STEPS)
    assert not data.seen


def test_loss_that_is_no_number_ends_the_run(base_n1d7, tmp_path):
    class Broken(FakeData):
        def __getitem__(self, draw):
            sample = super().__getitem__(draw)
            return {**sample, "action": sample["action"] * (float("nan") if draw == 17 else 1.0)}

    with pytest.raises(TrainingError, match=r"loss at step 5 is nan"):
        run(base_n1d7, tmp_path / "run", data=Broken(base_n1d7.parent / "data.pt"), **STEPS)
    assert [step for step, _ in checkpoints(tmp_path / "run")] == [3]


def test_folder_with_a_run_is_refused(base_n1d7, whole):
    with pytest.raises(TrainingError, match=r"holds a run with a checkpoint at step 6; give --resume"):
        run(base_n1d7, whole, **STEPS)
    with pytest.raises(TrainingError, match=r"the run is finished: checkpoint-6 of 6 steps"):
        run(base_n1d7, whole, resume_from_checkpoint=True, **STEPS)
    with pytest.raises(TrainingError, match=r"--learning-rate was 0.001, is 0.002"):
        run(base_n1d7, whole, resume_from_checkpoint=True, **{**STEPS, "learning_rate": 2e-3})


def test_folder_with_something_else_is_refused(base_n1d7, tmp_path):
    (tmp_path / "letter.txt").write_text("keep me")
    with pytest.raises(TrainingError, match=r"is not empty and holds no run .*letter.txt"):
        run(base_n1d7, tmp_path, **STEPS)
    with pytest.raises(TrainingError, match=r"new holds no run"):
        run(base_n1d7, tmp_path / "new", resume_from_checkpoint=True, **STEPS)
    with pytest.raises(TrainingError, match=r"letter.txt is a file"):
        run(base_n1d7, tmp_path / "letter.txt", **STEPS)


def test_weights_that_are_no_numbers_end_the_run(base_n1d7, tmp_path, monkeypatch):
    """Gradients of the last step break the weights; its own loss is still a number."""
    real, calls = trainer_module.GrootTrainer.compute_loss, []

    def compute_loss(self, *args, **kwargs):
        loss = real(self, *args, **kwargs)
        calls.append(loss)
        if len(calls) == 6:
            loss.register_hook(lambda gradient: gradient * float("nan"))
        return loss

    monkeypatch.setattr(trainer_module.GrootTrainer, "compute_loss", compute_loss)
    with pytest.raises(TrainingError, match=r"weights at step 6 are no numbers .*no checkpoint is written"):
        run(base_n1d7, tmp_path / "run", **{**STEPS, "logging_steps": 100})
    assert [step for step, _ in checkpoints(tmp_path / "run")] == [3]


def test_weights_that_nobody_put_together_are_not_saved(base_n1d7, tmp_path, monkeypatch):
    """transformers gives no weights where ZeRO-3 leaves them in shards."""
    real = trainer_module.GrootTrainer._save
    monkeypatch.setattr(trainer_module.GrootTrainer, "_save", lambda self, folder: real(self, folder, {}))
    with pytest.raises(TrainingError, match="stage3_gather_16bit_weights_on_model_save"):
        run(base_n1d7, tmp_path / "run", **STEPS)
    assert not checkpoints(tmp_path / "run") and not (tmp_path / "run" / "partial").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_data_end_the_run_in_one_line(base_n1d7, tmp_path, workers):
    class Broken(FakeData):
        def __getitem__(self, draw):
            if draw == 17:
                raise DatasetError("file.mp4: expected a picture, found none: repair it")
            return super().__getitem__(draw)

    broken = Broken(base_n1d7.parent / "data.pt")
    with pytest.raises(TrainingError) as refused:
        run(base_n1d7, tmp_path / "run", data=broken, **STEPS, dataloader_num_workers=workers)
    assert str(refused.value) == (
        f"file.mp4: expected a picture, found none: repair it; {tmp_path / 'run' / 'checkpoint-3'} is whole: run the "
        "same command with --resume"
    )


def test_other_samples_are_not_resumed(base_n1d7, tmp_path):
    file = base_n1d7.parent / "data.pt"
    run(base_n1d7, tmp_path / "run", data=Lethal(file, 9, signal.SIGINT), **STEPS)
    other = FakeData(file)
    other.summary = {**other.summary, "windows": 41}
    other.statistics = {"new_embodiment": {"state": {"arm": {"mean": [0.5]}}}}
    with pytest.raises(TrainingError) as refused:
        run(base_n1d7, tmp_path / "run", data=other, resume_from_checkpoint=True, **STEPS)
    assert "data.windows was 40, is 41; the statistics" in str(refused.value)
    assert "begin a new run with --base-model-path" in str(refused.value) and "checkpoint-3" in str(refused.value)
    report = json.loads((tmp_path / "run" / "training.json").read_text())
    assert (report["state"], report["data"]["windows"]) == ("interrupted", 40)
    begun, fewer = {**report, "samples_per_step": 4}, {**report, "samples_per_step": 2}
    with pytest.raises(TrainingError, match=r"run was begun with: samples_per_step was 4, is 2\. Restore"):
        check_same_samples(tmp_path / "run" / "checkpoint-3", begun, fewer, {"new_embodiment": {}})
    check_same_samples(tmp_path / "run" / "checkpoint-3", begun, begun, {"new_embodiment": {}})


def test_finished_run_without_a_root_gets_one(base_n1d7, whole, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(whole, copy)
    (copy / "config.json").unlink()
    (copy / "model.safetensors").unlink()
    with pytest.raises(TrainingError, match=r"the run is finished: checkpoint-6 of 6 steps"):
        run(base_n1d7, copy, resume_from_checkpoint=True, **STEPS)
    load_model(copy)
    assert_same(weights(copy), weights(whole))


def test_adapters_are_not_for_sharded_weights(base_n1d7, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(TrainingError, match="--lora-rank with --deepspeed or FSDP"):
        run(base_n1d7, tmp_path / "run", lora_rank=2, **STEPS)


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    flags = FinetuneFlags(num_gpus=3)
    with pytest.raises(TrainingError, match="--num-gpus is 3, expected at most 2"):
        launch(flags, [])


def test_checkpoints_without_optimizer_are_not_resumed(base_n1d7, tmp_path):
    stopping = Lethal(base_n1d7.parent / "data.pt", 9, signal.SIGINT)
    run(base_n1d7, tmp_path / "run", data=stopping, save_only_model=True, **STEPS)
    with pytest.raises(TrainingError, match=r"checkpoint-3 holds no optimizer .*--save-only-model"):
        run(base_n1d7, tmp_path / "run", resume_from_checkpoint=True, **STEPS)
    with pytest.raises(TrainingError, match=r"holds a run .*at step 3; it holds no optimizer .*begin a new run"):
        run(base_n1d7, tmp_path / "run", save_only_model=True, **STEPS)


def test_run_that_ended_before_its_first_checkpoint_begins_again(base_n1d7, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(trainer_module, "save_state", full_disk(0))
        with pytest.raises(TrainingError, match="there is none before it"):
            run(base_n1d7, tmp_path / "run", **STEPS)
    run(base_n1d7, tmp_path / "run", resume_from_checkpoint=True, **STEPS)
    assert_same(weights(tmp_path / "run"), weights(whole))


def test_root_without_hard_links(whole, tmp_path, monkeypatch):
    def link(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", link)
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"of an older run")
    publish_root(whole / "checkpoint-3", tmp_path)
    load_model(tmp_path)
    assert not list(tmp_path.glob("model-*"))
