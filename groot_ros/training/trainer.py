"""transformers' Trainer on GR00T: samples by draw, whole checkpoints in NVIDIA's layout, exact resuming."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from groot_ros.model.checkpoint import CONFIG_NAME, save_state, write_json
from groot_ros.training import lora, output
from groot_ros.training.callbacks import ProgressBar, StopOnSignal, once
from groot_ros.training.errors import TrainingError
from groot_ros.training.flags import FinetuneFlags
from groot_ros.training.parts import TrainingModel, decay_groups
from groot_ros.training.resume import going_on, load_weights
from groot_ros.training.schedule import rank_draws

EPSILON = 1e-8
_WORKER_S = 600  # that a worker lives on after the run was told to stop
_NOT_WRITTEN = (
    "no checkpoint is written. Go on from the one before or begin again, with a lower --learning-rate, or look for "
    "broken values in the dataset"
)


def training_arguments(flags: FinetuneFlags, deepspeed: Path | None = None) -> TrainingArguments:
    """What transformers' Trainer is told; joins the processes of torchrun.

    Raises:
        TrainingError: the batch is not one that the processes can share.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    cuda = uses_cuda(flags)
    micro = flags.micro_batch(processes)
    log_folder = Path(flags.output_dir) / "runs"
    settings: dict[str, Any] = {
        "output_dir": flags.output_dir,
        "max_steps": flags.max_steps,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": flags.gradient_accumulation_steps,
        "learning_rate": flags.learning_rate,
        "weight_decay": flags.weight_decay,
        "adam_beta1": flags.adam_beta1,
        "adam_beta2": flags.adam_beta2,
        "adam_epsilon": EPSILON,
        "max_grad_norm": flags.max_grad_norm,
        "lr_scheduler_type": flags.lr_scheduler_type,
        "warmup_steps": math.ceil(flags.max_steps * flags.warmup_ratio),
        "optim": flags.optim,
        "seed": flags.seed,
        "bf16": cuda if flags.bf16 is None else flags.bf16,
        "tf32": True if cuda else None,
        "use_cpu": not cuda,
        "save_strategy": "steps",
        "save_steps": flags.save_steps,
        "save_only_model": flags.save_only_model,
        "logging_steps": flags.logging_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "logging_dir": str(log_folder),
        "report_to": ["tensorboard", *(["wandb"] if flags.use_wandb else [])],
        "run_name": Path(flags.output_dir).name,
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "label_names": [],
        "ignore_data_skip": True,  # the loader begins at the right draw by itself
        "dataloader_num_workers": flags.dataloader_num_workers,
        "gradient_checkpointing": flags.gradient_checkpointing,
        "ddp_find_unused_parameters": False,
        "ddp_backend": "gloo" if processes > 1 and not cuda else None,
        "deepspeed": None if deepspeed is None else str(deepspeed),
    }
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    if "logging_dir" not in known:  # transformers 5
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(log_folder)
    arguments = TrainingArguments(**{name: value for name, value in settings.items() if name in known})
    if processes == 1:
        # Several GPUs in one process would be DataParallel; several processes are torchrun's.
        arguments.device  # noqa: B018 (sets the number of GPUs)
        arguments._n_gpu = min(arguments._n_gpu, 1)
    return arguments


def uses_cuda(flags: FinetuneFlags) -> bool:
    """Whether the run is on a GPU.

    Raises:
        TrainingError: an unknown device, or a GPU where there is none.
    """
    if flags.device not in ("auto", "cpu", "cuda"):
        raise TrainingError(f"--device is {flags.device!r}, expected auto, cuda or cpu")
    found = torch.cuda.is_available()
    if flags.device == "cuda" and not found:
        raise TrainingError(f"--device cuda: torch {torch.__version__} sees no GPU; use cpu, or fix the driver")
    return found and flags.device != "cpu"


class DrawBatches:
    """Batches of draw numbers of one process: what a run of `total` batches still has from batch `first` on.

    `len` is that of the whole run, so that the Trainer counts the same epochs after resuming.
    """

    def __init__(self, first: int, total: int, rank: int, world: int, micro_batch: int) -> None:
        self._first, self._total = first, total
        self._place = (rank, world, micro_batch)

    def __len__(self) -> int:
        return self._total

    def __iter__(self) -> Iterator[list[int]]:
        return itertools.islice(rank_draws(self._first, *self._place), self._total - self._first)


