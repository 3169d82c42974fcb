"""What happens beside the steps of a run: stopping by a signal, the progress bar, a loss that is no number."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from groot_ros.training.errors import TrainingError

REPEATED_S = 1.0


def once(told: Callable[[], object]) -> Callable[[int, FrameType | None], None]:
    """A handler that calls `told` at the first signal, and ends the process at a second one.

    What comes within `REPEATED_S` of the first is the same: Slurm signals every process of a step, and torchrun, which
    is one of them, its own processes once more.
    """
    first: list[float] = []

    def handle(number: int, _: FrameType | None) -> None:
        if not first:
            first.append(time.monotonic())
            told()
        elif time.monotonic() - first[0] > REPEATED_S:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    return handle


class StopOnSignal(TrainerCallback):
    """SIGINT or SIGTERM to any process: all end after the current step, with a checkpoint. A later one ends at once.

    Attributes:
        received: the signal of this process, if there was one.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}
        self._group: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.world_size > 1:
            # On the CPU, so that no GPU has to be waited for.
            self._group = torch.distributed.new_group(backend="gloo")
        if threading.current_thread() is threading.main_thread():
            handlers = {signal.SIGINT: self._interrupt, signal.SIGTERM: once(self._terminate)}
            self._before = {number: signal.signal(number, handler) for number, handler in handlers.items()}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # Of the whole run, also after resuming.
        state.epoch = state.global_step / max(1, state.max_steps)
        if self._agreed():
            control.should_save = control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.restore()

    def restore(self) -> None:
        """Puts the handlers back that were there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _interrupt(self, number: int, _: FrameType | None) -> None:
        self.received = number
        signal.signal(number, signal.default_int_handler)

    def _terminate(self) -> None:
        self.received = signal.SIGTERM

    def _agreed(self) -> bool:
        """Whether any process was told to stop: all must leave after the same step."""
        if self._group is None:
            return self.received is not None
        told = torch.tensor([int(self.received is not None)])
        torch.distributed.all_reduce(told, op=torch.distributed.ReduceOp.MAX, group=self._group)
        return bool(told.item())


class ProgressBar(TrainerCallback):
    """Steps, loss, samples per second and the time left; on a terminal a bar, elsewhere a line per log entry.

    Attributes:
        samples_per_s: over the whole training so far.
    """

    def __init__(self, console: Console, samples_per_step: int) -> None:
        self._console, self._samples = console, samples_per_step
        self._bar: Progress | None = None
        self._task: Any = None
        self._begin = (0.0, 0)
        self.samples_per_s = 0.0
        self.seconds = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._begin = (time.monotonic(), state.global_step)
        if not self._console.is_terminal:
            return
        self._bar = Progress(
            *(TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}")),
            *(TextColumn("left"), TimeRemainingColumn()),
            console=self._console,
        )
        self._bar.start()
        self._task = self._bar.add_task("training", total=state.max_steps, completed=state.global_step, text="")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        begin, first = self._begin
        self.seconds = time.monotonic() - begin
        self.samples_per_s = (state.global_step - first) * self._samples / max(self.seconds, 1e-9)
        if self._bar is not None:
            self._bar.update(self._task, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "loss" not in logs:
            return
        text = f"loss {float(logs['loss']):.4f}, {self.samples_per_s:.1f} samples/s"
        if self._bar is not None:
            self._bar.update(self._task, text=text)
            return
        done = state.global_step - self._begin[1]
        left = (state.max_steps - state.global_step) * self.seconds / max(1, done)
        self._console.print(f"step {state.global_step} of {state.max_steps}: {text}, {left:.0f} s left", markup=False)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class FiniteLoss(TrainerCallback):
    """Ends a run whose loss is no number, at the next log entry."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        for name in ("loss", "grad_norm"):
            value = (logs or {}).get(name)
            if value is not None and not math.isfinite(float(value)):
                raise TrainingError(
                    f"{name} at step {state.global_step} is {float(value)}: the run ends, its last checkpoint is as it "
                    "was. Begin again with a lower --learning-rate, or look for broken values in the dataset"
                )
