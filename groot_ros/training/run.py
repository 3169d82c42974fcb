"""`groot-ros finetune`: from flags to a checkpoint that the policy loads."""

from __future__ import annotations

import datetime
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from groot_ros.training.errors import TrainingError
from groot_ros.training.flags import FinetuneFlags
from groot_ros.training.preflight import check_gpus, check_libraries, check_space, deepspeed_file, rank, sharded

if TYPE_CHECKING:
    from groot_ros.model.groot import GrootModel
    from groot_ros.training.data import TrainingData
    from groot_ros.training.trainer import GrootTrainer

INTERRUPTED = 130


def finetune(flags: FinetuneFlags, console: Console) -> int:
    """Run it, on every process of torchrun or on one.

    Returns:
        Exit code: 0, or 130 where a signal ended the run early, with a checkpoint.

    Raises:
        TrainingError, CheckpointError, ProcessorError, DatasetError, EmbodimentError: what is wrong, before training
            where it can be known then. Checkpoints that were written stay as they are.
    """
    from groot_ros.model.checkpoint import load_config, resolve_checkpoint
    from groot_ros.training.resume import earlier_report, starting_point

    if not flags.base_model_path:
        raise TrainingError("--base-model-path: expected a checkpoint directory or a hub id, found nothing")
    base = resolve_checkpoint(flags.base_model_path)
    config = load_config(base)
    flags = flags.resolved(config.generation)
    check_libraries(flags)
    check_gpus(flags)
    start = starting_point(flags) if rank() == 0 or flags.resume_from_checkpoint else None
    before = earlier_report(flags, start)
    quiet = Console(stderr=True, quiet=True) if rank() else console
    with _quiet_libraries():
        return _train(flags, base, start, before, quiet)


def launch(flags: FinetuneFlags, argv: list[str]) -> None:
    """With `--num-gpus N` > 1, replaces this process by torchrun with N of them; does nothing inside torchrun."""
    if flags.num_gpus < 2 or "RANK" in os.environ:
        return
    check_gpus(flags)
    # A checkpoint of a large network takes longer than the 30 s that torchrun waits before it kills its processes.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "300")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={flags.num_gpus}"]
    sys.stdout.flush()
    os.execv(sys.executable, [*command, "-m", "groot_ros.cli", *argv])


def _train(
    flags: FinetuneFlags, base: Path, start: Path | None, before: dict[str, Any] | None, console: Console
) -> int:
    import torch

    from groot_ros.training import output
    from groot_ros.training.explain import explained
    from groot_ros.training.resume import check_same_samples
    from groot_ros.training.trainer import training_arguments

    if flags.torch_threads:
        torch.set_num_threads(flags.torch_threads)
    folder = Path(flags.output_dir)
    arguments = training_arguments(flags, deepspeed_file(flags.deepspeed))
    data = _open_data(flags, base, console)
    model, trained = _make_model(flags, base, arguments.device, whole=not sharded(flags))
    data.check_prompts(model.max_prompt_tokens)
    trainer = _make_trainer(flags, model, trained, arguments, data, start, console)
    report = _first_report(flags, trainer, data, start)
    if start is not None and before is not None:
        check_same_samples(start, before, report, data.statistics)
    if arguments.should_save:
        folder.mkdir(parents=True, exist_ok=True)
        output.clear_leftovers(folder)
        check_space(flags, trainer, console)
        output.write_report(folder, report)
    for line in (*data.notices, _summary(report)):
        console.print(line, markup=False, soft_wrap=True)
    begin = time.monotonic()
    try:
        trainer.train(resume_from_checkpoint=None if start is None else str(start))
    except Exception as error:
        raise explained(error, folder) from error
    finally:
        trainer.stop.restore()
        trainer.progress.close()
    return _finish(flags, trainer, report, time.monotonic() - begin, console)


def _open_data(flags: FinetuneFlags, base: Path, console: Console) -> TrainingData:
    from groot_ros.model.checkpoint import load_config
    from groot_ros.training.data import build_data

    with console.status("looking through the datasets") as status:

        def progress(done: int, of: int) -> None:
            status.update(f"looking through the videos: {done} of {of}")

        return build_data(flags, base, load_config(base), progress)