class GrootTrainer(Trainer):
    """Trains a `TrainingModel` on the samples of `data`.

    Args:
        data: with `dataset`, `collate`, `statistics` and `write_processor`; see `groot_ros.training.data`.
        flags: of the run, resolved.
        start_step: optimizer steps that are done already.
        stop, progress: see `groot_ros.training.callbacks`; None: one without a console.
    """

    model: TrainingModel
    optimizer: Any

    def __init__(
        self,
        model: TrainingModel,
        args: TrainingArguments,
        data: Any,
        flags: FinetuneFlags,
        *,
        start_step: int = 0,
        stop: StopOnSignal | None = None,
        progress: ProgressBar | None = None,
        callbacks: list[Any] | None = None,
    ) -> None:
        self.stop = stop or StopOnSignal()
        self.progress = progress or ProgressBar(Console(quiet=True), 1)
        super().__init__(model=model, args=args, callbacks=[self.stop, self.progress, *(callbacks or [])])
        self.data, self._flags, self._start_step = data, flags, start_step
        self._groot = model.groot
        self._partial: Path | None = None
        self._loss: Tensor | None = None
        # Else every rank would drop out the same units and states.
        torch.manual_seed(args.seed + args.process_index)

    @property
    def output(self) -> Path:
        return Path(self.args.output_dir)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The draws of this process from where the run begins. accelerate does not share them out once more."""
        arguments, workers = self.args, self.args.dataloader_num_workers
        batches = DrawBatches(
            self._start_step * arguments.gradient_accumulation_steps,
            arguments.max_steps * arguments.gradient_accumulation_steps,
            arguments.process_index,
            arguments.world_size,
            arguments.per_device_train_batch_size,
        )
        # A generator of its own: an iterator draws a number, which must not move the state that dropout draws from.
        generator = torch.Generator().manual_seed(arguments.seed)
        several: dict[str, Any] = {}
        if workers:
            several = {"multiprocessing_context": "fork", "prefetch_factor": 4, "worker_init_fn": _as_worker}
        return DataLoader(
            self.data.dataset,
            batch_sampler=batches,  # type: ignore[arg-type]
            collate_fn=self.data.collate,
            num_workers=workers,
            pin_memory=arguments.device.type == "cuda",
            generator=generator,
            **several,
        )

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """The flow-matching loss of one batch."""
        loss: Tensor = model(inputs)["loss"]
        self._loss = loss.detach()
        return loss

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimizer of `--optim` on the trained parameters; see `decay_groups`."""
        made: torch.optim.Optimizer | None = self.optimizer
        if made is None:
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            made = self.optimizer = kind(decay_groups(model or self.model, self.args.weight_decay), **settings)
        return made

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.output if self._partial is None else self._partial)

    def _save_checkpoint(self, model: Any, trial: Any, *args: Any, **kwargs: Any) -> None:
        """A checkpoint, written under `partial/` and given its name when it is whole.

        Raises:
            TrainingError: it could not be written, or the loss is no number; the checkpoints before it are untouched.
        """
        step, main = self.state.global_step, self.args.should_save
        self._check_loss()
        if main:
            shutil.rmtree(self.output / output.PARTIAL, ignore_errors=True)
        self._barrier()
        self._partial = self.output / output.PARTIAL
        try:
            super()._save_checkpoint(model, trial, *args, **kwargs)
            self._barrier()
            if main:
                output.publish(self._partial / f"checkpoint-{step}", self.output)
        except TrainingError:
            if main:
                shutil.rmtree(self._partial, ignore_errors=True)
            raise
        except Exception as error:  # safetensors, torch and the system each say a full disk in their own way
            if main:
                shutil.rmtree(self._partial, ignore_errors=True)
            raise TrainingError(self._failed_save(step, error)) from error
        finally:
            self._partial = None
        if main:
            output.keep_newest(self.output, self._flags.save_total_limit)
        self._barrier()

    def _failed_save(self, step: int, error: Exception) -> str:
        done = output.checkpoints(self.output)
        free = shutil.disk_usage(self.output).free / 1e9
        before = (
            f"{done[-1][1]} is untouched: free space; {going_on(done[-1][1])}"
            if done
            else ("there is none before it: free space and begin again")
        )
        return f"the checkpoint of step {step} could not be written ({error}; {free:.2f} GB free); {before}"

    def _check_loss(self) -> None:
        """TrainingError where the loss of the last step or a trained weight is not finite."""
        if self._loss is not None and not math.isfinite(self._loss.item()):
            raise TrainingError(f"the loss at step {self.state.global_step} is {self._loss.item()}; {_NOT_WRITTEN}")
        trained = {name: _local(p) for name, p in self._groot.named_parameters() if p.requires_grad}
        finite = {name: value.isfinite().all() for name, value in trained.items() if value.numel()}
        fine = torch.stack([*finite.values()]).tolist() if finite else []  # one wait for the GPU, not one per parameter
        broken = [name for name, is_fine in zip(finite, fine) if not is_fine]
        if broken:
            raise TrainingError(
                f"the weights at step {self.state.global_step} are no numbers (in {len(broken)} of {len(trained)} "
                f"parameters, {broken[0]} first); {_NOT_WRITTEN}"
            )

    def _barrier(self) -> None:
        if self.args.world_size > 1:
            torch.distributed.barrier()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """One directory in NVIDIA's layout: weights, config, processor, experiment_cfg."""
        directory = Path(output_dir or self.args.output_dir)
        directory.mkdir(parents=True, exist_ok=True)
        if state_dict is None:
            state_dict = self._groot.state_dict()
        elif not state_dict:  # what transformers gives where ZeRO-3 did not put the shards together
            raise TrainingError(
                f"--deepspeed {self._flags.deepspeed}: ZeRO-3 gave no whole weights to save; set "
                "zero_optimization.stage3_gather_16bit_weights_on_model_save to true in its JSON, as "
                "config/training/zero3.json has it"
            )
        state = {name.removeprefix(TrainingModel.PREFIX): tensor for name, tensor in state_dict.items()}
        if lora.has_adapters(self._groot):
            state = lora.merged(self._groot, state)
            lora.save_adapters(self._groot, directory)
        save_state(state, directory)
        write_json(directory / CONFIG_NAME, self._groot.config.to_dict())
        self.data.write_processor(directory)
        output.write_experiment(directory, self._flags.to_dict(), self.data.statistics)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_weights(self._groot, Path(resume_from_checkpoint))


def _local(parameter: Tensor) -> Tensor:
    """What this process has of a parameter, which FSDP shards."""
    value: Any = parameter.detach()
    return value.to_local() if hasattr(value, "to_local") else value  # type: ignore[no-any-return]


def _as_worker(_: int) -> None:
    """A worker outlives the signal that stops the run: the training process ends it once it has saved.

    Ctrl-C goes to every process of a terminal, and torchrun and Slurm send SIGTERM to the whole group. A worker that
    dies of it ends the step, and with it the run before its checkpoint. A second SIGTERM ends the worker, and an alarm
    does where it hangs and nothing comes.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, once(lambda: signal.alarm(_WORKER_S)))