def _make_model(flags: FinetuneFlags, base: Path, device: Any, *, whole: bool) -> tuple[GrootModel, Any]:
    """The network with what is to be trained in float32, and the module that the trainer calls."""
    import torch

    from groot_ros.model.checkpoint import load_model
    from groot_ros.training.lora import add_adapters
    from groot_ros.training.parts import Choice, TrainingModel, freeze

    # Sharding engines place the parameters themselves, and want one dtype.
    place = device if whole else torch.device("cpu")
    model = load_model(base, dtype=torch.float32, device=place, state_dropout_prob=flags.state_dropout_prob)
    choice = Choice.of(flags, model)
    asleep = freeze(model, choice)
    if flags.lora_rank:
        torch.manual_seed(flags.seed)  # new adapters are random
        add_adapters(model, flags)
    if place.type == "cuda" and flags.bf16 is not False:
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(torch.bfloat16)
    if model.config.generation != "n1d5":  # whose config.json has them in sections, for NVIDIA's own code
        model.config.extra.update(choice.config_keys())
    return model, TrainingModel(model, asleep)


def _make_trainer(
    flags: FinetuneFlags,
    model: GrootModel,
    trained: Any,
    arguments: Any,
    data: Any,
    start: Path | None,
    console: Console,
) -> GrootTrainer:
    from transformers import PrinterCallback

    from groot_ros.training.callbacks import FiniteLoss, ProgressBar, StopOnSignal
    from groot_ros.training.trainer import GrootTrainer

    step = 0 if start is None else int(start.name.rpartition("-")[2])
    per_step = arguments.per_device_train_batch_size * arguments.world_size * arguments.gradient_accumulation_steps
    stop, progress = StopOnSignal(), ProgressBar(console, per_step)
    trainer = GrootTrainer(
        trained, arguments, data, flags, start_step=step, stop=stop, progress=progress, callbacks=[FiniteLoss()]
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _first_report(
    flags: FinetuneFlags, trainer: GrootTrainer, data: TrainingData, start: Path | None
) -> dict[str, Any]:
    import torch
    import transformers

    from groot_ros.training.parts import counts

    arguments = trainer.args
    return {
        "state": "running",
        "begun": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "resumed_from": None if start is None else start.name,
        "flags": flags.to_dict(),
        "data": data.summary,
        "samples_per_step": arguments.per_device_train_batch_size
        * arguments.world_size
        * arguments.gradient_accumulation_steps,
        "processes": arguments.world_size,
        "device": str(arguments.device),
        "parameters": counts(trainer.model),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


def _summary(report: dict[str, Any]) -> str:
    parameters, flags, data = report["parameters"], report["flags"], report["data"]
    epochs = flags["max_steps"] * report["samples_per_step"] / data["windows"]
    return (
        f"{data['windows']} windows of {data['embodiment_tag']}, {flags['max_steps']} steps of "
        f"{report['samples_per_step']} samples ({epochs:.1f} epochs) on {report['processes']} x {report['device']}; "
        f"{parameters['trained'] / 1e6:.2f} of {parameters['total'] / 1e6:.2f} million parameters are trained"
    )


def _finish(
    flags: FinetuneFlags, trainer: GrootTrainer, report: dict[str, Any], seconds: float, console: Console
) -> int:
    """Root of the run, picture and report, by the first process."""
    from groot_ros.training import output
    from groot_ros.training.picture import draw_loss
    from groot_ros.training.resume import going_on

    folder, state = Path(flags.output_dir), trainer.state
    finished = state.global_step >= flags.max_steps
    if trainer.args.should_save:
        done = output.checkpoints(folder)
        if finished:
            output.publish_root(done[-1][1], folder)
            trainer.data.write_processor(folder / "processor")
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        last = losses[-10:]
        report.update(
            state="finished" if finished else "interrupted",
            step=state.global_step,
            loss=sum(last) / len(last) if last else None,
            seconds=round(seconds, 1),
            samples_per_s=round(trainer.progress.samples_per_s, 2),
            history=state.log_history,
        )
        output.write_report(folder, report)
        draw_loss(state.log_history, folder / "loss.png", f"{folder.name}: {_summary(report)}")
    if finished:
        console.print(f"{folder}: {state.global_step} steps in {seconds:.0f} s; picture: {folder / 'loss.png'}")
        return 0
    name = signal.Signals(trainer.stop.received or signal.SIGINT).name
    done = output.checkpoints(folder)
    how = f"with {done[-1][1].name}: {going_on(done[-1][1])}" if done else "before its first checkpoint: begin again"
    console.print(
        f"stopped by {name} after step {state.global_step} of {flags.max_steps}, {how}",
        soft_wrap=True,
    )
    return INTERRUPTED


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """transformers says at length what the progress bar and the report say."""
    import transformers

    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)
